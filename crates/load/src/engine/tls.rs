//! TLS towards the origins, with rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::Error;
use crate::plan::{Protocol, Tls};
use crate::trust;

/// Where distributions keep the certificates that they trust; `SSL_CERT_FILE` comes first.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

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
    let (authorities, given) = roots(tls)?;
    trust::verifier(authorities, given, provider).map_err(Error::Tls)
}

/// The authorities, and the certificates that were given as such.
fn roots(tls: &Tls) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    let mut store = RootCertStore::empty();
    if let Some(pem) = &tls.ca_pem {
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let given = found.map_err(|e| Error::Tls(format!("the CA's file is not PEM: {e}")))?;
        for certificate in given.iter().cloned() {
            store.add(certificate).map_err(|e| Error::Tls(format!("a certificate of the CA's file: {e}")))?;
        }
        if store.is_empty() {
            return Err(Error::Tls("the CA's file has no certificate in it".into()));
        }
        return Ok((store, given));
    }
    let named = std::env::var_os("SSL_CERT_FILE");
    let files = named.iter().map(Path::new).chain(SYSTEM_ROOTS.iter().map(Path::new));
    for file in files {
        let Ok(pem) = std::fs::read(file) else { continue };
        // A system's bundle may hold one that is too old to be understood; the others still count.
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            let _ = store.add(certificate);
        }
        if !store.is_empty() {
            return Ok((store, Vec::new()));
        }
    }
    Err(Error::Tls("this system has no file of trusted certificates: name one with --cacert".into()))
}
