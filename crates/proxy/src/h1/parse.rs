//! Heads of HTTP/1.1 messages: bytes in, a checked head and its framing out. Pure.

use super::body::BodyLength;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, Scheme, head::is_token};
use std::mem::MaybeUninit;

/// Headers in one message, as Envoy's `max_headers_count` default.
pub const HEADERS_MAX: usize = 100;

/// Tokens that one `connection` field may nominate. More is an attack on the loop that removes them.
const CONNECTION_TOKENS_MAX: usize = 16;

/// Header names up to this length are lowered on the stack. Longer ones are rare and none of ours.
const NAME_INLINE: usize = 64;

/// Why a head is refused. Every one of them ends the connection: what follows can't be framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("the request line or a header line is malformed (RFC 9112, section 2.2)")]
    Malformed,
    #[error("a line ends in a bare LF instead of CRLF (RFC 9112, section 2.2)")]
    BareLineFeed,
    #[error("both Content-Length and Transfer-Encoding are present (RFC 9112, section 6.1)")]
    LengthAndEncoding,
    #[error("Content-Length is repeated or is not a number (RFC 9112, section 6.3)")]
    ContentLength,
    #[error("Transfer-Encoding is something else than one `chunked` (RFC 9112, section 6.1)")]
    TransferEncoding,
    #[error("Host is missing, repeated or malformed (RFC 9112, section 3.2)")]
    Host,
    #[error("the request target is malformed (RFC 9112, section 3.2)")]
    Target,
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    #[error("the head has more than {HEADERS_MAX} headers")]
    TooManyHeaders,
    #[error("the head is larger than the limit")]
    TooLarge,
}

impl HeadError {
    /// The reason, as metric labels name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BareLineFeed => "bare_lf",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Host => "host",
            Self::Target => "target",
            Self::Version => "version",
            Self::TooManyHeaders => "too_many_headers",
            Self::TooLarge => "too_large",
        }
    }

    /// The status that tells the client.
    pub fn status(self) -> u16 {
        match self {
            Self::TooManyHeaders | Self::TooLarge => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// What a request's head says about its connection and its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMeta {
    pub body: BodyLength,
    pub keep_alive: bool,
    pub http_10: bool,
    pub expect_continue: bool,
    /// `Upgrade: websocket` with `Connection: upgrade`.
    pub websocket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMeta {
    pub body: BodyLength,
    pub keep_alive: bool,
    /// `Upgrade: websocket` with `Connection: upgrade`.
    pub websocket: bool,
}

/// Reads a request's head from the front of `bytes`. `Ok(None)`: more bytes are needed.
/// On success says how many bytes the head took; hop-by-hop fields are gone from `head`.
pub fn request(bytes: &[u8], head: &mut RequestHead) -> Result<Option<(usize, RequestMeta)>, HeadError> {
    let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let taken = match parsed.parse_with_uninit_headers(bytes, &mut slots) {
        Ok(httparse::Status::Complete(taken)) => taken,
        Ok(httparse::Status::Partial) => return refuse_bare_line_feeds(bytes).map(|()| None),
        // `GET /a b HTTP/1.1` is a malformed target, not another version.
        Err(httparse::Error::Version) if !names_a_version(bytes) => return Err(HeadError::Malformed),
        Err(error) => return Err(head_error(error)),
    };
    refuse_bare_line_feeds(&bytes[..taken])?;

    head.clear();
    head.method = parsed.method.and_then(|token| Method::parse(token.as_bytes())).ok_or(HeadError::Malformed)?;
    let http_10 = parsed.version == Some(0);
    let mut fields = Fields::default();
    for header in parsed.headers.iter() {
        fields.take(header, &mut head.headers)?;
    }
    target(parsed.path.unwrap_or_default().as_bytes(), fields.host, http_10, head)?;

    let body = match fields.framing(http_10)? {
        Some(body) => body,
        None => BodyLength::Empty,
    };
    let websocket = fields.upgrade_websocket && fields.connection_upgrade && !http_10;
    let meta = RequestMeta {
        body,
        keep_alive: fields.keep_alive(http_10),
        http_10,
        expect_continue: fields.expect_continue && !http_10,
        websocket,
    };
    if fields.nominates {
        drop_nominated(parsed.headers, &mut head.headers);
    }
    Ok(Some((taken, meta)))
}

/// Reads a response's head. `to_head` and `to_connect` say what the request was: they change where a response ends.
pub fn response(
    bytes: &[u8],
    head: &mut ResponseHead,
    to_head: bool,
) -> Result<Option<(usize, ResponseMeta)>, HeadError> {
    let mut slots = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let taken = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut slots) {
        Ok(httparse::Status::Complete(taken)) => taken,
        Ok(httparse::Status::Partial) => return refuse_bare_line_feeds(bytes).map(|()| None),
        Err(error) => return Err(head_error(error)),
    };
    refuse_bare_line_feeds(&bytes[..taken])?;

    head.headers.clear();
    head.status = parsed.code.ok_or(HeadError::Malformed)?;
    if !(100..=599).contains(&head.status) {
        return Err(HeadError::Malformed);
    }
    let http_10 = parsed.version == Some(0);
    let mut fields = Fields { is_response: true, ..Fields::default() };
    for header in parsed.headers.iter() {
        fields.take(header, &mut head.headers)?;
    }
    let framing = fields.framing(http_10)?;
    // RFC 9112, section 6.3, rules 1 to 8.
    let body = if to_head || head.status < 200 || head.status == 204 || head.status == 304 {
        BodyLength::Empty
    } else {
        framing.unwrap_or(BodyLength::UntilClose)
    };
    let meta = ResponseMeta {
        body,
        keep_alive: fields.keep_alive(http_10) && body != BodyLength::UntilClose,
        websocket: fields.upgrade_websocket && fields.connection_upgrade,
    };
    if fields.nominates {
        drop_nominated(parsed.headers, &mut head.headers);
    }
    Ok(Some((taken, meta)))
}

/// Reads a chunked body's trailer section. `Ok(None)`: more bytes are needed.
pub fn trailers(bytes: &[u8], into: &mut Headers) -> Result<Option<usize>, HeadError> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(bytes, &mut slots) {
        Ok(httparse::Status::Partial) => refuse_bare_line_feeds(bytes).map(|()| None),
        Ok(httparse::Status::Complete((taken, headers))) => {
            refuse_bare_line_feeds(&bytes[..taken])?;
            into.clear();
            for header in headers {
                let id = id_of(header.name);
                // A trailer must not frame, route or authenticate (RFC 9110, section 6.5.1).
                let forbidden = id.is_hop_by_hop()
                    || matches!(
                        id,
                        HeaderId::ContentLength | HeaderId::Host | HeaderId::Authorization | HeaderId::Trailer
                    );
                if !forbidden {
                    into.push(header.name.as_bytes(), header.value);
                }
            }
            Ok(Some(taken))
        }
        Err(error) => Err(head_error(error)),
    }
}

/// Whether the third word of the request line is a version of HTTP.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.split(|&byte| byte == b' ').nth(2).is_some_and(|word| word.starts_with(b"HTTP/"))
}

fn head_error(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::Version => HeadError::Version,
        _ => HeadError::Malformed,
    }
}

/// httparse takes a bare LF for a line's end. Two proxies that differ on that frame a message differently.
fn refuse_bare_line_feeds(bytes: &[u8]) -> Result<(), HeadError> {
    for at in memchr::memchr_iter(b'\n', bytes) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(HeadError::BareLineFeed);
        }
    }
    Ok(())
}

/// What the framing and connection fields said, while the others are copied.
#[derive(Default)]
struct Fields<'a> {
    is_response: bool,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep: bool,
    connection_upgrade: bool,
    /// `connection` names fields that go with it.
    nominates: bool,
    upgrade_websocket: bool,
    expect_continue: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, header: &httparse::Header<'a>, into: &mut Headers) -> Result<(), HeadError> {
        let value = trim(header.value);
        let mut lower = [0u8; NAME_INLINE];
        let (name, id) = match lower.get_mut(..header.name.len()) {
            Some(lower) => {
                lower.copy_from_slice(header.name.as_bytes());
                lower.make_ascii_lowercase();
                (&*lower, HeaderId::of(lower))
            }
            None => (header.name.as_bytes(), HeaderId::Other),
        };
        match id {
            HeaderId::Host if !self.is_response => {
                if self.host.replace(value).is_some() {
                    return Err(HeadError::Host);
                }
            }
            HeaderId::ContentLength => {
                if self.length.replace(decimal(value).ok_or(HeadError::ContentLength)?).is_some() {
                    return Err(HeadError::ContentLength);
                }
                into.push(b"content-length", value);
            }
            HeaderId::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                self.chunked = true;
            }
            HeaderId::Connection => {
                for token in tokens(value).take(CONNECTION_TOKENS_MAX) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        self.connection_upgrade = true;
                    } else {
                        self.nominates = true;
                    }
                }
            }
            HeaderId::Upgrade => {
                if value.eq_ignore_ascii_case(b"websocket") {
                    self.upgrade_websocket = true;
                }
            }
            // The one value that means something past this hop (RFC 9110, section 10.1.4); gRPC insists on it.
            HeaderId::Te => {
                if tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers")) {
                    into.push(b"te", b"trailers");
                }
            }
            HeaderId::KeepAlive | HeaderId::ProxyConnection => {}
            HeaderId::Expect => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                into.push(b"expect", value);
            }
            _ if name.len() <= NAME_INLINE => into.push_lower(name, id, value),
            _ => into.push(name, value),
        }
        Ok(())
    }

    fn framing(&self, http_10: bool) -> Result<Option<BodyLength>, HeadError> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(HeadError::LengthAndEncoding),
            // A 1.0 peer doesn't know chunked: what it means by it can't be known (RFC 9112, section 6.1).
            (true, None) if http_10 => Err(HeadError::TransferEncoding),
            (true, None) => Ok(Some(BodyLength::Chunked)),
            (false, Some(0)) => Ok(Some(BodyLength::Empty)),
            (false, Some(length)) => Ok(Some(BodyLength::Exact(length))),
            (false, None) => Ok(None),
        }
    }

    fn keep_alive(&self, http_10: bool) -> bool {
        !self.close && (!http_10 || self.keep)
    }
}

/// Removes the fields that `connection` nominates (RFC 9110, section 7.6.1), but for those that route or frame.
fn drop_nominated(parsed: &[httparse::Header<'_>], headers: &mut Headers) {
    let connection = parsed.iter().filter(|header| id_of(header.name) == HeaderId::Connection);
    for token in connection.flat_map(|header| tokens(header.value)).take(CONNECTION_TOKENS_MAX) {
        let protected = matches!(
            id_of_bytes(token),
            HeaderId::ContentLength | HeaderId::Host | HeaderId::Te | HeaderId::XForwardedFor | HeaderId::Authorization
        );
        if !protected {
            headers.remove(token);
        }
    }
}

/// Splits the request target into authority and path (RFC 9112, section 3.2).
fn target(target: &[u8], host: Option<&[u8]>, http_10: bool, head: &mut RequestHead) -> Result<(), HeadError> {
    if host.is_none() && !http_10 {
        return Err(HeadError::Host);
    }
    if !target.iter().all(|&byte| (0x21..=0x7e).contains(&byte) && byte != b'#') {
        return Err(HeadError::Target);
    }
    let host = host.unwrap_or_default();
    if !is_authority(host) {
        return Err(HeadError::Host);
    }
    if head.method == Method::Connect {
        if !is_authority(target) || target.is_empty() {
            return Err(HeadError::Target);
        }
        head.authority.extend_from_slice(target);
        return Ok(());
    }
    if target.first() == Some(&b'/') {
        head.authority.extend_from_slice(host);
        head.path.extend_from_slice(target);
        return Ok(());
    }
    if target == b"*" {
        if head.method != Method::Options {
            return Err(HeadError::Target);
        }
        head.authority.extend_from_slice(host);
        head.path.extend_from_slice(target);
        return Ok(());
    }
    // The absolute form beats the Host field (RFC 9112, section 3.2.2).
    let rest = strip_scheme(target, b"http://").map(|rest| (Scheme::Http, rest));
    let rest = rest.or_else(|| strip_scheme(target, b"https://").map(|rest| (Scheme::Https, rest)));
    let (scheme, rest) = rest.ok_or(HeadError::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || !is_authority(authority) {
        return Err(HeadError::Target);
    }
    head.scheme = scheme;
    head.authority.extend_from_slice(authority);
    if path.first() != Some(&b'/') {
        head.path.push(b'/');
    }
    head.path.extend_from_slice(path);
    Ok(())
}

fn strip_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (front, rest) = target.split_at_checked(scheme.len())?;
    front.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// `uri-host [":" port]` without user information, which must not be sent (RFC 9110, section 4.2.4).
/// Empty is allowed: it is what a client sends for a target without authority.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.first() {
        Some(b'[') => match authority.iter().position(|&byte| byte == b']') {
            None => return false,
            Some(end) => (
                &authority[1..end],
                authority[end + 1..].strip_prefix(b":").or(match &authority[end + 1..] {
                    [] => Some(&[][..]),
                    _ => None,
                }),
            ),
        },
        _ => match authority.iter().position(|&byte| byte == b':') {
            None => (authority, Some(&[][..])),
            Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        },
    };
    let Some(port) = port else { return false };
    let is_ip6 = authority.first() == Some(&b'[');
    let host_ok = host.iter().all(|&byte| match byte {
        b':' => is_ip6,
        b'%' => true,
        b'@' | b'/' | b'?' | b'#' | b'[' | b']' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
            false
        }
        _ => (0x21..=0x7e).contains(&byte),
    });
    let port_ok = port.is_empty() || port.len() <= 5 && decimal(port).is_some_and(|port| port <= 65_535);
    host_ok && port_ok
}

/// An unsigned decimal number without sign, space or overflow.
fn decimal(digits: &[u8]) -> Option<u64> {
    // 19 digits always fit in 64 bits.
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

/// The non-empty members of a comma-separated list (RFC 9110, section 5.6.1).
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(trim).filter(|token| !token.is_empty() && token.iter().all(|&b| is_token(b)))
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}

fn id_of(name: &str) -> HeaderId {
    id_of_bytes(name.as_bytes())
}

/// The id of a name in any case, without allocating: no known name is longer than the buffer.
fn id_of_bytes(name: &[u8]) -> HeaderId {
    let mut lower = [0u8; 32];
    match lower.get_mut(..name.len()) {
        None => HeaderId::Other,
        Some(lower) => {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            HeaderId::of(lower)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(RequestHead, RequestMeta)>, HeadError> {
        let mut head = RequestHead::default();
        request(text.as_bytes(), &mut head).map(|done| done.map(|(_, meta)| (head, meta)))
    }

    fn refused(text: &str) -> HeadError {
        parse(text).expect_err(text)
    }

    #[test]
    fn origin_form() {
        let (head, meta) = parse("GET /api/users?x=1 HTTP/1.1\r\nHost: user-service\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.authority, b"user-service");
        assert_eq!(head.path, b"/api/users?x=1");
        assert!(meta.keep_alive);
        assert_eq!(meta.body, BodyLength::Empty);
    }

    #[test]
    fn absolute_form_beats_host() {
        let (head, _) = parse("GET http://a:80?q HTTP/1.1\r\nHost: b\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.authority, b"a:80");
        assert_eq!(head.path, b"/?q");
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let with = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        assert_eq!(refused(&with("Content-Length: 3\r\nTransfer-Encoding: chunked")), HeadError::LengthAndEncoding);
        for length in ["", "+3", "-3", "3,3", "3 3", "0x3", "99999999999999999999"] {
            assert_eq!(refused(&with(&format!("Content-Length: {length}"))), HeadError::ContentLength, "{length}");
        }
        assert_eq!(refused(&with("Content-Length: 3\r\nContent-Length: 3")), HeadError::ContentLength);
        for coding in ["gzip", "chunked, chunked", "chunked, gzip", "xchunked", "chunked;q=1", "identity", ""] {
            assert_eq!(refused(&with(&format!("Transfer-Encoding: {coding}"))), HeadError::TransferEncoding);
        }
        assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), HeadError::TransferEncoding);
    }

    #[test]
    fn malformed_lines_are_refused() {
        assert_eq!(refused("GET / HTTP/1.1\nHost: a\r\n\r\n"), HeadError::BareLineFeed);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\n\r\n"), HeadError::BareLineFeed);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), HeadError::Malformed);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n"), HeadError::Malformed);
        assert_eq!(refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), HeadError::Malformed);
        assert_eq!(refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Malformed);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), HeadError::Host);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), HeadError::Host);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), HeadError::Host);
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), HeadError::Version);
        assert_eq!(refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Malformed);
        assert_eq!(refused("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), HeadError::Target);
    }

    #[test]
    fn nominated_fields_go_and_te_trailers_stays() {
        let (head, meta) = parse(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nTE: gzip, trailers\r\nKeep-Alive: 5\r\n\r\n",
        )
        .unwrap()
        .unwrap();
        assert!(!meta.keep_alive);
        let names: Vec<_> = head.headers.iter().map(|header| header.name.to_vec()).collect();
        assert_eq!(names, [b"te".to_vec()]);
    }

    #[test]
    fn responses_end_where_the_rfc_says() {
        let end = |text: &str, to_head| {
            let mut head = ResponseHead::default();
            response(text.as_bytes(), &mut head, to_head).unwrap().unwrap().1.body
        };
        assert_eq!(end("HTTP/1.1 200 OK\r\n\r\n", false), BodyLength::UntilClose);
        assert_eq!(end("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", false), BodyLength::Empty);
        assert_eq!(end("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", false), BodyLength::Empty);
        assert_eq!(end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), BodyLength::Empty);
        assert_eq!(end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false), BodyLength::Chunked);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = request(&bytes, &mut RequestHead::default());
            let _ = response(&bytes, &mut ResponseHead::default(), false);
            let _ = trailers(&bytes, &mut Headers::new());
        }
    }
}
