//! One stream: its state, its windows, what was received and not yet read, and who waits for it.

use std::task::{Context, Waker};

use smallvec::SmallVec;

use crate::http::{Headers, ResponseHead};
use celerity_telemetry::Tick;

use super::abuse::Bucket;
use super::error::Error;
use super::flow::{RecvWindow, SendWindow};

/// The life of a stream (RFC 9113, section 5.1). There is no push, so the reserved states do not occur; an idle stream
/// has no entry.
///
/// ```text
///   HEADERS sent or received
///            |
///            v
///          Open ---- END_STREAM received ----> HalfClosedRemote
///            |                                        |
///     END_STREAM sent                          END_STREAM sent
///            |                                        |
///            v                                        v
///     HalfClosedLocal -- END_STREAM received -----> Closed <-- RST_STREAM, GOAWAY, or the
///                                                              connection's end, from any state
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    HalfClosedLocal,
    HalfClosedRemote,
    Closed,
}

impl State {
    pub(crate) fn can_send(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedRemote)
    }

    pub(crate) fn can_receive(self) -> bool {
        matches!(self, Self::Open | Self::HalfClosedLocal)
    }

    pub(crate) fn after_end_sent(self) -> Self {
        match self {
            Self::Open => Self::HalfClosedLocal,
            Self::HalfClosedRemote => Self::Closed,
            other => other,
        }
    }

    pub(crate) fn after_end_received(self) -> Self {
        match self {
            Self::Open => Self::HalfClosedRemote,
            Self::HalfClosedLocal => Self::Closed,
            other => other,
        }
    }
}

/// Whether a stream waits for the connection: for its window or for room in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    NotWaiting,
    Queued,
    /// Woken to write, and has not yet tried.
    Granted,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) state: State,
    /// Why the stream ended before its time.
    pub(crate) failed: Option<Error>,
    /// A handle, or a place in the queue of arrivals, refers to this entry.
    pub(crate) held: bool,
    pub(crate) send_window: SendWindow,
    pub(crate) recv_window: RecvWindow,
    pub(crate) turn: Turn,

    /// The response heads that were received and not yet taken, interim ones first.
    pub(crate) heads: SmallVec<[Box<ResponseHead>; 2]>,
    /// The final head was received (client) or sent (server).
    pub(crate) final_head: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Box<Headers>>,
    /// The whole message was received: it can be read to its end whatever happens to the stream.
    pub(crate) complete: bool,
    /// The declared length of the body, where it binds, and the octets that came.
    pub(crate) content_length: Option<u64>,
    pub(crate) received: u64,
    pub(crate) tiny_frames: Option<Box<Bucket>>,
    /// The response has no body whatever its content-length says.
    pub(crate) bodiless: bool,

    /// Where its HEADERS start, counted in octets of output since the connection's start.
    pub(crate) head_at: u64,
    /// Milliseconds on the connection's clock.
    pub(crate) started_ms: u64,
    /// When the head of the peer's message had come.
    pub(crate) arrived: Option<Tick>,

    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl Stream {
    pub(crate) fn new(id: u32, state: State, send_window: u32, recv_window: u32) -> Self {
        Self {
            id,
            state,
            failed: None,
            held: true,
            send_window: SendWindow::new(send_window),
            recv_window: RecvWindow::new(recv_window),
            turn: Turn::NotWaiting,
            heads: SmallVec::new(),
            final_head: false,
            body: Vec::new(),
            trailers: None,
            complete: false,
            content_length: None,
            received: 0,
            tiny_frames: None,
            bodiless: false,
            head_at: 0,
            started_ms: 0,
            arrived: None,
            reader: None,
            writer: None,
            watcher: None,
        }
    }

    pub(crate) fn wait_to_read(&mut self, cx: &Context<'_>) {
        store(&mut self.reader, cx);
    }

    pub(crate) fn wait_to_write(&mut self, cx: &Context<'_>) {
        store(&mut self.writer, cx);
    }

    pub(crate) fn wait_for_failure(&mut self, cx: &Context<'_>) {
        store(&mut self.watcher, cx);
    }

    pub(crate) fn wake_reader(&mut self) {
        wake(&mut self.reader);
    }

    pub(crate) fn wake_writer(&mut self) {
        wake(&mut self.writer);
    }

    pub(crate) fn wake_all(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
        wake(&mut self.watcher);
    }

    /// The body breaks its declared length: too long now, or too short at its end.
    pub(crate) fn breaks_length(&self, ended: bool) -> bool {
        self.content_length
            .is_some_and(|length| !self.bodiless && (self.received > length || (ended && self.received < length)))
            || (self.bodiless && self.received > 0)
    }
}

/// Keeps the waker; a task that polls again with the same one costs no reference count.
pub(crate) fn store(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

pub(crate) fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}
