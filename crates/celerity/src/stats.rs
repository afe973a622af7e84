//! What the traffic generator saw: counts, latencies, and each request's own ledger as the mesh reported it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use celerity_telemetry::Category;
use celerity_telemetry::ledger::CATEGORIES;

/// The last so many requests are kept one by one for the report's cohorts: 3 MB, and at 50 requests a second the
/// last 22 minutes.
const SAMPLES_MAX: usize = 65_536;
/// The live view looks back this far.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Different reasons of failure and different instances told apart; more are counted as "other".
const NAMES_MAX: usize = 32;

/// One request, from its intended send time to its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) ended: Instant,
    pub(crate) ok: bool,
    pub(crate) latency_us: u32,
    /// Microseconds by category; `None` where the response carried no ledger.
    pub(crate) parts_us: Option<[u32; CATEGORIES]>,
}

/// Everything since the start, and the last requests one by one.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) started: u64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Failures by reason, such as `503` or `connection refused`.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Answers by the instance that gave them.
    pub(crate) served_by: BTreeMap<String, u64>,
    samples: VecDeque<Sample>,
}

impl Stats {
    pub(crate) fn in_flight(&self) -> u64 {
        self.started - self.answered - self.failed
    }

    /// A request ended: `Ok` with the instance that served it, or `Err` with the reason why it failed.
    pub(crate) fn end(&mut self, sample: Sample, outcome: Result<Option<&str>, &str>) {
        let (counter, names, name) = match outcome {
            Ok(instance) => (&mut self.answered, &mut self.served_by, instance),
            Err(reason) => (&mut self.failed, &mut self.failures, Some(reason)),
        };
        *counter += 1;
        if let Some(name) = name {
            let name = if names.contains_key(name) || names.len() < NAMES_MAX { name } else { "other" };
            *names.entry(name.to_owned()).or_default() += 1;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The requests that ended within `WINDOW` before `now`.
    pub(crate) fn window(&self, now: Instant) -> Summary {
        let recent = self.samples.iter().rev().take_while(|sample| now.duration_since(sample.ended) <= WINDOW);
        Summary::of(recent.copied().collect())
    }

    /// All requests that are still kept.
    pub(crate) fn whole(&self) -> Summary {
        Summary::of(self.samples.iter().copied().collect())
    }
}

/// A set of requests, looked at together.
#[derive(Debug)]
pub(crate) struct Summary {
    /// By latency, shortest first.
    sorted: Vec<Sample>,
    pub(crate) ok: usize,
}

/// The mean of each category over some requests, in microseconds, and what lies outside the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Means {
    pub(crate) requests: usize,
    pub(crate) latency_us: f64,
    pub(crate) parts_us: [f64; CATEGORIES],
}

/// Some requests, without their parts; the latency is their mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) latency_us: f64,
}

impl Means {
    pub(crate) fn part(&self, category: Category) -> f64 {
        Category::ALL.iter().position(|&c| c == category).map_or(0.0, |at| self.parts_us[at])
    }

    /// What the client saw beyond the mesh's own total: its connect and its wait for the event loop.
    pub(crate) fn outside_us(&self) -> f64 {
        (self.latency_us - self.parts_us.iter().sum::<f64>()).max(0.0)
    }
}

impl Summary {
    fn of(mut samples: Vec<Sample>) -> Self {
        samples.sort_unstable_by_key(|sample| sample.latency_us);
        Self { ok: samples.iter().filter(|sample| sample.ok).count(), sorted: samples }
    }

    pub(crate) fn requests(&self) -> usize {
        self.sorted.len()
    }

    /// The latency that a share `q` of the requests did not exceed, in microseconds (nearest rank).
    pub(crate) fn quantile_us(&self, q: f64) -> Option<u32> {
        let rank = (q * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.max(1) - 1).map(|sample| sample.latency_us)
    }

    pub(crate) fn mean_us(&self) -> Option<f64> {
        let total: f64 = self.sorted.iter().map(|sample| f64::from(sample.latency_us)).sum();
        (!self.sorted.is_empty()).then(|| total / self.sorted.len() as f64)
    }

    fn between(&self, from: f64, to: f64) -> &[Sample] {
        let count = self.sorted.len();
        let low = ((from * count as f64).floor() as usize).min(count.saturating_sub(1));
        let high = ((to * count as f64).ceil() as usize).clamp(low, count);
        self.sorted.get(low..high).unwrap_or_default()
    }

    /// The requests between two quantiles of latency, whether or not they carried a ledger.
    pub(crate) fn told(&self, from: f64, to: f64) -> Told {
        let samples = self.between(from, to);
        let latency_us = samples.iter().map(|sample| f64::from(sample.latency_us)).sum::<f64>();
        Told {
            requests: samples.len(),
            failed: samples.iter().filter(|sample| !sample.ok).count(),
            latency_us: latency_us / samples.len().max(1) as f64,
        }
    }

    /// The mean breakdown of the requests between two quantiles of latency. Percentiles of parts do not add up to a
    /// percentile of the whole; the means of one cohort do.
    pub(crate) fn cohort(&self, from: f64, to: f64) -> Means {
        let mut means = Means::default();
        for sample in self.between(from, to) {
            let Some(parts) = sample.parts_us else { continue };
            means.requests += 1;
            means.latency_us += f64::from(sample.latency_us);
            for (sum, part) in means.parts_us.iter_mut().zip(parts) {
                *sum += f64::from(part);
            }
        }
        let requests = means.requests.max(1) as f64;
        means.latency_us /= requests;
        means.parts_us.iter_mut().for_each(|sum| *sum /= requests);
        means
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(latency_us: u32) -> Sample {
        let mut parts = [0; CATEGORIES];
        parts[0] = latency_us / 2;
        Sample { ended: Instant::now(), ok: true, latency_us, parts_us: Some(parts) }
    }

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        let summary = Summary::of((1..=100).map(sample).collect());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| summary.quantile_us(q)), [Some(1), Some(50), Some(99), Some(100)]);
        assert_eq!(Summary::of(Vec::new()).quantile_us(0.5), None);
    }

    #[test]
    fn a_cohorts_parts_and_its_remainder_sum_to_its_latency() {
        let summary = Summary::of((1..=1000).map(|n| sample(n * 2)).collect());
        let tail = summary.cohort(0.985, 0.995);
        assert_eq!(tail.requests, 10);
        assert!((tail.parts_us.iter().sum::<f64>() + tail.outside_us() - tail.latency_us).abs() < 1e-6);
        assert_eq!(Summary::of(Vec::new()).cohort(0.0, 1.0), Means::default());
    }

    #[test]
    fn reasons_are_bounded() {
        let mut stats = Stats::default();
        for n in 0..100 {
            stats.started += 1;
            stats.end(sample(1), Err(&format!("reason {n}")));
        }
        assert_eq!(stats.failures.len(), NAMES_MAX + 1);
        assert_eq!((stats.failed, stats.in_flight(), stats.failures["other"]), (100, 0, 68));
    }
}
