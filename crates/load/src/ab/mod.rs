//! Comparing two arms so that the answer can be trusted on a noisy machine.
//!
//! The design is in [`design`], what an arm must be able to do in [`arms`], the loop over pairs in [`experiment`], the rules
//! that void a pair in [`noise`], the verdict in [`verdict`], and what is reported in [`report`] and [`text`].
//! `docs/experiments.md` explains the statistics.

pub mod arms;
pub mod design;
pub mod experiment;
pub mod noise;
pub mod report;
pub mod text;
pub mod verdict;

pub use arms::{Arm, ArmError, Arms, Block, BlockSpec};
pub use design::{Design, Metric};
pub use experiment::{Event, Flow, run};
pub use report::Report;
pub use verdict::Verdict;
