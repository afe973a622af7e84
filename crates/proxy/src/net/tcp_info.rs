//! What the kernel knows of a connection (Linux `tcp(7)`, TCP_INFO).

use std::os::fd::AsRawFd;
use tokio::net::TcpStream;

/// Bytes that the peer has acknowledged since the connection was opened, its SYN counted as one. `None` where the
/// kernel does not say.
pub fn bytes_acked(stream: &TcpStream) -> Option<u64> {
    info(stream).map(|info| info.bytes_acked)
}

/// The shortest round trip that the kernel saw of late (five minutes, net.ipv4.tcp_min_rtt_wlen), in microseconds; on a new
/// connection that of its handshake. The smoothed one would not do: a peer acknowledges a request with its response, so what
/// is smoothed is the service's own time.
pub fn round_trip_us(stream: &TcpStream) -> Option<u32> {
    info(stream).map(|info| info.rtt_min_us)
}

/// Whether nothing waits to be read, neither bytes nor the peer's end: asked of the kernel, which knows before the reactor
/// does.
pub fn is_silent(stream: &TcpStream) -> bool {
    let mut byte = [0u8; 1];
    // SAFETY: the kernel writes at most one byte into `byte`, which has one.
    let result = unsafe {
        libc::recv(stream.as_raw_fd(), byte.as_mut_ptr().cast(), byte.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    result < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

struct Info {
    rtt_min_us: u32,
    bytes_acked: u64,
}

/// Offsets in `struct tcp_info` of linux/tcp.h, which only ever grows at its end: `tcpi_bytes_acked` is a 64-bit field
/// at 120, `tcpi_min_rtt` (Linux 4.6) the 32-bit one at 148.
const BYTES_ACKED_AT: usize = 120;
const RTT_MIN_AT: usize = 148;

fn info(stream: &TcpStream) -> Option<Info> {
    let mut bytes = [0u8; 256];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `bytes`, which has that size, and stores how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            std::ptr::from_mut(&mut len),
        )
    };
    if result != 0 || (len as usize) < RTT_MIN_AT + 4 {
        return None;
    }
    let rtt_min_us = u32::from_ne_bytes(bytes.get(RTT_MIN_AT..RTT_MIN_AT + 4)?.try_into().ok()?);
    let bytes_acked = u64::from_ne_bytes(bytes.get(BYTES_ACKED_AT..BYTES_ACKED_AT + 8)?.try_into().ok()?);
    Some(Info { rtt_min_us, bytes_acked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    /// A connection whose reactor has no idea of what its peer does next, and the peer's end.
    async fn pair() -> (TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = listener.accept().unwrap().0;
        stream.writable().await.unwrap();
        assert!(stream.try_read(&mut [0]).is_err());
        (stream, peer)
    }

    fn within_a_second(mut holds: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(1);
        while !holds() && Instant::now() < until {
            std::thread::yield_now();
        }
        holds()
    }

    #[test]
    fn the_kernel_knows_of_an_end_before_the_reactor() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for speaks in [false, true] {
                let (stream, mut peer) = pair().await;
                assert!(is_silent(&stream));
                if speaks {
                    std::io::Write::write_all(&mut peer, b"x").unwrap();
                } else {
                    peer.shutdown(std::net::Shutdown::Write).unwrap();
                }
                assert!(within_a_second(|| !is_silent(&stream)));
                assert!(stream.try_read(&mut [0]).is_err(), "the reactor was not asked in between");
            }
        });
    }

    #[test]
    fn what_a_closed_peer_never_took_is_not_acknowledged() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (stream, peer) = pair().await;
            assert_eq!(stream.try_write(b"taken").unwrap(), 5);
            assert_eq!(std::io::Read::read(&mut &peer, &mut [0; 8]).unwrap(), 5);
            drop(peer);
            assert!(within_a_second(|| bytes_acked(&stream) == Some(6)));
            assert_eq!(stream.try_write(b"lost").unwrap(), 4);
            assert!(within_a_second(|| !is_silent(&stream)));
            assert_eq!(bytes_acked(&stream), Some(6));
        });
    }
}
