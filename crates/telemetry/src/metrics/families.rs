//! The names of the series that are not Istio's four: Celerity's own, and Envoy's that dashboards know.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A metric's name, help and kind. Names are constants here, so that no name is used with two kinds.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
}

macro_rules! families {
    ($($kind:ident $id:ident $name:literal $help:literal)*) => {
        pub mod names {
            use super::{Family, Kind};

            $(#[doc = $help] pub static $id: Family = Family { name: $name, help: $help, kind: Kind::$kind };)*

            /// Every family, in the order of this table.
            pub static ALL: &[&Family] = &[$(&$id),*];
        }
    };
}

families! {
    Counter CLUSTER_UPSTREAM_RQ_TOTAL "envoy_cluster_upstream_rq_total" "Requests sent to the cluster, retries included."
    Counter CLUSTER_UPSTREAM_RQ_RETRY "envoy_cluster_upstream_rq_retry" "Retries made."
    Counter CLUSTER_UPSTREAM_RQ_RETRY_SUCCESS "envoy_cluster_upstream_rq_retry_success" "Requests that a retry saved."
    Counter CLUSTER_UPSTREAM_RQ_RETRY_OVERFLOW "envoy_cluster_upstream_rq_retry_overflow" "Retries refused by the retry budget or limit."
    Counter CLUSTER_RETRY_OR_SHADOW_ABANDONED "envoy_cluster_retry_or_shadow_abandoned" "Requests whose bodies were too large to be kept for a retry or a mirror."
    Counter CLUSTER_UPSTREAM_RQ_TIMEOUT "envoy_cluster_upstream_rq_timeout" "Requests that timed out waiting for a response."
    Counter CLUSTER_UPSTREAM_RQ_PER_TRY_TIMEOUT "envoy_cluster_upstream_rq_per_try_timeout" "Attempts that hit the per-try timeout."
    Counter CLUSTER_UPSTREAM_RQ_PENDING_TOTAL "envoy_cluster_upstream_rq_pending_total" "Requests that waited for a connection."
    Counter CLUSTER_UPSTREAM_RQ_PENDING_OVERFLOW "envoy_cluster_upstream_rq_pending_overflow" "Requests refused because the pending queue or the request limit was full."
    Gauge CLUSTER_UPSTREAM_RQ_ACTIVE "envoy_cluster_upstream_rq_active" "Requests in flight to the cluster."
    Gauge CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE "envoy_cluster_upstream_rq_pending_active" "Requests waiting for a connection."
    Counter CLUSTER_UPSTREAM_RQ_XX "envoy_cluster_upstream_rq_xx" "Responses of the cluster by class of status."
    Counter CLUSTER_UPSTREAM_CX_TOTAL "envoy_cluster_upstream_cx_total" "Connections opened to the cluster."
    Gauge CLUSTER_UPSTREAM_CX_ACTIVE "envoy_cluster_upstream_cx_active" "Open connections to the cluster."
    Counter CLUSTER_UPSTREAM_CX_OVERFLOW "envoy_cluster_upstream_cx_overflow" "Times that the connection limit was met."
    Counter CLUSTER_UPSTREAM_CX_CONNECT_FAIL "envoy_cluster_upstream_cx_connect_fail" "Connections that could not be opened."
    Counter CLUSTER_UPSTREAM_CX_CONNECT_TIMEOUT "envoy_cluster_upstream_cx_connect_timeout" "Connections not open within the connect timeout."
    Counter CLUSTER_UPSTREAM_CX_NONE_HEALTHY "envoy_cluster_upstream_cx_none_healthy" "Requests that found no endpoint to go to."
    Counter CLUSTER_UPSTREAM_CX_RX_BYTES "envoy_cluster_upstream_cx_rx_bytes_total" "Bytes received from the cluster."
    Counter CLUSTER_UPSTREAM_CX_TX_BYTES "envoy_cluster_upstream_cx_tx_bytes_total" "Bytes sent to the cluster."
    Gauge CLUSTER_OUTLIER_EJECTIONS_ACTIVE "envoy_cluster_outlier_detection_ejections_active" "Endpoints ejected now."
    Counter CLUSTER_OUTLIER_EJECTIONS_TOTAL "envoy_cluster_outlier_detection_ejections_enforced_total" "Ejections made."
    Counter CLUSTER_OUTLIER_EJECTIONS_OVERFLOW "envoy_cluster_outlier_detection_ejections_overflow" "Ejections not made because of maxEjectionPercent."
    Gauge CLUSTER_MEMBERSHIP_TOTAL "envoy_cluster_membership_total" "Endpoints of the cluster."
    Gauge CLUSTER_MEMBERSHIP_HEALTHY "envoy_cluster_membership_healthy" "Endpoints that may take requests."
    Counter CLUSTER_LB_HEALTHY_PANIC "envoy_cluster_lb_healthy_panic" "Picks made in panic mode."
    Counter LISTENER_DOWNSTREAM_CX_TOTAL "envoy_listener_downstream_cx_total" "Connections accepted."
    Gauge LISTENER_DOWNSTREAM_CX_ACTIVE "envoy_listener_downstream_cx_active" "Open connections of clients."
    Counter LISTENER_SSL_HANDSHAKE "envoy_listener_ssl_handshake" "TLS handshakes completed with clients."
    Counter LISTENER_SSL_SESSION_REUSED "envoy_listener_ssl_session_reused" "TLS handshakes that resumed a session."
    Counter LISTENER_SSL_CONNECTION_ERROR "envoy_listener_ssl_connection_error" "TLS handshakes with clients that failed."
    Counter LISTENER_UPGRADES "envoy_http_downstream_cx_upgrades_total" "Connections that switched to WebSocket."
    Gauge LISTENER_DOWNSTREAM_RQ_ACTIVE "envoy_http_downstream_rq_active" "Requests of clients in flight."
    Counter CONFIG_RELOADS "celerity_config_reloads_total" "Configurations offered, by result and reason."
    Gauge CONFIG_LAST_RELOAD_SUCCESS "celerity_config_last_reload_success" "1 where the newest configuration is the running one, 0 where it was refused."
    Gauge CONFIG_VERSION "celerity_config_version" "How many configurations have been taken up."
    Gauge CONFIG_LAST_RELOAD_TIMESTAMP "celerity_config_last_reload_timestamp_seconds" "When a configuration was taken up last, in seconds since 1970."
    Gauge BUILD_INFO "celerity_build_info" "1, with the version of the program."
    Counter CACHE_HITS "celerity_cache_hits_total" "Responses from the cache, by kind: fresh, revalidated, stale."
    Counter CACHE_MISSES "celerity_cache_misses_total" "Requests that the cache could not answer."
    Counter CACHE_STORES "celerity_cache_stores_total" "Responses stored, by result."
    Gauge CACHE_BYTES "celerity_cache_bytes" "Bytes held by the cache."
    Counter DNS_RESOLUTIONS "celerity_dns_resolutions_total" "Names resolved, by result."
    Counter WORKER_BUSY_NS "celerity_worker_busy_nanoseconds_total" "Time that the worker's loop spent working."
    Gauge PROXY_WORKERS "celerity_proxy_workers" "Worker threads."
    Counter CPU_PERIODS "celerity_cpu_periods_total" "Periods of the CPU quota in which the process ran."
    Counter CPU_THROTTLED "celerity_cpu_throttled_periods_total" "Periods in which the CPU quota was used up; each holds requests for up to 100 ms."
    Counter CPU_THROTTLED_US "celerity_cpu_throttled_microseconds_total" "Time that the CPU quota stopped the process."
    Gauge MEMORY_LIMIT "celerity_memory_limit_bytes" "The tighter of the cgroup's limit and resources.limits.memory."
    Gauge MEMORY_RESIDENT "celerity_memory_resident_bytes" "Memory that the process holds."
    Gauge OVERLOADED "celerity_overloaded" "1 while new requests are refused because the memory limit is near."
    Counter OVERLOAD_REFUSED "celerity_overload_refused_total" "Requests refused because the memory limit is near."
    Gauge BLOCKING_THREADS "celerity_blocking_pool_threads" "Threads of the pool for work that blocks."
    Gauge BLOCKING_THREADS_IDLE "celerity_blocking_pool_threads_idle" "Of them, those with nothing to do."
    Gauge BLOCKING_QUEUED "celerity_blocking_pool_queued" "Jobs that wait for a thread."
    Counter BLOCKING_COMPLETED "celerity_blocking_pool_completed_total" "Jobs that ended."
    Counter BLOCKING_REFUSED "celerity_blocking_pool_refused_total" "Jobs refused because thread_pool.queue_size was reached."
    Gauge PROXY_DRAINING "celerity_proxy_draining" "1 while the proxy drains."
    Counter PROXY_PROTOCOL_ERRORS "celerity_proxy_protocol_errors_total" "Messages refused as malformed, by side and reason."
    Counter ACCESS_LOG_LINES "celerity_access_log_lines_total" "Access-log lines, by result: written, dropped, failed."
    Gauge METRIC_SERIES "celerity_metric_series" "Label sets of Istio's request metrics held now."
    Counter METRIC_SERIES_EVICTED "celerity_metric_series_evicted_total" "Idle label sets dropped."
    Counter METRIC_SERIES_OVERFLOWED "celerity_metric_series_overflowed_total" "Label sets collected under other because the budget was spent."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_say_so() {
        for (at, family) in names::ALL.iter().enumerate() {
            assert!(names::ALL[at + 1..].iter().all(|other| other.name != family.name), "{}", family.name);
            assert!(family.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", family.name);
            if family.name.starts_with("celerity_") && family.kind == Kind::Counter {
                assert!(family.name.ends_with("_total"), "{}", family.name);
            }
        }
    }
}
