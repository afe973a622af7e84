//! The same requests through real Envoy, which runs our translation, and through Celerity: the same answers.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use celerity_testkit::{Client, Process, TempDir, Upstream, free_port, peer, process};
use serde_json::{Value, json};

use crate::support::{BINARY, Sidecar, documents, loopback, service};

/// Response headers in which the two may differ, and why.
const RESPONSE_HEADERS_MAY_DIFFER: &[(&str, &str)] = &[
    ("date", "the moment"),
    ("server", "each names itself"),
    ("x-request-id", "each makes its own"),
    ("server-timing", "durations"),
    ("connection", "hop by hop"),
    ("keep-alive", "hop by hop"),
    ("transfer-encoding", "hop by hop"),
];

/// Request headers, as an upstream sees them, in which the two may differ, and why.
const REQUEST_HEADERS_MAY_DIFFER: &[(&str, &str)] = &[
    ("x-request-id", "each makes its own"),
    ("x-forwarded-for", "Envoy leaves it to its front"),
    ("traceparent", "each begins a trace of its own"),
    ("tracestate", "each begins a trace of its own"),
    ("x-celerity-hop", "ours"),
    ("connection", "hop by hop"),
    ("keep-alive", "hop by hop"),
    ("transfer-encoding", "hop by hop"),
];

const RULES: &str = r#"apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: user-service, namespace: default}
spec:
  host: user-service
  trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {consistentHash: {httpHeaderName: x-user-id}}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: default}
spec:
  host: cart
  trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {consistentHash: {httpHeaderName: x-user-id, maglev: {tableSize: 65537}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: weighted, namespace: default}
spec:
  host: weighted
  trafficPolicy: {tls: {mode: DISABLE}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: weighted, namespace: default}
spec:
  hosts: [weighted]
  http:
  - route:
    - {destination: {host: weighted, subset: v1}, weight: 80}
    - {destination: {host: weighted, subset: v2}, weight: 20}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: user-service, namespace: default}
spec:
  hosts: [user-service]
  http:
  - match: [{uri: {exact: /old}}]
    redirect: {uri: /new, redirectCode: 308}
  - match: [{uri: {prefix: /moved}}]
    redirect: {authority: cart.default.svc.cluster.local}
  - match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /rewritten/}}]
    rewrite: {uri: /}
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{uri: {prefix: /elsewhere}}]
    rewrite: {authority: other.example}
    timeout: 3s
    retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{uri: {regex: "/re/[0-9]+"}}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{headers: {x-version: {exact: v2}}}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{queryParams: {version: {exact: v2}}}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{method: {exact: DELETE}}]
    fault: {abort: {httpStatus: 403, percentage: {value: 100}}}
    route: [{destination: {host: user-service}}]
  - match: [{uri: {prefix: /headers}}]
    headers:
      request: {set: {x-set: a}, add: {x-add: b}, remove: [x-remove]}
      response: {set: {x-answer: c}, remove: [content-type]}
    route: [{destination: {host: user-service, subset: v1}}]
  - match: [{uri: {prefix: /cors}}]
    corsPolicy: {allowOrigins: [{exact: "http://shop"}], allowMethods: [GET], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 5s}
    route: [{destination: {host: user-service}}]
  - match: [{uri: {prefix: /aborted}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: user-service}}]
  - match: [{uri: {prefix: /slow}}]
    timeout: 0.2s
    rewrite: {uri: /delay/2000}
    route: [{destination: {host: user-service, subset: v1}}]
  - route: [{destination: {host: user-service}}]
"#;

/// Method, target, headers of a request to user-service. Those that are routed carry the header that is hashed, so that their
/// endpoint is decided.
type Sent = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// What a client may not say to a sidecar, and what it may.
const CONTROLS: &[(&str, &str)] = &[
    ("x-user-id", "1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-envoy-internal", "true"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-retry-grpc-on", "cancelled"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-retriable-status-codes", "200"),
    ("x-envoy-retriable-header-names", "x"),
    ("x-envoy-upstream-alt-stat-name", "a"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-upstream-rq-timeout-alt-response", "1"),
    ("x-envoy-upstream-stream-duration-ms", "1"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-force-trace", "true"),
    ("x-envoy-ip-tags", "a"),
    ("x-envoy-original-url", "http://a/"),
    ("x-envoy-original-path", "/a"),
    ("x-envoy-original-host", "a"),
    ("x-envoy-decorator-operation", "a"),
    ("x-envoy-upstream-service-time", "7"),
    ("x-envoy-attempt-count", "7"),
    ("x-envoy-other", "a"),
];

const REQUESTS: &[Sent] = &[
    ("GET", "/", &[("x-user-id", "1")]),
    ("GET", "/old", &[]),
    ("GET", "/old?x=1", &[]),
    ("GET", "/moved/a?b=c", &[]),
    ("GET", "/teapot", &[]),
    ("GET", "/rewritten/a/b?c=d", &[("x-user-id", "1")]),
    ("GET", "/elsewhere", &[("x-user-id", "1")]),
    ("GET", "/elsewhere", CONTROLS),
    ("GET", "/re/123", &[("x-user-id", "7")]),
    ("GET", "/re/12a", &[("x-user-id", "2")]),
    ("GET", "/any", &[("x-version", "v2"), ("x-user-id", "6")]),
    ("GET", "/any?version=v2", &[("x-user-id", "6")]),
    ("GET", "/any?version=v3", &[("x-user-id", "2")]),
    ("DELETE", "/any", &[]),
    ("GET", "/headers", &[("x-remove", "gone"), ("x-add", "first"), ("x-user-id", "3")]),
    ("GET", "/slow", &[("x-user-id", "3")]),
    ("GET", "/status/404", &[("x-user-id", "3")]),
    ("GET", "/status/500", &[("x-user-id", "3")]),
    ("POST", "/echo", &[("x-user-id", "4"), ("content-type", "text/plain")]),
    ("HEAD", "/bytes/100", &[("x-user-id", "4")]),
    ("PUT", "/echo", &[("x-user-id", "4")]),
    ("GET", "/status/600", &[("x-user-id", "3")]),
    ("OPTIONS", "/cors", &[("origin", "http://shop"), ("access-control-request-method", "GET")]),
    ("GET", "/cors", &[("origin", "http://shop"), ("x-user-id", "4")]),
    ("GET", "/aborted", &[]),
    ("POST", "/aborted", &[("content-type", "application/grpc")]),
    ("GET", "/a/../b", &[("x-user-id", "5")]),
    ("GET", "/a//b/./c", &[("x-user-id", "5")]),
    ("GET", "/a%2fb%20c", &[("x-user-id", "5")]),
    ("GET", "/%6fld", &[]),
    ("GET", "/a\\..\\old", &[]),
    ("GET", "/re/1%32", &[("x-user-id", "7")]),
    ("GET", "/old\\", &[("x-user-id", "5")]),
    ("GET", "/x|^{}\"<>`%7e%2c", &[("x-user-id", "5")]),
    ("GET", "/%%341/a//../%2e%2E/%zz?%41\\", &[("x-user-id", "5")]),
];

/// Targets and headers whose route names a subset; for the others any of the service's endpoints may answer.
fn names_a_subset((_, target, headers): Sent) -> bool {
    ["/rewritten", "/elsewhere", "/re/123", "/headers", "version=v2"].iter().any(|part| target.contains(part))
        || headers.contains(&("x-version", "v2"))
}

/// What came back, and what the upstream saw, less what may differ.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    headers: BTreeMap<String, String>,
    /// Subset, target, headers as an upstream received them; the body itself where no upstream answered in JSON.
    upstream: Value,
}

fn kept(pairs: impl Iterator<Item = (String, String)>, but: &[(&str, &str)]) -> BTreeMap<String, String> {
    let lower = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value));
    lower.filter(|(name, _)| but.iter().all(|(other, _)| other != name)).collect()
}

fn observe(address: SocketAddr, sent: Sent) -> Seen {
    let (method, target, headers) = sent;
    let decided = names_a_subset(sent);
    let body: &[u8] = if method == "POST" { b"a body" } else { b"" };
    let mut client = Client::connect(address).expect("a connection");
    let response = client.request(method, "user-service", target, headers, body).expect("an answer");
    let upstream = match serde_json::from_slice::<Value>(&response.body) {
        Ok(json) => {
            let pairs = json["headers"].as_array().cloned().unwrap_or_default();
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            let pairs = pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1])));
            // Which of a subset's endpoints is decided by hash, and has a test of its own.
            let subset = text(&json["instance"]).split('-').next().map(str::to_owned);
            json!({"subset": decided.then_some(subset), "method": json["method"], "target": json["target"], "body": json["body"],
                   "headers": kept(pairs, REQUEST_HEADERS_MAY_DIFFER)})
        }
        // A status on request comes with the name of the instance that gave it.
        Err(_) if target.starts_with("/status/") => Value::Null,
        Err(_) => json!(response.text()),
    };
    let mut headers = kept(response.headers.into_iter(), RESPONSE_HEADERS_MAY_DIFFER);
    if let Some(took) = headers.get_mut("x-envoy-upstream-service-time") {
        // A duration: both must tell one.
        *took = took.parse::<u32>().map_or_else(|_| took.clone(), |_| "milliseconds".to_owned());
    }
    if upstream.is_object() {
        // The echo tells all request headers, also those that differ; its length says nothing.
        headers.remove("content-length");
    }
    Seen { status: response.status, headers, upstream }
}

/// Envoy, run on what `celerity translate` prints, its outbound listener on another port.
fn envoy(binary: &std::path::Path, folder: &TempDir) -> (Process, SocketAddr) {
    let printed = process::run(Command::new(BINARY).args(["translate", "--format", "json"]).arg(folder.path()));
    let mut bootstrap: Value = serde_json::from_str(&printed).expect("JSON");
    let port = free_port();
    let admin = free_port();
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().expect("listeners");
    listeners.retain(|listener| listener["name"] == "outbound");
    let address = &mut listeners[0]["address"];
    let key = if address["socketAddress"].is_object() {
        ("socketAddress", "portValue")
    } else {
        ("socket_address", "port_value")
    };
    address[key.0][key.1] = json!(port);
    bootstrap["admin"] = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}});
    let own = TempDir::new();
    let path = own.write("envoy.json", &bootstrap.to_string());
    let mut command = Command::new(binary);
    command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning", "-c"]).arg(path);
    let mut process = Process::start(&mut command);
    process.wait_for_ok(loopback(admin), "/ready");
    (process, loopback(port))
}

/// Five instances of each service, three of version 1, and the rules: the YAML, and the instances to keep running.
fn mesh() -> (String, Vec<Upstream>) {
    let names = ["v1-a", "v1-b", "v1-c", "v2-a", "v2-b"];
    let upstreams: Vec<Upstream> = names.into_iter().map(Upstream::start).collect();
    let instances: Vec<(&Upstream, &str)> = upstreams
        .iter()
        .zip(names)
        .map(|(u, name)| (u, if name.starts_with("v1") { "version: v1" } else { "version: v2" }))
        .collect();
    let services = ["user-service", "cart", "weighted"].map(|name| service(name, &instances));
    let yaml = documents(&[&services[0], &services[1], &services[2], RULES]);
    (yaml, upstreams)
}

#[test]
fn envoy_and_celerity_answer_alike() {
    let Some(binary) = peer("envoy") else { return };
    let (yaml, _upstreams) = mesh();
    let sidecar = Sidecar::start(&yaml);
    let (_envoy, theirs) = envoy(&binary, &sidecar.config);

    let mut differ = Vec::new();
    for request in REQUESTS {
        let (one, other) = (observe(theirs, *request), observe(sidecar.outbound, *request));
        if one != other {
            differ.push(format!("{request:?}\n  Envoy's: {one:?}\n  ours:    {other:?}"));
        }
    }
    assert!(differ.is_empty(), "{} of {} differ:\n{}", differ.len(), REQUESTS.len(), differ.join("\n"));

    // 80 to 20: of 1,000 requests 200 go to v2, give or take five standard deviations (12.6).
    for (who, address) in [("Envoy", theirs), ("Celerity", sidecar.outbound)] {
        let mut client = Client::connect(address).expect("a connection");
        let mut to_v2 = || client.get("weighted", "/echo").expect("an answer").text().contains("\"v2-");
        let to_v2 = (0..1000).filter(|_| to_v2()).count();
        assert!((137..=263).contains(&to_v2), "{who} sent {to_v2} of 1,000 to v2");
    }
}

#[test]
fn the_same_key_goes_to_the_same_endpoint() {
    let Some(binary) = peer("envoy") else { return };
    let (yaml, _upstreams) = mesh();
    let sidecar = Sidecar::start(&yaml);
    let (_envoy, theirs) = envoy(&binary, &sidecar.config);
    let instance = |address: SocketAddr, host: &str, id: &str| {
        let answer =
            Client::connect(address).and_then(|mut c| c.request("GET", host, "/echo", &[("x-user-id", id)], b""));
        answer.expect("an answer").json()["instance"].as_str().unwrap_or("").to_owned()
    };
    for host in ["user-service", "cart"] {
        for number in 0..100 {
            let id = format!("user-{number}");
            assert_eq!(instance(theirs, host, &id), instance(sidecar.outbound, host, &id), "{host}, {id}");
        }
    }
}
