//! Names to addresses for STRICT_DNS and LOGICAL_DNS clusters.
//!
//! [`plan`] decides what to ask and when, and keeps the answers; it does no IO. [`driver`] asks, on the control runtime, and
//! publishes a [`Table`]. When a resolver fails, the last answer stands: an old address mostly works, none never does.

mod driver;
mod plan;

pub use driver::{NameServer, Resolver, ResolverError};
pub use plan::{Answer, NAMES_MAX, Name, Plan, Question, Resolved, Table, Wanted};
