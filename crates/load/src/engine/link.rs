//! One connection: socket, proxy tunnel, TLS, and the protocol object that reads it.
//!
//! ```text
//! Closed -> Connecting -> [Tunnel] -> [Handshake] -> [Settling] -> Open -> Closed
//! ```

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;

use super::h1::H1;
use super::h2_link::H2Wire;
use super::prepare::Route;
use crate::summary::ErrorKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Connecting,
    /// CONNECT was sent to the proxy.
    Tunnel,
    Handshake,
    /// HTTP/2: until the server's SETTINGS have come.
    Settling,
    Open,
}

/// The protocol of an open connection.
#[derive(Debug)]
pub(super) enum Wire {
    H1(H1),
    H2(Box<H2Wire>),
}

/// Why something failed, in the summary's terms and in the system's words.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::ConnectionRefused => ErrorKind::Refused,
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe => ErrorKind::Reset,
            Io::UnexpectedEof => ErrorKind::Closed,
            _ => ErrorKind::Connect,
        };
        Self::new(kind, error.to_string())
    }
}

/// What a read gave.
pub(super) enum Got {
    /// So many bytes; `full` where the buffer was filled, so that there may be more.
    Data {
        bytes: usize,
        full: bool,
    },
    Blocked,
    End,
}

pub(super) struct Link {
    pub(super) phase: Phase,
    pub(super) route: u16,
    pub(super) wire: Wire,
    /// When the connect began, and when TCP was there.
    pub(super) since_ns: u64,
    pub(super) tcp_ns: u64,
    /// How long the TLS handshake took, until it is recorded.
    pub(super) tls_ns: Option<u64>,
    /// Its HTTP/2 has something to say.
    pub(super) dirty: bool,
    /// What the proxy has said so far.
    pub(super) tunnel_head: Vec<u8>,
    socket: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    /// What the socket did not take.
    out: Vec<u8>,
    out_at: usize,
}

impl Link {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            phase: Phase::Closed,
            route: 0,
            wire,
            since_ns: 0,
            tcp_ns: 0,
            tls_ns: None,
            dirty: false,
            tunnel_head: Vec::new(),
            socket: None,
            tls: None,
            out: Vec::new(),
            out_at: 0,
        }
    }

    /// Begins to connect.
    pub(super) fn open(
        &mut self,
        address: SocketAddr,
        number: u16,
        registry: &Registry,
        token: Token,
        now_ns: u64,
    ) -> Result<(), Failure> {
        self.close();
        let mut socket = TcpStream::connect(address).map_err(|e| Failure::of(&e))?;
        // A request goes out in one write; waiting for more to send would only be latency of our own making.
        let _ = socket.set_nodelay(true);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).map_err(|e| Failure::of(&e))?;
        self.socket = Some(socket);
        self.phase = Phase::Connecting;
        self.route = number;
        self.since_ns = now_ns;
        match &mut self.wire {
            Wire::H1(h1) => h1.reset(),
            Wire::H2(h2) => h2.reset(),
        }
        Ok(())
    }

    /// Whether TCP is connected now; an error where it never will be.
    pub(super) fn connected(&self) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else { return Ok(false) };
        if let Ok(Some(error)) | Err(error) = socket.take_error() {
            return Err(Failure::of(&error));
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(Failure::of(&error)),
        }
    }

    pub(super) fn start_tls(&mut self, route: &Route) -> Result<(), Failure> {
        let Some(tls) = &route.tls else { return Ok(()) };
        let mut session = ClientConnection::new(std::sync::Arc::clone(&tls.config), tls.name.clone())
            .map_err(|e| Failure::new(ErrorKind::Tls, e.to_string()))?;
        // A request's body is bounded by the plan; rustls' own limit would cut it.
        session.set_buffer_limit(None);
        self.tls = Some(Box::new(session));
        self.phase = Phase::Handshake;
        self.flush()
    }

    pub(super) fn handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Sends, and keeps what the socket does not take.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes).map_err(|e| Failure::of(&e))?;
            return self.flush();
        }
        let mut rest = bytes;
        if self.out.is_empty() {
            let Some(socket) = &mut self.socket else { return Ok(()) };
            loop {
                match socket.write(rest) {
                    Ok(taken) if taken == rest.len() => return Ok(()),
                    Ok(0) => break,
                    Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failure::of(&e)),
                }
            }
        }
        self.out.extend_from_slice(rest);
        Ok(())
    }

    /// Sends what was kept.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(socket) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failure::of(&e)),
                }
            }
            return Ok(());
        }
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(0) => return Ok(()),
                Ok(taken) => self.out_at += taken,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::of(&e)),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(())
    }

    /// Sends what HTTP/2 has to say. While the socket takes nothing it stays where its bound is kept.
    pub(super) fn flush_h2(&mut self) -> Result<(), Failure> {
        let clogged = !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let Wire::H2(h2) = &mut self.wire else { return Ok(()) };
        if clogged || h2.connection.output().is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut h2.spare);
        h2.connection.swap_output(&mut bytes);
        let result = self.write(&bytes);
        if let Wire::H2(h2) = &mut self.wire {
            h2.spare = bytes;
        }
        result
    }

    /// Reads what is there, through TLS where there is TLS.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Got, Failure> {
        let Some(socket) = &mut self.socket else { return Ok(Got::Blocked) };
        let Some(tls) = &mut self.tls else {
            loop {
                match socket.read(buffer) {
                    Ok(0) => return Ok(Got::End),
                    Ok(bytes) => return Ok(Got::Data { bytes, full: bytes == buffer.len() }),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Blocked),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failure::of(&e)),
                }
            }
        };
        loop {
            match tls.reader().read(buffer) {
                Ok(0) => return Ok(Got::End),
                // More may wait inside the session, of which the poll knows nothing.
                Ok(bytes) => return Ok(Got::Data { bytes, full: true }),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Got::End),
                Err(e) => return Err(Failure::new(ErrorKind::Tls, e.to_string())),
            }
            match tls.read_tls(socket) {
                Ok(0) if tls.is_handshaking() => {
                    return Err(Failure::new(ErrorKind::Tls, "the server closed the connection during the handshake"));
                }
                Ok(0) => return Ok(Got::End),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Got::Blocked),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::of(&e)),
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert that says why goes out if it can.
                let _ = tls.write_tls(socket);
                return Err(Failure::new(ErrorKind::Tls, crate::trust::sentence(&error)));
            }
            while tls.wants_write() {
                match tls.write_tls(socket) {
                    Ok(taken) if taken > 0 => {}
                    _ => break,
                }
            }
            if self.phase == Phase::Handshake && !tls.is_handshaking() {
                return Ok(Got::Blocked);
            }
        }
    }

    /// The protocol that the server chose, if it says so.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref().and_then(|tls| tls.alpn_protocol())
    }

    pub(super) fn close(&mut self) {
        self.socket = None;
        self.tls = None;
        self.phase = Phase::Closed;
        self.out.clear();
        self.out_at = 0;
        self.tunnel_head.clear();
    }
}
