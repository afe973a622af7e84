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
        "{needed} connections need more descriptors than the {limit} that this process may open: raise `ulimit -n`, or ask for fewer connections"
    )]
    Descriptors { needed: u64, limit: u64 },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("the script cannot be run: {0}")]
    Script(String),
    #[error("a sender's thread ended by a fault of its own: please report it")]
    Thread,
    #[error("the system refused {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}
