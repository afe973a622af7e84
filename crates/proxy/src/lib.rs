//! The data plane: one request from accept to finish.
pub mod http;
