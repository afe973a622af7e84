//! Building snapshots: what is read, what is refused by name, what is taken over.

use std::sync::Arc;
use std::time::Duration;

use celerity_model::snapshot::{Action, Address, Algorithm, ConnectionView, HttpFilter, Snapshot, Transport};
use celerity_model::translate::Resources;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{
    Address as EnvoyAddress, HealthCheck, Metadata, SocketAddress, TransportSocket, address, socket_address,
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter as EnvoyFilter, Rds,
    http_connection_manager::{RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig},
    http_filter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration as EnvoyDuration, Struct, UInt32Value, Value, value::Kind,
};
use prost::{Message, Name};

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn socket(host: &str, port: u32) -> EnvoyAddress {
    EnvoyAddress {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.into(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Struct {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.into())) };
    Struct { fields: pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect() }
}

fn endpoint(host: &str, tls: bool) -> LbEndpoint {
    let mut metadata = Metadata::default();
    metadata.filter_metadata.insert("istio".into(), labels(&[("workload", "users-v1;default;users;v1;Kubernetes")]));
    metadata.filter_metadata.insert("envoy.lb".into(), labels(&[("a", "1"), ("b", "2"), ("c", "3")]));
    if tls {
        metadata.filter_metadata.insert("envoy.transport_socket_match".into(), labels(&[("tlsMode", "istio")]));
    }
    LbEndpoint {
        metadata: Some(metadata),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket(host, 8080)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

fn service_name(index: usize) -> String {
    format!("outbound|80||service-{index}.default.svc.cluster.local")
}

fn cluster(index: usize) -> Cluster {
    Cluster {
        name: service_name(index),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        lb_policy: LbPolicy::LeastRequest as i32,
        connect_timeout: Some(EnvoyDuration { seconds: 10, nanos: 0 }),
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: Some(UInt32Value { value: 7 }),
            ..OutlierDetection::default()
        }),
        ..Cluster::default()
    }
}

fn assignment(index: usize) -> ClusterLoadAssignment {
    let hosts = (0..10).map(|host| endpoint(&format!("10.{}.{}.{host}", index >> 8, index & 255), true));
    ClusterLoadAssignment {
        cluster_name: service_name(index),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: hosts.collect(), ..LocalityLbEndpoints::default() }],
        ..ClusterLoadAssignment::default()
    }
}

fn route_to(cluster: &str) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.into())),
            timeout: Some(EnvoyDuration::default()),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

fn virtual_host(index: usize) -> VirtualHost {
    let name = format!("service-{index}");
    let fqdn = format!("{name}.default.svc.cluster.local");
    let mut domains = Vec::new();
    for host in [name.clone(), format!("{name}.default"), format!("{name}.default.svc"), fqdn.clone()] {
        domains.push(format!("{host}:80"));
        domains.push(host);
    }
    VirtualHost {
        name: format!("{fqdn}:80"),
        domains,
        routes: vec![route_to(&service_name(index))],
        ..VirtualHost::default()
    }
}

fn listener(port: u32) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: "outbound".into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds { route_config_name: "outbound".into(), ..Rds::default() })),
        http_filters: vec![EnvoyFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..EnvoyFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    Listener {
        name: "outbound".into(),
        address: Some(socket("127.0.0.1", port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".into(),
                config_type: Some(filter::ConfigType::TypedConfig(any(&manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn mesh(services: usize) -> Resources {
    Resources {
        listeners: vec![listener(15001)],
        routes: vec![RouteConfiguration {
            name: "outbound".into(),
            virtual_hosts: (0..services).map(virtual_host).collect(),
            ..RouteConfiguration::default()
        }],
        clusters: (0..services).map(cluster).collect(),
        endpoints: (0..services).map(assignment).collect(),
        ..Resources::default()
    }
}

fn built(resources: &Resources, previous: Option<&Snapshot>) -> Snapshot {
    match Snapshot::build(resources, previous) {
        Ok(snapshot) => snapshot,
        Err(errors) => panic!("{}", errors.iter().map(|error| format!("{error}\n")).collect::<String>()),
    }
}

#[test]
fn a_request_finds_its_way_from_authority_to_endpoints() {
    let snapshot = built(&mesh(3), None);
    let listener = snapshot.listener("outbound").expect("the listener");
    let chain = listener.chain(&ConnectionView::default()).expect("a chain");
    assert!(matches!(chain.manager.filters.as_ref(), [HttpFilter::Router(_)]));
    let host = chain.manager.routes.lookup(b"Service-1.default:80").expect("a virtual host");
    assert_eq!(&*host.name, "service-1.default.svc.cluster.local:80");
    let Action::Forward(forward) = &host.routes[0].action else { panic!("a forward") };
    assert_eq!(forward.timeout, None, "0s is no timeout");
    let target = forward.target.clusters().next().expect("a cluster");
    let cluster = snapshot.cluster(target).expect("the cluster is there");
    let service = &cluster.service;
    assert_eq!((&*service.short, &*service.namespace, service.port), ("service-1", "default", 80));
    assert_eq!(cluster.endpoints.len(), 10);
    assert_eq!(cluster.policy.connection.connect_timeout, Duration::from_secs(10));
    assert!(matches!(cluster.policy.load_balancing.algorithm, Algorithm::LeastRequest { choices: 2, .. }));
    assert_eq!(cluster.policy.outlier.as_ref().map(|outlier| outlier.consecutive_5xx), Some(7));
    let workload = cluster.endpoints[0].workload.as_ref().expect("a workload");
    assert_eq!((&*workload.name, &*workload.canonical_revision), ("users-v1", "v1"));
    assert!(chain.manager.routes.lookup(b"nobody").is_none());
}

#[test]
fn one_changed_service_of_four_thousand_is_one_rebuilt() {
    let mut resources = mesh(4000);
    let first = built(&resources, None);
    assert_eq!((first.report.clusters_rebuilt, first.report.virtual_hosts_rebuilt), (4000, 4000));

    resources.endpoints[7].endpoints[0].lb_endpoints.pop();
    // Made anew, so that hash maps inside have another order.
    resources.endpoints[8] = assignment(8);
    let second = built(&resources, Some(&first));
    assert_eq!((second.report.clusters_rebuilt, second.report.clusters_reused), (1, 3999));
    assert_eq!((second.report.virtual_hosts_rebuilt, second.report.listeners_rebuilt), (0, 0));
    let at = |snapshot: &Snapshot, index| snapshot.cluster_by_name(&service_name(index)).expect("there").clone();
    assert!(Arc::ptr_eq(&at(&first, 8), &at(&second, 8)));
    assert_eq!((at(&first, 7).identity, at(&first, 7).pool_key), (at(&second, 7).identity, at(&second, 7).pool_key));
    assert_ne!(at(&first, 7).fingerprint, at(&second, 7).fingerprint);

    resources.routes[0].virtual_hosts[9].routes.push(route_to("elsewhere"));
    let third = built(&resources, Some(&second));
    assert_eq!((third.report.clusters_rebuilt, third.report.virtual_hosts_rebuilt), (0, 1));
    assert_eq!(third.report.listeners_rebuilt, 1, "a listener holds its route table");
    assert_eq!(third.version, 3);
}

#[test]
fn the_pool_key_follows_what_connections_depend_on() {
    let mut resources = mesh(1);
    let first = built(&resources, None);
    let key = |snapshot: &Snapshot| snapshot.cluster_by_name(&service_name(0)).expect("there").pool_key;
    resources.clusters[0].lb_policy = LbPolicy::Random as i32;
    let second = built(&resources, Some(&first));
    assert_eq!(key(&first), key(&second), "connections do not depend on the balancer");
    resources.clusters[0].connect_timeout = Some(EnvoyDuration { seconds: 1, nanos: 0 });
    assert_ne!(key(&first), key(&built(&resources, Some(&second))));
}

#[test]
fn of_several_thresholds_the_first_stands() {
    let threshold =
        |requests: u32| Thresholds { max_requests: Some(UInt32Value { value: requests }), ..Thresholds::default() };
    let mut resources = mesh(1);
    resources.clusters[0].circuit_breakers =
        Some(CircuitBreakers { thresholds: vec![threshold(7), threshold(0)], ..CircuitBreakers::default() });
    let snapshot = built(&resources, None);
    let cluster = snapshot.cluster_by_name(&service_name(0)).expect("there");
    assert_eq!(cluster.policy.limits.max_requests, 7);
}

#[test]
fn transports_follow_endpoint_metadata() {
    let context = UpstreamTlsContext { sni: "outbound_.80_._.service-0".into(), ..UpstreamTlsContext::default() };
    let mut resources = mesh(1);
    resources.clusters[0].transport_socket_matches = vec![TransportSocketMatch {
        name: "tlsMode-istio".into(),
        r#match: Some(labels(&[("tlsMode", "istio")])),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
        }),
    }];
    resources.endpoints[0].endpoints[0].lb_endpoints[3] = endpoint("10.9.9.9", false);
    let snapshot = built(&resources, None);
    let cluster = snapshot.cluster_by_name(&service_name(0)).expect("there");
    let Transport::Tls(tls) = cluster.transport(&cluster.endpoints[0]) else { panic!("TLS") };
    assert_eq!(tls.sni.as_deref(), Some("outbound_.80_._.service-0"));
    assert_eq!(cluster.transport(&cluster.endpoints[3]), &Transport::Raw);

    let context = UpstreamTlsContext { sni: "*.a".into(), ..UpstreamTlsContext::default() };
    resources.clusters[0].transport_socket_matches[0].transport_socket = Some(TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(&context))),
    });
    let errors = Snapshot::build(&resources, None).expect_err("no client can send it");
    assert!(errors[0].to_string().contains("typed_config.sni"), "{errors:?}");
}

#[test]
fn dns_names_are_resolved_into_endpoints() {
    let mut resources = mesh(1);
    resources.clusters[0].cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
    let mut load = assignment(0);
    load.endpoints[0].lb_endpoints = vec![endpoint("one.example", false), endpoint("127.0.0.9", false)];
    resources.clusters[0].load_assignment = Some(load);
    let snapshot = built(&resources, None);
    let cluster = snapshot.cluster_by_name(&service_name(0)).expect("there");
    assert!(cluster.needs_dns());
    let resolved = cluster.resolved(|_, port| vec![([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], port).into()]);
    let addresses: Vec<String> = resolved.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:8080", "10.0.0.2:8080", "127.0.0.9:8080"]);
    assert_eq!(resolved.endpoints[0].hostname.as_deref(), Some("one.example"));
    assert_eq!(resolved.localities[0].len, 3);
    assert!(matches!(resolved.endpoints[2].address, Address::Socket(_)));

    let with = |last: u8, previous: Option<&Snapshot>| {
        snapshot.resolved(previous, |_, _, port| vec![([10, 0, 0, last], port).into()])
    };
    let of = |snapshot: &Snapshot| snapshot.cluster_by_name(&service_name(0)).expect("there").clone();
    let one = with(1, None);
    assert!(Arc::ptr_eq(&of(&one), &of(&with(1, Some(&one)))), "the same addresses are no change");
    let two = of(&with(2, Some(&one)));
    assert_ne!(of(&one).fingerprint, two.fingerprint);
    assert_eq!((of(&one).identity, of(&one).pool_key), (two.identity, two.pool_key), "connections and ejections stay");
}

#[test]
fn what_is_not_supported_is_refused_by_name_all_at_once() {
    let mut resources = mesh(2);
    resources.clusters[1].health_checks.push(HealthCheck::default());
    let regex = RegexMatcher { regex: "a(".into(), ..RegexMatcher::default() };
    resources.routes[0].virtual_hosts[0].routes[0].r#match = Some(RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::SafeRegex(regex)),
        ..RouteMatch::default()
    });
    resources.routes[0].virtual_hosts[1].domains.push("service-0".into());
    resources.listeners[0].transparent = Some(BoolValue { value: true });
    let errors = Snapshot::build(&resources, None).expect_err("refused");
    let found: Vec<(&str, &str)> = errors.iter().map(|error| (error.resource.as_str(), error.field.as_str())).collect();
    assert_eq!(
        found,
        [
            ("cluster outbound|80||service-1.default.svc.cluster.local", "health_checks"),
            ("route configuration outbound", "virtual_hosts[0].routes[0].match.safe_regex"),
            ("route configuration outbound", "virtual_hosts"),
            ("listener outbound", "transparent"),
        ]
    );
    assert!(errors[2].to_string().contains("domain service-0 stands in both"), "{}", errors[2]);
}

#[test]
fn what_no_worker_reads_is_refused() {
    let mut resources = mesh(1);
    resources.clusters[0].per_connection_buffer_limit_bytes = Some(UInt32Value { value: 1024 });
    let Some(route::Action::Route(action)) = &mut resources.routes[0].virtual_hosts[0].routes[0].action else {
        panic!("a route")
    };
    action.priority = 1;
    resources.listeners[0].per_connection_buffer_limit_bytes = Some(UInt32Value { value: 1024 });
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds { route_config_name: "outbound".into(), ..Rds::default() })),
        http_filters: vec![EnvoyFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..EnvoyFilter::default()
        }],
        xff_num_trusted_hops: 1,
        strip_matching_host_port: true,
        drain_timeout: Some(EnvoyDuration { seconds: 9, nanos: 0 }),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            cert: true,
            ..SetCurrentClientCertDetails::default()
        }),
        access_log: vec![Default::default()],
        upgrade_configs: ["websocket", "spdy"]
            .map(|name| UpgradeConfig { upgrade_type: name.into(), ..UpgradeConfig::default() })
            .into(),
        ..HttpConnectionManager::default()
    };
    resources.listeners[0].filter_chains[0].filters[0].config_type =
        Some(filter::ConfigType::TypedConfig(any(&manager)));
    let errors = Snapshot::build(&resources, None).expect_err("refused");
    let fields: Vec<&str> = errors.iter().filter_map(|error| error.field.rsplit('.').next()).collect();
    for field in [
        "per_connection_buffer_limit_bytes",
        "priority",
        "xff_num_trusted_hops",
        "strip_matching_host_port",
        "access_log",
        "drain_timeout",
        "cert",
        "upgrade_configs",
    ] {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
    assert_eq!(fields.iter().filter(|field| **field == "per_connection_buffer_limit_bytes").count(), 2);
}
