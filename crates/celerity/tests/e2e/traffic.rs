//! What passes through: framing of ordinary messages, headers, faults of upstreams, reload, drain.
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use celerity_testkit::raw::{Server, Step};
use celerity_testkit::{Client, Upstream, peer, process};

use crate::support::{PATIENCE, Sidecar, documents, eventually, service};

#[test]
fn bodies_and_statuses_pass_as_they_are() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut client = sidecar.client();
    for size in [0, 1, 1024, 65_536, 1_000_000] {
        assert_eq!(client.get("user-service", &format!("/bytes/{size}")).expect("an answer").body.len(), size);
    }
    for status in [200, 201, 204, 304, 404, 500] {
        assert_eq!(client.get("user-service", &format!("/status/{status}")).expect("an answer").status, status);
    }
    let head = client.request("HEAD", "user-service", "/bytes/1234", &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1234"), 0));
    let chunked = client.get("user-service", "/chunked/1000").expect("an answer");
    assert_eq!((chunked.body.len(), chunked.trailers.len()), (16_000, 1), "the trailer comes through");
    let sent = "x".repeat(300_000);
    let echo = client.request("POST", "user-service", "/echo", &[("Expect", "100-continue")], sent.as_bytes());
    let echo = echo.expect("an answer");
    assert_eq!((echo.interim.as_slice(), echo.json()["body"].as_str()), ([100].as_slice(), Some(sent.as_str())));
}

#[test]
fn a_status_without_a_body_goes_out_without_one() {
    let route = |status| {
        format!(
            "  - match: [{{uri: {{exact: /{status}}}}}]\n    directResponse: {{status: {status}, body: {{string: no}}}}\n"
        )
    };
    let routes = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  hosts: [user-service]\n  http:\n{}{}",
        route(204),
        route(304)
    );
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&documents(&[&service("user-service", &[(&upstream, "version: v1")]), &routes]));
    let mut client = sidecar.client();
    for status in [204, 304, 204] {
        let seen = client.get("user-service", &format!("/{status}")).expect("an answer on the same connection");
        assert_eq!((seen.status, seen.header("content-length"), seen.body.len()), (status, None, 0));
    }
}

#[test]
fn a_proxy_that_answers_an_expectation_takes_it_off() {
    // Whole, since a merge takes nothing back that is said.
    let patch = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: own, namespace: default}\nspec:\n  \
        configPatches:\n  - applyTo: NETWORK_FILTER\n    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: \
        {name: envoy.filters.network.http_connection_manager}}}}\n    patch: {operation: REPLACE, value: {name: \
        envoy.filters.network.http_connection_manager, typed_config: {'@type': \
        type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
        stat_prefix: own, via: mesh, rds: {config_source: {ads: {}}, route_config_name: outbound}, http_filters: [{name: \
        envoy.filters.http.router, typed_config: {'@type': \
        type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}}\n";
    // Says 100 too, though nobody asked it: the client must not get two.
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nvia: origin\r\ncontent-length: 0\r\n\r\n";
    let origin = Server::start(vec![vec![Step::Hear(b"hello".to_vec()), Step::Say(answer.to_vec())]]);
    let sidecar = Sidecar::start(&documents(&[&crate::cache::origins(&[(&origin, "v1")]), patch]));
    let expects = [("Expect", "100-continue")];
    let seen = sidecar.client().request("POST", "user-service", "/", &expects, b"hello").expect("an answer");
    assert_eq!((seen.status, seen.interim.as_slice()), (200, [100].as_slice()));
    assert_eq!(seen.header("via"), Some("origin,mesh"));
    let asked = String::from_utf8_lossy(&origin.heard()[0]).to_lowercase();
    assert!(!asked.contains("expect:") && asked.contains("via: mesh"), "{asked}");
}

#[test]
fn headers_that_belong_to_one_hop_stay_there() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let headers = [
        ("Connection", "keep-alive, x-private"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers, gzip"),
        ("X-Mine", "kept"),
    ];
    let echo = sidecar.client().request("GET", "user-service", "/echo", &headers, b"").expect("an answer").json();
    let pairs = echo["headers"].as_array().expect("headers").iter();
    let seen: BTreeMap<String, String> = pairs
        .map(|pair| (pair[0].as_str().unwrap_or("").to_lowercase(), pair[1].as_str().unwrap_or("").to_owned()))
        .collect();
    for gone in ["x-private", "keep-alive", "proxy-connection"] {
        assert!(!seen.contains_key(gone), "{gone} went upstream: {seen:?}");
    }
    assert_eq!(seen.get("x-mine").map(String::as_str), Some("kept"));
    assert_eq!(seen.get("te").map(String::as_str), Some("trailers"), "what means something past this hop");
    assert_eq!(seen.get("connection").map(String::as_str), Some("te"), "and it is nominated again");
    assert!(seen.get("x-request-id").is_some_and(|id| !id.is_empty()), "{seen:?}");
    assert!(seen.contains_key("x-forwarded-proto"), "{seen:?}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut client = sidecar.client();
    let mut bytes = Vec::new();
    for size in 1..=20 {
        bytes.extend_from_slice(format!("GET /bytes/{size} HTTP/1.1\r\nHost: user-service\r\n\r\n").as_bytes());
    }
    client.send(&bytes).expect("sent");
    for size in 1..=20 {
        assert_eq!(client.read_response(false).expect("an answer").body.len(), size);
    }
}

#[test]
fn a_connection_closed_under_a_request_costs_nothing_when_nothing_was_processed() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    upstream.close_idle_under_request(true);
    let mut client = sidecar.client();
    for _ in 0..20 {
        assert_eq!(client.get("user-service", "/echo").expect("an answer").status, 200);
    }
    assert_eq!(upstream.requests(), 20, "each was processed once");
}

#[test]
fn upstream_faults_become_their_statuses() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    for path in ["/drop", "/reset"] {
        assert_eq!(sidecar.get("user-service", path).status, 503, "{path}");
    }
    let cut = Client::connect(sidecar.outbound).and_then(|mut client| client.get("user-service", "/half/1000"));
    assert!(cut.is_err(), "a body that was cut must not look whole");
    let nobody = sidecar.get("nobody", "/");
    assert_eq!(nobody.status, 503, "an unknown host on a connection that was not redirected");
    assert!(
        nobody.text().starts_with("no healthy upstream") && nobody.text().contains("\"nobody\""),
        "{}",
        nobody.text()
    );
    assert_eq!(sidecar.get("user-service", "/").status, 200);
}

/// A VirtualService that sends all to one subset, with the DestinationRule that names both.
fn all_to(subset: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: user-service, namespace: default}}\nspec:\n  \
         host: user-service\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: user-service, namespace: default}}\nspec:\n  \
         hosts: [user-service]\n  http:\n  - route: [{{destination: {{host: user-service, subset: {subset}}}}}]\n"
    )
}

#[test]
fn a_change_on_disk_is_taken_up_and_a_broken_one_is_not() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let services = service("user-service", &[(&one, "version: v1"), (&two, "version: v2")]);
    let sidecar = Sidecar::start(&documents(&[&services, &all_to("v1")]));
    let instance = || sidecar.get("user-service", "/echo").json()["instance"].as_str().unwrap_or("").to_owned();
    assert!((0..10).all(|_| instance() == "one"));

    sidecar.config.write("mesh.yaml", &documents(&[&services, &all_to("v2")]));
    eventually("the change is taken up", || instance() == "two");
    assert!((0..10).all(|_| instance() == "two"));

    let broken = documents(&[&services, &all_to("v1").replace("subsets:", "subsetz:")]);
    sidecar.config.write("mesh.yaml", &broken);
    eventually("the refusal is told", || sidecar.admin("/config_dump").contains("subsetz"));
    let metric = |name: &str| {
        let page = sidecar.admin("/stats/prometheus");
        let line = page.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    assert!(metric("celerity_config_last_reload_success").ends_with(" 0"));
    assert!(metric("celerity_config_reloads_total{result=\"rejected\"}").ends_with(" 1"));
    assert!(sidecar.process.output().contains("subsetz"), "the log says why");
    assert!((0..10).all(|_| instance() == "two"), "the running configuration stays");

    sidecar.config.write("mesh.yaml", &documents(&[&services, &all_to("v1")]));
    eventually("a mended one is taken up", || instance() == "one");
    assert!(metric("celerity_config_last_reload_success").ends_with(" 1"));
}

#[test]
fn a_short_host_of_an_entry_is_served_with_its_rules() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let services = service("user-service", &[(&one, "version: v1"), (&two, "version: v2")])
        .replace("hosts: [user-service.default.svc.cluster.local]", "hosts: [user-service]");
    let sidecar = Sidecar::start(&documents(&[&services, &all_to("v1")]));
    for name in ["user-service", "user-service.default", "user-service.default.svc.cluster.local."] {
        for _ in 0..5 {
            assert_eq!(sidecar.get(name, "/echo").json()["instance"], "one", "{name}");
        }
    }
    sidecar.config.write("mesh.yaml", &documents(&[&services, &all_to("v2")]));
    eventually("a change of its routes is taken up", || {
        sidecar.get("user-service", "/echo").json()["instance"] == "two"
    });
}

#[test]
fn changes_under_load_lose_no_request() {
    let Some(wrk) = peer("wrk") else { return };
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let services = service("user-service", &[(&one, "version: v1"), (&two, "version: v2")]);
    let sidecar = Sidecar::start(&documents(&[&services, &all_to("v1")]));
    let url = format!("http://{}/echo", sidecar.outbound);
    let load = std::thread::spawn(move || {
        process::run(Command::new(wrk).args(["-t2", "-c32", "-d5s", "-H", "Host: user-service", &url]))
    });
    let mut swaps = 0;
    while !load.is_finished() {
        let subset = if swaps % 2 == 0 { "v2" } else { "v1" };
        sidecar.config.write("mesh.yaml", &documents(&[&services, &all_to(subset)]));
        swaps += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = load.join().expect("wrk ran");
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "after {swaps} changes: {said}");
    assert!(one.completed() > 0 && two.completed() > 0, "both subsets were used");
}

#[test]
fn sigterm_drains() {
    let upstream = Upstream::start("one");
    let mut sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut idle = sidecar.client();
    idle.get("user-service", "/").expect("an answer");
    let mut busy = sidecar.client();
    busy.send(b"GET /delay/3000 HTTP/1.1\r\nHost: user-service\r\n\r\n").expect("sent");
    eventually("the request is upstream", || upstream.requests() == 2);
    sidecar.process.signal("TERM");
    let answer = busy.read_response(false).expect("a request under way is answered");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(busy.is_closed() && idle.is_closed());
    assert!(sidecar.process.wait(PATIENCE).success());
}
