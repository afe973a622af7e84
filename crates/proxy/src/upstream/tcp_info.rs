//! What the kernel knows of a connection (Linux `tcp(7)`, TCP_INFO).

use std::os::fd::AsRawFd;
use tokio::net::TcpStream;

/// Bytes that the peer has acknowledged since the connection was opened, its SYN counted as one. `None` where the
/// kernel does not say.
pub fn bytes_acked(stream: &TcpStream) -> Option<u64> {
    info(stream).map(|info| info.bytes_acked)
}

/// The smoothed round trip, in microseconds.
pub fn round_trip_us(stream: &TcpStream) -> Option<u32> {
    info(stream).map(|info| info.rtt_us)
}

struct Info {
    rtt_us: u32,
    bytes_acked: u64,
}

/// Offsets in `struct tcp_info` of linux/tcp.h, which only ever grows at its end: `tcpi_rtt` is the 16th 32-bit field
/// after eight octets, `tcpi_bytes_acked` a 64-bit field at 120.
const RTT_AT: usize = 68;
const BYTES_ACKED_AT: usize = 120;

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
    if result != 0 || (len as usize) < BYTES_ACKED_AT + 8 {
        return None;
    }
    let rtt_us = u32::from_ne_bytes(bytes.get(RTT_AT..RTT_AT + 4)?.try_into().ok()?);
    let bytes_acked = u64::from_ne_bytes(bytes.get(BYTES_ACKED_AT..BYTES_ACKED_AT + 8)?.try_into().ok()?);
    Some(Info { rtt_us, bytes_acked })
}
