use std::fmt;

use super::peer::PeerCertificate;

/// A SPIFFE id of Istio's form: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    /// The trust domain, such as `cluster.local`.
    pub trust_domain: &'a str,
    /// The path with its leading slash; empty for the id of the trust domain itself.
    pub path: &'a str,
}

/// SPIFFE-ID, section 2.3: an id is at most this long.
const SPIFFE_ID_BYTES_MAX: usize = 2048;

impl<'a> SpiffeId<'a> {
    /// Parses `spiffe://domain/path` (SPIFFE-ID, section 2). `None` when it is not a well-formed id.
    #[must_use]
    pub fn parse(uri: &'a str) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://")?;
        if uri.len() > SPIFFE_ID_BYTES_MAX {
            return None;
        }
        let slash = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at(slash);
        let domain_ok = !trust_domain.is_empty()
            && trust_domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        let segment_ok = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        let path_ok = path.is_empty() || path.get(1..)?.split('/').all(segment_ok);
        (domain_ok && path_ok).then_some(Self { trust_domain, path })
    }

    /// Namespace and service account of an id in Istio's form.
    #[must_use]
    pub fn workload(&self) -> Option<(&'a str, &'a str)> {
        let rest = self.path.strip_prefix("/ns/")?;
        let (namespace, rest) = rest.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

/// Which subject alternative name a matcher looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// A DNS name.
    Dns,
    /// A URI, which a SPIFFE id is.
    Uri,
    /// An IP address, compared in its text form.
    Ip,
    /// An e-mail address.
    Email,
    /// Any of them: Istio's `subjectAltNames` does not say which.
    Any,
}

/// How a name is compared (Envoy `StringMatcher`, without regular expressions).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SanPattern {
    /// The whole name. For DNS names, `*.domain` in the certificate stands for one label (RFC 9525, section 6.3).
    Exact(Box<str>),
    /// The name begins so.
    Prefix(Box<str>),
    /// The name ends so.
    Suffix(Box<str>),
    /// The name has this in it.
    Contains(Box<str>),
}

/// One accepted subject alternative name (Envoy `match_typed_subject_alt_names`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SanMatcher {
    /// Which names are compared.
    pub kind: SanKind,
    /// With what.
    pub pattern: SanPattern,
    /// ASCII letters compare without case. DNS names always do.
    pub ignore_case: bool,
}

impl SanMatcher {
    /// The name must be `name`, of whatever type: Istio's `subjectAltNames`.
    #[must_use]
    pub fn exact(name: &str) -> Self {
        Self { kind: SanKind::Any, pattern: SanPattern::Exact(name.into()), ignore_case: false }
    }

    fn matches(&self, certificate: &PeerCertificate) -> bool {
        let wants = |kind| self.kind == SanKind::Any || self.kind == kind;
        (wants(SanKind::Uri) && certificate.uris.iter().any(|name| self.text(name, false)))
            || (wants(SanKind::Dns) && certificate.dns_names.iter().any(|name| self.text(name, true)))
            || (wants(SanKind::Ip) && certificate.ips.iter().any(|ip| self.text(&ip.to_string(), false)))
            || (wants(SanKind::Email) && certificate.emails.iter().any(|name| self.text(name, false)))
    }

    fn text(&self, name: &str, dns: bool) -> bool {
        let fold = dns || self.ignore_case;
        let same = |a: &[u8], b: &[u8]| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
        let name = name.as_bytes();
        match &self.pattern {
            SanPattern::Exact(want) => same(name, want.as_bytes()) || (dns && wildcard_covers(name, want.as_bytes())),
            SanPattern::Prefix(want) => name.get(..want.len()).is_some_and(|head| same(head, want.as_bytes())),
            SanPattern::Suffix(want) => name
                .len()
                .checked_sub(want.len())
                .and_then(|at| name.get(at..))
                .is_some_and(|tail| same(tail, want.as_bytes())),
            SanPattern::Contains(want) => {
                want.is_empty() || name.windows(want.len()).any(|part| same(part, want.as_bytes()))
            }
        }
    }
}

/// `*.example.com` in a certificate stands for exactly one label on the left.
fn wildcard_covers(in_certificate: &[u8], wanted: &[u8]) -> bool {
    let Some(domain) = in_certificate.strip_prefix(b"*") else {
        return false;
    };
    let Some(dot) = wanted.iter().position(|&b| b == b'.') else {
        return false;
    };
    dot > 0 && domain.len() > 1 && wanted.get(dot..).is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
}

/// What a peer's certificate must say, beyond a chain to a trusted root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerRules {
    /// The SPIFFE id must be of one of these trust domains. Empty: whatever the roots vouch for, with or without an id.
    pub trust_domains: Vec<Box<str>>,
    /// One of these names must be in the certificate. Empty: any.
    pub sans: Vec<SanMatcher>,
}

impl PeerRules {
    /// Accepts every certificate that the roots vouch for.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Accepts the workloads of one trust domain: Istio's mutual TLS between sidecars.
    #[must_use]
    pub fn mesh(trust_domain: &str) -> Self {
        Self { trust_domains: vec![trust_domain.into()], sans: Vec::new() }
    }

    /// The same with a list of exact SPIFFE ids, any of which will do.
    #[must_use]
    pub fn with_sans<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.sans.extend(names.into_iter().map(SanMatcher::exact));
        self
    }

    /// Says why `certificate` does not satisfy these rules.
    pub fn check(&self, certificate: &PeerCertificate) -> Result<(), IdentityError> {
        if !self.trust_domains.is_empty() {
            let id = certificate.spiffe.as_deref().and_then(SpiffeId::parse).ok_or(IdentityError::NoSpiffe)?;
            if !self.trust_domains.iter().any(|domain| **domain == *id.trust_domain) {
                return Err(IdentityError::TrustDomain {
                    found: id.to_string(),
                    wanted: self.trust_domains.join(", "),
                });
            }
        }
        if self.sans.is_empty() || self.sans.iter().any(|matcher| matcher.matches(certificate)) {
            return Ok(());
        }
        Err(IdentityError::Name { found: certificate.names() })
    }
}

/// Why a certificate with a good chain is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Mutual TLS is required.
    #[error("the peer showed no certificate, and mutual TLS is required; give it one from this mesh's authority")]
    NoCertificate,
    /// It is not X.509 that we can read.
    #[error("the peer's certificate cannot be read: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// No URI name that is a SPIFFE id, or more than one URI name.
    #[error("the peer's certificate holds no single SPIFFE id (X509-SVID, section 2); issue it with one")]
    NoSpiffe,
    /// Of another mesh.
    #[error("the peer is {found}, and only the trust domains {wanted} are accepted")]
    TrustDomain {
        /// The peer's id.
        found: String,
        /// What is accepted.
        wanted: String,
    },
    /// None of the accepted names.
    #[error("the peer's names are {found}, and none of them is an accepted subject alternative name")]
    Name {
        /// The peer's names.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/users").unwrap();
        assert_eq!(id.trust_domain, "cluster.local");
        assert_eq!(id.workload(), Some(("default", "users")));
        for bad in [
            "https://cluster.local/ns/a/sa/b",
            "spiffe:///ns/a",
            "spiffe://Cluster.local/a",
            "spiffe://td/a//b",
            "spiffe://td/../b",
            "spiffe://td/a/",
            "spiffe://td/a b",
            "spiffe://td:80/a",
        ] {
            assert_eq!(SpiffeId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names() {
        let certificate = PeerCertificate {
            spiffe: Some("spiffe://td/ns/a/sa/b".into()),
            uris: vec!["spiffe://td/ns/a/sa/b".into()],
            dns_names: vec!["*.example.com".into(), "Api.test".into()],
            ips: vec!["10.0.0.1".parse().unwrap()],
            ..PeerCertificate::default()
        };
        let ok = |m: SanMatcher| PeerRules { sans: vec![m], ..PeerRules::any() }.check(&certificate).is_ok();
        assert!(ok(SanMatcher::exact("spiffe://td/ns/a/sa/b")));
        assert!(ok(SanMatcher::exact("www.example.com")));
        assert!(!ok(SanMatcher::exact("a.www.example.com")));
        assert!(!ok(SanMatcher::exact("example.com")));
        assert!(!ok(SanMatcher::exact(".example.com")));
        assert!(ok(SanMatcher::exact("api.TEST")));
        assert!(ok(SanMatcher::exact("10.0.0.1")));
        let prefix = |kind, p: &str| SanMatcher { kind, pattern: SanPattern::Prefix(p.into()), ignore_case: false };
        assert!(ok(prefix(SanKind::Uri, "spiffe://td/")));
        assert!(!ok(prefix(SanKind::Dns, "spiffe://td/")));
        assert!(!ok(prefix(SanKind::Uri, "spiffe://td/ns/a/sa/b/and/more/than/there/is")));
        let suffix =
            |p: &str| SanMatcher { kind: SanKind::Uri, pattern: SanPattern::Suffix(p.into()), ignore_case: false };
        assert!(ok(suffix("/sa/b")));
        assert!(!ok(suffix("/sa/c")));
    }

    #[test]
    fn another_trust_domain_is_refused_by_name() {
        let certificate =
            PeerCertificate { spiffe: Some("spiffe://evil/ns/a/sa/b".into()), ..PeerCertificate::default() };
        let error = PeerRules::mesh("cluster.local").check(&certificate).unwrap_err();
        assert!(error.to_string().contains("spiffe://evil/ns/a/sa/b"), "{error}");
        let none = PeerRules::mesh("cluster.local").check(&PeerCertificate::default());
        assert_eq!(none, Err(IdentityError::NoSpiffe));
    }
}
