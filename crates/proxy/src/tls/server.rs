use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::error::{HandshakeError, Kind};
use super::material::Identity;
use super::peer::Peer;
use super::provider::provider;
use super::rules::PeerRules;
use super::store::{Material, Store};
use super::verify::ClientCheck;

/// Newest first; nothing older than TLS 1.2 (RFC 8996).
pub(super) const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// Envoy's and Istio's bound on a handshake (`transport_socket_connect_timeout` of Istio's sidecars).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Tickets after a full TLS 1.3 handshake. A ticket is used once, so two let a client open two connections cheaply; each
/// costs a kilobyte and a few microseconds, which is why there are not more.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// Whether a client must show a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// It is not asked for one (SIMPLE).
    #[default]
    None,
    /// It may. One that it shows must be good.
    Optional(PeerRules),
    /// It must: mutual TLS.
    Required(PeerRules),
}

/// The server's side of one filter chain.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// Who may connect.
    pub client_auth: ClientAuth,
    /// Application protocols by preference; empty: none is negotiated.
    pub alpn: Vec<Vec<u8>>,
    /// From the first byte of the connection to the end of the handshake.
    pub handshake_timeout: Duration,
}

impl ServerPolicy {
    /// Mutual TLS of a mesh: clients of `trust_domain` only, HTTP/2 preferred.
    #[must_use]
    pub fn mesh(trust_domain: &str) -> Self {
        Self {
            client_auth: ClientAuth::Required(PeerRules::mesh(trust_domain)),
            alpn: ["h2", "istio-http/1.1", "http/1.1"].map(Into::into).to_vec(),
            ..Self::default()
        }
    }
}

impl Default for ServerPolicy {
    fn default() -> Self {
        Self {
            client_auth: ClientAuth::None,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }
}

/// Does the server's side of handshakes, always with the newest certificates of its store. Shared by all workers.
pub struct Acceptor {
    store: Arc<Store>,
    policy: ServerPolicy,
    built: ArcSwapOption<Built>,
}

struct Built {
    generation: u64,
    config: Arc<ServerConfig>,
    check: Option<Arc<ClientCheck>>,
}

/// A connection whose handshake is over.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// Plaintext goes in and out here.
    pub stream: TlsStream<IO>,
    /// Who the client is.
    pub peer: Peer,
    /// How long the handshake took, waiting for the client included.
    pub duration: Duration,
}

/// A connection whose ClientHello was read, and nothing answered yet: enough to choose a filter chain.
pub struct Hello<IO> {
    // Boxed: with the ClientHello it is kilobytes, which a connection's task would carry for its whole life.
    start: Box<StartHandshake<IO>>,
    began: Instant,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Hello<IO> {
    /// Reads the ClientHello, within `timeout`.
    ///
    /// # Errors
    /// It did not come, or is not one.
    pub async fn read(io: IO, timeout: Duration) -> Result<Self, HandshakeError> {
        let began = Instant::now();
        let lazy = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
        let start = Box::pin(within(timeout, lazy)).await??;
        Ok(Self { start: Box::new(start), began })
    }

    /// The server name that the client asks for.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        self.start.client_hello().server_name().map(str::to_owned)
    }

    /// The application protocols that the client offers.
    #[must_use]
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        let hello = self.start.client_hello();
        hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect()
    }
}

impl Acceptor {
    /// # Errors
    /// The store lacks what the policy needs: a certificate, or a trust bundle to check clients with.
    pub fn new(store: Arc<Store>, policy: ServerPolicy) -> Result<Self, HandshakeError> {
        let first = build(&store.material(), &policy)?;
        Ok(Self { built: ArcSwapOption::from_pointee(first), store, policy })
    }

    /// Our own SPIFFE id: `By` of `x-forwarded-client-cert`.
    #[must_use]
    pub fn own_spiffe(&self) -> Option<Arc<str>> {
        let material = self.store.material();
        material.identity.leaf.as_ref().and_then(|leaf| leaf.spiffe.clone())
    }

    /// The bound on a handshake, for [`Hello::read`].
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        self.policy.handshake_timeout
    }

    /// Does the handshake on a fresh connection.
    ///
    /// # Errors
    /// It failed, or the client may not connect. The connection is gone; a refusal was sent as an alert where TLS still
    /// allows one.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_hello(Hello::read(io, self.policy.handshake_timeout).await?).await
    }

    /// Goes on after [`Hello::read`]. The time-out still counts from there.
    ///
    /// # Errors
    /// As [`Acceptor::accept`].
    pub async fn accept_hello<IO>(&self, hello: Hello<IO>) -> Result<Accepted<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let built = self.newest()?;
        let left = self.policy.handshake_timeout.saturating_sub(hello.began.elapsed());
        let config = self.config_for(&built, &hello.start.client_hello());
        let stream = Box::pin(within(left, hello.start.into_stream(config))).await??;
        let (_, connection) = stream.get_ref();
        let cipher = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let mut peer = Peer::of(connection, cipher)?;
        peer.sni = connection.server_name().map(Arc::from);
        if peer.resumed
            && let Some(check) = &built.check
        {
            check.recheck(connection.peer_certificates(), UnixTime::now())?;
        }
        Ok(Accepted { peer, duration: hello.began.elapsed(), stream })
    }

    /// A client whose application protocols are all unknown here goes on without one, as with Envoy: Istio's clients offer
    /// `istio` where they know nothing of the protocol. RFC 7301, section 3.2 would refuse it.
    fn config_for(&self, built: &Built, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let mut offered = hello.alpn().into_iter().flatten().peekable();
        if offered.peek().is_none() || offered.any(|name| self.policy.alpn.iter().any(|own| own == name)) {
            return Arc::clone(&built.config);
        }
        let mut config = (*built.config).clone();
        config.alpn_protocols.clear();
        Arc::new(config)
    }

    fn newest(&self) -> Result<Arc<Built>, HandshakeError> {
        let material = self.store.material();
        if let Some(built) = &*self.built.load()
            && built.generation == material.generation
        {
            return Ok(Arc::clone(built));
        }
        // Two workers may both build; either result is right, and it happens once per rotation.
        let built = Arc::new(build(&material, &self.policy)?);
        self.built.store(Some(Arc::clone(&built)));
        Ok(built)
    }
}

async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, HandshakeError> {
    tokio::time::timeout(limit, work).await.map_err(|_| HandshakeError::timed_out(limit))
}

fn build(material: &Material, policy: &ServerPolicy) -> Result<Built, HandshakeError> {
    let identity: &Identity = &material.identity;
    let settings = |reason: String| HandshakeError::new(Kind::Settings, reason);
    let check = match &policy.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(rules) => Some(ClientCheck::new(identity, rules.clone(), false).map_err(settings)?),
        ClientAuth::Required(rules) => Some(ClientCheck::new(identity, rules.clone(), true).map_err(settings)?),
    }
    .map(Arc::new);
    let certified = identity.certified.clone().ok_or_else(|| {
        settings("the server's side of TLS needs a certificate and key, and none is configured".into())
    })?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?;
    let builder = match &check {
        None => builder.with_no_client_auth(),
        Some(check) => builder.with_client_cert_verifier(Arc::clone(check) as _),
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols.clone_from(&policy.alpn);
    // Stateless: a ticket made by one worker is good at every other, and the server remembers nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(&material.tickets);
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    config.ignore_client_order = true;
    Ok(Built { generation: material.generation, config: Arc::new(config), check })
}
