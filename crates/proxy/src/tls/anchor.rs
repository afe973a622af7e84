use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// The trusted certificates themselves, by SHA-256. A peer that shows one of them needs nobody to vouch for it: this is how
/// the self-signed certificate that `openssl req -x509` makes is trusted, which calls itself an authority. webpki takes no
/// authority for an end, and keeps of a root its name and key only; curl and Envoy take it.
#[derive(Clone, Debug, Default)]
pub(super) struct Anchors(Arc<[[u8; 32]]>);

impl Anchors {
    pub(super) fn of<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Self {
        Self(certificates.into_iter().map(|der| sha256(der)).collect())
    }

    pub(super) fn hashes(&self) -> &[[u8; 32]] {
        &self.0
    }

    /// Whether the certificate is a trusted one itself, and good now and for this role.
    ///
    /// # Errors
    /// It is a trusted one, and is not.
    pub(super) fn admit(&self, leaf: &CertificateDer<'_>, role: Role, now: UnixTime) -> Result<bool, Error> {
        if !self.0.contains(&sha256(leaf)) {
            return Ok(false);
        }
        // What webpki cannot read, an unknown critical extension for instance, is refused as anywhere else.
        ParsedCertificate::try_from(leaf)?;
        let (_, x509) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let seconds = |time: x509_parser::time::ASN1Time| {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
        };
        let (from, to) = (seconds(x509.validity().not_before), seconds(x509.validity().not_after));
        if now < from {
            return Err(CertificateError::NotValidYetContext { time: now, not_before: from }.into());
        }
        if now > to {
            return Err(CertificateError::ExpiredContext { time: now, not_after: to }.into());
        }
        let uses = x509.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        match uses.map(|uses| if role == Role::Server { uses.value.server_auth } else { uses.value.client_auth }) {
            Some(false) => Err(CertificateError::InvalidPurpose.into()),
            None | Some(true) => Ok(true),
        }
    }
}

fn sha256(der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    hash
}
