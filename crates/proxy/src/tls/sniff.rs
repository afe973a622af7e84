use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

/// What a client speaks on a port that takes both (PeerAuthentication PERMISSIVE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// A TLS handshake record (RFC 8446, section 5.1) begins.
    Tls,
    /// Something else: plaintext.
    Plain,
    /// The client closed without a byte.
    Closed,
    /// Nothing came in time: a client of a protocol in which the server speaks first. Istio treats it as plaintext.
    Silent,
}

/// A record header's first two bytes: handshake, and the major version that TLS never changed.
const HANDSHAKE: u8 = 0x16;
const MAJOR: u8 = 0x03;

/// Waiting for the second byte of a header that TCP has split. Peeking again at once would spin on a readable socket.
const SECOND_BYTE_STEP: Duration = Duration::from_millis(1);

/// Looks at the first bytes of a connection without consuming them; waits for at most `wait`.
///
/// # Errors
/// Those of the socket.
pub async fn sniff(stream: &TcpStream, wait: Duration) -> io::Result<Sniffed> {
    let deadline = Instant::now() + wait;
    let mut head = [0_u8; 2];
    loop {
        let seen = match timeout_at(deadline, stream.peek(&mut head)).await {
            Ok(seen) => seen?,
            Err(_) => return Ok(Sniffed::Silent),
        };
        match (seen, head) {
            (0, _) => return Ok(Sniffed::Closed),
            (1, [HANDSHAKE, _]) => {
                if Instant::now() >= deadline {
                    return Ok(Sniffed::Plain);
                }
                sleep_until((Instant::now() + SECOND_BYTE_STEP).min(deadline)).await;
            }
            (2, [HANDSHAKE, MAJOR]) => return Ok(Sniffed::Tls),
            _ => return Ok(Sniffed::Plain),
        }
    }
}
