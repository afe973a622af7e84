//! The data plane: one request from accept to finish.
pub mod admin;
pub mod blocking;
pub mod dns;
pub mod filters;
pub mod h1;
pub mod h2;
pub mod http;
pub mod net;
pub mod sizing;
pub mod sockets;
pub mod tls;
