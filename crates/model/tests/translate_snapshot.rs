//! What translation makes, a snapshot takes whole: no field of it is one that the data plane refuses.

#[path = "translate_support/mod.rs"]
mod support;

use celerity_model::snapshot::Snapshot;
use celerity_model::translate::{Node, translate};
use support::{certificates, config, everything, node, service_and_endpoints, tutorial};

fn taken(name: &str, yaml: &str) {
    let me = Node { addresses: vec![[127, 0, 1, 4].into()], certificates: Some(certificates()), ..node() };
    for me in [me, node()] {
        let made = translate(&config(yaml), &me).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
        if let Err(errors) = Snapshot::build(&made, None) {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{name}:\n{}", all.join("\n"));
        }
    }
}

#[test]
fn the_tutorial() {
    let Some(documents) = tutorial() else { return };
    taken("all", &format!("{}---\n{}", service_and_endpoints(), documents.join("---\n")));
    for document in &documents {
        taken(document, &format!("{}---\n{document}", service_and_endpoints()));
    }
}

#[test]
fn every_field_that_is_translated() {
    taken("everything", &everything());
}
