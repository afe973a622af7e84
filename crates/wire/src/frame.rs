//! Frames: their layout, read in place and written to the end of the connection's output (RFC 9113, section 6).

use super::code::{Code, Violation};

pub const HEADER_LEN: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;

/// What a client sends before its first frame (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest stream id; also what a first GOAWAY of a graceful shutdown carries.
pub const MAX_STREAM_ID: u32 = 0x7fff_ffff;

/// One frame, borrowed from the read buffer. `stream` has its reserved bit cleared.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// `flow_len` is what counts against the windows: the data and its padding.
    Data {
        stream: u32,
        end_stream: bool,
        data: &'a [u8],
        flow_len: u32,
    },
    Headers {
        stream: u32,
        end_stream: bool,
        end_headers: bool,
        block: &'a [u8],
        /// The stream that this one says it depends on: read only to refuse a stream that depends on itself.
        depends_on: Option<u32>,
    },
    Continuation {
        stream: u32,
        end_headers: bool,
        block: &'a [u8],
    },
    Reset {
        stream: u32,
        code: Code,
    },
    /// `entries` is a list of 6-octet settings.
    Settings {
        ack: bool,
        entries: &'a [u8],
    },
    Ping {
        ack: bool,
        payload: [u8; 8],
    },
    GoAway {
        last_stream: u32,
        code: Code,
    },
    WindowUpdate {
        stream: u32,
        increment: u32,
    },
    Priority {
        stream: u32,
    },
    PushPromise,
    /// A type that RFC 9113 does not define: to be ignored (section 5.5).
    Unknown,
}

/// Reads the frame at the start of `input`: the frame and its whole length, or `None` where bytes are missing.
///
/// # Errors
/// The frame's layout breaks RFC 9113 section 4.2 or 6, or its payload is longer than `max_payload`.
#[inline]
pub fn decode(input: &[u8], max_payload: u32) -> Result<Option<(Frame<'_>, usize)>, Violation> {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let &[a, b, c, kind, flags, s0, s1, s2, s3] = header;
    let len = u32::from_be_bytes([0, a, b, c]);
    if len > max_payload {
        return Err(Violation::size("a frame is longer than MAX_FRAME_SIZE"));
    }
    let Some(payload) = rest.get(..len as usize) else { return Ok(None) };
    let stream = u32::from_be_bytes([s0, s1, s2, s3]) & MAX_STREAM_ID;
    let frame = decode_payload(kind, flags, stream, payload)?;
    Ok(Some((frame, HEADER_LEN + payload.len())))
}

/// The whole length of the frame at the start of `input`, however much of it is there.
#[inline]
pub fn whole_len(input: &[u8]) -> usize {
    match input {
        &[a, b, c, ..] => HEADER_LEN + u32::from_be_bytes([0, a, b, c]) as usize,
        _ => input.len(),
    }
}

fn decode_payload(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Frame<'_>, Violation> {
    Ok(match kind {
        DATA => {
            on_stream(stream, "DATA on stream 0")?;
            let flow_len = payload.len() as u32;
            Frame::Data { stream, end_stream: flags & END_STREAM != 0, data: unpad(flags, payload)?, flow_len }
        }
        HEADERS => {
            on_stream(stream, "HEADERS on stream 0")?;
            let mut block = unpad(flags, payload)?;
            let mut depends_on = None;
            if flags & WITH_PRIORITY != 0 {
                let Some((&[a, b, c, d, _weight], rest)) = block.split_first_chunk::<5>() else {
                    return Err(Violation::size("HEADERS with PRIORITY is too short"));
                };
                depends_on = Some(u32::from_be_bytes([a, b, c, d]) & MAX_STREAM_ID);
                block = rest;
            }
            let (end_stream, end_headers) = (flags & END_STREAM != 0, flags & END_HEADERS != 0);
            Frame::Headers { stream, end_stream, end_headers, block, depends_on }
        }
        CONTINUATION => {
            on_stream(stream, "CONTINUATION on stream 0")?;
            Frame::Continuation { stream, end_headers: flags & END_HEADERS != 0, block: payload }
        }
        PRIORITY => {
            on_stream(stream, "PRIORITY on stream 0")?;
            let Ok(&[a, b, c, d, _weight]) = <&[u8; 5]>::try_from(payload) else {
                return Err(Violation::Stream(stream, Code::FRAME_SIZE_ERROR, "PRIORITY is not 5 octets"));
            };
            if u32::from_be_bytes([a, b, c, d]) & MAX_STREAM_ID == stream {
                return Err(Violation::Stream(stream, Code::PROTOCOL_ERROR, "a stream depends on itself"));
            }
            Frame::Priority { stream }
        }
        RST_STREAM => {
            on_stream(stream, "RST_STREAM on stream 0")?;
            Frame::Reset { stream, code: Code(word(payload, "RST_STREAM is not 4 octets")?) }
        }
        SETTINGS => {
            on_connection(stream, "SETTINGS on a stream")?;
            let ack = flags & ACK != 0;
            if !payload.len().is_multiple_of(6) || (ack && !payload.is_empty()) {
                return Err(Violation::size("SETTINGS has a wrong length"));
            }
            Frame::Settings { ack, entries: payload }
        }
        PUSH_PROMISE => Frame::PushPromise,
        PING => {
            on_connection(stream, "PING on a stream")?;
            let Ok(payload) = <[u8; 8]>::try_from(payload) else {
                return Err(Violation::size("PING is not 8 octets"));
            };
            Frame::Ping { ack: flags & ACK != 0, payload }
        }
        GOAWAY => {
            on_connection(stream, "GOAWAY on a stream")?;
            let Some(&[a, b, c, d, e, f, g, h]) = payload.first_chunk::<8>() else {
                return Err(Violation::size("GOAWAY is shorter than 8 octets"));
            };
            Frame::GoAway {
                last_stream: u32::from_be_bytes([a, b, c, d]) & MAX_STREAM_ID,
                code: Code(u32::from_be_bytes([e, f, g, h])),
            }
        }
        WINDOW_UPDATE => {
            let increment = word(payload, "WINDOW_UPDATE is not 4 octets")? & MAX_STREAM_ID;
            Frame::WindowUpdate { stream, increment }
        }
        _ => Frame::Unknown,
    })
}

fn on_stream(stream: u32, why: &'static str) -> Result<(), Violation> {
    if stream == 0 { Err(Violation::protocol(why)) } else { Ok(()) }
}

fn on_connection(stream: u32, why: &'static str) -> Result<(), Violation> {
    if stream == 0 { Ok(()) } else { Err(Violation::protocol(why)) }
}

fn unpad(flags: u8, payload: &[u8]) -> Result<&[u8], Violation> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let Some((&padding, rest)) = payload.split_first() else {
        return Err(Violation::size("a padded frame is empty"));
    };
    rest.len()
        .checked_sub(usize::from(padding))
        .and_then(|data| rest.get(..data))
        .ok_or(Violation::protocol("padding is as long as the frame or longer"))
}

fn word(payload: &[u8], why: &'static str) -> Result<u32, Violation> {
    <[u8; 4]>::try_from(payload).map(u32::from_be_bytes).map_err(|_| Violation::size(why))
}

/// The settings in the payload of a SETTINGS frame.
#[inline]
pub fn settings(entries: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    entries
        .as_chunks::<6>()
        .0
        .iter()
        .map(|&[a, b, c, d, e, f]| (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
}

#[inline]
pub fn header(kind: u8, flags: u8, stream: u32, len: usize) -> [u8; HEADER_LEN] {
    let [_, a, b, c] = (len as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [a, b, c, kind, flags, s0, s1, s2, s3]
}

#[inline]
pub fn put_header(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, len: usize) {
    out.extend_from_slice(&header(kind, flags, stream, len));
}

#[inline]
pub fn put_data(out: &mut Vec<u8>, stream: u32, data: &[u8], end_stream: bool) {
    out.reserve(HEADER_LEN + data.len());
    put_header(out, DATA, if end_stream { END_STREAM } else { 0 }, stream, data.len());
    out.extend_from_slice(data);
}

#[inline]
pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put_header(out, RST_STREAM, 0, stream, 4);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub fn put_settings(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    put_header(out, SETTINGS, 0, 0, entries.len() * 6);
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub fn put_settings_ack(out: &mut Vec<u8>) {
    put_header(out, SETTINGS, ACK, 0, 0);
}

pub fn put_ping(out: &mut Vec<u8>, payload: [u8; 8], ack: bool) {
    put_header(out, PING, if ack { ACK } else { 0 }, 0, 8);
    out.extend_from_slice(&payload);
}

pub fn put_goaway(out: &mut Vec<u8>, last_stream: u32, code: Code) {
    put_header(out, GOAWAY, 0, 0, 8);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
}

#[inline]
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_header(out, WINDOW_UPDATE, 0, stream, 4);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Makes the header block that starts at `from` (after room for one frame header) into HEADERS, and CONTINUATION
/// frames where it is longer than the peer's largest frame. The block was encoded in place: the usual case copies
/// nothing.
#[inline]
pub fn finish_headers(out: &mut Vec<u8>, from: usize, stream: u32, end_stream: bool, max_payload: usize) {
    let block = from + HEADER_LEN;
    let len = out.len().saturating_sub(block);
    let end = if end_stream { END_STREAM } else { 0 };
    let first = if len <= max_payload {
        header(HEADERS, end | END_HEADERS, stream, len)
    } else {
        let rest = out.split_off(block + max_payload);
        let pieces = rest.len().div_ceil(max_payload);
        for (nth, piece) in rest.chunks(max_payload).enumerate() {
            let flags = if nth + 1 == pieces { END_HEADERS } else { 0 };
            put_header(out, CONTINUATION, flags, stream, piece.len());
            out.extend_from_slice(piece);
        }
        header(HEADERS, end, stream, max_payload)
    };
    if let Some(place) = out.get_mut(from..block) {
        place.copy_from_slice(&first);
    }
}

/// Reads every frame of `input`, for fuzzing: no input may panic.
pub fn fuzz(input: &[u8]) {
    let mut rest = input;
    while let Ok(Some((frame, len))) = decode(rest, 16_384) {
        if let Frame::Settings { entries, .. } = frame {
            settings(entries).for_each(drop);
        }
        rest = rest.get(len..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&mut out, kind, flags, stream, payload.len());
        out.extend_from_slice(payload);
        out
    }

    fn refusal(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<Code> {
        match decode(&raw(kind, flags, stream, payload), 16_384) {
            Err(Violation::Connection(code, _) | Violation::Stream(_, code, _)) => Some(code),
            Ok(_) => None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        put_data(&mut out, 3, b"abc", true);
        let data = Frame::Data { stream: 3, end_stream: true, data: b"abc", flow_len: 3 };
        assert_eq!(decode(&out, 16_384), Ok(Some((data, 12))));
        assert_eq!(decode(&out[..11], 16_384), Ok(None));
        out.clear();
        put_settings(&mut out, &[(4, 70_000)]);
        let Ok(Some((Frame::Settings { ack: false, entries }, 15))) = decode(&out, 16_384) else { panic!() };
        assert_eq!(settings(entries).collect::<Vec<_>>(), [(4, 70_000)]);
    }

    #[test]
    fn long_blocks_are_cut_into_continuations() {
        let mut out = vec![0; HEADER_LEN];
        out.extend_from_slice(&[7; 25]);
        finish_headers(&mut out, 0, 1, true, 10);
        let mut rest = &out[..];
        let mut lengths = Vec::new();
        while let Ok(Some((frame, len))) = decode(rest, 16_384) {
            match frame {
                Frame::Headers { end_headers, end_stream, block, .. } => {
                    assert!(end_stream && !end_headers);
                    lengths.push(block.len());
                }
                Frame::Continuation { end_headers, block, .. } => {
                    lengths.push(block.len());
                    assert_eq!(end_headers, lengths.len() == 3);
                }
                other => panic!("{other:?}"),
            }
            rest = &rest[len..];
        }
        assert_eq!(lengths, [10, 10, 5]);
    }

    #[test]
    fn layouts_that_the_rfc_forbids_are_refused_with_its_codes() {
        for (kind, flags, stream, payload, code) in [
            (DATA, 0, 0, &b""[..], Code::PROTOCOL_ERROR),
            (DATA, PADDED, 1, b"", Code::FRAME_SIZE_ERROR),
            (DATA, PADDED, 1, &[2, 0], Code::PROTOCOL_ERROR),
            (HEADERS, 0, 0, b"", Code::PROTOCOL_ERROR),
            (HEADERS, WITH_PRIORITY, 1, &[0; 4], Code::FRAME_SIZE_ERROR),
            (PRIORITY, 0, 1, &[0; 4], Code::FRAME_SIZE_ERROR),
            (PRIORITY, 0, 1, &[0, 0, 0, 1, 9], Code::PROTOCOL_ERROR),
            (RST_STREAM, 0, 1, &[0; 3], Code::FRAME_SIZE_ERROR),
            (RST_STREAM, 0, 0, &[0; 4], Code::PROTOCOL_ERROR),
            (SETTINGS, 0, 1, b"", Code::PROTOCOL_ERROR),
            (SETTINGS, 0, 0, &[0; 5], Code::FRAME_SIZE_ERROR),
            (SETTINGS, ACK, 0, &[0; 6], Code::FRAME_SIZE_ERROR),
            (PING, 0, 0, &[0; 7], Code::FRAME_SIZE_ERROR),
            (PING, 0, 1, &[0; 8], Code::PROTOCOL_ERROR),
            (GOAWAY, 0, 0, &[0; 7], Code::FRAME_SIZE_ERROR),
            (GOAWAY, 0, 1, &[0; 8], Code::PROTOCOL_ERROR),
            (WINDOW_UPDATE, 0, 0, &[0; 3], Code::FRAME_SIZE_ERROR),
            (CONTINUATION, 0, 0, b"", Code::PROTOCOL_ERROR),
        ] {
            assert_eq!(refusal(kind, flags, stream, payload), Some(code), "{kind} {flags} {stream} {payload:?}");
        }
        assert_eq!(
            decode(&raw(DATA, 0, 1, &[0; 17]), 16),
            Err(Violation::size("a frame is longer than MAX_FRAME_SIZE"))
        );
        assert_eq!(refusal(77, 0xff, 9, b"anything"), None);
    }
}
