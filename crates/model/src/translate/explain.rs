//! Which documents each resource came from.

use super::matching::any_concerns;
use super::policy::MergedRule;
use super::registry::{Index, Protocol, Service, contains};
use super::{INBOUND, OUTBOUND, ROUTES_ALONE_PORT, inbound, outbound_name, service_inputs};
use crate::istio::{Document, ROOT_NAMESPACE, Source};

/// A document that had a part in a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Such as `DestinationRule`.
    pub kind: &'static str,
    /// `namespace/name`.
    pub id: String,
    /// File and line.
    pub source: Source,
}

impl Input {
    pub(super) fn of<T>(kind: &'static str, document: &Document<T>) -> Self {
        Self { kind, id: document.id(), source: document.source.clone() }
    }
}

/// A resource and the documents that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// `listener`, `cluster` or `virtual_host`.
    pub resource: &'static str,
    pub name: String,
    /// The service first.
    pub inputs: Vec<Input>,
}

/// Where every listener, cluster and virtual host came from; a cluster's endpoints are among its own documents. What patches did is
/// in their reports.
pub fn explain(index: &Index<'_>) -> Vec<Explanation> {
    let mut all = listeners(index);
    for service in &index.services {
        let inputs = service_inputs(index, &service.host);
        let mut with_endpoints = inputs.clone();
        with_endpoints.extend(endpoints(index, service));
        let rule = MergedRule::of(index, &service.host);
        for port in &service.ports {
            let subsets = rule.subsets.iter().map(|subset| subset.name.as_str());
            for subset in std::iter::once("").chain(subsets) {
                let name = outbound_name(port.number, subset, &service.host);
                all.push(Explanation { resource: "cluster", name, inputs: with_endpoints.clone() });
            }
            if port.protocol != Protocol::Opaque {
                all.push(Explanation {
                    resource: "virtual_host",
                    name: format!("{}:{}", service.host, port.number),
                    inputs: inputs.clone(),
                });
            }
        }
    }
    let alone = index.hosts_of_routes_alone();
    for (host, document) in alone.filter(|(_, one)| any_concerns(&one.spec, index.node, ROUTES_ALONE_PORT)) {
        all.push(Explanation {
            resource: "virtual_host",
            name: format!("{host}:{ROUTES_ALONE_PORT}"),
            inputs: vec![Input::of("VirtualService", document)],
        });
    }
    for (name, host) in inbound::clusters_and_hosts(index) {
        let mut inputs: Vec<Input> = index.service(&host).map(of_service).into_iter().collect();
        inputs.extend(index.destination_rules(&host).into_iter().map(|one| Input::of("DestinationRule", one)));
        all.push(Explanation { resource: "cluster", name, inputs });
    }
    all
}

pub(super) fn of_service(service: &Service<'_>) -> Input {
    Input {
        kind: service.kind,
        id: format!("{}/{}", service.meta.namespace, service.meta.name),
        source: service.source.clone(),
    }
}

/// The settings of the proxy decide about both; the services that the workload serves, and who may call them, about the inbound.
fn listeners(index: &Index<'_>) -> Vec<Explanation> {
    let (config, own) = (index.config, index.node.namespace.as_str());
    let is_for = |namespace: &str| namespace == own || namespace == ROOT_NAMESPACE;
    let maps = config.config_maps.iter().filter(|one| one.spec.proxy.is_some() && is_for(&one.meta.namespace));
    let settings: Vec<Input> = maps.map(|one| Input::of("ConfigMap", one)).collect();
    let mut accepts: Vec<Input> = inbound::served_services(index).map(of_service).collect();
    if !accepts.is_empty() {
        let policies = config.peer_authentications.iter().filter(|one| is_for(&one.meta.namespace));
        let mine = policies.filter(|one| {
            one.spec.selector.as_ref().is_none_or(|selector| contains(&index.node.labels, &selector.match_labels))
        });
        accepts.extend(mine.map(|one| Input::of("PeerAuthentication", one)));
        accepts.extend(settings.clone());
    }
    let mut all = vec![Explanation { resource: "listener", name: OUTBOUND.to_owned(), inputs: settings }];
    if !accepts.is_empty() {
        all.push(Explanation { resource: "listener", name: INBOUND.to_owned(), inputs: accepts });
    }
    all
}

/// The documents that name a service's endpoints, where they are not its own.
fn endpoints(index: &Index<'_>, service: &Service<'_>) -> Vec<Input> {
    let config = index.config;
    let in_namespace = |namespace: &str| namespace == service.namespace;
    if service.kind == "Service" {
        let slices = config.endpoint_slices.iter().filter(|slice| {
            in_namespace(&slice.meta.namespace) && slice.service_name() == Some(service.meta.name.as_str())
        });
        return slices.map(|slice| Input::of("EndpointSlice", slice)).collect();
    }
    let entry = config.service_entries.iter().find(|one| one.source == *service.source);
    let Some(selector) = entry.and_then(|entry| entry.spec.workload_selector.as_ref()) else { return Vec::new() };
    let chosen = config
        .workload_entries
        .iter()
        .filter(|one| in_namespace(&one.meta.namespace) && contains(&one.spec.labels, &selector.labels));
    chosen.map(|one| Input::of("WorkloadEntry", one)).collect()
}
