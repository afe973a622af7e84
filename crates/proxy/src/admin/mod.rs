//! What a person or a tool may ask the proxy.

pub mod pprof;
