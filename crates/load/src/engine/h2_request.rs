//! A request in HTTP/2's terms, made once and sent often.

use std::sync::Arc;

use crate::source::Request;
use crate::target::Origin;

/// Fields that HTTP/2 forbids (RFC 9113, section 8.2.2), beside `te` with anything but `trailers`.
const FORBIDDEN: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Names and values of the head, pseudo-headers first, and the body.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// All text in one piece; each field as (end of its name, end of its value).
    text: Vec<u8>,
    ends: Vec<(usize, usize)>,
    pub body: Arc<[u8]>,
    pub is_head: bool,
}

impl Prepared {
    /// # Errors
    /// A header that HTTP/2 has no place for, by its name.
    pub fn new(request: &Request, origin: &Origin) -> Result<Self, String> {
        let mut out = Self {
            text: Vec::new(),
            ends: Vec::new(),
            body: Arc::clone(&request.body),
            is_head: request.method == "HEAD",
        };
        out.push(b":method", request.method.as_bytes());
        out.push(b":scheme", origin.scheme().as_bytes());
        out.push(b":path", request.path.as_bytes());
        match request.header("host") {
            Some(host) => out.push(b":authority", host.as_bytes()),
            None => out.push(b":authority", origin.authority().as_bytes()),
        }
        for (name, value) in &request.headers {
            let name = name.to_ascii_lowercase();
            if FORBIDDEN.contains(&name.as_str()) || (name == "te" && !value.eq_ignore_ascii_case("trailers")) {
                return Err(format!("HTTP/2 has no header `{name}: {value}` (RFC 9113, section 8.2.2): leave it out"));
            }
            if name != "host" {
                out.push(name.as_bytes(), value.trim().as_bytes());
            }
        }
        if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
            out.push(b"content-length", request.body.len().to_string().as_bytes());
        }
        Ok(out)
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        self.text.extend_from_slice(name);
        let name_end = self.text.len();
        self.text.extend_from_slice(value);
        self.ends.push((name_end, self.text.len()));
    }

    /// The head's fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let name = self.text.get(start..name_end).unwrap_or_default();
            start = value_end;
            (name, self.text.get(name_end..value_end).unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_becomes_the_authority_and_hop_by_hop_headers_are_refused() {
        let (origin, path) = crate::target::parse("http://user-service:8080/a?b").expect("a URL");
        let with =
            |name: &str, value: &str| Request { headers: vec![(name.into(), value.into())], ..Request::get(&path) };
        let prepared = Prepared::new(&with("Host", "other"), &origin).expect("a request");
        let fields: Vec<(&[u8], &[u8])> = prepared.fields().collect();
        let expected: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"other")];
        assert_eq!(fields, expected);
        let plain = Prepared::new(&with("X-A", " b "), &origin).expect("a request");
        let last: Vec<(&[u8], &[u8])> = plain.fields().skip(3).collect();
        let expected: [(&[u8], &[u8]); 2] = [(b":authority", b"user-service:8080"), (b"x-a", b"b")];
        assert_eq!(last, expected);
        assert!(Prepared::new(&with("Connection", "close"), &origin).is_err());
        assert!(Prepared::new(&with("TE", "gzip"), &origin).is_err());
        assert!(Prepared::new(&with("TE", "trailers"), &origin).is_ok());
    }
}
