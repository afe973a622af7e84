//! An HTTP/1.1 server whose behaviour is chosen by the path of each request, and by switches that a test turns while it
//! runs.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | 200, N bytes |
//! | `/status/CODE` | that status |
//! | `/delay/MS` | 200 after that time |
//! | `/chunked/N` | 200, N chunks of 16 bytes, then the trailers `x-checksum: N` |
//! | `/half/N` | promises N + 1 bytes, sends N, closes |
//! | `/drop` | reads the request, closes without an answer |
//! | `/reset` | reads the request, resets the connection |
//! | `/close` | 200, then closes though it said keep-alive |
//! | `/early` | 413 and a close before the body is read |
//! | anything else | 200, what was received as JSON: instance, connection, method, target, headers, body, trailers |
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// The last requests that are kept for a test to look at.
const HEADS_KEPT_MAX: usize = 1024;

/// More than any test sends.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// What the server counts and what a test may turn, shared with its thread.
#[derive(Debug, Default)]
struct State {
    name: String,
    accepted: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    completed: AtomicU64,
    status: AtomicU64,
    delay_ms: AtomicU64,
    close_idle: AtomicBool,
    heads: Mutex<VecDeque<String>>,
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Start an instance on a loopback port of the kernel's choice; `name` comes back in its answers.
    pub fn start(name: &str) -> Self {
        Self::start_at(name, (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Start an instance at an address, for tests that give every workload a loopback address of its own.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State { name: name.to_owned(), ..State::default() });
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(listener, shared, stopped));
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Requests whose head was read whole.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests whose body was read to its end as well.
    pub fn completed(&self) -> u64 {
        self.state.completed.load(Ordering::SeqCst)
    }

    /// The heads of the last requests, oldest first, as they came.
    pub fn heads(&self) -> Vec<String> {
        self.state.heads.lock().expect("no panic under the lock").iter().cloned().collect()
    }

    /// From now on answer every request with this status (0: as its path says).
    pub fn answer_with(&self, status: u16) {
        self.state.status.store(u64::from(status), Ordering::SeqCst);
    }

    /// From now on wait so long before each answer.
    pub fn delay(&self, time: Duration) {
        self.state.delay_ms.store(time.as_millis().try_into().unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// From now on close a connection that was used before as soon as a further request arrives on it, unread: an idle
    /// timeout that fires under a request.
    pub fn close_idle_under_request(&self, on: bool) {
        self.state.close_idle.store(on, Ordering::SeqCst);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>, stopped: oneshot::Receiver<()>) {
    listener.set_nonblocking(true).expect("a non-blocking listener");
    let listener = TcpListener::from_std(listener).expect("a listener");
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            // The runtime is dropped on return, and every connection with it.
            _ = &mut stopped => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = state.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                state.open.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let _ = connection(stream, &state, number).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    }
}

/// What was read of one request.
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

type Stream = BufReader<TcpStream>;

async fn connection(stream: TcpStream, state: &State, number: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut served = 0_u64;
    loop {
        if stream.fill_buf().await?.is_empty() {
            return Ok(());
        }
        if served > 0 && state.close_idle.load(Ordering::SeqCst) {
            return Ok(());
        }
        let request = read_head(&mut stream, state).await?;
        served += 1;
        let path = request.target.split('?').next().unwrap_or("").to_owned();
        if path == "/early" {
            stream
                .write_all(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                .await?;
            return stream.shutdown().await;
        }
        if request.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let (body, trailers) = read_body(&mut stream, &request).await?;
        state.completed.fetch_add(1, Ordering::SeqCst);
        let delay_ms = state.delay_ms.load(Ordering::SeqCst);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let close = request.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let forced = u16::try_from(state.status.load(Ordering::SeqCst)).unwrap_or(0);
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (word, argument) = (parts.next().unwrap_or(""), parts.next().unwrap_or("").parse::<usize>().unwrap_or(0));
        let head = request.method == "HEAD";
        match word {
            _ if forced != 0 => answer(&mut stream, forced, state.name.as_bytes(), head).await?,
            "bytes" => answer(&mut stream, 200, &vec![b'x'; argument], head).await?,
            "status" => {
                let status = u16::try_from(argument).unwrap_or(500);
                answer(&mut stream, status, state.name.as_bytes(), head).await?;
            }
            "delay" => {
                tokio::time::sleep(Duration::from_millis(argument as u64)).await;
                answer(&mut stream, 200, state.name.as_bytes(), head).await?;
            }
            "chunked" => answer_in_chunks(&mut stream, argument).await?,
            "half" => {
                let promised = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", argument + 1);
                stream.write_all(promised.as_bytes()).await?;
                stream.write_all(&vec![b'x'; argument]).await?;
                return stream.shutdown().await;
            }
            "drop" => return Ok(()),
            "reset" => {
                // A zero linger time makes the close a reset.
                return stream.get_ref().set_zero_linger();
            }
            "close" => {
                answer(&mut stream, 200, state.name.as_bytes(), head).await?;
                return stream.shutdown().await;
            }
            _ => {
                let json = serde_json::json!({
                    "instance": state.name, "connection": number, "method": request.method, "target": request.target,
                    "headers": request.headers, "body": String::from_utf8_lossy(&body), "trailers": trailers,
                });
                answer(&mut stream, 200, json.to_string().as_bytes(), head).await?;
            }
        }
        if close {
            return stream.shutdown().await;
        }
    }
}

async fn read_line(stream: &mut Stream) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

async fn read_fields(stream: &mut Stream, raw: &mut String) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream).await?;
        raw.push_str(&line);
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

async fn read_head(stream: &mut Stream, state: &State) -> io::Result<Request> {
    let mut raw = read_line(stream).await?;
    let mut words = raw.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = read_fields(stream, &mut raw).await?;
    state.requests.fetch_add(1, Ordering::SeqCst);
    let mut heads = state.heads.lock().expect("no panic under the lock");
    if heads.len() == HEADS_KEPT_MAX {
        heads.pop_front();
    }
    heads.push_back(raw);
    Ok(Request { method, target, headers })
}

async fn read_body(stream: &mut Stream, request: &Request) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
    let mut body = Vec::new();
    if request.header("transfer-encoding").is_none() {
        let length = request.header("content-length").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        stream.take(length.min(BODY_BYTES_MAX)).read_to_end(&mut body).await?;
        return Ok((body, Vec::new()));
    }
    loop {
        let line = read_line(stream).await?;
        let size = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if size == 0 {
            return Ok((body, read_fields(stream, &mut String::new()).await?));
        }
        stream.take(size.min(BODY_BYTES_MAX)).read_to_end(&mut body).await?;
        read_line(stream).await?;
    }
}

async fn answer(stream: &mut Stream, status: u16, body: &[u8], head: bool) -> io::Result<()> {
    let bodiless = status == 204 || status == 304;
    let mut message = format!("HTTP/1.1 {status} Status\r\n").into_bytes();
    if !bodiless {
        message.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    message.extend_from_slice(b"content-type: application/json\r\n\r\n");
    if !bodiless && !head {
        message.extend_from_slice(body);
    }
    stream.write_all(&message).await
}

async fn answer_in_chunks(stream: &mut Stream, count: usize) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n").await?;
    for _ in 0..count {
        stream.write_all(b"10\r\n0123456789abcdef\r\n").await?;
    }
    stream.write_all(format!("0\r\nx-checksum: {count}\r\n\r\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;

    #[test]
    fn paths_choose_the_answer() {
        let upstream = Upstream::start("one");
        let mut client = Client::connect(upstream.address()).expect("a connection");
        assert_eq!(client.get("h", "/bytes/1000").expect("an answer").body.len(), 1000);
        assert_eq!(client.get("h", "/status/503").expect("an answer").status, 503);
        let chunked = client.get("h", "/chunked/3").expect("an answer");
        assert_eq!((chunked.body.len(), chunked.trailers.len()), (48, 1));
        let echo = client.request("POST", "h", "/x?y=1", &[("Expect", "100-continue")], b"hello").expect("an answer");
        assert_eq!((echo.interim.as_slice(), &echo.json()["body"]), ([100].as_slice(), &"hello".into()));
        assert_eq!((upstream.accepted(), upstream.requests()), (1, 4));
        assert!(client.get("h", "/half/5").is_err());
    }

    #[test]
    fn a_used_connection_can_be_closed_under_a_request() {
        let upstream = Upstream::start("one");
        let mut client = Client::connect(upstream.address()).expect("a connection");
        client.get("h", "/").expect("an answer");
        upstream.close_idle_under_request(true);
        assert!(client.get("h", "/").is_err());
        assert_eq!(upstream.requests(), 1);
        upstream.answer_with(500);
        assert_eq!(crate::client::get(upstream.address(), "h", "/").status, 500);
    }
}
