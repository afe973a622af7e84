//! The only door by which configuration reaches the workers: made ready off to the side, then handed over whole.

use crate::tls::{Acceptor, Connector, Secrets, SetupError};
use celerity_model::snapshot::{DownstreamTls, Snapshot, Transport, UpstreamTls};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Who wants a certificate that can't be used or an address that can't be had, and why it can't. Whoever made the snapshot
/// knows from what.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{resource} {name}: {reason}")]
pub struct Unusable {
    /// `listener` or `cluster`.
    pub resource: &'static str,
    pub name: Arc<str>,
    pub reason: String,
}

/// Why a configuration was not taken up.
#[derive(Clone, Debug)]
pub struct NotTakenUp(pub Vec<Unusable>);

impl fmt::Display for NotTakenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for NotTakenUp {}

/// A snapshot with its certificates loaded: what the workers run. A request holds one for its whole life.
pub struct Running {
    pub snapshot: Arc<Snapshot>,
    acceptors: HashMap<Arc<DownstreamTls>, Arc<Acceptor>>,
    connectors: HashMap<Arc<UpstreamTls>, Arc<Connector>>,
}

impl Running {
    /// Loads what `snapshot` names. What `previous` has loaded already is kept, with its sessions.
    ///
    /// # Errors
    /// Every certificate that can't be used, with the listener or cluster that wants it: nothing is taken up.
    pub fn prepare(snapshot: Arc<Snapshot>, secrets: &Secrets, previous: Option<&Self>) -> Result<Self, NotTakenUp> {
        let unusable = |resource, name: &Arc<str>, error: SetupError| Unusable {
            resource,
            name: name.clone(),
            reason: error.to_string(),
        };
        let mut acceptors = HashMap::new();
        let mut connectors = HashMap::new();
        let mut errors = Vec::new();
        for listener in &snapshot.listeners {
            for chain in listener.chains.iter().chain(listener.default_chain.as_deref()) {
                let Some(tls) = chain.tls.as_ref().filter(|tls| !acceptors.contains_key(*tls)) else { continue };
                let known = previous.and_then(|previous| previous.acceptors.get(tls)).cloned();
                match known.map_or_else(|| secrets.acceptor(tls).map(Arc::new), Ok) {
                    Ok(acceptor) => drop(acceptors.insert(tls.clone(), acceptor)),
                    Err(error) => errors.push(unusable("listener", &listener.name, error)),
                }
            }
        }
        for cluster in snapshot.clusters() {
            for transport in cluster.transports.iter() {
                let Transport::Tls(tls) = transport else { continue };
                if connectors.contains_key(tls) {
                    continue;
                }
                let known = previous.and_then(|previous| previous.connectors.get(tls)).cloned();
                match known.map_or_else(|| secrets.connector(tls).map(Arc::new), Ok) {
                    Ok(connector) => drop(connectors.insert(tls.clone(), connector)),
                    Err(error) => errors.push(unusable("cluster", &cluster.name, error)),
                }
            }
        }
        if errors.is_empty() { Ok(Self { snapshot, acceptors, connectors }) } else { Err(NotTakenUp(errors)) }
    }

    pub fn acceptor(&self, tls: &Arc<DownstreamTls>) -> Option<&Arc<Acceptor>> {
        self.acceptors.get(tls)
    }

    pub fn connector(&self, tls: &Arc<UpstreamTls>) -> Option<&Arc<Connector>> {
        self.connectors.get(tls)
    }
}
