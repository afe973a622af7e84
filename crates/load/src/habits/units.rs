//! Durations and sizes as these tools read and write them.

use std::time::Duration;

/// The longest duration that is taken: a year. It also keeps sums in nanoseconds from overflowing.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Go's durations: `1h2m3.5s`, `300ms`, `1.5us`; `0` needs no unit.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&at| at > 0)?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_len)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    if text.is_empty() || !total.is_finite() || total > DURATION_MAX.as_secs_f64() {
        return None;
    }
    Some(Duration::from_secs_f64(total))
}

/// wrk's durations: a number of seconds, or with `s`, `m` or `h` behind it.
pub fn parse_wrk_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let total = Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?);
    (total <= DURATION_MAX).then_some(total)
}

/// wrk's counts: a number, or with `k`, `M` or `G` behind it.
pub fn parse_wrk_count(text: &str) -> Option<u32> {
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))?;
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    u32::try_from(digits.parse::<u64>().ok()?.checked_mul(factor)?).ok()
}

/// Go's way to print a duration: `1m30.5s`, `12.345ms`, `850ns`, `0s`.
pub fn go_duration(ns: u64) -> String {
    let fraction = |value: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(ns, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(ns, 1_000_000)),
        _ => {
            const SECOND: u64 = 1_000_000_000;
            let (hours, minutes) = (ns / (3600 * SECOND), ns / (60 * SECOND) % 60);
            let seconds = fraction(ns % (60 * SECOND), SECOND);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}s"),
                (0, _) => format!("{minutes}m{seconds}s"),
                _ => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A value with the largest unit below it, two decimals: wrk's way. The unit's text and how many of the smaller one it is.
fn scaled(mut value: f64, base: &str, steps: &[(&str, f64)]) -> (String, usize) {
    let mut unit = base;
    for &(larger, factor) in steps {
        if value.abs() < factor {
            break;
        }
        value /= factor;
        unit = larger;
    }
    (format!("{value:.2}{unit}"), unit.len())
}

/// `1.62ms` from microseconds; also the length of the unit.
pub fn wrk_time(us: f64) -> (String, usize) {
    scaled(us, "us", &[("ms", 1000.0), ("s", 1000.0), ("m", 60.0), ("h", 60.0)])
}

/// `16.60k` from a plain number.
pub fn wrk_metric(value: f64) -> (String, usize) {
    scaled(value, "", &[("k", 1000.0), ("M", 1000.0), ("G", 1000.0)])
}

/// `3.91MB` from bytes.
pub fn wrk_bytes(bytes: f64) -> String {
    scaled(bytes, "B", &[("KB", 1024.0), ("MB", 1024.0), ("GB", 1024.0)]).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, ms) in [("30s", 30_000.0), ("1h2m3.5s", 3_723_500.0), ("0", 0.0), ("1.5ms", 1.5), ("250us", 0.25)] {
            assert_eq!(parse_go_duration(text).map(|d| d.as_secs_f64() * 1e3), Some(ms), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1s2", "99999999h"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
        assert_eq!(parse_wrk_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!((parse_wrk_duration("2d"), parse_wrk_duration("ms")), (None, None));
        assert_eq!((parse_wrk_count("4k"), parse_wrk_count("9G"), parse_wrk_count("k")), (Some(4000), None, None));
        for (ns, text) in [
            (0, "0s"),
            (850, "850ns"),
            (1_500, "1.5µs"),
            (12_345_678, "12.345678ms"),
            (10_094_965_987, "10.094965987s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(ns), text);
        }
    }

    #[test]
    fn sizes_as_wrk_has_them() {
        assert_eq!(wrk_time(1620.0).0, "1.62ms");
        assert_eq!(wrk_time(61_000_000.0).0, "1.02m");
        assert_eq!(wrk_metric(16_600.0).0, "16.60k");
        assert_eq!(wrk_bytes(4_100_000.0), "3.91MB");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ns in 0u64..1_000_000_000_000_000) {
            let read = parse_go_duration(&go_duration(ns)).map_or(0, |d| d.as_nanos() as u64);
            // Doubles hold 53 bits.
            prop_assert!(read.abs_diff(ns) <= ns / 1_000_000_000_000 + 1, "{} {}", ns, read);
        }

        #[test]
        fn any_text_is_survived(text: String) {
            let _ = (parse_go_duration(&text), parse_wrk_duration(&text), parse_wrk_count(&text));
        }
    }
}
