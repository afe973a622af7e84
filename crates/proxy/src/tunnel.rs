//! Bytes from one side to the other, for what is no HTTP or is so no longer.

use crate::h1::{Wire, wire};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long a tunnel of which one side has ended may be silent, where the stream's idle limit is not shorter. A WebSocket
/// peer answers a close at once (RFC 6455, section 7.1.1); without a bound one that vanished would hold two connections.
pub(crate) const HALF_CLOSED_IDLE_MAX: Duration = Duration::from_secs(60);

/// One direction. Back-pressure is in its order: nothing is read while what was read is not written.
///
/// ```text
///   Open -- end of stream --> Ending -- shutdown written --> Over
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Open,
    Ending,
    Over,
}

/// Which side broke.
pub(crate) enum Side {
    From(io::Error),
    To(io::Error),
}

impl Half {
    /// Passes on what there is. Ready when the direction has ended, or with the side that broke.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire,
        to: &mut Wire,
        bytes: &mut u64,
    ) -> Poll<Result<(), Side>> {
        loop {
            match self {
                Self::Open if !from.unread().is_empty() => {
                    let count = ready!(to.poll_write_behind(cx, from.unread())).map_err(Side::To)?;
                    from.consume(count);
                    *bytes += count as u64;
                }
                Self::Open => match from.poll_fill(cx, wire::READ_BYTES_MAX) {
                    Poll::Ready(Ok(0)) => *self = Self::Ending,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Side::From(error))),
                    Poll::Pending => {
                        ready!(to.poll_flush(cx)).map_err(Side::To)?;
                        return Poll::Pending;
                    }
                },
                Self::Ending => {
                    // A peer that has closed both ways already needs no end: that is no failure of the tunnel.
                    let _ = ready!(to.poll_shutdown(cx));
                    *self = Self::Over;
                }
                Self::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}
