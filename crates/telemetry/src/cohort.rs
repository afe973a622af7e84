//! Which part grows in the tail: the mean account of the requests near the 99th percentile beside that of those near
//! the median.
//!
//! Percentiles of parts do not add: the p99 of the network and the p99 of the service are different requests. The mean
//! over the same requests does add. So whole accounts are kept, a uniform sample of each window of ten seconds
//! (Vitter's algorithm R), and the cohorts are cut from them when somebody asks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Tick;
use crate::ledger::{Breakdown, CATEGORIES, Category, STATES, State};
use crate::rng::Rng;

/// Accounts kept per window, worker and side. One in a hundred falls into the tail cohort: 20 of each window. A slot is
/// 148 bytes: 300 KB per window, made in blocks as they fill.
pub const SAMPLES_MAX: usize = 2_048;
/// The time after which a window is closed and the older one is begun anew.
pub const WINDOW_SECONDS: u64 = 10;

const BLOCK: usize = 128;
/// An account's own states, then the peer's categories.
const PARTS: usize = STATES + CATEGORIES;
/// Parts are kept in units of 16 ns: 32 bits reach to 68 seconds, beyond which a part is clipped.
const UNIT_SHIFT: u32 = 4;

#[derive(Debug)]
struct Slot {
    /// Odd while the writer is inside: a reader that sees it odd, or changed, leaves the slot out.
    sequence: AtomicU32,
    parts: [AtomicU32; PARTS],
}

impl Slot {
    fn empty() -> Self {
        Self { sequence: AtomicU32::new(0), parts: std::array::from_fn(|_| AtomicU32::new(0)) }
    }

    fn write(&self, breakdown: &Breakdown) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Release);
        for (slot, ns) in self.parts.iter().zip(breakdown.state_ns.iter().chain(&breakdown.peer_ns)) {
            slot.store(u32::try_from(ns >> UNIT_SHIFT).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    fn read(&self) -> Option<[u32; PARTS]> {
        let before = self.sequence.load(Ordering::Acquire);
        let parts = std::array::from_fn(|at| self.parts[at].load(Ordering::Relaxed));
        std::sync::atomic::fence(Ordering::Acquire);
        (before.is_multiple_of(2) && before == self.sequence.load(Ordering::Relaxed)).then_some(parts)
    }
}

#[derive(Debug, Default)]
struct Window {
    seen: AtomicU64,
    blocks: [OnceLock<Box<[Slot; BLOCK]>>; SAMPLES_MAX / BLOCK],
}

impl Window {
    fn slot(&self, at: usize) -> &Slot {
        let block = self.blocks[at / BLOCK].get_or_init(|| Box::new(std::array::from_fn(|_| Slot::empty())));
        &block[at % BLOCK]
    }

    fn sample(&self, breakdown: &Breakdown, rng: &mut Rng) {
        let seen = self.seen.load(Ordering::Relaxed);
        let at = if seen < SAMPLES_MAX as u64 { seen } else { rng.below(seen + 1) };
        if at < SAMPLES_MAX as u64 {
            self.slot(at as usize).write(breakdown);
        }
        self.seen.store(seen + 1, Ordering::Release);
    }

    fn collect(&self, into: &mut Vec<Account>) {
        let seen = self.seen.load(Ordering::Acquire);
        let kept = seen.min(SAMPLES_MAX as u64);
        for at in 0..kept as usize {
            let Some(block) = self.blocks[at / BLOCK].get() else { break };
            if let Some(parts) = block[at % BLOCK].read() {
                let total = parts.iter().map(|part| u64::from(*part)).sum();
                into.push(Account { total, weight: seen as f64 / kept as f64, parts });
            }
        }
    }
}

/// The sampled accounts of one worker and side: the window that fills and the one before. One thread writes.
#[derive(Debug, Default)]
pub struct Reservoir {
    windows: [Window; 2],
    current: AtomicU64,
    since: AtomicU64,
}

impl Reservoir {
    /// Offers an account. Costs a few nanoseconds for most, since a full window takes ever fewer; one that is taken
    /// costs about 36 stores. `window_ticks` is `WINDOW_SECONDS` in clock ticks.
    pub fn offer(&self, breakdown: &Breakdown, now: Tick, window_ticks: u64, rng: &mut Rng) {
        let mut current = self.current.load(Ordering::Relaxed);
        if now.since(Tick(self.since.load(Ordering::Relaxed))) > window_ticks {
            current ^= 1;
            self.windows[current as usize & 1].seen.store(0, Ordering::Release);
            self.current.store(current, Ordering::Relaxed);
            self.since.store(now.0, Ordering::Relaxed);
        }
        self.windows[current as usize & 1].sample(breakdown, rng);
    }

    pub(crate) fn collect(&self, into: &mut Vec<Account>) {
        self.windows.iter().for_each(|window| window.collect(into));
    }
}

/// One sampled account; it stands for `weight` requests.
#[derive(Debug)]
pub(crate) struct Account {
    total: u64,
    weight: f64,
    parts: [u32; PARTS],
}

/// The mean account of the requests between two percentiles of the total.
#[derive(Clone, Debug)]
pub struct Cohort {
    /// The borders, as shares: 0.985 and 0.995.
    pub from: f64,
    pub to: f64,
    /// Accounts that the mean is of. Below ten or so, trust it little.
    pub samples: usize,
    pub total_ns: f64,
    /// By `State::ALL`, of our own.
    pub state_ns: [f64; STATES],
    /// By `Category::ALL`, of the peer's sidecar.
    pub peer_ns: [f64; CATEGORIES],
}

impl Cohort {
    /// The seven rows, the peer's part in them. They sum to `total_ns`.
    pub fn categories(&self) -> [f64; CATEGORIES] {
        let mut rows = self.peer_ns;
        for state in State::ALL {
            rows[state.category() as usize] += self.state_ns[state as usize];
        }
        rows
    }

    pub fn category(&self, category: Category) -> f64 {
        self.categories()[category as usize]
    }
}

/// The typical request and the slow one.
#[derive(Clone, Debug)]
pub struct Cohorts {
    /// p45 to p55.
    pub median: Cohort,
    /// p98.5 to p99.5.
    pub tail: Cohort,
}

pub const MEDIAN: (f64, f64) = (0.45, 0.55);
pub const TAIL: (f64, f64) = (0.985, 0.995);

impl Cohorts {
    /// `None` where nothing was sampled.
    pub fn of<'a>(reservoirs: impl IntoIterator<Item = &'a Reservoir>) -> Option<Self> {
        let mut accounts = Vec::new();
        for reservoir in reservoirs {
            reservoir.collect(&mut accounts);
        }
        if accounts.is_empty() {
            return None;
        }
        accounts.sort_unstable_by_key(|account| account.total);
        Some(Self { median: cut(&accounts, MEDIAN), tail: cut(&accounts, TAIL) })
    }
}

/// The mean of the accounts whose own place in the order lies between two shares; of the nearest one where none does.
fn cut(sorted: &[Account], (from, to): (f64, f64)) -> Cohort {
    let all: f64 = sorted.iter().map(|account| account.weight).sum();
    let mut chosen: Vec<&Account> = Vec::new();
    let mut nearest = (f64::INFINITY, None);
    let mut before = 0.0;
    for account in sorted {
        let place = (before + account.weight / 2.0) / all;
        before += account.weight;
        if (from..=to).contains(&place) {
            chosen.push(account);
        }
        let distance = (place - (from + to) / 2.0).abs();
        if distance < nearest.0 {
            nearest = (distance, Some(account));
        }
    }
    if chosen.is_empty() {
        chosen.extend(nearest.1);
    }
    let weight: f64 = chosen.iter().map(|account| account.weight).sum();
    let mean = |part: usize| {
        let sum: f64 = chosen.iter().map(|account| f64::from(account.parts[part]) * account.weight).sum();
        sum * f64::from(1 << UNIT_SHIFT) / weight.max(f64::MIN_POSITIVE)
    };
    let state_ns = std::array::from_fn(mean);
    let peer_ns = std::array::from_fn(|at| mean(STATES + at));
    let total_ns = state_ns.iter().chain(&peer_ns).sum();
    Cohort { from, to, samples: chosen.len(), total_ns, state_ns, peer_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(state: State, ns: u64) -> Breakdown {
        let mut breakdown = Breakdown::default();
        breakdown.state_ns[state as usize] = ns;
        breakdown.peer_ns[Category::Service as usize] = 1_600;
        breakdown
    }

    #[test]
    fn the_tail_shows_what_grew() {
        let reservoir = Reservoir::default();
        let mut rng = Rng::seeded(1);
        for n in 0..2_000_u64 {
            let slow = n % 50 == 0;
            let breakdown =
                if slow { account(State::PoolPending, 160_000) } else { account(State::Route, 16_000 + n * 16) };
            reservoir.offer(&breakdown, Tick(1), u64::MAX, &mut rng);
        }
        let cohorts = Cohorts::of([&reservoir]).unwrap();
        assert_eq!(cohorts.tail.category(Category::Queueing), 160_000.0);
        assert_eq!(cohorts.tail.category(Category::Service), 1_600.0);
        assert_eq!(cohorts.median.category(Category::Queueing), 0.0);
        let sum: f64 = cohorts.median.categories().iter().sum();
        assert!((sum - cohorts.median.total_ns).abs() < 1e-6);
        assert!(Cohorts::of([&Reservoir::default()]).is_none());
    }

    #[test]
    fn a_full_window_stays_a_uniform_sample_and_keeps_its_bound() {
        let reservoir = Reservoir::default();
        let mut rng = Rng::seeded(7);
        let all = 50_000_u64;
        for n in 0..all {
            reservoir.offer(&account(State::Route, n * 16), Tick(1), u64::MAX, &mut rng);
        }
        let mut accounts = Vec::new();
        reservoir.collect(&mut accounts);
        assert_eq!(accounts.len(), SAMPLES_MAX);
        let weight: f64 = accounts.iter().map(|account| account.weight).sum();
        assert!((weight - all as f64).abs() < 1.0);
        let median = Cohorts::of([&reservoir]).unwrap().median.state_ns[State::Route as usize] / 16.0;
        assert!((median - all as f64 / 2.0).abs() < all as f64 * 0.05, "{median}");
    }

    #[test]
    fn old_windows_are_forgotten() {
        let reservoir = Reservoir::default();
        let mut rng = Rng::seeded(3);
        for window in 1..=4_u64 {
            reservoir.offer(&account(State::Route, window * 1_600), Tick(window * 100), 50, &mut rng);
        }
        let mut accounts = Vec::new();
        reservoir.collect(&mut accounts);
        let mut totals: Vec<_> = accounts.iter().map(|account| account.total).collect();
        totals.sort_unstable();
        assert_eq!(totals, [400, 500]);
    }
}
