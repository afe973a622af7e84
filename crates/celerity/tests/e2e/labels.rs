//! Whose request it was, in Istio's labels: the same service by the same name on both sides, whoever answered.
use celerity_testkit::{Upstream, free_port};

use crate::mtls::{Authority, caller, mesh};
use crate::support::{Sidecar, documents, eventually, loopback, service};

/// `destination_service`, `destination_service_name` and `destination_service_namespace` of every series of requests.
fn services(sidecar: &Sidecar) -> Vec<[String; 3]> {
    let metrics = sidecar.admin("/stats/prometheus");
    let lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let mut found: Vec<[String; 3]> = lines
        .map(|line| {
            ["destination_service", "destination_service_name", "destination_service_namespace"].map(|label| {
                let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap_or_default();
                rest.split('"').next().unwrap_or_default().to_owned()
            })
        })
        .collect();
    found.sort();
    found
}

fn routes(name: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  hosts: \
         [{name}.test]\n  http:\n  - {http}"
    )
}

#[test]
fn both_sides_name_the_service_and_not_the_workload() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    // The workload's label is another word than the service's name.
    let yaml = mesh(inbound, &application, "STRICT").replace("app: user-service", "app: backend");
    let patch = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: inbound, namespace: default}\nspec:\n  \
         configPatches:\n  - {applyTo: HTTP_ROUTE, match: {context: SIDECAR_INBOUND}, patch: {operation: MERGE, value: \
         {response_headers_to_add: [{header: {key: x-patched, value: inbound}}]}}}";
    let yaml = documents(&[&yaml, patch]);
    let identity = authority.issue("user-service").display().to_string();
    let identity = ["--inbound", &inbound.to_string(), "--identity", &identity, "--labels", "app=backend"];
    let server = Sidecar::start_with(&yaml, &identity);
    let caller = caller(&yaml, &authority.issue("order-service"));
    let answer = caller.get("user-service", "/");
    assert_eq!((answer.status, answer.header("x-patched")), (200, Some("inbound")));
    let expected = [["user-service.default.svc.cluster.local", "user-service", "default"].map(str::to_owned)];
    // A request is counted when its answer is out.
    eventually("the caller counts it", || services(&caller) == expected);
    eventually("the server counts it", || services(&server) == expected);
}

#[test]
fn a_request_belongs_to_the_service_whether_or_not_it_got_there() {
    let upstream = Upstream::start("one");
    let yaml = documents(&[
        &service("user-service", &[(&upstream, "version: v1")]),
        &service("pay", &[(&upstream, "version: v1")]).replace("pay.default.svc.cluster.local", "pay.example.com"),
        &routes(
            "fault",
            "{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: user-service}}]}",
        ),
        &routes("moved", "{redirect: {uri: /new}}"),
        &routes("none", "{match: [{uri: {exact: /only}}], route: [{destination: {host: user-service}}]}"),
    ]);
    let sidecar = Sidecar::start_with(&yaml, &["--inbound", "off", "--outbound-traffic-policy", "REGISTRY_ONLY"]);
    let user = ["user-service.default.svc.cluster.local", "user-service", "default"];
    let mut expected = Vec::new();
    for (host, status, labels) in [
        ("pay.example.com", 200, ["pay.example.com", "pay.example.com", "default"]),
        ("fault.test", 418, user),
        ("moved.test", 301, ["moved.test", "moved.test", "unknown"]),
        ("none.test", 404, ["none.test", "none.test", "unknown"]),
        ("nobody.example.com", 502, ["BlackHoleCluster", "BlackHoleCluster", "unknown"]),
    ] {
        assert_eq!(sidecar.get(host, "/").status, status, "{host}");
        expected.push(labels.map(str::to_owned));
    }
    expected.sort();
    eventually(&format!("they are counted as {expected:?}"), || services(&sidecar) == expected);
}
