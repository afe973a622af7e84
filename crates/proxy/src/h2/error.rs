//! What can go wrong on a connection and on a stream, and whether a request may be sent again.

use std::io;

/// Error codes of RST_STREAM and GOAWAY (RFC 9113, section 7). Unknown codes are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xa);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);

    pub fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied().unwrap_or("unknown code")
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:#x})", self.name(), self.0)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:#x})", self.name(), self.0)
    }
}

/// Where the blame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    #[error("the peer reset the HTTP/2 stream with {0}")]
    PeerReset(Code),
    #[error("the HTTP/2 stream was reset from this side with {0}: {1}")]
    LocalReset(Code, &'static str),
    #[error("the peer closed the HTTP/2 connection with GOAWAY {0}")]
    GoAway(Code),
    #[error("the peer broke HTTP/2 and the connection was closed with {0}: {1}")]
    Violation(Code, &'static str),
    #[error("the HTTP/2 connection failed: {0}")]
    Io(io::ErrorKind),
    #[error("the peer closed the HTTP/2 connection without GOAWAY")]
    Closed,
    #[error("the peer did not answer an HTTP/2 PING in time; the connection was closed")]
    KeepaliveTimeout,
    #[error("the HTTP/2 connection takes no new streams: it is closing")]
    NotOpen,
    #[error("the HTTP/2 connection has as many streams as the peer allows; wait for one to end")]
    NoCapacity,
    #[error("the caller used an HTTP/2 stream wrongly: {0}")]
    Misuse(&'static str),
}

/// The failure of a stream or of a whole connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Error {
    kind: Kind,
    unprocessed: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        let unprocessed = matches!(kind, Kind::PeerReset(Code::REFUSED_STREAM) | Kind::NotOpen | Kind::NoCapacity);
        Self { kind, unprocessed }
    }

    pub(crate) fn misuse(what: &'static str) -> Self {
        Self::new(Kind::Misuse(what))
    }

    /// The same failure, of a request that the peer certainly did not look at.
    pub(crate) fn as_unprocessed(self) -> Self {
        Self { unprocessed: true, ..self }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True where the peer certainly did not process the request, so that any method may be sent again
    /// (RFC 9113, section 8.7): refused stream, stream above the last id of GOAWAY, or nothing of it was written.
    pub fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// The code that travelled in RST_STREAM or GOAWAY, where one did.
    pub fn code(&self) -> Option<Code> {
        match self.kind {
            Kind::PeerReset(code) | Kind::LocalReset(code, _) | Kind::GoAway(code) | Kind::Violation(code, _) => {
                Some(code)
            }
            _ => None,
        }
    }

    /// True where the other side ended this one stream on purpose.
    pub fn is_peer_reset(&self) -> bool {
        matches!(self.kind, Kind::PeerReset(_))
    }

    /// True where the whole connection failed, and not this stream alone.
    pub fn is_connection(&self) -> bool {
        matches!(self.kind, Kind::GoAway(_) | Kind::Violation(..) | Kind::Io(_) | Kind::Closed | Kind::KeepaliveTimeout)
    }
}

/// A broken rule, as the parser reports it: RST_STREAM for one stream, GOAWAY for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    Stream(u32, Code, &'static str),
    Connection(Code, &'static str),
}

impl Violation {
    pub(crate) fn protocol(why: &'static str) -> Self {
        Self::Connection(Code::PROTOCOL_ERROR, why)
    }

    pub(crate) fn size(why: &'static str) -> Self {
        Self::Connection(Code::FRAME_SIZE_ERROR, why)
    }

    pub(crate) fn calm(why: &'static str) -> Self {
        Self::Connection(Code::ENHANCE_YOUR_CALM, why)
    }
}
