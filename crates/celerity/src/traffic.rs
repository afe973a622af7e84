//! The gentle traffic of `celerity up`, driven by the measuring engine: open loop, Poisson arrivals, seeded.
//!
//! Each request is shown to the live view as it ends, with the ledger that the mesh reported for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use celerity_load::plan::{self, Arrivals, Load, Observer, Open, Segment, WhenFull};
use celerity_load::record::Answer;
use celerity_load::source::{Request, Source};
use celerity_load::summary::ErrorKind;
use celerity_load::target::Origin;
use celerity_telemetry::LEDGER_REQUEST_HEADER;

use crate::rng::Rng;
use crate::stats::{Sample, Stats};

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
const IN_FLIGHT_MAX: u32 = 1024;
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Different users, so that a hash on `x-user-id` has something to spread.
const CALLERS: u64 = 1000;
/// The traffic is a list of so many requests that is gone through again and again: some 500 KB, and longer than any
/// cache is warm.
const REQUESTS: usize = 4000;
/// The session says when it ends; a year is never reached.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
const HOSTS: [&str; 2] = ["user-service", "order-service"];

/// The statistics that the view draws, filled by the engine's thread.
pub(crate) type Shared = Arc<Mutex<Stats>>;

/// The engine's plan for it. The services' names are asked of the sidecar, not of a resolver.
pub(crate) fn engine_plan(plan: &Plan, stats: &Shared) -> plan::Plan {
    let mut rng = Rng::new(plan.seed);
    let requests: Vec<Request> = (0..REQUESTS).map(|_| next_request(&mut rng)).collect();
    let segments = vec![Segment::hold(plan.per_second, FOR_EVER)];
    let open = Open { segments, arrivals: Arrivals::Poisson, when_full: WhenFull::Drop, count: None };
    let origin = |host: &str| Origin { tls: false, host: host.to_owned(), port: 80, addresses: vec![plan.entry] };
    let mut engine = plan::Plan::new(origin(HOSTS[0]), Source::Static(requests.into()), Load::Open(open));
    engine.origins = HOSTS.map(origin).to_vec();
    engine.connections = IN_FLIGHT_MAX;
    engine.timeout = REQUEST_TIMEOUT;
    engine.seed = plan.seed;
    engine.capture.ledger = true;
    engine.capture.tally_header = Some("x-served-by".to_owned());
    engine.capture.observer = Some(Arc::new(Watch(Arc::clone(stats))));
    engine
}

/// Mostly single users, some pages of them, some orders: an order is two requests through the mesh.
fn next_request(rng: &mut Rng) -> Request {
    let id = rng.below(CALLERS) + 1;
    let (origin, path) = match rng.below(20) {
        0..12 => (0, format!("/api/users/{id}")),
        12..15 => (0, "/api/users".to_owned()),
        _ => (1, format!("/api/orders/{id}")),
    };
    let headers = vec![
        ("x-user-id".to_owned(), id.to_string()),
        (LEDGER_REQUEST_HEADER.to_owned(), "1".to_owned()),
        ("user-agent".to_owned(), "celerity-up".to_owned()),
    ];
    Request { origin, headers, ..Request::get(path) }
}

#[derive(Debug)]
struct Watch(Shared);

impl Watch {
    fn end(&self, response_ns: u64, parts_us: Option<[u32; 7]>, outcome: Result<Option<&str>, &str>) {
        let latency_us = u32::try_from(response_ns / 1000).unwrap_or(u32::MAX);
        let sample = Sample { ended: Instant::now(), ok: outcome.is_ok(), latency_us, parts_us };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end(sample, outcome);
    }
}

impl Observer for Watch {
    fn intended(&self, _intended_ns: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).started += 1;
    }

    /// An error of the mesh is a failure; a user who does not exist is an answer.
    fn answered(&self, answer: &Answer, tally: &str) {
        let response_ns = answer.ended_ns.saturating_sub(answer.intended_ns);
        if answer.status < 500 {
            self.end(response_ns, answer.ledger_us, Ok((!tally.is_empty()).then_some(tally)));
        } else {
            self.end(response_ns, answer.ledger_us, Err(&answer.status.to_string()));
        }
    }

    fn failed(&self, kind: ErrorKind, response_ns: u64) {
        self.end(response_ns, None, Err(kind.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use celerity_load::Control;
    use celerity_load::control::Stop;

    use super::*;
    use crate::sample::http::{Handler, Response, serve};
    use crate::timer::Timer;

    struct Slow(Timer);

    impl Handler for Slow {
        async fn handle(&self, _: crate::sample::http::Request) -> Response {
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
                let stats = Shared::default();
                let plan = engine_plan(&Plan { entry, per_second: 400.0, seed: 11 }, &stats);
                let control = Control::new();
                let running = control.clone();
                let engine = tokio::task::spawn_blocking(move || celerity_load::run(&plan, &running));
                tokio::time::sleep(Duration::from_millis(600)).await;
                control.stop(Stop::Gently);
                engine.await.expect("a thread").expect("a run");
                let stats = stats.lock().expect("statistics");
                // One connection in a closed loop would have made 4; the open loop makes about 240.
                assert!(stats.started > 60, "{}", stats.started);
                assert!(stats.whole().quantile_us(0.0) >= Some(150_000));
                assert_eq!(stats.served_by.get("me"), Some(&stats.answered));
                assert_eq!(stats.in_flight(), 0);
            })
            .await;
    }
}
