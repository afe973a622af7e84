//! DestinationRules of one host among each other, and what their hosts and subsets are.

use std::collections::HashSet;

use super::world::{World, full_name, has_labels};
use super::{Findings, codes, merged};
use crate::istio::{Config, DestinationRule, Document};

const KIND: &str = "DestinationRule";

pub(super) fn check(config: &Config, world: &World<'_>, findings: &mut Findings) {
    for (host, documents) in &world.rules {
        several(host, documents, findings);
    }
    let routed = routed_subsets(config);
    for document in &config.destination_rules {
        let host = full_name(&document.spec.host, &document.meta.namespace);
        if world.knows_hosts_like(&host) && !world.is_known(&host) {
            findings.add(
                &codes::UNKNOWN_RULE_HOST,
                KIND,
                document,
                "spec.host",
                format!("no Service and no ServiceEntry has the host {host}, so the rule acts on nothing"),
                codes::UNKNOWN_RULE_HOST.mend.to_owned(),
            );
        }
        subsets(document, &host, world, &routed, findings);
    }
}

fn several(host: &str, documents: &[&Document<DestinationRule>], findings: &mut Findings) {
    let Some((first, others)) = documents.split_first().filter(|(_, others)| !others.is_empty()) else { return };
    let winner = documents.iter().find(|d| d.spec.traffic_policy.is_some());
    for document in documents {
        let Some(winner) = winner else { break };
        if std::ptr::eq(*document, *winner) || document.spec.traffic_policy.is_none() {
            continue;
        }
        findings.add(
            &codes::RULE_WITHOUT_EFFECT,
            KIND,
            document,
            "spec.trafficPolicy",
            format!(
                "for {host} the trafficPolicy of {} stands ({}:{}), which was read first; this one is without effect{}",
                winner.meta.name,
                winner.source.file,
                winner.line("spec.trafficPolicy"),
                if document.spec.subsets.is_empty() { "" } else { " but for its subsets, which unite with the others" },
            ),
            format!(
                "Merge it into {}; the finding {} there shows the merged rule.",
                winner.meta.name,
                codes::MERGED_RULE.id
            ),
        );
    }
    let mut defined: HashSet<&str> = HashSet::new();
    for document in documents {
        for (index, subset) in document.spec.subsets.iter().enumerate() {
            if !defined.insert(&subset.name) {
                findings.add(
                    &codes::SUBSET_WITHOUT_EFFECT,
                    KIND,
                    document,
                    &format!("spec.subsets[{index}].name"),
                    format!("an earlier rule of {host} defines the subset {}; that one stands", subset.name),
                    codes::SUBSET_WITHOUT_EFFECT.mend.to_owned(),
                );
            }
        }
    }
    let names: Vec<&str> = others.iter().map(|d| d.meta.name.as_str()).collect();
    findings.add(
        &codes::MERGED_RULE,
        KIND,
        first,
        "spec.host",
        format!(
            "{host} has {} DestinationRules: this one and {}; one can stand for all",
            documents.len(),
            names.join(", ")
        ),
        merged::rule(documents),
    );
}

/// Host and subset of every destination of every route.
fn routed_subsets(config: &Config) -> HashSet<(String, &str)> {
    let mut found = HashSet::new();
    for document in &config.virtual_services {
        for destination in document.spec.http.iter().flat_map(|http| &http.route).map(|r| &r.destination) {
            if let Some(subset) = &destination.subset {
                found.insert((full_name(&destination.host, &document.meta.namespace), subset.as_str()));
            }
        }
    }
    found
}

fn subsets(
    document: &Document<DestinationRule>,
    host: &str,
    world: &World<'_>,
    routed: &HashSet<(String, &str)>,
    findings: &mut Findings,
) {
    let subsets = &document.spec.subsets;
    if let Some(known) = world.hosts.get(host).filter(|known| !known.open) {
        for (index, subset) in subsets.iter().enumerate() {
            if !known.endpoints.iter().any(|e| has_labels(&e.labels, &subset.labels)) {
                let wanted: Vec<String> = subset.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                findings.add(
                    &codes::EMPTY_SUBSET,
                    KIND,
                    document,
                    &format!("spec.subsets[{index}].labels"),
                    format!("none of the {} endpoints of {host} carries {}", known.endpoints.len(), wanted.join(", ")),
                    codes::EMPTY_SUBSET.mend.to_owned(),
                );
            }
        }
    }
    let unused: Vec<&str> =
        subsets.iter().map(|s| s.name.as_str()).filter(|name| !routed.contains(&(host.to_owned(), *name))).collect();
    if unused.is_empty() {
        return;
    }
    if routed.iter().any(|(to, _)| to == host) {
        let mend = "Route to them, or remove them.".to_owned();
        let reason = format!("routes lead to other subsets of {host}; {} get no request", unused.join(", "));
        findings.add(&codes::SUBSETS_WITHOUT_WEIGHTS, KIND, document, "spec.subsets", reason, mend);
        return;
    }
    let share = 100 / subsets.len().max(1);
    let mut mend = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  hosts:\n  - {}\n  http:\n  - route:\n",
        document.meta.name, document.meta.namespace, document.spec.host
    );
    for (index, subset) in subsets.iter().enumerate() {
        let weight = if index == 0 { 100 - share * (subsets.len() - 1) } else { share };
        mend.push_str(&format!(
            "    - destination:\n        host: {}\n        subset: {}\n      weight: {weight}\n",
            document.spec.host, subset.name
        ));
    }
    findings.add(
        &codes::SUBSETS_WITHOUT_WEIGHTS,
        KIND,
        document,
        "spec.subsets",
        format!("no VirtualService routes to {} of {host}: no weights are set anywhere, and requests go to all endpoints alike", unused.join(", ")),
        mend,
    );
}
