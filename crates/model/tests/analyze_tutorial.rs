//! Every trap of the tutorial's documents is reported, with a stable code.

mod common;

use celerity_model::analyze::{Finding, Severity, analyze};
use celerity_model::istio;

fn findings() -> Option<Vec<Finding>> {
    let files = common::tutorial_blocks()?;
    let config = istio::read(&common::borrowed(&files)).expect("the tutorial is right");
    Some(analyze(&config, &[]))
}

#[test]
#[allow(clippy::print_stdout, reason = "the findings are to be seen")]
fn every_trap_is_reported() {
    let Some(findings) = findings() else { return };
    for f in &findings {
        println!(
            "{}:{} {} {} {} {}: {}\n    {}",
            f.file,
            f.line,
            f.code,
            f.severity.as_str(),
            f.document,
            f.field,
            f.reason,
            f.mend.replace('\n', "\n    ")
        );
    }
    for (code, document) in [
        ("CEL0101", "DestinationRule default/concurrency-optimization"),
        ("CEL0101", "DestinationRule default/health-checking"),
        ("CEL0102", "DestinationRule default/connection-pool-optimization"),
        ("CEL0201", "DestinationRule default/connection-pool-optimization"),
        ("CEL0202", "DestinationRule default/protocol-optimization"),
        ("CEL0217", "DestinationRule default/tls-optimization"),
        ("CEL0205", "DestinationRule default/locality-routing"),
        ("CEL0203", "DestinationRule default/load-balancing-optimization"),
        ("CEL0203", "DestinationRule default/load-balancing-algorithm"),
        ("CEL0506", "ConfigMap istio-system/dns-cache-config"),
        ("CEL0502", "ConfigMap istio-system/thread-pool-optimization"),
        ("CEL0504", "ConfigMap istio-system/proxy-cpu-optimization"),
        ("CEL0408", "EnvoyFilter istio-system/proxy-config-optimization"),
        ("CEL0401", "EnvoyFilter istio-system/filter-chain-optimization"),
        ("CEL0402", "EnvoyFilter istio-system/caching-optimization"),
        ("CEL0409", "EnvoyFilter istio-system/batch-processing-optimization"),
        ("CEL0106", "DestinationRule default/weighted-load-balancing"),
        ("CEL0209", "DestinationRule default/weighted-load-balancing"),
        ("CEL0207", "DestinationRule default/health-checking"),
        ("CEL0204", "DestinationRule default/health-checking"),
        ("CEL0604", "PrometheusRule istio-system/latency-monitoring"),
        ("CEL0601", "PrometheusRule istio-system/throughput-monitoring"),
    ] {
        assert!(findings.iter().any(|f| f.code == code && f.document == document), "{code} {document}");
    }
    let ignored = findings.iter().filter(|f| f.code == "CEL0101").count();
    assert_eq!(ignored, 8, "nine rules, one stands");
    assert!(findings.iter().all(|f| f.severity != Severity::Error), "it loads without an error");
    assert!(findings.iter().all(|f| f.code != "CEL0404"), "each patch finds its place");
}

#[test]
fn the_merged_rule_is_right_and_gives_all() {
    let Some(findings) = findings() else { return };
    let merged = findings.iter().find(|f| f.code == "CEL0102").expect("there are nine rules");
    let config = common::read(&merged.mend).expect("the mend is right");
    let rule = &config.destination_rules[0].spec;
    let policy = rule.traffic_policy.as_ref().expect("a policy");
    assert_eq!(rule.subsets.len(), 2);
    assert!(policy.tls.is_some() && policy.outlier_detection.is_some() && policy.load_balancer.is_some());
    assert_eq!(policy.outlier_detection.as_ref().and_then(|o| o.max_ejection_percent), Some(10));
    let port = &policy.port_level_settings[0];
    assert_eq!(port.port, 80);
    assert!(port.policy.tls.is_some(), "a port inherits nothing, so all is repeated there");
    assert!(merged.mend.contains("# left out: "), "contradictions are named");
    let again = analyze(&config, &[]);
    assert!(again.iter().all(|f| f.code != "CEL0101" && f.code != "CEL0102"));
}

#[test]
fn findings_are_json() {
    let Some(findings) = findings() else { return };
    let json = serde_json::to_value(&findings).expect("they are plain");
    let first = &json[0];
    for key in ["code", "severity", "title", "file", "line", "document", "field", "reason", "mend"] {
        assert!(first.get(key).is_some(), "{key}");
    }
    assert!(first["severity"].as_str().is_some_and(|s| s.chars().all(char::is_lowercase)));
}
