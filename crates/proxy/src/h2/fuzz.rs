//! Both ends without a socket, for fuzzing.

use std::task::{Context, Poll, Waker};

use super::core::{Core, OUTPUT_FULL, Role};

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
