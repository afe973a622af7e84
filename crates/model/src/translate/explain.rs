//! Which documents each resource came from.

use super::policy::MergedRule;
use super::registry::Index;
use super::{outbound_name, service_inputs};
use crate::istio::{Document, Source};

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
    /// `cluster` or `virtual_host`.
    pub resource: &'static str,
    pub name: String,
    /// The service first.
    pub inputs: Vec<Input>,
}

/// Where every outbound cluster and virtual host came from. What patches did is in their reports.
pub fn explain(index: &Index<'_>) -> Vec<Explanation> {
    let mut all = Vec::new();
    for service in &index.services {
        let inputs = service_inputs(index, &service.host);
        let rule = MergedRule::of(index, &service.host);
        for port in &service.ports {
            let subsets = rule.subsets.iter().map(|subset| subset.name.as_str());
            for subset in std::iter::once("").chain(subsets) {
                let name = outbound_name(port.number, subset, &service.host);
                all.push(Explanation { resource: "cluster", name, inputs: inputs.clone() });
            }
            if port.protocol != super::registry::Protocol::Opaque {
                all.push(Explanation {
                    resource: "virtual_host",
                    name: format!("{}:{}", service.host, port.number),
                    inputs: inputs.clone(),
                });
            }
        }
    }
    all
}
