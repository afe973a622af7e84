//! The two listeners, and the HTTP connection manager they share.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as NetworkConfig;
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType as ListenerConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::{cors::v3::Cors, fault::v3::HttpFault, router::v3::Router};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;

use super::node::Node;
use super::wire::{ads, boolean, duration, socket};
use super::{CORS_FILTER, FAULT_FILTER, HTTP_MANAGER, INBOUND, OUTBOUND, ROUTER_FILTER, tls};

/// Traffic that leaves the workload: one explicit proxy for every host and port.
pub(super) fn outbound(node: &Node, idle_timeout: Option<Duration>) -> Listener {
    let routes = RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: OUTBOUND.to_owned() });
    let filters = vec![
        http_filter(FAULT_FILTER, pack_any(HttpFault::default())),
        http_filter(CORS_FILTER, pack_any(Cors::default())),
        http_filter(ROUTER_FILTER, pack_any(Router::default())),
    ];
    let chain = FilterChain {
        filters: vec![network_filter(manager(OUTBOUND, routes, filters, idle_timeout))],
        ..FilterChain::default()
    };
    let original = ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(ListenerConfig::TypedConfig(pack_any(OriginalDst::default()))),
        ..ListenerFilter::default()
    };
    Listener {
        listener_filters: vec![original],
        ..listener(OUTBOUND, node.outbound, TrafficDirection::Outbound, vec![chain])
    }
}

/// Traffic that arrives: a chain for mesh mTLS, one for plain text, each with the ports that accept it. A workload that
/// accepts nothing has no listener.
pub(super) fn inbound(
    node: &Node,
    secure: Option<RouteConfiguration>,
    plain: Option<RouteConfiguration>,
    idle_timeout: Option<Duration>,
) -> Option<Listener> {
    let chain = |name: &str, protocol: &str, routes: RouteConfiguration| FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: protocol.to_owned(),
            ..FilterChainMatch::default()
        }),
        filters: vec![network_filter(HttpConnectionManager {
            // The application learns who its caller is. What a caller says of itself stays on the way only over mutual TLS.
            forward_client_cert_details: ForwardClientCertDetails::AppendForward as i32,
            set_current_client_cert_details: Some(SetCurrentClientCertDetails {
                subject: Some(boolean(true)),
                dns: true,
                uri: true,
                ..SetCurrentClientCertDetails::default()
            }),
            ..manager(
                INBOUND,
                RouteSpecifier::RouteConfig(routes),
                vec![
                    http_filter(FAULT_FILTER, pack_any(HttpFault::default())),
                    http_filter(CORS_FILTER, pack_any(Cors::default())),
                    http_filter(ROUTER_FILTER, pack_any(Router::default())),
                ],
                idle_timeout,
            )
        })],
        ..FilterChain::default()
    };
    let mut chains = Vec::new();
    if let (Some(routes), Some(certificates)) = (secure, &node.certificates) {
        chains.push(FilterChain {
            transport_socket: Some(tls::inbound(certificates)),
            ..chain("inbound-mtls", "tls", routes)
        });
    }
    if let Some(routes) = plain {
        chains.push(chain("inbound-plain", "raw_buffer", routes));
    }
    if chains.is_empty() {
        return None;
    }
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(ListenerConfig::TypedConfig(pack_any(TlsInspector::default()))),
        ..ListenerFilter::default()
    };
    Some(Listener {
        listener_filters: vec![inspector],
        ..listener(INBOUND, node.inbound, TrafficDirection::Inbound, chains)
    })
}

fn listener(name: &str, address: SocketAddr, direction: TrafficDirection, filter_chains: Vec<FilterChain>) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(socket(&address.ip().to_string(), address.port())),
        filter_chains,
        traffic_direction: direction as i32,
        ..Listener::default()
    }
}

fn manager(
    stat_prefix: &str,
    routes: RouteSpecifier,
    http_filters: Vec<HttpFilter>,
    idle_timeout: Option<Duration>,
) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        http_filters,
        route_specifier: Some(routes),
        // Istio's: only what a route or a patch says limits a stream.
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        common_http_protocol_options: idle_timeout
            .map(|idle| HttpProtocolOptions { idle_timeout: Some(duration(idle)), ..HttpProtocolOptions::default() }),
        use_remote_address: Some(boolean(false)),
        // Istio's since 1.23 (`ENABLE_100_CONTINUE_HEADERS`); Envoy's own default is to answer it.
        proxy_100_continue: true,
        normalize_path: Some(boolean(true)),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..UpgradeConfig::default() }],
        ..HttpConnectionManager::default()
    }
}

fn network_filter(manager: HttpConnectionManager) -> Filter {
    Filter { name: HTTP_MANAGER.to_owned(), config_type: Some(NetworkConfig::TypedConfig(pack_any(manager))) }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}
