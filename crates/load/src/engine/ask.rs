//! A few HTTP/2 requests, one after the other, with their answers kept: for what has to be known before a run, such as
//! a server's reflection. Blocking, and not for measuring.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use celerity_wire::Violation;
use rustls::{ClientConnection, StreamOwned};

use super::h2::{Connection, Failure, Reply, Sink};
use super::h2_request::Prepared;
use crate::Error;
use crate::plan::{Protocol, Tls};
use crate::source::Request;
use crate::target::Origin;

/// An answer above this is not what was asked for.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 64 * 1024;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// An answer, whole.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub body: Vec<u8>,
}

/// A connection that answers one request at a time.
pub struct Asker {
    stream: Box<dyn Stream>,
    connection: Connection,
    /// A frame that has not come whole.
    rest: Vec<u8>,
    origin: Origin,
    timeout: Duration,
}

#[derive(Default)]
struct Heard {
    body: Vec<u8>,
    end: Option<Result<Reply, Failure>>,
    too_long: bool,
}

impl Sink for Heard {
    fn wants_body(&self) -> bool {
        true
    }

    fn body(&mut self, _token: u32, data: &[u8]) {
        self.too_long |= self.body.len() + data.len() > BODY_BYTES_MAX;
        if !self.too_long {
            self.body.extend_from_slice(data);
        }
    }

    fn done(&mut self, _token: u32, reply: Reply) {
        self.end = Some(Ok(reply));
    }

    fn failed(&mut self, _token: u32, why: Failure) {
        self.end = Some(Err(why));
    }
}

impl Asker {
    /// # Errors
    /// The server cannot be reached, or TLS fails. `timeout` is for each step.
    pub fn connect(origin: &Origin, tls: Option<&Tls>, timeout: Duration) -> Result<Self, Error> {
        let host = || origin.host.clone();
        let addresses = if origin.addresses.is_empty() {
            let found = (origin.host.as_str(), origin.port).to_socket_addrs();
            found.map_err(|e| Error::Resolve { host: host(), reason: e.to_string() })?.collect()
        } else {
            origin.addresses.clone()
        };
        let mut last = None;
        let connected = addresses.iter().find_map(|address| match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => Some(stream),
            Err(error) => {
                last = Some((*address, error));
                None
            }
        });
        let Some(socket) = connected else {
            return Err(match last {
                Some((address, error)) => Error::Unreachable { host: host(), address, reason: error.to_string() },
                None => Error::Resolve { host: host(), reason: "no address was found".into() },
            });
        };
        let system = |source| Error::System { what: "a timeout of a socket", source };
        socket.set_read_timeout(Some(timeout)).map_err(system)?;
        socket.set_write_timeout(Some(timeout)).map_err(system)?;
        let _ = socket.set_nodelay(true);
        let stream: Box<dyn Stream> = match tls.filter(|_| origin.tls) {
            None => Box::new(socket),
            Some(tls) => {
                let route = super::tls::client_config(tls, Protocol::Http2)?.route(tls, &origin.host)?;
                let session = ClientConnection::new(route.config, route.name).map_err(|e| Error::Tls(e.to_string()))?;
                Box::new(StreamOwned::new(session, socket))
            }
        };
        Ok(Self { stream, connection: Connection::new(1), rest: Vec::new(), origin: origin.clone(), timeout })
    }

    /// # Errors
    /// There is no whole answer in time.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, Error> {
        let prepared = Prepared::new(request, &self.origin).map_err(Error::Plan)?;
        let fail = |origin: &Origin, reason: String| Error::Unanswered { host: origin.authority(), reason };
        let ends = Instant::now() + self.timeout;
        let late = format!("no whole answer within {:?}", self.timeout);
        // A socket's timeout is EAGAIN to the system (socket(7), SO_RCVTIMEO).
        let broken = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => late.clone(),
            _ => error.to_string(),
        };
        let mut heard = Heard::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut started = false;
        loop {
            if !started && self.connection.capacity() > 0 {
                started = self.connection.start(&prepared, usize::MAX, 0).is_some();
            }
            let out = self.connection.output().len();
            let written = self.stream.write_all(self.connection.output()).and_then(|()| self.stream.flush());
            written.map_err(|e| fail(&self.origin, broken(e)))?;
            self.connection.written(out);
            match heard.end {
                Some(Ok(reply)) if !heard.too_long => {
                    return Ok(Answer { status: reply.status, grpc_status: reply.grpc_status, body: heard.body });
                }
                Some(Ok(_)) => {
                    return Err(fail(&self.origin, format!("its answer has more than {BODY_BYTES_MAX} bytes")));
                }
                Some(Err(why)) => return Err(fail(&self.origin, why.to_string())),
                None => {}
            }
            if Instant::now() >= ends || self.connection.is_closing() {
                return Err(fail(&self.origin, late));
            }
            let bytes = self.stream.read(&mut buffer).map_err(|e| fail(&self.origin, broken(e)))?;
            if bytes == 0 {
                return Err(fail(&self.origin, "it closed the connection".into()));
            }
            self.rest.extend_from_slice(buffer.get(..bytes).unwrap_or_default());
            let taken = self
                .connection
                .receive(&self.rest, &mut heard)
                .map_err(|why| fail(&self.origin, text_of(&why).to_owned()))?;
            self.rest.drain(..taken);
        }
    }
}

/// What a server did wrong, in words.
fn text_of(violation: &Violation) -> &'static str {
    match violation {
        Violation::Stream(_, _, text) | Violation::Connection(_, text) => text,
    }
}
