//! A TCP stream that knows when the kernel had what was read last.

use super::tcp_info;
use celerity_telemetry::{Clock, Tick};
use std::cell::Cell;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::TcpStream;

/// What lies longer in a socket than this was not waiting: the machine's clock was set.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// For so long after a read that asked the kernel, the thread's other reads take its wait for theirs.
const ASKED_HOLDS: Duration = Duration::from_micros(50);

/// From this wait on every read asks: what is charged unasked is never more.
const ASKED_BY_ALL_FROM: Duration = Duration::from_millis(1);

/// A byte stream that may know when its last bytes came, and how far its own have come.
pub trait Arrives {
    /// By the process's clock ([`Clock::system`]).
    fn arrival(&self) -> Option<Tick>;

    /// Bytes written to the network so far, TLS's own with them.
    fn sent(&self) -> u64 {
        0
    }

    /// How many of those the peer's kernel has acknowledged. Asked of ours, which costs a system call; `None` where it is not
    /// known.
    fn acked(&self) -> Option<u64> {
        None
    }
}

impl Arrives for TcpStream {
    fn arrival(&self) -> Option<Tick> {
        None
    }
}

impl Arrives for DuplexStream {
    fn arrival(&self) -> Option<Tick> {
        None
    }
}

/// What the kernel told this thread last.
///
/// To ask costs a quarter of a microsecond: twice a request it was 4 % of what a request costs. An event loop reads its
/// sockets in the order in which they became readable, so reads that follow one another within [`ASKED_HOLDS`] had
/// waited about as long; whatever stops the loop lasts longer than that, and what it stops is asked. A read that fills its buffer
/// speaks for itself alone: it goes on without a turn of the loop, and what it had last is newer than what others wait with.
#[derive(Clone, Copy)]
struct Asked {
    at: Tick,
    waited: u64,
}

thread_local! {
    // Of the thread, since it is the event loop that lags and not the connection.
    static ASKED: Cell<Asked> = const { Cell::new(Asked::NOTHING) };
}

impl Asked {
    const NOTHING: Self = Self { at: Tick(0), waited: 0 };

    fn holds(self, clock: &Clock, now: Tick) -> bool {
        clock.ns(now.since(self.at)) < ASKED_HOLDS.as_nanos() as u64
            && clock.ns(self.waited) < ASKED_BY_ALL_FROM.as_nanos() as u64
    }
}

/// Has the kernel note when it receives (SO_TIMESTAMPNS, socket(7)). What a listening socket accepts inherits it.
///
/// # Errors
/// The kernel refuses.
pub fn stamp(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads `size_of::<c_int>()` bytes from `on`, which has that size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What [`stamp`] makes known: without it a stall of this process (a busy event loop, a throttled cgroup) would be the
/// client's or the service's time, since nothing of ours runs while it lasts.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    stamped: bool,
    arrival: Option<Tick>,
    first_wait: Option<Duration>,
    sent: u64,
}

impl Socket {
    /// `stamped`: its reads know the time of arrival. See [`stamp`].
    #[must_use]
    pub fn new(stream: TcpStream, stamped: bool) -> Self {
        Self { stream, stamped, arrival: None, first_wait: None, sent: 0 }
    }

    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    #[must_use]
    pub fn into_tcp(self) -> TcpStream {
        self.stream
    }

    /// How long the connection's first bytes had lain there when they were read.
    #[must_use]
    pub fn first_wait(&self) -> Duration {
        self.first_wait.unwrap_or_default()
    }

    /// As tokio reads, with the wait of a neighbour.
    fn poll_read_unasked(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        arrival: Tick,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.arrival = Some(arrival);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read_asking(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, clock: &Clock) -> Poll<io::Result<()>> {
        let space = buf.initialize_unfilled();
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let mut got = None;
            let result = self.stream.try_io(Interest::READABLE, || {
                let (count, waited) = receive(&self.stream, space)?;
                got = Some((count, waited));
                // As tokio's own reads: less than there was room for means that nothing is left, and saying so saves the
                // call that would find out.
                if count > 0 && count < space.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            let Some((count, waited)) = got else {
                match result {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                    _ => continue,
                }
            };
            if let Some(waited) = waited {
                let asked = Asked { at: clock.now(), waited: clock.ticks_of(waited) };
                ASKED.set(if count < space.len() { asked } else { Asked::NOTHING });
                self.arrival = Some(Tick(asked.at.0.saturating_sub(asked.waited)));
                self.first_wait.get_or_insert(waited);
            }
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
    }
}

impl Arrives for Socket {
    fn arrival(&self) -> Option<Tick> {
        self.arrival
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn acked(&self) -> Option<u64> {
        // The handshake's SYN counts as one.
        tcp_info::bytes_acked(&self.stream).map(|bytes| bytes.saturating_sub(1))
    }
}

/// Room for one control message with a `timespec`, aligned as `cmsghdr` wants it.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [MaybeUninit<u8>; 64],
}

/// Reads once; says how much, and how long the last of it had lain there.
fn receive(stream: &TcpStream, space: &mut [u8]) -> io::Result<(usize, Option<Duration>)> {
    let mut control = Control { bytes: [MaybeUninit::uninit(); 64] };
    let mut piece = libc::iovec { iov_base: space.as_mut_ptr().cast(), iov_len: space.len() };
    // SAFETY: `msghdr` is integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `message` describes `space` and `control`, both alive and exclusively ours, with their sizes.
    let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, 0) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has set `msg_controllen` to what it wrote into `control`; the macro looks no further.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok((count, None));
    }
    // SAFETY: not null, so it points to a whole header within `control`.
    let told = unsafe { &*header };
    let enough = size_of::<libc::cmsghdr>() + size_of::<libc::timespec>();
    if told.cmsg_level != libc::SOL_SOCKET
        || told.cmsg_type != libc::SCM_TIMESTAMPNS
        || (told.cmsg_len as usize) < enough
    {
        return Ok((count, None));
    }
    // SAFETY: the message is a `timespec` (socket(7)) and long enough for one; it need not be aligned for one.
    let at = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
    let arrived = Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0));
    // The one reading of a clock that can be set: a step between the arrival and now is taken for waiting, or for none.
    Ok((count, Some(waited(arrived, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))))
}

/// How long it was from `arrived` to `now`, both since 1970.
fn waited(arrived: Duration, now: Duration) -> Duration {
    let waited = now.saturating_sub(arrived);
    if waited > WAIT_MAX { Duration::ZERO } else { waited }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.stamped {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let clock = Clock::system();
        let (asked, now) = (ASKED.get(), clock.now());
        if asked.holds(&clock, now) && this.first_wait.is_some() {
            this.poll_read_unasked(cx, buf, Tick(now.0.saturating_sub(asked.waited)))
        } else {
            this.poll_read_asking(cx, buf, &clock)
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, data))?;
        this.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        this.sent += count as u64;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Both ends, the second one accepted from a listener that stamps.
    async fn pair() -> (TcpStream, Socket) {
        stamping().await;
        fresh_pair().await
    }

    /// The kernel stamps nothing until some socket asks for it, and begins a moment later (`net_enable_timestamp`).
    async fn stamping() {
        static KEPT: std::sync::OnceLock<std::net::TcpListener> = std::sync::OnceLock::new();
        let kept = KEPT.get_or_init(|| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        stamp(kept).expect("a stamp");
        for _ in 0..200 {
            let (mut peer, mut socket) = fresh_pair().await;
            peer.write_all(b"x").await.expect("written");
            socket.read_exact(&mut [0]).await.expect("read");
            if socket.arrival().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the kernel stamps nothing");
    }

    async fn fresh_pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        stamp(&listener).expect("a stamp");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        (peer, Socket::new(listener.accept().await.expect("the other end").0, true))
    }

    /// Reads what is there; says how long ago it came.
    async fn read(socket: &mut Socket) -> Duration {
        let mut space = [0; 64];
        assert!(socket.read(&mut space).await.expect("bytes") > 0);
        let clock = Clock::system();
        Duration::from_nanos(clock.ns_between(socket.arrival().expect("an arrival"), clock.now()))
    }

    #[tokio::test]
    async fn what_lay_in_the_socket_has_waited() {
        let (mut peer, mut socket) = pair().await;
        assert_eq!(socket.arrival(), None);
        peer.write_all(b"first").await.expect("written");
        // Nobody reads meanwhile, as in a process that stands still.
        std::thread::sleep(Duration::from_millis(40));
        let waited = read(&mut socket).await;
        assert!(waited >= Duration::from_millis(40) && waited < WAIT_MAX, "{waited:?}");
        assert!(socket.first_wait() >= Duration::from_millis(40));

        let first = socket.first_wait();
        peer.write_all(b"second").await.expect("written");
        read(&mut socket).await;
        assert_eq!(socket.first_wait(), first, "that of the first bytes only");
    }

    #[tokio::test]
    async fn after_a_stall_each_socket_has_its_own_arrival() {
        let mut pairs = Vec::new();
        for _ in 0..8 {
            let (mut peer, mut socket) = pair().await;
            peer.write_all(b"first").await.expect("written");
            read(&mut socket).await;
            pairs.push((peer, socket));
        }
        for (peer, _) in &mut pairs {
            peer.write_all(b"second").await.expect("written");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut arrivals = Vec::new();
        for (_, socket) in &mut pairs {
            read(socket).await;
            arrivals.extend(socket.arrival());
        }
        // Seven pauses of 5 ms lie between them; read within microseconds, they would be as near to one another if one spoke for
        // all. A busy machine may move any of them by a pause or two.
        let span = Clock::system().ns_between(arrivals[0], arrivals[7]);
        assert!(span > 20_000_000, "{span} ns, {arrivals:?}");
    }

    #[tokio::test]
    async fn one_who_reads_on_and_on_speaks_for_nobody() {
        let ((mut busy_peer, mut busy), (mut peer, mut socket)) = (pair().await, pair().await);
        for (peer, socket) in [(&mut busy_peer, &mut busy), (&mut peer, &mut socket)] {
            peer.write_all(b"first").await.expect("written");
            read(socket).await;
        }
        peer.write_all(b"second").await.expect("written");
        busy_peer.write_all(&[0; 64]).await.expect("written");
        let mut space = [0; 64];
        busy.read_exact(&mut space).await.expect("a full buffer");
        std::thread::sleep(Duration::from_millis(20));
        busy_peer.write_all(&[0; 64]).await.expect("written");
        busy.read_exact(&mut space).await.expect("fresh bytes");
        assert!(read(&mut socket).await >= Duration::from_millis(20), "its own wait, and not the other's");
    }

    #[test]
    fn a_wait_holds_for_a_moment_and_only_while_it_is_short() {
        let clock = Clock::instant_only();
        let ticks = |duration: Duration| clock.ticks_of(duration);
        let asked = Asked { at: Tick(1_000_000_000), waited: ticks(Duration::from_micros(300)) };
        let after = |duration: Duration| Tick(asked.at.0 + ticks(duration));
        assert!(asked.holds(&clock, after(ASKED_HOLDS / 2)));
        assert!(!asked.holds(&clock, after(ASKED_HOLDS)));
        let stalled = Asked { waited: ticks(ASKED_BY_ALL_FROM), ..asked };
        assert!(!stalled.holds(&clock, stalled.at));
    }

    #[tokio::test]
    async fn reads_like_a_stream() {
        let (mut peer, mut socket) = pair().await;
        let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let sent = body.clone();
        let sending = async {
            peer.write_all(&sent).await.expect("written");
            peer.shutdown().await.expect("closed");
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(socket.read_to_end(&mut got), sending);
        read.expect("an end");
        assert!(got == body);
    }

    #[test]
    fn a_clock_that_was_set_is_no_wait() {
        let second = Duration::from_secs(1);
        assert_eq!(waited(Duration::ZERO, 1_000_000 * second), Duration::ZERO);
        assert_eq!(waited(1_000_000 * second, second), Duration::ZERO);
        assert_eq!(waited(second, 3 * second), 2 * second);
    }
}
