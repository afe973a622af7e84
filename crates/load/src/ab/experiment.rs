//! The loop: A/A, then pairs, a look at 8, 16, 32 and 64.

use crate::ab::arms::{Arm, Arms, Block};
use crate::ab::design::{Design, DesignError, FAILED_SHARE_MAX, Metric, Phase, WIDENED_MARGIN_MAX};
use crate::ab::noise::{PairNoise, Rules};
use crate::ab::report::{self, AaReport, Errors, Floors, Look, Pair, PairRow, Report};
use crate::ab::verdict::{Guardrail, Verdict, combine};
use crate::stats::{mean, ranks};

/// An A/A run whose two halves differ so clearly shows that the measuring prefers a place in the pair. With 8 pairs this is
/// every one of them on the same side: by chance once in 128 runs.
const AA_P_MIN: f64 = 0.01;
/// More voided pairs than counting ones, and more than this, and the machine is not fit for measuring.
const VOID_PAIRS_MAX: usize = 8;

/// A pair in which the candidate fails so much more of its requests than the baseline is an outage, not noise: no rule about
/// disturbed latencies voids it.
const OUTAGE_EXCESS: f64 = 0.9;
/// So many outages in a row, and the candidate is down. Three: a failure of the machine's or of a service behind both arms would
/// have to meet the candidate's blocks alone three times running.
const OUTAGES_IN_A_ROW: usize = 3;

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
    /// Why the margin is refused; pairs follow all the same, to describe the arms.
    Refused(&'a str),
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
    /// As it was given, but for a margin that the A/A run has widened.
    design: Design,
    arms: &'a mut A,
    rules: Rules,
    aa: Option<AaReport>,
    floors: Floors,
    /// Why these pairs cannot answer the margin: only what lies beyond the floor is decided.
    refusal: Option<String>,
    rows: Vec<PairRow>,
    pairs: Vec<Pair>,
    looks: Vec<Look>,
    /// Up to the last pair.
    outages_in_a_row: usize,
    /// Both arms have answered: what goes wrong from here on is part of the report.
    warm: bool,
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
    let (design, floors) = (design.clone(), Floors::default());
    let (aa, refusal) = (None, None);
    let mut experiment = Experiment {
        design,
        arms,
        rules,
        aa,
        floors,
        refusal,
        rows,
        pairs,
        looks,
        outages_in_a_row: 0,
        warm: false,
        interrupted: false,
    };
    let (verdict, reason) = match experiment.decide(&mut observe) {
        // What was measured so far is kept.
        Err(ExperimentError::Arm { arm, reason }) if experiment.warm => {
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
        let first = self.block(Arm::Baseline, Phase::Aa, WARM_UP)?;
        if first.failed > 0 && first.succeeded == 0 && !first.interrupted {
            return Ok((Verdict::Void, silent("baseline", first.failure.as_deref())));
        }
        self.block(Arm::Candidate, Phase::Aa, WARM_UP)?;
        self.warm = true;
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
        let mut pairs = Vec::with_capacity(of);
        let mut noise = Vec::with_capacity(of);
        for number in 0..of {
            let one = self.block(Arm::Baseline, Phase::Aa, number)?;
            let other = self.block(Arm::Baseline, Phase::Aa, number)?;
            noise.push(PairNoise::of(&one, &other));
            // A coin decides which one plays the candidate, as in the pairs to come.
            let swapped = self.design.swapped(Phase::Aa, number);
            let interrupted = one.interrupted || other.interrupted;
            let (baseline, candidate) = if swapped { (other, one) } else { (one, other) };
            pairs.push(Pair { baseline, candidate });
            if observe(Event::Aa { done: number + 1, of }) == Flow::Stop || interrupted {
                return Ok(Some((Verdict::Inconclusive, "it was stopped during the A/A run".into())));
            }
        }
        self.rules = Rules::from_usual(&noise);
        let Some(aa) = self.floor(&pairs) else {
            let failure = pairs.iter().find_map(|pair| pair.baseline.failure.clone());
            return Ok(Some((Verdict::Void, silent("baseline", failure.as_deref()))));
        };
        let stopped = observe(Event::Floor(&aa)) == Flow::Stop;
        let decision = if aa.failed_share >= FAILED_SHARE_MAX {
            Some((Verdict::Void, failing(aa.failed_share, aa.failure.as_deref())))
        } else if stopped {
            Some((Verdict::Inconclusive, "it was stopped after the A/A run".into()))
        } else {
            None
        };
        self.aa = Some(aa);
        Ok(decision)
    }

    /// What the A/A pairs say of the machine; widens the margin or refuses it. `None` if there is nothing to say.
    fn floor(&mut self, pairs: &[Pair]) -> Option<AaReport> {
        let design = &self.design;
        let differences = |metric: Metric| report::log_ratios(pairs, metric.quantile());
        // Equal arms differ by 0 on average, so the mean size tells the deviation; it follows one wild pair less than
        // the squares do.
        let deviation = |metric: Metric| {
            let sizes: Vec<f64> = differences(metric).iter().map(|d| d.abs()).collect();
            mean(&sizes).unwrap_or_default() * (std::f64::consts::PI / 2.0).sqrt()
        };
        let primary = differences(design.primary);
        let change = report::as_share(ranks::hodges_lehmann(&primary, design.alpha)?);
        let (p, spread) = (ranks::p_value(&primary), deviation(design.primary));
        let errors = report::errors(design, pairs);
        let floor = design.floor(spread).exp_m1();
        let answerable = design.answerable(spread).exp_m1();
        let widened = design.widens && design.margin < answerable && answerable <= WIDENED_MARGIN_MAX;
        let aa = AaReport {
            pairs: primary.len(),
            change,
            p,
            deviation: spread,
            floor,
            detectable: design.detectable(spread).exp_m1(),
            widened_from: widened.then_some(design.margin),
            failed_share: (errors.baseline_share + errors.candidate_share) / 2.0,
            failure: errors.baseline_failure.or(errors.candidate_failure),
        };
        let mut floors = Floors(Metric::ALL.map(|metric| design.floor(deviation(metric))));
        if widened {
            self.design.margin = answerable;
        }
        let design = &self.design;
        if p <= AA_P_MIN {
            // What a place in the pair is worth is no finding either.
            let far = [change.low, change.high].map(|end| end.ln_1p().abs()).into_iter().filter(|end| end.is_finite());
            let far = far.fold(design.margin_log(), f64::max);
            floors.raise(design.primary, far);
            self.refusal = Some(format!(
                "the A/A run found a difference of {:+.1} % between the baseline and itself (p {p:.4}): the machine drifts too fast for these blocks",
                change.value * 100.0
            ));
        } else if floor >= design.margin {
            self.refusal = Some(format!(
                "the noise floor is {:.1} % and the margin {:.1} %: {} pairs of {:.1} s cannot answer it; longer blocks, more pairs, a quieter machine or a wider margin can",
                floor * 100.0,
                design.margin * 100.0,
                design.pairs_max(),
                design.block.as_secs_f64()
            ));
        }
        self.floors = floors;
        Some(aa)
    }

    /// How many pairs are wanted at most: fewer where they are only to describe.
    fn pairs_wanted(&self) -> usize {
        if self.refusal.is_some() { self.design.pairs_described() } else { self.design.pairs_max() }
    }

    fn stopped(&self) -> Decision {
        let stopped = format!("it was stopped after {} pairs", self.pairs.len());
        match &self.refusal {
            Some(refusal) => (Verdict::Void, format!("{refusal}; {stopped}")),
            None => (Verdict::Inconclusive, stopped),
        }
    }

    fn compare(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Result<Decision, ExperimentError> {
        let of = self.pairs_wanted();
        if let Some(refusal) = &self.refusal
            && observe(Event::Refused(refusal)) == Flow::Stop
        {
            return Ok(self.stopped());
        }
        while self.pairs.len() < of {
            let kept = self.pair()?;
            if self.interrupted {
                return Ok(self.stopped());
            }
            if let Some(row) = self.rows.last()
                && observe(Event::Pair { kept: self.pairs.len(), of, row }) == Flow::Stop
            {
                return Ok(self.stopped());
            }
            if self.outages_in_a_row == OUTAGES_IN_A_ROW {
                return Ok((Verdict::Worse, self.outage()));
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
        let outage = pair.candidate.error_share() - pair.baseline.error_share() >= OUTAGE_EXCESS;
        self.outages_in_a_row = if outage { self.outages_in_a_row + 1 } else { 0 };
        let void = if outage { Vec::new() } else { self.rules.broken(&noise) };
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

    /// Why the candidate is down.
    fn outage(&self) -> String {
        let failure = self.pairs.last().and_then(|pair| pair.candidate.failure.as_deref()).unwrap_or("no reason known");
        let share = OUTAGE_EXCESS * 100.0;
        format!(
            "the candidate fails {share:.0} % of its requests and more ({failure}) where the baseline does not, in the last \
             {OUTAGES_IN_A_ROW} pairs"
        )
    }

    fn look(&mut self, observe: &mut dyn FnMut(Event<'_>) -> Flow) -> Option<Decision> {
        let pairs = self.pairs.len();
        let errors = report::errors(&self.design, &self.pairs);
        if errors.baseline_share >= FAILED_SHARE_MAX {
            return Some((Verdict::Void, failing(errors.baseline_share, errors.baseline_failure.as_deref())));
        }
        let Some(judged) = report::primary(&self.design, self.floors, &self.pairs) else {
            let (verdict, who, failure) = match errors.guardrail {
                Guardrail::Broken => (Verdict::Worse, "candidate", &errors.candidate_failure),
                _ => (Verdict::Void, "baseline", &errors.baseline_failure),
            };
            return Some((verdict, format!("{} in {pairs} pairs", silent(who, failure.as_deref()))));
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
        let last = pairs >= self.pairs_wanted();
        let beyond = if self.refusal.is_some() { ", beyond the noise floor" } else { "" };
        let reason = match (errors.guardrail, verdict) {
            (Guardrail::Broken, _) => guardrail_broken(&errors),
            (_, Verdict::Better) => format!("{metric} is lower: {range} after {pairs} pairs{beyond}"),
            (_, Verdict::Worse) => format!("{metric} is higher: {range} after {pairs} pairs{beyond}"),
            (_, Verdict::Equivalent) => {
                format!("{metric} changes by less than the margin of {margin:.1} %: {range} after {pairs} pairs")
            }
            _ if last && let Some(refusal) = &self.refusal => {
                let reason = format!("{refusal}. {pairs} pairs describe the arms: {metric} {range}");
                return Some((Verdict::Void, reason));
            }
            _ if last && errors.guardrail == Guardrail::Suspect => {
                format!("the candidate may fail more requests than the baseline, and {pairs} pairs do not settle it")
            }
            _ if last => {
                format!(
                    "{metric} {range} after {pairs} pairs: this allows both no change and one beyond the margin of {margin:.1} %"
                )
            }
            _ if stopped => return Some(self.stopped()),
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
        let (design, pairs) = (&self.design, &self.pairs);
        let mut errors = report::errors(design, pairs);
        // Before the first pair the A/A run is what is known of the baseline.
        if let Some(aa) = self.aa.as_ref().filter(|_| pairs.is_empty()) {
            (errors.baseline_share, errors.baseline_failure) = (aa.failed_share, aa.failure.clone());
        }
        if self.outages_in_a_row == OUTAGES_IN_A_ROW {
            errors.guardrail = Guardrail::Broken;
        }
        Report {
            version: report::VERSION,
            baseline: names.0.to_owned(),
            candidate: names.1.to_owned(),
            verdict,
            reason,
            design: design.clone(),
            metrics: report::metrics(design, self.floors, pairs),
            shift: report::shift(design, pairs),
            throughput: report::throughput(design, pairs),
            errors,
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

fn silent(who: &str, failure: Option<&str>) -> String {
    let why = failure.map_or_else(String::new, |failure| format!(" ({failure})"));
    format!("the {who} answered nothing{why}")
}

fn failing(share: f64, failure: Option<&str>) -> String {
    format!(
        "the baseline fails {:.2} % of its requests ({}): there is nothing to compare with",
        share * 100.0,
        failure.unwrap_or("why is not known")
    )
}

fn guardrail_broken(errors: &Errors) -> String {
    let why = errors.candidate_failure.as_deref().map_or_else(String::new, |failure| format!(" ({failure})"));
    let (candidate, baseline) = (errors.candidate_share * 100.0, errors.baseline_share * 100.0);
    format!("the candidate fails {candidate:.2} % of its requests{why}, the baseline {baseline:.2} %")
}
