//! Which pairs are void: rules that are set before the first pair and do not know the arms.
//!
//! A rule that looked at the latency, or at one arm alone, would choose the answer. These look at the machine and at the
//! sender, over both blocks of a pair together; the pair is kept or voided as a whole.

use serde::{Deserialize, Serialize};

use crate::ab::arms::Block;
use crate::stats::median;

/// Never void below this: CPU time that the hypervisor gave to others.
pub const STEAL_SHARE_MAX: f64 = 0.02;
/// Never void below this: time in which some task waited for a CPU.
pub const PRESSURE_SHARE_MAX: f64 = 0.20;
/// Never void below this: the arms' own threads switch too.
pub const SWITCHES_PER_SECOND_MAX: f64 = 500.0;
/// Never void below this share of the pair's smaller median.
pub const LAG_SHARE_MAX: f64 = 0.05;
/// Where the machine is noisy all the time, a pair is void only if it is this much noisier than the A/A run's middle: the
/// rest is in the noise floor, which says what can still be told.
pub const OVER_USUAL: f64 = 3.0;

/// The worse block's figures of one pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairNoise {
    pub lag_p99_ms: f64,
    pub median_ms: f64,
    pub steal_share: Option<f64>,
    pub pressure_share: Option<f64>,
    pub involuntary_switches_per_second: Option<f64>,
}

impl PairNoise {
    pub fn of(one: &Block, other: &Block) -> Self {
        let (a, b) = (&one.noise, &other.noise);
        let median_ms = |block: &Block| block.quantile_ns(0.5).map(|ns| ns / 1e6);
        Self {
            lag_p99_ms: a.lag_p99_ns.max(b.lag_p99_ns) as f64 / 1e6,
            // A block without an answer has no median, and must not make the other one's lag look large.
            median_ms: median_ms(one).into_iter().chain(median_ms(other)).reduce(f64::min).unwrap_or_default(),
            steal_share: worse(a.steal_share, b.steal_share),
            pressure_share: worse(a.pressure_share, b.pressure_share),
            involuntary_switches_per_second: worse(
                a.involuntary_switches_per_second,
                b.involuntary_switches_per_second,
            ),
        }
    }
}

fn worse(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The bounds of one experiment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    pub steal_share_max: f64,
    pub pressure_share_max: f64,
    pub switches_per_second_max: f64,
    /// At least this, and at least [`LAG_SHARE_MAX`] of the pair's median.
    pub lag_ms_max: f64,
}

impl Rules {
    /// From what the A/A run saw; without one, the fixed bounds alone.
    pub fn from_usual(seen: &[PairNoise]) -> Self {
        let usual = |of: &dyn Fn(&PairNoise) -> Option<f64>| {
            OVER_USUAL * median(&seen.iter().filter_map(of).collect::<Vec<_>>()).unwrap_or_default()
        };
        Self {
            steal_share_max: usual(&|noise| noise.steal_share).max(STEAL_SHARE_MAX),
            pressure_share_max: usual(&|noise| noise.pressure_share).max(PRESSURE_SHARE_MAX),
            switches_per_second_max: usual(&|noise| noise.involuntary_switches_per_second).max(SWITCHES_PER_SECOND_MAX),
            lag_ms_max: usual(&|noise| Some(noise.lag_p99_ms)),
        }
    }

    /// A sentence for each rule that the pair breaks; none, and it counts.
    pub fn broken(&self, pair: &PairNoise) -> Vec<String> {
        let mut broken = Vec::new();
        let mut share = |value: Option<f64>, max: f64, what: &str| {
            if let Some(value) = value.filter(|value| *value > max) {
                broken.push(format!("{what} {:.1} % is above {:.1} %", value * 100.0, max * 100.0));
            }
        };
        share(pair.steal_share, self.steal_share_max, "steal");
        share(pair.pressure_share, self.pressure_share_max, "CPU pressure");
        let switches = pair.involuntary_switches_per_second.filter(|value| *value > self.switches_per_second_max);
        if let Some(switches) = switches {
            let max = self.switches_per_second_max;
            broken.push(format!("the sender was switched away {switches:.0} times a second, above {max:.0}"));
        }
        let lag_max = self.lag_ms_max.max(LAG_SHARE_MAX * pair.median_ms);
        if pair.lag_p99_ms > lag_max {
            broken.push(format!("sender lag p99 {:.3} ms is above {lag_max:.3} ms", pair.lag_p99_ms));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> PairNoise {
        PairNoise {
            lag_p99_ms: 0.05,
            median_ms: 2.0,
            steal_share: Some(0.0),
            pressure_share: Some(0.05),
            ..PairNoise::default()
        }
    }

    #[test]
    fn a_quiet_pair_counts_and_a_disturbed_one_does_not() {
        let rules = Rules::from_usual(&[quiet(); 8]);
        assert_eq!(rules.broken(&quiet()), Vec::<String>::new());
        let stolen = PairNoise { steal_share: Some(0.05), lag_p99_ms: 4.0, ..quiet() };
        let broken = rules.broken(&stolen);
        assert!(broken.len() == 2 && broken[0].starts_with("steal 5.0 %") && broken[1].contains("lag"), "{broken:?}");
    }

    #[test]
    fn a_machine_that_is_always_busy_voids_only_what_is_busier_still() {
        let busy = PairNoise { pressure_share: Some(0.30), lag_p99_ms: 0.5, ..quiet() };
        let rules = Rules::from_usual(&[busy; 8]);
        assert!(rules.broken(&busy).is_empty());
        assert_eq!(rules.broken(&PairNoise { pressure_share: Some(0.95), ..busy }).len(), 1);
    }

    #[test]
    fn the_arms_may_be_swapped_without_a_change() {
        let mut a = Block::default();
        a.noise.lag_p99_ns = 5;
        a.noise.steal_share = Some(0.1);
        let mut b = Block::default();
        b.noise.pressure_share = Some(0.2);
        assert_eq!(PairNoise::of(&a, &b), PairNoise::of(&b, &a));
    }
}
