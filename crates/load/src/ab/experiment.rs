//! The loop: A/A, then pairs, a look at 8, 16, 32 and 64.

use crate::ab::arms::{Arm, Arms, Block};
use crate::ab::design::{Design, DesignError, Phase};
use crate::ab::noise::{PairNoise, Rules};
use crate::ab::report::{self, AaReport, Look, Pair, PairRow, Report};
use crate::ab::verdict::{Guardrail, Verdict, combine};
use crate::stats::{mean, ranks};

/// An A/A run whose two halves differ so clearly shows that the measuring prefers a place in the pair. With 8 pairs this is
/// every one of them on the same side: by chance once in 128 runs.
const AA_P_MIN: f64 = 0.01;
/// More voided pairs than counting ones, and more than this, and the machine is not fit for measuring.
const VOID_PAIRS_MAX: usize = 8;

/// The number of the pair that is dropped; no other has it.
const WARM_UP: usize = usize::MAX >> 8;

/// What has just happened, for whoever shows progress.
#[derive(Debug)]
pub enum Event<'a> {
    /// A pair of A/A is through: how many of how many.
    Aa {
        done: usize,
        of: usize,
    },
    Floor(&'a AaReport),
    /// A pair is through: how many count, and how many at most will be needed.
    Pair {
        kept: usize,
        of: usize,
        row: &'a PairRow,
    },
    Look(&'a Look),
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Ends the experiment with what is known.
    Stop,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    #[error(transparent)]
    Design(#[from] DesignError),
    #[error("the {arm} cannot be measured: {reason}")]
    Arm { arm: &'static str, reason: String },
}

struct Experiment<'a, A: ?Sized> {
    design: &'a Design,
    arms: &'a mut A,
    rules: Rules,
    aa: Option<AaReport>,
    rows: Vec<PairRow>,
    pairs: Vec<Pair>,
    looks: Vec<Look>,
    interrupted: bool,
}

/// Runs the experiment. `observe` is called after each pair and may stop it.
pub fn run<A: Arms + ?Sized>(
    design: &Design,
    names: (&str, &str),
    arms: &mut A,
    mut observe: impl FnMut(Event<'_>) -> Flow,
) -> Result<Report, ExperimentError> {
    design.check()?;
    let rules = Rules::from_usual(&[]);
    let (rows, pairs, looks) = (Vec::new(), Vec::new(), Vec::new());
    let mut experiment = Experiment { design, arms, rules, aa: None, rows, pairs, looks, interrupted: false };
    let (verdict, reason) = match experiment.decide(&mut observe) {
        // What was measured so far is kept.
        Err(ExperimentError::Arm { arm, reason }) if !experiment.rows.is_empty() => {
            (Verdict::Void, format!("the {arm} can no longer be measured: {reason}"))
        }
        other => other?,
    };
    Ok(experiment.report(names, verdict, reason))
}

type Decision = (Verdict, String);

impl<A: Arms + ?Sized> Experiment<'_, A> {
    fn decide(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Result<Decision, ExperimentError> {
        // Both arms are warm before anything counts; what these blocks say is dropped.
        self.block(Arm::Baseline, Phase::Aa, WARM_UP)?;
        self.block(Arm::Candidate, Phase::Aa, WARM_UP)?;
        if self.design.aa_pairs > 0
            && let Some(decision) = self.calibrate(observe)?
        {
            return Ok(decision);
        }
        self.compare(observe)
    }

    /// Baseline against itself, for the noise floor and the usual noise. A decision here ends the experiment.
    fn calibrate(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Result<Option<Decision>, ExperimentError> {
        let of = self.design.aa_pairs;
        let mut differences = Vec::with_capacity(of);
        let mut noise = Vec::with_capacity(of);
        for pair in 0..of {
            let one = self.block(Arm::Baseline, Phase::Aa, pair)?;
            let other = self.block(Arm::Baseline, Phase::Aa, pair)?;
            noise.push(PairNoise::of(&one, &other));
            // A coin decides which one plays the candidate, as in the pairs to come.
            let swapped = self.design.swapped(Phase::Aa, pair);
            let interrupted = one.interrupted || other.interrupted;
            let (baseline, candidate) = if swapped { (other, one) } else { (one, other) };
            differences.extend(Pair { baseline, candidate }.log_ratio(self.design.primary.quantile()));
            if observe(Event::Aa { done: pair + 1, of }) == Flow::Stop || interrupted {
                return Ok(Some((Verdict::Inconclusive, "it was stopped during the A/A run".into())));
            }
        }
        self.rules = Rules::from_usual(&noise);
        let Some(change) = ranks::hodges_lehmann(&differences, self.design.alpha) else {
            return Ok(Some((Verdict::Void, "the baseline answered nothing".into())));
        };
        // Equal arms differ by 0 on average, so the mean size tells the deviation; it follows one wild pair less than
        // the squares do.
        let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).collect();
        let deviation = mean(&sizes).unwrap_or_default() * (std::f64::consts::PI / 2.0).sqrt();
        let p = ranks::p_value(&differences);
        let aa = AaReport {
            pairs: differences.len(),
            change: report::as_share(change),
            p,
            deviation,
            floor: self.design.floor(deviation).exp_m1(),
            detectable: self.design.detectable(deviation).exp_m1(),
        };
        let stopped = observe(Event::Floor(&aa)) == Flow::Stop;
        let decision = if p <= AA_P_MIN {
            Some(format!(
                "the A/A run found a difference of {:+.1} % between the baseline and itself (p {p:.4}): the machine drifts too fast for these blocks",
                aa.change.value * 100.0
            ))
        } else if aa.floor >= self.design.margin {
            Some(format!(
                "the noise floor is {:.1} % and the margin {:.1} %: {} pairs of {:.1} s cannot answer it; longer blocks, more pairs, a quieter machine or a wider margin can",
                aa.floor * 100.0,
                self.design.margin * 100.0,
                self.design.pairs_max(),
                self.design.block.as_secs_f64()
            ))
        } else {
            None
        };
        self.aa = Some(aa);
        if stopped && decision.is_none() {
            return Ok(Some((Verdict::Inconclusive, "it was stopped after the A/A run".into())));
        }
        Ok(decision.map(|reason| (Verdict::Void, reason)))
    }

    fn compare(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Result<Decision, ExperimentError> {
        let of = self.design.pairs_max();
        while self.pairs.len() < of {
            let kept = self.pair()?;
            if self.interrupted {
                return Ok((Verdict::Inconclusive, format!("it was stopped after {} pairs", self.pairs.len())));
            }
            if let Some(row) = self.rows.last()
                && observe(Event::Pair { kept: self.pairs.len(), of, row }) == Flow::Stop
            {
                let reason = format!("it was stopped after {} pairs", self.pairs.len());
                return Ok((Verdict::Inconclusive, reason));
            }
            let voided = self.rows.len() - self.pairs.len();
            if voided > VOID_PAIRS_MAX && voided > self.pairs.len() {
                let reason = format!(
                    "{voided} of {} pairs were disturbed and voided: the machine is too noisy now",
                    self.rows.len()
                );
                return Ok((Verdict::Void, reason));
            }
            if kept && self.design.looks.contains(&self.pairs.len()) {
                let Some(decision) = self.look(observe) else { continue };
                return Ok(decision);
            }
        }
        let primary = self.design.primary.as_str();
        Ok((Verdict::Inconclusive, format!("after {of} pairs the interval at {primary} still allows both")))
    }

    /// One pair; true if it counts.
    fn pair(&mut self) -> Result<bool, ExperimentError> {
        let number = self.rows.len();
        let candidate_first = self.design.swapped(Phase::Ab, number);
        let pair = if candidate_first {
            let candidate = self.block(Arm::Candidate, Phase::Ab, number)?;
            Pair { candidate, baseline: self.block(Arm::Baseline, Phase::Ab, number)? }
        } else {
            let baseline = self.block(Arm::Baseline, Phase::Ab, number)?;
            Pair { baseline, candidate: self.block(Arm::Candidate, Phase::Ab, number)? }
        };
        if pair.baseline.interrupted || pair.candidate.interrupted {
            self.interrupted = true;
            return Ok(false);
        }
        let noise = PairNoise::of(&pair.baseline, &pair.candidate);
        let void = self.rules.broken(&noise);
        let kept = void.is_empty();
        self.rows.push(PairRow {
            first: if candidate_first { Arm::Candidate } else { Arm::Baseline },
            change: pair.log_ratio(self.design.primary.quantile()).map(f64::exp_m1),
            noise,
            void,
        });
        if kept {
            self.pairs.push(pair);
        }
        Ok(kept)
    }

    fn look(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Option<Decision> {
        let pairs = self.pairs.len();
        let errors = report::errors(self.design, &self.pairs);
        let Some(judged) = report::primary(self.design, &self.pairs) else {
            let (verdict, who) = match (errors.baseline_share >= 1.0, errors.guardrail) {
                (false, Guardrail::Broken) => (Verdict::Worse, "candidate"),
                _ => (Verdict::Void, "baseline"),
            };
            return Some((verdict, format!("the {who} answered nothing in {pairs} pairs")));
        };
        let change = report::as_share(judged.change);
        let verdict = combine(judged.verdict, errors.guardrail);
        let look = Look { pairs, change, p: judged.p, verdict, guardrail: errors.guardrail };
        let stopped = observe(Event::Look(&look)) == Flow::Stop;
        self.looks.push(look);
        let metric = self.design.primary.as_str();
        let percent = |share: f64| format!("{:+.1} %", share * 100.0);
        let range = format!("{} ({} to {})", percent(change.value), percent(change.low), percent(change.high));
        let margin = self.design.margin * 100.0;
        let reason = match (errors.guardrail, verdict) {
            (Guardrail::Broken, _) => format!(
                "the candidate fails {:.2} % of its requests, the baseline {:.2} %",
                errors.candidate_share * 100.0,
                errors.baseline_share * 100.0
            ),
            (_, Verdict::Better) => format!("{metric} is lower: {range} after {pairs} pairs"),
            (_, Verdict::Worse) => format!("{metric} is higher: {range} after {pairs} pairs"),
            (_, Verdict::Equivalent) => {
                format!("{metric} changes by less than the margin of {margin:.0} %: {range} after {pairs} pairs")
            }
            _ if pairs >= self.design.pairs_max() && errors.guardrail == Guardrail::Suspect => {
                format!("the candidate may fail more requests than the baseline, and {pairs} pairs do not settle it")
            }
            _ if pairs >= self.design.pairs_max() => {
                format!(
                    "{metric} {range} after {pairs} pairs: this allows both no change and one beyond the margin of {margin:.0} %"
                )
            }
            _ if stopped => format!("it was stopped after {pairs} pairs"),
            _ => return None,
        };
        Some((verdict, reason))
    }

    fn block(&mut self, arm: Arm, phase: Phase, pair: usize) -> Result<Block, ExperimentError> {
        let spec = self.design.spec(phase, pair);
        let name = match arm {
            Arm::Baseline => "baseline",
            Arm::Candidate => "candidate",
        };
        match self.arms.block(arm, &spec) {
            Ok(block) => Ok(block),
            // It was there when the arms were warmed up: a candidate that is gone since then fails its users.
            Err(error) if error.unreachable && arm == Arm::Candidate && phase == Phase::Ab => Ok(spec.lost()),
            Err(error) => Err(ExperimentError::Arm { arm: name, reason: error.reason }),
        }
    }

    fn report(self, names: (&str, &str), verdict: Verdict, reason: String) -> Report {
        let (design, pairs) = (self.design, &self.pairs);
        Report {
            version: report::VERSION,
            baseline: names.0.to_owned(),
            candidate: names.1.to_owned(),
            verdict,
            reason,
            design: design.clone(),
            metrics: report::metrics(design, pairs),
            shift: report::shift(design, pairs),
            throughput: report::throughput(design, pairs),
            errors: report::errors(design, pairs),
            ledger: report::ledger(design, pairs),
            tutorial: report::tutorial(pairs),
            pairs_kept: pairs.len(),
            pairs_voided: self.rows.len() - pairs.len(),
            aa: self.aa,
            rules: self.rules,
            pairs: self.rows,
            looks: self.looks,
        }
    }
}
