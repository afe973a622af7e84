//! PrometheusRule of the Prometheus operator: alerts and recorded series.

use std::collections::BTreeMap;

use super::record::record;
use super::scalar::PromDuration;

record! {
    /// Groups of rules (monitoring.coreos.com PrometheusRule). Prometheus evaluates them; here they are read and checked.
    pub struct PrometheusRule checked check_prometheus_rule {
        groups: Vec<RuleGroup> = "groups";
    }
}

record! {
    /// Rules that are evaluated together, in order.
    pub struct RuleGroup {
        name: String = "name" [not_empty];
        /// Unset: as Prometheus is configured (1 min).
        interval: Option<PromDuration> = "interval", idle;
        /// Largest number of alerts or series of a rule; 0 or unset: no limit.
        limit: Option<u32> = "limit", idle;
        /// Looks back from this much before now.
        query_offset: Option<PromDuration> = "query_offset", idle;
        labels: BTreeMap<String, String> = "labels" [rule_labels];
        rules: Vec<Rule> = "rules";
    }
    refused {
        "partial_response_strategy": "Thanos partial responses",
    }
}

record! {
    /// An alert or a recorded series, never both.
    pub struct Rule checked check_rule_body {
        alert: Option<String> = "alert" [not_empty];
        record: Option<String> = "record" [metric_name];
        /// PromQL.
        expr: Expression = "expr" [expression];
        /// How long the expression must hold before the alert fires.
        for_: Option<PromDuration> = "for";
        /// How long it fires on after the expression no longer holds.
        keep_firing_for: Option<PromDuration> = "keep_firing_for", idle;
        labels: BTreeMap<String, String> = "labels" [rule_labels];
        annotations: BTreeMap<String, String> = "annotations" [annotation_names];
    }
}

/// PromQL; a whole number may stand without quotes, as the operator's schema says (`x-kubernetes-int-or-string`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expression(pub String);
