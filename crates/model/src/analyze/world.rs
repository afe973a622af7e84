//! The services and endpoints that the documents speak of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use crate::istio::{Config, DestinationRule, Document, Locality, MtlsMode, ROOT_NAMESPACE, Resolution, WorkloadEntry};

/// Hosts by full name.
pub(super) struct World<'a> {
    pub(super) hosts: HashMap<String, Host>,
    /// Rules by the full name of their host, as read.
    pub(super) rules: Vec<(String, Vec<&'a Document<DestinationRule>>)>,
    rule_index: HashMap<String, usize>,
    /// Suffixes of wildcard hosts.
    pub(super) wildcards: Vec<String>,
    namespace_mtls: HashMap<String, MtlsMode>,
    mesh_mtls: MtlsMode,
}

#[derive(Default)]
pub(super) struct Host {
    pub(super) namespace: String,
    pub(super) ports: Vec<u16>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Endpoints are found by name at run time, so their number is not known here.
    pub(super) open: bool,
}

impl Host {
    pub(super) fn ports_text(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
    }
}

pub(super) struct Endpoint {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) locality: Locality,
}

/// The end of the names of the cluster's own services.
const IN_CLUSTER: &str = ".svc.cluster.local";

/// The full name of a host that a document of `namespace` writes.
pub(super) fn full_name(host: &str, namespace: &str) -> String {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.contains(['.', '*', ':']) { name } else { format!("{name}.{namespace}{IN_CLUSTER}") }
}

pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether an endpoint is named, not addressed: only DNS makes something of it.
pub(super) fn has_name(entry: &WorkloadEntry) -> bool {
    entry.address.as_deref().is_some_and(|address| !address.is_empty() && address.parse::<IpAddr>().is_err())
}

impl<'a> World<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        let mut world = Self {
            hosts: HashMap::new(),
            rules: Vec::new(),
            rule_index: HashMap::new(),
            wildcards: Vec::new(),
            namespace_mtls: HashMap::new(),
            mesh_mtls: MtlsMode::Unset,
        };
        world.add_services(config);
        world.add_entries(config);
        for document in &config.destination_rules {
            let host = full_name(&document.spec.host, &document.meta.namespace);
            // Rules of different namespaces do not merge, nor those for different workloads: for whom each acts depends on the
            // client.
            let selector = document.spec.workload_selector.as_ref().map(|selector| &selector.match_labels);
            let key = format!("{}|{host}|{selector:?}", document.meta.namespace);
            let next = world.rules.len();
            let index = *world.rule_index.entry(key).or_insert(next);
            match world.rules.get_mut(index) {
                Some((_, list)) => list.push(document),
                None => world.rules.push((host, vec![document])),
            }
        }
        for document in &config.peer_authentications {
            if document.spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty()) {
                continue;
            }
            let mode = document.spec.mtls.as_ref().and_then(|m| m.mode).unwrap_or_default();
            if document.meta.namespace == ROOT_NAMESPACE {
                if world.mesh_mtls == MtlsMode::Unset {
                    world.mesh_mtls = mode;
                }
            } else {
                world.namespace_mtls.entry(document.meta.namespace.clone()).or_insert(mode);
            }
        }
        world
    }

    fn add_services(&mut self, config: &Config) {
        for document in &config.services {
            let host = full_name(&document.meta.name, &document.meta.namespace);
            let ports = document.spec.ports.iter().map(|p| p.port).collect();
            let namespace = document.meta.namespace.clone();
            let open = document.spec.external_name.is_some();
            self.hosts.entry(host).or_insert(Host { namespace, ports, open, ..Host::default() });
        }
        for slice in &config.endpoint_slices {
            let Some(service) = slice.service_name() else { continue };
            let Some(host) = self.hosts.get_mut(&full_name(service, &slice.meta.namespace)) else { continue };
            let labels = slice.endpoint_labels();
            for endpoint in &slice.spec.endpoints {
                host.endpoints.push(Endpoint { labels: labels.clone(), locality: slice.locality(endpoint) });
            }
        }
    }

    fn add_entries(&mut self, config: &Config) {
        for document in &config.service_entries {
            let spec = &document.spec;
            let mut endpoints: Vec<(&BTreeMap<String, String>, Locality)> = Vec::new();
            for endpoint in &spec.endpoints {
                endpoints.push((&endpoint.labels, endpoint.locality.clone().unwrap_or_default()));
            }
            if let Some(selector) = &spec.workload_selector {
                let chosen = config.workload_entries.iter().filter(|w| {
                    w.meta.namespace == document.meta.namespace
                        && has_labels(&w.spec.labels, &selector.labels)
                        && (spec.resolution.unwrap_or_default().asks_dns() || !has_name(&w.spec))
                });
                endpoints.extend(chosen.map(|w| (&w.spec.labels, w.spec.locality.clone().unwrap_or_default())));
            }
            let resolution = spec.resolution.unwrap_or_default();
            let open = resolution == Resolution::None || (endpoints.is_empty() && resolution != Resolution::Static);
            for name in &spec.hosts {
                let host = full_name(name, &document.meta.namespace);
                if let Some(suffix) = host.strip_prefix('*') {
                    self.wildcards.push(suffix.to_owned());
                    continue;
                }
                let found = Host {
                    namespace: document.meta.namespace.clone(),
                    ports: spec.ports.iter().map(|p| p.number).collect(),
                    endpoints: endpoints
                        .iter()
                        .map(|(labels, locality)| Endpoint { labels: (*labels).clone(), locality: locality.clone() })
                        .collect(),
                    open,
                };
                self.hosts.entry(host).or_insert(found);
            }
        }
    }

    /// Whether anything was read that has a host.
    pub(super) fn knows_hosts(&self) -> bool {
        !self.hosts.is_empty() || !self.wildcards.is_empty()
    }

    /// Whether one can say of `host` that it is unknown: services of its sort were read at all. A folder of rules alone, or of
    /// rules with a few outside hosts, leaves the mesh's own services to others.
    pub(super) fn knows_hosts_like(&self, host: &str) -> bool {
        let is_inside = |host: &str| host.ends_with(IN_CLUSTER);
        self.hosts.keys().chain(&self.wildcards).any(|known| is_inside(known) || !is_inside(host))
    }

    pub(super) fn is_known(&self, host: &str) -> bool {
        match host.strip_prefix('*') {
            Some(suffix) => {
                self.hosts.keys().any(|known| known.ends_with(suffix))
                    || self.wildcards.iter().any(|w| w.ends_with(suffix))
            }
            None => {
                self.hosts.contains_key(host) || self.wildcards.iter().any(|suffix| host.ends_with(suffix.as_str()))
            }
        }
    }

    /// Whether requests can be sent there: by its own name, since a ServiceEntry's wildcard is one destination, and not one for
    /// each name below it.
    pub(super) fn is_destination(&self, host: &str) -> bool {
        match host.strip_prefix('*') {
            Some(suffix) => self.wildcards.iter().any(|known| known == suffix),
            None => self.hosts.contains_key(host),
        }
    }

    /// Names of the subsets that any rule defines for a host, or nothing when there is no rule.
    pub(super) fn subsets(&self, host: &str) -> HashSet<&'a str> {
        let matches = |rule_host: &str| match rule_host.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => rule_host == host,
        };
        let rules = self.rules.iter().filter(|(rule_host, _)| matches(rule_host)).flat_map(|(_, list)| list);
        rules.flat_map(|d| &d.spec.subsets).map(|s| s.name.as_str()).collect()
    }

    /// The mode that workloads of a namespace ask for, selectors left aside.
    pub(super) fn mtls(&self, namespace: &str) -> MtlsMode {
        match self.namespace_mtls.get(namespace) {
            None | Some(MtlsMode::Unset) => self.mesh_mtls,
            Some(mode) => *mode,
        }
    }
}
