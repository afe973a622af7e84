//! Log-linear histograms of unsigned whole numbers (microseconds, as a rule).
//!
//! Every power of two is cut into 32 equal cells, so a value is known to 1/32 (3.1 %); values below 64 are exact.
//! One thread writes a histogram and any thread may read it: a cell is written by a relaxed load and store, which costs
//! what a plain addition costs. A reader may see a value's cell before its sum: off by the requests of a few
//! nanoseconds, never torn.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Cells to a power of two, and so the relative error: 1/32.
pub const CELLS_PER_OCTAVE: usize = 32;
const SUB_BITS: u32 = 5;
/// Values from 2^32 up (71 minutes in microseconds) fall into the last cell.
const VALUE_BITS_MAX: u32 = 32;
/// One block for 0..32, and one for each of 2^5..2^6 to 2^31..2^32.
pub const OCTAVES: usize = (VALUE_BITS_MAX - SUB_BITS + 1) as usize;
/// All cells of a histogram.
pub const CELLS: usize = OCTAVES * CELLS_PER_OCTAVE;

/// The cell of a value.
#[inline]
pub fn cell_of(value: u64) -> usize {
    if value < CELLS_PER_OCTAVE as u64 {
        return value as usize;
    }
    if value >> VALUE_BITS_MAX != 0 {
        return CELLS - 1;
    }
    let shift = 63 - value.leading_zeros() - SUB_BITS;
    shift as usize * CELLS_PER_OCTAVE + (value >> shift) as usize
}

/// The smallest value of a cell.
pub fn cell_low(cell: usize) -> u64 {
    let octave = cell / CELLS_PER_OCTAVE;
    if octave == 0 {
        return cell as u64;
    }
    ((CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE) as u64) << (octave - 1)
}

/// The largest value of a cell. The last cell also holds everything above it.
pub fn cell_high(cell: usize) -> u64 {
    cell_low(cell + 1) - 1
}

/// Adds to a cell that only this thread writes.
#[inline]
pub(crate) fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

type Octave = [AtomicU64; CELLS_PER_OCTAVE];

/// A histogram that one thread writes. An octave's cells (256 bytes) are made when the first value falls into it: a
/// series whose latencies span five octaves takes 1.5 KB instead of 7 KB, and a thousand of them are affordable.
#[derive(Debug)]
pub struct Histogram {
    octaves: [OnceLock<Box<Octave>>; OCTAVES],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { octaves: std::array::from_fn(|_| OnceLock::new()), sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn new() -> Self {
        Self::default()
    }

    /// Records one value. Only one thread may call this: two would lose counts of one another.
    #[inline]
    pub fn record(&self, value: u64) {
        let cell = cell_of(value);
        let octave =
            self.octaves[cell / CELLS_PER_OCTAVE].get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        bump(&octave[cell % CELLS_PER_OCTAVE], 1);
        bump(&self.sum, value);
        if value > self.max.load(Relaxed) {
            self.max.store(value, Relaxed);
        }
    }

    /// Adds what is here now to a merged copy.
    pub fn merge_into(&self, merged: &mut Merged) {
        for (block, octave) in self.octaves.iter().enumerate() {
            let Some(octave) = octave.get() else { continue };
            for (cell, count) in octave.iter().enumerate() {
                let count = count.load(Relaxed);
                merged.cells[block * CELLS_PER_OCTAVE + cell] += count;
                merged.count += count;
            }
        }
        merged.sum = merged.sum.wrapping_add(self.sum.load(Relaxed));
        merged.max = merged.max.max(self.max.load(Relaxed));
    }
}

/// The sum of several workers' histograms, owned by the reader.
#[derive(Clone, Debug)]
pub struct Merged {
    cells: Vec<u64>,
    pub count: u64,
    pub sum: u64,
    /// The largest value recorded, exactly.
    pub max: u64,
}

impl Default for Merged {
    fn default() -> Self {
        Self { cells: vec![0; CELLS], count: 0, sum: 0, max: 0 }
    }
}

impl Merged {
    pub fn of<'a>(shards: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let mut merged = Self::default();
        for shard in shards {
            shard.merge_into(&mut merged);
        }
        merged
    }

    /// Records a value: for measurements of one thread that need no sharing.
    pub fn record(&mut self, value: u64) {
        self.cells[cell_of(value)] += 1;
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        self.max = self.max.max(value);
    }

    /// Adds values of zero.
    pub fn add_zeros(&mut self, count: u64) {
        self.cells[0] += count;
        self.count += count;
    }

    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What was recorded since `earlier`, a copy of the same histograms. `max` stays that of the whole.
    pub fn since(&self, earlier: &Self) -> Self {
        let cells: Vec<u64> =
            self.cells.iter().zip(&earlier.cells).map(|(new, old)| new.saturating_sub(*old)).collect();
        Self { count: cells.iter().sum(), cells, sum: self.sum.wrapping_sub(earlier.sum), max: self.max }
    }

    /// The value below or at which a share `q` (0 to 1) of the values lie: the top of the cell that holds it, so at most
    /// 3.1 % too high and never too low. `None` where nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (cell, count) in self.cells.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(if cell == CELLS - 1 { self.max } else { cell_high(cell).min(self.max) });
            }
        }
        Some(self.max)
    }

    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// How many values lie below 2^`bits`: exact, since every power of two is a border between cells.
    pub fn below_power_of_two(&self, bits: u32) -> u64 {
        if bits >= VALUE_BITS_MAX {
            return self.count;
        }
        self.cells[..cell_of(1 << bits)].iter().sum()
    }

    /// The cells that hold something: smallest value, largest value, count.
    pub fn cells(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.cells
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(cell, count)| (cell_low(cell), cell_high(cell), *count))
    }
}

/// Istio's bucket borders for `istio_request_duration_milliseconds` and the byte histograms, which are Envoy's defaults
/// (envoy `docs/root/operations/stats_overview`, histogram buckets), in the metric's own unit.
pub const ISTIO_BORDERS: [&str; BORDERS] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000",
];
pub const BORDERS: usize = 19;

/// The same borders in thousandths: microseconds where the metric is in milliseconds.
const BORDERS_MILLI: [u64; BORDERS] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// The classic bucket of each log-linear cell's smallest value. A cell is narrower than the gap between any two
/// borders, so a value's bucket is this one or the next: one comparison instead of a search.
static BUCKET_OF_CELL: [u8; CELLS] = bucket_table();

const fn bucket_table() -> [u8; CELLS] {
    let mut table = [0; CELLS];
    let mut cell = 0;
    while cell < CELLS {
        let octave = cell / CELLS_PER_OCTAVE;
        let low = if octave == 0 {
            cell as u64
        } else {
            ((CELLS_PER_OCTAVE + cell % CELLS_PER_OCTAVE) as u64) << (octave - 1)
        };
        let mut bucket = 0;
        while bucket < BORDERS && low > BORDERS_MILLI[bucket] {
            bucket += 1;
        }
        table[cell] = bucket as u8;
        cell += 1;
    }
    table
}

/// The classic buckets of one series, counted beside the log-linear cells: the borders of the one do not lie on borders
/// of the other, and a bucket must be exact or Prometheus's quantiles are not Istio's.
#[derive(Debug, Default)]
pub struct ClassicBuckets {
    /// Not cumulative; the last is everything above the last border.
    counts: [AtomicU64; BORDERS + 1],
    sum: AtomicU64,
}

impl ClassicBuckets {
    /// Records a value in thousandths of the metric's unit: microseconds for milliseconds. A value on a border belongs
    /// below it (`le`). Single writer.
    #[inline]
    pub fn record_milli(&self, value: u64) {
        let mut bucket = usize::from(BUCKET_OF_CELL[cell_of(value)]);
        if bucket < BORDERS && value > BORDERS_MILLI[bucket] {
            bucket += 1;
        }
        bump(&self.counts[bucket], 1);
        bump(&self.sum, value);
    }

    /// Records a value in the metric's unit: bytes. Single writer.
    #[inline]
    pub fn record_units(&self, value: u64) {
        self.record_milli(value.saturating_mul(1_000));
    }

    pub fn merge_into(&self, merged: &mut ClassicMerged) {
        for (mine, theirs) in merged.counts.iter_mut().zip(&self.counts) {
            *mine += theirs.load(Relaxed);
        }
        merged.sum_milli = merged.sum_milli.wrapping_add(self.sum.load(Relaxed));
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassicMerged {
    pub counts: [u64; BORDERS + 1],
    pub sum_milli: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_meet_without_gap_or_overlap() {
        assert_eq!(cell_low(0), 0);
        for cell in 0..CELLS - 1 {
            assert_eq!(cell_high(cell) + 1, cell_low(cell + 1));
            assert_eq!(cell_of(cell_low(cell)), cell);
            assert_eq!(cell_of(cell_high(cell)), cell);
        }
        assert_eq!(cell_of(u64::from(u32::MAX)), CELLS - 1);
        assert_eq!(cell_of(u64::MAX), CELLS - 1);
    }

    #[test]
    fn quantiles_are_within_a_thirty_second() {
        let histogram = Histogram::new();
        for value in 1..=10_000 {
            histogram.record(value);
        }
        let merged = Merged::of([&histogram]);
        for (q, truth) in [(0.5, 5_000), (0.95, 9_500), (0.99, 9_900), (1.0, 10_000)] {
            let found = merged.quantile(q).unwrap();
            assert!(found >= truth && found - truth <= truth / 32, "{q}: {found}");
        }
        assert_eq!(merged.max, 10_000);
        assert_eq!(Merged::default().quantile(0.5), None);
    }

    #[test]
    fn a_classic_border_belongs_below() {
        let buckets = ClassicBuckets::default();
        for (at, border) in BORDERS_MILLI.iter().enumerate() {
            buckets.record_milli(*border);
            buckets.record_milli(border + 1);
            let mut merged = ClassicMerged::default();
            buckets.merge_into(&mut merged);
            assert_eq!(merged.counts[at], if at == 0 { 1 } else { 2 }, "border {border}");
        }
    }

    proptest! {
        #[test]
        fn every_cell_is_narrow(value in 0_u64..1 << 32) {
            let cell = cell_of(value);
            prop_assert!(cell_low(cell) <= value && value <= cell_high(cell));
            prop_assert!((cell_high(cell) - cell_low(cell)) * CELLS_PER_OCTAVE as u64 <= value);
        }

        #[test]
        fn classic_buckets_are_exact(value in 0_u64..5_000_000_000) {
            let buckets = ClassicBuckets::default();
            buckets.record_milli(value);
            let mut merged = ClassicMerged::default();
            buckets.merge_into(&mut merged);
            let expected = BORDERS_MILLI.iter().position(|border| value <= *border).unwrap_or(BORDERS);
            prop_assert_eq!(merged.counts[expected], 1);
        }

        #[test]
        fn powers_of_two_divide_exactly(values in proptest::collection::vec(0_u64..1 << 34, 1..50), bits in 0_u32..34) {
            let mut merged = Merged::default();
            for value in &values {
                merged.record(*value);
            }
            let expected = if bits >= 32 { values.len() } else { values.iter().filter(|value| **value < 1 << bits).count() };
            prop_assert_eq!(merged.below_power_of_two(bits), expected as u64);
        }
    }
}
