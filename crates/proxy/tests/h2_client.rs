//! Our HTTP/2 client against the h2 crate as server, and against our own server.

use std::time::Duration;

use bytes::Bytes;
use celerity_proxy::h2::{Client, ClientSettings, Code, Common, Keepalive, Kind, ServerSettings, accept, connect};
use celerity_proxy::http::{Headers, Method, RequestHead, ResponseHead};
use celerity_proxy::net::Socket;
use h2::server::SendResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;

/// Runs `test` on one thread within a bound of time.
fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test takes too long");
    });
}

fn start(settings: ClientSettings) -> (Client, DuplexStream) {
    let (near, far) = tokio::io::duplex(50_000);
    let (connection, client) = connect(near, settings);
    tokio::task::spawn_local(connection.run());
    (client, far)
}

/// A server of the h2 crate that answers each request with `handler`.
async fn peer<H, F>(handler: H) -> Client
where
    H: Fn(http::Request<h2::RecvStream>, SendResponse<Bytes>) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let (client, far) = start(ClientSettings::default());
    tokio::task::spawn_local(async move {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.max_concurrent_streams(50).handshake(far).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::task::spawn_local(handler(request, respond));
        }
    });
    client
}

fn head(path: &str) -> RequestHead {
    let mut head = RequestHead { method: Method::Post, ..RequestHead::default() };
    head.authority.extend_from_slice(b"user-service");
    head.path.extend_from_slice(path.as_bytes());
    head.headers.push(b"x-id", path.as_bytes());
    head
}

async fn echo(request: http::Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
    let response = http::Response::builder().header("x-path", request.uri().path()).body(()).unwrap();
    let mut out = respond.send_response(response, false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(mut chunk)) = body.data().await {
        body.flow_control().release_capacity(chunk.len()).unwrap();
        while !chunk.is_empty() {
            out.reserve_capacity(chunk.len());
            let Some(Ok(capacity)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
            out.send_data(chunk.split_to(capacity.min(chunk.len())), false).unwrap();
        }
    }
    match body.trailers().await {
        Ok(Some(trailers)) => out.send_trailers(trailers).unwrap(),
        _ => out.send_data(Bytes::new(), true).unwrap(),
    }
}

#[test]
fn bodies_larger_than_every_window_and_trailers_pass_both_ways() {
    local(async {
        let client = peer(echo).await;
        let mut stream = client.start(&head("/big"), false).unwrap();
        let body: Vec<u8> = (0..5_000_000u32).map(|at| (at % 253) as u8).collect();
        let mut received = Vec::new();
        {
            let head = async { stream.head().await.unwrap() };
            assert_eq!(head.await.headers.get(b"x-path"), Some(&b"/big"[..]));
        }
        let (sender, mut receiver) = stream.split();
        let send = async {
            sender.data(&body, false).await.unwrap();
            let mut trailers = Headers::new();
            trailers.push(b"grpc-status", b"0");
            sender.trailers(&trailers).unwrap();
        };
        let receive = async {
            while let Some(chunk) = receiver.chunk().await.unwrap() {
                received.extend_from_slice(chunk);
            }
        };
        tokio::join!(send, receive);
        assert!(received == body);
        assert_eq!(receiver.take_trailers().unwrap().get(b"grpc-status"), Some(&b"0"[..]));
        assert_eq!(client.active(), 0);
    });
}

#[test]
fn what_the_peer_said_before_it_went_is_heard() {
    local(async {
        let (client, mut far) = start(ClientSettings::default());
        let mut first = client.start(&head("/first"), true).unwrap();
        let mut heard = vec![0; 10_000];
        assert!(far.read(&mut heard).await.unwrap() > 0);
        // The driver is woken by this, and finds nobody to write to.
        let mut second = client.start(&head("/second"), true).unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let answer = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        far.write_all(&[&settings[..], &answer, &goaway].concat()).await.unwrap();
        drop(far);
        assert_eq!(first.head().await.unwrap().status, 200);
        let lost = second.head().await.unwrap_err();
        assert!(lost.is_unprocessed() && lost.kind() == Kind::GoAway(Code::NO_ERROR), "{lost:?}");
        assert!(client.start(&head("/third"), true).is_err());
    });
}

#[test]
fn what_a_reset_stream_said_in_the_same_breath_is_read_first() {
    local(async {
        let (client, mut far) = start(ClientSettings::default());
        let mut stream = client.start(&head("/"), true).unwrap();
        assert!(far.read(&mut vec![0; 10_000]).await.unwrap() > 0);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let answer = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        let data = [0, 0, 3, 0, 0, 0, 0, 0, 1, b'a', b'b', b'c'];
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        far.write_all(&[&settings[..], &answer, &data, &reset].concat()).await.unwrap();
        assert_eq!(stream.head().await.unwrap().status, 200);
        assert_eq!(stream.chunk().await.unwrap(), Some(&b"abc"[..]));
        let error = stream.chunk().await.unwrap_err();
        assert_eq!(error.kind(), Kind::PeerReset(Code::INTERNAL_ERROR));
    });
}

#[test]
fn what_is_called_unprocessed_is_not_written_afterwards() {
    local(async {
        let (client, mut far) = start(ClientSettings::default());
        let mut first = client.start(&head("/first"), true).unwrap();
        assert!(far.read(&mut vec![0; 10_000]).await.unwrap() > 0);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let answer = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
        far.write_all(&[&settings[..], &answer].concat()).await.unwrap();
        assert_eq!(first.head().await.unwrap().status, 200);
        drop(first);
        // DATA on no stream ends the connection; it lies there when the next request is started.
        far.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x']).await.unwrap();
        let mut second = client.start(&head("/second"), true).unwrap();
        let error = second.head().await.unwrap_err();
        assert!(error.is_unprocessed() && matches!(error.kind(), Kind::Violation(..)), "{error:?}");
        let mut written = Vec::new();
        far.read_to_end(&mut written).await.unwrap();
        assert!(!written.windows(7).any(|seen| seen == b"/second"));
        assert!(written.windows(4).any(|seen| seen == [0, 0, 8, 7]), "it hears why");
    });
}

#[test]
fn what_a_closed_peer_never_took_may_be_sent_again() {
    local(async {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let answer = |id: u8| [0, 0, 1, 1, 5, 0, 0, 0, id, 0x88];
        for takes in [false, true] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut far = listener.accept().await.unwrap().0;
            let (connection, client) = connect(Socket::new(near, false), ClientSettings::default());
            tokio::task::spawn_local(connection.run());
            let mut first = client.start(&head("/first"), true).unwrap();
            assert!(far.read(&mut vec![0; 10_000]).await.unwrap() > 0);
            far.write_all(&[&settings[..], &answer(1)].concat()).await.unwrap();
            assert_eq!(first.head().await.unwrap().status, 200);
            drop(first);
            let mut far = far.into_std().unwrap();
            let mut second = if takes {
                // It reads the request, and goes without a word.
                let second = client.start(&head("/second"), true).unwrap();
                while !{
                    let mut heard = vec![0; 10_000];
                    std::io::Read::read(&mut far, &mut heard)
                        .is_ok_and(|count| heard[..count].windows(7).any(|seen| seen == b"/second"))
                } {
                    tokio::task::yield_now().await;
                }
                drop(far);
                second
            } else {
                // It is gone, and this side's event loop has not looked since.
                drop(far);
                client.start(&head("/second"), true).unwrap()
            };
            let error = second.head().await.unwrap_err();
            assert_eq!((error.kind(), error.is_unprocessed()), (Kind::Closed, !takes), "{takes}");
        }
    });
}

#[test]
fn many_streams_wait_for_the_limit_and_all_are_answered() {
    local(async {
        let client = peer(echo).await;
        let tasks: Vec<_> = (0..300)
            .map(|nth| {
                let client = client.clone();
                tokio::task::spawn_local(async move {
                    let mut stream = loop {
                        client.ready().await.unwrap();
                        match client.start(&head(&format!("/{nth}")), false) {
                            Ok(stream) => break stream,
                            Err(error) => assert_eq!(error.kind(), Kind::NoCapacity),
                        }
                    };
                    assert!(client.active() <= 100);
                    stream.send_data(format!("body {nth}").as_bytes(), true).await.unwrap();
                    match stream.head().await {
                        Ok(head) => assert_eq!(head.status, 200),
                        // Started before the settings were known, and above them.
                        Err(error) => return assert!(error.is_unprocessed(), "{error}"),
                    }
                    let mut body = Vec::new();
                    while let Some(chunk) = stream.chunk().await.unwrap() {
                        body.extend_from_slice(chunk);
                    }
                    assert_eq!(body, format!("body {nth}").as_bytes());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(client.is_confirmed());
        assert_eq!(client.available_streams(), 50);
    });
}

#[test]
fn resets_say_whether_the_request_was_processed() {
    local(async {
        let client = peer(|request, mut respond| async move {
            let reason = if request.uri().path() == "/refused" {
                h2::Reason::REFUSED_STREAM
            } else {
                h2::Reason::INTERNAL_ERROR
            };
            respond.send_reset(reason);
        })
        .await;
        let error = client.start(&head("/refused"), true).unwrap().head().await.unwrap_err();
        assert!(error.is_peer_reset() && error.is_unprocessed());
        let error = client.start(&head("/broken"), true).unwrap().head().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::INTERNAL_ERROR));
        assert!(!error.is_unprocessed());
        assert!(client.is_open());
    });
}

#[test]
fn a_dropped_stream_is_cancelled_at_the_server() {
    local(async {
        let (told, seen) = tokio::sync::oneshot::channel();
        let told = std::rc::Rc::new(std::cell::Cell::new(Some(told)));
        let client = peer(move |_, mut respond| {
            let told = told.clone();
            async move {
                let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                told.take().unwrap().send(reason).unwrap();
            }
        })
        .await;
        let stream = client.start(&head("/"), true).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(stream);
        assert_eq!(seen.await.unwrap(), h2::Reason::CANCEL);
        assert_eq!(client.active(), 0);
    });
}

#[test]
fn goaway_lets_earlier_streams_finish_and_gives_back_later_ones() {
    local(async {
        let (client, mut far) = start(ClientSettings::default());
        let mut first = client.start(&head("/1"), true).unwrap();
        let mut second = client.start(&head("/2"), true).unwrap();
        // SETTINGS; GOAWAY with last stream 1.
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        far.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        let error = second.head().await.unwrap_err();
        assert_eq!(error.kind(), Kind::GoAway(Code::NO_ERROR));
        assert!(error.is_unprocessed());
        assert!(!client.is_open());
        assert!(client.start(&head("/3"), true).err().is_some_and(|error| error.is_unprocessed()));
        // :status 200 with END_STREAM on stream 1.
        far.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
        assert_eq!(first.head().await.unwrap().status, 200);
        assert_eq!(first.chunk().await.unwrap(), None);
    });
}

#[test]
fn a_failure_before_anything_was_written_may_be_repeated_and_later_ones_may_not() {
    local(async {
        let (near, far) = tokio::io::duplex(4096);
        let (connection, client) = connect(near, ClientSettings::default());
        let mut stream = client.start(&head("/"), true).unwrap();
        drop(far);
        assert!(connection.run().await.is_err());
        assert!(stream.head().await.unwrap_err().is_unprocessed());

        let (client, mut far) = start(ClientSettings::default());
        let mut stream = client.start(&head("/"), true).unwrap();
        far.read_exact(&mut [0; 100]).await.unwrap();
        drop(far);
        let error = stream.head().await.unwrap_err();
        assert!(!error.is_unprocessed());
        assert!(error.is_connection());
    });
}

#[test]
fn keepalive_ends_a_connection_whose_peer_is_silent() {
    local(async {
        let keepalive = Keepalive { interval: Duration::from_millis(20), timeout: Duration::from_millis(20) };
        let common = Common { keepalive: Some(keepalive), ..Common::default() };
        let (near, _far) = tokio::io::duplex(50_000);
        let (connection, client) = connect(near, ClientSettings { common, ..ClientSettings::default() });
        let mut stream = client.start(&head("/"), true).unwrap();
        let run = tokio::task::spawn_local(connection.run());
        assert_eq!(stream.head().await.unwrap_err().kind(), Kind::KeepaliveTimeout);
        assert_eq!(run.await.unwrap().unwrap_err().kind(), Kind::KeepaliveTimeout);
    });
}

#[test]
fn keepalive_keeps_a_connection_whose_peer_answers() {
    local(async {
        let keepalive = Keepalive { interval: Duration::from_millis(5), timeout: Duration::from_secs(10) };
        let common = Common { keepalive: Some(keepalive), ..Common::default() };
        let (near, far) = tokio::io::duplex(50_000);
        let (connection, client) = connect(near, ClientSettings { common, ..ClientSettings::default() });
        tokio::task::spawn_local(connection.run());
        let (connection, mut incoming) = accept(far, ServerSettings::default());
        tokio::task::spawn_local(connection.run());
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(client.is_open());
        let mut stream = client.start(&head("/"), true).unwrap();
        let (_, served, _) = incoming.next().await.unwrap();
        served.send_interim(&ResponseHead::new(100)).unwrap();
        served.send_head(&ResponseHead::new(200), true).unwrap();
        assert_eq!(stream.head().await.unwrap().status, 100);
        assert_eq!(stream.head().await.unwrap().status, 200);
    });
}

#[test]
fn the_last_client_ends_the_connection() {
    local(async {
        let (near, far) = tokio::io::duplex(50_000);
        let (connection, client) = connect(near, ClientSettings::default());
        let ours = tokio::task::spawn_local(connection.run());
        let (connection, mut incoming) = accept(far, ServerSettings::default());
        let theirs = tokio::task::spawn_local(connection.run());
        let mut stream = client.start(&head("/"), true).unwrap();
        drop(client);
        let (request, served, end) = incoming.next().await.unwrap();
        assert!(end);
        assert_eq!(request.headers.get(b"x-id"), Some(&b"/"[..]));
        served.send_head(&ResponseHead::new(200), false).unwrap();
        served.send_data(b"bye", true).await.unwrap();
        assert_eq!(stream.head().await.unwrap().status, 200);
        assert_eq!(stream.chunk().await.unwrap(), Some(&b"bye"[..]));
        assert_eq!(stream.chunk().await.unwrap(), None);
        drop(served);
        assert!(incoming.next().await.is_none());
        ours.await.unwrap().unwrap();
        theirs.await.unwrap().unwrap();
    });
}

#[test]
fn many_large_bodies_share_a_connection_fairly() {
    local(async {
        let (near, far) = tokio::io::duplex(20_000);
        let (connection, client) = connect(near, ClientSettings::default());
        tokio::task::spawn_local(connection.run());
        let (connection, mut incoming) = accept(far, ServerSettings::default());
        tokio::task::spawn_local(connection.run());
        tokio::task::spawn_local(async move {
            while let Some((_, mut stream, _)) = incoming.next().await {
                tokio::task::spawn_local(async move {
                    stream.send_head(&ResponseHead::new(200), false).unwrap();
                    let (sender, mut receiver) = stream.split();
                    while let Some(chunk) = receiver.chunk().await.unwrap() {
                        sender.data(chunk, false).await.unwrap();
                    }
                    sender.data(b"", true).await.unwrap();
                });
            }
        });
        let tasks: Vec<_> = (0..20u8)
            .map(|nth| {
                let mut stream = client.start(&head("/"), false).unwrap();
                tokio::task::spawn_local(async move {
                    assert_eq!(stream.head().await.unwrap().status, 200);
                    let (sender, mut receiver) = stream.split();
                    let body = vec![nth; 1_000_000];
                    let receive = async {
                        let mut total = 0;
                        while let Some(chunk) = receiver.chunk().await.unwrap() {
                            assert!(chunk.iter().all(|&byte| byte == nth));
                            total += chunk.len();
                        }
                        total
                    };
                    let (_, total) = tokio::join!(sender.data(&body, true), receive);
                    assert_eq!(total, body.len());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}
