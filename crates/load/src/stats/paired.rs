//! The sign-flip test on the mean (Fisher, 1935), for what adds up: requests per second, milliseconds of a category.
//!
//! The mean is the right middle for parts that must sum to a whole; ranks would lose the sum. It pays with
//! sensitivity to a single wild pair, which is why quantiles are compared by [`super::ranks`].

use super::{Estimate, Rng, mean};

/// Up to here every assignment of signs is counted, about a million.
pub const EXACT_PAIRS_MAX: usize = 20;
/// Above it, this many are drawn. The smallest p that can come out is 1 in 10,000, far below any alpha in use here.
const DRAWS: usize = 9_999;

/// The two-sided probability, when nothing differs, of a mean as far from 0 as this one.
///
/// Exact up to [`EXACT_PAIRS_MAX`] pairs. Above, a seeded Monte Carlo whose own assignment counts as one draw, so that
/// the test keeps its alpha exactly (Phipson and Smyth, 2010).
pub fn p_value(differences: &[f64], seed: u64) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // Sums in another order differ in the last bits; what is equal must count as equal.
    let slack = differences.iter().map(|d| d.abs()).sum::<f64>() * 1e-12;
    let reached = |sum: f64| sum.abs() >= observed - slack;
    let n = differences.len();
    if n == 0 {
        return 1.0;
    }
    if n <= EXACT_PAIRS_MAX {
        let mut hits = 0usize;
        each_subset_sum(differences, |subset| {
            hits += usize::from(reached(differences.iter().sum::<f64>() - 2.0 * subset))
        });
        return hits as f64 / (1usize << n) as f64;
    }
    let mut rng = Rng::new(seed);
    let mut draw = || differences.iter().map(|d| if rng.coin() { *d } else { -d }).sum::<f64>();
    let hits = (0..DRAWS).filter(|_| reached(draw())).count();
    (hits + 1) as f64 / (DRAWS + 1) as f64
}

/// Visits the sum of every subset, the empty one too. A Gray code changes one member at a time, so each costs one
/// addition.
fn each_subset_sum(values: &[f64], mut visit: impl FnMut(f64)) {
    let mut sum = 0.0;
    visit(sum);
    for step in 1..1usize << values.len() {
        let bit = step.trailing_zeros() as usize;
        let joins = (step ^ (step >> 1)) >> bit & 1 == 1;
        let value = values.get(bit).copied().unwrap_or_default();
        sum += if joins { value } else { -value };
        visit(sum);
    }
}

/// The mean, and every shift that the test does not reject at `alpha`.
///
/// Inverting the test gives order statistics of the means of subsets (Hartigan, 1969): all subsets up to 16 pairs,
/// seeded random ones above. `None` without a difference; open ends where no assignment is rare enough.
pub fn mean_interval(differences: &[f64], alpha: f64, seed: u64) -> Option<Estimate> {
    /// All 65,535 subsets' means are sorted; above, as many are drawn as the test draws.
    const ALL_SUBSETS_MAX: usize = 16;
    let value = mean(differences)?;
    let n = differences.len();
    let mut means = Vec::new();
    if n <= ALL_SUBSETS_MAX {
        means.reserve(1 << n);
        for members in 1..1usize << n {
            let chosen = differences.iter().enumerate().filter(|(at, _)| members >> at & 1 == 1);
            means.push(chosen.map(|(_, d)| d).sum::<f64>() / f64::from(members.count_ones()));
        }
    } else {
        let mut rng = Rng::new(seed);
        while means.len() < DRAWS {
            let chosen: Vec<f64> = differences.iter().copied().filter(|_| rng.coin()).collect();
            means.extend(mean(&chosen));
        }
    }
    means.sort_by(f64::total_cmp);
    // With the given assignment itself there are one more; a tail of k of them has probability k / (len + 1).
    let cut = (alpha / 2.0 * (means.len() + 1) as f64).floor() as usize;
    let open = Estimate { value, low: f64::NEG_INFINITY, high: f64::INFINITY };
    let Some(from) = cut.checked_sub(1) else { return Some(open) };
    let high = means.len().checked_sub(cut).and_then(|at| means.get(at));
    Some(Estimate { value, low: *means.get(from)?, high: *high? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_samples_are_counted_out() {
        let all = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(p_value(&all, 0), 2.0 / 256.0);
        // Of the four assignments of (3, 1), sums are 4, 2, -2, -4: two reach 4, all reach 2.
        assert_eq!(p_value(&[3.0, 1.0], 0), 0.5);
        assert_eq!(p_value(&[3.0, -1.0], 0), 1.0);
        assert_eq!(p_value(&[], 0), 1.0);
    }

    #[test]
    fn the_drawn_test_agrees_with_the_counted_one() {
        let mut rng = Rng::new(4);
        let few: Vec<f64> = (0..20).map(|_| 0.4 + rng.normal()).collect();
        let counted = p_value(&few, 0);
        // Two pairs with no difference change nothing but the way of counting.
        let mut many = few;
        many.extend([0.0, 0.0]);
        let drawn = p_value(&many, 1);
        assert!((counted - drawn).abs() < 4.0 * (counted / DRAWS as f64).sqrt(), "{counted} {drawn}");
        assert_eq!(drawn, p_value(&many, 1));
    }

    #[test]
    fn the_interval_holds_what_the_test_does_not_reject() {
        let mut rng = Rng::new(6);
        let differences: Vec<f64> = (0..10).map(|_| 1.0 + rng.normal()).collect();
        let got = mean_interval(&differences, 0.05, 0).expect("an interval");
        let p_at = |shift: f64| p_value(&differences.iter().map(|d| d - shift).collect::<Vec<_>>(), 0);
        let step = 1e-7;
        assert!(p_at(got.low - step) <= 0.05 && p_at(got.low + step) > 0.05, "{got:?} {}", p_at(got.low + step));
        assert!(p_at(got.high + step) <= 0.05 && p_at(got.high - step) > 0.05, "{got:?}");
        assert_eq!(mean_interval(&[1.0, 2.0], 0.05, 0).expect("an interval").low, f64::NEG_INFINITY);
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut rng = Rng::new(8);
        let missed = (0..150).filter(|seed| {
            let differences: Vec<f64> = (0..24).map(|_| 0.5 + rng.normal()).collect();
            mean_interval(&differences, 0.10, *seed).expect("an interval").excludes(0.5)
        });
        // 150 x 10 % and three standard errors of 3.7.
        assert!(missed.count() <= 26);
    }
}
