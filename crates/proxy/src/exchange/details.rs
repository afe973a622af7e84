//! Why a response is what it is, in Envoy's words (`StreamInfo::ResponseCodeDetails`): few, and without anything of the one
//! request in them, so that they can be counted. What is peculiar to the request stands in the sentence beside them.

pub(super) const VIA_UPSTREAM: &str = "via_upstream";
pub(super) const DIRECT_RESPONSE: &str = "direct_response";
pub(super) const FROM_CACHE: &str = "cache.response_from_cache_filter";
pub(super) const CORS: &str = "cors_response";
pub(super) const FAULT_ABORT: &str = "fault_filter_abort";

pub(super) const ROUTE_NOT_FOUND: &str = "route_not_found";
pub(super) const CLUSTER_NOT_FOUND: &str = "cluster_not_found";
pub(super) const NO_HEALTHY_UPSTREAM: &str = "no_healthy_upstream";
pub(super) const OVERLOAD: &str = "overload";
pub(super) const PATH_NORMALIZATION_FAILED: &str = "path_normalization_failed";
pub(crate) const HEADERS_TOO_LARGE: &str = "request_headers_too_large";
pub(super) const PAYLOAD_TOO_LARGE: &str = "request_payload_too_large";
/// Ours: the cache may not ask the upstream (RFC 9111, section 5.2.1.7).
pub(super) const NOT_IN_CACHE: &str = "cache.only_if_cached";

pub(super) const RESPONSE_TIMEOUT: &str = "response_timeout";
pub(super) const PER_TRY_TIMEOUT: &str = "upstream_per_try_timeout";
pub(super) const PER_TRY_IDLE_TIMEOUT: &str = "upstream_per_try_idle_timeout";
pub(crate) const STREAM_IDLE_TIMEOUT: &str = "stream_idle_timeout";
pub(crate) const MAX_DURATION_TIMEOUT: &str = "max_duration_timeout";
pub(crate) const REQUEST_TIMEOUT: &str = "request_overall_timeout";

pub(super) const CLIENT_GONE: &str = "downstream_remote_disconnect";
pub(crate) const CODEC_ERROR: &str = "codec_error";
pub(crate) const HEAD_TIMEOUT: &str = "request_header_timeout";
pub(crate) const UPGRADE_FAILED: &str = "upgrade_failed";
/// Ours: Envoy looks for a route then.
pub(crate) const CONNECT_REFUSED: &str = "connect_not_supported";

/// An upstream's stream that ended badly, before its response began and after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    /// For the client's eyes.
    pub reason: &'static str,
    pub before: &'static str,
    pub after: &'static str,
}

macro_rules! resets {
    ($($name:ident = $reason:literal, $word:literal;)*) => {
        $(pub(super) const $name: Reset = Reset {
            reason: $reason,
            before: concat!("upstream_reset_before_response_started{", $word, "}"),
            after: concat!("upstream_reset_after_response_started{", $word, "}"),
        };)*
    };
}

resets! {
    OVERFLOW = "overflow", "overflow";
    CONNECTION_FAILURE = "connection failure", "remote_connection_failure";
    CONNECTION_TIMEOUT = "connection failure", "connection_timeout";
    CONNECTION_TERMINATION = "connection termination", "connection_termination";
    PROTOCOL_ERROR = "protocol error", "protocol_error";
    REMOTE_RESET = "remote reset", "remote_reset";
    REMOTE_REFUSED = "remote refused stream reset", "remote_refused_stream_reset";
}
