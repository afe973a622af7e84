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

/// Answers every GET with 200 at once, on a thread for each connection.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let Ok(mut out) = stream.try_clone() else { return };
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.is_empty() && out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
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
    assert_eq!(code(&celerity(&["capacity", "http://127.0.0.1:1/", "--slo", "p99>50ms"])), Some(2));
}

#[test]
fn a_baseline_is_kept_and_checked() {
    let folder = TempDir::new();
    let url = format!("http://{}/", server());
    let dir = folder.path().display().to_string();
    let saved = celerity(&["baseline", "save", "main", &url, "--rate", "100", "--block", "300ms", "--dir", &dir]);
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
    assert_eq!(check["metrics"].as_array().map(Vec::len), Some(3), "{check}");
    let missing = celerity(&["baseline", "check", "other", "--dir", &dir]);
    assert!(
        code(&missing) == Some(4) && String::from_utf8_lossy(&missing.stderr).contains("other.json cannot be read")
    );
}
