//! The closing report of a run, for people.

use celerity_telemetry::Category;

use super::{QUANTILES, Style, bytes, grouped, millis, percent};
use crate::audit::Verdict;
use crate::slo::Outcome;
use crate::summary::LedgerMeans;
use crate::{Histogram, Summary};

/// The requests in the middle, and those around the 99th percentile.
pub(crate) const MEDIAN_COHORT: (f64, f64) = (0.45, 0.55);
pub(crate) const TAIL_COHORT: (f64, f64) = (0.985, 0.995);

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";

fn paint(style: Style, code: &str, text: &str) -> String {
    if style.colour { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
}

/// The whole report; lines end with a newline. `outcomes`: the objectives, if there were any.
pub fn render(summary: &Summary, outcomes: &[Outcome], style: Style) -> String {
    let mut lines = head(summary, style);
    lines.push(String::new());
    lines.extend(counts(summary, style));
    lines.push(String::new());
    lines.extend(latencies(summary, style));
    lines.extend(answers(summary, style));
    if let Some(ledger) = summary.ledger.as_ref().filter(|ledger| ledger.responses > 0) {
        let (median, tail) = (MEDIAN_COHORT, TAIL_COHORT);
        lines.push(String::new());
        lines.extend(cohorts(&ledger.cohort(median.0, median.1), &ledger.cohort(tail.0, tail.1), style));
    }
    lines.push(String::new());
    lines.extend(trust(summary, style));
    if !outcomes.is_empty() {
        lines.push(String::new());
        lines.push(paint(style, BOLD, "objectives"));
        for outcome in outcomes {
            let (word, code) = if outcome.passed { ("kept", GREEN) } else { ("MISSED", RED) };
            lines.push(format!(
                "  {:<24} {}, measured {}",
                outcome.objective,
                paint(style, code, word),
                outcome.measured
            ));
        }
    }
    let mut out = String::new();
    for line in lines {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn head(summary: &Summary, style: Style) -> Vec<String> {
    let about = &summary.about;
    let others = if about.targets > 1 { format!(" and {} more", about.targets - 1) } else { String::new() };
    let streams = match about.streams_per_connection {
        0 | 1 => String::new(),
        streams => format!(" of {streams} streams"),
    };
    let warm_up = match about.warm_up_ns {
        0 => String::new(),
        ns => format!(", after {:.1} s to warm up", ns as f64 / 1e9),
    };
    let cut = if about.interrupted { "; ended early" } else { "" };
    vec![
        paint(style, BOLD, &format!("{}{others}", about.target)),
        format!("{}, {}{cut}", about.load, about.protocol),
        format!(
            "{} connections{streams}, {} threads, seed {}; {:.1} s measured{warm_up}",
            about.connections,
            about.threads,
            about.seed,
            summary.duration_ns as f64 / 1e9
        ),
    ]
}

fn counts(summary: &Summary, style: Style) -> Vec<String> {
    let (total, failed) = (summary.total(), summary.failed());
    let rate = summary.answered_per_second();
    let rate = match summary.about.offered_per_second {
        Some(offered) => {
            let late = summary.achieved_share();
            let text = format!("{rate:.1} answered/s of {offered:.1}/s offered");
            if late < 0.999 { format!("{text}; {} could be sent in time", percent(late, 1.0)) } else { text }
        }
        None => format!("{rate:.1} answered/s"),
    };
    let success = percent(summary.succeeded as f64, total as f64);
    let mut lines = vec![
        format!("  {:<22}{:>14}", "Total requests:", grouped(total)),
        format!("  {:<22}{:>14}", "Successful requests:", grouped(summary.succeeded)),
        format!("  {:<22}{:>14}", "Failed requests:", grouped(failed)),
        format!(
            "  {:<22}{}",
            "Success rate:",
            paint(style, if failed == 0 { GREEN } else { YELLOW }, &format!("{success:>14}"))
        ),
        format!("  {:<22}{:>14}", "Rate:", rate),
        format!(
            "  {:<22}{:>14}   {}/s",
            "Received:",
            bytes(summary.bytes_received as f64),
            bytes(summary.received_per_second())
        ),
    ];
    if summary.fell_behind() {
        let late = grouped(summary.late.answers);
        lines.push(format!("  {:<22}{late:>14}   the server fell behind: they came after the end", "Late answers:"));
    }
    lines
}

fn latencies(summary: &Summary, style: Style) -> Vec<String> {
    let open = summary.about.open_loop;
    let mut lines = vec![paint(style, BOLD, &format!("  {:<22}{:>14}{:>14}", "latency", "response", "service"))];
    let (response, service) = (&summary.response, &summary.service);
    let row = |name: &str, a: f64, b: f64| format!("  {name:<22}{:>14}{:>14}", millis(a), millis(b));
    if response.is_empty() {
        lines.push("  nothing was answered".to_owned());
        return lines;
    }
    lines.push(row("Average", response.mean_ns(), service.mean_ns()));
    lines.push(row("Min", response.min_ns() as f64, service.min_ns() as f64));
    for (name, q) in QUANTILES {
        // A quantile that no request lies above would only repeat the longest one.
        if (1.0 - q) * response.count() as f64 >= 1.0 || q <= 0.99 {
            lines.push(row(name, response.quantile_ns(q) as f64, service.quantile_ns(q) as f64));
        }
    }
    lines.push(row("Max", response.max_ns() as f64, service.max_ns() as f64));
    lines.push(if open {
        "  response: from the intended send time to the last byte; service: from the real write".to_owned()
    } else {
        "  a closed loop waits for each answer before it asks again: a stall is seen once, not by those who would have come"
            .to_owned()
    });
    for (name, histogram) in [("connects", &summary.connect), ("TLS handshakes", &summary.tls)] {
        if !histogram.is_empty() {
            lines.push(format!("  {name:<22}{:>14}   {}", grouped(histogram.count()), spread(histogram)));
        }
    }
    if !summary.unanswered.is_empty() {
        let name = "given up after";
        lines.push(format!(
            "  {name:<22}{:>14}   {}",
            grouped(summary.unanswered.count()),
            spread(&summary.unanswered)
        ));
    }
    lines
}

fn spread(histogram: &Histogram) -> String {
    let [p50, p99] = [0.5, 0.99].map(|q| millis(histogram.quantile_ns(q) as f64));
    format!("p50 {p50}, p99 {p99}, max {}", millis(histogram.max_ns() as f64))
}

/// Statuses, errors, and who answered.
fn answers(summary: &Summary, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let total = summary.total() as f64;
    let row =
        |name: &str, count: u64| format!("  {name:<36}{:>14}{:>10}", grouped(count), percent(count as f64, total));
    if !summary.statuses.is_empty() {
        lines.push(String::new());
        lines.push(paint(style, BOLD, "answers by status"));
        lines.extend(summary.statuses.iter().map(|(status, count)| row(&status.to_string(), *count)));
        let grpc = summary.grpc_statuses.iter();
        lines.extend(grpc.map(|(status, count)| row(&format!("gRPC status {status}"), *count)));
    }
    if !summary.errors.is_empty() {
        lines.push(String::new());
        lines.push(paint(style, BOLD, "requests without an answer"));
        for (kind, count) in &summary.errors {
            lines.push(row(kind.as_str(), *count));
            if let Some(example) = summary.error_examples.get(kind) {
                lines.push(format!("    such as: {example}"));
            }
        }
    }
    if !summary.tally.is_empty() {
        lines.push(String::new());
        lines.push(paint(style, BOLD, "answered by"));
        lines.extend(summary.tally.iter().map(|(name, count)| row(name, *count)));
    }
    lines
}

/// Where the time goes in the median and in the tail, side by side, and the difference.
fn cohorts(median: &LedgerMeans, tail: &LedgerMeans, style: Style) -> Vec<String> {
    let title = "where the time goes, mean of each cohort (median: p45 to p55; tail: p98.5 to p99.5)";
    let mut lines = vec![paint(style, BOLD, title)];
    let heading = ["median", "", "tail", "", "tail - median"];
    let [a, b, c, d, e] = heading;
    lines.push(format!("  {:<14}{a:>12}{b:>10}{c:>12}{d:>10}{e:>16}", ""));
    for (name, a, b) in ledger_rows(median, tail) {
        let whole = (median.response_us, tail.response_us);
        let sign = if b >= a { "+" } else { "" };
        lines.push(format!(
            "  {name:<14}{:>12}{:>10}{:>12}{:>10}{:>16}",
            millis(a * 1e3),
            percent(a, whole.0),
            millis(b * 1e3),
            percent(b, whole.1),
            format!("{sign}{}", millis((b - a) * 1e3))
        ));
    }
    lines
}

/// Name, median and tail in microseconds: the categories, what the client waited beyond them, and the total.
pub(crate) fn ledger_rows(median: &LedgerMeans, tail: &LedgerMeans) -> Vec<(&'static str, f64, f64)> {
    let parts = median.categories_us.iter().zip(tail.categories_us);
    let mut rows: Vec<_> = Category::ALL.iter().zip(parts).map(|(name, (a, b))| (name.as_str(), *a, b)).collect();
    rows.push(("client", median.outside_us(), tail.outside_us()));
    rows.push(("total", median.response_us, tail.response_us));
    rows
}

/// How late the sender was, what it cost, and whether the rules let the run count.
fn trust(summary: &Summary, style: Style) -> Vec<String> {
    let audit = &summary.audit;
    let mut lines = vec![paint(style, BOLD, "can it be trusted")];
    if summary.about.open_loop && !summary.lag.is_empty() {
        lines.push(format!("  {:<22}{}", "sender lag", spread(&summary.lag)));
    }
    let mut sender = format!("busiest thread {:.0} % of a CPU", audit.cpu_share_max * 100.0);
    if audit.pause_ns_max > 0 {
        sender.push_str(&format!(", longest pause {}", millis(audit.pause_ns_max as f64)));
    }
    lines.push(format!("  {:<22}{sender}", "sender"));
    let mut machine = Vec::new();
    if let Some(share) = audit.steal_share {
        machine.push(format!("{:.1} % of CPU time stolen", share * 100.0));
    }
    if let Some(share) = audit.pressure_share {
        machine.push(format!("{:.1} % of the time some task waited for a CPU", share * 100.0));
    }
    if let Some(switches) = audit.involuntary_switches {
        machine.push(format!("{} involuntary switches", grouped(switches)));
    }
    if !machine.is_empty() {
        lines.push(format!("  {:<22}{}", "machine", machine.join(", ")));
    }
    for caution in summary.cautions() {
        lines.push(format!("  {:<22}{}", "caution", paint(style, YELLOW, &caution)));
    }
    match summary.verdict() {
        Verdict::Trusted => {
            lines.push(format!("  {:<22}{}", "verdict", paint(style, GREEN, "yes, no rule was broken")))
        }
        Verdict::Void(reasons) => {
            lines.push(format!("  {:<22}{}", "verdict", paint(style, RED, "NO, the run is void")));
            lines.extend(reasons.into_iter().map(|reason| format!("    {reason}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_everything_that_people_look_for() {
        let outcomes = [Outcome { objective: "p99<1ms".into(), passed: false, measured: "11.000ms".into() }];
        let text = render(&crate::report::sample(), &outcomes, Style { columns: 100, colour: false });
        for expected in [
            "Total requests:                2,010",
            "Success rate:                99.00 %",
            "of 200.0/s offered",
            "Average",
            "Median",
            "P99.9",
            "503",
            "no answer in time",
            "such as: no answer within 30 s",
            "tail - median",
            "sender lag",
            "yes, no rule was broken",
            "MISSED, measured 11.000ms",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_server_that_fell_behind_is_said() {
        let mut behind = crate::report::sample();
        (behind.late.answers, behind.answered_ns) = (1_000, 20_000_000_000);
        let text = render(&behind, &[], Style { columns: 100, colour: false });
        assert!(
            text.contains("100.0 answered/s of 200.0/s offered") && text.contains("1,000   the server fell"),
            "{text}"
        );
    }

    #[test]
    fn nothing_answered_is_said_and_no_number_is_made_up() {
        let text = render(&Summary::default(), &[], Style { columns: 100, colour: false });
        assert!(text.contains("nothing was answered") && !text.contains("P99"), "{text}");
        assert!(render(&Summary::default(), &[], Style { columns: 100, colour: true }).contains('\x1b'));
    }
}
