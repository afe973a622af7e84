//! Endpoints of a cluster, by locality and priority.

use std::collections::{BTreeMap, HashMap, HashSet};

use envoy_types::pb::envoy::config::core::v3::{Locality as EnvoyLocality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};

use super::node::Node;
use super::registry::{Port, Workload};
use super::wire::{object, socket, text, uint32};
use crate::istio::{Locality, LocalityLbSetting, REGION_LABEL, ZONE_LABEL};

/// Key by which a cluster's `transport_socket_matches` choose.
pub(super) const SOCKET_MATCH_KEY: &str = "envoy.transport_socket_match";
const SUB_ZONE_LABEL: &str = "topology.istio.io/subzone";

/// An endpoint and how it is reached.
pub(super) struct Reached<'a, 'b> {
    pub(super) workload: &'b Workload<'a>,
    pub(super) port: u16,
    /// Over mesh mTLS.
    pub(super) mtls: bool,
}

/// How localities shape the choice of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// All endpoints are alike.
    Flat,
    /// Localities have weights (`distribute`).
    Weighted,
    /// Nearer ones go first.
    Failover,
}

/// Whether the setting of a rule does anything for this proxy. `outlier` says whether unhealthy endpoints are found out at
/// all: without that Istio fails over never.
pub(super) fn shape(node: &Node, setting: Option<&LocalityLbSetting>, outlier: bool) -> Shape {
    let on = setting.and_then(|setting| setting.enabled).unwrap_or(node.mesh.locality_lb);
    if !on {
        return Shape::Flat;
    }
    if let Some(setting) = setting {
        if setting.distribute.iter().any(|one| locality_matches(&node.locality, &one.from)) {
            return Shape::Weighted;
        }
        if !setting.distribute.is_empty() {
            return Shape::Flat;
        }
        if outlier && !setting.failover_priority.is_empty() {
            return Shape::Failover;
        }
    }
    if outlier && !node.locality.is_empty() { Shape::Failover } else { Shape::Flat }
}

/// What `trafficDistribution` of a Service asks for (Kubernetes, Service v1: PreferClose, PreferSameZone).
pub(super) fn near_first() -> LocalityLbSetting {
    LocalityLbSetting {
        failover_priority: vec![REGION_LABEL.to_owned(), ZONE_LABEL.to_owned()],
        ..LocalityLbSetting::default()
    }
}

pub(super) fn assign<'a>(
    name: &str,
    node: &Node,
    endpoints: &[Reached<'a, '_>],
    setting: Option<&LocalityLbSetting>,
    shape: Shape,
) -> ClusterLoadAssignment {
    // In the order of locality and priority, so that equal inputs give equal resources.
    let mut groups: BTreeMap<(u32, &Locality), Vec<&Reached<'a, '_>>> = BTreeMap::new();
    for endpoint in endpoints {
        let priority = if shape == Shape::Failover { priority(node, endpoint.workload, setting) } else { 0 };
        groups.entry((priority, &endpoint.workload.locality)).or_default().push(endpoint);
    }
    let weights = match (shape, setting) {
        (Shape::Weighted, Some(setting)) => Some(distribution(
            node,
            setting,
            groups.iter().map(|((_, locality), list)| (*locality, total_weight(list))),
        )),
        _ => None,
    };
    let mut dense = HashMap::new();
    let mut result = Vec::with_capacity(groups.len());
    for ((priority, locality), list) in &groups {
        let weight = match &weights {
            Some(weights) => match weights.get(locality) {
                Some(weight) => *weight,
                // Localities that `to` does not name get nothing.
                None => continue,
            },
            None => total_weight(list),
        };
        // Envoy wants priorities without gaps.
        let next = u32::try_from(dense.len()).unwrap_or(u32::MAX);
        let priority = *dense.entry(*priority).or_insert(next);
        result.push(LocalityLbEndpoints {
            locality: (!locality.is_empty()).then(|| EnvoyLocality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            lb_endpoints: list.iter().map(|endpoint| lb_endpoint(endpoint)).collect(),
            load_balancing_weight: Some(uint32(weight)),
            priority,
            ..LocalityLbEndpoints::default()
        });
    }
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: result, ..ClusterLoadAssignment::default() }
}

fn total_weight(list: &[&Reached<'_, '_>]) -> u32 {
    list.iter().fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.workload.weight))
}

fn lb_endpoint(endpoint: &Reached<'_, '_>) -> LbEndpoint {
    LbEndpoint {
        metadata: describe(endpoint),
        load_balancing_weight: Some(uint32(endpoint.workload.weight)),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket(&endpoint.workload.address, endpoint.port)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

fn describe(endpoint: &Reached<'_, '_>) -> Option<Metadata> {
    let mut all = Metadata::default();
    if endpoint.mtls {
        all.filter_metadata.insert(SOCKET_MATCH_KEY.to_owned(), object([("tlsMode", text("istio"))]));
    }
    if let Some(workload) = endpoint.workload.description() {
        all.filter_metadata.insert("istio".to_owned(), object([("workload", text(workload))]));
    }
    (!all.filter_metadata.is_empty()).then_some(all)
}

/// `region/zone/sub_zone` against a pattern whose last part may be `*`, or which names the wider parts only.
fn locality_matches(locality: &Locality, pattern: &str) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    if pattern == "*" {
        return true;
    }
    pattern.split('/').zip(parts).all(|(wanted, has)| wanted == "*" || wanted == has)
}

/// The weight of each locality under the entry that is for the proxy's own. Localities that share one entry share its percent
/// by the weight of their endpoints.
fn distribution<'b>(
    node: &Node,
    setting: &LocalityLbSetting,
    localities: impl Iterator<Item = (&'b Locality, u32)>,
) -> HashMap<&'b Locality, u32> {
    let Some(entry) = setting.distribute.iter().find(|one| locality_matches(&node.locality, &one.from)) else {
        return HashMap::new();
    };
    let localities: Vec<(&Locality, u32)> = localities.collect();
    // The more exact name first: `us/a` must not lose its endpoints to `us/*`.
    let mut targets: Vec<(&String, u32)> = entry.to.iter().map(|(to, percent)| (to, *percent)).collect();
    targets.sort_by_key(|(to, _)| (to.contains('*'), std::cmp::Reverse(to.matches('/').count())));
    let mut weights = HashMap::new();
    for (to, percent) in targets {
        let mine: Vec<_> = localities
            .iter()
            .filter(|(locality, _)| locality_matches(locality, to) && !weights.contains_key(locality))
            .collect();
        let total: u64 = mine.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if percent == 0 || total == 0 {
            continue;
        }
        for (locality, weight) in mine {
            let share = (u64::from(percent) * u64::from(*weight)).div_ceil(total);
            weights.insert(*locality, u32::try_from(share).unwrap_or(u32::MAX));
        }
    }
    weights
}

/// 0 is best. By `failoverPriority`'s labels first, then, by `failover` or without either, by how much of the locality is shared.
fn priority(node: &Node, workload: &Workload<'_>, setting: Option<&LocalityLbSetting>) -> u32 {
    let labels = setting.map_or(&[][..], |setting| &setting.failover_priority);
    let failover = setting.map_or(&[][..], |setting| &setting.failover);
    let by_label = label_priority(node, workload, labels);
    if !labels.is_empty() && failover.is_empty() {
        return by_label;
    }
    let (own, there) = (&node.locality, &workload.locality);
    let by_locality = if own.region != there.region {
        // The first entry for a region stands alone, as in Istio (pilot `applyLocalityFailover`).
        let entry = failover.iter().find(|one| one.from == own.region);
        if entry.is_some_and(|one| one.to != there.region) { 4 } else { 3 }
    } else if own.zone != there.zone {
        2
    } else {
        u32::from(own.sub_zone != there.sub_zone)
    };
    // Five steps of locality within each step of labels.
    by_label.saturating_mul(5).saturating_add(by_locality)
}

/// How many of the labels, counted from the first that differs, are not shared.
fn label_priority(node: &Node, workload: &Workload<'_>, wanted: &[String]) -> u32 {
    let shared = wanted
        .iter()
        .take_while(|entry| match entry.split_once('=') {
            Some((key, value)) => label(&workload.labels, &workload.locality, key) == Some(value),
            None => {
                let own = label(&node.labels, &node.locality, entry);
                label(&workload.labels, &workload.locality, entry) == own
            }
        })
        .count();
    u32::try_from(wanted.len() - shared).unwrap_or(u32::MAX)
}

fn label<'a>(labels: &'a BTreeMap<String, String>, locality: &'a Locality, key: &str) -> Option<&'a str> {
    if let Some(value) = labels.get(key) {
        return Some(value);
    }
    let part = match key {
        REGION_LABEL => &locality.region,
        ZONE_LABEL => &locality.zone,
        SUB_ZONE_LABEL => &locality.sub_zone,
        _ => return None,
    };
    (!part.is_empty()).then_some(part.as_str())
}

/// The endpoints of a port that carry the labels of a subset, each of a slice's once.
pub(super) fn reached<'a, 'b>(
    workloads: &'b [Workload<'a>],
    port: &Port,
    subset: Option<&BTreeMap<String, String>>,
    mtls: impl Fn(&Workload<'a>, u16) -> bool,
) -> Vec<Reached<'a, 'b>> {
    let mut seen = HashSet::new();
    workloads
        .iter()
        .filter(|workload| subset.is_none_or(|wanted| super::registry::contains(&workload.labels, wanted)))
        .filter_map(|workload| {
            let number = workload.port(port)?;
            if workload.is_of_slice() && !seen.insert((&*workload.address, number)) {
                return None;
            }
            Some(Reached { workload, port: number, mtls: mtls(workload, port.target.unwrap_or(number)) })
        })
        .collect()
}
