//! The latency ledger, histograms, metric series, access log and trace context.
//!
//! One worker writes, another thread reads: a worker's numbers are plain atomic cells that only it writes, with a
//! relaxed load and store. There is no lock, no allocation and no read-modify-write on the request path.

pub mod access_log;
pub mod clock;
pub mod cohort;
pub mod flags;
pub mod grpc;
pub mod histogram;
pub mod hop;
pub mod introduction;
mod json;
pub mod ledger;
pub mod metrics;
pub mod report;
pub mod rng;
pub mod server_timing;
pub mod trace;

pub use clock::{Clock, Tick};
pub use flags::ResponseFlags;
pub use hop::{HOP_HEADER, HopReport};
pub use ledger::{Breakdown, Category, Direction, LEDGER_REQUEST_HEADER, Lag, Ledger, State};
pub use rng::Rng;
