//! Cache-Control (RFC 9111, section 5.2; RFC 5861 for the last two).

use crate::http::{HeaderId, Headers};

/// Delta-seconds above this are taken as this (RFC 9111, section 1.2.2): 68 years.
const DELTA_SECONDS_MAX: u64 = 1 << 31;

/// How much staleness a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaxStale {
    Any,
    Seconds(u64),
}

/// The directives of a request or of a response; those of the other kind stay at their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheControl {
    /// Whether the header was there at all: Pragma counts only where it was not.
    pub(super) present: bool,
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    /// `no-cache="a, b"`: fields that must not be served without revalidation.
    pub(super) no_cache_fields: Vec<Vec<u8>>,
    pub(super) private: bool,
    /// `private="a, b"`: fields that a shared cache must not store.
    pub(super) private_fields: Vec<Vec<u8>>,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age_s: Option<u64>,
    pub(super) s_maxage_s: Option<u64>,
    pub(super) min_fresh_s: Option<u64>,
    pub(super) max_stale: Option<MaxStale>,
    pub(super) stale_if_error_s: Option<u64>,
}

impl CacheControl {
    pub(super) fn of(headers: &Headers) -> Self {
        let mut control = Self::default();
        for value in headers.all_id(HeaderId::CacheControl) {
            control.present = true;
            for (name, argument) in Directives(value) {
                control.take(&name, argument);
            }
        }
        control
    }

    fn take(&mut self, name: &[u8], argument: Option<Vec<u8>>) {
        let argument = argument.as_deref();
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => fields_or_all(argument, &mut self.no_cache, &mut self.no_cache_fields),
            b"private" => fields_or_all(argument, &mut self.private, &mut self.private_fields),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => strictest(&mut self.max_age_s, argument),
            b"s-maxage" => strictest(&mut self.s_maxage_s, argument),
            b"min-fresh" => self.min_fresh_s = argument.and_then(delta_seconds),
            b"max-stale" => {
                self.max_stale = match argument {
                    None => Some(MaxStale::Any),
                    Some(seconds) => delta_seconds(seconds).map(MaxStale::Seconds),
                }
            }
            b"stale-if-error" => self.stale_if_error_s = argument.and_then(delta_seconds),
            // An unknown directive is ignored (section 5.2.3).
            _ => {}
        }
    }
}

fn fields_or_all(argument: Option<&[u8]>, all: &mut bool, fields: &mut Vec<Vec<u8>>) {
    let named = argument.unwrap_or_default().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let before = fields.len();
    fields.extend(named.filter(|name| !name.is_empty()).map(<[u8]>::to_ascii_lowercase));
    *all |= fields.len() == before;
}

/// A lifetime that is no number, or given twice with two values, makes the response stale (section 4.2.1).
fn strictest(slot: &mut Option<u64>, argument: Option<&[u8]>) {
    let seconds = argument.and_then(delta_seconds).unwrap_or(0);
    *slot = Some(match *slot {
        Some(earlier) if earlier != seconds => 0,
        _ => seconds,
    });
}

/// Digits only; more of them than fit mean the maximum.
pub(super) fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum: u64, digit| (sum * 10 + u64::from(digit - b'0')).min(DELTA_SECONDS_MAX)))
}

/// The directives of one header value: names in lower case, arguments without their quotes.
struct Directives<'a>(&'a [u8]);

impl Iterator for Directives<'_> {
    type Item = (Vec<u8>, Option<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.0 = self.0.trim_ascii_start();
            let end = self.0.iter().position(|byte| matches!(byte, b',' | b'=')).unwrap_or(self.0.len());
            let (name, rest) = self.0.split_at(end);
            let name = name.trim_ascii().to_ascii_lowercase();
            match rest.split_first() {
                None => {
                    self.0 = rest;
                    return (!name.is_empty()).then_some((name, None));
                }
                Some((b',', rest)) => {
                    self.0 = rest;
                    if !name.is_empty() {
                        return Some((name, None));
                    }
                }
                Some((_, rest)) => {
                    let (argument, rest) = argument(rest);
                    self.0 = rest;
                    if !name.is_empty() {
                        return Some((name, Some(argument)));
                    }
                }
            }
        }
    }
}

/// A token or quoted string up to the next comma outside quotes, and what follows that comma.
fn argument(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut out = Vec::new();
    let mut quoted = false;
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => out.extend(bytes.next().map(|(_, escaped)| *escaped)),
            b',' if !quoted => return (out.trim_ascii().to_vec(), text.get(at + 1..).unwrap_or_default()),
            other => out.push(other),
        }
    }
    (out.trim_ascii().to_vec(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn control(values: &[&str]) -> CacheControl {
        let mut headers = Headers::new();
        for value in values {
            headers.push(b"Cache-Control", value.as_bytes());
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn directives_are_read_over_several_lines_in_any_case() {
        let read = control(&["Public, MAX-AGE=60", "must-revalidate , s-maxage=\"5\",,unknown=\"a,b\""]);
        assert!(read.public && read.must_revalidate && read.present);
        assert_eq!((read.max_age_s, read.s_maxage_s), (Some(60), Some(5)));
        assert!(!control(&[]).present);
    }

    #[test]
    fn field_lists_name_fields_and_bare_directives_mean_all() {
        let read = control(&["private=\"Set-Cookie, X-A\", no-cache"]);
        assert!(!read.private && read.no_cache);
        assert_eq!(read.private_fields, [b"set-cookie".to_vec(), b"x-a".to_vec()]);
        assert!(control(&["no-cache=\"\""]).no_cache);
    }

    #[test]
    fn a_broken_or_contradictory_lifetime_is_none() {
        for value in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=a", "max-age=1, max-age=2"] {
            assert_eq!(control(&[value]).max_age_s, Some(0), "{value}");
        }
        assert_eq!(control(&["max-age=7, max-age=7"]).max_age_s, Some(7));
        assert_eq!(control(&["max-age=99999999999999999999999"]).max_age_s, Some(DELTA_SECONDS_MAX));
    }

    #[test]
    fn request_directives_are_read() {
        let read = control(&["max-stale, min-fresh=3, only-if-cached, no-store"]);
        assert_eq!((read.max_stale, read.min_fresh_s), (Some(MaxStale::Any), Some(3)));
        assert!(read.only_if_cached && read.no_store);
        assert_eq!(control(&["max-stale=9"]).max_stale, Some(MaxStale::Seconds(9)));
        assert_eq!(control(&["max-stale=x"]).max_stale, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut headers = Headers::new();
            headers.push(b"cache-control", &value);
            let _ = CacheControl::of(&headers);
        }
    }
}
