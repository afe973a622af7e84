//! Towards the clients: accepting, TLS, and the two protocols.

pub mod accept;
pub mod conn;
mod h1;
mod h2;
mod opaque;
pub mod stream;

pub use conn::Conn;
