//! Series that are computed when somebody asks: what the clusters share, the machine, the configuration's state. They cost
//! the request path nothing.

use crate::proxy::Control;
use crate::sizing::ThrottlingReader;
use crate::upstream::ClusterShared;
use celerity_model::snapshot::{Cluster, Endpoint, Health};
use celerity_telemetry::metrics::{Exposition, Family, Kind, names};
use std::collections::HashSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Instant;

/// Adds the series to the registry's exposition. They end with the proxy: the registry may outlive it.
pub(super) fn register(control: &Arc<Control>) {
    let weak: Weak<Control> = Arc::downgrade(control);
    let throttling = ThrottlingReader::find();
    control.shared.registry.collector(move |text| {
        let Some(control) = weak.upgrade() else { return };
        clusters(&control, text);
        proxy(&control, text);
        blocking(&control, text);
        if let Some(now) = throttling.as_ref().and_then(ThrottlingReader::read) {
            one(text, &names::CPU_PERIODS, now.periods_total);
            one(text, &names::CPU_THROTTLED, now.throttled_total);
            one(text, &names::CPU_THROTTLED_US, now.throttled_us_total);
        }
    });
}

fn family(text: &mut Exposition<'_>, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    text.family(family.name, family.help, kind);
}

fn one(text: &mut Exposition<'_>, of: &Family, value: impl Display) {
    family(text, of);
    text.sample(of.name, "", value);
}

struct Row {
    labels: String,
    shared: Arc<ClusterShared>,
    members: usize,
    healthy: usize,
}

type Read = fn(&Row) -> u64;

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Only clusters that were used: a sidecar knows thousands and talks to a few.
fn clusters(control: &Control, text: &mut Exposition<'_>) {
    let running = control.running.load();
    let now = Instant::now();
    let row = |cluster: &Arc<Cluster>| {
        let shared = control.shared.known_cluster(cluster.identity)?;
        let (members, healthy) = membership(cluster, &shared, now);
        Some(Row { labels: Exposition::labels(&[("cluster_name", &cluster.name)]), shared, members, healthy })
    };
    let mut rows: Vec<Row> = running.snapshot.clusters().filter_map(row).collect();
    rows.sort_unstable_by(|left, right| left.labels.cmp(&right.labels));
    let families: [(&Family, Read); 18] = [
        (&names::CLUSTER_UPSTREAM_CX_TOTAL, |row| load(&row.shared.events.connections)),
        (&names::CLUSTER_UPSTREAM_CX_ACTIVE, |row| row.shared.connections.used().into()),
        (&names::CLUSTER_UPSTREAM_CX_OVERFLOW, |row| load(&row.shared.events.connection_overflows)),
        (&names::CLUSTER_UPSTREAM_CX_CONNECT_FAIL, |row| load(&row.shared.events.connect_failures)),
        (&names::CLUSTER_UPSTREAM_CX_CONNECT_TIMEOUT, |row| load(&row.shared.events.connect_timeouts)),
        (&names::CLUSTER_UPSTREAM_RQ_PENDING_TOTAL, |row| load(&row.shared.events.pending)),
        (&names::CLUSTER_UPSTREAM_RQ_PENDING_ACTIVE, |row| row.shared.pending.used().into()),
        (&names::CLUSTER_UPSTREAM_RQ_PENDING_OVERFLOW, |row| {
            load(&row.shared.events.pending_overflows) + load(&row.shared.events.request_overflows)
        }),
        (&names::CLUSTER_UPSTREAM_RQ_RETRY, |row| load(&row.shared.events.retries)),
        (&names::CLUSTER_UPSTREAM_RQ_RETRY_SUCCESS, |row| load(&row.shared.events.retry_successes)),
        (&names::CLUSTER_RETRY_OR_SHADOW_ABANDONED, |row| load(&row.shared.events.bodies_given_up)),
        (&names::CLUSTER_UPSTREAM_RQ_RETRY_OVERFLOW, |row| load(&row.shared.events.retry_overflows)),
        (&names::CLUSTER_UPSTREAM_RQ_TIMEOUT, |row| load(&row.shared.events.request_timeouts)),
        (&names::CLUSTER_UPSTREAM_RQ_PER_TRY_TIMEOUT, |row| load(&row.shared.events.per_try_timeouts)),
        (&names::CLUSTER_UPSTREAM_CX_NONE_HEALTHY, |row| load(&row.shared.events.no_healthy_upstream)),
        (&names::CLUSTER_OUTLIER_EJECTIONS_ACTIVE, |row| row.shared.health.ejected().into()),
        (&names::CLUSTER_MEMBERSHIP_TOTAL, |row| row.members as u64),
        (&names::CLUSTER_MEMBERSHIP_HEALTHY, |row| row.healthy as u64),
    ];
    for (of, read) in families {
        family(text, of);
        for row in &rows {
            text.sample(of.name, &row.labels, read(row));
        }
    }
}

fn proxy(control: &Control, text: &mut Exposition<'_>) {
    let state = control.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
    family(text, &names::BUILD_INFO);
    text.sample(names::BUILD_INFO.name, &Exposition::labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1);
    one(text, &names::CONFIG_LAST_RELOAD_SUCCESS, u8::from(state.rejected.is_none()));
    one(text, &names::CONFIG_LAST_RELOAD_TIMESTAMP, state.changed_unix_s);
    // The one that it started with counts too.
    one(text, &names::CONFIG_VERSION, state.accepted_count + 1);
    one(text, &names::PROXY_WORKERS, control.live_workers());
    one(text, &names::PROXY_DRAINING, u8::from(control.is_draining()));
    if let Some(limit) = control.memory_limit_bytes() {
        one(text, &names::MEMORY_LIMIT, limit);
    }
    if let Some(resident) = crate::sizing::resident_bytes() {
        one(text, &names::MEMORY_RESIDENT, resident);
    }
    one(text, &names::OVERLOADED, u8::from(control.shared.overloaded.load(Ordering::Relaxed)));
}

fn blocking(control: &Control, text: &mut Exposition<'_>) {
    let stats = control.blocking.stats();
    one(text, &names::BLOCKING_THREADS, stats.threads);
    one(text, &names::BLOCKING_THREADS_IDLE, stats.idle);
    one(text, &names::BLOCKING_QUEUED, stats.queued);
    one(text, &names::BLOCKING_COMPLETED, stats.completed_total);
    one(text, &names::BLOCKING_REFUSED, stats.refused_total);
}

/// Endpoints of a cluster, and those of them that may take requests.
fn membership(cluster: &Cluster, shared: &ClusterShared, now: Instant) -> (usize, usize) {
    let reports = if shared.health.ejected() == 0 { Vec::new() } else { shared.health.reports(now) };
    let ejected: HashSet<u64> =
        reports.iter().filter(|report| report.ejected.is_some()).map(|report| report.identity).collect();
    let usable = |one: &&Endpoint| one.health == Health::Healthy && !ejected.contains(&one.identity);
    (cluster.endpoints.len(), cluster.endpoints.iter().filter(usable).count())
}
