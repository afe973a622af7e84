//! What a request must look like to match, asked through one small trait. Pure: no clock, no randomness of its own.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use regex::bytes::Regex;

/// What routing reads of a request. The data plane implements it for its own message head.
pub trait RequestView {
    fn method(&self) -> &[u8];
    /// `http` or `https`.
    fn scheme(&self) -> &[u8];
    /// Host and optional port, as sent.
    fn authority(&self) -> &[u8];
    /// Path and query.
    fn path(&self) -> &[u8];
    /// The value of a lower-case name; several values are joined with a comma (RFC 9110, section 5.3). Only that case may
    /// allocate. Never asked for pseudo-headers.
    fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>>;
    /// Whether any one value of a lower-case name meets `test`; `None` where there is no such header. A view that can hold a
    /// header twice says so here.
    fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> Option<bool> {
        self.header(name).map(|value| test(&value))
    }
    /// The client's address, where there is one.
    fn source_ip(&self) -> Option<IpAddr> {
        None
    }
}

/// The value of a header or of a pseudo-header (`:path`, `:method`, `:authority`, `:scheme`).
pub fn field<'a>(request: &'a (impl RequestView + ?Sized), name: &str) -> Option<Cow<'a, [u8]>> {
    match name {
        ":path" => Some(Cow::Borrowed(request.path())),
        ":method" => Some(Cow::Borrowed(request.method())),
        ":authority" | "host" => Some(Cow::Borrowed(request.authority())),
        ":scheme" => Some(Cow::Borrowed(request.scheme())),
        _ => request.header(name.as_bytes()),
    }
}

/// Headers of which Envoy keeps one value, those of further fields added to it with a comma; found by sending each twice through
/// Envoy 1.40. Of every other header a matcher sees each value alone.
const JOINED: [&str; 35] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "access-control-request-private-network",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-type",
    "expect",
    "grpc-accept-encoding",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "x-client-trace-id",
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-external-address",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether any value that a matcher sees of a header meets `test`; `None` where the header is not there.
pub fn any_value(
    request: &(impl RequestView + ?Sized),
    name: &str,
    test: &mut dyn FnMut(&[u8]) -> bool,
) -> Option<bool> {
    if name.starts_with(':') || name == "host" || JOINED.binary_search(&name).is_ok() {
        return field(request, name).map(|value| test(&value));
    }
    request.any_value(name.as_bytes(), test)
}

/// The path before `?` and `#`.
pub fn path_only(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|&byte| byte == b'?' || byte == b'#').unwrap_or(path.len());
    path.get(..end).unwrap_or(path)
}

/// The first value of a query parameter, as sent (not decoded, as in Envoy). A name without `=` has the empty value.
pub fn query_parameter<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let start = path.iter().position(|&byte| byte == b'?')? + 1;
    let query = path.get(start..)?;
    let query = query.split(|&byte| byte == b'#').next()?;
    query.split(|&byte| byte == b'&').find_map(|pair| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        (halves.next()? == name).then(|| halves.next().unwrap_or_default())
    })
}

/// The value of a cookie in a `cookie` header (RFC 6265, section 4.2.1).
pub fn cookie<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    header.split(|&byte| byte == b';').find_map(|pair| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        if halves.next()?.trim_ascii() != name {
            return None;
        }
        let value = halves.next()?.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// A compiled expression that must match the whole text. Equal when the sources are.
#[derive(Clone, Debug)]
pub struct FullRegex(pub(super) Arc<Regex>);

impl FullRegex {
    /// Bytes of a compiled expression: more than any that people write, and it bounds what one can cost.
    pub const COMPILED_BYTES_MAX: usize = 1 << 20;

    /// # Errors
    /// The expression is not RE2 syntax, or compiles to more than [`Self::COMPILED_BYTES_MAX`].
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // Compiled alone first: a stray `)` must not close the group that anchors it.
        regex::bytes::RegexBuilder::new(source).size_limit(Self::COMPILED_BYTES_MAX).build()?;
        let anchored = format!(r"\A(?:{source})\z");
        regex::bytes::RegexBuilder::new(&anchored)
            .size_limit(Self::COMPILED_BYTES_MAX)
            .build()
            .map(|regex| Self(Arc::new(regex)))
    }

    pub fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for FullRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// An expression that replaces every match of it (Envoy `RegexMatchAndSubstitute`).
#[derive(Clone, Debug)]
pub struct Substitution {
    regex: Arc<Regex>,
    /// With `${1}` for a group: Envoy writes `\1`. `None`: it names a group that is not there, and nothing is replaced.
    replacement: Option<Box<str>>,
}

impl Substitution {
    /// `replacement` is written as RE2 does: `\0` to `\9` are groups, `\\` is a backslash.
    ///
    /// # Errors
    /// The expression does not compile or is too large.
    pub fn new(source: &str, replacement: &str) -> Result<Self, regex::Error> {
        let regex =
            regex::bytes::RegexBuilder::new(source).size_limit(FullRegex::COMPILED_BYTES_MAX).build().map(Arc::new)?;
        let groups = regex.captures_len();
        // RE2 replaces nothing then (`MaxSubmatch`), and so the path stays as it is.
        let mut names_a_missing_group = false;
        let mut translated = String::with_capacity(replacement.len());
        let mut characters = replacement.chars();
        while let Some(character) = characters.next() {
            match character {
                '$' => translated.push_str("$$"),
                '\\' => match characters.next() {
                    Some(digit @ '0'..='9') => {
                        names_a_missing_group |= digit.to_digit(10).is_some_and(|group| group as usize >= groups);
                        translated.push_str(&format!("${{{digit}}}"));
                    }
                    Some(other) => translated.push(other),
                    None => translated.push('\\'),
                },
                other => translated.push(other),
            }
        }
        Ok(Self { regex, replacement: (!names_a_missing_group).then(|| translated.into()) })
    }

    pub fn apply<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(replacement) = &self.replacement else { return Cow::Borrowed(text) };
        self.regex.replace_all(text, replacement.as_bytes())
    }
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.replacement == other.replacement
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct StringMatcher {
    pub pattern: StringPattern,
    /// Does not act on expressions, as in Envoy.
    pub ignore_case: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StringPattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Regex(FullRegex),
}

impl StringMatcher {
    pub fn matches(&self, text: &[u8]) -> bool {
        let equal = |left: &[u8], right: &str| {
            if self.ignore_case { left.eq_ignore_ascii_case(right.as_bytes()) } else { left == right.as_bytes() }
        };
        match &self.pattern {
            StringPattern::Exact(value) => equal(text, value),
            StringPattern::Prefix(value) => text.get(..value.len()).is_some_and(|head| equal(head, value)),
            StringPattern::Suffix(value) => {
                text.len().checked_sub(value.len()).and_then(|at| text.get(at..)).is_some_and(|tail| equal(tail, value))
            }
            StringPattern::Contains(value) => {
                value.is_empty() || text.windows(value.len()).any(|window| equal(window, value))
            }
            StringPattern::Regex(regex) => regex.is_match(text),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Lower case; may be a pseudo-header.
    pub name: Box<str>,
    pub kind: ValueMatch,
    pub invert: bool,
    /// A header that is not there has the empty value. Without it, it never matches, inverted or not.
    pub missing_is_empty: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// The field is there (true) or is not (false).
    Present(bool),
    Text(StringMatcher),
    /// A decimal number, start included, end excluded.
    Range {
        start: i64,
        end: i64,
    },
}

impl HeaderMatch {
    pub fn matches(&self, request: &(impl RequestView + ?Sized)) -> bool {
        let mut test = |value: &[u8]| match &self.kind {
            ValueMatch::Present(_) => true,
            ValueMatch::Text(matcher) => matcher.matches(value),
            ValueMatch::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        };
        let matched = any_value(request, &self.name, &mut test).or_else(|| self.missing_is_empty.then(|| test(b"")));
        match (&self.kind, matched) {
            (ValueMatch::Present(wanted), there) => there.is_some() == wanted ^ self.invert,
            (_, Some(matched)) => matched != self.invert,
            (_, None) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    pub name: Box<str>,
    pub kind: ValueMatch,
}

impl QueryMatch {
    fn matches(&self, path: &[u8]) -> bool {
        let value = query_parameter(path, self.name.as_bytes());
        match &self.kind {
            ValueMatch::Present(wanted) => value.is_some() == *wanted,
            ValueMatch::Text(matcher) => value.is_some_and(|value| matcher.matches(value)),
            ValueMatch::Range { .. } => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    /// `/api` matches `/api` and `/api/x`, not `/apix`.
    Segments(Box<str>),
    Regex(FullRegex),
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// True for that share of uniformly drawn numbers.
    pub fn hits(self, rng: u64) -> bool {
        (rng % u64::from(self.denominator.max(1))) < u64::from(self.numerator)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub ignore_case: bool,
    pub headers: Box<[HeaderMatch]>,
    pub query: Box<[QueryMatch]>,
    /// Only this share of the requests that match otherwise.
    pub fraction: Option<Fraction>,
    /// Only requests whose content type is gRPC's.
    pub grpc: bool,
}

impl RouteMatch {
    pub fn matches(&self, request: &(impl RequestView + ?Sized), rng: u64) -> bool {
        self.path_matches(path_only(request.path()))
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|query| query.matches(request.path()))
            && (!self.grpc || is_grpc(request))
            && self.fraction.is_none_or(|fraction| fraction.hits(rng))
    }

    /// `path` has no query.
    pub fn path_matches(&self, path: &[u8]) -> bool {
        let equal = |left: &[u8], right: &[u8]| {
            if self.ignore_case { left.eq_ignore_ascii_case(right) } else { left == right }
        };
        let starts = |prefix: &str| path.get(..prefix.len()).is_some_and(|head| equal(head, prefix.as_bytes()));
        match &self.path {
            PathMatch::Exact(exact) => equal(path, exact.as_bytes()),
            PathMatch::Prefix(prefix) => starts(prefix),
            PathMatch::Segments(prefix) => starts(prefix) && path.get(prefix.len()).is_none_or(|&byte| byte == b'/'),
            PathMatch::Regex(regex) => regex.is_match(path),
        }
    }
}

fn is_grpc(request: &(impl RequestView + ?Sized)) -> bool {
    request.header(b"content-type").is_some_and(|value| {
        value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_and_cookies_are_read_as_sent() {
        assert_eq!(query_parameter(b"/a?x=1&y&x=2#x=3", b"x"), Some(&b"1"[..]));
        assert_eq!(query_parameter(b"/a?x=1&y", b"y"), Some(&b""[..]));
        assert_eq!(query_parameter(b"/a", b"y"), None);
        assert_eq!(cookie(b"a=1; session=\"x y\"; b=2", b"session"), Some(&b"x y"[..]));
        assert_eq!(path_only(b"/a/b?c#d"), b"/a/b");
    }

    #[test]
    fn expressions_match_the_whole_text_and_substitute_as_re2_writes_groups() {
        let regex = FullRegex::new("a|ab").expect("valid");
        assert!(regex.is_match(b"ab"));
        assert!(!regex.is_match(b"abc"));
        assert!(FullRegex::new("a)|(b").is_err());
        let substitution = Substitution::new("^/service/([^/]+)(/.*)$", r"\2/instance/\1$").expect("valid");
        assert_eq!(&*substitution.apply(b"/service/foo/v1/api"), b"/v1/api/instance/foo$");
        let missing = Substitution::new("(a)", r"\1\5").expect("valid");
        assert_eq!(&*missing.apply(b"/a"), b"/a");
    }

    /// A header that is sent several times.
    struct Sent(&'static str, &'static [&'static str]);

    impl RequestView for Sent {
        fn method(&self) -> &[u8] {
            b"GET"
        }

        fn scheme(&self) -> &[u8] {
            b"http"
        }

        fn authority(&self) -> &[u8] {
            b"host"
        }

        fn path(&self) -> &[u8] {
            b"/"
        }

        fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
            (name == self.0.as_bytes() && !self.1.is_empty()).then(|| Cow::Owned(self.1.join(",").into_bytes()))
        }

        fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> Option<bool> {
            self.header(name).map(|_| self.1.iter().any(|value| test(value.as_bytes())))
        }
    }

    /// What Envoy 1.40 does with the same matchers and requests.
    #[test]
    fn a_header_sent_twice_is_matched_value_by_value_where_envoy_does_so() {
        assert!(JOINED.is_sorted());
        let twice: &[&str] = &["a", "b"];
        let text = |pattern| ValueMatch::Text(StringMatcher { pattern, ignore_case: false });
        let exact = |value: &str| text(StringPattern::Exact(value.into()));
        let regex = |source| text(StringPattern::Regex(FullRegex::new(source).expect("valid")));
        for (name, kind, invert, values, wanted) in [
            ("x-a", exact("b"), false, twice, true),
            ("x-a", exact("a,b"), false, twice, false),
            ("x-a", text(StringPattern::Prefix("b".into())), false, twice, true),
            ("x-a", text(StringPattern::Suffix("a".into())), false, twice, true),
            ("x-a", text(StringPattern::Contains(",".into())), false, twice, false),
            ("x-a", regex("b"), false, twice, true),
            ("x-a", regex("a,b"), false, twice, false),
            ("x-a", ValueMatch::Present(true), false, twice, true),
            ("x-a", ValueMatch::Present(false), false, twice, false),
            ("x-a", ValueMatch::Present(false), false, &[], true),
            ("x-a", exact("b"), true, twice, false),
            ("x-a", exact("c"), true, twice, true),
            ("x-a", exact("a,b"), true, twice, true),
            ("x-a", exact("b"), true, &[], false),
            ("x-a", ValueMatch::Range { start: 5, end: 10 }, false, &["3", "7"], true),
            ("accept", exact("b"), false, twice, false),
            ("accept", exact("a,b"), false, twice, true),
        ] {
            let matcher = HeaderMatch { name: name.into(), kind, invert, missing_is_empty: false };
            assert_eq!(matcher.matches(&Sent(name, values)), wanted, "{matcher:?} {values:?}");
        }
        let missing = HeaderMatch { name: "x-a".into(), kind: exact("b"), invert: true, missing_is_empty: true };
        assert!(missing.matches(&Sent("x-a", &[])) && !missing.matches(&Sent("x-a", twice)));
    }
}
