//! A real Envoy accepts what translation makes.

#[path = "translate_support/mod.rs"]
mod support;

use std::process::Command;

use celerity_model::translate::{Certificates, Node, to_json, translate};
use celerity_testkit::{TempDir, peer};
use support::{config, everything, node, service_and_endpoints, tutorial};

/// A self-signed certificate that is its own root: Envoy's check reads the files, it verifies nobody.
fn certificates(folder: &TempDir) -> Certificates {
    let made = rcgen::generate_simple_self_signed(vec!["user-service".to_owned()]).expect("a certificate");
    let path = |name: &str, text: &str| folder.write(name, text).display().to_string();
    let chain = made.cert.pem();
    Certificates {
        chain: path("cert-chain.pem", &chain),
        key: path("key.pem", &made.signing_key.serialize_pem()),
        roots: path("root-cert.pem", &chain),
    }
}

fn accepted(name: &str, yaml: &str) {
    let Some(envoy) = peer("envoy") else { return };
    let folder = TempDir::new();
    let mut me = Node { addresses: vec![[127, 0, 1, 4].into()], certificates: Some(certificates(&folder)), ..node() };
    me.mesh.system_roots = folder.path().join("root-cert.pem").display().to_string();
    let made = translate(&config(yaml), &me).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
    let file = folder.write("envoy.json", &to_json(&made).to_string());
    let output =
        Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().expect("envoy runs");
    assert!(
        output.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_tutorial() {
    let Some(documents) = tutorial() else { return };
    accepted("all", &format!("{}---\n{}", service_and_endpoints(), documents.join("---\n")));
    for document in documents.iter().filter(|one| one.contains("kind: DestinationRule")) {
        accepted(document, &format!("{}---\n{document}", service_and_endpoints()));
    }
}

#[test]
fn every_field_that_is_translated() {
    accepted("everything", &everything());
}
