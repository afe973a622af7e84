//! The time limits of one exchange behind one deadline.

use crate::timers::{Deadline, Timers};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// The route's timeout: response flag UT.
    Overall,
    /// The stream's longest duration: no flag.
    Duration { request_is_in: bool },
    /// One attempt took too long.
    PerTry,
    /// Nothing of one attempt moved for too long: response flag UT.
    PerTryIdle,
    /// Nothing moved for too long: response flag SI.
    Idle { request_is_in: bool },
    /// The request itself did not arrive in time: no flag.
    Request,
}

/// Progress is a store; only when the deadline fires is it looked at how long nothing moved.
pub struct Patience {
    deadline: Deadline,
    overall: Option<Instant>,
    /// `overall` is the stream's longest duration, and not the route's timeout.
    overall_is_duration: bool,
    /// The client has sent all of its request.
    request_is_in: bool,
    per_try: Option<Instant>,
    /// The limit and when the attempt began.
    per_try_idle: Option<(Duration, Instant)>,
    request: Option<Instant>,
    idle: Option<Duration>,
    progress: Instant,
}

impl Patience {
    pub fn new(timers: &Rc<Timers>, now: Instant, idle: Option<Duration>, request: Option<Duration>) -> Self {
        let mut patience = Self {
            deadline: Deadline::never(timers),
            overall: None,
            overall_is_duration: false,
            request_is_in: false,
            per_try: None,
            per_try_idle: None,
            request: request.and_then(|limit| now.checked_add(limit)),
            idle,
            progress: now,
        };
        patience.arm();
        patience
    }

    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
        self.arm();
    }

    /// When the route's timeout ends the wait for the response.
    pub fn set_overall(&mut self, at: Option<Instant>) {
        self.limit_overall(at, false);
    }

    /// When the stream ends, whatever is under way.
    pub fn set_duration(&mut self, at: Option<Instant>) {
        self.limit_overall(at, true);
    }

    fn limit_overall(&mut self, at: Option<Instant>, is_duration: bool) {
        if let Some(at) = at
            && self.overall.is_none_or(|old| at < old)
        {
            (self.overall, self.overall_is_duration) = (Some(at), is_duration);
            self.arm();
        }
    }

    /// Only silence ends a tunnel, and `overall`: the limits of a request and its response are met.
    pub fn tunnel_begins(&mut self, now: Instant, overall: Option<Instant>) {
        (self.per_try, self.per_try_idle, self.request) = (None, None, None);
        (self.overall, self.overall_is_duration) = (overall, true);
        self.progress = now;
        self.arm();
    }

    /// No longer silence than this from now on.
    pub fn limit_idle(&mut self, most: Duration) {
        self.set_idle(Some(self.idle.map_or(most, |idle| idle.min(most))));
    }

    pub fn set_per_try(&mut self, at: Option<Instant>) {
        if self.per_try != at {
            self.per_try = at;
            self.arm();
        }
    }

    /// How long nothing of an attempt may move, from its start at `now` to the end of its response.
    pub fn set_per_try_idle(&mut self, limit: Option<Duration>, now: Instant) {
        if self.per_try_idle.is_some() || limit.is_some() {
            self.per_try_idle = limit.map(|limit| (limit, now));
            self.arm();
        }
    }

    /// The request has arrived whole.
    pub fn request_is_in(&mut self) {
        self.request_is_in = true;
        if self.request.take().is_some() {
            self.arm();
        }
    }

    pub fn progressed(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Time left until the overall limit, where there is one.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.overall.map(|at| at.saturating_duration_since(now))
    }

    fn idle_at(&self) -> Option<Instant> {
        self.idle.and_then(|limit| self.progress.checked_add(limit))
    }

    fn per_try_idle_at(&self) -> Option<Instant> {
        self.per_try_idle.and_then(|(limit, began)| self.progress.max(began).checked_add(limit))
    }

    fn arm(&mut self) {
        let all = [self.overall, self.per_try, self.per_try_idle_at(), self.request, self.idle_at()];
        let next = all.into_iter().flatten().min();
        if self.deadline.at() != next {
            self.deadline.set(next);
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            if self.deadline.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let request_is_in = self.request_is_in;
            if passed(self.overall) {
                let duration = Expired::Duration { request_is_in };
                return Poll::Ready(if self.overall_is_duration { duration } else { Expired::Overall });
            }
            if passed(self.per_try) {
                return Poll::Ready(Expired::PerTry);
            }
            if passed(self.per_try_idle_at()) {
                return Poll::Ready(Expired::PerTryIdle);
            }
            if passed(self.request) {
                return Poll::Ready(Expired::Request);
            }
            if passed(self.idle_at()) {
                return Poll::Ready(Expired::Idle { request_is_in });
            }
            // Something moved in the meantime: wait for what is left.
            self.deadline.set(None);
            self.arm();
        }
    }

    /// Runs `work` until it is done or a limit is reached.
    pub async fn within<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Expired> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => self.poll(cx).map(Err),
        })
        .await
    }
}
