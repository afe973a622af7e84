//! Services, endpoints and PeerAuthentications among each other.

use std::collections::{BTreeMap, HashMap};

use super::world::{World, full_name, has_labels, has_name};
use super::{Findings, codes};
use crate::istio::{
    Config, Document, EndpointSlice, InternalTrafficPolicy, ROOT_NAMESPACE, Resolution, SERVICE_NAME_LABEL, Service,
    ServiceEntryPort, SessionAffinity, TargetPort, TrafficDistribution, TransportProtocol,
};
use crate::translate::{Node, Protocol};

pub(super) fn check(config: &Config, world: &World<'_>, findings: &mut Findings) {
    for document in &config.endpoint_slices {
        let code = &codes::SLICE_WITHOUT_SERVICE;
        let reason = match document.service_name() {
            None => format!("the label {SERVICE_NAME_LABEL} is missing"),
            Some(name) if !world.hosts.contains_key(&full_name(name, &document.meta.namespace)) => {
                format!("there is no Service {name} in {}", document.meta.namespace)
            }
            Some(_) => continue,
        };
        findings.add(code, "EndpointSlice", document, "metadata.labels", reason, code.mend.to_owned());
    }
    without_address(config, findings);
    names_without_dns(config, findings);
    ports_of_slices(config, findings);
    not_carried(config, findings);
    redirected_only(config, findings);
    selectors(config, findings);
    let mut seen: HashMap<String, String> = HashMap::new();
    for document in &config.services {
        idle_fields(document, findings);
        let host = full_name(&document.meta.name, &document.meta.namespace);
        empty(&host, world, |reason, mend| {
            findings.add(&codes::SERVICE_WITHOUT_ENDPOINTS, "Service", document, "metadata.name", reason, mend);
        });
        seen.insert(host, format!("{}:{}", document.source.file, document.source.line));
    }
    for document in &config.service_entries {
        for (index, name) in document.spec.hosts.iter().enumerate() {
            let field = format!("spec.hosts[{index}]");
            let host = full_name(name, &document.meta.namespace);
            empty(&host, world, |reason, mend| {
                findings.add(&codes::SERVICE_WITHOUT_ENDPOINTS, "ServiceEntry", document, &field, reason, mend);
            });
            let place = format!("{}:{}", document.source.file, document.source.line);
            if let Some(first) = seen.get(&host).filter(|first| **first != place) {
                let reason = format!("{host} is already defined at {first}; that one stands");
                findings.add(
                    &codes::HOST_TWICE,
                    "ServiceEntry",
                    document,
                    &field,
                    reason,
                    codes::HOST_TWICE.mend.to_owned(),
                );
            } else {
                seen.insert(host, place);
            }
        }
    }
    type Key<'a> = (&'a str, Vec<(&'a String, &'a String)>);
    let mut first_of: HashMap<Key<'_>, &str> = HashMap::new();
    for document in &config.peer_authentications {
        let selector: Vec<_> = document.spec.selector.iter().flat_map(|selector| &selector.match_labels).collect();
        let namespace = document.meta.namespace.as_str();
        if let Some(first) = first_of.get(&(namespace, selector.clone())) {
            let same = if !selector.is_empty() { " for the same selector" } else { "" };
            let reason = format!(
                "in {namespace} the PeerAuthentication {first} stands{same}, which was read first; this one has no effect"
            );
            let code = &codes::SECOND_PEER_AUTHENTICATION;
            findings.add(code, "PeerAuthentication", document, "metadata.name", reason, code.mend.to_owned());
        } else {
            first_of.insert((namespace, selector), &document.meta.name);
        }
    }
}

/// Endpoints that only a gateway of another network could reach.
fn without_address(config: &Config, findings: &mut Findings) {
    let code = &codes::ENDPOINT_WITHOUT_ADDRESS;
    let reason = |network: Option<&str>| {
        format!(
            "the endpoint names the network {} and no address; there is one network here, so it is left out",
            network.unwrap_or_default()
        )
    };
    for document in config.workload_entries.iter().filter(|document| document.spec.address.is_none()) {
        let reason = reason(document.spec.network.as_deref());
        findings.add(code, "WorkloadEntry", document, "spec.network", reason, code.mend.to_owned());
    }
    for document in &config.service_entries {
        for (index, endpoint) in document.spec.endpoints.iter().enumerate().filter(|(_, one)| one.address.is_none()) {
            let field = format!("spec.endpoints[{index}]");
            let reason = reason(endpoint.network.as_deref());
            findings.add(code, "ServiceEntry", document, &field, reason, code.mend.to_owned());
        }
    }
}

/// Endpoints with a name that are chosen by a service that does not ask DNS.
fn names_without_dns(config: &Config, findings: &mut Findings) {
    let code = &codes::NAME_WITHOUT_DNS;
    for entry in config.workload_entries.iter().filter(|entry| has_name(&entry.spec)) {
        let chooses = config.service_entries.iter().find(|service| {
            let selector = service.spec.workload_selector.as_ref();
            service.meta.namespace == entry.meta.namespace
                && !service.spec.resolution.unwrap_or_default().asks_dns()
                && selector.is_some_and(|selector| has_labels(&entry.spec.labels, &selector.labels))
        });
        if let Some(service) = chooses {
            let reason = format!(
                "{} is a name, and the ServiceEntry {}, which selects this entry, has resolution {}: the entry is left out",
                entry.spec.address.as_deref().unwrap_or_default(),
                service.meta.name,
                service.spec.resolution.unwrap_or_default().as_str()
            );
            findings.add(code, "WorkloadEntry", entry, "spec.address", reason, code.mend.to_owned());
        }
    }
}

/// Ports of Services of which no slice says where the endpoints have them, or where the application has them behind a sidecar.
fn ports_of_slices(config: &Config, findings: &mut Findings) {
    let inbound = Node::default().inbound.port();
    let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in config.endpoint_slices.iter().filter(|slice| !slice.spec.endpoints.is_empty()) {
        if let Some(name) = slice.service_name() {
            slices.entry((slice.meta.namespace.as_str(), name)).or_default().push(&slice.spec);
        }
    }
    for document in &config.services {
        let own = slices.get(&(document.meta.namespace.as_str(), document.meta.name.as_str()));
        for (index, port) in document.spec.ports.iter().enumerate().filter(|(_, port)| is_tcp(port.protocol)) {
            let ports = || own.into_iter().flatten().flat_map(|slice| &slice.ports).filter(|one| is_tcp(one.protocol));
            let name = |name: &Option<String>| name.clone().unwrap_or_default();
            let same = ports().find(|one| name(&one.name) == name(&port.name));
            if let (Some(TargetPort::Name(target)), Some(same)) = (&port.target_port, same)
                && same.port == inbound
            {
                let code = &codes::NAMED_TARGET_PORT;
                let reason = format!(
                    "the endpoints are at {inbound}, the sidecar's port, and {target} names the application's by a Pod that is not known here: {} is taken",
                    port.port
                );
                let field = format!("spec.ports[{index}].targetPort");
                findings.add(code, "Service", document, &field, reason, code.mend.to_owned());
            }
            if own.is_none() || same.is_some() {
                continue;
            }
            let mut known: Vec<String> = ports().map(|one| format!("{:?}", name(&one.name))).collect();
            known.dedup();
            let code = &codes::PORT_IN_NO_SLICE;
            let reason = format!(
                "no EndpointSlice of {} has a port named {:?}; theirs are {}: every request to port {} fails with 503",
                document.meta.name,
                name(&port.name),
                known.join(", "),
                port.port
            );
            findings.add(code, "Service", document, &format!("spec.ports[{index}].name"), reason, code.mend.to_owned());
        }
    }
}

/// Ports that are not HTTP's. They stay legal: a mesh has databases too, and their clients go past the proxy.
fn not_carried(config: &Config, findings: &mut Findings) {
    let code = &codes::PORT_NOT_CARRIED;
    let found = |number: u16, stated: Option<&str>, name: &str| {
        (Protocol::of(stated, name) == Protocol::Opaque).then(|| {
            format!(
                "port {number} speaks {}, and only HTTP is carried so far: a request for it gets 503 unless a route leads there, and a sidecar does not serve it",
                Protocol::word(stated, name).to_ascii_uppercase()
            )
        })
    };
    for document in &config.services {
        for (index, port) in document.spec.ports.iter().enumerate().filter(|(_, port)| is_tcp(port.protocol)) {
            let stated = port.app_protocol.as_deref();
            let Some(reason) = found(port.port, stated, port.name.as_deref().unwrap_or_default()) else { continue };
            let field = if stated.is_some() { "appProtocol" } else { "name" };
            let field = format!("spec.ports[{index}].{field}");
            findings.add(code, "Service", document, &field, reason, code.mend.to_owned());
        }
    }
    for document in &config.service_entries {
        for (index, port) in document.spec.ports.iter().enumerate() {
            let stated = port.protocol.as_deref();
            let Some(reason) = found(port.number, stated, &port.name) else { continue };
            let field = if stated.is_some() { "protocol" } else { "name" };
            let field = format!("spec.ports[{index}].{field}");
            findings.add(code, "ServiceEntry", document, &field, reason, code.mend.to_owned());
        }
    }
}

/// Entries whose requests go where their clients meant to go, for ports that are carried.
fn redirected_only(config: &Config, findings: &mut Findings) {
    let code = &codes::RESOLUTION_NONE;
    for document in &config.service_entries {
        let carried = |port: &ServiceEntryPort| Protocol::of(port.protocol.as_deref(), &port.name) != Protocol::Opaque;
        if document.spec.resolution.unwrap_or_default() == Resolution::None && document.spec.ports.iter().any(carried) {
            let (reason, mend) = (code.reason.to_owned(), code.mend.to_owned());
            findings.add(code, "ServiceEntry", document, "spec.resolution", reason, mend);
        }
    }
}

fn is_tcp(protocol: Option<TransportProtocol>) -> bool {
    matches!(protocol, None | Some(TransportProtocol::Tcp))
}

/// Selectors that meet none of the workloads that were read. Those of Services are not among them: a slice does not say what labels
/// its Pods have.
fn selectors(config: &Config, findings: &mut Findings) {
    let mut known: Vec<(&str, &BTreeMap<String, String>)> =
        config.workload_entries.iter().map(|one| (one.meta.namespace.as_str(), &one.spec.labels)).collect();
    for document in &config.service_entries {
        known.extend(document.spec.endpoints.iter().map(|one| (document.meta.namespace.as_str(), &one.labels)));
    }
    known.retain(|(_, labels)| !labels.is_empty());
    known.sort_unstable();
    known.dedup();
    let slices: Vec<_> =
        config.endpoint_slices.iter().map(|one| (one.meta.namespace.as_str(), one.endpoint_labels())).collect();
    let unmet = |namespace: &str, wanted: &BTreeMap<String, String>| -> Option<String> {
        let near = |other: &str| namespace == ROOT_NAMESPACE || other == namespace;
        let meets = known.iter().any(|(other, labels)| near(other) && has_labels(labels, wanted))
            || slices.iter().any(|(other, labels)| near(other) && has_labels(labels, wanted));
        let count = known.iter().filter(|(other, _)| near(other)).count();
        let wanted: Vec<String> = wanted.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (count > 0 && !meets).then(|| format!("no endpoint that was read carries {}", wanted.join(", ")))
    };
    let code = &codes::SELECTOR_MEETS_NONE;
    for document in &config.envoy_filters {
        let Some(selector) = &document.spec.workload_selector else { continue };
        if let Some(reason) = unmet(&document.meta.namespace, &selector.labels) {
            findings.add(code, "EnvoyFilter", document, "spec.workloadSelector", reason, code.mend.to_owned());
        }
    }
    for document in &config.destination_rules {
        let Some(selector) = &document.spec.workload_selector else { continue };
        if let Some(reason) = unmet(&document.meta.namespace, &selector.match_labels) {
            findings.add(code, "DestinationRule", document, "spec.workloadSelector", reason, code.mend.to_owned());
        }
    }
    for document in &config.peer_authentications {
        let Some(selector) = &document.spec.selector else { continue };
        if let Some(reason) = unmet(&document.meta.namespace, &selector.match_labels) {
            findings.add(code, "PeerAuthentication", document, "spec.selector", reason, code.mend.to_owned());
        }
    }
}

/// What kube-proxy would do for a Service, and a proxy that gets the request before it does not.
fn idle_fields(document: &Document<Service>, findings: &mut Findings) {
    let spec = &document.spec;
    let mut add = |field: &str, reason: &str, mend: String| {
        findings.add(&codes::SERVICE_FIELD_IDLE, "Service", document, field, reason.to_owned(), mend);
    };
    if spec.session_affinity == Some(SessionAffinity::ClientIp) {
        let mend = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {0}\n  namespace: {1}\nspec:\n  host: {0}\n  trafficPolicy:\n    loadBalancer:\n      consistentHash:\n        useSourceIp: true\n",
            document.meta.name, document.meta.namespace
        );
        add("spec.sessionAffinity", "a client's requests go to any endpoint, as in Istio", mend);
    }
    if spec.internal_traffic_policy == Some(InternalTrafficPolicy::Local) {
        add(
            "spec.internalTrafficPolicy",
            "endpoints of all nodes get requests: on which node this proxy runs is not known here",
            "trafficDistribution: PreferSameZone keeps requests near; or remove the field.".to_owned(),
        );
    }
    if spec.traffic_distribution == Some(TrafficDistribution::PreferSameNode) {
        add(
            "spec.trafficDistribution",
            "on which node this proxy runs is not known here, so endpoints of the same zone are preferred",
            "trafficDistribution: PreferSameZone".to_owned(),
        );
    }
    if !spec.external_ips.is_empty() {
        add(
            "spec.externalIPs",
            "requests for these addresses are not taken for this service's",
            "Ask for the service by its name, or name the addresses in a ServiceEntry.".to_owned(),
        );
    }
}

fn empty(host: &str, world: &World<'_>, add: impl FnOnce(String, String)) {
    if world.hosts.get(host).is_some_and(|known| !known.open && known.endpoints.is_empty()) {
        let reason = format!("{host} has no endpoint: every request to it fails with 503");
        add(reason, codes::SERVICE_WITHOUT_ENDPOINTS.mend.to_owned());
    }
}
