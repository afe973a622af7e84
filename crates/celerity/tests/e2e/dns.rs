//! Services that are DNS names: their addresses come from the resolvers that the configuration names.
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use celerity_testkit::Upstream;

use crate::support::{Sidecar, documents, eventually};

/// A resolver on loopback with one answer for every name; `None`: there is no such name (RFC 1035, section 4.1).
struct Resolver {
    address: SocketAddr,
    answer: Arc<Mutex<Option<Ipv4Addr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(answer: Option<Ipv4Addr>) -> Self {
        Self::slow(answer, Duration::ZERO)
    }

    fn slow(answer: Option<Ipv4Addr>, pause: Duration) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let address = socket.local_addr().expect("an address");
        let (answer, stop) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (answer.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                std::thread::sleep(pause);
                let answer = *shared.lock().expect("no panic under the lock");
                let _ = socket.send_to(&reply(&buffer[..length], answer), from);
            }
        });
        Self { address, answer, stop, thread: Some(thread) }
    }

    fn now(&self, answer: Option<Ipv4Addr>) {
        *self.answer.lock().expect("no panic under the lock") = answer;
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn reply(query: &[u8], answer: Option<Ipv4Addr>) -> Vec<u8> {
    let name = query[12..].iter().position(|&byte| byte == 0).expect("a name ends");
    let question = &query[12..12 + name + 5];
    let is_a = question[name + 1..name + 3] == [0, 1];
    let given = answer.filter(|_| is_a);
    let code = if answer.is_none() { 0x83 } else { 0x80 };
    let mut out = [&query[..2], &[0x81, code, 0, 1, 0, u8::from(given.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = given {
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend_from_slice(&address.octets());
    }
    out
}

fn mesh(resolver: &Resolver, upstream: &Upstream) -> String {
    let settings = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: dns, namespace: istio-system}}\ndata:\n  dns.yaml: |\n    \
         dns_refresh_rate: 1s\n    dns_lookup_family: V4_ONLY\n    dns_resolution_config:\n      resolvers: [\"udp://{}\"]",
        resolver.address
    );
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: pay, namespace: default}}\nspec:\n  \
         hosts: [pay.example.test]\n  location: MESH_EXTERNAL\n  resolution: DNS\n  ports: [{{name: http, number: 80, \
         protocol: HTTP, targetPort: {}}}]",
        upstream.address().port()
    );
    documents(&[&settings, &entry])
}

#[test]
fn a_named_service_is_reached_once_its_name_is_known_and_while_the_resolver_fails() {
    let upstream = Upstream::start("one");
    let resolver = Resolver::start(None);
    let sidecar = Sidecar::start(&mesh(&resolver, &upstream));
    let early = sidecar.get("pay.example.test", "/status/200");
    assert_eq!(early.status, 503, "{}", early.text());
    eventually("the denial is told", || sidecar.admin("/clusters").contains("no such name"));

    resolver.now(Some(Ipv4Addr::LOCALHOST));
    eventually("the name is resolved", || sidecar.get("pay.example.test", "/status/200").status == 200);
    let address = format!("outbound|80||pay.example.test::{}::", upstream.address());
    assert!(sidecar.admin("/clusters").contains(&address), "{}", sidecar.admin("/clusters"));
    assert!(sidecar.admin("/stats/prometheus").contains("celerity_dns_resolutions_total{result=\"answered\"}"));

    // Another configuration with the same name keeps the address, and a resolver that fails takes nothing away.
    drop(resolver);
    sidecar.config.write("more.yaml", &crate::support::service("other", &[(&upstream, "version: v1")]));
    eventually("the change is taken up", || sidecar.get("other", "/status/200").status == 200);
    assert_eq!(sidecar.get("pay.example.test", "/status/200").status, 200);
}

#[test]
fn ready_means_that_names_are_known() {
    let upstream = Upstream::start("one");
    let resolver = Resolver::slow(Some(Ipv4Addr::LOCALHOST), Duration::from_millis(500));
    let sidecar = Sidecar::start(&mesh(&resolver, &upstream));
    assert_eq!(sidecar.get("pay.example.test", "/status/200").status, 200);
}
