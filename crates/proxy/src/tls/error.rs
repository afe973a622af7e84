use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};

use super::rules::IdentityError;

/// Who has to act so that the next handshake works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This proxy: its certificate, key or settings.
    Us,
    /// The other end of the connection.
    Peer,
    /// The network between: a reset, a time-out, a connection closed half-way.
    Network,
}

/// What went wrong in a handshake. Stable names: they are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reading or writing the socket failed.
    Io,
    /// The peer closed the connection before the handshake was over.
    Closed,
    /// The handshake took longer than its policy allows.
    TimedOut,
    /// What arrived is not TLS, or breaks the protocol.
    Protocol,
    /// No version, cipher suite or application protocol in common.
    Incompatible,
    /// A certificate is required and none came.
    NoCertificate,
    /// The certificate is malformed, or no trusted root signed it.
    Untrusted,
    /// The certificate is not valid yet, or not any more.
    Expired,
    /// The certificate is on the revocation list.
    Revoked,
    /// The certificate is good, but it is not one of those that may talk to us.
    WrongIdentity,
    /// The peer ended the handshake with an alert about what we sent.
    RefusedByPeer,
    /// Our own settings or certificate cannot make a handshake.
    Settings,
}

impl Kind {
    /// The name as it stands in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no_certificate",
            Self::Untrusted => "untrusted",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::WrongIdentity => "wrong_identity",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Settings => "settings",
        }
    }

    /// Who has to act. An alert of the peer is laid at our door: it names what it did not like in what we sent.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Self::Io | Self::Closed | Self::TimedOut => Blame::Network,
            Self::RefusedByPeer | Self::Settings => Blame::Us,
            Self::Protocol
            | Self::Incompatible
            | Self::NoCertificate
            | Self::Untrusted
            | Self::Expired
            | Self::Revoked
            | Self::WrongIdentity => Blame::Peer,
        }
    }
}

/// A handshake that failed: what, and in one sentence why. Nothing of the request was sent, so it may be sent elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed: {reason}")]
pub struct HandshakeError {
    kind: Kind,
    reason: String,
}

impl HandshakeError {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        Self::new(Kind::TimedOut, format!("not finished within {} ms", limit.as_millis()))
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.kind.blame()
    }

    /// One sentence for the log and for `upstream_transport_failure_reason`.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<IdentityError> for HandshakeError {
    fn from(error: IdentityError) -> Self {
        let kind = match error {
            IdentityError::NoCertificate => Kind::NoCertificate,
            IdentityError::Malformed { .. } => Kind::Untrusted,
            _ => Kind::WrongIdentity,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        if let E::InvalidCertificate(CertificateError::Other(OtherError(inner))) = &error
            && let Some(identity) = inner.downcast_ref::<IdentityError>()
        {
            return identity.clone().into();
        }
        let kind = match &error {
            E::NoCertificatesPresented => Kind::NoCertificate,
            E::InvalidCertificate(reason) => certificate_kind(reason),
            E::InvalidCertRevocationList(_) => Kind::Settings,
            E::AlertReceived(_) => Kind::RefusedByPeer,
            E::PeerIncompatible(_) | E::NoApplicationProtocol => Kind::Incompatible,
            E::InconsistentKeys(_) | E::General(_) | E::FailedToGetCurrentTime | E::FailedToGetRandomBytes => {
                Kind::Settings
            }
            _ => Kind::Protocol,
        };
        let reason = match &error {
            E::InvalidCertificate(reason) => certificate_reason(reason),
            _ => None,
        };
        Self::new(kind, reason.unwrap_or_else(|| error.to_string()))
    }
}

/// What is the matter with a certificate, where it is something that happens.
fn certificate_reason(reason: &CertificateError) -> Option<String> {
    use CertificateError as C;
    let at = |time: &UnixTime| {
        let time = time::OffsetDateTime::from_unix_timestamp(time.as_secs().try_into().unwrap_or(i64::MAX));
        time.map_or_else(|_| "another time".to_owned(), |time| time.to_string())
    };
    Some(match reason {
        C::UnknownIssuer => {
            "no trusted root signed the peer's certificate, nor an intermediate that the peer sent".into()
        }
        C::Expired => "the peer's certificate has expired".into(),
        C::ExpiredContext { not_after, .. } => format!("the peer's certificate has expired, at {}", at(not_after)),
        C::NotValidYet => "the peer's certificate is not valid yet".into(),
        C::NotValidYetContext { not_before, .. } => {
            format!("the peer's certificate is not valid before {}; are both clocks right?", at(not_before))
        }
        C::Revoked => "the peer's certificate is on the revocation list".into(),
        C::NotValidForNameContext { expected, presented } => {
            format!("the peer's certificate is not for {}, but for {}", expected.to_str(), presented.join(", "))
        }
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "the peer's certificate is not for this use (extended key usage)".into()
        }
        // webpki's own error, which rustls passes through.
        C::Other(OtherError(inner)) if inner.to_string() == "CaUsedAsEndEntity" => {
            "the peer's certificate is an authority's (basic constraints), and not itself one of the trusted roots"
                .into()
        }
        _ => return None,
    })
}

fn certificate_kind(reason: &CertificateError) -> Kind {
    use CertificateError as C;
    match reason {
        C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. } => Kind::Expired,
        C::Revoked => Kind::Revoked,
        C::NotValidForName | C::NotValidForNameContext { .. } | C::ApplicationVerificationFailure => {
            Kind::WrongIdentity
        }
        _ => Kind::Untrusted,
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return tls.clone().into();
        }
        let kind = match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::Closed,
            io::ErrorKind::TimedOut => Kind::TimedOut,
            _ => Kind::Io,
        };
        let reason = match kind {
            Kind::Closed => format!("the peer closed the connection half-way ({error})"),
            _ => error.to_string(),
        };
        Self::new(kind, reason)
    }
}

/// Carries one of our refusals through rustls, which sends the alert.
pub(super) fn to_rustls(error: IdentityError) -> rustls::Error {
    match error {
        IdentityError::NoCertificate => rustls::Error::NoCertificatesPresented,
        IdentityError::Malformed { .. } => CertificateError::BadEncoding.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn alerts_are_ours_to_mend_and_bad_certificates_the_peers() {
        let alert: HandshakeError = rustls::Error::AlertReceived(AlertDescription::CertificateRequired).into();
        assert_eq!(alert.kind(), Kind::RefusedByPeer);
        assert_eq!(alert.blame(), Blame::Us);
        let expired: HandshakeError = rustls::Error::InvalidCertificate(CertificateError::Expired).into();
        assert_eq!((expired.kind(), expired.blame()), (Kind::Expired, Blame::Peer));
        let reset: HandshakeError = io::Error::from(io::ErrorKind::ConnectionReset).into();
        assert_eq!((reset.kind(), reset.blame()), (Kind::Closed, Blame::Network));
    }

    #[test]
    fn our_own_refusal_survives_the_trip_through_rustls() {
        let refused = to_rustls(IdentityError::NoSpiffe);
        let error = HandshakeError::from(io::Error::other(refused));
        assert_eq!(error.kind(), Kind::WrongIdentity);
        assert!(error.reason().contains("SPIFFE"));
    }
}
