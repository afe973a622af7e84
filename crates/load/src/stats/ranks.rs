//! The sign-flip test on ranks (Wilcoxon, 1945), and the estimate and interval that belong to it (Hodges and Lehmann,
//! 1963).
//!
//! Under the hypothesis that the arms do not differ, the difference of a pair is as likely `+d` as `-d`: the arms could
//! have been swapped, and by a coin they were. So the distribution of any function of the signs is known exactly. Of
//! ranks it is the same for all data, which makes it cheap to have for any number of pairs, and one pair with a stall in
//! it weighs no more than any other.

use super::{Estimate, median_sorted};

/// The two-sided probability, when nothing differs, of ranks as uneven as these.
///
/// Exact, also with ties, which get the mean of their ranks. Pairs without a difference say nothing and are left out;
/// without any other pair the answer is 1. Cost: O(n^3) for n pairs, a few hundred thousand additions at 64.
pub fn p_value(differences: &[f64]) -> f64 {
    let Some(doubled) = doubled_ranks(differences) else { return 1.0 };
    let total: usize = doubled.iter().map(|(rank, _)| rank).sum();
    let positive: usize = doubled.iter().filter(|(_, positive)| *positive).map(|(rank, _)| rank).sum();
    let smaller = positive.min(total - positive);
    let ways = sums(doubled.iter().map(|(rank, _)| *rank), total);
    let tail: f64 = ways.iter().take(smaller + 1).sum();
    (2.0 * tail).min(1.0)
}

/// Twice the mean rank of each difference by size, so that ties stay whole numbers, and whether it is positive.
fn doubled_ranks(differences: &[f64]) -> Option<Vec<(usize, bool)>> {
    let mut sorted: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0 && d.is_finite()).collect();
    sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let mut ranks = Vec::with_capacity(sorted.len());
    let mut start = 0;
    for tied in sorted.chunk_by(|a, b| a.abs() == b.abs()) {
        let end = start + tied.len();
        ranks.extend(tied.iter().map(|d| (start + 1 + end, *d > 0.0)));
        start = end;
    }
    (!ranks.is_empty()).then_some(ranks)
}

/// The probability of each sum, when each rank is taken or not by a fair coin.
fn sums(ranks: impl Iterator<Item = usize>, total: usize) -> Vec<f64> {
    let mut ways = vec![0.0; total + 1];
    ways[0] = 1.0;
    for rank in ranks {
        for sum in (0..=total).rev() {
            let with = sum.checked_sub(rank).map_or(0.0, |without| ways[without]);
            ways[sum] = (ways[sum] + with) / 2.0;
        }
    }
    ways
}

/// The median of all means of two differences (each with itself too), and every shift that [`p_value`] does not reject
/// at `alpha`, two-sided.
///
/// The interval covers the true shift with probability at least `1 - alpha`, exactly, if the differences are symmetric
/// about it. An end is infinite where even the most uneven ranks are not rare enough: below 6 pairs at 5 %, below 8 at
/// 1.25 %. `None` without a finite difference.
pub fn hodges_lehmann(differences: &[f64], alpha: f64) -> Option<Estimate> {
    let finite: Vec<f64> = differences.iter().copied().filter(|d| d.is_finite()).collect();
    let n = finite.len();
    let mut means = Vec::with_capacity(n * (n + 1) / 2);
    for (at, a) in finite.iter().enumerate() {
        means.extend(finite.iter().skip(at).map(|b| (a + b) / 2.0));
    }
    means.sort_by(f64::total_cmp);
    let value = median_sorted(&means)?;
    let cut = critical(n, alpha);
    let ends = cut.and_then(|cut| Some((*means.get(cut)?, *means.get(means.len().checked_sub(cut + 1)?)?)));
    let (low, high) = ends.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    Some(Estimate { value, low, high })
}

/// The largest sum of ranks that is rejected: how many means are cut off at each end.
fn critical(n: usize, alpha: f64) -> Option<usize> {
    let total = n * (n + 1) / 2;
    let mut tail = 0.0;
    let below = sums(1..=n, total).into_iter().take_while(|ways| {
        tail += *ways;
        2.0 * tail <= alpha
    });
    // The shift at the k-th mean has k means below it, so a sum of k - 1 is still rejected there.
    let rejected = below.count();
    (rejected > 0).then(|| rejected - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Rng;

    #[test]
    fn eight_pairs_of_one_sign_are_as_rare_as_two_in_256() {
        let all = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
        assert!((p_value(&all) - 2.0 / 256.0).abs() < 1e-15);
        assert!((p_value(&all.map(|d| -d)) - 2.0 / 256.0).abs() < 1e-15);
        assert_eq!(p_value(&[]), 1.0);
        assert_eq!(p_value(&[0.0, 0.0]), 1.0);
    }

    #[test]
    fn it_agrees_with_counting_every_flip_also_with_ties() {
        let mut rng = Rng::new(5);
        for round in 0..40 {
            let n = 3 + round % 8;
            let differences: Vec<f64> = (0..n).map(|_| (rng.normal() * 4.0).round() / 4.0 + 0.1).collect();
            let ranks = doubled_ranks(&differences).expect("differences");
            let total: usize = ranks.iter().map(|(rank, _)| rank).sum();
            let uneven = |sum: usize| sum.min(total - sum);
            let seen = uneven(ranks.iter().filter(|(_, up)| *up).map(|(rank, _)| rank).sum());
            let as_uneven = (0..1usize << n).filter(|flips| {
                let sum =
                    ranks.iter().enumerate().filter(|(at, _)| flips >> at & 1 == 1).map(|(_, (rank, _))| rank).sum();
                uneven(sum) <= seen
            });
            let counted = as_uneven.count() as f64 / (1usize << n) as f64;
            assert!((p_value(&differences) - counted).abs() < 1e-12, "{differences:?}");
        }
    }

    /// Published critical values (two-sided): n = 8 at 5 %: 3; n = 10 at 5 %: 8; n = 16 at 5 %: 29; n = 25 at 1 %: 68.
    #[test]
    fn the_critical_values_are_the_published_ones() {
        assert_eq!(critical(8, 0.05), Some(3));
        assert_eq!(critical(10, 0.05), Some(8));
        assert_eq!(critical(16, 0.05), Some(29));
        assert_eq!(critical(25, 0.01), Some(68));
        assert_eq!(critical(8, 0.0125), Some(0));
        assert_eq!(critical(7, 0.0125), None);
    }

    #[test]
    fn the_interval_holds_the_shifts_that_the_test_does_not_reject() {
        let mut rng = Rng::new(9);
        for n in [8, 11, 16] {
            let differences: Vec<f64> = (0..n).map(|_| 0.3 + rng.normal()).collect();
            let got = hodges_lehmann(&differences, 0.05).expect("an estimate");
            let p_at = |shift: f64| p_value(&differences.iter().map(|d| d - shift).collect::<Vec<_>>());
            let step = 1e-9;
            assert!(p_at(got.low - step) <= 0.05 && p_at(got.low + step) > 0.05, "{n}: {got:?}");
            assert!(p_at(got.high + step) <= 0.05 && p_at(got.high - step) > 0.05, "{n}: {got:?}");
            assert!(got.low < got.value && got.value < got.high);
        }
    }

    #[test]
    fn too_few_pairs_leave_the_ends_open() {
        let got = hodges_lehmann(&[0.1, 0.2, 0.3], 0.05).expect("an estimate");
        assert_eq!((got.value, got.low, got.high), (0.2, f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(hodges_lehmann(&[], 0.05), None);
    }

    #[test]
    fn one_stall_does_not_carry_the_estimate_away() {
        let mut differences = vec![0.01; 15];
        differences.push(3.0);
        let got = hodges_lehmann(&differences, 0.05).expect("an estimate");
        assert!((got.value - 0.01).abs() < 1e-12 && got.high < 0.02, "{got:?}");
    }
}
