//! One worker's view of a cluster: its endpoints with their pools, and who is picked next.

use super::connect::{Plan, Protocol, Starvation};
use super::endpoint::EndpointPool;
use super::shared::ClusterShared;
use crate::h2;
use crate::worker::Worker;
use celerity_model::snapshot::{Cluster, Endpoint, Snapshot, Transport, UpstreamProtocol};
use celerity_telemetry::metrics::RequestSeries;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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
    pub workload: Option<Arc<celerity_model::snapshot::Workload>>,
}

impl WorkerEndpoint {
    pub fn report_status(&self, _worker: &Worker, _pool: &ClusterPool, _status: u16) {}

    pub fn report_failure(&self, _worker: &Worker, _pool: &ClusterPool, _connect: bool, _timeout: bool) {}

    pub fn round_trip_us(&self, _worker: &Worker, _stream: &super::UpstreamStream) -> Option<u32> {
        None
    }

    pub fn pool_for(&self, client_is_http2: bool) -> &Rc<EndpointPool> {
        match &self.http2_pool {
            Some(pool) if client_is_http2 => pool,
            _ => &self.pool,
        }
    }
}

pub struct ClusterPool {
    pub cluster: Arc<Cluster>,
    pub shared: Arc<ClusterShared>,
    pub endpoints: Vec<Rc<WorkerEndpoint>>,
    next: Cell<usize>,
}

impl ClusterPool {
    /// The endpoint for the next attempt. `tried` holds the identities of those that failed already.
    pub fn pick(&self, _worker: &Worker, _hash: Option<u64>, tried: &[u64]) -> Option<Rc<WorkerEndpoint>> {
        let count = self.endpoints.len();
        for _ in 0..count {
            let at = self.next.get() % count;
            self.next.set(at + 1);
            let endpoint = self.endpoints.get(at)?;
            if count == 1 || !tried.contains(&endpoint.identity) {
                return Some(endpoint.clone());
            }
        }
        self.endpoints.first().cloned()
    }

    pub fn sweep(&self, _worker: &Worker, now: std::time::Instant) {
        for endpoint in &self.endpoints {
            endpoint.pool.sweep(now);
            if let Some(pool) = &endpoint.http2_pool {
                pool.sweep(now);
            }
        }
    }

    pub fn pools(&self) -> impl Iterator<Item = &Rc<EndpointPool>> {
        self.endpoints.iter().flat_map(|endpoint| std::iter::once(&endpoint.pool).chain(&endpoint.http2_pool))
    }
}

/// Every cluster that this worker has used, by identity.
#[derive(Default)]
pub struct ClusterPools {
    pools: RefCell<HashMap<u64, Rc<ClusterPool>>>,
}

impl ClusterPools {
    /// The worker's pool of a cluster as the request's snapshot has it. A cluster that changed keeps the connections of
    /// the endpoints that it kept, unless what a connection depends on changed too.
    pub fn of(&self, worker: &Rc<Worker>, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        let mut pools = self.pools.borrow_mut();
        let old = pools.get(&cluster.identity).cloned();
        if let Some(pool) = &old
            && (Arc::ptr_eq(&pool.cluster, cluster) || pool.cluster.fingerprint == cluster.fingerprint)
        {
            return pool.clone();
        }
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
                    }
                }
                None => {
                    self.pools.borrow_mut().remove(&old.cluster.identity);
                    old.pools().for_each(|pool| pool.retire());
                }
            }
        }
    }
}

fn build(worker: &Rc<Worker>, cluster: &Arc<Cluster>, old: Option<&ClusterPool>) -> ClusterPool {
    let shared = worker.shared.cluster(cluster);
    let old = old.filter(|old| old.cluster.pool_key == cluster.pool_key);
    let mut plans: HashMap<(u8, bool), Rc<Plan>> = HashMap::new();
    let mut endpoints = Vec::with_capacity(cluster.endpoints.len());
    for (index, endpoint) in cluster.endpoints.iter().enumerate() {
        let Some(address) = endpoint.address.socket() else { continue };
        let kept = old.and_then(|old| old.endpoints.iter().find(|kept| kept.identity == endpoint.identity));
        let mut pool = |http2: bool| {
            let plan = plans
                .entry((endpoint.transport, http2))
                .or_insert_with(|| Rc::new(plan(worker, cluster, endpoint, http2)));
            let pool = EndpointPool::new(address, endpoint, plan.clone(), shared.clone());
            plan.starvation.pools.borrow_mut().push(Rc::downgrade(&pool));
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
            workload: endpoint.workload.clone(),
        }));
    }
    ClusterPool { cluster: cluster.clone(), shared, endpoints, next: Cell::new(worker.id) }
}

/// Endpoints that left, or whose pools are not kept: their idle connections close now.
pub fn retire_missing(old: &ClusterPool, new: &ClusterPool) {
    for pool in old.pools() {
        if !new.pools().any(|kept| Rc::ptr_eq(kept, pool)) {
            pool.retire();
        }
    }
}

fn plan(worker: &Rc<Worker>, cluster: &Cluster, endpoint: &Endpoint, http2: bool) -> Plan {
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
        protocol,
        http2: settings,
        http2_streams_max: policy.http2.max_concurrent_streams,
        starvation: Starvation::new(worker.others.clone()),
    }
}
