//! The report as text for a terminal, without colour.

use std::fmt::Write;

use crate::ab::report::{AaReport, Report};
use crate::ab::verdict::{Guardrail, Verdict};
use crate::stats::Estimate;

/// The whole report; lines end with a newline.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("verdict: {}", report.verdict.as_str().to_uppercase()));
    line(format!("  {}", report.reason));
    line(String::new());
    line(format!("  baseline   {}", report.baseline));
    line(format!("  candidate  {}", report.candidate));
    line(format!("  {}", layout(report)));
    if let Some(aa) = &report.aa {
        line(format!("  {}", floor(aa)));
    }
    if !report.metrics.is_empty() {
        line(String::new());
        line(format!(
            "  {:<12} {:>12} {:>12} {:>10}   {:<22} {:>7}  {}",
            "latency", "baseline", "candidate", "change", "interval", "p", "verdict"
        ));
    }
    for metric in &report.metrics {
        line(format!(
            "  {:<12} {:>12} {:>12} {:>10}   {:<22} {:>7.4}  {}",
            format!("{}{}", metric.metric.as_str(), if metric.primary { " (primary)" } else { "" }),
            millis(metric.baseline_ms),
            millis(metric.candidate_ms),
            percent(metric.change.value),
            interval(metric.change),
            metric.p,
            metric.verdict.as_str()
        ));
    }
    if let Some(throughput) = &report.throughput {
        line(format!(
            "  {:<12} {:>12} {:>12} {:>10}   {:<22} {:>7}  successes, of {:.0}/s offered",
            "throughput",
            format!("{:.1}/s", throughput.baseline_per_second),
            format!("{:.1}/s", throughput.candidate_per_second),
            percent(throughput.change.value),
            interval(throughput.change),
            "",
            throughput.offered_per_second
        ));
    }
    errors(report).into_iter().for_each(&mut line);
    out.push_str(&shift(report));
    out.push_str(&ledger(report));
    out.push_str(&tutorial(report));
    out.push_str(&voided(report));
    out
}

/// The share of failures and what they failed of, of what was measured.
fn errors(report: &Report) -> Vec<String> {
    let errors = &report.errors;
    let share = |share: f64| format!("{:.3} %", share * 100.0);
    let mut lines = Vec::new();
    if report.pairs_kept > 0 {
        let guardrail = match errors.guardrail {
            Guardrail::Kept => "kept",
            Guardrail::Suspect => "suspect: more, but not in enough pairs to be sure",
            Guardrail::Broken => "BROKEN",
        };
        let (baseline, candidate) = (share(errors.baseline_share), share(errors.candidate_share));
        lines.push(format!("  {:<12} {baseline:>12} {candidate:>12}   guardrail {guardrail}", "errors"));
    } else if report.aa.is_some() {
        lines.push(format!("  {:<12} {:>12}   in the A/A run", "errors", share(errors.baseline_share)));
    }
    for (arm, failure) in [("baseline", &errors.baseline_failure), ("candidate", &errors.candidate_failure)] {
        lines.extend(failure.as_ref().map(|failure| format!("  {:<12} the {arm} fails of: {failure}", "")));
    }
    lines
}

fn layout(report: &Report) -> String {
    let design = &report.design;
    format!(
        "{} pairs of {:.1} s blocks at {:.0}/s, order by a coin, the same Poisson schedule for both; {} voided; looks at {}; error of a look {:.2} %; margin {:.1} % at {}",
        report.pairs_kept,
        design.block.as_secs_f64(),
        design.per_second,
        report.pairs_voided,
        design.looks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        design.alpha_per_look() * 100.0,
        design.margin * 100.0,
        design.primary.as_str()
    )
}

/// One line about the A/A run.
pub fn floor(aa: &AaReport) -> String {
    let widened = aa.widened_from.map_or_else(String::new, |from| {
        format!("; the margin of {:.1} % is widened to what these pairs can answer", from * 100.0)
    });
    format!(
        "A/A, {} pairs: {} ({}), noise floor {:.1} %, a change of {:.1} % is found 4 times in 5{widened}",
        aa.pairs,
        percent(aa.change.value),
        interval(aa.change),
        aa.floor * 100.0,
        aa.detectable * 100.0
    )
}

/// How wide the widest bar of the shift plot is, to each side.
const BAR_COLUMNS: f64 = 20.0;

fn shift(report: &Report) -> String {
    let mut out = String::new();
    let largest = report.shift.iter().map(|point| point.change.value.abs()).fold(0.01, f64::max);
    for (at, point) in report.shift.iter().enumerate() {
        if at == 0 {
            let _ = writeln!(out, "\n  change by quantile{:>13}faster | slower", "");
        }
        let length = (point.change.value.abs() / largest * BAR_COLUMNS).round() as usize;
        let (left, right) = if point.change.value < 0.0 {
            ("#".repeat(length), String::new())
        } else {
            (String::new(), "#".repeat(length))
        };
        let _ = writeln!(
            out,
            "  {:<6} {left:>20}|{right:<20} {:>8} {:<20} {:>10}{}",
            format!("p{}", (point.q * 1000.0).round() / 10.0),
            percent(point.change.value),
            interval(point.change),
            signed_millis(point.change_ms.value),
            if point.bootstrap { "  (bootstrap)" } else { "" }
        );
    }
    out
}

fn ledger(report: &Report) -> String {
    let mut out = String::new();
    if report.pairs_kept > 0 && report.ledger.is_empty() {
        let _ = writeln!(out, "\n  no ledger came back from both arms, so why is not known here");
    }
    for (at, row) in report.ledger.iter().enumerate() {
        if at == 0 {
            let _ = writeln!(
                out,
                "\n  why: mean time of a request by category, largest change first\n  {:<13} {:>12} {:>12} {:>12}   interval",
                "", "baseline", "candidate", "change"
            );
        }
        let told = if row.change_us.excludes(0.0) { "" } else { "  (could be chance)" };
        let _ = writeln!(
            out,
            "  {:<13} {:>12} {:>12} {:>12}   {} to {}{told}",
            row.category,
            millis(row.baseline_us / 1e3),
            millis(row.candidate_us / 1e3),
            signed_millis(row.change_us.value / 1e3),
            signed_millis(row.change_us.low / 1e3),
            signed_millis(row.change_us.high / 1e3),
        );
    }
    out
}

fn tutorial(report: &Report) -> String {
    let mut out = String::new();
    let Some(figures) = &report.tutorial else { return out };
    let _ = writeln!(out, "\n  the tutorial's figures, from these requests (positive is better)");
    let mut row = |name: &str, unit: &str, from: f64, to: f64, better: f64, points: &str| {
        let _ = writeln!(out, "  {name:<13} {from:>9.2} {unit:<2} {to:>9.2} {unit:<2} {better:>+9.2} {points}");
    };
    let (baseline, candidate) = (&figures.baseline, &figures.candidate);
    row(
        "success rate",
        "%",
        baseline.success_percent,
        candidate.success_percent,
        figures.success_improvement_points,
        "points",
    );
    row("average", "ms", baseline.average_ms, candidate.average_ms, figures.average_improvement_percent, "%");
    row("P95", "ms", baseline.p95_ms, candidate.p95_ms, figures.p95_improvement_percent, "%");
    out
}

fn voided(report: &Report) -> String {
    let mut out = String::new();
    for (number, pair) in report.pairs.iter().enumerate().filter(|(_, pair)| !pair.void.is_empty()) {
        let _ = writeln!(out, "  pair {} is void: {}", number + 1, pair.void.join("; "));
    }
    if !out.is_empty() {
        out.insert(0, '\n');
    }
    out
}

/// One line for a look, as progress.
pub fn look(pairs: usize, change: Estimate, verdict: Verdict) -> String {
    format!("look at {pairs} pairs: {} ({}), {}", percent(change.value), interval(change), verdict.as_str())
}

pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:+.1} %", share * 100.0) } else { "?".to_owned() }
}

pub fn interval(change: Estimate) -> String {
    if !(change.low.is_finite() || change.high.is_finite()) {
        return "too few pairs to bound it".to_owned();
    }
    format!("{} to {}", percent(change.low), percent(change.high))
}

pub fn millis(ms: f64) -> String {
    format!("{ms:.3} ms")
}

fn signed_millis(ms: f64) -> String {
    if ms.is_finite() { format!("{ms:+.3} ms") } else { "?".to_owned() }
}
