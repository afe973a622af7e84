//! Listening, connecting, and what the kernel knows about a connection.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Connections that the kernel has accepted and we have not. A burst beyond it costs its clients a second, the time of a
/// retransmitted SYN; the kernel cuts it to `net.core.somaxconn`, which is 4096 by default.
pub const BACKLOG: i32 = 4096;

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {address} for {purpose}: the address is in use; stop what listens there \
         (`ss -ltnp 'sport = :{port}'` names it), or choose another with {flag}",
        port = address.port()
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// What it was for, such as `outbound traffic`.
        purpose: &'static str,
        /// The option that changes it, such as `--outbound`.
        flag: &'static str,
    },
    /// Any other reason of the kernel.
    #[error("cannot listen on {address} for {purpose}: {source}; choose another address with {flag}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What it was for.
        purpose: &'static str,
        /// The option that changes it.
        flag: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An address to listen on, with the words for an error.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// What arrives there, such as `outbound traffic`.
    pub purpose: &'static str,
    /// The option by which a person changes it, such as `--outbound`.
    pub flag: &'static str,
}

impl Listen {
    /// One listener for each of `workers` (at least one), all on the same address: the kernel spreads connections over them
    /// (SO_REUSEPORT), and no worker takes another's lock to accept.
    ///
    /// # Errors
    /// The address is in use, also by another process that would share it, or cannot be had.
    pub fn bind(&self, workers: usize) -> Result<Vec<StdListener>, BindError> {
        // With SO_REUSEPORT a second process of the same user would quietly take half of the connections. A first bind
        // without it finds that out.
        if self.address.port() != 0 {
            drop(self.one(self.address, false)?);
        }
        let first = self.one(self.address, true)?;
        let address = first.local_addr().map_err(|e| self.error(self.address, e))?;
        let mut all = vec![first];
        for _ in 1..workers {
            all.push(self.one(address, true)?);
        }
        Ok(all)
    }

    fn one(&self, address: SocketAddr, shared: bool) -> Result<StdListener, BindError> {
        listener(address, shared).map_err(|e| self.error(address, e))
    }

    fn error(&self, address: SocketAddr, source: io::Error) -> BindError {
        let (purpose, flag) = (self.purpose, self.flag);
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address, purpose, flag },
            _ => BindError::Refused { address, purpose, flag, source },
        }
    }
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for TIME_WAIT of the connections before it.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, as Envoy's `ipv4_compat`.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Accepted sockets inherit it on Linux, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// From now on the kernel drops what would open a further connection to `socket`, and finishes the handshakes under way. Its
/// client tries again a second later, and finds the port closed or somebody else behind it. Without it a connection that is
/// made between the last look at the queue and the end of the socket is reset.
///
/// # Errors
/// The kernel takes no filter.
pub fn take_no_more(socket: &impl AsFd) -> io::Result<()> {
    // Classic BPF over the TCP header (linux/filter.h): drop where byte 13 has SYN (0x02) and not ACK (0x10).
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let program = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, 0x12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(socket).attach_filter(&program)
}

/// When the kernel probes an idle connection (Istio `tcpKeepalive`). `None` leaves the kernel's own value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes until the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe, in whole seconds.
    pub time: Option<Duration>,
    /// Between probes, in whole seconds.
    pub interval: Option<Duration>,
}

/// Switches keep-alive probes on.
///
/// # Errors
/// The kernel refuses the values: it takes 1 to 32767 seconds, and 1 to 127 probes.
pub fn set_keepalive(stream: &TcpStream, keepalive: &Keepalive) -> io::Result<()> {
    let mut wanted = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        wanted = wanted.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        wanted = wanted.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        wanted = wanted.with_retries(probes);
    }
    SockRef::from(stream).set_tcp_keepalive(&wanted)
}

/// Why there is no connection to an upstream. Nothing was sent, so the request may go elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream's kernel said no: nothing listens there.
    #[error("{0} refuses connections: nothing listens there")]
    Refused(SocketAddr),
    /// No answer within the limit.
    #[error("{address} did not answer within {} ms", limit.as_millis())]
    TimedOut {
        /// The upstream.
        address: SocketAddr,
        /// The limit (`connectTimeout`).
        limit: Duration,
    },
    /// This machine has no port or file descriptor left, or no route.
    #[error("cannot connect to {address}: {source}")]
    Other {
        /// The upstream.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Connects within `limit`, with TCP_NODELAY and, if given, keep-alive probes.
///
/// # Errors
/// There is no connection; the error says why.
pub async fn connect(
    address: SocketAddr,
    limit: Duration,
    keepalive: Option<&Keepalive>,
) -> Result<TcpStream, ConnectError> {
    let classify = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused(address),
        io::ErrorKind::TimedOut => ConnectError::TimedOut { address, limit },
        _ => ConnectError::Other { address, source },
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(classify)?;
    socket.set_nodelay(true).map_err(classify)?;
    let stream = match tokio::time::timeout(limit, socket.connect(address)).await {
        Ok(connected) => connected.map_err(classify)?,
        Err(_) => return Err(ConnectError::TimedOut { address, limit }),
    };
    if let Some(keepalive) = keepalive {
        set_keepalive(&stream, keepalive).map_err(classify)?;
    }
    Ok(stream)
}

/// Where a redirected connection, which came to `local`, wanted to go (SO_ORIGINAL_DST, iptables REDIRECT). `None` when it was not redirected: it
/// came to our own address, or this kernel tracks no connections.
#[must_use]
pub fn original_destination(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    // A socket for both families tells an IPv4 client's addresses as IPv6 ones, and redirected it as IPv4.
    let local = canonical(local);
    let socket = SockRef::from(stream);
    let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = canonical(found.ok()?.as_socket()?);
    (original != local).then_some(original)
}

/// What the kernel measured on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time (RFC 6298), in microseconds.
    pub rtt_us: u32,
    /// Its variation, in microseconds.
    pub rtt_variation_us: u32,
    /// Segments sent again since the connection began.
    pub retransmitted_segments: u32,
    /// Segments sent and not acknowledged.
    pub unacknowledged_segments: u32,
    /// Congestion window, in segments.
    pub congestion_window_segments: u32,
}

/// Reads TCP_INFO: one system call, about half a microsecond, so not for every request.
///
/// # Errors
/// Those of the socket.
pub fn tcp_info(stream: &TcpStream) -> io::Result<TcpInfo> {
    // SAFETY: tcp_info is integers only, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`, which lives through the call; the kernel writes at most `length`
    // bytes. An older kernel writes fewer and the rest stays zero.
    let answer = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo {
        rtt_us: info.tcpi_rtt,
        rtt_variation_us: info.tcpi_rttvar,
        retransmitted_segments: info.tcpi_total_retrans,
        unacknowledged_segments: info.tcpi_unacked,
        congestion_window_segments: info.tcpi_snd_cwnd,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const SECONDS: Duration = Duration::from_secs(10);

    fn listen(address: &str) -> Listen {
        Listen { address: address.parse().unwrap(), purpose: "outbound traffic", flag: "--outbound" }
    }

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let ours = listen("127.0.0.1:0").bind(3).unwrap();
        let address = ours[0].local_addr().unwrap();
        assert!(ours.iter().all(|one| one.local_addr().unwrap() == address));
        let error = Listen { address, ..listen("127.0.0.1:0") }.bind(1).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, BindError::InUse { .. }));
        assert!(text.contains(&address.to_string()) && text.ends_with("choose another with --outbound"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused_with_the_reason() {
        let error = listen("192.0.2.1:0").bind(1).unwrap_err();
        assert!(matches!(error, BindError::Refused { .. }), "{error}");
    }

    #[tokio::test]
    async fn accepted_and_connected_sockets_do_not_delay() {
        let std = listen("127.0.0.1:0").bind(1).unwrap().remove(0);
        let listener = TcpListener::from_std(std).unwrap();
        let address = listener.local_addr().unwrap();
        let keepalive = Keepalive { probes: Some(3), time: Some(SECONDS), interval: Some(SECONDS) };
        let mut client = connect(address, SECONDS, Some(&keepalive)).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
        let socket = SockRef::from(&client);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);

        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        server.write_all(b"y").await.unwrap();
        client.read_u8().await.unwrap();
        let info = tcp_info(&client).unwrap();
        assert!(info.rtt_us > 0 && info.congestion_window_segments > 0, "{info:?}");
        assert_eq!(original_destination(&server, address), None);
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let address = listen("127.0.0.1:0").bind(1).unwrap().remove(0).local_addr().unwrap();
        let error = connect(address, SECONDS, None).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused(to) if to == address), "{error}");
    }
}
