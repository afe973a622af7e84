//! The live view of `celerity up`: on a terminal a block that is redrawn, elsewhere a plain line now and then.
//!
//! Rendering is pure: numbers in, lines out.

use std::time::Duration;

use celerity_telemetry::Category;
use celerity_telemetry::ledger::CATEGORIES;

use crate::stats::{Means, Stats, Summary, WINDOW};
use crate::term;

/// Cells of a full bar.
const BAR_CELLS: usize = 32;

/// What the view shows at one moment.
pub(crate) struct Frame<'a> {
    pub(crate) elapsed: Duration,
    pub(crate) offered_per_second: f64,
    pub(crate) stats: &'a Stats,
    pub(crate) window: &'a Summary,
    /// The last thing worth saying about the configuration.
    pub(crate) config: &'a str,
}

/// Draws over what it drew before.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines_drawn: usize,
}

impl Screen {
    /// Redraws the block on a terminal, under the notes that came since. A line that wrapped would be two, and the next
    /// drawing would begin too low: each is cut to the terminal's width.
    pub(crate) fn draw(&mut self, notes: &[String], lines: &[String], columns: usize) {
        term::raw(&self.drawing(notes, lines, columns));
    }

    fn drawing(&mut self, notes: &[String], lines: &[String], columns: usize) -> String {
        let mut out = String::new();
        if self.lines_drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.lines_drawn));
        }
        for note in notes {
            out.push_str(note);
            out.push_str("\x1b[K\n");
        }
        for line in lines {
            out.push_str(&term::cut(line, columns));
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.lines_drawn = lines.len();
        out
    }
}

/// The whole block.
pub(crate) fn block(frame: &Frame<'_>, colour: bool) -> Vec<String> {
    let window = frame.window;
    let cohort = window.cohort(0.0, 1.0);
    let mut lines = vec![
        format!("{}   {}", clock(frame.elapsed), rates(frame)),
        latencies(window),
        format!("where the time goes, mean of the last {} s:", WINDOW.as_secs().min(frame.elapsed.as_secs().max(1))),
    ];
    lines.extend(bars(&cohort, colour));
    lines.push(shares(frame.stats));
    lines.push(format!("configuration: {}", frame.config));
    lines
}

/// The same in one line, for a file or a pipe.
pub(crate) fn plain_line(frame: &Frame<'_>) -> String {
    let cohort = frame.window.cohort(0.0, 1.0);
    let mut line = format!("{}  {}  {}", clock(frame.elapsed), rates(frame), latencies(frame.window));
    if cohort.requests > 0 {
        let parts: Vec<_> = rows(&cohort).iter().map(|(name, us)| format!("{name} {}", share(*us, &cohort))).collect();
        line.push_str("  ");
        line.push_str(&parts.join("  "));
    }
    line
}

fn rates(frame: &Frame<'_>) -> String {
    let seconds = frame.elapsed.min(WINDOW).as_secs_f64().max(0.1);
    let requests = frame.window.requests();
    format!(
        "{:.0} req/s offered   {:.1} req/s answered   {} ok   {} in flight",
        frame.offered_per_second,
        requests as f64 / seconds,
        percent(frame.window.ok as f64, requests as f64),
        frame.stats.in_flight(),
    )
}

fn latencies(window: &Summary) -> String {
    match (window.quantile_us(0.5), window.quantile_us(0.95), window.quantile_us(0.99)) {
        (Some(p50), Some(p95), Some(p99)) => {
            format!("p50 {}   p95 {}   p99 {}", millis(p50.into()), millis(p95.into()), millis(p99.into()))
        }
        _ => "no request ended yet".to_owned(),
    }
}

/// The ledger's rows, the mesh's seven and what the client itself waited for, in microseconds.
pub(crate) fn rows(means: &Means) -> [(&'static str, f64); CATEGORIES + 1] {
    let mut rows = [("client", means.outside_us()); CATEGORIES + 1];
    for (row, category) in rows.iter_mut().zip(Category::ALL) {
        *row = (category.as_str(), means.part(category));
    }
    rows
}

fn bars(cohort: &Means, colour: bool) -> Vec<String> {
    if cohort.requests == 0 {
        return vec!["  no ledger has come back yet".to_owned()];
    }
    let (dim, plain) = if colour { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
    rows(cohort)
        .iter()
        .map(|(name, us)| {
            let filled = (us / cohort.latency_us.max(1.0) * BAR_CELLS as f64).round() as usize;
            let bar = format!("{}{}", "█".repeat(filled.min(BAR_CELLS)), " ".repeat(BAR_CELLS.saturating_sub(filled)));
            format!("  {name:<13} {dim}{bar}{plain} {:>7}  {:>10}", share(*us, cohort), millis(*us))
        })
        .collect()
}

fn shares(stats: &Stats) -> String {
    let total: u64 = stats.served_by.values().sum();
    let parts: Vec<_> = stats
        .served_by
        .iter()
        .map(|(name, count)| format!("{name} {}", percent(*count as f64, total as f64)))
        .collect();
    format!("served by: {}", if parts.is_empty() { "nobody yet".to_owned() } else { parts.join("   ") })
}

fn share(us: f64, of: &Means) -> String {
    percent(us, of.latency_us)
}

/// `97.3 %`, or `-` of nothing. Never rounded up to 100 while something is missing.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "-".to_owned();
    }
    let shown = (part / whole * 1000.0).round() / 10.0;
    format!("{:.1} %", if part < whole { shown.min(99.9) } else { shown })
}

/// Microseconds as milliseconds, with as many decimals as still mean something.
pub(crate) fn millis(us: f64) -> String {
    match us / 1000.0 {
        ms if ms < 10.0 => format!("{ms:.3} ms"),
        ms if ms < 100.0 => format!("{ms:.2} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::stats::Sample;

    fn stats() -> Stats {
        let mut stats = Stats::default();
        for n in 1..=100u32 {
            stats.started += 1;
            let mut parts = [0; CATEGORIES];
            parts[Category::Service as usize] = n * 90;
            let sample = Sample { ended: Instant::now(), ok: true, latency_us: n * 100, parts_us: Some(parts) };
            stats.end(sample, Ok(Some("user-service-v1-1")));
        }
        stats
    }

    #[test]
    fn the_block_shows_rate_success_latency_ledger_and_who_served() {
        let stats = stats();
        let window = stats.window(Instant::now());
        let frame = Frame {
            elapsed: Duration::from_secs(65),
            offered_per_second: 50.0,
            stats: &stats,
            window: &window,
            config: "19 documents",
        };
        let text = block(&frame, false).join("\n");
        for expected in ["01:05", "10.0 req/s answered", "100.0 % ok", "p50 5.000 ms", "user-service-v1-1 100.0 %"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let service = text.lines().find(|line| line.contains("service  ")).expect("a row");
        assert!(service.contains("90.0 %") && service.matches('█').count() == 29, "{service}");
        assert!(!text.contains('\x1b'));
        assert_eq!(plain_line(&frame).lines().count(), 1);
    }

    #[test]
    fn a_block_is_as_many_lines_as_it_draws_and_notes_stand_above_it() {
        let mut screen = Screen::default();
        let lines = ["x".repeat(100), "short".to_owned()];
        assert_eq!(screen.drawing(&[], &lines, 80), format!("{}\x1b[K\nshort\x1b[K\n\x1b[J", "x".repeat(80)));
        let again = screen.drawing(&["refused".to_owned()], &lines, 80);
        assert!(again.starts_with("\x1b[2Arefused\x1b[K\nxxx"), "{again:?}");
    }

    #[test]
    fn one_failure_in_a_million_is_not_a_hundred_percent() {
        assert_eq!(percent(999_999.0, 1_000_000.0), "99.9 %");
        assert_eq!(percent(0.0, 0.0), "-");
    }
}
