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

/// One line about `recent`, the last part of the run, and `now`, all of it. `whole`: how long the run will take.
pub fn line(now: &Progress, recent: &Progress, offered_per_second: Option<f64>, whole: Option<Duration>) -> String {
    let elapsed = Duration::from_nanos(now.elapsed_ns);
    let seconds = (recent.elapsed_ns as f64 / 1e9).max(1e-3);
    let ended = recent.succeeded + recent.failed;
    let rate = ended as f64 / seconds;
    let mut out = clock(elapsed);
    out.push_str(&match offered_per_second {
        Some(offered) => format!("  {rate:.0}/s of {offered:.0}/s"),
        None => format!("  {rate:.0}/s"),
    });
    let all = now.succeeded + now.failed;
    out.push_str(&format!("  {} ok", percent(now.succeeded as f64, all as f64)));
    if now.failed > 0 {
        out.push_str(&format!(" ({} failed)", grouped(now.failed)));
    }
    if let (Some(p50), Some(p99)) = (recent.quantile_ms(0.5), recent.quantile_ms(0.99)) {
        out.push_str(&format!("  p50 {}  p99 {}", ms(p50), ms(p99)));
    }
    if let Some(lag) = recent.lag_quantile_ms(0.99).filter(|_| offered_per_second.is_some()) {
        out.push_str(&format!("  lag p99 {}", ms(lag)));
    }
    out.push_str(&format!("  {} in flight", now.in_flight));
    if let Some(left) = whole.map(|whole| whole.saturating_sub(elapsed)) {
        out.push_str(&if left.is_zero() {
            "  waiting for the last answers".to_owned()
        } else {
            format!("  {} left", clock(left))
        });
    }
    out
}

fn clock(time: Duration) -> String {
    // Half a second more: a clock that shows 00:29 for 29.99 s looks late.
    let seconds = (time + Duration::from_millis(500)).as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn ms(ms: f64) -> String {
    super::millis(ms * 1e6)
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
            let text = line(&now, &now.since(first), offered_per_second, whole);
            let _ = match columns {
                // A line that wraps cannot be rewritten.
                Some(columns) => {
                    write!(out, "\r{}\x1b[K", text.chars().take(columns.saturating_sub(1)).collect::<String>())
                }
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
        let text = line(&now, &now, Some(100.0), Some(Duration::from_secs(30)));
        assert_eq!(text, "00:12  83/s of 100/s  99.00 % ok (10 failed)  3 in flight  00:18 left");
        let late = line(&now, &now, None, Some(Duration::from_secs(10)));
        assert!(late.ends_with("waiting for the last answers"), "{late}");
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
