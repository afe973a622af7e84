//! The result as a page: one file that loads nothing from elsewhere. Charts for what a table hides: how latency went over
//! time, how far the tail goes, where the rate broke.

use std::fmt::Write;

use super::charts::{self, Axis, BLUE, Cell, GREY, Line, ORANGE, RED};
use super::{Style, text};
use crate::slo::Outcome;
use crate::timeline::{Bin, Timeline, row_floor_us};
use crate::{Histogram, Summary};

/// The style of every page.
const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
p.hint { margin: .1rem 0 .5rem; color: #777; }
figure { margin: 0; background: #fff; border-radius: 6px; border: 1px solid #8883; }
figure svg { width: 100%; height: auto; display: block; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #8883; border-radius: 6px; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .15rem .5rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
.void { border: 2px solid #c03a36; padding: .5rem .8rem; border-radius: 6px; }
";

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(crate) fn framed(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n{body}</body></html>\n"
    )
}

pub(crate) fn figure(title: &str, hint: &str, svg: &str) -> String {
    format!("<h2>{}</h2>\n<p class=\"hint\">{}</p>\n<figure>{svg}</figure>\n", escaped(title), escaped(hint))
}

pub(crate) fn report(text: &str) -> String {
    format!("<h2>Report</h2>\n<pre>{}</pre>\n", escaped(text))
}

/// The page. The error is a reason without a path.
pub fn render(summary: &Summary, outcomes: &[Outcome]) -> Result<String, String> {
    let mut body = String::new();
    if let crate::audit::Verdict::Void(reasons) = summary.verdict() {
        let list: String = reasons.iter().map(|reason| format!("<li>{}</li>", escaped(reason))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(body, "<div class=\"void\"><b>The run is void.</b><ul>{list}</ul></div>");
    }
    if !summary.response.is_empty() {
        body.push_str(&figure(
            "Latency over time",
            "response time by intended send time; the redder, the more requests of that moment (empty: none)",
            &heat_map(&summary.timeline)?,
        ));
        body.push_str(&figure(
            "Percentile spectrum",
            "how long the slowest share of requests took; each label to the right is about a tenth of the requests before it",
            &spectrum(&[("response", BLUE, &summary.response), ("service", ORANGE, &summary.service)])?,
        ));
    }
    if !summary.timeline.bins.is_empty() {
        body.push_str(&figure("Rate over time", "requests in a second", &rates(&summary.timeline)?));
    }
    body.push_str(&report(&text::render(summary, outcomes, Style { columns: 100, colour: false })));
    Ok(framed(&format!("celerity load {}", summary.about.target), &body))
}

/// Columns of the heat map: more cells than these make a page of megabytes.
const COLUMNS_MAX: usize = 128;
/// Rows of the timeline that are drawn as one: half an octave.
const ROWS_TOGETHER: usize = 2;

fn heat_map(timeline: &Timeline) -> Result<String, String> {
    let together = timeline.bins.len().div_ceil(COLUMNS_MAX).max(1);
    let column_s = timeline.bin_ns as f64 / 1e9 * together as f64;
    let mut cells = Vec::new();
    for (column, bins) in timeline.bins.chunks(together).enumerate() {
        let mut rows: Vec<u64> = Vec::new();
        for bin in bins {
            for (row, &count) in bin.rows.iter().enumerate() {
                let at = row / ROWS_TOGETHER;
                if rows.len() <= at {
                    rows.resize(at + 1, 0);
                }
                if let Some(sum) = rows.get_mut(at) {
                    *sum += u64::from(count);
                }
            }
        }
        let whole = rows.iter().max().copied().unwrap_or(0).max(1) as f64;
        for (row, &count) in rows.iter().enumerate().filter(|(_, count)| **count > 0) {
            let edge = |row: usize| charts::log_ms(row_floor_us(row * ROWS_TOGETHER) / 1e3);
            cells.push(Cell {
                from: (column as f64 * column_s, edge(row)),
                to: ((column + 1) as f64 * column_s, edge(row + 1)),
                // By its root: one request in a hundred is what one looks for.
                heat: (count as f64 / whole).sqrt(),
            });
        }
    }
    let range = charts::decades(charts::range(cells.iter().flat_map(|cell| [cell.from.1, cell.to.1])));
    let y = Axis { name: "response time", range, label: &charts::log_label, labels: 8 };
    charts::heat(&time_axis(timeline), &y, &cells)
}

fn time_axis(timeline: &Timeline) -> Axis<'static> {
    let end_s = timeline.bins.len() as f64 * timeline.bin_ns as f64 / 1e9;
    Axis { name: "seconds", range: charts::range([0.0, end_s]), label: &short, labels: 11 }
}

fn short(value: &f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Nines: 1 is p90, 2 is p99.
pub(crate) fn nines(q: f64) -> f64 {
    -(1.0 - q).max(1e-12).log10()
}

pub(crate) fn nines_label(value: &f64) -> String {
    let whole = value.round();
    if (value - whole).abs() > 0.01 {
        return String::new();
    }
    match whole as usize {
        0 => "p0".to_owned(),
        1 => "p90".to_owned(),
        2 => "p99".to_owned(),
        more => format!("p99.{}", "9".repeat(more - 2)),
    }
}

fn spectrum(of: &[(&str, plotters::style::RGBColor, &Histogram)]) -> Result<String, String> {
    let mut lines = Vec::new();
    let mut far = 2.0_f64;
    for (name, colour, histogram) in of.iter().filter(|(_, _, histogram)| !histogram.is_empty()) {
        let count = histogram.count() as f64;
        let mut points = vec![(0.0, charts::log_ms(histogram.min_ns() as f64 / 1e6))];
        let mut seen = 0;
        for (ns, here) in histogram.buckets() {
            seen += here;
            // The longest one has no request above it: it stands at half a request.
            points.push((nines((seen as f64).min(count - 0.5) / count), charts::log_ms(ns as f64 / 1e6)));
        }
        far = points.iter().map(|point| point.0).fold(far, f64::max);
        lines.push(Line { name, colour: *colour, points: thinned(&points), dots: false });
    }
    let range = charts::range(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let x = Axis { name: "percentile", range: (0.0, far), label: &nines_label, labels: 12 };
    let y = Axis { name: "latency", range: charts::decades(range), label: &charts::log_label, labels: 8 };
    charts::lines(&x, &y, &lines, &[])
}

/// Points that no screen could tell apart are left out; the last one stays.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    const STEP: f64 = 0.004;
    let mut out: Vec<(f64, f64)> = Vec::new();
    for (at, &point) in points.iter().enumerate() {
        let is_last = at + 1 == points.len();
        if is_last || out.last().is_none_or(|last| point.0 - last.0 > STEP || (point.1 - last.1).abs() > STEP) {
            out.push(point);
        }
    }
    out
}

fn rates(timeline: &Timeline) -> Result<String, String> {
    let bin_s = timeline.bin_ns as f64 / 1e9;
    let line = |name, colour, of: &dyn Fn(&Bin) -> u64| {
        let points = timeline.bins.iter().enumerate();
        let points = points.map(|(at, bin)| ((at as f64 + 0.5) * bin_s, of(bin) as f64 / bin_s)).collect();
        Line { name, colour, points, dots: timeline.bins.len() == 1 }
    };
    let lines = [
        line("intended", GREY, &|bin| bin.intended),
        line("succeeded", BLUE, &|bin| bin.succeeded),
        line("failed", RED, &|bin| bin.failed),
    ];
    let (_, high) = charts::range(lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)));
    let y = Axis { name: "per second", range: (0.0, high.max(1.0) * 1.05), label: &short, labels: 8 };
    charts::lines(&time_axis(timeline), &y, &lines, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_charts_and_loads_nothing() {
        let page = render(&crate::report::sample(), &[]).expect("a page");
        assert_eq!(page.matches("<svg").count(), 3);
        for expected in ["Latency over time", "p99.9", "1 ms", "100 ms", "intended", "users?a=&lt;b&gt;"] {
            assert!(page.contains(expected), "{expected} is not in the page");
        }
        for loads in ["src=", "href=\"http", "@import", "<script", "url("] {
            assert!(!page.contains(loads), "{loads} is in the page");
        }
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
    }

    #[test]
    fn a_run_without_an_answer_has_a_page_too() {
        let page = render(&Summary::default(), &[]).expect("a page");
        assert!(page.contains("nothing was answered"));
    }

    #[test]
    fn a_run_of_one_request_can_be_drawn() {
        let mut summary = Summary::default();
        summary.response.record(5_000_000);
        summary.service.record(5_000_000);
        summary.timeline.latency(0, 5_000_000);
        assert_eq!(render(&summary, &[]).expect("a page").matches("<svg").count(), 3);
    }
}
