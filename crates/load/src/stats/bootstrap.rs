//! The whole-block bootstrap: for a quantile so rare that one block cannot show it, such as p99.9.
//!
//! Requests of one block are not independent of each other (they queue behind each other), so requests must not be
//! resampled one by one: that would pretend to know far more than was seen. Whole pairs of blocks are.

use super::{Distribution, Estimate, Rng, quantile_sorted};

/// Enough that the interval's ends move by less than a tenth of its width from seed to seed.
const RESAMPLES: usize = 1000;

/// `ln(q_candidate / q_baseline)` of all blocks together, with the percentile interval over resampled pairs.
///
/// Approximate, unlike the tests: with few pairs it is too narrow. `None` below two pairs or without requests.
pub fn quantile_log_ratio(pairs: &[(&Distribution, &Distribution)], q: f64, alpha: f64, seed: u64) -> Option<Estimate> {
    if pairs.len() < 2 {
        return None;
    }
    let baseline = Tagged::new(pairs.iter().map(|(baseline, _)| *baseline));
    let candidate = Tagged::new(pairs.iter().map(|(_, candidate)| *candidate));
    let ratio = |weights: &[u64]| Some((candidate.quantile(q, weights)? / baseline.quantile(q, weights)?).ln());
    let value = ratio(&vec![1; pairs.len()])?;
    let mut rng = Rng::new(seed);
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut weights = vec![0; pairs.len()];
            for _ in 0..pairs.len() {
                if let Some(weight) = weights.get_mut(rng.below(pairs.len())) {
                    *weight += 1;
                }
            }
            ratio(&weights)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    Some(Estimate {
        value,
        low: quantile_sorted(&drawn, alpha / 2.0)?,
        high: quantile_sorted(&drawn, 1.0 - alpha / 2.0)?,
    })
}

/// The values of all blocks in falling order, each with its block: a resample only changes how often a block counts.
/// A high quantile is found after a walk over the few values above it.
struct Tagged {
    falling: Vec<(u64, u64, usize)>,
    counts: Vec<u64>,
}

impl Tagged {
    fn new<'a>(blocks: impl Iterator<Item = &'a Distribution>) -> Self {
        let (mut falling, mut counts) = (Vec::new(), Vec::new());
        for (block, distribution) in blocks.enumerate() {
            falling.extend(distribution.bins().iter().map(|(value, count)| (*value, *count, block)));
            counts.push(distribution.count());
        }
        falling.sort_unstable_by_key(|(value, ..)| std::cmp::Reverse(*value));
        Self { falling, counts }
    }

    fn quantile(&self, q: f64, weights: &[u64]) -> Option<f64> {
        let weight = |block: usize| weights.get(block).copied().unwrap_or_default();
        let total: u64 = self.counts.iter().enumerate().map(|(block, count)| count * weight(block)).sum();
        let rank = ((q * total as f64).ceil() as u64).max(1);
        let mut above = total.checked_sub(rank)?;
        let found = self.falling.iter().find(|(_, count, block)| {
            let count = count * weight(*block);
            let here = count > above;
            above = above.saturating_sub(count);
            here
        });
        found.map(|(value, ..)| (*value).max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(seed: u64, mean: f64) -> Vec<Distribution> {
        let mut rng = Rng::new(seed);
        let mut block = || Distribution::from_values((0..3000).map(|_| rng.exponential(mean) as u64));
        (0..16).map(|_| block()).collect()
    }

    #[test]
    fn the_quantile_of_tagged_values_is_that_of_the_merged_ones() {
        let blocks = blocks(1, 1e6);
        let tagged = Tagged::new(blocks.iter());
        let merged = Distribution::merged(&blocks);
        for q in [0.5, 0.99, 0.999, 1.0] {
            assert_eq!(tagged.quantile(q, &[1; 16]), merged.quantile(q).map(|value| value as f64));
        }
    }

    #[test]
    fn a_tail_that_doubled_is_seen() {
        let (a, b) = (blocks(1, 1e6), blocks(2, 2e6));
        let pairs: Vec<_> = a.iter().zip(&b).collect();
        let got = quantile_log_ratio(&pairs, 0.999, 0.05, 3).expect("an estimate");
        assert!(got.low < 2f64.ln() && got.high > 2f64.ln() && got.low > 0.3, "{got:?}");
        assert_eq!(Some(got), quantile_log_ratio(&pairs, 0.999, 0.05, 3));
        assert_eq!(quantile_log_ratio(&pairs[..1], 0.999, 0.05, 3), None);
    }
}
