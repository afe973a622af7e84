//! What a worker looks up: immutable, checked, precomputed.
//!
//! A snapshot is built off to the side from Envoy v3 resources and swapped in once. A request holds one snapshot for its
//! whole life. Objects that a change does not touch are the same objects in the next snapshot (`Arc`), so that a change
//! of one service of thousands costs one service.

mod build;
pub mod cluster;
mod index;
pub mod listener;
pub mod matching;
pub mod mutation;
pub mod retry;
pub mod route;
pub mod table;

use std::net::SocketAddr;
use std::sync::Arc;

pub use build::{BuildError, BuildReport, Replaced};
pub use cluster::*;
pub use listener::*;
pub use matching::{Fraction, HeaderMatch, PathMatch, RequestView, RouteMatch, StringMatcher};
pub use mutation::{AppendAction, FormatPiece, HeaderAddition, HeaderMutations, HeaderValue};
pub use retry::{RetryOn, RetryPolicy};
pub use route::*;
pub use table::RouteTable;

use index::{HashedMap, hash};

#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each one that was built.
    pub version: u64,
    pub listeners: Vec<Arc<Listener>>,
    clusters: HashedMap<Arc<Cluster>>,
    /// What building it had to do.
    pub report: BuildReport,
}

impl Snapshot {
    /// The cluster that a route names: one probe, no hashing.
    pub fn cluster(&self, reference: &ClusterRef) -> Option<&Arc<Cluster>> {
        self.clusters.get(&reference.hash).filter(|cluster| cluster.name == reference.name)
    }

    pub fn cluster_by_name(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(&hash(name.as_bytes())).filter(|cluster| &*cluster.name == name)
    }

    /// In no order.
    pub fn clusters(&self) -> impl ExactSizeIterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// The same snapshot with the names of its DNS clusters replaced by their addresses. A cluster whose addresses are
    /// those of `previous` is the same object as there. The version stays: listeners and routes are untouched.
    pub fn resolved(
        &self,
        previous: Option<&Self>,
        addresses: impl Fn(&str, DnsFamily, u16) -> Vec<SocketAddr>,
    ) -> Self {
        let mut clusters = self.clusters.clone();
        for cluster in clusters.values_mut().filter(|cluster| cluster.needs_dns()) {
            let family = cluster.policy.dns.family;
            let resolved = cluster.resolved(|host, port| addresses(host, family, port));
            let known = previous.and_then(|previous| previous.cluster_by_name(&resolved.name));
            *cluster = match known {
                Some(known) if known.fingerprint == resolved.fingerprint => known.clone(),
                _ => Arc::new(resolved),
            };
        }
        Self { version: self.version, listeners: self.listeners.clone(), clusters, report: self.report }
    }

    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }
}
