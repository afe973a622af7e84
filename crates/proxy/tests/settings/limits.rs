//! Limits of time and number that come from patches.

use super::common::{Sidecar, envoy_filter, scripted, service};
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
