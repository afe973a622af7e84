//! One running proxy and the configuration that it has.
//!
//! The one place that turns documents into what a worker looks up; `up` and `proxy` both come through it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use celerity_model::istio::Config;
use celerity_model::snapshot::Snapshot;
use celerity_model::translate::Node;
use celerity_proxy::{Handle, Proxy, Settings};

use crate::config::{self, Refused};
use crate::node;

/// Where a sidecar listens; `None` where it does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) prometheus: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
}

pub(crate) struct Sidecar {
    node: Node,
    /// Addresses that were given; otherwise they are looked for among the configuration's endpoints.
    addresses: Vec<IpAddr>,
    inbound: Option<SocketAddr>,
    current: Mutex<Arc<Snapshot>>,
    handle: Handle,
}

impl Sidecar {
    /// Prepares one to be taken up, without touching the running one. What did not change is shared with it.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Arc<Snapshot>, Refused> {
        let node = addressed(&self.node, &self.addresses, self.inbound, config);
        config::snapshot(config, &node, Some(&self.current()))
    }

    pub(crate) fn apply(&self, snapshot: Arc<Snapshot>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        self.handle.apply(snapshot);
    }

    /// Says at the admin port and in the metrics that a configuration was not taken up.
    pub(crate) fn reject(&self, reason: &str) {
        self.handle.config_rejected(reason);
    }

    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The node with the addresses by which this configuration names it.
fn addressed(node: &Node, given: &[IpAddr], inbound: Option<SocketAddr>, config: &Config) -> Node {
    let addresses = if given.is_empty() { node::own_addresses(config, inbound) } else { given.to_vec() };
    Node { addresses, ..node.clone() }
}
