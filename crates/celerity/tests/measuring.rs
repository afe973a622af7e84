//! `ab`, `capacity` and `baseline` as a pipeline calls them: what they exit with, and what they leave.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use celerity_testkit::TempDir;

fn celerity(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_celerity")).args(arguments).output().expect("the binary runs")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Answers every GET with 200 at once.
fn server() -> SocketAddr {
    server_that(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

/// Answers every GET at once, on a thread for each connection.
fn server_that(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let Ok(mut out) = stream.try_clone() else { return };
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.is_empty() && out.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn wrong_usage_is_2_and_an_arm_that_cannot_be_reached_is_4() {
    assert_eq!(code(&celerity(&["ab", "--baseline", "http://127.0.0.1:1/"])), Some(2));
    let both = ["ab", "--baseline", "http://127.0.0.1:1/", "--candidate", "http://127.0.0.1:1/"];
    let short = celerity(&[&both[..], &["--block", "1s"]].concat());
    let text = String::from_utf8_lossy(&short.stderr).into_owned();
    assert!(code(&short) == Some(2) && text.contains("make the block 5.9 s"), "{text}");
    let refused = celerity(&both);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(code(&refused) == Some(4) && text.contains("the baseline cannot be measured"), "{text}");
    let configured = ["ab", "--baseline-config", "/nope", "--candidate-config", "/nope", "--target", "http://a/"];
    let nowhere = celerity(&configured);
    let text = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(code(&nowhere) == Some(2) && text.contains("/nope"), "{text}");
    assert_eq!(code(&celerity(&["capacity", "http://127.0.0.1:1/", "--slo", "p99>50ms"])), Some(2));
    let backwards = ["capacity", "http://127.0.0.1:1/", "--slo", "p99<50ms", "--from", "200", "--to", "100"];
    assert_eq!(code(&celerity(&backwards)), Some(2));
}

/// Many shells allow fewer descriptors than vegeta's 10,000 connections.
#[test]
fn vegetas_line_runs_where_descriptors_are_few() {
    let line = format!(
        "ulimit -n 4096; echo 'GET http://{}/' | {} load --as vegeta attack -duration=1s -rate=10",
        server(),
        env!("CARGO_BIN_EXE_celerity")
    );
    let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.contains("\"code\":200")).count(), 10, "{text}");
}

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: users, namespace: default}
spec:
  hosts: [user-service]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: PORT}}]
";

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: users, namespace: default}
spec: {host: user-service, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
";

#[test]
fn two_configurations_are_compared_through_sidecars_of_their_own() {
    let folder = TempDir::new();
    let at = |name: &str| folder.path().join(name).display().to_string();
    folder.write("services/users.yaml", &SERVICE.replace("PORT", &server().port().to_string()));
    folder.write("plain/none.yaml", "");
    folder.write("tuned/rule.yaml", RULE);
    let (plain, tuned, services, page) = (at("plain"), at("tuned"), at("services"), at("page.html"));
    let mut line = vec!["ab", "--baseline-config", &plain, "--candidate-config", &tuned, "--config", &services];
    line.extend(["--target", "http://user-service/", "--primary", "p50", "--rate", "400", "--block", "400ms"]);
    line.extend(["--aa-pairs", "0", "--pairs-max", "8", "--format", "json", "--html", &page]);
    let output = celerity(&line);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    // Which verdict is the machine's business; that it is the one of the exit code is ours.
    let expected = match report["verdict"].as_str() {
        Some("better" | "equivalent") => 0,
        Some("worse") => 1,
        _ => 4,
    };
    assert_eq!(code(&output), Some(expected), "{report:#}");
    assert_eq!((report["baseline"].as_str(), report["candidate"].as_str()), (Some(&*plain), Some(&*tuned)));
    if report["pairs_kept"].as_u64() > Some(0) {
        assert_eq!(report["errors"]["candidate_share"].as_f64(), Some(0.0), "{report:#}");
        let categories = report["ledger"].as_array().expect("a ledger");
        assert!(categories.iter().any(|row| row["category"] == "service"), "{categories:?}");
    }
    assert!(std::fs::read_to_string(page).expect("the page").ends_with("</html>\n"));
}

/// GNU timeout sends its signal to the program and then to the group: two at once, and one wish.
#[test]
fn a_time_that_is_up_leaves_the_report() {
    let url = format!("http://{}/", server());
    let line = ["2", env!("CARGO_BIN_EXE_celerity"), "ab", "--baseline", &url, "--candidate", &url, "--rate", "200"];
    let output = Command::new("timeout").args(line).output().expect("timeout");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("verdict: INCONCLUSIVE") && text.contains("it was stopped"), "{text}");
}

#[test]
fn a_baseline_is_kept_and_checked() {
    let folder = TempDir::new();
    let url = format!("http://{}/", server());
    let dir = folder.path().display().to_string();
    let saved = celerity(&["baseline", "save", "main", &url, "--rate", "400", "--primary", "p50", "--dir", &dir]);
    assert_eq!(code(&saved), Some(0), "{}", String::from_utf8_lossy(&saved.stderr));
    let checked = celerity(&["baseline", "check", "main", "--dir", &dir, "--format", "json"]);
    let check: serde_json::Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    // Which verdict is the machine's business; that it is the one of the exit code is ours.
    let expected = match check["verdict"].as_str() {
        Some("better" | "equivalent") => 0,
        Some("worse") => 1,
        _ => 4,
    };
    assert_eq!((code(&checked), check["name"].as_str()), (Some(expected), Some("main")), "{check}");
    let judged = |at: usize| check["metrics"][at]["judged"].as_bool();
    assert_eq!([judged(0), judged(1), judged(2)], [Some(true), Some(false), Some(false)], "{check}");
    let refused = celerity(&["baseline", "check", "main", "--dir", &dir, "--connections", "3"]);
    assert_eq!(code(&refused), Some(2), "the kept number of connections is what counts");
    for wrong in [
        &["baseline", "save", "../x", &url][..],
        &["baseline", "save", "x", "ftp://a/"],
        &["baseline", "save", "x", &url, "--block", "1s"],
        &["baseline", "save", "x", &url, "-d", "@/nowhere"],
        &["baseline", "check", "../x"],
        &["baseline", "check", "main", "--primary", "p95"],
        &["baseline", "check", "main", "--url", "ftp://a/"],
    ] {
        assert_eq!(code(&celerity(&[wrong, &["--dir", &dir]].concat())), Some(2), "{wrong:?}");
    }
    let missing = celerity(&["baseline", "check", "other", "--dir", &dir]);
    assert!(code(&missing) == Some(2) && String::from_utf8_lossy(&missing.stderr).contains("baseline save other URL"));
    // What fails all the time is no baseline, and the reason is told.
    let failing = server_that(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno");
    let url = format!("http://{failing}/");
    let refused = celerity(&["baseline", "save", "bad", &url, "--rate", "400", "--primary", "p50", "--dir", &dir]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(code(&refused) == Some(4) && text.contains("100.00 % of the requests fail (status 500)"), "{text}");
    let both = ["ab", "--baseline", &url, "--candidate", &url, "--rate", "400", "--primary", "p50"];
    let void = celerity(&both);
    let text = String::from_utf8_lossy(&void.stdout).into_owned();
    assert!(code(&void) == Some(4) && text.contains("the baseline answered nothing (status 500)"), "{text}");
}
