//! What one worker has open on one listener now: connections and requests.

use crate::worker::Worker;
use celerity_telemetry::metrics::{Family, ShardGauge, names};
use std::cell::Cell;
use std::rc::Rc;

/// A count that is told to the metrics with every change: a plain store to a cell that no other thread writes.
struct Level {
    count: Cell<u32>,
    gauge: ShardGauge,
}

impl Level {
    fn new(worker: &Worker, family: &'static Family, listener: &str) -> Self {
        let gauge = worker.shard().gauge(family, &[("listener", listener)]);
        gauge.set(0);
        Self { count: Cell::new(0), gauge }
    }

    fn set(&self, count: u32) {
        self.count.set(count);
        self.gauge.set(count.into());
    }

    fn enter(&self) {
        self.set(self.count.get().saturating_add(1));
    }

    fn leave(&self) {
        self.set(self.count.get().saturating_sub(1));
    }
}

pub struct Activity {
    connections: Level,
    requests: Level,
}

impl Activity {
    pub(crate) fn new(worker: &Worker, listener: &str) -> Self {
        Self {
            connections: Level::new(worker, &names::LISTENER_DOWNSTREAM_CX_ACTIVE, listener),
            requests: Level::new(worker, &names::LISTENER_DOWNSTREAM_RQ_ACTIVE, listener),
        }
    }

    /// Counts a request until what is given back is dropped.
    pub(crate) fn request(&self) -> ActiveRequest<'_> {
        self.requests.enter();
        ActiveRequest(self)
    }
}

pub struct ActiveRequest<'a>(&'a Activity);

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.requests.leave();
    }
}

/// One open connection, counted for its listener and for the drain of its worker.
pub(super) struct OpenConnection {
    worker: Rc<Worker>,
    activity: Rc<Activity>,
}

impl OpenConnection {
    pub(super) fn new(worker: &Rc<Worker>, listener: &str) -> Self {
        let activity = worker.activity(listener);
        worker.connections.set(worker.connections.get() + 1);
        worker.accepted.set(worker.accepted.get() + 1);
        activity.connections.enter();
        Self { worker: worker.clone(), activity }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.worker.connections.set(self.worker.connections.get().saturating_sub(1));
        self.activity.connections.leave();
    }
}
