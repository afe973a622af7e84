//! Where a body ends, and the chunked coding (RFC 9112, section 7.1). Pure.

use super::parse::{HeadError, trailers};
use crate::http::Headers;

/// A chunk's size line with its extensions. Real ones have a few bytes; a long one is an attack.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// A trailer section, as the head's own default limit is per message and trailers are few.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Where a message's body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    Empty,
    Exact(u64),
    Chunked,
    /// Responses only: the body ends when the connection does.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk's size line is malformed (RFC 9112, section 7.1)")]
    ChunkSize,
    #[error("a chunk's data is not followed by CRLF (RFC 9112, section 7.1)")]
    ChunkEnd,
    #[error("the trailer section is malformed or larger than {TRAILER_BYTES_MAX} bytes: {0}")]
    Trailers(HeadError),
    #[error("the connection ended inside the body")]
    Truncated,
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyReadError {
    #[error(transparent)]
    Framing(#[from] BodyError),
    #[error("reading the body: {0}")]
    Io(#[from] std::io::Error),
}

/// Why a body could not be written to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyWriteError {
    #[error("the body is longer than its Content-Length")]
    TooLong,
    #[error("the body is shorter than its Content-Length")]
    TooShort,
    #[error("writing the body: {0}")]
    Io(#[from] std::io::Error),
}

/// ```text
///   Exact(n) ----------------------------------------------> Done
///   Size -> Data(n) -> DataEnd -> Size ... Size(0) -> Trailers -> Done
///   UntilClose -- end of stream --------------------------> Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Exact(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What the bytes at the front of the buffer are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This many bytes of body.
    Data(usize),
    /// This many bytes of framing: drop them and ask again.
    Skip(usize),
    /// Not enough bytes to say.
    More,
    /// The body is over.
    Done,
}

#[derive(Debug)]
pub struct BodyReader {
    state: State,
}

impl BodyReader {
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Empty => State::Done,
            BodyLength::Exact(length) => State::Exact(length),
            BodyLength::Chunked => State::Size,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What the front of `bytes` is. Data is only named, not taken: `took` says how much of it was.
    pub fn step(&mut self, bytes: &[u8], trailer: &mut Headers) -> Result<Step, BodyError> {
        let data = |left: u64| match bytes.len() {
            0 => Step::More,
            have => Step::Data(usize::try_from(left).map_or(have, |left| left.min(have))),
        };
        Ok(match self.state {
            State::Done => Step::Done,
            State::Exact(left) | State::Data(left) => data(left),
            State::UntilClose => data(u64::MAX),
            State::Size => match size_line(bytes)? {
                None => Step::More,
                Some((size, taken)) => {
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                    Step::Skip(taken)
                }
            },
            State::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Step::Skip(2)
                }
                [] | [b'\r'] => Step::More,
                _ => return Err(BodyError::ChunkEnd),
            },
            State::Trailers => match trailers(bytes, trailer).map_err(BodyError::Trailers)? {
                Some(taken) => {
                    self.state = State::Done;
                    Step::Skip(taken)
                }
                None if bytes.len() > TRAILER_BYTES_MAX => return Err(BodyError::Trailers(HeadError::TooLarge)),
                None => Step::More,
            },
        })
    }

    /// The data at the front of `bytes`; empty where framing comes first.
    pub fn piece<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let left = match self.state {
            State::Exact(left) | State::Data(left) => usize::try_from(left).unwrap_or(usize::MAX),
            State::UntilClose => usize::MAX,
            _ => 0,
        };
        &bytes[..bytes.len().min(left)]
    }

    /// Counts `taken` bytes of the data that `step` named.
    pub fn took(&mut self, taken: usize) {
        let taken = taken as u64;
        self.state = match self.state {
            State::Exact(left) if left <= taken => State::Done,
            State::Exact(left) => State::Exact(left - taken),
            State::Data(left) if left <= taken => State::DataEnd,
            State::Data(left) => State::Data(left - taken),
            other => other,
        };
    }

    /// The peer closed its side: the end of a body that ends so, an error for the others.
    pub fn end_of_stream(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }
}

/// `chunk-size [ chunk-ext ] CRLF`. No space is allowed after the size: proxies differ on what it would mean.
fn size_line(bytes: &[u8]) -> Result<Option<(u64, usize)>, BodyError> {
    let window = &bytes[..bytes.len().min(CHUNK_LINE_BYTES_MAX)];
    let digits = window.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // 16 digits are 64 bits.
    if digits > 16 || digits == 0 && !window.is_empty() {
        return Err(BodyError::ChunkSize);
    }
    if let Some(&after) = window.get(digits)
        && after != b'\r'
        && after != b';'
    {
        return Err(BodyError::ChunkSize);
    }
    let Some(end) = memchr::memchr(b'\n', window) else {
        let bad = window.len() == CHUNK_LINE_BYTES_MAX || window.iter().skip(digits).rev().skip(1).any(|&b| b == b'\r');
        return if bad { Err(BodyError::ChunkSize) } else { Ok(None) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(BodyError::ChunkSize)?;
    let text_only = line[digits..].iter().all(|&byte| byte == b'\t' || (0x20..=0x7e).contains(&byte) || byte >= 0x80);
    if !text_only {
        return Err(BodyError::ChunkSize);
    }
    let size = line[..digits].iter().fold(0u64, |sum, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => digit - b'A' + 10,
        };
        sum << 4 | u64::from(value)
    });
    // No body is so long. Some parsers count in signed numbers, and would see a negative one.
    if size > i64::MAX as u64 {
        return Err(BodyError::ChunkSize);
    }
    Ok(Some((size, end + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes in pieces of `piece` and gathers the body.
    fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let mut reader = BodyReader::new(BodyLength::Chunked);
        let (mut body, mut trailer) = (Vec::new(), Headers::new());
        let (mut start, mut end) = (0, 0);
        loop {
            match reader.step(&bytes[start..end], &mut trailer)? {
                Step::Done => return Ok((body, start, true)),
                Step::Skip(taken) => start += taken,
                Step::Data(taken) => {
                    body.extend_from_slice(&bytes[start..start + taken]);
                    reader.took(taken);
                    start += taken;
                }
                Step::More if end == bytes.len() => return Ok((body, start, false)),
                Step::More => end = (end + piece).min(bytes.len()),
            }
        }
    }

    #[test]
    fn chunks_in_any_pieces() {
        let bytes = b"5;ext=\"a\"\r\nhello\r\n1\r\n!\r\n0\r\nx-check: 1\r\n\r\nGET";
        for piece in 1..bytes.len() {
            assert_eq!(read(bytes, piece), Ok((b"hello!".to_vec(), bytes.len() - 3, true)), "{piece}");
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "5 \r\nhello",
            "5\nhello",
            "0x5\r\n",
            "-1\r\n",
            "11111111111111111\r\n",
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "5\r\nhelloX\r\n",
            "5;a\rb\r\n",
        ] {
            assert!(read(bad.as_bytes(), 64).is_err(), "{bad:?}");
        }
        let long = format!("1;{}", "a".repeat(CHUNK_LINE_BYTES_MAX));
        assert_eq!(read(long.as_bytes(), 64), Err(BodyError::ChunkSize));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), piece in 1usize..20) {
            let _ = read(&bytes, piece);
        }
    }
}
