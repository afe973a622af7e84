//! Which request starts when, and on which slot: a pure state machine over a clock that is passed in. A slot is a
//! connection, or one stream of a connection.
//!
//! The queue of an open loop is the schedule itself: a request that has to wait is one whose intended time has passed and
//! that has not been taken yet. It needs no memory, however long it grows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::plan::{Arrivals, Load, WhenFull};
use crate::schedule::{Schedule, share};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start a request on this slot.
    Start {
        slot: u32,
        intended_ns: u64,
        /// How much later than possible this is: counted from the intended time, or from when a slot became free.
        lag_ns: u64,
        /// The slot was put to sleep by [`Dispatch::sleep`], and this is its wake-up.
        woken: bool,
    },
    /// Its time has come, and there is no slot, and the plan says not to wait.
    Drop { intended_ns: u64 },
    /// Nothing before this moment, unless a slot is released.
    Wait(u64),
    /// Nothing will ever start again.
    Done,
}

/// One thread's dispatcher.
#[derive(Debug)]
pub struct Dispatch {
    pace: Pace,
    /// Free slots by what they are connected to: the first list is connected to nothing. Last in, first out, so that as few
    /// connections as possible are open.
    free: Vec<Vec<u32>>,
    free_count: usize,
    /// Since when there has been a free slot without a break.
    free_since_ns: u64,
    stopped: bool,
}

#[derive(Debug)]
enum Pace {
    Open {
        schedule: Schedule,
        next_ns: Option<u64>,
        when_full: WhenFull,
        /// When the schedule ends, by its count or by its length.
        end_ns: u64,
        /// Past this the backlog is given up.
        give_up_ns: u64,
    },
    Closed {
        until_ns: u64,
        left: u64,
        counted_from_ns: u64,
        slot_gap_ns: u64,
        /// Slots that wait for their time.
        sleepers: BinaryHeap<Reverse<(u64, u32)>>,
    },
}

/// A request whose intended time is past the next's schedule end by more than this is not sent: a server that is slower
/// than the schedule would keep the run going for long after it. What is left is counted as not sent.
pub const BACKLOG_GRACE_NS: u64 = 1_000_000_000;

/// The end of a longer Poisson schedule is not looked for before it begins: it would take a second.
const COUNTED_MAX: u64 = 20_000_000;

impl Dispatch {
    /// `slots` of this thread, which may be connected to `routes` different places.
    /// What starts before `counted_from_ns`, the warm-up's end, is not of the load's count.
    pub fn new(
        load: &Load,
        thread: u32,
        threads: u32,
        seed: u64,
        slots: u32,
        routes: u16,
        counted_from_ns: u64,
    ) -> Self {
        let pace = match load {
            Load::Open(open) => {
                let mut schedule = Schedule::new(open, thread, threads, seed).counted_from(open, counted_from_ns);
                // A count ends the schedule before its time: where the next request would have come, so that so many
                // requests at this rate take so long. Going through a Poisson process costs tens of nanoseconds a request,
                // once.
                let end_ns = match open.count {
                    Some(count) if count <= COUNTED_MAX || open.arrivals != Arrivals::Poisson => {
                        schedule.count_end_ns()
                    }
                    _ => schedule.length_ns(),
                };
                let give_up_ns = end_ns.saturating_add(BACKLOG_GRACE_NS);
                let next_ns = schedule.next();
                Pace::Open { schedule, next_ns, when_full: open.when_full, end_ns, give_up_ns }
            }
            Load::Closed(closed) => Pace::Closed {
                until_ns: closed.duration.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
                left: closed.count.map_or(u64::MAX, |count| share(count, thread, threads)),
                counted_from_ns,
                slot_gap_ns: closed.slot_per_second.map_or(0, |rate| (1e9 / rate) as u64),
                sleepers: BinaryHeap::with_capacity(slots as usize),
            },
        };
        let mut free: Vec<Vec<u32>> = (0..=routes).map(|_| Vec::with_capacity(slots as usize)).collect();
        if let Some(unconnected) = free.first_mut() {
            // The lowest comes first.
            unconnected.extend((0..slots).rev());
        }
        Self { pace, free, free_count: slots as usize, free_since_ns: 0, stopped: false }
    }

    /// What to do at `now_ns`, if the next request goes to `route`. Call again until it says to wait.
    #[inline]
    pub fn step(&mut self, now_ns: u64, route: u16) -> Step {
        if self.stopped {
            return Step::Done;
        }
        match &mut self.pace {
            Pace::Open { schedule, next_ns, when_full, give_up_ns, .. } => {
                let Some(intended_ns) = *next_ns else { return Step::Done };
                if intended_ns > now_ns {
                    return Step::Wait(intended_ns);
                }
                if now_ns > *give_up_ns {
                    return Step::Done;
                }
                if self.free_count == 0 {
                    match when_full {
                        WhenFull::Queue => return Step::Wait(*give_up_ns + 1),
                        WhenFull::Drop => {
                            *next_ns = schedule.next();
                            return Step::Drop { intended_ns };
                        }
                    }
                }
                *next_ns = schedule.next();
                let lag_ns = now_ns - intended_ns.max(self.free_since_ns).min(now_ns);
                match self.take(route) {
                    Some(slot) => Step::Start { slot, intended_ns, lag_ns, woken: false },
                    None => Step::Drop { intended_ns },
                }
            }
            Pace::Closed { until_ns, left, counted_from_ns, sleepers, .. } => {
                let counts = u64::from(now_ns >= *counted_from_ns);
                if now_ns >= *until_ns || *left == 0 {
                    return Step::Done;
                }
                if let Some(&Reverse((due_ns, slot))) = sleepers.peek()
                    && due_ns <= now_ns
                {
                    sleepers.pop();
                    *left -= counts;
                    return Step::Start { slot, intended_ns: now_ns, lag_ns: now_ns - due_ns, woken: true };
                }
                let wake_ns = sleepers.peek().map_or(*until_ns, |Reverse((due_ns, _))| (*due_ns).min(*until_ns));
                if self.free_count == 0 {
                    return Step::Wait(wake_ns);
                }
                *left -= counts;
                match self.take(route) {
                    Some(slot) => Step::Start { slot, intended_ns: now_ns, lag_ns: 0, woken: false },
                    None => Step::Wait(wake_ns),
                }
            }
        }
    }

    fn take(&mut self, route: u16) -> Option<u32> {
        self.free_count = self.free_count.checked_sub(1)?;
        if let Some(slot) = self.free.get_mut(usize::from(route) + 1).and_then(Vec::pop) {
            return Some(slot);
        }
        // One that is not connected, or else one that must leave where it is.
        self.free.iter_mut().find_map(Vec::pop)
    }

    /// The slot's request has ended. `route` is where it is still connected to. `started_ns` is when that request started.
    #[inline]
    pub fn release(&mut self, slot: u32, now_ns: u64, route: Option<u16>, started_ns: u64) {
        if let Pace::Closed { slot_gap_ns, sleepers, .. } = &mut self.pace
            && *slot_gap_ns > 0
        {
            sleepers.push(Reverse((started_ns.saturating_add(*slot_gap_ns).max(now_ns), slot)));
            return;
        }
        self.free_slot(slot, now_ns, route);
    }

    /// The slot's request could not be sent. In a closed loop the slot is not used before `until_ns`; in an open one the
    /// schedule says when.
    pub fn release_at(&mut self, slot: u32, now_ns: u64, until_ns: u64) {
        if let Pace::Closed { sleepers, .. } = &mut self.pace {
            sleepers.push(Reverse((until_ns, slot)));
        } else {
            self.free_slot(slot, now_ns, None);
        }
    }

    fn free_slot(&mut self, slot: u32, now_ns: u64, route: Option<u16>) {
        if self.free_count == 0 {
            self.free_since_ns = now_ns;
        }
        if let Some(list) = self.free.get_mut(route.map_or(0, |r| usize::from(r) + 1)) {
            list.push(slot);
            self.free_count += 1;
        }
    }

    /// Puts off the start that was just given for a slot of a closed loop: it is given again, as woken, at `until_ns`.
    pub fn sleep(&mut self, slot: u32, now_ns: u64, until_ns: u64) {
        if let Pace::Closed { left, counted_from_ns, sleepers, .. } = &mut self.pace {
            *left = left.saturating_add(u64::from(now_ns >= *counted_from_ns));
            sleepers.push(Reverse((until_ns, slot)));
        }
    }

    /// An idle slot's connection was closed by the other side: it is connected to nothing now.
    pub fn disconnected(&mut self, slot: u32, route: u16) {
        if let Some(list) = self.free.get_mut(usize::from(route) + 1)
            && let Some(place) = list.iter().rposition(|&s| s == slot)
        {
            list.swap_remove(place);
            if let Some(unconnected) = self.free.first_mut() {
                unconnected.push(slot);
            }
        }
    }

    /// Starts nothing more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Requests of the schedule whose time had come at `now_ns` and that were never started. Takes them.
    pub fn unsent(&mut self, now_ns: u64) -> u64 {
        let Pace::Open { schedule, next_ns, .. } = &mut self.pace else { return 0 };
        let mut count = 0;
        while next_ns.is_some_and(|at| at <= now_ns) {
            count += 1;
            *next_ns = schedule.next();
        }
        count
    }

    /// When the schedule ends; `None` where only a count does.
    pub fn end_ns(&self) -> Option<u64> {
        match &self.pace {
            Pace::Open { end_ns, .. } => Some(*end_ns),
            Pace::Closed { until_ns, .. } => (*until_ns < u64::MAX).then_some(*until_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::{Closed, Open, Segment};

    fn open(when_full: WhenFull) -> Load {
        let segments = vec![Segment::hold(10.0, Duration::from_secs(1))];
        Load::Open(Open { segments, arrivals: Arrivals::Constant, when_full, count: None })
    }

    const TENTH: u64 = 100_000_000;

    #[test]
    fn a_request_that_waits_for_a_slot_keeps_its_intended_time_and_is_no_lag() {
        let mut d = Dispatch::new(&open(WhenFull::Queue), 0, 1, 1, 1, 1, 0);
        assert_eq!(d.step(10, 0), Step::Start { slot: 0, intended_ns: 0, lag_ns: 10, woken: false });
        assert_eq!(d.step(10, 0), Step::Wait(TENTH));
        assert!(matches!(d.step(5 * TENTH, 0), Step::Wait(_)));
        d.release(0, 5 * TENTH, Some(0), 10);
        // Lag counts from when the slot was free.
        assert_eq!(d.step(5 * TENTH + 7, 0), Step::Start { slot: 0, intended_ns: TENTH, lag_ns: 7, woken: false });
    }

    #[test]
    fn a_full_dispatcher_drops_if_told_so() {
        let mut d = Dispatch::new(&open(WhenFull::Drop), 0, 1, 1, 1, 1, 0);
        assert!(matches!(d.step(0, 0), Step::Start { .. }));
        assert_eq!(d.step(TENTH, 0), Step::Drop { intended_ns: TENTH });
    }

    #[test]
    fn a_backlog_is_given_up_after_the_end() {
        let mut d = Dispatch::new(&open(WhenFull::Queue), 0, 1, 1, 1, 1, 0);
        assert!(matches!(d.step(0, 0), Step::Start { .. }));
        let late = 2_000_000_001;
        d.release(0, late, Some(0), 0);
        assert_eq!(d.step(late, 0), Step::Done);
        assert_eq!(d.unsent(late), 9);
    }

    #[test]
    fn a_closed_loop_keeps_every_slot_busy_until_its_count() {
        let load = Load::Closed(Closed { duration: None, count: Some(3), slot_per_second: None });
        let mut d = Dispatch::new(&load, 0, 1, 1, 2, 1, 0);
        assert!(matches!(d.step(0, 0), Step::Start { slot: 0, .. }));
        assert!(matches!(d.step(0, 0), Step::Start { slot: 1, .. }));
        assert!(matches!(d.step(0, 0), Step::Wait(_)));
        d.release(1, 5, Some(0), 0);
        assert!(matches!(d.step(5, 0), Step::Start { slot: 1, .. }));
        assert_eq!(d.step(5, 0), Step::Done);
    }

    #[test]
    fn a_count_ends_an_open_loop_where_its_next_request_would_have_come() {
        let segments = vec![Segment::hold(10.0, Duration::from_secs(1))];
        for (count, tenths) in [(1, 1), (3, 3), (10, 10), (99, 10)] {
            let (arrivals, when_full) = (Arrivals::Constant, WhenFull::Queue);
            let load = Load::Open(Open { segments: segments.clone(), arrivals, when_full, count: Some(count) });
            assert_eq!(Dispatch::new(&load, 0, 1, 1, 1, 1, 0).end_ns(), Some(tenths * TENTH), "{count}");
            // For all threads alike, also those that have fewer of the count; what precedes the count is the warm-up's.
            for (thread, warm_up) in [(0, 0), (1, 0), (2, 0), (3, 0), (1, 4), (2, 4)] {
                let dispatch = Dispatch::new(&load, thread, 4, 1, 1, 1, warm_up * TENTH);
                assert_eq!(dispatch.end_ns(), Some((tenths + warm_up).min(10) * TENTH), "{count} {thread}");
            }
        }
    }

    #[test]
    fn a_count_begins_after_the_warm_up() {
        let load = Load::Closed(Closed { duration: None, count: Some(1), slot_per_second: None });
        let mut d = Dispatch::new(&load, 0, 1, 1, 1, 1, 10);
        for at in [0, 5, 10] {
            assert!(matches!(d.step(at, 0), Step::Start { .. }), "{at}");
            d.release(0, at + 1, Some(0), at);
        }
        assert_eq!(d.step(12, 0), Step::Done);
    }

    #[test]
    fn a_paced_slot_waits_out_its_gap() {
        let load =
            Load::Closed(Closed { duration: Some(Duration::from_secs(1)), count: None, slot_per_second: Some(10.0) });
        let mut d = Dispatch::new(&load, 0, 1, 1, 1, 1, 0);
        assert!(matches!(d.step(0, 0), Step::Start { .. }));
        d.release(0, 5, Some(0), 0);
        assert_eq!(d.step(5, 0), Step::Wait(TENTH));
        assert!(matches!(d.step(TENTH, 0), Step::Start { slot: 0, woken: true, .. }));
    }

    #[test]
    fn a_slot_is_taken_where_it_is_connected() {
        let mut d = Dispatch::new(&open(WhenFull::Queue), 0, 1, 1, 3, 2, 0);
        let slot = |step| match step {
            Step::Start { slot, .. } => slot,
            other => panic!("{other:?}"),
        };
        let (a, b) = (slot(d.step(TENTH, 0)), slot(d.step(TENTH, 1)));
        d.release(a, TENTH, Some(0), 0);
        d.release(b, TENTH, Some(1), 0);
        assert_eq!(slot(d.step(2 * TENTH, 0)), a);
        d.release(a, TENTH, Some(0), 0);
        d.disconnected(a, 0);
        assert_eq!(slot(d.step(3 * TENTH, 1)), b);
    }
}
