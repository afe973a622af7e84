//! The closing report of `celerity up`.

use std::time::Duration;

use crate::stats::{Means, Stats, Summary};
use crate::view::{millis, percent, rows};

/// The requests in the middle, and those around the 99th percentile.
const MEDIAN_COHORT: (f64, f64) = (0.45, 0.55);
const TAIL_COHORT: (f64, f64) = (0.985, 0.995);

/// The latency table, the two cohorts by category, the failures.
pub(crate) fn traffic(stats: &Stats, whole: &Summary, ran_for: Duration) -> String {
    let mut out = String::new();
    let ended = stats.answered + stats.failed;
    let rate = ended as f64 / ran_for.as_secs_f64().max(0.001);
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!(
        "{} requests in {:.1} s ({rate:.1}/s), {} answered, {} failed ({} ok)",
        stats.started,
        ran_for.as_secs_f64(),
        stats.answered,
        stats.failed,
        percent(stats.answered as f64, ended as f64),
    ));
    for (reason, count) in &stats.failures {
        line(format!("  {count} x {reason}"));
    }
    if (whole.requests() as u64) < ended {
        line(format!("the tables below are about the last {} requests", whole.requests()));
    }
    line(String::new());
    line("latency, counted from the intended send time".to_owned());
    if let Some(mean) = whole.mean_us() {
        line(format!("  mean    {:>11}", millis(mean)));
    }
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        if let Some(us) = whole.quantile_us(q) {
            line(format!("  {name:<7} {:>11}", millis(us.into())));
        }
    }
    line(String::new());
    for text in cohorts(whole) {
        line(text);
    }
    out
}

/// Where the time goes in the median and in the tail, side by side, and the difference; one alone where the other's requests
/// carried no ledger, as failed ones do.
fn cohorts(whole: &Summary) -> Vec<String> {
    let median = whole.cohort(MEDIAN_COHORT.0, MEDIAN_COHORT.1);
    let tail = whole.cohort(TAIL_COHORT.0, TAIL_COHORT.1);
    if median.requests > 0 && tail.requests > 0 {
        return both(&median, &tail);
    }
    let all = whole.cohort(0.0, 1.0);
    let (name, means) = match (median.requests, tail.requests, all.requests) {
        (0, 0, 0) => {
            return vec!["no ledger came back, so there is nothing to say about where the time went".to_owned()];
        }
        (0, 0, _) => ("all that carried a ledger", all),
        (0, ..) => ("tail: p98.5 to p99.5", tail),
        _ => ("median: p45 to p55", median),
    };
    let mut lines = vec![
        format!("where the time goes, mean of one cohort ({name})"),
        format!("  {:<13} {:>14}", "", format!("{} requests", means.requests)),
    ];
    let row = |name: &str, us: f64| format!("  {name:<13} {:>14} {:>9}", millis(us), percent(us, means.latency_us));
    lines.extend(rows(&means).iter().map(|(name, us)| row(name, *us)));
    lines.push(row("total", means.latency_us));
    for (name, (from, to), own) in [("median", MEDIAN_COHORT, median.requests), ("tail", TAIL_COHORT, tail.requests)] {
        let told = whole.told(from, to);
        if own == 0 && told.requests > 0 {
            let (requests, failed, ms) = (told.requests, told.failed, millis(told.latency_us));
            lines.push(format!(
                "  none of the {name}'s {requests} requests carried a ledger: {failed} failed, {ms} on average"
            ));
        }
    }
    lines
}

fn both(median: &Means, tail: &Means) -> Vec<String> {
    let heading = |means: &Means| format!("{} requests", means.requests);
    let mut lines = vec![
        "where the time goes, mean of each cohort (median: p45 to p55; tail: p98.5 to p99.5)".to_owned(),
        format!("  {:<13} {:>14} {:>9} {:>14} {:>9} {:>14}", "", "median", "", "tail", "", "tail - median"),
        format!("  {:<13} {:>14} {:>9} {:>14}", "", heading(median), "", heading(tail)),
    ];
    let row = |name: &str, a: f64, b: f64| {
        format!(
            "  {name:<13} {:>14} {:>9} {:>14} {:>9} {:>14}",
            millis(a),
            percent(a, median.latency_us),
            millis(b),
            percent(b, tail.latency_us),
            signed_millis(b - a)
        )
    };
    for ((name, a), (_, b)) in rows(median).iter().zip(rows(tail)) {
        lines.push(row(name, *a, b));
    }
    lines.push(row("total", median.latency_us, tail.latency_us));
    lines
}

fn signed_millis(us: f64) -> String {
    format!("{}{}", if us < 0.0 { "-" } else { "+" }, millis(us.abs()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use celerity_telemetry::Category;
    use celerity_telemetry::ledger::CATEGORIES;

    use super::*;
    use crate::stats::Sample;

    #[test]
    fn the_report_sets_the_tail_beside_the_median() {
        let mut stats = Stats::default();
        for n in 1..=1000u32 {
            stats.started += 1;
            let mut parts = [0; CATEGORIES];
            parts[Category::Service as usize] = 1000;
            parts[Category::Queueing as usize] = n;
            let sample = Sample { ended: Instant::now(), ok: true, latency_us: 1000 + n, parts_us: Some(parts) };
            stats.end(sample, if n % 100 == 0 { Err("503") } else { Ok(None) });
        }
        let text = traffic(&stats, &stats.whole(), Duration::from_secs(20));
        for expected in ["1000 requests in 20.0 s (50.0/s), 990 answered, 10 failed (99.0 % ok)", "10 x 503", "p50"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        let queueing = text.lines().find(|line| line.contains("queueing")).expect("a row");
        assert!(queueing.contains("0.500 ms") && queueing.contains("0.99"), "{queueing}");
    }

    #[test]
    fn a_tail_without_a_ledger_takes_the_medians_table_not_away() {
        let mut stats = Stats::default();
        for n in 1..=200u32 {
            stats.started += 1;
            let lost = n > 190;
            let latency_us = if lost { 5_000_000 } else { 1000 + n };
            let parts_us = (!lost).then_some([100; CATEGORIES]);
            let sample = Sample { ended: Instant::now(), ok: !lost, latency_us, parts_us };
            stats.end(sample, if lost { Err("no answer in time") } else { Ok(None) });
        }
        let text = traffic(&stats, &stats.whole(), Duration::from_secs(20));
        assert!(text.contains("mean of one cohort (median: p45 to p55)") && text.contains("0.100 ms"), "{text}");
        assert!(text.contains("none of the tail's 2 requests carried a ledger: 2 failed, 5000.0 ms"), "{text}");
    }

    #[test]
    fn without_a_ledger_it_says_so() {
        let stats = Stats::default();
        assert!(traffic(&stats, &stats.whole(), Duration::ZERO).contains("no ledger came back"));
    }
}
