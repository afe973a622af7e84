//! Towards the endpoints: connections, limits, and one attempt's stream.

pub mod cluster;
pub mod connect;
pub mod endpoint;
mod multiplexed;
pub mod shared;
pub mod starvation;
pub mod stream;

pub use endpoint::{AcquireError, EndpointPool, Lease};
pub use shared::ClusterShared;
pub use stream::{AttemptError, UpstreamStream};
