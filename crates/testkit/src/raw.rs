//! Peers that say exactly these bytes and hear exactly those.
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// What one exchange may take; reached only when the thing tested hangs.
const IO_LIMIT: Duration = Duration::from_secs(20);

/// What a peer in an exchange did after the bytes that it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It closed the connection, in order or with a reset.
    Closed,
    /// It kept the connection open for the whole of the quiet time.
    Open,
}

/// Send `bytes`, then collect what comes until the peer closes or is `quiet` for so long.
pub fn exchange(address: SocketAddr, bytes: &[u8], quiet: Duration) -> io::Result<(Vec<u8>, End)> {
    let mut stream = TcpStream::connect_timeout(&address, IO_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    stream.set_read_timeout(Some(quiet))?;
    // A peer may refuse before it has read everything; what it said is still to be read.
    let _ = stream.write_all(bytes);
    collect(&mut stream)
}

/// Like [`exchange`], but each byte in a write of its own: what a parser must understand however the bytes are cut.
pub fn exchange_bytewise(address: SocketAddr, bytes: &[u8], quiet: Duration) -> io::Result<(Vec<u8>, End)> {
    let mut stream = TcpStream::connect_timeout(&address, IO_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(quiet))?;
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
    }
    collect(&mut stream)
}

fn collect(stream: &mut TcpStream) -> io::Result<(Vec<u8>, End)> {
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok((heard, End::Closed)),
            Ok(length) => heard.extend_from_slice(&piece[..length]),
            // The timer of a profile that another test takes.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok((heard, End::Open));
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                return Ok((heard, End::Closed));
            }
            Err(e) => return Err(e),
        }
    }
}

/// One thing that a scripted server does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Read until these bytes have come (everything up to and with them is taken).
    Hear(Vec<u8>),
    /// Send these bytes.
    Say(Vec<u8>),
    /// Wait.
    Pause(Duration),
    /// Close the sending side only.
    HalfClose,
}

/// A server that follows one script for each connection, in the order of the connections, then closes it. It records all
/// bytes that it heard.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Server {
    pub fn start(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let thread = std::thread::spawn(move || {
            let play = |script: Vec<Step>| listener.accept().ok().map(|(stream, _)| follow(stream, script));
            scripts.into_iter().map_while(play).collect()
        });
        Self { address, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wait for the end of all scripts; what was heard on each connection.
    pub fn heard(mut self) -> Vec<Vec<u8>> {
        let thread = self.thread.take().expect("asked once");
        thread.join().expect("the scripted server does not panic")
    }
}

fn follow(mut stream: TcpStream, script: Vec<Step>) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut taken = 0;
    let _ = stream.set_read_timeout(Some(IO_LIMIT));
    let _ = stream.set_nodelay(true);
    for step in script {
        let went_on = match step {
            Step::Hear(bytes) => hear(&mut stream, &mut heard, &mut taken, &bytes),
            Step::Say(bytes) => stream.write_all(&bytes).is_ok(),
            Step::Pause(time) => {
                std::thread::sleep(time);
                true
            }
            Step::HalfClose => stream.shutdown(Shutdown::Write).is_ok(),
        };
        if !went_on {
            break;
        }
    }
    heard
}

fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>, taken: &mut usize, bytes: &[u8]) -> bool {
    let mut piece = [0; 4096];
    loop {
        if let Some(at) = heard[*taken..].windows(bytes.len()).position(|window| window == bytes) {
            *taken += at + bytes.len();
            return true;
        }
        match stream.read(&mut piece) {
            Ok(length) if length > 0 => heard.extend_from_slice(&piece[..length]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_followed_and_heard() {
        let script = vec![Step::Hear(b"ping".to_vec()), Step::Say(b"pong".to_vec())];
        let server = Server::start(vec![script]);
        let (answer, end) = exchange(server.address(), b"a ping", Duration::from_secs(5)).expect("an exchange");
        assert_eq!((answer.as_slice(), end), (b"pong".as_slice(), End::Closed));
        assert_eq!(server.heard(), [b"a ping".to_vec()]);
    }
}
