//! An A/B as a page: the quantile shift with its intervals, as a ratio and in milliseconds, and both ledgers side by side.

use std::fmt::Write;

use super::charts::{self, Axis, BLUE, GREEN, GREY, Line, ORANGE, RED, Whisker};
use super::html::{self, escaped, figure, framed, nines, nines_label};
use crate::ab::report::{Report, ShiftPoint};
use crate::stats::Estimate;

/// The page. The error is a reason without a path.
pub fn render(report: &Report) -> Result<String, String> {
    let mut body = format!(
        "<p><b>{}</b>: {}</p>\n<p class=\"hint\">baseline {}<br>candidate {}</p>\n",
        escaped(&report.verdict.as_str().to_uppercase()),
        escaped(&report.reason),
        escaped(&report.baseline),
        escaped(&report.candidate)
    );
    if !report.shift.is_empty() {
        body.push_str(&figure(
            "Change by quantile",
            "candidate against baseline in percent, with its interval; below 0 is faster",
            &shift(report, "change, %", |point| scaled(point.change, 100.0))?,
        ));
        body.push_str(&figure(
            "Change by quantile, in milliseconds",
            "the same as a difference: a large share of a short time may not matter",
            &shift(report, "change, ms", |point| scaled(point.change_ms, 1.0))?,
        ));
        body.push_str(&figure("Both arms", "medians of the blocks' quantiles", &arms(report)?));
    }
    body.push_str(&ledgers(report));
    body.push_str(&html::report(&crate::ab::text::render(report)));
    Ok(framed(&format!("celerity ab: {}", report.verdict.as_str()), &body))
}

fn scaled(of: Estimate, by: f64) -> [f64; 3] {
    [of.low * by, of.value * by, of.high * by]
}

fn shift(report: &Report, name: &str, of: impl Fn(&ShiftPoint) -> [f64; 3]) -> Result<String, String> {
    let whisker = |point: &ShiftPoint| {
        let [low, value, high] = of(point);
        let colour = match (low, high) {
            (_, high) if high < 0.0 => GREEN,
            (low, _) if low > 0.0 => RED,
            _ => GREY,
        };
        // An interval that is open on a side is drawn up to its value.
        let finite = |bound: f64| if bound.is_finite() { bound } else { value };
        Whisker { x: nines(point.q), low: finite(low), value, high: finite(high), colour }
    };
    let whiskers: Vec<Whisker> = report.shift.iter().map(whisker).collect();
    let (low, high) = charts::range(whiskers.iter().flat_map(|w| [w.low, w.high, 0.0]));
    let room = (high - low) * 0.08;
    let far = far(report);
    let label = |value: &f64| format!("{value:.1}");
    let x = Axis { name: "percentile", range: (0.0, far), label: &nines_label, labels: 12 };
    let y = Axis { name, range: (low - room, high + room), label: &label, labels: 8 };
    let line = |name, colour, points| Line { name, colour, points, dots: false };
    let values = whiskers.iter().map(|w| (w.x, w.value)).collect();
    let lines = [line("change", BLUE, values), line("no change", GREY, vec![(0.0, 0.0), (far, 0.0)])];
    charts::lines(&x, &y, &lines, &whiskers)
}

fn far(report: &Report) -> f64 {
    report.shift.iter().map(|point| nines(point.q)).fold(2.0, f64::max) + 0.1
}

fn arms(report: &Report) -> Result<String, String> {
    let line = |name, colour, of: &dyn Fn(&ShiftPoint) -> f64| Line {
        name,
        colour,
        points: report.shift.iter().map(|point| (nines(point.q), charts::log_ms(of(point)))).collect(),
        dots: true,
    };
    let lines = [line("baseline", ORANGE, &|p| p.baseline_ms), line("candidate", BLUE, &|p| p.candidate_ms)];
    let range = charts::range(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let x = Axis { name: "percentile", range: (0.0, far(report)), label: &nines_label, labels: 12 };
    let y = Axis { name: "latency", range: charts::decades(range), label: &charts::log_label, labels: 8 };
    charts::lines(&x, &y, &lines, &[])
}

fn ledgers(report: &Report) -> String {
    if report.ledger.is_empty() {
        return String::new();
    }
    let longest = report.ledger.iter().map(|row| row.baseline_us.max(row.candidate_us)).fold(1e-9, f64::max);
    let mut out = String::from(
        "<h2>Why: both ledgers, largest change first</h2>\n<p class=\"hint\">mean of a request; upper bar baseline, lower bar \
         candidate</p>\n<table>\n<tr><th>category</th><th>baseline</th><th>candidate</th><th>change</th>\
         <th style=\"width:45%\"></th></tr>\n",
    );
    for row in &report.ledger {
        let bar = |us: f64, colour: &str| {
            format!("<div style=\"height:.5rem;width:{:.2}%;background:{colour}\"></div>", us / longest * 100.0)
        };
        let change = row.change_us.map(|us| us / 1e3);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{:.3} ms</td><td>{:.3} ms</td><td>{:+.3} ms ({:+.3} to {:+.3})</td><td>{}{}</td></tr>",
            escaped(&row.category),
            row.baseline_us / 1e3,
            row.candidate_us / 1e3,
            change.value,
            change.low,
            change.high,
            bar(row.baseline_us, "#d97a1f"),
            bar(row.candidate_us, "#2f6fb0")
        );
    }
    out.push_str("</table>\n");
    out
}
