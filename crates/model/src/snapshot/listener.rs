//! A listener: an address, the choice of a filter chain, and how HTTP is handled on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{CertificateSource, Http2Settings, Validation};
use super::route::{CorsPolicy, Fault};
use super::table::RouteTable;

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub direction: Direction,
    /// Hash of the whole configuration but the routes.
    pub fingerprint: u128,
    pub chains: Box<[FilterChain]>,
    pub default_chain: Option<Box<FilterChain>>,
    /// The first bytes are looked at, to tell TLS from plain text.
    pub inspects_tls: bool,
    /// Time for those first bytes.
    pub inspect_timeout: Duration,
    /// Another connection's original destination is taken from the kernel.
    pub use_original_dst: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Direction {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// What is known of a connection when its filter chain is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionView<'a> {
    pub destination_port: u16,
    pub is_tls: bool,
    pub server_name: Option<&'a str>,
    pub alpn: &'a [&'a str],
}

impl Listener {
    /// The chain for a connection: the most specific by port, server name, transport and ALPN, in this order (Envoy
    /// `FilterChainMatch`); else the default one; `None` closes the connection.
    pub fn chain(&self, connection: &ConnectionView<'_>) -> Option<&FilterChain> {
        let mut best: Option<(u32, &FilterChain)> = None;
        for chain in &self.chains {
            let Some(score) = chain.matching.score(connection) else { continue };
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, chain));
            }
        }
        best.map(|(_, chain)| chain).or(self.default_chain.as_deref())
    }
}

#[derive(Clone, Debug)]
pub struct FilterChain {
    pub name: Box<str>,
    pub matching: ChainMatch,
    pub tls: Option<Arc<DownstreamTls>>,
    /// Time for the TLS handshake. `None`: no limit of its own.
    pub handshake_timeout: Option<Duration>,
    pub manager: Arc<HttpManager>,
}

/// Empty or `None`: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    pub destination_port: Option<u16>,
    /// `tls` or `raw_buffer`.
    pub is_tls: Option<bool>,
    pub alpn: Box<[Box<str>]>,
    /// In lower case; `*.example.com` matches any name under it.
    pub server_names: Box<[Box<str>]>,
}

impl ChainMatch {
    /// How specific the match is, `None` where it does not match. Envoy decides property by property, so an earlier
    /// property outweighs all later ones.
    fn score(&self, connection: &ConnectionView<'_>) -> Option<u32> {
        let mut score = 0;
        if let Some(port) = self.destination_port {
            if port != connection.destination_port {
                return None;
            }
            score |= 1 << 20;
        }
        if !self.server_names.is_empty() {
            let name = connection.server_name?;
            // The longest wildcard wins over shorter ones; an exact name over all.
            score |= self.server_names.iter().filter_map(|pattern| server_name_score(pattern, name)).max()?;
        }
        if let Some(is_tls) = self.is_tls {
            if is_tls != connection.is_tls {
                return None;
            }
            score |= 2;
        }
        if !self.alpn.is_empty() {
            if !self.alpn.iter().any(|wanted| connection.alpn.contains(&wanted.as_ref())) {
                return None;
            }
            score |= 1;
        }
        Some(score)
    }
}

/// Server names are at most 255 octets, so that 9 bits hold a wildcard's length and one the exact match.
fn server_name_score(pattern: &str, name: &str) -> Option<u32> {
    let specific = match pattern.strip_prefix('*') {
        Some(suffix) => {
            let at = name.len().checked_sub(suffix.len()).filter(|&at| at > 0)?;
            let tail = name.get(at..)?;
            tail.eq_ignore_ascii_case(suffix).then_some(suffix.len().min(511) as u32)?
        }
        None => pattern.eq_ignore_ascii_case(name).then_some(1 << 9)?,
    };
    Some(specific << 3)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DownstreamTls {
    pub identity: CertificateSource,
    pub alpn: Box<[Box<str>]>,
    pub require_client_certificate: bool,
    /// Checked where the client shows a certificate.
    pub validation: Option<Validation>,
}

/// Envoy's HTTP connection manager.
#[derive(Clone, Debug)]
pub struct HttpManager {
    pub stat_prefix: Box<str>,
    pub codec: Codec,
    /// Name of the route configuration.
    pub route_name: Box<str>,
    pub routes: Arc<RouteTable>,
    /// In the order of the configuration. The last one is the router.
    pub filters: Box<[HttpFilter]>,
    pub timeouts: ManagerTimeouts,
    pub http2: Http2Settings,
    pub max_request_headers_kb: u32,
    pub max_headers_count: u32,
    /// Requests before a downstream connection is closed. `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// The `server` response header; `None` passes the upstream's own.
    pub server_header: Option<Box<str>>,
    pub via: Option<Box<str>>,
    /// The peer's address is the client's: x-forwarded-for is appended to and internal headers are removed.
    pub use_remote_address: bool,
    pub skip_xff_append: bool,
    pub client_certificate: ClientCertificateHeader,
    pub request_id: RequestId,
    /// The upstream answers `Expect: 100-continue`; without it the proxy does.
    pub proxy_100_continue: bool,
    pub normalize_path: bool,
    pub merge_slashes: bool,
    /// The port is taken off the authority, whatever it is.
    pub strip_port: bool,
    /// A client may ask for WebSocket (Envoy `upgrade_configs`). Any other protocol is never switched to.
    pub websocket: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Codec {
    /// ALPN, or the client's preface.
    #[default]
    Auto,
    Http1,
    Http2,
}

/// `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagerTimeouts {
    /// A connection without a request.
    pub idle: Option<Duration>,
    /// A request without progress.
    pub stream_idle: Option<Duration>,
    /// The whole request, until its last byte was received.
    pub request: Option<Duration>,
    pub request_headers: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    /// Time in which a closing connection still reads.
    pub delayed_close: Option<Duration>,
}

impl Default for ManagerTimeouts {
    fn default() -> Self {
        Self {
            idle: Some(Duration::from_secs(3600)),
            stream_idle: Some(Duration::from_secs(300)),
            request: None,
            request_headers: None,
            max_connection_duration: None,
            max_stream_duration: None,
            delayed_close: Some(Duration::from_secs(1)),
        }
    }
}

/// A filter before the router. A filter that the configuration does not name is not here and costs nothing.
#[derive(Clone, Debug)]
pub enum HttpFilter {
    /// Runs with this fault unless the route has its own.
    Fault(Option<Arc<Fault>>),
    /// Acts by the route's policy.
    Cors(Option<Arc<CorsPolicy>>),
    Buffer {
        max_request_bytes: u32,
    },
    Cache(CacheConfig),
    Router(RouterConfig),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CacheConfig {
    /// A larger body is not stored. `None`: the proxy's own bound.
    pub max_body_bytes: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RouterConfig {
    pub suppress_envoy_headers: bool,
}

/// What is done with x-forwarded-client-cert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClientCertificateHeader {
    pub mode: ForwardMode,
    pub subject: bool,
    pub uri: bool,
    pub dns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ForwardMode {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    pub generate: bool,
    /// Keeps the id that an outside client sent.
    pub preserve_external: bool,
    pub always_set_in_response: bool,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { generate: true, preserve_external: false, always_set_in_response: false }
    }
}
