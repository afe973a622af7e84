//! The tutorial's 19 documents load verbatim, and say what their author meant.

mod common;

use std::time::Duration;

use celerity_model::istio::{self, ApplyTo, PatchOperation, SimpleBalancer, TlsMode};

#[test]
fn all_documents_load_without_an_error() {
    let Some(files) = common::tutorial_blocks() else { return };
    let config = istio::read(&common::borrowed(&files)).expect("the tutorial is right");
    assert_eq!(config.len(), 19);
    assert_eq!(config.destination_rules.len(), 9);
    assert_eq!(config.config_maps.len(), 4);
    assert_eq!(config.envoy_filters.len(), 4);
    assert_eq!(config.prometheus_rules.len(), 2);
}

#[test]
fn each_document_says_what_it_says() {
    let Some(files) = common::tutorial_blocks() else { return };
    let config = istio::read(&common::borrowed(&files)).expect("the tutorial is right");
    let rule = |name: &str| {
        let found = config.destination_rules.iter().find(|d| d.meta.name == name);
        found.unwrap_or_else(|| panic!("{name}")).spec.clone()
    };
    let pool = rule("connection-pool-optimization").traffic_policy.and_then(|p| p.connection_pool).expect("a pool");
    let tcp = pool.tcp.expect("tcp");
    assert_eq!(tcp.max_connections, Some(1000));
    assert_eq!(tcp.connect_timeout, Some(Duration::from_millis(30)));
    let http = pool.http.expect("http");
    assert_eq!(http.max_retries, Some(3));
    let port = rule("protocol-optimization").traffic_policy.expect("a policy").port_level_settings.remove(0);
    assert_eq!(port.port, 80);
    assert_eq!(port.policy.connection_pool.and_then(|p| p.http).and_then(|h| h.use_client_protocol), Some(true));
    let tls = rule("tls-optimization").traffic_policy.and_then(|p| p.tls).expect("tls");
    assert_eq!(tls.mode, Some(TlsMode::IstioMutual));
    let balancer = rule("load-balancing-algorithm").traffic_policy.and_then(|p| p.load_balancer).expect("a balancer");
    assert_eq!(balancer.simple, Some(SimpleBalancer::LeastConn));
    assert_eq!(rule("weighted-load-balancing").subsets.len(), 2);

    let dns = config.dns_settings("default");
    assert_eq!(dns.refresh_rate, Some(Duration::from_secs(300)));
    assert_eq!(dns.resolvers().len(), 2);
    let proxy = config.proxy_settings("default");
    assert_eq!(proxy.concurrency, Some(4), "the later document stands");
    assert_eq!(proxy.idle_timeout(), Some(Duration::from_secs(30)));
    let limits = proxy.resources.and_then(|r| r.limits).expect("limits");
    assert_eq!(limits.cpu.map(|c| c.millicores), Some(500));
    assert_eq!(limits.memory.map(|m| m.bytes), Some(1 << 30));
    assert_eq!(proxy.thread_pool.and_then(|p| p.queue_size), Some(10_000));

    let patch = config.envoy_filters.iter().find(|d| d.meta.name == "filter-chain-optimization").expect("it is there");
    let patch = patch.spec.config_patches.first().expect("one patch");
    assert_eq!(patch.apply_to, ApplyTo::HttpFilter);
    assert_eq!(patch.patch.as_ref().map(|p| p.operation), Some(PatchOperation::Remove));
}

#[test]
fn each_document_loads_alone() {
    let Some(files) = common::tutorial_blocks() else { return };
    let mut documents = 0;
    for (name, text) in &files {
        for one in text.split("\n---\n") {
            let config = istio::read(&[(name.clone(), one)]).expect("each is right alone");
            assert_eq!(config.len(), 1, "{one}");
            documents += 1;
        }
    }
    assert_eq!(documents, 19);
}

#[test]
fn lines_of_fields_are_known_also_within_a_config_map() {
    let Some(files) = common::tutorial_blocks() else { return };
    let config = istio::read(&common::borrowed(&files)).expect("the tutorial is right");
    let line_holds = |file: &str, line: u32, part: &str| {
        let text = files.iter().find(|(name, _)| &**name == file).map(|(_, text)| text.as_str()).unwrap_or_default();
        let found = text.lines().nth(line as usize - 1).unwrap_or_default();
        assert!(found.contains(part), "{file}:{line} is {found:?}, not {part}");
    };
    for rule in &config.destination_rules {
        line_holds(&rule.source.file, rule.source.line, "apiVersion");
        line_holds(&rule.source.file, rule.line("spec.host"), "host");
    }
    let pool = config.destination_rules.first().expect("there are nine");
    line_holds(&pool.source.file, pool.line("spec.trafficPolicy.connectionPool.tcp.connectTimeout"), "connectTimeout");
    let dns = config.config_maps.iter().find(|d| d.meta.name == "dns-cache-config").expect("it is there");
    line_holds(&dns.source.file, dns.line("data.dns.yaml.dns_lookup_family"), "dns_lookup_family");
    let cpu = config.config_maps.iter().find(|d| d.meta.name == "proxy-cpu-optimization").expect("it is there");
    line_holds(&cpu.source.file, cpu.line("data.config.yaml.proxy.concurrency"), "concurrency");
}
