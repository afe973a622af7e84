//! The Universal Scalability Law (Gunther, 1993): throughput at concurrency N is
//! `X(N) = lambda N / (1 + alpha (N - 1) + beta N (N - 1))`.
//!
//! lambda is what one in flight gets done, alpha the share that must queue for something shared, beta the price of
//! keeping N consistent with each other.

use serde::{Deserialize, Serialize};

use super::{Estimate, Rng, quantile_sorted};

/// Three unknowns; below twice as many points the residuals say nothing.
pub const POINTS_MIN: usize = 6;
/// Past the knee: this much more concurrency ...
const STEP_MIN: f64 = 1.4;
/// ... bought less than this much more throughput.
const FLAT_MAX: f64 = 1.05;
const RESAMPLES: usize = 500;

/// A measured point: mean concurrency and throughput in requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub concurrency: f64,
    pub per_second: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Law {
    pub lambda: f64,
    pub alpha: f64,
    pub beta: f64,
}

impl Law {
    pub fn per_second(self, concurrency: f64) -> f64 {
        let n = concurrency;
        self.lambda * n / (1.0 + self.alpha * (n - 1.0) + self.beta * n * (n - 1.0))
    }

    /// Where throughput is highest; `None` if it only flattens (no beta) and has no highest point.
    pub fn peak_concurrency(self) -> Option<f64> {
        (self.beta > 0.0).then(|| ((1.0 - self.alpha).max(0.0) / self.beta).sqrt().max(1.0))
    }
}

/// A fit with its intervals. The intervals are of the bootstrap's percentiles and approximate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    pub law: Law,
    pub lambda: Estimate,
    pub alpha: Estimate,
    pub beta: Estimate,
    /// The highest throughput up to the highest concurrency that was measured: no extrapolation beyond it.
    pub peak_per_second: Estimate,
    /// The concurrency of that throughput.
    pub peak_concurrency: f64,
    /// Root mean square of the relative residuals.
    pub residual: f64,
}

/// Why there is no fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    #[error(
        "{have} points were measured and the law has three unknowns: measure at {POINTS_MIN} different concurrencies or more"
    )]
    TooFewPoints { have: usize },
    #[error(
        "throughput still grows at concurrency {concurrency:.0} ({per_second:.0}/s): no point lies past the knee, and a fit would be a guess about what was not measured; raise the concurrency"
    )]
    NotPastTheKnee { concurrency: f64, per_second: f64 },
    #[error("a point has no throughput at concurrency {concurrency:.1}: the law cannot pass through it")]
    NoThroughput { concurrency: f64 },
    #[error(
        "the points do not follow the law: they miss it by {percent:.0} % on average; look for a cache, a limit or noise"
    )]
    DoesNotFit { percent: f64 },
}

/// Above this the law describes something else than this system.
const RESIDUAL_MAX: f64 = 0.20;

/// Fits the law, or says why it must not be fitted. `alpha_level` is the intervals' error, two-sided.
pub fn fit(points: &[Point], alpha_level: f64, seed: u64) -> Result<Fit, Refusal> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.concurrency.total_cmp(&b.concurrency));
    let mut distinct = sorted.clone();
    distinct.dedup_by(|a, b| (a.concurrency - b.concurrency).abs() < 1e-3 * b.concurrency);
    if distinct.len() < POINTS_MIN {
        return Err(Refusal::TooFewPoints { have: distinct.len() });
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if let Some(bad) = sorted.iter().find(|point| !positive(point.per_second) || !positive(point.concurrency)) {
        return Err(Refusal::NoThroughput { concurrency: bad.concurrency });
    }
    let last = sorted.last().copied().unwrap_or(Point { concurrency: 1.0, per_second: 1.0 });
    if !sorted.iter().any(|earlier| past_knee(*earlier, last)) {
        return Err(Refusal::NotPastTheKnee { concurrency: last.concurrency, per_second: last.per_second });
    }
    let law = solve(&sorted);
    let residuals: Vec<f64> =
        sorted.iter().map(|point| point.per_second / law.per_second(point.concurrency) - 1.0).collect();
    let residual = (residuals.iter().map(|r| r * r).sum::<f64>() / residuals.len() as f64).sqrt();
    if residual > RESIDUAL_MAX {
        return Err(Refusal::DoesNotFit { percent: residual * 100.0 });
    }
    let (peak_concurrency, peak) = peak(law, last.concurrency);
    let drawn = resampled(&sorted, law, &residuals, seed);
    let interval = |value: f64, of: &dyn Fn(Law) -> f64| {
        let mut values: Vec<f64> = drawn.iter().map(|law| of(*law)).collect();
        values.sort_by(f64::total_cmp);
        let at = |q: f64| quantile_sorted(&values, q).unwrap_or(value);
        Estimate { value, low: at(alpha_level / 2.0), high: at(1.0 - alpha_level / 2.0) }
    };
    Ok(Fit {
        law,
        lambda: interval(law.lambda, &|law| law.lambda),
        alpha: interval(law.alpha, &|law| law.alpha),
        beta: interval(law.beta, &|law| law.beta),
        peak_per_second: interval(peak, &|law| self::peak(law, last.concurrency).1),
        peak_concurrency,
        residual,
    })
}

/// Whether going from one measured point to the other bought next to nothing.
pub fn past_knee(earlier: Point, later: Point) -> bool {
    later.concurrency >= STEP_MIN * earlier.concurrency && later.per_second <= FLAT_MAX * earlier.per_second
}

fn peak(law: Law, measured_max: f64) -> (f64, f64) {
    let at = law.peak_concurrency().map_or(measured_max, |peak| peak.min(measured_max));
    (at, law.per_second(at))
}

/// Residuals are put back at random, widened for the three unknowns that they were fitted with.
fn resampled(points: &[Point], law: Law, residuals: &[f64], seed: u64) -> Vec<Law> {
    let n = residuals.len();
    let middle = residuals.iter().sum::<f64>() / n as f64;
    let widen = (n as f64 / (n as f64 - 3.0).max(1.0)).sqrt();
    let mut rng = Rng::new(seed);
    let mut redraw = |point: &Point| {
        let residual = (residuals.get(rng.below(n)).copied().unwrap_or_default() - middle) * widen;
        Point { per_second: law.per_second(point.concurrency) * (1.0 + residual).max(0.01), ..*point }
    };
    (0..RESAMPLES).map(|_| solve(&points.iter().map(&mut redraw).collect::<Vec<_>>())).collect()
}

/// Least squares of relative error. `N / X` is linear in `1/lambda`, `alpha/lambda` and `beta/lambda`, none of which may be
/// negative; with so few unknowns every choice of those that are 0 is tried, and the best one that keeps the signs wins.
fn solve(points: &[Point]) -> Law {
    let rows: Vec<([f64; 3], f64)> = points
        .iter()
        .map(|point| {
            let n = point.concurrency;
            let (y, x) = (n / point.per_second, [1.0, n - 1.0, n * (n - 1.0)]);
            (x.map(|x| x / y), 1.0)
        })
        .collect();
    let mut best: Option<(f64, [f64; 3])> = None;
    for used in [0b111u8, 0b011, 0b101, 0b001] {
        let Some(solution) = least_squares(&rows, used) else { continue };
        if solution[0] <= 0.0 || solution.iter().any(|value| *value < 0.0) {
            continue;
        }
        let error: f64 =
            rows.iter().map(|(x, y)| (x.iter().zip(&solution).map(|(x, c)| x * c).sum::<f64>() - y).powi(2)).sum();
        if best.is_none_or(|(least, _)| error < least) {
            best = Some((error, solution));
        }
    }
    let [one, alpha, beta] = best.map_or([1.0, 0.0, 0.0], |(_, solution)| solution);
    Law { lambda: 1.0 / one, alpha: alpha / one, beta: beta / one }
}

/// The normal equations of the columns in `used`, by Gaussian elimination with pivots; the others are 0.
fn least_squares(rows: &[([f64; 3], f64)], used: u8) -> Option<[f64; 3]> {
    let columns: Vec<usize> = (0..3).filter(|column| used >> column & 1 == 1).collect();
    let k = columns.len();
    let mut system = vec![vec![0.0; k + 1]; k];
    for (x, y) in rows {
        for (i, a) in columns.iter().enumerate() {
            for (j, b) in columns.iter().enumerate() {
                system[i][j] += x[*a] * x[*b];
            }
            system[i][k] += x[*a] * y;
        }
    }
    for at in 0..k {
        let pivot = (at..k).max_by(|a, b| system[*a][at].abs().total_cmp(&system[*b][at].abs()))?;
        system.swap(at, pivot);
        if system[at][at].abs() < 1e-300 {
            return None;
        }
        let above = system[at].clone();
        for row in system.iter_mut().skip(at + 1) {
            let factor = row[at] / above[at];
            row.iter_mut().zip(&above).for_each(|(value, above)| *value -= factor * above);
        }
    }
    let mut solution = [0.0; 3];
    for at in (0..k).rev() {
        let known: f64 = (at + 1..k).map(|j| system[at][j] * solution[columns[j]]).sum();
        solution[columns[at]] = (system[at][k] - known) / system[at][at];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE: Law = Law { lambda: 1000.0, alpha: 0.03, beta: 0.0005 };

    fn points(concurrencies: &[f64], noise: f64) -> Vec<Point> {
        let mut rng = Rng::new(11);
        let mut at = |n: f64| Point { concurrency: n, per_second: TRUE.per_second(n) * (1.0 + noise * rng.normal()) };
        concurrencies.iter().map(|n| at(*n)).collect()
    }

    const SWEEP: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 96.0];

    #[test]
    fn it_finds_the_law_that_made_the_points() {
        let fit = fit(&points(&SWEEP, 0.0), 0.05, 1).expect("a fit");
        assert!((fit.law.lambda - 1000.0).abs() < 1e-6 && (fit.law.alpha - 0.03).abs() < 1e-9, "{fit:?}");
        assert!((fit.peak_concurrency - (0.97f64 / 0.0005).sqrt()).abs() < 1e-6, "{fit:?}");
    }

    #[test]
    fn with_noise_the_intervals_hold_the_truth() {
        let fit = fit(&points(&SWEEP, 0.02), 0.05, 1).expect("a fit");
        for (estimate, truth) in [(fit.lambda, 1000.0), (fit.alpha, 0.03), (fit.beta, 0.0005)] {
            assert!(estimate.low <= truth && truth <= estimate.high, "{estimate:?} {truth}");
        }
        assert!(fit.residual < 0.03);
    }

    #[test]
    fn it_refuses_and_says_why() {
        let few = fit(&points(&[1.0, 2.0, 4.0, 8.0, 64.0], 0.0), 0.05, 1).expect_err("five points");
        assert_eq!(few, Refusal::TooFewPoints { have: 5 });
        let short = fit(&points(&[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0], 0.0), 0.05, 1).expect_err("no knee");
        assert!(short.to_string().contains("still grows at concurrency 12"), "{short}");
        let mut broken = points(&SWEEP, 0.0);
        broken[3].per_second = 0.0;
        assert!(matches!(fit(&broken, 0.05, 1), Err(Refusal::NoThroughput { .. })));
        let wild = SWEEP.iter().zip([9.0, 1.0, 7.0, 2.0, 9.0, 1.0, 5.0, 5.0]);
        let wild: Vec<_> = wild.map(|(n, x)| Point { concurrency: *n, per_second: x }).collect();
        assert!(matches!(fit(&wild, 0.05, 1), Err(Refusal::DoesNotFit { .. })));
    }

    #[test]
    fn throughput_that_only_flattens_has_no_peak_beyond_what_was_measured() {
        let law = Law { beta: 0.0, alpha: 0.1, ..TRUE };
        let points: Vec<_> = [1.0, 2.0, 8.0, 32.0, 128.0, 256.0, 512.0]
            .map(|n| Point { concurrency: n, per_second: law.per_second(n) })
            .into();
        let fit = fit(&points, 0.05, 1).expect("a fit");
        assert_eq!((fit.law.peak_concurrency(), fit.peak_concurrency), (None, 512.0));
    }
}
