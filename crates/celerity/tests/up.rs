//! `celerity up` as a person uses it: it comes up, carries traffic, takes a change, misbehaves on demand, and reports.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use celerity_testkit::client::get;
use celerity_testkit::environment::root;
use celerity_testkit::{Client, Process, TempDir};

/// Ample for a debug build on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A base whose ports are free: below the range from which the kernel takes the ports of outgoing connections, and not the
/// one that another test of this process took.
fn port_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 150) as u16;
    loop {
        let base = 16_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 160 * 100;
        let free = |offset: u16| TcpListener::bind(("0.0.0.0", base + offset)).is_ok();
        if [0, 1, 6, 21, 80, 90].into_iter().all(free) {
            return base;
        }
    }
}

fn up(base: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_celerity"));
    command.current_dir(root()).args(["up", "--port-base", &base.to_string()]).args(arguments);
    command
}

#[test]
fn the_mesh_comes_up_carries_traffic_and_reports() {
    let base = port_base();
    let mut mesh = Process::start(&mut up(base, &["--rate", "40"]));
    mesh.wait_until("welcome", || get_ready(base));
    let entry = SocketAddr::from(([127, 0, 0, 1], base + 1));
    let user = get(entry, "user-service", "/api/users/123");
    assert_eq!((user.status, user.json()["id"].as_u64()), (200, Some(123)), "{}", user.text());
    let order = get(entry, "order-service", "/api/orders/7");
    assert_eq!((order.status, order.json()["user"]["id"].as_u64()), (200, Some(8)), "{}", order.text());
    // As with REGISTRY_ONLY in Istio.
    assert_eq!(get(entry, "nobody-service", "/").status, 502);
    // What curl does with http_proxy set: the whole URL in the request line.
    let absolute = get(entry, "user-service", "http://user-service/api/users/5");
    assert_eq!(absolute.status, 200, "{}", absolute.text());
    if let Some(hey) = celerity_testkit::peer("hey") {
        let url = format!("http://{entry}/api/users");
        let said = celerity_testkit::process::run(Command::new(hey).args([
            "-z",
            "2s",
            "-c",
            "50",
            "-host",
            "user-service",
            &url,
        ]));
        assert!(said.contains("[200]") && !said.contains("Error distribution"), "{said}");
    }
    std::thread::sleep(Duration::from_secs(3));
    mesh.signal("INT");
    let status = mesh.wait(END_LIMIT);
    let output = mesh.output();
    assert!(status.success(), "{output}");
    for expected in ["the mesh is up", "p99", "service", "unattributed"] {
        assert!(output.contains(expected), "{expected} is not in\n{output}");
    }
}

fn get_ready(base: u16) -> bool {
    let admin = SocketAddr::from(([127, 0, 0, 1], base));
    Client::connect(admin)
        .is_ok_and(|mut client| client.get("admin", "/ready").is_ok_and(|answer| answer.status == 200))
}

#[test]
fn ports_that_are_taken_are_named_with_the_way_out() {
    let base = port_base();
    let _taken = TcpListener::bind(("127.0.0.1", base + 1)).expect("the port");
    let mut mesh = Process::start(&mut up(base, &[]));
    let status = mesh.wait(END_LIMIT);
    let output = mesh.output();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains(&format!("127.0.0.1:{}", base + 1)) && output.contains("--port-base"), "{output}");
}

#[test]
fn a_change_is_taken_up_and_a_broken_one_is_not() {
    let base = port_base();
    let folder = TempDir::new();
    let route = |to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: users}}\nspec:\n  hosts: [user-service]\n  \
             http:\n  - {to}\n"
        )
    };
    folder.write("route.yaml", &route("directResponse: {status: 418}"));
    let config = folder.path().display().to_string();
    let mut mesh = Process::start(&mut up(base, &["--rate", "0", "--config", &config]));
    mesh.wait_until("welcome", || get_ready(base));
    let entry = SocketAddr::from(([127, 0, 0, 1], base + 1));
    let status = || get(entry, "user-service", "/api/users/1").status;
    assert_eq!(status(), 418);
    folder.write("route.yaml", &route("directResponse: {status: 451}"));
    mesh.wait_until("the change", || status() == 451);
    folder.write("route.yaml", &route("directRespons: {status: 500}"));
    mesh.wait_until("the refusal", || {
        let admin = SocketAddr::from(([127, 0, 0, 1], base));
        get(admin, "admin", "/config_dump").text().contains("directRespons")
    });
    assert_eq!(status(), 451);
    // Ended by itself, it takes its certificates' folder with it.
    mesh.signal("TERM");
    assert!(mesh.wait(END_LIMIT).success(), "{}", mesh.output());
}
