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

use std::sync::Arc;

pub use build::{BuildError, BuildReport};
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

    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }
}
