//! One thread of a run: its loop, its connections, its requests.
//!
//! ```text
//! loop: what is due -> start it -> sleep until something is readable or due -> read, record, start what that freed
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use celerity_telemetry::ledger::CATEGORIES;
use mio::{Events, Poll, Token};

use super::h1::{Done, H1, Want};
use super::h2_link::{Ended, H2Wire};
use super::link::{Failure, Got, Link, Phase, Wire};
use super::machine::ThreadFacts;
use super::prepare::{Prep, Prepared, is_head_request};
use super::timer::{Clock, Timer};
use crate::control::{Cell, Control, Stop};
use crate::dispatch::{Dispatch, Step};
use crate::plan::{Arrivals, Load, Plan, Protocol};
use crate::record::{Answer, Recorder};
use crate::source::{Script, Source, Success};
use crate::summary::{ErrorKind, Summary};
use crate::{Error, schedule};

/// One read takes at most this: a response of a service fits, and a large body needs few calls.
const READ_BYTES: usize = 64 * 1024;
/// Events told by one poll.
const EVENTS_MAX: usize = 1024;
const TIMER: Token = Token(usize::MAX);
/// Timeouts and the stop flag are looked at this often at least, in nanoseconds, and not more often than the minimum.
const SWEEP_NS_MAX: u64 = 50_000_000;
const SWEEP_NS_MIN: u64 = 1_000_000;
/// After a stop, requests under way get this long.
const STOP_GRACE_NS: u64 = 1_000_000_000;
/// A slot of a closed loop whose connect failed waits this long, so as not to try in a hot loop.
const CONNECT_PAUSE_NS: u64 = 20_000_000;
/// A loop that was not looked at for so long although it was due stands for a machine that stood still.
const SLIP_NS: u64 = 1_000_000_000;
/// Sent so much after the schedule's end, a request says that the rate was not reached.
const LATE_SEND_NS: u64 = 100_000_000;
/// An answer of a proxy to CONNECT that is longer is none.
const TUNNEL_HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a thread is started with.
pub(super) struct Job<'a> {
    pub(super) plan: &'a Plan,
    pub(super) prep: &'a Prep,
    pub(super) control: &'a Control,
    pub(super) index: u32,
    pub(super) live: Arc<Cell>,
}

pub(super) enum Feed<'a> {
    Static { requests: &'a [Prepared], next: usize, step: usize },
    Script { script: Box<dyn Script>, delays: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// For its connection.
    Waiting,
    Sent,
}

/// What is under way on one slot.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) state: State,
    pub(super) intended_ns: u64,
    pub(super) sent_ns: u64,
    /// Its place in the prepared requests.
    pub(super) request: usize,
    /// HTTP/2: how often the server has said that it did not look at it.
    pub(super) unprocessed: u8,
    /// Answers that are still to come.
    pub(super) responses: u16,
    pub(super) to_head: bool,
    /// What a script wrote.
    pub(super) wire: Vec<u8>,
    /// What was read of an HTTP/2 answer.
    pub(super) ledger_us: Option<[u32; CATEGORIES]>,
    pub(super) tally: String,
}

pub(super) struct Worker<'a> {
    pub(super) plan: &'a Plan,
    pub(super) prep: &'a Prep,
    pub(super) control: &'a Control,
    pub(super) clock: Clock,
    pub(super) now_ns: u64,
    pub(super) poll: Poll,
    pub(super) timer: Timer,
    pub(super) links: Vec<Link>,
    pub(super) calls: Vec<Call>,
    pub(super) lanes: u32,
    pub(super) dispatch: Dispatch,
    pub(super) record: Recorder,
    pub(super) feed: Feed<'a>,
    pub(super) want_all: bool,
    pub(super) buffer: Vec<u8>,
    /// HTTP/2: what was heard in one read, and the connections that have something to say.
    pub(super) ended: Vec<Ended>,
    pub(super) dirty: Vec<usize>,
    /// Where a script wants this thread to connect to.
    address: Option<SocketAddr>,
    pub(super) in_flight: u32,
    pub(super) open_links: u32,
    pub(super) open_loop: bool,
    /// When nothing more is started, and why the run may end before what is under way has.
    pub(super) ended_ns: Option<u64>,
    pub(super) stop_at_ns: u64,
    pub(super) interrupted: bool,
}

/// Whether the k-th request of the run is known to be the thread's: k, k + threads, and so on. Then it is the list's k-th, too.
/// Where threads go each at its own pace, each goes through the whole list, so that no target hangs on one thread.
fn is_dealt(load: &Load) -> bool {
    match load {
        Load::Open(open) => open.arrivals != Arrivals::Poisson,
        Load::Closed(closed) => closed.duration.is_none(),
    }
}

impl<'a> Worker<'a> {
    /// Everything that can fail before the first request.
    pub(super) fn new(job: Job<'a>) -> Result<Self, Error> {
        let Job { plan, prep, control, index, live } = job;
        let system = |what| move |source| Error::System { what, source };
        let poll = Poll::new().map_err(system("an epoll descriptor"))?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(system("a timer"))?;
        let links = schedule::share(u64::from(plan.connections), index, plan.threads) as u32;
        let lanes = plan.streams_per_connection;
        let slots = links * lanes;
        let routes = prep.routes.len() as u16;
        let mut want_all = false;
        let feed = match &plan.source {
            Source::Static(_) => {
                let (len, index, threads) = (prep.requests.len(), index as usize, plan.threads as usize);
                let (next, step) =
                    if is_dealt(&plan.load) { (index % len, threads % len) } else { (len * index / threads, 1 % len) };
                Feed::Static { requests: &prep.requests, next, step }
            }
            Source::Script(factory) => {
                let script = factory.thread(index).map_err(Error::Script)?;
                want_all = script.wants_responses();
                let delays = script.wants_delays();
                if delays && matches!(plan.load, Load::Open(_)) {
                    let why =
                        "its delay() paces a closed loop, and this load is an open one: give -c, or take delay() out";
                    return Err(Error::Script(why.into()));
                }
                Feed::Script { script, delays }
            }
        };
        let wire = || match plan.protocol {
            Protocol::Http1 => Wire::H1(H1::new()),
            Protocol::Http2 => Wire::H2(Box::new(H2Wire::new(lanes))),
        };
        // Behind a proxy the address is the proxy's.
        let address = match &plan.source {
            Source::Script(factory) if plan.proxy.is_none() => factory.address(index),
            _ => None,
        };
        let call = || Call {
            state: State::Idle,
            intended_ns: 0,
            sent_ns: 0,
            request: 0,
            unprocessed: 0,
            responses: 0,
            to_head: false,
            wire: Vec::new(),
            ledger_us: None,
            tally: String::new(),
        };
        let warm_up_ns = u64::try_from(plan.warm_up.as_nanos()).unwrap_or(u64::MAX);
        let dispatch = Dispatch::new(&plan.load, index, plan.threads, plan.seed, slots, routes, warm_up_ns);
        let record = Recorder::new(warm_up_ns, plan.capture.ledger, plan.seed ^ u64::from(index), live)
            .ending_at(dispatch.end_ns())
            .with_rows(plan.capture.rows.as_ref());
        Ok(Self {
            plan,
            prep,
            control,
            clock: Clock::start(),
            now_ns: 0,
            poll,
            timer,
            links: (0..links).map(|_| Link::new(wire())).collect(),
            calls: (0..slots).map(|_| call()).collect(),
            lanes,
            dispatch,
            record,
            feed,
            want_all,
            buffer: vec![0; READ_BYTES],
            ended: Vec::new(),
            dirty: Vec::new(),
            address,
            in_flight: 0,
            open_links: 0,
            open_loop: matches!(plan.load, Load::Open(_)),
            ended_ns: None,
            stop_at_ns: u64::MAX,
            interrupted: false,
        })
    }

    /// The thread's whole life.
    pub(super) fn work(mut self, clock: Clock) -> Result<Summary, Error> {
        self.clock = clock;
        let facts = ThreadFacts::read();
        let mut events = Events::with_capacity(EVENTS_MAX);
        let shortest = self.plan.timeout.min(self.plan.connect_timeout).as_nanos() / 50;
        let sweep_every_ns = u64::try_from(shortest).unwrap_or(u64::MAX).clamp(SWEEP_NS_MIN, SWEEP_NS_MAX);
        let mut sweep_ns = 0;
        loop {
            self.now_ns = self.clock.now_ns();
            let due_ns = self.pump();
            if self.now_ns >= sweep_ns {
                self.sweep();
                sweep_ns = self.now_ns + sweep_every_ns;
            }
            if self.over() {
                break;
            }
            self.flush_dirty();
            let wake_ns = due_ns.min(sweep_ns);
            self.timer.arm(self.clock, wake_ns).map_err(|source| Error::System { what: "a timer", source })?;
            if let Err(source) = self.poll.poll(&mut events, None)
                && source.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(Error::System { what: "waiting for sockets", source });
            }
            self.now_ns = self.clock.now_ns();
            self.note_pause(wake_ns);
            for event in &events {
                if event.token() != TIMER {
                    self.ready(event.token().0, event.is_writable(), event.is_readable(), event.is_read_closed());
                    self.pump();
                    self.flush_dirty();
                }
            }
        }
        Ok(self.finish(facts))
    }

    fn note_pause(&mut self, wake_ns: u64) {
        let late_ns = self.now_ns.saturating_sub(wake_ns);
        let audit = self.record.audit();
        audit.pause_ns_max = audit.pause_ns_max.max(late_ns);
        if late_ns >= SLIP_NS {
            audit.clock_slips += 1;
        }
    }

    /// Starts all that is due. Returns when the next thing is.
    fn pump(&mut self) -> u64 {
        loop {
            if self.ended_ns.is_some() {
                return u64::MAX;
            }
            let route = match &self.feed {
                Feed::Static { requests, next, .. } => requests.get(*next).map_or(0, |r| r.route),
                Feed::Script { .. } => 0,
            };
            match self.dispatch.step(self.now_ns, route) {
                Step::Start { slot, intended_ns, lag_ns, woken } => {
                    self.start(slot, route, intended_ns, lag_ns, woken);
                    self.obey(Ok(()));
                    // The write took time; what is due next is judged by the time of now.
                    self.now_ns = self.clock.now_ns();
                }
                Step::Drop { intended_ns } => {
                    self.record.intended(intended_ns, 1);
                    self.record.request = self.next_static() as u32;
                    self.record.failed(intended_ns, self.now_ns, ErrorKind::Dropped, false, None);
                    if let Some(observer) = &self.plan.capture.observer {
                        observer.intended(intended_ns);
                        observer.failed(ErrorKind::Dropped, self.now_ns.saturating_sub(intended_ns));
                    }
                }
                Step::Wait(until_ns) => return until_ns,
                Step::Done => self.end(),
            }
        }
    }

    /// Nothing more is started.
    fn end(&mut self) {
        if self.ended_ns.is_some() {
            return;
        }
        self.ended_ns = Some(self.now_ns);
        if self.plan.cut_at_end {
            self.stop_at_ns = self.now_ns;
        }
        let unsent = self.dispatch.unsent(self.now_ns);
        if unsent > 0 {
            self.record.intended(self.now_ns, unsent);
            self.record.failed_many(self.now_ns, ErrorKind::Unsent, unsent);
        }
        self.dispatch.stop();
    }

    fn over(&self) -> bool {
        self.ended_ns.is_some() && (self.in_flight == 0 || self.now_ns >= self.stop_at_ns)
    }

    fn next_static(&mut self) -> usize {
        match &mut self.feed {
            Feed::Static { requests, next, step } => {
                let this = *next;
                *next = this + *step;
                if *next >= requests.len() {
                    *next -= requests.len();
                }
                this
            }
            Feed::Script { .. } => 0,
        }
    }

    fn start(&mut self, slot: u32, route: u16, intended_ns: u64, lag_ns: u64, woken: bool) {
        if let Feed::Script { script, delays: true } = &mut self.feed
            && !woken
        {
            match script.delay() {
                Ok(delay) if !delay.is_zero() => {
                    let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
                    return self.dispatch.sleep(slot, self.now_ns, self.now_ns.saturating_add(delay_ns));
                }
                Ok(_) => {}
                Err(text) => return self.script_failed(slot, &text),
            }
        }
        let request = self.next_static();
        let Some(call) = self.calls.get_mut(slot as usize) else { return };
        call.request = request;
        call.unprocessed = 0;
        call.responses = 1;
        call.intended_ns = intended_ns;
        match &mut self.feed {
            Feed::Static { requests, .. } => call.to_head = requests.get(request).is_some_and(|r| r.to_head),
            Feed::Script { script, .. } => {
                call.wire.clear();
                match script.next(&mut call.wire) {
                    Ok(responses) => call.responses = responses.max(1),
                    Err(text) => return self.script_failed(slot, &text),
                }
                call.to_head = is_head_request(&call.wire);
            }
        }
        call.state = State::Waiting;
        call.sent_ns = self.now_ns;
        self.in_flight += 1;
        self.record.intended(intended_ns, u64::from(call.responses));
        if let Some(observer) = &self.plan.capture.observer {
            observer.intended(intended_ns);
        }
        if self.open_loop {
            self.record.started(intended_ns, lag_ns);
        }
        let at = (slot / self.lanes) as usize;
        let Some(link) = self.links.get_mut(at) else { return };
        if link.phase == Phase::Open && link.route == route {
            return self.send(slot, at);
        }
        if self.lanes > 1 && link.phase != Phase::Closed {
            // Another stream's request is having the connection made.
            return;
        }
        if link.phase != Phase::Closed {
            self.close(at);
        }
        self.connect(at, route);
    }

    pub(super) fn connect(&mut self, at: usize, number: u16) {
        let (Some(link), Some(route)) = (self.links.get_mut(at), self.prep.routes.get(usize::from(number))) else {
            return;
        };
        self.record.audit().connections_opened += 1;
        let address = self.address.as_ref().ok_or(()).or(route.address.as_ref());
        let opened = match address {
            Ok(address) => link.open(*address, number, self.poll.registry(), Token(at), self.now_ns),
            Err(reason) => Err(Failure::new(ErrorKind::Resolve, reason.clone())),
        };
        match opened {
            Ok(()) => self.open_links += 1,
            Err(failure) => self.broken(at, &failure),
        }
    }

    pub(super) fn send(&mut self, slot: u32, at: usize) {
        let (Some(link), Some(call)) = (self.links.get_mut(at), self.calls.get_mut(slot as usize)) else { return };
        if matches!(link.wire, Wire::H2(_)) {
            return self.h2_send(slot, at);
        }
        let bytes: &[u8] = match &self.feed {
            Feed::Static { requests, .. } => requests.get(call.request).map_or(&[], |r| &r.wire),
            Feed::Script { .. } => &call.wire,
        };
        call.state = State::Sent;
        call.sent_ns = self.now_ns;
        self.record.sent(call.intended_ns, self.now_ns, bytes.len() as u64, u64::from(call.responses));
        let written = link.write(bytes);
        self.note_late_send();
        if let Err(failure) = written {
            self.broken(at, &failure);
        }
    }

    pub(super) fn note_late_send(&mut self) {
        if self.open_loop && self.dispatch.end_ns().is_some_and(|end| self.now_ns > end + LATE_SEND_NS) {
            self.record.audit().sent_after_end += 1;
        }
    }

    /// Something happened on a connection.
    fn ready(&mut self, at: usize, writable: bool, readable: bool, read_closed: bool) {
        let Some(link) = self.links.get_mut(at) else { return };
        if link.phase == Phase::Closed {
            return;
        }
        if link.phase == Phase::Connecting {
            match link.connected() {
                Ok(true) => self.tcp_connected(at),
                Ok(false) => return,
                Err(failure) => return self.broken(at, &failure),
            }
        } else if writable && let Err(failure) = link.flush().and_then(|()| link.flush_h2()) {
            return self.broken(at, &failure);
        }
        if readable || read_closed {
            self.read(at, read_closed);
        }
    }

    fn tcp_connected(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        link.tcp_ns = self.now_ns;
        let Some(route) = self.prep.routes.get(usize::from(link.route)) else { return };
        if let Some(ask) = &route.tunnel {
            link.phase = Phase::Tunnel;
            if let Err(failure) = link.write(ask) {
                self.broken(at, &failure);
            }
            return;
        }
        self.after_tunnel(at);
    }

    fn after_tunnel(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let Some(route) = self.prep.routes.get(usize::from(link.route)) else { return };
        if route.tls.is_none() {
            return self.opened(at, None);
        }
        if let Err(failure) = link.start_tls(route) {
            self.broken(at, &failure);
        }
    }

    /// The connection can carry requests.
    pub(super) fn opened(&mut self, at: usize, tls_ns: Option<u64>) {
        let Some(link) = self.links.get_mut(at) else { return };
        if matches!(link.wire, Wire::H2(_)) && link.phase != Phase::Settling {
            link.phase = Phase::Settling;
            link.tls_ns = tls_ns;
            return self.touch(at);
        }
        link.phase = Phase::Open;
        self.record.connected(link.tcp_ns.saturating_sub(link.since_ns), tls_ns);
        let first = at as u32 * self.lanes;
        for slot in first..first + self.lanes {
            if self.calls.get(slot as usize).is_some_and(|c| c.state == State::Waiting) {
                self.now_ns = self.clock.now_ns();
                self.send(slot, at);
            }
        }
    }

    fn read(&mut self, at: usize, read_closed: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(link) = self.links.get_mut(at).filter(|l| l.phase != Phase::Closed) {
            match link.read(&mut buffer) {
                Ok(Got::Data { bytes, full }) => {
                    self.now_ns = self.clock.now_ns();
                    self.received(at, buffer.get(..bytes).unwrap_or_default());
                    if !full && !read_closed {
                        break;
                    }
                }
                Ok(Got::Blocked) => {
                    if link.phase == Phase::Handshake && !link.handshaking() {
                        self.shaken(at);
                        // What came with the last flight is read on.
                        continue;
                    }
                    break;
                }
                Ok(Got::End) => {
                    self.other_side_closed(at);
                    break;
                }
                Err(failure) => {
                    self.broken(at, &failure);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn shaken(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        self.now_ns = self.clock.now_ns();
        let wanted: &[u8] = match self.plan.protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        // A server that says nothing speaks HTTP/1.1.
        let chosen = link.alpn().unwrap_or(b"http/1.1");
        if chosen != wanted {
            let (chosen, wanted) = (String::from_utf8_lossy(chosen), String::from_utf8_lossy(wanted));
            let text = format!("the server chose `{chosen}`, and `{wanted}` was asked for");
            return self.broken(at, &Failure::new(ErrorKind::Tls, text));
        }
        let tls_ns = self.now_ns.saturating_sub(link.tcp_ns);
        self.opened(at, Some(tls_ns));
    }

    fn received(&mut self, at: usize, mut data: &[u8]) {
        while !data.is_empty() {
            let Some(link) = self.links.get_mut(at) else { return };
            match link.phase {
                Phase::Tunnel => {
                    link.tunnel_head.extend_from_slice(data);
                    return self.tunnel(at);
                }
                Phase::Settling => return self.h2_received(at, data),
                Phase::Open if matches!(link.wire, Wire::H2(_)) => return self.h2_received(at, data),
                Phase::Open => {}
                Phase::Closed | Phase::Connecting | Phase::Handshake => return,
            }
            let slot = at as u32 * self.lanes;
            let Some(call) = self.calls.get(slot as usize) else { return };
            if call.state != State::Sent {
                // Bytes that nobody asked for: what else comes cannot be told apart from an answer.
                return self.other_side_closed(at);
            }
            let want = Want {
                ledger: self.plan.capture.ledger,
                tally: self.plan.capture.tally_header.as_deref(),
                all: self.want_all,
            };
            let Wire::H1(h1) = &mut link.wire else { return };
            match h1.feed(&mut data, call.to_head, want) {
                Ok(None) => return,
                Ok(Some(done)) => self.answered(slot, at, &done),
                Err(text) => return self.broken(at, &Failure::new(ErrorKind::Protocol, text)),
            }
        }
    }

    fn tunnel(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let refused = match head.parse(&link.tunnel_head) {
            Ok(httparse::Status::Complete(_)) => match head.code {
                Some(200..300) => {
                    link.tunnel_head.clear();
                    return self.after_tunnel(at);
                }
                code => format!("the proxy answered CONNECT with {}", code.unwrap_or(0)),
            },
            Ok(httparse::Status::Partial) if link.tunnel_head.len() <= TUNNEL_HEAD_BYTES_MAX => return,
            _ => "the proxy's answer to CONNECT is not HTTP".to_owned(),
        };
        self.broken(at, &Failure::new(ErrorKind::Proxy, refused));
    }

    fn answered(&mut self, slot: u32, at: usize, done: &Done) {
        let (Some(call), Some(link)) = (self.calls.get_mut(slot as usize), self.links.get_mut(at)) else { return };
        let rule = match &self.feed {
            Feed::Static { requests, .. } => requests.get(call.request).map_or(Success::Status, |r| r.success),
            Feed::Script { .. } => Success::Status,
        };
        let success = match rule {
            Success::Status => done.status < 400,
            // Trailers of HTTP/1.1 are not read: gRPC needs HTTP/2.
            Success::Grpc => false,
        };
        self.record.request = call.request as u32;
        let answer = Answer {
            intended_ns: call.intended_ns,
            sent_ns: call.sent_ns,
            ended_ns: self.now_ns,
            status: done.status,
            grpc_status: None,
            success,
            bytes: done.bytes,
            body_bytes: done.body_bytes,
            ledger_us: done.ledger_us,
        };
        self.record.answered(&answer);
        let Wire::H1(h1) = &mut link.wire else { return };
        if let Some(observer) = &self.plan.capture.observer {
            observer.answered(&answer, &h1.kept.tally);
        }
        if self.plan.capture.tally_header.is_some() && !h1.kept.tally.is_empty() {
            self.record.tally(call.intended_ns, &h1.kept.tally);
        }
        let mut told = Ok(());
        if self.want_all
            && let Feed::Script { script, .. } = &mut self.feed
        {
            let headers: Vec<(&str, &[u8])> = h1.kept.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            told = script.response(done.status, &headers, &h1.kept.body);
        }
        call.responses -= 1;
        let keep = done.keep && self.plan.keep_alive;
        if call.responses > 0 && keep {
            return self.obey(told);
        }
        let whole = call.responses == 0;
        if whole {
            call.state = State::Idle;
            self.in_flight -= 1;
            let intended_ns = call.intended_ns;
            let route = keep.then_some(link.route);
            self.dispatch.release(slot, self.now_ns, route, intended_ns);
        }
        if !keep {
            self.close(at);
            if !whole {
                self.fail(slot, &Failure::new(ErrorKind::Closed, "the server closed before all pipelined answers"));
            }
        }
        self.obey(told);
    }

    /// Ends where a hook failed, or asked for it.
    fn obey(&mut self, told: Result<(), String>) {
        if let Err(text) = told {
            self.record.script_failed(self.now_ns, &text);
            return self.end();
        }
        if let Feed::Script { script, .. } = &self.feed
            && script.is_stopped()
            && self.ended_ns.is_none()
        {
            self.interrupted = true;
            self.end();
        }
    }

    fn script_failed(&mut self, slot: u32, text: &str) {
        self.record.script_failed(self.now_ns, text);
        self.dispatch.release(slot, self.now_ns, None, self.now_ns);
        // A script that failed once fails again, a million times.
        self.end();
    }

    /// The server closed the connection, or it must be closed because what comes makes no sense.
    fn other_side_closed(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let route = link.route;
        let slot = at as u32 * self.lanes;
        if matches!(link.phase, Phase::Tunnel) {
            return self.broken(at, &Failure::new(ErrorKind::Proxy, "the proxy closed the connection"));
        }
        if matches!(link.wire, Wire::H2(_)) {
            return self.h2_closed(at);
        }
        let under_way = self.calls.get(slot as usize).is_some_and(|c| c.state != State::Idle);
        if !under_way {
            self.close(at);
            return self.dispatch.disconnected(slot, route);
        }
        let Wire::H1(h1) = &mut link.wire else { return };
        if let Some(done) = h1.closed() {
            return self.answered(slot, at, &done);
        }
        let text = if h1.begun() { "in the middle of an answer" } else { "before any byte of an answer" };
        self.broken(at, &Failure::new(ErrorKind::Closed, text));
    }

    /// The connection failed, and with it what was under way on it.
    pub(super) fn broken(&mut self, at: usize, failure: &Failure) {
        let Some(link) = self.links.get(at) else { return };
        if link.phase == Phase::Open && matches!(link.wire, Wire::H2(_)) {
            return self.h2_broken(at, failure);
        }
        self.close(at);
        let first = at as u32 * self.lanes;
        for slot in first..first + self.lanes {
            if self.calls.get(slot as usize).is_some_and(|c| c.state != State::Idle) {
                self.fail(slot, failure);
            }
        }
    }

    pub(super) fn fail(&mut self, slot: u32, failure: &Failure) {
        let Some(call) = self.calls.get_mut(slot as usize) else { return };
        let sent = call.state == State::Sent;
        self.record.request = call.request as u32;
        for _ in 0..call.responses {
            self.record.failed(call.intended_ns, self.now_ns, failure.kind, sent, Some(&failure.text));
            if let Some(observer) = &self.plan.capture.observer {
                observer.failed(failure.kind, self.now_ns.saturating_sub(call.intended_ns));
            }
        }
        call.state = State::Idle;
        self.in_flight -= 1;
        if sent {
            self.dispatch.release(slot, self.now_ns, None, call.intended_ns);
        } else {
            self.dispatch.release_at(slot, self.now_ns, self.now_ns + CONNECT_PAUSE_NS);
        }
    }

    pub(super) fn close(&mut self, at: usize) {
        if let Some(link) = self.links.get_mut(at)
            && link.phase != Phase::Closed
        {
            link.close();
            self.open_links = self.open_links.saturating_sub(1);
        }
    }

    /// Timeouts, the stop flag and the live numbers.
    fn sweep(&mut self) {
        let timeout_ns = u64::try_from(self.plan.timeout.as_nanos()).unwrap_or(u64::MAX);
        let connect_ns = u64::try_from(self.plan.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
        for at in 0..self.links.len() {
            let Some(link) = self.links.get(at) else { break };
            match link.phase {
                Phase::Connecting | Phase::Tunnel | Phase::Handshake | Phase::Settling => {
                    if matches!(link.wire, Wire::H2(_)) {
                        self.h2_late(at, timeout_ns);
                    }
                    let Some(link) = self.links.get(at) else { break };
                    if self.now_ns.saturating_sub(link.since_ns) >= connect_ns {
                        let text = match link.phase {
                            Phase::Connecting => "TCP did not connect",
                            Phase::Tunnel => "the proxy did not answer CONNECT",
                            Phase::Settling => "the server's HTTP/2 SETTINGS did not come",
                            _ => "the TLS handshake did not end",
                        };
                        self.broken(at, &Failure::new(ErrorKind::ConnectTimeout, text));
                    }
                }
                Phase::Open if matches!(link.wire, Wire::H2(_)) => self.h2_late(at, timeout_ns),
                Phase::Open => {
                    let slots = at * self.lanes as usize..(at + 1) * self.lanes as usize;
                    let late = self.calls.get(slots).is_some_and(|calls| {
                        calls
                            .iter()
                            .any(|c| c.state == State::Sent && self.now_ns.saturating_sub(c.sent_ns) >= timeout_ns)
                    });
                    if late {
                        self.broken(
                            at,
                            &Failure::new(
                                ErrorKind::Timeout,
                                format!("no whole answer in {} s", self.plan.timeout.as_secs_f64()),
                            ),
                        );
                    }
                }
                Phase::Closed => {}
            }
        }
        match self.control.stopping() {
            Stop::No => {}
            Stop::Gently if self.stop_at_ns < u64::MAX => {}
            how => {
                self.interrupted = true;
                self.end();
                self.stop_at_ns = if how == Stop::Now { self.now_ns } else { self.now_ns + STOP_GRACE_NS };
            }
        }
        self.record.publish(self.now_ns, self.in_flight, self.open_links);
    }

    fn finish(mut self, facts: ThreadFacts) -> Summary {
        for slot in 0..self.calls.len() {
            if self.calls.get(slot).is_some_and(|c| c.state != State::Idle) {
                let how = if self.interrupted { "the run was stopped" } else { "the run had ended" };
                self.fail(slot as u32, &Failure::new(ErrorKind::Stopped, how));
            }
        }
        self.record.publish(self.now_ns, 0, 0);
        // The schedule's length where it was gone through; otherwise until the last answer.
        let length_ns = match self.dispatch.end_ns() {
            Some(end_ns) if self.ended_ns.is_some_and(|ended| ended >= end_ns) => end_ns,
            Some(end_ns) if self.open_loop && !self.interrupted => end_ns,
            _ => self.now_ns,
        };
        let used = ThreadFacts::read().since(facts);
        let audit = self.record.audit();
        audit.cpu_ns = used.cpu_ns.unwrap_or(0);
        audit.cpu_share_max = audit.cpu_ns as f64 / self.now_ns.max(1) as f64;
        audit.runnable_wait_ns = used.runnable_wait_ns;
        audit.involuntary_switches = used.involuntary_switches;
        let warm_up_ns = u64::try_from(self.plan.warm_up.as_nanos()).unwrap_or(u64::MAX);
        let mut summary = self.record.finish(length_ns.saturating_sub(warm_up_ns));
        summary.about.interrupted = self.interrupted;
        summary
    }
}
