//! The admin port's pages, as Envoy's admin interface names them.

use super::{Page, Pages};
use crate::drain::LEAVE_TIME;
use crate::http::{Method, RequestHead};
use crate::proxy::Control;
use serde_json::json;
use std::fmt::Write;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

const INDEX: &str = "celerity admin\n\
    /ready                      200 when the proxy takes traffic, 503 while it drains or waits for its first DNS answers\n\
    /config_dump                the running configuration and the state of the last change\n\
    /clusters                   endpoints, limits, ejections, DNS names; ?format=json\n\
    /listeners                  where it listens\n\
    /stats/prometheus           every metric\n\
    /ledger                     where the time goes; ?format=json\n\
    /drain                      POST: stop taking traffic, finish what is under way\n\
    /debug/pprof/profile        CPU profile; ?seconds=10\n\
    /debug/pprof/heap           heap profile\n";

pub(super) async fn answer(control: &Arc<Control>, head: &RequestHead, pages: Pages) -> Page {
    let target = String::from_utf8_lossy(&head.path);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let parameter = |name: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    let allowed = match pages {
        Pages::All => true,
        Pages::Metrics => matches!(path, "/stats/prometheus" | "/metrics"),
        Pages::Health => matches!(path, "/ready" | "/healthz/ready" | "/"),
    };
    if !allowed {
        return Page::status(404, format!("{path} is not on this port\n"));
    }
    if path == "/drain" || path == "/drain_listeners" {
        if head.method != Method::Post {
            return Page::status(405, "draining changes the proxy: use POST\n");
        }
        control.start_draining(LEAVE_TIME);
        return Page::text("draining\n");
    }
    if !matches!(head.method, Method::Get | Method::Head) {
        return Page::status(405, "use GET\n");
    }
    match path {
        "/" if pages == Pages::All => Page::text(INDEX),
        "/ready" | "/healthz/ready" | "/" => ready(control),
        "/config_dump" => config_dump(control),
        "/clusters" | "/ledger" if !matches!(&*parameter("format"), "" | "text" | "json") => {
            Page::status(400, "format must be text or json\n")
        }
        "/clusters" => super::clusters::page(control, &parameter("format")),
        "/listeners" => listeners(control),
        "/stats/prometheus" | "/metrics" => metrics(control),
        "/ledger" => ledger(control, &parameter("format")),
        "/debug/pprof/profile" => profile(control, &parameter("seconds")).await,
        "/debug/pprof/heap" => heap(control, &parameter("seconds")).await,
        _ => Page::status(404, format!("{path} is not an admin page\n\n{INDEX}")),
    }
}

fn ready(control: &Control) -> Page {
    match (control.is_draining(), control.names.is_warm()) {
        (true, _) => Page::status(503, "DRAINING\n"),
        (false, false) => Page::status(503, "PRE_INITIALIZING\n"),
        (false, true) => Page::text("LIVE\n"),
    }
}

fn config_dump(control: &Control) -> Page {
    let state = control.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let describe = control.describe.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Page::json(&json!({
        "version": control.running.load().snapshot.version,
        "last_change": {
            "state": if state.rejected.is_some() { "rejected" } else { "accepted" },
            "reason": state.rejected,
            "accepted": state.accepted_count,
            "rejected": state.rejected_count,
        },
        "resources": describe(),
    }))
}

fn listeners(control: &Control) -> Page {
    let running = control.running.load();
    let text = running.snapshot.listeners.iter().fold(String::new(), |mut text, listener| {
        let _ = writeln!(text, "{}::{}", listener.name, listener.address);
        text
    });
    Page::text(text)
}

fn metrics(control: &Control) -> Page {
    let mut body = Vec::with_capacity(64 * 1024);
    match control.shared.registry.expose(Instant::now(), &mut body) {
        Ok(()) => Page { status: 200, kind: "text/plain; version=0.0.4; charset=utf-8", body },
        Err(error) => Page::status(500, format!("the metrics could not be written: {error}\n")),
    }
}

fn ledger(control: &Control, format: &str) -> Page {
    let reports = control.shared.registry.ledger_reports();
    if format == "json" {
        return Page::json(&json!(reports.iter().map(|report| report.json()).collect::<Vec<_>>()));
    }
    Page::text(reports.iter().map(|report| report.text(false)).collect::<Vec<_>>().join("\n"))
}

async fn profile(control: &Control, seconds: &str) -> Page {
    let Ok(seconds) = whole_seconds(seconds) else { return bad_seconds() };
    let seconds = seconds.unwrap_or(super::pprof::CPU_SECONDS_DEFAULT);
    profiled(super::pprof::cpu_profile(seconds, &control.blocking).await)
}

async fn heap(control: &Control, seconds: &str) -> Page {
    let Ok(seconds) = whole_seconds(seconds) else { return bad_seconds() };
    profiled(super::pprof::heap_profile(seconds, &control.blocking).await)
}

fn whole_seconds(text: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

fn bad_seconds() -> Page {
    Page::status(400, "seconds must be a whole number, such as ?seconds=10\n")
}

fn profiled(profile: Result<Vec<u8>, super::pprof::Error>) -> Page {
    match profile {
        Ok(body) => Page { status: 200, kind: "application/octet-stream", body },
        Err(error @ super::pprof::Error::Seconds(_)) => Page::status(400, format!("{error}\n")),
        Err(error) => Page::status(503, format!("{error}\n")),
    }
}
