//! The report as text for a terminal, without colour.

use std::fmt::Write;

use crate::capacity::report::{Growth, Report, UTILISATION};
use crate::capacity::search::{Outcome, Trial};
use crate::stats::Estimate;

/// The whole report; lines end with a newline.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let found = &report.found;
    match (found.kept_per_second, found.missed_per_second) {
        (Some(kept), Some(missed)) => {
            let (kept, missed) = (rate(kept), rate(missed));
            line(format!("capacity: {kept}/s keep {} (interval {kept} to {missed}/s)", report.objective));
        }
        (Some(kept), None) => line(format!("capacity: at least {}/s keep {}", rate(kept), report.objective)),
        (None, _) => line(format!("capacity: no rate was found that keeps {}", report.objective)),
    }
    if let Some(note) = &found.note {
        line(format!("  {note}"));
    }
    if let (Some(peak), Some(kept)) = (&report.peak, found.kept_per_second) {
        let at_most = if peak.at_most { "at most " } else { "" };
        line(format!(
            "  replicas for {:.0}/s: {at_most}{} = ceil({:.0} / ({UTILISATION} x {})) + 1",
            peak.forecast_per_second,
            peak.replicas,
            peak.forecast_per_second,
            rate(kept)
        ));
    }
    if let Some(warning) = &report.warning {
        line(format!("  {warning}"));
    }
    line(String::new());
    line(format!("  {:>10} {:>10} {:>11} {:>11} {:>11} {:>9}  ", "offered/s", "done/s", "p50", "p95", "p99", "errors"));
    let mut trials: Vec<&Trial> = found.trials.iter().collect();
    trials.sort_by(|a, b| a.offered_per_second.total_cmp(&b.offered_per_second));
    for trial in trials {
        line(format!("  {}", self::trial(trial)));
    }
    line(String::new());
    line(bottleneck(report));
    if !report.growth.is_empty() {
        line(format!("  {:<24} {:>12} {:>12}   grown from", "", "lowest rate", "highest rate"));
    }
    for row in &report.growth {
        let from = row.grown_from_per_second.map_or("-".to_owned(), |from| format!("{}/s", rate(from)));
        line(format!("  {:<24} {:>9.3} ms {:>9.3} ms   {from}", row.category, row.low_ms, row.high_ms));
    }
    if report.sweep.points.is_empty() {
        return out;
    }
    line(String::new());
    line("  closed loop, requests in flight and successes in a second".to_owned());
    for point in &report.sweep.points {
        line(format!("  {:>10.0} {:>10.0}", point.concurrency, point.per_second));
    }
    match (&report.sweep.fit, &report.sweep.refusal) {
        (Some(fit), _) => {
            line(format!(
                "  scalability law: lambda {} alpha {} beta {}",
                of(fit.lambda, 1),
                of(fit.alpha, 4),
                of(fit.beta, 6)
            ));
            line(format!(
                "  most within what was measured: {}/s at {:.0} in flight; the points miss the law by {:.1} %",
                of(fit.peak_per_second, 0),
                fit.peak_concurrency,
                fit.residual * 100.0
            ));
        }
        (None, Some(refusal)) => line(format!("  no scalability law: {refusal}")),
        (None, None) => {}
    }
    out
}

/// Low rates have a decimal, for they differ in it.
fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn bottleneck(report: &Report) -> String {
    let seen = if report.growth_by_ledger { "" } else { ", as the client sees it (no ledger came back)" };
    match report.growth.first() {
        Some(Growth { category, grown_from_per_second: Some(_), .. }) => {
            format!("  what grows first with the load{seen}: {category}")
        }
        Some(_) => format!("  no part grew by a fifth of the unloaded response time{seen}"),
        None => {
            "  what grows first with the load is not known: only one rate had a trial that was not disturbed".to_owned()
        }
    }
}

fn of(estimate: Estimate, digits: usize) -> String {
    let Estimate { value, low, high } = estimate;
    format!("{value:.digits$} ({low:.digits$} to {high:.digits$})")
}

/// One trial as a line.
pub fn trial(trial: &Trial) -> String {
    let outcome = match &trial.outcome {
        Outcome::Kept => "kept".to_owned(),
        Outcome::Missed => {
            let missed = trial.objectives.iter().filter(|objective| !objective.passed);
            let missed: Vec<String> =
                missed.map(|objective| format!("{} ({})", objective.objective, objective.measured)).collect();
            let why = if missed.is_empty() { "did not keep up".to_owned() } else { missed.join(", ") };
            let failure = trial.failure.as_ref().map_or_else(String::new, |failure| format!("; {failure}"));
            format!("missed: {why}{failure}")
        }
        Outcome::Disturbed(why) => format!("disturbed: {why}"),
        Outcome::SenderLimit(why) => format!("sender's limit: {why}"),
    };
    format!(
        "{:>10} {:>10} {:>8.3} ms {:>8.3} ms {:>8.3} ms {:>7.3} %  {outcome}",
        rate(trial.offered_per_second),
        rate(trial.succeeded_per_second),
        trial.p50_ms,
        trial.p95_ms,
        trial.p99_ms,
        trial.error_share * 100.0
    )
}
