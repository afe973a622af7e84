//! The client's side: many requests on one connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::{Headers, RequestHead, ResponseHead};
use crate::net::Arrives;
use celerity_telemetry::Tick;

use super::connection::Connection;
use super::core::{Core, Role};
use super::error::{Code, Error, Kind};
use super::handle::{Handle, Receiver, Sender, stream_methods};
use super::settings::ClientSettings;

/// Starts the client's side on `io`. The caller spawns [`Connection::run`] on the worker's thread; requests may be
/// started at once, before the server's settings have come.
pub fn connect<Io: AsyncRead + AsyncWrite + Arrives + Unpin>(
    io: Io,
    settings: ClientSettings,
) -> (Connection<Io>, Client) {
    let core = Core::new(Role::Client, settings.common, settings.max_concurrent_streams);
    let core = Rc::new(RefCell::new(core));
    (Connection::new(io, Vec::new(), core.clone()), Client { core })
}

/// Starts requests on a connection. Cloning counts a reference; the connection ends when the last clone is gone and
/// its streams have ended.
pub struct Client {
    core: Rc<RefCell<Core>>,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        self.core.borrow_mut().handles += 1;
        Self { core: self.core.clone() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.handles -= 1;
            if core.handles == 0 {
                core.shutdown();
            }
        }
    }
}

impl Client {
    /// Streams that could be started now: 0 where the connection is closing.
    pub fn available_streams(&self) -> usize {
        self.core.borrow().available_streams()
    }

    /// Streams that have not ended.
    pub fn active(&self) -> usize {
        self.core.borrow().ids.len()
    }

    /// Whether a stream was ever started.
    pub fn is_used(&self) -> bool {
        self.core.borrow().next_id > 1
    }

    /// True while new streams may be started, now or when others end.
    pub fn is_open(&self) -> bool {
        self.core.borrow().is_open()
    }

    /// Bytes received and sent since the start.
    pub fn carried_bytes(&self) -> (u64, u64) {
        let core = self.core.borrow();
        (core.received, core.written)
    }

    /// True once the server's settings have come: before, the number of streams it allows is assumed ([`Self::assume_streams`]).
    pub fn is_confirmed(&self) -> bool {
        self.core.borrow().peer.known
    }

    /// Has `tell` hear how many streams the server allows, whenever it says something new. It is called while the connection reads
    /// and must not touch it.
    pub fn on_settings(&self, tell: impl Fn(u32) + 'static) {
        self.core.borrow_mut().on_settings = Some(Box::new(tell));
    }

    /// Takes the server to allow so many streams until it says how many; without that 100.
    pub fn assume_streams(&self, most: u32) {
        let mut core = self.core.borrow_mut();
        if !core.peer.known {
            core.peer.max_concurrent_streams = most;
        }
    }

    /// Sends a request's head; the whole request if `end`. Never waits.
    ///
    /// # Errors
    /// `NotOpen` or `NoCapacity`: nothing was sent.
    pub fn start(&self, head: &RequestHead, end: bool) -> Result<ClientStream, Error> {
        let (slot, id) = self.core.borrow_mut().start(head, end)?;
        Ok(ClientStream { handle: Handle::new(self.core.clone(), slot, id) })
    }

    /// Waits until a stream can be started. Another task may start one first.
    ///
    /// # Errors
    /// The connection takes no new streams.
    pub async fn ready(&self) -> Result<(), Error> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// See [`Self::ready`].
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.core.borrow_mut().poll_ready(cx)
    }

    /// Starts no new streams and ends the connection when those in progress have ended.
    pub fn shutdown(&self) {
        self.core.borrow_mut().shutdown();
    }

    /// Ends the connection at once with GOAWAY `code`.
    pub fn close(&self, code: Code) {
        self.core.borrow_mut().close_with(code, Error::new(Kind::LocalReset(code, "the connection was closed")));
    }

    /// Gives a head back, so that its memory serves the next response.
    pub fn recycle(&self, head: ResponseHead) {
        self.core.borrow_mut().spare_responses.recycle(head);
    }
}

/// One request in progress. Dropped before its end, it is reset with CANCEL.
pub struct ClientStream {
    handle: Handle,
}

impl ClientStream {
    stream_methods!();

    /// The next response head: interim ones (1xx) first, each on its own, then the final one.
    ///
    /// # Errors
    /// The stream or the connection failed; [`Error::is_unprocessed`] says whether to send the request again.
    pub async fn head(&mut self) -> Result<ResponseHead, Error> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    /// As [`Self::poll_head`], into a head whose memory then serves the connection's next response.
    pub fn poll_head_into(&self, cx: &mut Context<'_>, head: &mut ResponseHead) -> Poll<Result<(), Error>> {
        let mut core = self.handle.core.borrow_mut();
        let received = std::task::ready!(core.poll_head(self.handle.slot, self.handle.id, cx))?;
        core.spare_responses.recycle(std::mem::replace(head, received));
        Poll::Ready(Ok(()))
    }

    /// See [`Self::head`].
    pub fn poll_head(&self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        self.handle.core.borrow_mut().poll_head(self.handle.slot, self.handle.id, cx)
    }
}

/// Feeds `input` to a client with some requests in progress as what the server sends, for fuzzing: no input may panic,
/// and what a peer can make the client hold stays bounded.
pub fn fuzz(input: &[u8]) {
    let mut core = Core::new(Role::Client, super::settings::Common::default(), u32::MAX);
    for nth in 0..FUZZED_STREAMS {
        let _ = core.start(&RequestHead::default(), nth % 2 == 0);
    }
    core.fuzz(input, |_, _, _, _| {});
}

const FUZZED_STREAMS: u32 = 8;
