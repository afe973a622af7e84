use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

use super::anchor::Anchors;
use super::peer::PeerCertificate;
use super::provider::provider;

/// A PEM file larger than this is refused. The bundle of all public roots is 220 KB.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// Longer chains are refused: every handshake would send and verify all of them.
const CHAIN_CERTIFICATES_MAX: usize = 10;

/// Where distributions keep the public roots, in the order Istio looks for them.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// PEM text, or the file it is in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Piece {
    /// Read from this file, again whenever it changes.
    File(PathBuf),
    /// Held in memory.
    Inline(Arc<[u8]>),
}

impl Piece {
    /// A file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// PEM text.
    #[must_use]
    pub fn inline(pem: impl AsRef<[u8]>) -> Self {
        Self::Inline(pem.as_ref().into())
    }

    fn read(&self) -> Result<Arc<[u8]>, LoadError> {
        match self {
            Self::Inline(bytes) => Ok(Arc::clone(bytes)),
            Self::File(path) => read_file(path),
        }
    }

    fn error(&self, reason: impl Into<String>) -> LoadError {
        LoadError { file: self.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Inline(_) => f.write_str("inline PEM"),
        }
    }
}

// Inline keys must not reach a log.
impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn read_file(path: &Path) -> Result<Arc<[u8]>, LoadError> {
    let error = |reason: String| LoadError { file: path.display().to_string(), reason };
    let about = std::fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if about.len() > PEM_BYTES_MAX {
        return Err(error(format!("larger than {PEM_BYTES_MAX} bytes, so not a PEM file of certificates")));
    }
    std::fs::read(path).map(Into::into).map_err(|e| error(e.to_string()))
}

/// A certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPair {
    /// The certificate chain, leaf first.
    pub chain: Piece,
    /// The private key: PKCS#8, SEC1 or PKCS#1.
    pub key: Piece,
}

/// Which certificates are trusted to sign the peer's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Roots {
    /// None: peers cannot be verified.
    #[default]
    None,
    /// The public roots of this machine.
    System,
    /// Exactly these.
    Pem(Piece),
}

/// Where everything in a [`super::Store`] comes from. Equal sources can share one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// Our own certificate, if we show one.
    pub identity: Option<KeyPair>,
    /// Whom we trust.
    pub roots: Roots,
    /// Certificates that are revoked (RFC 5280, section 5), in PEM.
    pub crl: Option<Piece>,
}

impl Source {
    /// The three files of a workload under Istio's names: `cert-chain.pem`, `key.pem`, `root-cert.pem`.
    #[must_use]
    pub fn directory(dir: &Path) -> Self {
        Self::files(dir.join("cert-chain.pem"), dir.join("key.pem"), dir.join("root-cert.pem"))
    }

    /// An identity and its trust bundle from files.
    #[must_use]
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>, roots: impl Into<PathBuf>) -> Self {
        Self {
            identity: Some(KeyPair { chain: Piece::file(chain), key: Piece::file(key) }),
            roots: Roots::Pem(Piece::file(roots)),
            crl: None,
        }
    }

    /// Only a trust bundle: a client that shows no certificate.
    #[must_use]
    pub fn trust_only(roots: Roots) -> Self {
        Self { roots, ..Self::default() }
    }

    pub(super) fn watched_files(&self) -> impl Iterator<Item = &Path> {
        let pair = self.identity.iter().flat_map(|pair| [&pair.chain, &pair.key]);
        let roots = match &self.roots {
            Roots::Pem(piece) => Some(piece),
            Roots::None | Roots::System => None,
        };
        pair.chain(roots).chain(&self.crl).filter_map(|piece| match piece {
            Piece::File(path) => Some(path.as_path()),
            Piece::Inline(_) => None,
        })
    }
}

/// The files.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<String> = self.watched_files().map(|path| path.display().to_string()).collect();
        f.write_str(&files.join(", "))
    }
}

/// A certificate, key or bundle that cannot be used: which file, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct LoadError {
    /// The file, or `inline PEM`.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An identity that was read and checked: chain and key fit together, and everything parses.
#[derive(Clone)]
pub struct Identity {
    pub(super) certified: Option<Arc<CertifiedKey>>,
    pub(super) leaf: Option<Arc<PeerCertificate>>,
    pub(super) roots: Option<Arc<RootCertStore>>,
    /// The certificates of `roots`.
    pub(super) anchors: Anchors,
    /// SHA-256 over the trust bundle and the revocation list.
    pub(super) trust_sha256: [u8; 32],
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Identity {
    /// Reads and checks all parts of `source`. Reads files: not for a worker's thread.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(source: &Source) -> Result<Self, LoadError> {
        let mut trust = digest::Context::new(&digest::SHA256);
        let (roots, anchors) = match &source.roots {
            Roots::None => (None, Anchors::default()),
            Roots::System => system_roots().map(|(roots, anchors)| (Some(roots), anchors))?,
            Roots::Pem(piece) => strict_roots(piece).map(|(roots, anchors)| (Some(roots), anchors))?,
        };
        for root in roots.iter().flat_map(|store| &store.roots) {
            trust.update(&root.subject);
            trust.update(&root.subject_public_key_info);
        }
        for hash in anchors.hashes() {
            trust.update(hash);
        }
        let crls = match &source.crl {
            None => Vec::new(),
            Some(piece) => revocations(piece)?,
        };
        for crl in &crls {
            trust.update(crl);
        }
        if let (Some(roots), Some(piece), false) = (&roots, &source.crl, crls.is_empty()) {
            // Parsed here once for the error's sake, so that a broken list never takes a good one's place.
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider())
                .with_crls(crls.iter().cloned())
                .build()
                .map_err(|e| piece.error(e.to_string()))?;
        }
        let mut trust_sha256 = [0; 32];
        trust_sha256.copy_from_slice(trust.finish().as_ref());
        let (certified, leaf) = match &source.identity {
            None => (None, None),
            Some(pair) => {
                let (certified, leaf) = key_pair(pair)?;
                (Some(Arc::new(certified)), Some(Arc::new(leaf)))
            }
        };
        Ok(Self { certified, leaf, roots: roots.map(Arc::new), anchors, trust_sha256, crls })
    }

    /// The same from PEM texts in memory.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn from_pem(chain: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, LoadError> {
        Self::read(&Source {
            identity: Some(KeyPair { chain: Piece::inline(chain), key: Piece::inline(key) }),
            roots: Roots::Pem(Piece::inline(roots)),
            crl: None,
        })
    }

    /// Our own certificate.
    #[must_use]
    pub fn leaf(&self) -> Option<&Arc<PeerCertificate>> {
        self.leaf.as_ref()
    }
}

// The key must not reach a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.leaf.as_ref().map(|leaf| leaf.names()))
            .field("roots", &self.roots.as_ref().map_or(0, |roots| roots.len()))
            .field("crls", &self.crls.len())
            .finish_non_exhaustive()
    }
}

fn certificates(piece: &Piece) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = piece.read()?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| piece.error(format!("not well-formed PEM: {e}")))?;
    if all.is_empty() {
        return Err(piece.error("holds no certificate (no BEGIN CERTIFICATE line)"));
    }
    Ok(all)
}

fn key_pair(pair: &KeyPair) -> Result<(CertifiedKey, PeerCertificate), LoadError> {
    let chain = certificates(&pair.chain)?;
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(pair.chain.error(format!("more than {CHAIN_CERTIFICATES_MAX} certificates in one chain")));
    }
    let leaf = chain
        .first()
        .map(PeerCertificate::parse)
        .transpose()
        .map_err(|e| pair.chain.error(e.to_string()))?
        .unwrap_or_default();
    let pem = pair.key.read()?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| pair.key.error(format!("holds no private key that can be read: {e}")))?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            pair.key.error(format!("is not the key of the certificate in {}", pair.chain))
        }
        other => pair.key.error(other.to_string()),
    })?;
    Ok((certified, leaf))
}

fn strict_roots(piece: &Piece) -> Result<(RootCertStore, Anchors), LoadError> {
    let mut roots = RootCertStore::empty();
    let all = certificates(piece)?;
    let anchors = Anchors::of(&all);
    for (at, der) in all.into_iter().enumerate() {
        roots.add(der).map_err(|e| piece.error(format!("certificate {} cannot be a root: {e}", at + 1)))?;
    }
    Ok((roots, anchors))
}

/// Public bundles hold a few roots that webpki cannot use, so those are left out, as everybody does.
fn system_roots() -> Result<(RootCertStore, Anchors), LoadError> {
    let Some(path) = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()) else {
        return Err(LoadError {
            file: SYSTEM_ROOTS.join(", "),
            reason: "none of them exists; install ca-certificates or name a CA file".into(),
        });
    };
    let piece = Piece::file(path);
    let mut roots = RootCertStore::empty();
    let all = certificates(&piece)?;
    let anchors = Anchors::of(&all);
    roots.add_parsable_certificates(all);
    if roots.is_empty() {
        return Err(piece.error("holds no root that can be used"));
    }
    Ok((roots, anchors))
}

fn revocations(piece: &Piece) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    let pem = piece.read()?;
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| piece.error(format!("not well-formed PEM: {e}")))?;
    if all.is_empty() {
        return Err(piece.error("holds no revocation list (no BEGIN X509 CRL line)"));
    }
    Ok(all)
}
