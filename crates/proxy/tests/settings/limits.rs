//! Limits of time and number that come from patches.

use super::common::{Sidecar, envoy_filter, eventually, scripted, service};
use celerity_testkit::Upstream;
use std::time::{Duration, Instant};

#[test]
fn an_attempt_that_does_not_move_is_given_up() {
    let silent = scripted(b"");
    let patch = envoy_filter(
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: 'users.default.svc.cluster.local:80'}}}, patch: {operation: MERGE, value: {route: {retry_policy: {retry_on: 5xx, num_retries: 1, per_try_idle_timeout: 0.1s}}}}}",
    );
    let sidecar = Sidecar::start(&(service("users", &[silent]) + &patch));
    let answer = sidecar.client().get("users", "/").expect("answered");
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains("per-try idle"), "{}", answer.text());
}

#[test]
fn a_response_that_stands_still_is_broken_off() {
    let stuck = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let patch = envoy_filter(
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: 'users.default.svc.cluster.local:80'}}}, patch: {operation: MERGE, value: {route: {idle_timeout: 0.1s}}}}",
    );
    let sidecar = Sidecar::start(&(service("users", &[stuck]) + &patch));
    let began = Instant::now();
    let answer = sidecar.client().get("users", "/");
    assert!(answer.is_err(), "{answer:?}");
    // The client itself would wait for 20 seconds.
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn headers_are_counted() {
    let upstream = Upstream::start("users");
    let patch = envoy_filter(
        "{applyTo: NETWORK_FILTER, match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}, patch: {operation: MERGE, value: {typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, common_http_protocol_options: {max_headers_count: 5}}}}}",
    );
    let sidecar = Sidecar::start(&(service("users", &[upstream.address()]) + &patch));
    let mut client = sidecar.client();
    // Host is one of them, and what the proxy adds is none.
    let many = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")];
    assert_eq!(client.request("GET", "users", "/", &many[..4], b"").expect("answered").status, 200);
    assert_eq!(client.request("GET", "users", "/", &many, b"").expect("answered").status, 431);
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_limit_that_is_lowered_acts_on_connections_that_are_open() {
    let upstream = Upstream::start("users");
    let users = service("users", &[upstream.address()]);
    let limit = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: users}\nspec: {host: users, trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}}\n";
    let sidecar = Sidecar::start_with(&users, 2);
    let ask = |clients: &mut Vec<celerity_testkit::Client>| {
        clients
            .iter_mut()
            .for_each(|client| client.send(b"GET /delay/150 HTTP/1.1\r\nHost: users\r\n\r\n").expect("sent"));
    };
    let hear = |clients: &mut Vec<celerity_testkit::Client>| {
        for client in clients {
            assert_eq!(client.read_response(false).expect("answered").status, 200);
        }
    };
    let mut clients: Vec<_> = (0..10).map(|_| sidecar.client()).collect();
    ask(&mut clients);
    hear(&mut clients);
    assert!(upstream.open() > 2, "without a limit there are more");
    // Some are idle when it comes, and some in use.
    let mut busy = clients.split_off(4);
    ask(&mut busy);
    eventually("they are under way", || upstream.requests() == 16);
    sidecar.apply(&(users + limit));
    hear(&mut busy);
    eventually("what is beyond the limit is closed", || upstream.open() <= 2);
    clients.append(&mut busy);
    let done = upstream.completed() + 10;
    ask(&mut clients);
    eventually("all are answered", || {
        assert!(upstream.open() <= 2);
        upstream.completed() >= done
    });
    hear(&mut clients);
}
