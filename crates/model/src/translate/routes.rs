//! Routes of a VirtualService, as one proxy needs them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, Route, RouteAction, RouteMatch, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, StringMatcher};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;

use super::matching::{concerns, every_path, regex_matcher, route_match, string_matcher};
use super::policy::MergedRule;
use super::registry::{Index, Port, full_name};
use super::wire::{boolean, duration, fraction, runtime_fraction, uint32};
use super::{CORS_FILTER, FAULT_FILTER, outbound_name, retry};
use crate::istio::{
    self, Destination, Document, HashKey, HeaderOperations, HttpRoute, UnmatchedPreflights, VirtualService,
};

/// The routes of a host and port without a VirtualService: everything to the service.
#[allow(deprecated)] // `max_grpc_timeout` is what Istio writes: its successor counts otherwise
pub(super) fn plain(rule: &MergedRule<'_>, host: &str, port: &Port) -> Vec<Route> {
    let hash_policy = hash_policy(rule, port, None);
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(outbound_name(port.number, "", host))),
        timeout: Some(duration(Duration::ZERO)),
        max_grpc_timeout: Some(duration(Duration::ZERO)),
        retry_policy: retry::policy(None, !hash_policy.is_empty()),
        hash_policy,
        ..RouteAction::default()
    };
    vec![Route {
        name: "default".to_owned(),
        r#match: Some(every_path()),
        action: Some(Action::Route(action)),
        ..Route::default()
    }]
}

/// The routes of a VirtualService for requests to `port`, in order. What follows a route that takes everything is left out.
pub(super) fn of_virtual_service(index: &Index<'_>, document: &Document<VirtualService>, port: &Port) -> Vec<Route> {
    let mut routes = Vec::new();
    for http in &document.spec.http {
        let concerning: Vec<_> =
            http.matches.iter().filter(|matches| concerns(matches, index.node, port.number)).collect();
        if http.matches.is_empty() {
            routes.push(route(index, document, http, None, every_path(), port));
            break;
        }
        for matches in concerning {
            let conditions = route_match(matches);
            let takes_everything = conditions == every_path();
            routes.push(route(index, document, http, matches.name.as_deref(), conditions, port));
            if takes_everything {
                return routes;
            }
        }
    }
    routes
}

fn route(
    index: &Index<'_>,
    document: &Document<VirtualService>,
    http: &HttpRoute,
    match_name: Option<&str>,
    conditions: RouteMatch,
    port: &Port,
) -> Route {
    let name = match (http.name.as_deref(), match_name) {
        (Some(route), Some(one)) => format!("{route}.{one}"),
        (Some(route), None) => route.to_owned(),
        (None, Some(one)) => one.to_owned(),
        (None, None) => String::new(),
    };
    let mut route = Route { name, r#match: Some(conditions), ..Route::default() };
    // A single destination is no choice: what it does to headers follows what the route does, and its authority stands where the
    // route has none.
    let single = match http.route.as_slice() {
        [only] => only.headers.as_ref(),
        _ => None,
    };
    let mut host_rewrite = None;
    for changes in http.headers.iter().chain(single) {
        if let Some(request) = &changes.request {
            let (add, host) = additions(request);
            route.request_headers_to_add.extend(add);
            route.request_headers_to_remove.extend_from_slice(&request.remove);
            host_rewrite = host_rewrite.or(host);
        }
        if let Some(response) = &changes.response {
            route.response_headers_to_add.extend(additions(response).0);
            route.response_headers_to_remove.extend_from_slice(&response.remove);
        }
    }
    route.typed_per_filter_config = per_filter(http);
    route.action = Some(if let Some(redirect) = &http.redirect {
        Action::Redirect(redirect_action(redirect, port))
    } else if let Some(response) = &http.direct_response {
        Action::DirectResponse(DirectResponseAction {
            status: u32::from(response.status),
            body: response
                .body
                .as_ref()
                .map(|body| DataSource { specifier: Some(body_of(&body.0)), ..DataSource::default() }),
            ..DirectResponseAction::default()
        })
    } else {
        Action::Route(forward(index, document, http, port, host_rewrite))
    });
    route
}

/// Text is written as text, so that output stays readable.
fn body_of(bytes: &[u8]) -> Specifier {
    match std::str::from_utf8(bytes) {
        Ok(text) => Specifier::InlineString(text.to_owned()),
        Err(_) => Specifier::InlineBytes(bytes.to_vec()),
    }
}

#[allow(deprecated)] // `max_grpc_timeout`, as above
fn forward(
    index: &Index<'_>,
    document: &Document<VirtualService>,
    http: &HttpRoute,
    port: &Port,
    host_rewrite: Option<String>,
) -> RouteAction {
    let namespace = &document.meta.namespace;
    let timeout = Some(duration(http.timeout.unwrap_or(Duration::ZERO)));
    // A gRPC request may ask for less (Istio `setTimeout`).
    let mut action = RouteAction { timeout, max_grpc_timeout: timeout, ..RouteAction::default() };
    // Of several destinations those of weight zero get nothing.
    let mut weighted: Vec<_> =
        http.route.iter().filter(|one| http.route.len() == 1 || one.weight.unwrap_or(0) > 0).collect();
    if weighted.is_empty() {
        // No weight at all: equal ones. Envoy refuses a choice of nothing, and with it every other route.
        weighted = http.route.iter().collect();
    }
    for one in &weighted {
        let host = full_name(&one.destination.host, namespace, index.node);
        let rule = MergedRule::of(index, &host);
        if let Some(port) = port_of(index, &one.destination, &host, port) {
            action.hash_policy.extend(hash_policy(&rule, &port, one.destination.subset.as_deref()));
        }
    }
    action.retry_policy = retry::policy(http.retries.as_ref(), !action.hash_policy.is_empty());
    action.cluster_specifier = Some(match weighted.as_slice() {
        [one] if one.headers.is_none() || http.route.len() == 1 => {
            ClusterSpecifier::Cluster(destination_cluster(index, &one.destination, namespace, port))
        }
        many => {
            let clusters: Vec<ClusterWeight> =
                many.iter().map(|one| cluster_weight(index, one, namespace, port)).collect();
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..WeightedCluster::default() })
        }
    });
    if let Some(rewrite) = &http.rewrite {
        if let Some(uri) = &rewrite.uri {
            action.prefix_rewrite = uri.clone();
        }
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(regex_matcher(&regex.pattern)),
                substitution: regex.rewrite.clone(),
            });
        }
    }
    let authority =
        http.rewrite.as_ref().and_then(|rewrite| rewrite.authority.clone()).filter(|authority| !authority.is_empty());
    action.host_rewrite_specifier = authority.or(host_rewrite).map(HostRewriteSpecifier::HostRewriteLiteral);
    let one_mirror = http.mirror.as_ref().map(|mirror| (mirror, http.mirror_percentage.as_ref()));
    let mirrors = http.mirrors.iter().map(|mirror| (&mirror.destination, mirror.percentage.as_ref()));
    action.request_mirror_policies = one_mirror
        .into_iter()
        .chain(mirrors)
        .map(|(destination, share)| RequestMirrorPolicy {
            cluster: destination_cluster(index, destination, namespace, port),
            runtime_fraction: Some(runtime_fraction(share.map_or(100.0, |share| share.value))),
            trace_sampled: Some(boolean(false)),
            ..RequestMirrorPolicy::default()
        })
        .collect();
    action
}

fn cluster_weight(index: &Index<'_>, one: &istio::RouteDestination, namespace: &str, port: &Port) -> ClusterWeight {
    let mut cluster = ClusterWeight {
        name: destination_cluster(index, &one.destination, namespace, port),
        weight: Some(uint32(one.weight.unwrap_or(0).max(1))),
        ..ClusterWeight::default()
    };
    if let Some(headers) = &one.headers {
        if let Some(request) = &headers.request {
            let (add, host) = additions(request);
            cluster.request_headers_to_add = add;
            cluster.request_headers_to_remove = request.remove.clone();
            cluster.host_rewrite_specifier = host.map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral);
        }
        if let Some(response) = &headers.response {
            cluster.response_headers_to_add = additions(response).0;
            cluster.response_headers_to_remove = response.remove.clone();
        }
    }
    cluster
}

fn destination_cluster(index: &Index<'_>, destination: &Destination, namespace: &str, port: &Port) -> String {
    let host = full_name(&destination.host, namespace, index.node);
    let number = port_of(index, destination, &host, port).map_or(port.number, |port| port.number);
    outbound_name(destination.port_number().unwrap_or(number), destination.subset.as_deref().unwrap_or_default(), &host)
}

/// The port named, else the only one of the service, else the one that the request came for.
fn port_of(index: &Index<'_>, destination: &Destination, host: &str, port: &Port) -> Option<Port> {
    let service = index.service(host)?;
    match (destination.port_number(), service.ports.as_slice()) {
        (Some(number), ports) => ports.iter().find(|port| port.number == number).cloned(),
        (None, [only]) => Some(only.clone()),
        (None, ports) => ports.iter().find(|one| one.number == port.number).cloned(),
    }
}

/// What a consistent hash is taken of; empty where there is none.
fn hash_policy(rule: &MergedRule<'_>, port: &Port, subset: Option<&str>) -> Vec<HashPolicy> {
    let policy = rule.policy(port, subset);
    let Some(key) = policy.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref()?.key()) else {
        return Vec::new();
    };
    let specifier = match key {
        HashKey::Header(name) => PolicySpecifier::Header(Header { header_name: name.to_owned(), ..Header::default() }),
        HashKey::Cookie(cookie) => PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone().unwrap_or_default(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| CookieAttribute {
                    name: attribute.name.clone(),
                    value: attribute.value.clone().unwrap_or_default(),
                })
                .collect(),
        }),
        HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_owned() }),
    };
    vec![HashPolicy { policy_specifier: Some(specifier), ..HashPolicy::default() }]
}

fn redirect_action(redirect: &istio::Redirect, port: &Port) -> RedirectAction {
    let port_redirect = match (redirect.port, redirect.derive_port) {
        (Some(number), _) => u32::from(number),
        (None, Some(istio::DerivePort::FromRequestPort)) => u32::from(port.number),
        (None, _) => 0,
    };
    // A sidecar's side of a client is never TLS, so http is the scheme where none is named. Its own port is not written.
    let port_redirect = match (port_redirect, redirect.scheme.as_deref().unwrap_or_default()) {
        (80, "" | "http") | (443, "https") => 0,
        (number, _) => number,
    };
    let code = match redirect.redirect_code.unwrap_or(301) {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    // An empty text is as if it were not written.
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = set(&redirect.uri).map(PathRewriteSpecifier::PathRedirect);
    RedirectAction {
        host_redirect: redirect.authority.clone().unwrap_or_default(),
        port_redirect,
        response_code: code as i32,
        scheme_rewrite_specifier: set(&redirect.scheme).map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path.or_else(|| set(&redirect.prefix_rewrite).map(PathRewriteSpecifier::PrefixRewrite)),
        ..RedirectAction::default()
    }
}

/// Headers to set and to add. Setting the host is a rewrite of its own in Envoy, and comes back apart.
fn additions(operations: &HeaderOperations) -> (Vec<HeaderValueOption>, Option<String>) {
    let is_host = |name: &str| name.eq_ignore_ascii_case("host") || name == ":authority";
    let options = |map: &BTreeMap<String, String>, action: HeaderAppendAction| -> Vec<HeaderValueOption> {
        map.iter()
            .filter(|(name, _)| !is_host(name))
            .map(|(name, value)| HeaderValueOption {
                header: Some(HeaderValue { key: name.clone(), value: value.clone(), ..HeaderValue::default() }),
                append_action: action as i32,
                ..HeaderValueOption::default()
            })
            .collect()
    };
    let mut all = options(&operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    all.extend(options(&operations.add, HeaderAppendAction::AppendIfExistsOrAdd));
    // Added or set, there is one authority; of both, the one that is set stands, as in Istio.
    let host = operations.set.iter().chain(&operations.add).find(|(name, _)| is_host(name));
    (all, host.map(|(_, value)| value.clone()))
}

fn per_filter(http: &HttpRoute) -> HashMap<String, Any> {
    let mut configs = HashMap::new();
    if let Some(fault) = &http.fault {
        configs.insert(FAULT_FILTER.to_owned(), pack_any(fault_config(fault)));
    }
    if let Some(cors) = &http.cors_policy {
        configs.insert(CORS_FILTER.to_owned(), pack_any(cors_config(cors)));
    }
    configs
}

fn fault_config(fault: &istio::Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().map(|delay| FaultDelay {
            percentage: Some(fraction(delay.share_percent())),
            fault_delay_secifier: delay.fixed_delay.map(|fixed| FaultDelaySecifier::FixedDelay(duration(fixed))),
        }),
        abort: fault.abort.as_ref().map(|abort| FaultAbort {
            percentage: Some(fraction(abort.share_percent())),
            error_type: match (abort.http_status, abort.grpc_status) {
                (Some(status), _) => Some(ErrorType::HttpStatus(u32::from(status))),
                (None, Some(status)) => Some(ErrorType::GrpcStatus(status.0)),
                (None, None) => None,
            },
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    }
}

fn cors_config(cors: &istio::CorsPolicy) -> CorsPolicy {
    let any = || StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex_matcher(".*"))),
        ..StringMatcher::default()
    };
    let exact = |origin: &String| match origin.as_str() {
        "*" => any(),
        _ => StringMatcher { match_pattern: Some(MatchPattern::Exact(origin.clone())), ..StringMatcher::default() },
    };
    let origins: Vec<StringMatcher> = if cors.allow_origins.is_empty() {
        cors.allow_origin.iter().map(exact).collect()
    } else {
        cors.allow_origins.iter().map(|origin| string_matcher(origin).unwrap_or_else(any)).collect()
    };
    CorsPolicy {
        allow_origin_string_match: origins,
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: cors.allow_credentials.map(boolean),
        filter_enabled: Some(runtime_fraction(100.0)),
        forward_not_matching_preflights: Some(boolean(
            cors.unmatched_preflights.unwrap_or_default() != UnmatchedPreflights::Ignore,
        )),
        ..CorsPolicy::default()
    }
}
