//! What can go wrong on a connection and on a stream, and whether a request may be sent again.

use std::io;

pub use celerity_wire::{Code, Violation};

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
    of_idle: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        let unprocessed = matches!(kind, Kind::PeerReset(Code::REFUSED_STREAM) | Kind::NotOpen | Kind::NoCapacity);
        Self { kind, unprocessed, of_idle: false }
    }

    pub(crate) fn misuse(what: &'static str) -> Self {
        Self::new(Kind::Misuse(what))
    }

    /// The same failure, of a request that the peer certainly did not look at.
    pub(crate) fn as_unprocessed(self) -> Self {
        Self { unprocessed: true, ..self }
    }

    /// The same failure, of a connection that had been idle and has said nothing since.
    pub(crate) fn as_of_idle(self) -> Self {
        Self { of_idle: true, ..self }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True where the peer certainly did not process the request, so that any method may be sent again
    /// (RFC 9113, section 8.7): refused stream, stream above the last id of GOAWAY, or nothing of it was written.
    pub fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// True where a connection that had carried others was idle, and ended under the request without another word.
    pub fn is_of_idle(&self) -> bool {
        self.of_idle
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

    /// True where the peer, or the way to it, ended what was right until then.
    pub fn is_of_the_peer(&self) -> bool {
        matches!(self.kind, Kind::PeerReset(_) | Kind::GoAway(_) | Kind::Io(_) | Kind::Closed)
    }

    /// True where the whole connection failed, and not this stream alone.
    pub fn is_connection(&self) -> bool {
        matches!(self.kind, Kind::GoAway(_) | Kind::Violation(..) | Kind::Io(_) | Kind::Closed | Kind::KeepaliveTimeout)
    }
}
