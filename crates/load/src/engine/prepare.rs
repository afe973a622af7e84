//! Everything that can be done before the first request: addresses, TLS settings, the bytes of each request.

use std::io::{self, ErrorKind as Io};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::tls::TlsRoute;
use crate::control::Stop;
use crate::plan::{Plan, Protocol, Unreachable};
use crate::source::{Request, Source, Success};
use crate::target::Origin;
use crate::{Control, Error};

/// The system's resolver gets this long; it has no timeout of its own that can be set.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// How often somebody who waits for a name or a connection looks whether he is to stop.
const SLICE: Duration = Duration::from_millis(50);
/// How long each of several addresses is tried where the run goes on without an answer: as browsers do (RFC 8305).
const CHOOSE_MAX: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A place to connect to. Requests of several origins may share one: a proxy.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Or why the name has none, where that only fails its requests.
    pub(super) address: Result<SocketAddr, String>,
    /// The CONNECT request that asks a proxy for a tunnel.
    pub(super) tunnel: Option<Vec<u8>>,
    pub(super) tls: Option<TlsRoute>,
}

/// One request of a static source.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) route: u16,
    /// As HTTP/1.1 has it on the wire, head and body.
    pub(super) wire: Vec<u8>,
    /// As HTTP/2 has it.
    pub(super) h2: Option<super::h2_request::Prepared>,
    pub(super) to_head: bool,
    pub(super) success: Success,
}

#[derive(Debug)]
pub(super) struct Prep {
    pub(super) routes: Vec<Route>,
    /// Empty for a script.
    pub(super) requests: Vec<Prepared>,
}

pub(super) fn prepare(plan: &Plan, control: &Control) -> Result<Prep, Error> {
    let reach = |host: &str, port, known: &[SocketAddr]| reach(plan, control, host, port, known);
    let settings = match (&plan.tls, plan.origins.iter().any(|o| o.tls)) {
        (Some(tls), true) => Some(super::tls::client_config(tls, plan.protocol)?),
        _ => None,
    };
    let proxy_address = match &plan.proxy {
        Some(proxy) => Some(reach(&proxy.host, proxy.port, &proxy.addresses)?),
        None => None,
    };
    let mut routes: Vec<Route> = Vec::new();
    // The route of each origin; http origins behind a proxy share the first.
    let mut route_of = Vec::with_capacity(plan.origins.len());
    let mut shared: Option<u16> = None;
    for origin in &plan.origins {
        if let (Some(route), false) = (shared, origin.tls) {
            route_of.push(route);
            continue;
        }
        let address = match &proxy_address {
            Some(address) => address.clone(),
            None => reach(&origin.host, origin.port, &origin.addresses)?,
        };
        let place = u16::try_from(routes.len()).map_err(|_| Error::Plan("more than 65535 different servers".into()))?;
        if proxy_address.is_some() && !origin.tls {
            shared = Some(place);
        }
        let tls = match (&settings, &plan.tls) {
            (Some(settings), Some(tls)) if origin.tls => Some(settings.route(tls, &origin.host)?),
            _ => None,
        };
        let tunnel = (proxy_address.is_some() && origin.tls).then(|| connect_request(origin));
        routes.push(Route { address, tunnel, tls });
        route_of.push(place);
    }
    if plan.protocol == Protocol::Http2 {
        check_http2(plan, routes.len())?;
    }
    let requests = match &plan.source {
        Source::Script(_) => Vec::new(),
        Source::Static(requests) => requests.iter().map(|r| prepared(plan, r, &route_of)).collect::<Result<_, _>>()?,
    };
    Ok(Prep { routes, requests })
}

/// What HTTP/2 cannot be asked for here.
fn check_http2(plan: &Plan, servers: usize) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Plan(why.to_owned()));
    if matches!(plan.source, Source::Script(_)) {
        return refuse("a script writes HTTP/1.1, which cannot be sent over HTTP/2");
    }
    if servers > 1 {
        // The streams of a connection would have to wait for each other at every change of server.
        return refuse("the targets of a run over HTTP/2 must be on one server: run them one after the other");
    }
    if plan.proxy.is_some() && plan.origins.iter().any(|origin| !origin.tls) {
        return refuse("a forward proxy takes http targets over HTTP/1.1 only: use https, or no proxy");
    }
    Ok(())
}

fn prepared(plan: &Plan, request: &Request, route_of: &[u16]) -> Result<Prepared, Error> {
    let place = request.origin as usize;
    let (Some(origin), Some(&route)) = (plan.origins.get(place), route_of.get(place)) else {
        return Err(Error::Plan(format!("a request names target {place}, which is not there")));
    };
    let absolute = plan.proxy.is_some() && !origin.tls;
    let wire =
        if plan.protocol == Protocol::Http1 { wire(request, origin, absolute, plan.keep_alive) } else { Vec::new() };
    let h2 = match plan.protocol {
        Protocol::Http1 => None,
        Protocol::Http2 => Some(super::h2_request::Prepared::new(request, origin).map_err(Error::Plan)?),
    };
    Ok(Prepared { route, wire, h2, to_head: request.method == "HEAD", success: request.success })
}

/// The request's bytes. With `absolute` in the form that a forward proxy takes (RFC 9112 section 3.2.2).
pub(super) fn wire(request: &Request, origin: &Origin, absolute: bool, keep_alive: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + request.body.len());
    let authority = origin.authority();
    let mut push = |text: &str| out.extend_from_slice(text.as_bytes());
    push(&request.method);
    push(" ");
    if absolute {
        push("http://");
        push(&authority);
    }
    push(&request.path);
    push(" HTTP/1.1\r\nhost: ");
    push(request.header("host").unwrap_or(&authority));
    push("\r\n");
    for (name, value) in &request.headers {
        if !name.eq_ignore_ascii_case("host") {
            push(name);
            push(": ");
            push(value);
            push("\r\n");
        }
    }
    let has_body = !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH");
    if has_body {
        push(&format!("content-length: {}\r\n", request.body.len()));
    }
    if !keep_alive && request.header("connection").is_none() {
        push("connection: close\r\n");
    }
    push("\r\n");
    out.extend_from_slice(&request.body);
    out
}

fn connect_request(origin: &Origin) -> Vec<u8> {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n", port = origin.port).into_bytes()
}

/// Finds an address that takes a connection. One connect is made and closed: a server that is not there is better said
/// in one sentence than in a million counted errors, unless the plan counts them.
fn reach(
    plan: &Plan,
    control: &Control,
    host: &str,
    port: u16,
    known: &[SocketAddr],
) -> Result<Result<SocketAddr, String>, Error> {
    let counted = plan.unreachable == Unreachable::Counted;
    let addresses = match if known.is_empty() { resolve(host, port, control) } else { Ok(known.to_vec()) } {
        Err(error @ (Error::Resolve { .. } | Error::ResolveTimeout { .. })) if counted => {
            return Ok(Err(error.to_string()));
        }
        found => found?,
    };
    let first = addresses.first().copied();
    if counted && addresses.len() == 1 {
        // There is nothing to choose, so nothing is asked.
        return first.map(Ok).ok_or_else(|| no_address(host));
    }
    let limit = if counted { plan.connect_timeout.min(CHOOSE_MAX) } else { plan.connect_timeout };
    let mut last = None;
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match connect(*address, limit, control) {
            Ok(()) => return Ok(Ok(*address)),
            Err(_) if control.stopping() != Stop::No => return Err(Error::Stopped),
            Err(source) => last = Some((*address, source)),
        }
    }
    if let (true, Some(first)) = (counted, first) {
        return Ok(Ok(first));
    }
    let Some((address, source)) = last else { return Err(no_address(host)) };
    let reason = match source.kind() {
        Io::TimedOut | Io::WouldBlock => format!("no answer in {} s", limit.as_secs_f64()),
        Io::ConnectionRefused => "it refuses the connection".to_owned(),
        _ => source.to_string(),
    };
    Err(Error::Unreachable { host: host.to_owned(), address, reason })
}

fn no_address(host: &str) -> Error {
    Error::Resolve { host: host.to_owned(), reason: "no address was found".into() }
}

/// Connects, and looks every now and then whether it is to stop.
fn connect(address: SocketAddr, limit: Duration, control: &Control) -> io::Result<()> {
    let ends = Instant::now() + limit;
    let mut socket = mio::net::TcpStream::connect(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, Token(0), Interest::WRITABLE)?;
    let mut events = Events::with_capacity(1);
    loop {
        let left = ends.saturating_duration_since(Instant::now());
        match poll.poll(&mut events, Some(left.min(SLICE))) {
            Err(error) if error.kind() != Io::Interrupted => return Err(error),
            _ => {}
        }
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Err(error) if error.kind() == Io::NotConnected => {}
            done => return done.map(drop),
        }
        if left.is_zero() {
            return Err(Io::TimedOut.into());
        }
        if control.stopping() != Stop::No {
            return Err(Io::Interrupted.into());
        }
    }
}

fn resolve(host: &str, port: u16, control: &Control) -> Result<Vec<SocketAddr>, Error> {
    let (tell, told) = mpsc::channel();
    let name = host.to_owned();
    // The resolver can only be left behind, not stopped: so it has a thread of its own.
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let found =
                (name.as_str(), port).to_socket_addrs().map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>());
            let _ = tell.send(found);
        })
        .map_err(|source| Error::System { what: "a thread for the resolver", source })?;
    let ends = Instant::now() + RESOLVE_MAX;
    loop {
        match told.recv_timeout(SLICE) {
            Ok(Ok(found)) if found.is_empty() => return Err(no_address(host)),
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(source)) => {
                return Err(Error::Resolve { host: host.to_owned(), reason: source.to_string() });
            }
            Err(_) if control.stopping() != Stop::No => return Err(Error::Stopped),
            Err(RecvTimeoutError::Timeout) if Instant::now() < ends => {}
            Err(_) => return Err(Error::ResolveTimeout { host: host.to_owned(), limit: RESOLVE_MAX }),
        }
    }
}

/// What a script's first message says, to find out whether it can be sent as it is.
pub(super) fn is_head_request(wire: &[u8]) -> bool {
    wire.starts_with(b"HEAD ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(request: &Request, absolute: bool) -> String {
        let (origin, _) = crate::target::parse("http://users:8080/").expect("a URL");
        String::from_utf8_lossy(&wire(request, &origin, absolute, true)).into_owned()
    }

    #[test]
    fn requests_are_written_as_the_rfc_has_them() {
        assert_eq!(text(&Request::get("/a"), false), "GET /a HTTP/1.1\r\nhost: users:8080\r\n\r\n");
        assert!(
            text(&Request::get("/a"), true).starts_with("GET http://users:8080/a HTTP/1.1\r\nhost: users:8080\r\n")
        );
        let post = Request {
            method: "POST".into(),
            headers: vec![("Host".into(), "other".into()), ("x-a".into(), "1".into())],
            body: std::sync::Arc::from(*b"abc"),
            ..Request::get("/")
        };
        assert_eq!(text(&post, false), "POST / HTTP/1.1\r\nhost: other\r\nx-a: 1\r\ncontent-length: 3\r\n\r\nabc");
    }

    #[test]
    fn a_name_without_address_and_a_closed_port_are_named_or_counted() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let (origin, path) = crate::target::parse("http://a/").expect("a URL");
        let load =
            crate::plan::Load::Closed(crate::plan::Closed { duration: None, count: Some(1), slot_per_second: None });
        let mut plan = Plan::new(origin, Source::single(Request::get(path)), load);
        let tried = |plan: &Plan, host: &str| reach(plan, &Control::new(), host, port, &[]);
        let error = tried(&plan, "no-such-host.invalid").expect_err("no address");
        assert!(error.is_unreached() && error.to_string().contains("no-such-host.invalid"), "{error}");
        let error = tried(&plan, "127.0.0.1").expect_err("nobody listens");
        assert!(error.is_unreached() && error.to_string().contains("refuses"), "{error}");
        plan.unreachable = Unreachable::Counted;
        assert!(tried(&plan, "no-such-host.invalid").is_ok_and(|address| address.is_err()));
        assert!(tried(&plan, "127.0.0.1").is_ok_and(|address| address.is_ok()));
    }

    /// A listen queue that is full takes no more SYNs: the connect hangs until somebody stops it.
    #[test]
    fn a_connect_that_hangs_hears_the_stop() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let _inside = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let listener = socket.listen(0).expect("a short queue");
        let address = listener.local_addr().expect("an address");
        let control = Control::new();
        let mut held = Vec::new();
        let began = Instant::now();
        while let Ok(socket) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            held.push(socket);
        }
        let stopper = control.clone();
        let stopping = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(120));
            stopper.stop(Stop::Gently);
        });
        let error = connect(address, Duration::from_secs(30), &control).expect_err("stopped");
        stopping.join().expect("a thread");
        assert!(error.kind() == Io::Interrupted && began.elapsed() < Duration::from_secs(20), "{error}");
    }
}
