//! What a capacity measurement gives.

use celerity_telemetry::Category;
use serde::{Deserialize, Serialize};

use crate::ab::arms::BlockLedger;
use crate::capacity::search::{Found, SearchEvent, Trials};
use crate::stats::usl::{self, Fit, Point};

/// The version of this structure; a field that is renamed or means something else raises it.
pub const VERSION: u32 = 1;
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
    /// Rows of the ledger from the lowest rate to the highest, the first one to grow first; empty without a ledger.
    pub growth: Vec<Growth>,
    pub peak: Option<Peak>,
}

/// Closed loops at rising concurrency, and the law through them or why there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sweep {
    pub points: Vec<Point>,
    pub fit: Option<Fit>,
    pub refusal: Option<String>,
}

/// One category against the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    pub category: String,
    /// Mean milliseconds of a request at the lowest rate and at the highest one.
    pub low_ms: f64,
    pub high_ms: f64,
    /// The lowest rate at which it had grown by a fifth of the unloaded response time.
    pub grown_from_per_second: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    pub forecast_per_second: f64,
    pub replicas: u64,
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

/// Which category grows first: the one that has grown at the lowest rate, the one that grew more where two have.
pub fn growth(found: &Found) -> Vec<Growth> {
    let mut loaded: Vec<(f64, BlockLedger)> =
        found.trials.iter().filter_map(|trial| Some((trial.offered_per_second, trial.ledger?))).collect();
    loaded.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some((_, low)), Some((_, high))) = (loaded.first(), loaded.last()) else { return Vec::new() };
    let whole_us = low.categories_us.iter().sum::<f64>() + low.outside_us;
    let row = |name: &str, of: &dyn Fn(&BlockLedger) -> f64| {
        let grown = loaded.iter().find(|(_, ledger)| of(ledger) - of(low) > GROWN_SHARE * whole_us);
        Growth {
            category: name.to_owned(),
            low_ms: of(low) / 1e3,
            high_ms: of(high) / 1e3,
            grown_from_per_second: grown.map(|(rate, _)| *rate),
        }
    };
    let mut rows: Vec<Growth> = Category::ALL
        .iter()
        .enumerate()
        .map(|(at, category)| {
            row(category.as_str(), &|ledger| ledger.categories_us.get(at).copied().unwrap_or_default())
        })
        .collect();
    rows.push(row("client", &|ledger| ledger.outside_us));
    let from = |row: &Growth| row.grown_from_per_second.unwrap_or(f64::INFINITY);
    let grew = |row: &Growth| row.high_ms - row.low_ms;
    rows.sort_by(|a, b| from(a).total_cmp(&from(b)).then(grew(b).total_cmp(&grew(a))));
    rows
}

impl Report {
    pub fn new(target: &str, objective: &str, found: Found, sweep: Sweep, forecast_per_second: Option<f64>) -> Self {
        let peak = forecast_per_second.zip(found.kept_per_second).map(|(forecast_per_second, capacity)| Peak {
            forecast_per_second,
            replicas: replicas(forecast_per_second, capacity),
        });
        Self {
            version: VERSION,
            target: target.to_owned(),
            objective: objective.to_owned(),
            growth: growth(&found),
            found,
            sweep,
            peak,
        }
    }

    /// 0 if a rate keeps the objective; 1 if none does; 4 if the machine or the sender did not let it be found.
    pub fn exit_code(&self) -> u8 {
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
    use crate::capacity::search::tests::trial;
    use crate::capacity::search::{Outcome, Trial};

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

    #[test]
    fn the_category_that_grows_first_is_named() {
        let at = |rate: f64, queueing: f64, service: f64| {
            let mut ledger = BlockLedger { outside_us: 10.0, ..BlockLedger::default() };
            ledger.categories_us[Category::Queueing as usize] = queueing;
            ledger.categories_us[Category::Service as usize] = service;
            Trial { ledger: Some(ledger), ..trial(rate, Outcome::Kept) }
        };
        let trials = vec![at(100.0, 0.0, 1000.0), at(200.0, 300.0, 1100.0), at(400.0, 5000.0, 9000.0)];
        let found = Found { kept_per_second: Some(400.0), missed_per_second: None, note: None, trials };
        let rows = growth(&found);
        assert_eq!((rows[0].category.as_str(), rows[0].grown_from_per_second), ("queueing", Some(200.0)));
        assert_eq!((rows[1].category.as_str(), rows[1].grown_from_per_second), ("service", Some(400.0)));
        assert_eq!(rows[2].grown_from_per_second, None);
    }
}
