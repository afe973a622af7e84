//! Sleeping to the microsecond.
//!
//! tokio's own timer wakes on whole milliseconds. A service time of two milliseconds and an intended send time both
//! need better: rounding would show up as latency that nobody caused. One thread sleeps on a condition variable,
//! which the kernel wakes within some 60 microseconds, and hands each sleeper back to its runtime.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// A handle to the timer's thread. The thread ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Timer(Arc<Handle>);

struct Handle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    earlier: Condvar,
}

#[derive(Default)]
struct State {
    sleepers: BinaryHeap<Sleeper>,
    stop: bool,
}

struct Sleeper {
    until: Instant,
    wake: oneshot::Sender<()>,
}

impl Timer {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), earlier: Condvar::new() });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("timer".into()).spawn(move || thread.run())?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    pub(crate) async fn sleep_until(&self, until: Instant) {
        if until <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        let shared = &self.0.0;
        let first = {
            let mut state = shared.lock();
            state.sleepers.push(Sleeper { until, wake });
            state.sleepers.peek().is_some_and(|first| first.until == until)
        };
        // Only a sleeper who is now the first shortens the thread's own sleep.
        if first {
            shared.earlier.notify_one();
        }
        let _ = woken.await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.earlier.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stop {
            let now = Instant::now();
            while state.sleepers.peek().is_some_and(|first| first.until <= now) {
                if let Some(sleeper) = state.sleepers.pop() {
                    let _ = sleeper.wake.send(());
                }
            }
            state = match state.sleepers.peek().map(|first| first.until) {
                None => self.earlier.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.earlier.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

// The heap's greatest is the sleeper who wakes first.
impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        Reverse(self.until).cmp(&Reverse(other.until))
    }
}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl Eq for Sleeper {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sleepers_wake_in_their_order_and_never_early() {
        let timer = Timer::start().expect("a thread");
        let start = Instant::now();
        let (short, long) = (start + Duration::from_millis(3), start + Duration::from_millis(9));
        let order = std::cell::RefCell::new(Vec::new());
        tokio::join!(
            async {
                timer.sleep_until(long).await;
                assert!(Instant::now() >= long);
                order.borrow_mut().push("long");
            },
            async {
                timer.sleep_until(short).await;
                assert!(Instant::now() >= short);
                order.borrow_mut().push("short");
            },
        );
        assert_eq!(order.into_inner(), ["short", "long"]);
    }
}
