//! A cluster: where requests go, how an endpoint is picked, and what protects it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh64::xxh64;

/// One upstream service (or subset of it), its endpoints, and every setting that acts on them.
///
/// Settings that most clusters share are behind `Arc`s that equal clusters share: a thousand services with the same
/// policy keep one copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Envoy's cluster name, for example `outbound|80|v1|user-service.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// Hash of the name: the key of state that must survive every change of the cluster (ejections, counters).
    pub identity: u64,
    /// Hash of everything an open connection depends on (TLS, protocol, keep-alive, local limits of a connection), but
    /// not of the endpoints. While it stays, pooled connections stay.
    pub pool_key: u64,
    /// Hash of the whole configuration, endpoints included. While it stays, nothing about the cluster has changed.
    pub fingerprint: u128,
    /// What the name says.
    pub service: ServiceName,
    /// What the metadata says, where it is something else. It serves for labels only: anybody may write it.
    pub described: Option<Box<ServiceName>>,
    pub discovery: Discovery,
    pub policy: Arc<ClusterPolicy>,
    /// Every endpoint, grouped: `localities` hold ranges of it. Sorted by priority.
    pub endpoints: Box<[Endpoint]>,
    pub localities: Box<[LocalityGroup]>,
    /// How to connect; an endpoint holds the index of its transport. Never empty.
    pub transports: Arc<[Transport]>,
    /// It has no endpoints because its rule wants mutual TLS of the mesh and this proxy has no certificate.
    pub lacks_identity: bool,
}

impl Cluster {
    /// The transport socket of an endpoint, chosen by the endpoint's metadata when the snapshot was built.
    pub fn transport(&self, endpoint: &Endpoint) -> &Transport {
        self.transports.get(usize::from(endpoint.transport)).unwrap_or(&Transport::Raw)
    }

    /// Endpoints of one locality group.
    pub fn group(&self, group: &LocalityGroup) -> &[Endpoint] {
        self.endpoints.get(group.start as usize..(group.start + group.len) as usize).unwrap_or(&[])
    }

    /// True where an endpoint is a DNS name that must be resolved first.
    pub fn needs_dns(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Dns { .. }))
    }

    /// The same cluster with every DNS name replaced by its addresses, in the order given. A name that has none leaves
    /// no endpoint. STRICT_DNS takes every address of a name; LOGICAL_DNS the first only. Identity and pool key stay, so
    /// that connections, counters and ejections do; the fingerprint follows the addresses.
    pub fn resolved(&self, addresses: impl Fn(&str, u16) -> Vec<SocketAddr>) -> Cluster {
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        let mut localities = Vec::with_capacity(self.localities.len());
        for group in &self.localities {
            let start = endpoints.len() as u32;
            for endpoint in self.group(group) {
                match &endpoint.address {
                    Address::Socket(_) | Address::Pipe(_) => endpoints.push(endpoint.clone()),
                    Address::Dns { host, port } => {
                        let most = if self.discovery == Discovery::LogicalDns { 1 } else { usize::MAX };
                        for address in addresses(host, *port).into_iter().take(most) {
                            let mut resolved = endpoint.clone();
                            resolved.hostname.get_or_insert_with(|| host.as_ref().into());
                            resolved.identity = Endpoint::identity_of_socket(address);
                            resolved.address = Address::Socket(address);
                            endpoints.push(resolved);
                        }
                    }
                }
            }
            localities.push(LocalityGroup { start, len: endpoints.len() as u32 - start, ..group.clone() });
        }
        let print = endpoints.iter().fold(1, |print, endpoint| xxh64(&endpoint.identity.to_le_bytes(), print));
        let fingerprint = self.fingerprint.rotate_left(1) ^ u128::from(print);
        Cluster { fingerprint, endpoints: endpoints.into(), localities: localities.into(), ..self.clone() }
    }
}

/// Settings without identity: equal ones are one object.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ClusterPolicy {
    pub load_balancing: LoadBalancing,
    pub limits: Limits,
    pub connection: ConnectionSettings,
    pub protocol: UpstreamProtocol,
    pub http2: Http2Settings,
    /// `None`: endpoints are never ejected.
    pub outlier: Option<OutlierDetection>,
    pub dns: DnsSettings,
}

/// The parts of an Istio cluster name, `direction|port|subset|host`. A name of another form is all host.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceName {
    pub inbound: bool,
    /// Empty in an inbound cluster's name.
    pub host: Box<str>,
    pub port: u16,
    /// Empty where the cluster is the whole service.
    pub subset: Box<str>,
    /// First label of a Kubernetes host name, or the whole host.
    pub short: Box<str>,
    /// Second label of a Kubernetes host name; empty for others.
    pub namespace: Box<str>,
}

impl Cluster {
    /// The service under which its requests are counted.
    pub fn told_as(&self) -> &ServiceName {
        self.described.as_deref().unwrap_or(&self.service)
    }
}

impl ServiceName {
    /// Reads an Istio cluster name (istio/istio `pilot/pkg/model`, `BuildSubsetKey`).
    pub fn parse(cluster: &str) -> Self {
        let mut parts = cluster.splitn(4, '|');
        let parsed = (parts.next(), parts.next(), parts.next(), parts.next());
        let (inbound, port, subset, host) = match parsed {
            (Some(direction @ ("inbound" | "outbound")), Some(port), Some(subset), Some(host)) => {
                (direction == "inbound", port.parse().unwrap_or(0), subset, host)
            }
            _ => (false, 0, "", cluster),
        };
        let mut labels = host.split('.');
        let (short, namespace) = match (labels.next(), labels.next(), labels.next()) {
            (Some(short), Some(namespace), Some("svc")) => (short, namespace),
            _ => (host, ""),
        };
        Self {
            inbound,
            host: host.into(),
            port,
            subset: subset.into(),
            short: short.into(),
            namespace: namespace.into(),
        }
    }
}

/// Where the endpoints come from. EDS endpoints are in the snapshot already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Discovery {
    #[default]
    Static,
    Eds,
    /// Every address of every name is an endpoint.
    StrictDns,
    /// The first address of the name, for new connections.
    LogicalDns,
    /// The connection's own original destination.
    OriginalDst,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub address: Address,
    /// Hash of the canonical address: with the cluster's identity, the key of what outlives a snapshot.
    pub identity: u64,
    /// 1 or more.
    pub weight: u32,
    pub health: Health,
    /// Index into the cluster's transports.
    pub transport: u8,
    /// The name given beside the address, used for hashing and SNI where configured.
    pub hostname: Option<Box<str>>,
    pub workload: Option<Arc<Workload>>,
}

impl Endpoint {
    /// The identity of a canonical address such as `10.0.0.1:80` or `[::1]:80`.
    pub fn identity_of(address: &str) -> u64 {
        xxh64(address.as_bytes(), 0)
    }

    /// As [`Endpoint::identity_of`] for an IP address and port.
    pub fn identity_of_socket(address: SocketAddr) -> u64 {
        crate::ip::with_socket_text(address, Self::identity_of)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Socket(SocketAddr),
    Dns {
        host: Box<str>,
        port: u16,
    },
    /// A Unix socket's path.
    Pipe(Box<str>),
}

impl Address {
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            _ => None,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => write!(out, "{address}"),
            Self::Dns { host, port } => write!(out, "{host}:{port}"),
            Self::Pipe(path) => write!(out, "{path}"),
        }
    }
}

/// Health as the control plane sees it. Degraded endpoints are used only when too few healthy ones are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    #[default]
    Healthy,
    Degraded,
    Unhealthy,
    /// Takes no new requests; requests in flight finish.
    Draining,
}

/// Who runs behind an endpoint, from Istio's endpoint metadata (`istio.workload`: name;namespace;canonical
/// name;canonical revision;cluster).
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Workload {
    pub name: Box<str>,
    pub namespace: Box<str>,
    pub canonical_service: Box<str>,
    pub canonical_revision: Box<str>,
    pub cluster: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    pub region: Box<str>,
    pub zone: Box<str>,
    pub sub_zone: Box<str>,
}

/// Endpoints of one locality at one priority.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityGroup {
    pub locality: Arc<Locality>,
    /// 0 is used first.
    pub priority: u32,
    /// Share of its priority's requests; `None`: not weighted.
    pub weight: Option<u32>,
    /// Range of `Cluster::endpoints`.
    pub start: u32,
    pub len: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancing {
    pub algorithm: Algorithm,
    /// Under this share of healthy endpoints health is not looked at (0 to 100; 0 switches panic off). Envoy: 50.
    pub panic_threshold_percent: f64,
    /// Envoy: 140. A priority that is healthy to 100/1.4 percent still takes all of its load.
    pub overprovisioning_percent: u32,
    /// Picks a locality by its weight first.
    pub locality_weighted: bool,
    pub slow_start: Option<SlowStart>,
}

impl Default for LoadBalancing {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::RoundRobin,
            panic_threshold_percent: 50.0,
            overprovisioning_percent: 140,
            locality_weighted: false,
            slow_start: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    RoundRobin,
    /// Best of `choices` random endpoints by requests in flight; weighted where weights differ.
    LeastRequest {
        choices: u32,
        active_request_bias: f64,
    },
    Random,
    RingHash {
        ring_size_min: u64,
        ring_size_max: u64,
        use_hostname: bool,
    },
    Maglev {
        table_size: u64,
        use_hostname: bool,
    },
    /// The original destination of the connection.
    ClusterProvided,
}

impl Algorithm {
    /// True where the pick depends on the request's hash.
    pub fn is_consistent_hash(&self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }
}

/// Ramp of a new endpoint's weight (Envoy `SlowStartConfig`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// Over 0; 1 is linear.
    pub aggression: f64,
    /// 0 to 100.
    pub min_weight_percent: f64,
}

/// Circuit breakers. They hold per proxy, over all workers. `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    pub retry_budget: Option<RetryBudget>,
}

impl Default for Limits {
    fn default() -> Self {
        // Envoy's own defaults; Istio's translation always sets them.
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

/// Retries in flight may be this share of requests in flight. It replaces `max_retries`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// 0 to 100.
    pub percent: f64,
    pub min_concurrency: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionSettings {
    pub connect_timeout: Duration,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// An idle pooled connection is closed after this. `None`: never.
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    /// Requests before a connection is retired. `None`: no limit.
    pub max_requests: Option<u32>,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            tcp_keepalive: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_duration: None,
            max_requests: None,
        }
    }
}

/// `None`: the kernel's setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// The version of the downstream request.
    UseDownstream,
    /// What ALPN chose; HTTP/1.1 without TLS.
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    pub max_concurrent_streams: u32,
    pub initial_stream_window_bytes: u32,
    pub initial_connection_window_bytes: u32,
    /// PING interval and the time until the connection counts as dead.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window_bytes: 1 << 20,
            initial_connection_window_bytes: 16 << 20,
            keepalive: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

/// Envoy's `OutlierDetection`. An enforcing share of 0 switches a detector off. Percent: 0 to 100.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    /// Ejects one endpoint whatever the percentage says. Off unless asked for: the cap is a true one.
    pub always_eject_one_endpoint: bool,
    pub consecutive_5xx: u32,
    pub enforcing_consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_success_rate: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    /// Thousandths: 1900 is 1.9 standard deviations.
    pub success_rate_stdev_factor: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub failure_percentage_threshold: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    /// Statuses that count as failures beside 5xx handling; empty: 500 to 599.
    pub error_statuses: Box<[(u16, u16)]>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_endpoint: false,
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            split_external_local_origin_errors: false,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_threshold: 85,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            error_statuses: Box::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    pub refresh_rate: Duration,
    pub respect_ttl: bool,
    pub family: DnsFamily,
    /// Servers to ask, in order; empty: the system's.
    pub servers: Box<[SocketAddr]>,
    /// Ask them over TCP from the start.
    pub over_tcp: bool,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            refresh_rate: Duration::from_secs(5),
            respect_ttl: false,
            family: DnsFamily::Auto,
            servers: Box::default(),
            over_tcp: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DnsFamily {
    /// IPv6 first, then IPv4.
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
}

/// How a connection to an endpoint is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    Raw,
    Tls(Arc<UpstreamTls>),
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct UpstreamTls {
    pub sni: Option<Box<str>>,
    /// SNI is the request's authority.
    pub auto_sni: bool,
    /// The certificate must name the SNI that was sent.
    pub auto_san_validation: bool,
    pub alpn: Box<[Box<str>]>,
    pub identity: Option<CertificateSource>,
    pub validation: Validation,
}

/// A certificate chain with its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    Files {
        certificate: Box<str>,
        key: Box<str>,
    },
    Inline {
        certificate: Box<[u8]>,
        key: Box<[u8]>,
    },
    /// A secret by name; `default` is the workload's own identity.
    Secret(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrustSource {
    File(Box<str>),
    Inline(Box<[u8]>),
    /// A secret by name; `ROOTCA` is the mesh's root.
    Secret(Box<str>),
    /// The machine's roots.
    System,
}

/// How a peer's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Validation {
    /// `None`: the peer's chain is not checked.
    pub trust: Option<TrustSource>,
    pub crl_file: Option<Box<str>>,
    /// The peer must have one of these names; empty: any.
    pub subject_alt_names: Box<[SanMatcher]>,
    /// Accepts a chain that does not verify.
    pub accept_untrusted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SanMatcher {
    pub kind: SanKind,
    pub value: SanPattern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// URI, DNS or IP: whichever the certificate has.
    Any,
    Uri,
    Dns,
    Ip,
    Email,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SanPattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
}

impl SanPattern {
    /// Names of certificates are compared byte by byte, but for DNS names, which have no case (RFC 6125, section 6.4.1).
    pub fn matches(&self, kind: SanKind, name: &str) -> bool {
        let lower = |text: &str| if kind == SanKind::Dns { text.to_ascii_lowercase() } else { text.to_owned() };
        let name = lower(name);
        match self {
            Self::Exact(value) => name == lower(value),
            Self::Prefix(value) => name.starts_with(&lower(value)),
            Self::Suffix(value) => name.ends_with(&lower(value)),
            Self::Contains(value) => name.contains(&lower(value)),
        }
    }
}
