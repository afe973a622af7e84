//! Where one request's time went.
//!
//! A request is in exactly one state at a time. `enter` adds the time since the last call to the bucket of the state
//! that is left, so the parts sum to the total by construction: there is no second measurement of the total to
//! disagree with.
//!
//! ```text
//!   start ──enter(Route)──► Route ──enter(PoolPending)──► PoolPending ──…──► finish
//!     time before start (a handshake, the wait in the accept queue) comes in by `charge`
//!     AwaitResponse is split once the response head is there: `join_peer` or `split_round_trip`
//! ```
//!
//! Cost: one clock reading, one subtraction and one addition per call; the request's ledger is 272 bytes inside the
//! exchange's state and never allocates.

use crate::clock::{Clock, Tick};
use crate::hop::HopReport;

/// The rows of the ledger. Five that an operator can tune, the service itself, and an honest remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Category {
    Network,
    Processing,
    Queueing,
    Protocol,
    Config,
    Service,
    Unattributed,
}

pub const CATEGORIES: usize = 7;

impl Category {
    pub const ALL: [Self; CATEGORIES] = [
        Self::Network,
        Self::Processing,
        Self::Queueing,
        Self::Protocol,
        Self::Config,
        Self::Service,
        Self::Unattributed,
    ];

    /// The name on the wire, in metrics and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Processing => "processing",
            Self::Queueing => "queueing",
            Self::Protocol => "protocol",
            Self::Config => "config",
            Self::Service => "service",
            Self::Unattributed => "unattributed",
        }
    }
}

/// What a request is doing, or waiting for. `Unattributed` is where it starts and where nothing was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// TCP connect to the endpoint. Charge it to the request that asked for the connection.
    UpstreamConnect,
    /// Waiting for the client's next piece of body.
    RequestBodyWait,
    /// Waiting for the endpoint's next piece of body.
    ResponseBodyWait,
    /// Waiting until the endpoint's socket takes more of the request.
    UpstreamFlush,
    /// Waiting until the client's socket takes more of the response.
    DownstreamFlush,
    /// The part of the wait for the response that the wire took. Filled by `join_peer` and `split_round_trip`.
    RoundTrip,
    /// Finding the route.
    Route,
    /// Filters of ours: self time.
    Filters,
    /// Choosing the endpoint.
    Pick,
    /// Copying bytes and the exchange's own bookkeeping.
    Copy,
    /// A new connection's first bytes were there, and were not yet read.
    AcceptWait,
    /// What this request waited for was there, and the worker was busy with others, or did not run at all.
    LoopLag,
    /// Waiting for a free connection of the pool.
    PoolPending,
    /// Waiting for an HTTP/2 stream, for its window, or for room in what its connection writes.
    StreamWait,
    /// Between two attempts.
    RetryBackoff,
    /// A delay that the configuration injects (fault filter).
    FaultDelay,
    /// TLS handshake with the client. Charge it to the first request of the connection only.
    DownstreamTls,
    /// TLS handshake with the endpoint. Charge it to the request that asked for the connection.
    UpstreamTls,
    /// Reading message heads and frames.
    Parse,
    /// Writing message heads and frames.
    Serialise,
    /// As `LoopLag`, while the worker took up a configuration.
    SwapStall,
    /// From the last byte of the request to the first of the response: the service, until it is split.
    AwaitResponse,
    /// Asleep in a state of work, so for something that has no name.
    Unattributed,
}

pub const STATES: usize = 23;

/// The states of a category stand together, and here is where each category's end: a row is the sum of a slice. A
/// look-up per state took 100 ns per request.
const STATES_END: [usize; CATEGORIES] = [6, 10, 16, 20, 21, 22, 23];

impl State {
    pub const ALL: [Self; STATES] = [
        Self::UpstreamConnect,
        Self::RequestBodyWait,
        Self::ResponseBodyWait,
        Self::UpstreamFlush,
        Self::DownstreamFlush,
        Self::RoundTrip,
        Self::Route,
        Self::Filters,
        Self::Pick,
        Self::Copy,
        Self::AcceptWait,
        Self::LoopLag,
        Self::PoolPending,
        Self::StreamWait,
        Self::RetryBackoff,
        Self::FaultDelay,
        Self::DownstreamTls,
        Self::UpstreamTls,
        Self::Parse,
        Self::Serialise,
        Self::SwapStall,
        Self::AwaitResponse,
        Self::Unattributed,
    ];

    pub fn category(self) -> Category {
        match self {
            Self::UpstreamConnect
            | Self::RequestBodyWait
            | Self::ResponseBodyWait
            | Self::UpstreamFlush
            | Self::DownstreamFlush
            | Self::RoundTrip => Category::Network,
            Self::Route | Self::Filters | Self::Pick | Self::Copy => Category::Processing,
            Self::AcceptWait
            | Self::LoopLag
            | Self::PoolPending
            | Self::StreamWait
            | Self::RetryBackoff
            | Self::FaultDelay => Category::Queueing,
            Self::DownstreamTls | Self::UpstreamTls | Self::Parse | Self::Serialise => Category::Protocol,
            Self::SwapStall => Category::Config,
            Self::AwaitResponse => Category::Service,
            Self::Unattributed => Category::Unattributed,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamConnect => "upstream_connect",
            Self::RequestBodyWait => "request_body_wait",
            Self::ResponseBodyWait => "response_body_wait",
            Self::UpstreamFlush => "upstream_flush",
            Self::DownstreamFlush => "downstream_flush",
            Self::RoundTrip => "round_trip",
            Self::Route => "route",
            Self::Filters => "filters",
            Self::Pick => "pick",
            Self::Copy => "copy",
            Self::AcceptWait => "accept_wait",
            Self::LoopLag => "loop_lag",
            Self::PoolPending => "pool_pending",
            Self::StreamWait => "stream_wait",
            Self::RetryBackoff => "retry_backoff",
            Self::FaultDelay => "fault_delay",
            Self::DownstreamTls => "downstream_tls",
            Self::UpstreamTls => "upstream_tls",
            Self::Parse => "parse",
            Self::Serialise => "serialise",
            Self::SwapStall => "swap_stall",
            Self::AwaitResponse => "service",
            Self::Unattributed => "unattributed",
        }
    }

    /// A state in which this request's task runs. In all others it waits for something.
    fn is_work(self) -> bool {
        matches!(self, Self::Route | Self::Filters | Self::Pick | Self::Copy | Self::Parse | Self::Serialise)
    }

    /// Which of two directions' states the request is in while both are under way: work before waiting, waiting on
    /// ourselves before waiting on a peer, and the response before the request, since it is what the client waits for.
    fn rank(self) -> u8 {
        match self.category() {
            Category::Processing | Category::Protocol => 6,
            Category::Config => 5,
            Category::Queueing => 4,
            Category::Network => match self {
                Self::DownstreamFlush | Self::ResponseBodyWait => 3,
                _ => 2,
            },
            Category::Service => 1,
            Category::Unattributed => 0,
        }
    }
}

/// One of the two streams of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Request,
    Response,
}

/// What lay unread for a time, in ticks: how much of it the worker took up a configuration, and the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    pub loop_lag: u64,
    pub swap: u64,
}

/// The running account of one request, in clock ticks.
#[derive(Clone, Debug)]
pub struct Ledger {
    buckets: [u64; STATES],
    /// What the peer's own report said of its part of the wait, in ticks.
    peer: [u64; CATEGORIES],
    since: Tick,
    state: State,
    directions: [State; 2],
    attempts: u8,
    /// `AwaitResponse` as it stood when the current attempt began: only its own wait may be split.
    await_before: u64,
    /// Everything before the current attempt.
    before_attempt: u64,
}

impl Ledger {
    /// Starts the account in `state`: `LoopLag` or `Parse` as a rule.
    #[inline]
    pub fn start(state: State, now: Tick) -> Self {
        Self {
            buckets: [0; STATES],
            peer: [0; CATEGORIES],
            since: now,
            state,
            directions: [State::Unattributed; 2],
            attempts: 0,
            await_before: 0,
            before_attempt: 0,
        }
    }

    /// Leaves the present state for another.
    #[inline]
    pub fn enter(&mut self, state: State, now: Tick) {
        self.buckets[self.state as usize] += now.since(self.since);
        // A reading that went backwards must not be counted a second time when the clock catches up.
        self.since = self.since.max(now);
        self.state = state;
    }

    /// The request's task slept until `at`. A state of work does not sleep: nobody said what it waited for.
    #[inline]
    pub fn woke(&mut self, at: Tick) {
        if at > self.since && self.state.is_work() {
            self.buckets[State::Unattributed as usize] += at.since(self.since);
            self.since = at;
        }
    }

    /// The state that time is running into.
    pub fn state(&self) -> State {
        self.state
    }

    /// Says what one direction is doing while both run at once; the ledger is in the more pressing of the two.
    /// Call `end_directions` when the exchange is back to one thing at a time.
    #[inline]
    pub fn enter_direction(&mut self, direction: Direction, state: State, now: Tick) {
        self.directions[direction as usize] = state;
        let [request, response] = self.directions;
        let next = if response.rank() >= request.rank() { response } else { request };
        if next != self.state {
            self.enter(next, now);
        }
    }

    /// Forgets both directions and goes on in `state`.
    pub fn end_directions(&mut self, state: State, now: Tick) {
        self.directions = [State::Unattributed; 2];
        self.enter(state, now);
    }

    /// Adds time that passed before the account began: the wait in the accept queue, a handshake. It lengthens the
    /// total. Give the connection's handshake to its first request only, or each later one would show it again.
    #[inline]
    pub fn charge(&mut self, state: State, ticks: u64) {
        self.buckets[state as usize] = self.buckets[state as usize].saturating_add(ticks);
    }

    /// As [`Self::charge`]: the request had lain there when it was read. `state` is `AcceptWait` or `LoopLag`.
    #[inline]
    pub fn charge_lag(&mut self, state: State, lag: Lag) {
        self.charge(state, lag.loop_lag);
        self.charge(State::SwapStall, lag.swap);
    }

    /// Moves time from one state to another, no more than there is: a connect that was measured elsewhere while this
    /// request was in `PoolPending`, say. The total stays. Says how much moved.
    pub fn reattribute(&mut self, from: State, to: State, ticks: u64) -> u64 {
        let moved = ticks.min(self.buckets[from as usize]);
        self.buckets[from as usize] -= moved;
        self.buckets[to as usize] += moved;
        moved
    }

    /// Begins an attempt. What earlier attempts spent stays in its states; their wait is not split any more.
    pub fn begin_attempt(&mut self, state: State, now: Tick) {
        self.enter(state, now);
        self.attempts = self.attempts.saturating_add(1);
        self.await_before = self.buckets[State::AwaitResponse as usize];
        self.before_attempt = self.total_ticks();
    }

    /// Takes out of this attempt's wait for the response how long it had lain there when it was read. Call it before what
    /// splits the rest, after leaving `AwaitResponse`.
    pub fn split_lag(&mut self, lag: Lag) {
        let wait = self.attempt_wait();
        let moved = self.reattribute(State::AwaitResponse, State::LoopLag, lag.loop_lag.min(wait));
        self.reattribute(State::AwaitResponse, State::SwapStall, lag.swap.min(wait - moved));
    }

    /// Takes the round trip out of this attempt's wait for the response: what is left is the service's.
    /// `ticks` is the connection's shortest round trip (TCP_INFO). Call it after leaving `AwaitResponse`.
    pub fn split_round_trip(&mut self, ticks: u64) {
        let wait = self.attempt_wait();
        self.reattribute(State::AwaitResponse, State::RoundTrip, ticks.min(wait));
    }

    /// Splits this attempt's wait by the report of the peer's sidecar: its parts go under its categories, and what it
    /// did not see is the network between. Durations are subtracted, clocks are never compared. A report longer than
    /// the wait (the peer began while the request was still being sent) is scaled down to it.
    /// Call it after leaving `AwaitResponse`.
    pub fn join_peer(&mut self, report: &HopReport, clock: &Clock) {
        let wait = self.attempt_wait();
        let reported = report.category_ns.map(|ns| clock.ticks(ns));
        let total = reported.iter().fold(0_u64, |sum, &part| sum.saturating_add(part));
        let mut taken = 0;
        for (mine, &part) in self.peer.iter_mut().zip(&reported) {
            let part = if total <= wait {
                part
            } else {
                // `total` is above `wait`, so it is not zero here.
                (u128::from(part) * u128::from(wait) / u128::from(total)) as u64
            };
            let part = part.min(wait - taken);
            *mine += part;
            taken += part;
        }
        self.buckets[State::AwaitResponse as usize] -= wait;
        self.buckets[State::RoundTrip as usize] += wait - taken;
    }

    fn attempt_wait(&self) -> u64 {
        self.buckets[State::AwaitResponse as usize].saturating_sub(self.await_before)
    }

    fn total_ticks(&self) -> u64 {
        self.buckets.iter().chain(&self.peer).fold(0, |sum, &part| sum.saturating_add(part))
    }

    /// The account up to now, for a header that is sent before the request ends. Time goes on in the same state.
    pub fn so_far(&mut self, now: Tick, clock: &Clock) -> Breakdown {
        self.enter(self.state, now);
        self.breakdown(clock)
    }

    /// Closes the account.
    pub fn finish(&mut self, now: Tick, clock: &Clock) -> Breakdown {
        self.enter(State::Unattributed, now);
        self.breakdown(clock)
    }

    fn breakdown(&self, clock: &Clock) -> Breakdown {
        Breakdown {
            state_ns: self.buckets.map(|ticks| clock.ns(ticks)),
            peer_ns: self.peer.map(|ticks| clock.ns(ticks)),
            attempts: self.attempts,
            before_last_attempt_ns: clock.ns(self.before_attempt),
        }
    }
}

/// A closed account, in nanoseconds. `state_ns` and `peer_ns` together are the total: there is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakdown {
    pub state_ns: [u64; STATES],
    /// What the peer's sidecar said of its part, by category.
    pub peer_ns: [u64; CATEGORIES],
    /// Attempts made; 0 where the request never went upstream.
    pub attempts: u8,
    /// How much of the total came before the last attempt. Not a part: it lies across the states.
    pub before_last_attempt_ns: u64,
}

impl Default for Breakdown {
    fn default() -> Self {
        Self { state_ns: [0; STATES], peer_ns: [0; CATEGORIES], attempts: 0, before_last_attempt_ns: 0 }
    }
}

impl Breakdown {
    /// Time of which nobody said what it was.
    pub fn unattributed(ns: u64) -> Self {
        let mut breakdown = Self::default();
        breakdown.state_ns[State::Unattributed as usize] = ns;
        breakdown
    }

    pub fn total_ns(&self) -> u64 {
        self.categories().iter().fold(0, |sum, &part| sum.saturating_add(part))
    }

    pub fn state(&self, state: State) -> u64 {
        self.state_ns[state as usize]
    }

    /// The ledger's seven rows, in the order of `Category::ALL`, the peer's part in them.
    pub fn categories(&self) -> [u64; CATEGORIES] {
        let mut rows = self.peer_ns;
        let mut from = 0;
        for (row, until) in rows.iter_mut().zip(STATES_END) {
            let own = self.state_ns[from..until].iter().fold(0_u64, |sum, &part| sum.wrapping_add(part));
            *row = row.saturating_add(own);
            from = until;
        }
        rows
    }

    /// The value of a `Server-Timing` field (W3C Server Timing, section 3): milliseconds with three decimals.
    /// Sent where the request carries `x-celerity-ledger`.
    pub fn write_server_timing(&self, out: &mut Vec<u8>) {
        use std::io::Write;
        for (category, ns) in Category::ALL.iter().zip(self.categories()) {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{};dur={}.{:03}, ", category.as_str(), ns / 1_000_000, ns / 1_000 % 1_000);
        }
        let total = self.total_ns();
        let _ = write!(out, "total;dur={}.{:03}", total / 1_000_000, total / 1_000 % 1_000);
    }
}

/// The request header that asks for `Server-Timing`.
pub const LEDGER_REQUEST_HEADER: &str = "x-celerity-ledger";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit() -> Clock {
        Clock::instant_only()
    }

    #[test]
    fn it_stays_as_small_as_it_says() {
        assert_eq!(size_of::<Ledger>(), 272);
    }

    #[test]
    fn every_state_stands_at_its_own_index() {
        for (at, state) in State::ALL.iter().enumerate() {
            assert_eq!(*state as usize, at);
        }
        let mut from = 0;
        for (at, category) in Category::ALL.iter().enumerate() {
            assert_eq!(*category as usize, at);
            assert!(State::ALL[from..STATES_END[at]].iter().all(|state| state.category() == *category));
            from = STATES_END[at];
        }
        assert_eq!(from, STATES);
    }

    #[test]
    fn time_goes_to_the_state_that_is_left() {
        let mut ledger = Ledger::start(State::Parse, Tick(100));
        ledger.enter(State::Route, Tick(110));
        ledger.enter(State::AwaitResponse, Tick(115));
        let closed = ledger.finish(Tick(215), &unit());
        assert_eq!(closed.state(State::Parse), 10);
        assert_eq!(closed.state(State::Route), 5);
        assert_eq!(closed.state(State::AwaitResponse), 100);
        assert_eq!(closed.total_ns(), 115);
    }

    #[test]
    fn the_peer_s_report_splits_the_wait_and_the_rest_is_network() {
        let mut ledger = Ledger::start(State::AwaitResponse, Tick(0));
        ledger.enter(State::Copy, Tick(1000));
        let mut report = HopReport::default();
        report.category_ns[Category::Service as usize] = 700;
        report.category_ns[Category::Processing as usize] = 50;
        ledger.join_peer(&report, &unit());
        let rows = ledger.finish(Tick(1010), &unit()).categories();
        assert_eq!(rows[Category::Network as usize], 250);
        assert_eq!(rows[Category::Service as usize], 700);
        assert_eq!(rows[Category::Processing as usize], 60);
    }

    #[test]
    fn only_the_last_attempt_s_wait_is_split() {
        let mut ledger = Ledger::start(State::Pick, Tick(0));
        ledger.begin_attempt(State::AwaitResponse, Tick(10));
        ledger.enter(State::RetryBackoff, Tick(110));
        ledger.begin_attempt(State::AwaitResponse, Tick(120));
        ledger.enter(State::Copy, Tick(150));
        ledger.split_round_trip(1_000);
        let closed = ledger.finish(Tick(150), &unit());
        assert_eq!(closed.state(State::AwaitResponse), 100);
        assert_eq!(closed.state(State::RoundTrip), 30);
        assert_eq!((closed.attempts, closed.before_last_attempt_ns), (2, 120));
    }

    #[test]
    fn what_lay_unread_is_neither_the_service_s_nor_the_network_s() {
        let mut ledger = Ledger::start(State::Parse, Tick(0));
        ledger.charge_lag(State::AcceptWait, Lag { loop_lag: 40, swap: 2 });
        ledger.begin_attempt(State::AwaitResponse, Tick(10));
        ledger.enter(State::Copy, Tick(110));
        ledger.split_lag(Lag { loop_lag: 60, swap: 5 });
        ledger.split_round_trip(10);
        let closed = ledger.finish(Tick(110), &unit());
        assert_eq!((closed.state(State::AcceptWait), closed.state(State::LoopLag)), (40, 60));
        assert_eq!((closed.state(State::SwapStall), closed.state(State::RoundTrip)), (7, 10));
        assert_eq!((closed.state(State::AwaitResponse), closed.total_ns()), (25, 152));
    }

    #[test]
    fn a_state_of_work_that_sleeps_is_unattributed() {
        let mut ledger = Ledger::start(State::Filters, Tick(0));
        ledger.woke(Tick(70));
        ledger.enter(State::PoolPending, Tick(80));
        ledger.woke(Tick(200));
        ledger.enter(State::Copy, Tick(210));
        let closed = ledger.finish(Tick(210), &unit());
        assert_eq!(closed.state(State::Unattributed), 70);
        assert_eq!((closed.state(State::Filters), closed.state(State::PoolPending)), (10, 130));
    }

    #[test]
    fn of_two_directions_the_more_pressing_counts() {
        let mut ledger = Ledger::start(State::Copy, Tick(0));
        ledger.enter_direction(Direction::Request, State::RequestBodyWait, Tick(0));
        ledger.enter_direction(Direction::Response, State::AwaitResponse, Tick(0));
        assert_eq!(ledger.state(), State::RequestBodyWait);
        ledger.enter_direction(Direction::Response, State::DownstreamFlush, Tick(5));
        assert_eq!(ledger.state(), State::DownstreamFlush);
        ledger.enter_direction(Direction::Request, State::Copy, Tick(9));
        assert_eq!(ledger.state(), State::Copy);
        ledger.end_directions(State::Serialise, Tick(10));
        assert_eq!(ledger.finish(Tick(10), &unit()).total_ns(), 10);
    }

    #[test]
    fn server_timing_names_every_row_and_the_total() {
        let mut ledger = Ledger::start(State::AwaitResponse, Tick(0));
        let mut out = Vec::new();
        ledger.finish(Tick(1_234_567), &unit()).write_server_timing(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("service;dur=1.234") && text.contains("unattributed;dur=0.000"), "{text}");
        assert!(text.ends_with("total;dur=1.234"), "{text}");
    }

    proptest! {
        /// Whatever is done to a ledger, in whatever order and with clocks that step back, the parts are the whole.
        #[test]
        fn the_parts_sum_to_the_whole(steps in proptest::collection::vec((0_usize..10, 0_usize..STATES, 0_u64..1 << 40), 0..64)) {
            let clock = unit();
            let mut ledger = Ledger::start(State::Unattributed, Tick(1 << 50));
            let mut latest = 1_u64 << 50;
            let mut charged = 0;
            for (what, state, amount) in steps {
                let state = State::ALL[state];
                match what {
                    0 | 1 => {
                        let now = if what == 0 { latest + amount } else { latest.saturating_sub(amount) };
                        latest = latest.max(now);
                        ledger.enter(state, Tick(now));
                    }
                    2 => {
                        ledger.charge(state, amount);
                        charged += amount;
                    }
                    3 => { ledger.reattribute(State::AwaitResponse, state, amount); }
                    4 => ledger.begin_attempt(state, Tick(latest)),
                    5 => ledger.split_round_trip(amount),
                    6 => ledger.split_lag(Lag { loop_lag: amount, swap: amount / 2 }),
                    7 => {
                        ledger.charge_lag(state, Lag { loop_lag: amount, swap: amount / 2 });
                        charged += amount + amount / 2;
                    }
                    8 => {
                        latest += amount;
                        ledger.woke(Tick(latest));
                    }
                    _ => ledger.join_peer(&HopReport { category_ns: [amount; CATEGORIES] }, &clock),
                }
            }
            let closed = ledger.finish(Tick(latest), &clock);
            prop_assert_eq!(closed.total_ns(), latest - (1 << 50) + charged);
            prop_assert_eq!(closed.categories().iter().sum::<u64>(), closed.total_ns());
        }
    }
}
