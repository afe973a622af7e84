//! The head of a request and of a response, the same for HTTP/1.1 and HTTP/2.

use super::Headers;

/// A request method. The rest are kept as they were sent: a proxy forwards methods that it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other(Box<str>),
}

impl Method {
    /// The method of a token; `None` where the bytes are not a token (RFC 9110, section 5.6.2).
    pub fn parse(token: &[u8]) -> Option<Self> {
        Some(match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            other if !other.is_empty() && other.iter().all(|&byte| is_token(byte)) => {
                Self::Other(std::str::from_utf8(other).ok()?.into())
            }
            _ => return None,
        })
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Other(name) => name,
        }
    }

    /// Methods whose repetition has the same effect as one (RFC 9110, section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }

    /// Methods that only read (RFC 9110, section 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }
}

/// A character of a token (RFC 9110, section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A request's head. `headers` has no `host` field: its value, or that of `:authority`, is `authority`.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub scheme: Scheme,
    /// Host and optional port, as sent. Empty where the client sent none (HTTP/1.0).
    pub authority: Vec<u8>,
    /// Path and query in origin form, or `*`. Never empty, except for CONNECT.
    pub path: Vec<u8>,
    pub headers: Headers,
}

impl RequestHead {
    /// Empties the head and keeps its memory for the next request.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.scheme = Scheme::Http;
        self.authority.clear();
        self.path.clear();
        self.headers.clear();
    }
}

/// A response's head. The reason phrase of HTTP/1.1 is not kept: it means nothing (RFC 9112, section 4).
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
}

impl ResponseHead {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::new() }
    }

    /// 1xx responses come before the final one, and any number of them may (RFC 9110, section 15.2).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Responses of this status end with their head, whatever it says (RFC 9112, section 6.3).
    pub fn never_has_body(&self) -> bool {
        self.status < 200 || matches!(self.status, 204 | 304)
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self::new(200)
    }
}
