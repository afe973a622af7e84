//! A client's HTTP/2 connection: each request is a task of its own.

use super::conn::{Conn, Refusal};
use super::runners::Job;
use crate::drain::FIRST_BYTES_GRACE;
use crate::exchange::{Begun, details};
use crate::h1::BodyLength;
use crate::h2;
use crate::http::{HeaderId, RequestHead};
use crate::net::Io;
use crate::timers::Deadline;
use celerity_telemetry::{Ledger, State};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(super) async fn serve(conn: Conn, io: Io, early: Vec<u8>, handshake: Duration) {
    let worker = conn.worker.clone();
    let clock = worker.clock;
    let manager = conn.manager(&worker.running());
    let mut settings = h2::ServerSettings {
        max_concurrent_streams: manager.http2.max_concurrent_streams.min(STREAMS_MAX),
        ..h2::ServerSettings::default()
    };
    settings.common.stream_window = manager.http2.initial_stream_window_bytes;
    settings.common.connection_window = manager.http2.initial_connection_window_bytes;
    settings.common.max_header_list_size = manager.max_request_headers_kb.max(1) * 1024;
    settings.common.keepalive = manager
        .http2
        .keepalive
        .map(|keepalive| h2::Keepalive { interval: keepalive.interval, timeout: keepalive.timeout });
    let first_wait = io.socket().first_wait();
    let (connection, mut incoming) = h2::accept_with(io, early, settings);
    let control = incoming.control();
    let conn = Rc::new(conn);
    let telling = conn.clone();
    incoming.on_refused(move |refused| tell_refused(&telling, refused));
    let mut running = tokio::task::spawn_local(connection.run());

    let mut handshake_ticks = clock.ticks_of(handshake);
    let mut idle = Deadline::never(&worker.slow_timers);
    let mut shutting_down = false;
    let opened = Instant::now();
    loop {
        // As it is now: a connection lives through many configurations.
        let manager = conn.manager(&worker.running());
        let now = Instant::now();
        let timeouts = &manager.timeouts;
        let limit = timeouts.idle.filter(|_| control.active() == 0);
        // A connection that has streams is looked at again later; one that came during a drain must soon say what it wants.
        let look = if worker.draining() {
            FIRST_BYTES_GRACE
        } else {
            timeouts.idle.map_or(LOOK_AGAIN, |idle| idle.min(LOOK_AGAIN))
        };
        let until = now.checked_add(limit.filter(|_| !worker.draining()).unwrap_or(look));
        let end = timeouts.max_connection_duration.and_then(|most| opened.checked_add(most)).filter(|_| !shutting_down);
        idle.set(until.into_iter().chain(end).min());
        let next = idle.within(incoming.next()).await;
        let spent = end.is_some_and(|end| end <= Instant::now());
        // Woken early, it looks again: what it waits under has changed.
        let idled = next.is_none() && limit.is_some_and(|limit| now.elapsed() >= limit);
        if !shutting_down && (worker.draining() || conn.orphaned.get() || idled || spent) {
            control.shutdown();
            shutting_down = true;
        }
        let (head, stream, end) = match next {
            None => continue,
            Some(None) => break,
            Some(Some(request)) => request,
        };
        let (started, began) = (clock.now(), Instant::now());
        // Until its own task begins.
        let mut ledger = Ledger::start(State::LoopLag, started);
        if handshake_ticks > 0 {
            ledger.charge(State::DownstreamTls, std::mem::take(&mut handshake_ticks));
            ledger.charge(State::AcceptWait, clock.ticks_of(first_wait));
        }
        if let Some(arrived) = stream.arrived() {
            conn.charge_wait(&mut ledger, arrived, started);
        }
        let last = conn.count_request(&manager);
        if last && !shutting_down {
            control.shutdown();
            shutting_down = true;
        }
        let body = if end { BodyLength::Empty } else { body_length(&head) };
        let begun = Begun { ledger, started, began, body, http_10: false, last, websocket: false };
        worker.runners.run(Job { conn: conn.clone(), control: control.clone(), head, stream, begun });
    }
    // Ends when the last stream has: responses are still being written.
    let _ = (&mut running).await;
}

fn tell_refused(conn: &Conn, refused: &h2::Refused<'_>) {
    let (name, details) = match refused.status {
        Some(_) => ("too_large", details::HEADERS_TOO_LARGE),
        None => ("http2", details::CODEC_ERROR),
    };
    conn.worker.bad_request(name);
    let status = refused.status.unwrap_or(0);
    conn.log_refusal(&Refusal { status, details, reason: refused.why, head: refused.head });
}

/// Streams in progress on one connection, whatever the configuration says: each is a task.
const STREAMS_MAX: u32 = 1024;

const LOOK_AGAIN: Duration = Duration::from_secs(30);

fn body_length(head: &RequestHead) -> BodyLength {
    let told = head.headers.get_id(HeaderId::ContentLength);
    told.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).map_or(BodyLength::Chunked, BodyLength::Exact)
}
