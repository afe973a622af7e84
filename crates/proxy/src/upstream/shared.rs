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
use std::sync::{Arc, Mutex, PoisonError};
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
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < limit).then_some(used + 1)).is_ok()
    }

    pub fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
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
    /// Requests, in any worker, that wait because the connection limit is reached.
    pub starving: AtomicU32,
    /// Wakes one worker with starving requests when a connection is closed or given.
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
            starving: AtomicU32::new(0),
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

    pub fn someone_starves(&self) -> bool {
        self.starving.load(Ordering::Acquire) > 0
    }

    /// The right to hold one connection open. `None`: the limit is reached.
    pub fn connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.connections.try_take().then(|| ConnectionPermit { shared: Some(self.clone()) })
    }

    /// Gives an idle connection away. Its permit goes with it. `false`: the queue is full.
    pub fn donate(&self, donation: Donation, permit: ConnectionPermit) -> bool {
        let mut donations = self.donations.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Takes a donation, rather one to an endpoint that is wanted. One that nobody here wants is for closing: that
    /// frees its permit.
    pub fn take_donation(self: &Arc<Self>, wanted: impl Fn(u64) -> bool) -> Option<(Donation, ConnectionPermit)> {
        let mut donations = self.donations.lock().unwrap_or_else(PoisonError::into_inner);
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
}
