//! A thousand configurations, one after the other, under requests; endpoints that leave, and listeners that come and go.

use super::common::{Sidecar, envoy_filter, eventually, service, virtual_service};
use celerity_testkit::{Client, Upstream};
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

#[test]
fn what_a_filter_held_goes_to_the_endpoints_of_now() {
    let new = Upstream::start("new");
    let old = Upstream::start("old");
    let delayed = "  - {fault: {delay: {fixedDelay: 600ms, percentage: {value: 100}}}, retries: {attempts: 0}, route: [{destination: {host: users}}]}\n";
    let routes = virtual_service("users", delayed);
    let sidecar = Sidecar::start(&(service("users", &[old.address()]) + &routes));
    let mut clients: Vec<_> = (0..8).map(|_| sidecar.client()).collect();
    for client in &mut clients {
        client.send(b"GET /echo HTTP/1.1\r\nHost: users\r\n\r\n").expect("sent");
    }
    let held = |sidecar: &Sidecar| sidecar.handle().control().shared.active_faults.load(Ordering::Relaxed);
    eventually("all are held", || held(&sidecar) == 8);
    sidecar.apply(&(service("users", &[new.address()]) + &routes));
    drop(old);
    for client in &mut clients {
        let answer = client.read_response(false).expect("answered");
        assert_eq!((answer.status, answer.json()["instance"].as_str()), (200, Some("new")));
    }
}

/// A listener beside the others, which answers 222.
fn extra(port: u16) -> String {
    let types = "'@type': type.googleapis.com/envoy.extensions.filters";
    let router = format!("{{name: envoy.filters.http.router, typed_config: {{{types}.http.router.v3.Router}}}}");
    let routes =
        "virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 222}}]}]";
    let manager = format!(
        "{{name: envoy.filters.network.http_connection_manager, typed_config: {{{types}.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: extra, route_config: {{{routes}}}, http_filters: [{router}]}}}}"
    );
    envoy_filter(&format!(
        "{{applyTo: LISTENER, match: {{context: SIDECAR_OUTBOUND}}, patch: {{operation: ADD, value: {{name: extra, address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{filters: [{manager}]}}]}}}}}}"
    ))
}

#[test]
fn listeners_open_move_and_close_with_a_swap() {
    let upstream = Upstream::start("users");
    let base = service("users", &[upstream.address()]);
    let sidecar = Sidecar::start_with(&base, 3);
    let (one, two) = (celerity_testkit::free_port(), celerity_testkit::free_port());
    let status = |port: u16| {
        let answer = Client::connect((std::net::Ipv4Addr::LOCALHOST, port).into()).and_then(|mut c| c.get("any", "/"));
        answer.ok().map(|answer| answer.status)
    };
    sidecar.apply(&(base.clone() + &extra(one)));
    assert!((0..20).all(|_| status(one) == Some(222)), "every worker accepts");

    sidecar.apply(&(base.clone() + &extra(two)));
    assert_eq!(status(two), Some(222));
    eventually("the old address is closed", || status(one).is_none());

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let refused = sidecar.try_apply(&(base.clone() + &extra(port))).expect_err("somebody else has it").to_string();
    assert!(refused.contains("listener extra") && refused.contains("in use"), "{refused}");
    assert_eq!(status(two), Some(222), "the running configuration stays");

    sidecar.apply(&base);
    // At once again: the sockets of before still empty their queues.
    sidecar.apply(&(base.clone() + &extra(two)));
    assert_eq!(status(two), Some(222));
    sidecar.apply(&base);
    eventually("it is closed", || status(two).is_none());
    assert_eq!(sidecar.client().get("users", "/").expect("answered").status, 200);
}
