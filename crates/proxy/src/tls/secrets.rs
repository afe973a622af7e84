use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use celerity_model::snapshot as model;

use crate::blocking::BlockingPool;

use super::client::{ClientPolicy, Connector};
use super::error::HandshakeError;
use super::material::{KeyPair, LoadError, Piece, Roots, Source};
use super::rules::{PeerRules, SanKind, SanMatcher, SanPattern};
use super::server::{Acceptor, ClientAuth, ServerPolicy};
use super::store::{RELOAD_INTERVAL, Reloaded, Store};

/// Istio's names for the workload's own certificate and for the mesh's root, as they stand in SDS references.
const OWN_SECRET: &str = "default";
const ROOT_SECRET: &str = "ROOTCA";

/// Turns the TLS settings of a snapshot into acceptors and connectors. Equal sources share one [`Store`], so that a
/// certificate file is read once, however many listeners and clusters name it. For the control side: it reads files.
#[derive(Default)]
pub struct Secrets {
    workload: Option<Source>,
    stores: Mutex<HashMap<Source, Weak<Store>>>,
}

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file is missing or broken.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The settings contradict themselves or the files.
    #[error(transparent)]
    Settings(#[from] HandshakeError),
    /// The workload's own identity is asked for and there is none.
    #[error("this proxy has no identity of its own: start it with --identity DIR (`celerity ca issue` makes one)")]
    NoIdentity,
    /// Only Istio's two own names can be resolved without Kubernetes.
    #[error("the secret {0:?} cannot be had: only files, `default` and `ROOTCA` are supported yet")]
    UnknownSecret(Box<str>),
    /// Envoy refuses the same.
    #[error("subjectAltNames without a CA prove nothing, since anybody can sign them; add caCertificates")]
    NamesWithoutTrust,
}

impl Secrets {
    /// `workload` is the proxy's own identity and the mesh's root.
    #[must_use]
    pub fn new(workload: Option<Source>) -> Self {
        Self { workload, stores: Mutex::default() }
    }

    /// The server's side of a filter chain.
    ///
    /// # Errors
    /// The settings name something that is missing, broken or not supported.
    pub fn acceptor(&self, tls: &model::DownstreamTls) -> Result<Acceptor, SetupError> {
        let none = model::Validation::default();
        let validation = tls.validation.as_ref().unwrap_or(&none);
        let rules = rules(validation);
        let checked = validation.trust.is_some() && !validation.accept_untrusted;
        let client_auth = match (tls.require_client_certificate, checked) {
            (true, _) => ClientAuth::Required(rules),
            (false, true) => ClientAuth::Optional(rules),
            (false, false) => ClientAuth::None,
        };
        let store = self.store(Source {
            identity: Some(self.pair(&tls.identity)?),
            roots: self.roots(validation.trust.as_ref())?,
            crl: crl(validation),
        })?;
        let policy = ServerPolicy { client_auth, alpn: wire(&tls.alpn), ..ServerPolicy::default() };
        Ok(Acceptor::new(store, policy)?)
    }

    /// The client's side of a cluster.
    ///
    /// # Errors
    /// As [`Secrets::acceptor`].
    pub fn connector(&self, tls: &model::UpstreamTls) -> Result<Connector, SetupError> {
        let validation = &tls.validation;
        let verify = match (&validation.trust, validation.accept_untrusted) {
            (Some(_), false) => Some(rules(validation)),
            (None, false) if !validation.subject_alt_names.is_empty() => return Err(SetupError::NamesWithoutTrust),
            _ => None,
        };
        let store = self.store(Source {
            identity: tls.identity.as_ref().map(|pair| self.pair(pair)).transpose()?,
            roots: match verify {
                Some(_) => self.roots(validation.trust.as_ref())?,
                None => Roots::None,
            },
            crl: crl(validation),
        })?;
        let policy = ClientPolicy {
            sni: tls.sni.clone().filter(|sni| !sni.is_empty()),
            auto_sni: tls.auto_sni,
            verify_server_name: tls.auto_san_validation,
            show_certificate: tls.identity.is_some(),
            verify,
            alpn: wire(&tls.alpn),
            ..ClientPolicy::default()
        };
        Ok(Connector::new(store, policy)?)
    }

    /// The store of `source`, opened now or shared with whoever opened it before.
    ///
    /// # Errors
    /// A file is missing or broken.
    pub fn store(&self, source: Source) -> Result<Arc<Store>, LoadError> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = stores.get(&source).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let store = Store::open(source.clone())?;
        stores.retain(|_, store| store.strong_count() > 0);
        stores.insert(source, Arc::downgrade(&store));
        Ok(store)
    }

    /// Every store in use, for the admin port.
    #[must_use]
    pub fn in_use(&self) -> Vec<Arc<Store>> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.values().filter_map(Weak::upgrade).collect()
    }

    /// Follows the files of every store in use, on the control runtime, until the future is dropped. `on_change` hears of
    /// every swap and of every new error, once each.
    /// Files are read on a thread of `pool`; when it is full the next look comes a second later.
    pub async fn watch(
        self: Arc<Self>,
        pool: BlockingPool,
        mut on_change: impl FnMut(&Store, Result<Reloaded, LoadError>),
    ) {
        let mut tick = tokio::time::interval(RELOAD_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let stores = self.in_use();
            let look = move || {
                let all = stores.into_iter().map(|store| (store.status().last_error, store.poll(), store));
                all.collect::<Vec<_>>()
            };
            let Ok(looked) = pool.run(look).await else { continue };
            for (before, polled, store) in looked {
                match polled {
                    Ok(Reloaded::Unchanged) => {}
                    Err(error) if before.as_ref() == Some(&error) => {}
                    news => on_change(&store, news),
                }
            }
        }
    }

    fn pair(&self, source: &model::CertificateSource) -> Result<KeyPair, SetupError> {
        match source {
            model::CertificateSource::Files { certificate, key } => {
                Ok(KeyPair { chain: Piece::file(&**certificate), key: Piece::file(&**key) })
            }
            model::CertificateSource::Inline { certificate, key } => {
                Ok(KeyPair { chain: Piece::inline(certificate), key: Piece::inline(key) })
            }
            model::CertificateSource::Secret(name) if **name == *OWN_SECRET => {
                self.workload.as_ref().and_then(|own| own.identity.clone()).ok_or(SetupError::NoIdentity)
            }
            model::CertificateSource::Secret(name) => Err(SetupError::UnknownSecret(name.clone())),
        }
    }

    fn roots(&self, trust: Option<&model::TrustSource>) -> Result<Roots, SetupError> {
        match trust {
            None => Ok(Roots::None),
            Some(model::TrustSource::System) => Ok(Roots::System),
            Some(model::TrustSource::File(path)) => Ok(Roots::Pem(Piece::file(&**path))),
            Some(model::TrustSource::Inline(pem)) => Ok(Roots::Pem(Piece::inline(pem))),
            Some(model::TrustSource::Secret(name)) if **name == *ROOT_SECRET => {
                self.workload.as_ref().map(|own| own.roots.clone()).ok_or(SetupError::NoIdentity)
            }
            Some(model::TrustSource::Secret(name)) => Err(SetupError::UnknownSecret(name.clone())),
        }
    }
}

fn rules(validation: &model::Validation) -> PeerRules {
    PeerRules { trust_domains: Vec::new(), sans: validation.subject_alt_names.iter().map(matcher).collect() }
}

fn matcher(san: &model::SanMatcher) -> SanMatcher {
    let kind = match san.kind {
        model::SanKind::Any => SanKind::Any,
        model::SanKind::Uri => SanKind::Uri,
        model::SanKind::Dns => SanKind::Dns,
        model::SanKind::Ip => SanKind::Ip,
        model::SanKind::Email => SanKind::Email,
    };
    let pattern = match san.value.clone() {
        model::SanPattern::Exact(text) => SanPattern::Exact(text),
        model::SanPattern::Prefix(text) => SanPattern::Prefix(text),
        model::SanPattern::Suffix(text) => SanPattern::Suffix(text),
        model::SanPattern::Contains(text) => SanPattern::Contains(text),
    };
    SanMatcher { kind, pattern, ignore_case: false }
}

fn crl(validation: &model::Validation) -> Option<Piece> {
    validation.crl_file.as_deref().map(Piece::file)
}

fn wire(alpn: &[Box<str>]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}
