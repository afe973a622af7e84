//! The bounded pool for work that blocks: files, the system's name lookups, profiles. Settings are the ones of
//! `thread_pool{core_size, max_size, queue_size}`.
//!
//! It grows as soon as a job finds no idle thread, up to `max_size`; only then do jobs queue. (Pools that queue first and grow
//! when the queue is full, as Java's does, make 10,000 jobs wait for 8 threads while 24 more are allowed.) A full queue refuses
//! the job at once: whoever asked can say so, instead of waiting for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// A thread beyond `core_size` that had nothing to do for so long ends.
const SPARE_THREAD_IDLE: Duration = Duration::from_secs(10);

/// No setting makes more threads than this: each has a stack, and the machine has other work.
pub const THREADS_MAX: usize = 512;

/// No setting lets more jobs wait.
pub const QUEUE_MAX: usize = 1 << 20;

/// How large the pool may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads that stay once they were needed. They are not started before.
    pub core_size: usize,
    /// Most threads at a time. At least 1, and at least `core_size`.
    pub max_size: usize,
    /// Jobs that may wait when all threads are busy.
    pub queue_size: usize,
}

impl Default for Settings {
    /// Enough for a sidecar, which reads a file now and then.
    fn default() -> Self {
        Self { core_size: 1, max_size: 4, queue_size: 1024 }
    }
}

impl Settings {
    fn bounded(self) -> Self {
        let max_size = self.max_size.clamp(1, THREADS_MAX).max(self.core_size.min(THREADS_MAX));
        Self { core_size: self.core_size.min(max_size), max_size, queue_size: self.queue_size.min(QUEUE_MAX) }
    }
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// All threads are busy and the queue is full.
    #[error(
        "the blocking pool is full: {threads} threads are busy and {queued} jobs wait; raise thread_pool.max_size or queue_size"
    )]
    Full {
        /// Threads, all busy.
        threads: usize,
        /// Jobs that wait.
        queued: usize,
    },
    /// The system gives no thread, and there is none yet.
    #[error("the system gives the blocking pool no thread; raise the limit of processes")]
    NoThread,
    /// The pool was dropped first.
    #[error("the job in the blocking pool ended without a result")]
    Lost,
}

/// What the pool did so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Threads there are.
    pub threads: usize,
    /// Of them, those with nothing to do.
    pub idle: usize,
    /// Jobs that wait.
    pub queued: usize,
    /// The most that ever waited.
    pub queued_peak: usize,
    /// Jobs that ended.
    pub completed_total: u64,
    /// Jobs that were refused.
    pub refused_total: u64,
}

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Cheap to clone; threads end when the last clone is gone and the queue is empty.
#[derive(Clone)]
pub struct BlockingPool {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    settings: Settings,
    jobs: VecDeque<Job>,
    closing: bool,
    stats: Stats,
}

impl BlockingPool {
    /// A pool without threads yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let state =
            State { settings: settings.bounded(), jobs: VecDeque::new(), closing: false, stats: Stats::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() });
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Other sizes from now on. Jobs that wait stay, and threads beyond the new sizes end when they fall idle.
    pub fn resize(&self, settings: Settings) {
        self.handle.shared.lock().settings = settings.bounded();
        self.handle.shared.work.notify_all();
    }

    /// Runs `job` on a thread of the pool.
    ///
    /// # Errors
    /// The pool is full, or has no thread. When the future is dropped the job still runs.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let (done, result) = oneshot::channel();
        self.submit(move || {
            // Nobody waits any more: that is fine.
            let _ = done.send(job());
        })?;
        result.await.map_err(|_| PoolError::Lost)
    }

    /// The same without waiting for a result.
    ///
    /// # Errors
    /// The pool is full, or has no thread.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolError> {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let wants_thread = state.jobs.len() >= state.stats.idle && state.stats.threads < state.settings.max_size;
        if !(wants_thread && shared.grow(&mut state)) {
            if state.stats.threads == 0 {
                state.stats.refused_total += 1;
                return Err(PoolError::NoThread);
            }
            // An idle thread's job is only passing through the queue.
            if state.jobs.len() >= state.settings.queue_size + state.stats.idle {
                state.stats.refused_total += 1;
                return Err(PoolError::Full { threads: state.stats.threads, queued: state.jobs.len() });
            }
        }
        state.jobs.push_back(Box::new(job));
        state.stats.queued_peak = state.stats.queued_peak.max(state.jobs.len());
        drop(state);
        shared.work.notify_one();
        Ok(())
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.handle.shared.lock();
        Stats { queued: state.jobs.len(), ..state.stats }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread. It is counted before it runs, so that two submitters do not both believe there is room.
    fn grow(self: &Arc<Self>, state: &mut State) -> bool {
        let shared = Arc::clone(self);
        let started = std::thread::Builder::new().name("celerity-block".into()).spawn(move || shared.serve()).is_ok();
        state.stats.threads += usize::from(started);
        started
    }

    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                state.stats.completed_total += 1;
                continue;
            }
            if state.closing || state.stats.threads > state.settings.max_size {
                break;
            }
            state.stats.idle += 1;
            let waited = self.work.wait_timeout(state, SPARE_THREAD_IDLE);
            let (woken, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.stats.idle -= 1;
            let spare = state.stats.threads > state.settings.core_size;
            if timed_out.timed_out() && spare && state.jobs.is_empty() {
                break;
            }
        }
        state.stats.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pool(core_size: usize, max_size: usize, queue_size: usize) -> BlockingPool {
        BlockingPool::new(Settings { core_size, max_size, queue_size })
    }

    /// A result arrives before its thread has counted it.
    async fn until(pool: &BlockingPool, so: impl Fn(Stats) -> bool) {
        let waiting = async {
            while !so(pool.stats()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{:?}", pool.stats());
    }

    #[tokio::test]
    async fn results_come_back() {
        let pool = pool(1, 2, 4);
        assert_eq!(pool.run(|| 6 * 7).await, Ok(42));
        assert_eq!(pool.run(|| 1).await, Ok(1));
        until(&pool, |stats| stats.completed_total == 2).await;
    }

    #[test]
    fn it_grows_to_its_maximum_then_queues_then_refuses() {
        let pool = pool(1, 3, 2);
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let block = || {
            let (started, gate) = (started.clone(), Arc::clone(&gate));
            move || {
                started.send(()).unwrap();
                let _ = gate.lock().unwrap().recv_timeout(PATIENCE);
            }
        };
        for _ in 0..3 {
            pool.submit(block()).unwrap();
            starts.recv_timeout(PATIENCE).unwrap();
        }
        assert_eq!((pool.stats().threads, pool.stats().idle), (3, 0));
        pool.submit(block()).unwrap();
        pool.submit(block()).unwrap();
        let error = pool.submit(block()).unwrap_err();
        assert_eq!(error, PoolError::Full { threads: 3, queued: 2 });
        assert!(error.to_string().contains("queue_size"));
        assert_eq!((pool.stats().refused_total, pool.stats().queued_peak), (1, 2));
        for _ in 0..5 {
            release.send(()).unwrap();
        }
        for _ in 0..2 {
            starts.recv_timeout(PATIENCE).unwrap();
        }
    }

    #[tokio::test]
    async fn smaller_sizes_end_threads() {
        let pool = pool(4, 4, 4);
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let all = (0..4).map(|_| {
            let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
            async move { pool.run(move || barrier.wait().is_leader()).await.unwrap() }
        });
        let mut set = tokio::task::JoinSet::new();
        all.for_each(|one| {
            set.spawn(one);
        });
        while set.join_next().await.is_some() {}
        assert_eq!(pool.stats().threads, 4);
        pool.resize(Settings { core_size: 0, max_size: 1, queue_size: 4 });
        until(&pool, |stats| stats.threads == 1).await;
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }

    #[test]
    fn settings_are_bounded() {
        let wild = Settings { core_size: usize::MAX, max_size: 0, queue_size: usize::MAX }.bounded();
        assert_eq!(wild, Settings { core_size: THREADS_MAX, max_size: THREADS_MAX, queue_size: QUEUE_MAX });
        let none = Settings { core_size: 0, max_size: 0, queue_size: 0 }.bounded();
        assert_eq!(none.max_size, 1);
    }

    #[test]
    fn a_pool_without_a_queue_still_runs_jobs() {
        let pool = pool(1, 1, 0);
        let (done, results) = mpsc::channel();
        pool.submit(move || done.send(1).unwrap()).unwrap();
        assert_eq!(results.recv_timeout(PATIENCE), Ok(1));
    }
}
