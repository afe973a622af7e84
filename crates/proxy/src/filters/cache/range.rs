//! Ranges out of a complete stored response (RFC 9110, section 14).

use super::date;
use super::policy::is_strong;
use crate::http::{HeaderId, RequestHead, ResponseHead};

/// What a Range header asks of a representation of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// Answer with the whole: no range, one that is not understood, or several. A server may ignore Range.
    Whole,
    /// First byte, and the one behind the last.
    Part {
        start: usize,
        end: usize,
    },
    Unsatisfiable,
}

/// The range of a GET, if its If-Range (section 13.1.5) still names this representation.
pub(super) fn requested(request: &RequestHead, stored: &ResponseHead, len: usize, now_s: u64) -> Range {
    let mut values = request.headers.all_id(HeaderId::Range);
    let (Some(value), None) = (values.next(), values.next()) else { return Range::Whole };
    if let Some(condition) = request.headers.get_id(HeaderId::IfRange) {
        let same = if is_strong(condition) {
            stored.headers.get_id(HeaderId::Etag) == Some(condition)
        } else {
            // A date is compared exactly, and is only strong where Date is a minute later or so (section 8.8.2.2).
            let changed = stored.headers.get_id(HeaderId::LastModified);
            let parsed = |value: Option<&[u8]>| value.and_then(|value| date::parse(value, now_s));
            let date_s = parsed(stored.headers.get_id(HeaderId::Date)).unwrap_or(0);
            parsed(changed).is_some_and(|changed_s| date_s >= changed_s.saturating_add(60))
                && changed == Some(condition)
        };
        if !same {
            return Range::Whole;
        }
    }
    parse(value, len)
}

fn parse(value: &[u8], len: usize) -> Range {
    let Some(spec) = value.get(..6).filter(|unit| unit.eq_ignore_ascii_case(b"bytes=")).and(value.get(6..)) else {
        return Range::Whole;
    };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Range::Whole };
    let (first, last) = (spec[..dash].trim_ascii(), spec[dash + 1..].trim_ascii());
    match (number(first), number(last)) {
        (Some(start), _) if last.is_empty() => part(start, len, len),
        (Some(start), Some(last)) if last >= start => part(start, last.saturating_add(1).min(len), len),
        (None, Some(suffix)) if first.is_empty() => match suffix {
            0 => Range::Unsatisfiable,
            suffix => part(len.saturating_sub(suffix), len, len),
        },
        _ => Range::Whole,
    }
}

fn part(start: usize, end: usize, len: usize) -> Range {
    if start < len { Range::Part { start, end } } else { Range::Unsatisfiable }
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_read() {
        for (value, expected) in [
            ("bytes=0-4", Range::Part { start: 0, end: 5 }),
            ("bytes=5-", Range::Part { start: 5, end: 10 }),
            ("bytes=-3", Range::Part { start: 7, end: 10 }),
            ("bytes=-30", Range::Part { start: 0, end: 10 }),
            ("bytes=8-99999999999999999999999", Range::Part { start: 8, end: 10 }),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=4-2", Range::Whole),
            ("bytes=-", Range::Whole),
            ("lines=0-4", Range::Whole),
            ("bytes", Range::Whole),
        ] {
            assert_eq!(parse(value.as_bytes(), 10), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within(value in "bytes=[0-9]{0,25}-[0-9]{0,25}", len in 0_usize..1_000) {
            if let Range::Part { start, end } = parse(value.as_bytes(), len) {
                prop_assert!(start < end && end <= len);
            }
        }
    }
}
