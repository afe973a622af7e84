//! The decisions of RFC 9111, pure: heads and a time in, a decision out.

use super::control::{CacheControl, MaxStale, delta_seconds};
use super::date;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead};

/// A heuristic lifetime is a tenth of the time since Last-Modified (RFC 9111, section 4.2.2), and a day at most: a file
/// untouched for ten years may still change tomorrow.
const HEURISTIC_SECONDS_MAX: u64 = 86_400;

/// Statuses that may be stored without explicit freshness (RFC 9110, section 15.1), but for 206, which is not stored.
fn is_heuristically_cacheable(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses whose caching rules are known here: what `must-understand` asks about (section 5.2.2.3).
fn is_understood(status: u16) -> bool {
    is_heuristically_cacheable(status) || matches!(status, 302 | 303 | 307 | 400 | 403 | 500 | 502 | 503 | 504)
}

/// When a response may be used, computed once when it is stored or freshened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// Its age when it came (section 4.2.3, `corrected_initial_age`).
    pub(super) initial_age_s: u64,
    pub(super) received_s: u64,
    pub(super) lifetime_s: u64,
    /// No use without asking the origin: `no-cache`.
    pub(super) always_revalidate: bool,
    /// No use once stale: `must-revalidate`, `proxy-revalidate`, `s-maxage`.
    pub(super) never_stale: bool,
    pub(super) stale_if_error_s: Option<u64>,
}

impl Freshness {
    /// `requested_s` and `received_s` are when the request went out and the response's head came.
    pub(super) fn of(response: &ResponseHead, requested_s: u64, received_s: u64) -> Self {
        let headers = &response.headers;
        let control = CacheControl::of(headers);
        let date_s = date_s(headers, received_s).unwrap_or(received_s);
        let delay_s = received_s.saturating_sub(requested_s);
        let apparent_s = received_s.saturating_sub(date_s);
        Self {
            initial_age_s: apparent_s.max(age_s(headers).saturating_add(delay_s)),
            received_s,
            lifetime_s: lifetime_s(response, &control, date_s, received_s),
            always_revalidate: control.no_cache
                || (!control.present && pragma_no_cache(headers) && !headers.contains_id(HeaderId::Expires)),
            never_stale: control.must_revalidate || control.proxy_revalidate || control.s_maxage_s.is_some(),
            stale_if_error_s: control.stale_if_error_s,
        }
    }

    /// Section 4.2.3, `current_age`.
    pub(super) fn age_s(&self, now_s: u64) -> u64 {
        self.initial_age_s.saturating_add(now_s.saturating_sub(self.received_s))
    }
}

/// What a stored response is good for, for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Serve it: it is fresh, or stale within what the request takes.
    Serve,
    /// Ask the origin first. `stale_on_error`: it may be served all the same where the origin fails (RFC 5861,
    /// section 4).
    Revalidate { stale_on_error: bool },
}

/// Sections 4.2, 4.2.4, 5.2.1 and 5.2.2.
pub(super) fn usable(request: &CacheControl, pragma_no_cache: bool, stored: &Freshness, now_s: u64) -> Use {
    let age_s = stored.age_s(now_s);
    let staleness_s = age_s.saturating_sub(stored.lifetime_s);
    let fresh = stored.lifetime_s > age_s;
    let error_window_s = request.stale_if_error_s.or(stored.stale_if_error_s);
    let stale_on_error = !stored.always_revalidate
        && !stored.never_stale
        && !request.no_cache
        && error_window_s.is_some_and(|window_s| staleness_s <= window_s);
    let revalidate = Use::Revalidate { stale_on_error };

    if stored.always_revalidate || request.no_cache || (pragma_no_cache && !request.present) {
        return revalidate;
    }
    let max_stale_s = match request.max_stale {
        Some(MaxStale::Any) => u64::MAX,
        Some(MaxStale::Seconds(seconds)) => seconds,
        None => 0,
    };
    if request.max_age_s.is_some_and(|max_age_s| age_s > max_age_s.saturating_add(max_stale_s)) {
        return revalidate;
    }
    if request.min_fresh_s.is_some_and(|min_fresh_s| stored.lifetime_s < age_s.saturating_add(min_fresh_s)) {
        return revalidate;
    }
    let stale_taken = !stored.never_stale && request.max_stale.is_some() && staleness_s <= max_stale_s;
    if fresh || stale_taken { Use::Serve } else { revalidate }
}

/// Whether the response may be stored (section 3). The caller has seen that the request is a GET.
pub(super) fn may_store(request: &RequestHead, response: &ResponseHead) -> bool {
    let status = response.status;
    if request.method != Method::Get || !(200..600).contains(&status) || status == 206 || status == 304 {
        return false;
    }
    if CacheControl::of(&request.headers).no_store {
        return false;
    }
    let control = CacheControl::of(&response.headers);
    let no_store = if control.must_understand { !is_understood(status) } else { control.no_store };
    if no_store || control.private || vary_any(&response.headers) {
        return false;
    }
    // Section 3.5: what was made for one user's credentials is shared only where the origin says so.
    let shared = control.must_revalidate || control.public || control.s_maxage_s.is_some();
    if request.headers.contains_id(HeaderId::Authorization) && !shared {
        return false;
    }
    control.public
        || control.max_age_s.is_some()
        || control.s_maxage_s.is_some()
        || response.headers.contains_id(HeaderId::Expires)
        || is_heuristically_cacheable(status)
}

/// Whether keeping it can ever serve anybody: it is fresh for a while, or can be revalidated, or may stand in for an
/// error.
pub(super) fn worth_storing(response: &ResponseHead, freshness: &Freshness) -> bool {
    let fresh = !freshness.always_revalidate && freshness.lifetime_s > freshness.initial_age_s;
    fresh
        || response.headers.contains_id(HeaderId::Etag)
        || response.headers.contains_id(HeaderId::LastModified)
        || freshness.stale_if_error_s.is_some()
}

/// Section 4.2.1: s-maxage, then max-age, then Expires, then a tenth of the time since the last change.
fn lifetime_s(response: &ResponseHead, control: &CacheControl, date_s: u64, now_s: u64) -> u64 {
    if let Some(seconds) = control.s_maxage_s.or(control.max_age_s) {
        return seconds;
    }
    let headers = &response.headers;
    if headers.contains_id(HeaderId::Expires) {
        // An Expires that is no date, or is given twice, has passed (section 5.3).
        let mut values = headers.all_id(HeaderId::Expires);
        return match (values.next(), values.next()) {
            (Some(value), None) => date::parse(value, now_s).unwrap_or(0).saturating_sub(date_s),
            _ => 0,
        };
    }
    if !is_heuristically_cacheable(response.status) && !control.public {
        return 0;
    }
    let changed_s = headers.get_id(HeaderId::LastModified).and_then(|value| date::parse(value, now_s));
    changed_s.map_or(0, |changed_s| (date_s.saturating_sub(changed_s) / 10).min(HEURISTIC_SECONDS_MAX))
}

fn date_s(headers: &Headers, now_s: u64) -> Option<u64> {
    headers.get_id(HeaderId::Date).and_then(|value| date::parse(value, now_s))
}

/// The Age that the response came with: the first of a list (section 5.1), the largest of several lines. One that is no
/// number makes the response as old as can be, though that section would ignore it: somebody stored the response, and
/// did not say when, and what is stale must not be served as fresh.
fn age_s(headers: &Headers) -> u64 {
    headers
        .all_id(HeaderId::Age)
        .map(|value| value.split(|byte| *byte == b',').next().unwrap_or_default())
        .map(|value| delta_seconds(value.trim_ascii()).unwrap_or(u64::MAX))
        .max()
        .unwrap_or(0)
}

pub(super) fn pragma_no_cache(headers: &Headers) -> bool {
    headers
        .all_id(HeaderId::Pragma)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|value| value.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
}

fn vary_names(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    headers
        .all_id(HeaderId::Vary)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
}

fn vary_any(headers: &Headers) -> bool {
    vary_names(headers).any(|name| name == b"*")
}

/// The request's values of the fields that a response varies on: its secondary key (section 4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VaryKey(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl VaryKey {
    pub(super) fn of(response: &Headers, request: &RequestHead) -> Self {
        let mut names: Vec<Vec<u8>> = vary_names(response).map(<[u8]>::to_ascii_lowercase).collect();
        names.sort_unstable();
        names.dedup();
        Self(
            names
                .into_iter()
                .map(|name| {
                    let value = nominated(&name, request);
                    (name, value)
                })
                .collect(),
        )
    }

    pub(super) fn matches(&self, request: &RequestHead) -> bool {
        self.0.iter().all(|(name, value)| nominated(name, request) == *value)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 48).sum()
    }
}

/// A field's value with its lines joined and the white space about its commas gone, so that only meaning is compared.
fn nominated(name: &[u8], request: &RequestHead) -> Option<Vec<u8>> {
    if name == b"host" {
        return Some(request.authority.to_ascii_lowercase());
    }
    let mut joined: Option<Vec<u8>> = None;
    for value in request.headers.all(name) {
        for part in value.split(|byte| *byte == b',') {
            match &mut joined {
                None => joined = Some(part.trim_ascii().to_vec()),
                Some(joined) => {
                    joined.push(b',');
                    joined.extend_from_slice(part.trim_ascii());
                }
            }
        }
    }
    joined
}

/// Whether the client's own condition (section 4.3.2) is met by a stored 200, so that 304 is the answer.
/// If-None-Match comes first, and then If-Modified-Since does not count (RFC 9110, section 13.2.2).
pub(super) fn not_modified(request: &Headers, stored: &ResponseHead, received_s: u64) -> bool {
    if stored.status != 200 {
        return false;
    }
    if request.contains_id(HeaderId::IfNoneMatch) {
        let etag = stored.headers.get_id(HeaderId::Etag);
        return request
            .all_id(HeaderId::IfNoneMatch)
            .any(|value| value.trim_ascii() == b"*" || etag.is_some_and(|etag| lists_etag(value, etag)));
    }
    let since = request.get_id(HeaderId::IfModifiedSince).and_then(|value| date::parse(value, received_s));
    let Some(since_s) = since else { return false };
    let changed = stored.headers.get_id(HeaderId::LastModified).and_then(|value| date::parse(value, received_s));
    let changed_s = changed.or_else(|| date_s(&stored.headers, received_s)).unwrap_or(received_s);
    changed_s <= since_s
}

/// Whether a list of entity tags holds this one, by weak comparison (RFC 9110, section 8.8.3.2). A tag may hold commas.
fn lists_etag(list: &[u8], etag: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let wanted = opaque(etag);
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in list.iter().chain(b",").enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted || at == list.len() => {
                let tag = list.get(start..at).unwrap_or_default().trim_ascii();
                if opaque(tag) == wanted {
                    return true;
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    false
}

pub(super) fn is_strong(etag: &[u8]) -> bool {
    etag.starts_with(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(status);
        for (name, value) in headers {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn request(headers: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead { path: b"/".to_vec(), ..RequestHead::default() };
        for (name, value) in headers {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn at(offset_s: i64) -> String {
        date::format(NOW.saturating_add_signed(offset_s))
    }

    #[test]
    fn what_may_be_stored() {
        let plain: &[(&str, &str)] = &[];
        let auth: &[(&str, &str)] = &[("authorization", "Basic x")];
        for (status, with, headers, expected, section) in [
            (200, plain, &[][..], true, "15.1: 200 is heuristically cacheable"),
            (201, plain, &[], false, "3: no explicit freshness"),
            (201, plain, &[("cache-control", "max-age=5")], true, "3: max-age"),
            (503, plain, &[("expires", "0")], true, "3: Expires"),
            (206, plain, &[("cache-control", "max-age=5")], false, "3.3: partial"),
            (304, plain, &[("cache-control", "max-age=5")], false, "3: not a response of its own"),
            (100, plain, &[], false, "3: not final"),
            (200, plain, &[("cache-control", "no-store, max-age=5")], false, "5.2.2.5"),
            (200, plain, &[("cache-control", "private, max-age=5")], false, "5.2.2.7"),
            (200, plain, &[("cache-control", "private=\"x-a\", max-age=5")], true, "5.2.2.7: fields only"),
            (200, plain, &[("cache-control", "no-store, must-understand, max-age=5")], true, "5.2.2.3"),
            (299, plain, &[("cache-control", "no-store, must-understand, max-age=5")], false, "5.2.2.3"),
            (200, plain, &[("vary", "*")], false, "4.1"),
            (200, plain, &[("vary", "accept, *")], false, "4.1"),
            (200, auth, &[("cache-control", "max-age=5")], false, "3.5"),
            (200, auth, &[("cache-control", "max-age=5, public")], true, "3.5"),
            (200, auth, &[("cache-control", "s-maxage=5")], true, "3.5"),
            (200, auth, &[("cache-control", "must-revalidate, max-age=5")], true, "3.5"),
            (200, &[("cache-control", "no-store")], &[("cache-control", "max-age=5")], false, "5.2.1.5"),
            (200, plain, &[("set-cookie", "a=b"), ("cache-control", "max-age=5")], true, "7.3: not forbidden"),
        ] {
            assert_eq!(
                may_store(&request(with), &response(status, headers)),
                expected,
                "{section}: {status} {headers:?}"
            );
        }
        let post = RequestHead { method: Method::Post, ..request(&[]) };
        assert!(!may_store(&post, &response(200, &[("cache-control", "max-age=5")])));
    }

    #[test]
    fn lifetimes_come_in_the_order_of_the_specification() {
        let (future, past) = (at(100), at(-1_000));
        let long_ago = at(-10_000_000);
        for (status, headers, expected) in [
            (200, &[("cache-control", "max-age=5, s-maxage=9"), ("expires", &future)][..], 9),
            (200, &[("cache-control", "max-age=5"), ("expires", &future)], 5),
            (200, &[("expires", &future)], 100),
            (200, &[("expires", &past)], 0),
            (200, &[("expires", "0")], 0),
            (200, &[("expires", &future), ("expires", &future)], 0),
            (200, &[("last-modified", &past)], 100),
            (200, &[("last-modified", &long_ago)], HEURISTIC_SECONDS_MAX),
            (200, &[("last-modified", &future)], 0),
            (302, &[("last-modified", &past)], 0),
            (302, &[("last-modified", &past), ("cache-control", "public")], 100),
            (200, &[], 0),
        ] {
            assert_eq!(Freshness::of(&response(status, headers), NOW, NOW).lifetime_s, expected, "{headers:?}");
        }
        // Expires is measured from the origin's Date, not from our clock.
        let date = at(50);
        let head = response(200, &[("expires", &future), ("date", &date)]);
        assert_eq!(Freshness::of(&head, NOW, NOW).lifetime_s, 50);
    }

    #[test]
    fn age_counts_the_way_here_and_the_time_with_us() {
        let date = at(-30);
        for (headers, expected) in [
            (&[][..], 4),
            (&[("age", "10")], 14),
            (&[("date", &*date)], 30),
            (&[("date", &*date), ("age", "40")], 44),
            (&[("age", "3"), ("age", "9")], 13),
            (&[("age", "9, 3")], 13),
            (&[("age", "3, 9")], 7),
        ] {
            let freshness = Freshness::of(&response(200, headers), NOW - 4, NOW);
            assert_eq!(freshness.age_s(NOW), expected, "{headers:?}");
            assert_eq!(freshness.age_s(NOW + 7), expected + 7, "{headers:?}");
        }
        for age in ["abc", "-1", "7.0", ""] {
            assert_eq!(Freshness::of(&response(200, &[("age", age)]), NOW, NOW).age_s(NOW), u64::MAX, "{age}");
        }
    }

    #[test]
    fn requests_narrow_and_widen_what_they_take() {
        let revalidate = Use::Revalidate { stale_on_error: false };
        for (response_control, request_control, age_s, expected, section) in [
            ("max-age=10", "", 9, Use::Serve, "4.2"),
            ("max-age=10", "", 10, revalidate, "4.2: the lifetime must exceed the age"),
            ("max-age=10", "no-cache", 1, revalidate, "5.2.1.4"),
            ("max-age=10", "max-age=5", 5, Use::Serve, "5.2.1.1"),
            ("max-age=10", "max-age=5", 6, revalidate, "5.2.1.1"),
            ("max-age=10", "min-fresh=4", 6, Use::Serve, "5.2.1.3"),
            ("max-age=10", "min-fresh=4", 7, revalidate, "5.2.1.3"),
            ("max-age=10", "max-stale", 9_999, Use::Serve, "5.2.1.2"),
            ("max-age=10", "max-stale=5", 15, Use::Serve, "5.2.1.2"),
            ("max-age=10", "max-stale=5", 16, revalidate, "5.2.1.2"),
            ("max-age=10", "max-age=0, max-stale=20", 15, Use::Serve, "5.2.1.2 with 5.2.1.1"),
            ("max-age=10, must-revalidate", "max-stale", 11, revalidate, "5.2.2.2"),
            ("max-age=10, proxy-revalidate", "max-stale", 11, revalidate, "5.2.2.8"),
            ("s-maxage=10", "max-stale", 11, revalidate, "5.2.2.10"),
            ("no-cache, max-age=10", "", 1, revalidate, "5.2.2.4"),
            ("no-cache=\"x-a\", max-age=10", "", 1, Use::Serve, "5.2.2.4: fields only"),
            ("max-age=10, stale-if-error=5", "", 15, Use::Revalidate { stale_on_error: true }, "RFC 5861, 4"),
            ("max-age=10, stale-if-error=5", "", 16, revalidate, "RFC 5861, 4"),
            ("max-age=10, stale-if-error=5, must-revalidate", "", 12, revalidate, "5.2.2.2 forbids it"),
        ] {
            let stored = Freshness::of(&response(200, &[("cache-control", response_control)]), NOW, NOW);
            let mut headers = Headers::new();
            if !request_control.is_empty() {
                headers.push(b"cache-control", request_control.as_bytes());
            }
            let control = CacheControl::of(&headers);
            assert_eq!(
                usable(&control, false, &stored, NOW + age_s),
                expected,
                "{section}: {response_control} / {request_control}"
            );
        }
        let stored = Freshness::of(&response(200, &[("cache-control", "max-age=10")]), NOW, NOW);
        assert_eq!(usable(&CacheControl::default(), true, &stored, NOW), revalidate, "5.4: Pragma");
        let present = CacheControl { present: true, ..CacheControl::default() };
        assert_eq!(usable(&present, true, &stored, NOW), Use::Serve, "5.4: Cache-Control hides Pragma");
    }

    #[test]
    fn vary_compares_meaning_not_bytes() {
        let head = response(200, &[("vary", "Accept-Language, foo"), ("vary", "FOO")]);
        let key = VaryKey::of(&head.headers, &request(&[("accept-language", "de,en"), ("foo", "1")]));
        assert!(key.matches(&request(&[("foo", "1"), ("accept-language", "de , en")])));
        assert!(key.matches(&request(&[("foo", "1"), ("accept-language", "de"), ("accept-language", "en")])));
        assert!(!key.matches(&request(&[("foo", "1"), ("accept-language", "en,de")])));
        assert!(!key.matches(&request(&[("accept-language", "de,en")])));
        assert!(VaryKey::default().matches(&request(&[])));
    }

    #[test]
    fn conditions_of_the_client_are_weighed() {
        let (date, later, earlier) = (at(-100), at(-50), at(-200));
        let head = response(200, &[("etag", "W/\"a,b\""), ("last-modified", &date)]);
        for (name, value, expected) in [
            ("if-none-match", "\"a,b\"", true),
            ("if-none-match", "\"x\", W/\"a,b\"", true),
            ("if-none-match", "\"a\"", false),
            ("if-none-match", "*", true),
            ("if-modified-since", &date, true),
            ("if-modified-since", &later, true),
            ("if-modified-since", &earlier, false),
            ("if-modified-since", "soon", false),
        ] {
            assert_eq!(not_modified(&request(&[(name, value)]).headers, &head, NOW), expected, "{name}: {value}");
        }
        let both = request(&[("if-none-match", "\"x\""), ("if-modified-since", &later)]);
        assert!(!not_modified(&both.headers, &head, NOW), "If-None-Match comes first");
        assert!(!not_modified(&request(&[("if-none-match", "*")]).headers, &response(404, &[]), NOW));
    }

    proptest! {
        /// No header value of any kind makes a decision panic, and nothing fresh is fresh for ever.
        #[test]
        fn any_headers_are_decided_upon(
            names in proptest::collection::vec(0_usize..8, 0..8),
            values in proptest::collection::vec("[ -~]{0,24}", 8),
            now_s in any::<u64>(),
        ) {
            const NAMES: [&str; 8] =
                ["cache-control", "age", "date", "expires", "last-modified", "vary", "etag", "pragma"];
            let headers: Vec<_> =
                names.iter().zip(&values).map(|(name, value)| (NAMES[*name], value.as_str())).collect();
            let (request, response) = (request(&headers), response(200, &headers));
            let _ = may_store(&request, &response);
            let stored = Freshness::of(&response, now_s, now_s);
            let _ = usable(&CacheControl::of(&request.headers), false, &stored, now_s);
            let _ = (not_modified(&request.headers, &response, now_s), VaryKey::of(&response.headers, &request));
            prop_assert!(stored.lifetime_s <= 253_402_300_800);
        }
    }
}
