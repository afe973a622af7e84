//! What an experiment gives to those who print it.

use celerity_telemetry::Category;
use serde::{Deserialize, Serialize};

use crate::ab::arms::{Arm, Block, BlockLedger};
use crate::ab::design::{Design, ERROR_MARGIN, Metric};
use crate::ab::noise::{PairNoise, Rules};
use crate::ab::verdict::{Guardrail, Judged, Verdict, guardrail, judge};
use crate::stats::{Distribution, Estimate, bootstrap, paired, ranks};

/// The version of this structure; a field that is renamed or means something else raises it.
pub const VERSION: u32 = 2;

/// Changes are of the candidate against the baseline: `-0.10` is 10 % less.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub baseline: String,
    pub candidate: String,
    pub verdict: Verdict,
    /// One sentence: why this verdict.
    pub reason: String,
    pub design: Design,
    pub aa: Option<AaReport>,
    pub rules: Rules,
    /// Pairs that count, and pairs that were voided.
    pub pairs_kept: usize,
    pub pairs_voided: usize,
    pub pairs: Vec<PairRow>,
    pub looks: Vec<Look>,
    /// p50, p95 and p99; empty before the first pair.
    pub metrics: Vec<MetricReport>,
    /// From p10 to p99.9.
    pub shift: Vec<ShiftPoint>,
    pub throughput: Option<Throughput>,
    pub errors: Errors,
    /// Where the ledger came back from both arms: largest change first.
    pub ledger: Vec<LedgerRow>,
    pub tutorial: Option<Tutorial>,
}

/// Baseline against itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AaReport {
    pub pairs: usize,
    /// Of the primary metric; about 0 if the measuring is fair. Alpha is that of the whole experiment.
    pub change: Estimate,
    pub p: f64,
    /// Standard deviation of a pair's difference of logarithms.
    pub deviation: f64,
    /// Half the width that the interval will have after the last look, as a share: no smaller margin can be answered.
    pub floor: f64,
    /// The change that is found with a chance of 80 %, as a share.
    pub detectable: f64,
    /// The margin that was asked for, where the design let the floor widen it.
    #[serde(default)]
    pub widened_from: Option<f64>,
    /// Of the baseline's requests, and what they failed of.
    #[serde(default)]
    pub failed_share: f64,
    #[serde(default)]
    pub failure: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PairRow {
    pub first: Arm,
    /// Of the primary metric, as a share; `None` if an arm answered nothing.
    pub change: Option<f64>,
    pub noise: PairNoise,
    /// Why it does not count; empty if it does.
    pub void: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Look {
    pub pairs: usize,
    /// As a share.
    pub change: Estimate,
    pub p: f64,
    pub verdict: Verdict,
    pub guardrail: Guardrail,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MetricReport {
    pub metric: Metric,
    pub primary: bool,
    pub margin: f64,
    /// Medians of the blocks' quantiles.
    pub baseline_ms: f64,
    pub candidate_ms: f64,
    /// As a share; the interval's error is that of one look.
    pub change: Estimate,
    pub p: f64,
    /// Of metrics that are not the primary one it is a description, not a decision.
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShiftPoint {
    pub q: f64,
    pub baseline_ms: f64,
    pub candidate_ms: f64,
    /// As a share.
    pub change: Estimate,
    pub change_ms: Estimate,
    /// Whole blocks were resampled: approximate.
    pub bootstrap: bool,
}

/// Successes in a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub offered_per_second: f64,
    pub baseline_per_second: f64,
    pub candidate_per_second: f64,
    /// As a share.
    pub change: Estimate,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Errors {
    pub baseline_share: f64,
    pub candidate_share: f64,
    pub margin: f64,
    pub guardrail: Guardrail,
    /// What the first failed block of each arm failed of.
    #[serde(default)]
    pub baseline_failure: Option<String>,
    #[serde(default)]
    pub candidate_failure: Option<String>,
}

/// One category of the ledger, mean microseconds of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerRow {
    pub category: String,
    pub baseline_us: f64,
    pub candidate_us: f64,
    /// At an error of 5 % each: a description.
    pub change_us: Estimate,
}

/// The figures that the tutorial's ABTester prints, from these requests. Improvements in its sense: positive is better.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tutorial {
    pub baseline: TutorialArm,
    pub candidate: TutorialArm,
    pub success_improvement_points: f64,
    pub average_improvement_percent: f64,
    pub p95_improvement_percent: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TutorialArm {
    pub success_percent: f64,
    pub average_ms: f64,
    pub p95_ms: f64,
}

/// A pair that counts.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) baseline: Block,
    pub(crate) candidate: Block,
}

impl Pair {
    /// `ln(candidate / baseline)` of a quantile.
    pub(crate) fn log_ratio(&self, q: f64) -> Option<f64> {
        Some((self.candidate.quantile_ns(q)? / self.baseline.quantile_ns(q)?).ln())
    }
}

pub(crate) fn log_ratios(pairs: &[Pair], q: f64) -> Vec<f64> {
    pairs.iter().filter_map(|pair| pair.log_ratio(q)).collect()
}

/// What the A/A run found of each metric, in [`Metric::ALL`]'s order: noise floors, as differences of logarithms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floors(pub(crate) [f64; Metric::ALL.len()]);

impl Floors {
    /// The floor under a metric's claims: none where the margin lies above it, for then the margin is what counts.
    fn under(self, metric: Metric, margin_log: f64) -> f64 {
        let floor = Metric::ALL.iter().zip(self.0).find(|(own, _)| **own == metric).map_or(0.0, |(_, floor)| floor);
        if floor >= margin_log { floor } else { 0.0 }
    }

    /// The floor of a metric is at least this.
    pub(crate) fn raise(&mut self, metric: Metric, least: f64) {
        for (_, floor) in Metric::ALL.iter().zip(&mut self.0).filter(|(own, _)| **own == metric) {
            *floor = floor.max(least);
        }
    }
}

/// What the pairs say now, without a verdict of its own.
pub(crate) fn primary(design: &Design, floors: Floors, pairs: &[Pair]) -> Option<Judged> {
    let (metric, margin) = (design.primary, design.margin_log());
    judge(&log_ratios(pairs, metric.quantile()), margin, floors.under(metric, margin), design.alpha_per_look())
}

pub(crate) fn as_share(log: Estimate) -> Estimate {
    // An end that is open stays open: -100 % would look like a finding.
    log.map(|value| if value.is_finite() { value.exp_m1() } else { value })
}

pub(crate) fn metrics(design: &Design, floors: Floors, pairs: &[Pair]) -> Vec<MetricReport> {
    let one = |metric: Metric| {
        let primary = metric == design.primary;
        let margin = if primary { design.margin } else { metric.margin() };
        let floor = floors.under(metric, margin.ln_1p());
        let judged = judge(&log_ratios(pairs, metric.quantile()), margin.ln_1p(), floor, design.alpha_per_look())?;
        let (baseline_ms, candidate_ms) = middles(pairs, metric.quantile())?;
        let (change, p, verdict) = (as_share(judged.change), judged.p, judged.verdict);
        Some(MetricReport { metric, primary, margin, baseline_ms, candidate_ms, change, p, verdict })
    };
    Metric::ALL.into_iter().filter_map(one).collect()
}

fn middles(pairs: &[Pair], q: f64) -> Option<(f64, f64)> {
    let middle = |of: &dyn Fn(&Pair) -> Option<f64>| {
        crate::stats::median(&pairs.iter().filter_map(of).collect::<Vec<_>>()).map(|ns| ns / 1e6)
    };
    Some((middle(&|pair| pair.baseline.quantile_ns(q))?, middle(&|pair| pair.candidate.quantile_ns(q))?))
}

const SHIFT_QUANTILES: [f64; 8] = [0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999];
/// Above the highest quantile that a block can show, blocks are put together.
const EXCEEDANCES_OF_A_BLOCK: f64 = 10.0;

pub(crate) fn shift(design: &Design, pairs: &[Pair]) -> Vec<ShiftPoint> {
    let alpha = design.alpha_per_look();
    let least = pairs.iter().map(|pair| pair.baseline.response.count().min(pair.candidate.response.count())).min();
    let point = |q: f64| {
        let rare = least.unwrap_or_default() as f64 * (1.0 - q) < EXCEEDANCES_OF_A_BLOCK;
        let by_block = || {
            let differences: Vec<f64> = pairs
                .iter()
                .filter_map(|pair| Some((pair.candidate.quantile_ns(q)? - pair.baseline.quantile_ns(q)?) / 1e6))
                .collect();
            let (baseline_ms, candidate_ms) = middles(pairs, q)?;
            let change = as_share(ranks::hodges_lehmann(&log_ratios(pairs, q), alpha)?);
            let change_ms = ranks::hodges_lehmann(&differences, alpha)?;
            Some(ShiftPoint { q, baseline_ms, candidate_ms, change, change_ms, bootstrap: false })
        };
        let together = || {
            let blocks: Vec<_> = pairs.iter().map(|pair| (&pair.baseline.response, &pair.candidate.response)).collect();
            let all = |arm: &dyn Fn(&Pair) -> &Distribution| {
                Distribution::merged(pairs.iter().map(arm)).quantile(q).map(|ns| ns as f64 / 1e6)
            };
            let baseline_ms = all(&|pair| &pair.baseline.response)?;
            let candidate_ms = all(&|pair| &pair.candidate.response)?;
            let change = as_share(bootstrap::quantile_log_ratio(&blocks, q, alpha, design.seed)?);
            let change_ms = change.map(|share| share * baseline_ms);
            Some(ShiftPoint { q, baseline_ms, candidate_ms, change, change_ms, bootstrap: true })
        };
        if rare { together() } else { by_block() }
    };
    SHIFT_QUANTILES.into_iter().filter_map(point).collect()
}

pub(crate) fn throughput(design: &Design, pairs: &[Pair]) -> Option<Throughput> {
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|pair| (pair.candidate.succeeded_per_second / pair.baseline.succeeded_per_second).ln())
        .filter(|ratio| ratio.is_finite())
        .collect();
    let change = as_share(paired::mean_interval(&ratios, design.alpha_per_look(), design.seed)?);
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64;
    Some(Throughput {
        offered_per_second: design.per_second,
        baseline_per_second: mean(&|pair| pair.baseline.succeeded_per_second),
        candidate_per_second: mean(&|pair| pair.candidate.succeeded_per_second),
        change,
    })
}

pub(crate) fn errors(design: &Design, pairs: &[Pair]) -> Errors {
    let excesses: Vec<f64> =
        pairs.iter().map(|pair| pair.candidate.error_share() - pair.baseline.error_share()).collect();
    let share = |of: &dyn Fn(&Pair) -> (u64, u64)| {
        let (failed, all) = pairs.iter().map(of).fold((0, 0), |sum, (failed, all)| (sum.0 + failed, sum.1 + all));
        failed as f64 / all.max(1) as f64
    };
    let counts = |block: &Block| (block.failed, block.failed + block.succeeded);
    let failure = |of: &dyn Fn(&Pair) -> &Block| pairs.iter().find_map(|pair| of(pair).failure.clone());
    Errors {
        baseline_share: share(&|pair| counts(&pair.baseline)),
        candidate_share: share(&|pair| counts(&pair.candidate)),
        margin: ERROR_MARGIN,
        guardrail: guardrail(&excesses, ERROR_MARGIN, design.alpha_per_look(), design.seed),
        baseline_failure: failure(&|pair| &pair.baseline),
        candidate_failure: failure(&|pair| &pair.candidate),
    }
}

/// Descriptive, so at the usual level.
const LEDGER_ALPHA: f64 = 0.05;

/// The seven categories and the time outside the mesh, largest change first.
pub(crate) fn ledger(design: &Design, pairs: &[Pair]) -> Vec<LedgerRow> {
    let both: Vec<(BlockLedger, BlockLedger)> =
        pairs.iter().filter_map(|pair| Some((pair.baseline.ledger?, pair.candidate.ledger?))).collect();
    let row = |category: &str, of: &dyn Fn(&BlockLedger) -> f64| {
        let differences: Vec<f64> = both.iter().map(|(baseline, candidate)| of(candidate) - of(baseline)).collect();
        let mean =
            |arm: &dyn Fn(&(BlockLedger, BlockLedger)) -> f64| both.iter().map(arm).sum::<f64>() / both.len() as f64;
        Some(LedgerRow {
            category: category.to_owned(),
            baseline_us: mean(&|pair| of(&pair.0)),
            candidate_us: mean(&|pair| of(&pair.1)),
            change_us: paired::mean_interval(&differences, LEDGER_ALPHA, design.seed)?,
        })
    };
    let mut rows: Vec<LedgerRow> = Category::ALL
        .iter()
        .enumerate()
        .filter_map(|(at, category)| {
            row(category.as_str(), &|ledger| ledger.categories_us.get(at).copied().unwrap_or_default())
        })
        .collect();
    rows.extend(row("client", &|ledger| ledger.outside_us));
    rows.sort_by(|a, b| b.change_us.value.abs().total_cmp(&a.change_us.value.abs()));
    rows
}

pub(crate) fn tutorial(pairs: &[Pair]) -> Option<Tutorial> {
    let arm = |of: &dyn Fn(&Pair) -> &Block| {
        let blocks: Vec<&Block> = pairs.iter().map(of).collect();
        let all = Distribution::merged(blocks.iter().map(|block| &block.response));
        let succeeded: u64 = blocks.iter().map(|block| block.succeeded).sum();
        let failed: u64 = blocks.iter().map(|block| block.failed).sum();
        Some(TutorialArm {
            success_percent: succeeded as f64 / (succeeded + failed).max(1) as f64 * 100.0,
            average_ms: all.mean()? / 1e6,
            p95_ms: all.quantile(0.95)? as f64 / 1e6,
        })
    };
    let baseline = arm(&|pair| &pair.baseline)?;
    let candidate = arm(&|pair| &pair.candidate)?;
    let improvement = |from: f64, to: f64| (from - to) / from * 100.0;
    Some(Tutorial {
        success_improvement_points: candidate.success_percent - baseline.success_percent,
        average_improvement_percent: improvement(baseline.average_ms, candidate.average_ms),
        p95_improvement_percent: improvement(baseline.p95_ms, candidate.p95_ms),
        baseline,
        candidate,
    })
}
