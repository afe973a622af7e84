//! The server's role on one connection: requests in, responses out, one at a time (pipelined ones wait in the buffer).

use super::body::{BodyLength, BodyReadError, BodyReader, BodyWriteError};
use super::parse::{self, HeadError, RequestMeta};
use super::wire::{BodyWriter, Wire};
use super::write::{self, ResponseFraming};
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

/// How long a client that has closed its side is answered. It may have said all it had to say and wait (RFC 9112, section 9.6;
/// `nc` does), or be gone: the wire shows no difference. Most answers take less; work for nobody is not done for longer.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{0}")]
    Head(#[from] HeadError),
    #[error("reading the request's head: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended inside a request's head")]
    Truncated,
}

#[derive(Debug)]
pub struct ServerConn {
    pub wire: Wire,
    reader: BodyReader,
    writer: BodyWriter,
    trailer: Headers,
    meta: RequestMeta,
    to_head: bool,
    close: bool,
    aborted: bool,
    /// The client has closed its side.
    peer_closed: bool,
    /// It did so while it waited for a response: how long it is still believed to wait.
    leaving: Option<Pin<Box<Sleep>>>,
}

impl ServerConn {
    pub fn new(wire: Wire) -> Self {
        Self {
            wire,
            reader: BodyReader::new(BodyLength::Empty),
            writer: BodyWriter::new(BodyLength::Empty),
            trailer: Headers::new(),
            meta: RequestMeta {
                body: BodyLength::Empty,
                keep_alive: true,
                http_10: false,
                expect_continue: false,
                websocket: false,
            },
            to_head: false,
            close: false,
            aborted: false,
            peer_closed: false,
            leaving: None,
        }
    }

    /// Whether a request, or the start of one, is in the buffer already.
    pub fn has_unread(&self) -> bool {
        !self.wire.unread().is_empty()
    }

    /// Waits until the first byte of a request is there. `false`: the peer closed the connection, as it may.
    pub async fn wait(&mut self) -> io::Result<bool> {
        if self.has_unread() {
            return Ok(true);
        }
        self.wire.shrink();
        self.peer_closed = poll_fn(|cx| self.wire.poll_fill(cx, super::wire::READ_BYTES_MAX)).await? == 0;
        Ok(!self.peer_closed)
    }

    /// Reads the next request's head, which may take `limit` bytes.
    pub async fn read_head(&mut self, head: &mut RequestHead, limit: usize) -> Result<RequestMeta, RequestError> {
        let mut seen = 0;
        loop {
            let unread = self.wire.unread();
            // Parsing starts over with each read, so a head that trickles in is parsed only when a line has ended.
            if memchr::memchr(b'\n', &unread[seen..]).is_some() {
                if let Some((taken, meta)) = parse::request(unread, head)? {
                    if taken > limit {
                        return Err(HeadError::TooLarge.into());
                    }
                    self.wire.consume(taken);
                    self.start(head, meta);
                    return Ok(meta);
                }
            } else if unread.first().is_some_and(|&byte| !crate::http::head::is_token(byte) && byte != b'\r') {
                return Err(HeadError::Malformed.into());
            }
            seen = unread.len();
            if seen >= limit {
                return Err(HeadError::TooLarge.into());
            }
            if poll_fn(|cx| self.wire.poll_fill(cx, limit.max(super::wire::READ_BYTES_MAX))).await? == 0 {
                return Err(RequestError::Truncated);
            }
        }
    }

    fn start(&mut self, head: &RequestHead, meta: RequestMeta) {
        self.meta = meta;
        self.to_head = head.method == Method::Head;
        self.reader = BodyReader::new(meta.body);
        self.close = !meta.keep_alive;
        self.trailer.clear();
        self.leaving = None;
    }

    /// The next piece of the request's body, as a count of bytes at the front of `unread`; `None` at the end.
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

    pub fn send_interim(&mut self, head: &ResponseHead) {
        // A 1.0 client has never heard of 1xx (RFC 9110, section 15.2).
        if !self.meta.http_10 {
            write::response(head, ResponseFraming::Body(BodyLength::Empty), false, self.wire.out());
        }
    }

    /// Puts the response's head in the buffer. `length` is that of the body to come, as far as it is known.
    /// `last`: the connection closes after this response.
    pub fn send_head(&mut self, head: &ResponseHead, length: BodyLength, last: bool) {
        if head.status == 101 {
            write::response(head, ResponseFraming::Body(BodyLength::Empty), false, self.wire.out());
            write::into_upgrade(self.wire.out());
            // What follows is not HTTP: no request may be read here again.
            self.close = true;
            return;
        }
        let bodyless = self.to_head || head.status == 304 || head.status == 204;
        let (framing, length) = if bodyless {
            let told = head.headers.get_id(HeaderId::ContentLength);
            let told = told.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
            (ResponseFraming::NoBody { length: told.filter(|_| head.status != 204) }, BodyLength::Empty)
        } else {
            let length = match length {
                // Without chunks, only the end of the connection can end the body.
                BodyLength::Chunked | BodyLength::UntilClose if self.meta.http_10 => BodyLength::UntilClose,
                BodyLength::UntilClose => BodyLength::Chunked,
                known => known,
            };
            (ResponseFraming::Body(length), length)
        };
        self.close |= last || length == BodyLength::UntilClose;
        self.writer = BodyWriter::new(length);
        let keep_alive_10 = self.meta.http_10 && !self.close;
        write::response(head, framing, self.close, self.wire.out());
        if keep_alive_10 {
            // A 1.0 client keeps the connection only when told to (RFC 9112, section 9.3).
            let out = self.wire.out();
            out.truncate(out.len() - 2);
            out.extend_from_slice(b"connection: keep-alive\r\n\r\n");
        }
    }

    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, BodyWriteError>> {
        self.writer.poll_send(cx, &mut self.wire, data)
    }

    pub fn finish(&mut self, trailers: Option<&Headers>) -> Result<(), BodyWriteError> {
        self.writer.finish(&mut self.wire, trailers)
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    /// The response broke off: the connection must not look as if it had ended well.
    pub fn abort(&mut self) {
        self.close = true;
        self.aborted = true;
        // With a reset instead of an end of stream, a body that only the end of the connection frames is seen to be
        // cut short.
        let _ = socket2::SockRef::from(self.wire.io().tcp()).set_linger(Some(Duration::ZERO));
    }

    /// Whether another request may follow. A body that was not read to its end would be taken for one.
    pub fn may_continue(&self) -> bool {
        !self.close && self.reader.is_done()
    }

    /// Closes the sending side, then takes what the client still sends, so that the response is not lost to a reset
    /// (RFC 9112, section 9.6). Bounded in bytes and time by `limit` and the caller's deadline.
    pub async fn linger(&mut self, limit: u64) {
        if self.aborted {
            // An end of stream would make a response that broke off look whole. Dropping the socket resets it.
            return;
        }
        // A client that has sent all it meant to send loses nothing when the socket is simply dropped.
        let said_all = self.peer_closed || !self.meta.keep_alive && self.reader.is_done() && !self.has_unread();
        if said_all && !self.wire.has_unwritten() && !self.wire.io().is_tls() {
            return;
        }
        if poll_fn(|cx| self.wire.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let until = self.wire.read_bytes.saturating_add(limit);
        while self.wire.read_bytes < until {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            let filled = poll_fn(|cx| self.wire.poll_fill(cx, super::wire::READ_BYTES_MAX)).await;
            if !matches!(filled, Ok(1..)) {
                return;
            }
        }
    }

    /// Ready when the client has gone: nobody waits for the response any more. One that has only closed its side is taken for
    /// gone after a while.
    pub fn poll_peer_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.leaving.is_none() {
            if ready!(self.wire.poll_peer_end(cx)).is_err() {
                return Poll::Ready(());
            }
            self.peer_closed = true;
        }
        self.leaving.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED_MAX))).as_mut().poll(cx)
    }
}
