//! The measuring engine. What a run is stands in its plan; what it gave, in its summary; between them a core that does no
//! IO, so that the same schedule, dispatch and recording run against sockets and against simulated time.

pub mod ab;
pub mod audit;
pub mod baseline;
mod behind;
pub mod capacity;
pub mod control;
pub mod dispatch;
pub mod engine;
mod error;
pub mod explain;
pub mod grpc;
pub mod habits;
pub mod histogram;
pub mod measure;
pub mod plan;
pub mod record;
pub mod report;
pub mod schedule;
pub mod script;
pub mod simulate;
pub mod slo;
pub mod source;
pub mod stats;
pub mod summary;
pub mod target;
pub mod timeline;
mod trust;
#[cfg(test)]
mod validation;

pub use control::{Control, Progress};
pub use engine::{Ready, run};
pub use error::Error;
pub use histogram::Histogram;
pub use plan::Plan;
pub use summary::Summary;
