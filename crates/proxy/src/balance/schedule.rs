//! Earliest deadline first: picks in proportion to weights, spread evenly.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A worker's schedule over a fixed set. Each entry's next turn comes `1 / weight` after its last; ties go to the entry
/// that was put in first (Envoy `EdfScheduler`). The heap never grows past the set, so that a pick does not allocate.
#[derive(Debug)]
pub(super) struct Edf {
    heap: RefCell<BinaryHeap<Turn>>,
    weights: Box<[f64]>,
    now: Cell<f64>,
    order: Cell<u64>,
}

#[derive(Debug)]
struct Turn {
    deadline: f64,
    order: u64,
    at: usize,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    /// The heap's greatest is the earliest deadline.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

/// Keeps deadlines finite where a weight is tiny.
const WEIGHT_MIN: f64 = 1e-9;

impl Edf {
    /// `start` picks are skipped, so that workers do not begin with the same endpoint.
    pub(super) fn new(weights: &[f64], start: usize) -> Self {
        let schedule = Self {
            heap: RefCell::new(BinaryHeap::with_capacity(weights.len() + 1)),
            weights: weights.into(),
            now: Cell::new(0.0),
            order: Cell::new(0),
        };
        for (at, &weight) in weights.iter().enumerate() {
            schedule.put(at, weight);
        }
        for _ in 0..start {
            schedule.pick(|_, weight| weight);
        }
        schedule
    }

    fn put(&self, at: usize, weight: f64) {
        let order = self.order.get();
        self.order.set(order + 1);
        self.heap.borrow_mut().push(Turn { deadline: self.now.get() + 1.0 / weight.max(WEIGHT_MIN), order, at });
    }

    /// The next entry. `weight_now` says what its weight is until its next turn.
    pub(super) fn pick(&self, weight_now: impl Fn(usize, f64) -> f64) -> Option<usize> {
        let turn = self.heap.borrow_mut().pop()?;
        self.now.set(turn.deadline);
        self.put(turn.at, weight_now(turn.at, self.weights.get(turn.at).copied().unwrap_or(1.0)));
        Some(turn.at)
    }
}

/// A number derived from another, as random as it (SplitMix64).
pub(super) fn splitmix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
