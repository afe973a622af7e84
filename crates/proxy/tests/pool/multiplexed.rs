//! HTTP/2 to the upstreams.

use super::clients::{rule, run};
use super::common::{Sidecar, eventually, service};
use super::upstream::{self, Counts};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

struct Case<'a> {
    pool: &'a str,
    workers: usize,
    endpoints: usize,
    delay_ms: u64,
    clients: usize,
    requests_each: usize,
}

impl Case<'_> {
    /// Every request must get its 200 within the client's patience.
    fn run(&self) -> (Sidecar, Arc<Counts>) {
        self.run_with(Arc::default())
    }

    fn run_with(&self, counts: Arc<Counts>) -> (Sidecar, Arc<Counts>) {
        let endpoints: Vec<_> =
            (0..self.endpoints).map(|_| upstream::start(Duration::from_millis(self.delay_ms), &counts)).collect();
        let sidecar = Sidecar::start_with(&(service("users", &endpoints) + &rule(self.pool)), self.workers);
        run(&sidecar, self.clients, self.requests_each);
        (sidecar, counts)
    }
}

#[test]
fn nobody_starves_while_others_hold_the_limit() {
    const ONE: &str = "{tcp: {maxConnections: 1}, http: {h2UpgradePolicy: UPGRADE}}";
    const TWO: &str = "{tcp: {maxConnections: 2}, http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 3}}";
    for (pool, limit, workers, endpoints, delay_ms, clients, requests_each) in [
        // Idle in one worker, wanted in the others.
        (ONE, 1, 4, 1, 100, 8, 1),
        // Never idle.
        (ONE, 1, 4, 1, 5, 20, 20),
        (TWO, 2, 4, 1, 5, 20, 20),
        // One worker, whose endpoints compete.
        (ONE, 1, 1, 2, 100, 4, 1),
        (ONE, 1, 1, 3, 5, 9, 20),
        (ONE, 1, 3, 3, 5, 12, 20),
    ] {
        let (sidecar, counts) = Case { pool, workers, endpoints, delay_ms, clients, requests_each }.run();
        let open_max = counts.open_max.load(Ordering::SeqCst);
        // Each upstream may see the next connection before the end of the last, which is on its way.
        assert!(open_max <= limit * (1 + endpoints as u32), "{open_max} connections at once: {pool}");
        drop(sidecar);
    }
}

#[test]
fn a_connections_own_limit_of_requests_costs_no_request_and_no_time() {
    for (pool, limit, workers) in [
        ("{http: {h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 1}}", 1, 2),
        ("{http: {h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 5}}", 5, 4),
        // A spent connection gives its place up with its last stream.
        ("{tcp: {maxConnections: 1}, http: {h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 5}}", 5, 1),
    ] {
        let began = Instant::now();
        let (_, counts) = Case { pool, workers, endpoints: 1, delay_ms: 5, clients: 10, requests_each: 20 }.run();
        assert!(counts.accepted.load(Ordering::SeqCst) >= 200 / limit, "{pool}");
        assert!(began.elapsed() < Duration::from_secs(20), "{pool}: {:?}", began.elapsed());
    }
}

#[test]
fn a_limit_that_is_lowered_acts_on_connections_that_are_open() {
    const WIDE: &str = "{http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1}}";
    const NARROW: &str = "{tcp: {maxConnections: 2}, http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1}}";
    for workers in [1, 2] {
        let counts = Arc::new(Counts::default());
        let endpoints = [upstream::start(Duration::from_millis(50), &counts)];
        let users = service("users", &endpoints);
        let sidecar = Sidecar::start_with(&(users.clone() + &rule(WIDE)), workers);
        run(&sidecar, 8, 4);
        let open = || counts.open.load(Ordering::SeqCst);
        assert!(open() > 2, "without a limit there are more");
        let accepted = counts.accepted.load(Ordering::SeqCst);
        // Idle ones, and then busy ones.
        sidecar.apply(&(users.clone() + &rule(NARROW)));
        eventually("what is beyond the limit is closed", || open() <= 2);
        assert_eq!(counts.accepted.load(Ordering::SeqCst), accepted, "and no more than that");
        assert!(workers > 1 || open() == 2);
        run(&sidecar, 8, 4);
        sidecar.apply(&(users.clone() + &rule(WIDE)));
        std::thread::scope(|scope| {
            scope.spawn(|| run(&sidecar, 8, 20));
            eventually("there are more again", || open() > 2);
            sidecar.apply(&(users + &rule(NARROW)));
            eventually("what is beyond the limit is closed, though it was in use", || open() <= 2);
        });
    }
}

#[test]
fn a_server_that_takes_few_streams_costs_no_request() {
    for (limit, workers) in [(1, 2), (3, 2), (1, 1)] {
        let pool = format!("{{tcp: {{maxConnections: {limit}}}, http: {{h2UpgradePolicy: UPGRADE}}}}");
        let counts = Arc::new(Counts { streams_max: 2.into(), ..Counts::default() });
        let case = Case { pool: &pool, workers, endpoints: 1, delay_ms: 20, clients: 16, requests_each: 10 };
        case.run_with(counts);
    }
}

#[test]
fn an_idle_connection_ends_with_its_duration() {
    let pool = "{tcp: {maxConnectionDuration: 1s}, http: {h2UpgradePolicy: UPGRADE}}";
    let (_sidecar, counts) = Case { pool, workers: 1, endpoints: 1, delay_ms: 1, clients: 1, requests_each: 1 }.run();
    eventually("the connection is closed", || counts.open.load(Ordering::SeqCst) == 0);
}
