//! The arrows between the crates, as ARCHITECTURE.md draws them: this test is what keeps the drawing true.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of this workspace that its code may use. A crate that is not named here is refused, so a
/// new one has to be given its place first.
const ALLOWED: &[(&str, &[&str])] = &[
    ("celerity", &["celerity-load", "celerity-model", "celerity-telemetry", "celerity-proxy"]),
    ("celerity-load", &["celerity-telemetry", "celerity-wire"]),
    ("celerity-model", &[]),
    ("celerity-telemetry", &[]),
    ("celerity-proxy", &["celerity-model", "celerity-telemetry", "celerity-wire"]),
    ("celerity-testkit", &[]),
    ("celerity-wire", &[]),
];

/// What would bring IO or an async runtime into the model.
const NOT_IN_MODEL: &[&str] = &["tokio", "socket2", "hyper", "h2", "rustls", "notify", "hickory-resolver", "libc"];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Names of what `package` depends on; `dev` tells whether those for its tests only are meant.
fn dependencies(package: &Value, dev: bool) -> BTreeSet<String> {
    let list = package["dependencies"].as_array().expect("dependencies");
    let chosen = list.iter().filter(|d| (d["kind"].as_str() == Some("dev")) == dev);
    chosen.map(|d| d["name"].as_str().expect("name").to_owned()).collect()
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let packages = packages();
    let ours: BTreeSet<String> = packages.iter().map(|p| p["name"].as_str().expect("name").to_owned()).collect();
    for package in &packages {
        let name = package["name"].as_str().expect("name");
        let may = allowed.get(name).unwrap_or_else(|| panic!("crate {name} has no place in ALLOWED"));
        for used in dependencies(package, false).intersection(&ours) {
            assert!(may.contains(&used.as_str()), "{name} must not use {used}");
        }
        for used in dependencies(package, true).intersection(&ours) {
            let fits = may.contains(&used.as_str()) || used == "celerity-testkit";
            assert!(fits, "the tests of {name} must not use {used}");
        }
    }
}

#[test]
fn the_model_does_no_io_and_is_not_async() {
    let packages = packages();
    let model = packages.iter().find(|p| p["name"] == "celerity-model").expect("the model is a crate");
    for banned in NOT_IN_MODEL {
        assert!(!dependencies(model, false).contains(*banned), "the model must not depend on {banned}");
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/src");
    let mut offences = Vec::new();
    walk(&src, &mut |path, text| {
        for (number, line) in shipped(text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for banned in
                ["async fn", ".await", "std::fs", "std::net::Tcp", "std::net::Udp", "std::thread", "Instant::now"]
            {
                if code.contains(banned) {
                    offences.push(format!("{}:{}: {banned}", path.display(), number + 1));
                }
            }
        }
    });
    assert!(offences.is_empty(), "the model does IO, waits or reads the clock:\n{}", offences.join("\n"));
}

/// The part of a file that ships: tests stand at the foot, behind `#[cfg(test)]`.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, visit);
        } else if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_none_or(|n| n != "tests.rs") {
            visit(&path, &std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}
