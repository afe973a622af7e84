//! The client's side of TLS: which authorities to trust, and with which certificate to come.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::Tls;
use crate::trust;

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
            let chain = trust::certificates(certificate)?;
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

fn verifier(ca: Option<&Path>, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(file) = ca else { return trust::system(provider) };
    trust::given(trust::certificates(file)?, provider).map_err(|why| format!("{}: {why}", file.display()))
}
