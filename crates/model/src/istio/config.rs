//! All documents of a load, each with its name and where it stands in its file.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config_map::{ConfigMap, DnsSettings, ProxySettings};
use super::destination_rule::DestinationRule;
use super::envoy_filter::EnvoyFilter;
use super::kubernetes::{EndpointSlice, Service};
use super::peer_authentication::PeerAuthentication;
use super::prometheus_rule::PrometheusRule;
use super::service_entry::{ServiceEntry, WorkloadEntry};
use super::virtual_service::VirtualService;

/// The namespace whose documents are for the whole mesh.
pub const ROOT_NAMESPACE: &str = "istio-system";
/// The namespace of a document that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// All documents of a load, by kind, in the order in which they were read.
/// Where Istio takes the oldest, here the first read stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The files, in the order in which they were read.
    pub files: Vec<Arc<str>>,
    pub destination_rules: Vec<Document<DestinationRule>>,
    pub virtual_services: Vec<Document<VirtualService>>,
    pub service_entries: Vec<Document<ServiceEntry>>,
    pub workload_entries: Vec<Document<WorkloadEntry>>,
    pub peer_authentications: Vec<Document<PeerAuthentication>>,
    pub envoy_filters: Vec<Document<EnvoyFilter>>,
    pub prometheus_rules: Vec<Document<PrometheusRule>>,
    pub services: Vec<Document<Service>>,
    pub endpoint_slices: Vec<Document<EndpointSlice>>,
    pub config_maps: Vec<Document<ConfigMap>>,
    /// Documents that say nothing to a mesh. They count nowhere.
    pub passed_over: Vec<PassedOver>,
}

/// A document that was not read: nothing in it could act on a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Empty where the document names none.
    pub kind: String,
    /// Empty where the document names none.
    pub api_version: String,
    pub source: Source,
}

impl Config {
    /// Number of documents of all kinds.
    pub fn len(&self) -> usize {
        self.destination_rules.len()
            + self.virtual_services.len()
            + self.service_entries.len()
            + self.workload_entries.len()
            + self.peer_authentications.len()
            + self.envoy_filters.len()
            + self.prometheus_rules.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.config_maps.len()
    }

    /// No document at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Settings of the proxy for a workload of `namespace`: the mesh-wide ones, then the namespace's own.
    /// Of several that set the same field the later read stands.
    pub fn proxy_settings(&self, namespace: &str) -> ProxySettings {
        self.config_maps_for(namespace)
            .filter_map(|d| d.spec.proxy.clone())
            .fold(ProxySettings::default(), |earlier, later| later.over(earlier))
    }

    /// Settings of the resolver, by the same rule as [`Config::proxy_settings`].
    pub fn dns_settings(&self, namespace: &str) -> DnsSettings {
        self.config_maps_for(namespace)
            .filter_map(|d| d.spec.dns.clone())
            .fold(DnsSettings::default(), |earlier, later| later.over(earlier))
    }

    /// Takes back the last document of a kind: it was read, but a key beside its body was wrong.
    pub(crate) fn pop(&mut self, kind: &str) {
        match kind {
            "DestinationRule" => drop(self.destination_rules.pop()),
            "VirtualService" => drop(self.virtual_services.pop()),
            "ServiceEntry" => drop(self.service_entries.pop()),
            "WorkloadEntry" => drop(self.workload_entries.pop()),
            "PeerAuthentication" => drop(self.peer_authentications.pop()),
            "EnvoyFilter" => drop(self.envoy_filters.pop()),
            "PrometheusRule" => drop(self.prometheus_rules.pop()),
            "Service" => drop(self.services.pop()),
            "EndpointSlice" => drop(self.endpoint_slices.pop()),
            _ => drop(self.config_maps.pop()),
        }
    }

    fn config_maps_for<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Document<ConfigMap>> {
        let of = move |wanted: &'a str| self.config_maps.iter().filter(move |d| d.meta.namespace == wanted);
        of(ROOT_NAMESPACE).chain(of(namespace).filter(move |_| namespace != ROOT_NAMESPACE))
    }
}

/// One document: what it says, what it is called, where it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document<T> {
    pub meta: Metadata,
    pub source: Source,
    /// Lines of the fields.
    pub lines: Lines,
    pub spec: T,
}

impl<T> Document<T> {
    /// The line of a field such as `spec.subsets[0].labels`; when the field is not written there, the line
    /// of the nearest part of the path that is.
    pub fn line(&self, path: &str) -> u32 {
        self.lines.of(path).unwrap_or(self.source.line)
    }

    /// `namespace/name`, as the mesh's tools write it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.meta.namespace, self.meta.name)
    }
}

/// Name, namespace and labels of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub name: String,
    /// `default` when the document names none.
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As it was given to the reader.
    pub file: Arc<str>,
    /// Line of the document's first key, from 1.
    pub line: u32,
    /// Index of the document in its file, from 0.
    pub document: u32,
}

impl Default for Source {
    fn default() -> Self {
        Self { file: Arc::from(""), line: 0, document: 0 }
    }
}

/// Lines of the fields of one document, by a 64-bit hash of the path: 12 bytes a field, no strings kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    hashes: Box<[u64]>,
    lines: Box<[u32]>,
}

/// FNV-1a runs on byte by byte, so a child's hash continues its parent's and no path is ever put together.
pub(crate) const PATH_HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

pub(crate) fn path_hash(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Lines {
    pub(crate) fn from_pairs(mut pairs: Vec<(u64, u32)>) -> Self {
        pairs.sort_unstable();
        Self { hashes: pairs.iter().map(|p| p.0).collect(), lines: pairs.iter().map(|p| p.1).collect() }
    }

    /// The line of `path`, or of the nearest part of it that was written.
    pub fn of(&self, path: &str) -> Option<u32> {
        let mut path = path;
        loop {
            let found = self.hashes.binary_search(&path_hash(PATH_HASH_START, path)).ok();
            if let Some(line) = found.and_then(|i| self.lines.get(i)) {
                return Some(*line);
            }
            let cut = path.rfind(['.', '['])?;
            path = path.get(..cut)?;
        }
    }

    /// Whether exactly this field was written.
    pub fn has(&self, path: &str) -> bool {
        self.hashes.binary_search(&path_hash(PATH_HASH_START, path)).is_ok()
    }
}
