//! Istio's and Kubernetes' kinds, typed.

mod config;
mod config_map;
mod destination_rule;
mod envoy_filter;
mod kubernetes;
mod peer_authentication;
mod policy;
mod prometheus_rule;
mod record;
pub mod scalar;
mod service_entry;
mod virtual_service;

pub use config::*;
pub use config_map::*;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use kubernetes::*;
pub use peer_authentication::*;
pub use policy::*;
pub use prometheus_rule::*;
pub use service_entry::*;
pub use virtual_service::*;
