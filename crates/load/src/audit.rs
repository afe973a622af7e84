//! Whether a run can be trusted: what the sender says of itself and of the machine, and the rules, set before any run, by
//! which a run is void.

use serde::{Deserialize, Serialize};

use crate::summary::Summary;

/// Sender lag at its 99th percentile may be at most this share of the reported median.
pub const LAG_SHARE_MAX: f64 = 0.05;
/// Lag below this is a timer's own precision and voids nothing: the kernel's default timer slack is 50 microseconds.
pub const LAG_NS_IGNORED: u64 = 100_000;
/// A sender's thread that is busier than this measures itself.
pub const CPU_SHARE_MAX: f64 = 0.8;
/// CPU time that the hypervisor gave to others.
pub const STEAL_SHARE_MAX: f64 = 0.05;
/// Share of the time in which some task waited for a CPU (PSI "some", cpu).
pub const PRESSURE_SHARE_MAX: f64 = 0.25;

/// What was noted while the run went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// CPU time of the busiest sender thread over the run's time, 0 to 1.
    pub cpu_share_max: f64,
    /// CPU time of all sender threads.
    pub cpu_ns: u64,
    /// Time that the sender's threads were ready and waited for a CPU, where the kernel tells it.
    pub runnable_wait_ns: Option<u64>,
    /// The longest time for which a thread's loop did not look at its schedule although something was due.
    pub pause_ns_max: u64,
    /// Times that the clock of intended times went a second or more past the loop without it: a suspended machine.
    pub clock_slips: u64,
    /// Requests of an open loop that were sent only after the schedule's end.
    pub sent_after_end: u64,
    /// Share of CPU time that the hypervisor gave to others, whole machine.
    pub steal_share: Option<f64>,
    /// Share of time in which some task waited for a CPU, whole machine.
    pub pressure_share: Option<f64>,
    /// Involuntary context switches of the sender's threads.
    pub involuntary_switches: Option<u64>,
    /// Connections opened, with those that failed.
    pub connections_opened: u64,
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Trusted,
    /// One sentence for each rule that was broken.
    Void(Vec<String>),
}

impl Audit {
    /// Of threads of the same time.
    pub fn merge(&mut self, other: &Self) {
        self.cpu_share_max = self.cpu_share_max.max(other.cpu_share_max);
        self.add(other);
        self.steal_share = max(self.steal_share, other.steal_share);
        self.pressure_share = max(self.pressure_share, other.pressure_share);
    }

    /// Of runs one after the other: the worst counts.
    pub fn append(&mut self, other: &Self) {
        self.merge(other);
    }

    fn add(&mut self, other: &Self) {
        self.cpu_ns += other.cpu_ns;
        self.runnable_wait_ns = sum(self.runnable_wait_ns, other.runnable_wait_ns);
        self.pause_ns_max = self.pause_ns_max.max(other.pause_ns_max);
        self.clock_slips += other.clock_slips;
        self.sent_after_end += other.sent_after_end;
        self.involuntary_switches = sum(self.involuntary_switches, other.involuntary_switches);
        self.connections_opened += other.connections_opened;
    }
}

fn max(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

impl Summary {
    /// Applies the rules. They know nothing of the result beyond its median.
    pub fn verdict(&self) -> Verdict {
        let mut broken = Vec::new();
        let audit = &self.audit;
        let (lag_ns, median_ns) = (self.lag.quantile_ns(0.99), self.response.quantile_ns(0.5));
        let late = lag_ns > LAG_NS_IGNORED && lag_ns as f64 > LAG_SHARE_MAX * median_ns as f64;
        // Where nothing was answered no median is falsified.
        if self.about.open_loop && !self.response.is_empty() && late {
            broken.push(format!(
                "the sender was late: lag p99 {:.3} ms is above {:.0} % of the median {:.3} ms",
                lag_ns as f64 / 1e6,
                LAG_SHARE_MAX * 100.0,
                median_ns as f64 / 1e6
            ));
        }
        // A closed loop as fast as it can is meant to fill its thread: its times then say so themselves.
        if self.about.open_loop && audit.cpu_share_max > CPU_SHARE_MAX {
            broken.push(format!(
                "a sender's thread was busy {:.0} % of the time, above {:.0} %: use more --threads or a lower rate",
                audit.cpu_share_max * 100.0,
                CPU_SHARE_MAX * 100.0
            ));
        }
        if audit.clock_slips > 0 {
            broken.push(format!(
                "the clock jumped {} times past the sender: the machine was suspended",
                audit.clock_slips
            ));
        }
        if broken.is_empty() { Verdict::Trusted } else { Verdict::Void(broken) }
    }

    /// What a reader should know and what voids nothing by itself: the machine may have been the server's too.
    pub fn cautions(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(share) = self.audit.steal_share.filter(|&s| s > STEAL_SHARE_MAX) {
            out.push(format!("the hypervisor gave {:.0} % of the CPU time to others", share * 100.0));
        }
        if let Some(share) = self.audit.pressure_share.filter(|&s| s > PRESSURE_SHARE_MAX) {
            out.push(format!("tasks of this machine waited for a CPU during {:.0} % of the time", share * 100.0));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_sender_voids_an_open_loop() {
        let mut s = Summary::default();
        s.about.open_loop = true;
        s.response.record_n(1_000_000, 100);
        s.lag.record_n(20_000, 100);
        assert_eq!(s.verdict(), Verdict::Trusted);
        s.lag.record_n(500_000, 100);
        assert_eq!(Summary { response: Default::default(), ..s.clone() }.verdict(), Verdict::Trusted);
        assert!(matches!(s.verdict(), Verdict::Void(reasons) if reasons.len() == 1 && reasons[0].contains("late")));
    }
}
