//! An HTTP/2 server without TLS that answers 200 after a while, and counts its connections.

use bytes::Bytes;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Streams that it takes on a connection, and says so; 0: it says nothing.
    pub(crate) streams_max: AtomicU32,
    pub(crate) accepted: AtomicU32,
    pub(crate) open: AtomicU32,
    pub(crate) open_max: AtomicU32,
}

/// It lives as long as the test program.
pub(crate) fn start(delay: Duration, counts: &Arc<Counts>) -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.set_nonblocking(true).expect("settable");
    let address = listener.local_addr().expect("an address");
    let counts = counts.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async move {
            let listener = TcpListener::from_std(listener).expect("usable");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, delay, counts.clone()));
            }
        });
    });
    address
}

async fn serve(stream: TcpStream, delay: Duration, counts: Arc<Counts>) {
    counts.accepted.fetch_add(1, Ordering::SeqCst);
    let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
    counts.open_max.fetch_max(open, Ordering::SeqCst);
    let mut server = h2::server::Builder::new();
    match counts.streams_max.load(Ordering::SeqCst) {
        0 => {}
        most => _ = server.max_concurrent_streams(most),
    }
    if let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(delay).await;
                if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                    let _ = body.send_data(Bytes::from_static(b"ok"), true);
                }
            });
        }
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
}
