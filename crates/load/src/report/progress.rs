//! How a run goes, while it goes: one line that is rewritten on a terminal, a line now and then elsewhere.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::{grouped, percent};
use crate::{Control, Progress};

/// How often a terminal's line is rewritten, and how often a plain one is written.
const REDRAW: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Rate and latency are of the last so many redraws: two seconds, so that numbers can be read before they change.
const WINDOW: usize = 8;

/// One line about `recent`, the last part of the run, and `now`, all of it. `whole`: how long the run will take. Where there
/// are `columns`, what no longer fits is left out from the end, which is why what matters most comes first.
pub fn line(
    now: &Progress,
    recent: &Progress,
    offered_per_second: Option<f64>,
    whole: Option<Duration>,
    columns: Option<usize>,
) -> String {
    let elapsed = Duration::from_nanos(now.elapsed_ns);
    let seconds = (recent.elapsed_ns as f64 / 1e9).max(1e-3);
    let rate = (recent.succeeded + recent.failed) as f64 / seconds;
    let all = now.succeeded + now.failed;
    let mut parts = vec![clock(elapsed)];
    parts.push(match offered_per_second {
        Some(offered) => format!("{} of {}/s", whole_or_tenth(rate), whole_or_tenth(offered)),
        None => format!("{}/s", whole_or_tenth(rate)),
    });
    parts.push(format!("{} ok", percent(now.succeeded as f64, all as f64).replace(".00 %", "%").replace(' ', "")));
    let mut times = Vec::new();
    if let (Some(p50), Some(p99)) = (recent.quantile_ms(0.5), recent.quantile_ms(0.99)) {
        times.push(format!("p50 {} p99 {}", short(p50), short(p99)));
    }
    if let Some(lag) = recent.lag_quantile_ms(0.99) {
        times.push(format!("lag {}", short(lag)));
    }
    if !times.is_empty() {
        parts.push(format!("{} ms", times.join(" ")));
    }
    if let Some(left) = whole.map(|whole| whole.saturating_sub(elapsed)) {
        parts.push(if left.is_zero() { "last answers".to_owned() } else { format!("{} left", clock(left)) });
    }
    if now.failed > 0 {
        parts.push(format!("{} failed", grouped(now.failed)));
    }
    parts.push(format!("{} in flight", now.in_flight));
    let mut out = String::new();
    for part in parts {
        let gap = if out.is_empty() { "" } else { "  " };
        // A line that wraps cannot be rewritten.
        if columns.is_some_and(|columns| out.len() + gap.len() + part.len() >= columns) {
            break;
        }
        out.push_str(gap);
        out.push_str(&part);
    }
    out
}

/// A rate below ten would lose too much as a whole number.
fn whole_or_tenth(rate: f64) -> String {
    if rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Milliseconds in three digits, which is what changes slowly enough to be read: `6.05`, `65.5`, `188`.
fn short(ms: f64) -> String {
    match ms {
        ms if ms < 9.995 => format!("{ms:.2}"),
        ms if ms < 99.95 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

fn clock(time: Duration) -> String {
    // Half a second more: a clock that shows 00:29 for 29.99 s looks late.
    let seconds = (time + Duration::from_millis(500)).as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// Shows a run until `ended` is told or its sender is gone. `columns`: the terminal's width; `None` writes plain lines.
/// What cannot be written is dropped: a closed pipe ends no run.
pub fn watch(
    control: &Control,
    offered_per_second: Option<f64>,
    whole: Option<Duration>,
    columns: Option<usize>,
    ended: &Receiver<()>,
    out: &mut dyn Write,
) {
    let mut earlier: Vec<Progress> = vec![control.progress()];
    let every = if columns.is_some() { REDRAW } else { LINE_EVERY };
    let window = if columns.is_some() { WINDOW } else { 1 };
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
        let now = control.progress();
        if let Some(first) = earlier.first() {
            let text = line(&now, &now.since(first), offered_per_second, whole, columns);
            let _ = match columns {
                Some(_) => write!(out, "\r{text}\x1b[K"),
                None => writeln!(out, "{text}"),
            };
            let _ = out.flush();
        }
        earlier.push(now);
        if earlier.len() > window {
            earlier.remove(0);
        }
    }
    if columns.is_some() {
        let _ = write!(out, "\r\x1b[K");
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_rate_success_latency_and_what_is_left() {
        let mut now = Progress::default();
        (now.elapsed_ns, now.succeeded, now.failed, now.in_flight) = (12_000_000_000, 990, 10, 3);
        let text = line(&now, &now, Some(100.0), Some(Duration::from_secs(30)), None);
        assert_eq!(text, "00:12  83 of 100/s  99% ok  00:18 left  10 failed  3 in flight");
        let late = line(&now, &now, None, Some(Duration::from_secs(10)), Some(40));
        assert_eq!(late, "00:12  83/s  99% ok  last answers");
    }

    #[test]
    fn eighty_columns_hold_what_matters() {
        let control = Control::new();
        let cell = control.add_thread();
        cell.latency(65_500_000);
        cell.lag(12_300_000);
        let mut now = control.progress();
        (now.elapsed_ns, now.succeeded, now.failed, now.in_flight) = (10_000_000_000, 199_800, 20, 256);
        let text = line(&now, &now, Some(20_000.0), Some(Duration::from_secs(6000)), Some(80));
        for part in ["19982 of 20000/s", "99.99% ok", "p50 ", "p99 ", "lag ", "left"] {
            assert!(text.contains(part), "{part} is not in `{text}`");
        }
        assert!(text.len() < 80, "{text}");
        assert_eq!([0.5, 97.4].map(whole_or_tenth), ["0.5", "97"]);
        assert_eq!([1.5, 65.54, 1234.4].map(short), ["1.50", "65.5", "1234"]);
    }

    #[test]
    fn it_ends_when_the_run_ends() {
        let (end, ended) = std::sync::mpsc::channel();
        drop(end);
        let mut out = Vec::new();
        watch(&Control::new(), None, None, Some(80), &ended, &mut out);
        assert_eq!(out, b"\r\x1b[K");
    }
}
