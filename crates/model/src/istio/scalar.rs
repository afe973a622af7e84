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

/// Reads a CPU quantity of Kubernetes (`100m`, `0.5`, `2`) as thousandths of a core; what is finer is rounded up, as there.
///
/// # Errors
/// When the text is not one; the message says what would be right.
pub fn cpu_millicores(text: &str) -> Result<u64, &'static str> {
    const SYNTAX: &str = "write CPU as cores or thousandths of a core, such as 2, 0.5 or 500m";
    let finer = [("m", 1), ("u", 1_000), ("n", 1_000_000)];
    let millicores = match finer.into_iter().find_map(|(unit, parts)| Some((text.strip_suffix(unit)?, parts))) {
        Some((number, parts)) if !number.contains('.') => decimal_times(number, 1).map(|n| n.div_ceil(parts)),
        Some(_) => None,
        None => decimal_times(text, 1_000),
    };
    millicores.and_then(|n| u64::try_from(n).ok()).ok_or(SYNTAX)
}

/// Reads a memory quantity of Kubernetes (`128Mi`, `1Gi`, `500M`, `1048576`) as bytes.
///
/// # Errors
/// When the text is not one; the message says what would be right.
pub fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    const SYNTAX: &str = "write memory as bytes with or without a unit, such as 128Mi, 1Gi or 500M";
    let unit_start = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_start);
    let unit: u128 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        // A power of ten (Kubernetes, apimachinery `resource.Quantity`: decimalExponent).
        power => {
            let digits = power.strip_prefix(['e', 'E']).ok_or(SYNTAX)?;
            let power = digits.strip_prefix('+').unwrap_or(digits);
            let known = power.bytes().all(|byte| byte.is_ascii_digit()).then(|| power.parse().ok()).flatten();
            10u128.checked_pow(known.filter(|power| *power <= 18).ok_or(SYNTAX)?).ok_or(SYNTAX)?
        }
    };
    decimal_times(number, unit).and_then(|n| u64::try_from(n).ok()).ok_or(SYNTAX)
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
        assert_eq!(cpu_millicores("500m"), Ok(500));
        assert_eq!(cpu_millicores("0.25"), Ok(250));
        assert_eq!(cpu_millicores("2"), Ok(2_000));
        assert_eq!(memory_bytes("128Mi"), Ok(128 << 20));
        assert_eq!(memory_bytes("1.5Gi"), Ok(3 << 29));
        assert_eq!(memory_bytes("500M"), Ok(500_000_000));
        assert_eq!(memory_bytes("129e6"), Ok(129_000_000));
        assert_eq!(memory_bytes("1.5E+3"), Ok(1_500));
        assert_eq!(memory_bytes("1Pi"), Ok(1 << 50));
        assert_eq!((cpu_millicores("100u"), cpu_millicores("1500000n")), (Ok(1), Ok(2)));
        for text in ["1e", "1e-3", "1e99", "e6", "1ee6"] {
            assert!(memory_bytes(text).is_err(), "{text}");
        }
        for text in ["", "x", "1Xi", "-1", "m"] {
            assert!(cpu_millicores(text).is_err() && memory_bytes(text).is_err(), "{text}");
        }
    }
}
