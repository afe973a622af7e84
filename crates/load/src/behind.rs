//! Whether the server kept up with an open loop: how many more answers it owed at the end of the measured part than at its
//! beginning. How long an answer takes says nothing of that; that answers come ever later does.

use crate::Summary;
use crate::timeline::{Bin, ROWS, row_floor_us};

/// With more than this of the requests owed by the end the server was far behind the offer. Below it a run that is short beside
/// the spread of the response times would be accused.
const BEHIND_SHARE_MAX: f64 = 0.2;
/// How many standard deviations of chance are no growth of what is owed.
const CHANCE_DEVIATIONS: f64 = 1.5;
/// The run's first requests, which show how long answers take before a queue can have grown. Fewer show a mean too badly.
const FIRST_REQUESTS: u64 = 20;
/// Answers that are late by less say nothing: a few requests in some milliseconds are over before their connects are.
const OWED_NS_MIN: u64 = 100_000_000;

impl Summary {
    /// The share of an open loop's requests by which what the server owed grew in the measured part: near 0 for a server that
    /// keeps up, however long each of its answers takes, and a half for one that does half of what is offered. 0 also where it
    /// owed them for less than a tenth of a second.
    pub fn behind_share(&self) -> f64 {
        if self.owes() { (self.grown() / self.intended as f64).max(0.0) } else { 0.0 }
    }

    /// Whether the server was far behind the offer at the end.
    pub fn fell_behind(&self) -> bool {
        self.owes() && self.grown_beyond(BEHIND_SHARE_MAX)
    }

    fn owes(&self) -> bool {
        let owed_ns = self.answered_ns.saturating_sub(self.duration_ns);
        self.about.open_loop && self.intended > 0 && owed_ns >= OWED_NS_MIN
    }

    /// Whether what the server owed grew by more than a share of the requests. What is owed is a count by chance, and where few
    /// requests are under way chance is most of it.
    pub(crate) fn grown_beyond(&self, share: f64) -> bool {
        let chance = CHANCE_DEVIATIONS * ((self.late.answers + self.carried_in.answers) as f64).sqrt();
        self.grown() > share * self.intended as f64 + chance
    }

    /// How many more requests the server owed at the end of the measured part than at its beginning. A run without a warm-up
    /// begins with none, and ends with some also where no queue grows: those that answers as long as the first ones explain.
    fn grown(&self) -> f64 {
        let explained = if self.about.warm_up_ns == 0 { self.under_way() } else { 0.0 };
        self.late.answers as f64 - self.carried_in.answers as f64 - explained
    }

    /// Requests under way at the end, if all answers took as long as those to the first requests.
    fn under_way(&self) -> f64 {
        let (bins, bin_ns) = (&self.timeline.bins, self.timeline.bin_ns as f64);
        let (mut first, mut rows) = (0, [0; ROWS]);
        for bin in bins {
            if first >= FIRST_REQUESTS {
                break;
            }
            first += bin.intended;
            rows.iter_mut().zip(&bin.rows).for_each(|(sum, count)| *sum += u64::from(*count));
        }
        let mut sum = 0.0;
        for (row, count) in rows.iter().enumerate().filter(|(_, count)| **count > 0) {
            // The row's upper end: a row is too coarse to accuse by.
            let from_ns = self.duration_ns as f64 - row_floor_us(row + 1) * 1e3;
            let after = |(place, bin): (usize, &Bin)| {
                let part = ((place + 1) as f64 - from_ns / bin_ns).clamp(0.0, 1.0);
                part * bin.intended as f64
            };
            sum += *count as f64 * bins.iter().enumerate().map(after).sum::<f64>();
        }
        sum / first.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 requests a second for 2 s, each with the response time that `response_s` gives for its intended time.
    fn evenly(warm_up_s: f64, response_s: impl Fn(usize, f64) -> f64) -> Summary {
        let mut s = Summary { duration_ns: 2_000_000_000, ..Summary::default() };
        s.about.open_loop = true;
        s.about.warm_up_ns = (warm_up_s * 1e9) as u64;
        let before = (warm_up_s * 100.0) as usize;
        for n in 0..before + 200 {
            let at_s = n as f64 / 100.0 - warm_up_s;
            let response_s = response_s(n, at_s + warm_up_s);
            let ended_s = at_s + response_s;
            if n < before {
                s.carried_in.answers += u64::from((0.0..2.0).contains(&ended_s));
                continue;
            }
            s.intended += 1;
            s.late.answers += u64::from(ended_s >= 2.0);
            s.answered_ns = s.answered_ns.max((ended_s * 1e9) as u64);
            s.timeline.at((at_s * 1e9) as u64).intended += 1;
            s.timeline.latency((at_s * 1e9) as u64, (response_s * 1e9) as u64);
        }
        s
    }

    #[test]
    fn a_server_that_falls_behind_is_told_from_a_slow_one() {
        // Quantiles of an exponential distribution of mean 1 in an order that is none.
        let exponential = |n: usize, _| -(1.0 - ((n * 89 % 200) as f64 + 0.5) / 200.0_f64).ln();
        let slow = |_, _| 1.5;
        let one_refused = |n, _| if n == 0 { 0.001 } else { 1.5 };
        let many_refused = |n, _| if n % 5 < 3 { 0.001 } else { 1.5 };
        type Response<'a> = &'a dyn Fn(usize, f64) -> f64;
        let kept: [(&str, Response<'_>); 4] = [
            ("exponential", &exponential),
            ("slow", &slow),
            ("one refused at once", &one_refused),
            ("many refused", &many_refused),
        ];
        for (name, response) in kept {
            for warm_up_s in [0.0, 5.0] {
                let s = evenly(warm_up_s, response);
                assert!(s.late.answers > 50 && s.behind_share() < 0.1 && !s.fell_behind(), "{name}: {s:?}");
                assert!(warm_up_s == 0.0 || !s.grown_beyond(0.05), "{name}");
            }
        }
        // The n-th answer comes when a server that does this share of the offer has done so many.
        for (share, warm_up_s) in [(0.5, 0.0), (0.5, 5.0), (0.1, 0.0), (0.1, 5.0)] {
            let s = evenly(warm_up_s, |_, at_s| 0.02 + at_s * (1.0 / share - 1.0));
            assert!(s.fell_behind() && s.grown_beyond(0.05), "{share}: {}", s.behind_share());
            // Of few requests the first ones wait already, which explains a part.
            assert!((0.4..=1.0).contains(&(s.behind_share() / (1.0 - share))), "{share}: {}", s.behind_share());
        }
        let half = |_, at_s| 0.02 + at_s;
        let short = Summary { answered_ns: 2_050_000_000, ..evenly(0.0, half) };
        assert_eq!((short.behind_share(), short.fell_behind()), (0.0, false));
    }
}
