//! The clock of a run, and a timer on it that is exact to some microseconds: poll's own timeout knows milliseconds only.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// Nanoseconds since the run's start, by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base_ns: u64,
}

impl Clock {
    /// Begins now.
    pub(super) fn start() -> Self {
        Self { base_ns: monotonic_ns() }
    }

    #[inline]
    pub(super) fn now_ns(self) -> u64 {
        monotonic_ns().saturating_sub(self.base_ns)
    }
}

#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Wakes a poll at a moment of the clock.
pub(super) struct Timer {
    fd: OwnedFd,
    armed_ns: u64,
}

impl Timer {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { fd, armed_ns: u64::MAX })
    }

    /// Asks for a wake-up at `at_ns`. Nothing is read when it comes: setting it again clears it, and the poll tells each
    /// expiry once.
    pub(super) fn arm(&mut self, clock: Clock, at_ns: u64) -> io::Result<()> {
        if self.armed_ns == at_ns {
            return Ok(());
        }
        self.armed_ns = at_ns;
        let at = clock.base_ns.saturating_add(at_ns).max(1);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value: value })?;
        Ok(())
    }
}
