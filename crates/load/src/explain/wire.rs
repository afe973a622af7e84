//! One request at a time over a blocking socket, each step of it timed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use celerity_telemetry::LEDGER_REQUEST_HEADER;
use celerity_telemetry::server_timing::{self, HOPS, Hop};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::{Plan, tls};
use crate::target::Origin;
use crate::trust;

/// The steps of a request, in nanoseconds, one after the other: they sum to the total. What was not done is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    pub name_lookup_ns: u64,
    pub connect_ns: u64,
    /// CONNECT through the forward proxy, for `https`.
    pub tunnel_ns: u64,
    pub tls_ns: u64,
    pub send_ns: u64,
    /// From the last byte of the request to the first of the response's head.
    pub wait_ns: u64,
    /// From there to the last byte.
    pub body_ns: u64,
}

impl Segments {
    pub fn total_ns(&self) -> u64 {
        let Self { name_lookup_ns, connect_ns, tunnel_ns, tls_ns, send_ns, wait_ns, body_ns } = *self;
        [name_lookup_ns, connect_ns, tunnel_ns, tls_ns, send_ns, wait_ns, body_ns].iter().sum()
    }
}

/// A response and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    pub segments: Segments,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body_bytes: u64,
    /// Every hop's account, the innermost first.
    pub hops: Vec<Hop>,
    pub address: SocketAddr,
    /// The request went out on a connection that had carried another.
    pub reused: bool,
    /// Version and cipher suite, where there was TLS.
    pub tls: Option<String>,
}

/// Why there is no answer. One sentence each: what failed, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Setup(String),
    #[error("the name {host} has no address: {reason}; check the name, or give its address with --resolve")]
    Lookup { host: String, reason: String },
    #[error("no connection to {address}: {reason}; is the server running?")]
    Connect { address: SocketAddr, reason: io::Error },
    #[error("the proxy answered {status} to CONNECT {authority}")]
    Tunnel { status: u16, authority: String },
    #[error("the TLS handshake with {host} failed: {reason}")]
    Tls { host: String, reason: String },
    #[error("no end after {limit:?}: the time was spent in {during}; --max-time sets the limit")]
    Time { limit: Duration, during: &'static str },
    #[error("the connection ended in {during}: {reason}")]
    Ended { during: &'static str, reason: String },
    #[error("the response is not HTTP/1.1: {0}")]
    Malformed(String),
}

/// A socket whose every operation ends at the deadline.
#[derive(Debug)]
struct Timed {
    tcp: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.left()?))?;
        self.tcp.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.left()?))?;
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => tls.as_mut(),
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Time in one piece: each reading ends a segment and begins the next, so nothing is counted twice or lost.
struct Laps(Instant);

impl Laps {
    fn lap_ns(&mut self) -> u64 {
        self.until_ns(Instant::now())
    }

    fn until_ns(&mut self, now: Instant) -> u64 {
        let ns = now.saturating_duration_since(self.0).as_nanos();
        self.0 = self.0.max(now);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// Sends a plan's requests; keeps the connection between them where the plan says so.
#[derive(Debug)]
pub struct Connection {
    plan: Plan,
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
    request: Vec<u8>,
    open: Option<(Stream, SocketAddr)>,
}

/// The longest head that is read.
const HEAD_BYTES_MAX: usize = 256 << 10;
const HEADERS_MAX: usize = 256;
/// One read's worth of body.
const PIECE_BYTES: usize = 64 << 10;

impl Connection {
    /// Reads the certificates and writes the request.
    pub fn new(plan: Plan) -> Result<Self, Error> {
        if plan.proxy.as_ref().is_some_and(|proxy| proxy.tls) {
            return Err(Error::Setup("a forward proxy is spoken to in plain HTTP: give it as http://host:port".into()));
        }
        let tls = if plan.origin.tls { Some(tls::config(&plan.tls).map_err(Error::Setup)?) } else { None };
        Ok(Self { request: request(&plan), plan, tls, open: None })
    }

    /// One request and its whole answer.
    pub fn ask(&mut self) -> Result<Answer, Error> {
        let mut laps = Laps(Instant::now());
        let deadline = laps.0.checked_add(self.plan.time_max).unwrap_or_else(|| laps.0 + Duration::from_secs(86_400));
        let mut segments = Segments::default();
        let kept = self.open.take();
        let reused = kept.is_some();
        let (mut stream, address) = match kept {
            Some(open) => open,
            None => self.open(deadline, &mut laps, &mut segments)?,
        };
        stream.timed().deadline = deadline;
        let tls = match &stream {
            Stream::Tls(tls) => describe(&tls.conn),
            Stream::Plain(_) => None,
        };

        let failed = |error: io::Error, during| self.broken(&error, during);
        stream.io().write_all(&self.request).map_err(|error| failed(error, "sending the request"))?;
        stream.io().flush().map_err(|error| failed(error, "sending the request"))?;
        segments.send_ns = laps.lap_ns();

        let mut input = Input { stream: &mut stream, bytes: Vec::new(), taken: 0 };
        let during = "waiting for the first byte";
        let mut first;
        let head = loop {
            first = None;
            let head = loop {
                if let Some(head) = input.head()? {
                    break head;
                }
                if !input.fill().map_err(|error| failed(error, during))? {
                    let reason = "the server closed it without an answer".to_owned();
                    return Err(Error::Ended { during, reason });
                }
                first.get_or_insert_with(Instant::now);
            };
            // 100 and 103 are not the answer.
            if !(100..200).contains(&head.status) || head.status == 101 {
                break head;
            }
        };
        segments.wait_ns = laps.until_ns(first.unwrap_or_else(Instant::now));
        let (body_bytes, whole) = input.body(&head, &self.plan.method).map_err(|error| match error {
            BodyError::Io(error) => failed(error, "reading the body"),
            BodyError::Malformed(reason) => Error::Malformed(reason.to_owned()),
        })?;
        segments.body_ns = laps.lap_ns();
        let clean = whole && input.taken == input.bytes.len();
        let closes = head.header("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"));
        if self.plan.keep_alive && clean && !closes && head.minor_version == 1 {
            self.open = Some((stream, address));
        }
        let timing: Vec<&str> = head.all("server-timing").collect();
        let hops = server_timing::hops(&timing.join(", "));
        Ok(Answer { segments, status: head.status, headers: head.headers, body_bytes, hops, address, reused, tls })
    }

    fn open(&self, deadline: Instant, laps: &mut Laps, segments: &mut Segments) -> Result<(Stream, SocketAddr), Error> {
        let to = self.plan.proxy.as_ref().unwrap_or(&self.plan.origin);
        let addresses = self.look_up(to, deadline)?;
        segments.name_lookup_ns = laps.lap_ns();
        let (tcp, address) = self.connect(&addresses, deadline)?;
        segments.connect_ns = laps.lap_ns();
        let mut timed = Timed { tcp, deadline };
        let Some(config) = &self.tls else { return Ok((Stream::Plain(timed), address)) };
        let host = &self.plan.origin.host;
        if self.plan.proxy.is_some() {
            self.tunnel(&mut timed)?;
            segments.tunnel_ns = laps.lap_ns();
        }
        let refuse = |reason: String| Error::Tls { host: host.clone(), reason };
        let name = ServerName::try_from(host.clone()).map_err(|error| refuse(error.to_string()))?;
        let mut conn = ClientConnection::new(config.clone(), name).map_err(|error| refuse(error.to_string()))?;
        while conn.is_handshaking() {
            match conn.complete_io(&mut timed) {
                Ok((0, 0)) => return Err(refuse("the server closed the connection".to_owned())),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Err(self.broken(&error, "the TLS handshake")),
                Err(error) => {
                    let library = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                    return Err(refuse(library.map_or_else(|| error.to_string(), trust::sentence)));
                }
            }
        }
        segments.tls_ns = laps.lap_ns();
        Ok((Stream::Tls(Box::new(StreamOwned::new(conn, timed))), address))
    }

    fn look_up(&self, to: &Origin, deadline: Instant) -> Result<Vec<SocketAddr>, Error> {
        if !to.addresses.is_empty() {
            return Ok(to.addresses.clone());
        }
        let host = to.host.to_ascii_lowercase();
        if let Some((_, _, found)) = self.plan.resolve.iter().find(|(name, port, _)| *name == host && *port == to.port)
        {
            return Ok(found.clone());
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, to.port)]);
        }
        let (send, receive) = mpsc::channel();
        let name = (host.clone(), to.port);
        // The system's resolver knows no deadline: it is left behind on its thread when it takes too long.
        std::thread::spawn(move || {
            let _ = send.send(name.to_socket_addrs().map(Iterator::collect::<Vec<_>>));
        });
        match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Err(_) => Err(Error::Time { limit: self.plan.time_max, during: "the name lookup" }),
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            Ok(Ok(_)) => Err(Error::Lookup { host, reason: "the resolver gave none".to_owned() }),
            Ok(Err(error)) => Err(Error::Lookup { host, reason: error.to_string() }),
        }
    }

    /// Tries each address in turn.
    fn connect(&self, addresses: &[SocketAddr], deadline: Instant) -> Result<(TcpStream, SocketAddr), Error> {
        let mut last = None;
        for &address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(tcp) => {
                    // A request is one write; waiting for more would only be measured.
                    let _ = tcp.set_nodelay(true);
                    return Ok((tcp, address));
                }
                Err(reason) => last = Some(Error::Connect { address, reason }),
            }
        }
        match last {
            Some(Error::Connect { reason, .. }) if is_timeout(&reason) => {
                Err(Error::Time { limit: self.plan.time_max, during: "the connect" })
            }
            Some(error) => Err(error),
            None => Err(Error::Time { limit: self.plan.time_max, during: "the connect" }),
        }
    }

    fn tunnel(&self, timed: &mut Timed) -> Result<(), Error> {
        let during = "asking the proxy for a tunnel";
        let Origin { host, port, .. } = &self.plan.origin;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let ask = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        timed.write_all(ask.as_bytes()).map_err(|error| self.broken(&error, during))?;
        // Byte by byte: what comes after the head is TLS already, and not ours to take.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match timed.read(&mut byte) {
                Ok(1) if head.len() < HEAD_BYTES_MAX => head.push(byte[0]),
                Ok(_) => return Err(Error::Ended { during, reason: "the proxy gave no whole answer".to_owned() }),
                Err(error) => return Err(self.broken(&error, during)),
            }
        }
        let status = String::from_utf8_lossy(&head).split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        if (200..300).contains(&status) { Ok(()) } else { Err(Error::Tunnel { status, authority }) }
    }

    fn broken(&self, error: &io::Error, during: &'static str) -> Error {
        if is_timeout(error) {
            Error::Time { limit: self.plan.time_max, during }
        } else {
            Error::Ended { during, reason: error.to_string() }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn describe(conn: &ClientConnection) -> Option<String> {
    let version = conn.protocol_version()?.as_str().unwrap_or("TLS").replace("v1_", "v1.");
    let suite = conn.negotiated_cipher_suite()?.suite();
    Some(format!("{version}, {}", suite.as_str().unwrap_or("unknown suite")))
}

/// The request as it goes out.
fn request(plan: &Plan) -> Vec<u8> {
    let authority = plan.origin.authority();
    let mut target = plan.path.clone();
    if plan.proxy.is_some() && !plan.origin.tls {
        target = format!("{}://{authority}{target}", plan.origin.scheme());
    }
    let mut text = format!("{} {target} HTTP/1.1\r\n", plan.method);
    let mut defaults = vec![
        ("Host", authority),
        ("User-Agent", concat!("celerity/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("Accept", "*/*".to_owned()),
        (LEDGER_REQUEST_HEADER, HOPS.to_owned()),
    ];
    if !plan.body.is_empty() {
        defaults.push(("Content-Type", "application/x-www-form-urlencoded".to_owned()));
    }
    for (name, value) in defaults {
        let given = plan.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        if !given && !plan.without.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in &plan.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !plan.body.is_empty() || matches!(plan.method.as_str(), "POST" | "PUT" | "PATCH") {
        text.push_str(&format!("Content-Length: {}\r\n", plan.body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&plan.body);
    bytes
}

struct Head {
    status: u16,
    minor_version: u8,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

enum BodyError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What was read and not yet used.
struct Input<'a> {
    stream: &'a mut Stream,
    bytes: Vec<u8>,
    taken: usize,
}

impl Input<'_> {
    /// Reads more; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
            self.taken = 0;
        }
        let before = self.bytes.len();
        self.bytes.resize(before + PIECE_BYTES, 0);
        let read = loop {
            match self.stream.io().read(&mut self.bytes[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Many servers end TLS without a goodbye; the framing says whether something is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(0),
                other => break other,
            }
        };
        self.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        read.map(|count| count > 0)
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    fn head(&mut self) -> Result<Option<Head>, Error> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(self.rest()) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.rest().len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => {
                return Err(Error::Malformed(format!("its head is longer than {HEAD_BYTES_MAX} bytes")));
            }
            Err(error) => return Err(Error::Malformed(error.to_string())),
        };
        let head = Head {
            status: response.code.unwrap_or(0),
            minor_version: response.version.unwrap_or(0),
            headers: response
                .headers
                .iter()
                .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
                .collect(),
        };
        self.taken += length;
        Ok(Some(head))
    }

    /// Reads the body to its end and counts its bytes; `false` where only the connection's end says that it is whole.
    fn body(&mut self, head: &Head, method: &str) -> Result<(u64, bool), BodyError> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok((0, true));
        }
        let coding = head.header("transfer-encoding");
        if coding.is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked")) {
            return self.chunks().map(|bytes| (bytes, true));
        }
        if let Some(length) = head.header("content-length") {
            let length: u64 =
                length.trim().parse().map_err(|_| BodyError::Malformed("its Content-Length is no number"))?;
            self.skip(length)?;
            return Ok((length, true));
        }
        let mut bytes = 0;
        loop {
            bytes += self.rest().len() as u64;
            self.taken = self.bytes.len();
            if !self.fill()? {
                return Ok((bytes, false));
            }
        }
    }

    fn skip(&mut self, mut length: u64) -> Result<(), BodyError> {
        while length > 0 {
            let here = usize::try_from(length).unwrap_or(usize::MAX).min(self.rest().len());
            self.taken += here;
            length -= here as u64;
            if length > 0 && !self.fill()? {
                return Err(BodyError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is cut short")));
            }
        }
        Ok(())
    }

    fn chunks(&mut self) -> Result<u64, BodyError> {
        let mut bytes = 0_u64;
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size =
                u64::from_str_radix(size, 16).map_err(|_| BodyError::Malformed("a chunk's size is no number"))?;
            if size == 0 {
                // Trailers, then an empty line.
                while !self.line()?.is_empty() {}
                return Ok(bytes);
            }
            bytes = bytes.saturating_add(size);
            self.skip(size)?;
            if !self.line()?.is_empty() {
                return Err(BodyError::Malformed("a chunk is longer than it said"));
            }
        }
    }

    fn line(&mut self) -> Result<String, BodyError> {
        loop {
            if let Some(end) = self.rest().iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(self.rest().get(..end).unwrap_or_default()).trim_end().to_owned();
                self.taken += end + 1;
                return Ok(line);
            }
            if self.rest().len() > HEAD_BYTES_MAX {
                return Err(BodyError::Malformed("a line of its chunks has no end"));
            }
            if !self.fill()? {
                return Err(BodyError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is cut short")));
            }
        }
    }
}
