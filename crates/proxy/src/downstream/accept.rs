//! From an accepted socket to the protocol that it speaks.

use super::activity::OpenConnection;
use super::conn::{Accepted, Conn};
use super::{h1, h2, opaque};
use crate::drain::FIRST_BYTES_GRACE;
use crate::h1::Wire;
use crate::h1::wire::READ_BYTES_MAX;
use crate::net::{Io, Socket};
use crate::tls::{Alpn, Hello, Sniffed, sniff};
use crate::worker::Worker;
use celerity_model::snapshot::{Codec, ConnectionView, Direction, FilterChain, Listener};
use celerity_model::translate::PASSTHROUGH_CLUSTER;
use celerity_telemetry::metrics::names;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Time for the first bytes of a connection where the listener sets none.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection without any request, where the manager sets no idle timeout.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(3600);

/// A handshake where the filter chain sets no time: the acceptor's own limit is the shorter one.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);

/// After an accept that failed for want of descriptors or memory: trying at once would only burn the CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Accepts connections of one listener until it `ended`, or the worker closes.
pub async fn accept_all(worker: Rc<Worker>, name: Arc<str>, socket: TcpListener, ended: Rc<Notify>) {
    // There from the start, so that a listener without connections says 0.
    worker.activity(&name);
    while !worker.closing() {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = worker.until_closing() => break,
            () = ended.notified() => break,
        };
        take(&worker, &name, accepted).await;
    }
    empty_and_close(&worker, &name, socket).await;
    worker.listening.set(worker.listening.get().saturating_sub(1));
}

async fn take(worker: &Rc<Worker>, name: &Arc<str>, accepted: io::Result<(TcpStream, SocketAddr)>) {
    match accepted {
        Ok((stream, client)) => {
            // Counted from here: a drain must not cut off what is about to ask.
            let open = OpenConnection::new(worker, name);
            let (worker, name) = (worker.clone(), name.clone());
            tokio::task::spawn_local(async move {
                admit(worker, name, stream, client).await;
                drop(open);
            });
        }
        Err(error) => {
            worker.shared.log_limited("accept", format_args!("accepting on {name} failed: {error}"));
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Takes what the kernel has queued for this socket, which would be reset with it: other workers' sockets have queues of
/// their own (SO_REUSEPORT).
async fn empty_and_close(worker: &Rc<Worker>, name: &Arc<str>, socket: TcpListener) {
    // Where the kernel can't, what comes within the next microseconds is lost.
    let _ = crate::sockets::take_no_more(&socket);
    let until = tokio::time::Instant::now() + HANDSHAKES_LAST;
    while let Ok(accepted) = tokio::time::timeout_at(until, socket.accept()).await {
        take(worker, name, accepted).await;
    }
    let Ok(socket) = socket.into_std() else { return };
    // Straight from the kernel, which may know more than the reactor.
    while let Ok((stream, client)) = socket.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        take(worker, name, stream.map(|stream| (stream, client))).await;
    }
}

/// For the clients' part of handshakes that were under way when the socket stopped taking new ones: a round trip.
const HANDSHAKES_LAST: Duration = Duration::from_millis(100);

/// A connection whose filter chain and protocol are known.
struct Admitted {
    accepted: Accepted,
    wire: Wire,
    handshake: Duration,
}

/// Serves a connection from its first byte to its last.
pub(super) async fn admit(worker: Rc<Worker>, name: Arc<str>, stream: TcpStream, client: SocketAddr) {
    // A future of its own: what it took to know the connection, the Snapshot included, is let go before it is served.
    let Some(Admitted { accepted, wire, handshake }) = recognise(&worker, name, stream, client).await else { return };
    let http2 = accepted.is_http2;
    let conn = Conn::new(&worker, accepted);
    if http2 {
        let (io, early) = wire.into_parts();
        h2::serve(conn, io, early, handshake).await;
    } else {
        h1::serve(conn, wire, handshake).await;
    }
}

/// `None`: the connection ended here, refused, relayed as it is, or closed by its client.
async fn recognise(worker: &Rc<Worker>, name: Arc<str>, stream: TcpStream, client: SocketAddr) -> Option<Admitted> {
    let local = stream.local_addr().ok()?;
    let running = worker.running();
    let listener = running.snapshot.listener(&name).cloned()?;
    worker.count(&names::LISTENER_DOWNSTREAM_CX_TOTAL);
    let original_dst =
        if listener.use_original_dst { crate::sockets::original_destination(&stream, local) } else { None };
    if let Some(meant) = original_dst
        && listener.direction == Direction::Outbound
        && let Some(cluster) = running.snapshot.cluster_by_name(PASSTHROUGH_CLUSTER).cloned()
        && !first_bytes(worker, || opaque::speaks_http(&stream, FIRST_REQUEST_WAIT)).await?
    {
        opaque::relay(worker, &cluster, stream, meant).await;
        return None;
    }
    let inspect_timeout =
        if listener.inspect_timeout.is_zero() { FIRST_BYTES_TIMEOUT } else { listener.inspect_timeout };
    let looks_for_tls = listener.inspects_tls
        || listener.chains.iter().chain(listener.default_chain.as_deref()).any(|chain| chain.tls.is_some());
    let is_tls = looks_for_tls
        && match first_bytes(worker, async || sniff(&stream, inspect_timeout).await.ok()).await {
            Some(Sniffed::Tls) => true,
            Some(Sniffed::Plain | Sniffed::Silent) => false,
            Some(Sniffed::Closed) | None => return None,
        };
    let accepted = |chain: &FilterChain| Accepted {
        listener: name.clone(),
        chain: chain.name.clone(),
        direction: listener.direction,
        client,
        local,
        original_dst,
        peer: None,
        own_identity: None,
        is_tls: false,
        is_http2: false,
        manager: chain.manager.clone(),
        version: running.snapshot.version,
    };
    let port = original_dst.unwrap_or(local).port();
    if is_tls {
        return recognise_tls(worker, &listener, stream, port, accepted).await;
    }
    let view = ConnectionView { destination_port: port, ..ConnectionView::default() };
    let Some(chain) = listener.chain(&view).filter(|chain| chain.tls.is_none()) else {
        // STRICT mutual TLS and a client that speaks plain text: there is nothing to say that it would understand.
        worker.count(&names::LISTENER_SSL_CONNECTION_ERROR);
        return None;
    };
    let first_request_wait = chain.manager.timeouts.idle.unwrap_or(FIRST_REQUEST_WAIT);
    let mut wire = Wire::new(Io::Tcp(Socket::new(stream, worker.clock.runs())));
    let http2 = match chain.manager.codec {
        Codec::Http1 => false,
        Codec::Http2 => true,
        Codec::Auto => first_bytes(worker, async || starts_with_preface(&mut wire, first_request_wait).await).await?,
    };
    Some(Admitted { accepted: Accepted { is_http2: http2, ..accepted(chain) }, wire, handshake: Duration::ZERO })
}

async fn recognise_tls(
    worker: &Rc<Worker>,
    listener: &Listener,
    stream: TcpStream,
    port: u16,
    accepted: impl Fn(&FilterChain) -> Accepted,
) -> Option<Admitted> {
    let failed = |error: &dyn std::fmt::Display| {
        worker.count(&names::LISTENER_SSL_CONNECTION_ERROR);
        worker.shared.log_limited("handshake", format_args!("TLS handshake on {} failed: {error}", listener.name));
        None
    };
    let stream = Socket::new(stream, worker.clock.runs());
    let hello = match Hello::read(stream, FIRST_BYTES_TIMEOUT).await {
        Ok(hello) => hello,
        Err(error) => return failed(&error),
    };
    let name = hello.server_name();
    let offered = hello.alpn();
    let offered: Vec<&str> = offered.iter().filter_map(|alpn| std::str::from_utf8(alpn).ok()).collect();
    let view = ConnectionView { destination_port: port, is_tls: true, server_name: name.as_deref(), alpn: &offered };
    let running = worker.running();
    let chain = listener.chain(&view);
    let Some((chain, tls)) = chain.and_then(|chain| Some((chain, chain.tls.as_ref()?))) else {
        return failed(&"no filter chain takes TLS with this server name and protocol");
    };
    let Some(acceptor) = running.acceptor(tls) else { return failed(&"its certificate is not loaded") };
    let handshake = acceptor.accept_hello(hello);
    let limit = chain.handshake_timeout.unwrap_or(HANDSHAKE_MAX);
    let Ok(handshake) = tokio::time::timeout(limit, handshake).await else {
        return failed(&format_args!("it took longer than {limit:?}"));
    };
    let done = match handshake {
        Ok(done) => done,
        Err(error) => return failed(&error),
    };
    worker.count(&names::LISTENER_SSL_HANDSHAKE);
    if done.peer.resumed {
        worker.count(&names::LISTENER_SSL_SESSION_REUSED);
    }
    let mut wire = Wire::new(Io::TlsServer(Box::new(done.stream)));
    let http2 = match (chain.manager.codec, &done.peer.alpn) {
        (Codec::Http1, _) => false,
        (Codec::Http2, _) | (Codec::Auto, Alpn::H2) => true,
        (Codec::Auto, Alpn::None) => {
            let wait = chain.manager.timeouts.idle.unwrap_or(FIRST_REQUEST_WAIT);
            first_bytes(worker, async || starts_with_preface(&mut wire, wait).await).await?
        }
        (Codec::Auto, Alpn::Http1 | Alpn::Other(_)) => false,
    };
    let accepted = Accepted {
        peer: Some(done.peer),
        own_identity: acceptor.own_spiffe(),
        is_tls: true,
        is_http2: http2,
        ..accepted(chain)
    };
    Some(Admitted { accepted, wire, handshake: done.duration })
}

/// What `look` sees of a connection's first bytes, which it leaves unread. A connection that says nothing does not outlast a
/// drain; one that was accepted just before its end has a moment to speak.
async fn first_bytes<T>(worker: &Worker, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    tokio::select! {
        biased;
        seen = look() => return seen,
        () = worker.until_closing() => {}
    }
    tokio::time::timeout(FIRST_BYTES_GRACE, look()).await.ok().flatten()
}

/// Reads the first bytes, as far as they tell. `None`: the client closed, or sent nothing in time.
async fn starts_with_preface(wire: &mut Wire, wait: Duration) -> Option<bool> {
    let look = async {
        loop {
            let seen = wire.unread();
            let compared = seen.len().min(PREFACE.len());
            if seen[..compared] != PREFACE[..compared] {
                return Some(false);
            }
            if compared == PREFACE.len() {
                return Some(true);
            }
            if poll_fn(|cx| wire.poll_fill(cx, READ_BYTES_MAX)).await.ok()? == 0 {
                return None;
            }
        }
    };
    tokio::time::timeout(wait, look).await.ok()?
}
