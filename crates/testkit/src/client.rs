//! A small blocking HTTP/1.1 client that hides nothing: what a test sends is what goes out.
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer of a test takes longer than this, unless the thing tested hangs.
const IO_LIMIT: Duration = Duration::from_secs(20);

/// More than any test asks for; a runaway answer ends here and not in the machine's memory.
const BODY_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Statuses of the interim responses that came before, such as 100.
    pub interim: Vec<u16>,
}

impl Response {
    /// The first value of a header, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, IO_LIMIT)?;
        stream.set_read_timeout(Some(IO_LIMIT))?;
        stream.set_write_timeout(Some(IO_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn get(&mut self, host: &str, target: &str) -> io::Result<Response> {
        self.request("GET", host, target, &[], b"")
    }

    /// Send a request, with a Content-Length when there is a body or the method calls for one, and read its response.
    pub fn request(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut message = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in headers {
            message.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            message.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(body);
        self.send(&message)?;
        self.read_response(method == "HEAD")
    }

    /// Send these bytes and no others.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Read one response; interim ones are noted and passed over. `to_head` says that it answers a HEAD request.
    pub fn read_response(&mut self, to_head: bool) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            let line = self.line()?;
            let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
            response.status = status.ok_or_else(|| invalid(&format!("status line {line:?}")))?;
            response.headers = self.fields()?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                break;
            }
            response.interim.push(response.status);
        }
        if to_head || response.status == 204 || response.status == 304 {
            return Ok(response);
        }
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        if chunked {
            (response.body, response.trailers) = self.chunks()?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length"))?;
            response.body = self.exactly(length)?;
        } else {
            self.stream.by_ref().take(BODY_BYTES_MAX as u64).read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    /// True when the peer closes the connection within the limit, without a further byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.fill_buf(), Ok(rest) if rest.is_empty())
            || matches!(self.stream.fill_buf(), Err(e) if e.kind() == io::ErrorKind::ConnectionReset)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > BODY_BYTES_MAX {
            return Err(invalid("a body larger than a test asks for"));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    #[expect(clippy::type_complexity, reason = "the body and its trailers, used once")]
    fn chunks(&mut self) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or("");
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| invalid(&line))?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            body.extend(self.exactly(size)?);
            if !self.line()?.is_empty() || body.len() > BODY_BYTES_MAX {
                return Err(invalid("chunk"));
            }
        }
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, host: &str, target: &str) -> Response {
    let answer = Client::connect(address).and_then(|mut client| client.get(host, target));
    answer.unwrap_or_else(|error| panic!("GET http://{host}{target} at {address}: {error}"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
