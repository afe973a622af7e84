//! From differences to a verdict.

use serde::{Deserialize, Serialize};

use crate::stats::{Estimate, paired, ranks};

/// What an experiment says of the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Faster: the interval lies below 0 and reaches beyond the margin.
    Better,
    /// Slower, the other way round; or more errors than the guardrail allows.
    Worse,
    /// Any difference is smaller than the margin.
    Equivalent,
    /// The pairs do not tell.
    Inconclusive,
    /// The experiment cannot tell: the machine, the arms or the design do not allow it.
    Void,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Equivalent => "equivalent",
            Self::Inconclusive => "inconclusive",
            Self::Void => "void",
        }
    }

    /// What a process that reports it exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Better | Self::Equivalent => 0,
            Self::Worse => 1,
            Self::Inconclusive | Self::Void => 4,
        }
    }
}

/// The differences of one metric at one look, judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of `ln(candidate / baseline)`.
    pub change: Estimate,
    pub p: f64,
    pub verdict: Verdict,
}

/// Judges differences of logarithms at an error of `alpha`. `None` without a difference.
///
/// Whether a change is real is decided against 0, and whether it matters against the margin: an interval inside the margin
/// is equivalent even if it excludes 0. `floor_log` is above 0 where the noise is larger than the margin: then nothing is
/// equivalent, and only an interval that lies wholly beyond the floor is a difference.
pub fn judge(differences: &[f64], margin_log: f64, floor_log: f64, alpha: f64) -> Option<Judged> {
    let change = ranks::hodges_lehmann(differences, alpha)?;
    let verdict = if change.within(margin_log) {
        if floor_log > 0.0 { Verdict::Inconclusive } else { Verdict::Equivalent }
    } else if change.high < -floor_log {
        Verdict::Better
    } else if change.low > floor_log {
        Verdict::Worse
    } else {
        Verdict::Inconclusive
    };
    Some(Judged { change, p: ranks::p_value(differences), verdict })
}

/// How the candidate's errors compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guardrail {
    Kept,
    /// More errors than the margin allows, but not in enough pairs to be sure. It stands in the way of "better" and
    /// "equivalent".
    Suspect,
    /// More errors than the margin allows, and not by chance.
    Broken,
}

/// `excesses` are the candidate's error share less the baseline's, pair by pair.
pub fn guardrail(excesses: &[f64], margin: f64, alpha: f64, seed: u64) -> Guardrail {
    let excess = excesses.iter().sum::<f64>() / excesses.len().max(1) as f64;
    if excess <= margin {
        Guardrail::Kept
    } else if paired::p_value(excesses, seed) <= alpha {
        Guardrail::Broken
    } else {
        Guardrail::Suspect
    }
}

/// The verdict of the primary metric under the guardrail.
pub fn combine(primary: Verdict, guardrail: Guardrail) -> Verdict {
    match (guardrail, primary) {
        (Guardrail::Broken, _) => Verdict::Worse,
        (Guardrail::Suspect, Verdict::Better | Verdict::Equivalent) => Verdict::Inconclusive,
        (_, verdict) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(differences: &[f64]) -> Verdict {
        judge(differences, 0.03, 0.0, 0.0125).expect("differences").verdict
    }

    #[test]
    fn under_a_noise_floor_only_what_lies_beyond_it_is_decided() {
        let around = |middle: f64| (0..8).map(|n| middle + 0.001 * f64::from(n - 4)).collect::<Vec<_>>();
        for (middle, expected) in [
            (0.0, Verdict::Inconclusive),
            (0.10, Verdict::Inconclusive),
            (-0.19, Verdict::Inconclusive),
            (0.22, Verdict::Worse),
            (-0.22, Verdict::Better),
        ] {
            assert_eq!(judge(&around(middle), 0.03, 0.2, 0.0125).expect("judged").verdict, expected, "{middle}");
        }
    }

    #[test]
    fn the_interval_decides() {
        let around = |middle: f64| (0..8).map(|n| middle + 0.001 * f64::from(n - 4)).collect::<Vec<_>>();
        assert_eq!(verdict(&around(-0.10)), Verdict::Better);
        assert_eq!(verdict(&around(0.10)), Verdict::Worse);
        assert_eq!(verdict(&around(0.0)), Verdict::Equivalent);
        // Real, and too small to matter.
        assert_eq!(verdict(&around(0.01)), Verdict::Equivalent);
        assert_eq!(verdict(&[-0.2, 0.3, -0.1, 0.2, 0.1, -0.3, 0.2, -0.2]), Verdict::Inconclusive);
        assert_eq!(verdict(&around(0.10)[..7]), Verdict::Inconclusive);
    }

    #[test]
    fn errors_overrule_speed() {
        let alpha = 0.0125;
        assert_eq!(guardrail(&[0.0; 8], 0.001, alpha, 1), Guardrail::Kept);
        assert_eq!(guardrail(&[0.02; 8], 0.001, alpha, 1), Guardrail::Broken);
        let burst = [0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(guardrail(&burst, 0.001, alpha, 1), Guardrail::Suspect);
        assert_eq!(combine(Verdict::Better, Guardrail::Broken), Verdict::Worse);
        assert_eq!(combine(Verdict::Better, Guardrail::Suspect), Verdict::Inconclusive);
        assert_eq!(combine(Verdict::Worse, Guardrail::Suspect), Verdict::Worse);
        assert_eq!(combine(Verdict::Equivalent, Guardrail::Kept), Verdict::Equivalent);
    }
}
