//! What a script returns as its request: read only as far as to know how many answers it will get.

/// Headers of one request; a script that needs more than this is not written by a person.
const HEADERS_MAX: usize = 128;

/// Appends a request of a message. `before_path`, which a forward proxy wants, goes before a target that is a path.
pub(super) fn put(out: &mut Vec<u8>, request: &[u8], before_path: Option<&str>) {
    let target = request.iter().position(|&b| b == b' ').map_or(0, |space| space + 1);
    let (method, rest) = request.split_at(target.min(request.len()));
    out.extend_from_slice(method);
    if rest.starts_with(b"/") {
        out.extend_from_slice(before_path.unwrap_or_default().as_bytes());
    }
    out.extend_from_slice(rest);
}

/// The requests in a message, at least one; `each` is told of them in turn.
///
/// # Errors
/// It is not made of whole HTTP/1.1 requests.
pub(super) fn requests(message: &[u8], mut each: impl FnMut(&[u8])) -> Result<u16, String> {
    if message.len() > super::MESSAGE_BYTES_MAX {
        return Err(format!("the message has {} bytes, and may have {}", message.len(), super::MESSAGE_BYTES_MAX));
    }
    let mut rest = message;
    let mut count: u16 = 0;
    while !rest.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(rest) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Err("the message ends within a request's head".into()),
            Err(error) => return Err(format!("the message is not an HTTP/1.1 request: {error}")),
        };
        let (mut length, mut chunked) = (None, false);
        for header in request.headers.iter() {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-length") {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|v| v.parse::<usize>().ok());
                match number {
                    Some(number) if length.is_none_or(|before| before == number) => length = Some(number),
                    _ => return Err("Content-Length is not one number".into()),
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = true;
            }
        }
        let after = rest.get(head..).unwrap_or_default();
        let body = match (length, chunked) {
            (Some(_), true) => return Err("Content-Length and Transfer-Encoding together".into()),
            (_, true) => chunked_len(after)?,
            (length, false) => length.unwrap_or(0),
        };
        let before = rest;
        rest = after.get(body..).ok_or("the message ends within a request's body")?;
        each(before.get(..before.len() - rest.len()).unwrap_or_default());
        count = count.checked_add(1).ok_or("more requests in one message than 65535")?;
    }
    if count == 0 { Err("the message is empty".into()) } else { Ok(count) }
}

/// The length of a chunked body with its trailers.
fn chunked_len(body: &[u8]) -> Result<usize, String> {
    let ends = || "the message ends within a chunked body".to_owned();
    let mut at: usize = 0;
    loop {
        let rest = body.get(at..).unwrap_or_default();
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((line, 0))) => {
                // Trailers, up to an empty line.
                at += line;
                loop {
                    let rest = body.get(at..).unwrap_or_default();
                    let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or_else(ends)?;
                    at += end + 2;
                    if end == 0 {
                        return Ok(at);
                    }
                }
            }
            Ok(httparse::Status::Complete((line, size))) => {
                let size = usize::try_from(size).map_err(|_| ends())?;
                at = at.checked_add(line).and_then(|at| at.checked_add(size)).ok_or_else(ends)?;
                if body.get(at..at.saturating_add(2)) != Some(b"\r\n") {
                    return Err(ends());
                }
                at += 2;
            }
            Ok(httparse::Status::Partial) => return Err(ends()),
            Err(error) => return Err(format!("a chunk's size is malformed: {error}")),
        }
    }
}

/// Any message, for fuzzing: what is taken must be whole, so that it is no longer so without its last octet.
pub(super) fn fuzz(input: &[u8]) {
    if let (Ok(count), Some((_, shorter))) = (requests(input, |_| {}), input.split_last()) {
        assert!(count > 0 && requests(shorter, |_| {}) != Ok(count), "{}", input.escape_ascii());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_requests_are_counted() {
        let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(requests(get, |_| {}), Ok(1));
        assert_eq!(requests(&[&get[..], post, chunked, get].concat(), |_| {}), Ok(4));
    }

    #[test]
    fn what_has_no_end_is_refused() {
        for bad in [
            &b""[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc",
            b"POST / HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\nabcd",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            b"hello",
        ] {
            assert!(requests(bad, |_| {}).is_err(), "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, tail: Vec<u8>) {
            fuzz(&bytes);
            let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            fuzz(&[&head[..], &tail].concat());
        }
    }
}
