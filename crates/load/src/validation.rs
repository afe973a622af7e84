//! Schedule, dispatcher and recorder against servers of known mathematics, on simulated time: what the report says must
//! be what queueing theory says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use celerity_telemetry::Rng;

use crate::dispatch::{Dispatch, Step};
use crate::plan::{Arrivals, Closed, Load, Open, Segment, WhenFull};
use crate::record::{Answer, Recorder};
use crate::schedule::{exponential, unit};
use crate::summary::{ErrorKind, Summary};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// How the simulated server works.
struct Server {
    /// Serves one request at a time, or each as soon as it comes.
    one_at_a_time: bool,
    /// Starts nothing from the first moment to the second.
    stall: (u64, u64),
}

const QUEUE: Server = Server { one_at_a_time: true, stall: (0, 0) };

/// Runs the engine's own parts against the server; the connections are as many as `slots`.
fn run(load: &Load, slots: u32, server: &Server, mut service_ns: impl FnMut(&mut Rng) -> u64) -> Summary {
    let mut rng = Rng::seeded(99);
    let mut dispatch = Dispatch::new(load, 0, 1, 7, slots, 1, 0);
    let mut record = Recorder::new(0, false, 1, Arc::default());
    let mut under_way: BinaryHeap<Reverse<(u64, u32, u64, u64)>> = BinaryHeap::new();
    let (mut now, mut free_at) = (0, 0);
    loop {
        let wait = match dispatch.step(now, 0) {
            Step::Start { slot, intended_ns, lag_ns, .. } => {
                record.intended(intended_ns, 1);
                record.started(intended_ns, lag_ns);
                record.sent(intended_ns, now, 100, 1);
                let mut begin = if server.one_at_a_time { now.max(free_at) } else { now };
                if (server.stall.0..server.stall.1).contains(&begin) {
                    begin = server.stall.1;
                }
                free_at = begin + service_ns(&mut rng);
                under_way.push(Reverse((free_at, slot, intended_ns, now)));
                continue;
            }
            Step::Drop { intended_ns } => {
                record.intended(intended_ns, 1);
                record.failed(intended_ns, now, ErrorKind::Dropped, false, None);
                continue;
            }
            Step::Wait(at) => at,
            Step::Done => u64::MAX,
        };
        let ends = under_way.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
        now = wait.min(ends);
        if now == u64::MAX {
            break;
        }
        while let Some(&Reverse((ended_ns, slot, intended_ns, sent_ns))) =
            under_way.peek().filter(|Reverse((at, ..))| *at <= now)
        {
            under_way.pop();
            let (status, success) = (200, true);
            record.answered(&Answer {
                intended_ns,
                sent_ns,
                ended_ns,
                status,
                grpc_status: None,
                success,
                bytes: 1,
                body_bytes: 0,
                ledger_us: None,
            });
            dispatch.release(slot, now, Some(0), intended_ns);
        }
    }
    record.finish(dispatch.end_ns().unwrap_or(now))
}

fn open(per_second: f64, seconds: u64, arrivals: Arrivals) -> Load {
    let segments = vec![Segment::hold(per_second, Duration::from_secs(seconds))];
    Load::Open(Open { segments, arrivals, when_full: WhenFull::Queue, count: None })
}

fn assert_near(what: &str, told: f64, known: f64, share: f64) {
    assert!((told / known - 1.0).abs() < share, "{what}: told {told}, known {known}");
}

/// M/M/1 at 70 % use: response times are exponential with mean 1 / (mu - lambda).
#[test]
fn exponential_service_gives_the_quantiles_of_mm1() {
    let s = run(&open(700.0, 900, Arrivals::Poisson), 10_000, &QUEUE, |rng| (exponential(rng) * 1e6) as u64);
    let mean_ns = 1e9 / 300.0;
    assert_near("mean", s.response.mean_ns(), mean_ns, 0.03);
    for q in [0.5, 0.9, 0.99, 0.999] {
        assert_near(
            &format!("p{}", q * 100.0),
            s.response.quantile_ns(q) as f64,
            -(1.0_f64 - q).ln() * mean_ns,
            if q > 0.99 { 0.10 } else { 0.05 },
        );
    }
    assert_eq!(s.intended, s.succeeded);
}

/// M/D/1 at 70 % use: Erlang's formula (1909) for the wait, plus the constant service.
#[test]
fn constant_service_gives_the_quantiles_of_md1() {
    let s = run(&open(700.0, 900, Arrivals::Poisson), 10_000, &QUEUE, |_| MS);
    let rho: f64 = 0.7;
    assert_near("mean", s.response.mean_ns(), (1.0 + rho / (2.0 * (1.0 - rho))) * 1e6, 0.02);
    // P(W <= t), t in service times.
    let wait_cdf = |t: f64| {
        let term = |k: i32| {
            let x = rho * (t - f64::from(k));
            let factorial: f64 = (1..=k).map(f64::from).product();
            (-x).powi(k) / factorial * x.exp()
        };
        (1.0 - rho) * (0..=t as i32).map(term).sum::<f64>()
    };
    for q in [0.5, 0.9, 0.99] {
        let (mut low, mut high) = (0.0, 20.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if wait_cdf(middle) < q { low = middle } else { high = middle }
        }
        assert_near(&format!("p{}", q * 100.0), s.response.quantile_ns(q) as f64, (1.0 + high) * 1e6, 0.04);
    }
}

/// Nine in ten take 1 ms, one 10 ms. Without a queue the quantiles are those two; with one the mean is that of Pollaczek
/// and Khinchine.
#[test]
fn bimodal_service_keeps_its_two_modes_and_queues_as_mg1() {
    let service = |rng: &mut Rng| if unit(rng) <= 0.9 { MS } else { 10 * MS };
    let alone =
        run(&open(300.0, 600, Arrivals::Poisson), 10_000, &Server { one_at_a_time: false, stall: (0, 0) }, service);
    assert_near("p50", alone.response.quantile_ns(0.5) as f64, 1e6, 0.002);
    assert_near("p89", alone.response.quantile_ns(0.89) as f64, 1e6, 0.002);
    assert_near("p91", alone.response.quantile_ns(0.91) as f64, 1e7, 0.002);
    let (lambda, mean_s, square) = (300.0, 1.9e-3, 0.9 * 1e-6 + 0.1 * 1e-4);
    let queued = run(&open(lambda, 1800, Arrivals::Poisson), 10_000, &QUEUE, service);
    let wait_s = lambda * square / (2.0 * (1.0 - lambda * mean_s));
    assert_near("mean", queued.response.mean_ns(), (mean_s + wait_s) * 1e9, 0.04);
}

/// One second in which nothing is served, in a minute. Of 30,000 requests 1,000 wait, from 1 s down to nothing: half a
/// second of service is left undone for each second, so the backlog is gone after two. The closed loop sends one request
/// into the stall, whatever its length.
#[test]
fn a_stall_of_one_second_is_in_the_open_loop_and_not_in_the_closed() {
    let stalling = Server { one_at_a_time: true, stall: (30 * S, 31 * S) };
    let open = run(&open(500.0, 60, Arrivals::Constant), 10_000, &stalling, |_| MS);
    assert_near("p90", open.response.quantile_ns(0.90) as f64, 1e6, 0.01);
    assert_near("p99", open.response.quantile_ns(0.99) as f64, 0.701e9, 0.02);
    assert_near("p99.9", open.response.quantile_ns(0.999) as f64, 0.971e9, 0.02);
    let load = Load::Closed(Closed { duration: Some(Duration::from_secs(60)), count: None, slot_per_second: None });
    let closed = run(&load, 1, &stalling, |_| MS);
    assert!(closed.succeeded > 50_000);
    assert_near("the closed loop's p99.9", closed.response.quantile_ns(0.999) as f64, 1e6, 0.002);
    assert!(closed.response.max_ns() > 990 * MS);
}

/// With few connections the queue is the sender's own: it counts as response time, and not as service time or lag.
#[test]
fn a_wait_for_a_connection_is_response_time_and_not_lag() {
    let s = run(&open(700.0, 300, Arrivals::Poisson), 1, &QUEUE, |_| MS);
    assert_near("mean response", s.response.mean_ns(), 2.1667e6, 0.03);
    assert_near("mean service", s.service.mean_ns(), 1e6, 0.002);
    assert_eq!(s.lag.max_ns(), 0);
}
