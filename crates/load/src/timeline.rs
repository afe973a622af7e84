//! How a run went over time: counts and latencies in bins of time that merge in pairs when they are full, so that a run
//! of any length takes the same memory.

use serde::{Deserialize, Serialize};

/// Bins of time. Enough for a chart's width; past it neighbours merge and a bin covers twice the time.
pub const BINS_MAX: usize = 256;
/// What a bin covers at first.
pub const BIN_NS_MIN: u64 = 100_000_000;
/// Latency rows: four for each doubling, from 1 microsecond to 2^27 microseconds (134 s); shorter and longer ones count in
/// the first and the last.
pub const ROWS: usize = 108;
const ROWS_PER_OCTAVE: u32 = 4;

/// One bin of time. Sends count where they were made, ends where they came; latencies at their intended time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// Requests whose intended time lies in the bin.
    pub intended: u64,
    pub sent: u64,
    pub succeeded: u64,
    /// Answers that are no success, and requests without an answer.
    pub failed: u64,
    pub bytes_received: u64,
    /// Response times of answered requests by row of latency, trailing zeroes left out. See [`row_floor_us`].
    pub rows: Vec<u32>,
}

/// The whole run in at most [`BINS_MAX`] bins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeline {
    pub bin_ns: u64,
    pub bins: Vec<Bin>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { bin_ns: BIN_NS_MIN, bins: Vec::new() }
    }
}

/// The shortest latency of a row, in microseconds; the first row begins at 0.
pub fn row_floor_us(row: usize) -> f64 {
    let (octave, within) = (row / ROWS_PER_OCTAVE as usize, row % ROWS_PER_OCTAVE as usize);
    if row == 0 { 0.0 } else { (octave as f64).exp2() * (1.0 + within as f64 / f64::from(ROWS_PER_OCTAVE)) }
}

/// The row in which a latency counts. A row is a quarter of an octave cut linearly: the two bits below the leading one.
pub fn row_of(ns: u64) -> usize {
    // A fraction of a microsecond is kept as two bits, so that the first octave has its four rows too.
    let quarters = (ns / 250).max(4);
    let octave = 63 - quarters.leading_zeros();
    let within = (quarters >> (octave - 2)) & 3;
    (((octave - 2) * ROWS_PER_OCTAVE) as usize + within as usize).min(ROWS - 1)
}

impl Timeline {
    /// The bin of a moment, in nanoseconds since the start.
    #[inline]
    pub fn at(&mut self, ns: u64) -> &mut Bin {
        let mut place = (ns / self.bin_ns) as usize;
        while place >= BINS_MAX {
            self.coarsen();
            place = (ns / self.bin_ns) as usize;
        }
        if place >= self.bins.len() {
            self.bins.resize_with(place + 1, Bin::default);
        }
        &mut self.bins[place]
    }

    pub fn latency(&mut self, intended_ns: u64, latency_ns: u64) {
        let row = row_of(latency_ns);
        let rows = &mut self.at(intended_ns).rows;
        if rows.len() <= row {
            // All rows at once: a bin allocates once, not as its latencies grow.
            rows.reserve_exact(ROWS - rows.len());
            rows.resize(row + 1, 0);
        }
        rows[row] = rows[row].saturating_add(1);
    }

    fn coarsen(&mut self) {
        self.bin_ns = self.bin_ns.saturating_mul(2);
        let old = std::mem::take(&mut self.bins);
        self.bins = Vec::with_capacity(BINS_MAX);
        let mut old = old.into_iter();
        while let Some(mut bin) = old.next() {
            if let Some(next) = old.next() {
                bin.add(&next);
            }
            self.bins.push(bin);
        }
    }

    /// Adds another thread's line with the same start.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.bin_ns < other.bin_ns {
            self.coarsen();
        }
        while other.bin_ns < self.bin_ns {
            other.coarsen();
        }
        if self.bins.len() < other.bins.len() {
            self.bins.resize_with(other.bins.len(), Bin::default);
        }
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            mine.add(theirs);
        }
    }
}

impl Bin {
    fn add(&mut self, other: &Self) {
        self.intended += other.intended;
        self.sent += other.sent;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.bytes_received += other.bytes_received;
        if self.rows.len() < other.rows.len() {
            self.rows.resize(other.rows.len(), 0);
        }
        for (mine, theirs) in self.rows.iter_mut().zip(&other.rows) {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_takes_no_more_bins_and_loses_nothing() {
        let mut line = Timeline::default();
        for second in 0..100_000_u64 {
            line.at(second * 1_000_000_000).sent += 1;
            line.latency(second * 1_000_000_000, 5_000_000);
        }
        assert!(line.bins.len() <= BINS_MAX);
        assert_eq!(line.bins.iter().map(|b| b.sent).sum::<u64>(), 100_000);
        assert_eq!(line.bins.iter().flat_map(|b| &b.rows).map(|&n| u64::from(n)).sum::<u64>(), 100_000);
        assert!(line.bins.iter().all(|b| b.rows.capacity() <= ROWS));
    }

    #[test]
    fn lines_of_different_widths_merge() {
        let (mut short, mut long) = (Timeline::default(), Timeline::default());
        short.at(50_000_000).sent = 1;
        long.at(3_600_000_000_000).sent = 2;
        let width = long.bin_ns;
        short.merge(&long);
        assert_eq!((short.bin_ns, short.bins.iter().map(|b| b.sent).sum::<u64>()), (width, 3));
    }

    #[test]
    fn rows_are_quarters_of_octaves() {
        for ns in [0, 999, 1000, 1500, 2000, 3000, 1_000_000, 60_000_000_000] {
            let row = row_of(ns);
            let floor_us = row_floor_us(row);
            let us = ns as f64 / 1000.0;
            assert!(floor_us <= us && us < row_floor_us(row + 1), "{ns} ns: row {row} from {floor_us} us");
        }
        assert_eq!(row_of(u64::MAX), ROWS - 1);
    }
}
