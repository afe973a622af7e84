//! The client's role on one connection: requests out, responses in, one at a time.

use super::body::{BodyLength, BodyReadError, BodyReader, BodyWriteError};
use super::parse::{self, HeadError};
use super::wire::{BodyWriter, READ_BYTES_MAX, Wire};
use super::write;
use crate::http::{Headers, Method, RequestHead, ResponseHead};
use std::io;
use std::task::{Context, Poll, ready};

/// A response's head; the same as Envoy's default for responses (60 KiB).
const HEAD_BYTES_MAX: usize = 60 * 1024;

/// Why no response's head came.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error("the upstream's response is malformed: {0}")]
    Head(#[from] HeadError),
    #[error("the upstream's connection ended inside its response's head")]
    Cut,
    #[error("the upstream closed the connection before it answered")]
    Closed,
    #[error("the upstream broke the connection before it answered: {0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub struct ClientConn {
    pub wire: Wire,
    reader: BodyReader,
    writer: BodyWriter,
    trailer: Headers,
    to_head: bool,
    keep_alive: bool,
    request_sent: bool,
    /// The last head says that WebSocket follows it.
    pub speaks_websocket: bool,
    /// Requests sent on this connection, the present one counted.
    pub requests: u64,
}

impl ClientConn {
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            reader: BodyReader::new(BodyLength::Empty),
            writer: BodyWriter::new(BodyLength::Empty),
            trailer: Headers::new(),
            to_head: false,
            keep_alive: true,
            request_sent: true,
            speaks_websocket: false,
            requests: 0,
        }
    }

    /// Puts the request's head in the buffer.
    pub fn start(&mut self, head: &RequestHead, length: BodyLength) {
        self.requests += 1;
        self.to_head = head.method == Method::Head;
        self.request_sent = length == BodyLength::Empty;
        self.keep_alive = true;
        self.trailer.clear();
        self.writer = BodyWriter::new(length);
        // Until a head says otherwise the response is not over, so a connection given up here is not reused.
        self.reader = BodyReader::new(BodyLength::UntilClose);
        write::request(head, length, self.wire.out());
    }

    /// Makes the request whose head `start` has just put in the buffer one for a switch of protocols.
    pub fn ask_for_websocket(&mut self) {
        write::into_upgrade(self.wire.out());
    }

    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, BodyWriteError>> {
        self.writer.poll_send(cx, &mut self.wire, data)
    }

    pub fn finish(&mut self, trailers: Option<&Headers>) -> Result<(), BodyWriteError> {
        self.request_sent = true;
        self.writer.finish(&mut self.wire, trailers)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    /// The next head: interim responses come first, each on its own.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<BodyLength, ResponseError>> {
        loop {
            let unread = self.wire.unread();
            if memchr::memchr(b'\n', unread).is_some()
                && let Some((taken, meta)) = parse::response(unread, head, self.to_head)?
            {
                self.wire.consume(taken);
                self.keep_alive &= meta.keep_alive;
                if !head.is_interim() {
                    self.reader = BodyReader::new(meta.body);
                }
                // Whatever follows a switch of protocols is not HTTP/1.1.
                self.keep_alive &= head.status != 101;
                self.speaks_websocket = head.status == 101 && meta.websocket;
                return Poll::Ready(Ok(meta.body));
            }
            if unread.len() >= HEAD_BYTES_MAX {
                return Poll::Ready(Err(HeadError::TooLarge.into()));
            }
            let began = !unread.is_empty();
            match ready!(self.wire.poll_fill(cx, READ_BYTES_MAX)) {
                Ok(0) | Err(_) if began => return Poll::Ready(Err(ResponseError::Cut)),
                Ok(0) => return Poll::Ready(Err(ResponseError::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, BodyReadError>> {
        self.wire.poll_body(cx, &mut self.reader, &mut self.trailer)
    }

    /// The piece of body at the front of the buffer, which the last `poll_body` found.
    pub fn piece(&self) -> &[u8] {
        self.reader.piece(self.wire.unread())
    }

    pub fn consume_body(&mut self, count: usize) {
        self.wire.consume(count);
        self.reader.took(count);
    }

    pub fn body_is_read(&self) -> bool {
        self.reader.is_done()
    }

    pub fn trailers(&self) -> Option<&Headers> {
        (!self.trailer.is_empty()).then_some(&self.trailer)
    }

    /// Whether the connection is between requests, with nothing left over from the last one.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive
            && self.request_sent
            && self.reader.is_done()
            && self.wire.unread().is_empty()
            && !self.wire.has_unwritten()
    }
}
