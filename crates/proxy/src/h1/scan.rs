//! The lines of an HTTP/1.1 head, in one pass over its bytes. Pure.
//!
//! Nothing is forgiven: a line ends in CRLF, a field's name touches its colon, and no line is folded (RFC 9112,
//! sections 2.2, 5.1 and 5.2). A general parser that forgives had to be checked again for each of these, and the two
//! passes were a quarter of a request's instructions.

use super::parse::{HEADERS_MAX, HeadError};
use crate::http::headers::Line;

/// What a character may be, as far as a scan has to know.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// The first line, without its end. `Ok(None)`: more bytes are needed. Empty lines before it are skipped, as RFC 9112,
/// section 2.2 asks; the count of bytes includes them.
pub(super) fn first_line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, HeadError> {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    Ok(text_end(&bytes[at..])?.map(|length| (&bytes[at..at + length], at + length + 2)))
}

/// Hands the field lines at the front of `bytes` to `take`, up to the empty line that ends them; says how many bytes
/// they took with it. `Ok(None)`: more bytes are needed.
#[inline]
pub(super) fn fields<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(Line<'a>) -> Result<(), HeadError>,
) -> Result<Option<usize>, HeadError> {
    let mut at = 0;
    let mut count = 0;
    loop {
        let rest = &bytes[at..];
        let name_len = rest.iter().position(|&byte| !TOKEN[usize::from(byte)]);
        match name_len.map(|length| (length, rest[length])) {
            None => return Ok(None),
            Some((length @ 1.., b':')) => {
                let Some((line, taken)) = field(rest, length)? else { return Ok(None) };
                count += 1;
                if count > HEADERS_MAX {
                    return Err(HeadError::TooManyHeaders);
                }
                take(line)?;
                at += taken;
            }
            Some((0, b'\r')) => match rest.get(1) {
                None => return Ok(None),
                Some(b'\n') => return Ok(Some(at + 2)),
                Some(_) => return Err(HeadError::Malformed),
            },
            Some((_, b'\n')) => return Err(HeadError::BareLineFeed),
            // A folded line, a space before the colon, a name without one.
            Some(_) => return Err(HeadError::Malformed),
        }
    }
}

/// The field line whose name has `name_len` bytes, and how many bytes it took.
#[inline]
fn field(bytes: &[u8], name_len: usize) -> Result<Option<(Line<'_>, usize)>, HeadError> {
    let from = name_len + 1;
    let Some(length) = text_end(&bytes[from..])? else { return Ok(None) };
    let text = &bytes[from..from + length];
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let lead = text.iter().position(|byte| !is_space(byte)).unwrap_or(length);
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(lead, |at| at + 1);
    let taken = from + length + 2;
    let line = Line {
        bytes: &bytes[..taken],
        // A longer name than any limit of ours lets through.
        name_len: u16::try_from(name_len).map_err(|_| HeadError::TooLarge)?,
        value_at: from + lead,
        value_len: end - lead,
    };
    Ok(Some((line, taken)))
}

/// Where the CRLF that ends a line stands. `Ok(None)`: not in these bytes. Control characters other than a tab are
/// refused (RFC 9110, section 5.5).
#[inline]
fn text_end(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut at = 0;
    loop {
        at += match control(&bytes[at..]) {
            Some(found) => found,
            None => return Ok(None),
        };
        match (bytes[at], bytes.get(at + 1)) {
            (b'\t', _) => at += 1,
            (b'\r', Some(b'\n')) => return Ok(Some(at)),
            (b'\r', None) => return Ok(None),
            (b'\n', _) => return Err(HeadError::BareLineFeed),
            _ => return Err(HeadError::Malformed),
        }
    }
}

/// The first control character: below space, or DEL.
#[inline]
fn control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 128;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Eight bytes at once: the borrow of a subtraction can only spoil what lies above a true finding.
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let del = (word ^ (ONES * 0x7f)).wrapping_sub(ONES) & !(word ^ (ONES * 0x7f));
        let found = (low | del) & HIGH;
        if found != 0 {
            return Some(index * 8 + (found.trailing_zeros() / 8) as usize);
        }
    }
    let tail = rest.iter().position(|&byte| byte < 0x20 || byte == 0x7f)?;
    Some(words.len() * 8 + tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn finds_the_first_control_character(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let slowly = bytes.iter().position(|byte| byte.is_ascii_control());
            proptest::prop_assert_eq!(control(&bytes), slowly);
        }
    }
}
