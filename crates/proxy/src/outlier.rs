//! Outlier detection: endpoints that fail are ejected for a while (Envoy, "Outlier detection").
//!
//! ```text
//!               threshold reached, or an outlier at the sweep
//!               (and the cap allows it, and the draw enforces it)
//!     in use  ------------------------------------------------->  ejected
//!        ^                                                           |
//!        +------- sweep, after base time x times ejected ------------+
//! ```
//!
//! Workers report outcomes through atomics of the endpoint, each endpoint on cache lines of its own: a success that
//! follows a success is loads only. The rare rest (a threshold is reached, the sweep) takes the cluster's lock.
//!
//! The cap is a true one: `floor(endpoints * max_ejection_percent / 100)` endpoints are ejected at the most, so that 10 %
//! of fewer than 10 endpoints is none. Envoy compares before it ejects and so goes over its percentage by up to one
//! endpoint. `always_eject_one_endpoint` makes the cap at least one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use celerity_model::snapshot::OutlierDetection;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// No connection could be made.
    ConnectFailed,
    /// There was no response in time.
    Timeout,
    /// The connection broke before the response.
    Reset,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

impl Reason {
    /// Envoy's name of the ejection type, as its statistics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::SuccessRateLocalOrigin => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "failure_percentage_local_origin",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The endpoint.
    pub identity: u64,
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// Ejected for this long; `times` counts ejections that followed each other.
    Ejected {
        reason: Reason,
        time: Duration,
        times: u32,
    },
    /// It would be ejected, but `ejected` of `cap` allowed are already.
    Capped {
        reason: Reason,
        ejected: u32,
        cap: u32,
    },
    /// It would be ejected, but only a share of ejections is enforced.
    NotEnforced {
        reason: Reason,
    },
    Returned,
}

/// An endpoint's own counters. Aligned so that two endpoints never share a cache line between workers.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointHealth {
    pub identity: u64,
    ejected: AtomicBool,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// Microseconds after the cluster's first instant at which it became healthy; 0: before anyone looked.
    healthy_since_us: AtomicU64,
    external: Window,
    local: Window,
}

/// Requests since the last sweep.
#[derive(Debug, Default)]
struct Window {
    successes: AtomicU32,
    total: AtomicU32,
}

impl Window {
    fn add(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.successes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Percent of successes and the number of requests, and starts anew.
    fn take(&self) -> (f64, u32) {
        let total = self.total.swap(0, Ordering::Relaxed);
        let successes = self.successes.swap(0, Ordering::Relaxed).min(total);
        (if total == 0 { 100.0 } else { f64::from(successes) * 100.0 / f64::from(total) }, total)
    }
}

impl EndpointHealth {
    fn new(identity: u64, healthy_since_us: u64) -> Self {
        Self {
            identity,
            ejected: AtomicBool::new(false),
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            healthy_since_us: AtomicU64::new(healthy_since_us),
            external: Window::default(),
            local: Window::default(),
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    fn counter(&self, reason: Reason) -> Option<&AtomicU32> {
        match reason {
            Reason::Consecutive5xx => Some(&self.consecutive_5xx),
            Reason::ConsecutiveGatewayFailure => Some(&self.consecutive_gateway),
            Reason::ConsecutiveLocalOriginFailure => Some(&self.consecutive_local),
            _ => None,
        }
    }

    fn reset(&self) {
        clear(&self.consecutive_5xx);
        clear(&self.consecutive_gateway);
        clear(&self.consecutive_local);
    }
}

/// A load alone where there is nothing to clear: the line stays shared between the workers.
fn clear(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

/// What all workers know of the health of one cluster. It outlives snapshots.
#[derive(Debug)]
pub struct ClusterHealth {
    started: Instant,
    /// Counts up with each change of who is ejected: a worker that sees another number makes its picker anew.
    version: AtomicU64,
    settings: ArcSwapOption<OutlierDetection>,
    detector: Mutex<Detector>,
}

#[derive(Debug, Default)]
struct Detector {
    hosts: HashMap<u64, Host>,
    ejected: u32,
    next_sweep: Option<Instant>,
    taken_up: bool,
}

#[derive(Debug)]
struct Host {
    health: Arc<EndpointHealth>,
    ejection: Option<Ejection>,
    /// Ejections that followed each other; one is taken off at each sweep that finds the endpoint in use.
    times: u32,
    total_ejections: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    reason: Reason,
}

/// One endpoint's state, for the admin port.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    pub identity: u64,
    /// Why, and for how long still.
    pub ejected: Option<(Reason, Duration)>,
    pub total_ejections: u64,
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
}

impl ClusterHealth {
    pub fn new(now: Instant) -> Self {
        Self { started: now, version: AtomicU64::new(1), settings: ArcSwapOption::empty(), detector: Mutex::default() }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes up a cluster's configuration. Endpoints that stay keep their state; without settings all return. Endpoints
    /// that come after the first time are new and warm up where slow start is on.
    pub fn take_up(
        &self,
        settings: Option<&OutlierDetection>,
        identities: impl IntoIterator<Item = u64>,
        now: Instant,
    ) {
        let mut detector = self.lock();
        let known = std::mem::take(&mut detector.hosts);
        let is_first = !std::mem::replace(&mut detector.taken_up, true);
        let mut known: HashMap<u64, Host> = known;
        for identity in identities {
            let host = known.remove(&identity).unwrap_or_else(|| {
                let since = if is_first { 0 } else { self.micros(now) };
                let health = Arc::new(EndpointHealth::new(identity, since));
                Host { health, ejection: None, times: 0, total_ejections: 0 }
            });
            detector.hosts.insert(identity, host);
        }
        if settings.is_none() {
            for host in detector.hosts.values_mut() {
                host.ejection = None;
                host.health.ejected.store(false, Ordering::Relaxed);
            }
        }
        detector.ejected = detector.hosts.values().filter(|host| host.ejection.is_some()).count() as u32;
        detector.next_sweep = settings.map(|settings| {
            let latest = now + settings.interval;
            detector.next_sweep.map_or(latest, |planned| planned.min(latest))
        });
        let same = match (self.settings.load().as_deref(), settings) {
            (Some(old), Some(new)) => old == new,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.settings.store(settings.map(|settings| Arc::new(settings.clone())));
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The counters of an endpoint, to be kept by a worker.
    pub fn endpoint(&self, identity: u64) -> Option<Arc<EndpointHealth>> {
        self.lock().hosts.get(&identity).map(|host| host.health.clone())
    }

    /// Since when an endpoint is healthy; `None`: since before this proxy looked.
    pub fn healthy_since(&self, endpoint: &EndpointHealth) -> Option<Instant> {
        match endpoint.healthy_since_us.load(Ordering::Relaxed) {
            0 => None,
            after_us => self.started.checked_add(Duration::from_micros(after_us)),
        }
    }

    /// Takes in what came of an attempt. `rng` decides whether an ejection is enforced.
    pub fn report(&self, endpoint: &EndpointHealth, outcome: Outcome, now: Instant, rng: u64) -> Option<Event> {
        let settings = self.settings.load();
        let settings = settings.as_deref()?;
        let split = settings.split_external_local_origin_errors;
        let status = match outcome {
            Outcome::Status(status) => status,
            _ if split => return self.local_failure(endpoint, settings, now, rng),
            // What a client would be answered (Envoy `DetectorHostMonitorImpl::resultToHttpCode`).
            Outcome::ConnectFailed | Outcome::Reset => 503,
            Outcome::Timeout => 504,
        };
        if split {
            clear(&endpoint.consecutive_local);
            if settings.enforcing_local_origin_success_rate > 0
                || settings.enforcing_failure_percentage_local_origin > 0
            {
                endpoint.local.add(true);
            }
        }
        let failed = match (outcome, settings.error_statuses.as_ref()) {
            (Outcome::Status(status), ranges @ [_, ..]) => {
                ranges.iter().any(|&(first, last)| (first..=last).contains(&status))
            }
            _ => status >= 500,
        };
        if settings.enforcing_success_rate > 0 || settings.enforcing_failure_percentage > 0 {
            endpoint.external.add(!failed);
        }
        if !failed {
            clear(&endpoint.consecutive_5xx);
            clear(&endpoint.consecutive_gateway);
            return None;
        }
        let mut reason = None;
        if (502..=504).contains(&status) {
            let count = endpoint.consecutive_gateway.fetch_add(1, Ordering::Relaxed) + 1;
            // At or past it: an ejection that was not enforced or was capped must not end the detection.
            if count >= settings.consecutive_gateway_failure && settings.enforcing_consecutive_gateway_failure > 0 {
                reason = Some(Reason::ConsecutiveGatewayFailure);
            }
        } else {
            clear(&endpoint.consecutive_gateway);
        }
        let count = endpoint.consecutive_5xx.fetch_add(1, Ordering::Relaxed) + 1;
        if reason.is_none() && count >= settings.consecutive_5xx && settings.enforcing_consecutive_5xx > 0 {
            reason = Some(Reason::Consecutive5xx);
        }
        self.trip(endpoint, reason?, settings, now, rng)
    }

    fn local_failure(
        &self,
        endpoint: &EndpointHealth,
        settings: &OutlierDetection,
        now: Instant,
        rng: u64,
    ) -> Option<Event> {
        if settings.enforcing_local_origin_success_rate > 0 || settings.enforcing_failure_percentage_local_origin > 0 {
            endpoint.local.add(false);
        }
        let count = endpoint.consecutive_local.fetch_add(1, Ordering::Relaxed) + 1;
        let reached = count >= settings.consecutive_local_origin_failure;
        if !reached || settings.enforcing_consecutive_local_origin_failure == 0 {
            return None;
        }
        self.trip(endpoint, Reason::ConsecutiveLocalOriginFailure, settings, now, rng)
    }

    /// A threshold was reached. The counter starts anew, so that the next bout is detected by itself.
    fn trip(
        &self,
        endpoint: &EndpointHealth,
        reason: Reason,
        settings: &OutlierDetection,
        now: Instant,
        rng: u64,
    ) -> Option<Event> {
        if let Some(counter) = endpoint.counter(reason) {
            clear(counter);
        }
        let mut detector = self.lock();
        let event = detector.eject(endpoint.identity, reason, settings, now, rng)?;
        if matches!(event.kind, EventKind::Ejected { .. }) {
            self.version.fetch_add(1, Ordering::Release);
        }
        Some(event)
    }

    /// When [`Self::sweep`] is due; `None`: never.
    pub fn next_sweep(&self) -> Option<Instant> {
        self.lock().next_sweep
    }

    /// Returns endpoints whose time is over, and looks at rates. To be called when it is due; earlier calls do nothing.
    pub fn sweep(&self, now: Instant, mut rng: impl FnMut() -> u64) -> Vec<Event> {
        let settings = self.settings.load_full();
        let Some(settings) = settings.as_deref() else { return Vec::new() };
        let mut detector = self.lock();
        if detector.next_sweep.is_none_or(|due| now < due) {
            return Vec::new();
        }
        detector.next_sweep = now.checked_add(settings.interval);
        let mut events = Vec::new();
        let since = self.micros(now);
        detector.return_due(now, since, &mut events);
        for (local, window) in [
            (false, |health: &EndpointHealth| health.external.take()),
            (true, |health: &EndpointHealth| health.local.take()),
        ] as [(bool, fn(&EndpointHealth) -> (f64, u32)); 2]
        {
            detector.judge_rates(local, window, settings, now, &mut rng, &mut events);
        }
        let changed = |event: &Event| matches!(event.kind, EventKind::Ejected { .. } | EventKind::Returned);
        if events.iter().any(changed) {
            self.version.fetch_add(1, Ordering::Release);
        }
        events
    }

    /// Every endpoint's state.
    pub fn reports(&self, now: Instant) -> Vec<EndpointReport> {
        let detector = self.lock();
        let report = |host: &Host| EndpointReport {
            identity: host.health.identity,
            ejected: host.ejection.map(|ejection| (ejection.reason, ejection.until.saturating_duration_since(now))),
            total_ejections: host.total_ejections,
            consecutive_5xx: host.health.consecutive_5xx.load(Ordering::Relaxed),
            consecutive_gateway_failure: host.health.consecutive_gateway.load(Ordering::Relaxed),
            consecutive_local_origin_failure: host.health.consecutive_local.load(Ordering::Relaxed),
        };
        detector.hosts.values().map(report).collect()
    }

    /// Endpoints that are ejected now.
    pub fn ejected(&self) -> u32 {
        self.lock().ejected
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// A panic elsewhere leaves counters that are still true enough to go on with.
    fn lock(&self) -> std::sync::MutexGuard<'_, Detector> {
        self.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of `endpoints` may be ejected at once.
pub fn ejection_cap(endpoints: usize, settings: &OutlierDetection) -> u32 {
    let cap = endpoints as u64 * u64::from(settings.max_ejection_percent.min(100)) / 100;
    let least = u64::from(settings.always_eject_one_endpoint && endpoints > 0);
    cap.max(least).min(u64::from(u32::MAX)) as u32
}

fn enforcing(reason: Reason, settings: &OutlierDetection) -> u32 {
    match reason {
        Reason::Consecutive5xx => settings.enforcing_consecutive_5xx,
        Reason::ConsecutiveGatewayFailure => settings.enforcing_consecutive_gateway_failure,
        Reason::ConsecutiveLocalOriginFailure => settings.enforcing_consecutive_local_origin_failure,
        Reason::SuccessRate => settings.enforcing_success_rate,
        Reason::SuccessRateLocalOrigin => settings.enforcing_local_origin_success_rate,
        Reason::FailurePercentage => settings.enforcing_failure_percentage,
        Reason::FailurePercentageLocalOrigin => settings.enforcing_failure_percentage_local_origin,
    }
}

impl Detector {
    fn eject(
        &mut self,
        identity: u64,
        reason: Reason,
        settings: &OutlierDetection,
        now: Instant,
        rng: u64,
    ) -> Option<Event> {
        let cap = ejection_cap(self.hosts.len(), settings);
        let ejected = self.ejected;
        // Reports of several workers may reach the threshold together, or come after the endpoint left.
        let host = self.hosts.get_mut(&identity).filter(|host| host.ejection.is_none())?;
        let event = |kind| Some(Event { identity, kind });
        if ejected >= cap {
            return event(EventKind::Capped { reason, ejected, cap });
        }
        if rng % 100 >= u64::from(enforcing(reason, settings)) {
            return event(EventKind::NotEnforced { reason });
        }
        // Counted only while it still lengthens the ejection, as in Envoy: a long bout is not paid for for ever.
        if settings.base_ejection_time.saturating_mul(host.times) < settings.max_ejection_time {
            host.times += 1;
        }
        let mut time = settings.base_ejection_time.saturating_mul(host.times).min(settings.max_ejection_time);
        let jitter_us = u64::try_from(settings.max_ejection_time_jitter.as_micros()).unwrap_or(u64::MAX);
        if jitter_us > 0 {
            time += Duration::from_micros((rng / 100) % jitter_us);
        }
        host.total_ejections += 1;
        host.ejection = Some(Ejection { until: now + time, reason });
        host.health.ejected.store(true, Ordering::Relaxed);
        self.ejected += 1;
        event(EventKind::Ejected { reason, time, times: host.times })
    }

    fn return_due(&mut self, now: Instant, since_us: u64, events: &mut Vec<Event>) {
        for (&identity, host) in &mut self.hosts {
            match host.ejection {
                None => host.times = host.times.saturating_sub(1),
                Some(ejection) if ejection.until <= now => {
                    host.ejection = None;
                    host.health.reset();
                    host.health.healthy_since_us.store(since_us, Ordering::Relaxed);
                    host.health.ejected.store(false, Ordering::Relaxed);
                    self.ejected = self.ejected.saturating_sub(1);
                    events.push(Event { identity, kind: EventKind::Returned });
                }
                Some(_) => {}
            }
        }
    }

    fn judge_rates(
        &mut self,
        local: bool,
        window: fn(&EndpointHealth) -> (f64, u32),
        settings: &OutlierDetection,
        now: Instant,
        rng: &mut impl FnMut() -> u64,
        events: &mut Vec<Event>,
    ) {
        let (by_rate, by_percentage) = if local {
            (Reason::SuccessRateLocalOrigin, Reason::FailurePercentageLocalOrigin)
        } else {
            (Reason::SuccessRate, Reason::FailurePercentage)
        };
        let mut rates: Vec<(u64, f64, u32)> = self
            .hosts
            .iter()
            .map(|(&identity, host)| (host.ejection.is_some(), identity, window(&host.health)))
            .filter(|(ejected, _, (_, volume))| !ejected && *volume > 0)
            .map(|(_, identity, (rate, volume))| (identity, rate, volume))
            .collect();
        // Hash maps have no order; who is judged first must not be chance where the cap is near: the worst is.
        rates.sort_by(|left, right| left.1.total_cmp(&right.1).then(left.0.cmp(&right.0)));
        if enforcing(by_rate, settings) > 0 {
            let valid: Vec<_> =
                rates.iter().filter(|(_, _, volume)| *volume >= settings.success_rate_request_volume).collect();
            if !valid.is_empty() && valid.len() as u64 >= u64::from(settings.success_rate_minimum_hosts) {
                let count = valid.len() as f64;
                let mean = valid.iter().map(|(_, rate, _)| rate).sum::<f64>() / count;
                let variance = valid.iter().map(|(_, rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
                let threshold = mean - f64::from(settings.success_rate_stdev_factor) / 1000.0 * variance.sqrt();
                for (identity, _, _) in valid.into_iter().filter(|(_, rate, _)| *rate < threshold) {
                    events.extend(self.eject(*identity, by_rate, settings, now, rng()));
                }
            }
        }
        if enforcing(by_percentage, settings) > 0 {
            let valid: Vec<_> =
                rates.iter().filter(|(_, _, volume)| *volume >= settings.failure_percentage_request_volume).collect();
            if !valid.is_empty() && valid.len() as u64 >= u64::from(settings.failure_percentage_minimum_hosts) {
                let threshold = f64::from(settings.failure_percentage_threshold);
                for (identity, _, _) in valid.into_iter().filter(|(_, rate, _)| 100.0 - *rate >= threshold) {
                    events.extend(self.eject(*identity, by_percentage, settings, now, rng()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    use super::*;

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            enforcing_success_rate: 0,
            enforcing_local_origin_success_rate: 0,
            max_ejection_percent: 50,
            ..OutlierDetection::default()
        }
    }

    fn cluster(settings: &OutlierDetection, endpoints: u64, now: Instant) -> ClusterHealth {
        let cluster = ClusterHealth::new(now);
        cluster.take_up(Some(settings), 0..endpoints, now);
        cluster
    }

    fn fail(cluster: &ClusterHealth, identity: u64, times: u32, outcome: Outcome, now: Instant) -> Vec<EventKind> {
        let endpoint = cluster.endpoint(identity).expect("there");
        (0..times).filter_map(|_| cluster.report(&endpoint, outcome, now, 0)).map(|event| event.kind).collect()
    }

    #[test]
    fn consecutive_failures_eject_and_a_success_between_starts_anew() {
        let now = Instant::now();
        let cluster = cluster(&settings(), 4, now);
        let before = cluster.version();
        assert_eq!(fail(&cluster, 1, 2, Outcome::Status(500), now), []);
        assert_eq!(fail(&cluster, 1, 1, Outcome::Status(200), now), []);
        assert_eq!(fail(&cluster, 1, 2, Outcome::Status(500), now), []);
        let events = fail(&cluster, 1, 1, Outcome::ConnectFailed, now);
        let time = Duration::from_secs(30);
        assert_eq!(events, [EventKind::Ejected { reason: Reason::Consecutive5xx, time, times: 1 }]);
        assert!(cluster.endpoint(1).expect("there").is_ejected() && cluster.version() > before);
        assert_eq!(fail(&cluster, 1, 9, Outcome::Status(500), now), [], "ejected already");
    }

    #[test]
    fn ejections_grow_longer_up_to_the_maximum_and_are_forgiven_sweep_by_sweep() {
        let mut now = Instant::now();
        let settings = OutlierDetection { max_ejection_time: Duration::from_secs(70), ..settings() };
        let cluster = cluster(&settings, 4, now);
        for (seconds, count) in [(30, 1), (60, 2), (70, 3), (70, 3)] {
            let events = fail(&cluster, 0, 3, Outcome::Status(500), now);
            let time = Duration::from_secs(seconds);
            assert_eq!(events, [EventKind::Ejected { reason: Reason::Consecutive5xx, time, times: count }]);
            assert!(cluster.sweep(now + time - Duration::from_millis(1), || 0).is_empty());
            // A sweep comes only once in an interval.
            now += time + settings.interval;
            assert_eq!(cluster.sweep(now, || 0), [Event { identity: 0, kind: EventKind::Returned }]);
        }
        for _ in 0..3 {
            now += settings.interval;
            assert!(cluster.sweep(now, || 0).is_empty());
        }
        let events = fail(&cluster, 0, 3, Outcome::Status(500), now);
        assert!(matches!(events.as_slice(), [EventKind::Ejected { times: 1, .. }]), "{events:?}");
    }

    #[test]
    fn gateway_errors_count_by_themselves() {
        let now = Instant::now();
        let settings = OutlierDetection {
            consecutive_5xx: 100,
            consecutive_gateway_failure: 2,
            enforcing_consecutive_gateway_failure: 100,
            ..settings()
        };
        let cluster = cluster(&settings, 4, now);
        assert_eq!(fail(&cluster, 0, 1, Outcome::Status(503), now), []);
        assert_eq!(fail(&cluster, 0, 1, Outcome::Status(500), now), [], "not a gateway's");
        let events = fail(&cluster, 0, 2, Outcome::Timeout, now);
        assert!(matches!(events.as_slice(), [EventKind::Ejected { reason: Reason::ConsecutiveGatewayFailure, .. }]));
    }

    #[test]
    fn local_origin_errors_are_split_off_where_asked() {
        let now = Instant::now();
        let settings = OutlierDetection {
            split_external_local_origin_errors: true,
            consecutive_local_origin_failure: 2,
            ..settings()
        };
        let cluster = cluster(&settings, 4, now);
        assert_eq!(fail(&cluster, 0, 2, Outcome::Status(500), now), []);
        let events = fail(&cluster, 0, 2, Outcome::ConnectFailed, now);
        let reason = Reason::ConsecutiveLocalOriginFailure;
        assert!(matches!(events.as_slice(), [EventKind::Ejected { reason: found, .. }] if *found == reason));
    }

    #[test]
    fn listed_statuses_take_the_place_of_5xx() {
        let now = Instant::now();
        let settings = OutlierDetection { error_statuses: [(429, 429)].into(), ..settings() };
        let cluster = cluster(&settings, 4, now);
        assert_eq!(fail(&cluster, 0, 9, Outcome::Status(500), now), []);
        assert_eq!(fail(&cluster, 0, 3, Outcome::Status(429), now).len(), 1);
    }

    #[test]
    fn success_rates_eject_the_outlier_of_many() {
        let now = Instant::now();
        let settings = OutlierDetection {
            enforcing_success_rate: 100,
            enforcing_consecutive_5xx: 0,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            ..settings()
        };
        let cluster = cluster(&settings, 10, now);
        for identity in 0..10 {
            let endpoint = cluster.endpoint(identity).expect("there");
            for request in 0..100 {
                let failed = identity == 7 && request % 2 == 0;
                let outcome = Outcome::Status(if failed { 500 } else { 200 });
                assert_eq!(cluster.report(&endpoint, outcome, now, 0), None);
            }
        }
        let events = cluster.sweep(now + settings.interval, || 0);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].identity, 7);
        assert!(matches!(events[0].kind, EventKind::Ejected { reason: Reason::SuccessRate, .. }));
    }

    #[test]
    fn state_outlives_a_change_that_keeps_the_endpoint() {
        let now = Instant::now();
        let cluster = cluster(&settings(), 4, now);
        fail(&cluster, 2, 3, Outcome::Status(500), now);
        let later = now + Duration::from_secs(1);
        cluster.take_up(Some(&settings()), [2, 9], later);
        let kept = cluster.endpoint(2).expect("kept");
        assert!(kept.is_ejected() && cluster.ejected() == 1);
        assert_eq!(cluster.healthy_since(&kept), None);
        assert_eq!(cluster.healthy_since(&cluster.endpoint(9).expect("new")), Some(later));
        assert!(cluster.endpoint(0).is_none());
        cluster.take_up(None, [2, 9], later);
        assert!(!kept.is_ejected() && cluster.ejected() == 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_cap_is_never_passed(
            endpoints in 1_u64..40,
            percent in 0_u32..=100,
            failing in proptest::collection::vec((0_u64..40, 0_u64..100), 1..200),
        ) {
            let start = Instant::now();
            let settings = OutlierDetection { max_ejection_percent: percent, consecutive_5xx: 1, ..settings() };
            let cluster = cluster(&settings, endpoints, start);
            let mut now = start;
            for (identity, wait_s) in failing {
                now += Duration::from_secs(wait_s);
                cluster.sweep(now, || 0);
                if let Some(endpoint) = cluster.endpoint(identity) {
                    cluster.report(&endpoint, Outcome::Status(500), now, 0);
                }
                let ejected = cluster.reports(now).iter().filter(|report| report.ejected.is_some()).count() as u64;
                prop_assert!(ejected * 100 <= endpoints * u64::from(percent), "{ejected} of {endpoints}");
                prop_assert!(ejected == u64::from(cluster.ejected()));
            }
        }
    }
}
