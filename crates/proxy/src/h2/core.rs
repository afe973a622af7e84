//! The state of one connection, shared by its driver and its streams: no IO happens here.
//!
//! Whatever is sent is appended to one output buffer. The driver writes that buffer once all tasks that were ready have
//! run, so that the frames of many streams share one system call and one TLS record.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use slab::Slab;

use crate::http::{RequestHead, ResponseHead};
use celerity_telemetry::Tick;

use super::abuse::{self, Bucket};
use super::error::{Code, Error, Kind, Violation};
use super::flow::{RecvWindow, SendWindow};
use super::frame;
use super::hpack::{Decoder, Encoder};
use super::settings::{self, Common, DEFAULT_WINDOW, Peer};
use super::spare::{Bodies, Heads};
use super::stream::{State, Stream, Turn, wake};

/// Output above which bodies wait: enough for one large write, little enough that a slow peer costs little memory.
pub(super) const OUTPUT_FULL: usize = 256 * 1024;
/// Streams that we reset and whose frames may still be on their way. Older ones count as unknown.
const REMEMBERED_RESETS: usize = 128;

/// Gaps in a client's stream ids. Honest clients leave none; a frame for an older gap is answered as one for a stream that
/// has ended, which ends the connection as well.
const REMEMBERED_GAPS: usize = 32;

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
    /// Where, counted so, the streams begin that were started since there was none.
    pub(crate) busy_from: u64,
    /// Whether there had been others before those, and what had been read by then.
    pub(crate) idle_before: Option<u64>,
    /// Octets read, of the whole connection.
    pub(crate) received: u64,
    /// When what was read last had come.
    pub(crate) arrived: Option<Tick>,
    pub(crate) answers_queued: usize,
    pub(crate) send_window: SendWindow,
    pub(crate) recv_window: RecvWindow,

    pub(crate) streams: Slab<Stream>,
    /// Streams that are not closed, by id.
    pub(crate) ids: HashMap<u32, usize, BuildHasherDefault<IdHasher>>,
    /// Streams that wait for the connection's window or for room in the output.
    pub(super) queue: VecDeque<(usize, u32)>,
    pub(crate) next_id: u32,
    pub(crate) last_peer_id: u32,
    /// Ids below `last_peer_id` that the client left out, each range with both its ends.
    skipped: VecDeque<(u32, u32)>,
    resets: VecDeque<u32>,
    /// Some of `resets` were forgotten: late frames can no longer be told from wrong ones.
    pub(crate) resets_forgotten: bool,

    pub(crate) arrivals: VecDeque<Arrival>,
    pub(crate) acceptor: Option<Waker>,
    /// Is told what was refused here, and so never arrives.
    pub(crate) on_refused: Option<Box<TellRefused>>,
    /// Is told how many streams the server allows, whenever it says something new.
    pub(crate) on_settings: Option<Box<dyn Fn(u32)>>,
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
    /// WINDOW_UPDATE frames that the peer has sent, and what it may have sent them for.
    pub(crate) window_updates: u64,
    pub(crate) data_frames: u64,
    pub(crate) streams_opened: u64,

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

type TellRefused = dyn Fn(&Refused<'_>);

/// What a server did not take: a request that is none, or the whole connection.
#[derive(Debug)]
pub struct Refused<'a> {
    /// As far as it could be read; none where it is the connection's end.
    pub head: Option<&'a RequestHead>,
    /// What it was answered with; none where its stream or connection was reset.
    pub status: Option<u16>,
    pub why: &'static str,
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
            busy_from: 0,
            idle_before: None,
            received: 0,
            arrived: None,
            answers_queued: 0,
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(settings.connection_window),
            streams: Slab::new(),
            ids: HashMap::default(),
            queue: VecDeque::new(),
            next_id: 1,
            last_peer_id: 0,
            skipped: VecDeque::new(),
            resets: VecDeque::new(),
            resets_forgotten: false,
            arrivals: VecDeque::new(),
            acceptor: None,
            on_refused: None,
            on_settings: None,
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
            window_updates: 0,
            data_frames: 0,
            streams_opened: 0,
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

    /// Streams were started on a connection that had none, and nothing of them was written yet.
    pub(crate) fn is_about_to_ask(&self) -> bool {
        self.role == Role::Client && self.busy_from >= self.written && !self.ids.is_empty()
    }

    pub(super) fn room(&self) -> usize {
        OUTPUT_FULL.saturating_sub(self.pending_output()).min(self.send_window.available())
    }

    pub(super) fn stream(&mut self, slot: usize, id: u32) -> Result<&mut Stream, Error> {
        match self.streams.get_mut(slot) {
            Some(stream) if stream.id == id => Ok(stream),
            _ => Err(Error::misuse("the stream has been given up")),
        }
    }

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

    pub(super) fn forget(&mut self, slot: usize) {
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

    /// Tells who wants to know of a request, or of a whole connection, that was refused.
    pub(crate) fn tell_refused(&self, refused: &Refused<'_>) {
        if let Some(tell) = &self.on_refused {
            tell(refused);
        }
    }

    /// A client's next stream. What lies between its last one and this can never be opened (RFC 9113, section 5.1.1).
    pub(crate) fn opened(&mut self, id: u32) {
        self.streams_opened += 1;
        let next = if self.last_peer_id == 0 { 1 } else { self.last_peer_id + 2 };
        if id > next {
            if self.skipped.len() == REMEMBERED_GAPS {
                self.skipped.pop_front();
            }
            self.skipped.push_back((next, id - 2));
        }
        self.last_peer_id = id;
    }

    /// A stream that was closed by opening a later one, and never carried anything.
    pub(crate) fn was_skipped(&self, id: u32) -> bool {
        self.skipped.iter().any(|(from, to)| (*from..=*to).contains(&id))
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
        self.close_unseen(error, self.written);
    }

    /// The same, where the peer has certainly seen nothing from there on, of what was written.
    pub(crate) fn close_unseen(&mut self, error: Error, unseen_from: u64) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(error);
        self.unsay_requests();
        while let Some(arrival) = self.arrivals.pop_front() {
            if let Some(stream) = self.streams.get_mut(arrival.slot) {
                stream.held = false;
            }
        }
        // A dying connection is rare: collecting the slots costs one allocation.
        let slots: Vec<usize> = self.ids.values().copied().collect();
        let is_client = self.role == Role::Client;
        let unseen_from = unseen_from.min(self.written);
        // The connection was idle, and has said nothing since.
        let was_idle = is_client
            && matches!(error.kind(), Kind::Closed | Kind::Io(_))
            && self.idle_before.is_some_and(|received| received == self.received);
        for slot in slots {
            let Some(stream) = self.streams.get(slot) else { continue };
            let error = if is_client && stream.head_at >= unseen_from {
                error.as_unprocessed()
            } else if was_idle && stream.head_at >= self.busy_from {
                error.as_of_idle()
            } else {
                error
            };
            self.fail(slot, error);
        }
        wake(&mut self.acceptor);
        self.wake_ready();
        self.wake_driver();
    }

    /// Closes the connection because the peer broke a rule (or `Code::NO_ERROR`: because the caller wants it).
    pub(crate) fn close_with(&mut self, code: Code, error: Error) {
        if self.closed.is_none() {
            if let Kind::Violation(_, why) = error.kind() {
                self.tell_refused(&Refused { head: None, status: None, why });
            }
            // In this order: closing takes back what was not written.
            self.close(error);
            frame::put_goaway(&mut self.out, self.last_peer_id, code);
        }
    }

    /// Takes back from the output the requests of which nothing was written: they are about to be called unprocessed, and whoever
    /// sends them again must be the only one.
    fn unsay_requests(&mut self) {
        if self.role != Role::Client {
            return;
        }
        let untouched = |slot: &usize| Some(self.streams.get(*slot)?.head_at).filter(|at| *at >= self.written);
        // What other streams have put behind the first of them is of no use any more either.
        if let Some(first) = self.ids.values().filter_map(untouched).min() {
            self.out.truncate(self.sent + (first - self.written) as usize);
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

    /// One answer to the peer was queued; too many mean that the peer asks and does not read.
    pub(crate) fn answered(&mut self, bytes: usize) -> Result<(), Violation> {
        self.answers_queued += bytes;
        if self.answers_queued > abuse::MAX_ANSWERS_QUEUED {
            return Err(Violation::calm("too many answers wait for the peer to read them"));
        }
        Ok(())
    }

    /// A WINDOW_UPDATE. Each costs its peer 13 octets, and us a search of the streams that wait.
    pub(crate) fn window_updated(&mut self) -> Result<(), Violation> {
        self.window_updates += 1;
        let allowed = abuse::WINDOW_UPDATES_AT_START
            + abuse::WINDOW_UPDATES_PER_STREAM * self.streams_opened
            + abuse::WINDOW_UPDATES_PER_DATA_FRAME * self.data_frames;
        if self.window_updates > allowed {
            return Err(Violation::calm("too many WINDOW_UPDATE frames for the DATA that was sent"));
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

pub(crate) const SHUTDOWN_PING: [u8; 8] = *b"shutdown";
pub(crate) const KEEPALIVE_PING: [u8; 8] = *b"alive?  ";
