//! From decoded fields to message heads and back: the rules of RFC 9113, section 8.

use crate::h1::parse::is_authority;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead, Scheme};

use super::hpack::{ENTRY_OVERHEAD, Encoder};

/// What became of a field section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `content_length` is the declared length of the body.
    Good {
        content_length: Option<u64>,
    },
    Malformed(&'static str),
    /// The section is larger than SETTINGS_MAX_HEADER_LIST_SIZE; the rest of it was not kept.
    TooLarge,
}

/// Which message the section belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Request,
    Response,
    Trailers,
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const AUTHORITY: u8 = 4;
const PATH: u8 = 8;
const STATUS: u8 = 16;

/// Takes fields one after another and keeps what is wrong with them, so that the decoder always runs to the end of the
/// block: its table must follow the peer's whatever becomes of the message.
struct Collector<'a> {
    section: Section,
    headers: &'a mut Headers,
    cookies: &'a mut Vec<u8>,
    room: usize,
    pseudo: u8,
    regular: bool,
    hosts: u8,
    content_length: Option<u64>,
    too_large: bool,
    malformed: Option<&'static str>,
}

impl<'a> Collector<'a> {
    fn new(section: Section, headers: &'a mut Headers, cookies: &'a mut Vec<u8>, limit: usize) -> Self {
        cookies.clear();
        Self {
            section,
            headers,
            cookies,
            room: limit,
            pseudo: 0,
            regular: false,
            hosts: 0,
            content_length: None,
            too_large: false,
            malformed: None,
        }
    }

    fn bad(&mut self, why: &'static str) {
        self.malformed.get_or_insert(why);
    }

    /// Counts the field; true where it is to be looked at.
    fn admit(&mut self, name: &[u8], value: &[u8]) -> bool {
        match self.room.checked_sub(name.len() + value.len() + ENTRY_OVERHEAD) {
            Some(room) => self.room = room,
            None => self.too_large = true,
        }
        !self.too_large && self.malformed.is_none()
    }

    /// Notes a pseudo-header; false where it may not stand here.
    fn pseudo(&mut self, bit: u8) -> bool {
        if self.regular {
            self.bad("a pseudo-header after a regular field");
            return false;
        }
        if self.pseudo & bit != 0 {
            self.bad("a pseudo-header twice");
            return false;
        }
        self.pseudo |= bit;
        true
    }

    fn regular(&mut self, name: &[u8], value: &[u8], authority: &mut Vec<u8>) {
        self.regular = true;
        let id = HeaderId::of(name);
        // A known name is a good name.
        if id == HeaderId::Other && !is_name(name) {
            return self.bad("a field name that HTTP/2 does not allow");
        }
        if !is_value(value) {
            return self.bad("a field value with a character that is not allowed");
        }
        match id {
            HeaderId::Te if self.section == Section::Request && value == b"trailers" => {}
            id if id.is_hop_by_hop() => return self.bad("a field of HTTP/1.1 connections, or te other than trailers"),
            HeaderId::Cookie if self.section == Section::Request => {
                if !self.cookies.is_empty() {
                    self.cookies.extend_from_slice(b"; ");
                }
                self.cookies.extend_from_slice(value);
                return;
            }
            HeaderId::Host if self.section == Section::Request => {
                self.hosts = self.hosts.saturating_add(1);
                if self.hosts > 1 || value.is_empty() || !is_authority(value) {
                    return self.bad("more than one host field, or one that is not a host");
                }
                if self.pseudo & AUTHORITY == 0 {
                    authority.clear();
                    authority.extend_from_slice(value);
                } else if !authority.eq_ignore_ascii_case(value) {
                    return self.bad("host and :authority differ");
                }
                return;
            }
            // As in the trailers of chunks: left out, since a client may send them and an HTTP/1.1 upstream believe them.
            id if self.section == Section::Trailers && id.is_for_heads_only() => return,
            HeaderId::ContentLength => match decimal(value) {
                Some(length) if self.content_length.is_none() => self.content_length = Some(length),
                _ => return self.bad("a content-length that is no number, or two of them"),
            },
            _ => {}
        }
        self.headers.push_lower(name, id, value);
    }

    fn verdict(self) -> Verdict {
        if let Some(why) = self.malformed {
            return Verdict::Malformed(why);
        }
        if self.too_large {
            return Verdict::TooLarge;
        }
        if !self.cookies.is_empty() {
            self.headers.push_lower(b"cookie", HeaderId::Cookie, self.cookies);
        }
        Verdict::Good { content_length: self.content_length }
    }
}

/// A field section being read. `cookies` is scratch memory.
pub(crate) fn request<E>(
    head: &mut RequestHead,
    cookies: &mut Vec<u8>,
    limit: usize,
    decode: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), E>,
) -> Result<Verdict, E> {
    head.clear();
    let RequestHead { method, scheme, authority, path, headers } = head;
    let mut it = Collector::new(Section::Request, headers, cookies, limit);
    decode(&mut |name, value| {
        if !it.admit(name, value) {
            return;
        }
        if name.first() != Some(&b':') {
            return it.regular(name, value, authority);
        }
        match name {
            b":method" if it.pseudo(METHOD) => match Method::parse(value) {
                Some(known) => *method = known,
                None => it.bad(":method is not a token"),
            },
            b":scheme" if it.pseudo(SCHEME) => match value {
                b"https" => *scheme = Scheme::Https,
                b"http" => *scheme = Scheme::Http,
                _ => it.bad(":scheme is neither http nor https"),
            },
            b":authority" if it.pseudo(AUTHORITY) => {
                if !value.is_empty() && is_authority(value) {
                    authority.extend_from_slice(value);
                } else {
                    it.bad(":authority is not a host and port");
                }
            }
            b":path" if it.pseudo(PATH) => {
                if is_path(value) {
                    path.extend_from_slice(value);
                } else {
                    it.bad(":path is empty or not in origin form");
                }
            }
            b":method" | b":scheme" | b":authority" | b":path" => {}
            _ => it.bad("a pseudo-header that requests do not have"),
        }
    })?;
    let pseudo = it.pseudo;
    let verdict = it.verdict();
    Ok(match verdict {
        Verdict::Good { .. } => {
            let why = match method {
                Method::Connect if pseudo != METHOD | AUTHORITY => Some("CONNECT with other than :authority"),
                Method::Connect => None,
                _ if pseudo & (METHOD | SCHEME | PATH) != METHOD | SCHEME | PATH => {
                    Some("a request without :method, :scheme or :path")
                }
                _ if authority.is_empty() => Some("a request with neither :authority nor host"),
                Method::Options => None,
                _ if path == b"*" => Some(":path * on other than OPTIONS"),
                _ => None,
            };
            why.map_or(verdict, Verdict::Malformed)
        }
        other => other,
    })
}

pub(crate) fn response<E>(
    head: &mut ResponseHead,
    cookies: &mut Vec<u8>,
    limit: usize,
    decode: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), E>,
) -> Result<Verdict, E> {
    head.headers.clear();
    head.status = 0;
    let ResponseHead { status, headers } = head;
    let mut it = Collector::new(Section::Response, headers, cookies, limit);
    let mut authority = Vec::new();
    decode(&mut |name, value| {
        if !it.admit(name, value) {
            return;
        }
        if name.first() != Some(&b':') {
            return it.regular(name, value, &mut authority);
        }
        if name != b":status" {
            return it.bad("a pseudo-header that responses do not have");
        }
        if it.pseudo(STATUS) {
            match value {
                &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] if value != b"101" => {
                    *status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
                }
                _ => it.bad(":status is no number of three digits, or 101"),
            }
        }
    })?;
    Ok(match it.verdict() {
        Verdict::Good { .. } if *status == 0 => Verdict::Malformed("a response without :status"),
        verdict => verdict,
    })
}

pub(crate) fn trailers<E>(
    headers: &mut Headers,
    cookies: &mut Vec<u8>,
    limit: usize,
    decode: impl FnOnce(&mut dyn FnMut(&[u8], &[u8])) -> Result<(), E>,
) -> Result<Verdict, E> {
    headers.clear();
    let mut it = Collector::new(Section::Trailers, headers, cookies, limit);
    let mut authority = Vec::new();
    decode(&mut |name, value| {
        if !it.admit(name, value) {
            return;
        }
        if name.first() == Some(&b':') {
            return it.bad("a pseudo-header in trailers");
        }
        it.regular(name, value, &mut authority);
    })?;
    Ok(it.verdict())
}

/// Appends a request's fields to a header block.
pub(crate) fn put_request(encoder: &mut Encoder, head: &RequestHead, out: &mut Vec<u8>) {
    encoder.field(b":method", head.method.as_str().as_bytes(), out);
    if head.method != Method::Connect {
        encoder.field(b":scheme", head.scheme.as_str().as_bytes(), out);
    }
    if !head.authority.is_empty() {
        encoder.field(b":authority", &head.authority, out);
    }
    if head.method != Method::Connect {
        let path: &[u8] = if head.path.is_empty() { b"/" } else { &head.path };
        encoder.field(b":path", path, out);
    }
    put_headers(encoder, &head.headers, out);
}

/// Appends a response's fields to a header block.
pub(crate) fn put_response(encoder: &mut Encoder, head: &ResponseHead, out: &mut Vec<u8>) {
    let digit = |unit: u16| b'0' + (head.status / unit % 10) as u8;
    encoder.field(b":status", &[digit(100), digit(10), digit(1)], out);
    put_headers(encoder, &head.headers, out);
}

/// Appends regular fields. Those of HTTP/1.1 connections are left out (RFC 9113, section 8.2.2).
pub(crate) fn put_headers(encoder: &mut Encoder, headers: &Headers, out: &mut Vec<u8>) {
    for header in headers.iter() {
        match header.id {
            HeaderId::Host => {}
            HeaderId::Te if header.value.eq_ignore_ascii_case(b"trailers") => {
                encoder.field(b"te", b"trailers", out);
            }
            id if id.is_hop_by_hop() => {}
            _ => encoder.field(header.name, header.value, out),
        }
    }
}

const NAME: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;

/// What each octet may be part of: one look-up for each octet of a head.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        if token(byte) && !byte.is_ascii_uppercase() {
            classes[at] |= NAME;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            classes[at] |= VALUE;
        }
        // What HTTP/1.1 allows in a request line, as which it may go on.
        if byte > b' ' && byte < 0x7f && byte != b'#' {
            classes[at] |= TARGET;
        }
        at += 1;
    }
    classes
}

const fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn all(text: &[u8], class: u8) -> bool {
    text.iter().all(|&byte| CLASSES[usize::from(byte)] & class != 0)
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && all(name, NAME)
}

fn is_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    all_visible(value) && !blank(value.first()) && !blank(value.last())
}

/// Every octet is one of a field value, looked at eight at a time: almost every value passes at once.
fn all_visible(value: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, tail) = value.as_chunks::<8>();
    let doubtful = words.iter().fold(0, |doubtful, word| {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        doubtful | ((control | (delete.wrapping_sub(ONES) & !delete)) & HIGH)
    });
    if doubtful == 0 { all(tail, VALUE) } else { all(value, VALUE) }
}

fn is_path(value: &[u8]) -> bool {
    value == b"*" || (value.first() == Some(&b'/') && all(value, TARGET))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    text.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::is_token;

    fn read(fields: &[(&str, &str)]) -> (Verdict, RequestHead) {
        let mut head = RequestHead::default();
        let verdict = request(&mut head, &mut Vec::new(), 2000, |field| {
            fields.iter().for_each(|(name, value)| field(name.as_bytes(), value.as_bytes()));
            Ok::<(), ()>(())
        });
        (verdict.unwrap_or(Verdict::TooLarge), head)
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":authority", "user-service:80"), (":path", "/a?b")];

    fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        GET.iter().chain(more).copied().collect()
    }

    #[test]
    fn classes_agree_with_the_definition_of_a_token() {
        for byte in 0..=255 {
            assert_eq!(is_token(byte), token(byte));
        }
    }

    #[test]
    fn a_request_is_read_and_its_cookies_joined() {
        let fields =
            with(&[("cookie", "a=1"), ("x", ""), ("cookie", "b=2"), ("host", "USER-service:80"), ("te", "trailers")]);
        let (verdict, head) = read(&fields);
        assert_eq!(verdict, Verdict::Good { content_length: None });
        assert_eq!((&head.authority[..], &head.path[..]), (&b"user-service:80"[..], &b"/a?b"[..]));
        assert_eq!(head.headers.get(b"cookie"), Some(&b"a=1; b=2"[..]));
        assert_eq!(head.headers.get(b"host"), None);
        let (_, head) = read(&[GET[0], GET[1], GET[3], ("host", "b")]);
        assert_eq!(head.authority, b"b");
    }

    #[test]
    fn malformed_requests_are_refused() {
        let bad = |fields: &[(&str, &str)]| matches!(read(fields).0, Verdict::Malformed(_));
        for more in [
            ("X-Upper", "1"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "1"),
            ("proxy-connection", "1"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("te", "trailers, gzip"),
            ("host", "other"),
            ("content-length", "+1"),
            ("content-length", ""),
            ("content-length", "99999999999999999999999"),
            ("a b", "1"),
            ("", "1"),
            ("a", "x\ry"),
            ("a", "x\ny"),
            ("a", "x\0y"),
            ("a", " x"),
            ("a", "x\t"),
            (":path", "/twice"),
            (":protocol", "websocket"),
            (":status", "200"),
            (":unknown", "1"),
        ] {
            assert!(bad(&with(&[more])), "{more:?}");
        }
        for missing in [0, 1, 2, 3] {
            let mut fields = GET.to_vec();
            fields.remove(missing);
            assert!(bad(&fields), "{missing}");
        }
        assert!(bad(&with(&[("a", "1"), (":method", "GET")])));
        assert!(bad(&with(&[("content-length", "1"), ("content-length", "1")])));
        assert!(bad(&with(&[("host", "user-service:80"), ("host", "user-service:80")])));
        assert!(bad(&[GET[0], GET[1], GET[2], (":path", "")]));
        assert!(bad(&[GET[0], GET[1], GET[2], (":path", "http://a/")]));
        assert!(bad(&[GET[0], GET[1], GET[2], (":path", "*")]));
        for path in ["/a\u{e9}", "/a#b", "/a b", "/a\x7f"] {
            assert!(bad(&[GET[0], GET[1], GET[2], (":path", path)]), "{path}");
        }
        for authority in ["user@host", "a:b:c", ":80", "a:99999", "[]", "a]", "\u{e9}", ""] {
            assert!(bad(&[GET[0], GET[1], GET[3], (":authority", authority)]), "{authority}");
            assert!(bad(&[GET[0], GET[1], GET[3], ("host", authority)]), "{authority}");
        }
        assert!(!bad(&[GET[0], GET[1], GET[3], (":authority", "[::1]:8080")]));
        assert!(bad(&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a:1")]));
        assert!(!bad(&[(":method", "CONNECT"), (":authority", "a:1")]));
        assert!(!bad(&[(":method", "OPTIONS"), GET[1], GET[2], (":path", "*")]));
    }

    #[test]
    fn trailers_neither_frame_nor_route_nor_authenticate() {
        let read = |fields: &[(&str, &str)]| {
            let mut headers = Headers::new();
            let verdict = trailers(&mut headers, &mut Vec::new(), 2000, |field| {
                fields.iter().for_each(|(name, value)| field(name.as_bytes(), value.as_bytes()));
                Ok::<(), ()>(())
            });
            (verdict, headers)
        };
        let forbidden = [("content-length", "x"), ("host", "a"), ("authorization", "b"), ("trailer", "c")];
        let (verdict, headers) = read(&[&forbidden[..], &[("grpc-status", "0")]].concat());
        assert_eq!(verdict, Ok(Verdict::Good { content_length: None }));
        assert_eq!(headers.iter().map(|header| header.name.to_vec()).collect::<Vec<_>>(), [b"grpc-status".to_vec()]);
        for field in [("transfer-encoding", "chunked"), ("connection", "close"), (":path", "/")] {
            assert!(matches!(read(&[field]).0, Ok(Verdict::Malformed(_))), "{field:?}");
        }
    }

    #[test]
    fn values_are_looked_at_alike_by_eights_and_by_ones() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                let mut value = [b'x'; 20];
                value[place] = byte;
                assert_eq!(all_visible(&value), all(&value, VALUE), "{byte} {place}");
            }
        }
    }

    #[test]
    fn a_section_above_the_limit_is_not_kept() {
        let long = "x".repeat(1900);
        let mut fields = GET.to_vec();
        fields.push(("long", &long));
        assert_eq!(read(&fields).0, Verdict::TooLarge);
    }
}
