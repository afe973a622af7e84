//! HTTP/2 within a thread's loop: which stream is which slot's, and what becomes of what was heard.

use celerity_telemetry::ledger::CATEGORIES;
use celerity_wire::Violation;

use super::h2::{Connection, Failure as StreamFailure, Reply, Sink};
use super::ledger::parse_server_timing;
use super::link::{Failure, Phase, Wire};
use super::worker::{Call, Feed, State, Worker};
use crate::record::Answer;
use crate::source::Success;
use crate::summary::ErrorKind;

/// A request that the server did not look at is sent again so often (RFC 9113 section 8.7): a server that closes each
/// connection after some requests refuses one twice at most, and one that refuses all must not be asked without end.
const UNPROCESSED_MAX: u8 = 3;

/// One connection's HTTP/2, and the buffers beside it.
pub(super) struct H2Wire {
    pub(super) connection: Connection,
    lanes: u32,
    /// A frame that has not come whole: at most one.
    rest: Vec<u8>,
    /// The other one of two output buffers.
    pub(super) spare: Vec<u8>,
    /// A request waits because the server allows no more streams.
    starved: bool,
}

impl std::fmt::Debug for H2Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2Wire").field("live", &self.connection.live()).finish_non_exhaustive()
    }
}

/// A request that ended, and how.
pub(super) struct Ended {
    slot: u32,
    how: Result<Reply, StreamFailure>,
}

impl H2Wire {
    pub(super) fn new(lanes: u32) -> Self {
        Self { connection: Connection::new(lanes), lanes, rest: Vec::new(), spare: Vec::new(), starved: false }
    }

    /// For a new connection.
    pub(super) fn reset(&mut self) {
        self.connection = Connection::new(self.lanes);
        self.rest.clear();
        self.starved = false;
    }
}

/// What is wanted of answers, and where it goes.
struct Ear<'a> {
    calls: &'a mut [Call],
    ended: &'a mut Vec<Ended>,
    ledger: bool,
    tally: Option<&'a str>,
}

impl Sink for Ear<'_> {
    fn wants_fields(&self) -> bool {
        self.ledger || self.tally.is_some()
    }

    fn field(&mut self, token: u32, name: &[u8], value: &[u8]) {
        let Some(call) = self.calls.get_mut(token as usize) else { return };
        if self.ledger && name == b"server-timing" {
            let parsed: Option<[u32; CATEGORIES]> = std::str::from_utf8(value).ok().and_then(parse_server_timing);
            call.ledger_us = parsed.or(call.ledger_us);
        }
        if self.tally.is_some_and(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes())) {
            call.tally.push_str(&String::from_utf8_lossy(value));
        }
    }

    fn done(&mut self, token: u32, reply: Reply) {
        self.ended.push(Ended { slot: token, how: Ok(reply) });
    }

    fn failed(&mut self, token: u32, why: StreamFailure) {
        self.ended.push(Ended { slot: token, how: Err(why) });
    }
}

impl Worker<'_> {
    /// A connection has something to say, at the end of what is being done now: what many streams say together goes out in
    /// one write.
    pub(super) fn touch(&mut self, at: usize) {
        if let Some(link) = self.links.get_mut(at)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(at);
        }
    }

    #[inline]
    pub(super) fn flush_dirty(&mut self) {
        while let Some(at) = self.dirty.pop() {
            let Some(link) = self.links.get_mut(at) else { continue };
            link.dirty = false;
            if link.phase != Phase::Closed
                && let Err(failure) = link.flush_h2()
            {
                self.broken(at, &failure);
            }
        }
    }

    /// Starts a slot's request as a stream, or leaves it waiting until the server allows one more.
    pub(super) fn h2_send(&mut self, slot: u32, at: usize) {
        let (Some(link), Some(call)) = (self.links.get_mut(at), self.calls.get_mut(slot as usize)) else { return };
        let Wire::H2(h2) = &mut link.wire else { return };
        let Some(request) = self.prep.requests.get(call.request).and_then(|request| request.h2.as_ref()) else {
            return;
        };
        let Some(bytes) = h2.connection.start(request, call.request, slot) else {
            h2.starved = true;
            return;
        };
        call.state = State::Sent;
        call.sent_ns = self.now_ns;
        call.ledger_us = None;
        call.tally.clear();
        // Sent again, it is still one request.
        self.record.sent(call.intended_ns, self.now_ns, bytes, u64::from(call.unprocessed == 0));
        self.note_late_send();
        self.touch(at);
    }

    pub(super) fn h2_received(&mut self, at: usize, data: &[u8]) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Wire::H2(h2) = &mut link.wire else { return };
        let mut ended = std::mem::take(&mut self.ended);
        let mut ear = Ear {
            calls: &mut self.calls,
            ended: &mut ended,
            ledger: self.plan.capture.ledger,
            tally: self.plan.capture.tally_header.as_deref(),
        };
        let result = if h2.rest.is_empty() {
            let result = h2.connection.receive(data, &mut ear);
            if let Ok(taken) = result {
                h2.rest.extend_from_slice(data.get(taken..).unwrap_or_default());
            }
            result
        } else {
            h2.rest.extend_from_slice(data);
            let result = h2.connection.receive(&h2.rest, &mut ear);
            if let Ok(taken) = result {
                h2.rest.drain(..taken);
            }
            result
        };
        let settled = link.phase == Phase::Settling && h2.connection.is_ready();
        let speaks = !h2.connection.output().is_empty();
        let tls_ns = if settled { link.tls_ns.take() } else { None };
        if speaks {
            self.touch(at);
        }
        for end in ended.drain(..) {
            self.h2_ended(at, &end);
        }
        self.ended = ended;
        if let Err(Violation::Stream(_, _, text) | Violation::Connection(_, text)) = result {
            // The GOAWAY that says why goes out if it can.
            if let Some(link) = self.links.get_mut(at) {
                let _ = link.flush_h2();
            }
            return self.broken(at, &Failure::new(ErrorKind::Protocol, text));
        }
        if settled {
            self.opened(at, tls_ns);
        }
        self.h2_go_on(at);
    }

    /// After streams have ended: requests that waited for one, and the end of a connection that the server closes.
    fn h2_go_on(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Wire::H2(h2) = &mut link.wire else { return };
        if h2.connection.is_closing() && h2.connection.live() == 0 {
            let route = link.route;
            let _ = link.flush_h2();
            return self.h2_leave(at, route);
        }
        if h2.starved && h2.connection.capacity() > 0 {
            h2.starved = false;
            let first = at as u32 * self.lanes;
            for slot in first..first + self.lanes {
                if self.calls.get(slot as usize).is_some_and(|call| call.state == State::Waiting) {
                    self.send(slot, at);
                }
            }
        }
    }

    /// Closes a connection that has nothing under way, and opens another where requests wait for it.
    fn h2_leave(&mut self, at: usize, route: u16) {
        self.close(at);
        let first = at as u32 * self.lanes;
        let mut waits = false;
        for slot in first..first + self.lanes {
            match self.calls.get(slot as usize).map(|call| call.state) {
                Some(State::Waiting) => waits = true,
                Some(State::Idle) => self.dispatch.disconnected(slot, route),
                _ => {}
            }
        }
        if waits {
            self.connect(at, route);
        }
    }

    fn h2_ended(&mut self, at: usize, end: &Ended) {
        let Some(call) = self.calls.get_mut(end.slot as usize).filter(|call| call.state == State::Sent) else { return };
        self.record.request = call.request as u32;
        match end.how {
            Ok(reply) => {
                let rule = match &self.feed {
                    Feed::Static { requests, .. } => requests.get(call.request).map_or(Success::Status, |r| r.success),
                    Feed::Script { .. } => Success::Status,
                };
                let (success, grpc_status) = match rule {
                    Success::Status => (reply.status < 400, None),
                    // Without a status the call did not end as gRPC calls end: UNKNOWN (2).
                    Success::Grpc => {
                        (reply.status == 200 && reply.grpc_status == Some(0), Some(reply.grpc_status.unwrap_or(2)))
                    }
                };
                self.record.answered(&Answer {
                    intended_ns: call.intended_ns,
                    sent_ns: call.sent_ns,
                    ended_ns: self.now_ns,
                    status: reply.status,
                    grpc_status,
                    success,
                    bytes: reply.bytes,
                    body_bytes: reply.body_bytes,
                    ledger_us: call.ledger_us,
                });
                if !call.tally.is_empty() {
                    self.record.tally(call.intended_ns, &call.tally);
                }
            }
            Err(StreamFailure::Unprocessed) if call.unprocessed < UNPROCESSED_MAX => {
                return self.h2_again(at, end.slot);
            }
            Err(why) => {
                self.record.failed(call.intended_ns, self.now_ns, kind(why), true, Some(&why.to_string()));
            }
        }
        self.h2_release(at, end.slot);
    }

    /// The server did not look at the request: it waits for another stream, on this connection or on the next one.
    fn h2_again(&mut self, at: usize, slot: u32) {
        let (Some(call), Some(link)) = (self.calls.get_mut(slot as usize), self.links.get_mut(at)) else { return };
        call.state = State::Waiting;
        call.unprocessed += 1;
        // From here its wait for a stream counts.
        call.sent_ns = self.now_ns;
        if let Wire::H2(h2) = &mut link.wire {
            h2.starved = true;
        }
    }

    fn h2_release(&mut self, at: usize, slot: u32) {
        let (Some(call), Some(link)) = (self.calls.get_mut(slot as usize), self.links.get(at)) else { return };
        call.state = State::Idle;
        let started_ns = call.intended_ns;
        let route = (link.phase == Phase::Open).then_some(link.route);
        self.in_flight -= 1;
        self.dispatch.release(slot, self.now_ns, route, started_ns);
    }

    /// The server closed the connection.
    pub(super) fn h2_closed(&mut self, at: usize) {
        self.broken(at, &Failure::new(ErrorKind::Closed, "before the answer was whole"));
    }

    /// An open connection failed, and with it what was sent on it. Requests that only wait lose nothing by another
    /// connection; one that never came about fails them.
    pub(super) fn h2_broken(&mut self, at: usize, failure: &Failure) {
        let Some(route) = self.links.get(at).map(|link| link.route) else { return };
        self.close(at);
        let first = at as u32 * self.lanes;
        for slot in first..first + self.lanes {
            if self.calls.get(slot as usize).is_some_and(|call| call.state == State::Sent) {
                self.fail(slot, failure);
            }
        }
        self.h2_leave(at, route);
    }

    /// Requests that took too long: their streams are reset, the others go on.
    pub(super) fn h2_late(&mut self, at: usize, timeout_ns: u64) {
        let first = at as u32 * self.lanes;
        for slot in first..first + self.lanes {
            let starved =
                |call: &Call| call.state == State::Waiting && self.now_ns.saturating_sub(call.sent_ns) >= timeout_ns;
            if self.calls.get(slot as usize).is_some_and(starved) {
                self.fail(slot, &Failure::new(ErrorKind::Timeout, "the server allowed no stream for it in time"));
                continue;
            }
            let late =
                |call: &Call| call.state == State::Sent && self.now_ns.saturating_sub(call.sent_ns) >= timeout_ns;
            if !self.calls.get(slot as usize).is_some_and(late) {
                continue;
            }
            if let Some(link) = self.links.get_mut(at)
                && let Wire::H2(h2) = &mut link.wire
            {
                h2.connection.cancel(slot);
            }
            let text = format!("no whole answer in {} s", self.plan.timeout.as_secs_f64());
            if let Some(call) = self.calls.get(slot as usize) {
                self.record.request = call.request as u32;
                self.record.failed(call.intended_ns, self.now_ns, ErrorKind::Timeout, true, Some(&text));
            }
            self.h2_release(at, slot);
            self.touch(at);
        }
        self.h2_go_on(at);
    }
}

fn kind(why: StreamFailure) -> ErrorKind {
    match why {
        StreamFailure::Reset(_) => ErrorKind::Reset,
        StreamFailure::Unprocessed => ErrorKind::Closed,
        StreamFailure::Malformed(_) => ErrorKind::Protocol,
    }
}
