//! HTTP/2 (RFC 9113) and its header compression (RFC 7541) as bytes: what both the proxy and the measuring engine read
//! and write. No IO, no clock, no state of a stream: those differ between the two and live with them.

pub mod code;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod settings;

pub use code::{Code, Violation};
