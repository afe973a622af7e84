//! Resources as an Envoy bootstrap, which a real Envoy runs as it stands.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::util::pack_any;
use serde_json::{Value, json};

use super::{Resources, service};
use crate::patch::pool::{json as message_json, unpack};

/// `{"static_resources": {"listeners": [...], "clusters": [...]}}`, with what comes by discovery put in its place: routes into
/// the listeners that name them, endpoints into their clusters, which become STATIC.
pub fn to_json(resources: &Resources) -> Value {
    let listeners: Vec<Value> =
        resources.listeners.iter().map(|listener| message_json(&with_routes(listener.clone(), resources))).collect();
    let endpoints = resources.endpoints.iter().map(|one| (one.cluster_name.as_str(), one)).collect();
    let clusters: Vec<Value> =
        resources.clusters.iter().map(|cluster| message_json(&with_endpoints(cluster.clone(), &endpoints))).collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn with_routes(mut listener: Listener, resources: &Resources) -> Listener {
    for chain in listener.filter_chains.iter_mut().chain(listener.default_filter_chain.as_mut()) {
        for filter in &mut chain.filters {
            let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
            let Some(mut manager) = unpack::<HttpConnectionManager>(any) else { continue };
            let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else { continue };
            if let Some(routes) = resources.routes.iter().find(|routes| routes.name == rds.route_config_name) {
                manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes.clone()));
                *any = pack_any(manager);
            }
        }
    }
    listener
}

fn with_endpoints(mut cluster: Cluster, endpoints: &HashMap<&str, &ClusterLoadAssignment>) -> Cluster {
    if service::is_eds(&cluster) {
        let name = cluster
            .eds_cluster_config
            .take()
            .map(|eds| eds.service_name)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| cluster.name.clone());
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
        cluster.load_assignment = endpoints.get(name.as_str()).map(|&one| one.clone());
    }
    cluster
}
