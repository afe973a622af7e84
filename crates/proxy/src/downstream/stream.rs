//! One request and its response on a client's connection of either version: the narrow interface over which the
//! exchange relays.

use crate::h1::body::{BodyError, BodyReadError};
use crate::h1::{BodyLength, ServerConn};
use crate::h2;
use crate::http::{Headers, ResponseHead};
use std::task::{Context, Poll, ready};

/// Why the client's side of an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client went away, or its connection broke.
    #[error("the client's connection ended: {0}")]
    Gone(String),
    /// The client sent what is no valid body.
    #[error("the request's body is malformed: {0}")]
    Malformed(BodyError),
    /// The response that we were asked to send contradicts its own head.
    #[error("the response is not as long as its head says")]
    Length,
}

impl From<BodyReadError> for ClientError {
    fn from(error: BodyReadError) -> Self {
        match error {
            BodyReadError::Framing(BodyError::Truncated) => Self::Gone("inside the request's body".into()),
            BodyReadError::Framing(error) => Self::Malformed(error),
            BodyReadError::Io(error) => Self::Gone(error.to_string()),
        }
    }
}

impl From<crate::h1::body::BodyWriteError> for ClientError {
    fn from(error: crate::h1::body::BodyWriteError) -> Self {
        match error {
            crate::h1::body::BodyWriteError::Io(error) => Self::Gone(error.to_string()),
            _ => Self::Length,
        }
    }
}

impl From<h2::Error> for ClientError {
    fn from(error: h2::Error) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::Gone(error.to_string())
    }
}

pub enum DownstreamStream<'a> {
    H1(&'a mut ServerConn),
    H2(H2Downstream<'a>),
}

pub struct H2Downstream<'a> {
    pub stream: &'a mut h2::ServerStream,
    has_piece: bool,
    taken: usize,
    ended: bool,
}

impl<'a> DownstreamStream<'a> {
    pub fn http2(stream: &'a mut h2::ServerStream) -> Self {
        Self::H2(H2Downstream { stream, has_piece: false, taken: 0, ended: false })
    }

    pub fn is_http2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// Whether a piece of the request's body is there; `false` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ClientError>> {
        match self {
            Self::H1(conn) => Poll::Ready(Ok(ready!(conn.poll_body(cx))?.is_some())),
            Self::H2(side) => {
                let mut receiver = side.stream.split().1;
                while !side.has_piece || side.taken >= receiver.lent().len() {
                    side.has_piece = false;
                    if !ready!(receiver.poll_fill(cx))? {
                        return Poll::Ready(Ok(false));
                    }
                    (side.has_piece, side.taken) = (true, 0);
                }
                Poll::Ready(Ok(true))
            }
        }
    }

    /// The piece that `poll_body` found, handed to `use_it`, which says how much of it it took.
    pub fn with_body<T>(&mut self, use_it: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        match self {
            Self::H1(conn) => {
                let (taken, value) = use_it(conn.piece());
                conn.consume_body(taken);
                value
            }
            Self::H2(side) => {
                let receiver = side.stream.split().1;
                let (more, value) = use_it(receiver.lent().get(side.taken..).unwrap_or_default());
                side.taken += more;
                value
            }
        }
    }

    pub fn take_trailers(&mut self) -> Option<Headers> {
        match self {
            Self::H1(conn) => conn.trailers().cloned(),
            Self::H2(side) => side.stream.take_trailers(),
        }
    }

    pub fn send_interim(&mut self, head: &ResponseHead) {
        match self {
            Self::H1(conn) => conn.send_interim(head),
            // A stream that has failed says so at the next call that can.
            Self::H2(side) => drop(side.stream.send_interim(head)),
        }
    }

    /// Puts the final head in the connection's buffer. `last`: the connection closes after this response.
    pub fn send_head(&mut self, head: &ResponseHead, length: BodyLength, last: bool) -> Result<(), ClientError> {
        match self {
            Self::H1(conn) => conn.send_head(head, length, last),
            Self::H2(side) => {
                side.ended = length == BodyLength::Empty;
                side.stream.send_head(head, side.ended)?;
            }
        }
        Ok(())
    }

    /// Sends some of the response's body; says how much.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, ClientError>> {
        match self {
            Self::H1(conn) => Poll::Ready(Ok(ready!(conn.poll_send(cx, data))?)),
            Self::H2(side) => Poll::Ready(Ok(ready!(side.stream.split().0.poll_data(cx, data, false))?)),
        }
    }

    /// Ends the response and writes what waits.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>, trailers: Option<&Headers>) -> Poll<Result<(), ClientError>> {
        match self {
            Self::H1(conn) => Poll::Ready(Ok(conn.finish(trailers)?)),
            Self::H2(side) => {
                if !side.ended {
                    match trailers {
                        Some(trailers) => side.stream.split().0.trailers(trailers)?,
                        None => {
                            ready!(side.stream.split().0.poll_data(cx, &[], true))?;
                        }
                    }
                    side.ended = true;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match self {
            Self::H1(conn) => Poll::Ready(Ok(ready!(conn.poll_flush(cx))?)),
            // The connection's own task writes, once for all streams that are ready.
            Self::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ready when what was sent has gone so far that another interim head may be sent: any number of them may come.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match self {
            Self::H1(conn) => Poll::Ready(Ok(ready!(conn.poll_flush(cx))?)),
            Self::H2(side) => Poll::Ready(Ok(ready!(side.stream.split().0.poll_room(cx))?)),
        }
    }

    /// Ready when the client has gone away: nobody waits for the response any more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::H1(conn) => conn.poll_peer_gone(cx),
            Self::H2(side) => side.stream.split().0.poll_failed(cx).map(|_| ()),
        }
    }

    /// Whether the client reset this stream of HTTP/2. Asked once it is over: what waits for the stream is forgotten.
    pub fn was_reset(&mut self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(side) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let failed = side.stream.split().0.poll_failed(&mut cx);
                matches!(failed, Poll::Ready(error) if error.is_peer_reset())
            }
        }
    }

    /// Breaks the response off, so that the client sees that it is not whole.
    pub fn abort(&mut self) {
        match self {
            Self::H1(conn) => conn.abort(),
            Self::H2(side) => side.stream.split().0.reset(h2::Code::INTERNAL_ERROR),
        }
    }
}
