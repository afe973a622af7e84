//! What an experiment asks of the things that it compares, real or simulated.

use std::time::Duration;

use celerity_telemetry::ledger::CATEGORIES;
use serde::{Deserialize, Serialize};

use crate::stats::Distribution;

/// Which one. Nothing that voids or discards may look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    Baseline,
    Candidate,
}

/// One block: a stretch of open-loop Poisson traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockSpec {
    /// Gives the intended send times; both blocks of a pair have the same.
    pub seed: u64,
    pub per_second: f64,
    /// With the part that is discarded.
    pub duration: Duration,
    /// From the start; requests of this part are sent and not recorded, whatever their latency.
    pub discard: Duration,
}

/// What a block recorded after its discarded part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// Response time in nanoseconds, from the intended send time, of requests that succeeded.
    pub response: Distribution,
    pub succeeded: u64,
    pub failed: u64,
    /// The commonest failure, in words.
    pub failure: Option<String>,
    /// Successes that came in a second of the recorded part.
    pub succeeded_per_second: f64,
    pub noise: BlockNoise,
    /// Mean microseconds of a request by ledger category, where the answers carried a ledger.
    pub ledger: Option<BlockLedger>,
    /// It was stopped before its end: it does not count.
    pub interrupted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockLedger {
    pub categories_us: [f64; CATEGORIES],
    /// What the client waited beyond the mesh's own total.
    pub outside_us: f64,
}

/// What the machine and the sender said of themselves while the block ran; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockNoise {
    /// Sender lag at its 99th percentile, nanoseconds.
    pub lag_p99_ns: u64,
    /// Share of CPU time that the hypervisor gave to others.
    pub steal_share: Option<f64>,
    /// Share of time in which some task waited for a CPU.
    pub pressure_share: Option<f64>,
    pub involuntary_switches_per_second: Option<f64>,
}

impl Block {
    pub fn quantile_ns(&self, q: f64) -> Option<f64> {
        self.response.quantile(q).map(|ns| ns.max(1) as f64)
    }

    pub fn error_share(&self) -> f64 {
        self.failed as f64 / (self.succeeded + self.failed).max(1) as f64
    }
}

impl BlockSpec {
    /// The block of an arm that nobody could connect to: every request of it has failed.
    pub fn lost(&self) -> Block {
        let seconds = self.duration.saturating_sub(self.discard).as_secs_f64();
        let failure = Some("no connection to it could be made any more".to_owned());
        Block { failed: ((self.per_second * seconds) as u64).max(1), failure, ..Block::default() }
    }
}

/// Why a block gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ArmError {
    pub reason: String,
    /// Its address is known and takes no connection: an arm that was there before has gone, with every request to it.
    pub unreachable: bool,
}

impl From<&str> for ArmError {
    fn from(reason: &str) -> Self {
        Self { reason: reason.to_owned(), unreachable: false }
    }
}

impl From<crate::Error> for ArmError {
    fn from(error: crate::Error) -> Self {
        Self { reason: error.to_string(), unreachable: matches!(error, crate::Error::Unreachable { .. }) }
    }
}

/// Two things that can be measured in blocks.
pub trait Arms {
    /// Runs one block to its end. Requests that fail are counted. An error ends the experiment, but for a candidate that was
    /// reached before and is no longer: its block is lost.
    fn block(&mut self, arm: Arm, spec: &BlockSpec) -> Result<Block, ArmError>;
}
