//! A small mesh for the tests of translation and patches.
#![allow(dead_code)] // each test program uses its part

use std::collections::BTreeMap;
use std::sync::Arc;

use celerity_model::istio::{self, Config, Locality};
use celerity_model::translate::{Certificates, Node};

/// Reads documents that must be right.
pub(crate) fn config(yaml: &str) -> Config {
    istio::read(&[(Arc::from("test.yaml"), yaml)]).unwrap_or_else(|errors| {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}\nin\n{yaml}", all.join("\n"))
    })
}

/// The order-service's sidecar, in zone us-central1-a.
pub(crate) fn node() -> Node {
    Node {
        name: "order-service-v1-1".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "order-service".to_owned())]),
        locality: Locality::parse("us-central1/us-central1-a"),
        service_account: "order-service".to_owned(),
        ..Node::default()
    }
}

/// Names of files that nobody opens.
pub(crate) fn certificates() -> Certificates {
    Certificates {
        chain: "/certs/cert-chain.pem".to_owned(),
        key: "/certs/key.pem".to_owned(),
        roots: "/certs/root-cert.pem".to_owned(),
    }
}

/// The user-service: v1 with two endpoints in one zone and one in another, v2 in another region.
pub(crate) fn service_and_endpoints() -> String {
    let mut yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: user-service}\nspec:\n  hosts: [user-service.default.svc.cluster.local]\n  addresses: [10.1.2.3]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}]\n  workloadSelector: {labels: {app: user-service}}\n".to_owned();
    let endpoints = [
        ("v1", "us-central1/us-central1-a"),
        ("v1", "us-central1/us-central1-a"),
        ("v1", "us-central1/us-central1-b"),
        ("v2", "us-west1/us-west1-a"),
    ];
    for (at, (version, locality)) in endpoints.iter().enumerate() {
        let n = at + 1;
        yaml.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: user-{n}}}\nspec:\n  address: 127.0.1.{n}\n  ports: {{http: 15006}}\n  labels: {{app: user-service, version: {version}, security.istio.io/tlsMode: istio}}\n  locality: {locality}\n  serviceAccount: user-service\n"
        ));
    }
    yaml
}

/// The YAML documents of the tutorial that stands beside the repository, verbatim.
pub(crate) fn tutorial() -> Option<Vec<String>> {
    let path = celerity_testkit::shared("mission/tutorial.md")?;
    let text = std::fs::read_to_string(path).expect("the tutorial");
    let mut documents = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim_end()) {
            (None, "```yaml") => block = Some(String::new()),
            (Some(_), "```") => {
                let block = block.take().unwrap_or_default();
                documents.extend(
                    block.split("\n---\n").filter(|one| one.contains("\napiVersion:")).map(|one| format!("{one}\n")),
                );
            }
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    Some(documents)
}
