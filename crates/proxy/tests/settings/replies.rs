//! What the proxy answers itself.

use super::common::{Sidecar, scripted, service, virtual_service};
use celerity_testkit::Upstream;

#[test]
fn a_route_changes_the_proxys_own_answers_too() {
    let headers = "headers: {response: {set: {x-a: '1', content-length: '7'}, remove: [content-type]}}";
    let routes = format!(
        "  - {{match: [{{uri: {{prefix: /late}}}}], {headers}, timeout: 50ms, route: [{{destination: {{host: users}}}}]}}\n\
         \x20 - {{match: [{{uri: {{prefix: /unknown}}}}], {headers}, route: [{{destination: {{host: nobody}}}}]}}\n\
         \x20 - {{match: [{{uri: {{prefix: /abort}}}}], {headers}, fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}, \
         route: [{{destination: {{host: users}}}}]}}\n\
         \x20 - {{match: [{{uri: {{prefix: /direct}}}}], {headers}, directResponse: {{status: 203, body: {{string: words}}}}}}\n\
         \x20 - {{match: [{{uri: {{prefix: /weighted}}}}], {headers}, retries: {{attempts: 0}}, route: [{{destination: {{host: dead}}, \
         weight: 100, headers: {{response: {{set: {{x-w: '1'}}}}}}}}, {{destination: {{host: users}}, weight: 0}}]}}\n"
    );
    let nothing = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let yaml = service("users", &[scripted(b"")]) + &service("dead", &[nothing]) + &virtual_service("users", &routes);
    let sidecar = Sidecar::start(&yaml);
    for (path, status) in [("/late", 504), ("/unknown", 503), ("/abort", 418), ("/direct", 203), ("/weighted", 503)] {
        let answer = sidecar.client().get("users", path).expect("answered");
        assert_eq!((answer.status, answer.header("x-a")), (status, Some("1")), "{path}");
        // What makes the answer one is not the route's to change.
        assert_eq!(answer.header("content-type"), Some("text/plain"), "{path}");
        assert_eq!(answer.header("x-w").is_some(), path == "/weighted", "{path}");
        assert!(answer.text().len() != 7 && !answer.text().is_empty(), "{path}");
    }
    assert_eq!(sidecar.client().get("elsewhere", "/").expect("answered").header("x-a"), None);
}

#[test]
fn a_preflight_is_allowed_what_it_asks_for_where_all_is_allowed() {
    let upstream = Upstream::start("users");
    let cors = "  - corsPolicy: {allowOrigins: [{exact: 'http://a'}], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true}\n    \
                route: [{destination: {host: users}}]\n";
    let sidecar = Sidecar::start(&(service("users", &[upstream.address()]) + &virtual_service("users", cors)));
    let asked = [
        ("origin", "http://a"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a, x-b"),
    ];
    let answer = sidecar.client().request("OPTIONS", "users", "/", &asked, b"").expect("answered");
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-a, x-b"));
    assert_eq!(upstream.requests(), 0);
}
