//! Many requests: each part's percentiles, and the middle requests beside the slow ones.

use std::collections::HashMap;

use celerity_telemetry::Category;

use super::{Account, Kind};

/// One leaf over all requests, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The leaf with all that it lies in, joined by ` / `.
    pub name: String,
    pub category: Category,
    pub p50_ns: u64,
    pub p95_ns: u64,
    pub p99_ns: u64,
    /// The mean over the requests in the middle, and over the slow ones. Means add up, percentiles do not.
    pub median_ns: f64,
    pub tail_ns: f64,
}

/// What a set of requests gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    pub requests: usize,
    pub rows: Vec<Row>,
    pub total: Row,
    pub median: Cohort,
    pub tail: Cohort,
}

/// The requests from the share `from` to the share `to`, by their total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cohort {
    pub from: f64,
    pub to: f64,
    pub requests: usize,
}

/// Requests from which on the tail is cut out from p98.5 to p99.5: the cohort then holds ten of them at least. With fewer
/// it is the slowest twentieth.
const FINE_TAIL_REQUESTS_MIN: usize = 1_000;

/// Gathers requests as they come.
#[derive(Debug, Default)]
pub struct Gathered {
    index: HashMap<String, usize>,
    names: Vec<(String, Category)>,
    /// The order of the rows: a new one stands after the one that came before it in its request.
    order: Vec<usize>,
    /// Each request's total and its leaves.
    requests: Vec<(u64, Vec<(u32, u64)>)>,
}

impl Gathered {
    pub fn add(&mut self, account: &Account) {
        let mut leaves = Vec::new();
        let mut place = 0;
        for (path, part) in account.leaves() {
            let Kind::Leaf(category) = part.kind else { continue };
            // The endpoint's address is left out: the same hop with another instance behind it is the same row.
            let path: Vec<&str> = path.split(" / ").map(|name| name.split(" -> ").next().unwrap_or(name)).collect();
            let path = path.join(" / ");
            let at = match self.index.get(&path) {
                Some(&at) => at,
                None => {
                    let at = self.names.len();
                    self.names.push((path.clone(), category));
                    self.index.insert(path, at);
                    self.order.insert(place.min(self.order.len()), at);
                    at
                }
            };
            place = self.order.iter().position(|&own| own == at).map_or(place, |found| found + 1);
            leaves.push((at as u32, part.ns));
        }
        self.requests.push((account.total_ns, leaves));
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The percentiles and cohorts; `None` of nothing.
    pub fn distribution(mut self) -> Option<Distribution> {
        self.requests.sort_by_key(|(total, _)| *total);
        let count = self.requests.len();
        if count == 0 {
            return None;
        }
        let (from, to) = if count >= FINE_TAIL_REQUESTS_MIN { (0.985, 0.995) } else { (0.95, 1.0) };
        let median = cohort(count, 0.45, 0.55);
        let tail = cohort(count, from, to);
        let totals: Vec<u64> = self.requests.iter().map(|(total, _)| *total).collect();
        let row = |name: &str, category, by_total: Vec<u64>| {
            let mean = |(cohort, low): (Cohort, usize)| {
                let of = by_total.get(low..low + cohort.requests).unwrap_or_default();
                of.iter().map(|&ns| ns as f64).sum::<f64>() / of.len().max(1) as f64
            };
            let (median_ns, tail_ns) = (mean(median), mean(tail));
            let mut sorted = by_total.clone();
            sorted.sort_unstable();
            let [p50_ns, p95_ns, p99_ns] = [0.5, 0.95, 0.99].map(|q| quantile(&sorted, q));
            Row { name: name.to_owned(), category, p50_ns, p95_ns, p99_ns, median_ns, tail_ns }
        };
        let rows = self.order.iter().filter_map(|&at| {
            let (name, category) = self.names.get(at)?;
            let of = |leaves: &[(u32, u64)]| {
                leaves.iter().filter(|(own, _)| *own as usize == at).map(|(_, ns)| ns).sum::<u64>()
            };
            // A request that did not have the part had 0 of it.
            Some(row(name, *category, self.requests.iter().map(|(_, leaves)| of(leaves)).collect()))
        });
        let rows = rows.collect();
        let total = row("total", Category::Unattributed, totals);
        Some(Distribution { requests: count, rows, total, median: median.0, tail: tail.0 })
    }
}

/// The cohort, at least one request, and the place of its first.
fn cohort(count: usize, from: f64, to: f64) -> (Cohort, usize) {
    let low = ((from * count as f64).floor() as usize).min(count.saturating_sub(1));
    // A share such as 0.55 is a little more than it says.
    let high = ((to * count as f64 - 1e-6).ceil() as usize).clamp(low + 1, count.max(low + 1));
    (Cohort { from, to, requests: high - low }, low)
}

/// The value that a share `q` does not exceed (nearest rank).
fn quantile(sorted: &[u64], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Segments;

    #[test]
    fn cohorts_add_up_and_rows_keep_their_order() {
        let mut gathered = Gathered::default();
        for n in 1..=200_u64 {
            let connect_ns = if n % 2 == 0 { 40 } else { 0 };
            let segments = Segments { connect_ns, send_ns: 1, wait_ns: n * 100, body_ns: 5, ..Segments::default() };
            gathered.add(&Account::of(&segments, &[]));
        }
        let found = gathered.distribution().expect("a distribution");
        let names: Vec<&str> = found.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["connect", "request sent", "wait for the first byte", "body"]);
        assert_eq!((found.requests, found.median.requests, found.tail.requests), (200, 20, 10));
        let sum = |pick: fn(&Row) -> f64| found.rows.iter().map(pick).sum::<f64>();
        assert!((sum(|row| row.median_ns) - found.total.median_ns).abs() < 1e-6);
        assert!((sum(|row| row.tail_ns) - found.total.tail_ns).abs() < 1e-6);
        assert_eq!((found.rows[2].p50_ns, found.rows[2].p99_ns), (10_000, 19_800));
        assert!(Gathered::default().distribution().is_none());
    }

    #[test]
    fn one_request_is_its_own_cohorts() {
        let mut gathered = Gathered::default();
        gathered.add(&Account::of(&Segments { wait_ns: 7, ..Segments::default() }, &[]));
        let found = gathered.distribution().expect("a distribution");
        assert_eq!((found.total.median_ns, found.total.tail_ns, found.total.p99_ns), (7.0, 7.0, 7));
    }
}
