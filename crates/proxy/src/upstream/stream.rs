//! One attempt's request and response on an upstream connection of either version: the narrow interface over which the
//! exchange relays.

use super::endpoint::{EndpointPool, H1Lease, Lease};
use crate::h1::client::ResponseError;
use crate::h1::{BodyLength, body::BodyReadError, body::BodyWriteError};
use crate::h2;
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead};
use crate::net::{Arrives as _, tcp_info};
use celerity_telemetry::{ResponseFlags, Tick};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Why an attempt failed, as far as it changes what is done next.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Nothing of the request was processed: it may be sent again, whatever its method.
    #[error("the upstream did not process the request: {0}")]
    Unprocessed(String),
    /// REFUSED_STREAM: not processed either, and retried under its own name.
    #[error("the upstream refused the stream")]
    Refused {
        /// It had said how many streams it takes.
        limit_known: bool,
    },
    /// A connection that had carried other requests ended before it answered this one.
    #[error("the idle upstream connection was closed under the request: {0}")]
    Idle(String),
    /// The peer ended this one HTTP/2 stream on purpose.
    #[error("the upstream reset the stream: {0}")]
    RemoteReset(String),
    #[error("the upstream connection ended: {0}")]
    Reset(String),
    #[error("the upstream broke the protocol: {0}")]
    Protocol(String),
}

impl AttemptError {
    /// What the access log says of it (Envoy `Filter::streamResetReasonToResponseFlag`).
    pub fn flags(&self) -> ResponseFlags {
        match self {
            Self::Refused { .. } | Self::RemoteReset(_) => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::Protocol(_) => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            Self::Unprocessed(_) | Self::Idle(_) | Self::Reset(_) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        }
    }
}

impl From<h2::Error> for AttemptError {
    fn from(error: h2::Error) -> Self {
        match error.kind() {
            h2::Kind::PeerReset(h2::Code::REFUSED_STREAM) => Self::Refused { limit_known: true },
            _ if error.is_unprocessed() => Self::Unprocessed(error.to_string()),
            h2::Kind::PeerReset(_) => Self::RemoteReset(error.to_string()),
            // A stream is reset from this side for what the peer sent on it.
            h2::Kind::Violation(..) | h2::Kind::LocalReset(..) => Self::Protocol(error.to_string()),
            _ => Self::Reset(error.to_string()),
        }
    }
}

impl From<BodyReadError> for AttemptError {
    fn from(error: BodyReadError) -> Self {
        // As in Envoy a message that the connection's end cuts off is a broken one, however the connection ended.
        Self::Protocol(error.to_string())
    }
}

impl From<BodyWriteError> for AttemptError {
    fn from(error: BodyWriteError) -> Self {
        Self::Reset(error.to_string())
    }
}

impl From<io::Error> for AttemptError {
    fn from(error: io::Error) -> Self {
        Self::Reset(error.to_string())
    }
}

enum Kind {
    H1 {
        lease: Option<Box<H1Lease>>,
        reused: bool,
        /// What the peer may have acknowledged without having seen anything of this request.
        sent_before: u64,
        read_before: u64,
    },
    H2 {
        stream: Option<h2::ClientStream>,
        has_piece: bool,
        taken: usize,
        to_head: bool,
        ended: bool,
        limit_known: bool,
    },
}

/// What became of a request whose HTTP/2 stream failed before it was answered. `limit_known`: the server had said how many
/// streams it takes.
fn unanswered(error: h2::Error, limit_known: bool) -> AttemptError {
    match AttemptError::from(error) {
        AttemptError::Refused { .. } => AttemptError::Refused { limit_known },
        AttemptError::Reset(reason) if error.is_of_idle() => AttemptError::Idle(reason),
        other => other,
    }
}

/// How often the kernel is asked for a round trip.
const ROUND_TRIP_ONE_IN: u32 = 64;

/// Dropping it gives the connection back, or closes it where the exchange was not complete.
pub struct UpstreamStream {
    kind: Kind,
    pool: Rc<EndpointPool>,
    from_mesh: bool,
}

impl UpstreamStream {
    /// Starts a request. Its head is in the connection's buffer when this returns.
    pub fn start(
        lease: Lease,
        pool: Rc<EndpointPool>,
        head: &RequestHead,
        length: BodyLength,
    ) -> Result<Self, AttemptError> {
        let from_mesh = pool.is_mesh(&lease);
        let kind = match lease {
            Lease::H1(mut lease) => {
                let reused = lease.conn.requests > 0;
                let wire = &lease.conn.wire;
                let (read_before, sent_before) = (wire.read_bytes, wire.io().sent());
                lease.conn.start(head, length);
                Kind::H1 { lease: Some(lease), reused, sent_before, read_before }
            }
            Lease::H2(lease) => {
                let ended = length == BodyLength::Empty;
                let limit_known = lease.client.is_confirmed();
                let started = lease.client.start(head, ended);
                drop(lease);
                let stream = started.inspect_err(|_| pool.stream_ended())?;
                let to_head = head.method == Method::Head;
                Kind::H2 { stream: Some(stream), has_piece: false, taken: 0, to_head, ended, limit_known }
            }
        };
        pool.active.set(pool.active.get() + 1);
        Ok(Self { kind, pool, from_mesh })
    }

    /// Makes the request that was just started one for a switch of protocols. HTTP/2 has none: nothing is done there,
    /// and no 101 can come.
    pub fn ask_for_websocket(&mut self) {
        if let Kind::H1 { lease: Some(lease), .. } = &mut self.kind {
            lease.conn.ask_for_websocket();
        }
    }

    /// Whether the last head was a 101 to WebSocket.
    pub fn speaks_websocket(&self) -> bool {
        matches!(&self.kind, Kind::H1 { lease: Some(lease), .. } if lease.conn.speaks_websocket)
    }

    /// The connection's bytes, once it speaks another protocol than HTTP.
    pub fn switched(&mut self) -> Option<&mut crate::h1::Wire> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } if lease.conn.speaks_websocket => Some(&mut lease.conn.wire),
            _ => None,
        }
    }

    /// Whether a workload of the mesh answers: mutual TLS, checked, with a SPIFFE id.
    pub fn is_from_mesh(&self) -> bool {
        self.from_mesh
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.kind, Kind::H2 { .. })
    }

    /// When the response's head had come, where that is counted.
    pub fn arrived(&self) -> Option<Tick> {
        match &self.kind {
            Kind::H1 { lease: Some(lease), .. } => lease.conn.wire.arrived(),
            Kind::H2 { stream: Some(stream), .. } => stream.arrived(),
            _ => None,
        }
    }

    /// Sends some of the request's body; says how much.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, AttemptError>> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => {
                Poll::Ready(ready!(lease.conn.poll_send(cx, data)).map_err(|error| match error {
                    BodyWriteError::Io(error) => {
                        let was_reset = error.kind() == io::ErrorKind::ConnectionReset;
                        self.classify(error.into(), was_reset)
                    }
                    error => error.into(),
                }))
            }
            Kind::H2 { stream: Some(stream), limit_known, .. } => {
                let sent = ready!(stream.split().0.poll_data(cx, data, false));
                Poll::Ready(sent.map_err(|error| unanswered(error, *limit_known)))
            }
            _ => Poll::Ready(Err(AttemptError::Reset("the stream is over".into()))),
        }
    }

    /// Ends the request's body.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), AttemptError>> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => Poll::Ready(Ok(lease.conn.finish(trailers)?)),
            Kind::H2 { ended: true, .. } => Poll::Ready(Ok(())),
            Kind::H2 { stream: Some(stream), ended, limit_known, .. } => {
                let sent = match trailers {
                    Some(trailers) => stream.split().0.trailers(trailers),
                    None => ready!(stream.split().0.poll_data(cx, &[], true)).map(|_| ()),
                };
                sent.map_err(|error| unanswered(error, *limit_known))?;
                *ended = true;
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(AttemptError::Reset("the stream is over".into()))),
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => {
                let flushed = ready!(lease.conn.poll_flush(cx));
                Poll::Ready(flushed.map_err(|error| {
                    let was_reset = error.kind() == io::ErrorKind::ConnectionReset;
                    self.classify(error.into(), was_reset)
                }))
            }
            // The connection's own task writes, once for all streams that are ready.
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The next response head, interim ones first, and the length of the body that follows the final one.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<BodyLength, AttemptError>> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => match ready!(lease.conn.poll_head(cx, head)) {
                Ok(length) => Poll::Ready(Ok(length)),
                Err(error @ (ResponseError::Head(_) | ResponseError::Cut)) => {
                    Poll::Ready(Err(AttemptError::Protocol(error.to_string())))
                }
                Err(error) => {
                    let was_reset =
                        matches!(&error, ResponseError::Io(error) if error.kind() == io::ErrorKind::ConnectionReset);
                    Poll::Ready(Err(self.classify(AttemptError::Reset(error.to_string()), was_reset)))
                }
            },
            Kind::H2 { stream: Some(stream), to_head, limit_known, .. } => {
                if let Err(error) = ready!(stream.poll_head_into(cx, head)) {
                    return Poll::Ready(Err(unanswered(error, *limit_known)));
                }
                let bodyless = *to_head || matches!(head.status, 204 | 304) || head.status < 200;
                let length = if bodyless || stream.is_body_done() {
                    BodyLength::Empty
                } else {
                    let told = head.headers.get_id(HeaderId::ContentLength);
                    let told = told.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
                    told.map_or(BodyLength::Chunked, BodyLength::Exact)
                };
                Poll::Ready(Ok(length))
            }
            _ => Poll::Ready(Err(AttemptError::Reset("the stream is over".into()))),
        }
    }

    /// Whether a piece of the response's body is there; `false` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, AttemptError>> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => Poll::Ready(Ok(ready!(lease.conn.poll_body(cx))?.is_some())),
            Kind::H2 { stream: Some(stream), has_piece, taken, .. } => {
                let mut receiver = stream.split().1;
                while !*has_piece || *taken >= receiver.lent().len() {
                    *has_piece = false;
                    if !ready!(receiver.poll_fill(cx))? {
                        return Poll::Ready(Ok(false));
                    }
                    (*has_piece, *taken) = (true, 0);
                }
                Poll::Ready(Ok(true))
            }
            _ => Poll::Ready(Ok(false)),
        }
    }

    /// The piece that `poll_body` found, handed to `use_it`, which says how much of it it took.
    pub fn with_body<T>(&mut self, use_it: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => {
                let (taken, value) = use_it(lease.conn.piece());
                lease.conn.consume_body(taken);
                value
            }
            Kind::H2 { stream: Some(stream), taken, .. } => {
                let receiver = stream.split().1;
                let (more, value) = use_it(receiver.lent().get(*taken..).unwrap_or_default());
                *taken += more;
                value
            }
            _ => use_it(&[]).1,
        }
    }

    pub fn take_trailers(&mut self) -> Option<Headers> {
        match &mut self.kind {
            Kind::H1 { lease: Some(lease), .. } => lease.conn.trailers().cloned(),
            Kind::H2 { stream: Some(stream), .. } => stream.take_trailers(),
            _ => None,
        }
    }

    /// A connection that broke before it answered: was anything of the request processed? On a connection that was
    /// idle before, the kernel knows whether the peer ever acknowledged a byte of it (RFC 9293; `tcpi_bytes_acked`).
    ///
    /// Only where the peer's FIN came first: a reset out of the blue may overtake the acknowledgement of a request that
    /// was read and acted on, since the kernel delays acknowledgements and takes none from a reset.
    fn classify(&self, error: AttemptError, was_reset: bool) -> AttemptError {
        match (&self.kind, error) {
            // An interim response says that the request arrived.
            (Kind::H1 { lease: Some(lease), read_before, .. }, error) if lease.conn.wire.read_bytes != *read_before => {
                error
            }
            (Kind::H1 { lease: Some(lease), reused: true, sent_before, .. }, AttemptError::Reset(reason)) => {
                let acked = lease.conn.wire.io().acked();
                match !was_reset && acked.is_some_and(|acked| acked <= *sent_before) {
                    true => AttemptError::Unprocessed(reason),
                    false => AttemptError::Idle(reason),
                }
            }
            (_, error) => error,
        }
    }

    /// The endpoint's round trip in microseconds: of the last handshake, or shorter. Asked of the kernel on a new connection
    /// and for one request of `ROUND_TRIP_ONE_IN`: it is a system call. `None` on HTTP/2, whose other end reports its own
    /// part.
    pub fn round_trip_us(&self) -> Option<u32> {
        let Kind::H1 { lease: Some(lease), reused, .. } = &self.kind else { return None };
        let (count, last) = self.pool.round_trip.get();
        let known = *reused && last != 0;
        if known && count % ROUND_TRIP_ONE_IN != 0 {
            self.pool.round_trip.set((count.wrapping_add(1), last));
            return Some(last);
        }
        let us = tcp_info::round_trip_us(lease.conn.wire.io().tcp())?;
        // What is measured later is at best as good: the acknowledgement comes with the answer.
        let us = if known { us.min(last) } else { us };
        self.pool.round_trip.set((count.wrapping_add(1), us));
        Some(us)
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        self.pool.active.set(self.pool.active.get().saturating_sub(1));
        match &mut self.kind {
            Kind::H1 { lease, .. } => {
                if let Some(lease) = lease.take() {
                    self.pool.release(lease);
                }
            }
            Kind::H2 { stream, .. } => {
                drop(stream.take());
                self.pool.stream_ended();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_told_by_what_was_known() {
        let of = |kind, limit_known| unanswered(h2::Error::new(kind), limit_known);
        assert!(matches!(of(h2::Kind::Closed, true), AttemptError::Reset(_)));
        let idle = h2::Error::new(h2::Kind::Closed).as_of_idle();
        assert!(matches!(unanswered(idle, true), AttemptError::Idle(_)));
        for limit_known in [false, true] {
            let refused = of(h2::Kind::PeerReset(h2::Code::REFUSED_STREAM), limit_known);
            assert!(matches!(refused, AttemptError::Refused { limit_known: told } if told == limit_known));
            assert_eq!(refused.flags().to_string(), "UR");
        }
        assert!(matches!(of(h2::Kind::PeerReset(h2::Code::CANCEL), false), AttemptError::RemoteReset(_)));
    }

    #[test]
    fn every_end_has_envoys_flag() {
        let flag = |kind| AttemptError::from(h2::Error::new(kind)).flags().to_string();
        assert_eq!(flag(h2::Kind::PeerReset(h2::Code::REFUSED_STREAM)), "UR");
        assert_eq!(flag(h2::Kind::PeerReset(h2::Code::INTERNAL_ERROR)), "UR");
        assert_eq!(flag(h2::Kind::Violation(h2::Code::PROTOCOL_ERROR, "why")), "UPE");
        assert_eq!(flag(h2::Kind::LocalReset(h2::Code::PROTOCOL_ERROR, "why")), "UPE");
        assert_eq!(flag(h2::Kind::GoAway(h2::Code::NO_ERROR)), "UC");
        assert_eq!(flag(h2::Kind::Closed), "UC");
        assert_eq!(
            AttemptError::from(BodyReadError::Io(io::ErrorKind::ConnectionReset.into())).flags().to_string(),
            "UPE"
        );
    }
}
