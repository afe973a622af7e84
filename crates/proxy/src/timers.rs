//! Deadlines of requests and connections, coarse and cheap.
//!
//! Nearly every deadline of a proxy is armed, never reached, and dropped some hundred microseconds later. A timer wheel
//! pays for each of them with a lock and two list operations. Here arming is a slab insert, dropping a slab remove, and
//! one task looks at what is left once per tick: a deadline fires up to one tick late, never early.

use slab::Slab;
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Entry {
    at: Instant,
    waker: Option<Waker>,
    fired: bool,
}

/// One worker's deadlines of one tick length.
#[derive(Debug)]
pub struct Timers {
    entries: RefCell<Slab<Entry>>,
}

impl Timers {
    /// Starts the task that looks. It ends when the timers are dropped. Must be called inside a `LocalSet`.
    pub fn start(tick: Duration) -> Rc<Self> {
        let timers = Rc::new(Self { entries: RefCell::default() });
        let weak: Weak<Self> = Rc::downgrade(&timers);
        tokio::task::spawn_local(async move {
            let mut interval = tokio::time::interval(tick);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                interval.tick().await;
                match weak.upgrade() {
                    Some(timers) => timers.fire(Instant::now()),
                    None => return,
                }
            }
        });
        timers
    }

    /// Fires every deadline now: whoever waits looks at what has changed.
    pub fn fire_all(&self) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            entry.fired = true;
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
        }
    }

    fn fire(&self, now: Instant) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if !entry.fired && entry.at <= now {
                entry.fired = true;
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

/// A deadline that costs nothing until something waits under it.
#[derive(Debug)]
pub struct Deadline {
    timers: Rc<Timers>,
    at: Option<Instant>,
    key: Option<usize>,
}

impl Deadline {
    /// `None`: never.
    pub fn new(timers: &Rc<Timers>, at: Option<Instant>) -> Self {
        Self { timers: timers.clone(), at, key: None }
    }

    pub fn never(timers: &Rc<Timers>) -> Self {
        Self::new(timers, None)
    }

    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Moves the deadline.
    pub fn set(&mut self, at: Option<Instant>) {
        self.at = at;
        match (self.key, at) {
            (Some(key), Some(at)) => {
                if let Some(entry) = self.timers.entries.borrow_mut().get_mut(key) {
                    entry.at = at;
                    entry.fired = false;
                }
            }
            _ => self.disarm(),
        }
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let mut entries = self.timers.entries.borrow_mut();
        let waker = || Some(cx.waker().clone());
        match self.key.and_then(|key| entries.get_mut(key)) {
            Some(entry) if entry.fired => return Poll::Ready(()),
            Some(entry) => {
                if entry.waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                    entry.waker = waker();
                }
            }
            None => self.key = Some(entries.insert(Entry { at, waker: waker(), fired: false })),
        }
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let Some(key) = self.key.take() {
            self.timers.entries.borrow_mut().try_remove(key);
        }
    }

    /// Runs `work` until it is done or the deadline passes: then `None`.
    pub async fn within<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fires_late_never_early_and_not_when_moved() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let timers = Timers::start(Duration::from_millis(2));
                let began = Instant::now();
                let mut deadline = Deadline::new(&timers, Some(began + Duration::from_millis(5)));
                assert_eq!(deadline.within(std::future::pending::<()>()).await, None);
                assert!(began.elapsed() >= Duration::from_millis(5));
                deadline.set(None);
                assert_eq!(deadline.within(std::future::ready(7)).await, Some(7));
                drop(deadline);
                assert!(timers.entries.borrow().is_empty());
            })
            .await;
    }
}
