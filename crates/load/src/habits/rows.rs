//! Each request of a run, for what asks for it (`vegeta attack`, `hey -o csv`): handed over in batches to another thread,
//! which writes them. Nobody else pays for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::summary::ErrorKind;

/// One request. Times are nanoseconds from the run's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its place in the plan's list of requests.
    pub request: u32,
    pub intended_ns: u64,
    /// The last byte of the answer, or when the request was given up.
    pub ended_ns: u64,
    /// 0 without an answer.
    pub status: u16,
    pub body_bytes: u64,
    pub success: bool,
    pub error: Option<ErrorKind>,
}

/// Rows that go over together: one wake-up of the writer for so many requests.
const BATCH: usize = 256;

/// Batches that may wait for the writer, of all threads: some 4 MB. A writer that is slower than the run holds it up,
/// which the sender's lag then shows; nothing is left out.
const BATCHES_WAITING: usize = 256;

/// Where a run tells its requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rows(SyncSender<Vec<Row>>);

impl Rows {
    /// The two ends. The receiver ends when every sender is gone: the plan too must be dropped.
    pub fn new() -> (Self, Receiver<Vec<Row>>) {
        let (send, receive) = sync_channel(BATCHES_WAITING);
        (Self(send), receive)
    }
}

/// One thread's batch.
#[derive(Debug)]
pub(crate) struct Batch {
    to: Rows,
    rows: Vec<Row>,
}

impl Batch {
    pub(crate) fn new(to: Rows) -> Self {
        Self { to, rows: Vec::with_capacity(BATCH) }
    }

    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
        if self.rows.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is, so that a reader at the other end of a pipe sees it. A reader that is gone is not told.
    pub(crate) fn flush(&mut self) {
        if !self.rows.is_empty() {
            let _ = self.to.0.send(std::mem::replace(&mut self.rows, Vec::with_capacity(BATCH)));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}
