//! Small exact statistics. All are pure: data and a seed in, numbers out.
//!
//! They are written here and not taken from a library because each is short, and because what an answer means must be
//! readable beside it: which distribution, which conditions, exact or approximate.

pub mod binomial;
pub mod bootstrap;
pub mod distribution;
pub mod normal;
pub mod paired;
pub mod ranks;
pub mod rng;
pub mod two_sample;
pub mod usl;

pub use distribution::Distribution;
pub use rng::Rng;

use serde::{Deserialize, Serialize};

/// An estimate with the interval that its test does not reject.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    /// Below every value where the sample is too small to bound it: then minus infinity.
    #[serde(with = "crate::stats::finite")]
    pub low: f64,
    #[serde(with = "crate::stats::finite")]
    pub high: f64,
}

impl Estimate {
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self { value: change(self.value), low: change(self.low), high: change(self.high) }
    }

    /// Half the interval's width.
    pub fn half_width(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    pub fn excludes(self, value: f64) -> bool {
        self.low > value || self.high < value
    }

    /// Whether the whole interval lies strictly inside `(-margin, margin)`.
    pub fn within(self, margin: f64) -> bool {
        self.low > -margin && self.high < margin
    }
}

/// JSON has no infinity: an open end is written as `null`. Reading does not know which end it was, so it gives NaN,
/// with which every comparison is false.
pub(crate) mod finite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// The middle of the values, the mean of the two in the middle where their number is even; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_sorted(&sorted)
}

pub(crate) fn median_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some((lower + upper) / 2.0)
}

/// The nearest-rank quantile of sorted values: the smallest value that at least `q` of them do not exceed.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation with n - 1 in the denominator; `None` below two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_ones_agree_with_hand_counting() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile_sorted(&sorted, 0.5), Some(2.0));
        assert_eq!(quantile_sorted(&sorted, 0.51), Some(3.0));
        assert_eq!(quantile_sorted(&sorted, 1.0), Some(4.0));
        assert_eq!(quantile_sorted(&[], 0.5), None);
        assert_eq!(standard_deviation(&[1.0, 3.0]), Some(2.0f64.sqrt()));
        assert_eq!(standard_deviation(&[1.0]), None);
    }

    #[test]
    fn an_open_end_survives_json_as_unknown() {
        let open = Estimate { value: 1.0, low: f64::NEG_INFINITY, high: 2.0 };
        let text = serde_json::to_string(&open).expect("JSON");
        assert_eq!(text, r#"{"value":1.0,"low":null,"high":2.0}"#);
        let back: Estimate = serde_json::from_str(&text).expect("an estimate");
        assert!(back.low.is_nan() && !back.within(10.0) && !back.excludes(0.5));
    }
}
