//! The whole program: the real binary on real sockets, with real clients, upstreams and peers around it.
mod admin;
mod alerts;
mod cache;
mod compare;
mod dns;
mod drain;
mod explain;
mod flags;
mod framing;
mod grpc;
mod mtls;
mod passthrough;
mod resilience;
mod support;
mod traffic;
mod tutorial;
mod websocket;
