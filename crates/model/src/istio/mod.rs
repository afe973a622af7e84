//! Istio's and Kubernetes' kinds, typed.

mod check;
mod config;
mod config_map;
mod destination_rule;
mod envoy_filter;
mod fast;
mod json;
mod kubernetes;
mod leaves;
mod node;
mod parts;
mod peer_authentication;
mod policy;
mod prometheus_rule;
mod read;
mod reader;
mod record;
pub mod scalar;
mod service_entry;
mod support;
mod virtual_service;

pub use config::*;
pub use config_map::*;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use json::{ToJson, duration_text};
pub use kubernetes::*;
pub use parts::{Part, PartText, parts};
pub use peer_authentication::*;
pub use policy::*;
pub use prometheus_rule::*;
pub use read::{read, read_partial, read_parts};
pub use reader::{ERRORS_MAX, ErrorKind, ReadError};
pub use service_entry::*;
pub use support::support_table;
pub use virtual_service::*;
