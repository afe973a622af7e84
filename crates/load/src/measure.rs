//! Experiments on real targets: what [`crate::run`] gives, as the blocks and trials that the designs ask for.

use std::collections::HashMap;
use std::time::Duration;

use crate::ab::arms::{Arm, ArmError, Arms, Block, BlockLedger, BlockNoise, BlockSpec};
use crate::audit::{CPU_SHARE_MAX, STEAL_SHARE_MAX};
use crate::capacity::search::{ClientParts, KEPT_UP_SHARE_MIN, Outcome, Trial, Trials};
use crate::plan::{Arrivals, Closed, Load, Open, Segment, WhenFull};
use crate::slo::Slo;
use crate::stats::Distribution;
use crate::{Control, Plan, Summary, run};

/// Two targets under one control.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Everything but the load, the seed and the warm-up, which are the design's.
    pub baseline: Plan,
    pub candidate: Plan,
    pub control: Control,
}

impl Arms for Targets {
    fn block(&mut self, arm: Arm, spec: &BlockSpec) -> Result<Block, ArmError> {
        let plan = match arm {
            Arm::Baseline => &self.baseline,
            Arm::Candidate => &self.candidate,
        };
        block(plan, spec, &self.control)
    }
}

/// Runs one block on a target.
pub fn block(plan: &Plan, spec: &BlockSpec, control: &Control) -> Result<Block, ArmError> {
    let load = open(spec.per_second, spec.duration);
    let plan = Plan { load, seed: spec.seed, warm_up: spec.discard, ..plan.clone() };
    Ok(Block::from(&run(&plan, control)?))
}

fn open(per_second: f64, duration: Duration) -> Load {
    Load::Open(Open {
        segments: vec![Segment::hold(per_second, duration)],
        arrivals: Arrivals::Poisson,
        when_full: WhenFull::Queue,
        count: None,
    })
}

impl From<&Summary> for Block {
    fn from(summary: &Summary) -> Self {
        let seconds = summary.duration_ns as f64 / 1e9;
        let audit = &summary.audit;
        // The sender looks at its own switches over the whole run, warm-up included: a rate is what can be compared.
        let run_s = seconds + summary.about.warm_up_ns as f64 / 1e9;
        Self {
            response: successes(summary),
            succeeded: summary.succeeded,
            failed: summary.failed(),
            failure: summary.failure(),
            succeeded_per_second: summary.succeeded_per_second(),
            noise: BlockNoise {
                lag_p99_ns: summary.lag.quantile_ns(0.99),
                steal_share: audit.steal_share,
                pressure_share: audit.pressure_share,
                involuntary_switches_per_second: audit.involuntary_switches.map(|count| count as f64 / run_s.max(1e-3)),
            },
            ledger: ledger(summary),
            interrupted: summary.about.interrupted,
        }
    }
}

/// A failure that comes at once is no fast answer: the response times of successes alone.
fn successes(summary: &Summary) -> Distribution {
    let failed: HashMap<u64, u64> = summary.failed_response.buckets().collect();
    let left = |(ns, count): (u64, u64)| (ns, count.saturating_sub(failed.get(&ns).copied().unwrap_or_default()));
    Distribution::from_counts(summary.response.buckets().map(left))
}

fn ledger(summary: &Summary) -> Option<BlockLedger> {
    let totals = summary.ledger.as_ref().filter(|totals| totals.responses > 0)?;
    let means = totals.means();
    Some(BlockLedger { categories_us: means.categories_us, outside_us: means.outside_us() })
}

/// A target whose capacity is looked for.
#[derive(Clone, Debug)]
pub struct CapacityTarget {
    /// Everything but the load, the seed and the warm-up.
    pub plan: Plan,
    pub slo: Slo,
    /// Of one trial, with the part that is not recorded.
    pub trial: Duration,
    /// Of one closed loop.
    pub closed: Duration,
    pub control: Control,
}

/// Of each trial: connections are opened and queues find their length in it.
const WARM_UP_SHARE: f64 = 0.2;
/// At low rates chance leaves a trial without a request, which says nothing of the server: it is run again, so often.
const EMPTY_TRIALS_MAX: u64 = 16;
/// A sender this late against the median, in a trial that missed, may itself be what missed.
const LAG_SHARE_MAX: f64 = 0.25;

impl CapacityTarget {
    /// Of one trial, the part that is recorded.
    pub fn recorded(&self) -> Duration {
        self.trial.mul_f64(1.0 - WARM_UP_SHARE)
    }
}

impl Trials for CapacityTarget {
    fn open(&mut self, per_second: f64, seed: u64) -> Result<Trial, String> {
        let warm_up = self.trial.mul_f64(WARM_UP_SHARE);
        for again in 0..EMPTY_TRIALS_MAX {
            let seed = seed.wrapping_add(again << 32);
            let plan = Plan { load: open(per_second, self.trial), seed, warm_up, ..self.plan.clone() };
            let summary = run(&plan, &self.control).map_err(|error| error.to_string())?;
            if summary.intended == 0 && !summary.about.interrupted {
                continue;
            }
            // An overloaded server answers some; one that answers nothing is not there.
            if summary.response.is_empty() && !summary.about.interrupted {
                let why = summary.failure().map_or_else(String::new, |why| format!(": {why}"));
                return Err(format!("nothing was answered{why}"));
            }
            return Ok(trial(per_second, &summary, &self.slo));
        }
        Err(format!("no request was due in {EMPTY_TRIALS_MAX} trials of {:?}: use a longer --trial", self.trial))
    }

    fn closed(&mut self, concurrency: u32) -> Result<f64, String> {
        let load = Load::Closed(Closed { duration: Some(self.closed), count: None, slot_per_second: None });
        let threads = self.plan.threads.min(concurrency);
        let warm_up = self.closed.mul_f64(WARM_UP_SHARE);
        let plan = Plan { load, warm_up, connections: concurrency, threads, ..self.plan.clone() };
        let summary = run(&plan, &self.control).map_err(|error| error.to_string())?;
        Ok(summary.succeeded_per_second())
    }
}

fn trial(offered: f64, summary: &Summary, slo: &Slo) -> Trial {
    let objectives = slo.evaluate(summary);
    let kept_up = !summary.grown_beyond(1.0 - KEPT_UP_SHARE_MIN) && summary.achieved_share() >= KEPT_UP_SHARE_MIN;
    let kept = kept_up && objectives.iter().all(|objective| objective.passed);
    let ms = |q: f64| summary.response.quantile_ns(q) as f64 / 1e6;
    Trial {
        offered_per_second: offered,
        succeeded_per_second: summary.succeeded_per_second(),
        mean_ms: summary.response.mean_ns() / 1e6,
        p50_ms: ms(0.50),
        p95_ms: ms(0.95),
        p99_ms: ms(0.99),
        error_share: 1.0 - summary.success_share(),
        failure: summary.failure(),
        objectives,
        outcome: outcome(summary, kept),
        ledger: ledger(summary),
        client: ClientParts {
            wait_us: (summary.response.mean_ns() - summary.service.mean_ns()).max(0.0) / 1e3,
            answer_us: summary.service.mean_ns() / 1e3,
        },
    }
}

/// A trial that kept the objective stands whatever the machine did: noise does not make a server faster.
fn outcome(summary: &Summary, kept: bool) -> Outcome {
    let audit = &summary.audit;
    let (lag, median) = (summary.lag.quantile_ns(0.99) as f64, summary.response.quantile_ns(0.5) as f64);
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    if kept {
        Outcome::Kept
    } else if audit.cpu_share_max > CPU_SHARE_MAX {
        Outcome::SenderLimit(format!("a thread of it was busy {} of the time", percent(audit.cpu_share_max)))
    } else if let Some(steal) = audit.steal_share.filter(|share| *share > STEAL_SHARE_MAX) {
        Outcome::Disturbed(format!("the hypervisor gave {} of the CPU time to others", percent(steal)))
    } else if audit.clock_slips > 0 {
        Outcome::Disturbed("the machine was suspended".into())
    } else if summary.succeeded > 0 && lag > LAG_SHARE_MAX * median {
        Outcome::Disturbed(format!(
            "the sender was {:.3} ms late at its p99, the median is {:.3} ms",
            lag / 1e6,
            median / 1e6
        ))
    } else {
        Outcome::Missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Crossed;

    fn summary() -> Summary {
        let mut summary = Summary { duration_ns: 2_000_000_000, intended: 200, succeeded: 198, ..Summary::default() };
        summary.failed_answers = 2;
        summary.statuses = [(200, 198), (503, 2)].into();
        summary.about.open_loop = true;
        summary.response.record_n(5_000_000, 198);
        summary.response.record_n(100_000, 2);
        summary.failed_response.record_n(100_000, 2);
        summary.lag.record_n(10_000, 200);
        summary.audit.involuntary_switches = Some(10);
        summary
    }

    #[test]
    fn a_summary_becomes_a_block() {
        let block = Block::from(&summary());
        assert_eq!((block.succeeded, block.failed, block.succeeded_per_second), (198, 2, 99.0));
        assert_eq!((block.response.count(), block.failure.as_deref()), (198, Some("status 503")));
        assert!(block.quantile_ns(0.0) > Some(4e6), "the two failures were fast");
        assert!((block.quantile_ns(0.5).expect("p50") / 5e6 - 1.0).abs() < 0.002);
        assert_eq!(block.noise.involuntary_switches_per_second, Some(5.0));
        assert!(block.ledger.is_none() && !block.interrupted);
    }

    #[test]
    fn a_port_where_nobody_listens_is_unreachable_and_loses_the_blocks_requests() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        drop(listener);
        let (origin, path) = crate::target::parse(&url).expect("a URL");
        let source = crate::source::Source::single(crate::source::Request::get(path));
        let second = Duration::from_secs(1);
        let plan = Plan::new(origin, source, open(10.0, second));
        let spec = BlockSpec { seed: 1, per_second: 100.0, duration: 2 * second, discard: second };
        let error = block(&plan, &spec, &Control::new()).expect_err("nobody listens");
        assert!(error.unreachable && error.reason.contains("refuses"), "{error}");
        let lost = spec.lost();
        assert_eq!((lost.failed, lost.succeeded, lost.error_share()), (100, 0, 1.0));
    }

    #[test]
    fn a_trial_is_kept_missed_or_says_nothing() {
        let slo: Slo = "p99<6ms".parse().expect("an objective");
        let outcome = |summary: &Summary| trial(100.0, summary, &slo).outcome;
        assert_eq!(outcome(&summary()), Outcome::Kept);
        let mut slow = summary();
        slow.response.record_n(50_000_000, 10);
        assert_eq!(outcome(&slow), Outcome::Missed);
        let mut behind = summary();
        behind.errors.insert(crate::summary::ErrorKind::Unsent, 20);
        assert_eq!(outcome(&behind), Outcome::Missed);
        // All are answered, half of them after the end: that is half of the rate.
        let mut after = summary();
        after.late = Crossed { answers: 100, successes: 100 };
        assert_eq!(outcome(&after), Outcome::Missed);
        // A queue that was as long when the measured part began, and one request of few that was under way at the end.
        after.carried_in = after.late;
        assert_eq!(outcome(&after), Outcome::Kept);
        (after.late.answers, after.carried_in.answers, after.intended) = (2, 1, 4);
        assert_eq!(outcome(&after), Outcome::Kept);
        let mut late = slow.clone();
        late.lag.record_n(3_000_000, 100);
        assert!(matches!(outcome(&late), Outcome::Disturbed(_)));
        slow.audit.cpu_share_max = 0.95;
        assert!(matches!(outcome(&slow), Outcome::SenderLimit(_)));
    }
}
