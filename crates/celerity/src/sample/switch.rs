//! How an instance misbehaves when told to: slow, failing or flapping.

use std::time::Duration;

/// What `POST /switch?mode=..&ms=..` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ok,
    /// Every answer takes this much longer.
    Slow(Duration),
    /// Every answer is a 503.
    Failing,
    /// Failing for this long, then fine for as long, and so on.
    Flapping(Duration),
}

const SLOW_DEFAULT: Duration = Duration::from_millis(500);
const FLAPPING_DEFAULT: Duration = Duration::from_secs(1);
/// Longer than any timeout worth showing; a typing error does not park requests for a day.
const MS_MAX: u64 = 600_000;

impl Mode {
    /// Reads the switch's two query parameters.
    pub(crate) fn parse(mode: Option<&str>, ms: Option<&str>) -> Result<Self, String> {
        let time = match ms.map(str::parse::<u64>) {
            None => None,
            Some(Ok(ms)) if (1..=MS_MAX).contains(&ms) => Some(Duration::from_millis(ms)),
            Some(_) => return Err(format!("ms is not a whole number from 1 to {MS_MAX}")),
        };
        match mode {
            Some("ok") => Ok(Self::Ok),
            Some("slow") => Ok(Self::Slow(time.unwrap_or(SLOW_DEFAULT))),
            Some("failing") => Ok(Self::Failing),
            Some("flapping") => Ok(Self::Flapping(time.unwrap_or(FLAPPING_DEFAULT))),
            _ => {
                Err("mode is not known: write /switch?mode=ok, slow, failing or flapping, and &ms=N for a time".into())
            }
        }
    }

    /// What the mode does to a request that comes this long after the switch.
    pub(crate) fn effect(self, since_switch: Duration) -> Effect {
        match self {
            Self::Ok => Effect::default(),
            Self::Slow(extra) => Effect { extra, fails: false },
            Self::Failing => Effect { extra: Duration::ZERO, fails: true },
            Self::Flapping(period) => {
                let turn = since_switch.as_nanos() / period.as_nanos().max(1);
                Effect { extra: Duration::ZERO, fails: turn.is_multiple_of(2) }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Added to the service time.
    pub(crate) extra: Duration,
    pub(crate) fails: bool,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Slow(extra) => write!(f, "slow by {} ms", extra.as_millis()),
            Self::Failing => f.write_str("failing"),
            Self::Flapping(period) => write!(f, "flapping every {} ms", period.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn flapping_begins_with_failing_and_takes_turns() {
        let mode = Mode::parse(Some("flapping"), Some("10")).expect("a mode");
        let fails: Vec<_> = [0, 9, 10, 19, 20].map(|at| mode.effect(MS * at).fails).into();
        assert_eq!(fails, [true, true, false, false, true]);
    }

    #[test]
    fn what_is_not_a_mode_is_refused_with_the_modes_there_are() {
        assert!(Mode::parse(Some("broken"), None).is_err_and(|e| e.contains("slow, failing or flapping")));
        assert!(Mode::parse(Some("slow"), Some("0")).is_err());
        assert_eq!(Mode::parse(Some("slow"), Some("7")), Ok(Mode::Slow(MS * 7)));
    }
}
