//! A server with a queue: requests come when they come, are served in that order, and wait while all places are taken.

use crate::ab::arms::{Arm, ArmError, Arms, Block, BlockSpec};
use crate::simulate::world::World;
use crate::stats::{Distribution, Rng};

/// Log-normal service times and a number of places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Server {
    pub median_s: f64,
    /// Standard deviation of the logarithm; 0.7 makes the p99 five times the median.
    pub sigma: f64,
    pub places: usize,
    /// The share of requests that fail, as fast as the others.
    pub failing: f64,
}

impl Server {
    /// Two milliseconds at the median, ten at the p99, as the sample services have.
    pub const SAMPLE: Self = Self { median_s: 0.002, sigma: 0.69, places: 4, failing: 0.0 };

    pub fn slower_by(self, share: f64) -> Self {
        Self { median_s: self.median_s * (1.0 + share), ..self }
    }

    pub(crate) fn draw_s(&self, rng: &mut Rng) -> f64 {
        self.median_s * (self.sigma * rng.normal()).exp()
    }
}

/// When each place is free again.
#[derive(Clone, Debug)]
pub(crate) struct Places(Vec<f64>);

impl Places {
    pub(crate) fn new(server: &Server) -> Self {
        Self(vec![0.0; server.places.max(1)])
    }

    /// Serves a request that comes at `arrival_s`, and returns when it is done.
    pub(crate) fn serve(&mut self, arrival_s: f64, service_s: f64) -> f64 {
        let Some(first) = self.0.iter_mut().min_by(|a, b| a.total_cmp(b)) else { return arrival_s + service_s };
        *first = first.max(arrival_s) + service_s;
        *first
    }
}

/// Two servers on one machine, measured in blocks one after the other.
#[derive(Clone, Debug)]
pub struct SimulatedArms {
    pub world: World,
    pub baseline: Server,
    pub candidate: Server,
    service: Rng,
}

impl SimulatedArms {
    pub fn new(world: World, baseline: Server, candidate: Server, seed: u64) -> Self {
        Self { world, baseline, candidate, service: Rng::stream(seed, 0x5e71ce) }
    }
}

impl Arms for SimulatedArms {
    fn block(&mut self, arm: Arm, spec: &BlockSpec) -> Result<Block, ArmError> {
        let server = match arm {
            Arm::Baseline => self.baseline,
            Arm::Candidate => self.candidate,
        };
        let start_s = self.world.now_s();
        let counts_from = start_s + spec.discard.as_secs_f64();
        let end_s = start_s + spec.duration.as_secs_f64();
        let mut schedule = Rng::new(spec.seed);
        let mut places = Places::new(&server);
        let (mut arrival_s, mut block) = (start_s, Block::default());
        let (mut latencies, mut in_time) = (Vec::new(), 0u64);
        loop {
            arrival_s += schedule.exponential(1.0 / spec.per_second);
            if arrival_s >= end_s {
                break;
            }
            self.world.advance_to(arrival_s);
            let service_s = server.draw_s(&mut self.service) * self.world.slowness();
            let fails = server.failing > 0.0 && self.service.unit() <= server.failing;
            let done_s = places.serve(arrival_s, service_s);
            if arrival_s >= counts_from && fails {
                block.failed += 1;
            } else if arrival_s >= counts_from {
                latencies.push(((done_s - arrival_s) * 1e9) as u64);
                block.succeeded += 1;
                in_time += u64::from(done_s < end_s);
            }
        }
        self.world.advance_to(end_s);
        block.response = Distribution::from_values(latencies);
        block.succeeded_per_second = in_time as f64 / (end_s - counts_from);
        block.failure = (block.failed > 0).then(|| "status 500".to_owned());
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::simulate::world::Weather;

    /// The mean wait of an M/M/1 queue at load r is r / (1 - r) service times; here with a single place and exponential
    /// service drawn by hand.
    #[test]
    fn a_queue_behaves_as_theory_says() {
        let server = Server { places: 1, ..Server::SAMPLE };
        let (mut places, mut rng) = (Places::new(&server), Rng::new(3));
        let (mut arrival_s, mut waited_s) = (0.0, 0.0);
        let n = 400_000;
        for _ in 0..n {
            arrival_s += rng.exponential(1.0);
            let service_s = rng.exponential(0.5);
            waited_s += places.serve(arrival_s, service_s) - arrival_s;
        }
        let mean_s = waited_s / f64::from(n);
        assert!((mean_s - 1.0).abs() < 0.03, "{mean_s}");
    }

    #[test]
    fn a_block_has_the_requests_and_the_quantiles_it_should() {
        let world = World::new(Weather::CALM, 1);
        let mut arms = SimulatedArms::new(world, Server::SAMPLE, Server::SAMPLE.slower_by(1.0), 1);
        let spec = BlockSpec {
            seed: 5,
            per_second: 100.0,
            duration: Duration::from_secs(110),
            discard: Duration::from_secs(10),
        };
        let baseline = arms.block(Arm::Baseline, &spec).expect("a block");
        let candidate = arms.block(Arm::Candidate, &spec).expect("a block");
        // The same schedule, so the same number of requests.
        assert_eq!(baseline.succeeded, candidate.succeeded);
        assert!((9_600..10_400).contains(&baseline.succeeded), "{}", baseline.succeeded);
        let ratio = candidate.quantile_ns(0.5).expect("p50") / baseline.quantile_ns(0.5).expect("p50");
        assert!((ratio - 2.0).abs() < 0.1, "{ratio}");
        assert!((arms.world.now_s() - 220.0).abs() < 1e-6);
    }
}
