//! What one block of an experiment recorded: values with their counts, in order.

use serde::{Deserialize, Serialize};

/// A sorted, sparse distribution of latencies in nanoseconds.
///
/// As large as the number of different values; from a histogram with three significant digits that is a few thousand
/// at most, whatever the number of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Value in nanoseconds and how often it came; by value, each once.
    bins: Vec<(u64, u64)>,
}

impl Distribution {
    /// Values in any order; counts of one value are added up.
    pub fn from_counts(counts: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut bins: Vec<(u64, u64)> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        bins.sort_unstable_by_key(|(value, _)| *value);
        bins.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Self { bins }
    }

    pub fn from_values(values: impl IntoIterator<Item = u64>) -> Self {
        Self::from_counts(values.into_iter().map(|value| (value, 1)))
    }

    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::from_counts(parts.into_iter().flat_map(|part| part.bins.iter().copied()))
    }

    pub fn bins(&self) -> &[(u64, u64)] {
        &self.bins
    }

    pub fn count(&self) -> u64 {
        self.bins.iter().map(|(_, count)| count).sum()
    }

    /// The nearest-rank quantile in nanoseconds.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((q.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.bins.iter().find_map(|(value, count)| {
            seen += count;
            (seen >= rank).then_some(*value)
        })
    }

    /// In nanoseconds.
    pub fn mean(&self) -> Option<f64> {
        let sum: f64 = self.bins.iter().map(|(value, count)| *value as f64 * *count as f64).sum();
        let count = self.count();
        (count > 0).then(|| sum / count as f64)
    }

    pub fn max(&self) -> Option<u64> {
        self.bins.last().map(|(value, _)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_like_the_sorted_list() {
        let some = Distribution::from_values([5, 1, 3, 3, 9]);
        assert_eq!(some.bins(), [(1, 1), (3, 2), (5, 1), (9, 1)]);
        assert_eq!((some.count(), some.quantile(0.5), some.quantile(0.61), some.max()), (5, Some(3), Some(5), Some(9)));
        assert_eq!(some.mean(), Some(4.2));
        let both = Distribution::merged([&some, &Distribution::from_counts([(3, 10), (4, 0)])]);
        assert_eq!(both.bins(), [(1, 1), (3, 12), (5, 1), (9, 1)]);
        assert_eq!(Distribution::default().quantile(0.5), None);
    }
}
