//! How much of the load each priority takes (Envoy, "Priority levels" and "Panic threshold").
//!
//! A priority's availability is `min(100, 1.4 * 100 * healthy / all)` percent. Load goes to priority 0 up to its
//! availability, what is left to priority 1, and so on; where all together have less than 100, each takes its share of
//! the sum. Under the panic threshold, and only where the sum is under 100, a priority's health is not looked at.

/// Priorities that a cluster can have: Envoy's bound is 128, and a mesh uses a handful.
const PRIORITIES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) all: u32,
    pub(super) healthy: u32,
    pub(super) degraded: u32,
}

#[derive(Debug)]
pub(super) struct Loads {
    priorities: Box<[Availability]>,
    load: Distribution,
}

#[derive(Clone, Copy, Debug, Default)]
struct Availability {
    all: u32,
    healthy: u32,
    degraded: u32,
    panic: bool,
}

/// Percents per priority; together 100, or 0 where nothing can take load.
#[derive(Clone, Copy, Debug)]
struct Distribution {
    healthy: [u8; PRIORITIES_MAX],
    degraded: [u8; PRIORITIES_MAX],
}

impl Loads {
    pub(super) fn new(counts: &[Counts], panic_threshold_percent: f64, overprovisioning_percent: u32) -> Self {
        let available = |part: u32, all: u32| -> u32 {
            if all == 0 {
                return 0;
            }
            let percent = u64::from(overprovisioning_percent) * u64::from(part) / u64::from(all);
            percent.min(100) as u32
        };
        let mut priorities: Vec<Availability> = counts
            .iter()
            .take(PRIORITIES_MAX)
            .map(|counts| Availability {
                all: counts.all,
                healthy: available(counts.healthy, counts.all),
                degraded: available(counts.degraded, counts.all),
                panic: false,
            })
            .collect();
        let sum: u32 = priorities.iter().map(|priority| priority.healthy + priority.degraded).sum();
        if sum < 100 {
            for (priority, counts) in priorities.iter_mut().zip(counts) {
                let usable = f64::from(counts.healthy + counts.degraded) * 100.0;
                priority.panic = usable < panic_threshold_percent * f64::from(counts.all);
            }
            let all: u32 = priorities.iter().map(|priority| priority.all).sum();
            if !priorities.is_empty()
                && priorities.iter().all(|priority| priority.panic || priority.all == 0)
                && all > 0
            {
                // Everything is in panic: load by size.
                for priority in &mut priorities {
                    priority.panic = priority.all > 0;
                    priority.healthy = (u64::from(priority.all) * 100 / u64::from(all)) as u32;
                    priority.degraded = 0;
                }
            }
        }
        let load = distribute(&priorities, 0);
        Self { priorities: priorities.into(), load }
    }

    pub(super) fn panic(&self, at: usize) -> bool {
        self.priorities.get(at).is_some_and(|priority| priority.panic)
    }

    /// The priority that takes a request, and whether its degraded endpoints do. `tried` are bits of priorities to avoid;
    /// where no other is left they count again.
    pub(super) fn choose(&self, key: u64, tried: u64) -> Option<(usize, bool)> {
        if let [one] = self.priorities.as_ref() {
            // One priority, as nearly always: only degradation is left to decide.
            if one.degraded == 0 {
                return (one.healthy > 0).then_some((0, false));
            }
        }
        if tried != 0
            && let Some(found) = walk(&distribute(&self.priorities, tried), self.priorities.len(), key)
        {
            return Some(found);
        }
        walk(&self.load, self.priorities.len(), key)
    }
}

fn walk(load: &Distribution, count: usize, key: u64) -> Option<(usize, bool)> {
    let wanted = (key % 100 + 1) as u32;
    let mut sum = 0;
    for (parts, degraded) in [(&load.healthy, false), (&load.degraded, true)] {
        for (at, &part) in parts.iter().take(count).enumerate() {
            sum += u32::from(part);
            if wanted <= sum {
                return Some((at, degraded));
            }
        }
    }
    None
}

fn distribute(priorities: &[Availability], tried: u64) -> Distribution {
    let mut load = Distribution { healthy: [0; PRIORITIES_MAX], degraded: [0; PRIORITIES_MAX] };
    let open = |at: usize| tried & (1 << at) == 0;
    let sum: u32 = priorities
        .iter()
        .enumerate()
        .filter(|(at, _)| open(*at))
        .map(|(_, priority)| priority.healthy + priority.degraded)
        .sum();
    let sum = sum.min(100);
    if sum == 0 {
        return load;
    }
    let mut left = 100;
    for (at, priority) in priorities.iter().enumerate().filter(|(at, _)| open(*at)) {
        let part = (priority.healthy * 100 / sum).min(left);
        left -= part;
        if let Some(slot) = load.healthy.get_mut(at) {
            *slot = part as u8;
        }
    }
    for (at, priority) in priorities.iter().enumerate().filter(|(at, _)| open(*at)) {
        let part = (priority.degraded * 100 / sum).min(left);
        left -= part;
        if let Some(slot) = load.degraded.get_mut(at) {
            *slot = part as u8;
        }
    }
    // What division lost goes to the first that has any (Envoy).
    if left > 0 {
        let first = load.healthy.iter_mut().chain(load.degraded.iter_mut()).find(|slot| **slot > 0);
        if let Some(slot) = first {
            *slot += left as u8;
        }
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(counts: &[(u32, u32)], threshold: f64) -> Loads {
        let counts: Vec<Counts> = counts.iter().map(|&(all, healthy)| Counts { all, healthy, degraded: 0 }).collect();
        Loads::new(&counts, threshold, 140)
    }

    #[test]
    fn load_spills_over_as_envoys_documentation_shows() {
        // Envoy, "Priority levels", tables of P=0 and P=1.
        for (health, wanted) in
            [(100, (100, 0)), (72, (100, 0)), (71, (99, 1)), (50, (70, 30)), (25, (35, 65)), (0, (0, 100))]
        {
            let loads = loads(&[(100, health), (100, 100)], 50.0);
            assert_eq!((loads.load.healthy[0], loads.load.healthy[1]), wanted, "{health}%");
        }
        let both = loads(&[(100, 25), (100, 25)], 0.0);
        assert_eq!((both.load.healthy[0], both.load.healthy[1]), (50, 50));
    }

    #[test]
    fn panic_is_only_where_the_sum_is_short() {
        assert!(loads(&[(10, 3)], 50.0).panic(0));
        assert!(!loads(&[(10, 8)], 90.0).panic(0), "80% times 1.4 is whole");
        assert!(!loads(&[(10, 1), (10, 10)], 50.0).panic(0));
        assert_eq!(loads(&[(10, 0)], 0.0).choose(7, 0), None, "a threshold of 0 switches panic off");
        assert_eq!(loads(&[(10, 0)], 50.0).choose(7, 0), Some((0, false)));
    }

    #[test]
    fn tried_priorities_are_left_out_while_another_can_serve() {
        let loads = loads(&[(1, 1), (1, 1)], 50.0);
        assert_eq!(loads.choose(0, 0), Some((0, false)));
        assert_eq!(loads.choose(0, 1), Some((1, false)));
        assert_eq!(loads.choose(0, 3), Some((0, false)));
    }
}
