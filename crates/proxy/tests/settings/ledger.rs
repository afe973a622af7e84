//! What the ledger says of a service whose time is known.

use super::common::{Sidecar, service};
use celerity_testkit::Upstream;

/// A peer acknowledges a request with its answer, so that the kernel's smoothed round trip grows to the service's time.
#[test]
fn a_slow_services_time_is_its_own_and_not_the_networks() {
    let app = Upstream::start("app");
    let sidecar = Sidecar::start(&service("users", &[app.address()]));
    let mut client = sidecar.client();
    for nth in 0..40 {
        client.send(b"GET /delay/30 HTTP/1.1\r\nHost: users\r\nx-celerity-ledger: 1\r\n\r\n").expect("sent");
        let answer = client.read_response(false).expect("answered");
        let rows = answer.header("server-timing").expect("it was asked for");
        let row = |name: &str| -> f64 {
            let (_, rest) = rows.split_once(&format!("{name};dur=")).unwrap_or_else(|| panic!("{name} in {rows}"));
            rest.split([',', ' ']).next().and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{name} in {rows}"))
        };
        // It slept for 30 ms: what the network took of them is the kernel's shortest round trip of a loopback.
        assert!(row("service") > 20.0, "request {nth}: {rows}");
    }
}
