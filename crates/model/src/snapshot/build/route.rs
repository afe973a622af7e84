//! From Envoy's routes and virtual hosts to indexed ones.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, QueryParameterMatcher, RedirectAction, RetryPolicy as EnvoyRetry, Route as EnvoyRoute,
    RouteAction, RouteMatch as EnvoyMatch, VirtualHost as EnvoyHost, WeightedCluster as EnvoyWeighted,
    query_parameter_matcher::QueryParameterMatchSpecifier, redirect_action, redirect_action::RedirectResponseCode,
    route, route_action, route_match::PathSpecifier, weighted_cluster,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue};

use super::super::index::PathIndex;
use super::super::matching::{PathMatch, QueryMatch, RouteMatch, ValueMatch};
use super::super::mutation::{AppendAction, HeaderAddition, HeaderMutations, HeaderValue};
use super::super::retry::{RetryOn, RetryPolicy};
use super::super::route::*;
use super::check::{Check, Data, u32_or};
use super::endpoint::Interner;
use super::filter;

/// Empties the four header lists of a message after they were read.
macro_rules! clear_mutations {
    ($message:expr) => {
        $message.request_headers_to_add.clear();
        $message.request_headers_to_remove.clear();
        $message.response_headers_to_add.clear();
        $message.response_headers_to_remove.clear();
    };
}
pub(super) use clear_mutations;

/// Envoy's default for a route without a timeout.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What virtual hosts take from their route configuration.
pub(super) struct Inherited<'a> {
    pub(super) mirrors: &'a [route_action::RequestMirrorPolicy],
    pub(super) per_filter: &'a HashMap<String, Any>,
}

pub(super) fn virtual_host(
    check: &mut Check,
    interner: &mut Interner,
    source: &EnvoyHost,
    inherited: &Inherited<'_>,
    fingerprint: u128,
) -> VirtualHost {
    let mut rest = source.clone();
    let name = std::mem::take(&mut rest.name);
    let domains: Box<[Box<str>]> =
        std::mem::take(&mut rest.domains).into_iter().map(|domain| domain.to_ascii_lowercase().into()).collect();
    if domains.is_empty() {
        check.error("domains", "at least one is needed");
    }
    let (request_headers, response_headers) = check_mutations(
        check,
        (&rest.request_headers_to_add, &rest.request_headers_to_remove),
        (&rest.response_headers_to_add, &rest.response_headers_to_remove),
    );
    clear_mutations!(rest);
    let table_filters = filter::per_route(check, inherited.per_filter);
    let filters = filter::per_route(check, &std::mem::take(&mut rest.typed_per_filter_config)).over(&table_filters);
    let own_mirrors = std::mem::take(&mut rest.request_mirror_policies);
    let mirrors = if own_mirrors.is_empty() { inherited.mirrors } else { own_mirrors.as_slice() };
    let retry = rest.retry_policy.take();
    let routes = std::mem::take(&mut rest.routes);
    rest.metadata = None;
    let in_request = std::mem::take(&mut rest.include_request_attempt_count);
    let in_response = std::mem::take(&mut rest.include_attempt_count_in_response);
    check.leftover(&rest);
    let defaults = Defaults { filters, mirrors, retry: retry.as_ref() };
    let routes: Box<[Route]> = routes
        .into_iter()
        .enumerate()
        .filter_map(|(index, route)| check.item("routes", index, |check| read_route(check, interner, route, &defaults)))
        .collect();
    let index = PathIndex::of(&routes);
    VirtualHost {
        name: name.into(),
        domains,
        fingerprint,
        request_headers,
        response_headers,
        routes,
        index,
        attempt_count_in_request: in_request,
        attempt_count_in_response: in_response,
    }
}

struct Defaults<'a> {
    filters: RouteFilters,
    mirrors: &'a [route_action::RequestMirrorPolicy],
    retry: Option<&'a EnvoyRetry>,
}

type MutationLists<'a> = (&'a [HeaderValueOption], &'a [String]);

pub(super) fn check_mutations(
    check: &mut Check,
    request: MutationLists<'_>,
    response: MutationLists<'_>,
) -> (HeaderMutations, HeaderMutations) {
    let request = mutations(check, "request_headers_to_add", request);
    (request, mutations(check, "response_headers_to_add", response))
}

fn mutations(check: &mut Check, field: &'static str, (add, remove): MutationLists<'_>) -> HeaderMutations {
    let add = add
        .iter()
        .enumerate()
        .filter_map(|(index, option)| check.item(field, index, |check| addition(check, option)))
        .collect();
    HeaderMutations { remove: remove.iter().map(|name| header_name(name)).collect(), add }
}

fn header_name(name: &str) -> Box<str> {
    if name.eq_ignore_ascii_case("host") { ":authority".into() } else { name.to_ascii_lowercase().into() }
}

fn addition(check: &mut Check, option: &HeaderValueOption) -> Option<HeaderAddition> {
    let header = option.header.as_ref()?;
    let bytes = header.key.as_bytes();
    let token = bytes.strip_prefix(b":").unwrap_or(bytes);
    if token.is_empty() || !token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
        check.error("header.key", format!("`{}` is not a header name", header.key));
        return None;
    }
    let value = if header.raw_value.is_empty() {
        HeaderValue::parse(&header.value).map_err(|message| check.error("header.value", message)).ok()?
    } else {
        HeaderValue::Literal(header.raw_value.as_slice().into())
    };
    check.header_text("header.value", &header.value);
    check.header_text("header.raw_value", &String::from_utf8_lossy(&header.raw_value));
    #[allow(deprecated)]
    let action = match (option.append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(BoolValue { value: false }), _) => AppendAction::Overwrite,
        (Some(BoolValue { value: true }), _) | (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => {
            AppendAction::Append
        }
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => AppendAction::AddIfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => AppendAction::Overwrite,
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => AppendAction::OverwriteIfPresent,
        (None, Err(_)) => {
            check.unsupported("append_action");
            return None;
        }
    };
    Some(HeaderAddition { name: header_name(&header.key), value, action, keep_empty: option.keep_empty_value })
}

fn read_route(
    check: &mut Check,
    interner: &mut Interner,
    mut source: EnvoyRoute,
    defaults: &Defaults<'_>,
) -> Option<Route> {
    let name = std::mem::take(&mut source.name);
    let matching = match source.r#match.take() {
        Some(matching) => check.within("match", |check| read_match(check, matching)),
        None => {
            check.error("match", "must be given");
            None
        }
    };
    let (request_headers, response_headers) = check_mutations(
        check,
        (&source.request_headers_to_add, &source.request_headers_to_remove),
        (&source.response_headers_to_add, &source.response_headers_to_remove),
    );
    clear_mutations!(source);
    let filters =
        filter::per_route(check, &std::mem::take(&mut source.typed_per_filter_config)).over(&defaults.filters);
    let action = match source.action.take() {
        Some(route::Action::Route(action)) => check
            .within("route", |check| forward(check, interner, action, defaults))
            .map(|forward| Action::Forward(Box::new(forward))),
        Some(route::Action::Redirect(action)) => check
            .within("redirect", |check| redirect(check, action))
            .map(|redirect| Action::Redirect(Box::new(redirect))),
        Some(route::Action::DirectResponse(action)) => check
            .within("direct_response", |check| direct_response(check, action))
            .map(|response| Action::Respond(Box::new(response))),
        Some(_) => {
            check.error("action", "only route, redirect and direct_response are supported");
            None
        }
        None => {
            check.error("action", "one of route, redirect and direct_response is needed");
            None
        }
    };
    // These describe the route for statistics and traces; they change nothing of what a request gets.
    source.metadata = None;
    source.decorator = None;
    source.stat_prefix.clear();
    check.leftover(&source);
    Some(Route { name: name.into(), matching: matching?, action: action?, request_headers, response_headers, filters })
}

fn read_match(check: &mut Check, mut source: EnvoyMatch) -> Option<RouteMatch> {
    let path = match source.path_specifier.take() {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathMatch::Prefix(prefix.into())),
        Some(PathSpecifier::Path(path)) => Some(PathMatch::Exact(path.into())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if prefix.ends_with('/') || prefix.contains(['?', '#']) {
                check.error("path_separated_prefix", format!("`{prefix}` must not end in `/` nor hold `?` or `#`"));
            }
            Some(PathMatch::Segments(prefix.into()))
        }
        Some(PathSpecifier::SafeRegex(regex)) => check.regex("safe_regex", &regex.regex).map(PathMatch::Regex),
        Some(PathSpecifier::ConnectMatcher(_)) => {
            check.unsupported("connect_matcher");
            None
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            check.unsupported("path_match_policy");
            None
        }
        None => {
            check.error("path_specifier", "one of prefix, path and safe_regex is needed");
            None
        }
    };
    let ignore_case = source.case_sensitive.take().is_some_and(|value| !value.value);
    let headers = check.header_matches("headers", &std::mem::take(&mut source.headers));
    let query = std::mem::take(&mut source.query_parameters)
        .into_iter()
        .enumerate()
        .filter_map(|(index, query)| check.item("query_parameters", index, |check| query_match(check, query)))
        .collect();
    let fraction = source.runtime_fraction.take().map(|fraction| check.runtime_fraction("runtime_fraction", &fraction));
    let grpc = source.grpc.take().is_some();
    check.leftover(&source);
    Some(RouteMatch { path: path?, ignore_case, headers, query, fraction, grpc })
}

fn query_match(check: &mut Check, source: QueryParameterMatcher) -> Option<QueryMatch> {
    let kind = match &source.query_parameter_match_specifier {
        None => ValueMatch::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => ValueMatch::Present(*present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            ValueMatch::Text(check.string_matcher("string_match", matcher)?)
        }
    };
    Some(QueryMatch { name: source.name.into(), kind })
}

#[allow(deprecated)]
fn forward(
    check: &mut Check,
    interner: &mut Interner,
    mut source: RouteAction,
    defaults: &Defaults<'_>,
) -> Option<Forward> {
    let target = target(check, source.cluster_specifier.take());
    let cluster_missing_status = match source.cluster_not_found_response_code {
        1 => 404,
        2 => 500,
        _ => 503,
    };
    source.cluster_not_found_response_code = 0;
    let timeout = check.limit("timeout", source.timeout.take(), Some(ROUTE_TIMEOUT));
    let idle_timeout = check.duration("idle_timeout", source.idle_timeout.take());
    let (mut max_stream_duration, mut grpc_duration_max) = (None, None);
    let has_new_timeouts = source.max_stream_duration.is_some();
    if let Some(mut duration) = source.max_stream_duration.take() {
        check.within("max_stream_duration", |check| {
            // Zero is a value: it takes the listener's away.
            max_stream_duration = check.duration("max_stream_duration", duration.max_stream_duration.take());
            grpc_duration_max = check.duration("grpc_timeout_header_max", duration.grpc_timeout_header_max.take());
            check.leftover(&duration);
        });
    }
    // The older field, which Istio writes, counts where the newer message is not there (Envoy `usingNewTimeouts`).
    let grpc_timeout = check.duration("max_grpc_timeout", source.max_grpc_timeout.take());
    let grpc_timeout_max = grpc_timeout.filter(|_| !has_new_timeouts);
    let retry = match (source.retry_policy.take(), defaults.retry) {
        (Some(policy), _) => check.within("retry_policy", |check| retry(check, policy)),
        (None, Some(policy)) => check.within("retry_policy", |check| retry(check, policy.clone())),
        (None, None) => None,
    };
    let hash = std::mem::take(&mut source.hash_policy)
        .into_iter()
        .enumerate()
        .filter_map(|(index, policy)| check.item("hash_policy", index, |check| hash_policy(check, policy)))
        .collect();
    let prefix_rewrite = std::mem::take(&mut source.prefix_rewrite);
    check.path_text("prefix_rewrite", &prefix_rewrite);
    let path_rewrite = match (prefix_rewrite.as_str(), source.regex_rewrite.take()) {
        ("", None) => PathRewrite::None,
        (_, None) => PathRewrite::Prefix(prefix_rewrite.into()),
        ("", Some(regex)) => check.substitution("regex_rewrite", &regex).map(PathRewrite::Regex).unwrap_or_default(),
        _ => {
            check.error("regex_rewrite", "cannot stand beside prefix_rewrite; give one");
            PathRewrite::None
        }
    };
    let host_rewrite = host_rewrite(check, source.host_rewrite_specifier.take());
    let own_mirrors = std::mem::take(&mut source.request_mirror_policies);
    let mirrors = if own_mirrors.is_empty() { defaults.mirrors } else { own_mirrors.as_slice() };
    let mirrors = mirrors
        .iter()
        .enumerate()
        .filter_map(|(index, policy)| check.item("request_mirror_policies", index, |check| mirror(check, policy)))
        .collect();
    // What is left is refused: priorities and upgrades among it.
    let append_forwarded_host = std::mem::take(&mut source.append_x_forwarded_host);
    check.leftover(&source);
    Some(Forward {
        target: target?,
        cluster_missing_status,
        timeout,
        idle_timeout,
        max_stream_duration,
        grpc_timeout_max,
        grpc_duration_max,
        retry: retry.map(|policy| interner.retry(policy)),
        hash,
        path_rewrite,
        host_rewrite,
        append_forwarded_host,
        mirrors,
    })
}

fn target(check: &mut Check, source: Option<route_action::ClusterSpecifier>) -> Option<Target> {
    use route_action::ClusterSpecifier;
    match source {
        Some(ClusterSpecifier::Cluster(name)) => Some(Target::Cluster(ClusterRef::new(name))),
        Some(ClusterSpecifier::ClusterHeader(name)) => Some(Target::Header(name.to_ascii_lowercase().into())),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            Some(check.within("weighted_clusters", |check| weighted_target(check, weighted)))
        }
        Some(_) => {
            check.unsupported("cluster_specifier_plugin");
            None
        }
        None => {
            check.error("cluster_specifier", "one of cluster, weighted_clusters and cluster_header is needed");
            None
        }
    }
}

fn weighted_target(check: &mut Check, mut source: EnvoyWeighted) -> Target {
    let mut clusters = Vec::with_capacity(source.clusters.len());
    let mut total = 0_u64;
    for (index, mut weight) in std::mem::take(&mut source.clusters).into_iter().enumerate() {
        check.item("clusters", index, |check| {
            let (request_headers, response_headers) = check_mutations(
                check,
                (&weight.request_headers_to_add, &weight.request_headers_to_remove),
                (&weight.response_headers_to_add, &weight.response_headers_to_remove),
            );
            clear_mutations!(weight);
            let share = u32_or(weight.weight.take(), 0);
            total += u64::from(share);
            use weighted_cluster::cluster_weight::HostRewriteSpecifier;
            let host_rewrite: Option<Box<str>> =
                weight.host_rewrite_specifier.take().map(|HostRewriteSpecifier::HostRewriteLiteral(host)| host.into());
            check.header_text("host_rewrite_literal", host_rewrite.as_deref().unwrap_or_default());
            let name = std::mem::take(&mut weight.name);
            if name.is_empty() {
                check.error("name", "must be given");
            }
            check.leftover(&weight);
            clusters.push(WeightedCluster {
                cluster: ClusterRef::new(name),
                weight: share,
                request_headers,
                response_headers,
                host_rewrite,
            });
        });
    }
    // The total is what the weights sum to; Envoy no longer looks at the field either.
    #[allow(deprecated)]
    {
        source.total_weight = None;
    }
    source.runtime_key_prefix.clear();
    check.leftover(&source);
    let total = u32::try_from(total).unwrap_or_else(|_| {
        check.error("clusters", "the weights sum to more than 4294967295");
        0
    });
    if total == 0 {
        check.error("clusters", "the weights sum to 0");
    }
    Target::Weighted { clusters: clusters.into(), total }
}

fn retry(check: &mut Check, mut source: EnvoyRetry) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::default();
    let mut statuses: Vec<u16> = Vec::new();
    let list = std::mem::take(&mut source.retry_on);
    match RetryOn::parse(&list, |status| statuses.push(status)) {
        Ok(on) => policy.on = on,
        Err(word) => check.error("retry_on", format!("`{word}` is not a retry condition")),
    }
    policy.num_retries = u32_or(source.num_retries.take(), 1);
    policy.per_try_timeout = check.limit("per_try_timeout", source.per_try_timeout.take(), None);
    policy.per_try_idle_timeout = check.limit("per_try_idle_timeout", source.per_try_idle_timeout.take(), None);
    for code in std::mem::take(&mut source.retriable_status_codes) {
        match u16::try_from(code).ok().filter(|code| (100..600).contains(code)) {
            Some(code) => statuses.push(code),
            None => check.error("retriable_status_codes", format!("{code} is not a status")),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    policy.statuses = statuses.into();
    if let Some(mut backoff) = source.retry_back_off.take() {
        check.within("retry_back_off", |check| {
            let base = check.duration("base_interval", backoff.base_interval.take());
            let max = check.duration("max_interval", backoff.max_interval.take());
            let base = base.unwrap_or(policy.backoff_base).max(Duration::from_millis(1));
            policy.backoff_base = base;
            policy.backoff_max = max.unwrap_or_else(|| base.saturating_mul(10));
            if policy.backoff_max < base {
                check.error("max_interval", "must not be less than base_interval");
            }
            check.leftover(&backoff);
        });
    }
    for (index, predicate) in std::mem::take(&mut source.retry_host_predicate).into_iter().enumerate() {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => policy.avoid_previous_hosts = true,
            name => check.error(&format!("retry_host_predicate[{index}]"), format!("{name} is not supported")),
        }
    }
    let attempts = std::mem::take(&mut source.host_selection_retry_max_attempts);
    policy.host_attempts_max = u32::try_from(attempts).unwrap_or(u32::MAX).max(1);
    if let Some(priority) = source.retry_priority.take() {
        check.within("retry_priority", |check| {
            policy.avoid_previous_priorities = filter::previous_priorities(check, &priority);
        });
    }
    policy.headers = check.header_matches("retriable_headers", &std::mem::take(&mut source.retriable_headers));
    policy.request_headers =
        check.header_matches("retriable_request_headers", &std::mem::take(&mut source.retriable_request_headers));
    check.leftover(&source);
    (!policy.on.is_empty() && policy.num_retries > 0 || policy.per_try_timeout.is_some()).then_some(policy)
}

fn hash_policy(check: &mut Check, source: route_action::HashPolicy) -> Option<HashPolicy> {
    use route_action::hash_policy::PolicySpecifier;
    let kind = match source.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            if header.regex_rewrite.is_some() {
                check.unsupported("header.regex_rewrite");
            }
            HashSource::Header(header.header_name.to_ascii_lowercase().into())
        }
        Some(PolicySpecifier::Cookie(cookie)) => {
            let attributes = cookie.attributes.iter().flat_map(|attribute| [&attribute.name, &attribute.value]);
            [&cookie.name, &cookie.path]
                .into_iter()
                .chain(attributes)
                .for_each(|text| check.header_text("cookie", text));
            HashSource::Cookie {
                name: cookie.name.into(),
                ttl: check.duration("cookie.ttl", cookie.ttl),
                path: cookie.path.into(),
                attributes: cookie
                    .attributes
                    .into_iter()
                    .map(|attribute| (attribute.name.into(), attribute.value.into()))
                    .collect(),
            }
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) => {
            if !properties.source_ip {
                check.error("connection_properties.source_ip", "must be true: nothing else is supported");
            }
            HashSource::SourceIp
        }
        Some(PolicySpecifier::QueryParameter(parameter)) => HashSource::QueryParameter(parameter.name.into()),
        Some(PolicySpecifier::FilterState(_)) => {
            check.unsupported("filter_state");
            return None;
        }
        None => {
            check.error("policy_specifier", "one is needed");
            return None;
        }
    };
    Some(HashPolicy { kind, terminal: source.terminal })
}

fn host_rewrite(check: &mut Check, source: Option<route_action::HostRewriteSpecifier>) -> HostRewrite {
    use route_action::HostRewriteSpecifier;
    match source {
        None => HostRewrite::None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            check.header_text("host_rewrite_literal", &host);
            HostRewrite::Literal(host.into())
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(value)) => {
            if value.value {
                HostRewrite::Endpoint
            } else {
                HostRewrite::None
            }
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => HostRewrite::Header(name.to_ascii_lowercase().into()),
        Some(_) => {
            check.error("host_rewrite_specifier", "only literal, auto and header rewrites are supported");
            HostRewrite::None
        }
    }
}

fn mirror(check: &mut Check, source: &route_action::RequestMirrorPolicy) -> Option<Mirror> {
    let mut rest = source.clone();
    let cluster = std::mem::take(&mut rest.cluster);
    let fraction = rest.runtime_fraction.take();
    let fraction = fraction.map_or(super::super::matching::Fraction::ALL, |fraction| {
        check.runtime_fraction("runtime_fraction", &fraction)
    });
    let shadow_host_suffix = !std::mem::take(&mut rest.disable_shadow_host_suffix_append);
    rest.trace_sampled = None;
    check.leftover(&rest);
    if cluster.is_empty() {
        check.error("cluster", "must be given");
        return None;
    }
    Some(Mirror { cluster: ClusterRef::new(cluster), fraction, shadow_host_suffix })
}

fn redirect(check: &mut Check, mut source: RedirectAction) -> Option<Redirect> {
    let status = match RedirectResponseCode::try_from(std::mem::take(&mut source.response_code)) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => {
            check.error("response_code", "an unknown code");
            return None;
        }
    };
    let scheme = match source.scheme_rewrite_specifier.take() {
        None | Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(false)) => RedirectScheme::Keep,
        Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)) => RedirectScheme::Https,
        Some(redirect_action::SchemeRewriteSpecifier::SchemeRedirect(name)) => RedirectScheme::Named(name.into()),
    };
    let path = match source.path_rewrite_specifier.take() {
        None => RedirectPath::Keep,
        Some(redirect_action::PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Whole(path.into()),
        Some(redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix.into()),
        Some(redirect_action::PathRewriteSpecifier::RegexRewrite(regex)) => {
            RedirectPath::Regex(check.substitution("regex_rewrite", &regex)?)
        }
        Some(_) => {
            check.unsupported("path_rewrite");
            return None;
        }
    };
    if let RedirectScheme::Named(text) = &scheme {
        check.header_text("scheme_redirect", text);
    }
    if let RedirectPath::Whole(text) | RedirectPath::Prefix(text) = &path {
        check.header_text("path_redirect", text);
    }
    check.header_text("host_redirect", &source.host_redirect);
    let port = std::mem::take(&mut source.port_redirect);
    let port = (port != 0).then(|| check.port("port_redirect", port));
    let host = std::mem::take(&mut source.host_redirect);
    let strip_query = std::mem::take(&mut source.strip_query);
    check.leftover(&source);
    Some(Redirect { status, scheme, host: (!host.is_empty()).then(|| host.into()), port, path, strip_query })
}

fn direct_response(check: &mut Check, mut source: DirectResponseAction) -> Option<DirectResponse> {
    let status = match u16::try_from(source.status).ok().filter(|status| (200..600).contains(status)) {
        Some(status) => status,
        None => {
            check.error("status", format!("{} is not in 200 to 599", source.status));
            return None;
        }
    };
    source.status = 0;
    let body = match source.body.take().and_then(|body| check.data("body", &body)) {
        Some(Data::Inline(bytes)) => bytes,
        Some(Data::File(_)) => {
            check.error("body.filename", "a body from a file is not supported; give inline_string");
            Box::default()
        }
        None => Box::default(),
    };
    check.leftover(&source);
    Some(DirectResponse { status, body })
}
