//! Which services a proxy sees, under which names, with which endpoints and rules.

#[path = "translate_support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use celerity_model::istio::Locality;
use celerity_model::patch::pool;
use celerity_model::snapshot::Snapshot;
use celerity_model::translate::{
    Index, Needed, Node, Resources, Role, affected, concerns, explain, host_key, translate,
};
use serde_json::{Value, json};
use support::{config, node};

fn made(yaml: &str, node: &Node) -> Resources {
    translate(&config(yaml), node).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn cluster(resources: &Resources, name: &str) -> Value {
    let found = resources.clusters.iter().find(|cluster| cluster.name == name);
    found.map(pool::json).unwrap_or_else(|| panic!("no cluster {name}"))
}

/// Address, port and priority of the endpoints of a cluster.
fn endpoints(resources: &Resources, name: &str) -> Vec<(String, u64, u64)> {
    let found = resources.endpoints.iter().find(|one| one.cluster_name == name).map(pool::json).unwrap_or_default();
    let mut all = Vec::new();
    for group in found["endpoints"].as_array().into_iter().flatten() {
        for endpoint in group["lb_endpoints"].as_array().into_iter().flatten() {
            let socket = &endpoint["endpoint"]["address"]["socket_address"];
            all.push((
                socket["address"].as_str().unwrap_or_default().to_owned(),
                socket["port_value"].as_u64().unwrap_or_default(),
                group["priority"].as_u64().unwrap_or_default(),
            ));
        }
    }
    all
}

fn document(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

/// A ServiceEntry with one address.
fn entry(name: &str, namespace: &str, host: &str, more: &str) -> String {
    let ports = "ports: [{name: http, number: 80, protocol: HTTP}]";
    let spec = format!(
        "hosts: [{host}], location: MESH_INTERNAL, resolution: STATIC, {ports}, endpoints: [{{address: 10.0.0.1}}]{more}"
    );
    document("ServiceEntry", name, namespace, &spec)
}

fn service(spec: &str, slice: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{{spec}}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\n{slice}"
    )
}

const A: &str = "outbound|80||a.default.svc.cluster.local";

fn timeout_of(resources: &Resources, name: &str) -> String {
    cluster(resources, name)["connect_timeout"].as_str().unwrap_or_default().to_owned()
}

fn rule(name: &str, namespace: &str, host: &str, seconds: u32, more: &str) -> String {
    let policy = format!("trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}");
    document("DestinationRule", name, namespace, &format!("host: {host}, {policy}{more}"))
}

#[test]
fn a_short_host_is_that_of_its_namespace() {
    let routes = document(
        "VirtualService",
        "v",
        "default",
        "hosts: [user-service], http: [{name: mine, route: [{destination: {host: user-service}}]}]",
    );
    let yaml =
        format!("{}{}{routes}", entry("e", "default", "User-Service", ""), rule("r", "default", "user-service", 3, ""));
    let full = "user-service.default.svc.cluster.local";
    let resources = made(&yaml, &node());
    assert_eq!(timeout_of(&resources, &format!("outbound|80||{full}")), "3s");
    let host = &resources.routes[0].virtual_hosts[0];
    assert_eq!((host.name.as_str(), host.routes[0].name.as_str()), (format!("{full}:80").as_str(), "mine"));
    for name in ["user-service", "user-service:80", "user-service.default", full] {
        assert!(host.domains.iter().any(|domain| domain == name), "{name} in {:?}", host.domains);
    }
    let elsewhere = made(&yaml, &Node { namespace: "other".to_owned(), ..node() });
    assert!(!elsewhere.routes[0].virtual_hosts[0].domains.contains(&"user-service".to_owned()));
    let all = concerns(&config(&yaml), &node());
    let hosts = [host_key(full)].into();
    let needed = Needed::new(&hosts, all.iter());
    assert!(all.iter().all(|concern| needed.contains(concern)), "a change of any of the three is a change of the host");
}

#[test]
fn a_change_of_one_host_of_a_route_is_one_of_its_other_hosts() {
    let routes = document(
        "VirtualService",
        "v",
        "default",
        "hosts: [a, shop.example.com], http: [{route: [{destination: {host: a}}]}]",
    );
    let all = concerns(&config(&format!("{}{routes}", entry("e", "default", "a", ""))), &node());
    let (a, shop) = (host_key("a.default.svc.cluster.local"), host_key("shop.example.com"));
    let changed = all.iter().filter(|concern| concern.role == Role::Host);
    assert_eq!(affected(changed, all.iter()), Some([a, shop].into()));
    let hosts = [shop].into();
    let needed = Needed::new(&hosts, all.iter());
    assert!(all.iter().all(|concern| needed.contains(concern)), "its port is the service's to say");
}

#[test]
fn a_short_host_of_dns_is_asked_for_as_it_is_written() {
    let spec = "hosts: [redis], resolution: DNS, ports: [{name: http, number: 80}]";
    let resources = made(&document("ServiceEntry", "e", "default", spec), &node());
    let made = cluster(&resources, "outbound|80||redis.default.svc.cluster.local");
    assert!(made["load_assignment"].to_string().contains("\"address\":\"redis\""), "{made}");
}

#[test]
fn a_name_that_ends_in_a_dot_is_the_same_name() {
    let yaml =
        format!("{}{}", entry("e", "default", "a", ""), rule("r", "default", "a.default.svc.cluster.local.", 3, ""));
    let resources = made(&yaml, &node());
    assert_eq!(timeout_of(&resources, A), "3s");
    let snapshot = Snapshot::build(&resources, None).expect("it builds");
    let table = &snapshot.listener("outbound").expect("outbound").chains[0].manager.routes;
    let of = |authority: &str| table.lookup(authority.as_bytes()).map(|host| host.name.to_string());
    let host = of("a.default.svc.cluster.local");
    assert!(host.as_deref().is_some_and(|name| name.starts_with("a.default")), "{host:?}");
    assert_eq!(of("a.default.svc.cluster.local."), host);
    assert_eq!(of("A.default.svc.cluster.local.:80"), host);
    assert_ne!(of("."), host);
}

#[test]
fn only_tcp_ports_of_a_slice_are_used() {
    let slice = "ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns, port: 53, protocol: TCP}]\nendpoints: [{addresses: [10.0.0.1]}]\n";
    let both = "ports: [{name: dns, port: 80, protocol: UDP}, {name: dns-tcp, port: 80, protocol: TCP}]";
    let resources = made(&service(both, &slice.replace("name: dns, port: 53,", "name: dns-tcp, port: 53,")), &node());
    assert_eq!(endpoints(&resources, A), [("10.0.0.1".to_owned(), 53, 0)]);
    let resources = made(&service("ports: [{name: dns, port: 80}]", slice), &node());
    assert_eq!(endpoints(&resources, A), [("10.0.0.1".to_owned(), 53, 0)]);
    let only_udp = "ports: [{name: dns, port: 5353, protocol: UDP}]\nendpoints: [{addresses: [10.0.0.1]}]\n";
    assert_eq!(endpoints(&made(&service("ports: [{name: dns, port: 80}]", only_udp), &node()), A), []);
}

#[test]
fn endpoints_that_end_serve_while_there_are_no_others() {
    let ending = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let dead = "{addresses: [10.0.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    let fresh = "{addresses: [10.0.0.3], conditions: {ready: true}}";
    let of = |spec: &str, list: &str| {
        let slice = format!("ports: [{{name: http, port: 8080}}]\nendpoints: [{list}]\n");
        let resources = made(&service(&format!("{spec}ports: [{{name: http, port: 80}}]"), &slice), &node());
        endpoints(&resources, A).into_iter().map(|(address, ..)| address).collect::<Vec<_>>()
    };
    assert_eq!(of("", &format!("{ending}, {dead}, {fresh}")), ["10.0.0.3"]);
    assert_eq!(of("", &format!("{ending}, {dead}")), ["10.0.0.1"]);
    assert_eq!(of("publishNotReadyAddresses: true, ", &format!("{ending}, {dead}")), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn traffic_distribution_prefers_the_own_zone() {
    let me = Node { locality: Locality::parse("r/z1"), ..node() };
    let slice = "ports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.0.0.1], zone: z2}, {addresses: [10.0.0.2], zone: z1}]\n"
        .to_owned();
    let with = |spec: &str| {
        let yaml = service(&format!("{spec}ports: [{{name: http, port: 80}}]"), &slice).replace(
            "kubernetes.io/service-name: a",
            "kubernetes.io/service-name: a, topology.kubernetes.io/region: r",
        );
        let mut found = endpoints(&made(&yaml, &me), A);
        found.sort();
        found.into_iter().map(|(_, _, priority)| priority).collect::<Vec<_>>()
    };
    assert_eq!(with(""), [0, 0]);
    assert_eq!(with("trafficDistribution: PreferClose, "), [1, 0]);
}

#[test]
fn what_is_exported_elsewhere_is_not_for_the_own_namespace() {
    let own = |to: &str| format!(", exportTo: [{to}]");
    let base = entry("e", "default", "a", "");
    let me = node();
    let other = Node { namespace: "other".to_owned(), ..node() };
    for (to, here, there) in [("'*'", "3s", "3s"), (".", "3s", "10s"), ("default", "3s", "10s"), ("other", "10s", "3s")]
    {
        let yaml = format!("{base}{}", rule("r", "default", "a", 3, &own(to)));
        assert_eq!(timeout_of(&made(&yaml, &me), A), here, "a rule for {to}, here");
        assert_eq!(timeout_of(&made(&yaml, &other), A), there, "a rule for {to}, in other");
    }
    let routes = |to: &str| {
        let spec = format!("hosts: [a], http: [{{name: mine, route: [{{destination: {{host: a}}}}]}}]{}", own(to));
        format!("{base}{}", document("VirtualService", "v", "default", &spec))
    };
    let route = |yaml: &str, node: &Node| made(yaml, node).routes[0].virtual_hosts[0].routes[0].name.clone();
    for (to, here, there) in [("'*'", "mine", "mine"), (".", "mine", "default"), ("other", "default", "mine")] {
        assert_eq!(route(&routes(to), &me), here, "routes for {to}, here");
        assert_eq!(route(&routes(to), &other), there, "routes for {to}, in other");
    }
    let sees = |yaml: &str, node: &Node| made(yaml, node).clusters.iter().any(|cluster| cluster.name == A);
    for (to, here, there) in [("'*'", true, true), (".", true, false), ("other", false, true), ("'~'", false, false)] {
        let yaml = entry("e", "default", "a", &own(to));
        assert_eq!((sees(&yaml, &me), sees(&yaml, &other)), (here, there), "an entry for {to}");
        let annotated = service("ports: [{name: http, port: 80}]", "ports: []\nendpoints: []\n")
            .replace("{name: a}", &format!("{{name: a, annotations: {{networking.istio.io/exportTo: {to}}}}}"));
        assert_eq!((sees(&annotated, &me), sees(&annotated, &other)), (here, there), "a service for {to}");
    }
}

#[test]
fn rules_of_the_client_stand_before_those_of_the_service_and_of_the_root() {
    let host = "a.shop.svc.cluster.local";
    let name = format!("outbound|80||{host}");
    let base = entry("e", "shop", "a", "");
    let (client, service, root) = (
        rule("client", "default", host, 1, ""),
        rule("service", "shop", "a", 2, ""),
        rule("root", "istio-system", host, 3, ""),
    );
    let of = |rules: &[&String]| {
        let rules: String = rules.iter().map(|rule| rule.as_str()).collect();
        timeout_of(&made(&format!("{base}{rules}"), &node()), &name)
    };
    assert_eq!(of(&[&root, &service, &client]), "1s");
    assert_eq!(of(&[&root, &service]), "2s");
    assert_eq!(of(&[&root]), "3s");
    let stranger = rule("stranger", "elsewhere", host, 4, "");
    assert_eq!(of(&[&stranger]), "10s", "a namespace that is neither has no say");
}

#[test]
fn a_rule_for_chosen_workloads_is_for_them_alone() {
    let host = "a.default.svc.cluster.local";
    let selector = ", workloadSelector: {matchLabels: {app: order-service}}";
    let base = entry("e", "default", "a", "");
    let yaml = format!("{base}{}{}", rule("all", "default", host, 1, ""), rule("some", "default", host, 2, selector));
    assert_eq!(timeout_of(&made(&yaml, &node()), A), "2s");
    let stranger = Node { labels: BTreeMap::new(), ..node() };
    assert_eq!(timeout_of(&made(&yaml, &stranger), A), "1s");
    let root = format!("{base}{}", rule("some", "istio-system", host, 2, selector));
    assert_eq!(timeout_of(&made(&root, &node()), A), "10s", "it stays in its namespace");
}

#[test]
fn a_patch_for_chosen_workloads_is_for_them_alone() {
    let filter = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f}\nspec:\n  workloadSelector: {labels: {app: order-service}}\n  configPatches:\n  - {applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND, cluster: {service: a.default.svc.cluster.local}}, patch: {operation: MERGE, value: {connect_timeout: 5s}}}\n";
    let yaml = format!("{}{filter}", entry("e", "default", "a", ""));
    assert_eq!(timeout_of(&made(&yaml, &node()), A), "5s");
    let labels = BTreeMap::from([("app".to_owned(), "another".to_owned())]);
    let resources = made(&yaml, &Node { labels, ..node() });
    let outcome = &resources.patches[0].outcome;
    assert_eq!(timeout_of(&resources, A), "10s");
    assert!(
        matches!(outcome, celerity_model::patch::Outcome::Elsewhere(_)),
        "it is reported all the same: {outcome:?}"
    );
    let elsewhere = made(&yaml, &Node { namespace: "other".to_owned(), ..node() });
    assert_eq!(timeout_of(&elsewhere, A), "10s");
}

#[test]
fn routes_lead_to_hosts_of_another_namespace() {
    let spec = "hosts: [a], http: [{route: [{destination: {host: b.shop.svc.cluster.local}}]}]";
    let yaml = format!(
        "{}{}{}",
        entry("a", "default", "a", ""),
        entry("b", "shop", "b", ""),
        document("VirtualService", "v", "default", spec)
    );
    let resources = made(&yaml, &node());
    let action = pool::json(&resources.routes[0].virtual_hosts[0].routes[0])["route"]["cluster"].clone();
    assert_eq!(action, json!("outbound|80||b.shop.svc.cluster.local"));
    let short = yaml.replace("host: b.shop.svc.cluster.local", "host: b");
    let action = pool::json(&made(&short, &node()).routes[0].virtual_hosts[0].routes[0])["route"]["cluster"].clone();
    assert_eq!(action, json!("outbound|80||b.default.svc.cluster.local"), "short names stay in their namespace");
}

#[test]
fn every_resource_says_where_it_came_from() {
    let yaml = format!(
        "{}{}{}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{mtls: {{mode: PERMISSIVE}}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, namespace: istio-system}}\ndata: {{config.yaml: 'proxy: {{concurrency: 2}}'}}\n{}",
        support::service_and_endpoints(),
        rule("r", "default", "user-service", 1, ""),
        service("ports: [{name: http, port: 80}]", "ports: [{port: 8080}]\nendpoints: [{addresses: [10.0.0.1]}]\n"),
        document(
            "VirtualService",
            "v",
            "default",
            "hosts: [b.example.com], http: [{route: [{destination: {host: a}}]}]"
        ),
    );
    let config = config(&yaml);
    let me = Node { addresses: vec![[127, 0, 1, 4].into()], ..node() };
    let said = explain(&Index::new(&config, &me));
    let from = |name: &str| -> Vec<String> {
        let found = said.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("nothing of {name}"));
        found.inputs.iter().map(|input| format!("{} {}", input.kind, input.id)).collect()
    };
    assert_eq!(from("outbound"), ["ConfigMap istio-system/c"]);
    assert_eq!(
        from("inbound"),
        ["ServiceEntry default/user-service", "PeerAuthentication default/p", "ConfigMap istio-system/c"]
    );
    assert_eq!(from("inbound|8080||"), ["ServiceEntry default/user-service", "DestinationRule default/r"]);
    assert_eq!(from(A), ["Service default/a", "EndpointSlice default/a-1"]);
    let user = from("outbound|80||user-service.default.svc.cluster.local");
    assert_eq!((user.len(), user[5].as_str()), (6, "WorkloadEntry default/user-4"), "{user:?}");
    assert_eq!(from("b.example.com:80"), ["VirtualService default/v"]);
    let made = made(&yaml, &me);
    let names = made.clusters.iter().map(|c| &c.name).chain(made.listeners.iter().map(|l| &l.name));
    for name in names.filter(|name| *name != "PassthroughCluster") {
        assert!(said.iter().any(|one| one.name == *name), "nothing is said of {name}");
    }
}

#[test]
fn endpoints_of_slices_go_by_the_ports_name_and_count_once() {
    let service =
        |ports: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{ports}]}}\n");
    let slice = |name: &str, ports: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{{addresses: [{address}]}}]\n"
        )
    };
    let (http, admin) = ("{name: http, port: 8080}", "{name: admin, port: 9090}");
    let two = service("{name: http, port: 80}, {name: admin, port: 81}");
    let only = service("{port: 80}");
    for (yaml, port, count) in [
        // Kubernetes moves an endpoint from one slice to another, and for a moment both have it.
        (format!("{two}{}{}", slice("x", http, "10.0.0.1"), slice("y", http, "10.0.0.1")), 80, 1),
        (format!("{two}{}{}", slice("x", http, "10.0.0.1"), slice("y", http, "10.0.0.2")), 80, 2),
        (format!("{two}{}{}", slice("x", http, "10.0.0.1"), slice("y", admin, "10.0.0.1")), 81, 1),
        (format!("{two}{}", slice("x", http, "10.0.0.1")), 81, 0),
        (format!("{only}{}", slice("x", "{port: 8080}", "10.0.0.1")), 80, 1),
        (format!("{only}{}", slice("x", http, "10.0.0.1")), 80, 0),
    ] {
        let resources = made(&yaml, &node());
        let name = format!("outbound|{port}||a.default.svc.cluster.local");
        let found = resources.endpoints.iter().find(|one| one.cluster_name == name).expect("the cluster's endpoints");
        assert_eq!(found.endpoints.iter().map(|group| group.lb_endpoints.len()).sum::<usize>(), count, "{yaml}");
    }
}
