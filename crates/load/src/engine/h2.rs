//! One HTTP/2 connection of a client that measures (RFC 9113), without IO: octets in, ended requests out.
//!
//! It differs from a client that wants the answers: bodies are counted and dropped as they arrive, so nothing is held for
//! them and the windows can be as large as the protocol allows; a DATA frame need not be whole to be taken; and a head
//! that was sent before is sent again as the octets that it became, as long as the peer's table stands.

use std::sync::Arc;

use celerity_wire::flow::{RecvWindow, SendWindow};
use celerity_wire::frame::{self, Frame};
use celerity_wire::hpack::{Decoder, ENTRY_OVERHEAD, Encoder};
use celerity_wire::settings::{
    DEFAULT_FRAME_SIZE, DEFAULT_TABLE_SIZE, DEFAULT_WINDOW, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE,
    Peer,
};
use celerity_wire::{Code, Violation};

use super::h2_request::Prepared;

/// What a server may send before it hears of us. Nothing is held, so it costs no memory; half of it is more than any
/// body that a load test reads, so that no WINDOW_UPDATE is due for a stream.
const WINDOW: u32 = 1 << 30;

/// Header sections above this end their stream: as large as servers commonly take.
const HEADER_LIST_MAX: usize = 64 * 1024;

/// Octets of one header block, over all its CONTINUATION frames: compression never makes a section of
/// [`HEADER_LIST_MAX`] longer than this.
const BLOCK_MAX: usize = 2 * HEADER_LIST_MAX;

/// Frames of one header block: what a section of [`HEADER_LIST_MAX`] needs, and a little. Empty CONTINUATION frames
/// without end are an attack (CVE-2024-27316).
const CONTINUATIONS_MAX: u32 = 16;

/// Octets of answers (to PING and SETTINGS) and requests that may wait to be written. A server that asks for more and
/// does not read is attacking.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// Heads of different requests whose octets are kept by a connection.
const BLOCKS_KEPT: usize = 64;

/// The most streams that a connection is asked for: beyond it the table of streams costs more than another connection.
pub const STREAMS_MAX: u32 = 65_536;

/// How a response ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// From the trailers, or from a response of headers only.
    pub grpc_status: Option<u16>,
    /// Frames as they came: head, body and trailers.
    pub bytes: u64,
    pub body_bytes: u64,
}

/// Why a request has no whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// RST_STREAM.
    Reset(Code),
    /// The server certainly did not look at it: GOAWAY with a lower stream, or REFUSED_STREAM.
    Unprocessed,
    /// The response breaks HTTP; the connection goes on.
    Malformed(&'static str),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "the server reset the stream with {code}"),
            Self::Unprocessed => f.write_str("the server refused the stream or is closing"),
            Self::Malformed(text) => f.write_str(text),
        }
    }
}

/// What the connection tells its owner. `token` is what the request was started with.
pub trait Sink {
    /// Whether [`Self::field`] wants to be called.
    fn wants_fields(&self) -> bool {
        false
    }

    /// Whether [`Self::body`] wants to be called.
    fn wants_body(&self) -> bool {
        false
    }

    /// A piece of a response's body.
    fn body(&mut self, _token: u32, _data: &[u8]) {}

    /// A field of a final response's head or of its trailers; the name in lower case.
    fn field(&mut self, _token: u32, _name: &[u8], _value: &[u8]) {}

    fn done(&mut self, token: u32, reply: Reply);

    fn failed(&mut self, token: u32, why: Failure);
}

#[derive(Debug, Default)]
struct Stream {
    /// 0: this place is free.
    id: u32,
    token: u32,
    reply: Reply,
    /// What Content-Length promised.
    promised: Option<u64>,
    head_done: bool,
    /// The request was HEAD: no body, whatever Content-Length says.
    is_head: bool,
    recv: Option<RecvWindow>,
    send: Option<SendWindow>,
    /// The part of the body that is not sent yet; `None` when all is.
    body: Option<Arc<[u8]>>,
    body_at: usize,
}

/// What one header block says.
#[derive(Default)]
struct Section {
    status: Option<u16>,
    grpc_status: Option<u16>,
    length: Option<u64>,
    size: usize,
    wrong: Option<&'static str>,
}

struct Kept {
    version: u32,
    block: Box<[u8]>,
}

/// A header block that arrives in several frames.
struct Partial {
    stream: u32,
    end_stream: bool,
    frames: u32,
}

/// The connection.
pub struct Connection {
    out: Vec<u8>,
    /// Octets of `out` that are written.
    out_written: usize,
    peer: Peer,
    encoder: Encoder,
    decoder: Decoder,
    /// A power of two, at least twice the streams that may live: stream ids are spread over it in turn.
    streams: Box<[Stream]>,
    /// How far from its home any stream may lie.
    reach: usize,
    live: u32,
    limit: u32,
    next_id: u32,
    send: SendWindow,
    recv: RecvWindow,
    /// A DATA frame that is under way: octets still to come, its stream's place, whether it ends the stream.
    data_left: u32,
    data_place: Option<usize>,
    data_ends: bool,
    block: Vec<u8>,
    partial: Option<Partial>,
    /// Places of streams whose body waits for a window.
    blocked: Vec<u32>,
    kept: Vec<Option<Kept>>,
    going_away: bool,
}

impl Connection {
    /// A client's connection that keeps at most `streams` requests under way. Its first octets wait in [`Self::output`].
    pub fn new(streams: u32) -> Self {
        let limit = streams.clamp(1, STREAMS_MAX);
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(frame::PREFACE);
        let settings =
            [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW), (MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX as u32)];
        frame::put_settings(&mut out, &settings);
        frame::put_window_update(&mut out, 0, WINDOW - DEFAULT_WINDOW);
        let places = (limit as usize * 2).next_power_of_two();
        Self {
            out,
            out_written: 0,
            peer: Peer::default(),
            encoder: Encoder::default(),
            decoder: Decoder::new(DEFAULT_TABLE_SIZE as usize),
            streams: (0..places).map(|_| Stream::default()).collect(),
            reach: 0,
            live: 0,
            limit,
            next_id: 1,
            send: SendWindow::new(DEFAULT_WINDOW),
            recv: RecvWindow::new(WINDOW),
            data_left: 0,
            data_place: None,
            data_ends: false,
            block: Vec::new(),
            partial: None,
            blocked: Vec::new(),
            kept: Vec::new(),
            going_away: false,
        }
    }

    /// Requests that may be started now. 0 until the server's SETTINGS have come: what it allows is not known before,
    /// and a refused stream would be counted against it.
    pub fn capacity(&self) -> u32 {
        if !self.peer.known || self.going_away || self.next_id > frame::MAX_STREAM_ID {
            return 0;
        }
        self.limit.min(self.peer.max_concurrent_streams).saturating_sub(self.live)
    }

    /// Whether the server's SETTINGS have come.
    pub fn is_ready(&self) -> bool {
        self.peer.known
    }

    /// Whether the connection takes no more requests, ever: the server says so, or its stream ids are used up.
    pub fn is_closing(&self) -> bool {
        self.going_away || self.next_id > frame::MAX_STREAM_ID
    }

    /// Requests under way.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// What waits to be written.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.out.get(self.out_written..).unwrap_or_default()
    }

    /// So many octets of [`Self::output`] are written.
    #[inline]
    pub fn written(&mut self, bytes: usize) {
        self.out_written += bytes;
        if self.out_written >= self.out.len() {
            self.out.clear();
            self.out_written = 0;
        }
    }

    /// Takes what waits to be written and leaves `empty`, which is, in its place: two buffers go to and fro, and nothing is
    /// copied. For an owner that has written all it took before.
    pub fn swap_output(&mut self, empty: &mut Vec<u8>) {
        empty.clear();
        if self.out_written == 0 {
            std::mem::swap(&mut self.out, empty);
        } else {
            empty.extend_from_slice(self.output());
            self.out.clear();
            self.out_written = 0;
        }
    }

    /// Starts a request. `index` is its place in the list that it is from, under which its octets are kept. Returns the
    /// octets that it will take on the wire, or `None` where [`Self::capacity`] is 0.
    pub fn start(&mut self, request: &Prepared, index: usize, token: u32) -> Option<u64> {
        if self.capacity() == 0 {
            return None;
        }
        let id = self.next_id;
        let (place, distance) = self.free_place(id)?;
        let before = self.out.len();
        let body = (!request.body.is_empty()).then(|| Arc::clone(&request.body));
        self.put_head(request, index, id, body.is_none());
        self.next_id += 2;
        self.live += 1;
        self.reach = self.reach.max(distance);
        let send = body.is_some().then(|| SendWindow::new(self.peer.initial_window));
        let body_len = request.body.len() as u64;
        if let Some(stream) = self.streams.get_mut(place) {
            *stream = Stream {
                id,
                token,
                is_head: request.is_head,
                recv: Some(RecvWindow::new(WINDOW)),
                send,
                body,
                ..Stream::default()
            };
        }
        let head_len = (self.out.len() - before) as u64;
        if body_len > 0 {
            self.send_body(place);
        }
        Some(head_len + body_len + body_len.div_ceil(u64::from(self.peer.max_frame_size)) * frame::HEADER_LEN as u64)
    }

    /// Gives a request up (it took too long): RST_STREAM. Nothing more is heard of its token.
    pub fn cancel(&mut self, token: u32) {
        if let Some(place) = self.streams.iter().position(|s| s.id != 0 && s.token == token) {
            self.reset(place, Code::CANCEL);
        }
    }

    /// Every request under way, which the caller gives up with the connection.
    pub fn abandon(&mut self, mut each: impl FnMut(u32)) {
        for stream in &mut self.streams {
            if stream.id != 0 {
                stream.id = 0;
                stream.body = None;
                each(stream.token);
            }
        }
        self.live = 0;
        self.blocked.clear();
    }

    /// Takes what was read and returns how much of it: the rest must be handed in again with more behind it, and is
    /// never longer than a frame of 16,393 octets.
    ///
    /// # Errors
    /// The server broke HTTP/2. A GOAWAY waits in the output; the connection is to be closed after it, and its requests
    /// given up with [`Self::abandon`].
    pub fn receive(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize, Violation> {
        let mut rest = input;
        let result = self.take_frames(&mut rest, sink);
        if let Err(Violation::Connection(code, _)) = result {
            self.going_away = true;
            frame::put_goaway(&mut self.out, 0, code);
        }
        result.map(|()| input.len() - rest.len())
    }

    fn take_frames(&mut self, rest: &mut &[u8], sink: &mut impl Sink) -> Result<(), Violation> {
        loop {
            if self.data_left > 0 {
                let taken = rest.len().min(self.data_left as usize);
                if sink.wants_body()
                    && let Some(stream) = self.data_place.and_then(|place| self.streams.get(place))
                {
                    sink.body(stream.token, rest.get(..taken).unwrap_or_default());
                }
                *rest = rest.get(taken..).unwrap_or_default();
                self.data_left -= taken as u32;
                if self.data_left > 0 {
                    return Ok(());
                }
                self.data_done(sink);
                continue;
            }
            let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = rest.first_chunk::<{ frame::HEADER_LEN }>() else {
                return Ok(());
            };
            if !self.peer.known && kind != frame::SETTINGS {
                return Err(Violation::protocol("the server's first frame is not SETTINGS: does it speak HTTP/2?"));
            }
            if self.partial.is_some() && kind != frame::CONTINUATION {
                return Err(Violation::protocol("a frame between HEADERS and CONTINUATION"));
            }
            let len = u32::from_be_bytes([0, a, b, c]);
            if kind == frame::DATA && flags & !frame::END_STREAM == 0 && len <= DEFAULT_FRAME_SIZE {
                *rest = rest.get(frame::HEADER_LEN..).unwrap_or_default();
                let id = u32::from_be_bytes([s0, s1, s2, s3]) & frame::MAX_STREAM_ID;
                self.data_begins(id, len, len, flags & frame::END_STREAM != 0, sink)?;
                if self.data_left == 0 {
                    self.data_done(sink);
                }
                continue;
            }
            match frame::decode(rest, DEFAULT_FRAME_SIZE) {
                Ok(None) => return Ok(()),
                Ok(Some((frame, taken))) => {
                    self.take_frame(frame, taken as u64, sink)?;
                    *rest = rest.get(taken..).unwrap_or_default();
                }
                Err(Violation::Stream(id, code, why)) => {
                    if let Some(place) = self.place_of(id) {
                        self.refuse(place, code, why, sink);
                    }
                    *rest = rest.get(frame::whole_len(rest)..).unwrap_or_default();
                }
                Err(violation) => return Err(violation),
            }
            if self.out.len() - self.out_written > OUTPUT_MAX {
                return Err(Violation::calm("more PING and SETTINGS than answers to them are read"));
            }
        }
    }

    fn take_frame(&mut self, frame: Frame<'_>, bytes: u64, sink: &mut impl Sink) -> Result<(), Violation> {
        match frame {
            Frame::Data { stream, end_stream, data, flow_len } => {
                self.data_begins(stream, data.len() as u32, flow_len, end_stream, sink)?;
                if sink.wants_body()
                    && let Some(stream) = self.data_place.and_then(|place| self.streams.get(place))
                {
                    sink.body(stream.token, data);
                }
                self.data_left = 0;
                self.data_done(sink);
            }
            Frame::Headers { stream, end_stream, end_headers, block, depends_on: _ } => {
                self.known_id(stream, "HEADERS on a stream that was never opened")?;
                self.count(stream, bytes);
                if end_headers {
                    return self.section(stream, end_stream, block, sink);
                }
                self.block.clear();
                self.block.extend_from_slice(block);
                self.partial = Some(Partial { stream, end_stream, frames: 0 });
            }
            Frame::Continuation { stream, end_headers, block } => {
                let Some(mut partial) = self.partial.take().filter(|partial| partial.stream == stream) else {
                    return Err(Violation::protocol("CONTINUATION without HEADERS"));
                };
                partial.frames += 1;
                if partial.frames > CONTINUATIONS_MAX || self.block.len() + block.len() > BLOCK_MAX {
                    return Err(Violation::calm("a header block is too long"));
                }
                self.count(stream, bytes);
                self.block.extend_from_slice(block);
                if !end_headers {
                    self.partial = Some(partial);
                    return Ok(());
                }
                let whole = std::mem::take(&mut self.block);
                let result = self.section(stream, partial.end_stream, &whole, sink);
                self.block = whole;
                return result;
            }
            Frame::Reset { stream, code } => {
                self.known_id(stream, "RST_STREAM on a stream that was never opened")?;
                if let Some(place) = self.place_of(stream) {
                    let why = if code == Code::REFUSED_STREAM { Failure::Unprocessed } else { Failure::Reset(code) };
                    self.end(place, sink, Err(why));
                }
            }
            Frame::Settings { ack: true, .. } | Frame::Priority { .. } | Frame::Unknown => {}
            Frame::Settings { ack: false, entries } => self.settings(entries)?,
            Frame::Ping { ack, payload } => {
                if !ack {
                    frame::put_ping(&mut self.out, payload, true);
                }
            }
            Frame::GoAway { last_stream, code: _ } => {
                self.going_away = true;
                for place in 0..self.streams.len() {
                    if self.streams.get(place).is_some_and(|s| s.id > last_stream) {
                        self.end(place, sink, Err(Failure::Unprocessed));
                    }
                }
            }
            Frame::WindowUpdate { stream, increment } => self.window(stream, increment, sink)?,
            Frame::PushPromise => return Err(Violation::protocol("PUSH_PROMISE, which was switched off")),
        }
        Ok(())
    }

    /// A DATA frame: `len` octets of body will follow, `flow_len` count against the windows.
    fn data_begins(
        &mut self,
        id: u32,
        len: u32,
        flow_len: u32,
        ends: bool,
        sink: &mut impl Sink,
    ) -> Result<(), Violation> {
        self.known_id(id, "DATA on a stream that was never opened")?;
        let too_much = Violation::Connection(Code::FLOW_CONTROL_ERROR, "DATA beyond the window");
        if !self.recv.receive(flow_len) {
            return Err(too_much);
        }
        if let Some(increment) = self.recv.consume(flow_len) {
            frame::put_window_update(&mut self.out, 0, increment);
        }
        self.data_left = len;
        self.data_ends = ends;
        self.data_place = self.place_of(id);
        let Some((place, stream)) = self.data_place.and_then(|place| Some((place, self.streams.get_mut(place)?)))
        else {
            return Ok(());
        };
        if !stream.head_done {
            self.data_place = None;
            self.refuse(place, Code::PROTOCOL_ERROR, "DATA before the response's head", sink);
            return Ok(());
        }
        stream.reply.bytes += frame::HEADER_LEN as u64 + u64::from(flow_len);
        stream.reply.body_bytes += u64::from(len);
        if let Some(recv) = &mut stream.recv {
            if !recv.receive(flow_len) {
                return Err(too_much);
            }
            if let Some(increment) = recv.consume(flow_len)
                && !ends
            {
                frame::put_window_update(&mut self.out, id, increment);
            }
        }
        Ok(())
    }

    fn data_done(&mut self, sink: &mut impl Sink) {
        if let Some(place) = self.data_place.take()
            && self.data_ends
        {
            self.complete(place, sink);
        }
    }

    /// A whole header block. It is decoded even where its stream is gone: the tables must stay alike.
    fn section(&mut self, id: u32, end_stream: bool, block: &[u8], sink: &mut impl Sink) -> Result<(), Violation> {
        let place = self.place_of(id);
        let token = place.and_then(|place| self.streams.get(place)).map(|stream| stream.token);
        let wants = sink.wants_fields();
        let mut section = Section::default();
        let decoded = self.decoder.decode(block, |name, value| {
            section.take(name, value);
            if let Some(token) = token
                && wants
            {
                sink.field(token, name, value);
            }
        });
        if decoded.is_err() {
            return Err(Violation::Connection(Code::COMPRESSION_ERROR, "a header block cannot be decoded"));
        }
        let Some((place, stream)) = place.and_then(|place| Some((place, self.streams.get_mut(place)?))) else {
            return Ok(());
        };
        let wrong = match (section.wrong, stream.head_done, section.status) {
            (Some(why), ..) => Some(why),
            (None, false, None) => Some("a response without :status"),
            (None, false, Some(100..200)) if end_stream => Some("an interim response that ends the stream"),
            (None, false, Some(100..200)) => return Ok(()),
            (None, true, Some(_)) => Some(":status in trailers"),
            (None, true, None) if !end_stream => Some("trailers that do not end the stream"),
            _ => None,
        };
        if let Some(why) = wrong {
            self.refuse(place, Code::PROTOCOL_ERROR, why, sink);
            return Ok(());
        }
        if let Some(status) = section.status {
            stream.head_done = true;
            stream.reply.status = status;
            stream.promised = section.length;
        }
        // In a head it counts only where nothing follows (gRPC's "Trailers-Only").
        if end_stream {
            stream.reply.grpc_status = section.grpc_status;
            self.complete(place, sink);
        }
        Ok(())
    }

    /// The response has ended.
    fn complete(&mut self, place: usize, sink: &mut impl Sink) {
        let Some(stream) = self.streams.get(place) else { return };
        let bodiless = stream.is_head || matches!(stream.reply.status, 204 | 304);
        if !bodiless && stream.promised.is_some_and(|promised| promised != stream.reply.body_bytes) {
            self.refuse(place, Code::PROTOCOL_ERROR, "the body is not as long as Content-Length says", sink);
            return;
        }
        if stream.body.is_some() {
            // The server has answered without the whole body: it need not come (RFC 9113, section 8.1).
            frame::put_reset(&mut self.out, stream.id, Code::NO_ERROR);
        }
        let reply = stream.reply;
        self.end(place, sink, Ok(reply));
    }

    fn refuse(&mut self, place: usize, code: Code, why: &'static str, sink: &mut impl Sink) {
        if let Some(stream) = self.streams.get(place) {
            frame::put_reset(&mut self.out, stream.id, code);
        }
        self.end(place, sink, Err(Failure::Malformed(why)));
    }

    fn reset(&mut self, place: usize, code: Code) {
        if let Some(stream) = self.streams.get_mut(place) {
            frame::put_reset(&mut self.out, stream.id, code);
            stream.id = 0;
            stream.body = None;
            self.live = self.live.saturating_sub(1);
        }
        self.forget(place);
    }

    fn end(&mut self, place: usize, sink: &mut impl Sink, result: Result<Reply, Failure>) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let token = stream.token;
        let waits = stream.body.take().is_some();
        stream.id = 0;
        self.live = self.live.saturating_sub(1);
        if waits || self.data_place == Some(place) {
            self.forget(place);
        }
        match result {
            Ok(reply) => sink.done(token, reply),
            Err(why) => sink.failed(token, why),
        }
    }

    /// The place may get another stream: nothing may lead to it any more.
    fn forget(&mut self, place: usize) {
        self.blocked.retain(|&waiting| waiting as usize != place);
        if self.data_place == Some(place) {
            self.data_place = None;
        }
    }

    fn settings(&mut self, entries: &[u8]) -> Result<(), Violation> {
        let before = self.peer.initial_window;
        if !self.peer.known {
            // A server that names no limit sets none (RFC 9113, section 6.5.2).
            self.peer.max_concurrent_streams = u32::MAX;
        }
        for (id, value) in frame::settings(entries) {
            self.peer.apply(id, value, true)?;
        }
        self.peer.known = true;
        self.encoder.set_peer_limit(self.peer.header_table_size as usize);
        let change = i64::from(self.peer.initial_window) - i64::from(before);
        if change != 0 {
            for window in self.streams.iter_mut().filter(|s| s.id != 0).filter_map(|s| s.send.as_mut()) {
                window.change(change).map_err(|_| {
                    Violation::Connection(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE lifts a window above 2^31-1")
                })?;
            }
        }
        frame::put_settings_ack(&mut self.out);
        self.unblock();
        Ok(())
    }

    fn window(&mut self, id: u32, increment: u32, sink: &mut impl Sink) -> Result<(), Violation> {
        if id == 0 {
            if increment == 0 {
                return Err(Violation::protocol("WINDOW_UPDATE by 0"));
            }
            if self.send.change(i64::from(increment)).is_err() {
                return Err(Violation::Connection(Code::FLOW_CONTROL_ERROR, "the window is above 2^31-1"));
            }
            self.unblock();
            return Ok(());
        }
        self.known_id(id, "WINDOW_UPDATE on a stream that was never opened")?;
        let Some((place, stream)) = self.place_of(id).and_then(|place| Some((place, self.streams.get_mut(place)?)))
        else {
            return Ok(());
        };
        if increment == 0 {
            self.refuse(place, Code::PROTOCOL_ERROR, "WINDOW_UPDATE by 0", sink);
            return Ok(());
        }
        let Some(window) = stream.send.as_mut() else { return Ok(()) };
        if window.change(i64::from(increment)).is_err() {
            self.refuse(place, Code::FLOW_CONTROL_ERROR, "the stream's window is above 2^31-1", sink);
        } else {
            self.unblock();
        }
        Ok(())
    }

    /// Sends what the windows allow now, of each stream that waits, in turn.
    fn unblock(&mut self) {
        for place in std::mem::take(&mut self.blocked) {
            self.send_body(place as usize);
        }
    }

    fn send_body(&mut self, place: usize) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let (Some(body), Some(window)) = (&stream.body, &mut stream.send) else { return };
        loop {
            let left = body.get(stream.body_at..).unwrap_or_default();
            let most = window.available().min(self.send.available()).min(self.peer.max_frame_size as usize);
            let Some(piece) = left.get(..left.len().min(most)).filter(|piece| !piece.is_empty()) else {
                self.blocked.push(place as u32);
                return;
            };
            frame::put_data(&mut self.out, stream.id, piece, piece.len() == left.len());
            window.take(piece.len());
            self.send.take(piece.len());
            stream.body_at += piece.len();
            if piece.len() == left.len() {
                break;
            }
        }
        stream.body = None;
    }

    fn put_head(&mut self, request: &Prepared, index: usize, id: u32, ends: bool) {
        let largest = self.peer.max_frame_size as usize;
        let version = self.encoder.table_version();
        let flags = frame::END_HEADERS | if ends { frame::END_STREAM } else { 0 };
        if let Some(Some(kept)) = self.kept.get(index)
            && kept.version == version
        {
            frame::put_header(&mut self.out, frame::HEADERS, flags, id, kept.block.len());
            self.out.extend_from_slice(&kept.block);
            return;
        }
        let from = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEADER_LEN]);
        self.encoder.begin(&mut self.out);
        let start = self.out.len();
        let announced = start > from + frame::HEADER_LEN;
        let mut settled = true;
        for (name, value) in request.fields() {
            settled &= self.encoder.field_settled(name, value, &mut self.out);
        }
        let block = self.out.get(start..).unwrap_or_default();
        if settled && !announced && index < BLOCKS_KEPT && block.len() <= largest {
            let kept = Kept { version: self.encoder.table_version(), block: block.into() };
            if self.kept.len() <= index {
                self.kept.resize_with(index + 1, || None);
            }
            if let Some(place) = self.kept.get_mut(index) {
                *place = Some(kept);
            }
        }
        frame::finish_headers(&mut self.out, from, id, ends, largest);
    }

    /// A frame may name a stream of ours that is or was open; anything else was never opened.
    fn known_id(&self, id: u32, why: &'static str) -> Result<(), Violation> {
        if id < self.next_id && id % 2 == 1 { Ok(()) } else { Err(Violation::protocol(why)) }
    }

    fn count(&mut self, id: u32, bytes: u64) {
        if let Some(stream) = self.place_of(id).and_then(|place| self.streams.get_mut(place)) {
            stream.reply.bytes += bytes;
        }
    }

    fn home(&self, id: u32) -> usize {
        (id >> 1) as usize & (self.streams.len() - 1)
    }

    #[inline]
    fn place_of(&self, id: u32) -> Option<usize> {
        let home = self.home(id);
        let mask = self.streams.len() - 1;
        (0..=self.reach).map(|by| (home + by) & mask).find(|&place| self.streams.get(place).is_some_and(|s| s.id == id))
    }

    fn free_place(&self, id: u32) -> Option<(usize, usize)> {
        let home = self.home(id);
        let mask = self.streams.len() - 1;
        let distance =
            (0..self.streams.len()).find(|by| self.streams.get((home + by) & mask).is_some_and(|s| s.id == 0))?;
        Some(((home + distance) & mask, distance))
    }
}

impl Section {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + ENTRY_OVERHEAD;
        if self.size > HEADER_LIST_MAX {
            self.wrong = Some("the header section is too large");
        }
        match name {
            b":status" => match value {
                &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] if self.status.is_none() => {
                    let digit = |byte: u8| u16::from(byte - b'0');
                    self.status = Some(digit(a) * 100 + digit(b) * 10 + digit(c));
                }
                _ => self.wrong = Some(":status is not three digits"),
            },
            b"content-length" => match number(value) {
                Some(length) if self.length.is_none_or(|before| before == length) => self.length = Some(length),
                _ => self.wrong = Some("content-length is not one number"),
            },
            // gRPC's own rule: what is not a number counts as UNKNOWN (2).
            b"grpc-status" => self.grpc_status = Some(number(value).and_then(|n| u16::try_from(n).ok()).unwrap_or(2)),
            [b':', ..] => self.wrong = Some("a pseudo-header that no response has"),
            _ => {}
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// What a fuzzer and the tests hear of a connection.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Log(pub(crate) Vec<(u32, Result<Reply, Failure>)>);

impl Sink for Log {
    fn done(&mut self, token: u32, reply: Reply) {
        self.0.push((token, Ok(reply)));
    }

    fn failed(&mut self, token: u32, why: Failure) {
        self.0.push((token, Err(why)));
    }
}

/// What a stranger's octets do to a connection with requests under way, for fuzzing: no panic, bounded output, every
/// request ends at most once, and the same whichever way the octets are cut.
pub fn fuzz(input: &[u8]) {
    let whole = fuzz_once(input, input.len().max(1));
    assert_eq!(whole, fuzz_once(input, 1), "cut into single octets");
    assert_eq!(whole, fuzz_once(input, 11), "cut into elevens");
}

fn fuzz_once(input: &[u8], piece: usize) -> (Log, bool, u32) {
    let mut connection = Connection::new(4);
    let mut log = Log::default();
    let mut settings = Vec::new();
    frame::put_settings(&mut settings, &[]);
    let ready = connection.receive(&settings, &mut log);
    assert!(ready.is_ok() && connection.capacity() == 4);
    let (origin, path) = crate::target::parse("http://a/").unwrap_or_else(|why| unreachable!("{why}"));
    let mut request = crate::source::Request::get(path);
    for token in 0..4 {
        request.body = Arc::from(vec![0; token * 40_000]);
        let prepared = Prepared::new(&request, &origin).unwrap_or_else(|why| unreachable!("{why}"));
        connection.start(&prepared, token, token as u32);
    }
    let (mut start, mut end) = (0, 0);
    let mut broken = false;
    while end < input.len() && !broken {
        end = (end + piece).min(input.len());
        match connection.receive(input.get(start..end).unwrap_or_default(), &mut log) {
            Ok(taken) => start += taken,
            Err(_) => broken = true,
        }
        assert!(connection.output().len() < 2 * OUTPUT_MAX);
    }
    let mut seen = [false; 4];
    for (token, _) in &log.0 {
        assert!(!std::mem::replace(&mut seen[*token as usize], true), "a request ended twice");
    }
    let live = connection.live();
    assert_eq!(live as usize + log.0.len(), 4);
    (log, broken, live)
}

#[cfg(test)]
#[path = "h2_tests.rs"]
mod tests;
