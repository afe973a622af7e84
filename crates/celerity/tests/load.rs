//! `celerity load` and its habits as a shell sees them: where results and messages go, and what they exit with.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use celerity_testkit::{TempDir, peer};

const CELERITY: &str = env!("CARGO_BIN_EXE_celerity");

fn celerity(arguments: &[&str]) -> Output {
    Command::new(CELERITY).args(arguments).output().expect("the binary runs")
}

/// What a shell's line gives; `celerity` in it is the binary.
fn shell(line: &str) -> Output {
    let line = format!("celerity() {{ {CELERITY} \"$@\"; }}; {line}");
    Command::new("bash").args(["-c", &line]).output().expect("a shell")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Answers every request with its target, after `work`, on a thread for each connection.
fn serving(work: impl Fn() + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let work = Arc::new(work);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let work = Arc::clone(&work);
            std::thread::spawn(move || {
                let Ok(mut out) = stream.try_clone() else { return };
                let mut target = String::new();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if target.is_empty() {
                        target = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    } else if line.is_empty() {
                        work();
                        let length = target.len();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}");
                        target.clear();
                        if out.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Where nobody listens.
fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn what_a_script_does_wrong_is_one_sentence_and_what_was_measured_is_kept() {
    let url = format!("http://{}/", serving(|| ()));
    let folder = TempDir::new();
    let endless = "while true do end";
    let cases = [
        (format!("function request() {endless} end"), "endless loop", 2, true),
        (format!("function response() {endless} end"), "endless loop", 2, true),
        (format!("function done() {endless} end"), "endless loop", 2, true),
        (endless.to_owned(), "endless loop", 2, false),
        ("function setup() wrk.lookup('no-such-host.invalid', 80) end".into(), "has no address", 2, false),
        ("function setup() pcall(wrk.lookup, 'no-such-host.invalid', 80) end".into(), "", 0, true),
        ("function setup(t) t:set('x', print) end".into(), "function cannot go to another thread", 2, false),
        ("function setup(t) t:stop() end".into(), "while the thread runs", 2, false),
        ("function setup(t) t.foo = 1 end".into(), "foo", 2, false),
        ("function done(s, l) l(0) end".into(), "fewer values", 2, true),
        (
            "local n = 0\nfunction request() n = n + 1 if n == 3 then wrk.thread:stop() end return wrk.format() end"
                .into(),
            "",
            0,
            true,
        ),
    ];
    std::thread::scope(|scope| {
        for (place, (script, why, expected, reported)) in cases.iter().enumerate() {
            let path = folder.write(&format!("{place}.lua"), script).display().to_string();
            let url = &url;
            scope.spawn(move || {
                let output = celerity(&["load", url, "-c", "1", "-n", "5", "--script", &path]);
                let (said, told) = (err(&output), out(&output));
                assert_eq!(code(&output), Some(*expected), "{script}: {said}{told}");
                assert!(said.contains(why) || told.contains(why), "{script}: {said}{told}");
                // Beside the progress of those that take seconds.
                let sentences = said.lines().filter(|line| !line.contains(" in flight")).count();
                assert!(sentences <= 1 && !said.contains("traceback"), "{script}: {said}");
                assert_eq!(told.contains("Total requests:"), *reported, "{script}: {told}");
                if script.contains("n == 3") {
                    assert!(told.contains("Successful requests:               3\n"), "{told}");
                }
            });
        }
    });
}

#[test]
fn a_script_has_its_arguments_and_prints_beside_json() {
    let url = format!("http://{}/", serving(|| ()));
    let folder = TempDir::new();
    let path = folder.write("a.lua", "function init(args) print('got', args[1]) io.write('and\\n') end");
    let path = path.display().to_string();
    let output = celerity(&["load", &url, "-c", "1", "-n", "2", "--format", "json", "--script", &path, "--", "seven"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(told["requests"]["succeeded"].as_u64(), Some(2), "{told}");
    assert!(err(&output).contains("got\tseven\nand\n"), "{}", err(&output));
}

#[test]
fn a_full_disk_is_one_sentence_and_two() {
    let url = format!("http://{}/", serving(|| ()));
    let attack = format!("echo 'GET {url}' | celerity load --as vegeta attack -rate=20 -duration=500ms");
    for line in [
        format!("{attack} > /dev/full"),
        format!("{attack} -output /dev/full"),
        format!("{attack} | celerity load --as vegeta report > /dev/full"),
        format!("{attack} | celerity load --as vegeta report -output=/dev/full"),
        format!("celerity load --as hey -n 4 -c 1 -o csv {url} > /dev/full"),
        format!("celerity load --as hey -n 4 -c 1 {url} > /dev/full"),
        format!("celerity load --as wrk -t1 -c1 -d1s {url} > /dev/full"),
        format!("celerity load {url} -c 1 -n 4 > /dev/full"),
        format!("celerity load {url} -c 1 -n 4 --format json > /dev/full"),
    ] {
        let output = shell(&line);
        let said = err(&output);
        assert_eq!(code(&output), Some(2), "{line}: {said}");
        assert!(said.contains("cannot be written") && said.lines().count() == 1, "{line}: {said}");
    }
    // Who closes the pipe wants no more, and is told nothing.
    let output = shell(&format!("celerity load {url} -c 1 -n 4 --format json | true; exit ${{PIPESTATUS[0]}}"));
    assert_eq!((code(&output), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_target_that_is_not_reached_is_three_and_the_habits_count_it() {
    let refused = format!("http://{}/", closed());
    let nowhere = "http://no-such-host.invalid/".to_owned();
    let script = TempDir::new();
    let path = script.write("a.lua", "function request() return wrk.format() end").display().to_string();
    for (url, why) in [(&refused, "refuses"), (&nowhere, "has no address")] {
        for line in [&["load", url.as_str()][..], &["load", url, "--script", &path]] {
            let output = celerity(line);
            assert_eq!(code(&output), Some(3), "{line:?} {}", err(&output));
            assert!(err(&output).contains(why) && err(&output).lines().count() == 1, "{}", err(&output));
        }
        let wrk = celerity(&["load", "--as", "wrk", "-t1", "-c1", "-d1s", url]);
        assert!(code(&wrk) == Some(3) && err(&wrk).starts_with("unable to "), "{}", err(&wrk));
        assert_eq!(out(&wrk), "", "nothing runs, so nothing says so");
    }
    for (url, why) in [(&refused, "connection refused"), (&nowhere, "no such host")] {
        let hey = celerity(&["load", "--as", "hey", "-n", "4", "-c", "2", url]);
        assert_eq!(code(&hey), Some(3), "{}", err(&hey));
        assert!(out(&hey).contains(&format!("Error distribution:\n  [4]\t{why}")), "{}", out(&hey));
        let line = format!(
            "echo 'GET {url}' | celerity load --as vegeta attack -rate=10 -duration=1s | celerity load --as vegeta report"
        );
        let vegeta = out(&shell(&line));
        assert!(vegeta.contains("Status Codes  [code:count]                    0:10"), "{vegeta}");
        assert!(vegeta.contains(&format!("Get \"{url}\": {why}")), "{vegeta}");
    }
    // The answer is the target as it came: in the form that a proxy takes, which looks the name up itself.
    let check = format!("function response(_, _, body) assert(body == '{nowhere}', body) end");
    let path = script.write("b.lua", &check).display().to_string();
    let proxy = format!("http://{}", serving(|| ()));
    let proxied = celerity(&["load", &nowhere, "-c", "1", "-n", "2", "--script", &path, "-x", &proxy]);
    assert_eq!(code(&proxied), Some(0), "{}{}", err(&proxied), out(&proxied));
}

/// A count ends when its next request would have come: the last answer is not late, and one request is a rate.
#[test]
fn a_few_requests_of_an_open_loop_are_a_whole_run() {
    let url = format!("http://{}/", serving(|| ()));
    for count in ["1", "4"] {
        let output =
            celerity(&["load", &url, "-n", count, "--rate", "10", "--arrivals", "constant", "--format", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        // Whether the sender can be trusted is the machine's business.
        assert!(code(&output) == Some(0) || told["void"] == true, "{told:#}");
        assert!((told["rate"]["answered_per_second"].as_f64().expect("a rate") - 10.0).abs() < 0.01, "{told:#}");
    }
}

#[test]
fn a_length_that_no_run_has_is_refused() {
    for line in [
        "load http://127.0.0.1:1/ --for 5000000000000000h --warm-up 200000000000000h",
        "load http://127.0.0.1:1/ -c 1 --for 5000000000000000h --warm-up 5000000000000000h",
        "load http://127.0.0.1:1/ --stages hold:1/5000000000000000h,hold:1/5000000000000000h",
    ] {
        let output = celerity(&line.split(' ').collect::<Vec<_>>());
        let said = err(&output);
        assert!(code(&output) == Some(2) && said.contains("3650 days") && said.lines().count() == 1, "{line}: {said}");
    }
}

/// A second Ctrl-C would end it; the first leaves the results that are still to come.
#[test]
fn the_first_interrupt_leaves_the_report() {
    let mut report = Command::new(CELERITY)
        .args(["load", "--as", "vegeta", "report"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let line = "{\"code\":200,\"timestamp\":\"2026-01-01T00:00:00Z\",\"latency\":1000000}\n";
    let mut input = report.stdin.take().expect("a pipe");
    let mut said = BufReader::new(report.stderr.take().expect("a pipe"));
    input.write_all(line.as_bytes()).expect("written");
    // Until it has been heard: before its handler stands, a signal would end it.
    std::thread::sleep(Duration::from_millis(500));
    let killed = Command::new("kill").args(["-INT", &report.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let mut note = String::new();
    said.read_line(&mut note).expect("a note");
    assert!(note.contains("Ctrl-C again"), "{note}");
    input.write_all(line.as_bytes()).expect("written");
    drop(input);
    let output = report.wait_with_output().expect("an end");
    assert!(
        out(&output).contains("[total, rate, throughput]       2, ") && code(&output) == Some(0),
        "{}",
        out(&output)
    );
}

/// hey waits for what is under way and counts it in its total; wrk leaves it.
#[test]
fn each_tool_counts_what_is_under_way_at_the_end_as_it_does() {
    let url = format!("http://{}/", serving(|| std::thread::sleep(Duration::from_millis(700))));
    let hey = out(&celerity(&["load", "--as", "hey", "-z", "1s", "-c", "2", &url]));
    let number = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).expect(name);
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    };
    let (total, rate) = (number(&hey, "Total:"), number(&hey, "Requests/sec:"));
    assert!(total > 1.39 && (rate - 4.0 / total).abs() < 0.01, "{hey}");
    let began = Instant::now();
    let wrk = out(&celerity(&["load", "--as", "wrk", "-t1", "-c2", "-d1s", &url]));
    assert!(wrk.contains("  1 threads and 2 connections\n") && wrk.contains("  2 requests in 1.00s, "), "{wrk}");
    assert!(number(&wrk, "Requests/sec:") < 2.01 && !wrk.contains("Socket errors"), "{wrk}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// One request at a time, in no time but for one second in which nothing is answered: from the first second's end after
/// somebody began.
fn stalling() -> SocketAddr {
    let began = std::sync::Mutex::new(None);
    let stalled = AtomicBool::new(false);
    serving(move || {
        let mut began = began.lock().expect("a lock");
        let first = *began.get_or_insert_with(Instant::now);
        if first.elapsed() >= Duration::from_secs(1) && !stalled.swap(true, Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
        }
    })
}

/// The truth: of three seconds one is a stall, so that a third of those who come at any time wait, up to a second.
#[test]
fn wrk_and_hey_miss_a_stall_that_the_open_loop_shows() {
    let (Some(wrk), Some(hey)) = (peer("wrk"), peer("hey")) else { return };
    let ran = |program: &Path, arguments: &[&str]| {
        let url = format!("http://{}/", stalling());
        out(&Command::new(program).args(arguments).arg(url).output().expect("a program"))
    };
    let text = ran(&wrk, &["-t1", "-c1", "-d3s", "--latency"]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("99%")).expect("wrk's 99 %").trim().to_owned();
    assert!(line.ends_with("us") || line.ends_with("ms"), "wrk says {line} in\n{text}");
    let text = ran(&hey, &["-z", "3s", "-c", "1"]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("99% in ")).expect("hey's 99 %");
    let hey_p99_s: f64 = line.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    assert!(hey_p99_s < 0.25, "{text}");
    let url = format!("http://{}/", stalling());
    let output =
        celerity(&["load", &url, "--rate", "100", "--for", "3s", "--arrivals", "constant", "--format", "json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ms = |name: &str| told["response_ms"][name].as_f64().expect("milliseconds");
    // A tenth waits longer than 0.7 s, a hundredth than 0.97 s.
    assert!(ms("p50") < 250.0 && ms("p90") > 500.0 && ms("p99") > 800.0, "{:#}", told["response_ms"]);
}

/// Many targets, several threads, and still the file's order.
#[test]
fn targets_come_in_the_order_of_their_file_and_bodies_from_the_working_folder() {
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let address = serving(move || {
        counted.fetch_add(1, Relaxed);
    });
    let folder = TempDir::new();
    folder.write("body.txt", "hello");
    let targets = format!("GET http://{address}/a\n\nPOST http://{address}/b\n@body.txt\n");
    folder.write("deeper/targets.txt", &targets);
    let attack = Command::new(CELERITY)
        .args(["load", "--as", "vegeta", "attack", "-rate=3", "-duration=1s", "-targets=deeper/targets.txt"])
        .current_dir(folder.path())
        .output()
        .expect("the binary runs");
    let mut lines: Vec<(String, String)> = out(&attack)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|line| (line["timestamp"].to_string(), line["url"].as_str().unwrap_or_default().to_owned()))
        .collect();
    lines.sort();
    let paths: Vec<_> = lines.iter().map(|(_, url)| url.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(paths, ["a", "b", "a"], "{}", err(&attack));
    let native = Command::new(CELERITY)
        .args(["load", "--targets", "deeper/targets.txt", "-c", "1", "-n", "2"])
        .current_dir(folder.path())
        .output()
        .expect("the binary runs");
    assert_eq!((code(&native), seen.load(Relaxed)), (Some(0), 5), "{}", err(&native));
}
