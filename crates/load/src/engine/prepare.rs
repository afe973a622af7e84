//! Everything that can be done before the first request: addresses, TLS settings, the bytes of each request.

use std::io::ErrorKind as Io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use super::tls::TlsRoute;
use crate::Error;
use crate::plan::{Plan, Protocol};
use crate::source::{Request, Source, Success};
use crate::target::Origin;

/// The system's resolver gets this long; it has no timeout of its own that can be set.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A place to connect to. Requests of several origins may share one: a proxy.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) address: SocketAddr,
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

pub(super) fn prepare(plan: &Plan) -> Result<Prep, Error> {
    let settings = match (&plan.tls, plan.origins.iter().any(|o| o.tls)) {
        (Some(tls), true) => Some(super::tls::client_config(tls, plan.protocol)?),
        _ => None,
    };
    let proxy_address = match &plan.proxy {
        Some(proxy) => Some(reach(&proxy.host, proxy.port, &proxy.addresses, plan.connect_timeout)?),
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
        let address = match proxy_address {
            Some(address) => address,
            None => reach(&origin.host, origin.port, &origin.addresses, plan.connect_timeout)?,
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
/// in one sentence than in a million counted errors.
fn reach(host: &str, port: u16, known: &[SocketAddr], limit: Duration) -> Result<SocketAddr, Error> {
    let addresses = if known.is_empty() { resolve(host, port)? } else { known.to_vec() };
    let mut last = None;
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match TcpStream::connect_timeout(address, limit) {
            Ok(_) => return Ok(*address),
            Err(source) => last = Some((*address, source)),
        }
    }
    match last {
        Some((address, source)) if source.kind() == Io::TimedOut || source.kind() == Io::WouldBlock => {
            Err(Error::Unreachable {
                host: host.to_owned(),
                address,
                reason: format!("no answer in {} s", limit.as_secs_f64()),
            })
        }
        Some((address, source)) => {
            let reason = if source.kind() == Io::ConnectionRefused {
                "it refuses the connection".to_owned()
            } else {
                source.to_string()
            };
            Err(Error::Unreachable { host: host.to_owned(), address, reason })
        }
        None => Err(Error::Resolve { host: host.to_owned(), reason: "no address was found".into() }),
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
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
    match told.recv_timeout(RESOLVE_MAX) {
        Ok(Ok(found)) if found.is_empty() => {
            Err(Error::Resolve { host: host.to_owned(), reason: "the resolver gave none".into() })
        }
        Ok(Ok(found)) => Ok(found),
        Ok(Err(source)) => Err(Error::Resolve { host: host.to_owned(), reason: source.to_string() }),
        Err(_) => Err(Error::ResolveTimeout { host: host.to_owned(), limit: RESOLVE_MAX }),
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
    fn a_name_without_address_and_a_closed_port_are_named() {
        let error = reach("no-such-host.invalid", 80, &[], Duration::from_secs(1)).expect_err("no address");
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let error = reach("127.0.0.1", port, &[], Duration::from_secs(1)).expect_err("nobody listens");
        assert!(error.to_string().contains("refuses"), "{error}");
    }
}
