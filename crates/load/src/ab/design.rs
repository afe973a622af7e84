//! How an experiment is laid out, decided before the first request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ab::arms::BlockSpec;
use crate::stats::{Rng, normal};

/// The numbers of pairs after which a verdict may be given.
pub const LOOKS: [usize; 4] = [8, 16, 32, 64];
/// The chance of calling two equal arms different, over all looks together.
pub const ALPHA: f64 = 0.05;
/// A block must show at least so many requests beyond the primary quantile, or the quantile is one request's luck.
pub const EXCEEDANCES_MIN: f64 = 50.0;
/// Of each block, from its start: connections, caches and the other arm's leftovers settle in it.
pub const DISCARD_SHARE: f64 = 0.15;
/// Pairs of baseline against baseline.
pub const AA_PAIRS: usize = 8;
/// With fewer the noise floor would be a guess.
pub const AA_PAIRS_MIN: usize = 4;
/// After a margin was refused, so many pairs describe the arms: an effect far beyond the noise shows in them, and no other
/// would in more.
pub const DESCRIPTIVE_PAIRS: usize = 16;
/// A margin is not widened beyond this (25 %): "equivalent" would say nothing.
pub const WIDENED_MARGIN_MAX: f64 = 0.25;
/// An arm that fails this share of its requests has no latency that is worth comparing.
pub const FAILED_SHARE_MAX: f64 = 0.5;
/// The candidate's error share may exceed the baseline's by this much (0.1 percentage points).
pub const ERROR_MARGIN: f64 = 0.001;
/// Of ranks against the mean, for normal differences (Hodges and Lehmann, 1956): what robustness costs at most here.
const RANK_EFFICIENCY: f64 = 3.0 / std::f64::consts::PI;

/// What a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    P50,
    P95,
    P99,
}

impl Metric {
    pub const ALL: [Self; 3] = [Self::P50, Self::P95, Self::P99];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == text)
    }

    pub fn quantile(self) -> f64 {
        match self {
            Self::P50 => 0.50,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }

    /// The change that is too small to matter, as a share.
    pub fn margin(self) -> f64 {
        match self {
            Self::P50 => 0.03,
            Self::P95 | Self::P99 => 0.05,
        }
    }
}

/// A checked design.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Design {
    pub primary: Metric,
    /// Of the primary metric, as a share: 0.05 is 5 %.
    pub margin: f64,
    /// The A/A run may widen the margin to one that these pairs can answer, up to [`WIDENED_MARGIN_MAX`].
    #[serde(default)]
    pub widens: bool,
    pub alpha: f64,
    /// Rising; the last one is the most pairs.
    pub looks: Vec<usize>,
    /// 0 leaves the A/A run out, and with it the noise floor.
    pub aa_pairs: usize,
    pub per_second: f64,
    /// A whole block, with its discarded part.
    pub block: Duration,
    pub seed: u64,
}

/// Why a design cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DesignError {
    #[error("a rate of {0} requests per second is no traffic")]
    Rate(f64),
    #[error(
        "a block of {block_s:.1} s at {per_second:.0}/s leaves {have:.0} requests after the discarded {discard:.0} %, and {metric} needs {need:.0} ({EXCEEDANCES_MIN} beyond it): make the block {block_needed_s:.1} s, raise the rate, or take a lower primary quantile",
        discard = DISCARD_SHARE * 100.0
    )]
    BlockTooShort { block_s: f64, per_second: f64, have: f64, need: f64, metric: &'static str, block_needed_s: f64 },
    #[error("{0} pairs: a verdict can be given after {LOOKS:?}, so the most pairs must be one of these")]
    Pairs(usize),
    #[error("{0} A/A pairs: there may be none, or from {AA_PAIRS_MIN} to 64")]
    AaPairs(usize),
    #[error("a margin of {0} must lie above 0 and at most be 1 (100 %)")]
    Margin(f64),
}

impl Design {
    /// Blocks as short as the primary metric allows.
    pub fn new(primary: Metric, per_second: f64, pairs_max: usize, seed: u64) -> Result<Self, DesignError> {
        if !(per_second.is_finite() && per_second > 0.0) {
            return Err(DesignError::Rate(per_second));
        }
        if !LOOKS.contains(&pairs_max) {
            return Err(DesignError::Pairs(pairs_max));
        }
        let looks = LOOKS.into_iter().filter(|look| *look <= pairs_max).collect();
        let block = Duration::from_secs_f64(block_seconds(primary, per_second));
        Ok(Self {
            primary,
            margin: primary.margin(),
            widens: false,
            alpha: ALPHA,
            looks,
            aa_pairs: AA_PAIRS,
            per_second,
            block,
            seed,
        })
    }

    pub fn check(&self) -> Result<(), DesignError> {
        check_block(self.primary, self.per_second, self.block)?;
        if self.aa_pairs != 0 && !(AA_PAIRS_MIN..=64).contains(&self.aa_pairs) {
            return Err(DesignError::AaPairs(self.aa_pairs));
        }
        if !(self.margin > 0.0 && self.margin <= 1.0) {
            return Err(DesignError::Margin(self.margin));
        }
        Ok(())
    }

    pub fn pairs_max(&self) -> usize {
        self.looks.last().copied().unwrap_or_default()
    }

    /// The pairs after which the arms are described, if the margin was refused.
    pub fn pairs_described(&self) -> usize {
        let within = self.looks.iter().copied().take_while(|look| *look <= DESCRIPTIVE_PAIRS).last();
        within.or(self.looks.first().copied()).unwrap_or_default()
    }

    /// The error that one look may have: alpha shared out evenly (Bonferroni), which holds whatever the dependence of
    /// the looks.
    pub fn alpha_per_look(&self) -> f64 {
        self.alpha / self.looks.len().max(1) as f64
    }

    /// The margin as a difference of logarithms. The smaller side, `ln(1 + m)`, counts for both.
    pub fn margin_log(&self) -> f64 {
        self.margin.ln_1p()
    }

    /// If nothing is voided and no look stops it.
    pub fn longest(&self) -> Duration {
        self.block * 2 * u32::try_from(self.aa_pairs + self.pairs_max()).unwrap_or(u32::MAX)
    }

    /// What both blocks of a pair are. `phase` keeps A/A and A/B apart.
    pub fn spec(&self, phase: Phase, pair: usize) -> BlockSpec {
        let seed = Rng::stream(self.seed, (pair as u64) << 2 | phase as u64).next_u64();
        BlockSpec {
            seed,
            per_second: self.per_second,
            duration: self.block,
            discard: self.block.mul_f64(DISCARD_SHARE),
        }
    }

    /// Whether the second one of a pair goes first: a fair coin, which is what the test's exactness stands on.
    pub fn swapped(&self, phase: Phase, pair: usize) -> bool {
        Rng::stream(self.seed ^ 0x0c01_0ff1, (pair as u64) << 2 | phase as u64).coin()
    }

    /// Half the width that the interval will have at the last look, if pairs of equal arms differ by this standard
    /// deviation (of logarithms). A margin below it cannot be answered with these pairs.
    pub fn floor(&self, deviation: f64) -> f64 {
        normal::quantile(1.0 - self.alpha_per_look() / 2.0) * self.error_at(self.pairs_max(), deviation)
    }

    /// The margin (of logarithms) within which the last look finds equal arms with a chance of 90 % by the normal
    /// approximation; somewhat less often where the deviation is itself a guess from a few pairs.
    pub fn answerable(&self, deviation: f64) -> f64 {
        // Both ends of the interval must lie inside, so each side has a twentieth.
        let width = normal::quantile(1.0 - self.alpha_per_look() / 2.0) + normal::quantile(0.95);
        width * self.error_at(self.pairs_max(), deviation)
    }

    /// The chance that the last look alone sees a shift of `effect` (of logarithms), by the normal approximation: a
    /// lower bound for the whole experiment, which may also see it earlier.
    pub fn power(&self, effect: f64, deviation: f64) -> f64 {
        let distance = effect.abs() / self.error_at(self.pairs_max(), deviation).max(1e-12);
        normal::cdf(distance - normal::quantile(1.0 - self.alpha_per_look() / 2.0))
    }

    /// The shift that the last look sees with a chance of 80 %.
    pub fn detectable(&self, deviation: f64) -> f64 {
        let width = normal::quantile(1.0 - self.alpha_per_look() / 2.0) + normal::quantile(0.8);
        width * self.error_at(self.pairs_max(), deviation)
    }

    fn error_at(&self, pairs: usize, deviation: f64) -> f64 {
        deviation / (pairs.max(1) as f64 * RANK_EFFICIENCY).sqrt()
    }
}

/// Baseline against itself, or against the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Aa = 1,
    Ab = 2,
}

/// Whether a block, after its discarded part, shows enough requests beyond the quantile.
pub fn check_block(metric: Metric, per_second: f64, block: Duration) -> Result<(), DesignError> {
    let block_s = block.as_secs_f64();
    let have = block_s * (1.0 - DISCARD_SHARE) * per_second;
    let need = requests_needed(metric);
    // A Poisson count is a little below its mean half of the time; that is no reason to refuse.
    if have >= need * 0.999 {
        return Ok(());
    }
    let block_needed_s = block_seconds(metric, per_second);
    Err(DesignError::BlockTooShort { block_s, per_second, have, need, metric: metric.as_str(), block_needed_s })
}

fn requests_needed(metric: Metric) -> f64 {
    EXCEEDANCES_MIN / (1.0 - metric.quantile())
}

/// Below it the start of the connections is most of a block.
const BLOCK_MIN: Duration = Duration::from_secs(1);

/// The block for those who name no length: as short as the quantile allows.
pub fn shortest_block(metric: Metric, per_second: f64) -> Duration {
    Duration::from_secs_f64(block_seconds(metric, per_second)).max(BLOCK_MIN)
}

/// The shortest block with enough requests, rounded up to a tenth of a second.
fn block_seconds(metric: Metric, per_second: f64) -> f64 {
    let seconds = requests_needed(metric) / per_second / (1.0 - DISCARD_SHARE);
    (seconds * 10.0).ceil() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_long_as_the_quantile_needs() {
        let p99 = Design::new(Metric::P99, 1000.0, 64, 1).expect("a design");
        assert_eq!(p99.block, Duration::from_millis(5900));
        p99.check().expect("long enough");
        let short = Design { block: Duration::from_secs(2), ..p99 };
        let error = short.check().expect_err("too short").to_string();
        assert!(error.contains("p99 needs 5000") && error.contains("5.9 s"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        assert_eq!(Design::new(Metric::P50, 100.0, 10, 1), Err(DesignError::Pairs(10)));
        assert_eq!(Design::new(Metric::P50, 0.0, 8, 1), Err(DesignError::Rate(0.0)));
        let design = Design::new(Metric::P50, 100.0, 8, 1).expect("a design");
        assert_eq!(Design { aa_pairs: 3, ..design.clone() }.check(), Err(DesignError::AaPairs(3)));
        assert_eq!(Design { margin: 0.0, ..design }.check(), Err(DesignError::Margin(0.0)));
    }

    #[test]
    fn alpha_is_shared_by_the_looks_that_there_are() {
        let design = |pairs| Design::new(Metric::P50, 100.0, pairs, 1).expect("a design");
        assert_eq!(design(64).alpha_per_look(), 0.0125);
        assert_eq!((design(8).looks, design(16).alpha_per_look()), (vec![8], 0.025));
    }

    #[test]
    fn pairs_share_a_schedule_and_orders_are_mixed() {
        let design = Design::new(Metric::P50, 100.0, 64, 1).expect("a design");
        assert_eq!(design.spec(Phase::Ab, 3), design.spec(Phase::Ab, 3));
        assert_ne!(design.spec(Phase::Ab, 3).seed, design.spec(Phase::Ab, 4).seed);
        assert_ne!(design.spec(Phase::Ab, 3).seed, design.spec(Phase::Aa, 3).seed);
        let swapped = (0..64).filter(|pair| design.swapped(Phase::Ab, *pair)).count();
        assert!((16..=48).contains(&swapped), "{swapped}");
    }
}
