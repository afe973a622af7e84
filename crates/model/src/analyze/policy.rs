//! What a TrafficPolicy says that its author hardly meant.

use std::time::Duration;

use super::world::{Host, World, full_name};
use super::{Code, Findings, codes};
use crate::istio::{
    Config, ConnectionPool, DestinationRule, Document, H2UpgradePolicy, HashKey, LoadBalancer, MtlsMode,
    OutlierDetection, SimpleBalancer, TlsMode, TrafficPolicy, duration_text,
};

/// First retransmission of a SYN (RFC 6298, 2.1; Linux TCP_TIMEOUT_INIT).
const SYN_RETRANSMISSION: Duration = Duration::from_secs(1);
/// Default of `maxEjectionPercent`.
const MAX_EJECTION_PERCENT_DEFAULT: u32 = 10;
/// Waiting requests per connection from which a queue is called long.
const LONG_QUEUE_FACTOR: u32 = 10;
/// A queue that is short in any case.
const SHORT_QUEUE: u32 = 10_000;

pub(super) fn check(config: &Config, world: &World<'_>, findings: &mut Findings) {
    for document in &config.destination_rules {
        let host = full_name(&document.spec.host, &document.meta.namespace);
        let place = Place { document, host: &host, known: world.hosts.get(&host), world };
        if let Some(policy) = &document.spec.traffic_policy {
            place.policy(policy, "spec.trafficPolicy", findings);
        }
        for (index, subset) in document.spec.subsets.iter().enumerate() {
            if let Some(policy) = &subset.traffic_policy {
                place.policy(policy, &format!("spec.subsets[{index}].trafficPolicy"), findings);
            }
        }
    }
}

struct Place<'a> {
    document: &'a Document<DestinationRule>,
    host: &'a str,
    known: Option<&'a Host>,
    world: &'a World<'a>,
}

impl Place<'_> {
    fn add(&self, code: &Code, path: &str, field: &str, reason: String, mend: String, findings: &mut Findings) {
        let field = if field.is_empty() { path.to_owned() } else { format!("{path}.{field}") };
        findings.add(code, "DestinationRule", self.document, &field, reason, mend);
    }

    /// As [`Self::add`], with the code's own words.
    fn plain(&self, code: &Code, path: &str, field: &str, findings: &mut Findings) {
        self.add(code, path, field, code.reason.to_owned(), code.mend.to_owned(), findings);
    }

    fn policy(&self, policy: &TrafficPolicy, path: &str, findings: &mut Findings) {
        if let Some(pool) = &policy.connection_pool {
            self.pool(pool, &format!("{path}.connectionPool"), findings);
        }
        if let Some(balancer) = &policy.load_balancer {
            self.balancer(balancer, policy.outlier_detection.as_ref(), &format!("{path}.loadBalancer"), findings);
        }
        if let Some(outlier) = &policy.outlier_detection {
            let locality = policy.load_balancer.as_ref().is_some_and(|b| b.locality_lb_setting.is_some());
            self.outlier(outlier, locality, &format!("{path}.outlierDetection"), findings);
        }
        self.tls(policy, path, findings);
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            let at = format!("{path}.portLevelSettings[{index}]");
            let own = &port.policy;
            if let Some(known) = self.known.filter(|known| !known.ports.contains(&port.port)) {
                let reason = format!("{} has no port {}; it has {}", self.host, port.port, known.ports_text());
                self.add(
                    &codes::POLICY_OF_NO_PORT,
                    &at,
                    "port",
                    reason,
                    codes::POLICY_OF_NO_PORT.mend.to_owned(),
                    findings,
                );
            }
            let lost: Vec<&str> = [
                ("loadBalancer", policy.load_balancer.is_some() && own.load_balancer.is_none()),
                ("connectionPool", policy.connection_pool.is_some() && own.connection_pool.is_none()),
                ("outlierDetection", policy.outlier_detection.is_some() && own.outlier_detection.is_none()),
                ("tls", policy.tls.is_some() && own.tls.is_none()),
            ]
            .into_iter()
            .filter_map(|(name, lost)| lost.then_some(name))
            .collect();
            if !lost.is_empty() {
                let reason = format!(
                    "for port {} {} of the enclosing policy is back at its default: a port inherits nothing",
                    port.port,
                    lost.join(", ")
                );
                self.add(
                    &codes::PORT_INHERITS_NOTHING,
                    &at,
                    "port",
                    reason,
                    codes::PORT_INHERITS_NOTHING.mend.to_owned(),
                    findings,
                );
            }
            self.policy(own, &at, findings);
        }
    }

    fn pool(&self, pool: &ConnectionPool, path: &str, findings: &mut Findings) {
        let tcp = pool.tcp.as_ref();
        let http = pool.http.as_ref();
        if let Some(timeout) = tcp.and_then(|t| t.connect_timeout).filter(|t| *t <= SYN_RETRANSMISSION) {
            let reason = format!(
                "{} ends before a lost SYN is sent again (after 1s): each lost packet while connecting is a failed connection; it must also stay above the measured p99 of connecting",
                duration_text(timeout)
            );
            self.add(
                &codes::SHORT_CONNECT_TIMEOUT,
                path,
                "tcp.connectTimeout",
                reason,
                "connectTimeout: 1500ms".to_owned(),
                findings,
            );
        }
        let zero = [
            ("tcp.maxConnections", tcp.and_then(|t| t.max_connections)),
            ("http.http1MaxPendingRequests", http.and_then(|h| h.http1_max_pending_requests)),
            ("http.http2MaxRequests", http.and_then(|h| h.http2_max_requests)),
            ("http.maxRetries", http.and_then(|h| h.max_retries)),
            ("http.maxConcurrentStreams", http.and_then(|h| h.max_concurrent_streams)),
        ];
        for (field, _) in zero.into_iter().filter(|(_, value)| *value == Some(0)) {
            self.plain(&codes::ZERO_LIMIT, path, field, findings);
        }
        let Some(http) = http else { return };
        if http.use_client_protocol == Some(true) && http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) {
            self.plain(&codes::UPGRADE_BEATEN, path, "http.h2UpgradePolicy", findings);
        }
        if let (Some(idle), Some(tcp_idle)) = (http.idle_timeout, tcp.and_then(|t| t.idle_timeout)) {
            let reason = format!(
                "http.idleTimeout {} stands, tcp.idleTimeout {} does not act on HTTP",
                duration_text(idle),
                duration_text(tcp_idle)
            );
            self.add(
                &codes::IDLE_BEATEN,
                path,
                "tcp.idleTimeout",
                reason,
                codes::IDLE_BEATEN.mend.to_owned(),
                findings,
            );
        }
        if http.max_requests_per_connection == Some(1) {
            self.plain(&codes::NO_KEEP_ALIVE, path, "http.maxRequestsPerConnection", findings);
        }
        let connections = tcp.and_then(|t| t.max_connections).filter(|n| *n > 0);
        if let (Some(queue), Some(connections)) = (http.http1_max_pending_requests, connections)
            && queue > SHORT_QUEUE
            && u64::from(queue) >= u64::from(connections) * u64::from(LONG_QUEUE_FACTOR)
        {
            let each = queue / connections;
            let reason = format!(
                "{queue} requests may wait for {connections} connections: with 10 ms a request the last one waits {} ms; under overload latency grows instead of failing fast",
                u64::from(each) * 10
            );
            let mend = format!("http1MaxPendingRequests: {}", connections.min(SHORT_QUEUE));
            self.add(&codes::LONG_QUEUE, path, "http.http1MaxPendingRequests", reason, mend, findings);
        }
    }

    fn balancer(
        &self,
        balancer: &LoadBalancer,
        outlier: Option<&OutlierDetection>,
        path: &str,
        findings: &mut Findings,
    ) {
        if balancer.simple == Some(SimpleBalancer::LeastConn) {
            self.plain(&codes::LEAST_CONN, path, "simple", findings);
        }
        if balancer.simple == Some(SimpleBalancer::Passthrough) {
            self.plain(&codes::PASSES_THROUGH, path, "simple", findings);
        }
        if let Some(hash) = &balancer.consistent_hash {
            match hash.key() {
                None => self.plain(&codes::HASH_WITHOUT_KEY, path, "consistentHash", findings),
                Some(HashKey::Header(name)) => {
                    self.hashed(&format!("the header {name}"), path, "httpHeaderName", findings)
                }
                Some(HashKey::QueryParameter(name)) => {
                    self.hashed(&format!("the query parameter {name}"), path, "httpQueryParameterName", findings);
                }
                Some(HashKey::Cookie(_) | HashKey::SourceIp) => {}
            }
            if hash.minimum_ring_size.is_some() {
                let mend = "ringHash: {minimumRingSize: …}".to_owned();
                self.add(
                    &codes::OLD_FIELD,
                    path,
                    "consistentHash.minimumRingSize",
                    "minimumRingSize is now under ringHash".to_owned(),
                    mend,
                    findings,
                );
            }
        }
        if balancer.warmup_duration_secs.is_some() {
            let reason = "warmupDurationSecs is now warmup.duration".to_owned();
            self.add(
                &codes::OLD_FIELD,
                path,
                "warmupDurationSecs",
                reason,
                "warmup: {duration: …}".to_owned(),
                findings,
            );
        }
        let warms = matches!(
            balancer.simple,
            None | Some(
                SimpleBalancer::Unspecified
                    | SimpleBalancer::RoundRobin
                    | SimpleBalancer::LeastRequest
                    | SimpleBalancer::LeastConn
            )
        );
        if balancer.effective_warmup().is_some() && (!warms || balancer.consistent_hash.is_some()) {
            self.plain(&codes::WARMUP_WITHOUT_EFFECT, path, "warmup", findings);
        }
        let Some(locality) = balancer.locality_lb_setting.as_ref().filter(|l| l.enabled != Some(false)) else { return };
        let fails_over = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
        if fails_over && outlier.is_none() {
            self.plain(&codes::FAILOVER_WITHOUT_OUTLIER, path, "localityLbSetting", findings);
        }
        self.locality(path, "localityLbSetting", findings);
    }

    fn hashed(&self, key: &str, path: &str, field: &str, findings: &mut Findings) {
        let reason = format!(
            "only requests with {key} are pinned to an endpoint; others are spread at random, and least request is off"
        );
        let mend = codes::HASH_ON_HEADER.mend.to_owned();
        self.add(&codes::HASH_ON_HEADER, path, &format!("consistentHash.{field}"), reason, mend, findings);
    }

    fn locality(&self, path: &str, field: &str, findings: &mut Findings) {
        let placed = self.known.is_some_and(|host| host.open || host.endpoints.iter().any(|e| !e.locality.is_empty()));
        if !placed {
            let reason = match self.known {
                Some(host) => format!(
                    "none of the {} endpoints of {} says where it runs, so this does nothing",
                    host.endpoints.len(),
                    self.host
                ),
                None => format!(
                    "no endpoint of {} is known here, so none says where it runs: without localities this does nothing",
                    self.host
                ),
            };
            self.add(&codes::LOCALITY_UNKNOWN, path, field, reason, codes::LOCALITY_UNKNOWN.mend.to_owned(), findings);
        }
    }

    fn outlier(&self, outlier: &OutlierDetection, locality: bool, path: &str, findings: &mut Findings) {
        if !locality {
            self.plain(&codes::OUTLIER_COUPLES_LOCALITY, path, "", findings);
        }
        if outlier.consecutive_errors.is_some() {
            let reason = "consecutiveErrors is now consecutive5xxErrors".to_owned();
            self.add(
                &codes::OLD_FIELD,
                path,
                "consecutiveErrors",
                reason,
                "consecutive5xxErrors: …".to_owned(),
                findings,
            );
        }
        // 0 counts as unset.
        let percent = outlier.max_ejection_percent.filter(|p| *p > 0).unwrap_or(MAX_EJECTION_PERCENT_DEFAULT);
        let stated = if outlier.max_ejection_percent.is_some() { "" } else { " (the default)" };
        let smallest = 100u32.div_ceil(percent.max(1));
        match self.known.filter(|host| !host.open) {
            Some(host) => {
                let count = host.endpoints.len();
                if count > 0 && count * percent as usize / 100 == 0 {
                    let reason = format!(
                        "{} has {count} endpoints: {count} x {percent}{stated} / 100 = {:.1}, rounded down 0, so none is ever ejected",
                        self.host,
                        count as f64 * f64::from(percent) / 100.0
                    );
                    let mend = format!("maxEjectionPercent: {}", 100usize.div_ceil(count));
                    self.add(&codes::EJECTS_NONE, path, "maxEjectionPercent", reason, mend, findings);
                }
            }
            None if smallest > 1 => {
                let reason = format!(
                    "with fewer than {smallest} endpoints {percent} %{stated} rounds down to none, so none is ever ejected: 4 x {percent} / 100 = {:.1}",
                    4.0 * f64::from(percent) / 100.0
                );
                self.add(
                    &codes::EJECTS_NONE,
                    path,
                    "maxEjectionPercent",
                    reason,
                    codes::EJECTS_NONE.mend.to_owned(),
                    findings,
                );
            }
            None => {}
        }
    }

    fn tls(&self, policy: &TrafficPolicy, path: &str, findings: &mut Findings) {
        let Some(tls) = &policy.tls else { return };
        let mode = tls.mode.unwrap_or_default();
        let skips = tls.insecure_skip_verify == Some(true);
        let idle: Vec<&str> = match mode {
            TlsMode::Disable => [
                ("clientCertificate", tls.client_certificate.is_some()),
                ("privateKey", tls.private_key.is_some()),
                ("caCertificates", tls.ca_certificates.is_some()),
                ("subjectAltNames", !tls.subject_alt_names.is_empty()),
                ("sni", tls.sni.is_some()),
                ("insecureSkipVerify", tls.insecure_skip_verify.is_some()),
            ]
            .into_iter()
            .filter_map(|(field, is_set)| is_set.then_some(field))
            .collect(),
            TlsMode::IstioMutual if skips => vec!["insecureSkipVerify"],
            _ => Vec::new(),
        };
        if let Some(first) = idle.first() {
            let reason = format!("with mode: {} nothing reads {}", mode.as_str(), idle.join(", "));
            let code = &codes::TLS_FIELDS_IDLE;
            self.add(code, path, &format!("tls.{first}"), reason, code.mend.to_owned(), findings);
        } else if skips {
            self.plain(&codes::NO_VERIFICATION, path, "tls.insecureSkipVerify", findings);
        }
        if mode == TlsMode::IstioMutual && tls.sni.is_some() {
            self.plain(&codes::MUTUAL_WITH_SNI, path, "tls.sni", findings);
        }
        // Only hosts of the mesh have a namespace whose policy counts.
        let namespace =
            self.known.map(|host| host.namespace.as_str()).filter(|_| self.host.ends_with(".svc.cluster.local"));
        if let Some(namespace) =
            namespace.filter(|ns| mode != TlsMode::IstioMutual && self.world.mtls(ns) == MtlsMode::Strict)
        {
            let reason = format!(
                "{} sends no mutual TLS of the mesh, but workloads of {namespace} are STRICT: every request fails with 503",
                mode.as_str()
            );
            self.add(
                &codes::CLIENT_TLS_AGAINST_STRICT,
                path,
                "tls.mode",
                reason,
                "mode: ISTIO_MUTUAL".to_owned(),
                findings,
            );
        }
    }
}
