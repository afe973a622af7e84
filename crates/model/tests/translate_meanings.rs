//! YAML in, resources out: what each important field means.

#[path = "translate_support/mod.rs"]
mod support;

use celerity_model::patch::pool;
use celerity_model::translate::{Node, translate};
use serde_json::{Value, json};
use support::{certificates, config, node, service_and_endpoints};

fn resources(yaml: &str, node: &Node) -> Value {
    let config = config(yaml);
    let made = translate(&config, node).unwrap_or_else(|errors| panic!("{errors:?}"));
    let named = |values: Vec<Value>, key: &str| {
        Value::Object(
            values.into_iter().map(|value| (value[key].as_str().unwrap_or_default().to_owned(), value)).collect(),
        )
    };
    json!({
        "clusters": named(made.clusters.iter().map(pool::json).collect(), "name"),
        "endpoints": named(made.endpoints.iter().map(pool::json).collect(), "cluster_name"),
        "routes": named(made.routes.iter().flat_map(|r| &r.virtual_hosts).map(pool::json).collect(), "name"),
        "listeners": named(made.listeners.iter().map(pool::json).collect(), "name"),
    })
}

fn rule(policy: &str) -> String {
    format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: rule}}\nspec:\n  host: user-service\n  trafficPolicy: {policy}\n",
        service_and_endpoints()
    )
}

const USER: &str = "outbound|80||user-service.default.svc.cluster.local";

fn cluster(policy: &str) -> Value {
    resources(&rule(policy), &node())["clusters"][USER].clone()
}

fn options(cluster: &Value) -> Value {
    cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].clone()
}

#[test]
fn a_service_alone_gets_istios_defaults() {
    let all = resources(&service_and_endpoints(), &node());
    let cluster = &all["clusters"][USER];
    assert_eq!(cluster["connect_timeout"], "10s");
    assert_eq!(cluster["lb_policy"], "LEAST_REQUEST");
    assert_eq!(cluster["type"], "EDS");
    let limits = &cluster["circuit_breakers"]["thresholds"][0];
    for limit in ["max_connections", "max_pending_requests", "max_requests", "max_retries"] {
        assert_eq!(limits[limit], 4_294_967_295_u32, "{limit}");
    }
    assert_eq!(cluster["outlier_detection"], Value::Null);
    let host = &all["routes"]["user-service.default.svc.cluster.local:80"];
    let domains: Vec<&str> = host["domains"].as_array().expect("domains").iter().filter_map(Value::as_str).collect();
    for name in ["user-service", "user-service:80", "user-service.default", "user-service.default.svc:80", "10.1.2.3"] {
        assert!(domains.contains(&name), "{name} in {domains:?}");
    }
    let route = &host["routes"][0]["route"];
    assert_eq!(route["cluster"], USER);
    assert_eq!(route["timeout"], "0s");
    assert_eq!(route["max_grpc_timeout"], "0s", "a gRPC request's own limit holds");
    assert_eq!(route["retry_policy"]["num_retries"], 2);
    assert_eq!(route["retry_policy"]["retry_on"], "connect-failure,refused-stream,unavailable,cancelled");
    assert_eq!(all["routes"]["allow_any"]["routes"][0]["route"]["cluster"], "PassthroughCluster");
}

#[test]
fn connection_pool_settings_arrive() {
    let made = cluster(
        "{connectionPool: {tcp: {maxConnections: 7, connectTimeout: 30ms, idleTimeout: 9s, tcpKeepalive: {time: 7200s, interval: 75s, probes: 3}}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 8, maxRetries: 3, maxRequestsPerConnection: 100, idleTimeout: 30s}}}",
    );
    let limits = &made["circuit_breakers"]["thresholds"][0];
    assert_eq!(
        (&limits["max_connections"], &limits["max_requests"], &limits["max_retries"]),
        (&json!(7), &json!(8), &json!(3))
    );
    assert_eq!(limits["max_pending_requests"], 4_294_967_295_u32, "zero counts as unset");
    assert_eq!(made["connect_timeout"], "0.030s");
    let keepalive = &made["upstream_connection_options"]["tcp_keepalive"];
    assert_eq!(keepalive, &json!({"keepalive_probes": 3, "keepalive_time": 7200, "keepalive_interval": 75}));
    let common = &options(&made)["common_http_protocol_options"];
    assert_eq!(
        common,
        &json!({"idle_timeout": "30s", "max_requests_per_connection": 100}),
        "the HTTP idle timeout beats TCP's"
    );
}

#[test]
fn the_clients_protocol_beats_an_upgrade() {
    let upgrade = options(&cluster("{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}"));
    assert!(upgrade["explicit_http_config"]["http2_protocol_options"].is_object(), "{upgrade}");
    let both = options(&cluster("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}"));
    assert!(both["use_downstream_protocol_config"].is_object(), "{both}");
    let http2 = options(&cluster(
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 50, http2KeepAlive: {interval: 5s, timeout: 1s}}}}",
    ));
    let http2 = &http2["explicit_http_config"]["http2_protocol_options"];
    assert_eq!(
        http2,
        &json!({"max_concurrent_streams": 50, "connection_keepalive": {"interval": "5s", "timeout": "1s"}})
    );
}

#[test]
fn outlier_detection_sets_panic_and_switches_success_rate_off() {
    let made = cluster(
        "{outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 0, interval: 30s, baseEjectionTime: 30s, maxEjectionPercent: 10, outlierDetectionHttpErrorCodes: [429, 503]}}",
    );
    assert_eq!(
        made["outlier_detection"],
        json!({
            "consecutive_5xx": 7, "enforcing_consecutive_5xx": 100, "consecutive_gateway_failure": 1,
            "enforcing_consecutive_gateway_failure": 0, "enforcing_success_rate": 0, "interval": "30s",
            "base_ejection_time": "30s", "max_ejection_percent": 10
        })
    );
    assert_eq!(made["common_lb_config"]["healthy_panic_threshold"]["value"].as_f64().unwrap_or(0.0), 0.0);
    let codes = &options(&made)["outlier_detection"]["error_matcher"]["or_match"]["rules"];
    assert_eq!(codes.as_array().map(Vec::len), Some(2), "{codes}");
}

#[test]
fn balancers() {
    let ring = cluster("{loadBalancer: {consistentHash: {httpHeaderName: x-user-id}}}");
    assert_eq!(
        (&ring["lb_policy"], &ring["ring_hash_lb_config"]["minimum_ring_size"]),
        (&json!("RING_HASH"), &json!(1024))
    );
    let maglev = cluster("{loadBalancer: {consistentHash: {httpHeaderName: x-user-id, maglev: {tableSize: 251}}}}");
    assert_eq!((&maglev["lb_policy"], &maglev["maglev_lb_config"]["table_size"]), (&json!("MAGLEV"), &json!(251)));
    assert_eq!(cluster("{loadBalancer: {simple: LEAST_CONN}}")["lb_policy"], "LEAST_REQUEST");
    assert_eq!(cluster("{loadBalancer: {simple: RANDOM}}")["lb_policy"], "RANDOM");
    let warm = cluster("{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 60s}}}");
    assert_eq!(
        warm["round_robin_lb_config"]["slow_start_config"],
        json!({"slow_start_window": "60s", "min_weight_percent": {"value": 10.0}})
    );
}

#[test]
fn a_hash_reaches_the_route_and_drops_the_previous_hosts_predicate() {
    let all = resources(&rule("{loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}}"), &node());
    let route = &all["routes"]["user-service.default.svc.cluster.local:80"]["routes"][0]["route"];
    assert_eq!(route["hash_policy"], json!([{"cookie": {"name": "user", "ttl": "0s"}}]));
    assert_eq!(route["retry_policy"]["retry_host_predicate"], Value::Null);
}

#[test]
fn nothing_is_inherited_into_port_level_settings() {
    let made = cluster(
        "{connectionPool: {tcp: {maxConnections: 7}}, loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}, connectionPool: {http: {maxRetries: 1}}}]}",
    );
    assert_eq!(made["lb_policy"], "LEAST_REQUEST");
    let limits = &made["circuit_breakers"]["thresholds"][0];
    assert_eq!((&limits["max_connections"], &limits["max_retries"]), (&json!(4_294_967_295_u32), &json!(1)));
}

#[test]
fn several_rules_for_a_host_merge_and_the_first_policy_stands() {
    let second = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: later}\nspec:\n  host: user-service\n  subsets:\n  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}\n";
    let all = resources(
        &format!("{}{second}", rule("{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}}")),
        &node(),
    );
    assert_eq!(all["clusters"][USER]["lb_policy"], "RANDOM");
    let subset = "outbound|80|v2|user-service.default.svc.cluster.local";
    let made = &all["clusters"][subset];
    assert_eq!(
        made["lb_policy"],
        Value::Null,
        "the subset's own: ROUND_ROBIN, the zero of the enum, which JSON leaves out"
    );
    assert_eq!(made["circuit_breakers"]["thresholds"][0]["max_connections"], 7, "the host's");
    let endpoints = &all["endpoints"][subset]["endpoints"];
    assert_eq!(endpoints.as_array().map(Vec::len), Some(1));
    assert_eq!(endpoints[0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"], "127.0.1.4");
}

#[test]
fn failover_orders_localities_only_with_outlier_detection() {
    let priorities = |policy: &str| {
        let all = resources(&rule(policy), &node());
        let endpoints = all["endpoints"][USER]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints
            .iter()
            .map(|group| {
                (
                    group["locality"]["zone"].as_str().unwrap_or_default().to_owned(),
                    group["priority"].as_u64().unwrap_or(0),
                )
            })
            .collect::<Vec<_>>()
    };
    let flat = priorities("{loadBalancer: {localityLbSetting: {enabled: true}}}");
    assert!(flat.iter().all(|(_, priority)| *priority == 0), "{flat:?}");
    let ordered = priorities(
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: us-central1, to: us-west1}]}}}",
    );
    assert_eq!(
        ordered,
        [("us-central1-a".to_owned(), 0), ("us-central1-b".to_owned(), 1), ("us-west1-a".to_owned(), 2)]
    );
    let off = priorities("{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}");
    assert!(off.iter().all(|(_, priority)| *priority == 0), "{off:?}");
}

#[test]
fn of_two_failovers_from_one_region_the_first_stands() {
    let order = |first: &str, second: &str| {
        let yaml = rule(&format!(
            "{{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failover: [{{from: us-central1, to: {first}}}, {{from: us-central1, to: {second}}}]}}}}}}"
        ));
        let east = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: user-5}\nspec: {address: 127.0.1.5, labels: {app: user-service}, locality: us-east1/us-east1-a}\n";
        let all = resources(&format!("{yaml}{east}"), &node());
        let groups = all["endpoints"][USER]["endpoints"].as_array().cloned().unwrap_or_default();
        let region = |group: &Value| group["locality"]["region"].as_str().unwrap_or_default().to_owned();
        groups.iter().map(|group| (region(group), group["priority"].as_u64().unwrap_or(0))).skip(2).collect::<Vec<_>>()
    };
    assert_eq!(order("us-west1", "us-east1"), [("us-west1".to_owned(), 2), ("us-east1".to_owned(), 3)]);
    assert_eq!(order("us-east1", "us-west1"), [("us-east1".to_owned(), 2), ("us-west1".to_owned(), 3)]);
}

#[test]
fn distribute_weighs_localities_and_leaves_out_the_others() {
    let all = resources(
        &rule(
            "{loadBalancer: {localityLbSetting: {distribute: [{from: us-central1/us-central1-a/*, to: {us-central1/*: 80, us-west1/*: 20}}]}}}",
        ),
        &node(),
    );
    assert!(all["clusters"][USER]["common_lb_config"]["locality_weighted_lb_config"].is_object());
    let endpoints = all["endpoints"][USER]["endpoints"].as_array().cloned().unwrap_or_default();
    let weights: Vec<(&str, u64)> = endpoints
        .iter()
        .map(|group| {
            (
                group["locality"]["zone"].as_str().unwrap_or_default(),
                group["load_balancing_weight"].as_u64().unwrap_or(0),
            )
        })
        .collect();
    // Two endpoints in zone a and one in b share the 80 percent.
    assert_eq!(weights, [("us-central1-a", 54), ("us-central1-b", 27), ("us-west1-a", 20)]);
}

#[test]
fn mesh_mtls_is_automatic_where_every_endpoint_has_a_sidecar() {
    let secure = Node { certificates: Some(certificates()), ..node() };
    let all = resources(&service_and_endpoints(), &secure);
    let cluster = &all["clusters"][USER];
    let tls = &cluster["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "outbound_.80_._.user-service.default.svc.cluster.local");
    assert_eq!(tls["common_tls_context"]["alpn_protocols"], json!(["istio", "h2", "http/1.1"]));
    let names = &tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"];
    assert_eq!(
        names,
        &json!([{"san_type": "URI", "matcher": {"exact": "spiffe://cluster.local/ns/default/sa/user-service"}}])
    );
    assert!(options(cluster)["auto_config"].is_object());

    let one_without = service_and_endpoints().replacen(", security.istio.io/tlsMode: istio", "", 1);
    let all = resources(&one_without, &secure);
    let cluster = &all["clusters"][USER];
    assert_eq!(cluster["transport_socket"], Value::Null);
    assert_eq!(cluster["transport_socket_matches"].as_array().map(Vec::len), Some(2));

    let disabled = format!(
        "{}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: off}}\nspec: {{mtls: {{mode: DISABLE}}}}\n",
        service_and_endpoints()
    );
    assert_eq!(resources(&disabled, &secure)["clusters"][USER]["transport_socket"], Value::Null);
}

#[test]
fn a_host_that_makes_no_server_name_goes_without_one() {
    let long = ["a"; 125].join(".");
    for host in ["*.wild.example", &long] {
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: w}}\nspec: {{hosts: ['{host}'], location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 10.0.0.1, labels: {{security.istio.io/tlsMode: istio}}}}]}}\n"
        );
        let all = resources(&entry, &Node { certificates: Some(certificates()), ..node() });
        let tls = &all["clusters"][format!("outbound|80||{host}")]["transport_socket"]["typed_config"];
        assert!(tls["common_tls_context"].is_object(), "{all}");
        assert_eq!(tls["sni"], Value::Null);
    }
}

#[test]
fn istio_mutual_names_the_server_and_fails_closed_without_a_certificate() {
    let yaml = rule("{tls: {mode: ISTIO_MUTUAL, sni: user-service.default.svc.cluster.local}}");
    let secure = Node { certificates: Some(certificates()), ..node() };
    let all = resources(&yaml, &secure);
    assert_eq!(
        all["clusters"][USER]["transport_socket"]["typed_config"]["sni"],
        "user-service.default.svc.cluster.local"
    );
    let config = config(&yaml);
    let bare = translate(&config, &node()).expect("translates");
    assert!(bare.endpoints.iter().all(|assignment| assignment.endpoints.is_empty()));
    assert_eq!(bare.notes.len(), 1, "{:?}", bare.notes);
}

#[test]
fn simple_tls_takes_the_roots_and_names_of_the_rule() {
    let made = cluster(
        "{tls: {mode: SIMPLE, caCertificates: /etc/ca.pem, subjectAltNames: [api.example.com], sni: api.example.com}}",
    );
    let tls = &made["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "api.example.com");
    assert_eq!(tls["common_tls_context"]["validation_context"]["trusted_ca"]["filename"], "/etc/ca.pem");
    let unnamed = cluster("{tls: {mode: SIMPLE}}");
    assert_eq!(
        options(&unnamed)["upstream_http_protocol_options"],
        json!({"auto_sni": true, "auto_san_validation": true})
    );
}

fn routes(http: &str) -> Value {
    let yaml = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: routes}}\nspec:\n  hosts: [user-service]\n  http:\n{http}",
        service_and_endpoints()
    );
    resources(&yaml, &node())["routes"]["user-service.default.svc.cluster.local:80"]["routes"].clone()
}

#[test]
fn matches_rewrites_and_weights() {
    let made = routes(
        "  - name: canary\n    match:\n    - {uri: {prefix: /api}, headers: {x-a: {exact: b}, x-p: {}}, withoutHeaders: {x-no: {}}, queryParams: {q: {regex: 'a+'}}, method: {exact: GET}, ignoreUriCase: true}\n    - {sourceLabels: {app: other}, uri: {exact: /never}}\n    rewrite: {uri: /v2, authority: other.example.com}\n    timeout: 2s\n    retries: {attempts: 4, perTryTimeout: 1s, retryOn: 'gateway-error,429', retryRemoteLocalities: true, backoff: 10ms}\n    route:\n    - {destination: {host: user-service, subset: v1}, weight: 90, headers: {response: {add: {x-v: '1'}}}}\n    - {destination: {host: user-service, subset: v2, port: {number: 80}}, weight: 10}\n    - {destination: {host: user-service}, weight: 0}\n  - route: [{destination: {host: user-service}}]\n",
    );
    assert_eq!(made.as_array().map(Vec::len), Some(2), "what other workloads' labels decide is decided here: {made}");
    let first = &made[0];
    assert_eq!(first["match"]["prefix"], "/api");
    assert_eq!(first["match"]["case_sensitive"], false);
    let headers = first["match"]["headers"].as_array().expect("headers");
    assert_eq!(headers.len(), 4);
    assert!(headers.contains(&json!({"name": "x-no", "present_match": true, "invert_match": true})), "{headers:?}");
    let route = &first["route"];
    let clusters = route["weighted_clusters"]["clusters"].as_array().expect("clusters");
    assert_eq!(clusters.len(), 2);
    assert_eq!(
        (&clusters[1]["name"], &clusters[1]["weight"]),
        (&json!("outbound|80|v2|user-service.default.svc.cluster.local"), &json!(10))
    );
    assert_eq!(
        (&route["prefix_rewrite"], &route["host_rewrite_literal"], &route["timeout"], &route["max_grpc_timeout"]),
        (&json!("/v2"), &json!("other.example.com"), &json!("2s"), &json!("2s"))
    );
    let retry = &route["retry_policy"];
    assert_eq!(
        (&retry["retry_on"], &retry["retriable_status_codes"]),
        (&json!("gateway-error,retriable-status-codes"), &json!([429]))
    );
    assert_eq!((&retry["num_retries"], &retry["per_try_timeout"]), (&json!(4), &json!("1s")));
    assert_eq!(retry["retry_back_off"]["base_interval"], "0.010s");
    assert_eq!(retry["retry_priority"]["name"], "envoy.retry_priorities.previous_priorities");
}

#[test]
fn redirects_answers_faults_and_headers() {
    let made = routes(
        "  - match: [{uri: {exact: /old}}]\n    redirect: {uri: /new, authority: new.example.com, redirectCode: 308, scheme: https}\n  - match: [{uri: {exact: /teapot}}]\n    directResponse: {status: 418, body: {string: short}}\n  - fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}, abort: {httpStatus: 503, percentage: {value: 50}}}\n    headers: {request: {set: {x-a: b, host: h}, remove: [x-c]}}\n    corsPolicy: {allowOrigins: [{exact: 'https://a'}], allowMethods: [GET, PUT], maxAge: 24h}\n    route: [{destination: {host: user-service}}]\n",
    );
    assert_eq!(
        made[0]["redirect"],
        json!({"host_redirect": "new.example.com", "path_redirect": "/new", "scheme_redirect": "https", "response_code": "PERMANENT_REDIRECT"})
    );
    assert_eq!(made[1]["direct_response"], json!({"status": 418, "body": {"inline_string": "short"}}));
    let filters = &made[2]["typed_per_filter_config"];
    let fault = &filters["envoy.filters.http.fault"];
    assert_eq!(
        fault["delay"],
        json!({"fixed_delay": "5s", "percentage": {"numerator": 1000, "denominator": "MILLION"}})
    );
    assert_eq!(fault["abort"]["http_status"], 503);
    let cors = &filters["envoy.filters.http.cors"];
    assert_eq!((&cors["allow_methods"], &cors["max_age"]), (&json!("GET,PUT"), &json!("86400")));
    assert_eq!(made[2]["route"]["host_rewrite_literal"], "h");
    assert_eq!(made[2]["request_headers_to_remove"], json!(["x-c"]));
    assert_eq!(
        made[2]["request_headers_to_add"],
        json!([{"header": {"key": "x-a", "value": "b"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}])
    );
}

#[test]
fn a_workload_serves_its_own_ports_as_peer_authentication_says() {
    let me = Node {
        addresses: vec![[127, 0, 1, 4].into()],
        application: [127, 0, 1, 4].into(),
        certificates: Some(certificates()),
        ..node()
    };
    let all = resources(&service_and_endpoints(), &me);
    let inbound = &all["clusters"]["inbound|8080||"];
    let address =
        &inbound["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!(address, &json!({"address": "127.0.1.4", "port_value": 8080}));
    let chains = |all: &Value| -> Vec<String> {
        let chains = all["listeners"]["inbound"]["filter_chains"].as_array().cloned().unwrap_or_default();
        chains.iter().map(|chain| chain["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(chains(&all), ["inbound-mtls", "inbound-plain"], "PERMISSIVE is the default");
    let policy = |mode: &str| {
        format!(
            "{}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{mtls: {{mode: {mode}}}}}\n",
            service_and_endpoints()
        )
    };
    let strict = resources(&policy("STRICT"), &me);
    assert_eq!(chains(&strict), ["inbound-mtls"]);
    let tls = &strict["listeners"]["inbound"]["filter_chains"][0]["transport_socket"]["typed_config"];
    assert_eq!(tls["require_client_certificate"], true);
    assert_eq!(chains(&resources(&policy("DISABLE"), &me)), ["inbound-plain"]);
    let port = format!(
        "{}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: w}}\nspec: {{selector: {{matchLabels: {{app: order-service}}}}, mtls: {{mode: DISABLE}}, portLevelMtls: {{8080: {{mode: STRICT}}}}}}\n",
        service_and_endpoints()
    );
    assert_eq!(chains(&resources(&port, &me)), ["inbound-mtls"]);
}

#[test]
fn what_a_port_does_not_take_gets_to_no_other_port() {
    let me = Node {
        labels: [("app".to_owned(), "s".to_owned())].into(),
        addresses: vec!["127.0.7.1".parse().expect("an address")],
        certificates: Some(certificates()),
        ..node()
    };
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec:\n  hosts: [s]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http, targetPort: 8080}, {number: 81, name: http-two, targetPort: 8081}]\n  endpoints: [{address: 127.0.7.1, ports: {http: 15006, http-two: 15006}, labels: {app: s}}]\n";
    // By chain: its route configuration, and which cluster the names `s`, `s:81` and any other lead to.
    let chains = |mode: &str, port: u16, port_mode: &str| {
        let policy = format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{selector: {{matchLabels: {{app: s}}}}, mtls: {{mode: {mode}}}, portLevelMtls: {{{port}: {{mode: {port_mode}}}}}}}\n"
        );
        let all = resources(&format!("{entry}{policy}"), &me);
        let chains = all["listeners"]["inbound"]["filter_chains"].as_array().cloned().unwrap_or_default();
        let describe = |chain: &Value| {
            let routes = &chain["filters"][0]["typed_config"]["route_config"];
            let hosts = routes["virtual_hosts"].as_array().cloned().unwrap_or_default();
            let mut text = format!("{} {}:", chain["name"].as_str()?, routes["name"].as_str()?);
            for name in ["s", "s:81", "*"] {
                let host =
                    hosts.iter().find(|host| host["domains"].as_array().is_some_and(|all| all.contains(&json!(name))));
                text += &format!(" {}", host?["routes"][0]["route"]["cluster"].as_str().unwrap_or("nowhere"));
            }
            Some(text)
        };
        chains.iter().map(|chain| describe(chain).unwrap_or_default()).collect::<Vec<_>>()
    };
    let (one, two) = ("inbound|8080||", "inbound|8081||");
    let mtls = |rest: String| format!("inbound-mtls {rest}");
    let plain = |rest: String| format!("inbound-plain {rest}");
    assert_eq!(
        chains("STRICT", 8081, "DISABLE"),
        [mtls(format!("{one}: {one} nowhere {one}")), plain(format!("{two}: nowhere {two} nowhere"))]
    );
    assert_eq!(
        chains("STRICT", 8080, "PERMISSIVE"),
        [mtls(format!("inbound: {one} {two} {one}")), plain(format!("{one}: {one} nowhere {one}"))]
    );
    assert_eq!(
        chains("PERMISSIVE", 8080, "DISABLE"),
        [mtls(format!("{two}: nowhere {two} nowhere")), plain(format!("inbound: {one} {two} {one}"))]
    );
    assert_eq!(chains("STRICT", 8081, "UNSET"), [mtls(format!("inbound: {one} {two} {one}"))]);
}

#[test]
fn outside_services_by_name() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: out}\nspec:\n  hosts: [api.example.com]\n  location: MESH_EXTERNAL\n  resolution: DNS\n  ports: [{number: 80, name: http, protocol: HTTP}]\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: dns, namespace: istio-system}\ndata:\n  dns.yaml: |\n    dns_refresh_rate: 300s\n    dns_lookup_family: V4_ONLY\n    dns_resolution_config: {resolvers: ['udp://8.8.8.8:53']}\n";
    let all = resources(yaml, &node());
    let cluster = &all["clusters"]["outbound|80||api.example.com"];
    assert_eq!(
        (&cluster["type"], &cluster["dns_refresh_rate"], &cluster["dns_lookup_family"]),
        (&json!("STRICT_DNS"), &json!("300s"), &json!("V4_ONLY"))
    );
    let address =
        &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!(address, &json!({"address": "api.example.com", "port_value": 80}));
    let resolvers = &cluster["typed_dns_resolver_config"]["typed_config"]["resolvers"];
    assert_eq!(resolvers[0]["socket_address"]["address"], "8.8.8.8");
}

#[test]
fn an_external_name_is_asked_of_dns_and_gets_no_mesh_mtls() {
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {type: ExternalName, externalName: api.example.com, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
    let all = resources(alias, &Node { certificates: Some(certificates()), ..node() });
    let cluster = &all["clusters"]["outbound|80||pay.default.svc.cluster.local"];
    assert_eq!(cluster["type"], "STRICT_DNS");
    assert_eq!(cluster["transport_socket"], Value::Null);
    let address =
        &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"];
    assert_eq!((&address["address"], &address["port_value"]), (&json!("api.example.com"), &json!(8080)));
    let domains = all["routes"]["pay.default.svc.cluster.local:80"]["domains"].as_array().expect("domains").clone();
    assert!(domains.contains(&json!("pay")));
}

#[test]
fn a_host_that_is_added_is_the_authority_and_gateway_matches_are_left_out() {
    let yaml = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [user-service]\n  gateways: [mesh, my-gateway]\n  http:\n  - {{name: outer, match: [{{gateways: [my-gateway]}}], redirect: {{uri: /}}}}\n  - {{name: inner, route: [{{destination: {{host: user-service}}}}], headers: {{request: {{add: {{Host: other.example.com, x: '1'}}}}}}}}\n",
        service_and_endpoints()
    );
    let all = resources(&yaml, &node());
    let routes =
        all["routes"]["user-service.default.svc.cluster.local:80"]["routes"].as_array().expect("routes").clone();
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!(
        (&routes[0]["name"], &routes[0]["route"]["host_rewrite_literal"]),
        (&json!("inner"), &json!("other.example.com"))
    );
    let added = routes[0]["request_headers_to_add"].as_array().expect("headers");
    assert_eq!(added.len(), 1, "{added:?}");
}

#[test]
fn a_fault_without_a_percentage_meets_no_request() {
    let all = resources(
        &format!(
            "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [user-service]\n  http:\n  - fault: {{delay: {{fixedDelay: 1s}}, abort: {{httpStatus: 500}}}}\n    match: [{{withoutHeaders: {{x: {{regex: '*'}}}}}}]\n    route: [{{destination: {{host: user-service}}}}]\n",
            service_and_endpoints()
        ),
        &node(),
    );
    let route = &all["routes"]["user-service.default.svc.cluster.local:80"]["routes"][0];
    let fault = &route["typed_per_filter_config"]["envoy.filters.http.fault"];
    for part in ["delay", "abort"] {
        assert_eq!(fault[part]["percentage"]["numerator"].as_u64().unwrap_or(0), 0, "{fault}");
    }
    // A lone star asks for absence, as in Istio.
    assert_eq!(route["match"]["headers"], json!([{"name": "x", "present_match": true, "invert_match": true}]));
}

fn routed(http: &str) -> Value {
    let text = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [user-service, other.example.com]\n  http:\n{http}\n",
        service_and_endpoints()
    );
    resources(&text, &node())["routes"].clone()
}

#[test]
fn routes_for_others_leave_a_service_its_default_route() {
    let to = "route: [{destination: {host: user-service}}]";
    for condition in ["port: 8080", "sourceLabels: {app: another}", "sourceNamespace: another", "gateways: [a-gateway]"]
    {
        let all = routed(&format!("  - {{match: [{{{condition}}}], {to}}}"));
        let routes = &all["user-service.default.svc.cluster.local:80"]["routes"];
        assert_eq!(routes[0]["name"], "default", "{condition}: {routes}");
        assert_eq!(routes[0]["route"]["cluster"], USER);
        // A host without a service has nothing to fall back on.
        assert_eq!(all["other.example.com:80"], Value::Null, "{condition}");
    }
    let some = routed(&format!("  - {{match: [{{port: 8080}}, {{uri: {{prefix: /a}}}}], {to}}}"));
    let routes = &some["user-service.default.svc.cluster.local:80"]["routes"];
    assert_eq!(routes.as_array().map(Vec::len), Some(1), "{routes}");
    assert_eq!(routes[0]["match"]["prefix"], "/a");
}

#[test]
fn a_single_destination_is_folded_into_its_route() {
    let all = routed(
        "  - headers: {request: {set: {x: route}, remove: [r]}, response: {add: {y: route}}}\n    route: [{destination: {host: user-service}, headers: {request: {set: {x: one, host: h}, remove: [s]}, response: {add: {y: one}}}}]",
    );
    let route = &all["user-service.default.svc.cluster.local:80"]["routes"][0];
    assert_eq!(route["route"]["cluster"], USER);
    assert_eq!(route["route"]["host_rewrite_literal"], "h");
    let values = |list: &Value| -> Vec<String> {
        let all = list.as_array().expect("a list").iter();
        all.map(|one| one["header"]["value"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&route["request_headers_to_add"]), ["route", "one"], "the destination's come last and win");
    assert_eq!(values(&route["response_headers_to_add"]), ["route", "one"]);
    assert_eq!(route["request_headers_to_remove"], json!(["r", "s"]));
}

#[test]
fn a_redirect_does_not_write_its_schemes_own_port() {
    for (redirect, port) in [
        ("port: 80", 0),
        ("port: 80, scheme: http", 0),
        ("port: 443, scheme: https", 0),
        ("port: 80, scheme: https", 80),
        ("port: 443", 443),
        ("derivePort: FROM_REQUEST_PORT", 0),
        ("derivePort: FROM_REQUEST_PORT, scheme: https", 80),
        ("authority: a", 0),
    ] {
        let all = routed(&format!("  - {{redirect: {{{redirect}}}}}"));
        let made = &all["user-service.default.svc.cluster.local:80"]["routes"][0]["redirect"];
        assert_eq!(made["port_redirect"].as_u64().unwrap_or(0), port, "{redirect}: {made}");
    }
}

#[test]
fn passthrough_has_no_endpoints() {
    let made = cluster("{loadBalancer: {simple: PASSTHROUGH}}");
    assert_eq!((&made["type"], &made["lb_policy"]), (&json!("ORIGINAL_DST"), &json!("CLUSTER_PROVIDED")));
    assert_eq!((&made["eds_cluster_config"], &made["load_assignment"]), (&Value::Null, &Value::Null), "{made}");
}
