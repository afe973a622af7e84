//! What the handles send: heads at once, bodies as the windows and the output allow.

use std::task::{Context, Poll};

use crate::http::{Headers, Method, RequestHead, ResponseHead};

use super::core::{Core, Phase, Role};
use super::error::{Error, Kind};
use super::fields;
use super::frame;
use super::hpack::Encoder;
use super::stream::{State, Stream, Turn};

/// What one stream may append before others have their turn.
const SLICE: usize = 64 * 1024;

impl Core {
    /// A stream that may still send, or why it may not.
    fn sendable(&mut self, slot: usize, id: u32) -> Result<&mut Stream, Error> {
        let stream = self.stream(slot, id)?;
        match stream.failed {
            Some(error) => Err(error),
            None if stream.state.can_send() => Ok(stream),
            None => Err(Error::misuse("something was sent after the end of the stream")),
        }
    }

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
        self.streams_opened += 1;
        let state = if end_stream { State::HalfClosedLocal } else { State::Open };
        let mut stream = Stream::new(id, state, self.peer.initial_window, self.settings.stream_window);
        stream.head_at = self.written + self.pending_output() as u64;
        if self.ids.is_empty() {
            self.busy_from = stream.head_at;
            self.idle_before = (id > 1).then_some(self.received);
        }
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
        self.data_frames += frames as u64;
        for (nth, piece) in now.chunks(largest).enumerate() {
            frame::put_data(&mut self.out, id, piece, last && nth + 1 == frames);
        }
        if last {
            self.end_sent(slot);
        }
        self.wake_driver();
        Poll::Ready(Ok(take))
    }

    /// Ready when the output has room for more heads, which flow control does not hold back.
    pub(crate) fn poll_room(&mut self, slot: usize, id: u32, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let full = self.pending_output() >= super::core::OUTPUT_FULL;
        let stream = match self.sendable(slot, id) {
            Ok(stream) => stream,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let granted = stream.turn == Turn::Granted;
        if granted {
            stream.turn = Turn::NotWaiting;
        }
        if full {
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
        // A head takes little of the room that the turn was given for.
        if granted {
            self.grant_turns();
        }
        Poll::Ready(Ok(()))
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
}
