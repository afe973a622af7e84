//! A request's whole life, from its head to its last byte.
//!
//! ```text
//!   clean -> route -> filters (fault, cors, buffer, cache) -> (pick -> admit -> connection -> attempt)* -> relay -> finish
//! ```
//!
//! `serve` shows it in one function: the branches are there, the leaves are pure or poll one thing.

mod attempt;
mod caching;
mod context;
pub(crate) mod details;
mod end;
mod fields;
mod filters;
mod finish;
mod kept;
mod mirror;
mod path;
mod patience;
mod relay;
mod reply;
mod tunnel;
mod upload;

pub use context::{Begun, Exchange, Failure};
pub use fields::{FormatContext, View, client_of};
pub(crate) use kept::Account;

use caching::Consulted;

use crate::downstream::Conn;
use crate::downstream::stream::DownstreamStream;
use crate::http::RequestHead;
use celerity_model::snapshot::Action;
use celerity_telemetry::metrics::names;
use celerity_telemetry::{ResponseFlags, State};
use std::future::{Future, poll_fn};
use std::sync::atomic::Ordering;

/// Serves one request. `true`: the client's connection may carry another one.
pub async fn serve(conn: &Conn, down: &mut DownstreamStream<'_>, request: &mut RequestHead, begun: Begun) -> bool {
    let worker = &conn.worker;
    // It came awake; from now on the ledger wants each of its sleeps to have a name.
    let mut woken = Some(begun.started);
    let mut life = std::pin::pin!(live(conn, down, request, begun));
    poll_fn(|cx| {
        worker.woken.set(woken.take().unwrap_or_else(|| worker.clock.now()));
        life.as_mut().poll(cx)
    })
    .await
}

async fn live(conn: &Conn, down: &mut DownstreamStream<'_>, request: &mut RequestHead, begun: Begun) -> bool {
    let worker = conn.worker.clone();
    let running = worker.running();
    let manager = conn.manager(&running);

    let headers_count = sent_headers(request, conn.is_http2);
    let mut x = Exchange::new(conn, &worker, &running.snapshot, &manager, request, begun);
    if headers_count > manager.max_headers_count as usize {
        x.details = details::HEADERS_TOO_LARGE;
        let ended = x.reply(down, 431, b"too many headers", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR).await;
        return x.finish(down, ended);
    }
    if let Err(error) = x.clean() {
        x.details = details::PATH_NORMALIZATION_FAILED;
        let ended = x.reply(down, 400, error.to_string().as_bytes(), ResponseFlags::NONE).await;
        return x.finish(down, ended);
    }
    if worker.shared.overloaded.load(Ordering::Relaxed) {
        worker.count(&names::OVERLOAD_REFUSED);
        let sentence = "overloaded: the memory limit is near";
        let failure = Failure::new(503, ResponseFlags::OVERLOAD_MANAGER, details::OVERLOAD, sentence);
        let ended = x.fail(down, failure).await;
        return x.finish(down, ended);
    }

    // Route.
    x.enter(State::Route);
    let rng = x.rng();
    let host = conn.virtual_host(&manager, x.request);
    x.host = host.map(|host| &**host);
    let route = host.and_then(|host| host.route(&x.view(), rng));
    let (Some(host), Some(route)) = (host, route) else {
        x.details = details::ROUTE_NOT_FOUND;
        let ended = x.reply(down, 404, b"", ResponseFlags::NO_ROUTE_FOUND).await;
        return x.finish(down, ended);
    };
    x.matched = Some((host, route));
    x.patience_of(&route.action);

    // Filters, in the order of the configuration. One that is not there costs nothing.
    x.enter(State::Filters);
    match x.filters(down, host, route).await {
        filters::Passed::On => {}
        filters::Passed::Answered(ended) => {
            if let Action::Forward(forward) = &route.action {
                x.name_cluster(forward);
            }
            return x.finish(down, ended);
        }
    }

    let ended = match &route.action {
        Action::Redirect(redirect) => x.redirect(down, route, redirect).await,
        Action::Respond(direct) => x.direct(down, direct).await,
        Action::Forward(forward) => loop {
            match x.forward(down, host, route, forward).await {
                Ok(up) if x.response.status == 101 => break x.tunnel(down, host, route, up).await,
                Ok(up) => match x.consult_cache(down, up).await {
                    Consulted::Relay(up) => break x.relay(down, host, up).await,
                    Consulted::Answered(ended) => break ended,
                    Consulted::Again => x.upload.rewind(),
                },
                Err(failure) => match x.stale_instead(down).await {
                    Some(ended) => break ended,
                    None => break x.fail(down, x.explained(failure)).await,
                },
            }
        },
    };
    if let Action::Forward(forward) = &route.action {
        x.mirror(forward, true);
    }
    x.finish(down, ended)
}

/// What Envoy's codecs count as headers: `Host` with them, and the pseudo-headers of HTTP/2.
fn sent_headers(request: &RequestHead, is_http2: bool) -> usize {
    let host = usize::from(!request.authority.is_empty());
    let others = if is_http2 { 3 } else { 0 };
    request.headers.len() + host + others
}
