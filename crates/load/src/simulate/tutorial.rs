//! The tutorial's ABTester, re-created: what its method would have said of two servers whose truth is known.
//!
//! Its method, step by step: a pool of threads; a batch of as many requests as threads is started at once; the next batch
//! starts when the slowest of this one is done; a latency counts from the actual send; the client's own work for a request
//! is serial (one interpreter lock) and inside the measured time; first the whole baseline, then the whole candidate;
//! compared are the mean and the P95 of all requests, without an interval.

use crate::simulate::server::{Places, Server};
use crate::simulate::world::World;
use crate::stats::{Rng, mean, normal, quantile_sorted};

/// The ABTester's knobs, at its own values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbTester {
    pub duration_s: f64,
    pub concurrency: usize,
    /// Client work for each request under the one lock: about a millisecond for `requests` on CPython. The client is on
    /// the same machine, so it is as slow as that is.
    pub client_s: f64,
}

impl Default for AbTester {
    fn default() -> Self {
        Self { duration_s: 30.0, concurrency: 50, client_s: 0.001 }
    }
}

/// What it prints, and what a t-test on its requests would say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbTesterResult {
    pub baseline_requests: usize,
    pub candidate_requests: usize,
    pub baseline_avg_ms: f64,
    pub candidate_avg_ms: f64,
    pub baseline_p95_ms: f64,
    pub candidate_p95_ms: f64,
    /// Two-sided p of Welch's t-test on the mean, as if requests were independent. The tutorial does not compute it; it is
    /// what people add to such numbers.
    pub t_test_p: f64,
}

impl AbTesterResult {
    /// Positive is better, in percent, as the ABTester prints it.
    pub fn avg_improvement_percent(&self) -> f64 {
        (self.baseline_avg_ms - self.candidate_avg_ms) / self.baseline_avg_ms * 100.0
    }

    pub fn p95_improvement_percent(&self) -> f64 {
        (self.baseline_p95_ms - self.candidate_p95_ms) / self.baseline_p95_ms * 100.0
    }
}

impl AbTester {
    /// Runs both arms, the baseline first, in the world's time.
    pub fn compare(&self, world: &mut World, baseline: &Server, candidate: &Server, seed: u64) -> AbTesterResult {
        let mut rng = Rng::stream(seed, 0x7e57e7);
        let a = self.run(world, baseline, &mut rng);
        let b = self.run(world, candidate, &mut rng);
        let (avg_a, avg_b) = (mean(&a).unwrap_or_default(), mean(&b).unwrap_or_default());
        let variance = |values: &[f64], middle: f64| {
            let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
            squares / (values.len().max(2) - 1) as f64 / values.len().max(1) as f64
        };
        let error = (variance(&a, avg_a) + variance(&b, avg_b)).sqrt().max(1e-12);
        AbTesterResult {
            baseline_requests: a.len(),
            candidate_requests: b.len(),
            baseline_avg_ms: avg_a,
            candidate_avg_ms: avg_b,
            baseline_p95_ms: p95(a),
            candidate_p95_ms: p95(b),
            t_test_p: 2.0 * normal::cdf(-((avg_b - avg_a) / error).abs()),
        }
    }

    /// Latencies in milliseconds.
    fn run(&self, world: &mut World, server: &Server, rng: &mut Rng) -> Vec<f64> {
        let mut latencies = Vec::new();
        let end_s = world.now_s() + self.duration_s;
        let mut places = Places::new(server);
        while world.now_s() < end_s {
            let batch_s = world.now_s();
            let slowness = world.slowness();
            let mut slowest_s = batch_s;
            // The interpreter lets one thread work at a time: the n-th request of a batch is begun after n works.
            let mut lock_free_s = batch_s;
            let mut answers = Vec::with_capacity(self.concurrency);
            for _ in 0..self.concurrency {
                let begun_s = lock_free_s;
                lock_free_s += self.client_s / 2.0 * slowness;
                let done_s = places.serve(lock_free_s, server.draw_s(rng) * slowness);
                answers.push((begun_s, done_s));
            }
            answers.sort_by(|a, b| a.1.total_cmp(&b.1));
            for (begun_s, done_s) in answers {
                lock_free_s = lock_free_s.max(done_s) + self.client_s / 2.0 * slowness;
                latencies.push((lock_free_s - begun_s) * 1e3);
                slowest_s = slowest_s.max(lock_free_s);
            }
            world.advance_to(slowest_s);
        }
        latencies
    }
}

/// `sorted(data)[int(size * 95 / 100)]`, as the tutorial has it.
fn p95(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len() * 95 / 100;
    values.get(at).copied().or_else(|| quantile_sorted(&values, 1.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::world::Weather;

    #[test]
    fn drift_becomes_a_difference_between_equal_arms() {
        let weather = Weather { slower_per_minute: 0.10, ..Weather::CALM };
        let mut world = World::new(weather, 1);
        let same = Server::SAMPLE;
        let result = AbTester::default().compare(&mut world, &same, &same, 1);
        // Half a minute later the machine is 5 % slower, and a t-test on thousands of requests is sure of it.
        assert!(result.avg_improvement_percent() < -1.0, "{result:?}");
        assert!(result.t_test_p < 1e-4, "{result:?}");
    }

    #[test]
    fn the_client_hides_most_of_a_real_change() {
        let mut world = World::new(Weather::CALM, 1);
        let faster = Server::SAMPLE.slower_by(-0.20);
        let result = AbTester::default().compare(&mut world, &Server::SAMPLE, &faster, 1);
        assert!(result.avg_improvement_percent() < 15.0, "{result:?}");
    }
}
