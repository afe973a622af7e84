//! The highest rate that keeps an objective, how the system scales, and what gives way first.
//!
//! [`search`] finds the rate with an open loop, since a closed one slows down with the server and never overloads it; a
//! sweep of closed loops gives the points for the scalability law; [`report`] puts both together, [`text`] prints it.

pub mod report;
pub mod search;
pub mod text;

pub use report::{Report, Sweep, replicas};
pub use search::{ClientParts, Outcome, Search, SearchEvent, Trial, Trials, search};
