//! One HTTP/2 connection of a pool, and when it ends.
//!
//! ```text
//!            lease                    it is spent, its endpoint is gone, or its turn is over while others starve
//!   idle <----------> in use -------------------------------+
//!     |                 ^                                   v
//!     |                 +--- its streams outlast it --- draining: no more leases
//!     |                      (a turn only)                  |
//!     | idle for too long, spent, or others starve          | the last stream or lease ends
//!     +---------------------> GOAWAY, FIN <-----------------+
//!                                  |
//!                          the unit of the limit is free
//! ```
//!
//! GOAWAY goes out when nothing is in use, never before: a stream that was promised would be refused. The unit of the
//! connection limit belongs to the task that drives the connection, so it is free when our end is closed, whoever ended it.

use super::cluster::Bytes;
use super::connect::{Plan, Setup};
use super::endpoint::{H2Lease, Lease};
use super::shared::{ConnectionPermit, Shed, Yield};
use crate::h2;
use crate::tls::Peer;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a connection that is never idle keeps its unit of the limit while others starve for one. The next needs a
/// handshake, some milliseconds: a turn this long spends little of its time on that, and of four workers that share one
/// connection each waits a third of a second at most.
const TURN: Duration = Duration::from_millis(100);

/// How long a connection whose turn is over waits for its last stream. Streams that outlast it (a watch, a long download)
/// would keep everybody waiting, this worker's requests too: it goes on serving instead, until it is idle.
const YIELD_MAX: Duration = Duration::from_secs(1);

pub(super) struct H2Conn {
    client: h2::Client,
    /// Leases that have not become streams yet: one room must not be promised twice.
    leased: Rc<Cell<u32>>,
    peer: Option<Rc<Peer>>,
    opened: Instant,
    local: Option<SocketAddr>,
    idle_since: Cell<Option<Instant>>,
    requests: Cell<u64>,
    plan: Rc<Plan>,
    told: Cell<Bytes>,
    turn: RefCell<Turn>,
    leaving: Rc<Leaving>,
}

enum Turn {
    Since(Instant),
    Yields(Instant, #[expect(dead_code, reason = "held for its drop")] Yield),
    /// Its streams last too long for turns.
    Kept,
}

/// Since when a connection leaves because there are too many.
#[derive(Default)]
pub(super) struct Leaving(RefCell<Option<(Instant, Shed)>>);

/// What the task that drives a connection holds until our end is closed.
pub(super) struct Held {
    permit: Option<ConnectionPermit>,
    leaving: Rc<Leaving>,
}

impl Held {
    pub(super) fn new(permit: ConnectionPermit, leaving: Rc<Leaving>) -> Self {
        Self { permit: Some(permit), leaving }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The unit is free before another connection may leave for it.
        drop(self.permit.take());
        *self.leaving.0.borrow_mut() = None;
    }
}

/// A stream that was promised.
pub struct Reserved(Rc<Cell<u32>>);

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl H2Conn {
    pub(super) fn new(
        client: h2::Client,
        peer: Option<Rc<Peer>>,
        (opened, local): (Instant, Option<SocketAddr>),
        plan: Rc<Plan>,
        leaving: Rc<Leaving>,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            leased: Rc::default(),
            peer,
            opened,
            local,
            idle_since: Cell::new(Some(now)),
            requests: Cell::new(0),
            plan,
            told: Cell::default(),
            turn: RefCell::new(Turn::Since(now)),
            leaving,
        }
    }

    /// A stream for one request. [`Self::has_room`] was asked.
    pub(super) fn lease(&self, setup: Option<Setup>) -> Lease {
        self.requests.set(self.requests.get() + 1);
        self.idle_since.set(None);
        self.leased.set(self.leased.get() + 1);
        let reserved = Reserved(self.leased.clone());
        Lease::H2(H2Lease { client: self.client.clone(), reserved, peer: self.peer.clone(), setup, local: self.local })
    }

    pub(super) fn has_room(&self) -> bool {
        let leased = self.leased.get() as usize;
        self.client.available_streams() > leased
            && self.in_use() < self.plan.streams_per_connection() as usize
            && !self.is_draining()
    }

    /// It is one too many: takes no new streams, and ends with its last one.
    pub(super) fn leave(&self, shed: Shed) {
        *self.leaving.0.borrow_mut() = Some((Instant::now(), shed));
    }

    /// Its connection is there, though it may take no streams.
    pub(super) fn is_open(&self) -> bool {
        self.client.is_open()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.0.borrow().is_some()
    }

    pub(super) fn in_use(&self) -> usize {
        self.client.active() + self.leased.get() as usize
    }

    fn is_draining(&self) -> bool {
        self.plan.max_requests.is_some_and(|most| self.requests.get() >= u64::from(most))
            || self.plan.max_duration.is_some_and(|most| self.opened.elapsed() >= most)
            || matches!(*self.turn.borrow(), Turn::Yields(..))
            || self.is_leaving()
    }

    /// Whether the connection has had its turn, of those that count turns.
    pub(super) fn turn_is_over(&self, now: Instant) -> bool {
        matches!(*self.turn.borrow(), Turn::Since(since) if now.saturating_duration_since(since) >= TURN)
    }

    /// After a turn: the next one where nobody starves, else its end.
    pub(super) fn next_turn(&self, now: Instant, yields: Option<Yield>) {
        *self.turn.borrow_mut() = yields.map_or(Turn::Since(now), |leave| Turn::Yields(now, leave));
    }

    /// Closes it if nothing is in use and it is to end anyway, or `must_end`. `true`: it has ended, by whatever means.
    pub(super) fn end_if_done(&self, must_end: bool) -> bool {
        if self.in_use() > 0 {
            return false;
        }
        if (must_end || self.is_draining()) && self.client.is_open() {
            self.client.shutdown();
        }
        !self.client.is_open()
    }

    /// Once in a while. `true`: it has ended. `hungry`: requests wait for a stream.
    pub(super) fn sweep(&self, now: Instant, hungry: bool) -> bool {
        self.tell_bytes();
        if self.in_use() > 0 {
            let outlasted = matches!(*self.turn.borrow(), Turn::Yields(since, _) if now.saturating_duration_since(since) >= YIELD_MAX);
            if outlasted {
                *self.turn.borrow_mut() = Turn::Kept;
            }
            // As with turns: streams that outlast it must not keep everybody waiting. Where nobody waits, others serve.
            let mut leaving = self.leaving.0.borrow_mut();
            if hungry && leaving.as_ref().is_some_and(|(since, _)| now.saturating_duration_since(*since) >= YIELD_MAX) {
                *leaving = None;
            }
            return false;
        }
        let since = self.idle_since.get().unwrap_or(now);
        self.idle_since.set(Some(since));
        self.end_if_done(self.plan.idle_timeout.is_some_and(|most| now.saturating_duration_since(since) >= most))
    }

    /// Once in a while: the connection's own task counts, not its streams. What the last streams carry after the connection
    /// has left the pool is not told.
    fn tell_bytes(&self) {
        let (received, sent) = self.client.carried_bytes();
        let mut told = self.told.get();
        self.plan.bytes.tell(&mut told, Bytes { received, sent });
        self.told.set(told);
    }
}

impl Drop for H2Conn {
    fn drop(&mut self) {
        self.tell_bytes();
    }
}
