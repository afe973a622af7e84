//! What the log of a sidecar says, and that each line says when and how grave it is.
use celerity_testkit::Upstream;

use crate::support::{Sidecar, documents, eventually, service};

/// An EnvoyFilter for the virtual hosts of these names.
fn filter(name: &str, namespace: &str, context: &str, hosts: &[String]) -> String {
    let patches: String = hosts
        .iter()
        .map(|host| {
            format!(
                "\n  - {{applyTo: VIRTUAL_HOST, match: {{context: {context}, routeConfiguration: {{vhost: {{name: \
                 {host}}}}}}}, patch: {{operation: MERGE, value: {{include_request_attempt_count: true}}}}}}"
            )
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  configPatches:{patches}"
    )
}

#[test]
fn a_patch_without_a_match_is_told_and_each_line_has_time_and_level() {
    let upstream = Upstream::start("one");
    let services = service("user-service", &[(&upstream, "version: v1")]);
    let hosts = |count: u32| (0..count).map(|n| format!("none-{n}:80")).collect::<Vec<_>>();
    let known = ["user-service.default.svc.cluster.local:80".to_owned()];
    let others = documents(&[
        &services,
        &filter("matches", "default", "SIDECAR_OUTBOUND", &known),
        &filter("gateways", "default", "GATEWAY", &hosts(1)),
        &filter("elsewhere", "other", "SIDECAR_OUTBOUND", &hosts(1)),
    ]);
    let sidecar = Sidecar::start(&documents(&[&others, &filter("gone", "default", "ANY", &hosts(2))]));
    let warnings = || {
        let log = sidecar.process.output();
        log.lines().filter(|line| line.contains("matches nothing")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = warnings();
    assert_eq!(first.len(), 2, "{first:?}");
    let wanted = "EnvoyFilter default/gone configPatches[0]: it matches nothing: route configuration outbound: no";
    assert!(first[0].contains(" warn  ") && first[0].contains(wanted), "{first:?}");
    let shown = sidecar.admin("/config_dump");
    assert!(shown.contains("EnvoyFilter default/gone configPatches[1]: unmatched: "), "{shown}");

    // Of a change only what is new, and of many not all.
    sidecar.config.write("more.yaml", &filter("many", "default", "ANY", &hosts(12)));
    eventually("the change is taken up", || sidecar.process.output().contains("taken up: "));
    let all = sidecar.process.output();
    assert!(all.contains("2 more patches match nothing; see patches at /config_dump"), "{all}");
    assert_eq!(warnings().len(), 12, "{all}");

    sidecar.config.write("more.yaml", "kind: [");
    eventually("the refusal is told", || sidecar.process.output().contains("configuration refused"));
    let log = sidecar.process.output();
    assert!(log.contains(" info  2 workers, by --workers"), "{log}");
    assert!(log.contains(" error configuration refused, the running one stays: "), "{log}");
    for line in log.lines().filter(|line| !line.starts_with("    ")) {
        let (time, rest) = line.split_once(' ').unwrap_or_default();
        let is_time = time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T';
        assert!(is_time && ["info ", "warn ", "error"].iter().any(|level| rest.starts_with(level)), "{line}");
    }
}
