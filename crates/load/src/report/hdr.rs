//! HdrHistogram's percentile text, as its own tools write it (`outputPercentileDistribution`, five ticks to each halving of
//! the rest): what its plotters read. Values are response times in milliseconds.

use std::fmt::Write;

use crate::Histogram;

const TICKS_PER_HALF: u32 = 5;

pub fn render(histogram: &Histogram) -> String {
    // Writing to a String cannot fail, here and below.
    let mut out = String::new();
    let _ = writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for value in histogram.hdr().iter_quantiles(TICKS_PER_HALF) {
        total += value.count_since_last_iteration();
        let (ms, quantile) = (value.value_iterated_to() as f64 / 1e6, value.quantile());
        let _ = if quantile < 1.0 {
            writeln!(out, "{ms:>12.3} {quantile:>14.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(out, "{ms:>12.3} {quantile:>14.12} {total:>10}")
        };
    }
    let (mean, deviation) = (histogram.mean_ns() / 1e6, histogram.stdev_ns() / 1e6);
    let _ = writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {:>12}]",
        histogram.max_ns() as f64 / 1e6,
        histogram.count()
    );
    // As HdrHistogram has it: the power of two that keeps so many significant digits apart.
    let sub_buckets = (2 * 10_u32.pow(u32::from(histogram.hdr().sigfig()))).next_power_of_two();
    let _ = writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.hdr().buckets());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_ends_with_every_value_counted() {
        let text = render(&crate::report::sample().response);
        let rows: Vec<&str> = text.lines().skip(2).filter(|line| !line.starts_with('#')).collect();
        let last: Vec<&str> = rows.last().expect("rows").split_whitespace().collect();
        assert_eq!((last[1], last[2], last.len()), ("1.000000000000", "2000", 3));
        let values: Vec<f64> = rows.iter().filter_map(|row| row.split_whitespace().next()?.parse().ok()).collect();
        assert!(values.is_sorted() && values.len() == rows.len());
        assert!(text.contains("Total count    =         2000") && text.contains("SubBuckets     =         2048]"));
        assert!(render(&Histogram::new()).contains("Total count    =            0"));
    }
}
