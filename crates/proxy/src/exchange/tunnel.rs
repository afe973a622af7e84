//! After a 101: bytes of another protocol, both ways, until both sides have ended.

use super::attempt::Up;
use super::context::{Ended, Exchange, Failure};
use crate::downstream::stream::{ClientError, DownstreamStream};
use crate::h1::{Wire, wire};
use celerity_model::snapshot::{Action, Route, VirtualHost};
use celerity_telemetry::metrics::names;
use celerity_telemetry::{ResponseFlags, State};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long a tunnel of which one side has ended may be silent, where the stream's idle limit is not shorter. A WebSocket
/// peer answers a close at once (RFC 6455, section 7.1.1); without a bound one that vanished would hold two connections.
const HALF_CLOSED_IDLE_MAX: Duration = Duration::from_secs(60);

/// One direction. Back-pressure is in its order: nothing is read while what was read is not written.
///
/// ```text
///   Open -- end of stream --> Ending -- shutdown written --> Over
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    Ending,
    Over,
}

/// Which side broke.
enum Side {
    From(io::Error),
    To(io::Error),
}

impl Half {
    fn poll(
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

impl<'a> Exchange<'a> {
    /// Passes the upstream's 101 on, then bytes. The client's connection ends with it.
    pub(super) async fn tunnel(
        &mut self,
        down: &mut DownstreamStream<'_>,
        host: &VirtualHost,
        route: &Route,
        up: Up<'a>,
    ) -> Ended {
        let Up { mut stream, length, weighted, hop, .. } = up;
        self.answer(down, host, route, &stream, (length, weighted, hop));
        let (DownstreamStream::H1(client), Some(upstream)) = (&mut *down, stream.switched()) else {
            return Ended::Unanswered;
        };
        self.worker.count(&names::LISTENER_UPGRADES);
        let clock = &self.worker.clock;
        let now = clock.now();
        // What a tunnel waits for is its upstream as much as its client; it has a name of a wait, not of work.
        self.ledger.enter(State::ResponseBodyWait, now);
        let now = clock.to_instant(now);
        self.patience.tunnel_begins(now, longest(self.manager.timeouts.max_stream_duration, &route.action, now));

        let (mut to_upstream, mut to_client) = (Half::Open, Half::Open);
        let (mut sent, mut received, mut seen, mut half_closed) = (0, 0, 0, false);
        let patience = &mut self.patience;
        let result = poll_fn(|cx| {
            let one = to_upstream.poll(cx, &mut client.wire, upstream, &mut sent);
            let other = to_client.poll(cx, upstream, &mut client.wire, &mut received);
            let broken = match (one, other) {
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                (Poll::Ready(Err(Side::From(error))), _) | (_, Poll::Ready(Err(Side::To(error)))) => {
                    Some(Failure::of_client(&ClientError::Gone(error.to_string())))
                }
                (Poll::Ready(Err(Side::To(error))), _) | (_, Poll::Ready(Err(Side::From(error)))) => {
                    let details = format!("the upstream's side of the tunnel broke: {error}");
                    Some(Failure::new(0, ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, details))
                }
                _ => None,
            };
            if let Some(failure) = broken {
                return Poll::Ready(Err(failure));
            }
            if sent + received != seen {
                seen = sent + received;
                patience.progressed(clock.to_instant(clock.now()));
            }
            if !half_closed && (to_upstream == Half::Over || to_client == Half::Over) {
                half_closed = true;
                patience.progressed(clock.to_instant(clock.now()));
                patience.limit_idle(HALF_CLOSED_IDLE_MAX);
            }
            patience.poll(cx).map(|expired| Err(Failure::of_time(expired)))
        })
        .await;
        self.upload.bytes = sent;
        self.response_bytes = received;
        match result {
            Ok(()) => Ended::Whole,
            Err(failure) => {
                self.flags.insert(failure.flags);
                self.details = failure.details;
                down.abort();
                Ended::Broken
            }
        }
    }
}

/// When a tunnel ends at the latest. A route's timeout is for the answer, which has come; its longest duration is not.
fn longest(manager: Option<Duration>, action: &Action, now: std::time::Instant) -> Option<std::time::Instant> {
    let own = if let Action::Forward(forward) = action { forward.max_stream_duration } else { None };
    own.or(manager).filter(|limit| !limit.is_zero()).and_then(|limit| now.checked_add(limit))
}
