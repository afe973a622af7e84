//! `celerity explain`: the same segments as curl's, and every hop of a mesh joined.
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use celerity_testkit::{TempDir, Upstream, free_port, peer, process};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;

use crate::mtls::{Authority, caller, mesh, server};
use crate::support::{BINARY, loopback};

/// What the scripted server waits before its part of the handshake, before its first byte, and within its body.
const HANDSHAKE: Duration = Duration::from_millis(150);
const FIRST_BYTE: Duration = Duration::from_millis(240);
const BODY: Duration = Duration::from_millis(120);
/// Two programs that measure the same script may differ by so much: less than a process pays once for its first random
/// numbers. The least of [`RUNS`] runs counts, so that a moment in which the machine is busy does not.
const TOLERANCE_S: f64 = 0.015;
const RUNS: usize = 5;

/// A TLS server that serves connections one after the other, each with the same waits.
fn scripted(connections: usize) -> (SocketAddr, JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let _ = serve(stream.expect("a connection"), config.clone());
        }
    });
    (address, thread)
}

fn serve(tcp: TcpStream, config: Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The client has said its part by then: what it needs for that is its own time, and not hidden in the wait.
    tcp.peek(&mut [0])?;
    std::thread::sleep(HANDSHAKE);
    let conn = rustls::ServerConnection::new(config).expect("a connection");
    let mut tls = rustls::StreamOwned::new(conn, tcp);
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = tls.read(&mut piece)?;
        heard.extend_from_slice(&piece[..count]);
    }
    std::thread::sleep(FIRST_BYTE);
    tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
    tls.flush()?;
    std::thread::sleep(BODY);
    tls.write_all(b"later")?;
    tls.conn.send_close_notify();
    tls.flush()
}

fn explain(arguments: &[&str]) -> Value {
    let text = process::run(Command::new(BINARY).arg("explain").args(["--format", "json"]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn its_segments_are_those_of_curl() {
    let Some(curl) = peer("curl") else { return };
    let names = ["time_namelookup", "time_connect", "time_appconnect", "time_starttransfer", "time_total"];
    let (address, thread) = scripted(2 * RUNS);
    let url = format!("https://localhost:{}/", address.port());
    let resolve = format!("localhost:{}:127.0.0.1", address.port());
    let mut least = [[f64::MAX; 5]; 2];
    for _ in 0..RUNS {
        let format = names.map(|name| format!("%{{{name}}}")).join(" ");
        let mut command = Command::new(&curl);
        command.args(["--silent", "--insecure", "--http1.1", "--output", "/dev/null", "--write-out", &format]);
        let text = process::run(command.args(["--resolve", &resolve, &url]));
        let told = text.split(' ').map(|word| word.replace(',', ".").parse::<f64>().expect("seconds"));
        least[0].iter_mut().zip(told).for_each(|(least, told)| *least = least.min(told));

        let ours = explain(&["-k", "--resolve", &resolve, &url]);
        let told = names.map(|name| ours["curl"][name].as_f64().expect("seconds"));
        least[1].iter_mut().zip(told).for_each(|(least, told)| *least = least.min(told));
        assert_eq!(ours["body_bytes"], 10);
    }
    thread.join().expect("the server");
    let segments = |times: [f64; 5]| {
        let [lookup, connect, tls, first, total] = times;
        [lookup, connect - lookup, tls - connect, first - tls, total - first]
    };
    let [curl, ours] = least.map(segments);
    let scripted = [0.0, 0.0, HANDSHAKE.as_secs_f64(), FIRST_BYTE.as_secs_f64(), BODY.as_secs_f64()];
    for ((name, (curl, ours)), scripted) in names.iter().zip(curl.iter().zip(ours)).zip(scripted) {
        // The least of each moment is not one run's: a segment may seem shorter by as much as one moment came early.
        assert!(ours >= scripted - TOLERANCE_S, "{name}: {ours} s is less than the script's {scripted} s");
        assert!((ours - curl).abs() <= TOLERANCE_S, "{name}: ours {ours} s, curl's {curl} s");
    }
}

/// A mesh of two sidecars with mutual TLS, and the application behind it.
#[test]
fn every_hop_of_a_mesh_is_there_and_the_parts_are_the_whole() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    let proxy = format!("http://{}", caller.outbound);
    let folder = TempDir::new();
    let page = folder.path().join("page.html").display().to_string();

    // The first request pays for the connection between the sidecars.
    for first in [true, false] {
        let found = explain(&["--proxy", &proxy, "--html", &page, "http://user-service/delay/60"]);
        assert_eq!(found["status"], 200);
        let hops: Vec<&str> =
            found["hops"].as_array().expect("hops").iter().filter_map(|hop| hop["name"].as_str()).collect();
        assert_eq!(hops, ["outbound order-1", "inbound user-1"], "{found:#}");
        assert_eq!(found["hops"][0]["endpoint"].as_str(), Some(inbound.to_string().as_str()));
        let parts = found["parts"].as_array().expect("parts");
        let leaves = || parts.iter().filter(|part| part["kind"] == "leaf");
        let ms = |part: &Value| part["duration_ms"].as_f64().expect("a duration");
        let total = found["total_ms"].as_f64().expect("a total");
        assert!((leaves().map(ms).sum::<f64>() - total).abs() < 1e-6, "{found:#}");
        let named = |name: &str| leaves().filter(|part| part["name"] == name).map(ms).collect::<Vec<_>>();
        assert!(named("service")[0] >= 55.0, "{found:#}");
        assert_eq!(named("network, there and back").len(), 2, "client to sidecar, sidecar to sidecar");
        // The second may pay as well: another worker, another connection.
        assert!(!first || named("upstream tls").len() == 1, "{found:#}");
        let categories = found["categories_ms"].as_object().expect("categories");
        assert!((categories.values().filter_map(Value::as_f64).sum::<f64>() - total).abs() < 1e-6);
        assert!(found["categories_ms"]["unattributed"].as_f64() < Some(total * 0.02), "{found:#}");
    }
    let written = std::fs::read_to_string(&page).expect("the page");
    assert!(written.contains("inbound user-1") && !written.contains("<script"));
    assert!(application.heads().iter().all(|head| !head.to_ascii_lowercase().contains("x-celerity")), "asked in vain");

    let mut many = Command::new(BINARY);
    many.args(["explain", "-n", "30", "--keep-alive", "--proxy", &proxy, "http://user-service/delay/2"]);
    let text = process::run(&mut many);
    for expected in ["30 requests", "p99", "inbound user-1: service", "what makes the slow ones slow"] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn what_goes_wrong_is_one_sentence() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let silent_url = format!("http://{}/", silent.local_addr().expect("an address"));
    let closed_url = format!("http://{}/", loopback(free_port()));
    let tls_url = silent_url.replace("http:", "https:");
    for (arguments, code, expected) in [
        (vec![closed_url.as_str()], 1, "is the server running?"),
        (vec!["--max-time", "200ms", &silent_url], 1, "waiting for the first byte"),
        (vec!["--max-time", "0.2", "-k", &tls_url], 1, "the TLS handshake"),
        (vec!["http://no-such-host.invalid/"], 1, "has no address"),
        (vec!["--cacert", "/nowhere.pem", &tls_url], 2, "/nowhere.pem"),
        (vec!["-n", "3", &closed_url], 1, "none of 3 requests was answered"),
        (vec!["-H", "no colon", &closed_url], 2, "Name: value"),
        (vec!["ftp://a/"], 2, "http or https"),
        (vec!["-d", "@/nowhere", &closed_url], 2, "/nowhere"),
    ] {
        let output = Command::new(BINARY).arg("explain").args(&arguments).output().expect("it starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_distribution_that_is_stopped_shows_what_it_has() {
    let application = Upstream::start("one");
    let url = format!("http://{}/delay/10", application.address());
    let mut command = Command::new(BINARY);
    let mut process = celerity_testkit::Process::start(command.args(["explain", "-n", "100000", &url]));
    process.wait_until("some answers", || application.requests() > 5);
    process.signal("INT");
    let status = process.wait(crate::support::PATIENCE);
    let output = process.output();
    assert!(status.success(), "{status} {output}");
    assert!(output.contains("of 100000 requests") && output.contains("p99"), "{output}");
}

/// A page that cannot be written is an error; the result is printed all the same.
#[test]
fn a_full_disk_does_not_take_the_result_away() {
    let application = Upstream::start("one");
    let url = format!("http://{}/bytes/5", application.address());
    let output = Command::new(BINARY).args(["explain", "--html", "/dev/full", &url]).output().expect("it starts");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(text.contains("wait for the first byte") && errors.contains("/dev/full"), "{text}\n{errors}");
}
