//! `--stages ramp:0..5000/60s,hold:5000/2m`: how the rate of an open loop changes.

use std::time::Duration;

use celerity_load::plan::{RATE_PER_SECOND_MAX, Segment};

use crate::duration;

/// Steps of one stage, and stages of one run: more is a slip of the hand.
const SEGMENTS_MAX: usize = 1000;
/// Steps of a `step` that does not say how many.
const STEPS: u32 = 5;

const FORMS: &str = "write hold:RATE/TIME, ramp:FROM..TO/TIME, step:FROM..TO/TIME[/STEPS] or spike:BASE..PEAK/TIME[/LENGTH], such as ramp:0..5000/60s";

/// Reads the stages, in order.
///
/// `ramp` changes evenly. `step` holds [`STEPS`] (or so many) even rates from the first to the last, one after the other.
/// `spike` holds the base, in the middle the peak for a tenth of the time (or so long), then the base again.
pub(super) fn parse(text: &str) -> Result<Vec<Segment>, String> {
    let mut out = Vec::new();
    for stage in text.split(',') {
        one(stage.trim(), &mut out).map_err(|why| format!("the stage `{stage}` {why}: {FORMS}"))?;
        if out.len() > SEGMENTS_MAX {
            return Err(format!("`{text}` has more than {SEGMENTS_MAX} steps"));
        }
    }
    Ok(out)
}

fn one(stage: &str, out: &mut Vec<Segment>) -> Result<(), String> {
    let (kind, rest) = stage.split_once(':').ok_or("has no kind")?;
    let mut fields = rest.split('/');
    let rates = fields.next().unwrap_or_default();
    let time = duration::parse(fields.next().ok_or("has no time")?)?;
    let extra = fields.next();
    if fields.next().is_some() {
        return Err("has too many parts".into());
    }
    if time.is_zero() {
        return Err("takes no time".into());
    }
    if kind == "hold" {
        if extra.is_some() {
            return Err("has too many parts".into());
        }
        out.push(Segment::hold(rate(rates)?, time));
        return Ok(());
    }
    let (from, to) = rates.split_once("..").ok_or("has no two rates")?;
    let (from, to) = (rate(from)?, rate(to)?);
    match (kind, extra) {
        ("ramp", None) => out.push(Segment { from_per_second: from, to_per_second: to, duration: time }),
        ("ramp", Some(_)) => return Err("has too many parts".into()),
        ("step", steps) => {
            let steps = steps.map_or(Ok(STEPS), str::parse).map_err(|_| "has no number of steps")?;
            if !(2..=SEGMENTS_MAX as u32).contains(&steps) {
                return Err(format!("needs 2 to {SEGMENTS_MAX} steps"));
            }
            for step in 0..steps {
                let rate = from + (to - from) * f64::from(step) / f64::from(steps - 1);
                out.push(Segment::hold(rate, time / steps));
            }
        }
        ("spike", length) => {
            let length = length.map_or(Ok(time / 10), duration::parse)?;
            if length.is_zero() || length >= time {
                return Err("has a spike that does not fit in it".into());
            }
            let beside: Duration = (time - length) / 2;
            out.push(Segment::hold(from, beside));
            out.push(Segment::hold(to, length));
            out.push(Segment::hold(from, beside));
        }
        _ => return Err("is of no known kind".into()),
    }
    Ok(())
}

/// Requests per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(rate) if (0.0..=RATE_PER_SECOND_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is not a rate: write requests per second from 0 to {RATE_PER_SECOND_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_become_segments() {
        let second = Duration::from_secs(1);
        let ramp = |from_per_second, to_per_second, duration| Segment { from_per_second, to_per_second, duration };
        assert_eq!(parse("ramp:0..5000/60s"), Ok(vec![ramp(0.0, 5000.0, second * 60)]));
        assert_eq!(
            parse("hold:10/1s, step:100..300/3s/3"),
            Ok([10.0, 100.0, 200.0, 300.0].map(|r| Segment::hold(r, second)).to_vec())
        );
        assert_eq!(
            parse("spike:10..99/10s/2s"),
            Ok(vec![Segment::hold(10.0, second * 4), Segment::hold(99.0, second * 2), Segment::hold(10.0, second * 4)])
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_the_forms() {
        for text in [
            "",
            "ramp",
            "ramp:0..5",
            "ramp:0..5/60",
            "ramp:5/60s",
            "jump:1..2/3s",
            "hold:-1/3s",
            "hold:1/0s",
            "step:1..2/3s/1",
            "spike:1..2/3s/4s",
            "ramp:0..1e99/1s",
        ] {
            assert!(parse(text).is_err_and(|error| error.contains("ramp:FROM..TO/TIME")), "{text}");
        }
    }
}
