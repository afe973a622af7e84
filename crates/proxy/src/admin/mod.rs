//! The admin, metrics and health ports, and what else runs beside the workers.

mod clusters;
mod pages;
pub mod pprof;
mod stats;

use crate::downstream::stream::DownstreamStream;
use crate::h1::{BodyLength, ServerConn, Wire};
use crate::http::{Method, RequestHead, ResponseHead};
use crate::log::Level;
use crate::net::{Io, Socket};
use crate::proxy::Control;
use crate::sizing;
use crate::tls::Reloaded;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

/// Connections to the admin ports at once: a scraper, a person, a probe, and room for a few more.
const CONNECTIONS_MAX: usize = 64;

/// A connection to an admin port that says nothing.
const IDLE: Duration = Duration::from_secs(60);

const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Series without a request are swept this often.
const SWEEP: Duration = Duration::from_secs(30);

/// Which pages a port shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    All,
    Metrics,
    Health,
}

#[derive(Default)]
pub struct Admin {
    pub sockets: Vec<(std::net::TcpListener, Pages)>,
}

/// A page's answer.
pub struct Page {
    pub status: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
}

impl Page {
    pub fn text(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind: "text/plain; charset=utf-8", body: body.into() }
    }

    pub fn json(value: &serde_json::Value) -> Self {
        let body = serde_json::to_vec_pretty(value).unwrap_or_default();
        Self { status: 200, kind: "application/json", body }
    }

    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, ..Self::text(body) }
    }
}

/// Runs the control thread until the proxy stops.
pub fn run(control: &Arc<Control>, admin: Admin) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return control.shared.log.error(format_args!("the admin port could not start: {error}")),
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let open = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        for (socket, pages) in admin.sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => drop(tokio::task::spawn_local(accept(control.clone(), socket, pages, open.clone()))),
                Err(error) => control.shared.log.error(format_args!("an admin port could not start: {error}")),
            }
        }
        let secrets = control.secrets.clone();
        let log = control.shared.log;
        stats::register(control);
        tokio::task::spawn_local(guard_memory(control.clone()));
        tokio::task::spawn_local(secrets.watch(control.blocking.clone(), move |store, result| match result {
            Ok(Reloaded::Swapped { trust_changed }) => {
                let trust = if trust_changed { ", with another trust bundle" } else { "" };
                log.info(format_args!("certificates were reloaded{trust}: {}", store.source()));
            }
            Ok(Reloaded::Unchanged) => {}
            Err(error) => log.warn(format_args!("certificates were not reloaded, the running ones stay: {error}")),
        }));
        let registry = control.shared.registry.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                registry.sweep(Instant::now());
            }
        });
        tokio::task::spawn_local(sweep_outliers(control.clone()));
        tokio::task::spawn_local(crate::dns::follow(control.clone()));
        control.until_stopped().await;
    });
}

/// Between two looks at how much memory the process holds: reading one line of /proc costs some microseconds.
const MEMORY_LOOK: Duration = Duration::from_millis(250);

/// Between two times that an overloaded process gives its free memory back: it takes the allocator's locks, and what is given has to
/// be got again.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(2);

/// Refuses new requests while the process is near its memory limit: the kernel would end it, with every request in it.
async fn guard_memory(control: Arc<Control>) {
    let mut given_back = Instant::now();
    loop {
        tokio::time::sleep(MEMORY_LOOK).await;
        let was = control.shared.overloaded.load(Ordering::Relaxed);
        let look = || {
            let known = control.memory_limit_bytes().zip(sizing::resident_bytes());
            (known, known.is_some_and(|(limit, resident)| sizing::is_overloaded(resident, limit, was)))
        };
        let (mut known, mut is) = look();
        if is && (!was || given_back.elapsed() >= GIVE_BACK_EVERY) {
            // What a spike has left behind is free and still ours: without this the guard would never end.
            (control.give_back)();
            given_back = Instant::now();
            (known, is) = look();
        }
        if is != was {
            control.shared.overloaded.store(is, Ordering::Relaxed);
            let (limit, resident) = known.unwrap_or_default();
            let (level, doing) = match is {
                true => (Level::Warn, "new requests are refused"),
                false => (Level::Info, "requests are taken again"),
            };
            let text = format_args!("{resident} bytes of memory are held and the limit is {limit}: {doing}");
            control.shared.log.write(level, &text);
        }
    }
}

/// How late an ejected endpoint may return.
const OUTLIER_LOOK: Duration = Duration::from_millis(100);

/// Returns endpoints from their ejection, and looks for outliers at each cluster's own interval.
async fn sweep_outliers(control: Arc<Control>) {
    let mut rng = celerity_telemetry::Rng::from_entropy();
    loop {
        tokio::time::sleep(OUTLIER_LOOK).await;
        let running = control.running.load_full();
        for cluster in running.snapshot.clusters().filter(|cluster| cluster.policy.outlier.is_some()) {
            let Some(shared) = control.shared.known_cluster(cluster.identity) else { continue };
            let now = Instant::now();
            if shared.health.next_sweep().is_none_or(|at| at > now) {
                continue;
            }
            for event in shared.health.sweep(now, || rng.next_u64()) {
                let endpoint = cluster.endpoints.iter().find(|endpoint| endpoint.identity == event.identity);
                if let Some(address) = endpoint.and_then(|endpoint| endpoint.address.socket()) {
                    control.shared.tell_event(cluster, address, &event);
                }
            }
        }
    }
}

async fn accept(
    control: Arc<Control>,
    socket: tokio::net::TcpListener,
    pages: Pages,
    open: Arc<tokio::sync::Semaphore>,
) {
    loop {
        let Ok(permit) = open.clone().acquire_owned().await else { return };
        match socket.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                tokio::task::spawn_local(async move {
                    serve(&control, ServerConn::new(Wire::new(Io::Tcp(Socket::new(stream, false)))), pages).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(control: &Arc<Control>, mut conn: ServerConn, pages: Pages) {
    let mut head = RequestHead::default();
    loop {
        let read = async {
            match conn.wait().await {
                Ok(true) => conn.read_head(&mut head, HEAD_BYTES_MAX).await.ok(),
                _ => None,
            }
        };
        let Ok(Some(_)) = tokio::time::timeout(IDLE, read).await else { return };
        let page = pages::answer(control, &head, pages).await;
        let mut response = ResponseHead::new(page.status);
        response.headers.push(b"content-type", page.kind.as_bytes());
        response.headers.push(b"cache-control", b"no-store");
        let mut down = DownstreamStream::H1(&mut conn);
        let is_head = head.method == Method::Head;
        let length = if is_head { BodyLength::Empty } else { BodyLength::Exact(page.body.len() as u64) };
        if is_head {
            response.headers.push(b"content-length", page.body.len().to_string().as_bytes());
        }
        if down.send_head(&response, length, false).is_err() {
            return;
        }
        let mut rest = if is_head { &[][..] } else { &page.body[..] };
        let sent = poll_fn(|cx| {
            while !rest.is_empty() {
                match ready!(down.poll_send(cx, rest)) {
                    Ok(count) => rest = &rest[count..],
                    Err(_) => return Poll::Ready(false),
                }
            }
            if ready!(down.poll_finish(cx, None)).is_err() {
                return Poll::Ready(false);
            }
            Poll::Ready(ready!(down.poll_flush(cx)).is_ok())
        });
        if !matches!(tokio::time::timeout(IDLE, sent).await, Ok(true)) || !conn.may_continue() {
            return;
        }
    }
}
