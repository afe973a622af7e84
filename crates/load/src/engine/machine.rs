//! What Linux says of the sender's threads and of the machine, before and after. Where a file is missing the fact is.

use std::fs::read_to_string;

/// The calling thread's own figures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThreadFacts {
    pub(super) cpu_ns: Option<u64>,
    pub(super) runnable_wait_ns: Option<u64>,
    pub(super) involuntary_switches: Option<u64>,
}

impl ThreadFacts {
    pub(super) fn read() -> Self {
        let schedstat = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut numbers = schedstat.split_whitespace().map(|n| n.parse().ok());
        let status = read_to_string("/proc/thread-self/status").unwrap_or_default();
        let involuntary = status.lines().find_map(|l| l.strip_prefix("nonvoluntary_ctxt_switches:"));
        Self {
            cpu_ns: numbers.next().flatten(),
            runnable_wait_ns: numbers.next().flatten(),
            involuntary_switches: involuntary.and_then(|n| n.trim().parse().ok()),
        }
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            cpu_ns: less(self.cpu_ns, earlier.cpu_ns),
            runnable_wait_ns: less(self.runnable_wait_ns, earlier.runnable_wait_ns),
            involuntary_switches: less(self.involuntary_switches, earlier.involuntary_switches),
        }
    }
}

/// The whole machine's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MachineFacts {
    /// Of all CPUs, in ticks: all there was, and what the hypervisor kept.
    ticks: Option<(u64, u64)>,
    /// Microseconds in which some task waited for a CPU (PSI).
    pressure_us: Option<u64>,
}

impl MachineFacts {
    pub(super) fn read() -> Self {
        let stat = read_to_string("/proc/stat").unwrap_or_default();
        let ticks = stat.lines().find_map(|l| l.strip_prefix("cpu ")).map(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            // user nice system idle iowait irq softirq steal; guest times are in user's already.
            (numbers.iter().take(8).sum(), numbers.get(7).copied().unwrap_or(0))
        });
        let pressure = read_to_string("/proc/pressure/cpu").unwrap_or_default();
        let some = pressure.lines().find_map(|l| l.strip_prefix("some "));
        let total = some.and_then(|l| l.split_whitespace().find_map(|f| f.strip_prefix("total=")));
        Self { ticks, pressure_us: total.and_then(|t| t.parse().ok()) }
    }

    pub(super) fn steal_share_since(self, earlier: Self) -> Option<f64> {
        let ((all, stolen), (all_then, stolen_then)) = (self.ticks?, earlier.ticks?);
        let all = all.saturating_sub(all_then);
        (all > 0).then(|| stolen.saturating_sub(stolen_then) as f64 / all as f64)
    }

    pub(super) fn pressure_share_since(self, earlier: Self, elapsed_ns: u64) -> Option<f64> {
        let waited_us = self.pressure_us?.saturating_sub(earlier.pressure_us?);
        (elapsed_ns > 0).then(|| (waited_us as f64 * 1e3 / elapsed_ns as f64).min(1.0))
    }
}
