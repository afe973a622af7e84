//! Settings: what the caller chooses for a connection, and what the peer announced.

use std::time::Duration;

use super::error::{Code, Violation};
use super::flow::MAX_WINDOW;

/// What HTTP/2 assumes of a peer that announced nothing (RFC 9113, section 6.5.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const DEFAULT_FRAME_SIZE: u32 = 16_384;
pub(crate) const DEFAULT_TABLE_SIZE: u32 = 4_096;
/// The streams that a client opens before it has read the server's settings. RFC 9113 asks servers for 100 at least.
const ASSUMED_STREAMS: u32 = 100;
/// A frame must fit in the read buffer, so larger frames are not offered: they would cost memory on every
/// connection, and a single large frame delays every other stream.
pub(crate) const MAX_FRAME_SIZE_OFFERED: u32 = 256 * 1024;

/// PINGs on a quiet connection (`http2KeepAlive`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long nothing may have been read before a PING is sent.
    pub interval: Duration,
    /// How long its answer may take before the connection is closed.
    pub timeout: Duration,
}

/// What both sides choose alike.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Bytes that the peer may send on one stream before the reader takes them: also the memory a stream may hold.
    pub stream_window: u32,
    /// The same for the whole connection, at least 65,535 (the protocol cannot lower it).
    pub connection_window: u32,
    /// The largest frame that the peer may send: 16,384 to 262,144, clamped.
    pub max_frame_size: u32,
    /// Memory of the header decoder's table, in bytes as RFC 7541 counts them.
    pub header_table_size: u32,
    /// The largest header section, as RFC 9113 section 6.5.2 counts it (32 extra bytes a field).
    pub max_header_list_size: u32,
    pub keepalive: Option<Keepalive>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            max_frame_size: DEFAULT_FRAME_SIZE,
            header_table_size: DEFAULT_TABLE_SIZE,
            max_header_list_size: 60 * 1024,
            keepalive: None,
        }
    }
}

impl Common {
    pub(crate) fn clamped(mut self) -> Self {
        self.stream_window = self.stream_window.min(MAX_WINDOW as u32);
        self.connection_window = self.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW as u32);
        self.max_frame_size = self.max_frame_size.clamp(DEFAULT_FRAME_SIZE, MAX_FRAME_SIZE_OFFERED);
        self
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    pub common: Common,
    /// Requests in progress at once; further ones are refused with REFUSED_STREAM.
    pub max_concurrent_streams: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { common: Common::default(), max_concurrent_streams: 1024 }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ClientSettings {
    pub common: Common,
    /// Requests in progress at once on this connection (`maxConcurrentStreams`), below what the server allows.
    pub max_concurrent_streams: u32,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { common: Common::default(), max_concurrent_streams: i32::MAX as u32 }
    }
}

/// What the peer announced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) header_table_size: u32,
    pub(crate) max_concurrent_streams: u32,
    pub(crate) initial_window: u32,
    pub(crate) max_frame_size: u32,
    /// Whether a SETTINGS frame has come: before it, the stream limit is a guess.
    pub(crate) known: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            header_table_size: DEFAULT_TABLE_SIZE,
            max_concurrent_streams: ASSUMED_STREAMS,
            initial_window: DEFAULT_WINDOW,
            max_frame_size: DEFAULT_FRAME_SIZE,
            known: false,
        }
    }
}

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;

impl Peer {
    /// Takes up one setting of a SETTINGS frame. Unknown ones are ignored (RFC 9113, section 6.5.2).
    pub(crate) fn apply(&mut self, id: u16, value: u32, from_server: bool) -> Result<(), Violation> {
        match id {
            HEADER_TABLE_SIZE => self.header_table_size = value,
            ENABLE_PUSH if value > 1 || (from_server && value == 1) => {
                return Err(Violation::protocol("ENABLE_PUSH has a value that this peer may not send"));
            }
            MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
            INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                return Err(Violation::Connection(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1"));
            }
            INITIAL_WINDOW_SIZE => self.initial_window = value,
            MAX_FRAME_SIZE if !(DEFAULT_FRAME_SIZE..=0xff_ffff).contains(&value) => {
                return Err(Violation::protocol("MAX_FRAME_SIZE is outside 2^14 to 2^24-1"));
            }
            MAX_FRAME_SIZE => self.max_frame_size = value,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_with_the_codes_of_the_rfc() {
        let mut peer = Peer::default();
        let code = |result: Result<(), Violation>| match result {
            Err(Violation::Connection(code, _)) => Some(code),
            _ => None,
        };
        assert_eq!(code(peer.apply(ENABLE_PUSH, 2, false)), Some(Code::PROTOCOL_ERROR));
        assert_eq!(code(peer.apply(ENABLE_PUSH, 1, true)), Some(Code::PROTOCOL_ERROR));
        assert_eq!(code(peer.apply(INITIAL_WINDOW_SIZE, 1 << 31, false)), Some(Code::FLOW_CONTROL_ERROR));
        assert_eq!(code(peer.apply(MAX_FRAME_SIZE, 16_383, false)), Some(Code::PROTOCOL_ERROR));
        assert_eq!(code(peer.apply(MAX_FRAME_SIZE, 1 << 24, false)), Some(Code::PROTOCOL_ERROR));
        assert_eq!(code(peer.apply(0x99, 7, false)), None);
    }
}
