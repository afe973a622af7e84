//! How the types that are no plain records are read.

use std::net::{IpAddr, SocketAddr};

use super::config_map::{CpuQuantity, MemoryQuantity, Resolver, ResolverTransport};
use super::kubernetes::TargetPort;
use super::node::{self, Node, Style, Value};
use super::policy::{PortPolicy, TrafficPolicy};
use super::prometheus_rule::Expression;
use super::reader::{Cx, ErrorKind, Fields, FromNode, leaf, parsed, text};
use super::scalar;
use super::service_entry::Locality;
use super::support::Support;
use super::virtual_service::{GRPC_STATUSES, GrpcStatus, PortSelector, ResponseBody, StringMatch};

const DNS_PORT: u16 = 53;
/// Largest body of a direct response, in bytes.
const RESPONSE_BODY_BYTES_MAX: usize = 1 << 20;

leaf!(Locality, |node, cx| {
    let text = text(node, cx, "a string")?;
    super::check::at_most_2048(text, cx);
    Some(Self::parse(text))
});
leaf!(CpuQuantity, |node, cx| {
    parsed(node, cx, "CPU as 500m or 2", scalar::cpu_millicores).map(|millicores| CpuQuantity { millicores })
});
leaf!(MemoryQuantity, |node, cx| {
    parsed(node, cx, "memory as 128Mi", scalar::memory_bytes).map(|bytes| MemoryQuantity { bytes })
});
leaf!(Resolver, |node, cx| parsed(node, cx, "a resolver as udp://8.8.8.8:53", resolver));
leaf!(GrpcStatus, |node, cx| {
    let text = text(node, cx, "the name of a gRPC status, such as UNAVAILABLE")?;
    grpc_status(text).map_err(|reason| cx.bad(reason)).ok().map(Self)
});

leaf!(TargetPort, |node, cx| {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } if node::integer(text).is_some() => {
            u16::read(node, cx).map(Self::Number)
        }
        _ => text(node, cx, "a port by number or name").map(|name| Self::Name(name.to_owned())),
    }
});

leaf!(Expression, |node, cx| {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } if node::integer(text).is_some() => Some(Self(text.to_string())),
        _ => text(node, cx, "a string").map(|text| Self(text.to_owned())),
    }
});

leaf!(StringMatch, |node, cx| {
    let mut fields = Fields::open(node, cx)?;
    let exact: Option<Option<String>> = fields.field("exact", None, cx, |_, _| {});
    let prefix: Option<Option<String>> = fields.field("prefix", None, cx, |_, _| {});
    let regex: Option<Option<String>> =
        fields.field("regex", None, cx, |r: &String, cx| super::check::regex_or_star(r, cx));
    fields.finish(&["exact", "prefix", "regex"], &[], &[], cx);
    match (exact?, prefix?, regex?) {
        (None, None, None) => Some(Self::Present),
        (Some(text), None, None) => Some(Self::Exact(text)),
        (None, Some(text), None) => Some(Self::Prefix(text)),
        (None, None, Some(text)) => Some(Self::Regex(text)),
        _ => {
            cx.error(ErrorKind::Conflict, "exact, prefix and regex exclude each other; keep one");
            None
        }
    }
});

leaf!(ResponseBody, |node, cx| {
    let mut fields = Fields::open(node, cx)?;
    let string: Option<Option<String>> = fields.field("string", None, cx, |_, _| {});
    let bytes: Option<Option<String>> = fields.field("bytes", None, cx, |_, _| {});
    fields.finish(&["string", "bytes"], &[], &[], cx);
    let body = match (string?, bytes?) {
        (Some(_), Some(_)) => {
            cx.error(ErrorKind::Conflict, "string and bytes exclude each other; keep one");
            return None;
        }
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => match base64(&text) {
            Some(bytes) => bytes,
            None => {
                cx.error_at("bytes", ErrorKind::BadValue, "this is not base64; write text under string instead");
                return None;
            }
        },
        (None, None) => Vec::new(),
    };
    if body.len() > RESPONSE_BODY_BYTES_MAX {
        cx.bad(format!("the body is larger than {RESPONSE_BODY_BYTES_MAX} bytes"));
        return None;
    }
    Some(Self(body))
});

/// Base64 of RFC 4648, section 4, padding required.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    if padding > 2 {
        return None;
    }
    let (mut bits, mut held, mut bytes) = (0u32, 0u32, Vec::with_capacity(text.len() / 4 * 3));
    for b in text.bytes().take(text.len() - padding) {
        bits = (bits << 6) | u32::from(digit(b)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn resolver(text: &str) -> Result<Resolver, &'static str> {
    const SYNTAX: &str = "write udp://ADDRESS:PORT or tcp://ADDRESS:PORT, such as udp://8.8.8.8:53";
    let (transport, rest) = match text.split_once("://") {
        Some(("udp", rest)) => (ResolverTransport::Udp, rest),
        Some(("tcp", rest)) => (ResolverTransport::Tcp, rest),
        Some(_) => return Err(SYNTAX),
        None => (ResolverTransport::Udp, text),
    };
    let address = rest.parse::<SocketAddr>().ok();
    let address = address.or_else(|| rest.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT)));
    address.filter(|a| a.port() != 0).map(|address| Resolver { transport, address }).ok_or(SYNTAX)
}

/// By name alone, as Istio (pkg/util/grpc/codes.go).
fn grpc_status(text: &str) -> Result<u32, String> {
    let named = GRPC_STATUSES.iter().position(|name| *name == text).and_then(|n| u32::try_from(n).ok());
    named.ok_or_else(|| {
        let meant = text.parse().ok().and_then(|n: usize| GRPC_STATUSES.get(n)).unwrap_or(&"UNAVAILABLE");
        format!("{text:?} is no name of a gRPC status; write {meant}")
    })
}

impl FromNode for PortPolicy {
    type Checked = Self;

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let mut fields = Fields::open(node, cx)?;
        let port: Option<PortSelector> = fields.field("port", None, cx, |_, _| {});
        let policy = TrafficPolicy::read_fields(&mut fields, cx);
        let known: Vec<&str> = TrafficPolicy::KNOWN.iter().copied().chain(["port"]).collect();
        fields.finish(&known, TrafficPolicy::REFUSED, &[], cx);
        let policy = policy?;
        for (field, there) in [
            ("portLevelSettings", !policy.port_level_settings.is_empty()),
            ("retryBudget", policy.retry_budget.is_some()),
        ] {
            if there {
                cx.error_at(field, ErrorKind::UnknownKey, "the policy of a port has no such field; move it up");
            }
        }
        Some(Self { port: port?.number, policy })
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn support(table: &mut Support) {
        TrafficPolicy::support(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_and_without_padding() {
        assert_eq!(base64("aGVsbG8=").as_deref(), Some(b"hello".as_slice()));
        assert_eq!(base64("Zm9v").as_deref(), Some(b"foo".as_slice()));
        assert_eq!(base64(""), Some(Vec::new()));
        assert!(base64("Zm9").is_none() && base64("Zm=v").is_none());
    }

    #[test]
    fn resolvers() {
        assert_eq!(resolver("udp://8.8.8.8:53").map(|r| r.address.to_string()).as_deref(), Ok("8.8.8.8:53"));
        assert_eq!(resolver("1.1.1.1").map(|r| r.address.port()), Ok(53));
        assert!(resolver("http://x").is_err() && resolver("udp://dns.example:53").is_err());
    }
}
