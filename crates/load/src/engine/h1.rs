//! One HTTP/1.1 connection's responses: bytes in, answers out (RFC 9112). Sans-IO.
//!
//! ```text
//! Head --whole head--> Length | Chunked | UntilClose --whole body--> Head
//!   ^---1xx----'            (no body: answered at once)
//! ```

use celerity_telemetry::ledger::CATEGORIES;

use super::ledger::parse_server_timing;

/// A response head that is longer is not one that a service sends: 64 KiB, as curl has per line and nginx per head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of one head.
const HEADERS_MAX: usize = 128;
/// What a script that reads bodies may be handed.
const KEPT_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A line of a chunked body: the size, and extensions that nobody reads.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// What a response is read for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Want<'a> {
    pub(super) ledger: bool,
    pub(super) tally: Option<&'a str>,
    /// Keep headers and body for a script.
    pub(super) all: bool,
}

/// A whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) status: u16,
    /// The connection may carry another request.
    pub(super) keep: bool,
    pub(super) bytes: u64,
    pub(super) body_bytes: u64,
    pub(super) ledger_us: Option<[u32; CATEGORIES]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// A size line, a trailer line or the line end after data, so far in `partial`.
    Size,
    Data(u64),
    DataEnd,
    Trailer,
}

/// What is kept of a response for scripts.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) tally: String,
}

/// The reading side of a connection.
#[derive(Debug)]
pub(super) struct H1 {
    state: State,
    /// The beginning of a head or of a line whose end has not come; empty most of the time.
    partial: Vec<u8>,
    done: Done,
    pub(super) kept: Kept,
}

const NOTHING: Done = Done { status: 0, keep: true, bytes: 0, body_bytes: 0, ledger_us: None };

impl H1 {
    pub(super) fn new() -> Self {
        Self { state: State::Head, partial: Vec::new(), done: NOTHING, kept: Kept::default() }
    }

    /// For a new connection. Keeps the buffers.
    pub(super) fn reset(&mut self) {
        self.state = State::Head;
        self.partial.clear();
        self.done = NOTHING;
    }

    /// Whether a response has begun.
    pub(super) fn begun(&self) -> bool {
        self.done.bytes > 0
    }

    /// Takes what belongs to the current response from the front of `data`. `Some` when it is whole; the rest of `data` is
    /// then untouched. `to_head` is whether the request was HEAD.
    pub(super) fn feed(
        &mut self,
        data: &mut &[u8],
        to_head: bool,
        want: Want<'_>,
    ) -> Result<Option<Done>, &'static str> {
        while !data.is_empty() {
            let before = data.len();
            let whole = match self.state {
                State::Head => self.head(data, to_head, want)?,
                State::Length(left) => {
                    let taken = (left.min(data.len() as u64)) as usize;
                    self.body(data, taken, want)?;
                    self.state = State::Length(left - taken as u64);
                    left == taken as u64
                }
                State::Chunked(chunk) => self.chunked(data, chunk, want)?,
                State::UntilClose => {
                    self.body(data, data.len(), want)?;
                    false
                }
            };
            self.done.bytes += (before - data.len()) as u64;
            if whole {
                return Ok(Some(self.take_done()));
            }
        }
        Ok(None)
    }

    /// The other side has closed. `Some` where that ends a body.
    pub(super) fn closed(&mut self) -> Option<Done> {
        (self.state == State::UntilClose).then(|| self.take_done())
    }

    fn take_done(&mut self) -> Done {
        self.state = State::Head;
        std::mem::replace(&mut self.done, NOTHING)
    }

    /// Reads a head. True where the response has no body.
    fn head(&mut self, data: &mut &[u8], to_head: bool, want: Want<'_>) -> Result<bool, &'static str> {
        if self.partial.is_empty() {
            let whole = *data;
            return match self.parse(whole, to_head, want)? {
                Some((taken, no_body)) => {
                    *data = whole.get(taken..).unwrap_or_default();
                    Ok(no_body)
                }
                None => {
                    self.keep_partial(data, HEAD_BYTES_MAX)?;
                    Ok(false)
                }
            };
        }
        // Only what the head needs is copied: a body behind it may be long.
        let had = self.partial.len();
        let room = (HEAD_BYTES_MAX + 1 - had.min(HEAD_BYTES_MAX)).min(data.len());
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(data.get(..room).unwrap_or_default());
        let parsed = self.parse(&joined, to_head, want);
        let long = joined.len() > HEAD_BYTES_MAX;
        self.partial = joined;
        match parsed? {
            Some((taken, no_body)) => {
                self.partial.clear();
                *data = data.get(taken.saturating_sub(had)..).unwrap_or_default();
                Ok(no_body)
            }
            None if long => Err("a response head longer than 64 KiB"),
            None => {
                *data = data.get(room..).unwrap_or_default();
                Ok(false)
            }
        }
    }

    fn keep_partial(&mut self, data: &mut &[u8], max: usize) -> Result<(), &'static str> {
        if self.partial.len() + data.len() > max {
            return Err("a response head or chunk line that does not end");
        }
        self.partial.extend_from_slice(data);
        *data = &[];
        Ok(())
    }

    /// Length of the head and whether there is no body; `None` where it is not whole. Goes past an interim response.
    fn parse(&mut self, bytes: &[u8], to_head: bool, want: Want<'_>) -> Result<Option<(usize, bool)>, &'static str> {
        let mut fields = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
        let taken = match parsed {
            Ok(httparse::Status::Complete(taken)) => taken,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err("a response head with more than 128 fields"),
            Err(_) => return Err("a response head that is not HTTP/1.1"),
        };
        let status = head.code.unwrap_or(0);
        if status == 101 {
            return Err("a switch of protocols that nobody asked for");
        }
        if (100..200).contains(&status) {
            return Ok(Some((taken, false)));
        }
        let mut length: Option<u64> = None;
        let mut chunked = false;
        let mut coded = false;
        let mut keep = head.version == Some(1);
        self.done.status = status;
        if want.all {
            self.kept.headers.clear();
            self.kept.body.clear();
        }
        if want.tally.is_some() {
            self.kept.tally.clear();
        }
        for field in head.headers.iter() {
            let (name, value) = (field.name, field.value);
            // The length tells most names apart before a byte is compared.
            match name.len() {
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let told = parse_length(value).ok_or("a malformed content-length")?;
                    if length.is_some_and(|other| other != told) {
                        return Err("two content-lengths that differ");
                    }
                    length = Some(told);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    coded = true;
                    chunked = last_token(value).eq_ignore_ascii_case(b"chunked");
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for token in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                        if token.eq_ignore_ascii_case(b"close") {
                            keep = false;
                        } else if token.eq_ignore_ascii_case(b"keep-alive") && head.version == Some(0) {
                            keep = true;
                        }
                    }
                }
                13 if want.ledger && name.eq_ignore_ascii_case("server-timing") => {
                    self.done.ledger_us =
                        std::str::from_utf8(value).ok().and_then(parse_server_timing).or(self.done.ledger_us);
                }
                _ => {}
            }
            if want.tally.is_some_and(|wanted| name.eq_ignore_ascii_case(wanted)) {
                self.kept.tally.push_str(&String::from_utf8_lossy(value));
            }
            if want.all {
                self.kept.headers.push((name.to_owned(), value.to_vec()));
            }
        }
        self.done.keep = keep;
        // RFC 9112 section 6.3, in its order.
        let no_body = if to_head || status == 204 || status == 304 {
            true
        } else if coded {
            self.state = if chunked { State::Chunked(Chunk::Size) } else { State::UntilClose };
            false
        } else if let Some(length) = length {
            self.state = State::Length(length);
            length == 0
        } else {
            self.state = State::UntilClose;
            false
        };
        if self.state == State::UntilClose {
            self.done.keep = false;
        }
        Ok(Some((taken, no_body)))
    }

    fn body(&mut self, data: &mut &[u8], taken: usize, want: Want<'_>) -> Result<(), &'static str> {
        let (body, rest) = data.split_at_checked(taken).ok_or("a body past its data")?;
        if want.all {
            if self.kept.body.len() + body.len() > KEPT_BODY_BYTES_MAX {
                return Err("a body longer than the 16 MiB that a script may read");
            }
            self.kept.body.extend_from_slice(body);
        }
        self.done.body_bytes += body.len() as u64;
        *data = rest;
        Ok(())
    }

    /// True after the last line of the trailers.
    fn chunked(&mut self, data: &mut &[u8], chunk: Chunk, want: Want<'_>) -> Result<bool, &'static str> {
        if let Chunk::Data(left) = chunk {
            let taken = left.min(data.len() as u64);
            self.body(data, taken as usize, want)?;
            let left = left - taken;
            self.state = State::Chunked(if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) });
            return Ok(false);
        }
        let Some(end) = memchr::memchr(b'\n', data) else {
            self.keep_partial(data, CHUNK_LINE_BYTES_MAX)?;
            return Ok(false);
        };
        let (line, rest) = data.split_at_checked(end + 1).ok_or("a line past its data")?;
        *data = rest;
        let joined;
        let line = if self.partial.is_empty() {
            line
        } else {
            let mut kept = std::mem::take(&mut self.partial);
            kept.extend_from_slice(line);
            joined = kept;
            &joined
        };
        let line = line.strip_suffix(b"\r\n").ok_or("a chunk line without its line end")?;
        let next = match chunk {
            Chunk::Size => match parse_chunk_size(line).ok_or("a malformed chunk size")? {
                0 => Chunk::Trailer,
                size => Chunk::Data(size),
            },
            Chunk::DataEnd if line.is_empty() => Chunk::Size,
            Chunk::DataEnd => return Err("a chunk that is longer than it said"),
            Chunk::Trailer if line.is_empty() => return Ok(true),
            Chunk::Trailer | Chunk::Data(_) => Chunk::Trailer,
        };
        self.state = State::Chunked(next);
        Ok(false)
    }
}

/// Digits only; several equal values in one field are one (RFC 9110 section 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    let mut told = None;
    for part in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = std::str::from_utf8(part).ok()?.parse::<u64>().ok()?;
        if told.is_some_and(|other| other != number) {
            return None;
        }
        told = Some(number);
    }
    told
}

fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&b| b == b';').next()?.trim_ascii_end();
    // Sixteen hexadecimal digits fill 64 bits.
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0_u64, |size, &b| Some(size << 4 | u64::from((b as char).to_digit(16)?)))
}

fn last_token(value: &[u8]) -> &[u8] {
    value.rsplit(|&b| b == b',').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes in pieces of every size and expects the same answers.
    fn answers(bytes: &[u8], to_head: bool) -> Result<Vec<(u16, u64, bool)>, &'static str> {
        let run = |piece: usize| -> Result<Vec<_>, &'static str> {
            let mut h1 = H1::new();
            let mut out = Vec::new();
            for part in bytes.chunks(piece) {
                let mut part = part;
                while !part.is_empty() {
                    if let Some(done) = h1.feed(&mut part, to_head, Want::default())? {
                        out.push((done.status, done.body_bytes, done.keep));
                    }
                }
            }
            if let Some(done) = h1.closed() {
                out.push((done.status, done.body_bytes, done.keep));
            } else if h1.begun() {
                return Err("not whole");
            }
            Ok(out)
        };
        let whole = run(bytes.len());
        for piece in 1..bytes.len().min(40) {
            assert_eq!(run(piece), whole, "pieces of {piece}");
        }
        whole
    }

    #[test]
    fn bodies_end_where_the_rfc_says() {
        assert_eq!(
            answers(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\n", false),
            Ok(vec![(200, 3, true), (204, 0, true)])
        );
        assert_eq!(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true), Ok(vec![(200, 0, true)]));
        assert_eq!(answers(b"HTTP/1.1 304 Not\r\nContent-Length: 3\r\n\r\n", false), Ok(vec![(304, 0, true)]));
        assert_eq!(
            answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n", false),
            Ok(vec![(200, 13, true)])
        );
        assert_eq!(answers(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", false), Ok(vec![(200, 13, false)]));
        assert_eq!(
            answers(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                false
            ),
            Ok(vec![(200, 0, false)])
        );
        assert_eq!(
            answers(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", false),
            Ok(vec![(200, 1, true)])
        );
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for bad in [
            &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        ] {
            assert!(answers(bad, false).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_head_without_end_is_not_kept_for_ever() {
        let mut h1 = H1::new();
        assert_eq!(h1.feed(&mut &b"HTTP/1.1 200 OK\r\nx: y"[..], false, Want::default()), Ok(None));
        let error = (0..100).find_map(|_| h1.feed(&mut &[b'y'; 4096][..], false, Want::default()).err());
        assert!(error.is_some() && h1.partial.len() <= HEAD_BYTES_MAX + 1);
    }

    #[test]
    fn the_ledger_is_read_when_asked_for() {
        let mut h1 = H1::new();
        let mut data =
            &b"HTTP/1.1 200 OK\r\nServer-Timing: network;dur=0.5, service;dur=2\r\nContent-Length: 0\r\n\r\n"[..];
        let done = h1.feed(&mut data, false, Want { ledger: true, ..Want::default() }).expect("http").expect("whole");
        assert_eq!(done.ledger_us.map(|l| l[0]), Some(500));
    }
}
