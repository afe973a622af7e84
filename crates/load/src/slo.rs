//! Objectives: `p99<50ms,success>99.9%,rate>=2000`.
//!
//! A list of conditions separated by commas; all must hold. Each is a metric, a comparison and a value:
//!
//! | metric | comparisons | value |
//! |---|---|---|
//! | `p50`, `p99`, `p99.9` ... (any above p0 and below p100), `mean` (or `avg`), `max` | `<` `<=` | `250us` `50ms` `1.5s`, a unit is required |
//! | `success` | `>` `>=` | `99.9%` |
//! | `errors` | `<` `<=` | `0.1%` |
//! | `rate`, answers per second | `>` `>=` | `2000` or `2000/s` |
//!
//! A comparison the other way round (`p99>50ms`) is refused: nobody wants a slow service, so it is a slip.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Summary;

/// What objectives are compared with. Times are nanoseconds.
pub trait Measured {
    /// `None` where nothing was answered; then no objective about latency holds.
    fn latency_quantile_ns(&self, q: f64) -> Option<f64>;
    fn latency_mean_ns(&self) -> Option<f64>;
    fn latency_max_ns(&self) -> Option<f64>;
    /// 0 to 1 of all requests; 0 where there was none.
    fn success_share(&self) -> f64;
    fn rate_per_second(&self) -> f64;
}

impl Summary {
    /// What a single request without an answer makes infinite.
    fn of_all(&self, answered_ns: f64) -> f64 {
        if self.unanswered.is_empty() { answered_ns } else { f64::INFINITY }
    }
}

impl Measured for Summary {
    fn latency_quantile_ns(&self, q: f64) -> Option<f64> {
        if self.response.is_empty() {
            return None;
        }
        // What was given up after waiting is longer than any answer: the users who saw the worst must not make it look better.
        let (answered, lost) = (self.response.count() as f64, self.unanswered.count() as f64);
        let at = q * (answered + lost) / answered;
        Some(if at > 1.0 { f64::INFINITY } else { self.response.quantile_ns(at) as f64 })
    }

    fn latency_mean_ns(&self) -> Option<f64> {
        (!self.response.is_empty()).then(|| self.of_all(self.response.mean_ns()))
    }

    fn latency_max_ns(&self) -> Option<f64> {
        (!self.response.is_empty()).then(|| self.of_all(self.response.max_ns() as f64))
    }

    fn success_share(&self) -> f64 {
        self.success_share()
    }

    fn rate_per_second(&self) -> f64 {
        self.answered_per_second()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Quantile(f64),
    Mean,
    Max,
    Success,
    Errors,
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    /// As it was written, for reports.
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// Nanoseconds, a share of 1, or requests per second.
    bound: f64,
}

/// One or more conditions that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    conditions: Vec<Condition>,
}

/// How one condition came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub objective: String,
    pub passed: bool,
    /// What was measured, in the words of the objective: `41.3ms`, `99.95%`, `1999.2/s`.
    pub measured: String,
}

/// Why a text is not an objective.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{condition}` is not an objective: {why}; write such as p99<50ms, mean<=10ms, success>99.9%, errors<0.1% or rate>=2000"
)]
pub struct SloError {
    condition: String,
    why: String,
}

/// More conditions than anybody states; a bound for what comes from arguments and files.
const CONDITIONS_MAX: usize = 32;

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let conditions: Vec<Condition> =
            text.split(',').take(CONDITIONS_MAX + 1).map(condition).collect::<Result<_, _>>()?;
        if conditions.len() > CONDITIONS_MAX {
            return Err(refusal(text, format!("there are more than {CONDITIONS_MAX} conditions in it")));
        }
        Ok(Self { conditions })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.conditions.iter().map(|condition| condition.text.as_str()).collect();
        f.write_str(&texts.join(","))
    }
}

impl Slo {
    /// The highest quantile that a condition is about.
    pub fn highest_quantile(&self) -> Option<f64> {
        let quantiles = self.conditions.iter().filter_map(|condition| match condition.metric {
            Metric::Quantile(q) => Some(q),
            _ => None,
        });
        quantiles.reduce(f64::max)
    }

    /// Every condition with what was measured, in the order in which they were written.
    pub fn evaluate(&self, measured: &impl Measured) -> Vec<Outcome> {
        self.conditions.iter().map(|condition| condition.evaluate(measured)).collect()
    }

    pub fn holds(&self, measured: &impl Measured) -> bool {
        self.evaluate(measured).iter().all(|outcome| outcome.passed)
    }
}

impl Condition {
    fn evaluate(&self, measured: &impl Measured) -> Outcome {
        let value = match self.metric {
            Metric::Quantile(q) => measured.latency_quantile_ns(q),
            Metric::Mean => measured.latency_mean_ns(),
            Metric::Max => measured.latency_max_ns(),
            Metric::Success => Some(measured.success_share()),
            Metric::Errors => Some(1.0 - measured.success_share()),
            Metric::Rate => Some(measured.rate_per_second()),
        };
        let passed = value.is_some_and(|value| match self.comparison {
            Comparison::Below => value < self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::Above => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
        });
        let text = value.map_or("no answer".to_owned(), |value| self.metric.display(value));
        Outcome { objective: self.text.clone(), passed, measured: text }
    }
}

impl Metric {
    fn display(self, value: f64) -> String {
        if value.is_infinite() {
            return "no answer".to_owned();
        }
        match self {
            Self::Quantile(_) | Self::Mean | Self::Max => format!("{:.3}ms", value / 1e6),
            Self::Success | Self::Errors => format!("{:.3}%", value * 100.0),
            Self::Rate => format!("{value:.1}/s"),
        }
    }
}

fn refusal(condition: &str, why: impl Into<String>) -> SloError {
    SloError { condition: condition.escape_debug().to_string(), why: why.into() }
}

fn condition(text: &str) -> Result<Condition, SloError> {
    let text = text.trim();
    let refuse = |why: String| refusal(text, why);
    if text.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    let at = text.find(['<', '>', '=', '!']).ok_or_else(|| refuse("it has no comparison (<, <=, > or >=)".into()))?;
    let (name, rest) = text.split_at(at);
    let (comparison, value) = if let Some(value) = rest.strip_prefix("<=") {
        (Comparison::AtMost, value)
    } else if let Some(value) = rest.strip_prefix(">=") {
        (Comparison::AtLeast, value)
    } else if let Some(value) = rest.strip_prefix('<') {
        (Comparison::Below, value)
    } else if let Some(value) = rest.strip_prefix('>') {
        (Comparison::Above, value)
    } else {
        return Err(refuse("a measured value is never exactly equal, compare with <, <=, > or >=".into()));
    };
    let name = name.trim();
    let metric = metric(name).map_err(refuse)?;
    let less = matches!(comparison, Comparison::Below | Comparison::AtMost);
    let wants_less = !matches!(metric, Metric::Success | Metric::Rate);
    if less != wants_less {
        let sign = if wants_less { "<" } else { ">" };
        return Err(refuse(format!("`{name}` is compared with {sign} or {sign}=")));
    }
    let bound = bound(metric, value.trim()).map_err(refuse)?;
    Ok(Condition { text: text.to_owned(), metric, comparison, bound })
}

fn metric(name: &str) -> Result<Metric, String> {
    match name {
        "mean" | "avg" => return Ok(Metric::Mean),
        "max" => return Ok(Metric::Max),
        "success" => return Ok(Metric::Success),
        "error" | "errors" => return Ok(Metric::Errors),
        "rate" => return Ok(Metric::Rate),
        _ => {}
    }
    let percent = name.strip_prefix('p').and_then(plain_number);
    match percent {
        Some(percent) if percent > 0.0 && percent < 100.0 => Ok(Metric::Quantile(percent / 100.0)),
        Some(_) => Err(format!("`{name}` is no percentile: it lies above p0 and below p100")),
        None => Err(format!("`{}` is no metric", name.escape_debug())),
    }
}

/// Digits and at most one point; no sign, exponent, infinity or NaN, which `f64`'s own parser takes.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok())?
}

fn bound(metric: Metric, value: &str) -> Result<f64, String> {
    let number = |text: &str| {
        plain_number(text.trim()).ok_or_else(|| format!("`{}` is not a number", text.trim().escape_debug()))
    };
    match metric {
        Metric::Quantile(_) | Metric::Mean | Metric::Max => {
            let units = [("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
            let found = units.iter().find_map(|(unit, ns)| Some((value.strip_suffix(unit)?, ns)));
            let (text, ns) = found.ok_or("a latency needs a unit: us, ms or s")?;
            Ok(number(text)? * ns)
        }
        Metric::Success | Metric::Errors => {
            let percent = number(value.strip_suffix('%').ok_or("a share needs a percent sign")?)?;
            if percent > 100.0 {
                return Err(format!("{percent} % is above 100 %"));
            }
            Ok(percent / 100.0)
        }
        Metric::Rate => number(value.strip_suffix("/s").or_else(|| value.strip_suffix("rps")).unwrap_or(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl Measured for Fake {
        fn latency_quantile_ns(&self, q: f64) -> Option<f64> {
            Some(q * 100e6)
        }
        fn latency_mean_ns(&self) -> Option<f64> {
            Some(40e6)
        }
        fn latency_max_ns(&self) -> Option<f64> {
            None
        }
        fn success_share(&self) -> f64 {
            0.9995
        }
        fn rate_per_second(&self) -> f64 {
            2000.0
        }
    }

    fn outcome(text: &str) -> (bool, String) {
        let outcome = text.parse::<Slo>().expect(text).evaluate(&Fake).remove(0);
        (outcome.passed, outcome.measured)
    }

    #[test]
    fn conditions_hold_or_not_with_what_was_measured() {
        assert_eq!(outcome("p99<100ms"), (true, "99.000ms".into()));
        assert_eq!(outcome("p99.9 < 0.0999s"), (false, "99.900ms".into()));
        assert_eq!(outcome("p50<=50000us"), (true, "50.000ms".into()));
        assert_eq!(outcome("avg<39.9ms"), (false, "40.000ms".into()));
        assert_eq!(outcome("max<1s"), (false, "no answer".into()));
        assert_eq!(outcome("success>99.9%"), (true, "99.950%".into()));
        assert!(!outcome("errors<=0.01%").0);
        assert_eq!(outcome("rate>=2000"), (true, "2000.0/s".into()));
        assert!(!outcome("rate>2000/s").0);
    }

    #[test]
    fn who_got_no_answer_makes_no_mean_better() {
        let mut run = Summary::default();
        run.response.record_n(5_000_000, 180);
        let mean = |run: &Summary| "mean<12ms".parse::<Slo>().expect("an objective").evaluate(run).remove(0).passed;
        assert!(mean(&run));
        run.unanswered.record_n(30_000_000, 20);
        assert!(!mean(&run));
    }

    #[test]
    fn a_list_holds_if_all_of_it_does() {
        let slo: Slo = "p99<100ms, success>99.9%,rate>=1500".parse().expect("objectives");
        assert!(slo.holds(&Fake));
        assert_eq!(slo.to_string(), "p99<100ms,success>99.9%,rate>=1500");
        assert!(!"p99<100ms,rate>=3000".parse::<Slo>().expect("objectives").holds(&Fake));
    }

    #[test]
    fn what_is_no_objective_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "empty"),
            ("p99<50ms,,", "empty"),
            ("p99", "no comparison"),
            ("p99<50", "needs a unit"),
            ("p99>50ms", "compared with <"),
            ("success<99%", "compared with >"),
            ("success>99.9", "percent sign"),
            ("success>199%", "above 100 %"),
            ("p100<1s", "no percentile"),
            ("p0<1s", "no percentile"),
            ("p9x<1s", "no metric"),
            ("latency<1s", "no metric"),
            ("p99=50ms", "never exactly equal"),
            ("p99<-5ms", "not a number"),
            ("p99<infms", "not a number"),
            ("rate>=many", "not a number"),
        ] {
            let error = text.parse::<Slo>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
