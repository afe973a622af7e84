//! Counts of rare events: how likely so many are by chance.

/// The probability of `least` or more events in `trials` independent ones of probability `p` each.
///
/// The terms are summed outwards from `least` by their ratios, so the error is that of the first term (below 1e-8), and the
/// cost a few standard deviations of the count.
pub fn at_least(least: u64, trials: u64, p: f64) -> f64 {
    if least == 0 || p >= 1.0 {
        return 1.0;
    }
    if least > trials || p <= 0.0 {
        return 0.0;
    }
    let mean = trials as f64 * p;
    // Whichever side falls from its first term on is the one that is summed.
    if least as f64 > mean { upper(least, trials, p) } else { (1.0 - lower(least - 1, trials, p)).clamp(0.0, 1.0) }
}

/// The probability of `most` or fewer.
pub fn at_most(most: u64, trials: u64, p: f64) -> f64 {
    if most >= trials { 1.0 } else { (1.0 - at_least(most + 1, trials, p)).clamp(0.0, 1.0) }
}

/// Terms below this share of the sum change nothing that is printed.
const NEGLIGIBLE: f64 = 1e-15;

fn upper(least: u64, trials: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let (mut term, mut sum) = (term(least, trials, p), 0.0);
    for k in least..=trials {
        sum += term;
        term *= (trials - k) as f64 / (k + 1) as f64 * odds;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    sum.min(1.0)
}

fn lower(most: u64, trials: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let (mut term, mut sum) = (term(most, trials, p), 0.0);
    for k in (0..=most).rev() {
        sum += term;
        term *= k as f64 / (trials - k + 1) as f64 / odds;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    sum.min(1.0)
}

/// The probability of exactly `k`.
fn term(k: u64, n: u64, p: f64) -> f64 {
    let choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    (choose + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp()
}

/// Stirling's series (Abramowitz and Stegun 6.1.41); below 20 by multiplication, where the series is coarser.
fn ln_factorial(n: u64) -> f64 {
    if n < 20 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64 + 1.0;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_known_values() {
        // A fair coin, ten times: 8 or more heads in 56 of 1,024.
        assert!((at_least(8, 10, 0.5) - 56.0 / 1024.0).abs() < 1e-12);
        assert!((at_least(3, 10, 0.5) - 968.0 / 1024.0).abs() < 1e-12);
        assert!((at_most(2, 10, 0.5) - 56.0 / 1024.0).abs() < 1e-12);
        // None of 298 with 1 % each: 0.99^298.
        assert!((at_most(0, 298, 0.01) - 0.99f64.powi(298)).abs() < 1e-9);
        assert!((at_least(1, 800, 0.001) - (1.0 - 0.999f64.powi(800))).abs() < 1e-9);
        assert_eq!((at_least(0, 5, 0.1), at_least(6, 5, 0.1), at_least(1, 5, 0.0)), (1.0, 0.0, 0.0));
        assert_eq!((at_least(5, 5, 1.0), at_most(5, 5, 0.3)), (1.0, 1.0));
    }

    #[test]
    fn large_counts_are_near_the_normal_law_and_the_two_tails_are_the_whole() {
        let (n, p) = (1_000_000u64, 0.01);
        let deviation = (n as f64 * p * (1.0 - p)).sqrt();
        for sigmas in [-2.0, -0.5, 0.5, 2.0] {
            let k = (n as f64 * p + sigmas * deviation).round() as u64;
            let near = 1.0 - crate::stats::normal::cdf((k as f64 - 0.5 - n as f64 * p) / deviation);
            assert!((at_least(k, n, p) - near).abs() < 2e-3, "{sigmas}: {} {near}", at_least(k, n, p));
            assert!((at_least(k, n, p) + at_most(k - 1, n, p) - 1.0).abs() < 1e-9);
        }
    }
}
