//! What another thread may know of a run and do to it while it goes: counters to read, and a flag to stop it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::timeline::{ROWS, row_floor_us, row_of};

/// A handle to a run. Cheap to clone; one run at a time.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stop: AtomicU8,
    cells: Mutex<Vec<Arc<Cell>>>,
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    No,
    /// Start nothing more, wait for what is under way.
    Gently,
    /// Give up what is under way too.
    Now,
}

impl Control {
    pub fn new() -> Self {
        Self::default()
    }

    /// Safe to call from any thread, any number of times. A later call does not take back an earlier, stronger one.
    pub fn stop(&self, how: Stop) {
        self.0.stop.fetch_max(how as u8, Relaxed);
    }

    pub fn stopping(&self) -> Stop {
        match self.0.stop.load(Relaxed) {
            0 => Stop::No,
            1 => Stop::Gently,
            _ => Stop::Now,
        }
    }

    /// The state of now, over all threads. Numbers of different threads may be some requests apart.
    pub fn progress(&self) -> Progress {
        let mut out = Progress::default();
        for cell in self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.elapsed_ns = out.elapsed_ns.max(cell.elapsed_ns.load(Relaxed));
            out.intended += cell.intended.load(Relaxed);
            out.sent += cell.sent.load(Relaxed);
            out.succeeded += cell.succeeded.load(Relaxed);
            out.failed += cell.failed.load(Relaxed);
            out.bytes_received += cell.bytes_received.load(Relaxed);
            out.in_flight += cell.in_flight.load(Relaxed);
            out.open_connections += cell.open_connections.load(Relaxed);
            for (sum, row) in out.rows.iter_mut().zip(&cell.rows) {
                *sum += row.load(Relaxed);
            }
            for (sum, row) in out.lag_rows.iter_mut().zip(&cell.lag_rows) {
                *sum += row.load(Relaxed);
            }
        }
        out
    }

    pub(crate) fn add_thread(&self) -> Arc<Cell> {
        let cell = Arc::new(Cell::default());
        self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cell));
        cell
    }

    pub(crate) fn clear(&self) {
        self.0.cells.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One thread's live numbers. Only that thread writes, with a relaxed load and store: no locked instruction.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) elapsed_ns: AtomicU64,
    pub(crate) intended: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) in_flight: AtomicU32,
    pub(crate) open_connections: AtomicU32,
    rows: [AtomicU64; ROWS],
    lag_rows: [AtomicU64; ROWS],
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            elapsed_ns: AtomicU64::new(0),
            intended: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            open_connections: AtomicU32::new(0),
            rows: [const { AtomicU64::new(0) }; ROWS],
            lag_rows: [const { AtomicU64::new(0) }; ROWS],
        }
    }
}

impl Cell {
    #[inline]
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.store(counter.load(Relaxed) + by, Relaxed);
    }

    #[inline]
    pub(crate) fn latency(&self, ns: u64) {
        if let Some(row) = self.rows.get(row_of(ns)) {
            Self::add(row, 1);
        }
    }

    #[inline]
    pub(crate) fn lag(&self, ns: u64) {
        if let Some(row) = self.lag_rows.get(row_of(ns)) {
            Self::add(row, 1);
        }
    }
}

/// A run as it stands. Counters since the start; the difference of two is what happened between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub elapsed_ns: u64,
    pub intended: u64,
    pub sent: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub bytes_received: u64,
    /// Now, not since the start.
    pub in_flight: u32,
    pub open_connections: u32,
    /// Response times by row of latency.
    rows: [u64; ROWS],
    lag_rows: [u64; ROWS],
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            elapsed_ns: 0,
            intended: 0,
            sent: 0,
            succeeded: 0,
            failed: 0,
            bytes_received: 0,
            in_flight: 0,
            open_connections: 0,
            rows: [0; ROWS],
            lag_rows: [0; ROWS],
        }
    }
}

impl Progress {
    /// What happened since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let rows = |now: &[u64; ROWS], then: &[u64; ROWS]| std::array::from_fn(|n| now[n].saturating_sub(then[n]));
        Self {
            elapsed_ns: self.elapsed_ns.saturating_sub(earlier.elapsed_ns),
            intended: self.intended.saturating_sub(earlier.intended),
            sent: self.sent.saturating_sub(earlier.sent),
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            in_flight: self.in_flight,
            open_connections: self.open_connections,
            rows: rows(&self.rows, &earlier.rows),
            lag_rows: rows(&self.lag_rows, &earlier.lag_rows),
        }
    }

    /// A quantile of the response time in milliseconds, to a tenth: enough for a screen, the report has the exact one.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        quantile_ms(&self.rows, q)
    }

    /// The same of the sender's lag.
    pub fn lag_quantile_ms(&self, q: f64) -> Option<f64> {
        quantile_ms(&self.lag_rows, q)
    }
}

fn quantile_ms(rows: &[u64; ROWS], q: f64) -> Option<f64> {
    let total: u64 = rows.iter().sum();
    let rank = ((q * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    for (row, &count) in rows.iter().enumerate() {
        if count > 0 && seen + count >= rank {
            let within = (rank - seen) as f64 / count as f64;
            let (low, high) = (row_floor_us(row), row_floor_us(row + 1));
            return Some((low + (high - low) * within) / 1e3);
        }
        seen += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_threads_up_and_gives_quantiles() {
        let control = Control::new();
        let (a, b) = (control.add_thread(), control.add_thread());
        (0..1000).for_each(|n| a.latency(n * 10_000));
        Cell::add(&b.sent, 5);
        let now = control.progress();
        assert_eq!(now.sent, 5);
        let p50 = now.quantile_ms(0.5).expect("a median");
        assert!((p50 - 5.0).abs() < 0.6, "{p50}");
        assert_eq!(now.since(&now).quantile_ms(0.5), None);
    }

    #[test]
    fn a_stop_is_not_taken_back() {
        let control = Control::new();
        control.stop(Stop::Now);
        control.stop(Stop::Gently);
        assert_eq!(control.stopping(), Stop::Now);
    }
}
