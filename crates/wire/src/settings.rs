//! Settings: the identifiers, the defaults and what a peer announced (RFC 9113, section 6.5).

use super::code::{Code, Violation};
use super::flow::MAX_WINDOW;

/// What HTTP/2 assumes of a peer that announced nothing (RFC 9113, section 6.5.2).
pub const DEFAULT_WINDOW: u32 = 65_535;
pub const DEFAULT_FRAME_SIZE: u32 = 16_384;
pub const DEFAULT_TABLE_SIZE: u32 = 4_096;
/// The streams that a client opens before it has read the server's settings. RFC 9113 asks servers for 100 at least.
const ASSUMED_STREAMS: u32 = 100;

/// What the peer announced.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub header_table_size: u32,
    pub max_concurrent_streams: u32,
    pub initial_window: u32,
    pub max_frame_size: u32,
    /// Whether a SETTINGS frame has come: before it, the stream limit is a guess.
    pub known: bool,
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

pub const HEADER_TABLE_SIZE: u16 = 1;
pub const ENABLE_PUSH: u16 = 2;
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;
pub const MAX_FRAME_SIZE: u16 = 5;
pub const MAX_HEADER_LIST_SIZE: u16 = 6;

impl Peer {
    /// Takes up one setting of a SETTINGS frame. Unknown ones are ignored (RFC 9113, section 6.5.2).
    ///
    /// # Errors
    /// A value that RFC 9113 section 6.5.2 forbids: the connection must end with the code given.
    pub fn apply(&mut self, id: u16, value: u32, from_server: bool) -> Result<(), Violation> {
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
