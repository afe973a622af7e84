//! The tutorial's commands, as a reader types them.
use std::process::Command;

use celerity_testkit::{Upstream, peer, process};

use crate::support::{Sidecar, service};

#[test]
fn curl_through_http_proxy() {
    let Some(curl) = peer("curl") else { return };
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let proxy = format!("http://{}", sidecar.outbound);
    let said = process::run(
        Command::new(curl)
            .args(["-sS", "--fail", "--max-time", "10", "http://user-service/api/users/123"])
            .env("http_proxy", proxy)
            .env_remove("no_proxy")
            .env_remove("NO_PROXY"),
    );
    assert!(said.contains("\"/api/users/123\""), "{said}");
}

#[test]
fn wrk_with_its_many_connections() {
    let Some(wrk) = peer("wrk") else { return };
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let url = format!("http://{}/api/users", sidecar.outbound);
    let said = process::run(Command::new(wrk).args(["-t12", "-c400", "-d2s", "-H", "Host: user-service", &url]));
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    assert!(upstream.completed() > 0);
}

#[test]
fn http2_with_prior_knowledge() {
    let Some(h2load) = peer("h2load") else { return };
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let to = sidecar.outbound.to_string();
    let said = process::run(Command::new(h2load).args([
        "-n2000",
        "-c4",
        "-m16",
        "--connect-to",
        &to,
        "http://user-service/bytes/1024",
    ]));
    assert!(said.contains("2000 succeeded, 0 failed"), "{said}");
}
