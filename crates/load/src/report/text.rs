//! The closing report in a terminal.

use std::fmt::Write;

use celerity_telemetry::Category;

use crate::audit::Verdict;
use crate::histogram::Histogram;
use crate::slo::Outcome;
use crate::summary::{LedgerTotals, Summary};

/// Messages of errors are cut here: one line each.
const EXAMPLE_CHARS_MAX: usize = 100;

/// The whole report, ending in a line break. Pure.
pub fn text(summary: &Summary, objectives: &[Outcome]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, summary, objectives);
    out
}

fn write(out: &mut String, s: &Summary, objectives: &[Outcome]) -> std::fmt::Result {
    let about = &s.about;
    writeln!(out, "{}", about.target)?;
    let more = if about.targets > 1 { format!(" and {} more requests", about.targets - 1) } else { String::new() };
    if !more.is_empty() {
        writeln!(out, "{}", more.trim_start())?;
    }
    writeln!(
        out,
        "{}; {}, {} {}, {} {}, seed {}",
        about.load,
        about.protocol,
        about.connections,
        plural(u64::from(about.connections), "connection", "connections"),
        about.threads,
        plural(u64::from(about.threads), "thread", "threads"),
        about.seed
    )?;
    if about.interrupted {
        writeln!(out, "stopped before its end: what follows is the part that was run")?;
    }
    writeln!(out)?;
    writeln!(out, "Total requests:       {}", thousands(s.total()))?;
    writeln!(out, "Successful requests:  {}", thousands(s.succeeded))?;
    writeln!(out, "Failed requests:      {}", thousands(s.failed()))?;
    writeln!(out, "Success rate:         {}", percent(s.success_share(), s.failed() == 0))?;
    let offered = about.offered_per_second.map_or(String::new(), |rate| {
        format!(
            "  (offered {}/s, sent in time {})",
            thousands(rate.round() as u64),
            percent(s.achieved_share(), s.achieved_share() >= 1.0)
        )
    });
    writeln!(
        out,
        "Rate:                 {:.1} answers/s over {:.1} s{offered}",
        s.answered_per_second(),
        s.duration_ns as f64 / 1e9
    )?;
    writeln!(
        out,
        "Bytes:                received {} ({}/s), sent {}",
        bytes(s.bytes_received),
        bytes((s.bytes_received as f64 * 1e9 / s.duration_ns.max(1) as f64) as u64),
        bytes(s.bytes_sent)
    )?;
    latencies(out, s)?;
    kinds(out, s)?;
    if let Some(ledger) = s.ledger.as_ref().filter(|l| l.responses > 0) {
        ledger_rows(out, ledger)?;
    }
    if !s.tally.is_empty() {
        let rows: Vec<String> = s.tally.iter().map(|(name, &count)| format!("{name} {}", thousands(count))).collect();
        writeln!(out, "Answered by:          {}", rows.join(", "))?;
    }
    for outcome in objectives {
        let word = if outcome.passed { "holds" } else { "FAILED" };
        writeln!(out, "Objective:            {} {word}: {}", outcome.objective, outcome.measured)?;
    }
    trust(out, s)
}

fn latencies(out: &mut String, s: &Summary) -> std::fmt::Result {
    let rows: [(&str, &Histogram); 6] = [
        ("response", &s.response),
        ("service", &s.service),
        ("unanswered", &s.unanswered),
        ("sender lag", &s.lag),
        ("TCP connect", &s.connect),
        ("TLS handshake", &s.tls),
    ];
    writeln!(out)?;
    writeln!(
        out,
        "{:<14}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
        "Latency, ms", "Average", "Median", "P90", "P95", "P99", "P99.9", "Max"
    )?;
    for (name, histogram) in rows {
        if histogram.is_empty() {
            continue;
        }
        write!(out, "{name:<14}{:>11}", ms(histogram.mean_ns()))?;
        for q in [0.5, 0.9, 0.95, 0.99, 0.999] {
            write!(out, "{:>11}", ms(histogram.quantile_ns(q) as f64))?;
        }
        writeln!(out, "{:>11}", ms(histogram.max_ns() as f64))?;
    }
    if s.about.open_loop {
        writeln!(out, "response counts from the intended send time, service from the real one")?;
    } else {
        writeln!(
            out,
            "closed loop: a stall holds back the requests that would have seen it; use --rate for what users would see"
        )?;
    }
    writeln!(out)
}

fn kinds(out: &mut String, s: &Summary) -> std::fmt::Result {
    if !s.statuses.is_empty() {
        let rows: Vec<String> =
            s.statuses.iter().map(|(status, &count)| format!("{status}: {}", thousands(count))).collect();
        writeln!(out, "Status:               {}", rows.join(", "))?;
    }
    if !s.grpc_statuses.is_empty() {
        let rows: Vec<String> =
            s.grpc_statuses.iter().map(|(status, &count)| format!("{status}: {}", thousands(count))).collect();
        writeln!(out, "gRPC status:          {}", rows.join(", "))?;
    }
    for (kind, &count) in &s.errors {
        let example = s.error_examples.get(kind).map_or(String::new(), |text| {
            let cut: String = text.chars().filter(|c| !c.is_control()).take(EXAMPLE_CHARS_MAX).collect();
            format!(" ({cut})")
        });
        writeln!(out, "Error:                {}: {}{example}", kind.as_str(), thousands(count))?;
    }
    Ok(())
}

/// The mesh's own account: means of all, of the middle and of the tail, in milliseconds.
fn ledger_rows(out: &mut String, ledger: &LedgerTotals) -> std::fmt::Result {
    let (all, middle, tail) = (ledger.means(), ledger.cohort(0.45, 0.55), ledger.cohort(0.985, 0.995));
    writeln!(out)?;
    writeln!(out, "{:<14}{:>11}{:>11}{:>11}", "Ledger, ms", "Average", "Middle", "Tail")?;
    for (place, category) in Category::ALL.iter().enumerate() {
        let value = |m: &[f64]| m.get(place).map_or(String::new(), |us| ms(us * 1e3));
        writeln!(
            out,
            "{:<14}{:>11}{:>11}{:>11}",
            category.as_str(),
            value(&all.categories_us),
            value(&middle.categories_us),
            value(&tail.categories_us)
        )?;
    }
    let outside = [all, middle, tail].map(|m| ms(m.outside_us() * 1e3));
    writeln!(out, "{:<14}{:>11}{:>11}{:>11}", "client", outside[0], outside[1], outside[2])?;
    writeln!(
        out,
        "middle: requests from p45 to p55; tail: from p98.5 to p99.5; {} answers carried a ledger",
        thousands(ledger.responses)
    )?;
    writeln!(out)
}

fn trust(out: &mut String, s: &Summary) -> std::fmt::Result {
    let audit = &s.audit;
    let lag = if s.lag.is_empty() {
        String::new()
    } else {
        format!("sender lag p99 {} ms, ", ms(s.lag.quantile_ns(0.99) as f64))
    };
    let facts = format!(
        "{lag}busiest sender thread {:.0} % of a CPU, {} connections opened",
        audit.cpu_share_max * 100.0,
        thousands(audit.connections_opened)
    );
    match s.verdict() {
        Verdict::Trusted => writeln!(out, "Trust:                the run can be trusted ({facts})")?,
        Verdict::Void(reasons) => {
            writeln!(out, "Trust:                VOID ({facts})")?;
            for reason in reasons {
                writeln!(out, "                      {reason}")?;
            }
        }
    }
    for caution in s.cautions() {
        writeln!(out, "Caution:              {caution}")?;
    }
    Ok(())
}

fn ms(ns: f64) -> String {
    let ms = ns / 1e6;
    if ms >= 100.0 { format!("{ms:.1}") } else { format!("{ms:.3}") }
}

/// Never rounds a failure away.
fn percent(share: f64, whole: bool) -> String {
    let shown = share * 100.0;
    if whole {
        "100.00%".to_owned()
    } else if shown > 99.99 {
        "99.99%".to_owned()
    } else {
        format!("{shown:.2}%")
    }
}

fn plural<'a>(count: u64, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::ErrorKind;

    #[test]
    fn the_report_says_what_the_tutorials_tester_says_and_more() {
        let mut s = Summary { duration_ns: 10_000_000_000, intended: 10_001, succeeded: 10_000, ..Summary::default() };
        s.about.target = "http://127.0.0.1:1/".into();
        s.about.open_loop = true;
        s.response.record_n(2_000_000, 10_000);
        s.service.record_n(1_500_000, 10_000);
        s.lag.record_n(10_000, 10_000);
        s.statuses.insert(200, 10_000);
        s.errors.insert(ErrorKind::Timeout, 1);
        s.error_examples.insert(ErrorKind::Timeout, "no whole answer in 30 s".into());
        let text = text(&s, &[Outcome { objective: "p99<50ms".into(), passed: true, measured: "2ms".into() }]);
        for part in [
            "Total requests:       10,001",
            "Successful requests:  10,000",
            "Failed requests:      1",
            "Success rate:         99.99%",
            "Average",
            "Median",
            "P95",
            "P99",
            "Max",
            "response            2.0",
            "service             1.5",
            "200: 10,000",
            "no answer in time: 1 (no whole answer in 30 s)",
            "p99<50ms holds",
            "can be trusted",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
    }

    #[test]
    fn numbers_are_readable_and_do_not_round_failures_away() {
        assert_eq!((thousands(1_234_567).as_str(), thousands(12).as_str()), ("1,234,567", "12"));
        assert_eq!((bytes(999).as_str(), bytes(1_500_000).as_str()), ("999 B", "1.5 MB"));
        assert_eq!(percent(0.999_999, false), "99.99%");
    }
}
