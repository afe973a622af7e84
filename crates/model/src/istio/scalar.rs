//! Texts that stand for durations and quantities.

use std::time::Duration;

/// A duration as Prometheus writes it: `5m`, `1h30m`, `2d`, `500ms`; units y, w, d, h, m, s, ms, largest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PromDuration(pub Duration);

/// Reads a duration as Istio does (Go's `time.ParseDuration`): `30ms`, `1.5s`, `1h30m`.
///
/// # Errors
/// When the text is not one, or is negative; the message says what would be right.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const SYNTAX: &str = "write a duration with its unit, such as 30ms, 1.5s or 1h30m";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err("a duration cannot be negative");
    }
    if rest.is_empty() {
        return Err(SYNTAX);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(SYNTAX)?;
        let (number, tail) = rest.split_at(digits_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(SYNTAX),
        };
        nanos = nanos.checked_add(decimal_times(number, unit_nanos).ok_or(SYNTAX)?).ok_or(SYNTAX)?;
        rest = tail;
    }
    // Go's durations end at 2^63-1 ns (292 years).
    let nanos = u64::try_from(nanos).ok().filter(|n| *n <= i64::MAX as u64);
    nanos.map(Duration::from_nanos).ok_or("a duration is at most 292 years")
}

/// `12.5` times `unit`, in whole units below; `None` when the text is no decimal number.
fn decimal_times(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 20 || fraction.contains('.') {
        return None;
    }
    // More digits than this are below a unit of anything that is read here.
    let fraction = fraction.get(..18.min(fraction.len()))?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let digits: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let result = whole.checked_mul(unit)?.checked_add(digits.checked_mul(unit)? / scale)?;
    Some(result)
}

/// Reads a Prometheus duration.
///
/// # Errors
/// When the text is not one; the message says what would be right.
pub fn prometheus_duration(text: &str) -> Result<Duration, &'static str> {
    const SYNTAX: &str = "write a Prometheus duration such as 5m, 1h30m, 2d or 500ms";
    const UNITS_MS: [(&str, u64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(SYNTAX);
    }
    let mut rest = text;
    let mut next_unit = 0;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or(SYNTAX)?;
        let (number, tail) = rest.split_at(digits_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let position = UNITS_MS.iter().position(|(name, _)| *name == unit).filter(|p| *p >= next_unit).ok_or(SYNTAX)?;
        let unit_ms = UNITS_MS.get(position).ok_or(SYNTAX)?.1;
        next_unit = position + 1;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).ok_or(SYNTAX)?;
        total_ms = total_ms.checked_add(part).ok_or(SYNTAX)?;
        rest = tail;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Reads a CPU quantity of Kubernetes (`100m`, `0.5`, `2`) as thousandths of a core.
///
/// # Errors
/// When the text is not one; the message says what would be right.
pub fn cpu_millicores(text: &str) -> Result<u64, &'static str> {
    quantity(text, 1_000).ok_or("write CPU as cores or thousandths of a core, such as 2, 0.5 or 500m")
}

/// Reads a memory quantity of Kubernetes (`128Mi`, `1Gi`, `500M`, `1048576`) as bytes.
///
/// # Errors
/// When the text is not one; the message says what would be right.
pub fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    quantity(text, 1).ok_or("write memory as bytes with or without a unit, such as 128Mi, 1Gi or 500M")
}

/// A quantity of Kubernetes (apimachinery, `resource.Quantity`) in `parts` of its unit; what is finer is rounded up, as there.
fn quantity(text: &str, parts: u128) -> Option<u64> {
    /// As in `1e18`: an exa.
    const POWER_MAX: i32 = 18;
    let unit_start = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: i32| {
        let factor = 10u128.checked_pow(power.unsigned_abs())?;
        Some(if power < 0 { (1, factor) } else { (factor, 1) })
    };
    let (times, by) = match unit {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        power => {
            let power = power.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            (-POWER_MAX..=POWER_MAX).contains(&power).then(|| decimal(power)).flatten()
        }
    }?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // More digits than this are below any part that is read here.
    let fraction = fraction.get(..9.min(fraction.len()))?;
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: u128 = [whole, fraction].concat().parse().ok()?;
    let by = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(by)?;
    u64::try_from(digits.checked_mul(times)?.checked_mul(parts)?.div_ceil(by)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("30ms", 30_000_000),
            ("1.5s", 1_500_000_000),
            ("1h30m", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("7200s", 7_200_000_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "30", "s", "1x", "-1s", "1..2s", "1.2.3s", ".s", "300000000000000000000h", "1s2", "5d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_as_prometheus_reads_them() {
        assert_eq!(prometheus_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(prometheus_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(prometheus_duration("0"), Ok(Duration::ZERO));
        for text in ["", "5", "30m1h", "1.5m", "m", "5m5m"] {
            assert!(prometheus_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities() {
        for (text, millicores) in [
            ("500m", 500),
            ("0.25", 250),
            ("2", 2_000),
            ("0.2505", 251),
            ("0.0001", 1),
            ("100u", 1),
            ("1500000n", 2),
            ("1e1", 10_000),
            (".5", 500),
        ] {
            assert_eq!(cpu_millicores(text), Ok(millicores), "{text}");
        }
        for (text, bytes) in [
            ("128Mi", 128 << 20),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
            ("1.5E+3", 1_500),
            ("1500e-3", 2),
            ("1Pi", 1 << 50),
            ("1E", 1_000_000_000_000_000_000),
            ("1Ei", 1 << 60),
        ] {
            assert_eq!(memory_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "1Xi", "-1", "m", "1e", "1e99", "e6", "1ee6", "1.2.3", ".", "99999999999999999999999Ei"] {
            assert!(cpu_millicores(text).is_err() && memory_bytes(text).is_err(), "{text}");
        }
    }
}
