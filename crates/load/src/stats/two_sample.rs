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

/// The two-sided probability, when nothing differs, of two samples as far apart as these. Equal values count half each way;
/// with them the answer is a little too large, never too small. 1 if a sample is empty.
pub fn p_value(earlier: &[f64], later: &[f64]) -> f64 {
    let halves: usize = earlier
        .iter()
        .flat_map(|a| later.iter().map(move |b| a.total_cmp(b)))
        .map(|order| match order {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => 1,
            std::cmp::Ordering::Greater => 2,
        })
        .sum();
    let whole = 2 * earlier.len() * later.len();
    let fewer = halves.min(whole - halves).div_ceil(2);
    let tail: f64 = inversions(earlier.len(), later.len()).iter().take(fewer + 1).sum();
    (2.0 * tail).min(1.0)
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
    fn the_probability_agrees_with_the_critical_values_and_bears_ties() {
        let later: Vec<f64> = (5..13).map(f64::from).collect();
        // One of the earlier above all eight of the later, another above so many of them.
        let p = |above: f64| p_value(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 4.5 + above, 20.0], &later);
        assert!((p_value(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], &later) - 2.0 / 12_870.0).abs() < 1e-9);
        // 8 and 5 are the 13 of the table, the last that is rejected.
        assert!(p(5.0) <= 0.05 && p(6.0) > 0.05, "{} {}", p(5.0), p(6.0));
        let none = [0.0; 8];
        assert_eq!((p_value(&none, &none), p_value(&[], &none)), (1.0, 1.0));
        assert!(p_value(&none, &[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) < 0.05);
        assert!(p_value(&none, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) > 0.5);
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
