//! Retries, ejections, limits, locality failover and the cache, each with clients of both versions of HTTP.
use std::process::Command;

use celerity_testkit::{Upstream, peer, process};

use crate::support::{Sidecar, documents, eventually, service};

/// What a client saw.
struct Seen {
    status: u16,
    head: String,
    body: String,
}

/// One GET by curl, in HTTP/1.1 or in HTTP/2 without TLS.
fn curl(sidecar: &Sidecar, http2: bool, path: &str) -> Option<Seen> {
    let curl = peer("curl")?;
    let version = if http2 { "--http2-prior-knowledge" } else { "--http1.1" };
    let url = format!("http://{}{path}", sidecar.outbound);
    let said =
        process::run(Command::new(curl).args(["-s", "-i", "-m", "20", version, "-H", "Host: user-service", &url]));
    let (head, body) = said.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Some(Seen { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  host: user-service\n  trafficPolicy: {{{policy}}}\n"
    )
}

fn routed(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  hosts: [user-service]\n  http: [{{{http}, route: [{{destination: {{host: user-service}}}}]}}]\n"
    )
}

#[test]
fn a_retry_goes_to_another_endpoint() {
    let (good, bad) = (Upstream::start("good"), Upstream::start("bad"));
    bad.answer_with(503);
    let services = service("user-service", &[(&good, "version: v1"), (&bad, "version: v1")]);
    let retries = routed("retries: {attempts: 3, retryOn: 'gateway-error', perTryTimeout: 5s}");
    let sidecar = Sidecar::start(&documents(&[&services, &retries]));
    for http2 in [false, true] {
        for _ in 0..10 {
            let Some(seen) = curl(&sidecar, http2, "/bytes/10") else { return };
            assert_eq!(seen.status, 200, "{}", seen.head);
        }
    }
    assert!(bad.requests() > 0 && good.requests() == 20, "{} {}", bad.requests(), good.requests());
    assert!(sidecar.admin("/stats/prometheus").contains("envoy_cluster_upstream_rq_retry_success{"));
}

#[test]
fn a_body_of_a_mebibyte_is_sent_again_and_a_larger_one_is_counted() {
    let (good, bad) = (Upstream::start("good"), Upstream::start("bad"));
    bad.answer_with(503);
    let services = service("user-service", &[(&good, "version: v1"), (&bad, "version: v1")]);
    let policy = rule("loadBalancer: {simple: ROUND_ROBIN}");
    let retries = routed("retries: {attempts: 3, retryOn: 'gateway-error', perTryTimeout: 5s}");
    let sidecar = Sidecar::start(&documents(&[&services, &policy, &retries]));
    let post = |bytes: usize| {
        let mut client = sidecar.client();
        (0..6)
            .map(|_| {
                client.request("POST", "user-service", "/bytes/10", &[], &vec![b'x'; bytes]).expect("an answer").status
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(post(1 << 20), [200; 6]);
    assert!(post((1 << 20) + 1).contains(&503), "one of the endpoints fails");
    let counted = "envoy_cluster_retry_or_shadow_abandoned{cluster_name=\"outbound|80||user-service.default.svc.cluster.local\"} 6";
    eventually("all six are counted", || sidecar.admin("/stats/prometheus").contains(counted));
}

#[test]
fn an_endpoint_that_fails_is_ejected() {
    let (good, bad) = (Upstream::start("good"), Upstream::start("bad"));
    let services = service("user-service", &[(&good, "version: v1"), (&bad, "version: v1")]);
    let policy = "loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 3, interval: 1s, \
                  baseEjectionTime: 60s, maxEjectionPercent: 50}";
    let sidecar = Sidecar::start(&documents(&[&services, &rule(policy), &routed("retries: {attempts: 0}")]));
    bad.answer_with(500);
    for http2 in [false, true] {
        eventually("only the good one answers", || {
            (0..6).all(|_| curl(&sidecar, http2, "/bytes/10").is_none_or(|seen| seen.status == 200))
        });
    }
    let before = bad.requests();
    for _ in 0..10 {
        let Some(seen) = curl(&sidecar, true, "/bytes/10") else { return };
        assert_eq!(seen.status, 200);
    }
    assert_eq!(bad.requests(), before, "an ejected endpoint gets nothing");
}

#[test]
fn a_full_pending_queue_answers_at_once() {
    let slow = Upstream::start("slow");
    slow.delay(std::time::Duration::from_millis(800));
    let services = service("user-service", &[(&slow, "version: v1")]);
    let policy = "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}";
    let log = celerity_testkit::TempDir::new();
    let log = log.path().join("access.log");
    let sidecar = Sidecar::start_with(
        &documents(&[&services, &rule(policy), &routed("retries: {attempts: 0}")]),
        &["--inbound", "off", "--access-log", &log.display().to_string()],
    );
    if peer("curl").is_none() {
        return;
    }
    for http2 in [false, true] {
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..6)
                .map(|_| scope.spawn(|| curl(&sidecar, http2, "/bytes/10").map_or(0, |seen| seen.status)))
                .collect();
            asked.into_iter().map(|one| one.join().expect("curl ran")).collect()
        });
        let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
        // The one that waits for the connection fills the queue; of the others each is refused unless it came later.
        assert!(count(200) >= 1 && count(503) >= 1 && count(200) + count(503) == 6, "{statuses:?}");
    }
    eventually("the flag is in the log", || std::fs::read_to_string(&log).unwrap_or_default().contains("\"UO\""));
}

#[test]
fn requests_stay_in_their_zone_until_it_fails() {
    let (near, far) = (Upstream::start("near"), Upstream::start("far"));
    let endpoint = |upstream: &Upstream, zone: &str| {
        let at = upstream.address();
        format!("  - {{address: {}, ports: {{http: {}}}, locality: region/{zone}}}\n", at.ip(), at.port())
    };
    let services = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: user-service, namespace: default}}\nspec:\n  \
         hosts: [user-service.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, \
         number: 80, protocol: HTTP}}]\n  endpoints:\n{}{}",
        endpoint(&near, "a"),
        endpoint(&far, "b")
    );
    let policy =
        "outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}";
    let sidecar = Sidecar::start_with(
        &documents(&[&services, &rule(policy), &routed("retries: {attempts: 0}")]),
        &["--inbound", "off", "--locality", "region/a"],
    );
    for http2 in [false, true] {
        for _ in 0..10 {
            let Some(seen) = curl(&sidecar, http2, "/echo") else { return };
            assert!(seen.body.contains("\"near\""), "{}", seen.body);
        }
    }
    near.answer_with(500);
    eventually("the other zone answers", || {
        (0..6).all(|nth| curl(&sidecar, nth % 2 == 0, "/echo").is_some_and(|seen| seen.body.contains("\"far\"")))
    });
}

#[test]
fn the_cache_serves_what_is_fresh_and_asks_about_what_is_stale() {
    use crate::cache::{FILTER, answer, origins};
    use celerity_testkit::raw::Server;
    let origin = Server::start(vec![
        answer("HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\nconnection: close\r\ncontent-length: 5\r\n\r\nfresh"),
        answer(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=0\r\netag: \"a\"\r\nconnection: close\r\ncontent-length: 5\r\n\r\nstale",
        ),
        answer("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncache-control: max-age=600\r\nconnection: close\r\n\r\n"),
    ]);
    let services = origins(&[(&origin, "v1")]);
    let sidecar = Sidecar::start(&documents(&[&services, FILTER]));
    let Some(first) = curl(&sidecar, false, "/fresh") else { return };
    assert_eq!((first.status, first.body.as_str(), first.head.contains("\nage:")), (200, "fresh", false));
    for http2 in [true, false] {
        let again = curl(&sidecar, http2, "/fresh").expect("curl is there");
        assert_eq!((again.status, again.body.as_str()), (200, "fresh"));
        assert!(again.head.contains("\nage: "), "{}", again.head);
    }
    let first = curl(&sidecar, true, "/stale").expect("curl is there");
    assert_eq!((first.status, first.body.as_str()), (200, "stale"));
    for http2 in [false, true] {
        // The first time the origin says that it still holds; from then on it is fresh.
        let again = curl(&sidecar, http2, "/stale").expect("curl is there");
        assert_eq!((again.status, again.body.as_str()), (200, "stale"), "{}", again.head);
    }
    let heard = origin.heard();
    let asked = String::from_utf8_lossy(&heard[2]).to_lowercase();
    assert!(asked.contains("if-none-match: \"a\""), "{asked}");
    assert!(sidecar.admin("/stats/prometheus").contains("celerity_cache_hits_total{kind=\"revalidated\"} 1"));
}
