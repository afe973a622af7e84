//! VirtualService: how HTTP requests to hosts are routed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{choice, record};

record! {
    /// Routes of one or several hosts (networking.istio.io VirtualService).
    pub struct VirtualService checked check_virtual_service {
        /// Short names (resolved in the document's namespace), full names, wildcards or addresses.
        hosts: Vec<String> = "hosts" [hosts];
        /// `mesh`, the sidecars, must be among them; empty means the same. Others do not act.
        gateways: Vec<String> = "gateways" [gateway_names, with_mesh];
        /// In order; the first route that matches stands.
        http: Vec<HttpRoute> = "http";
        /// Namespaces that see the document; empty: all. `.` is its own, `*` all.
        export_to: Vec<String> = "exportTo" [export_to_someone];
    }
    refused {
        "tls": "routing of passed-through TLS",
        "tcp": "routing of plain TCP",
    }
}

record! {
    /// One route: what it matches and what becomes of the request.
    pub struct HttpRoute checked check_route {
        name: Option<String> = "name";
        /// Any of these; empty: every request.
        matches: Vec<HttpMatch> = "match";
        /// Weighted destinations.
        route: Vec<RouteDestination> = "route";
        redirect: Option<Redirect> = "redirect";
        direct_response: Option<DirectResponse> = "directResponse";
        rewrite: Option<Rewrite> = "rewrite";
        /// Whole-request timeout. Unset: none.
        timeout: Option<Duration> = "timeout" [min_1ms];
        /// Unset: two retries of what was not processed.
        retries: Option<Retries> = "retries";
        fault: Option<Fault> = "fault";
        headers: Option<HeaderChanges> = "headers";
        cors_policy: Option<CorsPolicy> = "corsPolicy";
        mirror: Option<Destination> = "mirror";
        mirror_percentage: Option<Percent> = "mirrorPercentage";
        mirrors: Vec<Mirror> = "mirrors";
    }
    refused {
        "delegate": "delegated VirtualServices",
        "mirrorPercent": "the old whole percent of mirrored requests (write mirrorPercentage: {value: N})",
        "mirror_percent": "the old whole percent of mirrored requests (write mirrorPercentage: {value: N})",
    }
}

record! {
    /// All conditions that are set must hold.
    pub struct HttpMatch {
        name: Option<String> = "name";
        /// The path without the query.
        uri: Option<StringMatch> = "uri" [path_match];
        ignore_uri_case: Option<bool> = "ignoreUriCase";
        scheme: Option<StringMatch> = "scheme" [string_match];
        method: Option<StringMatch> = "method" [string_match];
        authority: Option<StringMatch> = "authority" [string_match];
        /// An empty match (`{}`) asks for presence only.
        headers: BTreeMap<String, StringMatch> = "headers" [header_keys, string_matches];
        without_headers: BTreeMap<String, StringMatch> = "withoutHeaders" [header_keys, absence_matches];
        query_params: BTreeMap<String, StringMatch> = "queryParams" [string_matches];
        /// Port of the host that the client asked for.
        port: Option<u16> = "port" [port];
        /// Client workloads that carry these labels.
        source_labels: BTreeMap<String, String> = "sourceLabels" [labels];
        /// Namespace of the client workload.
        source_namespace: Option<String> = "sourceNamespace" [namespace_or_empty];
        /// Empty or with `mesh`: for sidecars. Others never match here.
        gateways: Vec<String> = "gateways" [gateway_names];
    }
    refused {
        "statPrefix": "statistics of a single route",
    }
}

/// How a string is compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum StringMatch {
    /// `{}`: there, with any value.
    #[default]
    Present,
    Exact(String),
    Prefix(String),
    /// RE2 syntax; the whole value must match. Known to compile, but for the lone star.
    Regex(String),
}

impl StringMatch {
    /// Whether it asks for presence alone. A lone star is no expression; Istio reads it so in `withoutHeaders`.
    pub fn is_presence(&self) -> bool {
        *self == Self::Present || matches!(self, Self::Regex(regex) if regex == "*")
    }
}

record! {
    /// A destination and its share.
    pub struct RouteDestination {
        destination: Destination = "destination";
        /// Share relative to the sum. Unset with a single destination: all.
        weight: Option<u32> = "weight" [int32];
        headers: Option<HeaderChanges> = "headers";
    }
}

record! {
    /// Where requests go.
    pub struct Destination {
        /// A short name resolves in the document's namespace.
        host: String = "host" [destination_host];
        subset: Option<String> = "subset" [dns_label];
        port: Option<PortSelector> = "port";
    }
}

impl Destination {
    /// The port, when one was named.
    pub fn port_number(&self) -> Option<u16> {
        self.port.as_ref().map(|p| p.number)
    }
}

record! {
    /// A port by its number.
    pub struct PortSelector {
        /// 1 to 65535.
        number: u16 = "number" [port];
    }
}

choice! {
    /// Where a redirect's port comes from.
    pub enum DerivePort {
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

record! {
    /// An HTTP redirect.
    pub struct Redirect checked check_redirect {
        /// Whole new path; `%PREFIX()%` is not interpreted.
        uri: Option<String> = "uri" [header_text];
        /// Replaces the matched prefix only.
        prefix_rewrite: Option<String> = "prefixRewrite" [header_text];
        authority: Option<String> = "authority" [header_text];
        port: Option<u16> = "port" [port];
        derive_port: Option<DerivePort> = "derivePort";
        /// `http` or `https`.
        scheme: Option<String> = "scheme" [redirect_scheme];
        /// 301 (the default), 302, 303, 307 or 308.
        redirect_code: Option<u16> = "redirectCode" [redirect_code];
    }
}

record! {
    /// An answer without an upstream.
    pub struct DirectResponse {
        /// 200 to 599.
        status: u16 = "status" [response_status];
        body: Option<ResponseBody> = "body";
    }
}

/// Body of a direct response, at most 1 MiB.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResponseBody(pub Vec<u8>);

record! {
    /// Changes of path and authority before the request goes on.
    pub struct Rewrite checked check_rewrite {
        /// Replaces the matched prefix, or the whole path of an exact or regex match.
        uri: Option<String> = "uri" [path_text];
        authority: Option<String> = "authority" [header_text];
        uri_regex_rewrite: Option<RegexRewrite> = "uriRegexRewrite";
    }
}

record! {
    /// Replaces every match of a regular expression in the path.
    pub struct RegexRewrite {
        /// RE2 syntax.
        pattern: String = "match" [regex];
        /// May hold `\1` and so on.
        rewrite: String = "rewrite" [not_empty, path_text];
    }
}

record! {
    /// Retries of a request.
    pub struct Retries checked check_retries {
        /// Retries after the first try. 0 or less: none. Unset with a policy present: 0, as in Istio.
        attempts: Option<i32> = "attempts";
        /// Timeout of each try. Unset: the route's.
        per_try_timeout: Option<Duration> = "perTryTimeout" [min_1ms];
        /// Comma-separated conditions and statuses.
        retry_on: Option<String> = "retryOn" [retry_on];
        /// Also to other localities.
        retry_remote_localities: Option<bool> = "retryRemoteLocalities";
        /// Not to an endpoint tried before. Default true.
        retry_ignore_previous_hosts: Option<bool> = "retryIgnorePreviousHosts";
        /// Base of the exponential back-off. Default 25 ms.
        backoff: Option<Duration> = "backoff" [min_1ms];
    }
}

record! {
    /// Faults on purpose.
    pub struct Fault checked check_fault {
        delay: Option<FaultDelay> = "delay";
        abort: Option<FaultAbort> = "abort";
    }
}

record! {
    /// A delay before the request goes on.
    pub struct FaultDelay checked check_delay {
        fixed_delay: Option<Duration> = "fixedDelay" [min_1ms];
        /// Unset, with `percent` unset too: no request, as in Istio.
        percentage: Option<Percent> = "percentage";
        /// Deprecated whole percent, 0 to 100.
        percent: Option<u32> = "percent" [percent_u32];
    }
    refused {
        "exponentialDelay": "an exponential delay",
    }
}

impl FaultDelay {
    /// Share of requests in percent, whichever form it was written in.
    pub fn share_percent(&self) -> f64 {
        self.percentage.as_ref().map(|p| p.value).or(self.percent.map(f64::from)).unwrap_or(0.0)
    }
}

record! {
    /// An answer with an error in place of the upstream's: exactly one of the two.
    pub struct FaultAbort checked check_abort {
        /// 200 to 599.
        http_status: Option<u16> = "httpStatus" [response_status];
        /// A gRPC status by name (`UNAVAILABLE`).
        grpc_status: Option<GrpcStatus> = "grpcStatus";
        /// Unset: no request, as in Istio.
        percentage: Option<Percent> = "percentage";
    }
    refused {
        "http2Error": "an HTTP/2 error as a fault",
    }
}

impl FaultAbort {
    /// Share of requests in percent.
    pub fn share_percent(&self) -> f64 {
        self.percentage.as_ref().map_or(0.0, |p| p.value)
    }
}

/// A gRPC status code, 0 to 16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrpcStatus(pub u32);

impl GrpcStatus {
    /// As it is written.
    pub fn name(self) -> &'static str {
        usize::try_from(self.0).ok().and_then(|code| GRPC_STATUSES.get(code)).copied().unwrap_or("UNKNOWN")
    }
}

/// Their names, by code (Istio, pkg/util/grpc/codes.go).
pub(crate) const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

record! {
    /// A percentage with fractions; the finest step is 0.0001 %.
    pub struct Percent {
        /// 0 to 100; unset is 0, as in Istio.
        value: f64 = "value" [percent];
    }
}

record! {
    /// A copy of the request, its answer thrown away.
    pub struct Mirror {
        destination: Destination = "destination";
        /// Unset: every request.
        percentage: Option<Percent> = "percentage";
    }
}

record! {
    /// Changes of headers.
    pub struct HeaderChanges checked check_header_changes {
        request: Option<HeaderOperations> = "request";
        response: Option<HeaderOperations> = "response";
    }
}

record! {
    /// Set first, then add, then remove.
    pub struct HeaderOperations {
        set: BTreeMap<String, String> = "set" [header_map];
        add: BTreeMap<String, String> = "add" [header_map];
        remove: Vec<String> = "remove" [header_names];
    }
}

choice! {
    /// What becomes of a preflight of an origin that is not allowed.
    pub enum UnmatchedPreflights {
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}

record! {
    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Deprecated: exact origins, or `*`.
        allow_origin: Vec<String> = "allowOrigin";
        allow_origins: Vec<StringMatch> = "allowOrigins" [origin_matches];
        allow_methods: Vec<String> = "allowMethods" [cors_methods];
        allow_headers: Vec<String> = "allowHeaders" [cors_headers];
        expose_headers: Vec<String> = "exposeHeaders" [cors_headers];
        max_age: Option<Duration> = "maxAge" [whole_seconds];
        allow_credentials: Option<bool> = "allowCredentials";
        unmatched_preflights: Option<UnmatchedPreflights> = "unmatchedPreflights";
    }
}
