use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::anchor::{Anchors, Role};
use super::error::to_rustls;
use super::material::Identity;
use super::peer::PeerCertificate;
use super::provider::provider;
use super::rules::PeerRules;

/// Checks clients' certificates: chain, revocation, and who they are.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    anchors: Anchors,
    rules: PeerRules,
    mandatory: bool,
}

impl ClientCheck {
    pub(super) fn new(identity: &Identity, rules: PeerRules, mandatory: bool) -> Result<Self, String> {
        let roots = identity
            .roots
            .as_ref()
            .ok_or("client certificates are asked for, but there is no trust bundle to check them with")?;
        // Root names are not sent: they cost a kilobyte in every handshake, and a workload has one certificate to choose from.
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
            .with_crls(identity.crls.iter().cloned())
            .clear_root_hint_subjects();
        // A list says nothing about what other authorities issued.
        let chain = if identity.crls.is_empty() { chain } else { chain.allow_unknown_revocation_status() };
        let chain = if mandatory { chain } else { chain.allow_unauthenticated() };
        let chain = chain.build().map_err(|e| e.to_string())?;
        Ok(Self { chain, anchors: anchors(identity), rules, mandatory })
    }

    /// The whole check again, for a resumed session. rustls keeps the client's chain in the ticket and trusts it.
    pub(super) fn recheck(&self, chain: Option<&[CertificateDer<'_>]>, now: UnixTime) -> Result<(), Error> {
        match chain.and_then(<[_]>::split_first) {
            None if self.mandatory => Err(Error::NoCertificatesPresented),
            None => Ok(()),
            Some((leaf, intermediates)) => self.verify_client_cert(leaf, intermediates, now).map(drop),
        }
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.anchors.admit(leaf, Role::Client, now)? {
            self.chain.verify_client_cert(leaf, intermediates, now)?;
        }
        let certificate = PeerCertificate::parse(leaf).map_err(to_rustls)?;
        self.rules.check(&certificate).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Checks servers' certificates: chain, revocation, who they are, and, if asked, that the name dialled is one of theirs.
#[derive(Debug)]
pub(super) struct ServerCheck {
    /// `None`: nothing is checked (`insecureSkipVerify`).
    trust: Option<Trust>,
    rules: PeerRules,
    server_name: bool,
}

#[derive(Debug)]
struct Trust {
    roots: Arc<RootCertStore>,
    anchors: Anchors,
    /// Only with a revocation list. It checks the chain a second time, at the price of another signature check.
    revocation: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCheck {
    /// Checks nothing but that the peer holds the key it shows.
    pub(super) fn insecure() -> Self {
        Self { trust: None, rules: PeerRules::any(), server_name: false }
    }

    pub(super) fn new(identity: &Identity, rules: PeerRules, server_name: bool) -> Result<Self, String> {
        let roots = identity
            .roots
            .as_ref()
            .ok_or("the server's certificate is to be verified, but there is no trust bundle")?;
        let revocation = if identity.crls.is_empty() {
            None
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
                .with_crls(identity.crls.iter().cloned())
                .allow_unknown_revocation_status()
                .build()
                .map_err(|e| e.to_string())?;
            Some(verifier)
        };
        let trust = Trust { roots: Arc::clone(roots), anchors: anchors(identity), revocation };
        Ok(Self { trust: Some(trust), rules, server_name })
    }

    /// The whole check again, for a resumed session.
    pub(super) fn recheck(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        match chain.and_then(<[_]>::split_first) {
            None if self.trust.is_none() => Ok(()),
            None => Err(Error::NoCertificatesPresented),
            Some((leaf, intermediates)) => self.check(leaf, intermediates, name, now),
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(trust) = &self.trust else {
            return Ok(());
        };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        if !trust.anchors.admit(leaf, Role::Server, now)? {
            verify_server_cert_signed_by_trust_anchor(&parsed, &trust.roots, intermediates, now, algorithms)?;
        }
        if let Some(verifier) = &trust.revocation {
            match verifier.verify_server_cert(leaf, intermediates, name, &[], now) {
                // Names are looked at last, and by our own rules: a SPIFFE certificate has no DNS name to compare.
                Ok(_)
                | Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        if self.server_name {
            rustls::client::verify_server_name(&parsed, name)?;
        }
        let certificate = PeerCertificate::parse(leaf).map_err(to_rustls)?;
        self.rules.check(&certificate).map_err(to_rustls)
    }
}

/// With a revocation list a certificate must have come by its issuer, who could have put it there.
fn anchors(identity: &Identity) -> Anchors {
    if identity.crls.is_empty() { identity.anchors.clone() } else { Anchors::default() }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
