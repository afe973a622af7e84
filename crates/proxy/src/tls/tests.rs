//! Real handshakes in memory, with certificates made for each test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const ENDPOINT: &str = "127.0.0.1:9000";
const CHANNEL_BYTES: usize = 64 << 10;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue_with(&self, spiffe: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
        change(&mut params);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn identity(&self, spiffe: &str) -> Identity {
        let (chain, key) = self.issue_with(spiffe, |_| {});
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), self.0.pem().as_bytes()).unwrap()
    }

    fn store(&self, spiffe: &str) -> Arc<Store> {
        Store::fixed(self.identity(spiffe)).unwrap()
    }
}

const ORDERS: &str = "spiffe://cluster.local/ns/default/sa/orders";
const USERS: &str = "spiffe://cluster.local/ns/default/sa/users";

fn mesh_acceptor(store: &Arc<Store>) -> Acceptor {
    Acceptor::new(Arc::clone(store), ServerPolicy::mesh("cluster.local")).unwrap()
}

fn mesh_connector(store: &Arc<Store>) -> Connector {
    let mut policy = ClientPolicy::mesh("cluster.local", "outbound_.80_.v1_.users.default.svc.cluster.local");
    policy.alpn = vec![b"h2".to_vec()];
    Connector::new(Arc::clone(store), policy).unwrap()
}

type Ends = (Result<Accepted<DuplexStream>, HandshakeError>, Result<Connected<DuplexStream>, HandshakeError>);

/// One handshake, and a byte each way, so that the client sees an alert or a ticket.
async fn meet(acceptor: &Acceptor, connector: &Connector) -> Ends {
    let (here, there) = duplex(CHANNEL_BYTES);
    let endpoint: SocketAddr = ENDPOINT.parse().unwrap();
    let server = async {
        let mut accepted = acceptor.accept(here).await?;
        accepted.stream.write_all(b"s").await.unwrap();
        accepted.stream.flush().await.unwrap();
        Ok(accepted)
    };
    let client = async {
        let mut connected = connector.connect(there, endpoint).await?;
        let mut byte = [0];
        connected.stream.read_exact(&mut byte).await?;
        Ok(connected)
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(server, client) }).await.unwrap()
}

#[tokio::test]
async fn mutual_tls_tells_both_who_the_other_is() {
    let ca = Authority::new("root");
    let (server, client) = meet(&mesh_acceptor(&ca.store(USERS)), &mesh_connector(&ca.store(ORDERS))).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.peer.spiffe.as_deref(), Some(ORDERS));
    assert_eq!(client.peer.spiffe.as_deref(), Some(USERS));
    assert_eq!((server.peer.alpn, client.peer.alpn), (Alpn::H2, Alpn::H2));
    assert_eq!(server.peer.version, "TLSv1.3");
    assert_eq!(server.peer.cipher, "TLS13_AES_128_GCM_SHA256");
    assert_eq!(server.peer.sni.as_deref(), Some("outbound_.80_.v1_.users.default.svc.cluster.local"));
    assert!(!server.peer.resumed && !client.peer.resumed);
    assert_eq!(server.peer.certificate.unwrap().sha256_hex.len(), 64);
    assert!(client.duration > Duration::ZERO);
}

/// A certificate as `openssl req -x509` makes it: an authority's, signed by itself; and its key.
fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::DnsName("shop.test".try_into().unwrap())];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Both sides show a certificate of their own, and trust the certificate that `trusted` names of the other.
async fn meet_self_signed(change: fn(&mut CertificateParams), trusted: bool) -> Ends {
    let (ours, theirs) = (self_signed(change), self_signed(change));
    let stranger = self_signed(|_| {}).0;
    let store = |own: &(String, String), other: &str| {
        let other = if trusted { other } else { &stranger };
        Store::fixed(Identity::from_pem(own.0.as_bytes(), own.1.as_bytes(), other.as_bytes()).unwrap()).unwrap()
    };
    let server = ServerPolicy { client_auth: ClientAuth::Required(PeerRules::any()), ..ServerPolicy::default() };
    let client = ClientPolicy {
        sni: Some("shop.test".into()),
        verify_server_name: true,
        show_certificate: true,
        ..ClientPolicy::default()
    };
    let acceptor = Acceptor::new(store(&ours, &theirs.0), server).unwrap();
    meet(&acceptor, &Connector::new(store(&theirs, &ours.0), client).unwrap()).await
}

#[tokio::test]
async fn a_certificate_that_is_trusted_itself_needs_no_issuer() {
    let (server, client) = meet_self_signed(|_| {}, true).await;
    assert_eq!((server.map(drop).ok(), client.map(drop).ok()), (Some(()), Some(())));
    let client = meet_self_signed(|_| {}, false).await.1.unwrap_err();
    assert!(client.kind() == Kind::Untrusted && client.reason().contains("not itself one of the trusted"), "{client}");
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    let elsewhere = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("other.test".try_into().unwrap())];
    };
    let unfit = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    };
    for (change, kind, says) in [
        (expired as fn(&mut CertificateParams), Kind::Expired, "expired, at 2020-01-01"),
        (early, Kind::Expired, "not valid before 3000-01-01"),
        (elsewhere, Kind::WrongIdentity, "not for shop.test, but for"),
        (unfit, Kind::Untrusted, "extended key usage"),
    ] {
        let error = meet_self_signed(change, true).await.1.unwrap_err();
        assert!(error.kind() == kind && error.reason().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_trusted_certificate_of_another_mesh_is_refused_all_the_same() {
    let (chain, key) = self_signed(|params| {
        params.subject_alt_names = vec![SanType::URI("spiffe://elsewhere.test/ns/a/sa/b".try_into().unwrap())];
    });
    let client = Store::fixed(Identity::from_pem(chain.as_bytes(), key.as_bytes(), chain.as_bytes()).unwrap()).unwrap();
    let ca = Authority::new("root");
    let (own, own_key) = ca.issue_with(USERS, |_| {});
    let server = Identity::from_pem(own.as_bytes(), own_key.as_bytes(), chain.as_bytes()).unwrap();
    let mut blind = ClientPolicy::mesh("cluster.local", "users");
    blind.verify = None;
    let blind = Connector::new(client, blind).unwrap();
    let (server, _) = meet(&mesh_acceptor(&Store::fixed(server).unwrap()), &blind).await;
    assert_eq!(server.unwrap_err().kind(), Kind::WrongIdentity);
}

#[tokio::test]
async fn a_client_without_a_protocol_that_we_know_goes_on_without_one() {
    let ca = Authority::new("root");
    let acceptor = mesh_acceptor(&ca.store(USERS));
    for (offered, agreed) in
        [(&["istio", "istio-peer-exchange"][..], Alpn::None), (&["istio", "h2"], Alpn::H2), (&[], Alpn::None)]
    {
        let mut policy = ClientPolicy::mesh("cluster.local", "users");
        policy.alpn = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (server, client) = meet(&acceptor, &Connector::new(ca.store(ORDERS), policy).unwrap()).await;
        assert_eq!((server.unwrap().peer.alpn, client.unwrap().peer.alpn), (agreed.clone(), agreed), "{offered:?}");
    }
}

#[tokio::test]
async fn another_trust_domain_is_refused() {
    let ca = Authority::new("root");
    let stranger = ca.store("spiffe://elsewhere.test/ns/default/sa/orders");
    let (server, client) = meet(&mesh_acceptor(&ca.store(USERS)), &mesh_connector(&stranger)).await;
    let error = server.unwrap_err();
    assert_eq!((error.kind(), error.blame()), (Kind::WrongIdentity, Blame::Peer));
    assert!(error.reason().contains("elsewhere.test"), "{error}");
    assert_eq!(client.unwrap_err().kind(), Kind::RefusedByPeer);
}

#[tokio::test]
async fn another_authority_is_refused_by_either_side() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (_, client) = meet(&mesh_acceptor(&theirs.store(USERS)), &mesh_connector(&ours.store(ORDERS))).await;
    assert_eq!(client.unwrap_err().kind(), Kind::Untrusted);
    let mut blind = ClientPolicy::mesh("cluster.local", "users");
    blind.verify = None;
    let blind = Connector::new(theirs.store(ORDERS), blind).unwrap();
    let (server, _) = meet(&mesh_acceptor(&ours.store(USERS)), &blind).await;
    assert_eq!(server.unwrap_err().kind(), Kind::Untrusted);
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Authority::new("root");
    let (chain, key) = ca.issue_with(ORDERS, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let expired = Identity::from_pem(chain.as_bytes(), key.as_bytes(), ca.0.pem().as_bytes()).unwrap();
    let connector = mesh_connector(&Store::fixed(expired).unwrap());
    let (server, client) = meet(&mesh_acceptor(&ca.store(USERS)), &connector).await;
    assert_eq!(server.unwrap_err().kind(), Kind::Expired);
    assert!(client.is_err());
}

#[tokio::test]
async fn without_a_certificate_strict_refuses_and_optional_does_not() {
    let ca = Authority::new("root");
    let mut policy = ClientPolicy::mesh("cluster.local", "users");
    policy.show_certificate = false;
    let bare = Connector::new(ca.store(ORDERS), policy).unwrap();
    let users = ca.store(USERS);
    let (server, client) = meet(&mesh_acceptor(&users), &bare).await;
    assert_eq!(server.unwrap_err().kind(), Kind::NoCertificate);
    assert!(client.is_err());
    let optional =
        ServerPolicy { client_auth: ClientAuth::Optional(PeerRules::mesh("cluster.local")), ..ServerPolicy::default() };
    let (server, _) = meet(&Acceptor::new(users, optional).unwrap(), &bare).await;
    assert_eq!(server.unwrap().peer.spiffe, None);
}

#[tokio::test]
async fn the_client_wants_one_of_the_accepted_names() {
    let ca = Authority::new("root");
    let acceptor = mesh_acceptor(&ca.store(USERS));
    let wants = |name: &str| {
        let mut policy = ClientPolicy::mesh("cluster.local", "users");
        policy.verify = Some(PeerRules::any().with_sans([name]));
        Connector::new(ca.store(ORDERS), policy).unwrap()
    };
    assert!(meet(&acceptor, &wants(USERS)).await.1.is_ok());
    let error = meet(&acceptor, &wants(ORDERS)).await.1.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongIdentity);
    assert!(error.reason().contains(USERS), "{error}");
}

#[tokio::test]
async fn the_server_name_is_verified_when_asked() {
    let ca = Authority::new("root");
    let (chain, key) = ca.issue_with(USERS, |params| {
        params.subject_alt_names.push(SanType::DnsName("users.test".try_into().unwrap()));
    });
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes(), ca.0.pem().as_bytes()).unwrap();
    let acceptor = Acceptor::new(Store::fixed(identity).unwrap(), ServerPolicy::default()).unwrap();
    let simple = |sni: &str| {
        let policy = ClientPolicy { sni: Some(sni.into()), verify_server_name: true, ..ClientPolicy::default() };
        let trust = Source::trust_only(Roots::Pem(Piece::inline(ca.0.pem())));
        Connector::new(Store::open(trust).unwrap(), policy).unwrap()
    };
    assert!(meet(&acceptor, &simple("users.test")).await.1.is_ok());
    assert_eq!(meet(&acceptor, &simple("other.test")).await.1.unwrap_err().kind(), Kind::WrongIdentity);
}

#[tokio::test]
async fn a_session_is_resumed_and_the_identity_stands() {
    let ca = Authority::new("root");
    let (users, orders) = (ca.store(USERS), ca.store(ORDERS));
    let connector = mesh_connector(&orders);
    let first = meet(&mesh_acceptor(&users), &connector).await;
    assert!(!first.0.unwrap().peer.resumed);
    // Another acceptor on the same store, as another worker or the next configuration has: the ticket is good there too.
    let (server, client) = meet(&mesh_acceptor(&users), &connector).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert!(server.peer.resumed && client.peer.resumed);
    assert_eq!(server.peer.spiffe.as_deref(), Some(ORDERS));
    assert_eq!(client.peer.spiffe.as_deref(), Some(USERS));
}

#[tokio::test]
async fn a_resumed_session_is_checked_against_the_rules_of_today() {
    let ca = Authority::new("root");
    let (users, connector) = (ca.store(USERS), mesh_connector(&ca.store(ORDERS)));
    meet(&mesh_acceptor(&users), &connector).await.0.unwrap();
    let mut policy = ServerPolicy::mesh("cluster.local");
    policy.client_auth = ClientAuth::Required(PeerRules::mesh("cluster.local").with_sans([USERS]));
    let stricter = Acceptor::new(Arc::clone(&users), policy).unwrap();
    let error = meet(&stricter, &connector).await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongIdentity);
}

#[tokio::test]
async fn a_ticket_from_where_no_certificate_was_asked_opens_no_strict_door() {
    let ca = Authority::new("root");
    let users = ca.store(USERS);
    let open = Acceptor::new(Arc::clone(&users), ServerPolicy::default()).unwrap();
    let connector = mesh_connector(&ca.store(ORDERS));
    meet(&open, &connector).await.0.unwrap();
    let error = meet(&mesh_acceptor(&users), &connector).await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::NoCertificate);
}

#[tokio::test]
async fn after_the_trust_bundle_changed_no_old_session_is_resumed() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let users = old.store(USERS);
    let acceptor = mesh_acceptor(&users);
    let connector = mesh_connector(&old.store(ORDERS));
    meet(&acceptor, &connector).await.0.unwrap();
    assert!(meet(&acceptor, &connector).await.0.unwrap().peer.resumed);
    // The server still shows what the client trusts, but trusts only the new authority itself.
    let (chain, key) = old.issue_with(USERS, |_| {});
    let changed = Identity::from_pem(chain.as_bytes(), key.as_bytes(), new.0.pem().as_bytes()).unwrap();
    assert_eq!(users.replace(changed), Ok(Reloaded::Swapped { trust_changed: true }));
    let error = meet(&acceptor, &connector).await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Untrusted);
}

#[tokio::test]
async fn a_client_with_a_new_certificate_does_not_resume_as_its_old_self() {
    let ca = Authority::new("root");
    let (acceptor, orders) = (mesh_acceptor(&ca.store(USERS)), ca.store(ORDERS));
    let connector = mesh_connector(&orders);
    meet(&acceptor, &connector).await.0.unwrap();
    let renamed = "spiffe://cluster.local/ns/default/sa/renamed";
    assert_eq!(orders.replace(ca.identity(renamed)), Ok(Reloaded::Swapped { trust_changed: false }));
    let peer = meet(&acceptor, &connector).await.0.unwrap().peer;
    assert_eq!((peer.resumed, peer.spiffe.as_deref()), (false, Some(renamed)));
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let ca = Authority::new("root");
    let serial = SerialNumber::from(77_u64);
    let (chain, key) = ca.issue_with(USERS, |params| params.serial_number = Some(serial.clone()));
    let revoked = Identity::from_pem(chain.as_bytes(), key.as_bytes(), ca.0.pem().as_bytes()).unwrap();
    let crl = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial,
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(&ca.0)
    .unwrap()
    .pem()
    .unwrap();
    let trust = Source { roots: Roots::Pem(Piece::inline(ca.0.pem())), crl: Some(Piece::inline(crl)), identity: None };
    let policy = ClientPolicy { sni: Some("users".into()), ..ClientPolicy::default() };
    let connector = Connector::new(Store::open(trust).unwrap(), policy).unwrap();
    let simple = |store| Acceptor::new(store, ServerPolicy::default()).unwrap();
    let (_, client) = meet(&simple(Store::fixed(revoked).unwrap()), &connector).await;
    assert_eq!(client.unwrap_err().kind(), Kind::Revoked);
    assert!(meet(&simple(ca.store(USERS)), &connector).await.1.is_ok());
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("celerity-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, ca: &Authority, spiffe: &str) {
        let (chain, key) = ca.issue_with(spiffe, |_| {});
        for (name, text) in [("cert-chain.pem", chain), ("key.pem", key), ("root-cert.pem", ca.0.pem())] {
            std::fs::write(self.0.join("new"), text).unwrap();
            std::fs::rename(self.0.join("new"), self.0.join(name)).unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn rotated_files_act_on_new_connections_and_leave_the_old_alone() {
    let ca = Authority::new("root");
    let folder = Folder::new("rotate");
    folder.write(&ca, USERS);
    let store = Store::open(Source::directory(&folder.0)).unwrap();
    let (acceptor, connector) = (mesh_acceptor(&store), mesh_connector(&ca.store(ORDERS)));
    let (mut old_server, mut old_client) = match meet(&acceptor, &connector).await {
        (Ok(server), Ok(client)) => (server.stream, client.stream),
        other => panic!("{other:?}"),
    };
    assert_eq!(store.poll(), Ok(Reloaded::Unchanged));

    let renewed = "spiffe://cluster.local/ns/default/sa/renewed";
    folder.write(&ca, renewed);
    assert_eq!(store.poll(), Ok(Reloaded::Swapped { trust_changed: false }));
    assert_eq!(store.status().generation, 2);
    let fresh = mesh_connector(&ca.store(ORDERS));
    assert_eq!(meet(&acceptor, &fresh).await.1.unwrap().peer.spiffe.as_deref(), Some(renewed));

    old_client.write_all(b"still here").await.unwrap();
    old_client.flush().await.unwrap();
    let mut text = [0; 10];
    old_server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");
}

#[tokio::test]
async fn a_broken_file_leaves_the_old_one_in_use_and_is_named() {
    let ca = Authority::new("root");
    let folder = Folder::new("broken");
    folder.write(&ca, USERS);
    let store = Store::open(Source::directory(&folder.0)).unwrap();
    let (_, other_key) = ca.issue_with(USERS, |_| {});
    std::fs::write(folder.0.join("key.pem"), other_key).unwrap();
    let error = store.poll().unwrap_err();
    assert!(error.file.ends_with("key.pem") && error.reason.contains("not the key"), "{error}");
    assert_eq!(store.status().last_error, Some(error));
    assert_eq!(store.status().generation, 1);
    let (server, _) = meet(&mesh_acceptor(&store), &mesh_connector(&ca.store(ORDERS))).await;
    assert!(server.is_ok());
    std::fs::remove_file(folder.0.join("root-cert.pem")).unwrap();
    assert!(store.poll().unwrap_err().file.ends_with(".pem"));
    folder.write(&ca, USERS);
    assert!(matches!(store.poll(), Ok(Reloaded::Swapped { .. })));
    assert_eq!(store.status().last_error, None);
}

#[test]
fn files_that_cannot_be_used_are_refused_with_the_reason() {
    let ca = Authority::new("root");
    let (chain, key) = ca.issue_with(USERS, |_| {});
    let root = ca.0.pem();
    let why = |chain: &str, key: &str, root: &str| {
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), root.as_bytes()).unwrap_err().to_string()
    };
    assert!(why("", &key, &root).contains("no certificate"));
    assert!(why(&chain, "", &root).contains("no private key"));
    assert!(why(&chain, &key, "").contains("no certificate"));
    let missing = Store::open(Source::directory(&PathBuf::from("/nowhere"))).err().unwrap();
    assert!(missing.file.starts_with("/nowhere/"), "{missing}");
    let (expired, key) = ca.issue_with(USERS, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let source = Source {
        identity: Some(super::KeyPair { chain: Piece::inline(expired), key: Piece::inline(key) }),
        ..Source::trust_only(Roots::Pem(Piece::inline(root)))
    };
    assert!(Store::open(source).err().unwrap().reason.contains("expired"));
}

#[test]
fn keys_do_not_reach_the_log() {
    let ca = Authority::new("root");
    let (_, key) = ca.issue_with(USERS, |_| {});
    let source = Source {
        identity: Some(super::KeyPair { chain: Piece::inline(""), key: Piece::inline(&key) }),
        ..Source::default()
    };
    assert!(!format!("{source:?}").contains("PRIVATE"));
    assert!(!format!("{:?}", ca.identity(USERS)).contains("PRIVATE"));
}

#[tokio::test]
async fn permissive_ports_tell_tls_from_plaintext() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let look = async |first: &[u8], wait: Duration| {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(first).await.unwrap();
        let seen = sniff(&server, wait).await.unwrap();
        let mut again = vec![0; first.len()];
        server.read_exact(&mut again).await.unwrap();
        assert_eq!(again, first, "sniffing consumed something");
        seen
    };
    let long = Duration::from_secs(10);
    assert_eq!(look(&[0x16, 0x03, 0x01, 0x00], long).await, Sniffed::Tls);
    assert_eq!(look(b"GET / HTTP/1.1\r\n", long).await, Sniffed::Plain);
    assert_eq!(look(b"PRI * HTTP/2.0\r\n", long).await, Sniffed::Plain);
    assert_eq!(look(&[0x16, 0x02], long).await, Sniffed::Plain);
    assert_eq!(look(&[], Duration::from_millis(5)).await, Sniffed::Silent);
    assert_eq!(look(&[0x16], Duration::from_millis(5)).await, Sniffed::Plain);

    let client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    drop(client);
    assert_eq!(sniff(&server, long).await.unwrap(), Sniffed::Closed);
}

#[tokio::test]
async fn a_silent_client_is_given_up_and_garbage_is_its_own_fault() {
    let ca = Authority::new("root");
    let mut policy = ServerPolicy::mesh("cluster.local");
    policy.handshake_timeout = Duration::from_millis(5);
    let acceptor = Acceptor::new(ca.store(USERS), policy).unwrap();
    let (here, there) = duplex(CHANNEL_BYTES);
    assert_eq!(acceptor.accept(here).await.unwrap_err().kind(), Kind::TimedOut);
    drop(there);

    let acceptor = mesh_acceptor(&ca.store(USERS));
    let (here, mut there) = duplex(CHANNEL_BYTES);
    there.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = acceptor.accept(here).await.unwrap_err();
    assert_eq!((error.kind(), error.blame()), (Kind::Protocol, Blame::Peer));
    let (here, there) = duplex(CHANNEL_BYTES);
    drop(there);
    assert_eq!(acceptor.accept(here).await.unwrap_err().kind(), Kind::Closed);
}

#[test]
fn settings_that_cannot_work_are_refused_before_the_first_connection() {
    let ca = Authority::new("root");
    let nothing = Store::open(Source::default()).unwrap();
    let error = Acceptor::new(Arc::clone(&nothing), ServerPolicy::default()).err().unwrap();
    assert_eq!((error.kind(), error.blame()), (Kind::Settings, Blame::Us));
    assert!(Acceptor::new(Arc::clone(&nothing), ServerPolicy::mesh("cluster.local")).is_err());
    assert!(Connector::new(Arc::clone(&nothing), ClientPolicy::default()).is_err());
    assert!(Connector::new(nothing, ClientPolicy { verify: None, ..ClientPolicy::default() }).is_ok());
    assert!(Connector::new(ca.store(ORDERS), ClientPolicy::mesh("cluster.local", "not a name")).is_err());
}

#[test]
fn snapshot_settings_become_acceptors_and_connectors() {
    use celerity_model::snapshot as model;
    let ca = Authority::new("root");
    let (chain, key) = ca.issue_with(ORDERS, |_| {});
    let workload = Source {
        identity: Some(super::KeyPair { chain: Piece::inline(chain), key: Piece::inline(key) }),
        ..Source::trust_only(Roots::Pem(Piece::inline(ca.0.pem())))
    };
    let mesh = model::UpstreamTls {
        sni: Some("outbound_.80_._.users".into()),
        identity: Some(model::CertificateSource::Secret("default".into())),
        validation: model::Validation {
            trust: Some(model::TrustSource::Secret("ROOTCA".into())),
            ..model::Validation::default()
        },
        ..model::UpstreamTls::default()
    };
    let secrets = Secrets::new(Some(workload));
    assert!(secrets.connector(&mesh).is_ok());
    assert!(matches!(Secrets::new(None).connector(&mesh), Err(SetupError::NoIdentity)));
    let unknown = model::UpstreamTls {
        identity: Some(model::CertificateSource::Secret("kubernetes://gateway".into())),
        ..mesh.clone()
    };
    assert!(matches!(secrets.connector(&unknown), Err(SetupError::UnknownSecret(_))));
    let names_only = model::UpstreamTls {
        validation: model::Validation {
            subject_alt_names: Box::new([model::SanMatcher {
                kind: model::SanKind::Any,
                value: model::SanPattern::Exact(USERS.into()),
            }]),
            ..model::Validation::default()
        },
        ..mesh.clone()
    };
    assert!(matches!(secrets.connector(&names_only), Err(SetupError::NamesWithoutTrust)));
    let server = model::DownstreamTls {
        identity: model::CertificateSource::Secret("default".into()),
        alpn: Box::new(["h2".into()]),
        require_client_certificate: true,
        validation: Some(mesh.validation.clone()),
    };
    let one = secrets.acceptor(&server).unwrap();
    let _two = secrets.acceptor(&server).unwrap();
    assert_eq!(secrets.in_use().len(), 1, "equal sources share one store");
    assert_eq!(one.own_spiffe().as_deref(), Some(ORDERS));
}

#[test]
fn futures_of_handshakes_stay_small_in_a_connections_task() {
    let ca = Authority::new("root");
    let (acceptor, connector) = (mesh_acceptor(&ca.store(USERS)), mesh_connector(&ca.store(ORDERS)));
    let (here, there) = duplex(CHANNEL_BYTES);
    let endpoint: SocketAddr = ENDPOINT.parse().unwrap();
    let accept = size_of_val(&acceptor.accept(here));
    let connect = size_of_val(&connector.connect(there, endpoint));
    assert!(accept <= 3 << 10 && connect <= 3 << 10, "accept {accept}, connect {connect} bytes");
}
