//! gRPC with a real client and a real server, through one sidecar and through two; the status of what fails on the way.
use std::process::Command;

use celerity_testkit::{free_port, process};

use crate::mtls::{Authority, caller, mesh_of, server};
use crate::support::{Sidecar, documents, loopback, peer_script, python_client, python_server};

const MODULES: &[&str] = &["grpc"];

fn service_at(address: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo, namespace: default}}\nspec:\n  \
         hosts: [echo.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: grpc, \
         number: 80, protocol: GRPC}}]\n  endpoints: [{{address: {}, ports: {{grpc: {}}}}}]\n",
        address.ip(),
        address.port()
    )
}

fn called(sidecar: &Sidecar, name: &str) {
    let port = sidecar.outbound.port().to_string();
    assert!(python_client("grpc_peer.py", MODULES, &[&port, name]).contains("grpc ok"));
}

#[test]
fn every_kind_of_call_passes_one_sidecar() {
    let Some((_peer, address)) = python_server("grpc_peer.py", MODULES) else { return };
    let sidecar = Sidecar::start(&service_at(address));
    called(&sidecar, "echo");
    let metrics = sidecar.admin("/stats/prometheus");
    let grpc = |status: &str| {
        metrics.lines().any(|line| {
            line.starts_with("istio_requests_total")
                && line.contains("request_protocol=\"grpc\"")
                && line.contains(&format!("grpc_response_status=\"{status}\""))
        })
    };
    // OK, FAILED_PRECONDITION in a head alone, DATA_LOSS in trailers.
    assert!(grpc("0") && grpc("9") && grpc("15"), "{metrics}");
    // The server broke off after thirteen messages; it was asked with one.
    let messages = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains("grpc_response_status=\"15\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    assert_eq!(messages("istio_request_messages_total{"), Some(1), "{metrics}");
    assert_eq!(messages("istio_response_messages_total{"), Some(13), "{metrics}");
}

#[test]
fn every_kind_of_call_passes_two_sidecars_with_mutual_tls() {
    let Some((_peer, address)) = python_server("grpc_peer.py", MODULES) else { return };
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh_of(inbound, address, "STRICT", "GRPC");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    called(&caller, "user-service");
}

/// A VirtualService of `echo` with this under `http`.
fn routed(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo, namespace: default}}\nspec:\n  \
         hosts: [echo]\n  http: [{http}]\n"
    )
}

#[test]
fn a_failure_on_the_way_has_a_grpc_status() {
    let Some(python) = celerity_testkit::python(MODULES) else { return };
    let ended = |sidecar: &Sidecar, host: &str, code: &str| {
        let mut command = Command::new(&python);
        command.arg(peer_script("grpc_peer.py")).args(["broken", &sidecar.outbound.port().to_string(), host, code]);
        process::run(&mut command)
    };
    // Nobody listens there.
    let nobody = service_at(loopback(free_port()));
    let sidecar = Sidecar::start(&nobody);
    let said = ended(&sidecar, "echo", "UNAVAILABLE");
    assert!(said.contains("upstream connect error"), "{said}");
    ended(&sidecar, "stranger", "UNAVAILABLE");

    let abort = |what: &str| {
        documents(&[
            &nobody,
            &routed(&format!(
                "{{fault: {{abort: {{{what}, percentage: {{value: 100}}}}}}, route: [{{destination: {{host: echo}}}}]}}"
            )),
        ])
    };
    for (what, code) in [
        ("httpStatus: 401", "UNAUTHENTICATED"),
        ("httpStatus: 403", "PERMISSION_DENIED"),
        ("httpStatus: 404", "UNIMPLEMENTED"),
        ("httpStatus: 500", "UNKNOWN"),
        ("httpStatus: 429", "UNAVAILABLE"),
        ("grpcStatus: RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
    ] {
        sidecar.config.write("mesh.yaml", &abort(what));
        crate::support::eventually("the fault is taken up", || {
            let mut command = Command::new(&python);
            command.arg(peer_script("grpc_peer.py")).args([
                "broken",
                &sidecar.outbound.port().to_string(),
                "echo",
                code,
            ]);
            command.output().is_ok_and(|output| output.status.success())
        });
    }
}

#[test]
fn a_routes_timeout_is_unavailable() {
    let Some((_peer, address)) = python_server("grpc_peer.py", MODULES) else { return };
    let timeout = "{timeout: 300ms, route: [{destination: {host: echo}}]}";
    let sidecar = Sidecar::start(&documents(&[&service_at(address), &routed(timeout)]));
    let python = celerity_testkit::python(MODULES).expect("found above");
    let mut command = Command::new(python);
    command.arg(peer_script("grpc_peer.py")).args(["broken", &sidecar.outbound.port().to_string(), "echo"]);
    let said = process::run(command.args(["UNAVAILABLE", "slow"]));
    // Envoy maps its 504 to UNAVAILABLE.
    assert!(said.contains("upstream request timeout"), "{said}");
}
