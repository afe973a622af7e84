//! Every series of the process, its budget, and the scrape.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::families::{Family, Kind, names};
use super::labels::{Reporter, RequestLabels, render_other};
use super::ledger_series::{self, LedgerShard, SideCells, SideSummary};
use super::requests::{RequestCells, RequestSummary, SeriesHandle};
use super::text::{Exposition, push_label};
use crate::clock::Clock;
use crate::histogram::{BORDERS, ClassicBuckets, ClassicMerged, ISTIO_BORDERS, Merged, bump};
use crate::report::LedgerReport;

/// The bounds of a registry.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Label sets of Istio's request metrics; what comes after is collected under `other`. A set costs about 3 KB per
    /// worker and 60 KB of text per scrape: Istio's four metrics have 67 lines with 25 labels each.
    pub request_series_max: usize,
    /// Label sets of each other family.
    pub family_series_max: usize,
    /// A label set that saw no request for so long is dropped.
    pub idle_max: Duration,
    /// The same while nine tenths of the budget are spent.
    pub idle_max_when_full: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_series_max: 2_000,
            family_series_max: 10_000,
            idle_max: Duration::from_secs(3_600),
            idle_max_when_full: Duration::from_secs(300),
        }
    }
}

/// One worker's number, named by its shard.
type Cells<T> = Vec<(u32, Arc<T>)>;

/// The shard of handles that all threads may share.
const SHARED: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SeriesKey {
    Labels(RequestLabels),
    Other(Reporter),
}

struct SeriesEntry {
    /// Rendered once, or every scrape would escape 25 labels for each of 67 lines.
    text: Arc<str>,
    cells: Cells<RequestCells>,
    seen_requests: u64,
    changed_at: Option<Instant>,
}

struct FamilyEntry {
    family: &'static Family,
    series: BTreeMap<String, Cells<AtomicU64>>,
}

type Collector = Arc<dyn Fn(&mut Exposition<'_>) + Send + Sync>;

#[derive(Default)]
struct Inner {
    shards: u32,
    requests: HashMap<SeriesKey, SeriesEntry>,
    families: BTreeMap<&'static str, FamilyEntry>,
    ledgers: Vec<Arc<[SideCells; 2]>>,
    collectors: Vec<Collector>,
}

/// Every series. One per process, in an `Arc`.
pub struct Registry {
    inner: Mutex<Inner>,
    limits: Limits,
    evicted: AtomicU64,
    overflowed: AtomicU64,
    reduced: AtomicBool,
}

impl Registry {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            limits,
            evicted: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            reduced: AtomicBool::new(false),
        })
    }

    /// No code of this module panics while it holds the lock, and numbers are whole at every step: a poisoned lock is
    /// as good as any.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writing end of one worker.
    pub fn shard(self: &Arc<Self>) -> Shard {
        let mut inner = self.inner();
        let id = inner.shards;
        inner.shards += 1;
        drop(inner);
        Shard { registry: Arc::clone(self), id, one_thread_at_a_time: PhantomData }
    }

    /// A counter that any thread may add to. Costs a locked instruction: for control work, not for requests.
    pub fn counter(&self, family: &'static Family, labels: &[(&str, &str)]) -> SharedCounter {
        SharedCounter(self.cell(family, labels, SHARED))
    }

    /// A gauge that any thread may set or add to.
    pub fn gauge(&self, family: &'static Family, labels: &[(&str, &str)]) -> Gauge {
        Gauge(self.cell(family, labels, SHARED))
    }

    fn cell(&self, family: &'static Family, labels: &[(&str, &str)], shard: u32) -> Arc<AtomicU64> {
        let mut text = Exposition::labels(labels);
        let mut inner = self.inner();
        let entry =
            inner.families.entry(family.name).or_insert_with(|| FamilyEntry { family, series: BTreeMap::new() });
        if !entry.series.contains_key(&text) && entry.series.len() >= self.limits.family_series_max {
            self.overflowed.fetch_add(1, Relaxed);
            text.clear();
            for (name, _) in labels {
                push_label(&mut text, name, "other");
            }
        }
        let cells = entry.series.entry(text).or_default();
        if let Some((_, cell)) = cells.iter().find(|(owner, _)| *owner == shard) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(AtomicU64::new(0));
        cells.push((shard, Arc::clone(&cell)));
        cell
    }

    /// Drops the series of every generic family that carry this label: those of a cluster that is gone. Handles that
    /// are still held write on into cells that nobody reads.
    pub fn forget(&self, label: &str, value: &str) {
        let wanted = Exposition::labels(&[(label, value)]);
        for entry in self.inner().families.values_mut() {
            // A value's quotes are escaped, so the rendered pair cannot occur within another value.
            entry.series.retain(|text, _| {
                !text.match_indices(&wanted).any(|(at, _)| at == 0 || text.as_bytes()[at - 1] == b',')
            });
        }
    }

    /// Adds numbers that are computed when somebody asks. Runs on the scraping thread, without the lock.
    pub fn collector(&self, collect: impl Fn(&mut Exposition<'_>) + Send + Sync + 'static) {
        self.inner().collectors.push(Arc::new(collect));
    }

    /// Leaves principal, app, canonical revision and cluster out of the request metrics' labels (`use_all_default_tags:
    /// false`), which takes a third off every scrape. A change starts all request series anew.
    pub fn reduce_labels(&self, reduced: bool) {
        if self.reduced.swap(reduced, Relaxed) == reduced {
            return;
        }
        for (_, entry) in self.inner().requests.drain() {
            entry.cells.iter().for_each(|(_, cells)| cells.stale.store(true, Relaxed));
        }
    }

    fn requests(&self, labels: &RequestLabels, shard: u32) -> SeriesHandle {
        let wanted = if self.reduced.load(Relaxed) { labels.reduced() } else { labels.clone() };
        let mut inner = self.inner();
        let mut key = SeriesKey::Labels(wanted);
        if !inner.requests.contains_key(&key) && inner.requests.len() >= self.limits.request_series_max {
            self.overflowed.fetch_add(1, Relaxed);
            key = SeriesKey::Other(labels.reporter);
        }
        let entry = inner.requests.entry(key).or_insert_with_key(|key| SeriesEntry {
            text: match key {
                SeriesKey::Labels(labels) => labels.render(),
                SeriesKey::Other(reporter) => render_other(*reporter),
            }
            .into(),
            cells: Vec::new(),
            seen_requests: 0,
            changed_at: None,
        });
        let cells = match entry.cells.iter().find(|(owner, _)| *owner == shard) {
            Some((_, cells)) => Arc::clone(cells),
            None => {
                let cells = Arc::new(RequestCells::default());
                entry.cells.push((shard, Arc::clone(&cells)));
                cells
            }
        };
        cells.stale.store(false, Relaxed);
        SeriesHandle { cells, one_thread: PhantomData }
    }

    /// Drops idle label sets. `expose` calls it; call it yourself where nobody scrapes.
    pub fn sweep(&self, now: Instant) {
        let mut inner = self.inner();
        let max = self.limits.request_series_max;
        let idle_max =
            if inner.requests.len() * 10 >= max * 9 { self.limits.idle_max_when_full } else { self.limits.idle_max };
        let mut evicted = 0;
        inner.requests.retain(|key, entry| {
            let requests: u64 = entry.cells.iter().map(|(_, cells)| cells.requests.load(Relaxed)).sum();
            if entry.changed_at.is_none() || requests != entry.seen_requests {
                entry.seen_requests = requests;
                entry.changed_at = Some(now);
            }
            let idle = entry.changed_at.is_some_and(|at| now.saturating_duration_since(at) > idle_max);
            let drop = idle && matches!(key, SeriesKey::Labels(_));
            if drop {
                entry.cells.iter().for_each(|(_, cells)| cells.stale.store(true, Relaxed));
                evicted += 1;
            }
            !drop
        });
        if inner.requests.len() < max {
            // There is room again: whoever writes under `other` may ask for a series of its own.
            for reporter in Reporter::ALL {
                if let Some(entry) = inner.requests.get(&SeriesKey::Other(reporter)) {
                    entry.cells.iter().for_each(|(_, cells)| cells.stale.store(true, Relaxed));
                }
            }
        }
        self.evicted.fetch_add(evicted, Relaxed);
    }

    /// Writes the Prometheus text format 0.0.4. Workers go on: the lock is held only while the list is copied.
    pub fn expose(&self, now: Instant, out: &mut dyn io::Write) -> io::Result<()> {
        self.sweep(now);
        let (mut series, families, collectors) = {
            let inner = self.inner();
            let series: Vec<_> =
                inner.requests.values().map(|entry| (Arc::clone(&entry.text), entry.cells.clone())).collect();
            let families: Vec<_> = inner.families.values().map(|entry| (entry.family, entry.series.clone())).collect();
            (series, families, inner.collectors.clone())
        };
        series.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        let mut text = Exposition::new(out);
        expose_requests(&mut text, &series);
        for (family, series) in &families {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            text.family(family.name, family.help, kind);
            for (labels, cells) in series {
                let value = cells.iter().fold(0_u64, |sum, (_, cell)| sum.wrapping_add(cell.load(Relaxed)));
                match family.kind {
                    Kind::Counter => text.sample(family.name, labels, value),
                    Kind::Gauge => text.sample(family.name, labels, value as i64),
                }
            }
        }
        ledger_series::expose(&mut text, &self.ledgers());
        for (family, value) in [
            (&names::METRIC_SERIES, series.len() as u64),
            (&names::METRIC_SERIES_EVICTED, self.evicted.load(Relaxed)),
            (&names::METRIC_SERIES_OVERFLOWED, self.overflowed.load(Relaxed)),
        ] {
            text.family(family.name, family.help, if family.kind == Kind::Gauge { "gauge" } else { "counter" });
            text.sample(family.name, "", value);
        }
        for collect in collectors {
            collect(&mut text);
        }
        text.finish()
    }

    /// Every label set of the request metrics with its latency, for reports.
    pub fn request_summaries(&self) -> Vec<RequestSummary> {
        let series: Vec<_> =
            self.inner().requests.iter().map(|(key, entry)| (key.clone(), entry.cells.clone())).collect();
        series
            .into_iter()
            .map(|(key, cells)| RequestSummary {
                labels: match key {
                    SeriesKey::Labels(labels) => Some(labels),
                    SeriesKey::Other(_) => None,
                },
                requests: cells.iter().map(|(_, cells)| cells.requests.load(Relaxed)).sum(),
                duration_us: Merged::of(cells.iter().map(|(_, cells)| &cells.duration_us)),
            })
            .collect()
    }

    /// The ledgers of all workers, by side: the client's sidecar, then the server's.
    pub fn ledgers(&self) -> [SideSummary; 2] {
        let shards = self.inner().ledgers.clone();
        Reporter::ALL.map(|side| SideSummary::of(side, shards.iter().map(|sides| &sides[side as usize])))
    }

    /// The same with the cohorts of the last ten to twenty seconds: what /ledger shows. Sorts some thousand accounts.
    pub fn ledger_reports(&self) -> [LedgerReport; 2] {
        let shards = self.inner().ledgers.clone();
        self.ledgers().map(|summary| {
            let side = summary.side as usize;
            LedgerReport { summary, cohorts: ledger_series::cohorts(shards.iter().map(|sides| &sides[side])) }
        })
    }
}

/// Such series count messages.
const GRPC: &str = "request_protocol=\"grpc\"";

fn expose_requests(text: &mut Exposition<'_>, series: &[(Arc<str>, Cells<RequestCells>)]) {
    type Count = fn(&RequestCells) -> &AtomicU64;
    let counters: [(&str, &str, Count, bool); 3] = [
        ("istio_requests_total", "Requests handled.", |cells| &cells.requests, false),
        ("istio_request_messages_total", "gRPC messages of requests.", |cells| &cells.request_messages, true),
        ("istio_response_messages_total", "gRPC messages of responses.", |cells| &cells.response_messages, true),
    ];
    for (name, help, pick, of_grpc) in counters {
        text.family(name, help, "counter");
        for (labels, cells) in series {
            let count: u64 = cells.iter().map(|(_, cells)| pick(cells).load(Relaxed)).sum();
            // What the budget had no room for is of every protocol.
            if !of_grpc || count > 0 || labels.contains(GRPC) {
                text.sample(name, labels, count);
            }
        }
    }
    type Pick = fn(&RequestCells) -> &ClassicBuckets;
    let histograms: [(&str, &str, Pick); 3] = [
        ("istio_request_duration_milliseconds", "Duration of requests.", |cells| &cells.duration),
        ("istio_request_bytes", "Size of request bodies.", |cells| &cells.request_bytes),
        ("istio_response_bytes", "Size of response bodies.", |cells| &cells.response_bytes),
    ];
    for (name, help, pick) in histograms {
        text.family(name, help, "histogram");
        for (labels, cells) in series {
            let mut merged = ClassicMerged::default();
            cells.iter().for_each(|(_, cells)| pick(cells).merge_into(&mut merged));
            let mut below = 0;
            let mut cumulative = [0; BORDERS];
            for (slot, count) in cumulative.iter_mut().zip(&merged.counts) {
                below += count;
                *slot = below;
            }
            // The count is the sum of the same cells, so that it can never disagree with the last bucket.
            let count = merged.counts.iter().sum();
            let buckets = ISTIO_BORDERS.iter().zip(cumulative);
            text.histogram(name, labels, buckets, count, merged.sum_milli as f64 / 1_000.0);
        }
    }
}

/// One worker's writing end. Make it anywhere, then keep it and what it hands out on one thread.
pub struct Shard {
    registry: Arc<Registry>,
    id: u32,
    /// `Cell` is `Send` and not `Sync`: a shard may move to its worker, and two threads cannot hold it at once.
    one_thread_at_a_time: PhantomData<std::cell::Cell<()>>,
}

impl Shard {
    /// The series of a label set. Takes the registry's lock: keep the handle. `RequestSeries` does that.
    pub fn requests(&self, labels: &RequestLabels) -> SeriesHandle {
        self.registry.requests(labels, self.id)
    }

    /// A counter of this worker's own. Takes the registry's lock: keep it.
    pub fn counter(&self, family: &'static Family, labels: &[(&str, &str)]) -> Counter {
        Counter { cell: self.registry.cell(family, labels, self.id), one_thread: PhantomData }
    }

    /// A gauge of this worker's own; what is exposed is the sum over the workers. Takes the registry's lock: keep it.
    pub fn gauge(&self, family: &'static Family, labels: &[(&str, &str)]) -> ShardGauge {
        ShardGauge { cell: self.registry.cell(family, labels, self.id), one_thread: PhantomData }
    }

    /// This worker's ledger histograms and cohorts, both sides.
    pub fn ledger(&self, clock: &Clock) -> LedgerShard {
        let sides = Arc::new(std::array::from_fn(|_| SideCells::default()));
        self.registry.inner().ledgers.push(Arc::clone(&sides));
        LedgerShard::new(sides, u64::from(self.id), clock)
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
}

/// A counter that one worker writes: a relaxed load and store.
#[derive(Clone, Debug)]
pub struct Counter {
    cell: Arc<AtomicU64>,
    one_thread: PhantomData<Rc<()>>,
}

impl Counter {
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn add(&self, by: u64) {
        bump(&self.cell, by);
    }

    pub fn value(&self) -> u64 {
        self.cell.load(Relaxed)
    }
}

/// A gauge that one worker writes.
#[derive(Clone, Debug)]
pub struct ShardGauge {
    cell: Arc<AtomicU64>,
    one_thread: PhantomData<Rc<()>>,
}

impl ShardGauge {
    pub fn set(&self, value: i64) {
        self.cell.store(value as u64, Relaxed);
    }
}

/// A counter that every thread may write.
#[derive(Clone, Debug)]
pub struct SharedCounter(Arc<AtomicU64>);

impl SharedCounter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge that every thread may write.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value as u64, Relaxed);
    }

    pub fn add(&self, by: i64) {
        self.0.fetch_add(by as u64, Relaxed);
    }

    pub fn value(&self) -> i64 {
        self.0.load(Relaxed) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::{ConnectionSecurity, Peer, RequestProtocol};
    use super::super::requests::{Outcome, RequestSeries, Sample};
    use super::*;
    use crate::flags::ResponseFlags;

    fn labels(service: &str) -> RequestLabels {
        RequestLabels {
            reporter: Reporter::Source,
            source: Arc::new(Peer { workload: "order-service".into(), ..Peer::default() }),
            destination: Arc::default(),
            destination_service: service.into(),
            destination_service_name: service.into(),
            destination_service_namespace: "default".into(),
            request_protocol: RequestProtocol::Http,
            response_code: 200,
            response_flags: ResponseFlags::NONE,
            grpc_response_status: None,
            connection_security_policy: ConnectionSecurity::Unknown,
        }
    }

    fn exposed(registry: &Registry, now: Instant) -> String {
        let mut out = Vec::new();
        registry.expose(now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn value(text: &str, start: &str) -> Option<f64> {
        text.lines().find(|line| line.starts_with(start)).and_then(|line| line.rsplit(' ').next()?.parse().ok())
    }

    #[test]
    fn two_workers_add_up_and_the_last_bucket_is_the_count() {
        let registry = Registry::new(Limits::default());
        let workers = [registry.shard(), registry.shard()];
        for (worker, us) in workers.iter().zip([500, 70_000_000_000]) {
            let sample = Sample { duration_us: us, response_bytes: 1_024, ..Sample::default() };
            assert!(worker.requests(&labels("user-service")).record(sample));
        }
        let text = exposed(&registry, Instant::now());
        assert_eq!(
            value(&text, "istio_requests_total{reporter=\"source\",source_workload=\"order-service\""),
            Some(2.0)
        );
        let buckets: Vec<_> =
            text.lines().filter(|line| line.starts_with("istio_request_duration_milliseconds_bucket")).collect();
        assert_eq!(buckets.len(), BORDERS + 1);
        assert!(buckets[0].contains("le=\"0.5\"} 1") && buckets[BORDERS - 1].contains("le=\"3600000\"} 1"));
        assert!(buckets[BORDERS].contains("le=\"+Inf\"} 2"));
        assert_eq!(value(&text, "istio_response_bytes_sum"), Some(2_048.0));
        assert_eq!(registry.request_summaries()[0].requests, 2);
    }

    #[test]
    fn beyond_the_budget_series_are_collected_under_other_and_come_back() {
        let limits = Limits { request_series_max: 2, ..Limits::default() };
        let registry = Registry::new(limits);
        let shard = registry.shard();
        for service in ["a", "b", "c", "d"] {
            assert!(shard.requests(&labels(service)).record(Sample::default()));
        }
        let start = Instant::now();
        let text = exposed(&registry, start);
        assert!(text.contains("destination_service=\"other\""));
        assert_eq!(text.lines().filter(|line| line.starts_with("istio_requests_total{")).count(), 3);
        assert_eq!(value(&text, "celerity_metric_series_overflowed_total"), Some(2.0));
        assert!(exposed(&registry, start + limits.idle_max_when_full).contains("destination_service=\"a\""));
        // Idle beyond the limit: dropped, and the next request of a known outcome makes a new one.
        let handle = shard.requests(&labels("a"));
        let text = exposed(&registry, start + limits.idle_max_when_full + Duration::from_secs(1));
        assert!(!text.contains("destination_service=\"a\""));
        assert!(!handle.record(Sample::default()));
        assert!(shard.requests(&labels("d")).record(Sample::default()));
        assert!(exposed(&registry, start).contains("destination_service=\"d\""));
    }

    #[test]
    fn a_series_set_finds_its_outcomes_again_after_an_eviction() {
        let registry = Registry::new(Limits { idle_max: Duration::ZERO, ..Limits::default() });
        let shard = registry.shard();
        let base = labels("user-service");
        let set = RequestSeries::new(
            base.reporter,
            base.source,
            base.destination,
            base.destination_service,
            base.destination_service_name,
            base.destination_service_namespace,
        );
        let start = Instant::now();
        for code in [200, 503, 200] {
            set.record(&shard, Outcome { response_code: code, ..Outcome::default() }, Sample::default());
        }
        assert_eq!(registry.request_summaries().iter().map(|summary| summary.requests).sum::<u64>(), 3);
        registry.sweep(start);
        registry.sweep(start + Duration::from_secs(1));
        assert!(registry.request_summaries().is_empty());
        set.record(&shard, Outcome { response_code: 200, ..Outcome::default() }, Sample::default());
        assert_eq!(registry.request_summaries().len(), 1);
    }

    #[test]
    fn reduced_labels_still_tell_services_apart() {
        let registry = Registry::new(Limits::default());
        let shard = registry.shard();
        let before = shard.requests(&labels("a"));
        assert!(before.record(Sample::default()));
        assert!(exposed(&registry, Instant::now()).contains("source_app="));
        registry.reduce_labels(true);
        assert!(!before.record(Sample::default()), "the old series are gone");
        assert!(shard.requests(&labels("a")).record(Sample::default()));
        assert!(shard.requests(&labels("b")).record(Sample::default()));
        let text = exposed(&registry, Instant::now());
        assert!(
            !text.contains("source_app=") && !text.contains("_principal=") && !text.contains("_revision="),
            "{text}"
        );
        assert!(text.contains("destination_service=\"a\"") && text.contains("destination_service=\"b\""), "{text}");
    }

    #[test]
    fn counters_of_workers_and_gauges_are_exposed_once() {
        let registry = Registry::new(Limits::default());
        let cluster = [("cluster_name", "outbound|80||a\"b")];
        let (one, two) = (registry.shard(), registry.shard());
        one.counter(&names::CLUSTER_UPSTREAM_RQ_TOTAL, &cluster).add(2);
        one.counter(&names::CLUSTER_UPSTREAM_RQ_TOTAL, &cluster).inc();
        two.counter(&names::CLUSTER_UPSTREAM_RQ_TOTAL, &cluster).inc();
        let gauge = registry.gauge(&names::CLUSTER_UPSTREAM_CX_ACTIVE, &cluster);
        gauge.add(3);
        gauge.add(-5);
        registry.collector(|text| text.sample("computed", "", 7));
        let text = exposed(&registry, Instant::now());
        assert!(text.contains("envoy_cluster_upstream_rq_total{cluster_name=\"outbound|80||a\\\"b\"} 4\n"), "{text}");
        assert!(text.contains("envoy_cluster_upstream_cx_active{cluster_name=\"outbound|80||a\\\"b\"} -2\n"));
        assert!(text.ends_with("computed 7\n"));
        registry.forget("cluster_name", cluster[0].1);
        assert!(!exposed(&registry, Instant::now()).contains("outbound|80||a"));
    }

    #[test]
    fn a_family_s_budget_holds() {
        let registry = Registry::new(Limits { family_series_max: 2, ..Limits::default() });
        for cluster in ["a", "b", "c", "d"] {
            registry.counter(&names::CLUSTER_UPSTREAM_RQ_TOTAL, &[("cluster_name", cluster)]).inc();
        }
        let text = exposed(&registry, Instant::now());
        assert!(text.contains("envoy_cluster_upstream_rq_total{cluster_name=\"other\"} 2\n"));
    }
}
