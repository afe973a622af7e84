//! A thousand configurations, one after the other, under requests; and endpoints that leave.

use super::common::{Sidecar, eventually, service, virtual_service};
use celerity_testkit::Upstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SWAPS: usize = 1000;

#[test]
fn a_thousand_swaps_under_requests_lose_none() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    // Of every two configurations next to each other the endpoints, the routes and the headers differ.
    let version = |nth: usize| {
        let endpoints = match nth % 3 {
            0 => vec![one.address()],
            1 => vec![one.address(), two.address()],
            _ => vec![two.address()],
        };
        let route = format!(
            "  - headers: {{response: {{set: {{x-version: 'v{nth}'}}}}}}\n    retries: {{attempts: 0}}\n    route: [{{destination: {{host: users}}}}]\n"
        );
        service("users", &endpoints) + &virtual_service("users", &route)
    };
    let sidecar = Sidecar::start(&version(0));
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|nth| {
            let (done, answered) = (done.clone(), answered.clone());
            let mut client = sidecar.client();
            std::thread::spawn(move || {
                let target = if nth % 2 == 0 { "/bytes/2000" } else { "/chunked/50" };
                while !done.load(Ordering::Relaxed) {
                    let answer = client.get("users", target).expect("no connection is lost");
                    assert_eq!(
                        answer.status,
                        200,
                        "after {} answers: {}",
                        answered.load(Ordering::Relaxed),
                        answer.text()
                    );
                    assert!(answer.header("x-version").is_some());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for nth in 1..=SWAPS {
        let before = answered.load(Ordering::Relaxed);
        sidecar.apply(&version(nth));
        // Not all in a row: requests are to meet as many of them as there are.
        if nth % 20 == 0 {
            eventually("requests go on", || answered.load(Ordering::Relaxed) > before);
        }
    }
    let last = format!("v{SWAPS}");
    let mut client = sidecar.client();
    eventually("the last one is in force", || {
        client.get("users", "/").expect("answered").header("x-version") == Some(&last)
    });
    done.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("every request was answered"));
    assert!(one.completed() > 0 && two.completed() > 0);
    assert_eq!(sidecar.handle().control().configured().version, SWAPS as u64 + 1);
}

#[test]
fn an_endpoint_that_leaves_finishes_its_requests_and_closes_its_idle_connections() {
    let (old, new) = (Upstream::start("old"), Upstream::start("new"));
    let sidecar = Sidecar::start(&service("users", &[old.address()]));
    let mut idle = sidecar.client();
    idle.get("users", "/").expect("answered");
    let mut busy = sidecar.client();
    busy.send(b"GET /delay/500 HTTP/1.1\r\nHost: users\r\n\r\n").expect("sent");
    eventually("the request is upstream", || old.requests() == 2);
    sidecar.apply(&service("users", &[new.address()]));
    // The client's connection stays, the next request goes elsewhere, and the one under way is answered.
    assert_eq!(idle.get("users", "/echo").expect("answered").json()["instance"], "new");
    let answer = busy.read_response(false).expect("answered");
    assert_eq!((answer.status, answer.text().as_str()), (200, "old"));
    eventually("no connection to the old endpoint is left", || old.open() == 0);
    assert_eq!(busy.get("users", "/echo").expect("answered").json()["instance"], "new");
}
