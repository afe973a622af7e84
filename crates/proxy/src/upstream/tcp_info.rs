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
