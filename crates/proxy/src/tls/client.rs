use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{HandshakeError, Kind};
use super::material::Identity;
use super::peer::Peer;
use super::provider::provider;
use super::resumption::{EndpointSessions, Sessions};
use super::rules::PeerRules;
use super::server::{HANDSHAKE_TIMEOUT, VERSIONS};
use super::store::{Material, Store};
use super::verify::ServerCheck;

/// The client's side of TLS to one upstream: SIMPLE, MUTUAL and ISTIO_MUTUAL differ in these settings only.
#[derive(Clone, Debug)]
pub struct ClientPolicy {
    /// The server name to ask for. `None`: none is sent.
    pub sni: Option<Box<str>>,
    /// [`Target::authority`] is asked for instead, where there is one (Envoy `auto_sni`).
    pub auto_sni: bool,
    /// Who the server must be. `None`: its certificate is not checked at all (`insecureSkipVerify`).
    pub verify: Option<PeerRules>,
    /// The certificate must also be good for the server name (Envoy `auto_san_validation`).
    pub verify_server_name: bool,
    /// Shows the store's certificate (MUTUAL, ISTIO_MUTUAL).
    pub show_certificate: bool,
    /// Application protocols by preference; empty: none is offered.
    pub alpn: Vec<Vec<u8>>,
    /// For the handshake alone; the connect time-out of a cluster covers it too.
    pub handshake_timeout: Duration,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self {
            sni: None,
            auto_sni: false,
            verify: Some(PeerRules::any()),
            verify_server_name: false,
            show_certificate: false,
            alpn: Vec::new(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }
}

impl ClientPolicy {
    /// Mutual TLS of a mesh: shows our SPIFFE id and wants one of `trust_domain`.
    #[must_use]
    pub fn mesh(trust_domain: &str, sni: &str) -> Self {
        Self {
            sni: Some(sni.into()),
            verify: Some(PeerRules::mesh(trust_domain)),
            show_certificate: true,
            ..Self::default()
        }
    }
}

impl ClientPolicy {
    fn server_name<'a>(&'a self, target: &Target<'a>) -> Option<&'a str> {
        let authority = if self.auto_sni { target.authority } else { None };
        authority.or(self.sni.as_deref())
    }
}

/// Whom a connection goes to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The endpoint. Sessions are remembered by it.
    pub address: SocketAddr,
    /// The request's authority without its port, where the server name follows it (Envoy `auto_sni`).
    pub authority: Option<&'a str>,
    /// HTTP/1.1 is offered and HTTP/2 is not, where the policy offers anything.
    pub http1: bool,
}

impl From<SocketAddr> for Target<'_> {
    fn from(address: SocketAddr) -> Self {
        Self { address, authority: None, http1: false }
    }
}

/// Does the client's side of handshakes with one upstream, always with the newest certificates of its store. Shared by all
/// workers, and so are the sessions that it can resume.
pub struct Connector {
    store: Arc<Store>,
    policy: ClientPolicy,
    built: ArcSwapOption<Built>,
}

struct Built {
    generation: u64,
    config: ClientConfig,
    check: Arc<ServerCheck>,
    /// Belongs to one generation: a session begun with our old certificate is not resumed when we have a new one.
    sessions: Arc<Sessions>,
}

/// A connection whose handshake is over.
#[derive(Debug)]
pub struct Connected<IO> {
    /// Plaintext goes in and out here.
    pub stream: TlsStream<IO>,
    /// Who the server is.
    pub peer: Peer,
    /// How long the handshake took, waiting for the server included.
    pub duration: Duration,
}

impl Connector {
    /// # Errors
    /// The store lacks what the policy needs, or the policy contradicts itself.
    pub fn new(store: Arc<Store>, policy: ClientPolicy) -> Result<Self, HandshakeError> {
        // What a handshake needs is built at the first one: of 4,000 upstreams most see none, and each would hold kilobytes.
        sufficient(&store.material().identity, &policy)?;
        if let Some(sni) = policy.sni.as_deref() {
            server_name(sni)?;
        }
        Ok(Self { built: ArcSwapOption::empty(), store, policy })
    }

    /// Does the handshake on a fresh connection to `target`.
    ///
    /// # Errors
    /// It failed, or the server is not who it should be. Nothing of a request was sent.
    pub async fn connect<'a, IO>(&self, io: IO, target: impl Into<Target<'a>>) -> Result<Connected<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let began = Instant::now();
        let target = target.into();
        let built = self.newest()?;
        // The clone is a dozen reference counts, against the 200 microseconds of a handshake.
        let mut config = built.config.clone();
        config.resumption = Resumption::store(Arc::new(EndpointSessions {
            sessions: Arc::clone(&built.sessions),
            endpoint: target.address,
        }))
        .tls12_resumption(Tls12Resumption::SessionIdOrTickets);
        if target.http1 && !config.alpn_protocols.is_empty() {
            config.alpn_protocols.retain(|name| !name.ends_with(b"h2"));
            if !config.alpn_protocols.iter().any(|name| name == b"http/1.1") {
                config.alpn_protocols.push(b"http/1.1".to_vec());
            }
        }
        let name = match self.policy.server_name(&target) {
            Some(name) => server_name(name)?,
            None => {
                config.enable_sni = false;
                ServerName::IpAddress(target.address.ip().into())
            }
        };
        let limit = self.policy.handshake_timeout;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name.clone(), io);
        // Boxed: a handshake is kilobytes of state, which a connection's task would carry for its whole life.
        let stream =
            Box::pin(tokio::time::timeout(limit, handshake)).await.map_err(|_| HandshakeError::timed_out(limit))??;
        let (_, connection) = stream.get_ref();
        let cipher = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let peer = Peer::of(connection, cipher)?;
        if peer.resumed {
            built.check.recheck(connection.peer_certificates(), &name, UnixTime::now())?;
        }
        Ok(Connected { peer, duration: began.elapsed(), stream })
    }

    fn newest(&self) -> Result<Arc<Built>, HandshakeError> {
        let material = self.store.material();
        if let Some(built) = &*self.built.load()
            && built.generation == material.generation
        {
            return Ok(Arc::clone(built));
        }
        let built = Arc::new(build(&material, &self.policy)?);
        self.built.store(Some(Arc::clone(&built)));
        Ok(built)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, HandshakeError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| HandshakeError::new(Kind::Settings, format!("{name:?} cannot be sent as a server name (SNI)")))
}

fn sufficient(identity: &Identity, policy: &ClientPolicy) -> Result<(), HandshakeError> {
    let lacks = |what: &str| Err(HandshakeError::new(Kind::Settings, what));
    if policy.verify.is_some() && identity.roots.is_none() {
        return lacks("the server's certificate is to be verified, but there is no trust bundle");
    }
    if policy.show_certificate && identity.certified.is_none() {
        return lacks("mutual TLS needs a certificate and key of our own, and none is configured");
    }
    Ok(())
}

fn build(material: &Material, policy: &ClientPolicy) -> Result<Built, HandshakeError> {
    let settings = |reason: String| HandshakeError::new(Kind::Settings, reason);
    let identity = &material.identity;
    let check = Arc::new(match &policy.verify {
        None => ServerCheck::insecure(),
        Some(rules) => ServerCheck::new(identity, rules.clone(), policy.verify_server_name).map_err(settings)?,
    });
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&check) as _);
    let mut config = if policy.show_certificate {
        let certified = identity.certified.clone().ok_or_else(|| {
            settings("mutual TLS needs a certificate and key of our own, and none is configured".into())
        })?;
        builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols.clone_from(&policy.alpn);
    Ok(Built { generation: material.generation, config, check, sessions: Arc::default() })
}

#[cfg(test)]
mod tests {
    use super::server_name;

    /// What the reader of the configuration lets through must not fail here: the whole configuration would be refused.
    #[test]
    fn a_name_is_sendable_where_the_library_takes_it() {
        let long = ["a"; 127].join(".");
        let longer = format!("{long}.b");
        let label = "a".repeat(64);
        let names = "a a. a.b-c a_b _ - -a a- a.-b a..b .a . * *.a a.* 1 a.1 1.a 1.2.3.4 1.2.3 0 a.0 0x a.0x1f a.0x1g 0x1f.a ::1 [::1] A.B a:80";
        for name in names.split(' ').chain(["", "a b", "\u{e9}", &long, &longer, &label, &label[1..]]) {
            assert_eq!(celerity_model::server_name::is_sendable(name), server_name(name).is_ok(), "{name:?}");
        }
    }
}
