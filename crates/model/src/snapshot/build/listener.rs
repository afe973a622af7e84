//! From Envoy's listeners and HTTP connection managers to what accepts a connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain as EnvoyChain, FilterChainMatch, Listener as EnvoyListener, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager as hcm,
};
use xxhash_rust::xxh64::xxh64;

use super::super::cluster::Address;
use super::super::listener::*;
use super::super::table::RouteTable;
use super::check::{Check, u32_or};
use super::{cluster, endpoint, filter as http_filters, tls};

/// The proxy's own limit of every handshake: a longer one would not act.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);

/// What the proxy's HTTP/1.1 parser takes; also Envoy's default.
const HEADERS_MAX: u32 = 100;

/// The route tables by name.
pub(super) type Tables = HashMap<String, Arc<RouteTable>>;

/// What a proxy without a `server_name` calls itself in the `server` header. Envoy says `envoy`, which we are not.
const OWN_NAME: &str = "celerity";

pub(super) fn read(
    check: &mut Check,
    source: &EnvoyListener,
    tables: &mut dyn FnMut(&mut Check, RouteSource) -> Option<Arc<RouteTable>>,
) -> Option<Listener> {
    let mut rest = source.clone();
    let name = std::mem::take(&mut rest.name);
    let address = match check.within("address", |check| endpoint::address(check, rest.address.take().as_ref())) {
        Some(Address::Socket(address)) => Some(address),
        Some(other) => {
            check.error("address", format!("{other} is not an IP address and a port"));
            None
        }
        None => None,
    };
    let direction = match TrafficDirection::try_from(std::mem::take(&mut rest.traffic_direction)) {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        Ok(TrafficDirection::Outbound) => Direction::Outbound,
        Ok(TrafficDirection::Unspecified) | Err(_) => Direction::Unspecified,
    };
    let mut inspects_tls = false;
    let mut use_original_dst = rest.use_original_dst.take().is_some_and(|value| value.value);
    for (index, inspector) in std::mem::take(&mut rest.listener_filters).into_iter().enumerate() {
        check.item("listener_filters", index, |check| {
            let kind = match &inspector.config_type {
                Some(listener_filter::ConfigType::TypedConfig(any)) => any.type_url.clone(),
                _ => inspector.name.clone(),
            };
            if kind.ends_with("TlsInspector") || kind.ends_with("tls_inspector") {
                inspects_tls = true;
            } else if kind.ends_with("OriginalDst") || kind.ends_with("original_dst") {
                use_original_dst = true;
            } else if !(kind.ends_with("HttpInspector") || kind.ends_with("http_inspector")) {
                check.error("", format!("listener filter {kind} is not supported; remove it"));
            }
        });
    }
    let inspect_timeout = check
        .duration("listener_filters_timeout", rest.listener_filters_timeout.take())
        .unwrap_or(Duration::from_secs(15));
    let mut chains = Vec::new();
    for (index, chain) in std::mem::take(&mut rest.filter_chains).into_iter().enumerate() {
        chains.extend(check.item("filter_chains", index, |check| read_chain(check, chain, tables)));
    }
    let default_chain = rest
        .default_filter_chain
        .take()
        .and_then(|chain| check.within("default_filter_chain", |check| read_chain(check, chain, tables)))
        .map(Box::new);
    if source.filter_chains.is_empty() && source.default_filter_chain.is_none() {
        check.error("filter_chains", "at least one is needed");
    }
    if rest.bind_to_port.take().is_some_and(|value| !value.value) {
        check.error("bind_to_port", "a listener that does not bind is not supported");
    }
    rest.stat_prefix.clear();
    rest.metadata = None;
    // Each worker has its own socket on the port, always.
    rest.enable_reuse_port = None;
    rest.continue_on_listener_filters_timeout = false;
    check.leftover(&rest);
    let mut listener = Listener {
        name: name.into(),
        address: address?,
        direction,
        fingerprint: 0,
        chains: chains.into(),
        default_chain,
        inspects_tls,
        inspect_timeout,
        use_original_dst,
    };
    // The built form has no maps and no order by chance; routes print their name only.
    let text = format!("{listener:?}");
    listener.fingerprint =
        u128::from(xxh64(text.as_bytes(), 0)) << 64 | u128::from(xxh64(text.as_bytes(), 0x9e37_79b9));
    Some(listener)
}

/// Where an HTTP connection manager has its routes from.
pub(super) enum RouteSource {
    Named(String),
    Inline(Box<envoy_types::pb::envoy::config::route::v3::RouteConfiguration>),
}

fn read_chain(
    check: &mut Check,
    mut source: EnvoyChain,
    tables: &mut dyn FnMut(&mut Check, RouteSource) -> Option<Arc<RouteTable>>,
) -> Option<FilterChain> {
    let matching = source
        .filter_chain_match
        .take()
        .map(|matching| check.within("filter_chain_match", |check| chain_match(check, matching)))
        .unwrap_or_default();
    let tls = source
        .transport_socket
        .take()
        .and_then(|socket| check.within("transport_socket", |check| tls::downstream(check, &socket)));
    let handshake_timeout =
        check.limit("transport_socket_connect_timeout", source.transport_socket_connect_timeout.take(), None);
    if handshake_timeout.is_some_and(|limit| limit > HANDSHAKE_MAX) {
        check.error("transport_socket_connect_timeout", format!("must be at most {HANDSHAKE_MAX:?}"));
    }
    let filters = std::mem::take(&mut source.filters);
    let (mut manager, empty) = (None, filters.is_empty());
    for (index, network) in filters.into_iter().enumerate() {
        check.item("filters", index, |check| {
            let Some(filter::ConfigType::TypedConfig(any)) = &network.config_type else {
                check.error("typed_config", format!("network filter {} has no configuration", network.name));
                return;
            };
            if index > 0 || !super::check::is_type::<HttpConnectionManager>(any) {
                check.error(
                    "",
                    format!("network filter {} is not supported; only one HTTP connection manager is", network.name),
                );
                return;
            }
            check.within("typed_config", |check| {
                if let Some(source) = check.unpack(any) {
                    manager = read_manager(check, source, tables);
                }
            });
        });
    }
    let name = std::mem::take(&mut source.name);
    source.metadata = None;
    check.leftover(&source);
    if empty {
        check.error("filters", "an HTTP connection manager is needed");
    }
    Some(FilterChain { name: name.into(), matching, tls, handshake_timeout, manager: Arc::new(manager?) })
}

fn chain_match(check: &mut Check, mut source: FilterChainMatch) -> ChainMatch {
    let destination_port = source.destination_port.take().map(|port| check.port("destination_port", port.value));
    let transport = std::mem::take(&mut source.transport_protocol);
    let is_tls = match transport.as_str() {
        "" => None,
        "tls" => Some(true),
        "raw_buffer" => Some(false),
        other => {
            check.error("transport_protocol", format!("`{other}` is neither tls nor raw_buffer"));
            None
        }
    };
    let alpn = std::mem::take(&mut source.application_protocols).into_iter().map(Into::into).collect();
    let server_names =
        std::mem::take(&mut source.server_names).into_iter().map(|name| name.to_ascii_lowercase().into()).collect();
    check.leftover(&source);
    ChainMatch { destination_port, is_tls, alpn, server_names }
}

fn read_manager(
    check: &mut Check,
    mut source: HttpConnectionManager,
    tables: &mut dyn FnMut(&mut Check, RouteSource) -> Option<Arc<RouteTable>>,
) -> Option<HttpManager> {
    let codec = match std::mem::take(&mut source.codec_type) {
        0 => Codec::Auto,
        1 => Codec::Http1,
        2 => Codec::Http2,
        _ => {
            check.error("codec_type", "HTTP/3 is not supported");
            Codec::Auto
        }
    };
    let (route_name, routes) = match source.route_specifier.take() {
        Some(hcm::RouteSpecifier::Rds(rds)) => {
            let name = rds.route_config_name;
            (name.clone(), check.within("rds", |check| tables(check, RouteSource::Named(name))))
        }
        Some(hcm::RouteSpecifier::RouteConfig(routes)) => {
            let name = routes.name.clone();
            (name, check.within("route_config", |check| tables(check, RouteSource::Inline(Box::new(routes)))))
        }
        Some(hcm::RouteSpecifier::ScopedRoutes(_)) => {
            check.unsupported("scoped_routes");
            (String::new(), None)
        }
        None => {
            check.error("route_specifier", "rds or route_config is needed");
            (String::new(), None)
        }
    };
    let filters = http_filters::chain(check, &std::mem::take(&mut source.http_filters));
    let mut timeouts = ManagerTimeouts::default();
    let mut max_headers_count = HEADERS_MAX;
    let mut max_requests_per_connection = None;
    if let Some(mut common) = source.common_http_protocol_options.take() {
        check.within("common_http_protocol_options", |check| {
            timeouts.idle = check.limit("idle_timeout", common.idle_timeout.take(), timeouts.idle);
            timeouts.max_connection_duration =
                check.limit("max_connection_duration", common.max_connection_duration.take(), None);
            timeouts.max_stream_duration = check.limit("max_stream_duration", common.max_stream_duration.take(), None);
            max_headers_count = u32_or(common.max_headers_count.take(), max_headers_count);
            if max_headers_count > HEADERS_MAX {
                check.error("max_headers_count", format!("{max_headers_count} is more than {HEADERS_MAX}"));
            }
            max_requests_per_connection =
                common.max_requests_per_connection.take().map(|most| most.value).filter(|&most| most > 0);
            check.leftover(&common);
        });
    }
    timeouts.stream_idle = check.limit("stream_idle_timeout", source.stream_idle_timeout.take(), timeouts.stream_idle);
    timeouts.request = check.limit("request_timeout", source.request_timeout.take(), None);
    timeouts.request_headers = check.limit("request_headers_timeout", source.request_headers_timeout.take(), None);
    timeouts.delayed_close =
        check.limit("delayed_close_timeout", source.delayed_close_timeout.take(), timeouts.delayed_close);
    let http2 = source
        .http2_protocol_options
        .take()
        .map(|options| check.within("http2_protocol_options", |check| cluster::http2_settings(check, options)))
        .unwrap_or_default();
    if let Some(mut options) = source.http_protocol_options.take() {
        // Requests in absolute form are always taken, and trailers always passed.
        options.allow_absolute_url = None;
        options.enable_trailers = false;
        options.accept_http_10 = false;
        check.within("http_protocol_options", |check| check.leftover(&options));
    }
    let max_request_headers_kb = u32_or(source.max_request_headers_kb.take(), 60);
    if !(1..=8192).contains(&max_request_headers_kb) {
        check.error("max_request_headers_kb", format!("{max_request_headers_kb} is not in 1 to 8192"));
    }
    let server_name = std::mem::take(&mut source.server_name);
    check.header_text("server_name", &server_name);
    let server_header = match std::mem::take(&mut source.server_header_transformation) {
        0 => Some(if server_name.is_empty() { OWN_NAME.into() } else { server_name.into() }),
        2 => None,
        _ => {
            check.error("server_header_transformation", "APPEND_IF_ABSENT is not supported");
            None
        }
    };
    if !std::mem::take(&mut source.access_log).is_empty() {
        check.error("access_log", "not supported; the proxy's own log is set with --access-log");
    }
    let client_certificate = client_certificate(check, &mut source);
    let request_id = RequestId {
        generate: source.generate_request_id.take().is_none_or(|value| value.value),
        preserve_external: std::mem::take(&mut source.preserve_external_request_id),
        always_set_in_response: std::mem::take(&mut source.always_set_request_id_in_response),
    };
    let strip_port = matches!(source.strip_port_mode.take(), Some(hcm::StripPortMode::StripAnyHostPort(true)));
    // Every Istio listener names websocket. What is left here is refused below.
    let mut websocket = false;
    source.upgrade_configs.retain(|upgrade| {
        let known = upgrade.filters.is_empty() && upgrade.upgrade_type.eq_ignore_ascii_case("websocket");
        if known {
            // A patch is merged by appending to the list, so the last one counts: else none could switch it off.
            websocket = upgrade.enabled.is_none_or(|enabled| enabled.value);
        }
        !known
    });
    let stat_prefix = std::mem::take(&mut source.stat_prefix).into();
    let via = std::mem::take(&mut source.via);
    check.header_text("via", &via);
    let use_remote_address = source.use_remote_address.take().is_some_and(|value| value.value);
    let skip_xff_append = std::mem::take(&mut source.skip_xff_append);
    let normalize_path = source.normalize_path.take().is_some_and(|value| value.value);
    let merge_slashes = std::mem::take(&mut source.merge_slashes);
    if source.path_with_escaped_slashes_action == hcm::PathWithEscapedSlashesAction::KeepUnchanged as i32 {
        // As without it.
        source.path_with_escaped_slashes_action = 0;
    }
    let proxy_100_continue = std::mem::take(&mut source.proxy_100_continue);
    check.leftover(&source);
    Some(HttpManager {
        stat_prefix,
        codec,
        route_name: route_name.into(),
        routes: routes?,
        filters,
        timeouts,
        http2,
        max_request_headers_kb,
        max_headers_count,
        max_requests_per_connection,
        server_header,
        via: (!via.is_empty()).then(|| via.into()),
        use_remote_address,
        skip_xff_append,
        client_certificate,
        request_id,
        proxy_100_continue,
        normalize_path,
        merge_slashes,
        strip_port,
        websocket,
    })
}

fn client_certificate(check: &mut Check, source: &mut HttpConnectionManager) -> ClientCertificateHeader {
    let mode = match std::mem::take(&mut source.forward_client_cert_details) {
        1 => ForwardMode::ForwardOnly,
        2 => ForwardMode::AppendForward,
        3 => ForwardMode::SanitizeSet,
        4 => ForwardMode::AlwaysForwardOnly,
        _ => ForwardMode::Sanitize,
    };
    let mut header = ClientCertificateHeader { mode, ..ClientCertificateHeader::default() };
    if let Some(mut details) = source.set_current_client_cert_details.take() {
        header.subject = details.subject.take().is_some_and(|value| value.value);
        header.dns = std::mem::take(&mut details.dns);
        header.uri = std::mem::take(&mut details.uri);
        check.within("set_current_client_cert_details", |check| check.leftover(&details));
    }
    header
}
