//! One upstream cluster: a port of a service, or a subset of it.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig,
    RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
};
use envoy_types::pb::envoy::config::common::matcher::v3::match_predicate::{MatchSet, Rule};
use envoy_types::pb::envoy::config::common::matcher::v3::{HttpHeadersMatch, MatchPredicate};
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, KeepaliveSettings, RuntimeDouble,
    TcpKeepalive, UpstreamHttpProtocolOptions,
};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, OutlierDetection as ErrorMatching, UpstreamProtocolOptions,
    UseDownstreamHttpConfig,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::util::pack_any;

use super::wire::{duration, percent, uint32, uint64};
use crate::istio::{self, ConnectionPool, LoadBalancer, SimpleBalancer, TcpSettings, TrafficPolicy};

/// Istio's default (MeshConfig.connectTimeout).
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Key of the HTTP options in `typed_extension_protocol_options`.
pub const HTTP_OPTIONS_KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Which protocol goes to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upstream {
    Http1,
    Http2,
    /// As the TLS handshake settles it.
    Negotiated,
    /// As the client speaks.
    AsClient,
    /// No HTTP.
    Opaque,
}

/// A cluster with all that a traffic policy says, but for its endpoints and its TLS.
pub(super) fn cluster(name: String, discovery: DiscoveryType, policy: &TrafficPolicy) -> Cluster {
    let mut cluster = Cluster {
        name,
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds(policy)], ..CircuitBreakers::default() }),
        ..Cluster::default()
    };
    if let Some(tcp) = policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref()) {
        apply_tcp(&mut cluster, tcp);
    }
    balancer(&mut cluster, policy.load_balancer.as_ref(), discovery);
    if let Some(outlier) = &policy.outlier_detection {
        cluster.outlier_detection = Some(outlier_detection(outlier));
        common_lb(&mut cluster).healthy_panic_threshold =
            Some(percent(f64::from(outlier.min_health_percent.unwrap_or(0))));
    }
    cluster
}

pub(super) fn weigh_localities(cluster: &mut Cluster) {
    common_lb(cluster).locality_config_specifier =
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}));
}

fn common_lb(cluster: &mut Cluster) -> &mut CommonLbConfig {
    cluster.common_lb_config.get_or_insert_with(CommonLbConfig::default)
}

/// Every limit is written down: Envoy's own defaults (1024, and 3 retries) are not Istio's.
fn thresholds(policy: &TrafficPolicy) -> Thresholds {
    let tcp = policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    let http = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    let limit = |value: Option<u32>| Some(uint32(value.filter(|limit| *limit > 0).unwrap_or(u32::MAX)));
    Thresholds {
        max_connections: limit(tcp.and_then(|tcp| tcp.max_connections)),
        max_pending_requests: limit(http.and_then(|http| http.http1_max_pending_requests)),
        max_requests: limit(http.and_then(|http| http.http2_max_requests)),
        max_retries: limit(http.and_then(|http| http.max_retries)),
        track_remaining: true,
        retry_budget: policy.retry_budget.as_ref().map(|budget| RetryBudget {
            budget_percent: Some(percent(budget.percent.unwrap_or(20.0))),
            min_retry_concurrency: Some(uint32(budget.min_retry_concurrency.filter(|least| *least > 0).unwrap_or(3))),
            budget_interval: budget.budget_interval.filter(|interval| !interval.is_zero()).map(duration),
        }),
        ..Thresholds::default()
    }
}

fn apply_tcp(cluster: &mut Cluster, tcp: &TcpSettings) {
    if let Some(timeout) = tcp.connect_timeout {
        cluster.connect_timeout = Some(duration(timeout));
    }
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let seconds = |value: Duration| uint32(u32::try_from(value.as_secs().max(1)).unwrap_or(u32::MAX));
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: keepalive.probes.filter(|probes| *probes > 0).map(uint32),
                keepalive_time: keepalive.time.map(seconds),
                keepalive_interval: keepalive.interval.map(seconds),
            }),
            ..UpstreamConnectionOptions::default()
        });
    }
}

fn balancer(cluster: &mut Cluster, balancer: Option<&LoadBalancer>, discovery: DiscoveryType) {
    if discovery == DiscoveryType::OriginalDst {
        cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    let slow_start = || {
        balancer.and_then(LoadBalancer::effective_warmup).map(|warmup| SlowStartConfig {
            slow_start_window: Some(duration(warmup.duration)),
            aggression: warmup
                .aggression
                .map(|value| RuntimeDouble { default_value: value, runtime_key: "aggression".to_owned() }),
            min_weight_percent: Some(percent(warmup.minimum_percent.unwrap_or(10.0))),
        })
    };
    let (policy, config) = match balancer {
        Some(LoadBalancer { consistent_hash: Some(hash), .. }) => match &hash.maglev {
            Some(maglev) => (
                LbPolicy::Maglev,
                maglev
                    .table_size
                    .map(|size| LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(uint64(size)) })),
            ),
            None => (
                LbPolicy::RingHash,
                Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: Some(uint64(hash.ring_size_min().filter(|size| *size > 0).unwrap_or(1024))),
                    ..RingHashLbConfig::default()
                })),
            ),
        },
        _ => match balancer.and_then(|balancer| balancer.simple).unwrap_or_default() {
            SimpleBalancer::Random => (LbPolicy::Random, None),
            SimpleBalancer::RoundRobin => (
                LbPolicy::RoundRobin,
                slow_start()
                    .map(|slow| LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow) })),
            ),
            SimpleBalancer::Passthrough => {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
                (LbPolicy::ClusterProvided, None)
            }
            SimpleBalancer::Unspecified | SimpleBalancer::LeastConn | SimpleBalancer::LeastRequest => (
                LbPolicy::LeastRequest,
                slow_start().map(|slow| {
                    LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                        slow_start_config: Some(slow),
                        ..LeastRequestLbConfig::default()
                    })
                }),
            ),
        },
    };
    cluster.lb_policy = policy as i32;
    cluster.lb_config = config;
}

/// Success-rate ejection is switched off, as in Istio: only what the rule names ejects.
fn outlier_detection(rule: &istio::OutlierDetection) -> OutlierDetection {
    let enforced = |count: u32| Some(uint32(if count > 0 { 100 } else { 0 }));
    let mut out = OutlierDetection {
        enforcing_success_rate: Some(uint32(0)),
        interval: rule.interval.map(duration),
        base_ejection_time: rule.base_ejection_time.map(duration),
        max_ejection_percent: rule.max_ejection_percent.filter(|percent| *percent > 0).map(uint32),
        ..OutlierDetection::default()
    };
    if let Some(count) = rule.consecutive_5xx_errors.or(rule.consecutive_errors) {
        out.consecutive_5xx = Some(uint32(count.max(1)));
        out.enforcing_consecutive_5xx = enforced(count);
    }
    if let Some(count) = rule.consecutive_gateway_errors {
        out.consecutive_gateway_failure = Some(uint32(count.max(1)));
        out.enforcing_consecutive_gateway_failure = enforced(count);
    }
    if rule.split_external_local_origin_errors == Some(true) {
        out.split_external_local_origin_errors = true;
        out.enforcing_local_origin_success_rate = Some(uint32(0));
        if let Some(count) = rule.consecutive_local_origin_failures.filter(|count| *count > 0) {
            out.consecutive_local_origin_failure = Some(uint32(count));
            out.enforcing_consecutive_local_origin_failure = Some(uint32(100));
        }
    }
    out
}

/// Which protocol a policy asks for. `useClientProtocol` beats `h2UpgradePolicy`.
pub(super) fn upstream(port: super::registry::Protocol, policy: &TrafficPolicy, all_in_mesh: bool) -> Upstream {
    use super::registry::Protocol;
    let http = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    if port == Protocol::Opaque {
        return Upstream::Opaque;
    }
    if http.is_some_and(|http| http.use_client_protocol == Some(true)) {
        return Upstream::AsClient;
    }
    if port == Protocol::Http2 {
        return Upstream::Http2;
    }
    match http.and_then(|http| http.h2_upgrade_policy).unwrap_or_default() {
        istio::H2UpgradePolicy::Upgrade => Upstream::Http2,
        istio::H2UpgradePolicy::DoNotUpgrade => Upstream::Http1,
        // Between two sidecars many requests share one connection and one TLS record; the far sidecar speaks HTTP/1.1 to the
        // application where that is its protocol.
        istio::H2UpgradePolicy::Default if all_in_mesh => Upstream::Negotiated,
        istio::H2UpgradePolicy::Default => Upstream::Http1,
    }
}

/// Sets the HTTP options of a cluster. `auto_sni` takes the server name from the request where no rule names one.
pub(super) fn http_options(
    cluster: &mut Cluster,
    policy: &TrafficPolicy,
    upstream: Upstream,
    auto_sni: bool,
    auto_san: bool,
) {
    let pool = policy.connection_pool.as_ref();
    let common = common_options(pool);
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(match upstream {
            Upstream::Opaque => return,
            Upstream::Http1 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
            }),
            Upstream::Http2 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2(pool))),
            }),
            Upstream::Negotiated => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2(pool)),
                ..AutoHttpConfig::default()
            }),
            Upstream::AsClient => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(http2(pool)),
                ..UseDownstreamHttpConfig::default()
            }),
        }),
        upstream_http_protocol_options: (auto_sni || auto_san).then(|| UpstreamHttpProtocolOptions {
            auto_sni,
            auto_san_validation: auto_san,
            ..UpstreamHttpProtocolOptions::default()
        }),
        common_http_protocol_options: common,
        outlier_detection: policy.outlier_detection.as_ref().and_then(error_statuses),
        ..HttpProtocolOptions::default()
    };
    cluster.typed_extension_protocol_options = HashMap::from([(HTTP_OPTIONS_KEY.to_owned(), pack_any(options))]);
}

/// The cluster for what no service has: each connection's own destination, in the client's own protocol.
pub(super) fn passthrough() -> Cluster {
    let mut made =
        cluster(super::PASSTHROUGH_CLUSTER.to_owned(), DiscoveryType::OriginalDst, &TrafficPolicy::default());
    http_options(&mut made, &TrafficPolicy::default(), Upstream::AsClient, false, false);
    made
}

fn common_options(pool: Option<&ConnectionPool>) -> Option<CommonOptions> {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let idle = http.and_then(|http| http.idle_timeout).or(tcp.and_then(|tcp| tcp.idle_timeout));
    let lifetime = tcp.and_then(|tcp| tcp.max_connection_duration);
    let requests = http.and_then(|http| http.max_requests_per_connection).filter(|requests| *requests > 0);
    if idle.is_none() && lifetime.is_none() && requests.is_none() {
        return None;
    }
    Some(CommonOptions {
        idle_timeout: idle.map(duration),
        max_connection_duration: lifetime.map(duration),
        max_requests_per_connection: requests.map(uint32),
        ..CommonOptions::default()
    })
}

fn http2(pool: Option<&ConnectionPool>) -> Http2ProtocolOptions {
    let http = pool.and_then(|pool| pool.http.as_ref());
    Http2ProtocolOptions {
        max_concurrent_streams: http
            .and_then(|http| http.max_concurrent_streams)
            .filter(|streams| *streams > 0)
            .map(uint32),
        connection_keepalive: http.and_then(|http| http.http2_keep_alive.as_ref()).map(|keepalive| KeepaliveSettings {
            interval: Some(duration(keepalive.interval)),
            timeout: Some(duration(keepalive.timeout)),
            ..KeepaliveSettings::default()
        }),
        ..Http2ProtocolOptions::default()
    }
}

fn error_statuses(rule: &istio::OutlierDetection) -> Option<ErrorMatching> {
    let status = |code: &u16| MatchPredicate {
        rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
            headers: vec![HeaderMatcher {
                name: ":status".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    match_pattern: Some(MatchPattern::Exact(code.to_string())),
                    ..StringMatcher::default()
                })),
                ..HeaderMatcher::default()
            }],
        })),
    };
    let codes = &rule.outlier_detection_http_error_codes;
    let error_matcher = match codes.as_slice() {
        [] => return None,
        [one] => status(one),
        many => MatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules: many.iter().map(status).collect() })) },
    };
    Some(ErrorMatching { error_matcher: Some(error_matcher) })
}
