//! What a client or an upstream outside the mesh may not say.

use super::common::{Sidecar, scripted, service};
use celerity_testkit::Upstream;

#[test]
fn nobody_but_a_sidecar_speaks_of_a_hop() {
    let upstream = Upstream::start("users");
    let liar = scripted(b"HTTP/1.1 200 OK\r\nx-celerity-hop: 1;parse=9\r\ncontent-length: 0\r\n\r\n");
    let sidecar = Sidecar::start(&(service("users", &[upstream.address()]) + &service("liar", &[liar])));
    let mut client = sidecar.client();
    let hop = [("x-celerity-hop", "1;parse=9"), ("x-celerity-peer", "1|a|b|c|d|e|f|g")];
    assert_eq!(client.request("GET", "users", "/", &hop, b"").expect("answered").status, 200);
    let heads = upstream.heads().join("\n");
    assert!(!heads.contains("x-celerity-"), "{heads}");
    let answer = client.get("liar", "/").expect("answered");
    assert_eq!((answer.status, answer.header("x-celerity-hop")), (200, None));
}

#[test]
fn protocols_are_not_switched() {
    let switching = scripted(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    let sidecar = Sidecar::start(&service("users", &[switching]));
    assert_eq!(sidecar.client().get("users", "/").expect("answered").status, 502);
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    let answer = sidecar.client().request("GET", "users", "/", &upgrade, b"").expect("answered");
    // The upstream switches to something else than the client asked for.
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("switched protocols"), "{}", answer.text());
}
