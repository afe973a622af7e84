//! A monotonic clock cheap enough to read a dozen times per request.
//!
//! `Instant::now` costs about 25 ns, the time-stamp counter about 9 ns. The counter is used where the processor says
//! that it is invariant: it runs at one rate in every power state (Intel SDM volume 3, section 17.17.1). Elsewhere a
//! tick is a nanosecond of `Instant`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A reading of the clock. Only differences mean anything; `Clock::ns_between` turns them into nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Ticks since `earlier`; zero where the counters of two processors disagree and time seems to run backwards.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Counter,
    Instant,
    Stopped,
}

/// The rate of a process's ticks. A copy is 40 bytes: give each worker its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
    /// ns = ticks * mul >> SHIFT. 24 bits of fraction keep the rounding error under one part in ten million.
    mul: u64,
    /// ticks = ns * inverse >> SHIFT.
    inverse: u64,
    base: Instant,
}

const SHIFT: u32 = 24;
const ONE: u64 = 1 << SHIFT;

/// How long calibration watches both clocks, once per process. Each end is known to about 30 ns, so 4 ms gives about
/// 15 parts per million: 15 ns in a request of a millisecond.
const CALIBRATION: Duration = Duration::from_millis(4);

impl Clock {
    /// The process's clock. The first call calibrates and takes about 4 ms; do it at start, not in a request.
    pub fn system() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(Self::calibrate)
    }

    /// A clock on `Instant` alone: one tick is one nanosecond. For tests and for comparison.
    pub fn instant_only() -> Self {
        Self { source: Source::Instant, mul: ONE, inverse: ONE, base: Instant::now() }
    }

    /// A clock that stands still: every reading is the same, every difference nothing. The ledger is kept with it where it
    /// is switched off, so that the switch costs nothing where it is on.
    pub fn stopped() -> Self {
        Self { source: Source::Stopped, mul: 0, inverse: 0, base: Instant::now() }
    }

    pub fn runs(&self) -> bool {
        self.source != Source::Stopped
    }

    fn calibrate() -> Self {
        if !counter_is_invariant() {
            return Self::instant_only();
        }
        let (first, first_instant) = paired_reading();
        while first_instant.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (last, last_instant) = paired_reading();
        let ticks = last.saturating_sub(first);
        let ns = last_instant.duration_since(first_instant).as_nanos() as u64;
        // Counters of real machines run between 100 MHz and 10 GHz; anything else is a broken or emulated one.
        if ticks < ns / 10 || ticks > ns.saturating_mul(10) || ns == 0 {
            return Self::instant_only();
        }
        let mul = ((u128::from(ns) << SHIFT) / u128::from(ticks)) as u64;
        let inverse = ((u128::from(ticks) << SHIFT) / u128::from(ns)) as u64;
        Self { source: Source::Counter, mul, inverse, base: first_instant }
    }

    /// Whether ticks are those of the processor's counter.
    pub fn uses_counter(&self) -> bool {
        self.source == Source::Counter
    }

    #[inline]
    pub fn now(&self) -> Tick {
        match self.source {
            Source::Counter => Tick(counter()),
            Source::Instant => Tick(self.base.elapsed().as_nanos() as u64),
            Source::Stopped => Tick(0),
        }
    }

    /// Nanoseconds of a number of ticks, rounded down.
    #[inline]
    pub fn ns(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.mul)) >> SHIFT) as u64
    }

    /// Ticks of a number of nanoseconds, rounded down.
    #[inline]
    pub fn ticks(&self, ns: u64) -> u64 {
        ((u128::from(ns) * u128::from(self.inverse)) >> SHIFT) as u64
    }

    /// Nanoseconds from `earlier` to `later`; zero if `later` is not later.
    #[inline]
    pub fn ns_between(&self, earlier: Tick, later: Tick) -> u64 {
        self.ns(later.since(earlier))
    }

    /// Ticks of a duration, for pieces measured with `Instant`.
    pub fn ticks_of(&self, duration: Duration) -> u64 {
        self.ticks(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The `Instant` of a tick of the past. Reads both clocks, so that a slow drift between them never adds up.
    pub fn to_instant(&self, tick: Tick) -> Instant {
        let now = Instant::now();
        let age = Duration::from_nanos(self.ns_between(tick, self.now()));
        now.checked_sub(age).unwrap_or(now)
    }

    /// The tick of an `Instant` of the past; now for one of the future.
    pub fn from_instant(&self, instant: Instant) -> Tick {
        let now = self.now();
        Tick(now.0.saturating_sub(self.ticks_of(instant.elapsed())))
    }
}

/// Reads both clocks as near to one another as five tries allow: a preemption between them would spoil the rate.
fn paired_reading() -> (u64, Instant) {
    let mut best = (counter(), Instant::now());
    let mut narrowest = u64::MAX;
    for _ in 0..5 {
        let before = counter();
        let instant = Instant::now();
        let after = counter();
        let width = after.saturating_sub(before);
        if width < narrowest {
            narrowest = width;
            best = (before.saturating_add(width / 2), instant);
        }
    }
    best
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux leaves it allowed to user code unless PR_SET_TSC forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    // AMD APM volume 3, appendix E.4.7 and Intel SDM volume 2, CPUID: leaf 8000_0007h, EDX bit 8.
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn counter_is_invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_down_and_invert_within_a_tick() {
        for clock in [Clock::system(), Clock::instant_only()] {
            for ns in [0, 1, 999, 1_000_000, 3_600_000_000_000] {
                let back = clock.ns(clock.ticks(ns));
                assert!(back <= ns && ns - back <= 2 + ns / 1_000_000, "{ns} became {back}");
            }
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        assert_eq!(clock.ns_between(Tick(10), Tick(3)), 0);
    }

    #[test]
    fn instants_and_ticks_convert_both_ways() {
        let clock = Clock::system();
        let instant = Instant::now();
        let back = clock.to_instant(clock.from_instant(instant));
        let gap = back.max(instant) - back.min(instant);
        assert!(gap < Duration::from_millis(50), "{gap:?}");
    }
}
