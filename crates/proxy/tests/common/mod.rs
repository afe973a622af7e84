//! A real proxy in this process, made of Istio documents, between scripted clients and upstreams.
//!
//! ```text
//!   testkit Client ──► Sidecar (127.0.0.1:0, one worker) ──► testkit Upstream | `scripted`
//! ```

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celerity_model::istio;
use celerity_model::snapshot::Snapshot;
use celerity_model::translate::{Node, translate};
use celerity_proxy::{Handle, NotTakenUp, Proxy, Settings};
use celerity_telemetry::metrics::Peer;
use celerity_testkit::Client;

/// How long anything of a test may take before it counts as not happening.
const WAIT_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Sidecar {
    handle: Option<Handle>,
}

impl Sidecar {
    /// Starts one with these documents.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_with(yaml, 1)
    }

    pub(crate) fn start_with(yaml: &str, workers: usize) -> Self {
        let handle = Proxy::start(Settings {
            ledger: true,
            snapshot: snapshot(yaml, None),
            workers,
            identity: None,
            workload: Peer::default(),
            admin: None,
            prometheus: None,
            health: None,
            access_log: None,
            log: celerity_proxy::log::Log::default(),
            describe: Arc::new(|| serde_json::Value::Null),
            tuning: Default::default(),
            give_back: || {},
        });
        Self { handle: Some(handle.unwrap_or_else(|error| panic!("{error}"))) }
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("it runs")
    }

    /// Takes up these documents instead.
    pub(crate) fn apply(&self, yaml: &str) {
        self.try_apply(yaml).expect("taken up");
    }

    pub(crate) fn try_apply(&self, yaml: &str) -> Result<(), NotTakenUp> {
        let running = self.handle().control().running.load().snapshot.clone();
        self.handle().apply(snapshot(yaml, Some(&running)))
    }

    pub(crate) fn outbound(&self) -> SocketAddr {
        self.handle().address("outbound").expect("it listens")
    }

    /// A new keep-alive connection to the outbound listener.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.outbound()).expect("connected")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop(Duration::from_secs(2));
        }
    }
}

fn snapshot(yaml: &str, previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let config = istio::read(&[(Arc::from("test.yaml"), yaml)]).unwrap_or_else(|errors| {
        panic!("{}\nin\n{yaml}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    let node = Node { outbound: (Ipv4Addr::LOCALHOST, 0).into(), ..Node::default() };
    let resources = translate(&config, &node).unwrap_or_else(|errors| panic!("{errors:?}"));
    let built = Snapshot::build(&resources, previous);
    Arc::new(
        built.unwrap_or_else(|errors| {
            panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }),
    )
}

/// A service `NAME.default.svc.cluster.local`, port 80, with these endpoints. Ends with a document separator.
pub(crate) fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: String =
        endpoints.iter().map(|at| format!("  - {{address: {}, ports: {{http: {}}}}}\n", at.ip(), at.port())).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, number: 80, protocol: HTTP}}]\n  endpoints:\n{endpoints}---\n"
    )
}

/// A VirtualService of the service `name`; `http` is the list under `spec.http`, indented by two.
pub(crate) fn virtual_service(name: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}]\n  http:\n{http}---\n"
    )
}

/// An EnvoyFilter with one patch, given as one flow mapping.
pub(crate) fn envoy_filter(patch: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: patch}}\nspec:\n  configPatches:\n  - {patch}\n---\n"
    )
}

/// A server that answers every request head with these bytes, or never where there are none. It lives as long as the
/// test program.
pub(crate) fn scripted(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    seen.extend_from_slice(&piece[..count]);
                    if seen.ends_with(b"\r\n\r\n") && !answer.is_empty() {
                        seen.clear();
                        let _ = stream.write_all(answer);
                    }
                }
            });
        }
    });
    address
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
