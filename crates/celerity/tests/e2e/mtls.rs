//! Two sidecars with mutual TLS between them, with certificates that `celerity ca` issued.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use celerity_testkit::raw::exchange;
use celerity_testkit::{Client, TempDir, Upstream, free_port, peer, process};

use crate::support::{BINARY, Sidecar, documents, eventually, loopback};

/// An authority in a folder, and identities from it.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new();
        process::run(Command::new(BINARY).args(["ca", "init", "--dir"]).arg(folder.path().join("ca")));
        Self { folder }
    }

    pub(crate) fn issue(&self, account: &str) -> PathBuf {
        let out = self.folder.path().join(account);
        let mut command = Command::new(BINARY);
        command.args(["ca", "issue", "--service-account", account, "--dir"]).arg(self.folder.path().join("ca"));
        process::run(command.arg("--out").arg(&out));
        out
    }
}

/// user-service: callers connect to a sidecar's inbound port; behind it stands the application.
pub(crate) fn mesh(inbound: SocketAddr, application: &Upstream, mode: &str) -> String {
    mesh_of(inbound, application.address(), mode, "HTTP")
}

/// As `mesh`, with the protocol of the port as Istio names it.
pub(crate) fn mesh_of(inbound: SocketAddr, application: SocketAddr, mode: &str, protocol: &str) -> String {
    let service = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: user-service, namespace: default}}\nspec:\n  \
         hosts: [user-service.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, \
         number: 80, protocol: {protocol}, targetPort: {}}}]\n  workloadSelector: {{labels: {{app: user-service}}}}",
        application.port()
    );
    let workload = format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: user-1, namespace: default}}\nspec:\n  \
         address: {}\n  ports: {{http: {}}}\n  labels: {{app: user-service, version: v1, security.istio.io/tlsMode: istio}}\n  \
         serviceAccount: user-service",
        inbound.ip(),
        inbound.port()
    );
    let policy = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: default}}\nspec:\n  \
         mtls: {{mode: {mode}}}"
    );
    documents(&[&service, &workload, &policy])
}

/// The sidecar in front of user-service.
pub(crate) fn server(yaml: &str, inbound: SocketAddr, identity: &Path) -> Sidecar {
    let identity = identity.display().to_string();
    Sidecar::start_with(
        yaml,
        &[
            "--inbound",
            &inbound.to_string(),
            "--identity",
            &identity,
            "--labels",
            "app=user-service,version=v1",
            "--workload",
            "user-1",
        ],
    )
}

pub(crate) fn caller(yaml: &str, identity: &Path) -> Sidecar {
    let identity = identity.display().to_string();
    Sidecar::start_with(yaml, &["--inbound", "off", "--identity", &identity, "--workload", "order-1"])
}

#[test]
fn two_sidecars_carry_requests_over_mutual_tls() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));

    let mut client = caller.client();
    for size in [0, 1024, 65_536, 1_000_000] {
        assert_eq!(client.get("user-service", &format!("/bytes/{size}")).expect("an answer").body.len(), size);
    }
    let chunked = client.get("user-service", "/chunked/100").expect("an answer");
    assert_eq!((chunked.body.len(), chunked.trailers.len()), (1600, 1), "the trailer crosses both hops");
    let sent = "y".repeat(200_000);
    let echo = client.request("POST", "user-service", "/echo", &[], sent.as_bytes()).expect("an answer").json();
    assert_eq!(echo["body"].as_str(), Some(sent.as_str()));

    // Without a certificate nobody comes in.
    let request = b"GET /echo HTTP/1.1\r\nHost: user-service\r\n\r\n";
    let before = application.requests();
    let (answer, _) = exchange(inbound, request, Duration::from_secs(5)).expect("an exchange");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(application.requests(), before, "a stranger's request reached the application");
}

#[test]
fn both_sidecars_name_both_workloads_alike() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let server = server(&yaml, inbound, &authority.issue("user-service"));
    let identity = authority.issue("order-service").display().to_string();
    let labels = ["--workload", "order-1", "--labels", "app=orders,version=v7"];
    let caller = Sidecar::start_with(&yaml, &[&["--inbound", "off", "--identity", &identity], &labels[..]].concat());
    let claim = [("x-celerity-peer", "1|liar|liar|liar|liar|liar|liar|liar")];
    let seen = caller.client().request("GET", "user-service", "/echo", &claim, b"").expect("an answer");
    assert!(!seen.text().contains("x-celerity-peer"), "{}", seen.text());
    let names = |sidecar: &Sidecar| {
        let metrics = sidecar.admin("/stats/prometheus");
        let line = metrics.lines().find(|line| line.starts_with("istio_requests_total")).unwrap_or_default().to_owned();
        let labels = line.split(['{', '}']).nth(1).unwrap_or_default().split(',').map(str::to_owned);
        let mut labels: Vec<_> =
            labels.filter(|one| one.starts_with("source_") || one.starts_with("destination_")).collect();
        labels.sort();
        labels
    };
    // A request is counted when its answer has gone out.
    eventually("both have counted", || !names(&caller).is_empty() && !names(&server).is_empty());
    let ours = names(&caller);
    assert_eq!(ours, names(&server));
    for label in [
        "source_workload=\"order-1\"",
        "source_app=\"orders\"",
        "source_version=\"v7\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/order-service\"",
        "destination_workload=\"user-1\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/user-service\"",
    ] {
        assert!(ours.iter().any(|one| one == label), "{label} in {ours:?}");
    }
}

/// In a cluster that has both kinds of endpoints, before and after.
#[test]
fn an_endpoint_that_joins_the_mesh_is_spoken_to_over_tls_from_then_on() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let (nobody, nowhere) = (loopback(free_port()), loopback(free_port()));
    let workload = |name: &str, address: SocketAddr, joined: bool| {
        let label = if joined { ", security.istio.io/tlsMode: istio" } else { "" };
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
             address: {}\n  ports: {{http: {}}}\n  labels: {{app: user-service{label}}}\n  serviceAccount: user-service",
            address.ip(),
            address.port()
        )
    };
    let of_two_kinds = |joined| {
        let yaml = mesh(inbound, &application, "PERMISSIVE");
        let documents: Vec<&str> = yaml.split("\n---\n").filter(|one| !one.contains("kind: WorkloadEntry")).collect();
        let entries = [workload("a", nobody, true), workload("b", inbound, joined), workload("c", nowhere, false)];
        [documents.join("\n---\n"), entries.join("\n---\n")].join("\n---\n")
    };
    let _server = server(&mesh(inbound, &application, "PERMISSIVE"), inbound, &authority.issue("user-service"));
    let caller = caller(&of_two_kinds(false), &authority.issue("order-service"));
    // The dead ones are passed over by retries, which meet connections that failed.
    let mut client = caller.client();
    let mut says_who = || {
        let answer = client.get("user-service", "/echo").expect("an answer");
        answer.status == 200 && answer.text().to_lowercase().contains("x-forwarded-client-cert")
    };
    eventually("an answer in plain text", || !says_who());
    caller.config.write("mesh.yaml", &of_two_kinds(true));
    eventually("the change is taken up, and the connection with it", says_who);
}

#[test]
fn a_stranger_with_another_authority_is_refused() {
    let application = Upstream::start("one");
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let _server = server(&yaml, inbound, &Authority::new().issue("user-service"));
    let stranger = caller(&yaml, &Authority::new().issue("order-service"));
    assert_eq!(stranger.get("user-service", "/echo").status, 503);
    assert_eq!(application.requests(), 0);
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let _server = server(&yaml, inbound, &authority.issue("somebody-else"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    assert_eq!(caller.get("user-service", "/echo").status, 503);
    assert_eq!(application.requests(), 0, "the request must not reach a server that is not user-service");
}

#[test]
fn permissive_takes_both() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "PERMISSIVE");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    assert_eq!(caller.get("user-service", "/echo").status, 200);
    let plain = Client::connect(inbound).and_then(|mut client| client.get("user-service", "/echo"));
    assert_eq!(plain.expect("an answer").status, 200);
}

#[test]
fn the_application_learns_who_calls_it_and_nobody_can_pretend() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "PERMISSIVE");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    let told = |client: std::io::Result<Client>| {
        let forged = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin")];
        let echo = client.and_then(|mut client| client.request("GET", "user-service", "/echo", &forged, b""));
        let echo = echo.expect("an answer").json();
        let pairs = echo["headers"].as_array().cloned().unwrap_or_default();
        let told = pairs.iter().find(|pair| pair[0] == "x-forwarded-client-cert");
        told.map(|pair| pair[1].as_str().unwrap_or_default().to_owned())
    };
    let certified = told(Client::connect(caller.outbound)).expect("the caller's certificate");
    let [by, hash, subject, uri] = certified.split(';').collect::<Vec<_>>()[..] else { panic!("{certified}") };
    assert_eq!(by, "By=spiffe://cluster.local/ns/default/sa/user-service");
    assert_eq!((hash.len(), subject.starts_with("Subject=\"")), ("Hash=".len() + 64, true), "{certified}");
    assert_eq!(uri, "URI=spiffe://cluster.local/ns/default/sa/order-service");
    assert_eq!(told(Client::connect(inbound)), None, "in plain text nobody is certified");
}

#[test]
fn a_caller_without_an_identity_is_told_what_it_lacks() {
    let application = Upstream::start("one");
    let inbound = loopback(free_port());
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: mesh, namespace: default}\nspec: {host: \
        user-service, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n";
    let caller = Sidecar::start(&documents(&[&mesh(inbound, &application, "STRICT"), rule]));
    let seen = caller.get("user-service", "/echo");
    assert!(seen.status == 503 && seen.text().contains("ISTIO_MUTUAL is wanted"), "{}", seen.text());
    eventually("the log says so", || {
        let log = caller.process.output();
        log.contains("user-service.default.svc.cluster.local get 503") && log.contains("--identity")
    });
}

#[test]
fn without_alpn_the_preface_tells_the_protocol() {
    let Some(curl) = peer("curl") else { return };
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let _server = server(&yaml, inbound, &authority.issue("user-service"));
    let own = authority.issue("order-service");
    for (how, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let mut command = Command::new(&curl);
        command.args(["-sk", "-m", "20", "--no-alpn", how, "-o", "/dev/null", "-w", "%{http_code} %{http_version}"]);
        command.arg("--cert").arg(own.join("cert-chain.pem")).arg("--key").arg(own.join("key.pem"));
        let said = process::run(command.args(["-H", "Host: user-service"]).arg(format!("https://{inbound}/echo")));
        assert_eq!(said, format!("200 {version}"));
    }
}

#[test]
fn sessions_are_resumed_and_identities_checked_all_the_same() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let once = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: once, namespace: default}\nspec:\n  \
                host: user-service\n  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1, h2UpgradePolicy: \
                DO_NOT_UPGRADE}}}\n";
    let yaml = documents(&[&mesh(inbound, &application, "STRICT"), once]);
    let first = server(&yaml, inbound, &authority.issue("user-service"));
    let caller = caller(&yaml, &authority.issue("order-service"));
    for _ in 0..10 {
        assert_eq!(caller.get("user-service", "/echo").status, 200);
    }
    let metrics = first.admin("/stats/prometheus");
    let counted = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    assert!(counted("envoy_listener_ssl_handshake ") >= 10, "a connection for each request: {metrics}");
    assert!(counted("envoy_listener_ssl_session_reused ") >= 8, "all but the first are resumed: {metrics}");
    // Somebody else at the same address: what is remembered of the first must not let it in.
    drop(first);
    let _stranger = server(&yaml, inbound, &authority.issue("somebody-else"));
    let before = application.requests();
    assert_eq!(caller.get("user-service", "/echo").status, 503);
    assert_eq!(application.requests(), before);
}

#[test]
fn certificates_are_renewed_without_a_restart() {
    let application = Upstream::start("one");
    let authority = Authority::new();
    let inbound = loopback(free_port());
    let yaml = mesh(inbound, &application, "STRICT");
    let identity = authority.issue("user-service");
    let server = server(&yaml, inbound, &identity);
    let caller = caller(&yaml, &authority.issue("order-service"));
    assert_eq!(caller.get("user-service", "/echo").status, 200);
    // The same authority issues anew into the same folders; requests go on all the while.
    for _ in 0..5 {
        authority.issue("user-service");
        authority.issue("order-service");
        assert_eq!(caller.get("user-service", "/echo").status, 200);
    }
    eventually("the log says so", || server.process.output().contains("certificates were reloaded: "));
}
