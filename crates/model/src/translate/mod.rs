//! What Istio's documents mean, in Envoy v3 resources, for one proxy.
//!
//! [`translate`] makes everything; [`translate_service`] makes one service, so that a change of one of thousands costs one.
//! Nothing here reads a file, a clock or a random number: equal inputs give equal resources.
//!
//! # What is emitted
//!
//! Field names are Envoy's. What is not named here is never set by translation; a patch may set it.
//!
//! **Listener** `outbound`: `address`, `traffic_direction: OUTBOUND`, one `filter_chains` entry without a match, whose only
//! filter is the HTTP connection manager with `rds.route_config_name: outbound`.
//!
//! **Listener** `inbound` (only where the node is an endpoint of a service): `traffic_direction: INBOUND`, `listener_filters`
//! `tls_inspector`, and up to two chains, matched by `transport_protocol`: `inbound-mtls` (`tls`, with a
//! `DownstreamTlsContext`) for ports whose PeerAuthentication is not DISABLE, and `inbound-plain` (`raw_buffer`) for those
//! that are not STRICT. Each has an HTTP connection manager with its `route_config` inside.
//!
//! **HttpConnectionManager**: `stat_prefix`, `rds` or `route_config`, `http_filters` fault, cors, router (always all three:
//! so that a patch finds them; a filter that no route configures does nothing), `stream_idle_timeout: 0s`,
//! `common_http_protocol_options.idle_timeout` (from `ISTIO_META_IDLE_TIMEOUT`), `use_remote_address: false`,
//! `normalize_path: true`, `proxy_100_continue: true`, `upgrade_configs` websocket; on the inbound side
//! `forward_client_cert_details: APPEND_FORWARD` with `set_current_client_cert_details{subject, dns, uri}`.
//!
//! **RouteConfiguration** `outbound`: `virtual_hosts` in the order of the services, then hosts that only a VirtualService
//! names, then `allow_any` for `*` (to PassthroughCluster; with REGISTRY_ONLY `block_all`, 502); `validate_clusters: false`, for an unknown destination
//! must be a 503 for its requests and no refusal of all; `max_direct_response_body_size_bytes`. The inbound ones are named
//! `inbound|PORT||`, or `inbound` where the chain serves several ports; the virtual host of a port that the chain does not serve
//! has no routes.
//!
//! **VirtualHost**: `name` `HOST:PORT`, `domains`, `routes`, `include_request_attempt_count`.
//!
//! **Route**: `name`, `match{prefix | path | safe_regex, case_sensitive, headers{string_match | present_match, invert_match,
//! treat_missing_header_as_empty}, query_parameters}`, `request_headers_to_add/remove`, `response_headers_to_add/remove`
//! (`append_action` OVERWRITE_IF_EXISTS_OR_ADD or APPEND_IF_EXISTS_OR_ADD), `typed_per_filter_config` (fault: `HTTPFault`
//! `delay`, `abort`; cors: `CorsPolicy`), and one of
//! - `route{cluster | weighted_clusters, timeout (0s: none), retry_policy{retry_on, num_retries, per_try_timeout,
//!   retry_host_predicate previous_hosts, host_selection_retry_max_attempts, retriable_status_codes, retry_priority
//!   previous_priorities, retry_back_off.base_interval}, hash_policy{header | cookie | connection_properties |
//!   query_parameter}, prefix_rewrite, regex_rewrite, host_rewrite_literal, request_mirror_policies}`,
//! - `redirect{host_redirect, port_redirect, response_code, scheme_redirect, path_redirect | prefix_rewrite}`,
//! - `direct_response{status, body.inline_string | inline_bytes}`.
//!
//! **Cluster** `outbound|PORT|SUBSET|HOST` and `inbound|PORT||`: `type` EDS (`eds_cluster_config`), STRICT_DNS, LOGICAL_DNS,
//! ORIGINAL_DST or (inbound) STATIC; `connect_timeout`, `lb_policy`, `ring_hash_lb_config.minimum_ring_size`,
//! `maglev_lb_config.table_size`, `round_robin_lb_config` and `least_request_lb_config.slow_start_config`,
//! `circuit_breakers.thresholds[0]` (every limit set), `outlier_detection`, `common_lb_config{healthy_panic_threshold,
//! locality_weighted_lb_config}`, `upstream_connection_options.tcp_keepalive`, `typed_extension_protocol_options`
//! (`HttpProtocolOptions{common_http_protocol_options{idle_timeout, max_connection_duration, max_requests_per_connection},
//! explicit_http_config | auto_config | use_downstream_protocol_config, upstream_http_protocol_options{auto_sni,
//! auto_san_validation}, outlier_detection.error_matcher}`), `transport_socket` or, where only some endpoints are in the
//! mesh, `transport_socket_matches` (by `tlsMode`), `load_assignment` (not EDS), `dns_refresh_rate`, `respect_dns_ttl`,
//! `dns_lookup_family`, `typed_dns_resolver_config` (c-ares), `metadata.filter_metadata.istio{services[0]{host, name,
//! namespace}, port, subset}`.
//!
//! **UpstreamTlsContext**, **DownstreamTlsContext**: `common_tls_context{tls_certificates[0], alpn_protocols (none with
//! `use_downstream_protocol_config`: the offer follows each connection's protocol),
//! validation_context{trusted_ca, match_typed_subject_alt_names, trust_chain_verification}}`, `sni`,
//! `require_client_certificate`. Certificates are file names.
//!
//! **ClusterLoadAssignment**: `cluster_name`, `endpoints[]{locality, lb_endpoints[]{endpoint.address, load_balancing_weight,
//! metadata.filter_metadata["envoy.transport_socket_match"].tlsMode and `istio.workload`}, load_balancing_weight, priority}`.

mod authentication;
mod cluster;
mod concern;
mod domains;
mod endpoints;
mod explain;
mod inbound;
mod listeners;
mod matching;
mod node;
mod output;
mod policy;
mod registry;
mod retry;
mod routes;
mod service;
mod tls;
mod wire;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, VirtualHost,
};

pub use cluster::HTTP_OPTIONS_KEY;
pub use concern::{Concern, Needed, Role, affected, concerns, host_key};
pub use explain::{Explanation, Input, explain};
pub use node::{Certificates, Mesh, Node};
pub use output::to_json;
pub use registry::{Index, Port, Protocol, TLS_MODE_LABEL};
pub use service::{ServiceResources, translate_service};

use crate::istio::{Config, TlsMode};
use crate::patch::{PatchError, PatchReport, PatchSet, Workload, patches};
use policy::MergedRule;

/// Name of the outbound listener and of its route configuration.
pub const OUTBOUND: &str = "outbound";
/// Name of the inbound listener.
pub const INBOUND: &str = "inbound";
/// Name of the HTTP connection manager.
pub const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";
/// Names of the HTTP filters.
pub const FAULT_FILTER: &str = "envoy.filters.http.fault";
pub const CORS_FILTER: &str = "envoy.filters.http.cors";
pub const ROUTER_FILTER: &str = "envoy.filters.http.router";

/// Metadata of a cluster under our own name; Envoy passes over them. This key stands in those that have no endpoints because
/// mutual TLS of the mesh is wanted and the node has no certificate.
pub const OWN_METADATA: &str = "celerity";
pub const LACKS_IDENTITY: &str = "lacks_identity";
/// This key stands in inbound virtual hosts, with the port of the application that their requests go to: patches go by it, whatever
/// they have made of the routes. Those whose port takes no such connections have no routes, and not this either.
pub const INBOUND_PORT: &str = "port";

/// Name of the cluster for hosts that no service has: it goes where a redirected connection was meant to go.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";

/// Name of the virtual host for hosts that no service has, and of its route, where they may not be reached.
pub const BLOCKING_HOST: &str = "block_all";

/// Bound of a direct response's body in bytes: Istio's own (1 MiB).
const DIRECT_RESPONSE_MAX: u32 = 1 << 20;
/// Status for a host that no service has: what Istio's REGISTRY_ONLY answers.
const UNKNOWN_HOST_STATUS: u32 = 502;

/// Everything that one proxy needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub listeners: Vec<Listener>,
    pub routes: Vec<RouteConfiguration>,
    pub clusters: Vec<Cluster>,
    pub endpoints: Vec<ClusterLoadAssignment>,
    /// What became of each patch, in the order in which they were applied.
    pub patches: Vec<PatchReport>,
    /// What the documents ask for and this node cannot do.
    pub notes: Vec<Note>,
    /// Several services have the same name for something, and the first of them has it. Such services cannot change one by one.
    pub contended_domains: bool,
}

/// Something in a document that has no effect on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub input: Input,
    pub message: String,
}

/// Translates and patches everything for `node`.
///
/// # Errors
/// When a patch cannot be applied: an unknown field, type or operation. All such errors are told at once. A patch that
/// matches nothing is no error but a report.
pub fn translate(config: &Config, node: &Node) -> Result<Resources, Vec<PatchError>> {
    let patches = patch_set(config, node)?;
    let mut resources = translate_unpatched(&Index::new(config, node));
    resources.patches = patches.apply(&mut resources);
    Ok(resources)
}

/// The patches that are for `node`, checked.
///
/// # Errors
/// As [`translate`].
pub fn patch_set(config: &Config, node: &Node) -> Result<PatchSet, Vec<PatchError>> {
    let metadata = proxy_metadata(config, node);
    PatchSet::new(patches(config, Workload { namespace: &node.namespace, labels: &node.labels, metadata: &metadata })?)
}

/// Prefix of an agent's variables that become the proxy's metadata (Istio, `ISTIO_META_`).
const METADATA_PREFIX: &str = "ISTIO_META_";

/// What `match.proxy.metadata` is compared with: the node's own, and proxyMetadata under the names that it has in a proxy.
pub fn proxy_metadata(config: &Config, node: &Node) -> BTreeMap<String, String> {
    let settings = config.proxy_settings(&node.namespace);
    let named = |key: String| key.strip_prefix(METADATA_PREFIX).map(str::to_owned).unwrap_or(key);
    let mut all: BTreeMap<String, String> =
        settings.proxy_metadata.into_iter().map(|(key, value)| (named(key), value)).collect();
    all.extend(node.metadata.clone());
    all
}

/// Translates everything, without EnvoyFilters.
pub fn translate_unpatched(index: &Index<'_>) -> Resources {
    // A cluster is a large thing to copy when a list grows; most services have one, and a few are nobody's.
    let services = index.services.len() + 8;
    let mut resources = Resources {
        clusters: Vec::with_capacity(services),
        endpoints: Vec::with_capacity(services),
        ..Resources::default()
    };
    let mut virtual_hosts = Vec::with_capacity(services);
    for service in &index.services {
        let mut made = translate_service(index, &service.host);
        resources.clusters.append(&mut made.clusters);
        resources.endpoints.append(&mut made.endpoints);
        virtual_hosts.append(&mut made.virtual_hosts);
    }
    virtual_hosts.extend(hosts_of_routes_alone(index));
    virtual_hosts.push(unknown_hosts(index.node));
    if !index.node.mesh.registry_only {
        resources.clusters.push(cluster::passthrough());
    }
    resources.contended_domains = first_keeps_domains(&mut virtual_hosts);
    resources.routes.push(outbound_routes(virtual_hosts));
    let (listeners, mut clusters) = listeners_and_inbound(index);
    resources.listeners = listeners;
    resources.clusters.append(&mut clusters);
    resources.notes = notes(index);
    resources
}

/// Translates the services of some hosts ([`host_key`]), and all that is not of one service. The documents of `index` must hold
/// all that those services need ([`Needed`]), and the services of which the node is an endpoint. In the route configuration
/// stand only the virtual hosts of those services.
pub fn translate_some(index: &Index<'_>, hosts: &HashSet<u64>) -> Resources {
    let mut resources = Resources::default();
    let mut virtual_hosts = Vec::new();
    for service in index.services.iter().filter(|service| hosts.contains(&host_key(&service.host))) {
        let mut made = translate_service(index, &service.host);
        resources.clusters.append(&mut made.clusters);
        resources.endpoints.append(&mut made.endpoints);
        virtual_hosts.append(&mut made.virtual_hosts);
    }
    let alone = hosts_of_routes_alone(index).into_iter();
    virtual_hosts.extend(alone.filter(|made| hosts.contains(&host_key(host_of_virtual_host(&made.name)))));
    resources.routes.push(RouteConfiguration { virtual_hosts, ..outbound_routes(Vec::new()) });
    let (listeners, mut clusters) = listeners_and_inbound(index);
    resources.listeners = listeners;
    resources.clusters.append(&mut clusters);
    resources.notes = notes(index);
    resources
}

/// The hosts of the services of which the node is an endpoint.
pub fn served_hosts<'i>(index: &'i Index<'_>) -> impl Iterator<Item = &'i str> {
    inbound::served_services(index).map(|service| service.host.as_str())
}

/// The host of which a virtual host of the outbound side was made.
pub fn host_of_virtual_host(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

/// The listeners and the inbound clusters. They depend on the services of which the node is an endpoint, on
/// PeerAuthentications and on the proxy's settings.
pub fn listeners_and_inbound(index: &Index<'_>) -> (Vec<Listener>, Vec<Cluster>) {
    let idle_timeout = index.config.proxy_settings(&index.node.namespace).idle_timeout();
    let inbound = inbound::inbound(index);
    let mut listeners = vec![listeners::outbound(index.node, idle_timeout)];
    listeners.extend(listeners::inbound(index.node, inbound.secure, inbound.plain, idle_timeout));
    (listeners, inbound.clusters)
}

/// Envoy refuses a domain that two virtual hosts have, so the first keeps it: services in their order. True where there was one.
fn first_keeps_domains(virtual_hosts: &mut Vec<VirtualHost>) -> bool {
    let domains = || virtual_hosts.iter().flat_map(|host| &host.domains);
    let all = domains().count();
    let mut different = HashSet::with_capacity(all);
    different.extend(domains());
    if different.len() == all {
        return false;
    }
    let mut seen: HashSet<String> = HashSet::new();
    virtual_hosts.retain_mut(|host| {
        host.domains.retain(|domain| seen.insert(domain.clone()));
        !host.domains.is_empty()
    });
    true
}

/// The route configuration of the outbound listener, of virtual hosts that share no domain.
fn outbound_routes(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: OUTBOUND.to_owned(),
        virtual_hosts,
        validate_clusters: Some(wire::boolean(false)),
        max_direct_response_body_size_bytes: Some(wire::uint32(DIRECT_RESPONSE_MAX)),
        ..RouteConfiguration::default()
    }
}

/// Nothing says at which port a host is that no service has; HTTP's own it is.
const ROUTES_ALONE_PORT: u16 = 80;

/// Virtual hosts, at port 80, of hosts that no service has but a VirtualService names.
pub fn hosts_of_routes_alone(index: &Index<'_>) -> Vec<VirtualHost> {
    let port = Port { number: ROUTES_ALONE_PORT, name: "http".to_owned(), protocol: Protocol::Http, target: None };
    index
        .hosts_of_routes_alone()
        .filter(|(_, document)| matching::any_concerns(&document.spec, index.node, port.number))
        .map(|(host, document)| VirtualHost {
            name: format!("{host}:{}", port.number),
            domains: domains::of_host(&host, port.number),
            routes: routes::of_virtual_service(index, document, &port),
            include_request_attempt_count: true,
            ..VirtualHost::default()
        })
        .collect()
}

/// The last virtual host: every other name. Istio's ALLOW_ANY sends it where its client meant to go, its REGISTRY_ONLY
/// nowhere.
pub fn unknown_hosts(node: &Node) -> VirtualHost {
    let (name, action) = if node.mesh.registry_only {
        let action = DirectResponseAction { status: UNKNOWN_HOST_STATUS, ..DirectResponseAction::default() };
        (BLOCKING_HOST, Action::DirectResponse(action))
    } else {
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH_CLUSTER.to_owned())),
            timeout: Some(wire::duration(Duration::ZERO)),
            ..RouteAction::default()
        };
        ("allow_any", Action::Route(action))
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            name: name.to_owned(),
            r#match: Some(matching::every_path()),
            action: Some(action),
            ..Route::default()
        }],
        ..VirtualHost::default()
    }
}

/// The documents that decide what a service becomes, the service first. With the PeerAuthentications and the node, these are
/// all the inputs of [`translate_service`].
pub fn service_inputs(index: &Index<'_>, host: &str) -> Vec<Input> {
    let mut inputs = Vec::new();
    let Some(service) = index.service(host) else { return inputs };
    inputs.push(explain::of_service(service));
    inputs.extend(index.destination_rules(host).into_iter().map(|document| Input::of("DestinationRule", document)));
    if let Some(document) = index.virtual_service(host) {
        inputs.push(Input::of("VirtualService", document));
        let destinations = document.spec.http.iter().flat_map(|http| &http.route);
        for one in destinations {
            let other = registry::full_name(&one.destination.host, &document.meta.namespace, index.node);
            for document in index.destination_rules(&other) {
                let input = Input::of("DestinationRule", document);
                if !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
        }
    }
    inputs
}

/// The name of an outbound cluster; `subset` is empty for the whole service.
pub fn outbound_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

fn notes(index: &Index<'_>) -> Vec<Note> {
    if index.node.certificates.is_some() {
        return Vec::new();
    }
    let mut notes: Vec<Note> = Vec::new();
    for service in &index.services {
        let rule = MergedRule::of(index, &service.host);
        let asks = service
            .ports
            .iter()
            .any(|port| rule.policy(port, None).tls.is_some_and(|tls| tls.mode == Some(TlsMode::IstioMutual)));
        if let (true, Some(document)) = (asks, rule.documents.first()) {
            let message = format!(
                "ISTIO_MUTUAL towards {} needs a certificate of the mesh, and this proxy has none: the service has no endpoints",
                service.host
            );
            notes.push(Note { input: Input::of("DestinationRule", document), message });
        }
    }
    notes
}
