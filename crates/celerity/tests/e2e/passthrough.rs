//! Redirected connections, as iptables makes them in a pod: hosts that no service has, and what is no HTTP.
use std::process::{Command, Stdio};

use celerity_testkit::{TempDir, skip};

use crate::support::{BINARY, peer_script};

/// What the script ends with on a machine that cannot redirect.
const CANNOT_REDIRECT: i32 = 77;

#[test]
fn a_redirected_connection_to_an_unknown_host_goes_where_it_was_meant_to_go() {
    let namespace =
        Command::new("unshare").args(["--net", "iptables", "-t", "nat", "-L"]).stdin(Stdio::null()).output();
    if !namespace.is_ok_and(|output| output.status.success()) {
        return skip("no network namespace with iptables: root, unshare and iptables are needed");
    }
    let config = TempDir::new();
    config.write(
        "mesh.yaml",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: known, namespace: default}\nspec:\n  \
         hosts: [known.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{name: http, \
         number: 80, protocol: HTTP}]\n  endpoints: [{address: 127.0.0.1, ports: {http: 7001}}]\n",
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "python3"]).arg(peer_script("redirect.py")).arg(BINARY).arg(config.path());
    let output = command.stdin(Stdio::null()).output().expect("unshare starts");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(CANNOT_REDIRECT) {
        return skip(&said);
    }
    assert!(output.status.success() && said.contains("redirect ok"), "{said}\n{errors}");
}
