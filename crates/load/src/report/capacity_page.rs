//! A capacity measurement as a page: latency against load, the scalability law through its points, what grows first.

use super::charts::{self, Axis, BLUE, GREEN, GREY, Line, ORANGE, RED};
use super::html::{self, escaped, figure, framed};
use crate::capacity::report::Report;
use crate::capacity::search::Trial;

/// The page. The error is a reason without a path.
pub fn render(report: &Report) -> Result<String, String> {
    let mut body = format!("<p>{}, objective {}</p>\n", escaped(&report.target), escaped(&report.objective));
    if !report.found.trials.is_empty() {
        body.push_str(&figure(
            "Latency against load",
            "each dot is a trial at one rate; green: the highest rate that keeps the objective, red: the lowest that misses it",
            &curve(report)?,
        ));
    }
    if !report.sweep.points.is_empty() {
        let hint = match (&report.sweep.fit, &report.sweep.refusal) {
            (Some(fit), _) => format!(
                "closed loops, and the Universal Scalability Law through them (alpha {:.4}, beta {:.6}), up to the highest \
                 concurrency that was measured",
                fit.alpha.value, fit.beta.value
            ),
            (None, Some(refusal)) => format!("closed loops; no law was fitted: {refusal}"),
            (None, None) => "closed loops".to_owned(),
        };
        body.push_str(&figure("Throughput against concurrency", &hint, &scaling(report)?));
    }
    body.push_str(&html::report(&crate::capacity::text::render(report)));
    Ok(framed(&format!("celerity capacity {}", report.target), &body))
}

fn curve(report: &Report) -> Result<String, String> {
    let mut trials: Vec<&Trial> = report.found.trials.iter().collect();
    trials.sort_by(|a, b| a.offered_per_second.total_cmp(&b.offered_per_second));
    let line = |name, colour, of: &dyn Fn(&Trial) -> f64| Line {
        name,
        colour,
        points: trials.iter().map(|trial| (trial.offered_per_second, charts::log_ms(of(trial)))).collect(),
        dots: true,
    };
    let mut lines = vec![
        line("p50", BLUE, &|trial| trial.p50_ms),
        line("p95", GREY, &|trial| trial.p95_ms),
        line("p99", ORANGE, &|trial| trial.p99_ms),
    ];
    let range = charts::range(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let (low, high) = charts::decades(range);
    let (_, far) = charts::range(trials.iter().map(|trial| trial.offered_per_second).chain([0.0]));
    let edges = [("kept", GREEN, report.found.kept_per_second), ("missed", RED, report.found.missed_per_second)];
    for (name, colour, at) in edges {
        if let Some(at) = at {
            lines.push(Line { name, colour, points: vec![(at, low), (at, high)], dots: false });
        }
    }
    let x = Axis { name: "offered per second", range: (0.0, far * 1.05), label: &whole, labels: 10 };
    let y = Axis { name: "response time", range: (low, high), label: &charts::log_label, labels: 8 };
    charts::lines(&x, &y, &lines, &[])
}

fn scaling(report: &Report) -> Result<String, String> {
    let points: Vec<(f64, f64)> =
        report.sweep.points.iter().map(|point| (point.concurrency, point.per_second)).collect();
    let far = points.iter().map(|point| point.0).fold(1.0, f64::max);
    let mut lines = vec![Line { name: "measured", colour: BLUE, points, dots: true }];
    if let Some(fit) = &report.sweep.fit {
        // No further than was measured: beyond it the law is a guess.
        const STEPS: u32 = 100;
        let at = |step: u32| 1.0 + (far - 1.0) * f64::from(step) / f64::from(STEPS);
        let points = (0..=STEPS).map(|step| (at(step), fit.law.per_second(at(step)))).collect();
        lines.push(Line { name: "the law", colour: ORANGE, points, dots: false });
    }
    let (_, high) = charts::range(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let x = Axis { name: "requests at a time", range: (0.0, far * 1.05), label: &whole, labels: 10 };
    let y = Axis { name: "answered per second", range: (0.0, high.max(1.0) * 1.05), label: &whole, labels: 8 };
    charts::lines(&x, &y, &lines, &[])
}

fn whole(value: &f64) -> String {
    format!("{value:.0}")
}
