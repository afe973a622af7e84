//! Real Envoy is the judge of the translation: it must accept what every example and the tutorial become.
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use celerity_model::istio;
use celerity_model::translate::{Certificates, Node, to_json, translate};
use celerity_testkit::{TempDir, environment, peer, process, shared};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_celerity");

/// What one proxy becomes in Envoy's words, as `celerity translate` prints it.
fn bootstrap(files: &[(String, String)], node: &Node) -> Value {
    let files: Vec<(Arc<str>, &str)> =
        files.iter().map(|(name, text)| (Arc::from(name.as_str()), text.as_str())).collect();
    let config = istio::read(&files).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let resources = translate(&config, node).unwrap_or_else(|errors| panic!("{errors:#?}"));
    to_json(&resources)
}

/// Run `envoy --mode validate`; what it says when it refuses fails the test.
fn validate(envoy: &Path, folder: &TempDir, what: &str, mut bootstrap: Value) {
    // An admin address is no part of the translation, and its absence makes some versions warn.
    bootstrap["admin"] = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    let path = folder.write(&format!("{what}.json"), &bootstrap.to_string());
    let mut command = Command::new(envoy);
    command.args(["--mode", "validate", "-l", "warning", "-c"]).arg(path);
    process::run(&mut command);
}

/// The nodes that a configuration is translated for: a caller outside the mesh, and a workload in it.
fn nodes(folder: &TempDir) -> Vec<(&'static str, Node)> {
    let ca = folder.path().join("ca");
    let identity = folder.path().join("identity");
    let run = |arguments: &[&str], paths: &[(&str, &Path)]| {
        let mut command = Command::new(BINARY);
        command.arg("ca").args(arguments);
        for (flag, path) in paths {
            command.arg(flag).arg(path);
        }
        process::run(&mut command);
    };
    run(&["init"], &[("--dir", &ca)]);
    run(&["issue", "--service-account", "user-service"], &[("--dir", &ca), ("--out", &identity)]);
    let file = |name: &str| identity.join(name).display().to_string();
    let certificates =
        Certificates { chain: file("cert-chain.pem"), key: file("key.pem"), roots: file("root-cert.pem") };
    let workload = Node {
        name: "user-service-v1-1".to_owned(),
        labels: [("app", "user-service"), ("version", "v1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        addresses: vec![Ipv4Addr::new(127, 0, 1, 1).into()],
        service_account: "user-service".to_owned(),
        certificates: Some(certificates),
        ..Node::default()
    };
    vec![("outside", Node::default()), ("workload", workload)]
}

/// The YAML files under a folder, by path.
fn yaml_files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                files.push((path.display().to_string(), std::fs::read_to_string(&path).expect("a file")));
            }
        }
    }
    files.sort();
    files
}

/// The tutorial's documents, verbatim: its YAML blocks that hold Kubernetes objects.
fn tutorial(path: PathBuf) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).expect("the tutorial");
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(""));
    let objects = blocks.filter(|block| block.contains("apiVersion:"));
    objects.enumerate().map(|(n, block)| (format!("tutorial-{n}.yaml"), block.to_owned())).collect()
}

#[test]
fn envoy_accepts_the_translation_of_every_example() {
    let Some(envoy) = peer("envoy") else { return };
    let folder = TempDir::new();
    let examples = environment::root().join("examples");
    let mesh = yaml_files(&examples.join("mesh"));
    let mut seen = 0;
    for (name, node) in nodes(&folder) {
        for entry in std::fs::read_dir(&examples).expect("the examples") {
            let path = entry.expect("an entry").path();
            if !path.is_dir() {
                continue;
            }
            let example = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut files = yaml_files(&path);
            if example == "tutorial" {
                // Its documents are rules for services that the sample mesh has.
                files.extend(mesh.iter().cloned());
            }
            validate(&envoy, &folder, &format!("{example}-{name}"), bootstrap(&files, &node));
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} translations were seen: three examples for two nodes");
}

#[test]
fn envoy_accepts_the_tutorials_documents_verbatim() {
    let Some(envoy) = peer("envoy") else { return };
    let Some(path) = shared("mission/tutorial.md") else { return };
    let folder = TempDir::new();
    let blocks = tutorial(path);
    let documents: usize = blocks.iter().map(|(_, text)| text.matches("\napiVersion:").count()).sum();
    assert_eq!(documents, 19, "the tutorial has 19 documents");
    let mesh = yaml_files(&environment::root().join("examples/mesh"));
    for (name, node) in nodes(&folder) {
        let all: Vec<_> = blocks.iter().chain(&mesh).cloned().collect();
        validate(&envoy, &folder, &format!("all-{name}"), bootstrap(&all, &node));
        for block in &blocks {
            let files: Vec<_> = std::iter::once(block).chain(&mesh).cloned().collect();
            validate(&envoy, &folder, &format!("{}-{name}", block.0), bootstrap(&files, &node));
        }
    }
}
