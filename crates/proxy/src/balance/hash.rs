//! The number that a consistent-hash balancer is given, from a route's hash policies (Envoy `HashPolicyImpl`).

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use celerity_model::snapshot::matching::{any_value, cookie, field, query_parameter};
use celerity_model::snapshot::{HashPolicy, HashSource, RequestView};
use xxhash_rust::xxh64::xxh64;

/// A cookie that the response must set, so that the client comes back to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCookie {
    /// The whole `set-cookie` value.
    pub header: String,
}

/// The hash of a request, and the cookie to set where one was made. `None`: no policy found anything, and the balancer
/// draws. Each part is put in by `hash.rotate_left(1) ^ part`. `rng` makes the value of a new cookie.
pub fn request_hash(
    policies: &[HashPolicy],
    request: &(impl RequestView + ?Sized),
    rng: u64,
) -> (Option<u64>, Option<NewCookie>) {
    let (mut hash, mut made): (Option<u64>, Option<NewCookie>) = (None, None);
    for policy in policies {
        let part = match &policy.kind {
            HashSource::Header(name) => header_hash(request, name),
            HashSource::SourceIp => request.source_ip().map(|ip| xxh64(canonical(ip).to_string().as_bytes(), 0)),
            HashSource::QueryParameter(name) => {
                query_parameter(request.path(), name.as_bytes()).map(|value| xxh64(value, 0))
            }
            HashSource::Cookie { name, ttl, path, attributes } => {
                let header = request.header(b"cookie");
                let sent = header.as_deref().and_then(|header| cookie(header, name.as_bytes()));
                match (sent, ttl) {
                    (Some(value), _) if !value.is_empty() => Some(xxh64(value, 0)),
                    (_, Some(ttl)) => {
                        let value = format!("{rng:016x}");
                        let part = xxh64(value.as_bytes(), 0);
                        made = Some(NewCookie { header: set_cookie(name, &value, *ttl, path, attributes) });
                        Some(part)
                    }
                    (_, None) => None,
                }
            }
        };
        if let Some(part) = part {
            hash = Some(hash.map_or(part, |hash| hash.rotate_left(1) ^ part));
        }
        if policy.terminal && hash.is_some() {
            break;
        }
    }
    (hash, made)
}

/// The values of a header that was sent several times are sorted, since their order says nothing, and each one's hash is the
/// next one's seed (Envoy `HeaderHashMethod`).
fn header_hash(request: &(impl RequestView + ?Sized), name: &str) -> Option<u64> {
    if let Cow::Borrowed(only) = field(request, name)? {
        return Some(xxh64(only, 0));
    }
    let mut values: Vec<Vec<u8>> = Vec::new();
    any_value(request, name, &mut |value| {
        values.push(value.to_vec());
        false
    });
    values.sort_unstable();
    Some(values.iter().fold(0, |seed, value| xxh64(value, seed)))
}

/// An IPv4 address that came over an IPv6 socket is the same client.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn set_cookie(name: &str, value: &str, ttl: Duration, path: &str, attributes: &[(Box<str>, Box<str>)]) -> String {
    let mut header = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        header.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        header.push_str(&format!("; Path={path}"));
    }
    for (key, value) in attributes {
        header.push_str(&if value.is_empty() { format!("; {key}") } else { format!("; {key}={value}") });
    }
    header.push_str("; HttpOnly");
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request {
        cookie: Option<&'static [u8]>,
    }

    impl RequestView for Request {
        fn method(&self) -> &[u8] {
            b"GET"
        }

        fn scheme(&self) -> &[u8] {
            b"http"
        }

        fn authority(&self) -> &[u8] {
            b"host"
        }

        fn path(&self) -> &[u8] {
            b"/?user=7"
        }

        fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
            match name {
                b"x-user" => Some(Cow::Borrowed(b"7")),
                b"x-twice" | b"via" => Some(Cow::Owned(b"b,a".to_vec())),
                b"cookie" => self.cookie.map(Cow::Borrowed),
                _ => None,
            }
        }

        fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> Option<bool> {
            match name {
                b"x-twice" => Some(test(b"b") || test(b"a")),
                _ => self.header(name).map(|value| test(&value)),
            }
        }

        fn source_ip(&self) -> Option<IpAddr> {
            "::ffff:10.0.0.1".parse().ok()
        }
    }

    fn policy(kind: HashSource, terminal: bool) -> HashPolicy {
        HashPolicy { kind, terminal }
    }

    #[test]
    fn parts_are_combined_and_a_terminal_one_ends_it() {
        let header = || policy(HashSource::Header("x-user".into()), false);
        let seven = xxh64(b"7", 0);
        let hash = |policies: &[HashPolicy]| request_hash(policies, &Request { cookie: None }, 1).0;
        assert_eq!(hash(&[header()]), Some(seven));
        let query = policy(HashSource::QueryParameter("user".into()), false);
        assert_eq!(hash(&[header(), query.clone()]), Some(seven.rotate_left(1) ^ seven));
        assert_eq!(hash(&[policy(HashSource::Header("x-user".into()), true), query]), Some(seven));
        assert_eq!(hash(&[policy(HashSource::SourceIp, false)]), Some(xxh64(b"10.0.0.1", 0)));
        assert_eq!(hash(&[policy(HashSource::Header("absent".into()), true)]), None);
    }

    #[test]
    fn values_of_one_header_are_hashed_sorted_whatever_their_order() {
        let hash = |name: &str| {
            let policies = [policy(HashSource::Header(name.into()), false)];
            request_hash(&policies, &Request { cookie: None }, 1).0
        };
        assert_eq!(hash("x-twice"), Some(xxh64(b"b", xxh64(b"a", 0))));
        assert_eq!(hash("via"), Some(xxh64(b"b,a", 0)), "Envoy keeps one value of it");
    }

    #[test]
    fn a_cookie_is_made_once_and_then_followed() {
        let kind = |ttl| HashSource::Cookie { name: "id".into(), ttl, path: "/".into(), attributes: Box::default() };
        let policies = [policy(kind(Some(Duration::from_secs(60))), false)];
        let (first, made) = request_hash(&policies, &Request { cookie: None }, 0xabc);
        assert_eq!(
            made.map(|made| made.header).as_deref(),
            Some("id=\"0000000000000abc\"; Max-Age=60; Path=/; HttpOnly")
        );
        let back = Request { cookie: Some(b"a=b; id=\"0000000000000abc\"") };
        assert_eq!(request_hash(&policies, &back, 5), (first, None));
        assert_eq!(request_hash(&[policy(kind(None), false)], &Request { cookie: None }, 5), (None, None));
    }
}
