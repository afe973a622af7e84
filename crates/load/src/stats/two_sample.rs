//! Two samples that are not paired: a baseline measured last week against one measured now.
//!
//! Pairing is what takes the machine's drift out of a comparison. Here it stays in, so this serves where pairs cannot be
//! had, with a wider margin, and never for an A/B.

use super::{Estimate, median_sorted};

/// The median of all differences `later - earlier`, and every shift that the rank-sum test (Mann and Whitney, 1947) does
/// not reject at `alpha`, two-sided. Exact without ties; `None` if a sample is empty; open ends where the samples are too
/// small, as 3 and 3 at 5 %.
pub fn shift(earlier: &[f64], later: &[f64], alpha: f64) -> Option<Estimate> {
    let mut differences: Vec<f64> = earlier.iter().flat_map(|a| later.iter().map(move |b| b - a)).collect();
    differences.sort_by(f64::total_cmp);
    let value = median_sorted(&differences)?;
    let open = Estimate { value, low: f64::NEG_INFINITY, high: f64::INFINITY };
    let Some(cut) = critical(earlier.len(), later.len(), alpha) else { return Some(open) };
    let high = differences.len().checked_sub(cut + 1).and_then(|at| differences.get(at));
    Some(Estimate { value, low: *differences.get(cut)?, high: *high? })
}

/// The largest count of inversions that is rejected.
fn critical(a: usize, b: usize, alpha: f64) -> Option<usize> {
    let mut tail = 0.0;
    let rejected = inversions(a, b)
        .into_iter()
        .take_while(|ways| {
            tail += ways;
            2.0 * tail <= alpha
        })
        .count();
    rejected.checked_sub(1)
}

/// The probability of each count of pairs (one of each sample) that are in the unlikelier order, if all orders are
/// equally likely. `by[j]` holds the distribution for `i` of the first and `j` of the second sample.
fn inversions(a: usize, b: usize) -> Vec<f64> {
    let mut by: Vec<Vec<f64>> = vec![vec![1.0]; b + 1];
    for i in 1..=a {
        for j in 1..=b {
            // The greatest of all is of the first sample, above j of the second, or of the second.
            let from_first = i as f64 / (i + j) as f64;
            let mut ways = vec![0.0; i * j + 1];
            for (count, p) in by[j].iter().enumerate() {
                ways[count + j] += p * from_first;
            }
            for (count, p) in by[j - 1].iter().enumerate() {
                ways[count] += p * (1.0 - from_first);
            }
            by[j] = ways;
        }
    }
    by.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Rng;

    /// Published critical values of U, two-sided at 5 %: 4 and 4: 0; 5 and 5: 2; 8 and 8: 13; 10 and 7: 14.
    #[test]
    fn the_critical_values_are_the_published_ones() {
        assert_eq!(critical(4, 4, 0.05), Some(0));
        assert_eq!(critical(5, 5, 0.05), Some(2));
        assert_eq!(critical(8, 8, 0.05), Some(13));
        assert_eq!(critical(10, 7, 0.05), Some(14));
        assert_eq!(critical(3, 3, 0.05), None);
        assert!((inversions(5, 6).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn it_finds_a_shift_and_covers_it() {
        let mut rng = Rng::new(2);
        let mut draw = |middle: f64| (0..8).map(|_| middle + rng.normal()).collect::<Vec<_>>();
        let missed = (0..400).filter(|_| shift(&draw(0.0), &draw(3.0), 0.05).expect("a shift").excludes(3.0)).count();
        assert!(missed <= 33, "{missed}");
        assert!(shift(&[], &[1.0], 0.05).is_none());
    }
}
