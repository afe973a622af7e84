//! Settings: what the caller chooses for a connection.

use std::time::Duration;

use celerity_wire::flow::MAX_WINDOW;
pub(crate) use celerity_wire::settings::*;

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
    /// How long the peer may take for its preface and SETTINGS, and for the answer to the PING of a graceful shutdown.
    pub owed_within: Duration,
}

/// Ample for a round trip over a bad link; without a bound, a peer that never says anything is held for ever.
const OWED_WITHIN: Duration = Duration::from_secs(10);

impl Default for Common {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            max_frame_size: DEFAULT_FRAME_SIZE,
            header_table_size: DEFAULT_TABLE_SIZE,
            max_header_list_size: 60 * 1024,
            keepalive: None,
            owed_within: OWED_WITHIN,
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
