//! The intended send times of an open loop: stages, arrivals and seed in, one moment after the other out. Pure, and in
//! constant memory for a schedule of any length.
//!
//! A rate that changes over time is handled through its integral, the number of requests asked for up to a moment. A
//! constant process has its k-th arrival where the integral reaches k. A Poisson process has it where the integral reaches
//! the sum of k exponential numbers of mean 1 (Cinlar 1975: inversion).

use std::time::Duration;

use celerity_telemetry::Rng;

use crate::plan::{Arrivals, Open, Segment};

/// One thread's part of the schedule. Poisson arrivals are independent in each thread; evenly spaced ones are dealt in turn.
#[derive(Clone, Debug)]
pub struct Schedule {
    segments: Vec<Segment>,
    /// The current segment, the integral at its beginning and the moment of its beginning.
    place: usize,
    begin_requests: f64,
    begin_s: f64,
    arrivals: Arrivals,
    rng: Rng,
    threads: f64,
    /// For even spacing: the number of the next arrival, and the step to the one after it.
    number: u64,
    step: u64,
    /// For Poisson: the sum of the exponential numbers so far.
    sum: f64,
    /// How many more this thread gives, of those that count.
    left: u64,
    /// For even spacing: the number of the first arrival past the count.
    count_end: u64,
    counted_from_ns: u64,
    last_ns: u64,
}

impl Schedule {
    /// The part of `thread` of `threads`. Burst and constant arrivals do not use the seed.
    pub fn new(open: &Open, thread: u32, threads: u32, seed: u64) -> Self {
        let left = match (open.count, open.arrivals) {
            (None, _) => u64::MAX,
            (Some(count), _) => share(count, thread, threads),
        };
        // Seeds of neighbouring threads must not give neighbouring sequences.
        let mut mixed = Rng::seeded(seed ^ u64::from(thread).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut schedule = Self {
            segments: open.segments.clone(),
            place: 0,
            begin_requests: 0.0,
            begin_s: 0.0,
            arrivals: open.arrivals,
            rng: Rng::seeded(mixed.next_u64()),
            threads: f64::from(threads),
            number: u64::from(thread),
            step: u64::from(threads),
            sum: 0.0,
            left,
            count_end: open.count.unwrap_or(u64::MAX),
            counted_from_ns: 0,
            last_ns: 0,
        };
        if schedule.arrivals == Arrivals::Poisson {
            schedule.sum = exponential(&mut schedule.rng);
        }
        schedule
    }

    /// Takes the schedule's count of the arrivals from `from_ns` on: those before, of a warm-up, are not counted.
    pub fn counted_from(mut self, open: &Open, from_ns: u64) -> Self {
        self.counted_from_ns = from_ns;
        if let (Some(count), true) = (open.count, open.arrivals != Arrivals::Poisson) {
            // Which thread has the first that counts: what is dealt in turn has no gap then.
            let size = match open.arrivals {
                Arrivals::Burst(size) => f64::from(size.max(1)),
                _ => 1.0,
            };
            let before = ((requests_until(open, Duration::from_nanos(from_ns)) / size).ceil() * size) as u64;
            self.count_end = before.saturating_add(count);
            let place = (self.number + self.step - before % self.step) % self.step;
            self.left = share(count, place as u32, self.step as u32);
        }
        self
    }

    /// When the whole schedule ends, in nanoseconds.
    pub fn length_ns(&self) -> u64 {
        let total: Duration = self.segments.iter().map(|s| s.duration).sum();
        u64::try_from(total.as_nanos()).unwrap_or(u64::MAX)
    }

    /// When the first request after those of the count would come, or the schedule ends. What is dealt in turn ends for all
    /// threads where the rate asks for the next one, in a burst or not; a thread of a Poisson process ends by itself.
    pub fn count_end_ns(&self) -> u64 {
        let mut rest = self.clone();
        match self.arrivals {
            Arrivals::Poisson => while rest.left > 0 && rest.next().is_some() {},
            Arrivals::Constant | Arrivals::Burst(_) => {
                (rest.number, rest.arrivals) = (self.count_end, Arrivals::Constant)
            }
        }
        rest.left = 1;
        rest.next().unwrap_or_else(|| self.length_ns())
    }

    /// Counts, without their times, the arrivals that are left up to the end.
    pub fn count_rest(&mut self) -> u64 {
        std::iter::from_fn(|| self.next()).count() as u64
    }

    fn requests_wanted(&self) -> f64 {
        match self.arrivals {
            Arrivals::Constant => self.number as f64,
            Arrivals::Burst(size) => (self.number / u64::from(size.max(1)) * u64::from(size.max(1))) as f64,
            Arrivals::Poisson => self.sum * self.threads,
        }
    }

    fn advance(&mut self, at_ns: u64) {
        if at_ns >= self.counted_from_ns {
            self.left -= 1;
        }
        match self.arrivals {
            Arrivals::Poisson => self.sum += exponential(&mut self.rng),
            Arrivals::Constant | Arrivals::Burst(_) => self.number += self.step,
        }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    /// The next intended time in nanoseconds from the start; never before the one before it.
    fn next(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let wanted = self.requests_wanted();
        loop {
            let segment = *self.segments.get(self.place)?;
            let within = wanted - self.begin_requests;
            if within < segment.requests() {
                let at_s = self.begin_s + time_to(&segment, within);
                // Rounding must not let time go back.
                self.last_ns = ((at_s * 1e9) as u64).max(self.last_ns);
                self.advance(self.last_ns);
                return Some(self.last_ns);
            }
            self.begin_requests += segment.requests();
            self.begin_s += segment.duration.as_secs_f64();
            self.place += 1;
        }
    }
}

/// Requests that the schedule has asked for by then, on average.
pub(crate) fn requests_until(open: &Open, at: Duration) -> f64 {
    let mut left_s = at.as_secs_f64();
    let mut sum = 0.0;
    for segment in &open.segments {
        let whole_s = segment.duration.as_secs_f64();
        let part_s = left_s.min(whole_s);
        let (from, to) = (segment.from_per_second, segment.to_per_second);
        sum += (from + (to - from) * part_s / whole_s.max(f64::MIN_POSITIVE) / 2.0) * part_s;
        left_s -= part_s;
    }
    sum
}

/// When a segment has asked for so many requests, in seconds from its beginning: the root of a t + (b - a) t^2 / 2 d = n,
/// in the form that does not cancel.
fn time_to(segment: &Segment, requests: f64) -> f64 {
    if requests <= 0.0 {
        return 0.0;
    }
    let (a, b) = (segment.from_per_second, segment.to_per_second);
    let d = segment.duration.as_secs_f64();
    let root = (a * a + 2.0 * (b - a) / d * requests).max(0.0).sqrt();
    (2.0 * requests / (a + root)).min(d)
}

/// A number in (0, 1]: its logarithm is finite.
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// Exponential, mean 1.
pub(crate) fn exponential(rng: &mut Rng) -> f64 {
    -unit(rng).ln()
}

/// An even part of a count.
pub(crate) fn share(count: u64, thread: u32, threads: u32) -> u64 {
    let (thread, threads) = (u64::from(thread), u64::from(threads.max(1)));
    count / threads + u64::from(thread < count % threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::WhenFull;

    fn open(segments: &[(f64, f64, u64)], arrivals: Arrivals) -> Open {
        Open {
            segments: segments
                .iter()
                .map(|&(from_per_second, to_per_second, s)| Segment {
                    from_per_second,
                    to_per_second,
                    duration: Duration::from_secs(s),
                })
                .collect(),
            arrivals,
            when_full: WhenFull::Queue,
            count: None,
        }
    }

    #[test]
    fn constant_arrivals_are_dealt_to_the_threads_in_turn() {
        let plan = open(&[(10.0, 10.0, 1)], Arrivals::Constant);
        let mut all: Vec<u64> = (0..3).flat_map(|t| Schedule::new(&plan, t, 3, 1)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).map(|n| n * 100_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_ramp_asks_for_half_its_final_rate_on_average_and_keeps_the_order() {
        let plan = open(&[(0.0, 1000.0, 10), (1000.0, 0.0, 10)], Arrivals::Constant);
        let times: Vec<u64> = Schedule::new(&plan, 0, 1, 1).collect();
        assert_eq!(times.len(), 10_000);
        assert!(times.is_sorted());
        // A quarter of the ramp's requests come in its first half.
        let early = times.iter().filter(|&&t| t < 5_000_000_000).count();
        assert!((early as i64 - 1250).abs() <= 1, "{early}");
    }

    #[test]
    fn poisson_gaps_are_exponential_and_the_seed_repeats_them() {
        let plan = open(&[(1000.0, 1000.0, 100)], Arrivals::Poisson);
        let times: Vec<u64> = Schedule::new(&plan, 0, 1, 7).collect();
        // 100,000 expected, standard deviation 316.
        assert!((times.len() as f64 - 1e5).abs() < 5.0 * 316.0, "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let above_mean = gaps.iter().filter(|&&g| g > 1.0).count() as f64 / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.02 && (above_mean - (-1.0_f64).exp()).abs() < 0.01, "{mean} {above_mean}");
        assert!(times.iter().copied().eq(Schedule::new(&plan, 0, 1, 7)));
        assert!(!times.iter().copied().eq(Schedule::new(&plan, 0, 1, 8)));
        let threads: usize = (0..4).map(|t| Schedule::new(&plan, t, 4, 7).count()).sum();
        assert!((threads as f64 - 1e5).abs() < 5.0 * 316.0, "{threads}");
    }

    #[test]
    fn bursts_come_together_and_a_count_ends_the_schedule() {
        let mut plan = open(&[(100.0, 100.0, 1)], Arrivals::Burst(20));
        let times: Vec<u64> = Schedule::new(&plan, 0, 1, 1).collect();
        assert_eq!((times.len(), times[19], times[20]), (100, 0, 200_000_000));
        plan.count = Some(7);
        assert_eq!(Schedule::new(&plan, 2, 3, 1).count_end_ns(), 70_000_000, "7 at 100/s, though all come at once");
        assert_eq!((0..3).map(|t| Schedule::new(&plan, t, 3, 1).count()).sum::<usize>(), 7);
        // Of 4 before the warm-up's end the count knows nothing, whichever threads have them.
        plan = Open { count: Some(7), ..open(&[(10.0, 10.0, 10)], Arrivals::Constant) };
        let from_ns = 400_000_000;
        let mut all: Vec<u64> =
            (0..3).flat_map(|t| Schedule::new(&plan, t, 3, 1).counted_from(&plan, from_ns)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..11).map(|n| n * 100_000_000).collect::<Vec<_>>());
        plan.arrivals = Arrivals::Poisson;
        let times: Vec<u64> = Schedule::new(&plan, 0, 1, 1).counted_from(&plan, from_ns).collect();
        assert_eq!(times.iter().filter(|&&at| at >= from_ns).count(), 7);
    }
}
