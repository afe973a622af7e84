//! Heads and chunk frames as HTTP/1.1 bytes. Pure.

use super::body::BodyLength;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead};

/// Appends a request's head. The body's framing comes from `body`, never from a header that passed through.
pub fn request(head: &RequestHead, body: BodyLength, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(if head.path.is_empty() { b"/" } else { &head.path });
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(&head.authority);
    out.extend_from_slice(b"\r\n");
    let takes_trailers = fields(&head.headers, out);
    match body {
        BodyLength::Exact(length) => content_length(length, out),
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Empty if tells_no_body(head) => content_length(0, out),
        BodyLength::Empty | BodyLength::UntilClose => {}
    }
    if takes_trailers {
        // `te` is for this hop, and says so (RFC 9110, section 10.1.4).
        out.extend_from_slice(CONNECTION_TE);
    }
    out.extend_from_slice(b"\r\n");
}

/// A method that may have a body says that it has none (RFC 9110, section 8.6). Those that Envoy lets pass in silence are
/// those whose body means nothing.
fn tells_no_body(head: &RequestHead) -> bool {
    let silent = matches!(head.method, Method::Get | Method::Head | Method::Delete | Method::Connect | Method::Trace);
    !silent || head.headers.contains_id(HeaderId::ContentLength)
}

const CONNECTION_TE: &[u8] = b"connection: te\r\n";

/// How a response's body is framed on its way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    Body(BodyLength),
    /// To HEAD, or 304: the length that a body would have is told, the body is not sent.
    NoBody {
        length: Option<u64>,
    },
}

pub fn response(head: &ResponseHead, framing: ResponseFraming, close: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(digits.format(head.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    fields(&head.headers, out);
    match framing {
        ResponseFraming::Body(BodyLength::Exact(length)) => content_length(length, out),
        ResponseFraming::Body(BodyLength::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // 1xx and 204 must not have a length (RFC 9110, section 8.6).
        ResponseFraming::Body(BodyLength::Empty) if head.status >= 200 && head.status != 204 => content_length(0, out),
        ResponseFraming::NoBody { length: Some(length) } => content_length(length, out),
        ResponseFraming::Body(_) | ResponseFraming::NoBody { length: None } => {}
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Makes the head that `out` ends with ask for WebSocket, or grant it (RFC 6455, sections 4.1 and 4.2.2).
pub fn into_upgrade(out: &mut Vec<u8>) {
    out.truncate(out.len().saturating_sub(2));
    let options: &[u8] = if out.ends_with(CONNECTION_TE) {
        out.truncate(out.len() - CONNECTION_TE.len());
        b"connection: te, upgrade\r\n"
    } else {
        b"connection: upgrade\r\n"
    };
    out.extend_from_slice(options);
    out.extend_from_slice(b"upgrade: websocket\r\n\r\n");
}

/// The size line of a chunk.
pub fn chunk_head(length: usize, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|at| HEX[length >> (4 * at) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// The last chunk, with its trailers.
pub fn chunk_end(trailers: Option<&Headers>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(trailers, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// True where `te` is among them.
fn fields(headers: &Headers, out: &mut Vec<u8>) -> bool {
    let mut te = false;
    // The framing is written from the body's own length; the rest of these speak of the other connection.
    headers.write_lines(out, |id| {
        id == HeaderId::ContentLength
            || id.is_hop_by_hop() && {
                te |= id == HeaderId::Te;
                id != HeaderId::Te
            }
    });
    te
}

fn content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrases of RFC 9110, section 15.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for (length, text) in [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (65_536, "10000\r\n")] {
            let mut out = Vec::new();
            chunk_head(length, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn a_method_that_may_have_a_body_says_that_there_is_none() {
        for (method, told, tells) in [
            ("GET", false, false),
            ("GET", true, true),
            ("DELETE", false, false),
            ("POST", false, true),
            ("PUT", false, true),
            ("PATCH", false, true),
            ("OPTIONS", false, true),
            ("PURGE", false, true),
        ] {
            let method = Method::parse(method.as_bytes()).expect("a method");
            let mut head = RequestHead { method, ..RequestHead::default() };
            if told {
                head.headers.push(b"content-length", b"0");
            }
            let mut out = Vec::new();
            request(&head, BodyLength::Empty, &mut out);
            let text = String::from_utf8_lossy(&out);
            assert_eq!(text.matches("content-length: 0\r\n").count(), usize::from(tells), "{text}");
        }
    }

    #[test]
    fn te_is_nominated() {
        let mut head = RequestHead { authority: b"a".to_vec(), path: b"/".to_vec(), ..RequestHead::default() };
        head.headers.push(b"te", b"trailers");
        let mut out = Vec::new();
        request(&head, BodyLength::Empty, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n"
        );
        into_upgrade(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, upgrade\r\nupgrade: websocket\r\n\r\n"
        );
    }

    #[test]
    fn framing_is_written_once_and_from_the_body() {
        let mut head = ResponseHead::new(200);
        head.headers.push(b"content-length", b"7");
        head.headers.push(b"connection", b"keep-alive");
        head.headers.push(b"x-a", b"1");
        let mut out = Vec::new();
        response(&head, ResponseFraming::Body(BodyLength::Chunked), true, &mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        assert_eq!(text, "HTTP/1.1 200 OK\r\nx-a: 1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n");
    }
}
