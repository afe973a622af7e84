//! A small seeded generator of numbers: the same seed gives the same traffic and the same service times.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): one addition and three multiplications a number, good enough for
/// arrival times and service times; not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `(0, 1]`: never 0, so that its logarithm is finite.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `bound`; 0 where `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A log-normal distribution, told by its median and its 99th percentile: the shape that service times have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogNormal {
    mu: f64,
    sigma: f64,
    max: Duration,
}

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874;

impl LogNormal {
    /// `p99` is at least `median`. A draw is cut at ten times `p99`, so that no request sleeps for minutes.
    pub(crate) fn new(median: Duration, p99: Duration) -> Self {
        let (median_s, p99_s) = (median.as_secs_f64(), p99.as_secs_f64());
        Self { mu: median_s.ln(), sigma: (p99_s / median_s).ln() / NORMAL_P99, max: p99 * 10 }
    }

    pub(crate) fn draw(&self, rng: &mut Rng) -> Duration {
        let seconds = (self.mu + self.sigma * rng.normal()).exp();
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
    }

    #[test]
    fn the_log_normal_has_the_median_and_the_p99_it_was_told() {
        let mut rng = Rng::new(1);
        let shape = LogNormal::new(Duration::from_millis(2), Duration::from_millis(10));
        let mut draws: Vec<_> = (0..100_000).map(|_| shape.draw(&mut rng)).collect();
        draws.sort();
        let (median, p99) = (draws[50_000].as_secs_f64() * 1e3, draws[99_000].as_secs_f64() * 1e3);
        assert!((median - 2.0).abs() < 0.05, "{median}");
        assert!((p99 - 10.0).abs() < 0.5, "{p99}");
    }
}
