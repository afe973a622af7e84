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
    /// Response time in nanoseconds, from the intended send time, of answered requests.
    pub response: Distribution,
    pub succeeded: u64,
    pub failed: u64,
    /// Of the recorded part.
    pub seconds: f64,
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

    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.succeeded as f64 / self.seconds } else { 0.0 }
    }
}

/// Two things that can be measured in blocks.
pub trait Arms {
    /// Runs one block to its end. An error ends the experiment; requests that fail do not, they are counted.
    fn block(&mut self, arm: Arm, spec: &BlockSpec) -> Result<Block, String>;
}
