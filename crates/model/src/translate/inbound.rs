//! The inbound side: which ports of the application are served, and under which names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::DiscoveryType;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost};

use super::cluster::{self, Upstream};
use super::matching::every_path;
use super::policy::MergedRule;
use super::registry::{Index, Port, Protocol, Service, Workload};
use super::wire::{duration, list, metadata, nested, object, socket, text};
use super::{INBOUND, INBOUND_PORT, OWN_METADATA, authentication, domains};
use crate::istio::{ConnectionPool, MtlsMode, TrafficPolicy};

/// A port of a service that this workload is an endpoint of.
struct Served<'s, 'a> {
    service: &'s Service<'a>,
    port: &'s Port,
    /// Port of the application.
    target: u16,
}

/// What the inbound side becomes.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// `inbound|PORT||`, one for each port of the application.
    pub(super) clusters: Vec<Cluster>,
    /// Over mesh mTLS.
    pub(super) secure: Option<RouteConfiguration>,
    /// In plain text.
    pub(super) plain: Option<RouteConfiguration>,
}

/// The services of which the node is an endpoint.
pub(super) fn served_services<'i, 'a>(index: &'i Index<'a>) -> impl Iterator<Item = &'i Service<'a>> {
    own(index).map(|(service, _)| service)
}

/// With the endpoint that is the node's.
fn own<'i, 'a>(index: &'i Index<'a>) -> impl Iterator<Item = (&'i Service<'a>, &'i Workload<'a>)> {
    let addresses: HashSet<String> = index.node.addresses.iter().map(ToString::to_string).collect();
    index.services.iter().filter_map(move |service| {
        // Mostly there are none, and then no endpoint needs to be looked at.
        let named = |endpoint: &&Workload<'_>| !addresses.is_empty() && addresses.contains(endpoint.address.as_ref());
        Some((service, service.endpoints.iter().find(named)?))
    })
}

/// The inbound clusters by name, each with the host whose rules it has.
pub(super) fn clusters_and_hosts(index: &Index<'_>) -> BTreeMap<String, String> {
    let mut hosts = BTreeMap::new();
    for one in served(index) {
        hosts.entry(cluster_name(one.target)).or_insert_with(|| one.service.host.clone());
    }
    hosts
}

fn served<'i, 'a>(index: &'i Index<'a>) -> Vec<Served<'i, 'a>> {
    let mut served = Vec::new();
    for (service, mine) in own(index) {
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Opaque) {
            let Some(number) = mine.port(port) else { continue };
            // An endpoint that names the inbound listener's own port means the application's behind it.
            let is_inbound = number == index.node.inbound.port();
            let target = if is_inbound { port.target.unwrap_or(port.number) } else { number };
            served.push(Served { service, port, target });
        }
    }
    served
}

pub(super) fn inbound(index: &Index<'_>) -> Inbound {
    let node = index.node;
    let served = served(index);
    let mode =
        |served: &Served<'_, '_>| authentication::mode(index.config, &node.namespace, &node.labels, served.target);
    let mut clusters: BTreeMap<u16, Cluster> = BTreeMap::new();
    for one in &served {
        clusters.entry(one.target).or_insert_with(|| inbound_cluster(index, one));
    }
    Inbound {
        clusters: clusters.into_values().collect(),
        secure: route_configuration(index, &served, |one| {
            node.certificates.is_some() && mode(one) != MtlsMode::Disable
        }),
        plain: route_configuration(index, &served, |one| mode(one) != MtlsMode::Strict),
    }
}

/// The limits of a rule hold on the receiving side too, or its own defaults would undercut them, as in Istio.
fn inbound_cluster(index: &Index<'_>, served: &Served<'_, '_>) -> Cluster {
    let policy = MergedRule::of(index, &served.service.host).policy(served.port, None);
    let pool = policy.connection_pool.map(|pool| ConnectionPool { tcp: pool.tcp, http: pool.http });
    let policy = TrafficPolicy { connection_pool: pool, ..TrafficPolicy::default() };
    let name = cluster_name(served.target);
    let upstream = if served.port.protocol == Protocol::Http2 { Upstream::Http2 } else { Upstream::Http1 };
    let mut made = cluster::cluster(name.clone(), DiscoveryType::Static, &policy);
    cluster::http_options(&mut made, &policy, upstream, false, false);
    made.metadata = Some(describe(served));
    made.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: name,
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                    address: Some(socket(&index.node.application.to_string(), served.target)),
                    ..Endpoint::default()
                })),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    });
    made
}

fn describe(served: &Served<'_, '_>) -> Metadata {
    let service = served.service;
    let about = object([
        ("host", text(&*service.host)),
        ("name", text(&*service.name)),
        ("namespace", text(service.namespace)),
    ]);
    metadata("istio", object([("services", list(vec![nested(about)])), ("port", text(served.port.number.to_string()))]))
}

fn cluster_name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// Without redirection the port that a caller meant is gone, so its authority tells the ports of the workload apart; what names
/// none of them goes to the first. In Istio each port has chains of its own, and what a port does not take is refused: here the
/// names of such a port have no routes (404), lest another port's application answer for it.
fn route_configuration(
    index: &Index<'_>,
    served: &[Served<'_, '_>],
    takes: impl Fn(&Served<'_, '_>) -> bool,
) -> Option<RouteConfiguration> {
    let targets: BTreeSet<u16> = served.iter().filter(|one| takes(one)).map(|one| one.target).collect();
    let name = match targets.len() {
        0 => return None,
        1 => targets.first().copied().map(cluster_name).unwrap_or_default(),
        _ => INBOUND.to_owned(),
    };
    let port = |one: &Served<'_, '_>| {
        takes(one).then(|| metadata(OWN_METADATA, object([(INBOUND_PORT, text(one.target.to_string()))])))
    };
    let routes = |one: &Served<'_, '_>| if takes(one) { vec![route(one.target)] } else { Vec::new() };
    let mut seen = HashSet::new();
    let mut virtual_hosts: Vec<VirtualHost> = Vec::new();
    let several = served.iter().any(|one| Some(one.target) != served.first().map(|first| first.target));
    if several {
        for one in served {
            let first_of_service =
                served.iter().find(|other| other.service.host == one.service.host).map(|other| other.port.number);
            let at_80 = served.iter().any(|other| other.service.host == one.service.host && other.port.number == 80);
            let bare = if at_80 { one.port.number == 80 } else { first_of_service == Some(one.port.number) };
            let mut domains = domains::of_service(one.service, index.node, one.port.number, bare);
            domains.retain(|domain| seen.insert(domain.clone()));
            if !domains.is_empty() {
                virtual_hosts.push(VirtualHost {
                    name: format!("inbound|http|{}|{}", one.port.number, one.service.host),
                    domains,
                    routes: routes(one),
                    metadata: port(one),
                    ..VirtualHost::default()
                });
            }
        }
    }
    if let Some(first) = served.first() {
        virtual_hosts.push(VirtualHost {
            name: format!("inbound|http|{}", first.port.number),
            domains: vec!["*".to_owned()],
            routes: routes(first),
            metadata: port(first),
            ..VirtualHost::default()
        });
    }
    Some(RouteConfiguration { name, virtual_hosts, ..RouteConfiguration::default() })
}

fn route(target: u16) -> Route {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster_name(target))),
        timeout: Some(duration(Duration::ZERO)),
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: Some(duration(Duration::ZERO)),
            grpc_timeout_header_max: Some(duration(Duration::ZERO)),
            grpc_timeout_header_offset: None,
        }),
        ..RouteAction::default()
    };
    Route {
        name: "default".to_owned(),
        r#match: Some(every_path()),
        action: Some(Action::Route(action)),
        ..Route::default()
    }
}
