//! DestinationRule: policies and subsets of a host.

use std::collections::BTreeMap;

use super::policy::TrafficPolicy;
use super::record::record;

record! {
    /// Policies and subsets of a host (networking.istio.io DestinationRule).
    pub struct DestinationRule checked check_rule {
        /// A short name (resolved in the rule's namespace), a full name, or a wildcard.
        host: String = "host" [host];
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy";
        subsets: Vec<Subset> = "subsets";
        /// Namespaces that see the rule; empty: all. `.` is its own, `*` all.
        export_to: Vec<String> = "exportTo" [export_to_someone];
        /// Client workloads that the rule is for; unset: all.
        workload_selector: Option<Selector> = "workloadSelector";
    }
}

record! {
    /// Endpoints of the host that carry all these labels.
    pub struct Subset {
        name: String = "name" [dns_label];
        labels: BTreeMap<String, String> = "labels" [labels];
        /// Fields set here stand instead of the host's.
        traffic_policy: Option<TrafficPolicy> = "trafficPolicy";
    }
}

record! {
    /// Workloads that carry all these labels.
    pub struct Selector {
        match_labels: BTreeMap<String, String> = "matchLabels" [selector_labels];
    }
}
