//! Time in which the proxy did not run is the proxy's, whoever was waiting for it.
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use celerity_testkit::{Client, Upstream};

use crate::support::{Sidecar, documents, eventually, service};

/// The proxy is stopped for so long, as a throttled cgroup or a busy machine stops it.
const STALL: Duration = Duration::from_millis(400);

/// What of it must be told as waiting: the rest is for signals to arrive.
const TOLD_MS: f64 = 350.0;

/// How long requests take without a stall.
const SERVICE: Duration = Duration::from_millis(150);

const ASK: (&str, &str) = ("x-celerity-ledger", "1");

/// A row of `Server-Timing`, in milliseconds.
fn row(timing: &str, name: &str) -> f64 {
    let entry = timing.split(", ").find_map(|entry| entry.strip_prefix(name)?.strip_prefix(";dur="));
    entry.unwrap_or_else(|| panic!("no {name} in {timing}")).parse().expect("a number")
}

/// The proxy stands still while `during` runs, and for the stall's time after it.
fn stalled<T>(sidecar: &Sidecar, during: impl FnOnce() -> T) -> T {
    sidecar.process.signal("STOP");
    eventually("all threads stand still", || stands_still(sidecar.process.id()));
    let result = during();
    sleep(STALL);
    sidecar.process.signal("CONT");
    result
}

/// The signal reaches each thread when that one is next looked at, which a busy machine puts off.
fn stands_still(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // proc(5): the state follows the name, which stands in parentheses.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    })
}

fn ask(client: &mut Client) {
    let (name, value) = ASK;
    let head = format!("GET /x HTTP/1.1\r\nHost: user-service\r\n{name}: {value}\r\n\r\n");
    client.send(head.as_bytes()).expect("sent");
}

fn timing(client: &mut Client) -> String {
    let response = client.read_response(false).expect("an answer");
    assert_eq!(response.status, 200);
    response.header("server-timing").expect("the ledger").to_owned()
}

/// The stall is in `queueing`, in nothing else, and the sum is the client's own wait.
fn is_queueing(timing: &str, service_ms: f64) {
    assert!(row(timing, "queueing") >= TOLD_MS, "{timing}");
    assert!(row(timing, "total") >= TOLD_MS + service_ms, "{timing}");
    let others = row(timing, "total") - row(timing, "queueing") - row(timing, "service") - row(timing, "network");
    assert!(others < TOLD_MS && row(timing, "unattributed") < TOLD_MS, "{timing}");
    assert!(row(timing, "service") + row(timing, "network") >= service_ms * 0.9, "{timing}");
}

#[test]
fn a_stalled_proxy_is_queueing_and_not_the_service() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&documents(&[&service("user-service", &[(&upstream, "version: v1")])]));
    let mut client = sidecar.client();
    for _ in 0..2 {
        ask(&mut client);
        let calm = timing(&mut client);
        assert!(row(&calm, "queueing") < TOLD_MS, "{calm}");
    }
    // Before the request was read.
    stalled(&sidecar, || ask(&mut client));
    is_queueing(&timing(&mut client), 0.0);
    // While the connection waits to be accepted.
    let mut newcomer = stalled(&sidecar, || {
        let mut client = sidecar.client();
        ask(&mut client);
        client
    });
    is_queueing(&timing(&mut newcomer), 0.0);
    // While the response lies in the socket.
    upstream.delay(SERVICE);
    ask(&mut client);
    sleep(SERVICE / 3);
    stalled(&sidecar, || sleep(SERVICE));
    let told = timing(&mut client);
    is_queueing(&told, SERVICE.as_secs_f64() * 1e3);
    assert!(row(&told, "service") < TOLD_MS, "the service had answered: {told}");
}

#[test]
fn a_stalled_proxy_is_queueing_over_http2_too() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&documents(&[&service("user-service", &[(&upstream, "version: v1")])]));
    let Some(curl) = celerity_testkit::peer("curl") else { return };
    let asked = stalled(&sidecar, || {
        let mut command = Command::new(curl);
        command.args(["-sS", "-D-", "-o/dev/null", "--http2-prior-knowledge", "-H", "Host: user-service"]);
        command.args(["-H", &format!("{}: {}", ASK.0, ASK.1), &format!("http://{}/x", sidecar.outbound)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl starts")
    });
    let output = asked.wait_with_output().expect("curl ends");
    let head = String::from_utf8_lossy(&output.stdout);
    let told = head.lines().find_map(|line| line.strip_prefix("server-timing: ")).expect("the ledger");
    // The client has to start first.
    assert!(row(told, "queueing") >= TOLD_MS / 2.0, "{told}");
}
