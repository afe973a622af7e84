//! A client's HTTP/1.1 connection: its requests, one after the other.

use super::conn::{Conn, Refusal};
use super::stream::DownstreamStream;
use crate::drain::FIRST_BYTES_GRACE;
use crate::exchange::{self, Begun, details};
use crate::h1::server::RequestError;
use crate::h1::write::ResponseFraming;
use crate::h1::{BodyLength, ServerConn, Wire, write};
use crate::http::{Method, RequestHead, ResponseHead};
use crate::timers::Deadline;
use celerity_model::snapshot::{HttpManager, ManagerTimeouts};
use celerity_telemetry::{Ledger, State};
use std::time::{Duration, Instant};

/// What a closing connection still takes from its client, so that the last response is not lost to a reset.
const LINGER_BYTES_MAX: u64 = 1 << 20;

/// Time for a request's head where the configuration sets none: what a slow link needs, not what an attacker wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// For a connection that may be idle for ever.
const NO_IDLE_LIMIT: Duration = Duration::from_secs(10 * 365 * 86_400);

pub(super) async fn serve(conn: Conn, wire: Wire, handshake: Duration) {
    let worker = conn.worker.clone();
    let clock = worker.clock;
    let mut server = ServerConn::new(wire);
    let mut head = RequestHead::default();
    let mut idle = Deadline::never(&worker.slow_timers);
    let mut handshake_ticks = clock.ticks_of(handshake);
    let opened = Instant::now();

    loop {
        let mut manager = conn.manager(&worker.running());
        // A pipelined request waited for the one before it, and not for the worker: its account begins now. A connection's first
        // bytes were read to know its protocol.
        let is_pipelined = server.has_unread() && conn.requests.get() > 0;
        if !server.has_unread() {
            let since = Instant::now();
            let asked = loop {
                if conn.orphaned.get() {
                    break false;
                }
                let until = idle_until(&conn, &manager, since, opened);
                idle.set(Some(until));
                match idle.within(server.wait()).await {
                    // `false`: closed by the client.
                    Some(asked) => break asked.unwrap_or(false),
                    None if Instant::now() >= until => break false,
                    // Woken because what it waits under has changed: a drain, or another configuration.
                    None => manager = conn.manager(&worker.running()),
                }
            };
            if !asked {
                break;
            }
        }
        let (started, began) = (clock.now(), Instant::now());
        let mut ledger = Ledger::start(State::Parse, started);
        if handshake_ticks > 0 {
            // Charged once: Envoy's connection times repeat for every request of the connection.
            ledger.charge(State::DownstreamTls, std::mem::take(&mut handshake_ticks));
            ledger.charge(State::AcceptWait, clock.ticks_of(server.wire.io().socket().first_wait()));
        }
        if let Some(arrived) = server.wire.arrived().filter(|_| !is_pipelined) {
            conn.charge_wait(&mut ledger, arrived, started);
        }
        let read_before = server.wire.read_bytes;
        let limit = manager.max_request_headers_kb.max(1) as usize * 1024;
        let (head_timeout, late) = head_limit(&manager.timeouts);
        let mut deadline = Deadline::new(&worker.timers, began.checked_add(head_timeout));
        let meta = match deadline.within(server.read_head(&mut head, limit)).await {
            Some(Ok(meta)) => meta,
            Some(Err(RequestError::Head(error))) => {
                worker.bad_request(error.name());
                let details = match error.status() {
                    431 => details::HEADERS_TOO_LARGE,
                    _ => details::CODEC_ERROR,
                };
                let refusal = Refusal { status: error.status(), details, reason: &error.to_string(), head: None };
                refuse(&conn, &mut server, refusal).await;
                break;
            }
            Some(Err(_)) => break,
            None => {
                refuse(&conn, &mut server, late).await;
                break;
            }
        };
        drop(deadline);
        if server.wire.read_bytes != read_before {
            // The head came in pieces: up to the last one the client was waited for.
            let now = clock.now();
            ledger.enter(State::Parse, now);
            let came = server.wire.arrived().unwrap_or(now);
            ledger.reattribute(State::Parse, State::RequestBodyWait, came.since(started));
        }
        let spent = manager.timeouts.max_connection_duration.is_some_and(|most| opened.elapsed() >= most);
        let last = conn.count_request(&manager) || spent || conn.orphaned.get();
        let begun =
            Begun { ledger, started, began, body: meta.body, http_10: meta.http_10, last, websocket: meta.websocket };
        let is_connect = head.method == Method::Connect;
        let refused = if is_connect {
            Some((405, details::CONNECT_REFUSED, "CONNECT is not supported here"))
        } else if meta.websocket && !manager.websocket {
            // Passed on without its upgrade it would be a plain GET, which no WebSocket client means. 403 is Envoy's.
            let reason = "an upgrade to WebSocket is not allowed here: upgrade_configs does not name it";
            Some((403, details::UPGRADE_FAILED, reason))
        } else if meta.websocket && (head.method != Method::Get || meta.body != BodyLength::Empty) {
            // A body behind which the protocol changes is where two parsers would part ways.
            let reason = "an upgrade to WebSocket is a GET without a body (RFC 6455, section 4.1)";
            Some((400, details::CODEC_ERROR, reason))
        } else {
            None
        };
        let reusable = if let Some((status, details, reason)) = refused {
            refuse(&conn, &mut server, Refusal { status, details, reason, head: Some(&head) }).await;
            false
        } else {
            exchange::serve(&conn, &mut DownstreamStream::H1(&mut server), &mut head, begun).await
        };
        if !reusable || !server.may_continue() {
            break;
        }
    }
    let linger = conn.manager(&worker.running()).timeouts.delayed_close.unwrap_or(Duration::from_secs(1));
    let _ = tokio::time::timeout(linger, server.linger(LINGER_BYTES_MAX)).await;
}

/// How long a request's head may take, and what is said after that. As in Envoy the times of a request begin with its first byte.
fn head_limit(timeouts: &ManagerTimeouts) -> (Duration, Refusal<'static>) {
    let set = |limit: Option<Duration>| limit.filter(|limit| !limit.is_zero());
    let own = set(timeouts.request_headers).unwrap_or(HEAD_TIMEOUT);
    let mut first = (own, details::HEAD_TIMEOUT, "the request's head did not arrive in time");
    for (limit, details, reason) in [
        (timeouts.stream_idle, details::STREAM_IDLE_TIMEOUT, "stream timeout"),
        (timeouts.request, details::REQUEST_TIMEOUT, "the request did not arrive within request_timeout"),
        (timeouts.max_stream_duration, details::MAX_DURATION_TIMEOUT, "downstream duration timeout"),
    ] {
        if let Some(limit) = set(limit).filter(|limit| *limit < first.0) {
            first = (limit, details, reason);
        }
    }
    let (limit, details, reason) = first;
    (limit, Refusal { status: 408, details, reason, head: None })
}

/// When a connection without a request closes. A drain leaves it open for a time: a client that does not know of it would
/// send its next request into a closing connection. The answer to that request says that the connection closes.
fn idle_until(conn: &Conn, manager: &HttpManager, since: Instant, opened: Instant) -> Instant {
    let after = |from: Instant, time: Duration| from.checked_add(time).unwrap_or(from);
    if conn.worker.closing() {
        let now = Instant::now();
        // The deadline's tick is the last moment in which a request may still come.
        return if conn.requests.get() == 0 { after(now.max(since), FIRST_BYTES_GRACE) } else { now };
    }
    let idle = after(since, manager.timeouts.idle.unwrap_or(NO_IDLE_LIMIT));
    manager.timeouts.max_connection_duration.map_or(idle, |most| idle.min(after(opened, most)))
}

/// Answers what is no request. The connection ends with it: nobody knows where the next one would begin.
async fn refuse(conn: &Conn, server: &mut ServerConn, refusal: Refusal<'_>) {
    let Refusal { status, reason, .. } = refusal;
    conn.log_refusal(&refusal);
    let mut response = ResponseHead::new(status);
    response.headers.push(b"content-type", b"text/plain");
    let length = BodyLength::Exact(reason.len() as u64);
    write::response(&response, ResponseFraming::Body(length), true, server.wire.out());
    server.wire.out().extend_from_slice(reason.as_bytes());
    // The client may be gone; there is nobody else to tell.
    let _ = tokio::time::timeout(Duration::from_secs(1), server.wire.flush()).await;
}
