//! Metric series: written by workers, read by the scrape.
//!
//! ```text
//!   worker: Shard ──resolve once──► handle ──per request──► relaxed stores into its own cells
//!   scrape: Registry::expose ──► copies the list of cells under a lock ──► reads and writes text without it
//! ```
//!
//! The lock is taken to make or to find a series and to copy the list; a request that holds its handle never meets it.

mod families;
mod labels;
mod ledger_series;
mod registry;
mod requests;
mod text;

pub use families::{Family, Kind, names};
pub use labels::{ConnectionSecurity, Peer, Reporter, RequestLabels, RequestProtocol};
pub use ledger_series::{LedgerShard, SideSummary};
pub use registry::{Counter, Gauge, Limits, Registry, Shard, ShardGauge, SharedCounter};
pub use requests::{Outcome, RequestSeries, RequestSummary, Sample, SeriesHandle};
pub use text::Exposition;
