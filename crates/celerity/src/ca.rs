//! A small certificate authority: one root for a trust domain, and workload certificates with SPIFFE identities.
//!
//! Keys are ECDSA P-256. File names are Istio's: a workload's folder holds `cert-chain.pem`, `key.pem` and `root-cert.pem`,
//! the authority's own `root-cert.pem` and `ca-key.pem`. Everything is written to a temporary file and renamed, so that a
//! reader sees the old file or the new one, never half of one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use celerity_proxy::tls::{Identity as KeyPairAndRoots, SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// Istio's life of a workload certificate.
pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// A stolen key is good for as long as its certificate, so nobody gets one for more than 90 days.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Shorter lives would end while they are handed out.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(60);

/// Istio's life of a self-signed root: ten years.
const ROOT_TTL: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Machines whose clocks run behind still accept a fresh certificate. Istio's value.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

const ROOT_FILE: &str = "root-cert.pem";
const ROOT_KEY_FILE: &str = "ca-key.pem";
const CHAIN_FILE: &str = "cert-chain.pem";
const KEY_FILE: &str = "key.pem";

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Why there is no authority or no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0:?} is not a trust domain: lower-case letters, digits, '-', '.' and '_' only, such as cluster.local")]
    TrustDomain(String),
    #[error("{0:?} is not a SPIFFE id, such as spiffe://cluster.local/ns/default/sa/orders")]
    Spiffe(String),
    #[error("{spiffe} is not of this authority's trust domain, {trust_domain}")]
    OtherTrustDomain { spiffe: String, trust_domain: String },
    #[error("{0:?} cannot stand in a certificate as a DNS name")]
    Dns(String),
    #[error("a certificate for {} s is refused: from {} s to {} days", .0.as_secs(), TTL_MIN.as_secs(), TTL_MAX.as_secs() / 86_400)]
    Ttl(Duration),
    #[error("{} holds an authority already; certificates it issued would stop working: --force replaces it", .0.display())]
    Exists(PathBuf),
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Who a certificate is for, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub(crate) spiffe: String,
    /// DNS names, for clients that check names and know nothing of SPIFFE.
    pub(crate) dns: Vec<String>,
    /// IP addresses, for the same.
    pub(crate) ips: Vec<IpAddr>,
    /// From now.
    pub(crate) ttl: Duration,
}

impl Identity {
    /// A workload in Istio's form, for a day.
    pub(crate) fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            spiffe: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"),
            dns: Vec::new(),
            ips: Vec::new(),
            ttl: TTL_DEFAULT,
        }
    }
}

/// A certificate with its key, and the root to check others with. All PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    /// Leaf first.
    pub(crate) chain_pem: String,
    /// PKCS#8.
    pub(crate) key_pem: String,
    /// The trust bundle.
    pub(crate) root_pem: String,
    /// Seconds since 1970.
    pub(crate) not_after_s: i64,
}

impl Issued {
    /// Writes `cert-chain.pem`, `key.pem` (0600) and `root-cert.pem` into `dir`, which is made if need be. A sidecar that
    /// watches the folder takes them up.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        make_dir(dir)?;
        // The key goes last: until it is there, a watching proxy sees a pair that does not fit and keeps what it has.
        put(&dir.join(ROOT_FILE), &self.root_pem, PUBLIC)?;
        put(&dir.join(CHAIN_FILE), &self.chain_pem, PUBLIC)?;
        put(&dir.join(KEY_FILE), &self.key_pem, SECRET)
    }
}

/// Signs certificates for one trust domain.
pub(crate) struct Authority {
    trust_domain: String,
    root_pem: String,
    root_ends_s: i64,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new root, in memory.
    pub(crate) fn create(trust_domain: &str) -> Result<Self, Error> {
        let spiffe = format!("spiffe://{trust_domain}");
        if SpiffeId::parse(&spiffe).is_none_or(|id| id.trust_domain != trust_domain) {
            return Err(Error::TrustDomain(trust_domain.to_owned()));
        }
        let key = KeyPair::generate()?;
        let mut params = dated(ROOT_TTL);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = organization(trust_domain);
        // A name of its own: OpenSSL takes a leaf with its issuer's name for a self-signed certificate.
        params.distinguished_name.push(DnType::CommonName, "celerity root");
        // X509-SVID, section 4.1: a signing certificate may carry its trust domain's id, without a path.
        params.subject_alt_names = vec![uri(&spiffe)?];
        let root_ends_s = params.not_after.unix_timestamp();
        let root_pem = params.self_signed(&key)?.pem();
        Ok(Self { trust_domain: trust_domain.to_owned(), root_pem, root_ends_s, issuer: Issuer::new(params, key) })
    }

    /// The authority that [`Authority::save`] left in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Self, Error> {
        let (root_file, key_file) = (dir.join(ROOT_FILE), dir.join(ROOT_KEY_FILE));
        let broken = |file: &Path, reason: String| Error::File { file: file.to_path_buf(), reason };
        let (root_pem, key_pem) = (read(&root_file)?, read(&key_file)?);
        let key = KeyPair::from_pem(&key_pem).map_err(|e| broken(&key_file, e.to_string()))?;
        // Also checks that the key belongs to the certificate.
        let pair = KeyPairAndRoots::from_pem(root_pem.as_bytes(), key_pem.as_bytes(), root_pem.as_bytes())
            .map_err(|e| broken(dir, format!("{ROOT_FILE} and {ROOT_KEY_FILE} are no authority: {}", e.reason)))?;
        let root = pair.leaf().ok_or_else(|| broken(&root_file, "holds no certificate".into()))?;
        let trust_domain =
            root.spiffe.as_deref().and_then(SpiffeId::parse).map(|id| id.trust_domain.to_owned()).ok_or_else(|| {
                broken(&root_file, "names no trust domain; `celerity ca init` makes one that does".into())
            })?;
        let root_ends_s = root.not_after_s;
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key)?;
        Ok(Self { trust_domain, root_pem, root_ends_s, issuer })
    }

    /// Writes `root-cert.pem` and `ca-key.pem` (0600) into `dir`, which is made if need be.
    pub(crate) fn save(&self, dir: &Path, force: bool) -> Result<(), Error> {
        let (root_file, key_file) = (dir.join(ROOT_FILE), dir.join(ROOT_KEY_FILE));
        if !force && (root_file.exists() || key_file.exists()) {
            return Err(Error::Exists(dir.to_path_buf()));
        }
        make_dir(dir)?;
        put(&key_file, &self.issuer.key().serialize_pem(), SECRET)?;
        put(&root_file, &self.root_pem, PUBLIC)
    }

    /// Such as `cluster.local`.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The trust bundle, in PEM.
    #[cfg_attr(not(test), expect(dead_code, reason = "for programs that start several sidecars in one process"))]
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A certificate for `identity`, with a key of its own.
    pub(crate) fn issue(&self, identity: &Identity) -> Result<Issued, Error> {
        let id = SpiffeId::parse(&identity.spiffe)
            .filter(|id| !id.path.is_empty())
            .ok_or_else(|| Error::Spiffe(identity.spiffe.clone()))?;
        if id.trust_domain != self.trust_domain {
            return Err(Error::OtherTrustDomain {
                spiffe: identity.spiffe.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if identity.ttl < TTL_MIN || identity.ttl > TTL_MAX {
            return Err(Error::Ttl(identity.ttl));
        }
        let mut params = dated(identity.ttl);
        // A certificate that outlives its root would fail on the day nobody expects.
        if params.not_after.unix_timestamp() > self.root_ends_s {
            return Err(Error::Ttl(identity.ttl));
        }
        // No subject, as Istio: the identity is the URI name, which RFC 5280 then makes critical.
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(&identity.spiffe)?];
        for name in &identity.dns {
            let text = name.as_str().try_into().map_err(|_| Error::Dns(name.clone()))?;
            if !dns_name(name) {
                return Err(Error::Dns(name.clone()));
            }
            params.subject_alt_names.push(SanType::DnsName(text));
        }
        params.subject_alt_names.extend(identity.ips.iter().copied().map(SanType::IpAddress));
        let key = KeyPair::generate()?;
        let chain_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued {
            chain_pem,
            key_pem: key.serialize_pem(),
            root_pem: self.root_pem.clone(),
            not_after_s: params.not_after.unix_timestamp(),
        })
    }
}

fn dated(ttl: Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + ttl;
    params
}

fn organization(trust_domain: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain);
    name
}

fn uri(text: &str) -> Result<SanType, Error> {
    Ok(SanType::URI(text.try_into().map_err(|_| Error::Spiffe(text.to_owned()))?))
}

/// RFC 1123, section 2.1, with an underscore allowed, and `*` for the first label.
fn dns_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && rest.split('.').all(label)
}

fn file_error(file: &Path, error: &io::Error) -> Error {
    Error::File { file: file.to_path_buf(), reason: error.to_string() }
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|e| file_error(file, &e))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| file_error(dir, &e))
}

/// Whole or not at all, and never readable by others for a moment: the temporary file has its mode from the start.
fn put(file: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = (|| {
        let _ = fs::remove_file(&temporary);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, file)
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        file_error(file, &e)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use celerity_proxy::tls::{Identity as TlsIdentity, Source, Store};
    use celerity_testkit::TempDir;

    use super::*;

    fn orders() -> Identity {
        Identity::workload("cluster.local", "default", "orders")
    }

    #[test]
    fn what_is_issued_is_what_the_proxy_reads() {
        let dir = TempDir::new();
        let mut identity = orders();
        identity.dns = vec!["orders.default.svc".into()];
        identity.ips = vec!["127.0.1.1".parse().unwrap()];
        let issued = Authority::create("cluster.local").unwrap().issue(&identity).unwrap();
        issued.write(dir.path()).unwrap();
        let status = Store::open(Source::directory(dir.path())).unwrap().status();
        let subject = |pem: &str| {
            let identity =
                TlsIdentity::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), pem.as_bytes());
            identity.unwrap().leaf().unwrap().subject.clone()
        };
        assert_eq!(&*subject(&issued.root_pem), "", "a leaf with its issuer's name looks self-signed to OpenSSL");
        assert_eq!(status.spiffe.as_deref(), Some("spiffe://cluster.local/ns/default/sa/orders"));
        assert_eq!(status.not_after_s, Some(issued.not_after_s));
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "a temporary file was left");
    }

    #[test]
    fn an_authority_survives_on_disk_and_is_not_overwritten() {
        let dir = TempDir::new();
        let first = Authority::create("mesh.test").unwrap();
        first.save(dir.path(), false).unwrap();
        assert!(matches!(Authority::create("mesh.test").unwrap().save(dir.path(), false), Err(Error::Exists(_))));
        let again = Authority::load(dir.path()).unwrap();
        assert_eq!((again.trust_domain(), again.root_pem()), ("mesh.test", first.root_pem()));
        let issued = again.issue(&Identity::workload("mesh.test", "a", "b")).unwrap();
        TlsIdentity::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), first.root_pem().as_bytes())
            .unwrap();
        Authority::create("mesh.test").unwrap().save(dir.path(), true).unwrap();
        assert_ne!(Authority::load(dir.path()).unwrap().root_pem(), first.root_pem());
    }

    #[test]
    fn a_key_of_another_root_is_refused() {
        let (dir, other) = (TempDir::new(), TempDir::new());
        Authority::create("mesh.test").unwrap().save(dir.path(), false).unwrap();
        Authority::create("mesh.test").unwrap().save(other.path(), false).unwrap();
        fs::copy(other.path().join(ROOT_KEY_FILE), dir.path().join(ROOT_KEY_FILE)).unwrap();
        let error = Authority::load(dir.path()).err().unwrap();
        assert!(error.to_string().contains("is not the key"), "{error}");
    }

    #[test]
    fn what_should_not_be_signed_is_refused() {
        let authority = Authority::create("cluster.local").unwrap();
        let refused = |change: &dyn Fn(&mut Identity)| {
            let mut identity = orders();
            change(&mut identity);
            authority.issue(&identity).err().unwrap().to_string()
        };
        assert!(refused(&|i| i.spiffe = "spiffe://other/ns/a/sa/b".into()).contains("trust domain"));
        assert!(refused(&|i| i.spiffe = "spiffe://cluster.local".into()).contains("not a SPIFFE id"));
        assert!(refused(&|i| i.spiffe = "orders".into()).contains("not a SPIFFE id"));
        assert!(refused(&|i| i.dns = vec!["a b".into()]).contains("DNS name"));
        assert!(refused(&|i| i.ttl = Duration::from_secs(1)).contains("refused"));
        assert!(refused(&|i| i.ttl = Duration::from_secs(u32::MAX.into())).contains("refused"));
        for bad in ["", "UPPER", "a/b", "a:80"] {
            assert!(matches!(Authority::create(bad), Err(Error::TrustDomain(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn two_workloads_of_one_authority_can_talk() {
        use std::sync::Arc;

        use celerity_proxy::tls::{Acceptor, ClientPolicy, Connector, ServerPolicy};
        let authority = Authority::create("cluster.local").unwrap();
        let store = |name: &str| {
            let issued = authority.issue(&Identity::workload("cluster.local", "default", name)).unwrap();
            let (chain, key, root) = (&issued.chain_pem, &issued.key_pem, &issued.root_pem);
            Store::fixed(TlsIdentity::from_pem(chain.as_bytes(), key.as_bytes(), root.as_bytes()).unwrap()).unwrap()
        };
        let acceptor = Acceptor::new(store("users"), ServerPolicy::mesh("cluster.local")).unwrap();
        let connector = Connector::new(store("orders"), ClientPolicy::mesh("cluster.local", "users")).unwrap();
        let connector = Arc::new(connector);
        let (here, there) = tokio::io::duplex(64 << 10);
        let address: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (server, client) = tokio::join!(acceptor.accept(here), connector.connect(there, address));
        assert!(server.unwrap().peer.spiffe.unwrap().ends_with("/sa/orders"));
        assert!(client.unwrap().peer.spiffe.unwrap().ends_with("/sa/users"));
    }
}
