//! The engine's HTTP/2 against a server made of another implementation (the `h2` crate), on loopback.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use celerity_load::grpc;
use celerity_load::plan::{Closed, Load, Plan, Protocol, Tls};
use celerity_load::source::{Request, Source, Success};
use celerity_load::summary::ErrorKind;
use celerity_load::target::Origin;
use celerity_load::{Control, Summary};
use http::{HeaderMap, HeaderValue, Response};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// How the server behaves.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    /// So many streams at once.
    Streams(u32),
    /// GOAWAY after so many requests of a connection.
    Leave(u64),
    /// No answer to every second request.
    Mute,
    /// gRPC, with every fourth call failing.
    Grpc,
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

/// Serves until the test's process ends.
fn serve(way: Way, tls: Option<Arc<rustls::ServerConfig>>) -> Server {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket that does not block");
    let address = listener.local_addr().expect("an address");
    let (connections, requests) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (counted, asked) = (Arc::clone(&connections), Arc::clone(&requests));
    let serving = async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, counted, asked) = (tls.clone(), Arc::clone(&counted), Arc::clone(&asked));
            tokio::spawn(async move {
                match tls {
                    None => connection(socket, way, &counted, &asked).await,
                    Some(config) => {
                        if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(socket).await {
                            connection(stream, way, &counted, &asked).await;
                        }
                    }
                }
            });
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serving);
    });
    Server { address, connections, requests }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(io: S, way: Way, counted: &AtomicU64, asked: &Arc<AtomicU64>) {
    let mut builder = h2::server::Builder::new();
    if let Way::Streams(streams) = way {
        builder.max_concurrent_streams(streams);
    }
    // A connect that only looks whether somebody is there does not get so far.
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    counted.fetch_add(1, Relaxed);
    let mut here = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let number = asked.fetch_add(1, Relaxed);
        here += 1;
        if let Way::Leave(after) = way
            && here == after
        {
            connection.graceful_shutdown();
        }
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(Ok(piece)) = body.data().await {
                length += piece.len();
                let _ = body.flow_control().release_capacity(piece.len());
            }
            if matches!(way, Way::Mute) && number % 2 == 1 {
                // Held until the connection ends.
                std::future::pending::<()>().await;
            }
            let head = Response::builder().status(200).header("x-length", length).body(()).expect("a head");
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let grpc = matches!(way, Way::Grpc);
            let _ = stream.send_data(Bytes::from_static(b"hello"), !grpc);
            if grpc {
                let status = if number % 4 == 3 { "14" } else { "0" };
                let trailers = HeaderMap::from_iter([(
                    http::HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static(status),
                )]);
                let _ = stream.send_trailers(trailers);
            }
        });
    }
}

fn plan(server: &Server, request: Request, count: u64) -> Plan {
    let origin =
        Origin { tls: false, host: "localhost".into(), port: server.address.port(), addresses: vec![server.address] };
    let load = Load::Closed(Closed { duration: None, count: Some(count), slot_per_second: None });
    Plan {
        protocol: Protocol::Http2,
        connections: 2,
        streams_per_connection: 10,
        timeout: Duration::from_secs(20),
        ..Plan::new(origin, Source::single(request), load)
    }
}

fn run(plan: &Plan) -> Summary {
    celerity_load::run(plan, &Control::new()).expect("a run")
}

#[test]
fn many_streams_share_few_connections() {
    let server = serve(Way::Plain, None);
    let request = Request { method: "POST".into(), body: Arc::from(vec![7; 100_000]), ..Request::get("/a") };
    let summary = run(&plan(&server, request, 200));
    assert_eq!(
        (summary.succeeded, summary.failed(), summary.body_bytes_received),
        (200, 0, 1000),
        "{:?}",
        summary.errors
    );
    assert_eq!(summary.statuses.get(&200), Some(&200));
    assert_eq!((server.connections.load(Relaxed), server.requests.load(Relaxed)), (2, 200));
    assert!(summary.bytes_sent > 200 * 100_000);
}

#[test]
fn a_server_that_allows_few_streams_refuses_none() {
    let server = serve(Way::Streams(3), None);
    let summary = run(&plan(&server, Request::get("/"), 500));
    assert_eq!((summary.succeeded, summary.failed()), (500, 0), "{:?}", summary.errors);
    assert_eq!(server.connections.load(Relaxed), 2);
}

#[test]
fn a_connection_that_the_server_leaves_is_followed_by_another() {
    let server = serve(Way::Leave(50), None);
    let summary = run(&plan(&server, Request::get("/"), 500));
    // What it did not look at any more goes to the next one, and is still one request.
    assert_eq!((summary.succeeded, summary.failed(), summary.sent), (500, 0, 500), "{:?}", summary.error_examples);
    assert!(server.connections.load(Relaxed) >= 4);
}

#[test]
fn an_answer_that_does_not_come_fails_its_stream_alone() {
    let server = serve(Way::Mute, None);
    let mut plan = plan(&server, Request::get("/"), 40);
    plan.timeout = Duration::from_millis(300);
    let summary = run(&plan);
    assert_eq!((summary.succeeded, summary.errors.get(&ErrorKind::Timeout)), (20, Some(&20)), "{:?}", summary.errors);
    assert_eq!(server.connections.load(Relaxed), 2, "the others went on");
}

#[test]
fn grpc_counts_by_the_trailers() {
    let server = serve(Way::Grpc, None);
    let request = Request { success: Success::Grpc, ..Request::get("/shop.Orders/Total") };
    let summary = run(&plan(&server, request, 100));
    assert_eq!((summary.succeeded, summary.failed_answers), (75, 25), "{:?}", summary.errors);
    assert_eq!(summary.grpc_statuses.get(&14), Some(&25));
}

#[test]
fn a_server_of_http1_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut socket = socket;
            let _ = socket.read(&mut [0; 100]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let server = serve(Way::Plain, None);
    let mut plan = plan(&server, Request::get("/"), 3);
    plan.origins[0].addresses = vec![address];
    let summary = run(&plan);
    let example = summary.error_examples.get(&ErrorKind::Protocol).cloned().unwrap_or_default();
    assert!(summary.succeeded == 0 && example.contains("does it speak HTTP/2"), "{:?}", summary.error_examples);
}

#[test]
fn tls_chooses_http2_by_alpn_or_fails() {
    for (alpn, takes) in [(&b"h2"[..], true), (b"http/1.1", false)] {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key))
            .expect("a configuration");
        config.alpn_protocols = vec![alpn.to_vec()];
        let server = serve(Way::Plain, Some(Arc::new(config)));
        let mut plan = plan(&server, Request::get("/"), 50);
        plan.origins[0].tls = true;
        plan.tls = Some(Tls { ca_pem: Some(Arc::from(issued.cert.pem().into_bytes())), ..Tls::default() });
        let summary = run(&plan);
        if takes {
            assert_eq!((summary.succeeded, summary.failed()), (50, 0), "{:?}", summary.error_examples);
        } else {
            assert!(summary.succeeded == 0 && summary.errors.contains_key(&ErrorKind::Tls), "{:?}", summary.errors);
        }
    }
}

#[test]
fn what_http2_cannot_do_is_refused_by_name() {
    let server = serve(Way::Plain, None);
    let header = |name: &str| Request { headers: vec![(name.into(), "x".into())], ..Request::get("/") };
    let error = celerity_load::run(&plan(&server, header("Connection"), 1), &Control::new()).expect_err("refused");
    assert!(error.to_string().contains("connection"), "{error}");
    let mut two = plan(&server, Request::get("/"), 1);
    two.origins.push(two.origins[0].clone());
    let error = celerity_load::run(&two, &Control::new()).expect_err("refused");
    assert!(error.to_string().contains("one server"), "{error}");
}

#[test]
fn a_server_without_reflection_says_so() {
    let server = serve(Way::Plain, None);
    let origin = plan(&server, Request::get("/"), 1).origins.remove(0);
    let error = grpc::reflect(&origin, None, Duration::from_secs(5), "a.B/C").expect_err("no reflection");
    assert!(error.to_string().contains("reflection"), "{error}");
}
