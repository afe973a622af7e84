//! The run on real sockets: one thread for each share of the plan, each with its own loop, connections and recorder.

pub mod h2;
pub mod h2_request;

use crate::{Control, Error, Plan, Summary};

/// Carries the plan out and returns when it is through. Blocks; `control` tells how it goes and can end it.
pub fn run(plan: &Plan, _control: &Control) -> Result<Summary, Error> {
    plan.check()?;
    Err(Error::Plan("this build has no engine for it yet".into()))
}
