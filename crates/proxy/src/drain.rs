//! How a worker leaves: what comes on the way out is still answered.
//!
//! ```text
//!   serving -- drain --> leaving: accepts, answers with `Connection: close`, GOAWAY on HTTP/2
//!      time is up, or quiet --> closing: SYNs are dropped, the queue is emptied, the socket closes, idle connections close
//!      the last connection ends --> gone
//! ```
//!
//! Whoever sends requests learns of a drain from a readiness probe, some seconds later. Until then it opens connections, and
//! a socket that closes at once resets those in its queue.

use std::time::{Duration, Instant};

/// How long a draining proxy goes on accepting: Istio's `terminationDrainDuration`, 5 s by default. Kubernetes takes about
/// that long to tell everybody that a pod is going.
pub const LEAVE_TIME: Duration = Duration::from_secs(5);

/// A worker without a connection that was not asked for one for so long leaves early: nobody seems to know it.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// A connection that was accepted and has not spoken when the worker closes: its request is most likely on its way.
pub const FIRST_BYTES_GRACE: Duration = Duration::from_secs(1);

/// One worker on its way out. Pure: `now` is an argument.
#[derive(Debug)]
pub struct Leaving {
    until: Instant,
    quiet_since: Instant,
    accepted: u64,
}

impl Leaving {
    pub fn new(now: Instant, time: Duration) -> Self {
        Self { until: now.checked_add(time).unwrap_or(now), quiet_since: now, accepted: 0 }
    }

    /// Whether it is time to close. `open`: connections now; `accepted`: those since the start.
    pub fn is_over(&mut self, now: Instant, open: usize, accepted: u64) -> bool {
        if open > 0 || accepted != self.accepted {
            self.accepted = accepted;
            self.quiet_since = now;
        }
        now >= self.until || now.saturating_duration_since(self.quiet_since) >= QUIET_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_when_time_is_up_or_nobody_comes() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut busy = Leaving::new(start, LEAVE_TIME);
        assert!((0..5000).step_by(20).all(|ms| !busy.is_over(after(ms), 1, 7)));
        assert!(busy.is_over(after(5000), 1, 7));

        let mut quiet = Leaving::new(start, LEAVE_TIME);
        assert!(!quiet.is_over(after(900), 0, 3));
        assert!(!quiet.is_over(after(1800), 0, 4), "a short connection between two looks");
        assert!(!quiet.is_over(after(2700), 0, 4));
        assert!(quiet.is_over(after(2800), 0, 4));

        assert!(Leaving::new(start, Duration::ZERO).is_over(start, 1, 0));
    }
}
