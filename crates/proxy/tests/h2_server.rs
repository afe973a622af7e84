//! Our HTTP/2 server against the h2 crate as client.

use std::time::Duration;

use bytes::Bytes;
use celerity_proxy::h2::{Code, Incoming, ServerControl, ServerSettings, ServerStream, accept};
use celerity_proxy::http::{Headers, RequestHead, ResponseHead};
use h2::client::SendRequest;
use tokio::task::LocalSet;

/// Runs `test` on one thread within a bound of time.
fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test takes too long");
    });
}

/// Serves one connection; `handler` answers each request in a task of its own.
async fn serve<H, F>(settings: ServerSettings, handler: H) -> (SendRequest<Bytes>, ServerControl)
where
    H: Fn(RequestHead, ServerStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let (near, far) = tokio::io::duplex(50_000);
    let (connection, mut incoming): (_, Incoming) = accept(near, settings);
    let control = incoming.control();
    tokio::task::spawn_local(connection.run());
    tokio::task::spawn_local(async move {
        while let Some((head, stream, _)) = incoming.next().await {
            tokio::task::spawn_local(handler(head, stream));
        }
    });
    let (send, connection) = h2::client::handshake(far).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    (send.ready().await.unwrap(), control)
}

async fn echo(head: RequestHead, mut stream: ServerStream) {
    let mut response = ResponseHead::new(200);
    response.headers.push(b"x-path", &head.path);
    response.headers.push(b"x-authority", &head.authority);
    if stream.send_head(&response, false).is_err() {
        return;
    }
    let (sender, mut receiver) = stream.split();
    while let Ok(Some(chunk)) = receiver.chunk().await {
        if sender.data(chunk, false).await.is_err() {
            return;
        }
    }
    match receiver.take_trailers() {
        Some(trailers) => sender.trailers(&trailers).unwrap(),
        None => sender.data(b"", true).await.unwrap(),
    }
}

fn request(path: &str) -> http::Request<()> {
    http::Request::builder().method("POST").uri(format!("http://user-service{path}")).body(()).unwrap()
}

async fn send_all(mut stream: h2::SendStream<Bytes>, mut body: Bytes, trailers: Option<http::HeaderMap>) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        stream.send_data(body.split_to(capacity.min(body.len())), false).unwrap();
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

async fn read_all(mut body: h2::RecvStream) -> Result<(Vec<u8>, Option<http::HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len()).unwrap();
        all.extend_from_slice(&chunk);
    }
    Ok((all, body.trailers().await?))
}

#[test]
fn a_body_larger_than_every_window_and_trailers_are_echoed() {
    local(async {
        let (mut send, _control) = serve(ServerSettings::default(), echo).await;
        let (response, stream) = send.send_request(request("/a?b=c"), false).unwrap();
        let body: Bytes = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        tokio::task::spawn_local(send_all(stream, body.clone(), Some(trailers.clone())));
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-path"], "/a?b=c");
        assert_eq!(response.headers()["x-authority"], "user-service");
        let (echoed, echoed_trailers) = read_all(response.into_body()).await.unwrap();
        assert!(echoed == body);
        assert_eq!(echoed_trailers, Some(trailers));
    });
}

#[test]
fn a_hundred_streams_at_once() {
    local(async {
        let (send, control) = serve(ServerSettings::default(), echo).await;
        let tasks: Vec<_> = (0..100usize)
            .map(|nth| {
                let send = send.clone();
                tokio::task::spawn_local(async move {
                    let mut send = send.ready().await.unwrap();
                    let (response, stream) = send.send_request(request(&format!("/{nth}")), false).unwrap();
                    let body = Bytes::from(vec![nth as u8; nth * 1000]);
                    tokio::task::spawn_local(send_all(stream, body.clone(), None));
                    let response = response.await.unwrap();
                    assert_eq!(response.headers()["x-path"], format!("/{nth}"));
                    assert!(read_all(response.into_body()).await.unwrap().0 == body);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(control.active(), 0);
    });
}

#[test]
fn interim_responses_come_before_the_final_one() {
    local(async {
        let (mut send, _control) = serve(ServerSettings::default(), |_, stream: ServerStream| async move {
            stream.send_interim(&ResponseHead::new(103)).unwrap();
            assert!(stream.send_interim(&ResponseHead::new(200)).is_err());
            stream.send_head(&ResponseHead::new(204), true).unwrap();
            assert!(stream.send_data(b"late", true).await.is_err());
        })
        .await;
        let (response, _) = send.send_request(request("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 204);
    });
}

#[test]
fn a_reset_reaches_the_handler_and_a_dropped_stream_reaches_the_client() {
    local(async {
        let (told, seen) = tokio::sync::oneshot::channel();
        let told = std::rc::Rc::new(std::cell::Cell::new(Some(told)));
        let (mut send, control) = serve(ServerSettings::default(), move |head, stream: ServerStream| {
            let told = told.clone();
            async move {
                if head.path == b"/wait" {
                    let error = stream.reset_received().await;
                    told.take().unwrap().send(error).unwrap();
                }
            }
        })
        .await;
        let (_response, mut stream) = send.send_request(request("/wait"), false).unwrap();
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
        let error = seen.await.unwrap();
        assert!(error.is_peer_reset());
        assert_eq!(error.code(), Some(Code::INTERNAL_ERROR));
        let (response, _stream) = send.send_request(request("/drop"), false).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(h2::Reason::CANCEL));
        assert_eq!(control.active(), 0);
    });
}

#[test]
fn an_early_response_ends_the_request_without_an_error() {
    local(async {
        let (mut send, _control) = serve(ServerSettings::default(), |_, stream: ServerStream| async move {
            stream.send_head(&ResponseHead::new(413), false).unwrap();
            stream.send_data(b"no", true).await.unwrap();
        })
        .await;
        let (response, _stream) = send.send_request(request("/"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(read_all(response.into_body()).await.unwrap().0, b"no");
    });
}

#[test]
fn streams_above_the_limit_are_refused() {
    local(async {
        let settings = ServerSettings { max_concurrent_streams: 3, ..ServerSettings::default() };
        let (send, _control) = serve(settings, echo).await;
        // The client keeps to the limit by itself, so all twenty are served, three at a time.
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let mut send = send.clone();
                tokio::task::spawn_local(async move {
                    send = send.ready().await.unwrap();
                    let (response, _) = send.send_request(request("/"), true).unwrap();
                    assert_eq!(response.await.unwrap().status(), 200);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_graceful_shutdown_finishes_what_runs_and_takes_no_more() {
    local(async {
        let (near, far) = tokio::io::duplex(50_000);
        let (connection, mut incoming) = accept(near, ServerSettings::default());
        let control = incoming.control();
        let served = tokio::task::spawn_local(connection.run());
        let (send, connection) = h2::client::handshake(far).await.unwrap();
        let client = tokio::task::spawn_local(connection);
        let mut send = send.ready().await.unwrap();
        let (response, _) = send.send_request(request("/"), true).unwrap();
        let (_, stream, end) = incoming.next().await.unwrap();
        assert!(end);
        control.shutdown();
        assert!(!control.is_open());
        assert!(incoming.next().await.is_none());
        stream.send_head(&ResponseHead::new(200), false).unwrap();
        stream.send_data(b"done", true).await.unwrap();
        drop(stream);
        assert_eq!(read_all(response.await.unwrap().into_body()).await.unwrap().0, b"done");
        served.await.unwrap().unwrap();
        client.await.unwrap().unwrap();
    });
}

#[test]
fn the_window_is_given_back_only_when_the_body_is_read() {
    local(async {
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let wait = std::rc::Rc::new(std::cell::Cell::new(Some(wait)));
        let (mut send, _control) = serve(ServerSettings::default(), move |_, mut stream: ServerStream| {
            let wait = wait.clone();
            async move {
                wait.take().unwrap().await.unwrap();
                let mut total = 0;
                while let Some(chunk) = stream.chunk().await.unwrap() {
                    total += chunk.len();
                }
                let mut head = ResponseHead::new(200);
                head.headers.push(b"x-total", total.to_string().as_bytes());
                stream.send_head(&head, true).unwrap();
            }
        })
        .await;
        let (response, mut stream) = send.send_request(request("/"), false).unwrap();
        let window = 256 * 1024;
        let mut sent = 0;
        while sent < window {
            stream.reserve_capacity(window - sent);
            let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            stream.send_data(Bytes::from(vec![0; capacity]), false).unwrap();
            sent += capacity;
        }
        stream.reserve_capacity(1);
        let more = std::future::poll_fn(|cx| stream.poll_capacity(cx));
        tokio::pin!(more);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut more).await.is_err());
        go.send(()).unwrap();
        assert!(matches!(more.await, Some(Ok(1..))));
        stream.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert_eq!(response.await.unwrap().headers()["x-total"], (window + 1).to_string());
    });
}

#[test]
fn a_section_that_is_too_large_gets_431() {
    local(async {
        let (mut send, _control) = serve(ServerSettings::default(), echo).await;
        let mut large = request("/");
        for nth in 0..20 {
            let name = http::HeaderName::from_bytes(format!("x-{nth}").as_bytes()).unwrap();
            large.headers_mut().insert(name, "y".repeat(4000).parse().unwrap());
        }
        let (response, _) = send.send_request(large, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
        let (response, _) = send.send_request(request("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_ping_is_answered() {
    local(async {
        let (near, far) = tokio::io::duplex(50_000);
        let (connection, _incoming) = accept(near, ServerSettings::default());
        tokio::task::spawn_local(connection.run());
        let (_send, mut connection) = h2::client::handshake(far).await.unwrap();
        let mut ping = connection.ping_pong().unwrap();
        tokio::task::spawn_local(connection);
        ping.ping(h2::Ping::opaque()).await.unwrap();
    });
}

#[test]
fn headers_pass_as_they_were_sent() {
    local(async {
        let (mut send, _control) =
            serve(ServerSettings::default(), |head: RequestHead, stream: ServerStream| async move {
                assert_eq!(head.headers.get(b"cookie"), Some(&b"a=1; b=2"[..]));
                assert_eq!(head.headers.get(b"te"), Some(&b"trailers"[..]));
                let mut response = ResponseHead::new(200);
                response.headers.push(b"Set-Cookie", b"a=1");
                response.headers.push(b"set-cookie", b"b=2");
                response.headers.push(b"connection", b"keep-alive");
                response.headers.push(b"transfer-encoding", b"chunked");
                stream.send_head(&response, false).unwrap();
                let mut trailers = Headers::new();
                trailers.push(b"grpc-status", b"13");
                stream.send_trailers(&trailers).unwrap();
            })
            .await;
        for _ in 0..3 {
            let mut head = request("/");
            head.headers_mut().append("cookie", "a=1".parse().unwrap());
            head.headers_mut().append("cookie", "b=2".parse().unwrap());
            head.headers_mut().append("te", "trailers".parse().unwrap());
            let (response, _) = send.send_request(head, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
            assert_eq!(response.headers().len(), 2);
            let (_, trailers) = read_all(response.into_body()).await.unwrap();
            assert_eq!(trailers.unwrap()["grpc-status"], "13");
        }
    });
}

/// nghttp2 is another implementation than the h2 crate. Where its load generator is not installed there is nothing to
/// be seen.
#[test]
fn h2load_is_served_where_it_is_installed() {
    local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api/users", listener.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (connection, mut incoming) = accept(io, ServerSettings::default());
                tokio::task::spawn_local(connection.run());
                tokio::task::spawn_local(async move {
                    while let Some((head, stream, _)) = incoming.next().await {
                        tokio::task::spawn_local(echo(head, stream));
                    }
                });
            }
        });
        let body = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for more in [&[][..], &["-d", body]] {
            let mut command = std::process::Command::new("h2load");
            command.args(["-n", "2000", "-c", "3", "-m", "40"]).args(more).arg(&url);
            let Ok(output) = tokio::task::spawn_blocking(move || command.output()).await.unwrap() else {
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("2000 succeeded, 0 failed, 0 errored"), "{text}");
        }
    });
}
