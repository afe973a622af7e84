//! Durations of any length in constant memory: an HDR histogram in nanoseconds, with the exact sum beside it.

use hdrhistogram::Histogram as Hdr;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Below this nothing is told apart: a tenth of a microsecond.
const LOW_NS: u64 = 100;
/// Longer durations count as this: an hour is past every timeout.
const HIGH_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits: a value is told to 0.1 %.
const DIGITS: u8 = 3;

/// Nanoseconds from 100 ns to one hour to three significant digits; 220 KB.
#[derive(Clone)]
pub struct Histogram {
    hdr: Hdr<u64>,
    sum_ns: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    #[allow(clippy::expect_used, reason = "the bounds are constants that the crate accepts; a test makes one")]
    pub fn new() -> Self {
        Self { hdr: Hdr::new_with_bounds(LOW_NS, HIGH_NS, DIGITS).expect("constant bounds"), sum_ns: 0 }
    }

    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.record_n(ns, 1);
    }

    #[inline]
    pub fn record_n(&mut self, ns: u64, count: u64) {
        self.hdr.saturating_record_n(ns, count);
        self.sum_ns += u128::from(ns) * u128::from(count);
    }

    pub fn merge(&mut self, other: &Self) {
        // Equal bounds: an addition cannot fail.
        let _ = self.hdr.add(&other.hdr);
        self.sum_ns += other.sum_ns;
    }

    pub fn count(&self) -> u64 {
        self.hdr.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hdr.is_empty()
    }

    /// The duration that a share `q` (0 to 1) did not exceed; 0 where there is none.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        if self.is_empty() { 0 } else { self.hdr.value_at_quantile(q).min(self.hdr.max()) }
    }

    pub fn min_ns(&self) -> u64 {
        if self.is_empty() { 0 } else { self.hdr.min() }
    }

    pub fn max_ns(&self) -> u64 {
        if self.is_empty() { 0 } else { self.hdr.max() }
    }

    /// Exact, from the sum.
    pub fn mean_ns(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.sum_ns as f64 / self.count() as f64 }
    }

    pub fn stdev_ns(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.hdr.stdev() }
    }

    /// How many lie at or below `ns`, to the histogram's precision.
    pub fn count_at_or_below(&self, ns: u64) -> u64 {
        self.hdr.count_between(0, ns.min(HIGH_NS))
    }

    /// The buckets that hold something: highest value of each and its count, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.hdr.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value()))
    }

    /// For what needs the crate's own type, such as its interchange format.
    pub fn hdr(&self) -> &Hdr<u64> {
        &self.hdr
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({} values, p50 {} ns, max {} ns)", self.count(), self.quantile_ns(0.5), self.max_ns())
    }
}

impl Serialize for Histogram {
    /// `count`, `sum_ns` and the recorded `buckets` as pairs of highest value and count.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Histogram", 3)?;
        out.serialize_field("count", &self.count())?;
        // Past 2^64 ns (584 years of waiting) the sum is cut, for JSON has no wider integer that everybody reads.
        out.serialize_field("sum_ns", &u64::try_from(self.sum_ns).unwrap_or(u64::MAX))?;
        out.serialize_field("buckets", &self.buckets().collect::<Vec<_>>())?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            #[allow(dead_code, reason = "written for readers; the buckets tell it again")]
            count: u64,
            sum_ns: u64,
            buckets: Vec<(u64, u64)>,
        }
        let wire = Wire::deserialize(deserializer)?;
        let mut out = Self::new();
        for (ns, count) in wire.buckets {
            out.hdr.saturating_record_n(ns, count);
        }
        out.sum_ns = u128::from(wire.sum_ns);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits_and_survive_json() {
        let mut h = Histogram::new();
        (1..=100_000_u64).for_each(|n| h.record(n * 1000));
        for (q, ns) in [(0.5, 50_000_000.0), (0.99, 99_000_000.0), (1.0, 100_000_000.0)] {
            let told = h.quantile_ns(q) as f64;
            assert!((told / ns - 1.0).abs() < 0.002, "{q}: {told}");
        }
        assert!((h.mean_ns() - 50_000_500.0).abs() < 1.0);
        let json = serde_json::to_string(&h).expect("json");
        let back: Histogram = serde_json::from_str(&json).expect("a histogram");
        assert_eq!((back.count(), back.quantile_ns(0.99)), (h.count(), h.quantile_ns(0.99)));
        assert!((back.mean_ns() - h.mean_ns()).abs() < 1.0);
    }

    #[test]
    fn too_long_and_too_short_count_as_the_bounds() {
        let mut h = Histogram::new();
        h.record(0);
        h.record(u64::MAX / 2);
        assert_eq!(h.count(), 2);
        assert!(h.max_ns() >= HIGH_NS);
        assert_eq!(Histogram::new().quantile_ns(0.5), 0);
    }
}
