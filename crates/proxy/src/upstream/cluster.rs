//! One worker's view of a cluster: its endpoints with their pools, and who is picked next.

use super::connect::{Plan, Protocol};
use super::endpoint::EndpointPool;
use super::shared::ClusterShared;
use super::starvation::Starvation;
use crate::balance::{EndpointState, PickView, Picker};
use crate::h2;
use crate::outlier::{EndpointHealth, Outcome};
use crate::worker::Worker;
use celerity_model::snapshot::{Address, Cluster, Endpoint, Health, Snapshot, Transport, UpstreamProtocol};
use celerity_telemetry::metrics::{Counter, RequestSeries, ShardGauge, names};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An endpoint as one worker uses it.
pub struct WorkerEndpoint {
    pub address: SocketAddr,
    pub identity: u64,
    /// Index in the cluster's endpoints.
    pub index: usize,
    pub pool: Rc<EndpointPool>,
    /// Only where the upstream's version follows the client's: the pool for HTTP/2 clients.
    pub http2_pool: Option<Rc<EndpointPool>>,
    /// This worker's series of requests to the endpoint; made with the first one.
    pub series: OnceCell<RequestSeries>,
    pub hostname: Option<Box<str>>,
    pub health: Option<Arc<EndpointHealth>>,
    pub workload: Option<Arc<celerity_model::snapshot::Workload>>,
}

impl WorkerEndpoint {
    /// Requests in flight from this worker.
    pub fn active(&self) -> u32 {
        self.pool.active.get() + self.http2_pool.as_ref().map_or(0, |pool| pool.active.get())
    }

    fn pools(&self) -> impl Iterator<Item = &Rc<EndpointPool>> {
        std::iter::once(&self.pool).chain(&self.http2_pool)
    }

    fn sweep(&self, now: Instant) {
        self.pools().for_each(|pool| pool.sweep(now));
    }

    fn retire(&self) {
        self.pools().for_each(|pool| pool.retire());
    }

    pub fn pool_for(&self, client_is_http2: bool) -> &Rc<EndpointPool> {
        match &self.http2_pool {
            Some(pool) if client_is_http2 => pool,
            _ => &self.pool,
        }
    }
}

/// This worker's part of the cluster's series: plain stores, no line is shared with another worker.
pub struct ClusterSeries {
    pub requests: Counter,
    panics: Counter,
    classes: [Counter; CLASSES.len()],
    active: ShardGauge,
}

/// Bytes on the connections of a worker to a cluster, TLS taken off.
#[derive(Debug)]
pub struct ByteSeries {
    received: Counter,
    sent: Counter,
}

impl ByteSeries {
    fn new(worker: &Worker, cluster: &str) -> Self {
        let name = ("cluster_name", cluster);
        Self {
            received: worker.shard().counter(&names::CLUSTER_UPSTREAM_CX_RX_BYTES, &[name]),
            sent: worker.shard().counter(&names::CLUSTER_UPSTREAM_CX_TX_BYTES, &[name]),
        }
    }

    /// Adds what a connection has carried beyond `told`, and remembers it there.
    pub fn tell(&self, told: &mut Bytes, now: Bytes) {
        self.received.add(now.received.saturating_sub(told.received));
        self.sent.add(now.sent.saturating_sub(told.sent));
        *told = now;
    }
}

/// What a connection has carried since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    pub received: u64,
    pub sent: u64,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl ClusterSeries {
    fn new(worker: &Worker, cluster: &str) -> Self {
        let shard = worker.shard();
        let name = ("cluster_name", cluster);
        let class = |class| shard.counter(&names::CLUSTER_UPSTREAM_RQ_XX, &[name, ("response_code_class", class)]);
        Self {
            requests: shard.counter(&names::CLUSTER_UPSTREAM_RQ_TOTAL, &[name]),
            panics: shard.counter(&names::CLUSTER_LB_HEALTHY_PANIC, &[name]),
            classes: CLASSES.map(class),
            active: shard.gauge(&names::CLUSTER_UPSTREAM_RQ_ACTIVE, &[name]),
        }
    }

    /// Counts a response of the cluster.
    pub fn answered(&self, status: u16) {
        if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|class| self.classes.get(class)) {
            class.inc();
        }
    }
}

pub struct ClusterPool {
    pub series: ClusterSeries,
    pub cluster: Arc<Cluster>,
    pub shared: Arc<ClusterShared>,
    /// Those that have an address; a name that is not resolved has no endpoint.
    pub endpoints: Vec<Rc<WorkerEndpoint>>,
    /// Destinations of redirected connections, where the cluster is of those (Envoy ORIGINAL_DST).
    originals: RefCell<HashMap<SocketAddr, Original>>,
    pub starvation: Rc<Starvation>,
    /// From an index in the cluster's endpoints to one in `endpoints`.
    places: Box<[Option<u32>]>,
    picker: RefCell<Picker>,
    /// The state of health that the picker was made for.
    health_version: Cell<u64>,
}

/// A destination that was asked for, and when it was last.
struct Original {
    endpoint: Rc<WorkerEndpoint>,
    used: Instant,
}

/// Destinations that one worker remembers for a cluster. A client can name any address, so the number is bounded; one more
/// takes the place of the one that was unused for longest.
const ORIGINALS_MAX: usize = 1024;

/// A destination without requests is forgotten after this time, as Envoy's `cleanup_interval` has it.
const ORIGINAL_IDLE_MAX: Duration = Duration::from_secs(60);

/// What a pick must look at beside the cluster.
pub struct Wanted<'a> {
    pub hash: Option<u64>,
    /// Identities of endpoints that a retry avoids.
    pub tried: &'a [u64],
    pub attempts_max: u32,
    /// Priorities that a retry avoids, as bits.
    pub tried_priorities: u64,
}

struct View<'a> {
    pool: &'a ClusterPool,
    wanted: &'a Wanted<'a>,
}

impl View<'_> {
    fn endpoint(&self, index: usize) -> Option<&Rc<WorkerEndpoint>> {
        self.pool.at(index)
    }
}

impl PickView for View<'_> {
    fn active(&self, index: usize) -> u32 {
        // An endpoint without an address is never the least busy one.
        self.endpoint(index).map_or(u32::MAX, |endpoint| endpoint.active())
    }

    fn avoid(&self, index: usize) -> bool {
        self.endpoint(index).is_none_or(|endpoint| self.wanted.tried.contains(&endpoint.identity))
    }

    fn attempts_max(&self) -> u32 {
        self.wanted.attempts_max
    }

    fn tried_priorities(&self) -> u64 {
        self.wanted.tried_priorities
    }
}

impl ClusterPool {
    /// The endpoint for the next attempt. `None`: no endpoint may take it.
    /// With it its priority.
    pub fn pick(&self, worker: &Worker, wanted: &Wanted<'_>) -> Option<(Rc<WorkerEndpoint>, u32)> {
        if self.health_version.get() != self.shared.health.version() {
            self.renew_picker(worker);
        }
        let rng = worker.rng.borrow_mut().next_u64();
        let picked = self.picker.borrow().pick(wanted.hash, rng, &View { pool: self, wanted })?;
        if picked.panic {
            self.series.panics.inc();
        }
        Some((self.at(picked.index)?.clone(), picked.priority))
    }

    /// The endpoint of a redirected connection: where its client meant to go.
    pub fn original(&self, worker: &Worker, address: SocketAddr) -> Rc<WorkerEndpoint> {
        let now = worker.clock.to_instant(worker.clock.now());
        let mut originals = self.originals.borrow_mut();
        if let Some(known) = originals.get_mut(&address) {
            known.used = now;
            return known.endpoint.clone();
        }
        if originals.len() >= ORIGINALS_MAX {
            let oldest = originals.iter().min_by_key(|(_, known)| known.used).map(|(address, _)| *address);
            if let Some(gone) = oldest.and_then(|address| originals.remove(&address)) {
                gone.endpoint.retire();
            }
        }
        let described = Endpoint {
            address: Address::Socket(address),
            identity: Endpoint::identity_of(&address.to_string()),
            weight: 1,
            health: Health::default(),
            transport: 0,
            hostname: None,
            workload: None,
        };
        let pool = |http2: bool| {
            let plan = Rc::new(plan(worker, &self.cluster, &described, http2, self.starvation.clone()));
            let pool = EndpointPool::new(address, &described, plan.clone(), self.shared.clone());
            plan.starvation.add(&pool);
            pool
        };
        let follows_client = self.cluster.policy.protocol == UpstreamProtocol::UseDownstream;
        let endpoint = Rc::new(WorkerEndpoint {
            address,
            identity: described.identity,
            index: usize::MAX,
            pool: pool(false),
            http2_pool: follows_client.then(|| pool(true)),
            series: OnceCell::new(),
            hostname: None,
            health: None,
            workload: None,
        });
        originals.insert(address, Original { endpoint: endpoint.clone(), used: now });
        endpoint
    }

    /// Every pool closes what is idle and takes no more.
    fn retire(&self) {
        self.pools().for_each(|pool| pool.retire());
        self.originals.borrow_mut().drain().for_each(|(_, gone)| gone.endpoint.retire());
    }

    fn at(&self, index: usize) -> Option<&Rc<WorkerEndpoint>> {
        let place = (*self.places.get(index)?)?;
        self.endpoints.get(place as usize)
    }

    /// After an ejection, a return, or a step of a warm-up. Rare, and off the request's usual path.
    fn renew_picker(&self, worker: &Worker) {
        self.health_version.set(self.shared.health.version());
        *self.picker.borrow_mut() = picker(&self.cluster, &self.shared, &self.endpoints, worker);
    }

    /// Tells outlier detection how an attempt ended.
    pub fn report(&self, worker: &Worker, endpoint: &WorkerEndpoint, outcome: Outcome) {
        let (Some(health), Some(_)) = (&endpoint.health, &self.cluster.policy.outlier) else { return };
        let rng = worker.rng.borrow_mut().next_u64();
        if let Some(event) = self.shared.health.report(health, outcome, Instant::now(), rng) {
            worker.shared.tell_event(&self.cluster, endpoint.address, &event);
        }
    }

    /// Closes what is old, and warms endpoints up.
    pub fn sweep(&self, worker: &Worker, now: Instant) {
        if self.picker.borrow().expires.is_some_and(|at| at <= now) {
            self.renew_picker(worker);
        }
        let mut active: u32 = self.endpoints.iter().map(|endpoint| endpoint.active()).sum();
        self.originals.borrow_mut().retain(|_, known| {
            known.endpoint.sweep(now);
            active += known.endpoint.active();
            let keep = known.endpoint.active() > 0 || now.saturating_duration_since(known.used) < ORIGINAL_IDLE_MAX;
            if !keep {
                known.endpoint.retire();
            }
            keep
        });
        self.series.active.set(active.into());
        for endpoint in &self.endpoints {
            endpoint.sweep(now);
        }
        self.starvation.sweep();
    }

    pub fn pools(&self) -> impl Iterator<Item = &Rc<EndpointPool>> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.pools())
    }
}

/// Every cluster that this worker has used, by identity.
#[derive(Default)]
pub struct ClusterPools {
    pools: RefCell<HashMap<u64, Rc<ClusterPool>, crate::identity::BuildHasher>>,
}

impl ClusterPools {
    /// The worker's pool of a cluster as the request's snapshot has it. A cluster that changed keeps the connections of
    /// the endpoints that it kept, unless what a connection depends on changed too.
    pub fn of(&self, worker: &Rc<Worker>, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        let mut pools = self.pools.borrow_mut();
        let old = pools.get(&cluster.identity);
        if let Some(pool) = old
            && (Arc::ptr_eq(&pool.cluster, cluster) || pool.cluster.fingerprint == cluster.fingerprint)
        {
            return pool.clone();
        }
        let old = old.cloned();
        let pool = Rc::new(build(worker, cluster, old.as_deref()));
        pools.insert(cluster.identity, pool.clone());
        pool
    }

    pub fn find(&self, identity: u64) -> Option<Rc<ClusterPool>> {
        self.pools.borrow().get(&identity).cloned()
    }

    pub fn all(&self) -> Vec<Rc<ClusterPool>> {
        self.pools.borrow().values().cloned().collect()
    }

    /// Takes up a new configuration: pools of clusters and endpoints that left are retired, the others are kept.
    pub fn take_up(&self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        for old in self.all() {
            let kept = snapshot.cluster_by_name(&old.cluster.name);
            match kept.filter(|cluster| cluster.identity == old.cluster.identity) {
                Some(cluster) => {
                    let new = self.of(worker, cluster);
                    if !Rc::ptr_eq(&old, &new) {
                        retire_missing(&old, &new);
                        new.pools().for_each(|pool| pool.trim());
                    }
                }
                None => {
                    self.pools.borrow_mut().remove(&old.cluster.identity);
                    old.retire();
                }
            }
        }
    }
}

fn build(worker: &Rc<Worker>, cluster: &Arc<Cluster>, old: Option<&ClusterPool>) -> ClusterPool {
    let shared = worker.shared.cluster(cluster);
    // One for all pools of the cluster, old and new: a connection of any of them may have to make room.
    let starvation = old.map_or_else(
        || Starvation::new(cluster.identity, shared.clone(), worker.others.clone()),
        |old| old.starvation.clone(),
    );
    let old = old.filter(|old| old.cluster.pool_key == cluster.pool_key);
    let mut plans: HashMap<(u8, bool), Rc<Plan>> = HashMap::new();
    let mut endpoints = Vec::with_capacity(cluster.endpoints.len());
    for (index, endpoint) in cluster.endpoints.iter().enumerate() {
        let Some(address) = endpoint.address.socket() else { continue };
        let kept = old.and_then(|old| {
            let kept = old.endpoints.iter().find(|kept| kept.identity == endpoint.identity)?;
            // An address may get a sidecar, or lose it: its connections are then made in another way.
            let before = old.cluster.endpoints.get(kept.index)?;
            (old.cluster.transport(before) == cluster.transport(endpoint)).then_some(kept)
        });
        let mut pool = |http2: bool| {
            let plan = plans
                .entry((endpoint.transport, http2))
                .or_insert_with(|| Rc::new(plan(worker, cluster, endpoint, http2, starvation.clone())));
            let pool = EndpointPool::new(address, endpoint, plan.clone(), shared.clone());
            plan.starvation.add(&pool);
            pool
        };
        let follows_client = cluster.policy.protocol == UpstreamProtocol::UseDownstream;
        endpoints.push(Rc::new(WorkerEndpoint {
            address,
            identity: endpoint.identity,
            index,
            pool: kept.map_or_else(|| pool(false), |kept| kept.pool.clone()),
            http2_pool: follows_client
                .then(|| kept.and_then(|kept| kept.http2_pool.clone()).unwrap_or_else(|| pool(true))),
            series: OnceCell::new(),
            hostname: endpoint.hostname.clone(),
            health: shared.health.endpoint(endpoint.identity),
            workload: endpoint.workload.clone(),
        }));
    }
    let mut places = vec![None; cluster.endpoints.len()].into_boxed_slice();
    for (place, endpoint) in endpoints.iter().enumerate() {
        if let Some(slot) = places.get_mut(endpoint.index) {
            *slot = Some(place as u32);
        }
    }
    let health_version = Cell::new(shared.health.version());
    let picker = RefCell::new(picker(cluster, &shared, &endpoints, worker));
    let series = ClusterSeries::new(worker, &cluster.name);
    ClusterPool {
        series,
        cluster: cluster.clone(),
        shared,
        endpoints,
        originals: RefCell::default(),
        starvation,
        places,
        picker,
        health_version,
    }
}

/// A balancer for the cluster as it is now. Endpoints without an address count as ejected.
fn picker(cluster: &Cluster, shared: &ClusterShared, endpoints: &[Rc<WorkerEndpoint>], worker: &Worker) -> Picker {
    let mut states = vec![EndpointState { ejected: true, healthy_since: None }; cluster.endpoints.len()];
    for endpoint in endpoints {
        if let Some(state) = states.get_mut(endpoint.index) {
            *state = EndpointState {
                ejected: endpoint.health.as_ref().is_some_and(|health| health.is_ejected()),
                healthy_since: endpoint.health.as_ref().and_then(|health| shared.health.healthy_since(health)),
            };
        }
    }
    let state = |index: usize| states.get(index).copied().unwrap_or_default();
    Picker::new(cluster, state, Instant::now(), worker.id as u64)
}

/// Endpoints that left, or whose pools are not kept: their idle connections close now.
pub fn retire_missing(old: &ClusterPool, new: &ClusterPool) {
    old.originals.borrow_mut().drain().for_each(|(_, gone)| gone.endpoint.retire());
    for pool in old.pools() {
        if !new.pools().any(|kept| Rc::ptr_eq(kept, pool)) {
            pool.retire();
        }
    }
}

fn plan(worker: &Worker, cluster: &Cluster, endpoint: &Endpoint, http2: bool, starvation: Rc<Starvation>) -> Plan {
    let policy = &cluster.policy;
    let protocol = match policy.protocol {
        UpstreamProtocol::Http1 => Protocol::Http1,
        UpstreamProtocol::Http2 => Protocol::Http2,
        UpstreamProtocol::Auto => Protocol::Auto,
        UpstreamProtocol::UseDownstream if http2 => Protocol::Http2,
        UpstreamProtocol::UseDownstream => Protocol::Http1,
    };
    let mut settings = h2::ClientSettings::default();
    settings.common.stream_window = policy.http2.initial_stream_window_bytes;
    settings.common.connection_window = policy.http2.initial_connection_window_bytes;
    settings.common.keepalive = policy
        .http2
        .keepalive
        .map(|keepalive| h2::Keepalive { interval: keepalive.interval, timeout: keepalive.timeout });
    Plan {
        cluster: cluster.name.clone(),
        identity: cluster.identity,
        connect_timeout: policy.connection.connect_timeout,
        keepalive: policy.connection.tcp_keepalive,
        idle_timeout: policy.connection.idle_timeout,
        max_duration: policy.connection.max_duration,
        max_requests: policy.connection.max_requests,
        tls: match cluster.transport(endpoint) {
            Transport::Raw => None,
            Transport::Tls(tls) => worker.running().connector(tls).cloned(),
        },
        is_mutual: match cluster.transport(endpoint) {
            Transport::Raw => false,
            Transport::Tls(tls) => {
                tls.identity.is_some() && tls.validation.trust.is_some() && !tls.validation.accept_untrusted
            }
        },
        authority: cluster.service.host.clone(),
        protocol,
        bytes: ByteSeries::new(worker, &cluster.name),
        http2: settings,
        http2_streams_max: policy.http2.max_concurrent_streams,
        starvation,
        stamped: worker.clock.runs(),
    }
}
