//! The table of codes, the page made from it, and a document for each code.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use celerity_model::analyze::{CODES, Finding, analyze, reference};
use celerity_model::istio;

fn findings(text: &str) -> Vec<Finding> {
    let (config, errors) = istio::read_partial(&[(Arc::from("test.yaml"), text)]);
    analyze(&config, &errors)
}

const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{name: http, port: 80}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: reviews-a, labels: {kubernetes.io/service-name: reviews, version: v1}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]\n---\n";

fn rule(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: reviews, {spec}}}\n---\n"
    )
}

fn policy(policy: &str) -> String {
    rule("r", &format!("trafficPolicy: {policy}"))
}

fn routes(http: &str) -> String {
    format!(
        "{SERVICES}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [reviews]\n  http:\n{http}\n---\n"
    )
}

fn patch(patch: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: f}}\nspec:\n  configPatches:\n  - {patch}\n"
    )
}

fn config_map(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata: {{{data}}}\n---\n"
    )
}

fn alert(rule: &str) -> String {
    format!(
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {{name: p}}\nspec: {{groups: [{{name: g, rules: [{{{rule}}}]}}]}}\n"
    )
}

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

fn peer(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{mtls: {{mode: STRICT}}}}\n---\n"
    )
}

const CHAIN: &str = "listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}";

const PLAIN_CHAIN_REMOVED: &str = "{applyTo: FILTER_CHAIN, match: {context: SIDECAR_INBOUND, listener: {filterChain: {transportProtocol: raw_buffer}}}, patch: {operation: REMOVE}}";

fn lua() -> String {
    format!(
        "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_OUTBOUND, {CHAIN}}}, patch: {{operation: INSERT_FIRST, value: {{name: envoy.filters.http.lua, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inline_code: x}}}}}}}}"
    )
}

const SELECTING: &str = "hosts: [a.example.com], resolution: STATIC, ports: [{number: 80, name: http}], workloadSelector: {labels: {app: a}}";
const NAMED: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: db.example.com, labels: {app: a}}\n---\n";

/// A text that gives each code.
fn examples() -> Vec<(&'static str, String)> {
    let to = "route: [{destination: {host: reviews}}]";
    vec![
        ("CEL0001", "a: [".into()),
        ("CEL0002", rule("r", "hots: a")),
        ("CEL0003", rule("r", "subsets: [{name: a, labels: {version: 1}}]")),
        ("CEL0004", policy("{outlierDetection: {maxEjectionPercent: 110}}")),
        (
            "CEL0005",
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {}\n".into(),
        ),
        ("CEL0006", policy("{loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}")),
        ("CEL0007", policy("{tunnel: {targetHost: a, targetPort: 1}}")),
        (
            "CEL0008",
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\n".into(),
        ),
        ("CEL0009", format!("{}{}", rule("r", ""), rule("r", ""))),
        ("CEL0010", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 1}\n".into()),
        (
            "CEL0101",
            format!("{}{}", policy("{tls: {mode: DISABLE}}"), rule("s", "trafficPolicy: {tls: {mode: SIMPLE}}")),
        ),
        ("CEL0102", format!("{}{}", rule("r", ""), rule("s", ""))),
        ("CEL0103", format!("{}{}", rule("r", "subsets: [{name: a}]"), rule("s", "subsets: [{name: a}]"))),
        ("CEL0104", format!("{SERVICES}{}", rule("r", "").replace("reviews", "no-such"))),
        ("CEL0105", format!("{SERVICES}{}", rule("r", "subsets: [{name: a, labels: {version: v9}}]"))),
        ("CEL0106", rule("r", "subsets: [{name: a}, {name: b}]")),
        ("CEL0201", policy("{connectionPool: {tcp: {connectTimeout: 30ms}}}")),
        ("CEL0202", policy("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}")),
        ("CEL0203", policy("{loadBalancer: {simple: LEAST_CONN}}")),
        ("CEL0204", policy("{outlierDetection: {}}")),
        ("CEL0205", format!("{SERVICES}{}", policy("{loadBalancer: {localityLbSetting: {enabled: true}}}"))),
        ("CEL0206", policy("{loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}")),
        ("CEL0207", format!("{SERVICES}{}", policy("{outlierDetection: {maxEjectionPercent: 40}}"))),
        ("CEL0208", policy("{loadBalancer: {consistentHash: {}}}")),
        ("CEL0209", policy("{loadBalancer: {consistentHash: {httpHeaderName: x}}}")),
        ("CEL0210", policy("{outlierDetection: {}, portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}")),
        ("CEL0211", policy("{connectionPool: {tcp: {maxConnections: 0}}}")),
        ("CEL0212", policy("{connectionPool: {tcp: {idleTimeout: 1h}, http: {idleTimeout: 30s}}}")),
        ("CEL0213", policy("{loadBalancer: {simple: RANDOM, warmup: {duration: 30s}}}")),
        ("CEL0214", policy("{tls: {mode: SIMPLE, insecureSkipVerify: true}}")),
        ("CEL0215", policy("{outlierDetection: {consecutiveErrors: 5}}")),
        ("CEL0216", format!("{SERVICES}{}{}", policy("{tls: {mode: DISABLE}}"), peer("p", "default"))),
        ("CEL0217", policy("{tls: {mode: ISTIO_MUTUAL, sni: a}}")),
        ("CEL0218", policy("{connectionPool: {http: {maxRequestsPerConnection: 1}}}")),
        ("CEL0219", policy("{connectionPool: {tcp: {maxConnections: 100}, http: {http1MaxPendingRequests: 100000}}}")),
        ("CEL0220", policy("{tls: {mode: DISABLE, sni: a.example.com}}")),
        (
            "CEL0221",
            format!("{SERVICES}{}", policy("{portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}")),
        ),
        ("CEL0222", policy("{loadBalancer: {simple: PASSTHROUGH}}")),
        ("CEL0317", routes(&format!("  - {to}")).replace("hosts: [reviews]", "hosts: [rewiews]")),
        ("CEL0318", routes(&format!("  - match: [{{port: 81}}]\n    {to}\n  - {to}"))),
        ("CEL0301", routes(&format!("  - {to}\n  - match: [{{uri: {{prefix: /a}}}}]\n    {to}"))),
        (
            "CEL0302",
            format!(
                "{}{}",
                routes(&format!("  - {to}")),
                routes(&format!("  - {to}")).replace(SERVICES, "").replace("name: v", "name: w")
            ),
        ),
        ("CEL0303", routes("  - route: [{destination: {host: reviews, subset: v9}}]")),
        ("CEL0304", routes("  - route: [{destination: {host: no-such}}]")),
        ("CEL0305", routes("  - route: [{destination: {host: reviews, port: {number: 81}}}]")),
        ("CEL0306", routes(&format!("  - {to}\n    fault: {{delay: {{fixedDelay: 1s}}}}"))),
        (
            "CEL0307",
            routes(&format!("  - {to}\n    fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}")),
        ),
        (
            "CEL0308",
            routes("  - route: [{destination: {host: reviews}, weight: 1}, {destination: {host: reviews}, weight: 0}]"),
        ),
        ("CEL0309", routes(&format!("  - {to}\n    retries: {{attempts: 3, retryOn: 5xx}}"))),
        ("CEL0310", routes(&format!("  - {to}\n    timeout: 1s\n    retries: {{attempts: 2, perTryTimeout: 1s}}"))),
        ("CEL0311", routes(&format!("  - {to}\n    retries: {{perTryTimeout: 1s}}"))),
        ("CEL0312", routes(&format!("  - match: [{{uri: {{prefix: /a}}}}]\n    {to}"))),
        ("CEL0313", routes("  - {directResponse: {status: 200}, timeout: 1s}")),
        (
            "CEL0314",
            routes(
                "  - {route: [{destination: {host: reviews}}], mirrors: [{destination: {host: reviews}}], mirrorPercentage: {value: 10}}",
            ),
        ),
        ("CEL0315", routes("  - {route: [{destination: {host: reviews}}], mirror: {host: no-such}}")),
        (
            "CEL0316",
            routes(&format!("  - {to}"))
                .replace("hosts: [reviews]", "hosts: [reviews]\n  gateways: [mesh, my-gateway]"),
        ),
        (
            "CEL0401",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_OUTBOUND, {CHAIN}}}, patch: {{operation: REMOVE, value: {{name: envoy.filters.http.fault}}}}}}"
            )),
        ),
        (
            "CEL0402",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{{CHAIN}}}, patch: {{operation: INSERT_FIRST, value: {{name: envoy.filters.http.cache, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig, cache_config: {{name: envoy.extensions.http.cache.simple, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.http.cache.simple.v3.SimpleHttpCacheConfig}}}}}}}}}}}}"
            )),
        ),
        (
            "CEL0403",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{{}}}, patch: {{operation: REMOVE}}}}",
                CHAIN.replace("manager}", "manager, subFilter: {name: envoy.fault}}")
            )),
        ),
        (
            "CEL0404",
            patch(
                "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: no-such}}}, patch: {operation: REMOVE}}",
            ),
        ),
        ("CEL0405", patch("{applyTo: CLUSTER, patch: {operation: MERGE, value: {no_such_field: 1}}}")),
        ("CEL0406", patch("{applyTo: CLUSTER, match: {context: GATEWAY}, patch: {operation: MERGE, value: {}}}")),
        (
            "CEL0407",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{{CHAIN}}}, patch: {{operation: INSERT_BEFORE, value: {{name: envoy.filters.http.buffer, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000}}}}}}}}"
            )),
        ),
        (
            "CEL0408",
            patch(&format!(
                "{{applyTo: NETWORK_FILTER, match: {{{CHAIN}}}, patch: {{operation: MERGE, value: {{typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stream_idle_timeout: 5s, request_timeout: 30s}}}}}}}}"
            )),
        ),
        (
            "CEL0409",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{{CHAIN}}}, patch: {{operation: INSERT_FIRST, value: {{name: envoy.filters.http.buffer, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1000}}}}}}}}"
            )),
        ),
        (
            "CEL0410",
            patch(&format!(
                "{{applyTo: HTTP_FILTER, match: {{{}}}, patch: {{operation: REMOVE, value: {{name: a}}}}}}",
                CHAIN.replace("manager}", "manager, subFilter: {name: envoy.filters.http.fault}}")
            )),
        ),
        ("CEL0411", patch(&lua())),
        (
            "CEL0412",
            patch(
                "{applyTo: CLUSTER, match: {proxy: {proxyVersion: '^1\\.9.*'}}, patch: {operation: MERGE, value: {}}}",
            ),
        ),
        ("CEL0413", patch(PLAIN_CHAIN_REMOVED)),
        ("CEL0501", config_map("c", "note: hello")),
        (
            "CEL0502",
            format!(
                "{}{}",
                config_map("c", "config.yaml: 'proxy: {concurrency: 2}'"),
                config_map("d", "config.yaml: 'proxy: {concurrency: 4}'")
            ),
        ),
        ("CEL0503", config_map("c", "config.yaml: 'proxy: {proxyMetadata: {X: a}}'")),
        ("CEL0504", config_map("c", "config.yaml: 'proxy: {concurrency: 2, resources: {limits: {cpu: 500m}}}'")),
        ("CEL0505", config_map("c", "config.yaml: 'proxy: {proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: \"30\"}}'")),
        ("CEL0506", config_map("c", "dns.yaml: 'dns_resolution_config: {resolvers: [\"udp://8.8.8.8:53\"]}'")),
        ("CEL0507", config_map("c", "config.yaml: 'proxy: {concurrency: 2}'").replace("istio-system", "team")),
        ("CEL0601", alert("alert: A, for: 5m, expr: 'sum(rate(x_total[5m])) by (a) < 100'")),
        ("CEL0602", alert("alert: A, for: 5m, expr: 'sum(rate(x[5m])) > 1', annotations: {a: 'of {{ $labels.pod }}'}")),
        ("CEL0603", alert("alert: A, for: 5m, expr: 'histogram_quantile(0.9, sum(rate(x_bucket[5m])) by (job)) > 1'")),
        ("CEL0604", alert("alert: A, for: 5m, expr: 'rate(x[1m]) > 1'")),
        ("CEL0605", alert("alert: A, expr: up == 0")),
        ("CEL0606", alert("alert: A, for: 5m, expr: 'this is ((( not promql'")),
        ("CEL0607", alert("alert: A, for: 5m, expr: up == 0, annotations: {a: 'of {{ $labels.pod '}")),
        ("CEL0701", SERVICES.split("---\n").nth(1).unwrap_or_default().to_owned()),
        ("CEL0702", SERVICES.split("---\n").next().unwrap_or_default().to_owned()),
        ("CEL0703", format!("{0}{1}", entry("a", "hosts: [a.example.com]"), entry("b", "hosts: [a.example.com]"))),
        ("CEL0704", format!("{}{}", peer("p", "default"), peer("q", "default"))),
        ("CEL0705", entry("a", "hosts: [a.example.com], resolution: STATIC, endpoints: [{network: n}]")),
        ("CEL0710", SERVICES.replace("name: http", "name: tcp-db")),
        ("CEL0711", SERVICES.replace("port: 80}]}", "port: 80, targetPort: web}]}").replace("8080", "15006")),
        ("CEL0712", entry("a", "hosts: [a.example.com], ports: [{number: 80, name: http}]")),
        ("CEL0709", SERVICES.replace("ports: [{name: http, port: 8080}]", "ports: [{name: web, port: 8080}]")),
        ("CEL0708", format!("{NAMED}{}", rule("r", "workloadSelector: {matchLabels: {app: b}}"))),
        ("CEL0707", format!("{}{NAMED}", entry("a", SELECTING))),
        ("CEL0706", SERVICES.replace("spec: {ports", "spec: {sessionAffinity: ClientIP, ports")),
    ]
}

#[test]
fn each_code_has_a_document_that_gives_it() {
    let mut missed = Vec::new();
    let examples = examples();
    for (code, text) in &examples {
        let found = findings(text);
        if !found.iter().any(|f| f.code == *code) {
            missed.push(format!(
                "{code}: {:?}",
                found.iter().map(|f| format!("{} {}", f.code, f.reason)).collect::<Vec<_>>()
            ));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    let shown: BTreeSet<&str> = examples.iter().map(|(code, _)| *code).collect();
    let known: BTreeSet<&str> = CODES.iter().map(|code| code.id).collect();
    assert_eq!(shown, known);
    assert_eq!(known.len(), CODES.len(), "a code stands twice");
}

#[test]
fn a_sound_configuration_has_no_finding() {
    let text = format!(
        "{}{}",
        routes("  - route: [{destination: {host: reviews, subset: v1}}]"),
        rule(
            "r",
            "subsets: [{name: v1, labels: {version: v1}}], trafficPolicy: {connectionPool: {tcp: {connectTimeout: 3s}}}"
        )
    );
    let found = findings(&text);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_port_of_another_protocol_than_http_is_told() {
    let ports = "{number: 6379, name: cache, protocol: REDIS}, {number: 443, name: https}, {number: 80, name: http}, {number: 81, name: x}";
    let found = findings(&entry("e", &format!("hosts: [a.example.com], resolution: DNS, ports: [{ports}]")));
    let told: Vec<_> = found.iter().filter(|f| f.code == "CEL0710").map(|f| f.field.as_str()).collect();
    assert_eq!(told, ["spec.ports[0].protocol", "spec.ports[1].name"]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{name: db, port: 1, appProtocol: tcp}, {name: tcp-http, port: 2, appProtocol: http}, {name: udp, port: 3, protocol: UDP}]}\n";
    let found = findings(service);
    let told: Vec<_> = found.iter().filter(|f| f.code == "CEL0710").map(|f| f.field.as_str()).collect();
    assert_eq!(told, ["spec.ports[0].appProtocol"], "nothing carries UDP, in Istio neither");
}

#[test]
fn a_wildcard_is_one_destination() {
    let entries = entry(
        "e",
        "hosts: ['*.example.com', b.example.org], resolution: STATIC, endpoints: [{address: 10.0.0.1}], ports: [{number: 80, name: http}]",
    );
    for (host, codes) in [
        ("'*.example.com'", vec![]),
        ("b.example.org", vec![]),
        ("a.example.com", vec!["CEL0304"]),
        ("'*.example.org'", vec!["CEL0304"]),
        ("'*.com'", vec!["CEL0304"]),
    ] {
        let text = format!("{entries}{}", routes(&format!("  - route: [{{destination: {{host: {host}}}}}]")));
        let found: Vec<_> = codes_of(&text).into_iter().filter(|code| code.starts_with("CEL03")).collect();
        assert_eq!(found, codes, "{host}");
    }
}

/// What is said of a filter for the inbound side, beside `documents`.
fn said_of_inbound(documents: &str, condition: &str, supported: bool) -> Vec<String> {
    let value = if supported {
        "name: envoy.filters.http.buffer, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 10}"
    } else {
        "name: envoy.filters.http.lua, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, inline_code: x}"
    };
    let filter =
        "filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}";
    let one = patch(&format!(
        "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_INBOUND, listener: {{{condition}filterChain: {{{filter}}}}}}}, patch: {{operation: INSERT_BEFORE, value: {{{value}}}}}}}"
    ));
    let one = one.replace("{name: f}", "{name: f, namespace: istio-system}");
    let found = findings(&format!("{documents}{one}"));
    found.iter().filter(|f| f.code.starts_with("CEL04")).map(|f| f.code.to_owned()).collect()
}

#[test]
fn an_inbound_patch_is_tried_where_no_endpoint_was_read_and_with_a_certificate() {
    let service = |name: &str, port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}\n---\n"
        )
    };
    let two = format!("{}{}", service("a", 8080), service("b", 9090));
    for documents in ["", two.as_str(), SERVICES] {
        assert_eq!(said_of_inbound(documents, "", false), ["CEL0411"], "{documents}");
        assert_eq!(said_of_inbound(documents, "", true), ["CEL0409"], "{documents}");
        let filter = patch(
            "{applyTo: NETWORK_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {transportProtocol: tls, filter: {name: envoy.filters.network.http_connection_manager}}}}, patch: {operation: MERGE, value: {typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stream_idle_timeout: 5s}}}}",
        );
        let found = codes_of(&format!("{documents}{filter}"));
        assert!(!found.contains(&"CEL0404"), "{documents}: {found:?}");
    }
    assert_eq!(said_of_inbound(&two, "portNumber: 9090, ", true), ["CEL0409"]);
    assert_eq!(said_of_inbound(&two, "portNumber: 7070, ", true), ["CEL0404", "CEL0409"]);
}

#[test]
fn what_some_sidecars_refuse_is_no_error_for_all() {
    for documents in ["", SERVICES] {
        let found = findings(&format!("{documents}{}", patch(PLAIN_CHAIN_REMOVED)));
        let about: Vec<_> = found.iter().filter(|f| f.code.starts_with("CEL04")).collect();
        assert_eq!(about.iter().map(|f| f.code).collect::<Vec<_>>(), ["CEL0413"], "{found:?}");
        assert!(
            about[0].reason.starts_with("a sidecar without a certificate refuses it (listener inbound: filter_chains"),
            "{about:?}"
        );
    }
    // Whoever has this chain refuses what becomes of it.
    let tls = PLAIN_CHAIN_REMOVED.replace("raw_buffer", "tls");
    let strict = format!("{SERVICES}{}{}", peer("p", "default"), patch(&tls));
    assert!(codes_of(&strict).contains(&"CEL0411"), "{:?}", findings(&strict));
}

#[test]
fn the_page_is_made_from_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/analysis.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference()).expect("docs can be written");
    }
    assert_eq!(common::text(&path), reference(), "run the test again with UPDATE_DOCS=1");
}

fn codes_of(text: &str) -> Vec<&'static str> {
    findings(text).iter().map(|finding| finding.code).collect()
}

#[test]
fn nothing_is_said_of_the_meshs_services_where_none_was_read() {
    let outside = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}\n---\n";
    let found =
        codes_of(&format!("{outside}{}", routes("  - route: [{destination: {host: no-such}}]").replace(SERVICES, "")));
    assert!(!found.contains(&"CEL0304"), "{found:?}");
    let found = codes_of(&format!(
        "{outside}{}",
        routes("  - route: [{destination: {host: no.such.example.com}}]").replace(SERVICES, "")
    ));
    assert!(found.contains(&"CEL0304"), "{found:?}");
}

#[test]
fn the_mend_of_a_reading_error_says_what_would_be_right() {
    for (text, wanted) in [
        (rule("r", "trafficPolicy: {conectionPool: {}}"), "Write connectionPool in place of conectionPool."),
        (policy("{outlierDetection: {maxEjectionPercent: 110}}"), "Write a number from 0 to 100."),
        (rule("r", "subsets: [{name: a, labels: {version: 1}}]"), "Write it in quotes: \"1\"."),
        (policy("{loadBalancer: {simple: MAGLEV}}"), "Write consistentHash: {httpHeaderName: x-user-id, maglev: {}}"),
        (policy("{loadBalancer: {simple: RANDM}}"), "Write RANDOM in place of it."),
        (policy("{tunnel: {targetHost: a, targetPort: 1}}"), "Remove the field."),
    ] {
        let found = findings(&text);
        assert!(found.iter().any(|f| f.mend.starts_with(wanted)), "{wanted}: {found:?}");
    }
}

#[test]
fn what_the_proxy_refuses_is_told_of_the_patch_that_makes_it() {
    let sound = "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {connect_timeout: 1s}}}";
    let other = "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {preconnect_policy: {per_upstream_preconnect_ratio: 1.5}}}}";
    let blamed = |text: &str| {
        let found = findings(text);
        found.iter().filter(|f| f.code == "CEL0411").map(|f| (f.line, f.field.clone())).collect::<Vec<_>>()
    };
    let head = format!("{SERVICES}{}", patch(sound));
    assert_eq!(blamed(&head), []);
    let line = u32::try_from(head.lines().count()).expect("few");
    let one = format!("{head}  - {}\n  - {sound}\n", lua());
    assert_eq!(blamed(&one), [(line + 1, "spec.configPatches[1].patch".to_owned())]);
    let two = format!("{one}  - {other}\n");
    let fields: Vec<String> = blamed(&two).into_iter().map(|(_, field)| field).collect();
    assert_eq!(fields, ["spec.configPatches[1].patch", "spec.configPatches[3].patch"]);
}

#[test]
fn an_endpoint_with_a_name_is_left_out_where_no_dns_is_asked() {
    use celerity_model::snapshot::Snapshot;
    use celerity_model::translate::{Node, translate};
    for (resolution, endpoints) in [("STATIC", 1), ("DNS", 2)] {
        let numbered = NAMED.replace("name: w", "name: n").replace("db.example.com", "10.0.0.1");
        let text = format!("{}{NAMED}{numbered}", entry("a", &SELECTING.replace("STATIC", resolution)));
        let config = common::read(&text).expect("right");
        let resources = translate(&config, &Node::default()).expect("translated");
        Snapshot::build(&resources, None).expect("the proxy takes it");
        let of_clusters = resources.clusters.iter().filter_map(|cluster| cluster.load_assignment.as_ref());
        let assigned = resources.endpoints.iter().chain(of_clusters);
        let count: usize = assigned.flat_map(|one| &one.endpoints).map(|group| group.lb_endpoints.len()).sum();
        assert_eq!(count, endpoints, "{resolution}");
        assert_eq!(codes_of(&text).contains(&"CEL0707"), resolution == "STATIC");
    }
}

#[test]
fn a_patch_that_is_for_no_proxy_is_told() {
    let by_metadata = patch(
        "{applyTo: CLUSTER, match: {proxy: {metadata: {ROLE: web}}}, patch: {operation: MERGE, value: {connect_timeout: 1s}}}",
    );
    assert!(codes_of(&format!("{SERVICES}{by_metadata}")).contains(&"CEL0404"));
    let map = config_map("c", "config.yaml: 'proxy: {proxyMetadata: {ISTIO_META_ROLE: web}}'");
    assert!(!codes_of(&format!("{SERVICES}{map}{by_metadata}")).contains(&"CEL0404"));
    let selecting = |labels: &str| {
        let document = patch("{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 1s}}}");
        format!(
            "{SERVICES}{NAMED}{}",
            document.replace("spec:", &format!("spec:\n  workloadSelector: {{labels: {labels}}}"))
        )
    };
    assert!(codes_of(&selecting("{app: b}")).contains(&"CEL0708"));
    assert!(!codes_of(&selecting("{app: a}")).contains(&"CEL0708"));
}

#[test]
fn what_envoy_refuses_of_a_patch_is_refused_here() {
    let http = "\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let cluster = |value: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{context: SIDECAR_OUTBOUND, cluster: {{service: reviews.default.svc.cluster.local}}}}, patch: {{operation: MERGE, value: {value}}}}}"
        )
    };
    let route = |value: &str| {
        format!(
            "{{applyTo: HTTP_ROUTE, match: {{context: SIDECAR_OUTBOUND}}, patch: {{operation: MERGE, value: {value}}}}}"
        )
    };
    for (one, wanted) in [
        (cluster("{type: STRICT_DNS}"), "eds_cluster_config"),
        (
            cluster(&format!(
                "{{typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{{http}, common_http_protocol_options: {{idle_timeout: 9s}}}}}}}}"
            )),
            "upstream_protocol_options",
        ),
        (route("{route: {prefix_rewrite: '/a b'}}"), "prefix_rewrite"),
        (route("{route: {host_rewrite_literal: \"a\\r\\nb: c\"}}"), "host_rewrite_literal"),
        (route("{redirect: {path_redirect: \"/\\r\\nb: c\"}}"), "path_redirect"),
        (route("{redirect: {host_redirect: \"a\\r\\nb: c\"}}"), "host_redirect"),
        (route("{request_headers_to_add: [{header: {key: x, value: \"%PROTOCOL%\\r\\nb: c\"}}]}"), "header.value"),
    ] {
        let found = findings(&format!("{SERVICES}{}", patch(&one)));
        assert!(found.iter().any(|f| f.code == "CEL0411" && f.reason.contains(wanted)), "{wanted}: {found:?}");
    }
}

#[test]
fn of_two_policies_for_one_selector_the_first_is_named() {
    let selecting = |name: &str, app: &str| {
        peer(name, "default")
            .replace("spec: {mtls", &format!("spec: {{selector: {{matchLabels: {{app: {app}}}}}, mtls"))
    };
    let found = findings(&format!("{}{}", selecting("p", "a"), selecting("q", "a")));
    let second = found.iter().find(|f| f.code == "CEL0704").expect("told");
    assert!(second.document.ends_with("/q") && second.reason.contains("PeerAuthentication p stands"), "{second:?}");
    assert!(!codes_of(&format!("{}{}", selecting("p", "a"), selecting("q", "b"))).contains(&"CEL0704"));
}

#[test]
fn routes_of_a_gateway_hide_none_of_the_mesh() {
    let to = "route: [{destination: {host: reviews}}]";
    let text = routes(&format!("  - match: [{{gateways: [my-gateway]}}]\n    {to}\n  - {to}"));
    let found = codes_of(&text);
    assert!(found.contains(&"CEL0316") && !found.contains(&"CEL0301"), "{found:?}");
}

#[test]
fn a_rule_for_chosen_workloads_does_not_meet_the_rule_for_all() {
    let both = |more: &str| {
        format!(
            "{}{}",
            policy("{connectionPool: {tcp: {maxConnections: 5}}}"),
            rule("s", &format!("trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 9}}}}}}{more}"))
        )
    };
    assert!(codes_of(&both("")).contains(&"CEL0101"));
    let found = codes_of(&both(", workloadSelector: {matchLabels: {app: a}}"));
    assert!(!found.contains(&"CEL0101") && !found.contains(&"CEL0102"), "{found:?}");
}
