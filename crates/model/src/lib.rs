//! What configuration means: Istio YAML in, Envoy v3 resources, an immutable snapshot out. No IO, nothing async.

pub mod analyze;
mod ip;
pub mod istio;
pub mod patch;
pub mod server_name;
pub mod snapshot;
pub mod translate;
