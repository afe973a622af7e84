//! What a capacity measurement gives.

use std::time::Duration;

use celerity_telemetry::Category;
use serde::{Deserialize, Serialize};

use crate::ab::design::EXCEEDANCES_MIN;
use crate::capacity::search::{Found, Outcome, SearchEvent, Trial, Trials};
use crate::slo::Slo;
use crate::stats::median;
use crate::stats::usl::{self, Fit, Point};

/// The version of this structure; a field that is renamed or means something else raises it.
pub const VERSION: u32 = 2;
/// A replica is planned to be this full at the peak: the rest is for what no forecast knows.
pub const UTILISATION: f64 = 0.7;
/// The sweep doubles the concurrency up to here.
pub const CONCURRENCY_MAX: u32 = 1024;
/// This many flat steps in a row end the sweep: enough past the knee to bend a fit.
const FLAT_STEPS: usize = 2;
/// A category has grown when it takes this share of the unloaded response time more than it did.
const GROWN_SHARE: f64 = 0.2;
const ALPHA: f64 = 0.05;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub target: String,
    pub objective: String,
    pub found: Found,
    pub sweep: Sweep,
    /// Parts of a request's time from the lowest rate to the highest, the first one to grow first; empty if no rate above the
    /// lowest gave an undisturbed trial.
    pub growth: Vec<Growth>,
    /// The parts are the ledger's rows; otherwise what the client itself can tell apart.
    #[serde(default)]
    pub growth_by_ledger: bool,
    pub peak: Option<Peak>,
    /// What the reader should know of the trials, such as that a quantile rests on few requests.
    #[serde(default)]
    pub warning: Option<String>,
}

/// Closed loops at rising concurrency, and the law through them or why there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sweep {
    pub points: Vec<Point>,
    pub fit: Option<Fit>,
    pub refusal: Option<String>,
}

/// One part of a request's time against the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    pub category: String,
    /// Mean milliseconds of a request at the lowest rate and at the highest one.
    pub low_ms: f64,
    pub high_ms: f64,
    /// The lowest rate from which on it had grown by a fifth of the unloaded response time at every higher one, too.
    pub grown_from_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    pub forecast_per_second: f64,
    pub replicas: u64,
    /// The capacity is a lower bound, so fewer may do.
    #[serde(default)]
    pub at_most: bool,
}

/// Replicas for a forecast peak: `ceil(peak / (0.7 x capacity)) + 1`; the one more is for the one that fails.
pub fn replicas(peak_per_second: f64, capacity_per_second: f64) -> u64 {
    (peak_per_second / (UTILISATION * capacity_per_second)).ceil() as u64 + 1
}

/// Raises the concurrency until throughput has stayed flat, and fits the law.
pub fn sweep<T: Trials + ?Sized>(
    trials: &mut T,
    seed: u64,
    mut observe: impl FnMut(SearchEvent<'_>) -> bool,
) -> Result<Sweep, String> {
    let mut points: Vec<Point> = Vec::new();
    let mut concurrency = 1;
    let mut flat = 0;
    while concurrency <= CONCURRENCY_MAX && (flat < FLAT_STEPS || points.len() < usl::POINTS_MIN) {
        let per_second = match trials.closed(concurrency) {
            Ok(per_second) => per_second,
            Err(why) if points.is_empty() => return Err(why),
            // What was measured so far is kept.
            Err(why) => return Ok(Sweep { points, fit: None, refusal: Some(why) }),
        };
        // A point that was cut short is none.
        if !observe(SearchEvent::Closed { concurrency, per_second }) {
            break;
        }
        let point = Point { concurrency: f64::from(concurrency), per_second };
        flat = if points.last().is_some_and(|last| usl::past_knee(*last, point)) { flat + 1 } else { 0 };
        points.push(point);
        concurrency *= 2;
    }
    let (fit, refusal) = match usl::fit(&points, ALPHA, seed) {
        Ok(fit) => (Some(fit), None),
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    Ok(Sweep { points, fit, refusal })
}

/// What a request's time was made of at one rate: mean microseconds by part.
type Parts = Vec<(&'static str, f64)>;

fn parts(trial: &Trial, by_ledger: bool) -> Option<Parts> {
    if !by_ledger {
        return Some(vec![
            ("waiting for a connection", trial.client.wait_us),
            ("waiting for the answer", trial.client.answer_us),
        ]);
    }
    let ledger = trial.ledger?;
    let rows = Category::ALL.iter().zip(ledger.categories_us).map(|(category, us)| (category.as_str(), us));
    Some(rows.chain([("client", ledger.outside_us)]).collect())
}

/// Which part grows first: the one that has grown at the lowest rate, the one that grew more where two have. Each rate has
/// one say, the median of its undisturbed trials, and what does not stay grown has not grown.
pub fn growth(found: &Found) -> (Vec<Growth>, bool) {
    let undisturbed = |trial: &&Trial| matches!(trial.outcome, Outcome::Kept | Outcome::Missed);
    let trials: Vec<&Trial> = found.trials.iter().filter(undisturbed).collect();
    let by_ledger = trials.iter().any(|trial| trial.ledger.is_some());
    let told: Vec<(f64, Parts)> =
        trials.iter().filter_map(|trial| Some((trial.offered_per_second, parts(trial, by_ledger)?))).collect();
    let mut rates: Vec<f64> = told.iter().map(|(rate, _)| *rate).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let [lowest, higher @ ..] = &rates[..] else { return (Vec::new(), by_ledger) };
    let (Some(highest), Some((_, names))) = (higher.last(), told.first()) else { return (Vec::new(), by_ledger) };
    let at = |rate: f64, part: usize| {
        let of = told.iter().filter(|(own, _)| *own == rate).filter_map(|(_, parts)| Some(parts.get(part)?.1));
        median(&of.collect::<Vec<_>>()).unwrap_or_default()
    };
    let whole_us: f64 = (0..names.len()).map(|part| at(*lowest, part)).sum();
    let row = |(part, (name, _)): (usize, &(&'static str, f64))| {
        let low = at(*lowest, part);
        let has_grown = |rate: &&f64| at(**rate, part) - low > GROWN_SHARE * whole_us;
        Growth {
            category: (*name).to_owned(),
            low_ms: low / 1e3,
            high_ms: at(*highest, part) / 1e3,
            grown_from_per_second: higher.iter().rev().take_while(has_grown).last().copied(),
        }
    };
    let mut rows: Vec<Growth> = names.iter().enumerate().map(row).collect();
    let from = |row: &Growth| row.grown_from_per_second.unwrap_or(f64::INFINITY);
    let grew = |row: &Growth| row.high_ms - row.low_ms;
    rows.sort_by(|a, b| from(a).total_cmp(&from(b)).then(grew(b).total_cmp(&grew(a))));
    (rows, by_ledger)
}

/// A sentence where the objective's quantile rests on a handful of requests in a trial at this rate.
pub fn thin(slo: &Slo, per_second: f64, recorded: Duration) -> Option<String> {
    let q = slo.highest_quantile()?;
    let requests = per_second * recorded.as_secs_f64();
    let beyond = requests * (1.0 - q);
    let longer = EXCEEDANCES_MIN / beyond;
    (longer > 1.0).then(|| {
        format!(
            "a trial at {per_second:.0}/s has {requests:.0} requests, {beyond:.1} of them beyond p{}: one slow moment decides it; a --trial {:.0} times as long would have {EXCEEDANCES_MIN:.0}",
            (q * 100_000.0).round() / 1000.0,
            longer.ceil()
        )
    })
}

impl Report {
    pub fn new(target: &str, objective: &str, found: Found, sweep: Sweep, forecast_per_second: Option<f64>) -> Self {
        let peak = forecast_per_second.zip(found.kept_per_second).map(|(forecast_per_second, capacity)| Peak {
            forecast_per_second,
            replicas: replicas(forecast_per_second, capacity),
            at_most: found.cut_short || found.missed_per_second.is_none(),
        });
        let (growth, growth_by_ledger) = growth(&found);
        Self {
            version: VERSION,
            target: target.to_owned(),
            objective: objective.to_owned(),
            growth,
            growth_by_ledger,
            found,
            sweep,
            peak,
            warning: None,
        }
    }

    /// 0 if a rate keeps the objective; 1 if none does; 4 if it was not searched for to the end, or the machine or the sender
    /// did not let it be found.
    pub fn exit_code(&self) -> u8 {
        if self.found.cut_short {
            return 4;
        }
        match (self.found.kept_per_second, self.found.missed_per_second) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ab::arms::BlockLedger;
    use crate::capacity::search::ClientParts;
    use crate::capacity::search::tests::trial;

    #[test]
    fn replicas_leave_room_and_one_to_spare() {
        assert_eq!(replicas(10_000.0, 2_000.0), 9);
        assert_eq!(replicas(1_400.0, 2_000.0), 2);
        assert_eq!(replicas(1_401.0, 2_000.0), 3);
    }

    struct Law;

    impl Trials for Law {
        fn open(&mut self, _: f64, _: u64) -> Result<Trial, String> {
            Err("not asked for".into())
        }

        fn closed(&mut self, concurrency: u32) -> Result<f64, String> {
            Ok(usl::Law { lambda: 500.0, alpha: 0.05, beta: 0.001 }.per_second(f64::from(concurrency)))
        }
    }

    #[test]
    fn the_sweep_ends_past_the_knee_with_a_fit() {
        let sweep = sweep(&mut Law, 1, |_| true).expect("a sweep");
        let fit = sweep.fit.expect("a fit");
        assert!((fit.law.alpha - 0.05).abs() < 1e-9 && sweep.points.len() == 8, "{:?}", sweep.points);
        let stopped = super::sweep(&mut Law, 1, |_| false).expect("a sweep");
        assert!(stopped.refusal.expect("a reason").contains("0 points"));
    }

    fn found(trials: Vec<Trial>) -> Found {
        Found { kept_per_second: Some(400.0), missed_per_second: None, note: None, cut_short: false, trials }
    }

    #[test]
    fn the_category_that_grows_first_is_named() {
        let at = |rate: f64, queueing: f64, service: f64| {
            let mut ledger = BlockLedger { outside_us: 10.0, ..BlockLedger::default() };
            ledger.categories_us[Category::Queueing as usize] = queueing;
            ledger.categories_us[Category::Service as usize] = service;
            Trial { ledger: Some(ledger), ..trial(rate, Outcome::Kept) }
        };
        let disturbed = |trial| Trial { outcome: Outcome::Disturbed("steal".into()), ..trial };
        let quiet = vec![at(100.0, 0.0, 1000.0), at(200.0, 300.0, 1100.0), at(400.0, 5000.0, 9000.0)];
        let (rows, by_ledger) = growth(&found(quiet.clone()));
        assert_eq!((rows[0].category.as_str(), rows[0].grown_from_per_second), ("queueing", Some(200.0)));
        assert_eq!((rows[1].category.as_str(), rows[1].grown_from_per_second), ("service", Some(400.0)));
        assert_eq!((rows[2].grown_from_per_second, by_ledger), (None, true));
        // Neither a disturbed trial, nor one wild trial of three, nor a rate after which it was small again.
        let wild = [
            disturbed(at(100.0, 0.0, 9000.0)),
            at(100.0, 0.0, 9000.0),
            at(100.0, 0.0, 1000.0),
            at(150.0, 0.0, 2000.0),
            disturbed(at(200.0, 0.0, 9000.0)),
        ];
        let (noisy, _) = growth(&found([&wild[..], &quiet].concat()));
        assert_eq!(noisy[..2], rows[..2]);
        assert_eq!(growth(&found(quiet[..1].to_vec())).0, []);
    }

    #[test]
    fn without_a_ledger_the_client_tells_its_own_parts() {
        let at = |rate: f64, wait_us: f64, answer_us: f64| Trial {
            client: ClientParts { wait_us, answer_us },
            ..trial(rate, Outcome::Kept)
        };
        let (rows, by_ledger) = growth(&found(vec![at(100.0, 10.0, 1000.0), at(200.0, 15.0, 4000.0)]));
        assert_eq!((rows[0].category.as_str(), rows[0].grown_from_per_second), ("waiting for the answer", Some(200.0)));
        assert_eq!((rows[1].grown_from_per_second, by_ledger), (None, false));
    }

    #[test]
    fn what_was_not_searched_to_the_end_is_not_known() {
        let report = |found| Report::new("a", "p99<1s", found, Sweep::default(), Some(1_000.0));
        let whole = Found { missed_per_second: Some(420.0), ..found(Vec::new()) };
        let peak = |report: &Report| report.peak.as_ref().map(|peak| peak.at_most);
        let report_of = report(whole.clone());
        assert_eq!((report_of.exit_code(), peak(&report_of)), (0, Some(false)));
        let open = report(found(Vec::new()));
        assert_eq!((open.exit_code(), peak(&open)), (0, Some(true)));
        let cut = report(Found { cut_short: true, ..whole });
        assert_eq!((cut.exit_code(), peak(&cut)), (4, Some(true)));
    }

    #[test]
    fn a_quantile_of_few_requests_is_warned_of() {
        let slo = |text: &str| text.parse::<Slo>().expect("an objective");
        let said = thin(&slo("p99<50ms,success>99%"), 100.0, Duration::from_secs(4)).expect("a warning");
        assert!(said.contains("400 requests, 4.0 of them beyond p99") && said.contains("13 times as long"), "{said}");
        assert_eq!(thin(&slo("p99<50ms"), 2_000.0, Duration::from_secs(4)), None);
        assert_eq!(thin(&slo("success>99%"), 1.0, Duration::from_secs(4)), None);
    }
}
