//! What the proxy would refuse whole although every document was read: the check of last resort, so that nobody hears of it from the
//! proxy alone. Each value that is told here belongs into a check of its field.

use std::collections::HashSet;

use super::patches::node_of;
use super::{Finding, Findings, codes};
use crate::istio::{Config, DEFAULT_NAMESPACE};
use crate::snapshot::{BuildError, Snapshot};
use crate::translate::{Explanation, Index, Input, Resources, explain, translate_unpatched};

/// Namespaces whose clients are tried. Rules are seen from few, and each costs a translation.
const NAMESPACES_MAX: usize = 4;
/// Errors that are told; the others are mostly of the same sort.
const ERRORS_MAX: usize = 100;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let rules = config.destination_rules.iter().map(|document| &document.meta.namespace);
    let routes = config.virtual_services.iter().map(|document| &document.meta.namespace);
    let entries = config.service_entries.iter().map(|document| &document.meta.namespace);
    let services = config.services.iter().map(|document| &document.meta.namespace);
    let mut namespaces: Vec<&str> = Vec::new();
    for namespace in rules.chain(routes).chain(entries).chain(services) {
        if namespaces.len() < NAMESPACES_MAX && !namespaces.contains(&namespace.as_str()) {
            namespaces.push(namespace);
        }
    }
    if namespaces.is_empty() {
        namespaces.push(DEFAULT_NAMESPACE);
    }
    let mut told = HashSet::new();
    let mut last = None;
    for namespace in namespaces {
        let node = node_of(config, namespace, Default::default());
        let index = Index::new(config, &node);
        let resources = translate_unpatched(&index);
        // What is the same for the last client is taken over.
        match Snapshot::build(&resources, last.as_ref()) {
            Ok(snapshot) => last = Some(snapshot),
            Err(errors) => {
                let sources = explain(&index);
                for error in errors.iter().filter(|error| told.len() < ERRORS_MAX && told.insert((*error).clone())) {
                    findings.list.push(finding(config, error, input_of(error, &resources, &sources)));
                }
            }
        }
    }
}

/// The document that most likely holds what is wrong.
fn input_of<'a>(error: &BuildError, resources: &Resources, sources: &'a [Explanation]) -> Option<&'a Input> {
    let (kind, name) = error.resource.split_once(' ').unwrap_or_default();
    let (resource, name, culprits): (_, _, &[&str]) = match kind {
        "cluster" if error.field.starts_with("load_assignment") || error.field.starts_with("endpoints") => {
            ("cluster", name, &["WorkloadEntry", "EndpointSlice", "ServiceEntry"])
        }
        "cluster" => ("cluster", name, &["DestinationRule"]),
        "listener" => ("listener", name, &[]),
        _ => {
            let (_, tail) = error.resource.split_once("route configuration ").unwrap_or_default();
            let hosts = resources.routes.iter().find(|one| one.name == tail).map(|one| &one.virtual_hosts);
            let index = error.field.strip_prefix("virtual_hosts[").and_then(|rest| rest.split(']').next());
            let host = index.and_then(|index| hosts?.get(index.parse::<usize>().ok()?));
            ("virtual_host", host.map_or("", |host| host.name.as_str()), &["VirtualService"])
        }
    };
    let inputs = &sources.iter().find(|one| one.resource == resource && one.name == name)?.inputs;
    inputs.iter().find(|input| culprits.contains(&input.kind)).or(inputs.first())
}

fn finding(config: &Config, error: &BuildError, input: Option<&Input>) -> Finding {
    let code = &codes::BAD_VALUE;
    let file = input.map(|input| &input.source.file).or(config.files.first());
    Finding {
        code: code.id,
        severity: code.severity,
        title: code.title,
        file: file.map(ToString::to_string).unwrap_or_default(),
        line: input.map_or(1, |input| input.source.line),
        document: input.map(|input| format!("{} {}", input.kind, input.id)).unwrap_or_default(),
        field: String::new(),
        reason: format!("the proxy refuses what this makes: {error}"),
        mend: "Change or remove the value that the reason names.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::istio::read;

    #[test]
    fn an_error_is_told_of_the_document_that_made_the_resource() {
        let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.example.com], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.0.0.1}]}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\nspec: {host: a.example.com}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a.example.com], http: [{route: [{destination: {host: a.example.com}}]}]}\n";
        let config = read(&[(Arc::from("a.yaml"), text)]).expect("right");
        let node = node_of(&config, DEFAULT_NAMESPACE, Default::default());
        let index = Index::new(&config, &node);
        let (resources, sources) = (translate_unpatched(&index), explain(&index));
        for (resource, field, document, line) in [
            ("cluster outbound|80||a.example.com", "lb_policy", "DestinationRule default/r", 6),
            ("cluster outbound|80||a.example.com", "load_assignment", "ServiceEntry default/e", 1),
            ("route configuration outbound", "virtual_hosts[0].routes[0]", "VirtualService default/v", 11),
            ("listener outbound", "address", "", 1),
        ] {
            let error = BuildError { resource: resource.into(), field: field.into(), message: "no".into() };
            let found = finding(&config, &error, input_of(&error, &resources, &sources));
            assert_eq!((found.document.as_str(), found.line), (document, line), "{resource} {field}");
            assert!(found.reason.contains("no") && found.file == "a.yaml", "{found:?}");
        }
    }
}
