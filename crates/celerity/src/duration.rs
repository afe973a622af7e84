//! Durations as people write them on a command line: `30s`, `1m30s`, `250ms`.

use std::time::Duration;

/// Reads one or more pairs of number and unit (`h`, `m`, `s`, `ms`, `us`), the same form as in Istio's YAML.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a duration: write a number and a unit, such as 30s, 5m or 250ms");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    let mut total_secs = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let seconds_in_unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            _ => return Err(refuse()),
        };
        total_secs += number.parse::<f64>().map_err(|_| refuse())? * seconds_in_unit;
        rest = after;
    }
    Duration::try_from_secs_f64(total_secs).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1.5h"), Ok(Duration::from_secs(5400)));
    }

    #[test]
    fn what_has_no_unit_is_refused_with_the_form_to_use() {
        for text in ["", "30", "s", "30 s", "-1s", "1x", "99999999999999999999999999h"] {
            assert!(parse(text).is_err_and(|error| error.contains("30s, 5m or 250ms")), "{text}");
        }
    }
}
