//! Many requests: each part's percentiles, and the middle requests beside the slow ones.

use std::collections::HashMap;

use celerity_telemetry::Category;

use super::{Account, Kind};

/// One leaf over all requests, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The leaf with all that it lies in, joined by ` / `. A hop that was now one instance and now another has the name that
    /// they share.
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
    /// Each row's place, part by part, and its category.
    rows: Vec<(Vec<String>, Category)>,
    /// What the hop of a place is called.
    hops: HashMap<String, String>,
    /// The order of the rows: a new one stands after the one that came before it in its request.
    order: Vec<usize>,
    /// Each request's total and its leaves.
    requests: Vec<(u64, Vec<(u32, u64)>)>,
}

/// Joins the parts of a place and of a name.
const WITHIN: &str = " / ";

impl Gathered {
    pub fn add(&mut self, account: &Account) {
        let mut leaves = Vec::new();
        let mut next = 0;
        let mut within: Vec<String> = Vec::new();
        for part in &account.parts {
            within.truncate(part.depth);
            match part.kind {
                // A hop is told by its direction and its place: another instance of the service is the same row.
                Kind::Hop => {
                    let name = part.name.split(" -> ").next().unwrap_or(&part.name);
                    within.push(name.split(' ').next().unwrap_or(name).to_owned());
                    let called = self.hops.entry(within.join(WITHIN)).or_insert_with(|| name.to_owned());
                    *called = shared(called, name).to_owned();
                }
                Kind::Segment | Kind::Leaf(_) => within.push(part.name.clone()),
            }
            let Kind::Leaf(category) = part.kind else { continue };
            if !part.is_leaf {
                continue;
            }
            let place = within.join(WITHIN);
            let at = match self.index.get(&place) {
                Some(&at) => at,
                None => {
                    let at = self.rows.len();
                    self.rows.push((within.clone(), category));
                    self.index.insert(place, at);
                    self.order.insert(next.min(self.order.len()), at);
                    at
                }
            };
            next = self.order.iter().position(|&own| own == at).map_or(next, |found| found + 1);
            leaves.push((at as u32, part.ns));
        }
        self.requests.push((account.total_ns, leaves));
    }

    /// A row's name: its place, with what its hops are called.
    fn name(&self, place: &[String]) -> String {
        let called = |(at, part): (usize, &String)| {
            let hop = self.hops.get(&place.get(..=at).unwrap_or_default().join(WITHIN));
            hop.unwrap_or(part).clone()
        };
        place.iter().enumerate().map(called).collect::<Vec<_>>().join(WITHIN)
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
            let (place, category) = self.rows.get(at)?;
            let of = |leaves: &[(u32, u64)]| {
                leaves.iter().filter(|(own, _)| *own as usize == at).map(|(_, ns)| ns).sum::<u64>()
            };
            // A request that did not have the part had 0 of it.
            Some(row(&self.name(place), *category, self.requests.iter().map(|(_, leaves)| of(leaves)).collect()))
        });
        let rows = rows.collect();
        let total = row("total", Category::Unattributed, totals);
        Some(Distribution { requests: count, rows, total, median: median.0, tail: tail.0 })
    }
}

/// What two names of instances have in common, up to a dash or a space: `inbound user-service` of its v1-1 and its v2-1.
fn shared<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
    let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    let ends = |name: &str| name.get(end..).is_none_or(|rest| rest.is_empty() || rest.starts_with(['-', ' ']));
    let common = one.get(..end).unwrap_or_default();
    if ends(one) && ends(other) {
        return common;
    }
    common.rfind(['-', ' ']).and_then(|at| common.get(..at)).unwrap_or_default()
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
    use celerity_telemetry::State;
    use celerity_telemetry::server_timing::Hop;

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
    fn instances_of_a_service_are_one_row() {
        let mut gathered = Gathered::default();
        for (number, instance) in ["v1-1", "v1-2", "v2-1"].into_iter().cycle().take(30).enumerate() {
            let inner = Hop {
                name: format!("inbound user-service-{instance}"),
                states: vec![(State::AwaitResponse, 1_000 + number as u64)],
                ..Hop::default()
            };
            let outer = Hop {
                name: "outbound order-service-v1-1".into(),
                upstream_ns: 2_000,
                endpoint: format!("127.0.1.{number}:15006"),
                ..Hop::default()
            };
            let segments = Segments { wait_ns: 3_000, ..Segments::default() };
            gathered.add(&Account::of(&segments, &[inner, outer]));
        }
        let found = gathered.distribution().expect("a distribution");
        let service: Vec<&Row> = found.rows.iter().filter(|row| row.name.ends_with("/ service")).collect();
        assert_eq!(service.len(), 1, "{:?}", found.rows);
        assert!(service[0].name.contains("outbound order-service-v1-1 / "), "{}", service[0].name);
        assert!(service[0].name.ends_with("inbound user-service / service"), "{}", service[0].name);
        assert!(service[0].p50_ns > 1_000);
        assert_eq!(shared("inbound a-1", "inbound b-1"), "inbound");
    }

    #[test]
    fn one_request_is_its_own_cohorts() {
        let mut gathered = Gathered::default();
        gathered.add(&Account::of(&Segments { wait_ns: 7, ..Segments::default() }, &[]));
        let found = gathered.distribution().expect("a distribution");
        assert_eq!((found.total.median_ns, found.total.tail_ns, found.total.p99_ns), (7.0, 7.0, 7));
    }
}
