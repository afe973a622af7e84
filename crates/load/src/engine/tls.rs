//! TLS towards the origins, with rustls.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::Error;
use crate::plan::{Protocol, Tls};
use crate::trust;

/// What a connection to one origin needs.
#[derive(Clone, Debug)]
pub(super) struct TlsRoute {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

pub(super) struct Settings(Arc<ClientConfig>);

impl Settings {
    pub(super) fn route(&self, tls: &Tls, host: &str) -> Result<TlsRoute, Error> {
        let name = tls.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            Error::Tls(format!("`{name}` is not a name that a certificate can have: use --server-name"))
        })?;
        Ok(TlsRoute { config: Arc::clone(&self.0), name })
    }
}

pub(super) fn client_config(tls: &Tls, protocol: Protocol) -> Result<Settings, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::Tls(format!("{what}: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("the protocol versions", &e))?;
    trust::warm_up(&provider);
    let verifier = if tls.insecure { trust::anybody(provider) } else { verifier(tls, provider)? };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(&identity.cert_pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| failed("the client certificate is not PEM", &e))?;
            if chain.is_empty() {
                return Err(Error::Tls("the client certificate's file has no certificate in it".into()));
            }
            let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
                .map_err(|e| failed("the client key is not PEM", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| failed("the client certificate and key", &e))?
        }
    };
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(Settings(Arc::new(config)))
}

fn verifier(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let Some(pem) = &tls.ca_pem else { return trust::system(provider).map_err(Error::Tls) };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let given = found.map_err(|e| Error::Tls(format!("the CA's file is not PEM: {e}")))?;
    if given.is_empty() {
        return Err(Error::Tls("the CA's file has no certificate in it".into()));
    }
    trust::given(given, provider).map_err(|why| Error::Tls(format!("the CA's file: {why}")))
}
