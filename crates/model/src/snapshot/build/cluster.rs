//! From Envoy's `Cluster` to what the data plane looks up.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster as EnvoyCluster};
use envoy_types::pb::envoy::config::common::matcher::v3::{MatchPredicate, match_predicate::Rule};
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, Metadata,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use xxhash_rust::xxh64::xxh64;

use super::super::cluster::*;
use super::super::matching::{HeaderMatch, StringPattern, ValueMatch};
use super::balancing::load_balancing;
use super::check::{Check, u32_or};
use super::discovery::{discovery, dns};
use super::endpoint::Interner;
use super::outlier::outlier_detection;
use super::tls;
use crate::translate::{LACKS_IDENTITY, OWN_METADATA};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// An endpoint holds its transport in a byte.
const TRANSPORTS_MAX: usize = 255;

pub(super) fn read(
    check: &mut Check,
    interner: &mut Interner,
    source: &EnvoyCluster,
    assignment: Option<&ClusterLoadAssignment>,
    fingerprint: u128,
) -> Cluster {
    let mut rest = source.clone();
    let inline = rest.load_assignment.take();
    let discovery = discovery(check, &mut rest);
    let limits = rest.circuit_breakers.take().map_or_else(Limits::default, |breakers| {
        check.within("circuit_breakers", |check| read_limits(check, breakers))
    });
    let mut policy = ClusterPolicy { limits, ..ClusterPolicy::default() };
    connection(check, &mut rest, &mut policy.connection);
    let options = http_options(check, &mut rest, &mut policy);
    if let Some(outlier) = rest.outlier_detection.take() {
        let mut detection = check.within("outlier_detection", |check| outlier_detection(check, outlier));
        detection.error_statuses = options.error_statuses;
        policy.outlier = Some(detection);
    }
    policy.load_balancing = load_balancing(check, &mut rest);
    policy.dns = dns(check, &mut rest);
    let (transports, matches) = transports(check, &mut rest, options.auto_sni, options.auto_san);

    // Names and labels that only describe: they reach metrics through the cluster's name.
    rest.alt_stat_name.clear();
    rest.metadata = None;
    if rest.eds_cluster_config.take().is_some() && discovery != Discovery::Eds {
        check.error("eds_cluster_config", "belongs to type EDS; remove it, and give the addresses in load_assignment");
    }
    if inline.is_some() && discovery == Discovery::OriginalDst {
        check.error("load_assignment", "belongs to another type; ORIGINAL_DST has no endpoints of its own");
    }
    rest.track_cluster_stats = None;
    let name = std::mem::take(&mut rest.name);
    check.leftover(&rest);

    let assignment = if discovery == Discovery::Eds { assignment } else { inline.as_ref() };
    let (endpoints, localities) = match assignment {
        Some(assignment) => {
            if let Some(policy_of_load) = &assignment.policy {
                check.within("load_assignment.policy", |check| {
                    let mut rest = policy_of_load.clone();
                    if let Some(factor) = rest.overprovisioning_factor.take() {
                        policy.load_balancing.overprovisioning_percent = factor.value.max(100);
                    }
                    check.leftover(&rest);
                });
            }
            check.within("load_assignment", |check| interner.endpoints(check, assignment, &matches))
        }
        None => Default::default(),
    };
    if discovery != Discovery::StrictDns && discovery != Discovery::LogicalDns {
        for endpoint in &endpoints {
            if matches!(endpoint.address, Address::Dns { .. }) {
                check.error("load_assignment", format!("{} is not an IP address; use STRICT_DNS", endpoint.address));
            }
        }
    }
    let service = ServiceName::parse(&name);
    let (policy, policy_hash) = interner.policy(policy);
    let mut pool_key = policy_hash;
    for transport in transports.iter() {
        if let Transport::Tls(tls) = transport {
            pool_key = xxh64(format!("{tls:?}").as_bytes(), pool_key);
        }
    }
    Cluster {
        identity: xxh64(name.as_bytes(), 0),
        pool_key,
        fingerprint,
        described: described(&service, source.metadata.as_ref()).map(Box::new),
        service,
        name: name.into(),
        discovery,
        policy,
        endpoints,
        localities,
        transports,
        lacks_identity: lacks_identity(source),
    }
}

/// Which service a cluster stands for, from Istio's own place for it (`filter_metadata.istio.services`, of which the first counts).
/// That knows more than the name: an inbound cluster's has no host, and one outside of the cluster no namespace.
fn described(named: &ServiceName, metadata: Option<&Metadata>) -> Option<ServiceName> {
    let Kind::ListValue(services) = metadata?.filter_metadata.get("istio")?.fields.get("services")?.kind.as_ref()?
    else {
        return None;
    };
    let Kind::StructValue(first) = services.values.first()?.kind.as_ref()? else { return None };
    let text = |key: &str| match first.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text.as_str().into()),
        _ => None,
    };
    let described = ServiceName {
        host: text("host").unwrap_or_else(|| named.host.clone()),
        short: text("name").unwrap_or_else(|| named.short.clone()),
        namespace: text("namespace").unwrap_or_else(|| named.namespace.clone()),
        ..named.clone()
    };
    (described != *named).then_some(described)
}

fn lacks_identity(source: &EnvoyCluster) -> bool {
    let own = source.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(OWN_METADATA));
    own.is_some_and(|own| own.fields.contains_key(LACKS_IDENTITY))
}

fn read_limits(check: &mut Check, mut breakers: CircuitBreakers) -> Limits {
    let mut limits = Limits::default();
    let mut read = false;
    for (index, mut threshold) in std::mem::take(&mut breakers.thresholds).into_iter().enumerate() {
        check.item("thresholds", index, |check| {
            if threshold.priority != 0 {
                check.error("priority", "only the thresholds of priority DEFAULT are supported");
                return;
            }
            // The first of a priority stands, as in Envoy (`upstream_impl.cc`, ResourceManagers::load); a patch's MERGE appends.
            if std::mem::replace(&mut read, true) {
                return;
            }
            limits.max_connections = u32_or(threshold.max_connections.take(), limits.max_connections);
            limits.max_pending_requests = u32_or(threshold.max_pending_requests.take(), limits.max_pending_requests);
            limits.max_requests = u32_or(threshold.max_requests.take(), limits.max_requests);
            limits.max_retries = u32_or(threshold.max_retries.take(), limits.max_retries);
            threshold.track_remaining = false;
            if threshold.retry_budget.as_ref().is_some_and(|budget| budget.budget_interval.is_some()) {
                check.unsupported("retry_budget.budget_interval");
            }
            limits.retry_budget = threshold.retry_budget.take().map(|budget| RetryBudget {
                percent: check.percent("retry_budget.budget_percent", budget.budget_percent).unwrap_or(20.0),
                min_concurrency: u32_or(budget.min_retry_concurrency, 3),
            });
            check.leftover(&threshold);
        });
    }
    check.leftover(&breakers);
    limits
}

fn connection(check: &mut Check, rest: &mut EnvoyCluster, connection: &mut ConnectionSettings) {
    if let Some(timeout) = check.duration("connect_timeout", rest.connect_timeout.take()) {
        if timeout.is_zero() {
            check.error("connect_timeout", "must be more than 0s");
        }
        connection.connect_timeout = timeout;
    }
    #[allow(deprecated)]
    if let Some(most) = rest.max_requests_per_connection.take() {
        connection.max_requests = (most.value > 0).then_some(most.value);
    }
    if let Some(mut options) = rest.upstream_connection_options.take() {
        connection.tcp_keepalive = options.tcp_keepalive.take().map(|keepalive| TcpKeepalive {
            probes: keepalive.keepalive_probes.map(|value| value.value),
            time: keepalive.keepalive_time.map(|value| Duration::from_secs(value.value.into())),
            interval: keepalive.keepalive_interval.map(|value| Duration::from_secs(value.value.into())),
        });
        check.within("upstream_connection_options", |check| check.leftover(&options));
    }
}

fn common_options(check: &mut Check, mut common: CommonOptions, connection: &mut ConnectionSettings) {
    connection.idle_timeout = check.limit("idle_timeout", common.idle_timeout.take(), connection.idle_timeout);
    connection.max_duration =
        check.limit("max_connection_duration", common.max_connection_duration.take(), connection.max_duration);
    if let Some(most) = common.max_requests_per_connection.take() {
        connection.max_requests = (most.value > 0).then_some(most.value);
    }
    check.leftover(&common);
}

/// Envoy allows 1 to 2^31-1 streams, and windows of 64 KiB - 1 to 2^31-1 bytes.
pub(super) fn http2_settings(check: &mut Check, mut options: Http2ProtocolOptions) -> Http2Settings {
    let mut settings = Http2Settings::default();
    let bounded =
        |check: &mut Check, field: &str, value: Option<u32>, range: std::ops::RangeInclusive<u32>, into: &mut u32| {
            if let Some(value) = value {
                if range.contains(&value) {
                    *into = value;
                } else {
                    check.error(field, format!("{value} is not in {} to {}", range.start(), range.end()));
                }
            }
        };
    let most = (1_u32 << 31) - 1;
    bounded(
        check,
        "max_concurrent_streams",
        options.max_concurrent_streams.take().map(|value| value.value),
        1..=most,
        &mut settings.max_concurrent_streams,
    );
    bounded(
        check,
        "initial_stream_window_size",
        options.initial_stream_window_size.take().map(|value| value.value),
        65_535..=most,
        &mut settings.initial_stream_window_bytes,
    );
    bounded(
        check,
        "initial_connection_window_size",
        options.initial_connection_window_size.take().map(|value| value.value),
        65_535..=most,
        &mut settings.initial_connection_window_bytes,
    );
    if let Some(mut keepalive) = options.connection_keepalive.take() {
        check.within("connection_keepalive", |check| {
            let interval = check.duration("interval", keepalive.interval.take());
            let timeout = check.duration("timeout", keepalive.timeout.take());
            // Envoy's default of 15 % jitter only spreads PINGs; none is less, not more.
            keepalive.interval_jitter = None;
            check.leftover(&keepalive);
            match (interval, timeout) {
                (Some(interval), Some(timeout)) => settings.keepalive = Some(Http2Keepalive { interval, timeout }),
                (None, _) => check.error("interval", "must be given"),
                (_, None) => check.error("timeout", "must be given"),
            }
        });
    }
    check.leftover(&options);
    settings
}

fn http1_options(check: &mut Check, mut options: Http1ProtocolOptions) {
    // Trailers are always passed where the other side can take them.
    options.enable_trailers = false;
    options.allow_absolute_url = None;
    check.within("http_protocol_options", |check| check.leftover(&options));
}

#[derive(Default)]
struct HttpOptions {
    auto_sni: bool,
    auto_san: bool,
    error_statuses: Box<[(u16, u16)]>,
}

fn http_options(check: &mut Check, rest: &mut EnvoyCluster, policy: &mut ClusterPolicy) -> HttpOptions {
    let mut read = HttpOptions::default();
    #[allow(deprecated)]
    {
        if let Some(common) = rest.common_http_protocol_options.take() {
            check.within("common_http_protocol_options", |check| {
                common_options(check, common, &mut policy.connection);
            });
        }
        if let Some(options) = rest.http_protocol_options.take() {
            http1_options(check, options);
        }
        if let Some(options) = rest.http2_protocol_options.take() {
            policy.http2 = check.within("http2_protocol_options", |check| http2_settings(check, options));
            policy.protocol = UpstreamProtocol::Http2;
        }
        if std::mem::take(&mut rest.protocol_selection) == 1 {
            policy.protocol = UpstreamProtocol::UseDownstream;
        }
    }
    for (key, any) in std::mem::take(&mut rest.typed_extension_protocol_options) {
        check.within(format!("typed_extension_protocol_options[{key}]"), |check| {
            if key != HTTP_OPTIONS {
                check.error("", format!("not supported; only {HTTP_OPTIONS} is"));
                return;
            }
            let Some(mut options) = check.unpack::<HttpProtocolOptions>(&any) else { return };
            if let Some(common) = options.common_http_protocol_options.take() {
                check.within("common_http_protocol_options", |check| {
                    common_options(check, common, &mut policy.connection);
                });
            }
            if let Some(mut upstream) = options.upstream_http_protocol_options.take() {
                read.auto_sni = std::mem::take(&mut upstream.auto_sni);
                read.auto_san = std::mem::take(&mut upstream.auto_san_validation);
                check.within("upstream_http_protocol_options", |check| check.leftover(&upstream));
            }
            if let Some(matcher) = options.outlier_detection.take().and_then(|outlier| outlier.error_matcher) {
                let mut statuses = Vec::new();
                check.within("outlier_detection.error_matcher", |check| error_statuses(check, &matcher, &mut statuses));
                read.error_statuses = statuses.into();
            }
            upstream_protocol(check, options.upstream_protocol_options.take(), policy);
            check.leftover(&options);
        });
    }
    read
}

fn upstream_protocol(check: &mut Check, options: Option<UpstreamProtocolOptions>, policy: &mut ClusterPolicy) {
    let (http1, http2) = match options {
        None => {
            let reason = "must be given: explicit_http_config, auto_config or use_downstream_protocol_config";
            check.error("upstream_protocol_options", reason);
            return;
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            None => (None, None),
            Some(ProtocolConfig::HttpProtocolOptions(options)) => (Some(options), None),
            Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                policy.protocol = UpstreamProtocol::Http2;
                (None, Some(options))
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                check.error("explicit_http_config.http3_protocol_options", "HTTP/3 is not supported");
                (None, None)
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(options)) => {
            policy.protocol = UpstreamProtocol::UseDownstream;
            if options.http3_protocol_options.is_some() {
                check.error("use_downstream_protocol_config.http3_protocol_options", "HTTP/3 is not supported");
            }
            (options.http_protocol_options, options.http2_protocol_options)
        }
        Some(UpstreamProtocolOptions::AutoConfig(options)) => {
            policy.protocol = UpstreamProtocol::Auto;
            if options.http3_protocol_options.is_some() || options.alternate_protocols_cache_options.is_some() {
                check.error("auto_config.http3_protocol_options", "HTTP/3 is not supported");
            }
            (options.http_protocol_options, options.http2_protocol_options)
        }
    };
    if let Some(options) = http1 {
        http1_options(check, options);
    }
    if let Some(options) = http2 {
        policy.http2 = check.within("http2_protocol_options", |check| http2_settings(check, options));
    }
}

/// Statuses out of a predicate over `:status`, the form in which Istio writes `outlierDetectionHttpErrorCodes`.
fn error_statuses(check: &mut Check, predicate: &MatchPredicate, into: &mut Vec<(u16, u16)>) {
    match &predicate.rule {
        Some(Rule::OrMatch(set)) => {
            for (index, rule) in set.rules.iter().enumerate() {
                check.item("or_match.rules", index, |check| error_statuses(check, rule, into));
            }
        }
        Some(Rule::HttpResponseHeadersMatch(headers)) => {
            let matches = check.header_matches("http_response_headers_match.headers", &headers.headers);
            match matches.as_ref() {
                [HeaderMatch { name, kind, invert: false, .. }] if &**name == ":status" => match kind {
                    ValueMatch::Range { start, end } => {
                        let bound = |value: i64| u16::try_from(value.clamp(0, 1000)).unwrap_or(0);
                        into.push((bound(*start), bound(end - 1)));
                    }
                    ValueMatch::Text(matcher) => match &matcher.pattern {
                        StringPattern::Exact(text) => match text.parse() {
                            Ok(status) => into.push((status, status)),
                            Err(_) => check.error("", format!("`{text}` is not a status")),
                        },
                        _ => check.error("", "only exact statuses and ranges are supported"),
                    },
                    ValueMatch::Present(_) => check.error("", "only exact statuses and ranges are supported"),
                },
                _ => check.error("", "only one match of `:status` is supported"),
            }
        }
        _ => check.error("", "only or_match and http_response_headers_match are supported"),
    }
}

/// The default transport first, then those chosen by endpoint metadata, with their conditions.
fn transports(
    check: &mut Check,
    rest: &mut EnvoyCluster,
    auto_sni: bool,
    auto_san: bool,
) -> (Arc<[Transport]>, Vec<Struct>) {
    let mut list = Vec::new();
    let default = rest.transport_socket.take();
    list.push(match default {
        Some(socket) => {
            check.within("transport_socket", |check| tls::upstream(check, &socket)).unwrap_or(Transport::Raw)
        }
        None => Transport::Raw,
    });
    let mut conditions = Vec::new();
    let matches = std::mem::take(&mut rest.transport_socket_matches);
    if matches.len() >= TRANSPORTS_MAX {
        check.error(
            "transport_socket_matches",
            format!("{} entries; at most {} are supported", matches.len(), TRANSPORTS_MAX - 1),
        );
    }
    for (index, matched) in matches.into_iter().take(TRANSPORTS_MAX - 1).enumerate() {
        let transport = check.item("transport_socket_matches", index, |check| {
            check.within("transport_socket", |check| {
                matched.transport_socket.as_ref().and_then(|socket| tls::upstream(check, socket))
            })
        });
        list.push(transport.unwrap_or(Transport::Raw));
        conditions.push(matched.r#match.unwrap_or_default());
    }
    if auto_sni || auto_san {
        for transport in &mut list {
            if let Transport::Tls(tls) = transport {
                let tls = Arc::make_mut(tls);
                tls.auto_sni |= auto_sni && tls.sni.is_none();
                tls.auto_san_validation |= auto_san;
            }
        }
    }
    (list.into(), conditions)
}
