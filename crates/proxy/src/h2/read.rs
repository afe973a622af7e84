//! What the handles read and wait for.

use std::task::{Context, Poll};

use crate::http::{Headers, ResponseHead};

use super::core::{Arrival, Core, Phase, Role};
use super::error::{Error, Kind};
use super::frame;
use super::stream::store;

impl Core {
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
            // What a server sent before it ended the stream is of the response, whether or not it was read by then.
            let is_left = client && stream.final_head && !stream.body.is_empty();
            if !(is_left && error.is_of_the_peer()) {
                return Poll::Ready(Err(error));
            }
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

    /// Nothing is left to read: neither body nor trailers.
    pub(crate) fn is_body_done(&self, slot: usize, id: u32) -> bool {
        let Some(stream) = self.streams.get(slot).filter(|stream| stream.id == id) else { return false };
        stream.complete && stream.body.is_empty() && stream.trailers.is_none()
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
}
