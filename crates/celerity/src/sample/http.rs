//! As much HTTP/1.1 as the sample services and the traffic generator need, on both sides of a connection.
//!
//! Keep-alive, pipelining, Content-Length, chunked bodies, HEAD, 100-continue. Small on purpose: the data plane has
//! its own parser, and a sample that shared it could not notice its mistakes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head longer than this is refused: no request of a demonstration comes near it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A body longer than this is refused; the tutorial's own buffer filter stops at 1,024,000 bytes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
const HEADERS_MAX: usize = 100;

/// A request as a handler sees it.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// The value of a query parameter, as it was written.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// A response, on both sides.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        let mut bytes = body.to_string().into_bytes();
        bytes.push(b'\n');
        Self { status, headers: vec![("content-type".into(), "application/json".into())], body: bytes }
    }

    pub(crate) fn error(status: u16, reason: impl std::fmt::Display) -> Self {
        Self::json(status, &serde_json::json!({ "error": reason.to_string() }))
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[cfg(test)]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What answers requests.
pub(crate) trait Handler {
    fn handle(&self, request: Request) -> impl Future<Output = Response>;
}

/// Serves one connection until either side closes it.
pub(crate) async fn serve(stream: TcpStream, handler: &impl Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = Wire { stream, buffer: Vec::new() };
    loop {
        let (mut request, framing, keep_alive) = match wire.request_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return wire.answer(&Response::error(400, error), false, false).await;
            }
            Err(error) => return Err(error),
        };
        if framing != Framing::Length(0) && request.header("expect").is_some() {
            wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match wire.body(framing).await {
            Ok(body) => request.body = body,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return wire.answer(&Response::error(400, error), false, false).await;
            }
            Err(error) => return Err(error),
        }
        let head_only = request.method == "HEAD";
        let response = handler.handle(request).await;
        wire.answer(&response, head_only, keep_alive).await?;
        if !keep_alive {
            return wire.stream.shutdown().await;
        }
    }
}

/// A client's keep-alive connections to one address.
pub(crate) struct Client {
    address: SocketAddr,
    idle: std::cell::RefCell<Vec<Wire>>,
}

/// Idle connections kept; more are closed. The gentle traffic of `up` needs a handful.
const IDLE_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Default::default() }
    }

    /// Sends a request that may be repeated and returns the whole response. A kept connection that the peer closed
    /// meanwhile is no failure: the request goes out again on a fresh one.
    pub(crate) async fn send(&self, host: &str, request: &Request) -> io::Result<Response> {
        let kept = self.idle.borrow_mut().pop();
        if let Some(wire) = kept
            && let Ok(response) = self.exchange(wire, host, request).await
        {
            return Ok(response);
        }
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        self.exchange(Wire { stream, buffer: Vec::new() }, host, request).await
    }

    async fn exchange(&self, mut wire: Wire, host: &str, request: &Request) -> io::Result<Response> {
        let mut out = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", request.method, request.target).into_bytes();
        write_headers(&mut out, &request.headers);
        if !request.body.is_empty() {
            out.extend_from_slice(format!("content-length: {}\r\n", request.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&request.body);
        wire.stream.write_all(&out).await?;
        let (mut response, framing, keep_alive) = wire.response_head(request.method == "HEAD").await?;
        response.body = wire.body(framing).await?;
        if keep_alive && self.idle.borrow().len() < IDLE_MAX {
            self.idle.borrow_mut().push(wire);
        }
        Ok(response)
    }
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Wire {
    stream: TcpStream,
    /// Read from the stream and not yet used.
    buffer: Vec<u8>,
}

type Headers = Vec<(String, String)>;

impl Wire {
    /// The next request's head; `None` when the client closed between requests.
    async fn request_head(&mut self) -> io::Result<Option<(Request, Framing, bool)>> {
        loop {
            let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Request::new(&mut storage);
            if let httparse::Status::Complete(length) = parsed.parse(&self.buffer).map_err(invalid)? {
                let request = Request {
                    method: parsed.method.unwrap_or_default().to_owned(),
                    target: parsed.path.unwrap_or_default().to_owned(),
                    headers: owned(parsed.headers),
                    body: Vec::new(),
                };
                let keep_alive = keeps_alive(&request.headers, parsed.version);
                let framing = framing(&request.headers)?.unwrap_or(Framing::Length(0));
                self.buffer.drain(..length);
                return Ok(Some((request, framing, keep_alive)));
            }
            if !self.fill(HEAD_BYTES_MAX).await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The final response's head; interim ones (1xx) are passed over.
    async fn response_head(&mut self, head_only: bool) -> io::Result<(Response, Framing, bool)> {
        loop {
            let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut parsed = httparse::Response::new(&mut storage);
            if let httparse::Status::Complete(length) = parsed.parse(&self.buffer).map_err(invalid)? {
                let status = parsed.code.unwrap_or_default();
                let headers = owned(parsed.headers);
                let keep_alive = keeps_alive(&headers, parsed.version);
                self.buffer.drain(..length);
                if (100..200).contains(&status) {
                    continue;
                }
                let framing = match framing(&headers)? {
                    _ if head_only || status == 204 || status == 304 => Framing::Length(0),
                    Some(framing) => framing,
                    None => Framing::UntilClose,
                };
                let keep_alive = keep_alive && framing != Framing::UntilClose;
                return Ok((Response { status, headers, body: Vec::new() }, framing, keep_alive));
            }
            if !self.fill(HEAD_BYTES_MAX).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn body(&mut self, framing: Framing) -> io::Result<Vec<u8>> {
        match framing {
            Framing::Length(length) if length > BODY_BYTES_MAX => Err(invalid("the body is too long")),
            Framing::Length(length) => self.take(length).await,
            Framing::UntilClose => {
                while self.fill(BODY_BYTES_MAX).await? {}
                Ok(std::mem::take(&mut self.buffer))
            }
            Framing::Chunked => self.chunks().await,
        }
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (line_len, chunk_len) = loop {
                match httparse::parse_chunk_size(&self.buffer).map_err(|_| invalid("the chunk size is not a number"))? {
                    httparse::Status::Complete(found) => break found,
                    httparse::Status::Partial if self.fill(HEAD_BYTES_MAX).await? => {}
                    httparse::Status::Partial => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            };
            self.buffer.drain(..line_len);
            if chunk_len == 0 {
                self.trailers().await?;
                return Ok(body);
            }
            let chunk_len = usize::try_from(chunk_len).unwrap_or(usize::MAX);
            if chunk_len > BODY_BYTES_MAX - body.len() {
                return Err(invalid("the body is too long"));
            }
            body.extend(self.take(chunk_len).await?);
            if self.take(2).await? != b"\r\n" {
                return Err(invalid("a chunk does not end with CRLF"));
            }
        }
    }

    /// Reads and drops the trailer section.
    async fn trailers(&mut self) -> io::Result<()> {
        loop {
            let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
            if let httparse::Status::Complete((length, _)) =
                httparse::parse_headers(&self.buffer, &mut storage).map_err(invalid)?
            {
                self.buffer.drain(..length);
                return Ok(());
            }
            if !self.fill(HEAD_BYTES_MAX).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill(BODY_BYTES_MAX + HEAD_BYTES_MAX).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads more; false at the end of the stream. Refuses to hold more than `bytes_max`.
    async fn fill(&mut self, bytes_max: usize) -> io::Result<bool> {
        if self.buffer.len() >= bytes_max {
            return Err(invalid("the message is too long"));
        }
        self.buffer.reserve(8 * 1024);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    async fn answer(&mut self, response: &Response, head_only: bool, keep_alive: bool) -> io::Result<()> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status)).into_bytes();
        write_headers(&mut out, &response.headers);
        if response.status != 204 {
            out.extend_from_slice(format!("content-length: {}\r\n", response.body.len()).as_bytes());
        }
        if !keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head_only && response.status != 204 {
            out.extend_from_slice(&response.body);
        }
        self.stream.write_all(&out).await
    }
}

fn owned(headers: &[httparse::Header<'_>]) -> Headers {
    headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect()
}

fn write_headers(out: &mut Vec<u8>, headers: &[(String, String)]) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// HTTP/1.1 keeps alive unless told otherwise (RFC 9112, section 9.3); HTTP/1.0 is always closed here.
fn keeps_alive(headers: &[(String, String)], version: Option<u8>) -> bool {
    let close = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .any(|(_, value)| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close")));
    version == Some(1) && !close
}

fn framing(headers: &[(String, String)]) -> io::Result<Option<Framing>> {
    let length = find(headers, "content-length");
    match (find(headers, "transfer-encoding"), length) {
        (Some(_), Some(_)) => Err(invalid("both Content-Length and Transfer-Encoding are given")),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
        (Some(coding), None) => Err(invalid(format_args!("the transfer coding {coding} is not known"))),
        (None, Some(length)) => match length.parse() {
            Ok(length) if !length_is_signed(find(headers, "content-length")) => Ok(Some(Framing::Length(length))),
            _ => Err(invalid("Content-Length is not a number")),
        },
        (None, None) => Ok(None),
    }
}

/// `usize::from_str` takes a leading `+`, which HTTP does not.
fn length_is_signed(length: Option<&str>) -> bool {
    length.is_some_and(|length| length.starts_with('+'))
}

fn invalid(reason: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// The phrase is for people who read a dump; programs ignore it (RFC 9112, section 4).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    struct Echo;

    impl Handler for Echo {
        async fn handle(&self, request: Request) -> Response {
            Response { status: 200, headers: vec![("x-method".into(), request.method.clone())], body: request.body }
        }
    }

    /// What the server answers to these bytes, until it closes or falls silent.
    async fn say(bytes: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let server = async {
            let (stream, _) = listener.accept().await.expect("accept");
            let _ = serve(stream, &Echo).await;
        };
        let client = async {
            let mut stream = TcpStream::connect(address).await.expect("connect");
            stream.write_all(bytes).await.expect("write");
            stream.shutdown().await.expect("shutdown");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("read");
            answer
        };
        tokio::join!(server, client).1
    }

    #[tokio::test]
    async fn pipelined_requests_are_answered_in_order() {
        let answer = say(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\noneGET / HTTP/1.1\r\n\r\n").await;
        let (first, second) = (answer.find("x-method: POST"), answer.find("x-method: GET"));
        assert!(first.is_some() && first < second, "{answer}");
        assert!(answer.contains("content-length: 3\r\n\r\noneHTTP/1.1 200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn head_has_a_length_and_no_body() {
        let answer = say(b"HEAD / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(answer.ends_with("content-length: 2\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn chunked_bodies_are_joined_and_trailers_dropped() {
        let answer =
            say(b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx: y\r\n\r\n").await;
        assert!(answer.ends_with("content-length: 3\r\n\r\nabc"), "{answer}");
    }

    #[tokio::test]
    async fn ambiguous_framing_is_refused_and_the_connection_closed() {
        let answer = say(b"PUT / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_survives_a_server_that_closes_kept_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = Client::new(listener.local_addr().expect("address"));
        let request = Request { method: "GET".into(), target: "/".into(), ..Request::default() };
        let server = async {
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.expect("accept");
                // One answer that says keep-alive, then the connection goes.
                let mut wire = Wire { stream, buffer: Vec::new() };
                let _ = wire.request_head().await;
                let _ = wire.answer(&Response::error(200, "fine"), false, true).await;
            }
        };
        let client = async {
            for _ in 0..2 {
                assert_eq!(client.send("host", &request).await.expect("an answer").status, 200);
            }
        };
        tokio::join!(server, client);
    }
}
