//! What is sent: a list of requests that is gone through again and again, or a script that makes each one.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where a thread takes its requests from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Gone through in order and then again. Evenly spaced arrivals are dealt to the threads so that the k-th request is the
    /// list's k-th; of others each thread goes through the list, beginning at another place.
    Static(Arc<[Request]>),
    /// One script state for each thread.
    Script(Arc<dyn ScriptFactory>),
}

impl Source {
    pub fn single(request: Request) -> Self {
        Self::Static(Arc::from([request]))
    }
}

/// One request as it is meant, before it is written for a version of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its place in the plan's origins.
    pub origin: u32,
    pub method: String,
    /// Path and query, beginning with `/` (or `*` for OPTIONS).
    pub path: String,
    /// In this order. `host` replaces the origin's authority; framing headers are the engine's and are refused.
    pub headers: Vec<(String, String)>,
    pub body: Arc<[u8]>,
    pub success: Success,
}

/// When an answer counts as a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Success {
    /// A status below 400.
    #[default]
    Status,
    /// Status 200 and `grpc-status: 0`, in the trailers or in a response of headers only.
    Grpc,
}

impl Request {
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            origin: 0,
            method: "GET".into(),
            path: path.into(),
            headers: Vec::new(),
            body: Arc::from([]),
            success: Success::Status,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Refuses what would break the message's frame (RFC 9110 section 5.5, RFC 9112 section 3).
    pub fn check(&self) -> Result<(), String> {
        let token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        if !token(&self.method) {
            return Err(format!("`{}` is not a method", self.method.escape_debug()));
        }
        if !(self.path.starts_with('/') || self.path == "*") || self.path.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(format!("`{}` is not a path: it begins with / and has no spaces", self.path.escape_debug()));
        }
        self.headers.iter().try_for_each(|(name, value)| check_header(name, value))
    }
}

/// The part of [`Request::check`] that is about one header.
pub(crate) fn check_header(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return Err(format!("`{}` is not a header's name", name.escape_debug()));
    }
    if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return Err(format!("the value of the header `{name}` has a line break in it"));
    }
    if ["content-length", "transfer-encoding"].iter().any(|n| name.eq_ignore_ascii_case(n)) {
        return Err(format!("the header `{name}` is written by the engine, from the body"));
    }
    Ok(())
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Makes the script state of each thread. Called on that thread.
pub trait ScriptFactory: Send + Sync + Debug {
    fn thread(&self, index: u32) -> Result<Box<dyn Script>, String>;

    /// Where a thread connects to, if the script chose that.
    fn address(&self, _index: u32) -> Option<SocketAddr> {
        None
    }
}

/// One thread's script. HTTP/1.1 only: what it writes goes to the wire as it is.
///
/// What must outlive the run (for a closing report) is handed over when it is dropped, on the same thread.
pub trait Script {
    /// Appends the next message to `out`, and says how many responses it will get: above 1 where several requests are
    /// pipelined in it.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<u16, String>;

    /// Whether `response` wants to be called. Asked once; where it is false, headers and bodies are not kept.
    fn wants_responses(&self) -> bool {
        false
    }

    /// One answer.
    fn response(&mut self, _status: u16, _headers: &[(&str, &[u8])], _body: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// Whether the script has asked to end this thread's part of the run, in whichever hook.
    fn is_stopped(&self) -> bool {
        false
    }

    /// Whether `delay` wants to be called. Asked once.
    fn wants_delays(&self) -> bool {
        false
    }

    /// How long a slot of a closed loop waits before its next request.
    fn delay(&mut self) -> Result<Duration, String> {
        Ok(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_frame_is_refused() {
        assert_eq!(Request::get("/a?b=c").check(), Ok(()));
        let with =
            |name: &str, value: &str| Request { headers: vec![(name.into(), value.into())], ..Request::get("/") };
        for bad in [
            Request::get("a"),
            Request::get("/a b"),
            Request { method: "GE T".into(), ..Request::get("/") },
            with("x", "a\r\nb: c"),
            with("x y", "a"),
            with("Content-Length", "3"),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
