//! What each received frame does to the connection (RFC 9113, sections 5 and 6).

use crate::http::ResponseHead;

use super::abuse::{self, Bucket};
use super::core::{Arrival, Core, KEEPALIVE_PING, Phase, Refused, Role, SHUTDOWN_PING};
use super::error::{Code, Error, Kind, Violation};
use super::fields::{self, Verdict};
use super::flow::Overflow;
use super::frame::{self, Frame};
use super::settings::HEADER_TABLE_SIZE;
use super::stream::{State, Stream, wake};

/// 431 Request Header Fields Too Large (RFC 6585, section 5).
const TOO_LARGE: u16 = 431;

/// Octets of an RST_STREAM frame, for the bound on queued answers.
const RESET_LEN: usize = frame::HEADER_LEN + 4;

impl Core {
    /// Takes the whole frames at the start of `input` and says how many octets they were. `now_ms` is the time on the
    /// connection's own clock.
    pub(crate) fn receive(&mut self, input: &[u8], now_ms: u64) -> usize {
        self.now_ms = now_ms;
        let mut rest = input;
        if self.preface_left > 0 {
            let expected = &frame::PREFACE[frame::PREFACE.len() - self.preface_left..];
            let len = rest.len().min(expected.len());
            if rest[..len] != expected[..len] {
                self.violated(Violation::protocol("the connection does not start with the HTTP/2 preface"));
                return input.len();
            }
            self.preface_left -= len;
            rest = &rest[len..];
        }
        while self.closed.is_none() {
            match frame::decode(rest, self.settings.max_frame_size) {
                Ok(None) => break,
                Ok(Some((frame, len))) => {
                    rest = rest.get(len..).unwrap_or_default();
                    if let Err(violation) = self.take(frame) {
                        self.violated(violation);
                    }
                }
                Err(violation) => {
                    // A frame that is wrong for its stream only is whole, so it can be stepped over.
                    rest = rest.get(frame::whole_len(rest)..).unwrap_or_default();
                    self.violated(violation);
                }
            }
        }
        input.len() - rest.len()
    }

    /// Answers a violation: RST_STREAM or GOAWAY.
    fn violated(&mut self, violation: Violation) {
        let violation = match violation {
            Violation::Stream(id, code, why) if self.block_of.is_some() || self.is_idle(id) => {
                Violation::Connection(code, why)
            }
            other => other,
        };
        match violation {
            Violation::Connection(code, why) => self.close_with(code, Error::new(Kind::Violation(code, why))),
            Violation::Stream(id, code, why) => {
                match self.ids.get(&id).copied() {
                    Some(slot) => self.reset(slot, code, why),
                    None => self.put_reset(id, code),
                }
                let calm = self.young_resets.add(self.now_ms);
                if !calm || self.answered(RESET_LEN).is_err() {
                    let (code, why) = (Code::ENHANCE_YOUR_CALM, "too many streams had to be reset");
                    self.close_with(code, Error::new(Kind::Violation(code, why)));
                }
            }
        }
    }

    /// The stream has not been opened yet, or never can be.
    fn is_idle(&self, id: u32) -> bool {
        match self.role {
            _ if id.is_multiple_of(2) => true,
            Role::Server => id > self.last_peer_id,
            Role::Client => id >= self.next_id,
        }
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        if !self.settings_seen && !matches!(frame, Frame::Settings { ack: false, .. }) {
            return Err(Violation::protocol("the first frame is not SETTINGS"));
        }
        if let Some((open, _)) = self.block_of
            && !matches!(frame, Frame::Continuation { stream, .. } if stream == open)
        {
            return Err(Violation::protocol("another frame within a header block"));
        }
        match frame {
            Frame::Data { stream, end_stream, data, flow_len } => self.on_data(stream, end_stream, data, flow_len),
            Frame::Headers { stream, end_stream, end_headers, block, depends_on } => {
                if depends_on == Some(stream) {
                    // The block must be decoded all the same, or the tables would differ; ending the connection is
                    // allowed (RFC 9113, section 5.4.1) and nobody honest sends this.
                    return Err(Violation::protocol("a stream depends on itself"));
                }
                if end_headers {
                    return self.on_headers(stream, end_stream, block);
                }
                self.block.clear();
                self.continuations = 0;
                self.block_of = Some((stream, end_stream));
                self.append_block(block)
            }
            Frame::Continuation { stream, end_headers, block } => {
                let Some((_, end_stream)) = self.block_of else {
                    return Err(Violation::protocol("CONTINUATION without HEADERS"));
                };
                self.continuations += 1;
                if self.continuations > abuse::MAX_CONTINUATIONS {
                    return Err(Violation::calm("too many CONTINUATION frames"));
                }
                self.append_block(block)?;
                if !end_headers {
                    return Ok(());
                }
                self.block_of = None;
                let block = std::mem::take(&mut self.block);
                let result = self.on_headers(stream, end_stream, &block);
                self.block = block;
                result
            }
            Frame::Reset { stream, code } => self.on_reset(stream, code),
            Frame::Settings { ack: true, .. } => {
                self.decoder.set_limit(self.settings.header_table_size as usize);
                Ok(())
            }
            Frame::Settings { ack: false, entries } => self.on_settings(entries),
            Frame::Ping { ack: false, payload } => {
                self.idle_frame()?;
                frame::put_ping(&mut self.out, payload, true);
                self.answered(frame::HEADER_LEN + 8)
            }
            Frame::Ping { ack: true, payload } => {
                match payload {
                    SHUTDOWN_PING => self.shutdown_answered(),
                    KEEPALIVE_PING => self.ping_sent = false,
                    _ => self.idle_frame()?,
                }
                Ok(())
            }
            Frame::GoAway { last_stream, code } => {
                self.on_goaway(last_stream, code);
                Ok(())
            }
            Frame::WindowUpdate { stream, increment } => self.on_window_update(stream, increment),
            Frame::Priority { .. } | Frame::Unknown => self.idle_frame(),
            Frame::PushPromise => Err(Violation::protocol("PUSH_PROMISE, which was not allowed")),
        }
    }

    fn append_block(&mut self, piece: &[u8]) -> Result<(), Violation> {
        if self.block.len() + piece.len() > self.header_limit().saturating_mul(abuse::MAX_BLOCK_SHARE) {
            return Err(Violation::calm("a header block is too large"));
        }
        self.block.extend_from_slice(piece);
        Ok(())
    }

    fn header_limit(&self) -> usize {
        self.settings.max_header_list_size as usize
    }

    fn on_data(&mut self, id: u32, end_stream: bool, data: &[u8], flow_len: u32) -> Result<(), Violation> {
        if self.is_idle(id) {
            return Err(Violation::protocol("DATA on an idle stream"));
        }
        if !self.recv_window.receive(flow_len) {
            return Err(Violation::Connection(Code::FLOW_CONTROL_ERROR, "DATA beyond the connection's window"));
        }
        let tiny = data.len() < abuse::TINY_DATA && !end_stream;
        if tiny && data.is_empty() {
            self.idle_frame()?;
        }
        let padding = flow_len as usize - data.len();
        let Some(slot) = self.ids.get(&id).copied() else {
            self.consumed(None, flow_len as usize);
            return self.on_closed(id, "DATA on a closed stream");
        };
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(slot) else { return Ok(()) };
        let refusal = if tiny && !stream.tiny_frames.get_or_insert_with(tiny_frames).add(now_ms) {
            Some((Code::ENHANCE_YOUR_CALM, "too many DATA frames that carry next to nothing"))
        } else if !stream.state.can_receive() {
            Some((Code::STREAM_CLOSED, "DATA after the end of the stream"))
        } else if self.role == Role::Client && !stream.final_head {
            Some((Code::PROTOCOL_ERROR, "DATA before the response head"))
        } else if !stream.recv_window.receive(flow_len) {
            Some((Code::FLOW_CONTROL_ERROR, "DATA beyond the stream's window"))
        } else {
            stream.received += data.len() as u64;
            stream.breaks_length(end_stream).then_some((Code::PROTOCOL_ERROR, "the body breaks its content-length"))
        };
        if let Some((code, why)) = refusal {
            self.consumed(None, flow_len as usize);
            return Err(Violation::Stream(id, code, why));
        }
        stream.body.extend_from_slice(data);
        stream.wake_reader();
        self.consumed(Some(slot), padding);
        if end_stream {
            self.end_received(slot);
        }
        Ok(())
    }

    /// A frame for a stream that has ended. Expected after our own RST_STREAM; else the peer is wrong.
    fn on_closed(&mut self, id: u32, why: &'static str) -> Result<(), Violation> {
        if self.was_reset(id) {
            return self.idle_frame();
        }
        Err(Violation::Stream(id, Code::STREAM_CLOSED, why))
    }

    fn end_received(&mut self, slot: usize) {
        let Some(stream) = self.streams.get_mut(slot) else { return };
        stream.complete = true;
        stream.state = stream.state.after_end_received();
        stream.wake_reader();
        if stream.state == State::Closed {
            self.retire(slot);
        }
    }

    fn on_headers(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Violation> {
        if let Some(slot) = self.ids.get(&id).copied() {
            let Some(stream) = self.streams.get(slot) else { return Ok(()) };
            return if self.role == Role::Client && !stream.final_head {
                self.on_response(slot, id, end_stream, block)
            } else {
                self.on_trailers(slot, id, end_stream, block)
            };
        }
        match (self.role, self.is_idle(id)) {
            (_, true) if id.is_multiple_of(2) => Err(Violation::protocol("HEADERS on a stream of the server's")),
            (Role::Client, true) => Err(Violation::protocol("HEADERS on an idle stream")),
            (Role::Server, true) => self.on_request(id, end_stream, block),
            (_, false) => {
                self.decoder.decode(block, |_, _| {}).map_err(|error| compression(error.0))?;
                if self.was_skipped(id) {
                    return Err(Violation::protocol("a stream id below that of the last stream"));
                }
                if !self.was_reset(id) && !self.resets_forgotten {
                    return Err(Violation::Connection(Code::STREAM_CLOSED, "HEADERS on a closed stream"));
                }
                self.on_closed(id, "HEADERS on a closed stream")
            }
        }
    }

    fn on_request(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Violation> {
        let limit = self.header_limit();
        let mut head = self.spare_requests.take();
        let verdict = fields::request(&mut head, &mut self.cookies, limit, |field| self.decoder.decode(block, field))
            .map_err(|error| compression(error.0))?;
        if self.phase == Phase::Draining {
            // Above the id of our GOAWAY: the client knows that it was not processed.
            self.spare_requests.keep(head);
            return self.idle_frame();
        }
        self.opened(id);
        let content_length = match verdict {
            Verdict::Good { content_length } => content_length,
            Verdict::Malformed(why) => {
                self.tell_refused(&Refused { head: Some(&head), status: None, why });
                self.spare_requests.keep(head);
                return Err(Violation::Stream(id, Code::PROTOCOL_ERROR, why));
            }
            Verdict::TooLarge => {
                // Compressed such a head is small, and cheap to repeat.
                let calm = self.young_resets.add(self.now_ms);
                if calm {
                    let why = "the request's header section is too large";
                    self.tell_refused(&Refused { head: Some(&head), status: Some(TOO_LARGE), why });
                }
                self.spare_requests.keep(head);
                if !calm {
                    return Err(Violation::calm("too many header sections that are too large"));
                }
                return self.refuse_large(id, end_stream);
            }
        };
        let most = self.max_streams as usize;
        // Handlers of streams that the peer has reset still hold entries: twice the limit bounds those too.
        if self.handles == 0 || self.ids.len() >= most || self.streams.len() >= most.saturating_mul(2) {
            self.spare_requests.keep(head);
            self.put_reset(id, Code::REFUSED_STREAM);
            return self.answered(RESET_LEN);
        }
        let mut stream = Stream::new(id, State::Open, self.peer.initial_window, self.settings.stream_window);
        stream.content_length = content_length;
        stream.started_ms = self.now_ms;
        stream.arrived = self.arrived;
        if end_stream && stream.breaks_length(true) {
            let why = "a content-length and no body";
            self.tell_refused(&Refused { head: Some(&head), status: None, why });
            self.spare_requests.keep(head);
            return Err(Violation::Stream(id, Code::PROTOCOL_ERROR, why));
        }
        if end_stream {
            stream.state = State::HalfClosedRemote;
            stream.complete = true;
        } else {
            stream.body = self.spare_bodies.take();
        }
        let slot = self.streams.insert(stream);
        self.ids.insert(id, slot);
        self.arrivals.push_back(Arrival { slot, head, end_stream });
        wake(&mut self.acceptor);
        Ok(())
    }

    /// Answers it without troubling anybody.
    fn refuse_large(&mut self, id: u32, end_stream: bool) -> Result<(), Violation> {
        let before = self.out.len();
        self.put_headers(id, true, |encoder, out| fields::put_response(encoder, &ResponseHead::new(TOO_LARGE), out));
        if !end_stream {
            self.put_reset(id, Code::NO_ERROR);
        }
        self.answered(self.out.len() - before)
    }

    fn on_response(&mut self, slot: usize, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Violation> {
        let limit = self.header_limit();
        let mut head = self.spare_responses.take();
        let verdict = fields::response(&mut head, &mut self.cookies, limit, |field| self.decoder.decode(block, field))
            .map_err(|error| compression(error.0))?;
        let refuse = |why| Err(Violation::Stream(id, Code::PROTOCOL_ERROR, why));
        let content_length = match verdict {
            Verdict::Good { content_length } => content_length,
            Verdict::Malformed(why) => return refuse(why),
            Verdict::TooLarge => return refuse("the response's header section is too large"),
        };
        let Some(stream) = self.streams.get_mut(slot) else { return Ok(()) };
        if !stream.state.can_receive() {
            return Err(Violation::Stream(id, Code::STREAM_CLOSED, "HEADERS after the end of the stream"));
        }
        if head.status < 200 {
            if end_stream {
                return refuse("an interim response ends the stream");
            }
            if stream.heads.len() >= abuse::MAX_INTERIM_WAITING {
                return Err(Violation::Stream(id, Code::ENHANCE_YOUR_CALM, "too many interim responses"));
            }
        } else {
            stream.final_head = true;
            stream.content_length = content_length;
            stream.bodiless |= matches!(head.status, 204 | 304);
            if end_stream && stream.breaks_length(true) {
                return refuse("a content-length and no body");
            }
        }
        stream.arrived = self.arrived;
        stream.heads.push(head);
        stream.wake_reader();
        if end_stream {
            self.end_received(slot);
        }
        Ok(())
    }

    fn on_trailers(&mut self, slot: usize, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Violation> {
        let limit = self.header_limit();
        let mut trailers = Box::default();
        let verdict =
            fields::trailers(&mut trailers, &mut self.cookies, limit, |field| self.decoder.decode(block, field))
                .map_err(|error| compression(error.0))?;
        let Some(stream) = self.streams.get_mut(slot) else { return Ok(()) };
        if !stream.state.can_receive() {
            return Err(Violation::Stream(id, Code::STREAM_CLOSED, "HEADERS after the end of the stream"));
        }
        let why = match verdict {
            _ if !end_stream => Some("a second head, or trailers that do not end the stream"),
            Verdict::Malformed(why) => Some(why),
            Verdict::TooLarge => Some("trailers that are too large"),
            Verdict::Good { .. } if stream.breaks_length(true) => Some("the body breaks its content-length"),
            Verdict::Good { .. } => None,
        };
        if let Some(why) = why {
            return Err(Violation::Stream(id, Code::PROTOCOL_ERROR, why));
        }
        stream.trailers = Some(trailers);
        self.end_received(slot);
        Ok(())
    }

    fn on_reset(&mut self, id: u32, code: Code) -> Result<(), Violation> {
        if self.is_idle(id) {
            return Err(Violation::protocol("RST_STREAM on an idle stream"));
        }
        let Some(slot) = self.ids.get(&id).copied() else { return self.idle_frame() };
        let young = self.streams.get(slot).is_some_and(|stream| {
            !stream.final_head && self.now_ms.saturating_sub(stream.started_ms) < abuse::YOUNG_MS
        });
        self.fail(slot, Error::new(Kind::PeerReset(code)));
        if self.role == Role::Server && young && !self.young_resets.add(self.now_ms) {
            return Err(Violation::calm("too many streams were reset soon after their start"));
        }
        Ok(())
    }

    fn on_settings(&mut self, entries: &[u8]) -> Result<(), Violation> {
        if self.settings_seen {
            self.idle_frame()?;
        } else if self.role == Role::Client {
            // A server that says nothing of a limit has none.
            self.peer.max_concurrent_streams = u32::MAX;
        }
        self.settings_seen = true;
        let (before, allowed_before) = (self.peer.initial_window, self.peer.max_concurrent_streams);
        for (id, value) in frame::settings(entries) {
            self.peer.apply(id, value, self.role == Role::Client)?;
            if id == HEADER_TABLE_SIZE {
                self.encoder.set_peer_limit(value as usize);
            }
        }
        let is_news = !self.peer.known || self.peer.max_concurrent_streams != allowed_before;
        self.peer.known = true;
        if let Some(tell) = self.on_settings.as_ref().filter(|_| is_news) {
            tell(self.peer.max_concurrent_streams);
        }
        let change = i64::from(self.peer.initial_window) - i64::from(before);
        if change != 0 {
            for slot in self.ids.values() {
                let Some(stream) = self.streams.get_mut(*slot) else { continue };
                stream.send_window.change(change).map_err(|Overflow| {
                    Violation::Connection(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a window")
                })?;
                stream.wake_writer();
            }
        }
        frame::put_settings_ack(&mut self.out);
        self.wake_ready();
        self.answered(frame::HEADER_LEN)
    }

    fn on_goaway(&mut self, last_stream: u32, code: Code) {
        if code != Code::NO_ERROR || self.peer_goaway.is_none() {
            self.peer_goaway = Some(code);
        }
        // A client that says so starts no more requests; those that have come are answered.
        self.phase = Phase::Draining;
        if self.role == Role::Client {
            let lost: Vec<usize> =
                self.ids.iter().filter(|(id, _)| **id > last_stream).map(|(_, slot)| *slot).collect();
            for slot in lost {
                self.fail(slot, Error::new(Kind::GoAway(code)).as_unprocessed());
            }
        }
        wake(&mut self.acceptor);
        self.wake_ready();
    }

    fn on_window_update(&mut self, id: u32, increment: u32) -> Result<(), Violation> {
        self.window_updated()?;
        if id == 0 {
            if increment == 0 {
                return Err(Violation::protocol("WINDOW_UPDATE of 0"));
            }
            self.send_window.change(i64::from(increment)).map_err(|Overflow| {
                Violation::Connection(Code::FLOW_CONTROL_ERROR, "the connection's window is above 2^31-1")
            })?;
            self.grant_turns();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Violation::protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(stream) = self.ids.get(&id).and_then(|slot| self.streams.get_mut(*slot)) else { return Ok(()) };
        if increment == 0 {
            return Err(Violation::Stream(id, Code::PROTOCOL_ERROR, "WINDOW_UPDATE of 0"));
        }
        stream.send_window.change(i64::from(increment)).map_err(|Overflow| {
            Violation::Stream(id, Code::FLOW_CONTROL_ERROR, "the stream's window is above 2^31-1")
        })?;
        stream.wake_writer();
        Ok(())
    }
}

/// In a box: hardly a stream has any.
fn tiny_frames() -> Box<Bucket> {
    Box::new(Bucket::new(abuse::TINY_FRAMES))
}

fn compression(why: &'static str) -> Violation {
    Violation::Connection(Code::COMPRESSION_ERROR, why)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Frames that are mostly well-formed, so that they get past the layout's checks and meet each other.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let blocks: Vec<Vec<u8>> = vec![
            vec![0x82, 0x86, 0x84, 0x41, 1, b'a'],
            vec![0x83, 0x87, 0x84, 0x01, 1, b'a', 0x0f, 0x0d, 1, b'5'],
            vec![0x88],
            vec![0x08, 3, b'1', b'0', b'3'],
            vec![0x40, 1, b'x', 1, b'y', 0xbe],
            vec![0x3f, 0xe1, 0x1f, 0x82],
        ];
        let headers = (prop::sample::select(blocks), any::<u8>(), 0u32..24)
            .prop_map(|(block, flags, stream)| raw(frame::HEADERS, flags & 0x5, stream, &block));
        let data = (0usize..400, any::<u8>(), 0u32..24)
            .prop_map(|(len, flags, stream)| raw(frame::DATA, flags & 0x9, stream, &vec![1; len]));
        let windows = (any::<u32>(), 0u32..24)
            .prop_map(|(by, stream)| raw(frame::WINDOW_UPDATE, 0, stream, &(by >> 12).to_be_bytes()));
        let resets = (0u32..24).prop_map(|stream| raw(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        let settings = (1u8..7, any::<u32>())
            .prop_map(|(id, value)| raw(frame::SETTINGS, 0, 0, &[&[0, id][..], &(value >> 8).to_be_bytes()].concat()));
        let any_frame = (0u8..11, any::<u8>(), 0u32..24, vec(any::<u8>(), 0..20))
            .prop_map(|(kind, flags, stream, payload)| raw(kind, flags, stream, &payload));
        let one = prop_oneof![5 => headers, 5 => data, 2 => windows, 2 => resets, 1 => settings, 1 => any_frame];
        vec(one, 0..60).prop_map(|frames| [raw(frame::SETTINGS, 0, 0, &[]), frames.concat()].concat())
    }

    fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::put_header(&mut out, kind, flags, stream, payload.len());
        out.extend_from_slice(payload);
        out
    }

    proptest! {
        #[test]
        fn no_sequence_of_frames_breaks_an_end(frames in frames(), noise: Vec<u8>) {
            for input in [&frames, &noise] {
                super::super::server::fuzz(input);
                super::super::client::fuzz(input);
            }
        }
    }
}
