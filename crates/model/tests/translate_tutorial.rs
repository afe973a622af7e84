//! The tutorial's nineteen documents, verbatim: each alone and all together translate, and every patch finds its place.

#[path = "translate_support/mod.rs"]
mod support;

use celerity_model::patch::{Outcome, WarningKind, pool};
use celerity_model::translate::{Node, Resources, translate};
use serde_json::Value;
use support::{certificates, config, node, service_and_endpoints, tutorial};

fn made(documents: &[String]) -> Resources {
    let yaml = format!("{}---\n{}", service_and_endpoints(), documents.join("---\n"));
    let node = Node { certificates: Some(certificates()), ..node() };
    translate(&config(&yaml), &node).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn manager(resources: &Resources) -> Value {
    let outbound = resources.listeners.iter().find(|listener| listener.name == "outbound").expect("the listener");
    pool::json(outbound)["filter_chains"][0]["filters"][0]["typed_config"].clone()
}

fn filters(manager: &Value) -> Vec<&str> {
    let filters = manager["http_filters"].as_array().expect("filters");
    filters.iter().filter_map(|filter| filter["name"].as_str()).collect()
}

#[test]
fn each_document_translates_alone() {
    let Some(documents) = tutorial() else { return };
    assert_eq!(documents.len(), 19);
    for document in &documents {
        let resources = made(std::slice::from_ref(document));
        for report in &resources.patches {
            assert!(matches!(report.outcome, Outcome::Matched { .. }), "{report:?}");
        }
    }
}

#[test]
fn all_together_act() {
    let Some(documents) = tutorial() else { return };
    let resources = made(&documents);
    assert_eq!(resources.patches.len(), 4);
    for report in &resources.patches {
        assert!(matches!(report.outcome, Outcome::Matched { .. }), "{report:?}");
    }
    let manager = manager(&resources);
    // Each INSERT_BEFORE without a named filter goes to the front; the fault filter is gone, and nothing else.
    assert_eq!(
        filters(&manager),
        [
            "envoy.filters.http.buffer",
            "envoy.filters.http.cache",
            "envoy.filters.http.cors",
            "envoy.filters.http.router"
        ]
    );
    assert_eq!(manager["common_http_protocol_options"]["idle_timeout"], "30s");
    assert_eq!(
        (&manager["stream_idle_timeout"], &manager["request_timeout"]),
        (&Value::from("5s"), &Value::from("30s"))
    );
    assert_eq!(manager["http_filters"][0]["typed_config"]["max_request_bytes"], 1_024_000);
    assert_eq!(
        manager["http_filters"][1]["typed_config"]["typed_config"]["@type"],
        "type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"
    );
    let kinds: Vec<WarningKind> =
        resources.patches.iter().flat_map(|report| &report.warnings).map(|warning| warning.kind).collect();
    assert_eq!(kinds, [WarningKind::FilterNamedByValue, WarningKind::WrongForm, WarningKind::WrongForm]);
    let subsets = ["v1", "v2"].map(|subset| format!("outbound|80|{subset}|user-service.default.svc.cluster.local"));
    for subset in &subsets {
        assert!(resources.clusters.iter().any(|cluster| cluster.name == *subset), "{subset}");
    }
}
