//! Services as one proxy sees them, whichever documents they come from, with everything found by name in constant time.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::node::Node;
use crate::istio::{
    self, Config, DestinationRule, Document, EndpointPort, Locality, Metadata, ROOT_NAMESPACE, Resolution,
    ServiceLocation, Source, TargetPort, TransportProtocol, VirtualService, WorkloadEntry,
};

/// Label by which an endpoint says that a sidecar of the mesh stands before it.
pub const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";
const EXPORT_ANNOTATION: &str = "networking.istio.io/exportTo";

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, and what is not said: the outbound listener speaks HTTP only.
    Http,
    /// HTTP/2, gRPC included.
    Http2,
    /// Anything else: clusters are made, routes are not.
    Opaque,
}

impl Protocol {
    /// From `appProtocol` or `protocol`, else from the port's name up to the first dash, as Istio does.
    pub(crate) fn of(stated: Option<&str>, name: &str) -> Self {
        match Self::word(stated, name).to_ascii_lowercase().as_str() {
            "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" | "grpc-web" => Self::Http2,
            "tcp" | "tls" | "https" | "mongo" | "redis" | "mysql" | "udp" => Self::Opaque,
            _ => Self::Http,
        }
    }

    /// The word that says what is spoken.
    pub(crate) fn word<'w>(stated: Option<&'w str>, name: &'w str) -> &'w str {
        stated.unwrap_or_else(|| name.split('-').next().unwrap_or(name))
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub name: String,
    pub protocol: Protocol,
    /// Port of the application.
    pub target: Option<u16>,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Workload<'a> {
    /// Empty where nothing names it.
    name: &'a str,
    pub(super) address: Cow<'a, str>,
    pub(super) labels: Labels<'a>,
    pub(super) locality: Locality,
    pub(super) weight: u32,
    pub(super) service_account: Option<&'a str>,
    pub(super) namespace: &'a str,
    ports: Ports<'a>,
}

/// The endpoints of a slice share their labels; a copy for each would cost more than all else of an index.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Labels<'a> {
    Own(&'a BTreeMap<String, String>),
    Shared(Arc<BTreeMap<String, String>>),
}

impl std::ops::Deref for Labels<'_> {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Own(labels) => labels,
            Self::Shared(labels) => labels,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ports<'a> {
    Slice(&'a [EndpointPort]),
    Entry(&'a BTreeMap<String, u16>),
}

impl<'a> Workload<'a> {
    /// A DNS name that stands for its endpoints.
    pub(super) fn by_name(name: &'a str, namespace: &'a str) -> Self {
        static NONE: BTreeMap<String, u16> = BTreeMap::new();
        Self {
            name: "",
            address: Cow::Borrowed(name),
            labels: Labels::Shared(Arc::default()),
            locality: Locality::default(),
            weight: 1,
            service_account: None,
            namespace,
            ports: Ports::Entry(&NONE),
        }
    }

    /// Its port behind a port of the service; `None` when it has none.
    pub(super) fn port(&self, port: &Port) -> Option<u16> {
        match self.ports {
            Ports::Slice(ports) => {
                // A UDP port may have the same name; nothing here speaks UDP.
                let mut tcp = ports.iter().filter(|p| matches!(p.protocol, None | Some(TransportProtocol::Tcp)));
                // As in Kubernetes: by the name, which an only port need not have, on both sides.
                tcp.find(|p| p.name.as_deref().unwrap_or_default() == port.name).map(|p| p.port)
            }
            Ports::Entry(ports) => Some(ports.get(&port.name).copied().or(port.target).unwrap_or(port.number)),
        }
    }

    fn has_ip(&self) -> bool {
        self.address.parse::<std::net::IpAddr>().is_ok()
    }

    /// Whether a slice names it. Kubernetes moves endpoints from slice to slice, and then both name them.
    pub(super) fn is_of_slice(&self) -> bool {
        matches!(self.ports, Ports::Slice(_))
    }

    /// Who it is, as Istio writes it: name, namespace, canonical service, its revision, and cluster (here none), with `;`.
    pub(super) fn description(&self) -> Option<String> {
        let label = |keys: [&str; 2]| keys.into_iter().find_map(|key| self.labels.get(key)).map(String::as_str);
        let service = label(["service.istio.io/canonical-name", "app"]);
        let revision = label(["service.istio.io/canonical-revision", "version"]);
        if self.name.is_empty() && service.is_none() && revision.is_none() {
            return None;
        }
        let (service, revision) = (service.unwrap_or(self.name), revision.unwrap_or("latest"));
        Some(format!("{};{};{service};{revision};", self.name, self.namespace))
    }

    /// Whether a sidecar of the mesh stands before it.
    pub(super) fn in_mesh(&self) -> bool {
        self.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio")
    }
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Service<'a> {
    /// Full name.
    pub(super) host: String,
    /// First part of the name for services of the cluster, else the full name.
    pub(super) name: String,
    pub(super) namespace: &'a str,
    /// Virtual addresses.
    pub(super) addresses: Vec<&'a str>,
    pub(super) ports: Vec<Port>,
    pub(super) resolution: Resolution,
    pub(super) external: bool,
    pub(super) endpoints: Vec<Workload<'a>>,
    /// The name to ask DNS for where no endpoint is named; unset: `host`.
    pub(super) dns_name: Option<&'a str>,
    /// Endpoints of the client's own zone first.
    pub(super) near_first: bool,
    pub(super) subject_alt_names: &'a [String],
    pub(super) kind: &'static str,
    pub(super) meta: &'a Metadata,
    pub(super) source: &'a Source,
}

/// All documents, ready for look-ups by one proxy. Building it is linear in their number and cheap beside translation.
#[derive(Debug)]
pub struct Index<'a> {
    pub(super) config: &'a Config,
    pub(super) node: &'a Node,
    pub(super) services: Vec<Service<'a>>,
    by_host: HashMap<String, usize>,
    rules: HashMap<String, Vec<&'a Document<DestinationRule>>>,
    wildcard_rules: Vec<(String, &'a Document<DestinationRule>)>,
    routes: HashMap<String, &'a Document<VirtualService>>,
    wildcard_routes: Vec<(String, &'a Document<VirtualService>)>,
}

impl<'a> Index<'a> {
    /// Indexes what `node` may see.
    pub fn new(config: &'a Config, node: &'a Node) -> Self {
        let mut index = Self {
            config,
            node,
            services: Vec::with_capacity(config.services.len() + config.service_entries.len()),
            by_host: HashMap::with_capacity(config.services.len() + config.service_entries.len()),
            rules: HashMap::with_capacity(config.destination_rules.len()),
            wildcard_rules: Vec::new(),
            routes: HashMap::with_capacity(config.virtual_services.len()),
            wildcard_routes: Vec::new(),
        };
        index.add_services();
        index.add_service_entries();
        for document in &config.destination_rules {
            let host = full_name(&document.spec.host, &document.meta.namespace, node);
            match host.strip_prefix('*') {
                Some(suffix) => index.wildcard_rules.push((suffix.to_owned(), document)),
                None => index.rules.entry(host).or_default().push(document),
            }
        }
        for document in &config.virtual_services {
            let spec = &document.spec;
            let sees = visible(&spec.export_to, &document.meta.namespace, node);
            let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh");
            if !sees || !mesh || spec.http.is_empty() {
                continue;
            }
            for host in &spec.hosts {
                let host = full_name(host, &document.meta.namespace, node);
                match host.strip_prefix('*') {
                    Some(suffix) => index.wildcard_routes.push((suffix.to_owned(), document)),
                    None => {
                        index.routes.entry(host).or_insert(document);
                    }
                }
            }
        }
        index
    }

    /// Full names of all services, in the order of their documents.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|service| service.host.as_str())
    }

    pub(super) fn service(&self, host: &str) -> Option<&Service<'a>> {
        self.services.get(*self.by_host.get(host)?)
    }

    /// The routes in force for a host: those that name it, else those of the longest wildcard.
    pub(super) fn virtual_service(&self, host: &str) -> Option<&'a Document<VirtualService>> {
        self.routes
            .get(host)
            .copied()
            .or_else(|| longest(self.wildcard_routes.iter().map(|(s, d)| (s.as_str(), *d)), host))
    }

    /// Hosts and wildcards that only a VirtualService names.
    pub(super) fn hosts_of_routes_alone(&self) -> impl Iterator<Item = (Cow<'_, str>, &'a Document<VirtualService>)> {
        let mut alone: Vec<(Cow<'_, str>, &'a Document<VirtualService>)> = self
            .routes
            .iter()
            .filter(|(host, _)| !self.by_host.contains_key(*host))
            .map(|(host, document)| (Cow::Borrowed(host.as_str()), *document))
            .collect();
        alone.extend(
            self.wildcard_routes.iter().map(|(suffix, document)| (Cow::Owned(format!("*{suffix}")), *document)),
        );
        // A map's order differs from run to run; resources must not.
        alone.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Of several documents for one wildcard the first read stands.
        alone.dedup_by(|(later, _), (first, _)| later == first);
        alone.into_iter()
    }

    /// The rules in force for a host, in the order in which they merge: those of the proxy's namespace, else of the service's,
    /// else of the root namespace; those that name the host, else those of the longest wildcard.
    pub(super) fn destination_rules(&self, host: &str) -> Vec<&'a Document<DestinationRule>> {
        let service_namespace = self.service(host).map(|service| service.namespace);
        let tiers = [Some(self.node.namespace.as_str()), service_namespace, Some(ROOT_NAMESPACE)];
        for namespace in tiers.into_iter().flatten() {
            let sees = |document: &&Document<DestinationRule>| {
                let selects = document.spec.workload_selector.is_some();
                document.meta.namespace == namespace
                    && visible(&document.spec.export_to, namespace, self.node)
                    // A rule for chosen workloads stays in its namespace, as in Istio (pilot `push_context.go`).
                    && (!selects || namespace == self.node.namespace)
                    && document
                        .spec
                        .workload_selector
                        .as_ref()
                        .is_none_or(|s| contains(&self.node.labels, &s.match_labels))
            };
            let mut found: Vec<_> = self.rules.get(host).into_iter().flatten().copied().filter(sees).collect();
            if found.is_empty() {
                let wildcards = self.wildcard_rules.iter().map(|(suffix, document)| (suffix.as_str(), *document));
                let Some(winner) = longest(wildcards.filter(|(_, document)| sees(document)), host) else { continue };
                found = self
                    .wildcard_rules
                    .iter()
                    .map(|(_, document)| *document)
                    .filter(|document| sees(document) && document.spec.host == winner.spec.host)
                    .collect();
            }
            // A rule for this workload beats the rules for all; only rules with the same selector merge.
            let selector = found.iter().find_map(|document| document.spec.workload_selector.as_ref());
            found.retain(|document| document.spec.workload_selector.as_ref() == selector);
            return found;
        }
        Vec::new()
    }

    fn add(&mut self, service: Service<'a>) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.by_host.entry(service.host.clone()) {
            entry.insert(self.services.len());
            self.services.push(service);
        }
    }

    fn add_services(&mut self) {
        let mut slices: HashMap<(&str, &str), Vec<&'a Document<istio::EndpointSlice>>> = HashMap::new();
        for slice in &self.config.endpoint_slices {
            if let Some(name) = slice.service_name() {
                slices.entry((slice.meta.namespace.as_str(), name)).or_default().push(slice);
            }
        }
        for document in &self.config.services {
            let meta = &document.meta;
            let export: Vec<String> = meta
                .annotations
                .get(EXPORT_ANNOTATION)
                .map(|text| text.split(',').map(|w| w.trim().to_owned()).collect())
                .unwrap_or_default();
            if !visible(&export, &meta.namespace, self.node) {
                continue;
            }
            let spec = &document.spec;
            let own = slices.get(&(meta.namespace.as_str(), meta.name.as_str())).map_or(&[][..], Vec::as_slice);
            let all = spec.publish_not_ready_addresses == Some(true);
            let mut endpoints = from_slices(own, |endpoint| all || endpoint.is_ready());
            if endpoints.is_empty() {
                // While every endpoint ends, those that still serve get the requests, as kube-proxy does (KEP-1669).
                endpoints = from_slices(own, istio::Endpoint::serves_while_ending);
            }
            // As Istio: the name is asked of DNS, and mesh mTLS is not spoken with what is outside.
            let alias = spec.external_name.as_deref().map(|name| Workload::by_name(name, &meta.namespace));
            let external = alias.is_some();
            let service = Service {
                host: cluster_local(&meta.name, &meta.namespace, self.node),
                name: meta.name.clone(),
                namespace: &meta.namespace,
                addresses: spec
                    .cluster_ip
                    .iter()
                    .chain(&spec.cluster_ips)
                    .map(String::as_str)
                    .filter(|ip| !ip.is_empty() && *ip != "None")
                    .fold(Vec::new(), |mut all, ip| {
                        if !all.contains(&ip) {
                            all.push(ip);
                        }
                        all
                    }),
                ports: spec
                    .ports
                    .iter()
                    .filter(|port| matches!(port.protocol, None | Some(TransportProtocol::Tcp)))
                    .map(|port| {
                        let name = port.name.clone().unwrap_or_default();
                        Port {
                            number: port.port,
                            protocol: Protocol::of(port.app_protocol.as_deref(), &name),
                            name,
                            target: match &port.target_port {
                                Some(TargetPort::Number(number)) => Some(*number),
                                _ => None,
                            },
                        }
                    })
                    .collect(),
                resolution: if external { Resolution::Dns } else { Resolution::Static },
                external,
                endpoints: match alias {
                    Some(alias) => vec![alias],
                    None => endpoints,
                },
                dns_name: None,
                near_first: spec.traffic_distribution.is_some(),
                subject_alt_names: &[],
                kind: "Service",
                meta,
                source: &document.source,
            };
            self.add(service);
        }
    }

    fn add_service_entries(&mut self) {
        let selectable = Selectable::new(self.config);
        for document in &self.config.service_entries {
            let (meta, spec) = (&document.meta, &document.spec);
            if !visible(&spec.export_to, &meta.namespace, self.node) {
                continue;
            }
            let endpoints: Vec<Workload<'a>> = match &spec.workload_selector {
                Some(selector) => {
                    let mut chosen = selectable.select(&meta.namespace, &selector.labels);
                    // A name means something to DNS alone; Istio too leaves such entries out (`DNSServiceEntryOnly`).
                    chosen.retain(|workload| spec.resolution.unwrap_or_default().asks_dns() || workload.has_ip());
                    chosen
                }
                None => spec.endpoints.iter().filter_map(|entry| from_entry("", entry, &meta.namespace)).collect(),
            };
            let ports: Vec<Port> = spec
                .ports
                .iter()
                .map(|port| Port {
                    number: port.number,
                    name: port.name.clone(),
                    protocol: Protocol::of(port.protocol.as_deref(), &port.name),
                    target: port.target_port,
                })
                .collect();
            for written in &spec.hosts {
                let suffix = format!(".{}.svc.{}", meta.namespace, self.node.mesh.cluster_domain);
                let host = full_name(written, &meta.namespace, self.node);
                self.add(Service {
                    name: host.strip_suffix(&suffix).unwrap_or(&host).to_owned(),
                    host,
                    namespace: &meta.namespace,
                    addresses: spec.addresses.iter().map(String::as_str).collect(),
                    ports: ports.clone(),
                    resolution: spec.resolution.unwrap_or(Resolution::None),
                    external: spec.location.unwrap_or_default() == ServiceLocation::MeshExternal,
                    endpoints: endpoints.clone(),
                    // Where there is no Kubernetes, DNS knows a short name as it is written.
                    dns_name: Some(written),
                    near_first: false,
                    subject_alt_names: &spec.subject_alt_names,
                    kind: "ServiceEntry",
                    meta,
                    source: &document.source,
                });
            }
        }
    }
}

/// WorkloadEntries by label. A thousand selectors over ten thousand entries would otherwise be ten million comparisons.
struct Selectable<'a> {
    entries: &'a [Document<WorkloadEntry>],
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
}

impl<'a> Selectable<'a> {
    fn new(config: &'a Config) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, document) in config.workload_entries.iter().enumerate() {
            for (key, value) in &document.spec.labels {
                by_label.entry((document.meta.namespace.as_str(), key.as_str(), value.as_str())).or_default().push(at);
            }
        }
        Self { entries: &config.workload_entries, by_label }
    }

    fn select(&self, namespace: &'a str, labels: &'a BTreeMap<String, String>) -> Vec<Workload<'a>> {
        let lists = labels.iter().map(|(key, value)| {
            self.by_label.get(&(namespace, key.as_str(), value.as_str())).map_or(&[][..], Vec::as_slice)
        });
        let shortest = lists.min_by_key(|list| list.len());
        let candidates: Box<dyn Iterator<Item = &Document<WorkloadEntry>>> = match shortest {
            Some(list) => Box::new(list.iter().filter_map(|at| self.entries.get(*at))),
            None => Box::new(self.entries.iter()),
        };
        candidates
            .filter(|entry| entry.meta.namespace == namespace && contains(&entry.spec.labels, labels))
            .filter_map(|entry| from_entry(&entry.meta.name, &entry.spec, namespace))
            .collect()
    }
}

fn from_slices<'a>(
    slices: &[&'a Document<istio::EndpointSlice>],
    wanted: impl Fn(&istio::Endpoint) -> bool,
) -> Vec<Workload<'a>> {
    let mut workloads = Vec::new();
    for slice in slices {
        let labels = Arc::new(slice.endpoint_labels());
        let chosen = slice.spec.endpoints.iter().filter(|endpoint| wanted(endpoint));
        workloads.extend(chosen.filter_map(|endpoint| {
            Some(Workload {
                name: "",
                address: Cow::Owned(crate::ip::text(*endpoint.addresses.first()?)),
                labels: Labels::Shared(Arc::clone(&labels)),
                locality: slice.locality(endpoint),
                weight: 1,
                service_account: None,
                namespace: &slice.meta.namespace,
                ports: Ports::Slice(&slice.spec.ports),
            })
        }));
    }
    workloads
}

fn from_entry<'a>(name: &'a str, entry: &'a WorkloadEntry, namespace: &'a str) -> Option<Workload<'a>> {
    Some(Workload {
        name,
        address: Cow::Borrowed(entry.address.as_deref().filter(|address| !address.is_empty())?),
        labels: Labels::Own(&entry.labels),
        locality: entry.locality.clone().unwrap_or_default(),
        weight: entry.weight.filter(|weight| *weight > 0).unwrap_or(1),
        service_account: entry.service_account.as_deref().filter(|account| !account.is_empty()),
        namespace,
        ports: Ports::Entry(&entry.ports),
    })
}

/// `user-service` in `default` is `user-service.default.svc.<domain>`; a name with a dot, a wildcard or an address is full. The
/// dot at the end of an absolute name is none of it.
pub(super) fn full_name(host: &str, namespace: &str, node: &Node) -> String {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.contains(['.', '*', ':']) { name } else { cluster_local(&name, namespace, node) }
}

/// The full name of a service of the cluster. Joined and not formatted: made several times for each of thousands of services.
pub(super) fn cluster_local(name: &str, namespace: &str, node: &Node) -> String {
    [name, ".", namespace, ".svc.", &node.mesh.cluster_domain].concat()
}

/// Whether a proxy sees a document of `namespace` that is exported so. As in Istio, its own namespace is no exception: a document
/// that is exported to others alone, or to nobody (`~`), is not for the proxies beside it.
fn visible(export_to: &[String], namespace: &str, node: &Node) -> bool {
    let to = |word: &String| word == "*" || *word == node.namespace || (word == "." && namespace == node.namespace);
    export_to.is_empty() || export_to.iter().any(to)
}

/// Whether `labels` has all of `wanted`.
pub(super) fn contains(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The first of those with the longest suffix of `host`.
fn longest<'a, T>(candidates: impl Iterator<Item = (&'a str, T)>, host: &str) -> Option<T> {
    let mut best: Option<(usize, T)> = None;
    for (suffix, value) in candidates {
        if host.ends_with(suffix) && best.as_ref().is_none_or(|(length, _)| suffix.len() > *length) {
            best = Some((suffix.len(), value));
        }
    }
    best.map(|(_, value)| value)
}
