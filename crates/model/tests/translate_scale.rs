//! Size: a thousand services of ten endpoints, and the change of one of them.

#[path = "translate_support/mod.rs"]
mod support;

use std::io::Write as _;
use std::time::Instant;

use celerity_model::istio::Config;
use celerity_model::translate::{Index, Node, patch_set, translate, translate_service};
use support::{certificates, config, node};

const SERVICES: usize = 1000;
const ENDPOINTS: usize = 10;

fn many(services: usize) -> Config {
    let mut yaml = String::new();
    for service in 0..services {
        let addresses: String =
            (0..ENDPOINTS).map(|at| format!("- addresses: [10.{}.{}.{at}]\n", service / 250, service % 250)).collect();
        yaml += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}}}\nspec: {{clusterIP: 10.200.{}.{}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}-a, labels: {{kubernetes.io/service-name: s{service}, app: s{service}, version: v1, security.istio.io/tlsMode: istio}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n{addresses}",
            service / 250,
            service % 250
        );
    }
    config(&yaml)
}

#[test]
fn a_thousand_services_translate_and_say_how_long_it_took() {
    let config = many(SERVICES);
    let me = Node { certificates: Some(certificates()), ..node() };
    let begun = Instant::now();
    let made = translate(&config, &me).expect("translates");
    let took = begun.elapsed();
    assert_eq!(
        (made.clusters.len(), made.endpoints.len(), made.routes[0].virtual_hosts.len()),
        // One more cluster and virtual host are for hosts that no service has.
        (SERVICES + 1, SERVICES, SERVICES + 1)
    );
    // No bound is asserted: the machine that runs tests is not the one that carries traffic.
    let _ = writeln!(std::io::stderr(), "{SERVICES} services of {ENDPOINTS} endpoints: {took:?}");
}

#[test]
fn one_service_is_translated_alone_as_among_all() {
    let me = node();
    let mut new = many(50);
    new.endpoint_slices[7].spec.endpoints.pop();
    let whole = translate(&new, &me).expect("translates");
    let alone = translate_service(&Index::new(&new, &me), "s7.default.svc.cluster.local");
    assert!(whole.clusters.contains(&alone.clusters[0]) && whole.endpoints.contains(&alone.endpoints[0]));
    assert!(whole.routes[0].virtual_hosts.contains(&alone.virtual_hosts[0]));
    assert_eq!(alone.endpoints[0].endpoints.iter().map(|group| group.lb_endpoints.len()).sum::<usize>(), ENDPOINTS - 1);
}

#[test]
fn patches_of_one_service_are_those_of_the_whole() {
    let patches = "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: p, namespace: istio-system}\nspec:\n  configPatches:\n  - {applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {connect_timeout: 3s}}}\n  - {applyTo: CLUSTER, patch: {operation: ADD, value: {name: extra, type: STATIC}}}\n  - {applyTo: HTTP_ROUTE, match: {routeConfiguration: {portNumber: 80}}, patch: {operation: MERGE, value: {route: {timeout: 4s}}}}\n";
    let me = node();
    let mut config = many(3);
    config.envoy_filters = support::config(patches).envoy_filters;
    let whole = translate(&config, &me).expect("translates");
    let (index, set) = (Index::new(&config, &me), patch_set(&config, &me).expect("right"));
    for host in index.hosts() {
        let mut alone = translate_service(&index, host);
        set.apply_to_service(&mut alone.clusters, &mut alone.virtual_hosts);
        assert_eq!(alone.clusters.len(), 1, "what is added to the proxy is not added to each service");
        assert!(whole.clusters.contains(&alone.clusters[0]), "{host}");
        assert!(whole.routes[0].virtual_hosts.contains(&alone.virtual_hosts[0]), "{host}");
        assert_eq!(alone.clusters[0].connect_timeout.as_ref().map(|timeout| timeout.seconds), Some(3));
    }
}
