//! Ramp, bracket, bisect: the highest rate at which two of three trials keep the objective.

use serde::{Deserialize, Serialize};

use crate::ab::arms::BlockLedger;
use crate::slo;

/// The ramp doubles: a wide range in few trials, each lower than what would hurt for long.
pub const RAMP_FACTOR: f64 = 2.0;
/// Where the first rate misses, the search halves down to this, requests per second: below it a trial has no requests.
pub const FLOOR_PER_SECOND: f64 = 1.0;
/// The bracket is closed when its ends are this close: finer than the rate itself would repeat.
pub const PRECISION: f64 = 1.05;
/// Trials of one rate; two that agree decide.
const TRIALS_MAX: usize = 3;
/// Disturbed trials in a row after which the search ends.
const VOID_IN_A_ROW_MAX: usize = 3;
/// Answers in a second over requests offered in a second: with less, a queue grows, whatever the latency is yet.
pub const KEPT_UP_SHARE_MIN: f64 = 0.95;

/// How a trial came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Kept,
    /// The objective was missed, or the server did not keep up.
    Missed,
    /// The machine was disturbed: it says nothing, and the trial is run again.
    Disturbed(String),
    /// The sender itself is at its limit: higher rates cannot be tried from here.
    SenderLimit(String),
}

/// One open-loop trial at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub offered_per_second: f64,
    pub succeeded_per_second: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub error_share: f64,
    /// The commonest failure, in words.
    #[serde(default)]
    pub failure: Option<String>,
    pub objectives: Vec<slo::Outcome>,
    pub outcome: Outcome,
    #[serde(skip)]
    pub ledger: Option<BlockLedger>,
    /// What the client itself can tell apart, mean microseconds of an answered request.
    #[serde(skip)]
    pub client: ClientParts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientParts {
    /// From the intended time until it was written: no connection was free, or it had to be opened.
    pub wait_us: f64,
    /// From there to the last byte of the answer.
    pub answer_us: f64,
}

/// What a search drives.
pub trait Trials {
    /// An open loop at this rate. The seed gives its schedule.
    fn open(&mut self, per_second: f64, seed: u64) -> Result<Trial, String>;
    /// A closed loop of so many requests in flight: successes in a second.
    fn closed(&mut self, concurrency: u32) -> Result<f64, String>;
}

/// Where to look. Rates are requests per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub from_per_second: f64,
    /// The ramp ends here even if the objective is still kept.
    pub to_per_second: f64,
    pub seed: u64,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate at which two of three trials kept the objective; `None` if even the first did not. This is the
    /// capacity: the lower end of its interval.
    pub kept_per_second: Option<f64>,
    /// The lowest rate above it at which two of three missed it; `None` if none did.
    pub missed_per_second: Option<f64>,
    /// Why the interval is open or wide, if it is.
    pub note: Option<String>,
    /// Somebody stopped it, or the server went away, before the search was through.
    #[serde(default)]
    pub cut_short: bool,
    pub trials: Vec<Trial>,
}

/// For whoever shows progress; `false` ends the search with what is known.
pub enum SearchEvent<'a> {
    Trial(&'a Trial),
    Closed { concurrency: u32, per_second: f64 },
}

enum Rate {
    Kept,
    Missed,
    /// No more can be found out on this machine.
    Ended(String),
    CutShort(String),
}

/// Runs the search.
pub fn search<T: Trials + ?Sized>(
    plan: &Search,
    trials: &mut T,
    mut observe: impl FnMut(SearchEvent<'_>) -> bool,
) -> Result<Found, String> {
    let mut found =
        Found { kept_per_second: None, missed_per_second: None, note: None, cut_short: false, trials: Vec::new() };
    let mut rate = plan.from_per_second;
    while let Some(now) = next_rate(plan, &found, &mut rate) {
        match decide(now, plan.seed, trials, &mut found.trials, &mut observe)? {
            Rate::Kept => found.kept_per_second = Some(found.kept_per_second.map_or(now, |kept| kept.max(now))),
            Rate::Missed => found.missed_per_second = Some(now),
            Rate::Ended(note) => {
                found.note = Some(note);
                return Ok(found);
            }
            Rate::CutShort(note) => {
                (found.note, found.cut_short) = (Some(note), true);
                return Ok(found);
            }
        }
    }
    found.note = match (found.kept_per_second, found.missed_per_second) {
        (None, Some(missed)) => Some(match found.trials.last().filter(|trial| trial.error_share >= 1.0) {
            Some(trial) => {
                let why = trial.failure.as_deref().unwrap_or("why is not known");
                format!("at {missed:.0}/s every request fails ({why}), so no lower rate was tried")
            }
            None => format!("the objective is missed still at {missed:.0}/s, the lowest rate that is tried"),
        }),
        (Some(kept), None) => Some(format!("the objective is still kept at {kept:.0}/s, the highest rate asked for")),
        _ => None,
    };
    Ok(found)
}

/// The next rate to try: up the ramp until one misses, or down until one is kept, then the (geometric) middle of the bracket.
fn next_rate(plan: &Search, found: &Found, ramp: &mut f64) -> Option<f64> {
    match (found.kept_per_second, found.missed_per_second) {
        (_, None) => {
            let now = ramp.min(plan.to_per_second);
            // After the highest rate was kept there is nothing left to try.
            if found.kept_per_second.is_some_and(|kept| kept >= now) {
                return None;
            }
            *ramp *= RAMP_FACTOR;
            Some(now)
        }
        (None, Some(missed)) => {
            let fails = found.trials.last().is_some_and(|trial| trial.error_share >= 1.0);
            (missed > FLOOR_PER_SECOND && !fails).then(|| (missed / RAMP_FACTOR).max(FLOOR_PER_SECOND))
        }
        (Some(kept), Some(missed)) => (missed / kept > PRECISION).then(|| (kept * missed).sqrt()),
    }
}

/// Two of three.
fn decide<T: Trials + ?Sized>(
    rate: f64,
    seed: u64,
    trials: &mut T,
    all: &mut Vec<Trial>,
    observe: &mut dyn FnMut(SearchEvent<'_>) -> bool,
) -> Result<Rate, String> {
    let (mut kept, mut missed, mut disturbed) = (0, 0, 0);
    while kept + missed < TRIALS_MAX {
        let trial = match trials.open(rate, seed.wrapping_add(all.len() as u64)) {
            Ok(trial) => trial,
            Err(why) if !all.is_empty() => return Ok(Rate::CutShort(format!("at {rate:.0}/s: {why}"))),
            Err(why) => return Err(why),
        };
        let goes_on = observe(SearchEvent::Trial(&trial));
        let outcome = trial.outcome.clone();
        all.push(trial);
        match outcome {
            Outcome::Kept => kept += 1,
            Outcome::Missed => missed += 1,
            Outcome::SenderLimit(why) => {
                return Ok(Rate::Ended(format!("at {rate:.0}/s the sender is the limit, not the server: {why}")));
            }
            Outcome::Disturbed(why) => {
                disturbed += 1;
                if disturbed >= VOID_IN_A_ROW_MAX {
                    return Ok(Rate::Ended(format!("{disturbed} trials at {rate:.0}/s were disturbed: {why}")));
                }
            }
        }
        if !goes_on {
            return Ok(Rate::CutShort("it was stopped".into()));
        }
        if kept == 2 {
            return Ok(Rate::Kept);
        }
        if missed == 2 {
            return Ok(Rate::Missed);
        }
    }
    Ok(if kept > missed { Rate::Kept } else { Rate::Missed })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Keeps the objective up to a rate; in between, the given trials (counted from 0) come out the other way.
    pub(crate) struct Scripted {
        pub(crate) limit: f64,
        pub(crate) flips: Vec<usize>,
        pub(crate) sender_limit: f64,
        pub(crate) failing: bool,
        pub(crate) dies_at: usize,
        pub(crate) done: usize,
    }

    impl Scripted {
        fn new(limit: f64) -> Self {
            Self { limit, flips: Vec::new(), sender_limit: f64::INFINITY, failing: false, dies_at: usize::MAX, done: 0 }
        }
    }

    pub(crate) fn trial(rate: f64, outcome: Outcome) -> Trial {
        Trial {
            offered_per_second: rate,
            succeeded_per_second: rate,
            mean_ms: 1.0,
            p50_ms: 1.0,
            p95_ms: 1.0,
            p99_ms: 1.0,
            error_share: 0.0,
            failure: None,
            objectives: Vec::new(),
            outcome,
            ledger: None,
            client: ClientParts::default(),
        }
    }

    impl Trials for Scripted {
        fn open(&mut self, per_second: f64, _: u64) -> Result<Trial, String> {
            let flipped = self.flips.contains(&self.done);
            self.done += 1;
            if self.done > self.dies_at {
                return Err("it refuses the connection".into());
            }
            let outcome = if per_second > self.sender_limit {
                Outcome::SenderLimit("busy".into())
            } else if (per_second <= self.limit) != flipped {
                Outcome::Kept
            } else {
                Outcome::Missed
            };
            let error_share = if self.failing { 1.0 } else { 0.0 };
            Ok(Trial { error_share, failure: self.failing.then(|| "status 500".into()), ..trial(per_second, outcome) })
        }

        fn closed(&mut self, concurrency: u32) -> Result<f64, String> {
            Ok(f64::from(concurrency))
        }
    }

    const PLAN: Search = Search { from_per_second: 100.0, to_per_second: 100_000.0, seed: 1 };

    fn run(mut trials: Scripted) -> Found {
        search(&PLAN, &mut trials, |_| true).expect("a search")
    }

    #[test]
    fn the_bracket_closes_around_the_limit() {
        let found = run(Scripted::new(3_300.0));
        let (kept, missed) = (found.kept_per_second.expect("kept"), found.missed_per_second.expect("missed"));
        assert!(kept <= 3_300.0 && 3_300.0 < missed && missed / kept <= PRECISION, "{kept} {missed}");
        assert_eq!(found.note, None);
        assert!(found.trials.len() <= 26, "{}", found.trials.len());
    }

    #[test]
    fn a_service_slower_than_the_first_rate_is_found_below_it() {
        for limit in [90.0, 13.0, 1.2] {
            let found = run(Scripted::new(limit));
            let (kept, missed) = (found.kept_per_second.expect("kept"), found.missed_per_second.expect("missed"));
            assert!(kept <= limit && limit < missed && missed / kept <= PRECISION, "{kept} {missed}");
        }
    }

    #[test]
    fn one_unlucky_trial_of_three_decides_nothing() {
        let quiet = run(Scripted::new(3_300.0));
        let unlucky = run(Scripted { flips: vec![1, 5, 14], ..Scripted::new(3_300.0) });
        assert_eq!(quiet.kept_per_second, unlucky.kept_per_second);
        assert!(unlucky.trials.len() > quiet.trials.len());
    }

    #[test]
    fn open_intervals_say_why() {
        let none = run(Scripted::new(0.1));
        assert_eq!((none.kept_per_second, none.missed_per_second), (None, Some(FLOOR_PER_SECOND)));
        assert!(none.note.expect("a note").contains("missed still at 1/s"));
        let failing = run(Scripted { failing: true, ..Scripted::new(0.1) });
        assert_eq!((failing.missed_per_second, failing.trials.len()), (Some(100.0), 2));
        assert!(failing.note.expect("a note").contains("every request fails (status 500)"));
        let all = run(Scripted::new(1e9));
        assert_eq!((all.kept_per_second, all.missed_per_second), (Some(100_000.0), None));
        assert!(all.note.expect("a note").contains("highest rate asked for"));
        let sender = run(Scripted { sender_limit: 1_000.0, ..Scripted::new(1e9) });
        assert_eq!(sender.kept_per_second, Some(800.0));
        assert!(sender.note.expect("a note").contains("at 1600/s the sender is the limit"));
    }

    #[test]
    fn it_can_be_stopped() {
        let mut seen = 0;
        let stop_at_three = |_: SearchEvent<'_>| {
            seen += 1;
            seen < 3
        };
        let found = search(&PLAN, &mut Scripted::new(1e9), stop_at_three).expect("a search");
        assert_eq!((found.trials.len(), found.kept_per_second, found.cut_short), (3, Some(100.0), true));
        let died = run(Scripted { dies_at: 5, ..Scripted::new(1e9) });
        assert_eq!((died.kept_per_second, died.cut_short), (Some(200.0), true));
        assert!(!run(Scripted::new(1e9)).cut_short);
    }
}
