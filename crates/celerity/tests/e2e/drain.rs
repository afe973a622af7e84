//! A proxy that is told to go: nothing that it was asked is lost.
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use celerity_testkit::{Client, Response, Upstream, free_port};

use crate::mtls::{Authority, caller, mesh, server};
use crate::support::{PATIENCE, Sidecar, documents, eventually, loopback, service};

/// What one client saw.
#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    told_to_close: u64,
    lost: Vec<String>,
}

/// Asks one request after the other until nothing listens any more. `keeps`: on one connection, as long as it may.
fn ask_until_refused(sidecar: std::net::SocketAddr, keeps: bool, answered: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let deadline = Instant::now() + PATIENCE;
    let fields: &[(&str, &str)] = if keeps { &[] } else { &[("Connection", "close")] };
    while Instant::now() < deadline {
        let mut client = match Client::connect(sidecar) {
            Ok(client) => client,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return seen,
            Err(error) => {
                seen.lost.push(format!("connecting: {error}"));
                continue;
            }
        };
        loop {
            match client.request("GET", "user-service", "/delay/2", fields, b"") {
                Ok(Response { status: 200, headers, .. }) => {
                    seen.answers += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                    if headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("connection") && value == "close") {
                        seen.told_to_close += 1;
                        break;
                    }
                }
                Ok(other) => seen.lost.push(format!("status {}", other.status)),
                Err(error) => {
                    seen.lost.push(format!("asking: {error}"));
                    break;
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
    }
    seen.lost.push("the port was never closed".to_owned());
    seen
}

#[test]
fn nothing_is_lost_while_the_proxy_leaves() {
    let upstream = Upstream::start("one");
    let mut sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut idle = sidecar.client();
    assert_eq!(idle.get("user-service", "/").expect("an answer").header("connection"), None);
    let answered = AtomicU64::new(0);
    let (outbound, admin) = (sidecar.outbound, sidecar.admin);
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let answered = &answered;
        let clients: Vec<_> =
            (0..8).map(|nth| scope.spawn(move || ask_until_refused(outbound, nth % 2 == 0, answered))).collect();
        eventually("the load runs", || answered.load(Ordering::Relaxed) > 100);
        sidecar.process.signal("TERM");
        eventually("it says that it goes", || celerity_testkit::client::get(admin, "h", "/ready").status == 503);
        let before = answered.load(Ordering::Relaxed);
        eventually("it goes on accepting", || answered.load(Ordering::Relaxed) > before + 100);
        let last = idle.get("user-service", "/").expect("a connection that was idle is still answered");
        assert_eq!((last.status, last.header("connection")), (200, Some("close")));
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    for seen in &seen {
        assert!(seen.lost.is_empty(), "{seen:?}");
        assert!(seen.answers > 0 && seen.told_to_close > 0, "{seen:?}");
    }
    assert!(sidecar.process.wait(PATIENCE).success());
}

#[test]
fn nothing_is_lost_over_mutual_tls() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    // Without retries, which would hide what is lost between the two.
    let yaml = documents(&[
        &mesh(inbound, &application, "STRICT"),
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: user-service, namespace: default}\nspec:\n  \
         hosts: [user-service]\n  http: [{retries: {attempts: 0}, route: [{destination: {host: user-service}}]}]\n",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: user-service, namespace: default}\nspec:\n  \
         host: user-service\n  trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}\n",
    ]);
    let mut server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    let answered = AtomicU64::new(0);
    let refused: Vec<Response> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = caller.client();
                    loop {
                        let answer = client.get("user-service", "/delay/5").expect("an answer");
                        if answer.status != 200 {
                            return answer;
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        eventually("the load runs", || answered.load(Ordering::Relaxed) > 20);
        server.process.signal("TERM");
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    for answer in refused {
        assert!(answer.text().contains("refused"), "{} {}", answer.status, answer.text());
    }
    assert!(server.process.wait(PATIENCE).success());
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A GET of `path` at user-service, whole: indexed `:method` and `:scheme`, the rest as literals (RFC 7541, appendix A).
fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(1, "user-service"), (4, path)] {
        block.extend_from_slice(&[index, value.len() as u8]);
        block.extend_from_slice(value.as_bytes());
    }
    frame(HEADERS, 0x4 | END_STREAM, stream, &block)
}

struct Http2(TcpStream);

impl Http2 {
    fn connect(address: std::net::SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("sent");
        let mut client = Self(stream);
        client.send(&frame(SETTINGS, 0, 0, b""));
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// The next frame: kind, flags, stream, payload. `None` at the end of the connection.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }
}

#[test]
fn http2_clients_get_goaway_and_their_answers() {
    let upstream = Upstream::start("one");
    let mut sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let mut client = Http2::connect(sidecar.outbound);
    client.send(&get(1, "/delay/700"));
    eventually("the request is upstream", || upstream.requests() == 1);
    sidecar.process.signal("TERM");
    let (mut ended, mut goaways) = (Vec::new(), Vec::new());
    while let Some((kind, flags, stream, payload)) = client.next() {
        match kind {
            GOAWAY => {
                goaways.push(u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]));
                if goaways.len() == 1 {
                    // It crosses the GOAWAY: the client has not heard of it.
                    client.send(&get(3, "/bytes/10"));
                }
            }
            PING if flags == 0 => client.send(&frame(PING, 1, 0, &payload)),
            HEADERS => assert_eq!(payload.first(), Some(&0x88), "status 200"),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            ended.push(stream);
        }
    }
    ended.sort_unstable();
    assert_eq!((ended, goaways), (vec![1, 3], vec![u32::MAX >> 1, 3]));
    assert!(sidecar.process.wait(PATIENCE).success());
}

#[test]
fn an_open_http2_connection_follows_a_changed_idle_timeout() {
    let upstream = Upstream::start("one");
    let services = service("user-service", &[(&upstream, "version: v1")]);
    let with = |idle: &str| {
        let mesh = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: celerity, namespace: default}}\ndata:\n  config.yaml: |\n    \
             proxy: {{proxyMetadata: {{ISTIO_META_IDLE_TIMEOUT: \"{idle}\"}}}}"
        );
        documents(&[&services, &mesh])
    };
    let sidecar = Sidecar::start(&with("3600s"));
    let mut client = Http2::connect(sidecar.outbound);
    client.send(&get(1, "/bytes/10"));
    while client.next().expect("an answer").1 & END_STREAM == 0 {}
    sidecar.config.write("mesh.yaml", &with("1s"));
    let since = Instant::now();
    let mut goaway = false;
    while let Some((kind, flags, _, payload)) = client.next() {
        goaway |= kind == GOAWAY;
        if kind == PING && flags == 0 {
            client.send(&frame(PING, 1, 0, &payload));
        }
    }
    assert!(goaway && since.elapsed() < PATIENCE, "it is told to go, and soon");
    assert!(since.elapsed() > Duration::from_millis(900), "not before its time");
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let upstream = Upstream::start("one");
    let mut sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let outbound = sidecar.outbound;
    let asked =
        std::thread::spawn(move || celerity_testkit::client::get(outbound, "user-service", "/delay/500").status);
    eventually("the request is under way", || upstream.requests() == 1);
    sidecar.process.signal("TERM");
    std::thread::sleep(Duration::from_millis(50));
    sidecar.process.signal("TERM");
    assert_eq!(asked.join().expect("an answer"), 200);
    assert!(sidecar.process.wait(PATIENCE).success());
}
