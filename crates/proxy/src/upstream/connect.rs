//! Opening connections: TCP, TLS, protocol.

use super::cluster::ByteSeries;
use super::endpoint::AcquireError;
use super::starvation::Starvation;
use crate::h1::{ClientConn, Wire};
use crate::h2;
use crate::net::{Io, Socket, stamp};
use crate::tls::{Alpn, Connector, Peer, Target};
use celerity_model::snapshot::TcpKeepalive;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};

/// What opening a connection took; charged to the one request that asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub connect: Duration,
    pub tls: Duration,
}

/// The protocol of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// What ALPN chooses; HTTP/1.1 without TLS.
    Auto,
}

/// Everything about a cluster that a connection to it depends on.
pub struct Plan {
    pub cluster: Arc<str>,
    pub identity: u64,
    pub connect_timeout: Duration,
    pub keepalive: Option<TcpKeepalive>,
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
    pub max_requests: Option<u32>,
    pub tls: Option<Arc<Connector>>,
    /// Both sides show certificates and the upstream's is checked: what its proxy says of itself is believed.
    pub is_mutual: bool,
    /// The service's host: what `auto_sni` asks for. Connections are shared by all authorities of a service, so the name
    /// is the service's and not a request's.
    pub authority: Box<str>,
    pub protocol: Protocol,
    pub bytes: ByteSeries,
    pub http2: h2::ClientSettings,
    pub http2_streams_max: u32,
    pub starvation: Rc<Starvation>,
    /// Reads say when what they read had come: the ledger is on.
    pub stamped: bool,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Plan({}, {:?})", self.cluster, self.protocol)
    }
}

impl Plan {
    pub fn may_be_http2(&self) -> bool {
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => self.tls.is_some(),
        }
    }

    pub fn streams_per_connection(&self) -> u32 {
        let most = self.http2_streams_max.min(self.max_requests.unwrap_or(u32::MAX));
        most.clamp(1, STREAMS_PER_CONNECTION_MAX)
    }
}

/// Streams on one HTTP/2 connection before another is opened, unless the configuration says fewer. One connection is
/// one core at the peer; many streams on few connections are what makes batches large. 128 keeps both.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;

pub enum Connected {
    H1 {
        conn: Box<ClientConn>,
        peer: Option<Rc<Peer>>,
        setup: Option<Setup>,
        opened: Instant,
        local: Option<SocketAddr>,
    },
    /// Nothing is sent before somebody runs the connection.
    H2 {
        connection: Box<h2::Connection<Io>>,
        client: h2::Client,
        peer: Option<Rc<Peer>>,
        setup: Option<Setup>,
        opened: Instant,
        local: Option<SocketAddr>,
    },
}

/// Opens one connection, within the cluster's connect timeout: as in Envoy it covers TCP and TLS. `http1`: it must speak
/// HTTP/1.1, whatever the plan would choose.
pub async fn open(plan: &Plan, address: SocketAddr, http1: bool) -> Result<Connected, AcquireError> {
    let failed =
        |reason: String, timed_out, tls| AcquireError::Connect { address, reason: reason.into(), timed_out, tls };
    match tokio::time::timeout(plan.connect_timeout, open_untimed(plan, address, http1)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(OpenError::Tcp(error))) => Err(failed(error.to_string(), false, false)),
        Ok(Err(OpenError::Tls(error))) => Err(failed(error, false, true)),
        Err(_) => {
            let reason = format!("no connection within connectTimeout {:?}", plan.connect_timeout);
            Err(failed(reason, true, false))
        }
    }
}

enum OpenError {
    Tcp(io::Error),
    Tls(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Tcp(error)
    }
}

async fn open_untimed(plan: &Plan, address: SocketAddr, http1: bool) -> Result<Connected, OpenError> {
    let began = Instant::now();
    let stream = connect(plan, address).await?;
    let connect = began.elapsed();
    let protocol = if http1 { Protocol::Http1 } else { plan.protocol };
    let Some(connector) = &plan.tls else {
        let setup = Setup { connect, tls: Duration::ZERO };
        let protocol = if protocol == Protocol::Http2 { Alpn::H2 } else { Alpn::None };
        return Ok(speak(plan, Io::Tcp(Socket::new(stream, plan.stamped)), &protocol, None, Some(setup), began));
    };
    let authority = (!plan.authority.is_empty() && !plan.authority.contains('*')).then_some(&*plan.authority);
    let connected = connector
        .connect(Socket::new(stream, plan.stamped), Target { address, authority, http1 })
        .await
        .map_err(|error| OpenError::Tls(error.to_string()))?;
    let setup = Setup { connect, tls: connected.duration };
    let alpn = match (protocol, &connected.peer.alpn) {
        // A peer that insists is believed over what was asked for.
        (Protocol::Http1, Alpn::H2) if http1 => Alpn::H2,
        // A peer that knows no ALPN was told by configuration what to speak.
        (Protocol::Http2, Alpn::None | Alpn::Other(_)) => Alpn::H2,
        (Protocol::Http1, _) => Alpn::Http1,
        (_, chosen) => chosen.clone(),
    };
    let io = Io::TlsClient(Box::new(connected.stream));
    Ok(speak(plan, io, &alpn, Some(Rc::new(connected.peer)), Some(setup), began))
}

fn speak(plan: &Plan, io: Io, alpn: &Alpn, peer: Option<Rc<Peer>>, setup: Option<Setup>, opened: Instant) -> Connected {
    let local = io.tcp().local_addr().ok();
    if *alpn == Alpn::H2 {
        let (connection, client) = h2::client::connect(io, plan.http2);
        return Connected::H2 { connection: Box::new(connection), client, peer, setup, opened, local };
    }
    Connected::H1 { conn: Box::new(ClientConn::new(Wire::new(io))), peer, setup, opened, local }
}

async fn connect(plan: &Plan, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if plan.stamped {
        stamp(&socket)?;
    }
    if let Some(wanted) = plan.keepalive {
        let mut keepalive = socket2::TcpKeepalive::new();
        if let Some(time) = wanted.time {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = wanted.interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(probes) = wanted.probes {
            keepalive = keepalive.with_retries(probes);
        }
        socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    }
    socket.connect(address).await
}
