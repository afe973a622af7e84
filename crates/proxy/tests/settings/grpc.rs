//! A gRPC request's own limit of time.

use super::common::{Sidecar, service, virtual_service};
use celerity_testkit::Upstream;
use std::time::{Duration, Instant};

#[test]
fn a_grpc_request_says_how_long_it_waits() {
    let slow = Upstream::start("users");
    slow.delay(Duration::from_secs(3));
    let limited = virtual_service("users", "  - {timeout: 0.3s, route: [{destination: {host: users}}]}\n");
    for (route, asked) in [("", "200m"), (&*limited, "60S")] {
        let sidecar = Sidecar::start(&(service("users", &[slow.address()]) + route));
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", asked)];
        let began = Instant::now();
        let answer = sidecar.client().request("POST", "users", "/a.B/C", &headers, b"\0\0\0\0\0").expect("answered");
        assert!(began.elapsed() < Duration::from_secs(2), "{asked}: {:?}", began.elapsed());
        assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")));
    }
}
