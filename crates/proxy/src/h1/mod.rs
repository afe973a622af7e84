//! HTTP/1.1 on one connection: heads, body framing, and the two roles.
//!
//! What makes a message ambiguous (RFC 9112, sections 6.3 and 11.2) is refused here, because a proxy that guesses where
//! a message ends is how requests are smuggled past it. A library forgives some of it and hides the bytes that one would
//! need to see to be stricter.

pub mod body;
pub mod client;
pub mod parse;
mod scan;
pub mod server;
pub mod wire;
pub mod write;

pub use body::BodyLength;
pub use client::ClientConn;
pub use parse::{HeadError, RequestMeta, ResponseMeta};
pub use server::ServerConn;
pub use wire::Wire;
