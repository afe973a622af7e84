//! EnvoyFilters: operations, matches, order, reports and errors.

#[path = "translate_support/mod.rs"]
mod support;

use celerity_model::patch::{Outcome, PatchError, pool};
use celerity_model::translate::{Node, Resources, translate};
use serde_json::{Value, json};
use support::{certificates, config, node, service_and_endpoints};

/// `patches`: the entries of `configPatches`, as YAML flow mappings.
fn filter(name: &str, head: &str, patches: &[&str]) -> String {
    let list: String = patches.iter().map(|patch| format!("  - {patch}\n")).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: {name}, namespace: istio-system}}\nspec:\n{head}  configPatches:\n{list}"
    )
}

fn attempt(documents: &str) -> Result<Resources, Vec<PatchError>> {
    let me = Node { addresses: vec![[127, 0, 1, 4].into()], certificates: Some(certificates()), ..node() };
    let routes = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: routes}\nspec:\n  hosts: [user-service]\n  http:\n  - {name: old, match: [{uri: {prefix: /old}}], redirect: {uri: /new}}\n  - {name: all, route: [{destination: {host: user-service}}]}\n";
    translate(&config(&format!("{}{routes}{documents}", service_and_endpoints())), &me)
}

fn made(patches: &[&str]) -> Resources {
    attempt(&filter("one", "", patches)).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn http_filters(resources: &Resources, listener: &str) -> Vec<String> {
    let listener = resources.listeners.iter().find(|one| one.name == listener).expect("the listener");
    let filters = pool::json(listener)["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].clone();
    filters
        .as_array()
        .expect("filters")
        .iter()
        .map(|f| f["name"].as_str().unwrap_or_default().trim_start_matches("envoy.filters.http.").to_owned())
        .collect()
}

const BUFFER: &str = "value: {name: envoy.filters.http.buffer, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 5}}";

fn http(context: &str, sub_filter: &str, operation: &str) -> String {
    format!(
        "{{applyTo: HTTP_FILTER, match: {{context: {context}, listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager{sub_filter}}}}}}}}}, patch: {{operation: {operation}, {BUFFER}}}}}"
    )
}

#[test]
fn http_filters_go_where_the_operation_says() {
    let cors = ", subFilter: {name: envoy.filters.http.cors}";
    for (sub_filter, operation, expected) in [
        ("", "INSERT_BEFORE", ["buffer", "fault", "cors", "router"]),
        ("", "INSERT_FIRST", ["buffer", "fault", "cors", "router"]),
        ("", "ADD", ["fault", "cors", "buffer", "router"]),
        ("", "INSERT_AFTER", ["fault", "cors", "buffer", "router"]),
        (cors, "INSERT_BEFORE", ["fault", "buffer", "cors", "router"]),
        (cors, "INSERT_AFTER", ["fault", "cors", "buffer", "router"]),
    ] {
        let resources = made(&[&http("SIDECAR_OUTBOUND", sub_filter, operation)]);
        assert_eq!(http_filters(&resources, "outbound"), expected, "{operation}{sub_filter}");
        assert_eq!(http_filters(&resources, "inbound"), ["fault", "cors", "router"], "another context");
    }
    let replaced = made(&[&http("ANY", cors, "REPLACE")]);
    assert_eq!(http_filters(&replaced, "outbound"), ["fault", "buffer", "router"]);
    assert_eq!(http_filters(&replaced, "inbound"), ["fault", "buffer", "router"]);
    let old_name = ", subFilter: {name: envoy.cors}";
    assert_eq!(
        http_filters(&made(&[&http("ANY", old_name, "INSERT_BEFORE")]), "outbound"),
        ["fault", "buffer", "cors", "router"]
    );
}

#[test]
fn priority_orders_documents() {
    let named = |name: &str| {
        format!(
            "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_OUTBOUND}}, patch: {{operation: INSERT_FIRST, value: {{name: {name}}}}}}}"
        )
    };
    let documents = filter("late", "  priority: 10\n", &[&named("late")])
        + &filter("early", "  priority: -5\n", &[&named("early")])
        + &filter("middle", "", &[&named("middle")]);
    let resources = attempt(&documents).expect("applies");
    assert_eq!(http_filters(&resources, "outbound")[..3], ["late", "middle", "early"]);
}

#[test]
fn merges_reach_into_any_and_lists_grow_or_are_replaced() {
    let merge = |operation: &str| {
        let resources = made(&[&format!(
            "{{applyTo: NETWORK_FILTER, match: {{context: SIDECAR_INBOUND, listener: {{name: virtualInbound, portNumber: 15006, filterChain: {{transportProtocol: tls, filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}, patch: {{operation: {operation}, value: {{typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, normalize_path: false, server_name: me, upgrade_configs: [{{upgrade_type: foo}}]}}}}}}}}"
        )]);
        let listener = pool::json(resources.listeners.iter().find(|one| one.name == "inbound").expect("inbound"));
        [0, 1].map(|chain| listener["filter_chains"][chain]["filters"][0]["typed_config"].clone())
    };
    let [tls, plain] = merge("MERGE");
    assert_eq!((&tls["normalize_path"], &tls["server_name"]), (&json!(false), &json!("me")));
    assert_eq!(tls["upgrade_configs"].as_array().map(Vec::len), Some(2));
    assert!(tls["route_config"].is_object(), "what the patch does not name stays");
    assert_eq!(plain["server_name"].as_str().unwrap_or_default(), "", "the other chain is not matched");
    let [tls, _] = merge("MERGE_AND_REPLACE_LIST");
    assert_eq!(tls["upgrade_configs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn clusters_by_service_port_subset_and_name() {
    let patch = |condition: &str, operation: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{context: SIDECAR_OUTBOUND, cluster: {{{condition}}}}}, patch: {{operation: {operation}, value: {{connect_timeout: 1.5s, circuit_breakers: {{thresholds: [{{priority: HIGH}}]}}}}}}}}"
        )
    };
    for (condition, hit) in [
        ("service: user-service.default.svc.cluster.local, portNumber: 80", true),
        ("name: outbound|80||user-service.default.svc.cluster.local", true),
        ("service: other.default.svc.cluster.local", false),
        ("subset: v1", false),
        ("portNumber: 81", false),
    ] {
        let resources = made(&[&patch(condition, "MERGE")]);
        assert_eq!(
            matches!(resources.patches[0].outcome, Outcome::Matched { count: 1, .. }),
            hit,
            "{condition}: {:?}",
            resources.patches[0]
        );
        let cluster = resources
            .clusters
            .iter()
            .find(|cluster| cluster.name.starts_with("outbound|80||"))
            .map(pool::json)
            .expect("a cluster");
        assert_eq!(cluster["connect_timeout"], if hit { "1.500s" } else { "10s" });
        assert_eq!(cluster["circuit_breakers"]["thresholds"].as_array().map(Vec::len), Some(if hit { 2 } else { 1 }));
    }
    let removed = made(&["{applyTo: CLUSTER, match: {context: SIDECAR_INBOUND}, patch: {operation: REMOVE}}"]);
    assert!(!removed.clusters.iter().any(|cluster| cluster.name.starts_with("inbound")));
    let added = made(&[
        "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: ADD, value: {name: mine, type: STATIC}}}",
    ]);
    assert!(added.clusters.iter().any(|cluster| cluster.name == "mine"));
}

#[test]
fn routes_and_virtual_hosts() {
    let host = |resources: &Resources| {
        let hosts = &resources.routes[0].virtual_hosts;
        pool::json(
            hosts.iter().find(|host| host.name == "user-service.default.svc.cluster.local:80").expect("the host"),
        )
    };
    let resources = made(&[
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {portNumber: 80, vhost: {name: 'user-service.default.svc.cluster.local:80', route: {action: ROUTE}}}}, patch: {operation: MERGE, value: {route: {timeout: 3s, prefix_rewrite: /x}}}}",
    ]);
    let made_host = host(&resources);
    assert_eq!(made_host["routes"][1]["route"]["timeout"], "3s");
    assert_eq!(made_host["routes"][1]["route"]["cluster"], "outbound|80||user-service.default.svc.cluster.local");
    assert!(made_host["routes"][0]["redirect"].is_object());

    let resources = made(&[
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {name: '80', vhost: {route: {name: all}}}}, patch: {operation: INSERT_BEFORE, value: {name: new, match: {path: /n}, direct_response: {status: 204}}}}",
    ]);
    let names: Vec<Value> =
        host(&resources)["routes"].as_array().expect("routes").iter().map(|route| route["name"].clone()).collect();
    assert_eq!(names, ["old", "new", "all"]);

    let resources = made(&[
        "{applyTo: VIRTUAL_HOST, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {domainName: user-service}}}, patch: {operation: MERGE, value: {domains: [users.example.com]}}}",
    ]);
    assert!(host(&resources)["domains"].as_array().expect("domains").contains(&json!("users.example.com")));

    let resources = made(&[
        "{applyTo: ROUTE_CONFIGURATION, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {response_headers_to_add: [{header: {key: x, value: y}}]}}}",
    ]);
    assert_eq!(resources.routes[0].response_headers_to_add.len(), 1);
}

#[test]
fn listeners_and_chains() {
    let resources = made(&[
        "{applyTo: LISTENER, match: {context: SIDECAR_OUTBOUND, listener: {portNumber: 15001}}, patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 99}}}",
        "{applyTo: FILTER_CHAIN, match: {context: SIDECAR_INBOUND, listener: {filterChain: {name: inbound-plain}}}, patch: {operation: REMOVE}}",
        "{applyTo: LISTENER, match: {context: ANY}, patch: {operation: ADD, value: {name: extra, address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}}",
    ]);
    let limit = resources.listeners[0].per_connection_buffer_limit_bytes.as_ref().map(|limit| limit.value);
    assert_eq!((limit, resources.listeners[1].filter_chains.len(), resources.listeners.len()), (Some(99), 1, 3));
}

#[test]
fn what_matches_nothing_says_why() {
    let resources = made(&[
        &http("SIDECAR_OUTBOUND", ", subFilter: {name: envoy.filters.http.lua}", "INSERT_AFTER"),
        "{applyTo: LISTENER, match: {context: SIDECAR_OUTBOUND, listener: {portNumber: 80}}, patch: {operation: REMOVE}}",
        "{applyTo: CLUSTER, match: {context: GATEWAY}, patch: {operation: REMOVE}}",
        "{applyTo: CLUSTER, match: {context: GATEWAY}, patch: {operation: INSERT_FIRST, value: {name: of-gateways, connect_timeout: 1s}}}",
    ]);
    assert!(resources.clusters.iter().all(|cluster| cluster.name != "of-gateways"));
    assert_eq!(resources.patches[3].operation.as_str(), "INSERT_FIRST", "as it was written");
    let reasons: Vec<&str> = resources
        .patches
        .iter()
        .map(|report| match &report.outcome {
            Outcome::Unmatched(reason) | Outcome::Elsewhere(reason) => reason.as_str(),
            Outcome::Matched { .. } => panic!("{report:?}"),
        })
        .collect();
    assert!(resources.patches[2..].iter().all(|report| matches!(report.outcome, Outcome::Elsewhere(_))));
    assert!(reasons[0].contains("no HTTP filter matches; there is envoy.filters.http.fault"), "{reasons:?}");
    assert!(reasons[1].contains("no listener matches; there is outbound, inbound"), "{reasons:?}");
    assert!(reasons[2].contains("GATEWAY"), "{reasons:?}");
}

#[test]
fn what_cannot_be_applied_is_refused_by_name() {
    let error = |patch: &str| {
        attempt(&filter("bad", "", &[patch]))
            .expect_err("refused")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let unknown = error("{applyTo: CLUSTER, patch: {operation: MERGE, value: {conect_timeout: 1s}}}");
    assert!(
        unknown.contains("patch.value.conect_timeout") && unknown.contains("the nearest is connect_timeout"),
        "{unknown}"
    );
    assert!(unknown.starts_with("test.yaml:"), "{unknown}");
    let all = error("{applyTo: HTTP_FILTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: REMOVE}}");
    assert!(all.contains("would change every one"), "{all}");
    let operation = error("{applyTo: ROUTE_CONFIGURATION, patch: {operation: REMOVE}}");
    assert!(operation.contains("REMOVE does not apply to ROUTE_CONFIGURATION"), "{operation}");
    let wrong_type = error(
        "{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.bufer.v3.Buffer}}}}",
    );
    assert!(wrong_type.contains("did you mean envoy.extensions.filters.http.buffer.v3.Buffer?"), "{wrong_type}");
}

#[test]
fn a_patch_for_a_version_is_for_the_version_of_the_semantics() {
    let patch = |pattern: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{context: SIDECAR_OUTBOUND, proxy: {{proxyVersion: '{pattern}'}}}}, patch: {{operation: MERGE, value: {{connect_timeout: 7s}}}}}}"
        )
    };
    for (pattern, matched) in [("^1\\.30.*", true), ("1\\..*", true), ("30", true), ("^1\\.9.*", false), ("^30", false)]
    {
        let outcome = &made(&[&patch(pattern)]).patches[0].outcome;
        assert_eq!(matches!(outcome, Outcome::Matched { .. }), matched, "{pattern}: {outcome:?}");
        assert!(matched || matches!(outcome, Outcome::Elsewhere(reason) if reason.contains("1.30.0")), "{outcome:?}");
    }
}

#[test]
fn a_patch_for_other_workloads_is_reported_with_the_reason() {
    let patch = |proxy: &str| {
        format!("{{applyTo: CLUSTER, match: {{{proxy}}}, patch: {{operation: MERGE, value: {{connect_timeout: 7s}}}}}}")
    };
    let plain = patch("context: SIDECAR_OUTBOUND");
    let metadata = |value: &str| {
        let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: istio-system}\ndata: {config.yaml: 'proxy: {proxyMetadata: {ISTIO_META_ROLE: web}}'}\n";
        format!("{map}{}", filter("one", "", &[&patch(&format!("proxy: {{metadata: {{ROLE: {value}}}}}"))]))
    };
    for (documents, wanted) in [
        (filter("one", "  workloadSelector: {labels: {app: order-service}}\n", &[&plain]), None),
        (
            filter("one", "  workloadSelector: {labels: {app: other}}\n", &[&plain]),
            Some("app=other, the proxy has order-service"),
        ),
        (filter("one", "", &[&plain]).replace("istio-system", "another"), Some("the namespace another")),
        (metadata("web"), None),
        (metadata("db"), Some("ROLE: db, the proxy has web")),
    ] {
        let resources = attempt(&documents).expect("applies");
        let told = match &resources.patches[0].outcome {
            Outcome::Elsewhere(reason) => Some(reason.as_str()),
            _ => None,
        };
        assert!(
            wanted.map_or(told.is_none(), |wanted| told.is_some_and(|told| told.contains(wanted))),
            "{wanted:?}: {told:?}"
        );
        let timeouts = resources.clusters.iter().filter(|cluster| pool::json(*cluster)["connect_timeout"] == "7s");
        assert_eq!(timeouts.count() > 0, wanted.is_none());
    }
}

#[test]
fn zero_and_the_empty_name_are_no_conditions() {
    let cluster = "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND, cluster: {portNumber: 0, service: '', subset: '', name: ''}}, patch: {operation: MERGE, value: {connect_timeout: 7s}}}";
    let route = "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND, routeConfiguration: {portNumber: 0, name: '', vhost: {name: '', domainName: '', route: {name: ''}}}}, patch: {operation: MERGE, value: {name: merged}}}";
    let filters = "{applyTo: NETWORK_FILTER, match: {listener: {portNumber: 0, name: '', filterChain: {name: '', sni: '', transportProtocol: '', applicationProtocols: '', destinationPort: 0}}}, patch: {operation: ADD, value: {name: added}}}";
    for patch in [cluster, route, filters] {
        let outcome = &made(&[patch]).patches[0].outcome;
        assert!(matches!(outcome, Outcome::Matched { .. }), "{patch}: {outcome:?}");
    }
}

#[test]
fn a_transport_socket_is_merged_where_the_cluster_chooses() {
    let tls = |more: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{context: SIDECAR_OUTBOUND, cluster: {{service: mixed.example.com}}}}, patch: {{operation: MERGE, value: {{{more}transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, max_session_keys: 7}}}}}}}}}}"
        )
    };
    let mixed = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: mixed}\nspec: {hosts: [mixed.example.com], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.0.0.1, labels: {security.istio.io/tlsMode: istio}}, {address: 10.0.0.2}]}\n";
    let with = |patch: &str| {
        let resources = attempt(&format!("{mixed}{}", filter("one", "", &[patch]))).expect("applies");
        let cluster =
            resources.clusters.iter().find(|one| one.name == "outbound|80||mixed.example.com").map(pool::json);
        (cluster.expect("the cluster"), resources.patches[0].outcome.clone())
    };
    let (cluster, outcome) = with(&tls("connect_timeout: 7s, "));
    assert!(matches!(outcome, Outcome::Matched { count: 1, .. }), "{outcome:?}");
    let chosen = &cluster["transport_socket_matches"][0]["transport_socket"]["typed_config"];
    assert_eq!(chosen["max_session_keys"], 7, "{cluster}");
    assert!(chosen["common_tls_context"].is_object(), "what the patch does not name stays");
    assert_eq!(cluster["transport_socket"], Value::Null);
    assert_eq!(cluster["connect_timeout"], "7s");
    let (_, outcome) = with(&tls("").replace("name: envoy.transport_sockets.tls", "name: other"));
    assert!(matches!(&outcome, Outcome::Unmatched(reason) if reason.contains("named other")), "{outcome:?}");
}

#[test]
fn a_port_of_the_application_is_matched_where_a_chain_is_for_it_alone() {
    let insert = |port: u32, context: &str| {
        format!(
            "{{applyTo: HTTP_FILTER, match: {{context: {context}, listener: {{portNumber: {port}, filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}, patch: {{operation: INSERT_FIRST, {BUFFER}}}}}"
        )
    };
    let all = ["buffer", "fault", "cors", "router"];
    let inbound = made(&[&insert(8080, "SIDECAR_INBOUND")]);
    assert_eq!(http_filters(&inbound, "inbound"), all);
    assert_eq!(http_filters(&inbound, "outbound"), ["fault", "cors", "router"]);
    let chain = "{applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {destinationPort: 8080, filter: {name: envoy.filters.network.http_connection_manager}}}}, patch: {operation: INSERT_FIRST, ";
    assert_eq!(http_filters(&made(&[&format!("{chain}{BUFFER}}}}}")]), "inbound"), all);
    for (port, context, why) in [
        (8081, "SIDECAR_INBOUND", "serves every port"),
        (80, "SIDECAR_OUTBOUND", "serves every port, so none is for port 80"),
    ] {
        match &made(&[&insert(port, context)]).patches[0].outcome {
            Outcome::Unmatched(reason) => assert!(reason.contains(why), "{reason}"),
            other => panic!("{port}: {other:?}"),
        }
    }
}

#[test]
fn an_inbound_cluster_is_matched_by_its_service() {
    let patch = |service: &str| {
        format!(
            "{{applyTo: CLUSTER, match: {{context: SIDECAR_INBOUND, cluster: {{service: {service}}}}}, patch: {{operation: MERGE, value: {{connect_timeout: 7s}}}}}}"
        )
    };
    let hits = |service: &str| match &made(&[&patch(service)]).patches[0].outcome {
        Outcome::Matched { places, .. } => places.clone(),
        _ => Vec::new(),
    };
    assert_eq!(hits("user-service.default.svc.cluster.local"), ["cluster inbound|8080||"]);
    assert_eq!(hits("other.default.svc.cluster.local"), Vec::<String>::new());
}

/// The inbound listener's route configurations, over TLS and in plain text.
fn inbound_routes(resources: &Resources) -> Vec<Value> {
    let listener = pool::json(resources.listeners.iter().find(|one| one.name == "inbound").expect("inbound"));
    let chains = listener["filter_chains"].as_array().expect("chains").clone();
    chains.iter().map(|chain| chain["filters"][0]["typed_config"]["route_config"].clone()).collect()
}

#[test]
fn inbound_routes_are_patched_where_they_stand() {
    let patch = |kind: &str, condition: &str, context: &str, operation: &str, value: &str| {
        format!(
            "{{applyTo: {kind}, match: {{context: {context}{condition}}}, patch: {{operation: {operation}, value: {{{value}}}}}}}"
        )
    };
    let timeout = "route: {timeout: 0.2s}";
    let timeouts = |resources: &Resources| -> Vec<Value> {
        let routes = inbound_routes(resources);
        routes.iter().map(|config| config["virtual_hosts"][0]["routes"][0]["route"]["timeout"].clone()).collect()
    };
    for (condition, context, hits) in [
        ("", "SIDECAR_INBOUND", true),
        ("", "ANY", true),
        ("", "SIDECAR_OUTBOUND", false),
        (", routeConfiguration: {portNumber: 8080}", "SIDECAR_INBOUND", true),
        (", routeConfiguration: {name: 'inbound|8080||'}", "ANY", true),
        (", routeConfiguration: {vhost: {name: 'inbound|http|80', route: {name: default}}}", "SIDECAR_INBOUND", true),
        (", routeConfiguration: {portNumber: 81}", "SIDECAR_INBOUND", false),
        (", routeConfiguration: {name: outbound}", "SIDECAR_INBOUND", false),
        (", routeConfiguration: {vhost: {name: other}}", "SIDECAR_INBOUND", false),
    ] {
        let resources = made(&[&patch("HTTP_ROUTE", condition, context, "MERGE", timeout)]);
        let expected = if hits { json!("0.200s") } else { json!("0s") };
        assert_eq!(timeouts(&resources), [expected.clone(), expected], "{context}{condition}");
    }
    let header = "request_headers_to_add: [{header: {key: x, value: y}}]";
    for kind in ["ROUTE_CONFIGURATION", "VIRTUAL_HOST"] {
        let resources = made(&[&patch(kind, "", "SIDECAR_INBOUND", "MERGE", header)]);
        for config in inbound_routes(&resources) {
            let at = if kind == "VIRTUAL_HOST" { &config["virtual_hosts"][0] } else { &config };
            assert_eq!(at["request_headers_to_add"][0]["header"]["key"], "x", "{kind}");
        }
        assert!(resources.routes[0].request_headers_to_add.is_empty());
    }
    // A route that is to be another one.
    let of_port = ", routeConfiguration: {portNumber: 8080}";
    let other = "name: other, match: {prefix: /}, route: {cluster: 'inbound|9090||'}";
    let exchanged = made(&[
        &patch("HTTP_ROUTE", of_port, "SIDECAR_INBOUND", "REMOVE", ""),
        &patch("HTTP_ROUTE", of_port, "SIDECAR_INBOUND", "ADD", other),
        &patch(
            "HTTP_ROUTE",
            of_port,
            "SIDECAR_INBOUND",
            "ADD",
            "name: last, match: {prefix: /}, direct_response: {status: 204}",
        ),
    ]);
    for config in inbound_routes(&exchanged) {
        let routes = config["virtual_hosts"][0]["routes"].as_array().expect("routes").clone();
        assert_eq!(routes.iter().map(|route| route["name"].clone()).collect::<Vec<_>>(), ["other", "last"]);
    }
    let added = made(&[&patch("VIRTUAL_HOST", "", "SIDECAR_INBOUND", "ADD", "name: more, domains: [more]")]);
    assert_eq!(inbound_routes(&added)[0]["virtual_hosts"][1]["name"], "more");
}

#[test]
fn of_several_inbound_ports_one_is_meant() {
    let second = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: user-admin}\nspec:\n  hosts: [user-admin.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{name: http, number: 81, protocol: HTTP, targetPort: 8081}]\n  workloadSelector: {labels: {app: user-service}}\n";
    for (condition, hit) in [
        ("portNumber: 8081", true),
        ("name: 'inbound|8081||'", true),
        ("vhost: {name: 'inbound|http|81'}", true),
        ("portNumber: 8082", false),
    ] {
        let patch = format!(
            "{{applyTo: HTTP_ROUTE, match: {{context: SIDECAR_INBOUND, routeConfiguration: {{{condition}}}}}, patch: {{operation: MERGE, value: {{route: {{timeout: 3s}}}}}}}}"
        );
        let resources = attempt(&format!("{second}{}", filter("one", "", &[&patch]))).expect("applies");
        let mut changed = 0;
        for host in inbound_routes(&resources)[0]["virtual_hosts"].as_array().expect("hosts") {
            let goes_there = host["routes"][0]["route"]["cluster"] == "inbound|8081||";
            let expected = if goes_there && hit { "3s" } else { "0s" };
            assert_eq!(host["routes"][0]["route"]["timeout"], expected, "{condition}: {host}");
            changed += usize::from(expected == "3s");
        }
        assert_eq!(changed > 0, hit, "{condition}");
    }
    // In plain text 8080 takes nothing: its names have no routes, and a patch for the other port gives them none.
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict}\nspec:\n  selector: {matchLabels: {app: user-service}}\n  mtls: {mode: PERMISSIVE}\n  portLevelMtls: {8080: {mode: STRICT}}\n";
    let add = "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_INBOUND, routeConfiguration: {portNumber: 8081}}, patch: {operation: ADD, value: {name: new, match: {prefix: /}, route: {cluster: 'inbound|8081||'}}}}";
    let me = Node {
        addresses: vec![[127, 0, 1, 4].into()],
        certificates: Some(certificates()),
        labels: [("app".to_owned(), "user-service".to_owned())].into(),
        ..node()
    };
    let yaml = format!("{}{second}{strict}{}", service_and_endpoints(), filter("one", "", &[add]));
    let plain = inbound_routes(&translate(&config(&yaml), &me).expect("applies"))[1].clone();
    let counts: Vec<usize> = plain["virtual_hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .filter(|host| host["name"].as_str().is_some_and(|name| name.contains("user-service")))
        .map(|host| host["routes"].as_array().map_or(0, Vec::len))
        .collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count == 0), "{plain}");
}

#[test]
fn what_is_there_is_changed_before_anything_is_added() {
    let buffer = |operation: &str, bytes: u32| {
        format!(
            "{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_OUTBOUND, listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: {}}}}}}}}}}}, patch: {{operation: {operation}, value: {{name: envoy.filters.http.buffer, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: {bytes}}}}}}}}}",
            if operation == "MERGE" { "envoy.filters.http.buffer" } else { "envoy.filters.http.router" }
        )
    };
    // Filters are merged last, wherever the patch stands.
    let resources = made(&[&buffer("MERGE", 777), &buffer("INSERT_BEFORE", 100)]);
    let listener = pool::json(&resources.listeners[0]);
    let filters = &listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    assert_eq!(filters[2]["typed_config"]["max_request_bytes"], 777);
    let operations: Vec<&str> = resources.patches.iter().map(|report| report.operation.as_str()).collect();
    assert_eq!(operations, ["MERGE", "INSERT_BEFORE"], "reports stand as the patches do");
    // Routes, virtual hosts and clusters first.
    let resources = made(&[
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND}, patch: {operation: INSERT_FIRST, value: {name: new, match: {prefix: /n}, route: {cluster: mine}}}}",
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {route: {timeout: 9s}}}}",
        "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: INSERT_FIRST, value: {name: mine, connect_timeout: 1s}}}",
        "{applyTo: CLUSTER, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {connect_timeout: 9s}}}",
        "{applyTo: VIRTUAL_HOST, match: {context: SIDECAR_OUTBOUND}, patch: {operation: ADD, value: {name: more, domains: [more]}}}",
        "{applyTo: VIRTUAL_HOST, match: {context: SIDECAR_OUTBOUND}, patch: {operation: MERGE, value: {domains: [each]}}}",
    ]);
    let hosts = &resources.routes[0].virtual_hosts;
    let more = hosts.last().expect("the added one");
    assert_eq!((more.name.as_str(), more.domains.as_slice()), ("more", &["more".to_owned()][..]));
    let shown = pool::json(&hosts[0]);
    assert!(shown["routes"][0]["name"] == "new" && shown["routes"][0]["route"]["timeout"].is_null(), "{shown}");
    assert_eq!(shown["routes"][2]["route"]["timeout"], "9s");
    let mine = resources.clusters.iter().find(|cluster| cluster.name == "mine").expect("the added one");
    assert_eq!(mine.connect_timeout.as_ref().map(|time| time.seconds), Some(1));
}
