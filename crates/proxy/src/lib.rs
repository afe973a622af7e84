//! The data plane, its modules in the order in which a request meets them.
//!
//! ```text
//!   accept -> downstream (TLS, HTTP/1.1 or HTTP/2) -> exchange: route -> filters -> (pick -> attempt)* -> relay -> finish
//! ```

pub mod admin;
pub mod apply;
pub mod balance;
pub mod blocking;
pub mod dns;
pub mod downstream;
pub mod drain;
pub mod exchange;
pub mod filters;
pub mod h1;
pub mod h2;
pub mod http;
mod identity;
mod labels;
pub mod log;
pub mod net;
pub mod outlier;
pub mod proxy;
pub mod retry;
pub mod sizing;
pub mod sockets;
pub mod timers;
pub mod tls;
mod tunnel;
pub mod upstream;
pub mod worker;

pub use apply::{NotTakenUp, Unusable};
pub use proxy::{Handle, Proxy, Settings, StartError, Tuning};
