//! Clients at once, and the rule that their upstreams are reached by.

use super::common::Sidecar;

/// Every request of every client must get its 200 within the client's patience.
pub(crate) fn run(sidecar: &Sidecar, clients: usize, requests_each: usize) {
    let one = || {
        let mut client = sidecar.client();
        (0..requests_each).all(|_| client.get("users", "/").is_ok_and(|answer| answer.status == 200))
    };
    let all_well = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        clients.into_iter().all(|client| client.join().expect("it ran"))
    });
    assert!(all_well, "a request was lost or hung");
}

pub(crate) fn rule(pool: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: users}}\nspec:\n  host: users\n  trafficPolicy:\n    loadBalancer: {{simple: ROUND_ROBIN}}\n    connectionPool: {pool}\n---\n"
    )
}
