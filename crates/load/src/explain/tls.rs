//! The client's side of TLS: which authorities to trust, and with which certificate to come.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::Tls;
use crate::trust;

/// Where systems keep the authorities that they trust, in the order in which OpenSSL's users meet them: Debian, Red Hat,
/// SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Builds the configuration. Sessions are not resumed: each connection shows what a new client pays.
pub(super) fn config(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    // Not on the clock: a request is to show what the handshake costs, not the process' first one.
    trust::warm_up(&provider);
    let verifier = if tls.insecure { trust::anybody(provider) } else { verifier(tls.ca.as_deref(), provider)? };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match (&tls.certificate, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), key) => {
            // As in curl: without a key of its own the certificate's file holds both.
            let key_file = key.as_ref().unwrap_or(certificate);
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| format!("no private key can be read from {}: {error}", key_file.display()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("{} and its key do not fit: {error}", certificate.display()))?
        }
        (None, Some(key)) => return Err(format!("the key {} has no certificate: give --cert too", key.display())),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refuse = |reason: String| format!("no certificate can be read from {}: {reason}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| refuse(error.to_string()))?;
    if found.is_empty() { Err(refuse("there is none in it".to_owned())) } else { Ok(found) }
}

fn verifier(ca: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    let path = match ca {
        Some(path) => path.to_owned(),
        None => match std::env::var_os("SSL_CERT_FILE") {
            Some(path) => path.into(),
            None => SYSTEM_BUNDLES
                .iter()
                .map(Path::new)
                .find(|path| path.exists())
                .ok_or(
                    "this system has no list of trusted authorities: give one with --cacert, or -k to trust anybody",
                )?
                .to_owned(),
        },
    };
    // A system's bundle may hold a certificate that is no longer understood; the others still count.
    let found = certificates(&path)?;
    let (added, _) = store.add_parsable_certificates(found.clone());
    if added == 0 {
        return Err(format!("{} holds no authority that can be trusted", path.display()));
    }
    trust::verifier(store, if ca.is_some() { found } else { Vec::new() }, provider)
}
