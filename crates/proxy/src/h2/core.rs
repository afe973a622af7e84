//! The state of one connection, shared by its driver and its streams: no IO happens here.
//!
//! Whatever is sent is appended to one output buffer. The driver writes that buffer once all tasks that were ready have
//! run, so that the frames of many streams share one system call and one TLS record.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::http::{Headers, Method, RequestHead, ResponseHead};

use super::abuse::{self, Bucket};
use super::error::{Code, Error, Kind, Violation};
use super::fields;
use super::flow::{RecvWindow, SendWindow};
use super::frame;
use super::hpack::{Decoder, Encoder};
use super::settings::{self, Common, DEFAULT_WINDOW, Peer};
use super::spare::{Bodies, Heads};
use super::stream::{State, Stream, Turn, store, wake};

/// Output above which bodies wait: enough for one large write, little enough that a slow peer costs little memory.
const OUTPUT_FULL: usize = 256 * 1024;
/// What one stream may append before others have their turn.
const SLICE: usize = 64 * 1024;
/// Streams that we reset and whose frames may still be on their way. Older ones count as unknown.
const REMEMBERED_RESETS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// How far the connection's end has come.
///
/// ```text
///   Open -- shutdown() --> Announced -- answer to PING --> Draining -- last stream ends --> (finished)
///     |        (server: GOAWAY 2^31-1 and PING)               ^
///     +---- shutdown() of a client, GOAWAY received ----------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Announced,
    Draining,
}

/// A request that nobody has taken yet.
pub(crate) struct Arrival {
    pub(crate) slot: usize,
    pub(crate) head: Box<RequestHead>,
    pub(crate) end_stream: bool,
}

/// Stream ids are small and dense: multiplying spreads them well enough.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) struct Core {
    pub(crate) role: Role,
    pub(crate) settings: Common,
    pub(crate) max_streams: u32,
    pub(crate) peer: Peer,
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,

    /// Output; `out[sent..]` is not yet written. `written` counts octets of the whole connection.
    pub(crate) out: Vec<u8>,
    pub(crate) sent: usize,
    pub(crate) written: u64,
    pub(crate) answers_queued: usize,
    pub(crate) send_window: SendWindow,
    pub(crate) recv_window: RecvWindow,

    pub(crate) streams: Slab<Stream>,
    /// Streams that are not closed, by id.
    pub(crate) ids: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// Streams that wait for the connection's window or for room in the output.
    queue: VecDeque<(usize, u32)>,
    pub(crate) next_id: u32,
    pub(crate) last_peer_id: u32,
    resets: VecDeque<u32>,
    /// Some of `resets` were forgotten: late frames can no longer be told from wrong ones.
    pub(crate) resets_forgotten: bool,

    pub(crate) arrivals: VecDeque<Arrival>,
    pub(crate) acceptor: Option<Waker>,
    /// Whether new streams have a taker: `Incoming` on a server, any `Client` on a client.
    pub(crate) handles: usize,
    pub(crate) ready_waiters: Vec<Waker>,

    pub(crate) phase: Phase,
    pub(crate) closed: Option<Error>,
    pub(crate) peer_goaway: Option<Code>,
    pub(crate) settings_seen: bool,
    pub(crate) preface_left: usize,
    pub(crate) ping_sent: bool,
    pub(crate) now_ms: u64,
    pub(crate) young_resets: Bucket,
    pub(crate) idle_frames: Bucket,

    /// A header block that goes on in CONTINUATION frames.
    pub(crate) block: Vec<u8>,
    pub(crate) block_of: Option<(u32, bool)>,
    pub(crate) continuations: u32,
    pub(crate) cookies: Vec<u8>,

    pub(crate) spare_bodies: Bodies,
    pub(crate) spare_requests: Heads<RequestHead>,
    pub(crate) spare_responses: Heads<ResponseHead>,

    pub(crate) driver: Option<Waker>,
    pub(crate) driver_woken: bool,
}

impl Core {
    pub(crate) fn new(role: Role, settings: Common, max_streams: u32) -> Self {
        let settings = settings.clamped();
        let mut core = Self {
            role,
            settings,
            max_streams,
            peer: Peer::default(),
            encoder: Encoder::default(),
            decoder: Decoder::new(settings.header_table_size.max(settings::DEFAULT_TABLE_SIZE) as usize),
            out: Vec::new(),
            sent: 0,
            written: 0,
            answers_queued: 0,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(settings.connection_window),
            streams: Slab::new(),
            ids: HashMap::default(),
            queue: VecDeque::new(),
            next_id: 1,
            last_peer_id: 0,
            resets: VecDeque::new(),
            resets_forgotten: false,
            arrivals: VecDeque::new(),
            acceptor: None,
            handles: 1,
            ready_waiters: Vec::new(),
            phase: Phase::Open,
            closed: None,
            peer_goaway: None,
            settings_seen: false,
            preface_left: if role == Role::Server { frame::PREFACE.len() } else { 0 },
            ping_sent: false,
            now_ms: 0,
            young_resets: Bucket::new(abuse::YOUNG_RESETS),
            idle_frames: Bucket::new(abuse::IDLE_FRAMES),
            block: Vec::new(),
            block_of: None,
            continuations: 0,
            cookies: Vec::new(),
            spare_bodies: Bodies::new(),
            spare_requests: Heads::new(),
            spare_responses: Heads::new(),
            driver: None,
            driver_woken: false,
        };
        core.announce();
        core
    }

    /// The first frames of the connection.
    fn announce(&mut self) {
        let common = self.settings;
        if self.role == Role::Client {
            self.out.extend_from_slice(frame::PREFACE);
        }
        let streams = match self.role {
            Role::Server => (settings::MAX_CONCURRENT_STREAMS, self.max_streams),
            Role::Client => (settings::ENABLE_PUSH, 0),
        };
        frame::put_settings(
            &mut self.out,
            &[
                streams,
                (settings::HEADER_TABLE_SIZE, common.header_table_size),
                (settings::INITIAL_WINDOW_SIZE, common.stream_window),
                (settings::MAX_FRAME_SIZE, common.max_frame_size),
                (settings::MAX_HEADER_LIST_SIZE, common.max_header_list_size),
            ],
        );
        if common.connection_window > DEFAULT_WINDOW {
            frame::put_window_update(&mut self.out, 0, common.connection_window - DEFAULT_WINDOW);
        }
    }

    /// Asks the driver to write the output after the tasks that are ready now.
    pub(crate) fn wake_driver(&mut self) {
        if !self.driver_woken
            && let Some(driver) = &self.driver
        {
            self.driver_woken = true;
            driver.wake_by_ref();
        }
    }

    pub(crate) fn pending_output(&self) -> usize {
        self.out.len() - self.sent
    }

    fn room(&self) -> usize {
        OUTPUT_FULL.saturating_sub(self.pending_output()).min(self.send_window.available())
    }

    fn stream(&mut self, slot: usize, id: u32) -> Result<&mut Stream, Error> {
        match self.streams.get_mut(slot) {
            Some(stream) if stream.id == id => Ok(stream),
            _ => Err(Error::misuse("the stream has been given up")),
        }
    }

    /// A stream that may still send, or why it may not.
    fn sendable(&mut self, slot: usize, id: u32) -> Result<&mut Stream, Error> {
        let stream = self.stream(slot, id)?;
        match stream.failed {
            Some(error) => Err(error),
            None if stream.state.can_send() => Ok(stream),
            None => Err(Error::misuse("something was sent after the end of the stream")),
        }
    }

    // Sending.

    /// Writes a HEADERS frame (and what follows it) at the end of the output.
    pub(crate) fn put_headers(&mut self, id: u32, end_stream: bool, fields: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let from = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEADER_LEN]);
        self.encoder.begin(&mut self.out);
        fields(&mut self.encoder, &mut self.out);
        frame::finish_headers(&mut self.out, from, id, end_stream, self.peer.max_frame_size as usize);
        self.wake_driver();
    }

    pub(crate) fn available_streams(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        (self.peer.max_concurrent_streams.min(self.max_streams) as usize).saturating_sub(self.ids.len())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.closed.is_none() && self.next_id <= frame::MAX_STREAM_ID
    }

    pub(crate) fn start(&mut self, head: &RequestHead, end_stream: bool) -> Result<(usize, u32), Error> {
        if !self.is_open() {
            return Err(self.closed.unwrap_or(Error::new(Kind::NotOpen)).as_unprocessed());
        }
        if self.available_streams() == 0 {
            return Err(Error::new(Kind::NoCapacity));
        }
        let id = self.next_id;
        self.next_id += 2;
        let state = if end_stream { State::HalfClosedLocal } else { State::Open };
        let mut stream = Stream::new(id, state, self.peer.initial_window, self.settings.stream_window);
        stream.head_at = self.written + self.pending_output() as u64;
        stream.started_ms = self.now_ms;
        stream.bodiless = head.method == Method::Head;
        stream.body = self.spare_bodies.take();
        let slot = self.streams.insert(stream);
        self.ids.insert(id, slot);
        self.put_headers(id, end_stream, |encoder, out| fields::put_request(encoder, head, out));
        Ok((slot, id))
    }

    pub(crate) fn send_response(&mut self, slot: usize, id: u32, head: &ResponseHead, end: bool) -> Result<(), Error> {
        let stream = self.sendable(slot, id)?;
        if stream.final_head {
            return Err(Error::misuse("a second response head"));
        }
        if !(100..1000).contains(&head.status) || head.status == 101 || (head.status < 200 && end) {
            return Err(Error::misuse("a status that HTTP/2 cannot carry"));
        }
        stream.final_head = head.status >= 200;
        self.put_headers(id, end, |encoder, out| fields::put_response(encoder, head, out));
        if end {
            self.end_sent(slot);
        }
        Ok(())
    }

    pub(crate) fn send_trailers(&mut self, slot: usize, id: u32, trailers: &Headers) -> Result<(), Error> {
        let server = self.role == Role::Server;
        let stream = self.sendable(slot, id)?;
        if server && !stream.final_head {
            return Err(Error::misuse("trailers before the response head"));
        }
        self.put_headers(id, true, |encoder, out| fields::put_headers(encoder, trailers, out));
        self.end_sent(slot);
        Ok(())
    }

    /// Appends as much of `data` as the windows and the output allow: how much that was. With `end`, END_STREAM goes out
    /// with the last octet.
    pub(crate) fn poll_send(
        &mut self,
        slot: usize,
        id: u32,
        cx: &Context<'_>,
        data: &[u8],
        end: bool,
    ) -> Poll<Result<usize, Error>> {
        let (room, server) = (self.room(), self.role == Role::Server);
        let largest = self.peer.max_frame_size as usize;
        let stream = match self.sendable(slot, id) {
            Ok(stream) => stream,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if server && !stream.final_head {
            return Poll::Ready(Err(Error::misuse("a body before the response head")));
        }
        let granted = stream.turn == Turn::Granted;
        if granted {
            stream.turn = Turn::NotWaiting;
        }
        if data.is_empty() {
            if end {
                frame::put_data(&mut self.out, id, b"", true);
                self.end_sent(slot);
                self.wake_driver();
            }
            return Poll::Ready(Ok(0));
        }
        let window = stream.send_window.available();
        if window == 0 {
            stream.wait_to_write(cx);
            if granted {
                // The turn was not used: the next stream may have it.
                self.grant_turns();
            }
            return Poll::Pending;
        }
        if room == 0 {
            stream.wait_to_write(cx);
            if stream.turn == Turn::NotWaiting {
                stream.turn = Turn::Queued;
                // Who was woken in vain does not lose its place.
                if granted {
                    self.queue.push_front((slot, id));
                } else {
                    self.queue.push_back((slot, id));
                }
            }
            return Poll::Pending;
        }
        let take = data.len().min(window).min(room).min(SLICE);
        stream.send_window.take(take);
        self.send_window.take(take);
        let (now, _) = data.split_at(take);
        let last = take == data.len() && end;
        let frames = take.div_ceil(largest);
        for (nth, piece) in now.chunks(largest).enumerate() {
            frame::put_data(&mut self.out, id, piece, last && nth + 1 == frames);
        }
        if last {
            self.end_sent(slot);
        }
        self.wake_driver();
        Poll::Ready(Ok(take))
    }

    /// Wakes the streams that wait for the connection, as many as there is room for.
    pub(crate) fn grant_turns(&mut self) {
        let mut room = self.room();
        while room > 0 {
            let Some((slot, id)) = self.queue.pop_front() else { return };
            if let Some(stream) = self.streams.get_mut(slot)
                && stream.id == id
                && stream.turn == Turn::Queued
            {
                stream.turn = Turn::Granted;
                stream.wake_writer();
                room = room.saturating_sub(SLICE);
            }
        }
    }

    fn end_sent(&mut self, slot: usize) {
        if let Some(stream) = self.streams.get_mut(slot) {
            stream.state = stream.state.after_end_sent();
            if stream.state == State::Closed {
                self.retire(slot);
            }
        }
    }

    // Ending streams.

    /// The stream has just become closed: it no longer counts, and its entry goes with its handle.
    pub(crate) fn retire(&mut self, slot: usize) {
        let Some(stream) = self.streams.get(slot) else { return };
        let (id, held) = (stream.id, stream.held);
        if self.ids.remove(&id).is_some() {
            self.wake_ready();
            if self.ids.is_empty() && (self.phase != Phase::Open || self.handles == 0) {
                self.wake_driver();
            }
        }
        if !held {
            self.forget(slot);
        }
    }

    /// Wakes as many of those who wait to start a stream as can; all of them where none ever will.
    pub(crate) fn wake_ready(&mut self) {
        let most = if self.is_open() { self.available_streams() } else { usize::MAX };
        let most = most.min(self.ready_waiters.len());
        self.ready_waiters.drain(..most).for_each(Waker::wake);
    }

    fn forget(&mut self, slot: usize) {
        let Some(mut stream) = self.streams.try_remove(slot) else { return };
        self.consumed(None, stream.body.len());
        self.spare_bodies.keep(std::mem::take(&mut stream.body));
        for head in stream.heads.drain(..) {
            self.spare_responses.keep(head);
        }
        if stream.turn == Turn::Granted && !self.queue.is_empty() {
            self.grant_turns();
        }
    }

    /// Ends a stream early from this side and tells the peer.
    pub(crate) fn reset(&mut self, slot: usize, code: Code, why: &'static str) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        if stream.state == State::Closed {
            return;
        }
        let id = stream.id;
        stream.state = State::Closed;
        stream.failed.get_or_insert(Error::new(Kind::LocalReset(code, why)));
        stream.wake_all();
        self.put_reset(id, code);
        self.retire(slot);
    }

    /// Sends RST_STREAM and remembers it, so that frames on their way are not taken for a violation.
    pub(crate) fn put_reset(&mut self, id: u32, code: Code) {
        if self.resets.len() == REMEMBERED_RESETS {
            self.resets.pop_front();
            self.resets_forgotten = true;
        }
        self.resets.push_back(id);
        frame::put_reset(&mut self.out, id, code);
        self.wake_driver();
    }

    pub(crate) fn was_reset(&self, id: u32) -> bool {
        self.resets.contains(&id)
    }

    /// Ends a stream that the peer, or the connection's end, has ended.
    pub(crate) fn fail(&mut self, slot: usize, error: Error) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        stream.state = State::Closed;
        stream.failed.get_or_insert(error);
        stream.wake_all();
        self.retire(slot);
    }

    /// The handle is gone: an unfinished stream is reset. A server that has answered in full asks the client to stop
    /// sending, without an error (RFC 9113, section 8.1).
    pub(crate) fn release(&mut self, slot: usize, id: u32, lent: Vec<u8>) {
        self.consumed(None, lent.len());
        self.spare_bodies.keep(lent);
        let server = self.role == Role::Server;
        let Ok(stream) = self.stream(slot, id) else { return };
        stream.held = false;
        match stream.state {
            State::Closed => self.forget(slot),
            State::HalfClosedLocal if server => self.reset(slot, Code::NO_ERROR, "the response is complete"),
            _ => self.reset(slot, Code::CANCEL, "the stream was given up"),
        }
    }

    /// Ends the connection at once: every stream fails.
    pub(crate) fn close(&mut self, error: Error) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(error);
        while let Some(arrival) = self.arrivals.pop_front() {
            if let Some(stream) = self.streams.get_mut(arrival.slot) {
                stream.held = false;
            }
        }
        // A dying connection is rare: collecting the slots costs one allocation.
        let slots: Vec<usize> = self.ids.values().copied().collect();
        for slot in slots {
            let untouched = self.role == Role::Client
                && self.streams.get(slot).is_some_and(|stream| stream.head_at >= self.written);
            self.fail(slot, if untouched { error.as_unprocessed() } else { error });
        }
        wake(&mut self.acceptor);
        self.wake_ready();
        self.wake_driver();
    }

    /// Closes the connection because the peer broke a rule (or `Code::NO_ERROR`: because the caller wants it).
    pub(crate) fn close_with(&mut self, code: Code, error: Error) {
        if self.closed.is_none() {
            frame::put_goaway(&mut self.out, self.last_peer_id, code);
            self.close(error);
        }
    }

    /// A graceful end: streams in progress finish, new ones are no longer taken.
    pub(crate) fn shutdown(&mut self) {
        if self.phase != Phase::Open || self.closed.is_some() {
            return;
        }
        match self.role {
            Role::Server => {
                self.phase = Phase::Announced;
                frame::put_goaway(&mut self.out, frame::MAX_STREAM_ID, Code::NO_ERROR);
                frame::put_ping(&mut self.out, SHUTDOWN_PING, false);
            }
            Role::Client => {
                self.phase = Phase::Draining;
                frame::put_goaway(&mut self.out, 0, Code::NO_ERROR);
            }
        }
        self.wake_ready();
        self.wake_driver();
    }

    /// The answer to the PING of a graceful shutdown: every request that was on its way has come.
    pub(crate) fn shutdown_answered(&mut self) {
        if self.phase == Phase::Announced {
            self.phase = Phase::Draining;
            frame::put_goaway(&mut self.out, self.last_peer_id, Code::NO_ERROR);
            wake(&mut self.acceptor);
            self.wake_driver();
        }
    }

    /// Nothing is left to do but to write the output.
    pub(crate) fn is_finished(&self) -> bool {
        let ending = self.phase == Phase::Draining || (self.role == Role::Client && self.handles == 0);
        self.closed.is_some() || (ending && self.ids.is_empty() && self.arrivals.is_empty())
    }

    // Receiving, as the handles see it.

    /// Gives octets back to the peer's windows: to that of the connection, and of the stream where it still receives.
    pub(crate) fn consumed(&mut self, slot: Option<usize>, bytes: usize) {
        if bytes == 0 || self.closed.is_some() {
            return;
        }
        let bytes = bytes as u32;
        if let Some(increment) = self.recv_window.consume(bytes) {
            frame::put_window_update(&mut self.out, 0, increment);
            self.wake_driver();
        }
        if let Some(stream) = slot.and_then(|slot| self.streams.get_mut(slot))
            && stream.state.can_receive()
            && let Some(increment) = stream.recv_window.consume(bytes)
        {
            let id = stream.id;
            frame::put_window_update(&mut self.out, id, increment);
            self.wake_driver();
        }
    }

    /// Swaps the received octets into `lent`, whose former content is consumed. False at the end of the body.
    pub(crate) fn poll_body(
        &mut self,
        slot: usize,
        id: u32,
        cx: &Context<'_>,
        lent: &mut Vec<u8>,
    ) -> Poll<Result<bool, Error>> {
        if !lent.is_empty() {
            self.consumed(Some(slot), lent.len());
            lent.clear();
        }
        let client = self.role == Role::Client;
        let stream = match self.stream(slot, id) {
            Ok(stream) => stream,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if !stream.complete
            && let Some(error) = stream.failed
        {
            return Poll::Ready(Err(error));
        }
        if client && !stream.final_head {
            return Poll::Ready(Err(Error::misuse("the body was asked for before the head had come")));
        }
        if !stream.body.is_empty() {
            std::mem::swap(&mut stream.body, lent);
            return Poll::Ready(Ok(true));
        }
        if stream.complete {
            return Poll::Ready(Ok(false));
        }
        stream.wait_to_read(cx);
        Poll::Pending
    }

    pub(crate) fn poll_head(&mut self, slot: usize, id: u32, cx: &Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let stream = match self.stream(slot, id) {
            Ok(stream) => stream,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if !stream.heads.is_empty() {
            let head = stream.heads.remove(0);
            return Poll::Ready(Ok(self.spare_responses.hand_out(head)));
        }
        match stream.failed {
            Some(error) => Poll::Ready(Err(error)),
            None if stream.final_head => Poll::Ready(Err(Error::misuse("the final head was already taken"))),
            None => {
                stream.wait_to_read(cx);
                Poll::Pending
            }
        }
    }

    pub(crate) fn take_trailers(&mut self, slot: usize, id: u32) -> Option<Headers> {
        self.stream(slot, id).ok().and_then(|stream| stream.trailers.take()).map(|trailers| *trailers)
    }

    pub(crate) fn is_body_done(&self, slot: usize, id: u32) -> bool {
        self.streams.get(slot).is_some_and(|stream| stream.id == id && stream.complete && stream.body.is_empty())
    }

    /// Ready once the stream has failed; never for one that ends well.
    pub(crate) fn poll_failure(&mut self, slot: usize, id: u32, cx: &Context<'_>) -> Poll<Error> {
        match self.stream(slot, id) {
            Ok(stream) => match stream.failed {
                Some(error) => Poll::Ready(error),
                None => {
                    stream.wait_for_failure(cx);
                    Poll::Pending
                }
            },
            Err(_) => Poll::Pending,
        }
    }

    /// Ready when a stream can be started, or never can again.
    pub(crate) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if !self.is_open() {
            return Poll::Ready(Err(self.closed.unwrap_or(Error::new(Kind::NotOpen)).as_unprocessed()));
        }
        if self.available_streams() > 0 {
            return Poll::Ready(Ok(()));
        }
        self.ready_waiters.retain(|waker| !waker.will_wake(cx.waker()));
        self.ready_waiters.push(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn poll_arrival(&mut self, cx: &Context<'_>) -> Poll<Option<Arrival>> {
        while let Some(arrival) = self.arrivals.pop_front() {
            // Reset before anybody took it: nobody need know.
            match self.streams.get_mut(arrival.slot) {
                Some(stream) if stream.failed.is_none() => return Poll::Ready(Some(arrival)),
                Some(stream) => {
                    stream.held = false;
                    self.forget(arrival.slot);
                }
                None => {}
            }
            self.spare_requests.keep(arrival.head);
        }
        if self.closed.is_some() || self.phase == Phase::Draining {
            return Poll::Ready(None);
        }
        store(&mut self.acceptor, cx);
        Poll::Pending
    }

    /// One answer to the peer was queued; too many mean that the peer asks and does not read.
    pub(crate) fn answered(&mut self, bytes: usize) -> Result<(), Violation> {
        self.answers_queued += bytes;
        if self.answers_queued > abuse::MAX_ANSWERS_QUEUED {
            return Err(Violation::calm("too many answers wait for the peer to read them"));
        }
        Ok(())
    }

    /// A frame that carries no work.
    pub(crate) fn idle_frame(&mut self) -> Result<(), Violation> {
        if self.idle_frames.add(self.now_ms) {
            Ok(())
        } else {
            Err(Violation::calm("too many frames that carry nothing"))
        }
    }
}

impl Core {
    /// Takes `input` in pieces of growing length, as a socket would give them, while the streams read and `act`.
    pub(crate) fn fuzz(&mut self, input: &[u8], mut act: impl FnMut(&mut Self, usize, u32, usize)) {
        let cx = Context::from_waker(Waker::noop());
        let mut lent = Vec::new();
        let (mut start, mut end, mut round) = (0, 0, 0);
        while end < input.len() && self.closed.is_none() {
            round += 1;
            end = (end + 1 + round * 7).min(input.len());
            let taken = self.receive(input.get(start..end).unwrap_or_default(), round as u64);
            assert!(taken <= end - start);
            start += taken;
            while let Poll::Ready(Some(arrival)) = self.poll_arrival(&cx) {
                self.spare_requests.keep(arrival.head);
            }
            let held: Vec<_> = self.streams.iter().map(|(slot, stream)| (slot, stream.id)).collect();
            for &(slot, id) in &held {
                act(self, slot, id, round);
                let _ = self.poll_head(slot, id, &cx);
                let _ = self.poll_body(slot, id, &cx, &mut lent);
                let _ = self.poll_send(slot, id, &cx, &[0; 100], round % 3 == 0);
            }
            assert!(self.role == Role::Client || held.len() <= 2 * self.max_streams as usize);
            assert!(self.ids.len() <= self.streams.len());
            assert!(self.pending_output() < 2 * OUTPUT_FULL);
            if round % 4 == 0 {
                // The peer has read, and the handlers of the older half of the streams have finished.
                self.written += self.pending_output() as u64;
                self.out.clear();
                self.answers_queued = 0;
                self.grant_turns();
                for &(slot, id) in held.iter().take(held.len() / 2) {
                    self.release(slot, id, std::mem::take(&mut lent));
                }
            }
        }
        let held: Vec<_> = self.streams.iter().map(|(slot, stream)| (slot, stream.id)).collect();
        for (slot, id) in held {
            self.release(slot, id, Vec::new());
        }
        assert!(self.streams.iter().all(|(_, stream)| !stream.held) && self.ids.is_empty());
    }
}

pub(crate) const SHUTDOWN_PING: [u8; 8] = *b"shutdown";
pub(crate) const KEEPALIVE_PING: [u8; 8] = *b"alive?  ";
