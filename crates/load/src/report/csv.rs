//! The run over time as CSV: a line for each bin of time.

use std::fmt::Write;

use crate::Summary;
use crate::timeline::{Bin, row_floor_us};

/// The first line.
pub const HEADER: &str =
    "start_s,end_s,intended,sent,succeeded,failed,bytes_received,answered_per_s,p50_ms,p95_ms,p99_ms,max_ms";

/// Sends count where they were made, ends where they came, latencies at their intended time. Latencies of a bin are known to
/// a fifth (rows of a quarter of an octave, evened out within); where nothing was answered their fields are empty.
pub fn render(summary: &Summary) -> String {
    let mut out = format!("{HEADER}\n");
    let bin_s = summary.timeline.bin_ns as f64 / 1e9;
    for (at, bin) in summary.timeline.bins.iter().enumerate() {
        let (start_s, end_s) = (at as f64 * bin_s, (at + 1) as f64 * bin_s);
        let Bin { intended, sent, succeeded, failed, bytes_received, .. } = bin;
        let rate = succeeded_per_second(bin, summary.timeline.bin_ns);
        // Writing to a String cannot fail.
        let _ =
            write!(out, "{start_s:.3},{end_s:.3},{intended},{sent},{succeeded},{failed},{bytes_received},{rate:.3}");
        for q in [0.5, 0.95, 0.99, 1.0] {
            let _ = match quantile_ms(&bin.rows, q) {
                Some(ms) => write!(out, ",{ms:.4}"),
                None => write!(out, ","),
            };
        }
        out.push('\n');
    }
    out
}

pub(crate) fn succeeded_per_second(bin: &Bin, bin_ns: u64) -> f64 {
    bin.succeeded as f64 / (bin_ns.max(1) as f64 / 1e9)
}

/// A quantile of counts by row, evened out within the row.
pub(crate) fn quantile_ms(rows: &[u32], q: f64) -> Option<f64> {
    let total: u64 = rows.iter().map(|&count| u64::from(count)).sum();
    let rank = ((q * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    for (row, &count) in rows.iter().enumerate() {
        let count = u64::from(count);
        if count > 0 && seen + count >= rank {
            let within = (rank - seen) as f64 / count as f64;
            let (low, high) = (row_floor_us(row), row_floor_us(row + 1));
            return Some((low + (high - low) * within) / 1e3);
        }
        seen += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bin_is_a_line_of_as_many_fields_as_the_header() {
        let summary = crate::report::sample();
        let text = render(&summary);
        let fields = HEADER.split(',').count();
        assert!(text.lines().all(|line| line.split(',').count() == fields));
        assert_eq!(text.lines().count(), summary.timeline.bins.len() + 1);
        let sent: u64 = text.lines().skip(1).filter_map(|line| line.split(',').nth(3)?.parse::<u64>().ok()).sum();
        assert_eq!(sent, 2_000);
    }
}
