//! The server's side: requests come in, each with a stream to answer on.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::{Headers, RequestHead, ResponseHead};
use crate::net::Arrives;
use celerity_telemetry::Tick;

use super::connection::Connection;
use super::core::{Core, Refused, Role};
use super::error::{Code, Error, Kind};
use super::handle::{Handle, Receiver, Sender, stream_methods};
use super::settings::ServerSettings;

/// Starts the server's side on `io`. The caller spawns [`Connection::run`] on the worker's thread and takes requests
/// from [`Incoming`]. The client's preface is read from `io`.
pub fn accept<Io: AsyncRead + AsyncWrite + Arrives + Unpin>(
    io: Io,
    settings: ServerSettings,
) -> (Connection<Io>, Incoming) {
    accept_with(io, Vec::new(), settings)
}

/// As [`accept`], where the connection's first bytes were read to know the protocol.
pub fn accept_with<Io: AsyncRead + AsyncWrite + Arrives + Unpin>(
    io: Io,
    early: Vec<u8>,
    settings: ServerSettings,
) -> (Connection<Io>, Incoming) {
    let core = Core::new(Role::Server, settings.common, settings.max_concurrent_streams);
    let core = Rc::new(RefCell::new(core));
    (Connection::new(io, early, core.clone()), Incoming { control: ServerControl { core } })
}

/// The requests of one connection. Dropping it refuses further ones and ends the connection gracefully.
pub struct Incoming {
    control: ServerControl,
}

impl Incoming {
    /// The next request, its stream, and whether it ended with its head. `None` once no more will come.
    pub async fn next(&mut self) -> Option<(RequestHead, ServerStream, bool)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// See [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(RequestHead, ServerStream, bool)>> {
        let mut core = self.control.core.borrow_mut();
        core.poll_arrival(cx).map(|arrival| {
            arrival.map(|arrival| {
                let id = core.streams.get(arrival.slot).map_or(0, |stream| stream.id);
                let handle = Handle::new(self.control.core.clone(), arrival.slot, id);
                (core.spare_requests.hand_out(arrival.head), ServerStream { handle }, arrival.end_stream)
            })
        })
    }

    /// Has `tell` hear of what is refused from now on, so that it never comes as a request. It is called while the connection
    /// reads and must not touch it.
    pub fn on_refused(&self, tell: impl Fn(&Refused<'_>) + 'static) {
        self.control.core.borrow_mut().on_refused = Some(Box::new(tell));
    }

    /// Gives a head back, so that its memory serves the next request.
    pub fn recycle(&self, head: RequestHead) {
        self.control.core.borrow_mut().spare_requests.recycle(head);
    }

    pub fn control(&self) -> ServerControl {
        self.control.clone()
    }

    /// See [`ServerControl::shutdown`].
    pub fn shutdown(&self) {
        self.control.shutdown();
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Ok(mut core) = self.control.core.try_borrow_mut() {
            core.handles = 0;
            while let Some(arrival) = core.arrivals.pop_front() {
                if let Some(stream) = core.streams.get_mut(arrival.slot) {
                    stream.held = false;
                }
                core.reset(arrival.slot, Code::REFUSED_STREAM, "nobody takes requests any more");
            }
            core.shutdown();
        }
    }
}

/// Steers a server connection from elsewhere.
#[derive(Clone)]
pub struct ServerControl {
    core: Rc<RefCell<Core>>,
}

impl ServerControl {
    /// Ends the connection gracefully: GOAWAY with the largest id, a round trip later GOAWAY with the last one that was
    /// taken, then the end once every stream has ended (RFC 9113, section 6.8). Has no deadline of its own.
    pub fn shutdown(&self) {
        self.core.borrow_mut().shutdown();
    }

    /// Ends the connection at once with GOAWAY `code`.
    pub fn close(&self, code: Code) {
        self.core.borrow_mut().close_with(code, Error::new(Kind::LocalReset(code, "the connection was closed")));
    }

    /// Streams that have not ended.
    pub fn active(&self) -> usize {
        self.core.borrow().ids.len()
    }

    pub fn is_open(&self) -> bool {
        self.core.borrow().is_open()
    }

    /// Gives a head back, so that its memory serves the next request.
    pub fn recycle(&self, head: RequestHead) {
        self.core.borrow_mut().spare_requests.recycle(head);
    }
}

/// One request's stream. Dropped before its end, it is reset: with NO_ERROR after a complete response, else CANCEL.
pub struct ServerStream {
    handle: Handle,
}

impl ServerStream {
    stream_methods!();

    /// Sends a 1xx response (not 101, which HTTP/2 does not have).
    ///
    /// # Errors
    /// The stream has failed or ended, the final head was sent, or the status is not interim.
    pub fn send_interim(&self, head: &ResponseHead) -> Result<(), Error> {
        if !head.is_interim() {
            return Err(Error::misuse("an interim response whose status is final"));
        }
        self.send_head(head, false)
    }

    /// Sends the response's head; the whole response if `end`. Never waits: heads are not flow-controlled.
    ///
    /// # Errors
    /// The stream has failed or ended, or a final head was already sent.
    pub fn send_head(&self, head: &ResponseHead, end: bool) -> Result<(), Error> {
        self.handle.core.borrow_mut().send_response(self.handle.slot, self.handle.id, head, end)
    }
}

/// Feeds `input` to a server as what follows the client's preface, for fuzzing: no input may panic, and what a peer can
/// make the server hold stays bounded.
pub fn fuzz(input: &[u8]) {
    let mut core = Core::new(Role::Server, super::settings::Common::default(), FUZZED_STREAMS);
    core.receive(super::frame::PREFACE, 0);
    core.fuzz(input, |core, slot, id, round| {
        let end = round % 2 == 0;
        let _ = core.send_response(slot, id, &ResponseHead::new(200), end);
    });
}

const FUZZED_STREAMS: u32 = 8;
