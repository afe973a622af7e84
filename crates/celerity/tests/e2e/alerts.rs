//! The tutorial's alerts in real Prometheus, which scrapes Celerity: from inactive to firing and back.
use std::process::Command;
use std::time::{Duration, Instant};

use celerity_testkit::{Client, Process, TempDir, Upstream, client, environment, free_port, peer, process};
use serde_json::{Value, json};

use crate::support::{Sidecar, loopback, service};

/// Stands in the tutorial as 5 minutes; nothing else of the rules is changed.
const FOR: &str = "2s";

/// The rules look back over 1 and 5 minutes, so an alert takes its time to come and to go.
const ALERT_PATIENCE: Duration = Duration::from_secs(90);

/// The groups of every PrometheusRule of the tutorial's rendering.
fn groups() -> Vec<Value> {
    let folder = environment::root().join("examples/tutorial");
    let mut groups = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the tutorial's rendering") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        for mut document in documents {
            if document["kind"] == "PrometheusRule" {
                for group in document["spec"]["groups"].as_array_mut().expect("groups") {
                    for rule in group["rules"].as_array_mut().expect("rules") {
                        rule["for"] = json!(FOR);
                    }
                    groups.push(group.clone());
                }
            }
        }
    }
    groups
}

fn state(prometheus: std::net::SocketAddr, alert: &str) -> String {
    let answer = client::get(prometheus, "localhost", "/api/v1/rules").json();
    let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
    let found = rules.into_iter().find(|rule| rule["name"] == alert);
    found.and_then(|rule| rule["state"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Repeat `load` until the alert is in this state.
fn until(prometheus: std::net::SocketAddr, alert: &str, wanted: &str, mut load: impl FnMut()) {
    let deadline = Instant::now() + ALERT_PATIENCE;
    while state(prometheus, alert) != wanted {
        assert!(
            Instant::now() < deadline,
            "{alert} is {}, not {wanted}, after {ALERT_PATIENCE:?}",
            state(prometheus, alert)
        );
        load();
    }
}

#[test]
fn both_alerts_fire_and_cease() {
    let Some(binary) = peer("prometheus") else { return };
    let Some(wrk) = peer("wrk") else { return };
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));

    let folder = TempDir::new();
    let rules = folder.write("rules.yaml", &json!({"groups": groups()}).to_string());
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": "celerity", "metrics_path": "/stats/prometheus",
                            "static_configs": [{"targets": [sidecar.admin.to_string()]}]}],
    });
    let config = folder.write("prometheus.yaml", &config.to_string());
    let address = loopback(free_port());
    let mut command = Command::new(binary);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let mut prometheus = Process::start(&mut command);
    prometheus.wait_for_ok(address, "/-/ready");

    for alert in ["HighLatencyP95", "LowThroughput"] {
        until(address, alert, "inactive", || std::thread::sleep(Duration::from_millis(200)));
    }

    // Slow: each answer takes more than the rule's second.
    upstream.delay(Duration::from_millis(1500));
    let slow = || {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let outbound = sidecar.outbound;
                std::thread::spawn(move || Client::connect(outbound).and_then(|mut c| c.get("user-service", "/echo")))
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.join().expect("a caller").expect("an answer").status, 200);
        }
    };
    until(address, "HighLatencyP95", "firing", slow);
    // And few: under 100 a second over five minutes.
    until(address, "LowThroughput", "firing", slow);

    let query = "/api/v1/query?query=sum(istio_requests_total)by(destination_service)";
    let told = client::get(address, "localhost", query).text();
    assert!(told.contains("user-service.default.svc.cluster.local"), "{told}");

    // Fast and many: both cease.
    upstream.delay(Duration::ZERO);
    let url = format!("http://{}/bytes/100", sidecar.outbound);
    let fast = || {
        process::run(Command::new(&wrk).args(["-t1", "-c32", "-d3s", "-H", "Host: user-service", &url]));
    };
    until(address, "HighLatencyP95", "inactive", fast);
    until(address, "LowThroughput", "inactive", fast);
}
