//! Which documents decide about which services, so that a change of one of thousands costs one.
//!
//! A document is known by hashes of the hosts that it is about and of what it uses of others. With a collision of two hashes
//! a service too many is made again; none is ever forgotten.

use std::collections::HashSet;

use xxhash_rust::xxh64::xxh64;

use super::node::Node;
use super::registry::{cluster_local, full_name};
use crate::istio::{Config, Document, ServiceEntry, Source, VirtualService, WorkloadEntry};

/// What a document is to the services of a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It concerns every service, or one cannot say which.
    Everything,
    /// It says something about a host: a Service, its endpoints, its rules.
    Host,
    /// As `Host`, and it chooses its endpoints among the workloads that carry a label.
    Selector,
    /// A workload that a selector may choose.
    Workload,
    /// Routes of hosts, to other hosts.
    Routes,
    /// No service depends on it.
    Nothing,
}

/// One document, as far as others depend on it. Kept for every document of a configuration, so it is small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    pub source: Source,
    /// Hash of kind, namespace and name.
    pub id: u64,
    pub role: Role,
    hosts: Box<[u64]>,
    /// Routes: hosts of destinations and mirrors, be they its own too: its other hosts go there. Selector: one label that it
    /// asks for. Workload: its labels.
    uses: Box<[u64]>,
}

/// The hash by which a host is known here.
pub fn host_key(host: &str) -> u64 {
    xxh64(host.as_bytes(), 0)
}

/// The label that every workload of a namespace carries: what a selector without labels asks for.
fn every_workload(namespace: &str) -> u64 {
    label_key(namespace, "", "")
}

fn label_key(namespace: &str, key: &str, value: &str) -> u64 {
    xxh64(format!("{namespace}/{key}={value}").as_bytes(), 1)
}

/// What each document of `config` is about, in the order of files and lines.
pub fn concerns(config: &Config, node: &Node) -> Vec<Concern> {
    let mut found = Vec::with_capacity(config.len());
    let name = |host: &str, namespace: &str| full_name(host, namespace, node);
    for document in &config.services {
        let host = cluster_local(&document.meta.name, &document.meta.namespace, node);
        found.push(concern("Service", document, Role::Host, [host_key(&host)], []));
    }
    for document in &config.endpoint_slices {
        let host = document.service_name().map(|name| cluster_local(name, &document.meta.namespace, node));
        let keys: Vec<u64> = host.iter().map(|host| host_key(host)).collect();
        found.push(concern("EndpointSlice", document, Role::Host, keys, []));
    }
    for document in &config.destination_rules {
        let host = name(&document.spec.host, &document.meta.namespace);
        let role = if host.starts_with('*') { Role::Everything } else { Role::Host };
        found.push(concern("DestinationRule", document, role, [host_key(&host)], []));
    }
    found.extend(config.service_entries.iter().map(|document| service_entry(document, node)));
    found.extend(config.workload_entries.iter().map(workload_entry));
    found.extend(config.virtual_services.iter().map(|document| virtual_service(document, node)));
    macro_rules! all {
        ($list:ident, $kind:literal, $role:expr) => {
            found.extend(config.$list.iter().map(|document| concern($kind, document, $role, [], [])));
        };
    }
    all!(peer_authentications, "PeerAuthentication", Role::Everything);
    all!(envoy_filters, "EnvoyFilter", Role::Everything);
    all!(config_maps, "ConfigMap", Role::Everything);
    all!(prometheus_rules, "PrometheusRule", Role::Nothing);
    found
}

fn concern<T>(
    kind: &str,
    document: &Document<T>,
    role: Role,
    hosts: impl Into<Vec<u64>>,
    uses: impl Into<Vec<u64>>,
) -> Concern {
    let id = xxh64([kind, "/", &document.meta.namespace, "/", &document.meta.name].concat().as_bytes(), 0);
    Concern { source: document.source.clone(), id, role, hosts: hosts.into().into(), uses: uses.into().into() }
}

fn service_entry(document: &Document<ServiceEntry>, node: &Node) -> Concern {
    let key = |host: &String| host_key(&full_name(host, &document.meta.namespace, node));
    let hosts: Vec<u64> = document.spec.hosts.iter().map(key).collect();
    let Some(selector) = &document.spec.workload_selector else {
        return concern("ServiceEntry", document, Role::Host, hosts, []);
    };
    let namespace = &document.meta.namespace;
    let label = match selector.labels.iter().next() {
        Some((key, value)) => label_key(namespace, key, value),
        None => every_workload(namespace),
    };
    concern("ServiceEntry", document, Role::Selector, hosts, [label])
}

fn workload_entry(document: &Document<WorkloadEntry>) -> Concern {
    let namespace = &document.meta.namespace;
    let labels = document.spec.labels.iter().map(|(key, value)| label_key(namespace, key, value));
    let labels: Vec<u64> = labels.chain([every_workload(namespace)]).collect();
    concern("WorkloadEntry", document, Role::Workload, [], labels)
}

fn virtual_service(document: &Document<VirtualService>, node: &Node) -> Concern {
    let namespace = &document.meta.namespace;
    let key = |host: &String| host_key(&full_name(host, namespace, node));
    let hosts: Vec<u64> = document.spec.hosts.iter().map(key).collect();
    let mut uses = Vec::new();
    for http in &document.spec.http {
        uses.extend(http.route.iter().map(|one| key(&one.destination.host)));
        uses.extend(http.mirror.iter().map(|mirror| key(&mirror.host)));
        uses.extend(http.mirrors.iter().map(|mirror| key(&mirror.destination.host)));
    }
    uses.sort_unstable();
    uses.dedup();
    let role =
        if document.spec.hosts.iter().any(|host| host.starts_with('*')) { Role::Everything } else { Role::Routes };
    concern("VirtualService", document, role, hosts, uses)
}

/// The hosts that must be made again when the documents `changed` (old forms and new ones) are others, `all` being the
/// documents before and after. `None`: all of them.
pub fn affected<'a>(
    changed: impl Iterator<Item = &'a Concern>,
    all: impl Iterator<Item = &'a Concern> + Clone,
) -> Option<HashSet<u64>> {
    let mut hosts = HashSet::new();
    let mut labels = HashSet::new();
    for concern in changed {
        match concern.role {
            Role::Everything => return None,
            Role::Workload => labels.extend(concern.uses.iter().copied()),
            Role::Host | Role::Selector | Role::Routes | Role::Nothing => hosts.extend(concern.hosts.iter().copied()),
        }
    }
    if !labels.is_empty() {
        for concern in all.clone().filter(|concern| concern.role == Role::Selector) {
            if concern.uses.iter().any(|label| labels.contains(label)) {
                hosts.extend(concern.hosts.iter().copied());
            }
        }
    }
    // A route depends on the rules and ports of its destinations. Which hosts a wildcard's routes are of, one cannot say.
    if all
        .clone()
        .any(|concern| concern.role == Role::Everything && concern.uses.iter().any(|host| hosts.contains(host)))
    {
        return None;
    }
    let callers: Vec<u64> = all
        .filter(|concern| concern.role == Role::Routes && concern.uses.iter().any(|host| hosts.contains(host)))
        .flat_map(|concern| concern.hosts.iter().copied())
        .collect();
    hosts.extend(callers);
    Some(hosts)
}

/// Whether a document is needed to translate the services of some hosts.
#[derive(Debug)]
pub struct Needed<'s> {
    hosts: &'s HashSet<u64>,
    reached: HashSet<u64>,
    labels: HashSet<u64>,
}

impl<'s> Needed<'s> {
    pub fn new<'a>(hosts: &'s HashSet<u64>, all: impl Iterator<Item = &'a Concern> + Clone) -> Self {
        let mut reached = hosts.clone();
        let about = |concern: &Concern, hosts: &HashSet<u64>| concern.hosts.iter().any(|host| hosts.contains(host));
        for concern in all.clone().filter(|concern| concern.role == Role::Routes && about(concern, hosts)) {
            reached.extend(concern.uses.iter().copied());
        }
        for concern in all.clone().filter(|concern| concern.role == Role::Everything) {
            reached.extend(concern.uses.iter().copied());
        }
        let labels = all
            .filter(|concern| concern.role == Role::Selector && about(concern, &reached))
            .flat_map(|concern| concern.uses.iter().copied())
            .collect();
        Self { hosts, reached, labels }
    }

    pub fn contains(&self, concern: &Concern) -> bool {
        match concern.role {
            Role::Everything => true,
            Role::Host | Role::Selector => concern.hosts.iter().any(|host| self.reached.contains(host)),
            Role::Routes => concern.hosts.iter().any(|host| self.hosts.contains(host)),
            Role::Workload => concern.uses.iter().any(|label| self.labels.contains(label)),
            Role::Nothing => false,
        }
    }
}
