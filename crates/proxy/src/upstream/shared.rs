//! What the workers share of a cluster: exact limits, and connections that one worker has and another needs.
//!
//! Circuit breakers hold per proxy, so they are atomics and not per-worker cells. They are touched when a connection
//! opens or closes, and per request only where the configuration sets a limit on requests: without one, nothing on the
//! request path leaves the worker's own cache lines.

use crate::net::Io;
use crate::outlier::ClusterHealth;
use celerity_model::snapshot::Limits;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Connections on their way from one worker to another. More than this and the giver closes instead.
const DONATIONS_MAX: usize = 64;

/// One limit and how much of it is used.
#[derive(Debug)]
pub struct Gate {
    used: AtomicU32,
    limit: AtomicU32,
}

impl Gate {
    pub fn new(limit: u32) -> Self {
        Self { used: AtomicU32::new(0), limit: AtomicU32::new(limit) }
    }

    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes one unit if the limit allows it. Exact: the count never passes the limit, whichever workers race.
    pub fn try_take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |used| (used < limit).then_some(used + 1)).is_ok()
    }

    /// In one order with the line of who waits: giving back and then looking whether somebody waits must not miss who has
    /// come to wait and then found nothing.
    pub fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn has_room(&self) -> bool {
        self.used() < self.limit()
    }

    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// `u32::MAX` is Envoy's way to say that there is no limit.
    pub fn is_unlimited(&self) -> bool {
        self.limit() == u32::MAX
    }
}

/// Events of a cluster that are too rare to be worth a cell per worker.
#[derive(Debug, Default)]
pub struct RareEvents {
    pub connections: AtomicU64,
    pub connection_overflows: AtomicU64,
    pub connect_failures: AtomicU64,
    pub connect_timeouts: AtomicU64,
    pub pending: AtomicU64,
    pub pending_overflows: AtomicU64,
    pub request_overflows: AtomicU64,
    pub retries: AtomicU64,
    pub retry_overflows: AtomicU64,
    pub retry_successes: AtomicU64,
    /// Requests whose bodies could not be kept for a retry or a mirror.
    pub bodies_given_up: AtomicU64,
    pub request_timeouts: AtomicU64,
    pub per_try_timeouts: AtomicU64,
    pub no_healthy_upstream: AtomicU64,
    pub donated: AtomicU64,
}

impl RareEvents {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that is idle in one worker and wanted in another.
#[derive(Debug)]
pub struct Donation {
    pub endpoint: u64,
    pub stream: std::net::TcpStream,
    pub requests: u64,
    pub opened: Instant,
}

/// Takes a stream off this worker's reactor. `None`: it is TLS, whose session stays with its reactor's wrapper, and is
/// closed instead: the other worker opens its own, resumed.
pub fn off_reactor(io: Io) -> Option<std::net::TcpStream> {
    match io {
        Io::Tcp(stream) => stream.into_tcp().into_std().ok(),
        Io::TlsClient(_) | Io::TlsServer(_) => None,
    }
}

/// What all workers know of one cluster. It belongs to the proxy, not to a snapshot: a swap that keeps the cluster
/// keeps it.
#[derive(Debug)]
pub struct ClusterShared {
    pub name: Arc<str>,
    pub connections: Gate,
    pub pending: Gate,
    pub requests: Gate,
    pub retries: Gate,
    pub events: RareEvents,
    pub health: ClusterHealth,
    /// Connections beyond a limit that was lowered, on their way out.
    leaving: AtomicU32,
    /// Workers with requests that wait because the connection limit is reached.
    starving: AtomicU32,
    /// Connections that take no new streams so that those workers get their units.
    yielding: AtomicU32,
    /// The line of those workers: wakes its head when a connection is closed or given.
    pub freed: Notify,
    donations: Mutex<VecDeque<Donation>>,
}

impl ClusterShared {
    pub fn new(name: Arc<str>, limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            name,
            connections: Gate::new(limits.max_connections),
            pending: Gate::new(limits.max_pending_requests),
            requests: Gate::new(limits.max_requests),
            retries: Gate::new(limits.max_retries),
            events: RareEvents::default(),
            health: ClusterHealth::new(Instant::now()),
            leaving: AtomicU32::new(0),
            starving: AtomicU32::new(0),
            yielding: AtomicU32::new(0),
            freed: Notify::new(),
            donations: Mutex::default(),
        })
    }

    pub fn set_limits(&self, limits: &Limits) {
        self.connections.set_limit(limits.max_connections);
        self.pending.set_limit(limits.max_pending_requests);
        self.requests.set_limit(limits.max_requests);
        self.retries.set_limit(limits.max_retries);
        self.freed.notify_waiters();
    }

    /// One unit for a retry: under `max_retries`, or under the budget where there is one (Envoy `RetryBudget`). The
    /// budget is a share of the requests in flight.
    pub fn try_take_retry(&self, limits: &Limits) -> bool {
        if let Some(budget) = limits.retry_budget {
            let in_flight = self.requests.used();
            let allowed = (f64::from(in_flight) * budget.percent / 100.0) as u32;
            self.retries.set_limit(allowed.max(budget.min_concurrency));
        }
        self.retries.try_take()
    }

    pub fn starving(&self) -> u32 {
        self.starving.load(Ordering::SeqCst)
    }

    pub fn someone_starves(&self) -> bool {
        self.starving() > 0
    }

    /// A worker starts to starve. `true`: no other one stood in line, so that nobody but it looks at what was freed before.
    pub fn join_line(&self) -> bool {
        self.starving.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// A worker's requests are all served. What woke it may serve the next.
    pub fn leave_line(&self) {
        if self.starving.fetch_sub(1, Ordering::SeqCst) > 1 {
            self.freed.notify_one();
        }
    }

    /// The head of the line has taken what it takes at once: what is left is for the next.
    pub fn pass_on(&self) {
        if self.connections.has_room() || !self.donations().is_empty() {
            self.freed.notify_one();
        }
    }

    /// The right to hold one connection open, for a request that has just come. `None`: the limit is reached, or others
    /// stand in line for it.
    pub fn connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        if self.someone_starves() { None } else { self.connection_of_line() }
    }

    /// The same for the head of the line.
    pub fn connection_of_line(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.connections.try_take().then(|| ConnectionPermit { shared: Some(self.clone()) })
    }

    /// Stands in the line for one connection, for who has no pool to stand there. Dropping the future leaves it.
    pub async fn next_connection(self: &Arc<Self>) -> ConnectionPermit {
        let _place = PlaceInLine(self);
        let mut my_turn = self.join_line();
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if std::mem::replace(&mut my_turn, true)
                && let Some(permit) = self.connection_of_line()
            {
                return permit;
            }
            freed.await;
        }
    }

    /// Makes a connection leave if there are more than the limit allows: it may have been lowered. Never more of them than are too
    /// many, whichever workers race.
    pub fn try_shed(self: &Arc<Self>) -> Option<Shed> {
        let surplus = || self.connections.used().saturating_sub(self.connections.limit());
        if surplus() == 0 {
            return None;
        }
        let shed = Shed(self.clone());
        let leaving = self.leaving.fetch_add(1, Ordering::AcqRel) + 1;
        // Looked at after it was counted: others may have left meanwhile.
        (leaving <= surplus()).then_some(shed)
    }

    /// Leave for one busy connection to end its turn. No more yield than workers starve: each costs a handshake.
    pub fn try_yield(self: &Arc<Self>) -> Option<Yield> {
        let most = self.starving();
        let more = |yielding| (yielding < most).then_some(yielding + 1);
        let took = self.yielding.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok();
        took.then(|| Yield(self.clone()))
    }

    fn donations(&self) -> MutexGuard<'_, VecDeque<Donation>> {
        self.donations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an idle connection away. Its permit goes with it. `false`: the queue is full.
    pub fn donate(&self, donation: Donation, permit: ConnectionPermit) -> bool {
        let mut donations = self.donations();
        if donations.len() >= DONATIONS_MAX {
            return false;
        }
        // The unit stays taken: whoever takes the donation takes over the permit.
        permit.detach();
        donations.push_back(donation);
        drop(donations);
        RareEvents::add(&self.events.donated);
        self.freed.notify_one();
        true
    }

    /// Takes a donation, rather one to an endpoint that is wanted. Of one that nobody here wants the permit is of use.
    pub fn take_donation(self: &Arc<Self>, wanted: impl Fn(u64) -> bool) -> Option<(Donation, ConnectionPermit)> {
        let mut donations = self.donations();
        let at = donations.iter().position(|donation| wanted(donation.endpoint)).unwrap_or(0);
        let donation = donations.remove(at)?;
        Some((donation, ConnectionPermit { shared: Some(self.clone()) }))
    }
}

/// One unit of the connection limit. Dropped with the connection.
#[derive(Debug)]
pub struct ConnectionPermit {
    shared: Option<Arc<ClusterShared>>,
}

impl ConnectionPermit {
    /// Lets go of the permit without giving its unit back.
    fn detach(mut self) {
        self.shared = None;
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.connections.give_back();
            if shared.someone_starves() {
                shared.freed.notify_one();
            }
        }
    }
}

struct PlaceInLine<'a>(&'a ClusterShared);

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        self.0.leave_line();
    }
}

/// One connection that yields its turn. Dropped with it.
#[derive(Debug)]
pub struct Yield(Arc<ClusterShared>);

/// A connection that leaves because there are too many. Dropped when its unit of the limit is free.
#[derive(Debug)]
pub struct Shed(Arc<ClusterShared>);

impl Drop for Shed {
    fn drop(&mut self) {
        self.0.leaving.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Yield {
    fn drop(&mut self) {
        self.0.yielding.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_exact_whoever_races() {
        let gate = Gate::new(100);
        let taken: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| gate.try_take()).count() as u32)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((taken, gate.used()), (100, 100));
    }

    #[test]
    fn a_permit_comes_back_when_its_connection_goes() {
        let limits = Limits { max_connections: 1, ..Limits::default() };
        let shared = ClusterShared::new("c".into(), &limits);
        let permit = shared.connection().unwrap();
        assert!(shared.connection().is_none());
        drop(permit);
        assert!(shared.connection().is_some());
    }

    #[test]
    fn nobody_overtakes_the_line() {
        let limits = Limits { max_connections: 1, ..Limits::default() };
        let shared = ClusterShared::new("c".into(), &limits);
        assert!(shared.join_line() && !shared.join_line());
        assert!(shared.connection().is_none());
        let permit = shared.connection_of_line().unwrap();
        assert!(shared.connection_of_line().is_none());
        shared.leave_line();
        drop(permit);
        assert!(shared.connection().is_none());
        shared.leave_line();
        assert!(shared.connection().is_some());
    }

    #[test]
    fn as_many_connections_leave_as_are_too_many() {
        let shared = ClusterShared::new("c".into(), &Limits { max_connections: 4, ..Limits::default() });
        let mut held: Vec<_> = (0..4).map(|_| shared.connection().unwrap()).collect();
        assert!(shared.try_shed().is_none());
        shared.set_limits(&Limits { max_connections: 2, ..Limits::default() });
        let first = shared.try_shed().unwrap();
        let second = shared.try_shed().unwrap();
        assert!(shared.try_shed().is_none());
        // One changes its mind, one has gone.
        drop(second);
        drop(held.pop());
        drop(first);
        assert!(shared.try_shed().is_some());
        drop(held.pop());
        assert!(shared.try_shed().is_none());
    }

    #[test]
    fn no_more_connections_yield_than_workers_starve() {
        let shared = ClusterShared::new("c".into(), &Limits::default());
        assert!(shared.try_yield().is_none());
        shared.join_line();
        let first = shared.try_yield().unwrap();
        assert!(shared.try_yield().is_none());
        drop(first);
        assert!(shared.try_yield().is_some());
    }
}
