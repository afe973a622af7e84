//! `http[].mirror` and `mirrors`.

use super::common::{Sidecar, eventually, service, virtual_service};
use celerity_testkit::Upstream;

fn mesh(main: &Upstream, shadow: &Upstream, mirror: &str) -> String {
    let route = format!("  - route: [{{destination: {{host: users}}}}]\n    {mirror}\n");
    service("users", &[main.address()]) + &service("copy", &[shadow.address()]) + &virtual_service("users", &route)
}

#[test]
fn requests_are_copied_with_their_bodies_and_the_answer_is_thrown_away() {
    let (main, shadow) = (Upstream::start("main"), Upstream::start("shadow"));
    shadow.answer_with(500);
    let sidecar = Sidecar::start(&mesh(&main, &shadow, "mirror: {host: copy}"));
    let mut client = sidecar.client();
    let answer = client.get("users", "/a").expect("answered");
    assert_eq!((answer.status, answer.json()["instance"].as_str()), (200, Some("main")));
    let answer = client.request("POST", "users:80", "/b", &[], b"hello").expect("answered");
    assert_eq!(answer.status, 200);
    eventually("both copies", || shadow.completed() == 2);
    let heads = shadow.heads().join("\n").to_ascii_lowercase();
    assert!(heads.contains("host: users-shadow\r\n") && heads.contains("host: users-shadow:80\r\n"), "{heads}");
    assert!(heads.contains("content-length: 5"), "{heads}");
    assert_eq!(main.requests(), 2);
}

#[test]
fn a_share_of_nothing_copies_nothing() {
    let (main, shadow) = (Upstream::start("main"), Upstream::start("shadow"));
    let none = "mirrors: [{destination: {host: copy}, percentage: {value: 0}}]";
    let sidecar = Sidecar::start(&mesh(&main, &shadow, none));
    let mut client = sidecar.client();
    for _ in 0..20 {
        assert_eq!(client.get("users", "/").expect("answered").status, 200);
    }
    assert_eq!((main.requests(), shadow.requests()), (20, 0));
}
