//! Heads of HTTP/1.1 messages: bytes in, a checked head and its framing out. Pure.

use super::body::BodyLength;
use super::scan;
use crate::http::headers::Line;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, Scheme, head::is_token};
use smallvec::SmallVec;

/// Headers in one message, as Envoy's `max_headers_count` default.
pub const HEADERS_MAX: usize = 100;

/// Options that the `connection` fields of one head may name together. Each costs a search of the section; honest heads name
/// two or three. To leave the rest out would forward what they nominate, or keep a connection that they close.
const CONNECTION_OPTIONS_MAX: u8 = 16;

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
    #[error("Connection names more than {CONNECTION_OPTIONS_MAX} options")]
    Connection,
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
            Self::Connection => "connection",
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

/// Reads a request's head from the front of `bytes`. `Ok(None)`: more bytes are needed, and `head` is half filled.
/// On success says how many bytes the head took; hop-by-hop fields are gone from `head`.
pub fn request(bytes: &[u8], head: &mut RequestHead) -> Result<Option<(usize, RequestMeta)>, HeadError> {
    let Some((line, taken_by_line)) = scan::first_line(bytes)? else { return Ok(None) };
    let (method, rest) = word(line).ok_or(HeadError::Malformed)?;
    let (path, rest) = word(rest).ok_or(HeadError::Malformed)?;
    let http_10 = is_http_10(rest)?;

    head.clear();
    head.method = Method::parse(method).ok_or(HeadError::Malformed)?;
    let mut fields = Fields::default();
    let taken = scan::fields(&bytes[taken_by_line..], |line| fields.take(&line, &mut head.headers))?;
    let Some(taken) = taken else { return Ok(None) };
    let taken = taken_by_line + taken;
    target(path, fields.host, http_10, head)?;

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
        drop_nominated(&fields.connection, &mut head.headers);
    }
    Ok(Some((taken, meta)))
}

/// Reads a response's head. `to_head` and `to_connect` say what the request was: they change where a response ends.
pub fn response(
    bytes: &[u8],
    head: &mut ResponseHead,
    to_head: bool,
) -> Result<Option<(usize, ResponseMeta)>, HeadError> {
    let Some((line, taken_by_line)) = scan::first_line(bytes)? else { return Ok(None) };
    let (version, status) = line.split_at_checked(9).ok_or(HeadError::Malformed)?;
    let http_10 = is_http_10(version.strip_suffix(b" ").ok_or(HeadError::Version)?)?;
    let (code, reason) = status.split_at_checked(3).ok_or(HeadError::Malformed)?;
    if !reason.is_empty() && reason[0] != b' ' {
        return Err(HeadError::Malformed);
    }
    // A class that HTTP does not know is the client's to understand (RFC 9110, section 15); a proxy passes it on.
    let status = decimal(code).filter(|code| (100..=999).contains(code)).ok_or(HeadError::Malformed)?;

    head.headers.clear();
    let mut fields = Fields { is_response: true, ..Fields::default() };
    let taken = scan::fields(&bytes[taken_by_line..], |line| fields.take(&line, &mut head.headers))?;
    let Some(taken) = taken else { return Ok(None) };
    let taken = taken_by_line + taken;
    head.status = status as u16;
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
        drop_nominated(&fields.connection, &mut head.headers);
    }
    Ok(Some((taken, meta)))
}

/// Reads a chunked body's trailer section. `Ok(None)`: more bytes are needed.
pub fn trailers(bytes: &[u8], into: &mut Headers) -> Result<Option<usize>, HeadError> {
    into.clear();
    scan::fields(bytes, |line| {
        let id = into.try_line(&line);
        if id.is_hop_by_hop() || id.is_for_heads_only() {
            into.drop_line(&line)
        } else {
            into.keep_line(&line, id)
        }
        Ok(())
    })
}

/// What stands before the first space, and after it. `None`: nothing does, or there is no space.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|&byte| byte == b' ')?;
    (at > 0).then(|| (&line[..at], &line[at + 1..]))
}

fn is_http_10(version: &[u8]) -> Result<bool, HeadError> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        // `GET /a b HTTP/1.1` is a malformed target, not another version; nor is `HTTP/1.1 x` one.
        other if other.starts_with(b"HTTP/") && !other.contains(&b' ') => Err(HeadError::Version),
        _ => Err(HeadError::Malformed),
    }
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
    connection_options: u8,
    /// `connection` names fields that go with it.
    nominates: bool,
    /// The values of `connection`, for those names.
    connection: SmallVec<[&'a [u8]; 2]>,
    upgrade_websocket: bool,
    expect_continue: bool,
}

impl<'a> Fields<'a> {
    #[inline]
    fn take(&mut self, line: &Line<'a>, into: &mut Headers) -> Result<(), HeadError> {
        let id = into.try_line(line);
        if id == HeaderId::Other {
            into.keep_line(line, id);
            return Ok(());
        }
        self.take_known(id, line, into)
    }

    fn take_known(&mut self, id: HeaderId, line: &Line<'a>, into: &mut Headers) -> Result<(), HeadError> {
        let value = line.value();
        let mut keeps = false;
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
                keeps = true;
            }
            HeaderId::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                self.chunked = true;
            }
            HeaderId::Connection => {
                self.connection.push(value);
                for token in tokens(value) {
                    self.connection_options += 1;
                    if self.connection_options > CONNECTION_OPTIONS_MAX {
                        return Err(HeadError::Connection);
                    }
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
                    into.drop_line(line);
                    into.push_lower(b"te", HeaderId::Te, b"trailers");
                    return Ok(());
                }
            }
            HeaderId::KeepAlive | HeaderId::ProxyConnection => {}
            HeaderId::Expect => {
                self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue");
                keeps = true;
            }
            _ => keeps = true,
        }
        if keeps {
            into.keep_line(line, id)
        } else {
            into.drop_line(line)
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
fn drop_nominated(connection: &[&[u8]], headers: &mut Headers) {
    for token in connection.iter().flat_map(|value| tokens(value)) {
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
/// Empty is allowed: it is what a client sends for a target without authority. A port without a host is not.
pub(crate) fn is_authority(authority: &[u8]) -> bool {
    let (host_ok, rest) = match authority.strip_prefix(b"[") {
        Some(address) => {
            let Some(end) = address.iter().position(|&byte| byte == b']') else { return false };
            let (address, rest) = address.split_at(end);
            (end > 0 && address.iter().all(|&byte| byte == b':' || HOST[usize::from(byte)]), &rest[1..])
        }
        None => {
            let end = authority.iter().position(|&byte| !HOST[usize::from(byte)]).unwrap_or(authority.len());
            (end > 0 || authority.is_empty(), &authority[end..])
        }
    };
    let port_ok = match rest {
        [] | [b':'] => true,
        [b':', port @ ..] => port.len() <= 5 && decimal(port).is_some_and(|port| port <= 65_535),
        _ => false,
    };
    host_ok && port_ok
}

/// What a host may consist of, an address in brackets and its colons aside.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(
            byte as u8,
            b':' | b'@'
                | b'/'
                | b'?'
                | b'#'
                | b'['
                | b']'
                | b'\\'
                | b'"'
                | b'<'
                | b'>'
                | b'^'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
        );
        byte += 1;
    }
    table
};

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
    fn too_many_connection_options_are_refused_over_all_lines() {
        let options = |count: usize| (0..count).map(|nth| format!("a{nth}")).collect::<Vec<_>>().join(", ");
        let with = |fields: String| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\nX-Secret: 1\r\n\r\n");
        let (head, meta) = parse(&with(format!("Connection: {}, close, x-secret", options(14)))).unwrap().unwrap();
        assert!(!meta.keep_alive && head.headers.is_empty());
        for last in ["close", "x-secret"] {
            assert_eq!(refused(&with(format!("Connection: {}, {last}", options(16)))), HeadError::Connection);
            assert_eq!(
                refused(&with(format!("Connection: {}\r\nConnection: {last}", options(16)))),
                HeadError::Connection
            );
        }
    }

    #[test]
    fn a_host_is_a_host_and_a_port_a_port() {
        for good in ["a", "a:80", "a:", "[::1]", "[::1]:8080", "a_b.c:65535", ""] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            ":80", "a:b", "a:b:c", "a:99999", "a:080808", "[]", "[]:80", "[::1", "[::1]x", "a b", "u@a", "a/b",
            "\u{e9}",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
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

    #[test]
    fn a_status_has_three_digits_and_any_class_but_0() {
        for (status, good) in
            [("100", true), ("600", true), ("999", true), ("099", false), ("20", false), ("2x0", false)]
        {
            let text = format!("HTTP/1.1 {status} x\r\n\r\n");
            assert_eq!(response(text.as_bytes(), &mut ResponseHead::default(), false).is_ok(), good, "{status}");
        }
    }

    #[test]
    fn values_are_trimmed_and_written_as_ours() {
        let (head, _) =
            parse("GET / HTTP/1.1\r\nHost: a\r\nX-A:1\r\nX-B:\t2 \r\nX-C: \r\nx-d: a\tb\r\n\r\n").unwrap().unwrap();
        let mut out = Vec::new();
        head.headers.write_lines(&mut out, |_| false);
        assert_eq!(String::from_utf8_lossy(&out), "x-a: 1\r\nx-b: 2\r\nx-c: \r\nx-d: a\tb\r\n");
    }

    /// A message's fields: lowered names and their values.
    type Read = (String, String, Vec<(String, Vec<u8>)>);

    fn as_httparse_reads(bytes: &[u8]) -> Option<(usize, Read)> {
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut slots);
        let taken = match parsed.parse(bytes).ok()? {
            httparse::Status::Complete(taken) => taken,
            httparse::Status::Partial => return None,
        };
        let trim = |value: &[u8]| value.trim_ascii_end().to_vec();
        let fields = parsed.headers.iter().map(|header| (header.name.to_ascii_lowercase(), trim(header.value)));
        Some((taken, (parsed.method?.into(), parsed.path?.into(), fields.collect())))
    }

    proptest::proptest! {
        /// What we take, another parser takes too, and reads the same; we may only be stricter.
        #[test]
        fn agrees_with_another_parser(
            line in "(GET|P[A-Z]{0,3}|G T)( |  |\t)/[!-~]{0,6}( |  )HTTP/1[.][01]( |x)?",
            fields in proptest::collection::vec("[A-Za-z!-/]{0,6}( ?):[ \t]{0,2}[ -~\t]{0,12}[ \t]?(\r\n|\r\n|\r\n|\n|\r|\0\r\n)", 0..5),
        ) {
            let text = format!("{line}\r\nhost: a\r\n{}\r\n", fields.concat());
            let mut head = RequestHead::default();
            if let Ok(Some((taken, _))) = request(text.as_bytes(), &mut head) {
                let other = as_httparse_reads(text.as_bytes());
                let (taken_there, (method, path, fields)) = other.expect("the other one takes it");
                proptest::prop_assert_eq!(taken, taken_there);
                proptest::prop_assert_eq!(head.method.as_str(), method);
                proptest::prop_assert_eq!(&head.path[..], path.as_bytes());
                let hidden = |name: &str| HeaderId::of(name.as_bytes()) != HeaderId::Other;
                let theirs: Vec<_> = fields.into_iter().filter(|(name, _)| !hidden(name)).collect();
                let ours: Vec<_> = head.headers.iter().filter(|header| header.id == HeaderId::Other)
                    .map(|header| (String::from_utf8_lossy(header.name).into_owned(), header.value.to_vec())).collect();
                proptest::prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = request(&bytes, &mut RequestHead::default());
            let _ = response(&bytes, &mut ResponseHead::default(), false);
            let _ = trailers(&bytes, &mut Headers::new());
        }
    }
}
