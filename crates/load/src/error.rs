//! Why a run could not begin. What goes wrong while it runs is counted in its summary instead.

use std::net::SocketAddr;
use std::time::Duration;

/// A run that gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the plan cannot be run: {0}")]
    Plan(String),
    #[error("the name `{host}` has no address: {reason}")]
    Resolve { host: String, reason: String },
    #[error("the name `{host}` was not resolved within {} s", .limit.as_secs())]
    ResolveTimeout { host: String, limit: Duration },
    #[error("`{host}` at {address} cannot be reached: {reason}")]
    Unreachable { host: String, address: SocketAddr, reason: String },
    #[error(
        "{connections} connections need more descriptors than the {limit} that this process may open: raise `ulimit -n`, or ask for fewer connections"
    )]
    Descriptors { connections: u32, limit: u64 },
    #[error("`{host}` does not answer over HTTP/2: {reason}")]
    Unanswered { host: String, reason: String },
    #[error("stopped before the first request")]
    Stopped,
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("{0}")]
    Grpc(String),
    #[error("the script cannot be run: {0}")]
    Script(String),
    #[error("a sender's thread ended by a fault of its own: please report it")]
    Thread,
    #[error("the system refused {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

impl Error {
    /// Whether the target could not be reached: no slip in what was asked for, but no answer either.
    pub fn is_unreached(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. } | Self::ResolveTimeout { .. } | Self::Unreachable { .. } | Self::Unanswered { .. }
        )
    }
}
