//! A virtual host's routes: which one takes a request, and what it does with it.

use std::sync::Arc;
use std::time::Duration;

use super::index::PathIndex;
use super::matching::{Fraction, RequestView, RouteMatch, StringMatcher, Substitution};
use super::mutation::HeaderMutations;
use super::retry::RetryPolicy;

#[derive(Debug)]
pub struct VirtualHost {
    pub name: Box<str>,
    /// In lower case.
    pub domains: Box<[Box<str>]>,
    /// Hash of the whole virtual host and of what it inherits.
    pub fingerprint: u128,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// In the order of the configuration: the first that matches is taken.
    pub routes: Box<[Route]>,
    pub(super) index: Option<PathIndex>,
    /// `x-envoy-attempt-count` on requests and on responses.
    pub attempt_count_in_request: bool,
    pub attempt_count_in_response: bool,
}

impl VirtualHost {
    /// The first route that matches. `rng` decides routes for a share of requests: the same number, the same route.
    pub fn route(&self, request: &(impl RequestView + ?Sized), rng: u64) -> Option<&Route> {
        match &self.index {
            None => self.routes.iter().find(|route| route.matching.matches(request, rng)),
            Some(index) => index.first(&self.routes, request, rng),
        }
    }
}

#[derive(Debug)]
pub struct Route {
    pub name: Box<str>,
    pub matching: RouteMatch,
    pub action: Action,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Settings of filters for this route; its virtual host's are merged in.
    pub filters: RouteFilters,
}

/// What the HTTP filters do otherwise on one route. `None`: as the listener's chain says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteFilters {
    pub fault: Option<Arc<Fault>>,
    pub cors: Option<Arc<CorsPolicy>>,
    pub buffer: Option<RouteBuffer>,
    pub cache_off: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteBuffer {
    Off,
    MaxRequestBytes(u32),
}

#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Respond(Box<DirectResponse>),
}

#[derive(Debug)]
pub struct Forward {
    pub target: Target,
    /// Status where the cluster does not exist (Envoy `cluster_not_found_response_code`).
    pub cluster_missing_status: u16,
    /// The whole exchange with the upstream, retries included. `None`: no limit.
    pub timeout: Option<Duration>,
    /// Overrides the listener's stream idle timeout; zero switches it off.
    pub idle_timeout: Option<Duration>,
    /// Overrides the listener's; zero switches it off.
    pub max_stream_duration: Option<Duration>,
    /// A gRPC request's own `grpc-timeout` takes the place of `timeout`, up to this (zero: any).
    pub grpc_timeout_max: Option<Duration>,
    /// The same in the place of `max_stream_duration`.
    pub grpc_duration_max: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub hash: Box<[HashPolicy]>,
    pub path_rewrite: PathRewrite,
    pub host_rewrite: HostRewrite,
    /// The original host goes into x-forwarded-host when it is rewritten.
    pub append_forwarded_host: bool,
    pub mirrors: Box<[Mirror]>,
}

/// A cluster by name, with the hash that the snapshot's table is probed with. A name and not the object: routes are
/// then kept when only the cluster changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRef {
    pub name: Arc<str>,
    pub(super) hash: u64,
}

impl ClusterRef {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        let hash = super::index::hash(name.as_bytes());
        Self { name, hash }
    }
}

#[derive(Debug, PartialEq)]
pub enum Target {
    Cluster(ClusterRef),
    Weighted {
        clusters: Box<[WeightedCluster]>,
        total: u32,
    },
    /// The name stands in this request header.
    Header(Box<str>),
}

#[derive(Debug, PartialEq)]
pub struct WeightedCluster {
    pub cluster: ClusterRef,
    pub weight: u32,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub host_rewrite: Option<Box<str>>,
}

/// One cluster chosen from a target.
#[derive(Clone, Copy, Debug)]
pub enum Chosen<'a> {
    Cluster(&'a ClusterRef),
    Weighted(&'a WeightedCluster),
    Header(&'a str),
}

impl Target {
    /// A weighted target gives each cluster its share of uniformly drawn numbers, in order, as Envoy does.
    pub fn choose(&self, rng: u64) -> Option<Chosen<'_>> {
        match self {
            Self::Cluster(cluster) => Some(Chosen::Cluster(cluster)),
            Self::Header(name) => Some(Chosen::Header(name)),
            Self::Weighted { clusters, total } => {
                let mut left = rng % u64::from((*total).max(1));
                for cluster in clusters {
                    if left < u64::from(cluster.weight) {
                        return Some(Chosen::Weighted(cluster));
                    }
                    left -= u64::from(cluster.weight);
                }
                clusters.last().map(Chosen::Weighted)
            }
        }
    }

    /// Every cluster that the target names.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterRef> {
        let (one, many): (Option<&ClusterRef>, &[WeightedCluster]) = match self {
            Self::Cluster(cluster) => (Some(cluster), &[]),
            Self::Weighted { clusters, .. } => (None, clusters),
            Self::Header(_) => (None, &[]),
        };
        one.into_iter().chain(many.iter().map(|weighted| &weighted.cluster))
    }
}

#[derive(Debug, PartialEq, Default)]
pub enum PathRewrite {
    #[default]
    None,
    /// Replaces what the route's prefix or exact path matched.
    Prefix(Box<str>),
    Regex(Substitution),
}

impl PathRewrite {
    /// The new path and query, or `None` where it stays. `matched` is the route's own match.
    pub fn apply(&self, matched: &RouteMatch, path: &[u8]) -> Option<Vec<u8>> {
        use super::matching::{PathMatch, path_only};
        let bare = path_only(path);
        let rest = path.get(bare.len()..).unwrap_or_default();
        match self {
            Self::None => None,
            Self::Prefix(new) => {
                let old = match &matched.path {
                    PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::Segments(text) => text.len(),
                    // Envoy replaces the whole path that an expression matched.
                    PathMatch::Regex(_) => bare.len(),
                };
                let tail = bare.get(old..)?;
                Some([new.as_bytes(), tail, rest].concat())
            }
            Self::Regex(substitution) => Some([&*substitution.apply(bare), rest].concat()),
        }
    }
}

#[derive(Debug, PartialEq, Default)]
pub enum HostRewrite {
    #[default]
    None,
    Literal(Box<str>),
    /// The endpoint's host name.
    Endpoint,
    Header(Box<str>),
}

#[derive(Debug, PartialEq)]
pub struct Mirror {
    pub cluster: ClusterRef,
    pub fraction: Fraction,
    /// Envoy adds `-shadow` to the host unless it is told not to.
    pub shadow_host_suffix: bool,
}

/// One part of the number that a consistent-hash balancer is given.
#[derive(Debug, PartialEq, Clone)]
pub struct HashPolicy {
    pub kind: HashSource,
    /// Where this part gave a hash, later ones are not looked at.
    pub terminal: bool,
}

#[derive(Debug, PartialEq, Clone)]
pub enum HashSource {
    Header(Box<str>),
    Cookie {
        name: Box<str>,
        /// A client without the cookie is given one that lives so long; zero is a session cookie. `None`: no cookie is made.
        ttl: Option<Duration>,
        path: Box<str>,
        attributes: Box<[(Box<str>, Box<str>)]>,
    },
    SourceIp,
    QueryParameter(Box<str>),
}

#[derive(Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub scheme: RedirectScheme,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub strip_query: bool,
}

#[derive(Debug, PartialEq, Default)]
pub enum RedirectScheme {
    #[default]
    Keep,
    Https,
    Named(Box<str>),
}

#[derive(Debug, PartialEq, Default)]
pub enum RedirectPath {
    #[default]
    Keep,
    Whole(Box<str>),
    Prefix(Box<str>),
    Regex(Substitution),
}

#[derive(Debug, PartialEq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Box<[u8]>,
}

/// Faults that are put in on purpose.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Fault {
    pub delay: Option<(Duration, Fraction)>,
    pub abort: Option<(Abort, Fraction)>,
    /// Faults act only on requests that match all of these.
    pub headers: Box<[super::matching::HeaderMatch]>,
    pub max_active: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub struct CorsPolicy {
    pub enabled: bool,
    pub allow_origins: Box<[StringMatcher]>,
    /// Written as they stand in the configuration; empty: the header is not sent.
    pub allow_methods: Box<str>,
    pub allow_headers: Box<str>,
    pub expose_headers: Box<str>,
    pub max_age: Box<str>,
    pub allow_credentials: bool,
    /// A preflight whose origin is not allowed goes on to the upstream.
    pub forward_unmatched_preflights: bool,
}
