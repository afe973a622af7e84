//! What both sides' streams can do: read a body, write a body, be reset.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::http::Headers;

use super::core::Core;
use super::error::{Code, Error};

/// One stream of a connection. Dropping it resets the stream if it has not ended.
pub(crate) struct Handle {
    pub(crate) core: Rc<RefCell<Core>>,
    pub(crate) slot: usize,
    pub(crate) id: u32,
    /// The octets that are lent to the reader at present.
    lent: Vec<u8>,
}

impl Handle {
    pub(crate) fn new(core: Rc<RefCell<Core>>, slot: usize, id: u32) -> Self {
        Self { core, slot, id, lent: Vec::new() }
    }

    pub(crate) fn split(&mut self) -> (Sender<'_>, Receiver<'_>) {
        let Self { core, slot, id, lent } = self;
        (Sender { core, slot: *slot, id: *id }, Receiver { core, slot: *slot, id: *id, lent })
    }

    pub(crate) fn sender(&self) -> Sender<'_> {
        Sender { core: &self.core, slot: self.slot, id: self.id }
    }

    pub(crate) fn receiver(&mut self) -> Receiver<'_> {
        self.split().1
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Borrowed only where a waker's drop runs a task's destructor within the core; the entry then stays until the
        // connection ends.
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.release(self.slot, self.id, std::mem::take(&mut self.lent));
        }
    }
}

/// The sending half of a stream, borrowed: it can be used while the [`Receiver`] waits.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    pub(crate) core: &'a Rc<RefCell<Core>>,
    pub(crate) slot: usize,
    pub(crate) id: u32,
}

impl Sender<'_> {
    /// Sends as much of `data` as flow control and the output's bound allow, and says how much. END_STREAM goes out with
    /// the last octet if `end`; with empty `data` it goes out at once.
    ///
    /// # Errors
    /// The stream or the connection has failed, or the stream was already ended.
    pub fn poll_data(&self, cx: &mut Context<'_>, data: &[u8], end: bool) -> Poll<Result<usize, Error>> {
        self.core.borrow_mut().poll_send(self.slot, self.id, cx, data, end)
    }

    /// Sends all of `data`, waiting for the windows and for room in the output. Copies once, into the output. Not safe
    /// to cancel and repeat: part of the data may have gone.
    ///
    /// # Errors
    /// See [`Self::poll_data`].
    pub async fn data(&self, data: &[u8], end: bool) -> Result<(), Error> {
        let mut rest = data;
        loop {
            let sent = poll_fn(|cx| self.poll_data(cx, rest, end)).await?;
            rest = rest.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Ready when the output has room for another head. Heads never wait; who sends any number of them must.
    ///
    /// # Errors
    /// The stream or the connection has failed, or the stream was already ended.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.core.borrow_mut().poll_room(self.slot, self.id, cx)
    }

    /// Sends trailers and ends the stream.
    ///
    /// # Errors
    /// See [`Self::poll_data`].
    pub fn trailers(&self, trailers: &Headers) -> Result<(), Error> {
        self.core.borrow_mut().send_trailers(self.slot, self.id, trailers)
    }

    /// Ends the stream at once; nothing happens if it has ended.
    pub fn reset(&self, code: Code) {
        self.core.borrow_mut().reset(self.slot, code, "the caller reset it");
    }

    /// Ready with the reason once the stream has failed: reset by either side, or the connection ended. Never ready for
    /// a stream that ends well.
    pub fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<Error> {
        self.core.borrow_mut().poll_failure(self.slot, self.id, cx)
    }

    /// See [`Self::poll_failed`].
    pub async fn failed(&self) -> Error {
        poll_fn(|cx| self.poll_failed(cx)).await
    }
}

/// The receiving half of a stream, borrowed: it can be used while the [`Sender`] waits.
pub struct Receiver<'a> {
    pub(crate) core: &'a Rc<RefCell<Core>>,
    pub(crate) slot: usize,
    pub(crate) id: u32,
    lent: &'a mut Vec<u8>,
}

impl<'a> Receiver<'a> {
    /// Fills the lent piece; false at the end of the body. The piece before it counts as consumed and its octets go
    /// back to the peer's windows. Read the piece with [`Self::lent`].
    ///
    /// # Errors
    /// The stream or the connection failed before the whole body had come.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        self.core.borrow_mut().poll_body(self.slot, self.id, cx, self.lent)
    }

    /// The piece that the last call lent.
    pub fn lent(&self) -> &[u8] {
        self.lent
    }

    /// The next piece of the body, or `None` at its end. It is consumed by the next call.
    ///
    /// # Errors
    /// See [`Self::poll_fill`].
    pub async fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let more = poll_fn(|cx| self.poll_fill(cx)).await?;
        Ok(more.then_some(&self.lent[..]))
    }

    pub(crate) async fn into_chunk(mut self) -> Result<Option<&'a [u8]>, Error> {
        let more = poll_fn(|cx| self.poll_fill(cx)).await?;
        Ok(more.then_some(&self.lent[..]))
    }

    /// The trailers, once, after the end of the body.
    pub fn take_trailers(&mut self) -> Option<Headers> {
        self.core.borrow_mut().take_trailers(self.slot, self.id)
    }

    /// True once every octet, and the trailers where there are any, has been received and handed out.
    pub fn is_done(&self) -> bool {
        self.core.borrow().is_body_done(self.slot, self.id)
    }
}

/// The methods that server and client streams share.
macro_rules! stream_methods {
    () => {
        /// When the head of the peer's message had come, where that is counted.
        pub fn arrived(&self) -> Option<Tick> {
            let core = self.handle.core.borrow();
            core.streams.get(self.handle.slot).filter(|stream| stream.id == self.handle.id)?.arrived
        }

        /// The two halves, for a caller that sends and receives at the same time.
        pub fn split(&mut self) -> (Sender<'_>, Receiver<'_>) {
            self.handle.split()
        }

        /// The next piece of the peer's body, or `None` at its end. It is consumed by the next call, which is when its
        /// octets go back to the peer's windows.
        ///
        /// # Errors
        /// The stream or the connection failed before the whole body had come.
        pub async fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
            self.handle.receiver().into_chunk().await
        }

        /// The peer's trailers, once, after the end of its body.
        pub fn take_trailers(&mut self) -> Option<Headers> {
            self.handle.receiver().take_trailers()
        }

        /// True once all of the peer's body, and its trailers where there are any, has been received and handed out.
        pub fn is_body_done(&mut self) -> bool {
            self.handle.receiver().is_done()
        }

        /// Sends all of `data`, waiting for the windows and for room in the output; the end of the stream with it if
        /// `end`. See [`Sender::data`].
        ///
        /// # Errors
        /// The stream or the connection has failed, or the stream was already ended.
        pub async fn send_data(&self, data: &[u8], end: bool) -> Result<(), Error> {
            self.handle.sender().data(data, end).await
        }

        /// Sends trailers and ends the stream.
        ///
        /// # Errors
        /// See [`Self::send_data`].
        pub fn send_trailers(&self, trailers: &Headers) -> Result<(), Error> {
            self.handle.sender().trailers(trailers)
        }

        /// Ends the stream at once; nothing happens if it has ended.
        pub fn reset(&self, code: Code) {
            self.handle.sender().reset(code);
        }

        /// Ready once the stream has failed: the peer reset it or the connection ended. Never ready for a stream that
        /// ends well.
        pub fn poll_failed(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Error> {
            self.handle.sender().poll_failed(cx)
        }

        /// Waits until the stream has failed; see [`Self::poll_failed`].
        pub async fn reset_received(&self) -> Error {
            self.handle.sender().failed().await
        }

        /// The stream's id on its connection.
        pub fn id(&self) -> u32 {
            self.handle.id
        }
    };
}
pub(crate) use stream_methods;
