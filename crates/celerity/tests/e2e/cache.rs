//! The response cache as clients meet it: whose answer they get, with which changes, and what the origin is asked.
use celerity_testkit::raw::{Server, Step};

use crate::support::{Sidecar, documents};

/// The cache filter before the router of every outbound listener, as Istio's users put it there.
pub(crate) const FILTER: &str = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: cache, \
    namespace: default}\nspec:\n  configPatches:\n  - applyTo: HTTP_FILTER\n    match: {context: SIDECAR_OUTBOUND, listener: \
    {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: \
    envoy.filters.http.router}}}}}\n    patch: {operation: INSERT_BEFORE, value: {name: envoy.filters.http.cache, \
    typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig, typed_config: {'@type': \
    type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig}}}}\n";

/// `user-service` with these scripted origins, each with the label `version`.
pub(crate) fn origins(all: &[(&Server, &str)]) -> String {
    let endpoint = |(server, version): &(&Server, &str)| {
        let at = server.address();
        format!("  - {{address: {}, ports: {{http: {}}}, labels: {{version: {version}}}}}\n", at.ip(), at.port())
    };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: user-service, namespace: default}}\nspec:\n  \
         hosts: [user-service.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, \
         number: 80, protocol: HTTP}}]\n  endpoints:\n{}",
        all.iter().map(endpoint).collect::<String>()
    )
}

fn routed(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  hosts: [user-service]\n  http:\n{http}"
    )
}

/// Answers one request of a connection with these bytes and closes it.
pub(crate) fn answer(text: &'static str) -> Vec<Step> {
    vec![Step::Hear(b"\r\n\r\n".to_vec()), Step::Say(text.as_bytes().to_vec())]
}

#[test]
fn a_304_of_another_representation_makes_the_whole_one_be_fetched() {
    let origin = Server::start(vec![
        answer(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=0\r\netag: W/\"a\"\r\nconnection: close\r\ncontent-length: 3\r\n\r\nold",
        ),
        answer("HTTP/1.1 304 Not Modified\r\netag: \"b\"\r\nconnection: close\r\n\r\n"),
        answer(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\netag: \"b\"\r\nconnection: close\r\ncontent-length: 3\r\n\r\nnew",
        ),
    ]);
    let sidecar = Sidecar::start(&documents(&[&origins(&[(&origin, "v1")]), FILTER]));
    for body in ["old", "new", "new"] {
        let seen = sidecar.get("user-service", "/a");
        assert_eq!((seen.status, seen.text().as_str()), (200, body), "{:?}", seen.headers);
    }
    let asked: Vec<String> = origin.heard().iter().map(|heard| String::from_utf8_lossy(heard).to_lowercase()).collect();
    assert!(asked[1].contains("if-none-match: w/\"a\""), "{}", asked[1]);
    assert!(!asked[2].contains("if-none-match"), "{}", asked[2]);
}

#[test]
fn stored_answers_get_the_configured_changes() {
    let origin = Server::start(vec![
        answer(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\nx-internal: 1\r\nconnection: close\r\ncontent-length: 3\r\n\r\none",
        ),
        answer(
            "HTTP/1.1 200 OK\r\ncache-control: max-age=0\r\netag: \"e\"\r\nx-internal: 1\r\nconnection: close\r\n\
             content-length: 3\r\n\r\ntwo",
        ),
        answer("HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\ncache-control: max-age=0\r\nconnection: close\r\n\r\n"),
    ]);
    let changes = routed(
        "  - headers: {response: {remove: [x-internal], set: {x-mesh: here}}}\n    route: [{destination: {host: user-service}, \
         headers: {response: {set: {x-to: v1}}}}]\n",
    );
    let sidecar = Sidecar::start(&documents(&[&origins(&[(&origin, "v1")]), FILTER, &changes]));
    for (path, body) in [("/one", "one"), ("/one", "one"), ("/two", "two"), ("/two", "two")] {
        let seen = sidecar.get("user-service", path);
        let named = |name| seen.header(name);
        assert_eq!((seen.status, seen.text().as_str()), (200, body));
        assert_eq!((named("x-internal"), named("x-mesh"), named("x-to")), (None, Some("here"), Some("v1")), "{path}");
    }
    let metrics = sidecar.admin("/stats/prometheus");
    assert!(metrics.contains("celerity_cache_hits_total{kind=\"fresh\"} 1"), "{metrics}");
    assert!(metrics.contains("celerity_cache_hits_total{kind=\"revalidated\"} 1"));
    assert!(metrics.contains("response_flags=\"RFCF\""));
}

/// Another place of the cache filter: before all others.
fn first_of_all() -> String {
    FILTER.replace("subFilter: {name: envoy.filters.http.router}", "subFilter: {name: envoy.filters.http.fault}")
}

#[test]
fn a_hit_says_whom_it_may_be_shown_to() {
    let origin = Server::start(vec![answer(
        "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\nconnection: close\r\ncontent-length: 3\r\n\r\none",
    )]);
    let routes = routed(
        "  - corsPolicy: {allowOrigins: [{exact: 'http://shop'}], exposeHeaders: [x-b]}\n    route: [{destination: {host: \
         user-service}}]\n",
    );
    let sidecar = Sidecar::start(&documents(&[&origins(&[(&origin, "v1")]), &first_of_all(), &routes]));
    for (from, allowed) in
        [("http://shop", Some("http://shop")), ("http://shop", Some("http://shop")), ("http://x", None)]
    {
        let asked = sidecar.client().request("GET", "user-service", "/a", &[("origin", from)], b"");
        let seen = asked.expect("an answer");
        assert_eq!((seen.text().as_str(), seen.header("access-control-allow-origin")), ("one", allowed));
        assert_eq!(seen.header("access-control-expose-headers"), allowed.map(|_| "x-b"));
    }
}

#[test]
fn what_a_route_makes_of_a_request_is_part_of_what_is_asked_for() {
    let said = |body: &'static str| {
        let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\nconnection: close\r\ncontent-length: 1\r\n\r\n";
        vec![Step::Hear(b"\r\n\r\n".to_vec()), Step::Say([head, body].concat().into_bytes())]
    };
    let origin = Server::start(["a", "b", "c", "d"].map(said).to_vec());
    let routes = |timeout: &str| {
        routed(&format!(
            "  - match: [{{headers: {{x-to: {{exact: path}}}}}}]\n    rewrite: {{uri: /beta}}\n    route: [{{destination: {{host: \
             user-service}}}}]\n  - match: [{{headers: {{x-to: {{exact: host}}}}}}]\n    rewrite: {{authority: beta}}\n    \
             route: [{{destination: {{host: user-service}}}}]\n  - match: [{{headers: {{x-to: {{exact: header}}}}}}]\n    headers: \
             {{request: {{set: {{x-tenant: beta}}}}}}\n    route: [{{destination: {{host: user-service}}}}]\n  - timeout: \
             {timeout}\n    route: [{{destination: {{host: user-service}}}}]\n"
        ))
    };
    let parts = |timeout: &str| documents(&[&origins(&[(&origin, "v1")]), FILTER, &routes(timeout)]);
    let sidecar = Sidecar::start(&parts("1s"));
    let all_seen = || {
        for (to, body) in [("path", "a"), ("host", "b"), ("header", "c"), ("-", "d")] {
            let asked = sidecar.client().request("GET", "user-service", "/x", &[("x-to", to)], b"");
            assert_eq!(asked.expect("an answer").text(), body, "{to}");
        }
    };
    // The origin answers each once: the others come from the cache, also when something else of a route has changed.
    all_seen();
    all_seen();
    sidecar.config.write("mesh.yaml", &parts("2s"));
    crate::support::eventually("the change is taken up", || sidecar.admin("/config_dump").contains("2s"));
    all_seen();
}

#[test]
fn a_canary_gets_its_own_answers() {
    let said = |body: &'static str| {
        let head = "HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\nconnection: close\r\ncontent-length: 2\r\n\r\n";
        vec![Step::Hear(b"\r\n\r\n".to_vec()), Step::Say(head.as_bytes().to_vec()), Step::Say(body.as_bytes().to_vec())]
    };
    let (first, second) = (Server::start(vec![said("v1")]), Server::start(vec![said("v2")]));
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: user-service, namespace: \
        default}\nspec:\n  host: user-service\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: \
        v2}}]\n";
    let routes = routed(
        "  - match: [{headers: {x-canary: {exact: 'yes'}}}]\n    route: [{destination: {host: user-service, subset: v2}}]\n  \
         - route: [{destination: {host: user-service, subset: v1}}]\n",
    );
    let services = origins(&[(&first, "v1"), (&second, "v2")]);
    let sidecar = Sidecar::start(&documents(&[&services, rule, FILTER, &routes]));
    // Each origin answers once: the second round comes from the cache.
    for _ in 0..2 {
        for (canary, body) in [("no", "v1"), ("yes", "v2")] {
            let asked = sidecar.client().request("GET", "user-service", "/a", &[("x-canary", canary)], b"");
            let seen = asked.expect("an answer");
            assert_eq!((seen.status, seen.text().as_str()), (200, body));
        }
    }
}
