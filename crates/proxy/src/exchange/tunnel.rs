//! After a 101: bytes of another protocol, both ways, until both sides have ended.

use super::attempt::Up;
use super::context::{Ended, Exchange, Failure};
use super::details;
use crate::downstream::stream::{ClientError, DownstreamStream};
use crate::tunnel::{HALF_CLOSED_IDLE_MAX, Half, Side};
use celerity_model::snapshot::{Action, Route, VirtualHost};
use celerity_telemetry::metrics::names;
use celerity_telemetry::{ResponseFlags, State};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

impl<'a> Exchange<'a> {
    /// Passes the upstream's 101 on, then bytes. The client's connection ends with it.
    pub(super) async fn tunnel(
        &mut self,
        down: &mut DownstreamStream<'_>,
        host: &VirtualHost,
        route: &Route,
        up: Up,
    ) -> Ended {
        let Up { mut stream, length, hop, .. } = up;
        self.answer(down, host, &stream, (length, hop));
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
                // The upstream has said all it had to say and closed; the client's last words find nobody. A WebSocket
                // client's answer to a close is such.
                (Poll::Ready(Err(Side::To(_))), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                (Poll::Ready(Err(Side::From(error))), _) | (_, Poll::Ready(Err(Side::To(error)))) => {
                    Some(Failure::of_client(&ClientError::Gone(error.to_string())))
                }
                (Poll::Ready(Err(Side::To(error))), _) | (_, Poll::Ready(Err(Side::From(error)))) => {
                    let sentence = format!("the upstream's side of the tunnel broke: {error}");
                    let (flags, details) =
                        (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, details::CONNECTION_TERMINATION.after);
                    Some(Failure::new(0, flags, details, sentence))
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
                self.sentence = failure.sentence;
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
