//! The thread on which the sample services run, away from the traffic generator and from the proxies' workers.

use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::lab::{self, Workload};
use crate::timer::Timer;

/// The running sample services; dropping it ends them.
pub(crate) struct Samples {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Samples {
    /// Returns once every instance listens, or with the reason why one cannot.
    pub(crate) fn start(workloads: Vec<Workload>, timer: Timer) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("samples".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                let _ = ready.send(lab::start(&workloads, &timer).await);
                let _ = stopped.await;
            });
        })?;
        outcome.recv().context("the sample services' thread ended before they listened")??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
