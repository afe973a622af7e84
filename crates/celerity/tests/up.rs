//! `celerity up` as a person uses it: it comes up, carries traffic, takes a change, misbehaves on demand, and reports.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

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
        if [0, 1, 6, 21, 80, 90, 200, 201, 206, 221, 290].into_iter().all(free) {
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
    let mut mesh = Process::start(&mut up(base, &["--rate", "40", "--no-ab"]));
    mesh.wait_until("welcome", || get_ready(base));
    let entry = SocketAddr::from(([127, 0, 0, 1], base + 1));
    let user = get(entry, "user-service", "/api/users/123");
    assert_eq!((user.status, user.json()["id"].as_u64()), (200, Some(123)), "{}", user.text());
    let order = get(entry, "order-service", "/api/orders/7");
    assert_eq!((order.status, order.json()["user"]["id"].as_u64()), (200, Some(8)), "{}", order.text());
    // As Envoy: it would be passed through to where it was meant to go, and nothing says where that is.
    assert_eq!(get(entry, "nobody-service", "/").status, 503);
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
    // Two signals so near each other are one wish: a terminal's key repeats, and `timeout` sends two.
    mesh.signal("INT");
    std::thread::sleep(Duration::from_millis(50));
    mesh.signal("INT");
    let status = mesh.wait(END_LIMIT);
    let output = mesh.output();
    assert!(status.success(), "{output}");
    for expected in ["the mesh is up", "p99", "service", "unattributed"] {
        assert!(output.contains(expected), "{expected} is not in\n{output}");
    }
    assert!(!keys(&mesh, base).exists());
}

/// The folder of the mesh's keys.
fn keys(mesh: &Process, base: u16) -> PathBuf {
    std::env::temp_dir().join(format!("celerity-up-{}-{base}", mesh.id()))
}

fn said(mesh: &mut Process, what: &str) {
    let begun = Instant::now();
    while !mesh.output().contains(what) {
        assert!(begun.elapsed() < END_LIMIT, "no `{what}` in\n{}", mesh.output());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_ends_with_a_comparison_that_a_wish_skips_and_another_ends_at_once() {
    let base = port_base();
    let mut mesh = Process::start(&mut up(base, &["--for", "1s"]));
    said(&mut mesh, "A/A: pair 4 of 8");
    assert!(mesh.output().contains("p99.9") && keys(&mesh, base + 200).exists(), "{}", mesh.output());
    mesh.signal("INT");
    let skipped = mesh.wait(END_LIMIT);
    let output = mesh.output();
    assert!(skipped.success() && output.contains("the comparison was skipped"), "{output}");
    assert!(!keys(&mesh, base).exists() && !keys(&mesh, base + 200).exists());

    // A request that takes longer than anybody waits keeps the drain going.
    let folder = TempDir::new();
    folder.write("none.yaml", "");
    let config = folder.path().display().to_string();
    let mut mesh = Process::start(&mut up(base, &["--rate", "0", "--no-ab", "--config", &config]));
    mesh.wait_until("welcome", || get_ready(base));
    let switch = SocketAddr::from(([127, 0, 1, 1], base + 80));
    let mode = "/switch?mode=slow&ms=20000";
    let slow = Client::connect(switch).and_then(|mut client| client.request("POST", "x", mode, &[], b""));
    assert!(slow.is_ok_and(|answer| answer.status == 200));
    let entry = SocketAddr::from(([127, 0, 0, 1], base + 1));
    let waiting: Vec<_> = (1..=40)
        .map(|id| {
            std::thread::spawn(move || {
                Client::connect(entry).map(|mut c| c.get("user-service", &format!("/api/users/{id}")))
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    mesh.signal("INT");
    said(&mut mesh, "draining");
    std::thread::sleep(Duration::from_millis(600));
    mesh.signal("INT");
    assert_eq!(mesh.wait(Duration::from_secs(3)).code(), Some(130), "{}", mesh.output());
    assert!(!keys(&mesh, base).exists());
    waiting.into_iter().for_each(|thread| drop(thread.join()));
}

#[test]
fn the_comparisons_ports_are_tried_before_anything_starts() {
    let base = port_base();
    let _taken = TcpListener::bind(("127.0.0.1", base + 201)).expect("the port");
    let mut mesh = Process::start(&mut up(base, &["--for", "1s"]));
    let status = mesh.wait(END_LIMIT);
    let output = mesh.output();
    assert!(status.code() == Some(1) && output.contains("--no-ab") && !output.contains("reloaded"), "{output}");
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
    let mut mesh = Process::start(&mut up(base, &["--rate", "0", "--no-ab", "--config", &config]));
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
    folder.write("route.yaml", "");
    mesh.wait_until("the second refusal", || {
        let admin = SocketAddr::from(([127, 0, 0, 1], base));
        get(admin, "admin", "/config_dump").text().contains("route.yaml is empty")
    });
    assert_eq!(status(), 451);
    // Each said once, and not by each of five sidecars.
    let output = mesh.output();
    let times = |what: &str| output.lines().filter(|line| line.contains(what)).count();
    assert_eq!((times("configuration: "), times("configuration refused")), (1, 2), "{output}");
    // Ended by itself, it takes its certificates' folder with it.
    mesh.signal("TERM");
    assert!(mesh.wait(END_LIMIT).success(), "{}", mesh.output());
}
