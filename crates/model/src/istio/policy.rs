//! `TrafficPolicy`: one type for the whole host, a subset, and a port of either.
//!
//! Durations are exact; unset stays `None`, so that the translator alone knows the defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{choice, record};

record! {
    /// How a client treats the endpoints of a host (networking.istio.io, DestinationRule `trafficPolicy`).
    pub struct TrafficPolicy checked check_policy {
        /// Which endpoint gets a request. Default: least request.
        load_balancer: Option<LoadBalancer> = "loadBalancer";
        /// Limits and timeouts of connections.
        connection_pool: Option<ConnectionPool> = "connectionPool";
        /// Passive health checks. Even an empty one switches locality failover on.
        outlier_detection: Option<OutlierDetection> = "outlierDetection";
        /// TLS towards the endpoints.
        tls: Option<ClientTls> = "tls";
        /// Policies of single ports. Such a policy stands alone: nothing is inherited into it.
        port_level_settings: Vec<PortPolicy> = "portLevelSettings" [at_most_ports];
        /// How many retries may be in flight, as a share of the active requests.
        retry_budget: Option<RetryBudget> = "retryBudget";
    }
    refused {
        "tunnel": "tunnelling over CONNECT",
        "proxyProtocol": "the PROXY protocol towards endpoints",
    }
}

/// The policy of one port. Fields of the enclosing policy are not inherited.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PortPolicy {
    /// Service port, 1 to 65535.
    pub port: u16,
    /// The policy; its own `port_level_settings` is empty.
    pub policy: TrafficPolicy,
}

choice! {
    /// Balancing algorithm.
    pub enum SimpleBalancer {
        /// The default of the mesh: least request.
        Unspecified = "UNSPECIFIED",
        /// Deprecated name of [`SimpleBalancer::LeastRequest`].
        LeastConn = "LEAST_CONN",
        Random = "RANDOM",
        /// To the address the caller asked for.
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        /// The less loaded of two endpoints picked at random.
        LeastRequest = "LEAST_REQUEST",
    }
}

record! {
    /// Which endpoint gets a request: `simple` or `consistentHash`, never both.
    pub struct LoadBalancer checked check_balancer {
        simple: Option<SimpleBalancer> = "simple";
        consistent_hash: Option<ConsistentHash> = "consistentHash";
        locality_lb_setting: Option<LocalityLbSetting> = "localityLbSetting";
        /// The old form of `warmup`: only a duration.
        warmup_duration_secs: Option<Duration> = "warmupDurationSecs" [min_1ms];
        warmup: Option<Warmup> = "warmup";
    }
    refused {
        "backendUtilization": "balancing by the utilisation that endpoints report",
        "zoneAwareLbSetting": "zone-aware balancing",
    }
}

impl LoadBalancer {
    /// The warm-up in force, whichever form it was written in.
    pub fn effective_warmup(&self) -> Option<Warmup> {
        self.warmup.clone().or_else(|| {
            self.warmup_duration_secs.map(|duration| Warmup { duration, minimum_percent: None, aggression: None })
        })
    }
}

record! {
    /// A new endpoint's share grows over `duration`. ROUND_ROBIN and LEAST_REQUEST only.
    pub struct Warmup {
        duration: Duration = "duration" [min_1ms];
        /// Share at the start, 0 to 100. Default 10.
        minimum_percent: Option<f64> = "minimumPercent" [percent];
        /// Shape of the curve: 1 (the default) is linear. More than 0.
        aggression: Option<f64> = "aggression" [positive];
    }
}

record! {
    /// Hash balancing: exactly one key decides the endpoint.
    pub struct ConsistentHash checked check_hash {
        http_header_name: Option<String> = "httpHeaderName" [header_name];
        http_cookie: Option<HashCookie> = "httpCookie";
        use_source_ip: Option<bool> = "useSourceIp";
        http_query_parameter_name: Option<String> = "httpQueryParameterName" [not_empty];
        ring_hash: Option<RingHash> = "ringHash";
        maglev: Option<Maglev> = "maglev";
        /// Deprecated: now `ringHash.minimumRingSize`.
        minimum_ring_size: Option<u64> = "minimumRingSize" [ring_size];
    }
}

/// What a consistent hash is taken of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HashKey<'a> {
    Header(&'a str),
    Cookie(&'a HashCookie),
    SourceIp,
    QueryParameter(&'a str),
}

impl ConsistentHash {
    /// The key, or nothing when none was given (`useSourceIp: false` is none).
    pub fn key(&self) -> Option<HashKey<'_>> {
        if let Some(name) = &self.http_header_name {
            Some(HashKey::Header(name))
        } else if let Some(cookie) = &self.http_cookie {
            Some(HashKey::Cookie(cookie))
        } else if self.use_source_ip == Some(true) {
            Some(HashKey::SourceIp)
        } else {
            self.http_query_parameter_name.as_deref().map(HashKey::QueryParameter)
        }
    }

    /// Smallest ring, in entries, whichever form it was written in.
    pub fn ring_size_min(&self) -> Option<u64> {
        self.ring_hash.as_ref().and_then(|r| r.minimum_ring_size).or(self.minimum_ring_size)
    }
}

record! {
    /// A cookie as hash key; made by the proxy when absent and `ttl` is set.
    pub struct HashCookie {
        name: String = "name" [not_empty, header_text];
        path: Option<String> = "path" [header_text];
        /// Zero makes a session cookie.
        ttl: Option<Duration> = "ttl";
        attributes: Vec<CookieAttribute> = "attributes";
    }
}

record! {
    /// One attribute of the generated cookie, such as `SameSite=Strict`.
    pub struct CookieAttribute {
        name: String = "name" [not_empty, header_text];
        value: Option<String> = "value" [header_text];
    }
}

record! {
    /// Ketama ring.
    pub struct RingHash {
        /// Entries; default 1024, at most 8 Mi (Envoy's bound).
        minimum_ring_size: Option<u64> = "minimumRingSize" [ring_size];
    }
}

record! {
    /// Maglev table.
    pub struct Maglev {
        /// Entries; a prime, at most 5000011 (Envoy's bound). Default 65537.
        table_size: Option<u64> = "tableSize" [table_size];
    }
}

record! {
    /// Balancing by locality: `distribute`, `failover` or `failoverPriority`.
    pub struct LocalityLbSetting checked check_locality {
        distribute: Vec<Distribute> = "distribute";
        failover: Vec<Failover> = "failover";
        /// Label names (or `name=value`), the first the most important.
        failover_priority: Vec<String> = "failoverPriority";
        /// Unset: as the mesh says (on).
        enabled: Option<bool> = "enabled";
    }
}

record! {
    /// From a locality, the share of each locality in percent.
    pub struct Distribute {
        /// `region/zone/subzone`, with `*` as the last part.
        from: String = "from" [not_empty];
        /// Locality to percent; the sum is 100.
        to: BTreeMap<String, u32> = "to";
    }
}

record! {
    /// When endpoints in region `from` are unhealthy, traffic goes to region `to`.
    pub struct Failover {
        from: String = "from" [not_empty];
        to: String = "to" [not_empty];
    }
}

record! {
    /// Limits and timeouts of connections. A zero limit counts as unset.
    pub struct ConnectionPool {
        tcp: Option<TcpSettings> = "tcp";
        http: Option<HttpSettings> = "http";
    }
}

record! {
    /// Settings for TCP and HTTP upstream connections.
    pub struct TcpSettings {
        /// Default 2^32-1.
        max_connections: Option<u32> = "maxConnections" [int32];
        /// Default 10 s.
        connect_timeout: Option<Duration> = "connectTimeout" [min_1ms];
        tcp_keepalive: Option<TcpKeepalive> = "tcpKeepalive";
        max_connection_duration: Option<Duration> = "maxConnectionDuration" [min_1ms];
        /// Beaten by `http.idleTimeout`. Zero: never.
        idle_timeout: Option<Duration> = "idleTimeout";
    }
}

record! {
    /// SO_KEEPALIVE. Unset parts are the system's.
    pub struct TcpKeepalive {
        /// Probes without an answer before the connection is dead.
        probes: Option<u32> = "probes";
        /// Idle time before the first probe.
        time: Option<Duration> = "time" [min_1ms];
        /// Time between probes.
        interval: Option<Duration> = "interval" [min_1ms];
    }
}

choice! {
    /// Whether HTTP/1.1 is upgraded to HTTP/2 towards the endpoint.
    pub enum H2UpgradePolicy {
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }
}

record! {
    /// Settings for HTTP upstream connections.
    pub struct HttpSettings {
        /// Requests that wait for a connection. Default 2^32-1.
        http1_max_pending_requests: Option<u32> = "http1MaxPendingRequests" [int32];
        /// Active requests, of any HTTP version. Default 2^32-1.
        http2_max_requests: Option<u32> = "http2MaxRequests" [int32];
        /// Requests before a connection is retired. 1 disables keep-alive; 0 or unset: no limit.
        max_requests_per_connection: Option<u32> = "maxRequestsPerConnection" [int32];
        /// Retries in flight. Default 2^32-1.
        max_retries: Option<u32> = "maxRetries" [int32];
        /// Beats `tcp.idleTimeout`. Default 1 h.
        idle_timeout: Option<Duration> = "idleTimeout" [min_1ms];
        h2_upgrade_policy: Option<H2UpgradePolicy> = "h2UpgradePolicy";
        /// Keep the client's protocol. Beats `h2UpgradePolicy`.
        use_client_protocol: Option<bool> = "useClientProtocol";
        /// Streams at a time on one HTTP/2 connection. Default 2^31-1.
        max_concurrent_streams: Option<u32> = "maxConcurrentStreams" [int32];
        /// HTTP/2 PING. HTTP/2 only.
        http2_keep_alive: Option<Http2KeepAlive> = "http2KeepAlive";
    }
}

record! {
    /// HTTP/2 PING frames on a connection.
    pub struct Http2KeepAlive {
        interval: Duration = "interval" [min_1ms];
        /// Time for the answer.
        timeout: Duration = "timeout" [min_1ms];
    }
}

record! {
    /// Passive health checks. Presence alone has an effect: locality failover and the panic threshold.
    pub struct OutlierDetection checked check_outlier {
        /// Deprecated: now `consecutive5xxErrors`.
        consecutive_errors: Option<u32> = "consecutiveErrors" [int32];
        /// Count failures to connect apart from HTTP errors.
        split_external_local_origin_errors: Option<bool> = "splitExternalLocalOriginErrors";
        /// Default 5; only with `splitExternalLocalOriginErrors`.
        consecutive_local_origin_failures: Option<u32> = "consecutiveLocalOriginFailures";
        /// 502, 503, 504. 0 or unset: off.
        consecutive_gateway_errors: Option<u32> = "consecutiveGatewayErrors";
        /// Default 5; 0: off.
        consecutive_5xx_errors: Option<u32> = "consecutive5xxErrors";
        /// Between sweeps. Default 10 s.
        interval: Option<Duration> = "interval" [min_1ms];
        /// Multiplied by the number of ejections. Default 30 s.
        base_ejection_time: Option<Duration> = "baseEjectionTime" [min_1ms];
        /// 0 to 100. Default 10.
        max_ejection_percent: Option<u32> = "maxEjectionPercent" [percent_u32];
        /// Below this share of healthy endpoints all are used, 0 to 100. Default 0.
        min_health_percent: Option<u32> = "minHealthPercent" [percent_u32];
        /// Statuses that count as errors instead of 5xx, 100 to 599.
        outlier_detection_http_error_codes: Vec<u16> = "outlierDetectionHttpErrorCodes" [error_codes];
    }
}

choice! {
    /// TLS towards the endpoints.
    pub enum TlsMode {
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        /// Mutual TLS with the mesh's own certificates.
        IstioMutual = "ISTIO_MUTUAL",
    }
}

record! {
    /// TLS towards the endpoints. Files are read by the proxy, not here.
    pub struct ClientTls checked check_tls {
        mode: Option<TlsMode> = "mode";
        /// Path of a PEM file.
        client_certificate: Option<String> = "clientCertificate";
        /// Path of a PEM file.
        private_key: Option<String> = "privateKey";
        /// Path of a PEM file. Without it the system's roots are used.
        ca_certificates: Option<String> = "caCertificates";
        subject_alt_names: Vec<String> = "subjectAltNames";
        sni: Option<String> = "sni";
        insecure_skip_verify: Option<bool> = "insecureSkipVerify";
    }
    refused {
        "credentialName": "certificates from Kubernetes Secrets (give clientCertificate, privateKey and caCertificates as files)",
        "caCrl": "certificate revocation lists",
    }
}

record! {
    /// Retries in flight as a share of active requests.
    pub struct RetryBudget {
        /// 0 to 100. Default 20.
        percent: Option<f64> = "percent" [percent];
        /// Always allowed. Default 3.
        min_retry_concurrency: Option<u32> = "minRetryConcurrency";
        /// Time over which requests are counted. Default 0: only those active now.
        budget_interval: Option<Duration> = "budgetInterval" later "counting requests over a time for retryBudget (those in flight count)";
    }
}
