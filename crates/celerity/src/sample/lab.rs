//! The machine-wide arrangement of `celerity up`: which instances there are, at which addresses and ports.
//!
//! Every workload has a loopback address of its own, so that every sidecar has the ports that it has in production.
//! The order-service's sidecar is the user's entry; its outbound and admin ports are on 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::order::Orders;
use super::service::{self, Instance};
use super::user::Users;
use crate::config::files::Source;
use crate::rng::LogNormal;
use crate::timer::Timer;

/// The same YAML that `celerity proxy` would read for these services.
const SERVICES_YAML: &str = include_str!("../../../../examples/mesh/services.yaml");
const MUTUAL_TLS_YAML: &str = include_str!("../../../../examples/mesh/mutual-tls.yaml");

/// The tutorial's documents, for a binary that runs away from its sources.
const TUTORIAL: [(&str, &str); 7] = [
    ("examples/tutorial/1-connections.yaml", include_str!("../../../../examples/tutorial/1-connections.yaml")),
    ("examples/tutorial/2-routing.yaml", include_str!("../../../../examples/tutorial/2-routing.yaml")),
    ("examples/tutorial/3-proxy-resources.yaml", include_str!("../../../../examples/tutorial/3-proxy-resources.yaml")),
    ("examples/tutorial/4-filters.yaml", include_str!("../../../../examples/tutorial/4-filters.yaml")),
    ("examples/tutorial/5-concurrency.yaml", include_str!("../../../../examples/tutorial/5-concurrency.yaml")),
    ("examples/tutorial/6-load-balancing.yaml", include_str!("../../../../examples/tutorial/6-load-balancing.yaml")),
    ("examples/tutorial/7-monitoring.yaml", include_str!("../../../../examples/tutorial/7-monitoring.yaml")),
];

/// The tutorial, in the order in which its folder is read.
pub(crate) fn tutorial() -> [Source; 7] {
    TUTORIAL.map(|(name, text)| Source { name: name.to_owned(), text: text.to_owned() })
}

/// The first of the sidecars' ports, as Istio has them.
pub(crate) const PORT_BASE: u16 = 15000;
const APPLICATION_PORT: u16 = 8080;

/// Service times. user-service: half the requests within 2 ms, 99 of 100 within 10 ms.
const USER_MEDIAN: Duration = Duration::from_millis(2);
const USER_P99: Duration = Duration::from_millis(10);
const ORDER_MEDIAN: Duration = Duration::from_micros(500);
const ORDER_P99: Duration = Duration::from_millis(2);
const SEED: u64 = 0x0ce1_e217;

const USER: &str = "user-service";
const ORDER: &str = "order-service";

/// The ports of one run, all counted from a base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    base: u16,
    application: u16,
}

/// From one mesh's ports to those of one beside it: past the 90 that a mesh spans.
const BESIDE: u16 = 200;

impl Ports {
    /// `base` is at most 65000, so that no port overflows, and none of a mesh beside it.
    pub(crate) fn from_base(base: u16) -> Self {
        // 8080 as in production; with another base, next to the sidecar's ports, since 8080 is the likeliest one taken.
        Self { base, application: if base == PORT_BASE { APPLICATION_PORT } else { base + 80 } }
    }

    /// Of a second mesh before the same applications.
    pub(crate) fn beside(self) -> Self {
        Self { base: self.base + BESIDE, ..self }
    }

    pub(crate) fn admin(self) -> u16 {
        self.base
    }

    pub(crate) fn outbound(self) -> u16 {
        self.base + 1
    }

    pub(crate) fn inbound(self) -> u16 {
        self.base + 6
    }

    pub(crate) fn health(self) -> u16 {
        self.base + 21
    }

    pub(crate) fn prometheus(self) -> u16 {
        self.base + 90
    }

    pub(crate) fn application(self) -> u16 {
        self.application
    }

    /// The documents of the sample services, with this run's ports in them.
    pub(crate) fn documents(self) -> [Source; 2] {
        let services = SERVICES_YAML
            .replace("http: 15006", &format!("http: {}", self.inbound()))
            .replace("targetPort: 8080", &format!("targetPort: {}", self.application()));
        let source = |name: &str, text: String| Source { name: name.to_owned(), text };
        [
            source("examples/mesh/services.yaml", services),
            source("examples/mesh/mutual-tls.yaml", MUTUAL_TLS_YAML.to_owned()),
        ]
    }
}

/// One workload: its application and the addresses of its sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) instance: Instance,
    pub(crate) namespace: &'static str,
    pub(crate) service_account: String,
    /// Where its sidecar's ports for the machine's own use are: outbound, admin, metrics, probes.
    pub(crate) local_ip: IpAddr,
    pub(crate) ports: Ports,
}

impl Workload {
    pub(crate) fn outbound(&self) -> SocketAddr {
        (self.local_ip, self.ports.outbound()).into()
    }

    /// Where its callers' sidecars connect.
    pub(crate) fn inbound(&self) -> SocketAddr {
        (self.instance.address.ip(), self.ports.inbound()).into()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        (self.local_ip, self.ports.admin()).into()
    }

    pub(crate) fn health(&self) -> SocketAddr {
        (self.local_ip, self.ports.health()).into()
    }

    pub(crate) fn prometheus(&self) -> SocketAddr {
        (self.local_ip, self.ports.prometheus()).into()
    }

    pub(crate) fn labels(&self) -> Vec<(String, String)> {
        vec![("app".into(), self.instance.service.clone()), ("version".into(), self.instance.version.clone())]
    }
}

/// The five workloads; the last one is the order-service, whose sidecar is the user's entry.
pub(crate) fn workloads(ports: Ports) -> Vec<Workload> {
    let workload = |service: &str, version: &str, number: u8, host: u8, locality: &str| {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 1, host));
        Workload {
            instance: Instance {
                name: format!("{service}-{version}-{number}"),
                service: service.to_owned(),
                version: version.to_owned(),
                locality: locality.to_owned(),
                address: (ip, ports.application()).into(),
            },
            namespace: "default",
            service_account: service.to_owned(),
            local_ip: if service == ORDER { Ipv4Addr::LOCALHOST.into() } else { ip },
            ports,
        }
    };
    vec![
        workload(USER, "v1", 1, 1, "us-central1/us-central1-a"),
        workload(USER, "v1", 2, 2, "us-central1/us-central1-a"),
        workload(USER, "v1", 3, 3, "us-central1/us-central1-b"),
        workload(USER, "v2", 1, 4, "us-west1/us-west1-a"),
        workload(ORDER, "v1", 1, 10, "us-central1/us-central1-a"),
    ]
}

/// Starts every application on the current `LocalSet`.
pub(crate) async fn start(workloads: &[Workload], timer: &Timer) -> anyhow::Result<()> {
    for (seed, workload) in (SEED..).zip(workloads) {
        let (me, timer) = (workload.instance.clone(), timer.clone());
        if workload.instance.service == ORDER {
            let orders = Orders::new(workload.outbound());
            service::start(me, orders, LogNormal::new(ORDER_MEDIAN, ORDER_P99), timer, seed).await?;
        } else {
            service::start(me, Users, LogNormal::new(USER_MEDIAN, USER_P99), timer, seed).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::http::{Client, Request};

    #[test]
    fn the_yaml_and_the_arrangement_name_the_same_workloads() {
        let ports = Ports::from_base(PORT_BASE);
        let [Source { text: services, .. }, _] = ports.documents();
        let entries: Vec<_> = services.split("---").filter(|text| text.contains("kind: WorkloadEntry")).collect();
        let workloads = workloads(ports);
        assert_eq!(entries.len(), workloads.len());
        for (entry, workload) in entries.iter().zip(&workloads) {
            let instance = &workload.instance;
            for expected in [
                format!("name: {}\n", instance.name),
                format!("address: {}\n", instance.address.ip()),
                format!("locality: {}\n", instance.locality),
                format!("version: {}\n", instance.version),
                format!("serviceAccount: {}\n", workload.service_account),
            ] {
                assert!(entry.contains(&expected), "{expected} is not in\n{entry}");
            }
        }
    }

    #[test]
    fn another_base_moves_every_port_in_the_documents_too() {
        let ports = Ports::from_base(25000);
        let [Source { text: services, .. }, _] = ports.documents();
        assert!(!services.contains("http: 15006") && !services.contains("targetPort: 8080"));
        assert!(services.contains("http: 25006") && services.contains("targetPort: 25080"));
        let [Source { text: beside, .. }, _] = ports.beside().documents();
        assert!(beside.contains("http: 25206") && beside.contains("targetPort: 25080"));
    }

    #[tokio::test]
    async fn a_user_instance_answers_and_can_be_switched() {
        let local = tokio::task::LocalSet::new();
        let test = async {
            let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
            let mut workload = workloads(Ports::from_base(PORT_BASE)).remove(0);
            workload.instance.address = free;
            let timer = Timer::start().expect("a timer");
            start(std::slice::from_ref(&workload), &timer).await.expect("started");
            let client = Client::new(free);
            let ask = async |method: &str, target: &str| {
                let request = Request { method: method.into(), target: target.into(), ..Request::default() };
                client.send("user-service", &request).await.expect("an answer")
            };
            let user = ask("GET", "/api/users/123").await;
            let body: serde_json::Value = serde_json::from_slice(&user.body).expect("JSON");
            assert_eq!((user.status, &body["id"]), (200, &123.into()));
            assert_eq!(body["served_by"]["instance"], "user-service-v1-1");
            assert_eq!(user.header("x-served-by"), Some("user-service-v1-1"));
            assert_eq!(ask("HEAD", "/api/users").await.body, b"");
            assert_eq!(ask("GET", "/api/users/0").await.status, 404);
            assert_eq!(ask("POST", "/switch?mode=failing").await.status, 200);
            assert_eq!(ask("GET", "/api/users/1").await.status, 503);
            assert_eq!(ask("POST", "/switch?mode=ok").await.status, 200);
            assert_eq!(ask("GET", "/api/users/1").await.status, 200);
        };
        local.run_until(test).await;
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_way_out() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut workload = workloads(Ports::from_base(PORT_BASE)).remove(0);
        workload.instance.address = taken.local_addr().expect("address");
        let timer = Timer::start().expect("a timer");
        let error = start(&[workload], &timer).await.expect_err("the port is taken");
        assert!(error.to_string().contains("--port-base"), "{error}");
    }
}
