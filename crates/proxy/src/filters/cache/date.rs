//! HTTP dates (RFC 9110, section 5.6.7) as seconds since 1970, UTC.

/// A date in any of the three forms that a recipient must accept. `None` for anything else: a cache then takes the
/// field as absent or, for Expires, as passed. `now_s` decides the century of the two-digit year of RFC 850.
pub(super) fn parse(value: &[u8], now_s: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let (weekday, rest) = text.split_once(' ')?;
    if let Some(weekday) = weekday.strip_suffix(',') {
        if weekday.len() == 3 { imf_fixdate(weekday, rest) } else { rfc850(weekday, rest, now_s) }
    } else {
        asctime(weekday, rest)
    }
}

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(weekday: &str, rest: &str) -> Option<u64> {
    let mut parts = rest.split(' ');
    let (day, month, year) = (digits(parts.next()?, 2)?, month(parts.next()?)?, digits(parts.next()?, 4)?);
    let of_day = time_of_day(parts.next()?)?;
    let zone = parts.next()?;
    if !is_weekday_short(weekday) || zone != "GMT" || parts.next().is_some() {
        return None;
    }
    seconds(year, month, day, of_day)
}

/// `06-Nov-94 08:49:37 GMT`
fn rfc850(weekday: &str, rest: &str, now_s: u64) -> Option<u64> {
    let mut parts = rest.split(' ');
    let mut date = parts.next()?.split('-');
    let (day, month, short) = (digits(date.next()?, 2)?, month(date.next()?)?, digits(date.next()?, 2)?);
    let of_day = time_of_day(parts.next()?)?;
    let zone = parts.next()?;
    if !WEEKDAYS.contains(&weekday) || zone != "GMT" || parts.next().is_some() || date.next().is_some() {
        return None;
    }
    // More than 50 years ahead means the most recent past year with those digits.
    let this_year = civil(now_s / 86_400).0;
    let mut year = this_year - this_year % 100 + short;
    if year > this_year + 50 {
        year -= 100;
    }
    seconds(year, month, day, of_day)
}

/// `Nov  6 08:49:37 1994`
fn asctime(weekday: &str, rest: &str) -> Option<u64> {
    if !is_weekday_short(weekday) || rest.len() != 20 {
        return None;
    }
    let month = month(rest.get(..3)?)?;
    let day = digits(rest.get(3..6)?.trim_start_matches(' '), 1).or_else(|| digits(rest.get(4..6)?, 2))?;
    let of_day = time_of_day(rest.get(7..15)?)?;
    let year = digits(rest.get(16..20)?, 4)?;
    if !rest.get(6..7)?.starts_with(' ') || !rest.get(15..16)?.starts_with(' ') {
        return None;
    }
    seconds(year, month, day, of_day)
}

fn is_weekday_short(text: &str) -> bool {
    WEEKDAYS.iter().any(|day| day.get(..3) == Some(text))
}

fn month(text: &str) -> Option<u64> {
    MONTHS.iter().position(|month| *month == text).map(|at| at as u64 + 1)
}

fn digits(text: &str, count: usize) -> Option<u64> {
    if text.len() != count || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn time_of_day(text: &str) -> Option<u64> {
    let mut parts = text.split(':');
    let (hour, minute, second) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    // A leap second is written as 60.
    (hour < 24 && minute < 60 && second <= 60 && parts.next().is_none()).then_some(hour * 3_600 + minute * 60 + second)
}

fn seconds(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    if year < 1970 {
        // Long past is all that a cache needs to know, and zero says it.
        return Some(0);
    }
    if day == 0 || day > days_of(month, year) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + of_day)
}

fn days_of(month: u64, year: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years are counted from March, so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let march_month = (month + 9) % 12;
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    let (era, of_era) = (year / 400, year % 400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// The IMF-fixdate form, as every sender must write it. Times beyond the year 9999 are written as its end.
pub(super) fn format(unix_s: u64) -> String {
    let unix_s = unix_s.min(253_402_300_799);
    let (days, of_day) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    // 1970-01-01 was a Thursday.
    let weekday = WEEKDAYS[((days + 3) % 7) as usize];
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        &weekday[..3],
        MONTHS[(month - 1) as usize % 12],
        of_day / 3_600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn the_three_forms_of_the_specification_are_one_instant() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(784_111_777), "{text}");
        }
        assert_eq!(parse(b"Sunday, 06-Nov-30 08:49:37 GMT", NOW), parse(b"Sun, 06 Nov 2030 08:49:37 GMT", NOW));
        assert_eq!(parse(b"Sun Nov 16 08:49:37 1994", NOW), Some(784_111_777 + 864_000));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "0",
            "",
            "-1",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 EST",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 31 Feb 2024 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(unix_s in 0_u64..253_402_300_800) {
            prop_assert_eq!(parse(format(unix_s).as_bytes(), NOW), Some(unix_s));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = parse(text.as_bytes(), NOW);
        }
    }
}
