//! What the access log and the client are told when something goes wrong: the same as Envoy says.
use std::path::PathBuf;
use std::time::Duration;

use celerity_testkit::raw::{self, Server, Step};
use celerity_testkit::{TempDir, Upstream, client};

use crate::cache::{answer, origins};
use crate::support::{PATIENCE, Sidecar, documents, eventually, service};

/// A sidecar whose access log can be read.
struct Logged {
    sidecar: Sidecar,
    log: PathBuf,
    _folder: TempDir,
}

impl Logged {
    fn start(parts: &[&str]) -> Self {
        let folder = TempDir::new();
        let log = folder.path().join("access.log");
        let arguments = ["--inbound", "off", "--access-log", &log.display().to_string()];
        Self { sidecar: Sidecar::start_with(&documents(parts), &arguments), log, _folder: folder }
    }

    /// The lines so far.
    fn all(&self) -> Vec<serde_json::Value> {
        let lines = std::fs::read_to_string(&self.log).unwrap_or_default();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Those of every request to this path.
    fn lines(&self, path: &str) -> Vec<serde_json::Value> {
        self.all().into_iter().filter(|line| line["path"] == path).collect()
    }

    fn flags(&self, path: &str) -> Vec<String> {
        self.lines(path).iter().map(|line| line["response_flags"].as_str().unwrap_or("-").to_owned()).collect()
    }

    fn says(&self, path: &str, flags: &str) {
        eventually(&format!("{path} is logged"), || !self.flags(path).is_empty());
        assert!(self.flags(path).iter().all(|seen| seen == flags), "{path}: {:?}, not {flags}", self.flags(path));
    }
}

fn routed(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  hosts: [user-service]\n  http: [{{{http}, route: [{{destination: {{host: user-service}}}}]}}]\n"
    )
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: user-service, namespace: default}}\n\
         spec:\n  host: user-service\n  trafficPolicy: {{{policy}}}\n"
    )
}

const NO_RETRIES: &str = "retries: {attempts: 0}";

#[test]
fn a_retry_gives_its_unit_of_the_limit_back_before_the_next_takes_one() {
    for policy in ["connectionPool: {http: {maxRetries: 1}}", "retryBudget: {percent: 0, minRetryConcurrency: 1}"] {
        let bad = Upstream::start("bad");
        bad.answer_with(503);
        let services = service("user-service", &[(&bad, "version: v1")]);
        let retries = routed("retries: {attempts: 3, retryOn: '5xx'}");
        let logged = Logged::start(&[&services, &rule(policy), &retries]);
        assert_eq!(logged.sidecar.get("user-service", "/x").status, 503);
        assert_eq!(bad.requests(), 4, "{policy}");
        logged.says("/x", "URX");
    }
}

#[test]
fn what_had_no_place_to_wait_names_no_host() {
    let slow = Upstream::start("slow");
    slow.delay(Duration::from_millis(400));
    let services = service("user-service", &[(&slow, "version: v1")]);
    let policy = rule("connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}");
    let logged = Logged::start(&[&services, &policy, &routed(NO_RETRIES)]);
    let asked = || logged.sidecar.get("user-service", "/x").status;
    let seen: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(asked)).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    // One that waits for its connection to open has the only place, as in Envoy.
    assert!(seen.contains(&200) && seen.contains(&503), "{seen:?}");
    eventually("all four are logged", || logged.flags("/x").len() == 4);
    for line in logged.lines("/x") {
        assert_eq!(line["upstream_host"].is_null(), line["response_flags"] == "UO", "{line}");
        assert!(line["upstream_cluster"].is_string());
    }
}

#[test]
fn a_retry_that_the_circuit_breaker_refuses_says_so() {
    let bad = Upstream::start("bad");
    bad.answer_with(503);
    bad.delay(Duration::from_millis(400));
    let services = service("user-service", &[(&bad, "version: v1")]);
    let policy = rule("connectionPool: {http: {maxRetries: 1}}");
    let logged = Logged::start(&[&services, &policy, &routed("retries: {attempts: 1, retryOn: '5xx'}")]);
    let asked = || logged.sidecar.get("user-service", "/x");
    let seen: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(asked)).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    // The upstream's answer came: nothing was dropped.
    assert!(seen.iter().all(|seen| seen.status == 503 && seen.header("x-envoy-overloaded").is_none()));
    eventually("all four are logged", || logged.flags("/x").len() == 4);
    let flags = logged.flags("/x");
    assert!(flags.iter().any(|flags| flags == "UO") && flags.iter().any(|flags| flags == "URX"), "{flags:?}");
}

#[test]
fn what_a_circuit_breaker_drops_is_marked() {
    let slow = Upstream::start("slow");
    slow.delay(Duration::from_millis(600));
    let services = service("user-service", &[(&slow, "version: v1")]);
    let policy = rule("connectionPool: {http: {http2MaxRequests: 1}}");
    let logged = Logged::start(&[&services, &policy, &routed(NO_RETRIES)]);
    let seen: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| logged.sidecar.get("user-service", "/x"))).collect();
        all.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    let marked = |seen: &celerity_testkit::Response| seen.header("x-envoy-overloaded") == Some("true");
    assert!(seen.iter().any(|seen| seen.status == 503));
    assert!(seen.iter().all(|seen| marked(seen) == (seen.status == 503)), "{seen:?}");
}

#[test]
fn the_log_says_why_in_words_that_can_be_counted() {
    let upstream = Upstream::start("one");
    let services = documents(&[
        &service("user-service", &[(&upstream, "version: v1")]),
        &service("refused", &[(&upstream, "version: v1")])
            .replace(&upstream.address().port().to_string(), &celerity_testkit::free_port().to_string()),
    ]);
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: user-service, namespace: default}\n\
         spec:\n  hosts: [user-service]\n  http:\n  - {match: [{uri: {prefix: /teapot}}], directResponse: {status: 418}}\n  \
         - {match: [{uri: {prefix: /abort}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: \
         [{destination: {host: user-service}}]}\n  - {timeout: 0.3s, retries: {attempts: 0}, route: [{destination: {host: \
         user-service}}]}\n";
    let logged = Logged::start(&[&services, routes]);
    for (host, path, flags, details) in [
        ("user-service", "/status/200", "-", "via_upstream"),
        ("user-service", "/teapot", "-", "direct_response"),
        ("user-service", "/abort", "FI", "fault_filter_abort"),
        ("user-service", "/delay/2000", "UT", "response_timeout"),
        ("user-service", "/drop", "UC", "upstream_reset_before_response_started{connection_termination}"),
        ("user-service", "/half/10", "UPE", "upstream_reset_after_response_started{protocol_error}"),
        ("refused", "/refused", "URX,UF", "upstream_reset_before_response_started{remote_connection_failure}"),
        ("nobody", "/nobody", "UH", "no_healthy_upstream"),
    ] {
        let trace = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
        let _ = logged.sidecar.client().request("GET", host, path, &trace, b"");
        logged.says(path, flags);
        let line = &logged.lines(path)[0];
        assert_eq!(line["response_code_details"], details, "{line}");
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(line["failure"].is_null(), ["-", "FI"].contains(&flags), "{line}");
        let reached = host == "user-service" && !["/teapot", "/abort"].contains(&path);
        assert_eq!(line["upstream_local_address"].is_string(), reached, "{line}");
        assert_eq!(line["upstream_transport_failure_reason"].is_string(), host == "refused", "{line}");
    }
}

/// Bytes of an HTTP/2 server: its settings, once the client's first request is there.
fn http2_answers(frames: &[u8]) -> Vec<Step> {
    // HEADERS with END_STREAM and END_HEADERS on stream 1.
    let request = [1, 5, 0, 0, 0, 1];
    vec![
        Step::Hear(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        Step::Say(vec![0, 0, 0, 4, 0, 0, 0, 0, 0]),
        Step::Hear(request.to_vec()),
        Step::Say(frames.to_vec()),
        // The connection stays: only the stream ended.
        Step::Hear(b"nothing more comes".to_vec()),
    ]
}

/// RST_STREAM of stream 1.
const fn reset(code: u8) -> [u8; 13] {
    [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code]
}

#[test]
fn a_stream_that_the_upstream_resets_is_no_lost_connection() {
    let internal_error = reset(2);
    let head = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    let data = [0, 0, 2, 0, 0, 0, 0, 0, 1, b'h', b'i'];
    let half = [&head[..], &data, &internal_error].concat();
    for (path, frames, status, flags) in [("/reset", &internal_error[..], 503, "UR"), ("/half", &half, 200, "UR")] {
        let server = Server::start(vec![http2_answers(frames)]);
        let services = origins(&[(&server, "v1")]).replace("name: http,", "name: http2,").replace("{http:", "{http2:");
        let services = services.replace("protocol: HTTP}", "protocol: HTTP2}");
        let logged = Logged::start(&[&services, &routed(NO_RETRIES)]);
        let request = format!("GET {path} HTTP/1.1\r\nHost: user-service\r\nConnection: close\r\n\r\n");
        let (heard, _) = raw::exchange(logged.sidecar.outbound, request.as_bytes(), PATIENCE).expect("an answer");
        let heard = String::from_utf8_lossy(&heard);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{heard}");
        assert!(status == 200 || heard.contains("reset reason: remote reset"), "{heard}");
        logged.says(path, flags);
    }
}

#[test]
fn a_response_that_is_cut_off_breaks_the_protocol() {
    for (path, said, status) in [
        ("/head", "HTTP/1.1 20", 502),
        ("/body", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 200),
        ("/chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", 200),
    ] {
        let server = Server::start(vec![answer(said)]);
        let logged = Logged::start(&[&origins(&[(&server, "v1")]), &routed(NO_RETRIES)]);
        let request = format!("GET {path} HTTP/1.1\r\nHost: user-service\r\nConnection: close\r\n\r\n");
        let (heard, _) = raw::exchange(logged.sidecar.outbound, request.as_bytes(), PATIENCE).expect("an answer");
        let heard = String::from_utf8_lossy(&heard);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {heard}");
        logged.says(path, "UPE");
    }
}

fn manager(settings: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: times, namespace: default}}\nspec:\n  \
         configPatches:\n  - applyTo: NETWORK_FILTER\n    match: {{context: SIDECAR_OUTBOUND, listener: {{filterChain: {{filter: \
         {{name: envoy.filters.network.http_connection_manager}}}}}}}}\n    patch: {{operation: MERGE, value: {{typed_config: \
         {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         {settings}}}}}}}\n"
    )
}

/// A request whose body never comes whole.
fn unfinished(sidecar: &Sidecar, path: &str) -> String {
    let request = format!("POST {path} HTTP/1.1\r\nHost: user-service\r\nContent-Length: 10\r\n\r\nabc");
    let (heard, end) = raw::exchange(sidecar.outbound, request.as_bytes(), PATIENCE).expect("an answer");
    assert_eq!(end, raw::End::Closed);
    String::from_utf8_lossy(&heard).into_owned()
}

#[test]
fn who_is_waited_for_decides_between_408_and_504() {
    let upstream = Upstream::start("one");
    let services = service("user-service", &[(&upstream, "version: v1")]);
    for (settings, whole, part) in [
        ("stream_idle_timeout: 0.3s", "SI", "SI"),
        ("common_http_protocol_options: {max_stream_duration: 0.3s}", "-", "-"),
        ("request_timeout: 0.3s", "-", "-"),
    ] {
        let logged = Logged::start(&[&services, &manager(settings), &routed(NO_RETRIES)]);
        let heard = unfinished(&logged.sidecar, "/part");
        assert!(heard.starts_with("HTTP/1.1 408"), "{settings}: {heard}");
        logged.says("/part", part);
        let status = client::get(logged.sidecar.outbound, "user-service", "/delay/1500").status;
        // A request that has come is no longer waited for.
        assert_eq!(status, if settings.starts_with("request") { 200 } else { 504 }, "{settings}");
        logged.says("/delay/1500", whole);
    }
}

#[test]
fn the_times_of_a_request_begin_with_its_first_byte() {
    let upstream = Upstream::start("one");
    let services = service("user-service", &[(&upstream, "version: v1")]);
    for (settings, details, flag) in [
        ("stream_idle_timeout: 0.3s", "stream_idle_timeout", "SI"),
        ("common_http_protocol_options: {max_stream_duration: 0.3s}", "max_duration_timeout", "-"),
        ("request_timeout: 0.3s", "request_overall_timeout", "-"),
        ("request_headers_timeout: 0.3s, stream_idle_timeout: 9s", "request_header_timeout", "-"),
    ] {
        let logged = Logged::start(&[&services, &manager(settings), &routed(NO_RETRIES)]);
        // The second request of a connection, of whose head the first half comes.
        let request = "GET /echo HTTP/1.1\r\nHost: user-service\r\n\r\nPOST /part HTTP/1.1\r\nHost: user-";
        let (heard, end) = raw::exchange(logged.sidecar.outbound, request.as_bytes(), PATIENCE).expect("an answer");
        assert_eq!(end, raw::End::Closed);
        assert!(String::from_utf8_lossy(&heard).contains("HTTP/1.1 408"), "{settings}");
        eventually("it is logged", || logged.all().iter().any(|line| line["response_code"] == 408));
        let lines = logged.all();
        let line = lines.iter().find(|line| line["response_code"] == 408).expect("the line");
        let shown = (line["response_code_details"].as_str(), line["response_flags"].as_str());
        assert_eq!(shown, (Some(details), Some(flag)), "{settings}");
    }
}

#[test]
fn a_grpc_failure_in_the_head_counts_for_outlier_detection() {
    let failure = || {
        answer(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
    };
    let server = Server::start((0..8).map(|_| failure()).collect());
    let policy = rule(
        "outlierDetection: {consecutive5xxErrors: 2, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}",
    );
    let sidecar = Sidecar::start(&documents(&[&origins(&[(&server, "v1")]), &policy, &routed(NO_RETRIES)]));
    let mut ejected_after = 0;
    for nth in 0..8 {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let seen = sidecar.client().request("POST", "user-service", "/a.B/C", &headers, b"").expect("an answer");
        assert_eq!((seen.status, seen.header("grpc-status")), (200, Some("14")));
        if seen.header("grpc-message").is_some_and(|message| message.contains("no healthy upstream")) {
            ejected_after = nth;
            break;
        }
    }
    assert_eq!(ejected_after, 2);
}

#[test]
fn a_request_for_a_websocket_is_not_mirrored() {
    let (upstream, shadow) = (Upstream::start("one"), Upstream::start("shadow"));
    let services = documents(&[
        &service("user-service", &[(&upstream, "version: v1")]),
        &service("shadow", &[(&shadow, "version: v1")]),
    ]);
    let sidecar = Sidecar::start(&documents(&[&services, &routed("mirror: {host: shadow}")]));
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let refused = sidecar.client().request("GET", "user-service", "/socket", &upgrade, b"").expect("an answer");
    assert_eq!(refused.status, 200);
    assert_eq!(sidecar.get("user-service", "/plain").status, 200);
    eventually("the other is mirrored", || shadow.heads().iter().any(|head| head.contains("/plain")));
    assert!(!shadow.heads().iter().any(|head| head.contains("/socket")), "{:?}", shadow.heads());
}

#[test]
fn a_put_is_sent_again_on_a_connection_that_was_closed_under_it() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut client = sidecar.client();
    assert_eq!(client.get("user-service", "/first").expect("an answer").status, 200);
    upstream.close_idle_under_request(true);
    let seen = client.request("PUT", "user-service", "/x", &[], b"some words").expect("an answer");
    assert_eq!((seen.status, seen.json()["body"].as_str()), (200, Some("some words")));
    assert_eq!(upstream.accepted(), 2);
}

#[test]
fn what_is_refused_is_in_the_log_too() {
    let upstream = Upstream::start("one");
    let logged = Logged::start(&[&service("user-service", &[(&upstream, "version: v1")])]);
    for (request, status, details, flags) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "codec_error",
            "DPE",
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, "codec_error", "DPE"),
        ("CONNECT user-service:80 HTTP/1.1\r\nHost: user-service:80\r\n\r\n", 405, "connect_not_supported", "-"),
    ] {
        let seen = || logged.all().iter().filter(|line| line["response_code"] == status).count();
        let before = seen();
        let (heard, _) = raw::exchange(logged.sidecar.outbound, request.as_bytes(), PATIENCE).expect("an answer");
        assert!(heard.starts_with(format!("HTTP/1.1 {status}").as_bytes()));
        eventually("it is logged", || seen() == before + 1);
        let lines = logged.all();
        let line = lines.last().expect("a line");
        assert_eq!(
            (line["response_code_details"].as_str(), line["response_flags"].as_str()),
            (Some(details), Some(flags))
        );
        assert!(line["failure"].as_str().is_some_and(|why| !why.is_empty()), "{line}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn what_is_refused_over_http2_is_in_the_log_too() {
    let upstream = Upstream::start("one");
    let logged = Logged::start(&[&service("user-service", &[(&upstream, "version: v1")])]);
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    // GET http://user-service/up, and then a field name in capitals, or a frame of half a window update.
    let head = [&[0x82, 0x86, 0x04, 3][..], b"/up", &[0x01, 12], b"user-service", &[0, 3], b"X-A", &[1], b"b"].concat();
    let request = [&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1][..], &head].concat();
    let broken = [0, 0, 1, 8, 0, 0, 0, 0, 0, 0];
    for (frames, path) in [(&request[..], "/up"), (&broken, "")] {
        let before = logged.all().len();
        let sent = [&preface, frames].concat();
        let _ = raw::exchange(logged.sidecar.outbound, &sent, Duration::from_secs(1));
        eventually("it is logged", || logged.all().len() > before);
        let lines = logged.all();
        let line = lines.last().expect("a line");
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        let shown = (text("protocol"), text("path"), text("response_code_details"), text("response_flags"));
        assert_eq!(shown, ("HTTP/2", path, "codec_error", "DPE"), "{line}");
        assert!(line["response_code"] == 0 && !text("failure").is_empty(), "{line}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn the_log_has_the_path_that_was_asked_for() {
    let upstream = Upstream::start("one");
    let rewriting = routed("match: [{uri: {prefix: /api/}}], rewrite: {uri: /}");
    let logged = Logged::start(&[&service("user-service", &[(&upstream, "version: v1")]), &rewriting]);
    assert_eq!(logged.sidecar.get("user-service", "/api/echo?x=1").status, 200);
    logged.says("/api/echo?x=1", "-");
    assert!(upstream.heads()[0].starts_with("GET /echo?x=1 "));
}

#[test]
fn a_log_that_was_moved_away_is_opened_anew() {
    let upstream = Upstream::start("one");
    let logged = Logged::start(&[&service("user-service", &[(&upstream, "version: v1")])]);
    logged.sidecar.get("user-service", "/before");
    logged.says("/before", "-");
    std::fs::rename(&logged.log, logged.log.with_extension("1")).expect("moved");
    // A closed terminal says this, and ends no sidecar.
    logged.sidecar.process.signal("HUP");
    logged.sidecar.process.signal("USR1");
    eventually("a new file has the lines", || {
        logged.sidecar.get("user-service", "/after");
        !logged.lines("/after").is_empty()
    });
}

#[test]
fn what_may_have_been_processed_is_not_sent_again_where_a_route_wants_no_retries() {
    let answered = || Step::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec());
    let request = || Step::Hear(b"\r\n\r\n".to_vec());
    for (route, status) in [(NO_RETRIES, 503), ("timeout: 10s", 200)] {
        let first = vec![request(), answered(), request()];
        let server = Server::start(vec![first, vec![request(), answered()]]);
        let sidecar = Sidecar::start(&documents(&[&origins(&[(&server, "v1")]), &routed(route)]));
        let mut client = sidecar.client();
        assert_eq!(client.get("user-service", "/first").expect("an answer").status, 200);
        assert_eq!(client.get("user-service", "/second").expect("an answer").status, status, "{route}");
    }
}
