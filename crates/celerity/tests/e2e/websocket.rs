//! WebSocket through one sidecar and through two, with a real client and a real server; what a switch of protocols must
//! not do, with scripted ones.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use celerity_testkit::free_port;
use celerity_testkit::raw::{End, Server, Step, exchange};

use crate::mtls::{Authority, caller, mesh_of, server};
use crate::support::{Sidecar, eventually, loopback, python_client, python_server};

const MODULES: &[&str] = &["websockets"];

#[test]
fn websocket_passes_one_sidecar() {
    let Some((_peer, address)) = python_server("websocket.py", MODULES) else { return };
    let sidecar = Sidecar::start(&service_at("chat", address));
    let port = sidecar.outbound.port().to_string();
    assert!(python_client("websocket.py", MODULES, &[&port, "chat"]).contains("websocket ok"));
    let metrics = sidecar.admin("/stats/prometheus");
    assert!(metrics.contains("envoy_http_downstream_cx_upgrades_total 4"), "four of five were granted: {metrics}");
}

#[test]
fn websocket_passes_two_sidecars_with_mutual_tls() {
    let Some((_peer, address)) = python_server("websocket.py", MODULES) else { return };
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh_of(inbound, address, "STRICT", "HTTP");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    // The sidecars speak HTTP/2 with each other; an upgrade needs, and gets, a connection of HTTP/1.1.
    assert_ne!(caller.get("user-service", "/").status, 101);
    let port = caller.outbound.port().to_string();
    assert!(python_client("websocket.py", MODULES, &[&port, "user-service"]).contains("websocket ok"));
}

/// A service with one endpoint, which is no testkit upstream.
fn service_at(name: &str, address: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         hosts: [{name}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, \
         number: 80, protocol: HTTP}}]\n  endpoints: [{{address: {}, ports: {{http: {}}}}}]\n",
        address.ip(),
        address.port()
    )
}

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: chat\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const GRANT: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn ask(sidecar: &Sidecar) -> (TcpStream, String) {
    let mut client = TcpStream::connect(sidecar.outbound).expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    client.write_all(ASK).expect("sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    (client, String::from_utf8_lossy(&head).into_owned())
}

#[test]
fn the_handshake_goes_through_as_it_is_and_each_side_may_end_first() {
    let granting = Server::start(vec![
        vec![
            Step::Hear(b"\r\n\r\n".to_vec()),
            Step::Say([GRANT, b"early"].concat()),
            Step::Hear(b"last words".to_vec()),
            Step::Say(b"heard".to_vec()),
        ],
        vec![
            Step::Hear(b"\r\n\r\n".to_vec()),
            Step::Say(GRANT.to_vec()),
            Step::HalfClose,
            Step::Hear(b"late".to_vec()),
        ],
    ]);
    let sidecar = Sidecar::start(&service_at("chat", granting.address()));
    let (mut client, head) = ask(&sidecar);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="] {
        assert!(head.lines().any(|line| line == field), "{field} in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    // The client ends its side; the server still answers.
    client.write_all(b"last words").expect("sent");
    client.shutdown(Shutdown::Write).expect("half closed");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(String::from_utf8_lossy(&rest), "earlyheard");

    // The server ends its side; the client still speaks.
    let (mut client, head) = ask(&sidecar);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client.read(&mut [0; 8]).expect("an orderly end"), 0);
    client.write_all(b"late").expect("sent");
    drop(client);
    let heard = granting.heard();
    let first = String::from_utf8_lossy(&heard[0]).into_owned();
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="] {
        assert!(first.lines().any(|line| line == field), "{field} in {first}");
    }
    assert!(heard[1].ends_with(b"late"));
}

#[test]
fn an_upgrade_to_an_upstream_of_http2_says_why_it_fails() {
    // What such a server says to HTTP/1.1: SETTINGS, and GOAWAY with PROTOCOL_ERROR.
    let http2 = [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
    let upstream = Server::start(vec![vec![Step::Hear(b"\r\n\r\n".to_vec()), Step::Say(http2)]]);
    let sidecar = Sidecar::start(&service_at("chat", upstream.address()).replace("protocol: HTTP", "protocol: HTTP2"));
    let (said, _) = exchange(sidecar.outbound, ASK, Duration::from_secs(2)).expect("an exchange");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("HTTP/1.1 502 ") && said.contains("is configured for HTTP/2"), "{said}");
}

#[test]
fn only_an_upgrade_that_was_asked_for_and_granted_switches() {
    let answer = |text: &str| vec![Step::Hear(b"\r\n\r\n".to_vec()), Step::Say(text.as_bytes().to_vec())];
    let upstream = Server::start(vec![
        answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"),
        answer("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"),
        answer("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    ]);
    let sidecar = Sidecar::start(&service_at("chat", upstream.address()));
    // Another answer is relayed as it is, and the connection stays HTTP.
    let follow = [ASK, b"GET /next HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n"].concat();
    let (said, end) = exchange(sidecar.outbound, &follow, Duration::from_secs(20)).expect("an exchange");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("HTTP/1.1 503 "), "{said}");
    assert_eq!(end, End::Closed);
    // A switch to something else, and one that nobody asked for.
    for request in [ASK, b"GET / HTTP/1.1\r\nHost: chat\r\nConnection: close\r\n\r\n"] {
        let (said, _) = exchange(sidecar.outbound, request, Duration::from_secs(2)).expect("an exchange");
        assert!(said.starts_with(b"HTTP/1.1 502 "), "{}", String::from_utf8_lossy(&said));
    }
    // What is no upgrade of RFC 6455 never leaves.
    let with_body = String::from_utf8_lossy(ASK).replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    let post = String::from_utf8_lossy(ASK).replace("GET", "POST");
    for request in [with_body, post] {
        let (said, end) = exchange(sidecar.outbound, request.as_bytes(), Duration::from_secs(20)).expect("an exchange");
        assert!(said.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&said));
        assert_eq!(end, End::Closed);
    }
}

#[test]
fn an_upgrade_that_is_not_configured_is_refused() {
    let upstream = celerity_testkit::Upstream::start("one");
    let off = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: off, namespace: default}\n\
        spec:\n  configPatches:\n  - applyTo: NETWORK_FILTER\n    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: \
        {filter: {name: envoy.filters.network.http_connection_manager}}}}\n    patch: {operation: MERGE, value: {typed_config: \
        {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
        upgrade_configs: [{upgrade_type: websocket, enabled: false}]}}}\n";
    let sidecar = Sidecar::start(&crate::support::documents(&[&service_at("chat", upstream.address()), off]));
    let (_, head) = ask(&sidecar);
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn a_silent_tunnel_ends_at_the_stream_idle_timeout_and_a_slow_reader_holds_the_writer_back() {
    let listener = TcpListener::bind(loopback(0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let idle = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: idle, namespace: default}\n\
        spec:\n  configPatches:\n  - applyTo: NETWORK_FILTER\n    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: \
        {filter: {name: envoy.filters.network.http_connection_manager}}}}\n    patch: {operation: MERGE, value: {typed_config: \
        {'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
        stream_idle_timeout: 1s}}}\n";
    let log = celerity_testkit::TempDir::new();
    let log = log.path().join("access.log");
    let sidecar = Sidecar::start_with(
        &crate::support::documents(&[&service_at("chat", address), idle]),
        &["--inbound", "off", "--access-log", &log.display().to_string()],
    );
    let upstream = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a limit");
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            seen.push(byte[0]);
        }
        stream.write_all(GRANT).expect("granted");
        // Nobody reads: the buffers on the way fill, and then writing blocks.
        let (mut sent, piece) = (0_u64, [7; 65_536]);
        while let Ok(count) = stream.write(&piece) {
            sent += count as u64;
            assert!(sent < 256 << 20, "nothing holds the writer back");
        }
        stream.set_write_timeout(None).expect("no limit");
        let closed = matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_));
        (sent, closed)
    });
    let (_client, head) = ask(&sidecar);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (sent, closed) = upstream.join().expect("the server ends");
    assert!(sent > 0 && closed);
    eventually("the tunnel is in the log", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"response_code\":101") && text.contains("SI")
    });
}
