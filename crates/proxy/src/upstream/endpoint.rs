//! One worker's connections to one endpoint, and the requests that wait for one.
//!
//! A request that finds no connection queues here; connections are made by tasks of their own and handed to whoever
//! has waited longest, so a connection freed in the meantime serves the request first and a request that is given up
//! costs no connection.
//!
//! ```text
//!   acquire -- idle connection, or room on an HTTP/2 one ------------------------------> lease
//!      |                                                                                   ^
//!      +--- wait ---- permit ----> connect task --------------------------------- hand ----+
//!              +----- none: starve until a connection is freed, given or closed --- hand --+
//! ```
//!
//! How workers and endpoints share the limit is `starvation`'s, the states of an HTTP/2 connection are `multiplexed`'s.

use super::cluster::Bytes;
use super::connect::{self, Setup};
use super::multiplexed::{H2Conn, Held, Leaving, Reserved};
use super::shared::{ClusterShared, ConnectionPermit, RareEvents};
use crate::h1::ClientConn;
use crate::h2;
use crate::http::{HeaderId, Headers};
use crate::net::tcp_info;
use crate::tls::Peer;
use crate::worker::ProxyShared;
use celerity_model::snapshot::{Cluster, Endpoint};
use celerity_telemetry::introduction::INTRODUCTION_HEADER;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Idle connections that one worker keeps to one endpoint. Past it a connection is closed when it is done.
const IDLE_MAX: usize = 1024;

/// Connections that one worker opens to one endpoint at once: a burst must not become a SYN flood.
const CONNECTING_MAX: u32 = 128;

/// While requests starve for the connection limit, one release of so many goes to whichever worker asks first. Each
/// costs two calls to move the socket; fewer would let the tail of the other workers grow.
const GIVE_ONE_IN: u32 = 8;

/// Why there is no connection for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcquireError {
    #[error("the cluster's pending requests are at their limit")]
    PendingOverflow,
    #[error("connecting to {address}: {reason}")]
    Connect { address: SocketAddr, reason: Arc<str>, timed_out: bool, tls: bool },
    #[error("the endpoint {0} has left the configuration")]
    Gone(SocketAddr),
}

/// The right to send one request.
pub enum Lease {
    H1(Box<H1Lease>),
    H2(H2Lease),
}

#[derive(Debug)]
pub struct H1Lease {
    pub conn: ClientConn,
    pub opened: Instant,
    pub permit: ConnectionPermit,
    pub peer: Option<Rc<Peer>>,
    /// What opening the connection took; given to the first request only.
    pub setup: Option<Setup>,
    /// What the cluster's series know of already.
    pub told: Bytes,
    /// Our end's address.
    pub local: Option<SocketAddr>,
    /// Opened for one request beside the pool, which may speak another version: it ends with it.
    pub own: bool,
}

pub struct H2Lease {
    pub client: h2::Client,
    /// Counts as a stream until the request has started one.
    pub reserved: Reserved,
    pub peer: Option<Rc<Peer>>,
    pub setup: Option<Setup>,
    pub local: Option<SocketAddr>,
}

impl Lease {
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// The address of our end of the connection.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::H1(lease) => lease.local,
            Self::H2(lease) => lease.local,
        }
    }

    pub fn setup(&mut self) -> Option<Setup> {
        match self {
            Self::H1(lease) => lease.setup.take(),
            Self::H2(lease) => lease.setup.take(),
        }
    }

    pub fn peer(&self) -> Option<&Rc<Peer>> {
        match self {
            Self::H1(lease) => lease.peer.as_ref(),
            Self::H2(lease) => lease.peer.as_ref(),
        }
    }

    fn is_first(&self) -> bool {
        match self {
            Self::H1(lease) => lease.conn.requests == 0,
            Self::H2(lease) => !lease.client.is_used(),
        }
    }

    /// Whether the connection has carried a request before and the kernel knows of its end by now. A system call: for a
    /// request that could not be sent again. The driver of an HTTP/2 connection looks itself before it asks on one that was idle.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::H1(lease) => lease.conn.requests > 0 && !tcp_info::is_silent(lease.conn.wire.io().tcp()),
            Self::H2(_) => false,
        }
    }
}

#[derive(Debug)]
struct IdleConn {
    lease: Box<H1Lease>,
    since: Instant,
}

enum Slot {
    Waiting(Option<Waker>),
    Ready(Result<Lease, AcquireError>),
    Taken,
}

type Waiter = Rc<RefCell<Slot>>;

/// What a connection to this endpoint speaks, once one is known: asked anew only when the pool is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Unknown,
    Http1,
    Http2,
}

pub struct EndpointPool {
    pub address: SocketAddr,
    pub identity: u64,
    /// Everything about the cluster that a connection depends on.
    pub plan: Rc<connect::Plan>,
    pub shared: Arc<ClusterShared>,
    idle: RefCell<Vec<IdleConn>>,
    h2: RefCell<Vec<H2Conn>>,
    waiters: RefCell<VecDeque<Waiter>>,
    connecting: Cell<u32>,
    speaks: Cell<Speaks>,
    /// On an HTTP/2 connection, as the server said last.
    streams_allowed: Cell<Option<u32>>,
    /// Requests in flight from this worker: what LEAST_REQUEST compares.
    pub active: Cell<u32>,
    gone: Cell<bool>,
    turn: Cell<u32>,
    principal: RefCell<Option<Arc<str>>>,
    /// Requests since the start, and the round trip that was sampled last, in microseconds.
    pub(super) round_trip: Cell<(u32, u32)>,
}

impl EndpointPool {
    /// Whether a workload of the mesh is at the other end: mutual TLS, checked, with a SPIFFE id.
    pub fn is_mesh(&self, lease: &Lease) -> bool {
        self.plan.is_mutual && lease.peer().is_some_and(|peer| peer.spiffe.is_some())
    }

    /// Introduces this workload with the first request of a connection to another one of the mesh.
    pub fn introduce(&self, lease: &Lease, shared: &ProxyShared, headers: &mut Headers) {
        headers.remove_id(HeaderId::XCelerityPeer);
        if let Some(introduction) = shared.introduction.as_deref()
            && lease.is_first()
            && self.is_mesh(lease)
        {
            headers.push_lower(INTRODUCTION_HEADER.as_bytes(), HeaderId::XCelerityPeer, introduction);
        }
    }

    /// Who answers here, as its certificate said. `None`: nobody has yet, or it has none.
    pub fn principal(&self) -> Option<Arc<str>> {
        self.principal.borrow().clone()
    }

    pub fn new(
        address: SocketAddr,
        endpoint: &Endpoint,
        plan: Rc<connect::Plan>,
        shared: Arc<ClusterShared>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            identity: endpoint.identity,
            plan,
            shared,
            idle: RefCell::default(),
            h2: RefCell::default(),
            waiters: RefCell::default(),
            connecting: Cell::new(0),
            speaks: Cell::new(Speaks::Unknown),
            streams_allowed: Cell::new(None),
            active: Cell::new(0),
            gone: Cell::new(false),
            turn: Cell::new(0),
            principal: RefCell::default(),
            round_trip: Cell::new((0, 0)),
        })
    }

    /// A connection that is there now, without waiting.
    pub fn try_acquire(&self) -> Option<Lease> {
        if self.gone.get() {
            return None;
        }
        if let Some(lease) = self.h2_lease(&mut None) {
            return Some(lease);
        }
        loop {
            // The one used last is the least likely to have been closed by the peer.
            let mut idle = self.idle.borrow_mut().pop()?;
            if self.is_usable(&mut idle) {
                return Some(Lease::H1(idle.lease));
            }
        }
    }

    fn is_usable(&self, idle: &mut IdleConn) -> bool {
        let fresh = self.plan.max_duration.is_none_or(|most| idle.lease.opened.elapsed() < most);
        fresh && peer_is_silent(&mut idle.lease.conn)
    }

    fn h2_lease(&self, setup: &mut Option<Setup>) -> Option<Lease> {
        let conns = self.h2.borrow();
        let conn = match conns.as_slice() {
            [] => return None,
            [one] => Some(one).filter(|conn| conn.has_room())?,
            // Streams are balanced over the connections, so that no one connection is the bottleneck.
            several => several.iter().filter(|conn| conn.has_room()).min_by_key(|conn| conn.in_use())?,
        };
        Some(conn.lease(setup.take()))
    }

    /// A connection for one request; waits for one where there is none. Dropping the future gives the place up.
    pub async fn acquire(self: &Rc<Self>) -> Result<Lease, AcquireError> {
        if let Some(lease) = self.try_acquire() {
            return Ok(lease);
        }
        if self.gone.get() {
            return Err(AcquireError::Gone(self.address));
        }
        if !self.shared.pending.try_take() {
            RareEvents::add(&self.shared.events.pending_overflows);
            return Err(AcquireError::PendingOverflow);
        }
        RareEvents::add(&self.shared.events.pending);
        let place = Place { pool: self, waiter: Rc::new(RefCell::new(Slot::Waiting(None))) };
        self.waiters.borrow_mut().push_back(place.waiter.clone());
        self.open_what_is_wanted();
        poll_fn(|cx| place.poll(cx)).await
    }

    /// A new connection that speaks HTTP/1.1 although others of the pool may not: for a switch of protocols. It waits in
    /// no queue, since what the pool opens need not be of use to it; at the connection limit it is refused, as Envoy's
    /// circuit breaker does.
    pub async fn open_http1(self: &Rc<Self>) -> Result<Lease, AcquireError> {
        if self.gone.get() {
            return Err(AcquireError::Gone(self.address));
        }
        let mut permit = self.shared.connection();
        if permit.is_none() {
            RareEvents::add(&self.shared.events.connection_overflows);
            if self.close_one_idle() {
                permit = tokio::time::timeout(self.plan.connect_timeout, self.shared.next_connection()).await.ok();
            }
        }
        let Some(permit) = permit else {
            RareEvents::add(&self.shared.events.pending_overflows);
            return Err(AcquireError::PendingOverflow);
        };
        RareEvents::add(&self.shared.events.connections);
        match connect::open(&self.plan, self.address, true).await {
            Ok(connect::Connected::H1 { conn, peer, setup, opened, local }) => {
                let lease =
                    H1Lease { conn: *conn, opened, permit, peer, setup, told: Bytes::default(), local, own: true };
                Ok(Lease::H1(Box::new(lease)))
            }
            Ok(connect::Connected::H2 { .. }) => {
                let reason = Arc::from("it insists on HTTP/2, which can't switch to WebSocket");
                Err(AcquireError::Connect { address: self.address, reason, timed_out: false, tls: true })
            }
            Err(error) => {
                RareEvents::add(&self.shared.events.connect_failures);
                if matches!(error, AcquireError::Connect { timed_out: true, .. }) {
                    RareEvents::add(&self.shared.events.connect_timeouts);
                }
                Err(error)
            }
        }
    }

    /// Starts connections for the requests that wait and have none under way.
    pub fn open_what_is_wanted(self: &Rc<Self>) {
        self.forget_abandoned();
        while self.wants_connection() {
            match self.shared.connection() {
                Some(permit) => self.open(permit),
                None => {
                    RareEvents::add(&self.shared.events.connection_overflows);
                    // Only who makes one more connection necessary asks for one.
                    let waiting = self.waiters.borrow().len() as u32;
                    let asks = waiting.saturating_sub(1).is_multiple_of(self.shared_by());
                    return self.plan.starvation.starve(self.identity, asks);
                }
            }
        }
    }

    /// Whether requests that were not given up wait for a connection that is not under way.
    pub fn is_hungry(&self) -> bool {
        self.forget_abandoned();
        self.wants_connection()
    }

    fn wants_connection(&self) -> bool {
        let waiting = self.waiters.borrow().len() as u32;
        let connecting = self.connecting.get();
        let enough = waiting.div_ceil(self.shared_by());
        connecting < enough.min(CONNECTING_MAX) && !self.gone.get()
    }

    /// Requests that one new connection serves at once. One HTTP/2 connection serves them all, as far as its streams go; one
    /// that turns out to be HTTP/1.1 is followed by the others.
    fn shared_by(&self) -> u32 {
        match self.speaks.get() {
            Speaks::Http2 | Speaks::Unknown if self.plan.may_be_http2() => {
                self.plan.streams_per_connection().min(self.streams_allowed.get().unwrap_or(u32::MAX).max(1))
            }
            _ => 1,
        }
    }

    pub fn open(self: &Rc<Self>, permit: ConnectionPermit) {
        self.connecting.set(self.connecting.get() + 1);
        RareEvents::add(&self.shared.events.connections);
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let opened = connect::open(&pool.plan, pool.address, false).await;
            pool.connecting.set(pool.connecting.get() - 1);
            match opened {
                Ok(connected) => pool.take_in(connected, permit),
                Err(error) => {
                    drop(permit);
                    let events = &pool.shared.events;
                    RareEvents::add(&events.connect_failures);
                    if matches!(error, AcquireError::Connect { timed_out: true, .. }) {
                        RareEvents::add(&events.connect_timeouts);
                    }
                    // Those that were to share the connection have no other one under way either.
                    for _ in 0..pool.shared_by() {
                        pool.hand_error(error.clone());
                    }
                }
            }
            pool.open_what_is_wanted();
        });
    }

    /// Takes a connection that was just made, or given by another worker.
    pub fn take_in(self: &Rc<Self>, connected: connect::Connected, permit: ConnectionPermit) {
        if let connect::Connected::H1 { peer: Some(peer), .. } | connect::Connected::H2 { peer: Some(peer), .. } =
            &connected
            && self.plan.is_mutual
        {
            self.principal.borrow_mut().clone_from(&peer.spiffe);
        }
        match connected {
            connect::Connected::H1 { conn, peer, setup, opened, local } => {
                self.speaks.set(Speaks::Http1);
                let told = Bytes::default();
                self.release(Box::new(H1Lease { conn: *conn, opened, permit, peer, setup, told, local, own: false }));
            }
            connect::Connected::H2 { connection, client, peer, mut setup, opened, local } => {
                self.speaks.set(Speaks::Http2);
                // Those that wait are sent before the server says how many it takes: most likely as many as on the last
                // connection.
                if let Some(most) = self.streams_allowed.get() {
                    client.assume_streams(most.max(1));
                }
                let pool = Rc::downgrade(self);
                client.on_settings(move |most| {
                    let pool = pool.clone();
                    // The connection is being read: it must not be asked for streams now.
                    tokio::task::spawn_local(async move {
                        if let Some(pool) = pool.upgrade() {
                            pool.streams_allowed.set(Some(most));
                            pool.stream_ended();
                            pool.open_what_is_wanted();
                        }
                    });
                });
                let leaving: Rc<Leaving> = Rc::default();
                tokio::task::spawn_local(connection.run_holding(Held::new(permit, leaving.clone())));
                let conn = H2Conn::new(client, peer, (opened, local), self.plan.clone(), leaving);
                self.h2.borrow_mut().push(conn);
                self.serve_waiters(&mut setup);
                self.end_what_is_done();
            }
        }
    }

    /// Hands streams to the requests that wait, as far as there is room.
    fn serve_waiters(&self, setup: &mut Option<Setup>) {
        while self.has_waiters() {
            let Some(lease) = self.h2_lease(setup) else { return };
            if let Some(waiter) = self.next_waiter() {
                give(&waiter, Ok(lease));
            }
        }
        self.plan.starvation.served();
    }

    /// A request is done with an HTTP/1.1 connection: to the next that waits, to another worker that starves, or idle.
    pub fn release(self: &Rc<Self>, mut lease: Box<H1Lease>) {
        let wire = &lease.conn.wire;
        let carried = Bytes { received: wire.read_bytes, sent: wire.written_bytes };
        self.plan.bytes.tell(&mut lease.told, carried);
        let spent = self.plan.max_requests.is_some_and(|most| lease.conn.requests >= u64::from(most))
            || self.plan.max_duration.is_some_and(|most| lease.opened.elapsed() >= most);
        let shed = self.shared.try_shed();
        if self.gone.get() || spent || shed.is_some() || lease.own || !lease.conn.is_reusable() {
            drop(lease);
            drop(shed);
            return self.open_what_is_wanted();
        }
        let starvation = &self.plan.starvation;
        let starving = self.shared.someone_starves();
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        // A worker that is never idle would keep its connections for ever while another one waits.
        let turn_is_over = starving && turn.is_multiple_of(GIVE_ONE_IN) && starvation.others_starve(self);
        if !turn_is_over && let Some(waiter) = self.next_waiter() {
            give(&waiter, Ok(Lease::H1(lease)));
            if self.waiters.borrow().is_empty() {
                starvation.served();
            }
            return;
        }
        if starving && starvation.others_starve(self) {
            return self.donate(lease);
        }
        lease.conn.wire.shrink();
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(IdleConn { lease, since: Instant::now() });
        }
    }

    fn donate(&self, lease: Box<H1Lease>) {
        let H1Lease { conn, opened, permit, .. } = *lease;
        let requests = conn.requests;
        let (io, unread) = conn.wire.into_parts();
        // Whatever can't be given is closed, which frees its permit: that serves the other worker as well.
        if unread.is_empty()
            && let Some(stream) = super::shared::off_reactor(io)
        {
            let donation = super::shared::Donation { endpoint: self.identity, stream, requests, opened };
            self.shared.donate(donation, permit);
        }
    }

    /// Another worker starves for a connection: gives an idle one. `false`: there was none.
    pub fn give_idle(&self) -> bool {
        let popped = self.idle.borrow_mut().pop();
        match popped {
            Some(idle) => {
                self.donate(idle.lease);
                true
            }
            None => self.close_idle_h2(),
        }
    }

    /// Closes one idle connection to make room under the limit. `false`: there was none.
    pub fn close_one_idle(&self) -> bool {
        let popped = self.idle.borrow_mut().pop();
        popped.is_some() || self.close_idle_h2()
    }

    fn close_idle_h2(&self) -> bool {
        let mut conns = self.h2.borrow_mut();
        let at = conns.iter().position(|conn| conn.end_if_done(true));
        at.is_some_and(|at| {
            conns.swap_remove(at);
            true
        })
    }

    /// Ends the HTTP/2 connections that are not in use and are to end, or are wanted elsewhere.
    fn end_what_is_done(&self) {
        let wanted = || self.shared.someone_starves() && self.plan.starvation.others_starve(self);
        self.h2.borrow_mut().retain(|conn| {
            if conn.in_use() > 0 {
                return true;
            }
            if !conn.is_leaving()
                && let Some(shed) = self.shared.try_shed()
            {
                conn.leave(shed);
            }
            !conn.end_if_done(self.gone.get() || wanted())
        });
    }

    /// Has connections leave while there are more than the limit allows, which may have been lowered: idle ones now, and of the
    /// others those of HTTP/2 with their last stream. HTTP/1.1's leave when they are given back.
    pub fn trim(&self) {
        // What has ended by itself makes no room by leaving.
        self.h2.borrow_mut().retain(|conn| conn.in_use() > 0 || conn.is_open());
        while let Some(shed) = self.shared.try_shed() {
            let popped = self.idle.borrow_mut().pop();
            if popped.is_some() {
                continue;
            }
            let conns = self.h2.borrow();
            let mut staying = conns.iter().filter(|conn| !conn.is_leaving());
            match staying.clone().find(|conn| conn.in_use() == 0).or_else(|| staying.next()) {
                Some(conn) => conn.leave(shed),
                None => break,
            }
        }
        self.end_what_is_done();
    }

    pub fn has_waiters(&self) -> bool {
        self.forget_abandoned();
        !self.waiters.borrow().is_empty()
    }

    /// A stream of an HTTP/2 connection ended, or a lease without becoming one: there may be room for a request that waits
    /// here, and what is to end may be done.
    pub fn stream_ended(&self) {
        if self.shared.someone_starves() {
            self.end_turns();
        }
        self.serve_waiters(&mut None);
        self.end_what_is_done();
    }

    /// A pool that is never idle would keep its connections for ever while others starve.
    fn end_turns(&self) {
        let now = Instant::now();
        for conn in self.h2.borrow().iter().filter(|conn| conn.turn_is_over(now)) {
            let others = self.plan.starvation.others_starve(self);
            conn.next_turn(now, others.then(|| self.shared.try_yield()).flatten());
        }
    }

    fn hand_error(&self, error: AcquireError) {
        if let Some(waiter) = self.next_waiter() {
            give(&waiter, Err(error));
        }
    }

    fn next_waiter(&self) -> Option<Waiter> {
        self.forget_abandoned();
        self.waiters.borrow_mut().pop_front()
    }

    /// A waiter whose request was given up is held by the queue alone.
    fn forget_abandoned(&self) {
        self.waiters.borrow_mut().retain(|waiter| Rc::strong_count(waiter) > 1);
    }

    /// Closes what has been idle for too long or was closed by the peer. Called about once a second.
    pub fn sweep(&self, now: Instant) {
        let plan = &self.plan;
        self.idle.borrow_mut().retain_mut(|idle| {
            let waited = now.saturating_duration_since(idle.since);
            plan.idle_timeout.is_none_or(|most| waited < most) && self.is_usable(idle)
        });
        let hungry = self.has_waiters();
        self.h2.borrow_mut().retain(|conn| !conn.sweep(now, hungry));
        if !hungry {
            self.trim();
        }
    }

    /// The endpoint has left the configuration, or is not to be used: idle connections close now, busy ones when
    /// their request is done.
    pub fn retire(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
        self.end_what_is_done();
        while let Some(waiter) = self.next_waiter() {
            give(&waiter, Err(AcquireError::Gone(self.address)));
        }
    }

    pub fn open_connections(&self) -> usize {
        self.idle.borrow().len() + self.h2.borrow().len()
    }
}

/// A request's place in the queue.
struct Place<'a> {
    pool: &'a Rc<EndpointPool>,
    waiter: Waiter,
}

impl Place<'_> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Lease, AcquireError>> {
        let mut slot = self.waiter.borrow_mut();
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Ready(result) => Poll::Ready(result),
            _ => {
                *slot = Slot::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.shared.pending.give_back();
        // A connection that was handed over to a request which is given up serves another one.
        let slot = std::mem::replace(&mut *self.waiter.borrow_mut(), Slot::Taken);
        match slot {
            Slot::Ready(Ok(Lease::H1(lease))) => self.pool.release(lease),
            Slot::Ready(Ok(Lease::H2(lease))) => {
                drop(lease);
                self.pool.stream_ended();
            }
            Slot::Waiting(_) => self.pool.plan.starvation.served(),
            _ => {}
        }
    }
}

fn give(waiter: &Waiter, result: Result<Lease, AcquireError>) {
    let before = std::mem::replace(&mut *waiter.borrow_mut(), Slot::Ready(result));
    if let Slot::Waiting(Some(waker)) = before {
        waker.wake();
    }
}

/// Whether an idle connection has neither been closed by the peer nor spoken to out of turn. No system call in the
/// usual case: the reactor knows that nothing has arrived.
fn peer_is_silent(conn: &mut ClientConn) -> bool {
    conn.wire.is_silent()
}

/// The endpoints of a cluster that have a socket address now.
pub fn connectable(cluster: &Cluster) -> impl Iterator<Item = (&Endpoint, SocketAddr)> {
    cluster.endpoints.iter().filter_map(|endpoint| Some((endpoint, endpoint.address.socket()?)))
}
