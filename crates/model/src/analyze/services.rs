//! Services, endpoints and PeerAuthentications among each other.

use std::collections::HashMap;

use super::world::{World, full_name};
use super::{Findings, codes};
use crate::istio::{Config, SERVICE_NAME_LABEL};

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
    let mut seen: HashMap<String, String> = HashMap::new();
    for document in &config.services {
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
    let mut first_of: HashMap<&str, &str> = HashMap::new();
    for document in &config.peer_authentications {
        if document.spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty()) {
            continue;
        }
        let namespace = document.meta.namespace.as_str();
        if let Some(first) = first_of.get(namespace) {
            let reason = format!(
                "in {namespace} the PeerAuthentication {first} stands, which was read first; this one has no effect"
            );
            let code = &codes::SECOND_PEER_AUTHENTICATION;
            findings.add(code, "PeerAuthentication", document, "metadata.name", reason, code.mend.to_owned());
        } else {
            first_of.insert(namespace, &document.meta.name);
        }
    }
}

fn empty(host: &str, world: &World<'_>, add: impl FnOnce(String, String)) {
    if world.hosts.get(host).is_some_and(|known| !known.open && known.endpoints.is_empty()) {
        let reason = format!("{host} has no endpoint: every request to it fails with 503");
        add(reason, codes::SERVICE_WITHOUT_ENDPOINTS.mend.to_owned());
    }
}
