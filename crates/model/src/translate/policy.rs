//! The traffic policy in force for a port of a service and a subset.

use std::collections::BTreeMap;

use super::registry::{Index, Port};
use crate::istio::{DestinationRule, Document, TrafficPolicy};

/// All rules for one host, merged as Istio does: the first policy stands, subsets unite, the first of a name stands.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MergedRule<'a> {
    pub(super) documents: Vec<&'a Document<DestinationRule>>,
    policy: Option<&'a TrafficPolicy>,
    pub(super) subsets: Vec<&'a crate::istio::Subset>,
}

impl<'a> MergedRule<'a> {
    pub(super) fn of(index: &Index<'a>, host: &str) -> Self {
        let mut merged = Self { documents: index.destination_rules(host), ..Self::default() };
        for document in &merged.documents {
            let spec = &document.spec;
            merged.policy = merged.policy.or(spec.traffic_policy.as_ref());
            for subset in &spec.subsets {
                if !merged.subsets.iter().any(|have| have.name == subset.name) {
                    merged.subsets.push(subset);
                }
            }
        }
        merged
    }

    /// The policy for a port, of the host or of a subset.
    pub(super) fn policy(&self, port: &Port, subset: Option<&str>) -> TrafficPolicy {
        let host = over(&TrafficPolicy::default(), self.policy, port);
        match subset.and_then(|name| self.subsets.iter().find(|subset| subset.name == name)) {
            Some(subset) => over(&host, subset.traffic_policy.as_ref(), port),
            None => host,
        }
    }

    pub(super) fn labels(&self, subset: Option<&str>) -> Option<&'a BTreeMap<String, String>> {
        let name = subset?;
        self.subsets.iter().find(|subset| subset.name == name).map(|subset| &subset.labels)
    }
}

/// Whole parts replace whole parts; then the settings of the port replace all that they can hold, unset parts included.
fn over(wide: &TrafficPolicy, narrow: Option<&TrafficPolicy>, port: &Port) -> TrafficPolicy {
    let mut policy = wide.clone();
    let Some(narrow) = narrow else { return policy };
    policy.load_balancer = narrow.load_balancer.clone().or(policy.load_balancer);
    policy.connection_pool = narrow.connection_pool.clone().or(policy.connection_pool);
    policy.outlier_detection = narrow.outlier_detection.clone().or(policy.outlier_detection);
    policy.tls = narrow.tls.clone().or(policy.tls);
    policy.retry_budget = narrow.retry_budget.clone().or(policy.retry_budget);
    if let Some(own) = narrow.port_level_settings.iter().find(|settings| settings.port == port.number) {
        policy.load_balancer = own.policy.load_balancer.clone();
        policy.connection_pool = own.policy.connection_pool.clone();
        policy.outlier_detection = own.policy.outlier_detection.clone();
        policy.tls = own.policy.tls.clone();
    }
    policy.port_level_settings = Vec::new();
    policy
}
