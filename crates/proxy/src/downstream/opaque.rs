//! Redirected connections that do not speak HTTP: bytes both ways between the client and where it meant to go.

use crate::h1::Wire;
use crate::net::{Io, Socket};
use crate::tunnel::{self, Half};
use crate::upstream::shared::RareEvents;
use crate::worker::Worker;
use celerity_model::snapshot::Cluster;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A connection over which nothing goes, as Envoy's TCP proxy has it by default.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// The longest method that is looked at, with the space behind it. The registry's longest has 17 characters.
const METHOD_BYTES_MAX: usize = 24;

/// Between two looks at a method that comes in pieces. They grow apart, so that a client that stays silent in the middle of a
/// word costs next to nothing.
const PEEK_PAUSE_MIN: Duration = Duration::from_millis(1);
const PEEK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whether a connection starts with what may be an HTTP request: a word of capital letters and hyphens, then a space. The
/// bytes stay unread. `None`: the client closed, or sent nothing in time.
pub(super) async fn speaks_http(stream: &TcpStream, wait: Duration) -> Option<bool> {
    let deadline = Instant::now() + wait;
    let mut bytes = [0; METHOD_BYTES_MAX];
    let mut pause = PEEK_PAUSE_MIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = tokio::time::timeout(left, stream.peek(&mut bytes)).await.ok()?.ok()?;
        if seen == 0 {
            return None;
        }
        match begins_request(&bytes[..seen]) {
            Some(answer) => return Some(answer),
            // A method in pieces: peeking again at once would spin.
            None => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(PEEK_PAUSE_MAX);
    }
}

/// `None`: too few bytes to say.
fn begins_request(bytes: &[u8]) -> Option<bool> {
    // Empty lines before a request are allowed (RFC 9112, section 2.2).
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let word = bytes.get(line..).unwrap_or_default();
    match word.iter().position(|byte| !(byte.is_ascii_uppercase() || *byte == b'-')) {
        Some(end) => Some(end > 0 && word[end] == b' '),
        None if bytes.len() >= METHOD_BYTES_MAX => Some(false),
        None => None,
    }
}

/// Connects to `meant` and passes bytes on until both sides have ended.
pub(super) async fn relay(worker: &Rc<Worker>, cluster: &Cluster, client: TcpStream, meant: SocketAddr) {
    let shared = worker.shared.cluster(cluster);
    let Some(_permit) = shared.connection() else {
        return RareEvents::add(&shared.events.connection_overflows);
    };
    RareEvents::add(&shared.events.connections);
    let connected = tokio::time::timeout(cluster.policy.connection.connect_timeout, TcpStream::connect(meant)).await;
    let Ok(Ok(upstream)) = connected else {
        RareEvents::add(&shared.events.connect_failures);
        worker.shared.log_limited("passthrough", format_args!("connecting to {meant} for {} failed", cluster.name));
        return;
    };
    let _ = upstream.set_nodelay(true);
    let plain = |stream| Wire::new(Io::Tcp(Socket::new(stream, false)));
    let (mut client, mut upstream) = (plain(client), plain(upstream));
    let (mut to_upstream, mut to_client) = (Half::Open, Half::Open);
    let (mut sent, mut received, mut seen) = (0, 0, (0, false));
    let mut idle = crate::timers::Deadline::new(&worker.timers, Instant::now().checked_add(IDLE_MAX));
    poll_fn(|cx| {
        let one = to_upstream.poll(cx, &mut client, &mut upstream, &mut sent);
        let other = to_client.poll(cx, &mut upstream, &mut client, &mut received);
        if matches!((&one, &other), (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))))
            || one.is_ready() && other.is_ready()
        {
            return Poll::Ready(());
        }
        let half_closed = to_upstream != Half::Open || to_client != Half::Open;
        if (sent + received, half_closed) != seen {
            seen = (sent + received, half_closed);
            let limit = if half_closed { tunnel::HALF_CLOSED_IDLE_MAX } else { IDLE_MAX };
            idle.set(Instant::now().checked_add(limit));
        }
        idle.poll(cx)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_and_a_space_are_http() {
        for http in [&b"GET / HTTP/1.1"[..], b"PRI * HTTP/2.0", b"\r\nPOST /", b"M-SEARCH * "] {
            assert_eq!(begins_request(http), Some(true), "{http:?}");
        }
        for other in [
            &b"SSH-2.0-OpenSSH"[..],
            &[0x16, 3, 1, 0],
            b"get / ",
            b" GET",
            &[b'A'; METHOD_BYTES_MAX],
            &[b'\n'; METHOD_BYTES_MAX],
        ] {
            assert_eq!(begins_request(other), Some(false), "{other:?}");
        }
        for unsure in [&b"GE"[..], b"\r\n", b"OPTIONS"] {
            assert_eq!(begins_request(unsure), None, "{unsure:?}");
        }
    }
}
