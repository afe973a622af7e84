//! HTTP/1.1 to the upstreams.

use super::clients::{rule, run};
use super::common::{Sidecar, service};
use celerity_testkit::Upstream;
use std::time::Duration;

#[test]
fn nobody_starves_while_others_hold_the_limit() {
    const ONE: &str = "{tcp: {maxConnections: 1}}";
    const TWO: &str = "{tcp: {maxConnections: 2}, http: {maxRequestsPerConnection: 7}}";
    for (pool, workers, endpoints, delay_ms, clients, requests_each) in [
        (ONE, 4, 1, 50, 8, 1),
        (ONE, 4, 1, 1, 12, 20),
        (ONE, 1, 3, 1, 9, 20),
        (ONE, 3, 3, 1, 12, 10),
        (TWO, 3, 3, 1, 12, 10),
    ] {
        let upstreams: Vec<_> = (0..endpoints).map(|_| Upstream::start("users")).collect();
        upstreams.iter().for_each(|upstream| upstream.delay(Duration::from_millis(delay_ms)));
        let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
        let sidecar = Sidecar::start_with(&(service("users", &addresses) + &rule(pool)), workers);
        run(&sidecar, clients, requests_each);
    }
}
