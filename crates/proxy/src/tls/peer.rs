use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::rules::{IdentityError, SpiffeId};

/// A name list longer than this is refused: no workload needs it, and every rule looks at all of them.
const NAMES_MAX: usize = 256;

/// The application protocol that both ends agreed on (RFC 7301).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// None was negotiated: HTTP/1.1 is meant, or HTTP/2 if its preface comes.
    #[default]
    None,
    /// `h2`.
    H2,
    /// `http/1.1`, or `http/1.0`.
    Http1,
    /// Any other, such as Istio's `istio-peer-exchange`.
    Other(Arc<[u8]>),
}

impl Alpn {
    /// From the bytes on the wire. Istio's `istio-h2` and `istio-http/1.1` mean the plain ones, between sidecars.
    #[must_use]
    pub fn from_wire(bytes: Option<&[u8]>) -> Self {
        match bytes {
            None => Self::None,
            Some(b"h2" | b"istio-h2") => Self::H2,
            Some(b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0") => Self::Http1,
            Some(other) => Self::Other(other.into()),
        }
    }
}

/// Who is at the other end, for one connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The peer's SPIFFE id, verified. `None` without a certificate, or when it holds none.
    pub spiffe: Option<Arc<str>>,
    /// The peer's certificate, verified unless the policy said not to. `None` when it showed none.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// The session was resumed: no certificates were sent, and the handshake cost a fraction.
    pub resumed: bool,
    /// The application protocol.
    pub alpn: Alpn,
    /// The server name that the client asked for. On the server's side only.
    pub sni: Option<Arc<str>>,
    /// `TLSv1.3` or `TLSv1.2`, as Envoy's `%DOWNSTREAM_TLS_VERSION%` writes them.
    pub version: &'static str,
    /// The cipher suite by its IANA name, or `unknown`.
    pub cipher: &'static str,
}

impl Peer {
    pub(super) fn of(state: &CommonState, cipher: Option<CipherSuite>) -> Result<Self, IdentityError> {
        let certificate = match state.peer_certificates().and_then(|chain| chain.first()) {
            Some(der) => Some(Arc::new(PeerCertificate::parse(der)?)),
            None => None,
        };
        Ok(Self {
            spiffe: certificate.as_ref().and_then(|c| c.spiffe.clone()),
            certificate,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: Alpn::from_wire(state.alpn_protocol()),
            sni: None,
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: cipher.and_then(|suite| suite.as_str()).unwrap_or("unknown"),
        })
    }
}

/// What the proxy keeps of a peer's certificate: names, and what `x-forwarded-client-cert` needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The SPIFFE id: the one URI name of the certificate, if it is a well-formed id.
    pub spiffe: Option<Arc<str>>,
    /// URI names.
    pub uris: Vec<Box<str>>,
    /// DNS names.
    pub dns_names: Vec<Box<str>>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<Box<str>>,
    /// The subject; empty for a workload certificate of Istio.
    pub subject: Box<str>,
    /// SHA-256 of the DER form in lower-case hexadecimal: `Hash` of `x-forwarded-client-cert`.
    pub sha256_hex: Box<str>,
    /// The serial number in hexadecimal.
    pub serial_hex: Box<str>,
    /// Valid from, in seconds since 1970.
    pub not_before_s: i64,
    /// Valid to, in seconds since 1970.
    pub not_after_s: i64,
}

impl PeerCertificate {
    /// Reads a certificate in DER (RFC 5280). Nothing is verified here.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let malformed = |reason: String| IdentityError::Malformed { reason };
        let (_, x509) = X509Certificate::from_der(der).map_err(|e| malformed(e.to_string()))?;
        let mut parsed = Self {
            subject: x509.subject().to_string().into(),
            sha256_hex: hex(digest::digest(&digest::SHA256, der).as_ref()),
            serial_hex: hex(x509.raw_serial()),
            not_before_s: x509.validity().not_before.timestamp(),
            not_after_s: x509.validity().not_after.timestamp(),
            ..Self::default()
        };
        let names = x509.subject_alternative_name().map_err(|e| malformed(e.to_string()))?;
        if let Some(names) = names {
            let names = &names.value.general_names;
            if names.len() > NAMES_MAX {
                return Err(malformed(format!("more than {NAMES_MAX} subject alternative names")));
            }
            for name in names {
                match name {
                    GeneralName::URI(uri) => parsed.uris.push((*uri).into()),
                    GeneralName::DNSName(dns) => parsed.dns_names.push((*dns).into()),
                    GeneralName::RFC822Name(mail) => parsed.emails.push((*mail).into()),
                    GeneralName::IPAddress(bytes) => parsed.ips.extend(ip(bytes)),
                    _ => {}
                }
            }
        }
        // X509-SVID, section 2: exactly one URI name. With two, which one is meant would be anybody's guess.
        if let [only] = parsed.uris.as_slice()
            && SpiffeId::parse(only).is_some()
        {
            parsed.spiffe = Some(Arc::from(&**only));
        }
        Ok(parsed)
    }

    /// All names, for an error message.
    #[must_use]
    pub fn names(&self) -> String {
        let text = self.uris.iter().chain(&self.dns_names).chain(&self.emails).map(ToString::to_string);
        let all: Vec<String> = text.chain(self.ips.iter().map(ToString::to_string)).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn hex(bytes: &[u8]) -> Box<str> {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}
