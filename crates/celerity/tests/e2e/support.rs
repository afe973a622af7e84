//! A sidecar started from YAML, and the YAML of services for it.
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use celerity_testkit::{Client, Process, Response, TempDir, Upstream, client, free_port};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_celerity");

/// How long something that the program does by itself may take before a test gives up. Bounds, never measurements.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running `celerity proxy`.
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    pub(crate) config: TempDir,
    pub(crate) outbound: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Sidecar {
    /// Start with this configuration, outbound only, and wait until it is ready.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &["--inbound", "off"])
    }

    /// Start with further arguments.
    pub(crate) fn start_with(yaml: &str, arguments: &[&str]) -> Self {
        let config = TempDir::new();
        config.write("mesh.yaml", yaml);
        let outbound = loopback(free_port());
        let admin = loopback(free_port());
        let mut command = Command::new(BINARY);
        command.arg("proxy").arg("--config").arg(config.path());
        command.args(["--workers", "2", "--outbound", &outbound.to_string(), "--admin", &admin.to_string()]);
        command.args(["--prometheus", "off", "--health", "off"]).args(arguments);
        let mut process = Process::start(&mut command);
        process.wait_for_ok(admin, "/ready");
        Self { process, config, outbound, admin }
    }

    /// One GET through the outbound listener, on a connection of its own.
    pub(crate) fn get(&self, host: &str, target: &str) -> Response {
        client::get(self.outbound, host, target)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.outbound).expect("the outbound listener accepts")
    }

    /// A page of the admin port.
    pub(crate) fn admin(&self, path: &str) -> String {
        client::get(self.admin, "localhost", path).text()
    }
}

/// A server written in Python, from `tests/peers`, listening where it was told to. `None` where the modules are missing.
pub(crate) fn python_server(script: &str, modules: &[&str]) -> Option<(Process, SocketAddr)> {
    let python = celerity_testkit::python(modules)?;
    let address = loopback(free_port());
    let mut command = Command::new(python);
    command.arg(peer_script(script)).args(["server", &address.port().to_string()]);
    let mut server = Process::start(&mut command);
    server.wait_for_port(address);
    Some((server, address))
}

/// Runs a client written in Python to its end; it fails the test when the client does.
pub(crate) fn python_client(script: &str, modules: &[&str], arguments: &[&str]) -> String {
    let Some(python) = celerity_testkit::python(modules) else { return String::new() };
    celerity_testkit::process::run(Command::new(python).arg(peer_script(script)).arg("client").args(arguments))
}

pub(crate) fn peer_script(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Wait until `done` says so, within [`PATIENCE`].
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A service in the mesh whose instances are these upstreams, each with its labels (`version: v1`).
pub(crate) fn service(name: &str, instances: &[(&Upstream, &str)]) -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         hosts: [{name}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{name: http, \
         number: 80, protocol: HTTP}}]\n  endpoints:\n"
    );
    for (upstream, labels) in instances {
        let address = upstream.address();
        let _ = writeln!(
            yaml,
            "  - address: {}\n    ports: {{http: {}}}\n    labels: {{{labels}}}",
            address.ip(),
            address.port()
        );
    }
    yaml
}

/// Join documents.
pub(crate) fn documents(parts: &[&str]) -> String {
    parts.join("\n---\n")
}
