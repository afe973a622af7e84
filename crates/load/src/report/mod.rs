//! What a run's result looks like: text, progress, JSON, CSV, HdrHistogram's text, and a page.
//!
//! Every function here is pure: a summary in, text out. Who calls writes it, see [`files`].

pub mod ab_page;
pub mod capacity_page;
mod charts;
pub mod csv;
pub mod files;
pub mod hdr;
pub mod html;
pub mod json;
pub mod progress;
pub mod text;

pub use crate::explain::Style;
pub use files::Outputs;

/// The quantiles of every table, with their names.
pub(crate) const QUANTILES: [(&str, f64); 6] =
    [("Median", 0.5), ("P75", 0.75), ("P90", 0.9), ("P95", 0.95), ("P99", 0.99), ("P99.9", 0.999)];

/// Nanoseconds as milliseconds, with as many decimals as still mean something.
pub(crate) fn millis(ns: f64) -> String {
    match ns / 1e6 {
        ms if ms.abs() < 10.0 => format!("{ms:.3} ms"),
        ms if ms.abs() < 100.0 => format!("{ms:.2} ms"),
        ms if ms.abs() < 10_000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}

/// `97.31 %`, or `-` of nothing. Never rounded up to 100 while something is missing, nor down to 0 while something is there.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "-".to_owned();
    }
    let share = (part / whole * 10_000.0).round() / 100.0;
    let share = if part < whole { share.min(99.99) } else { share };
    format!("{:.2} %", if part > 0.0 { share.max(0.01) } else { share })
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in powers of 1024.
pub(crate) fn bytes(count: f64) -> String {
    let units = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    match units.into_iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.2} {unit}", count / size),
        None => format!("{count:.0} B"),
    }
}

/// A summary to test reports with: two thousand answers over ten seconds, some errors, a ledger.
#[cfg(test)]
pub(crate) fn sample() -> crate::Summary {
    use crate::summary::{ErrorKind, LedgerSample, LedgerTotals};
    let mut s = crate::Summary {
        duration_ns: 10_000_000_000,
        intended: 2_010,
        sent: 2_005,
        succeeded: 1_990,
        ..Default::default()
    };
    s.about.target = "http://user-service/api/users?a=<b>".into();
    s.about.protocol = "http/1.1".into();
    s.about.load = "open loop, 200/s poisson for 10 s".into();
    s.about.open_loop = true;
    s.about.offered_per_second = Some(200.0);
    (s.about.connections, s.about.threads, s.about.streams_per_connection, s.about.seed) = (8, 2, 1, 7);
    s.failed_answers = 10;
    s.errors.insert(ErrorKind::Timeout, 5);
    s.errors.insert(ErrorKind::Unsent, 5);
    s.error_examples.insert(ErrorKind::Timeout, "no answer within 30 s".into());
    s.statuses.insert(200, 1_990);
    s.statuses.insert(503, 10);
    s.body_bytes_received = 2_000_000;
    s.bytes_received = 2_400_000;
    let mut ledger = LedgerTotals::default();
    for n in 0..2_000_u64 {
        let response_ns = 1_000_000 + n * 5_000 + if n % 100 == 0 { 40_000_000 } else { 0 };
        s.response.record(response_ns);
        s.service.record(response_ns / 2);
        s.lag.record(10_000);
        s.timeline.latency(n * 5_000_000, response_ns);
        let bin = s.timeline.at(n * 5_000_000);
        bin.intended += 1;
        bin.sent += 1;
        bin.succeeded += 1;
        let categories_us = [100, 20, 5, 10, 0, 700 + n as u32, 1];
        ledger.samples.push(LedgerSample { response_us: (response_ns / 1_000) as u32, categories_us });
        ledger.responses += 1;
        ledger.response_ns += response_ns;
        for (sum, us) in ledger.categories_ns.iter_mut().zip(categories_us) {
            *sum += u64::from(us) * 1_000;
        }
    }
    s.connect.record(200_000);
    s.ledger = Some(ledger);
    s.audit.cpu_share_max = 0.2;
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_what_they_mean() {
        assert_eq!(percent(999_999.0, 1_000_000.0), "99.99 %");
        assert_eq!(percent(1.0, 1e9), "0.01 %");
        assert_eq!(percent(0.0, 0.0), "-");
        assert_eq!([grouped(7), grouped(1_234), grouped(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([millis(1_234.0), millis(45.6e6), millis(12.5e9)], ["0.001 ms", "45.60 ms", "12.50 s"]);
        assert_eq!([bytes(512.0), bytes(2048.0)], ["512 B", "2.00 KiB"]);
    }
}
