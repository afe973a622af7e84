//! Whom a client of ours trusts, in one place for all verbs, and what is said when it does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where systems keep the authorities that they trust, in the order in which OpenSSL's users meet them: Debian, Red Hat,
/// SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusts whom the system trusts: as in OpenSSL and curl the file that `SSL_CERT_FILE` names, where it names one.
pub(crate) fn system(provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let bundle =
        match std::env::var_os("SSL_CERT_FILE") {
            Some(named) => named.into(),
            None => SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|bundle| bundle.exists()).ok_or(
                "this system has no list of trusted authorities: give one with --cacert, or -k to trust anybody",
            )?,
        };
    let found = certificates(&bundle)?;
    let authorities = authorities(&found).map_err(|why| format!("{}: {why}", bundle.display()))?;
    verifier(authorities, Vec::new(), provider)
}

/// `--cacert`: trusts what these sign, and each itself when a server shows it.
pub(crate) fn given(
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    verifier(authorities(&given)?, given, provider)
}

/// The certificates of a PEM file; at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |reason: String| format!("no certificate can be read from {}: {reason}", file.display());
    let found = CertificateDer::pem_file_iter(file).map_err(|error| refuse(error.to_string()))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| refuse(error.to_string()))?;
    if found.is_empty() { Err(refuse("there is none in it".to_owned())) } else { Ok(found) }
}

/// A bundle may hold a certificate that is no longer understood; the others still count.
fn authorities(found: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.iter().cloned());
    if added == 0 { Err("it holds no authority that can be trusted".to_owned()) } else { Ok(store) }
}

fn verifier(
    authorities: RootCertStore,
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider).build();
    let chains = chains.map_err(|error| format!("the authorities cannot be used: {error}"))?;
    Ok(Arc::new(Trusting { chains, given }))
}

/// `-k`: whoever answers is believed.
pub(crate) fn anybody(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Anybody(provider))
}

/// Pays what a process pays once for its first random numbers (some 20 ms of CPU, for it gathers entropy itself), so that no
/// handshake that is timed does.
pub(crate) fn warm_up(provider: &CryptoProvider) {
    // Where it fails the handshake says so.
    let _ = provider.secure_random.fill(&mut [0; 32]);
}

/// `openssl req -x509` makes a certificate that is its own authority and says so (CA:TRUE). As a server's own it fits no
/// chain; curl takes it where it is given as trusted, and so do we.
#[derive(Debug)]
struct Trusting {
    chains: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

/// The library's word for it, which has no type of its own in rustls.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

fn is_authority_as_server(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other)) if other.to_string() == AUTHORITY_AS_SERVER)
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.chains.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The chain is looked at after the dates, so those hold; the name would have come last.
            Err(error) if is_authority_as_server(&error) && self.given.iter().any(|given| given == end_entity) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// The handshake's own signature is still checked, so that its cost is the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a failed handshake means to whoever typed the URL, and what helps.
pub(crate) fn sentence(error: &rustls::Error) -> String {
    use CertificateError as Why;
    let rustls::Error::InvalidCertificate(why) = error else { return error.to_string() };
    match why {
        Why::UnknownIssuer => {
            "its certificate is signed by nobody who is trusted here: give its authority with --cacert, or -k to trust anybody"
                .to_owned()
        }
        Why::BadSignature => "its certificate is not signed by the authority that it names".to_owned(),
        Why::Expired | Why::ExpiredContext { .. } => format!("its certificate has expired{}", ago(why)),
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is the clock of this machine right?".to_owned()
        }
        Why::NotValidForName => "its certificate is for another name".to_owned(),
        Why::NotValidForNameContext { expected, presented } => {
            // The library writes `DnsName("a")`.
            let bare = |name: &String| name.split(['(', ')']).nth(1).unwrap_or(name).trim_matches('"').to_owned();
            let names: Vec<String> = presented.iter().map(bare).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("its certificate is not for {} but for {names}", expected.to_str())
        }
        _ if is_authority_as_server(error) => {
            "its certificate is that of an authority (CA:TRUE), which is trusted as a server's only where --cacert gives it"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn ago(why: &CertificateError) -> String {
    let CertificateError::ExpiredContext { time, not_after } = why else { return String::new() };
    match time.as_secs().saturating_sub(not_after.as_secs()) / 86_400 {
        0 => ", today".to_owned(),
        1 => ", a day ago".to_owned(),
        days => format!(", {days} days ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Validity from some days from now to others, as `openssl req -x509` makes it: its own authority.
    fn certificate(authority: &str, from_days: i64, to_days: i64) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        if !authority.is_empty() {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let day = |days: i64| time::OffsetDateTime::now_utc() + time::Duration::days(days);
        (params.not_before, params.not_after) = (day(from_days), day(to_days));
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    fn verify(given: &CertificateDer<'static>, shown: &CertificateDer<'static>, name: &str) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trusting = super::given(vec![given.clone()], provider).expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        trusting.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).map(drop).map_err(|error| sentence(&error))
    }

    #[test]
    fn a_certificate_that_is_given_is_trusted_for_its_name_and_time() {
        let (own, other) = (certificate("one", -1, 1), certificate("two", -1, 1));
        assert_eq!(verify(&own, &own, "localhost"), Ok(()));
        let plain = certificate("", -1, 1);
        assert_eq!(verify(&plain, &plain, "localhost"), Ok(()));
        let (old, new) = (certificate("one", -9, -3), certificate("one", 1, 3));
        for (given, shown, name, why) in [
            (&own, &own, "elsewhere", "is not for elsewhere but for localhost"),
            (&own, &other, "localhost", "only where --cacert gives it"),
            (&own, &plain, "localhost", "signed by nobody who is trusted here"),
            (&old, &old, "localhost", "has expired, 3 days ago"),
            (&new, &new, "localhost", "not valid yet"),
        ] {
            let said = verify(given, shown, name).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }
}
