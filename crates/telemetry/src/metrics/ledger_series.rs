//! The ledger's histograms: seconds by category, for the client's sidecar and the server's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::labels::Reporter;
use super::text::Exposition;
use crate::clock::{Clock, Tick};
use crate::cohort::{Cohorts, Reservoir, WINDOW_SECONDS};
use crate::histogram::{Histogram, Merged, bump};
use crate::ledger::{Breakdown, CATEGORIES, Category, STATES, State};
use crate::rng::Rng;

/// One worker's ledgers of one side.
#[derive(Debug, Default)]
pub(super) struct SideCells {
    total_us: Histogram,
    categories_us: [Histogram; CATEGORIES],
    category_ns: [AtomicU64; CATEGORIES],
    state_ns: [AtomicU64; STATES],
    peer_ns: [AtomicU64; CATEGORIES],
    reservoir: Reservoir,
}

/// A worker's writing end for closed ledgers.
pub struct LedgerShard {
    sides: Arc<[SideCells; 2]>,
    rng: Rng,
    window_ticks: u64,
}

impl LedgerShard {
    pub(super) fn new(sides: Arc<[SideCells; 2]>, seed: u64, clock: &Clock) -> Self {
        Self { sides, rng: Rng::seeded(seed), window_ticks: clock.ticks(WINDOW_SECONDS * 1_000_000_000) }
    }

    /// Records a closed account: some fifty relaxed stores, no lock and (once warm) no allocation.
    pub fn record(&mut self, side: Reporter, breakdown: &Breakdown, now: Tick) {
        let cells = &self.sides[side as usize];
        let rows = breakdown.categories();
        cells.total_us.record(rows.iter().fold(0_u64, |sum, &part| sum.saturating_add(part)) / 1_000);
        for (at, ns) in rows.into_iter().enumerate() {
            // Most requests have two or three empty rows; the reader counts them as what the others leave.
            if ns != 0 {
                cells.categories_us[at].record(ns / 1_000);
                bump(&cells.category_ns[at], ns);
            }
        }
        for (cell, ns) in cells.state_ns.iter().zip(breakdown.state_ns) {
            if ns != 0 {
                bump(cell, ns);
            }
        }
        for (cell, ns) in cells.peer_ns.iter().zip(breakdown.peer_ns) {
            if ns != 0 {
                bump(cell, ns);
            }
        }
        cells.reservoir.offer(breakdown, now, self.window_ticks, &mut self.rng);
    }
}

/// The ledgers of one side, all workers together, since the start.
#[derive(Clone, Debug)]
pub struct SideSummary {
    pub side: Reporter,
    pub total_us: Merged,
    pub categories_us: [Merged; CATEGORIES],
    /// Sums, exact: by `Category::ALL`.
    pub category_ns: [u64; CATEGORIES],
    pub state_ns: [u64; STATES],
    pub peer_ns: [u64; CATEGORIES],
}

impl SideSummary {
    pub(super) fn of<'a>(side: Reporter, shards: impl Iterator<Item = &'a SideCells>) -> Self {
        let mut summary = Self {
            side,
            total_us: Merged::default(),
            categories_us: std::array::from_fn(|_| Merged::default()),
            category_ns: [0; CATEGORIES],
            state_ns: [0; STATES],
            peer_ns: [0; CATEGORIES],
        };
        for cells in shards {
            cells.total_us.merge_into(&mut summary.total_us);
            for (merged, histogram) in summary.categories_us.iter_mut().zip(&cells.categories_us) {
                histogram.merge_into(merged);
            }
            add(&mut summary.category_ns, &cells.category_ns);
            add(&mut summary.state_ns, &cells.state_ns);
            add(&mut summary.peer_ns, &cells.peer_ns);
        }
        for merged in &mut summary.categories_us {
            merged.add_zeros(summary.total_us.count.saturating_sub(merged.count));
        }
        summary
    }

    pub fn requests(&self) -> u64 {
        self.total_us.count
    }

    /// The share (0 to 1) of all time that nobody named. Above 0.02 the ledger has a hole.
    pub fn unattributed_share(&self) -> f64 {
        let total: u64 = self.category_ns.iter().sum();
        if total == 0 { 0.0 } else { self.category_ns[Category::Unattributed as usize] as f64 / total as f64 }
    }
}

pub(super) fn cohorts<'a>(shards: impl Iterator<Item = &'a SideCells>) -> Option<Cohorts> {
    Cohorts::of(shards.map(|cells| &cells.reservoir))
}

fn add<const N: usize>(sums: &mut [u64; N], cells: &[AtomicU64; N]) {
    for (sum, cell) in sums.iter_mut().zip(cells) {
        *sum = sum.wrapping_add(cell.load(Relaxed));
    }
}

/// Borders at 1, 2, 4 ... microseconds up to 67 seconds: borders of the log-linear cells too, so the counts are exact.
const EXPOSED_OCTAVES: u32 = 27;

fn expose_histogram(text: &mut Exposition<'_>, name: &str, labels: &str, merged: &Merged, sum_s: f64) {
    let buckets =
        (0..EXPOSED_OCTAVES).map(|bits| ((1_u64 << bits) as f64 / 1_000_000.0, merged.below_power_of_two(bits)));
    text.histogram(name, labels, buckets, merged.count, sum_s);
}

pub(super) fn expose(text: &mut Exposition<'_>, sides: &[SideSummary]) {
    let name = "celerity_request_duration_seconds";
    text.family(name, "Duration of requests, in powers of two of a microsecond.", "histogram");
    for side in sides {
        let labels = Exposition::labels(&[("reporter", side.side.as_str())]);
        expose_histogram(text, name, &labels, &side.total_us, side.category_ns.iter().sum::<u64>() as f64 / 1e9);
    }
    let name = "celerity_ledger_seconds";
    text.family(name, "Where requests' time went, by category; the categories sum to the duration.", "histogram");
    for side in sides {
        for category in Category::ALL {
            let at = category as usize;
            let labels = Exposition::labels(&[("reporter", side.side.as_str()), ("category", category.as_str())]);
            expose_histogram(text, name, &labels, &side.categories_us[at], side.category_ns[at] as f64 / 1e9);
        }
    }
    let name = "celerity_ledger_state_seconds_total";
    text.family(name, "Time by state of this proxy; the peer's own part is not in it.", "counter");
    for side in sides {
        for state in State::ALL {
            let ns = side.state_ns[state as usize];
            if ns > 0 {
                let labels = Exposition::labels(&[
                    ("reporter", side.side.as_str()),
                    ("category", state.category().as_str()),
                    ("state", state.as_str()),
                ]);
                text.sample(name, &labels, ns as f64 / 1e9);
            }
        }
    }
}
