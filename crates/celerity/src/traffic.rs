//! The gentle traffic of `celerity up`: open loop, Poisson arrivals, seeded.
//!
//! Open loop means that a request is started when its time has come, whether or not earlier ones have been answered,
//! and that its latency counts from that intended time. A closed loop would wait for a stalled mesh and then report
//! that nothing was slow.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use celerity_telemetry::LEDGER_REQUEST_HEADER;

use crate::rng::Rng;
use crate::sample::http::{Client, Request, Response};
use crate::stats::{Sample, Stats, parse_server_timing};
use crate::timer::Timer;

/// What to send, where to and how often.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The outbound side of the order-service's sidecar.
    pub(crate) entry: SocketAddr,
    /// Requests started in a second; 0 sends nothing.
    pub(crate) per_second: f64,
    pub(crate) seed: u64,
}

/// More requests than this at a time are not started but counted as failed: a mesh that answers nothing must not
/// fill the memory.
const IN_FLIGHT_MAX: u64 = 1024;
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Different users, so that a hash on `x-user-id` has something to spread.
const CALLERS: u64 = 1000;

/// Starts requests until the future is dropped; those in flight go on on the current `LocalSet`.
pub(crate) async fn drive(plan: Plan, timer: Timer, stats: Rc<RefCell<Stats>>) {
    if plan.per_second <= 0.0 {
        return std::future::pending().await;
    }
    let client = Rc::new(Client::new(plan.entry));
    let mut rng = Rng::new(plan.seed);
    let mut intended = Instant::now();
    loop {
        intended += rng.arrival_gap(plan.per_second);
        timer.sleep_until(intended).await;
        let (host, request) = next_request(&mut rng);
        let full = {
            let mut stats = stats.borrow_mut();
            stats.started += 1;
            stats.in_flight() > IN_FLIGHT_MAX
        };
        if full {
            finish(&stats, intended, Err("too many in flight".into()));
            continue;
        }
        let (client, stats) = (Rc::clone(&client), Rc::clone(&stats));
        tokio::task::spawn_local(async move {
            let sent = tokio::time::timeout(REQUEST_TIMEOUT, client.send(host, &request)).await;
            let outcome = match sent {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(error)) => Err(error.kind().to_string()),
                Err(_) => Err(format!("no answer in {} s", REQUEST_TIMEOUT.as_secs())),
            };
            finish(&stats, intended, outcome);
        });
    }
}

/// Mostly single users, some pages of them, some orders: an order is two requests through the mesh.
fn next_request(rng: &mut Rng) -> (&'static str, Request) {
    let id = rng.below(CALLERS) + 1;
    let (host, target) = match rng.below(20) {
        0..12 => ("user-service", format!("/api/users/{id}")),
        12..15 => ("user-service", "/api/users".to_owned()),
        _ => ("order-service", format!("/api/orders/{id}")),
    };
    let headers = vec![
        ("x-user-id".to_owned(), id.to_string()),
        (LEDGER_REQUEST_HEADER.to_owned(), "1".to_owned()),
        ("user-agent".to_owned(), "celerity-up".to_owned()),
    ];
    (host, Request { method: "GET".into(), target, headers, body: Vec::new() })
}

fn finish(stats: &RefCell<Stats>, intended: Instant, outcome: Result<Response, String>) {
    let ended = Instant::now();
    let latency_us = u32::try_from(ended.duration_since(intended).as_micros()).unwrap_or(u32::MAX);
    let mut sample = Sample { ended, ok: false, latency_us, parts_us: None };
    let mut stats = stats.borrow_mut();
    match outcome {
        Err(reason) => stats.end(sample, Err(&reason)),
        Ok(response) => {
            sample.parts_us = response.header("server-timing").and_then(parse_server_timing);
            sample.ok = response.status < 500;
            if sample.ok {
                stats.end(sample, Ok(response.header("x-served-by")));
            } else {
                stats.end(sample, Err(&response.status.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::http::{Handler, serve};

    struct Slow(Timer);

    impl Handler for Slow {
        async fn handle(&self, _: Request) -> Response {
            self.0.sleep_until(Instant::now() + Duration::from_millis(150)).await;
            Response::json(200, &serde_json::json!({}))
                .with("server-timing", "service;dur=150")
                .with("x-served-by", "me")
        }
    }

    /// A server that needs 150 ms for each request is not asked less often for that.
    #[tokio::test]
    async fn a_slow_server_does_not_slow_the_arrivals() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let timer = Timer::start().expect("a timer");
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
                let entry = listener.local_addr().expect("address");
                let handler = Rc::new(Slow(timer.clone()));
                tokio::task::spawn_local(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let handler = Rc::clone(&handler);
                        tokio::task::spawn_local(async move { serve(stream, &*handler).await });
                    }
                });
                let stats = Rc::new(RefCell::new(Stats::default()));
                let plan = Plan { entry, per_second: 400.0, seed: 11 };
                let driven = drive(plan, timer, Rc::clone(&stats));
                let _ = tokio::time::timeout(Duration::from_millis(600), driven).await;
                let stats = stats.borrow();
                // One connection in a closed loop would have made 4; the open loop makes about 240.
                assert!(stats.started > 60, "{}", stats.started);
                assert!(stats.whole().quantile_us(0.0) >= Some(150_000));
                assert_eq!(stats.served_by.get("me"), Some(&stats.answered));
            })
            .await;
    }
}
