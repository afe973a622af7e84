//! What is wrong is refused, all at once, each error with its place and what would be right.

mod common;

use celerity_model::istio::{ErrorKind, ReadError};

fn rule(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: r\nspec:\n{spec}")
}

fn errors(text: &str) -> Vec<ReadError> {
    common::read(text).expect_err("it is wrong")
}

fn one(text: &str) -> ReadError {
    let mut found = errors(text);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn every_error_is_found_at_once() {
    let text = rule(
        "  host: a\n  trafficPolicy:\n    connectionPool:\n      tcp:\n        maxConnection: 5\n        connectTimeout: 30\n      http:\n        maxRetries: lots\n        h2UpgradePolicy: UPGRAD\n    outlierDetection:\n      maxEjectionPercent: 110\n",
    );
    let found: Vec<(u32, String, ErrorKind)> = errors(&text).into_iter().map(|e| (e.line, e.field, e.kind)).collect();
    let pool = "spec.trafficPolicy.connectionPool";
    assert_eq!(
        found,
        [
            (11, format!("{pool}.tcp.connectTimeout"), ErrorKind::BadValue),
            (10, format!("{pool}.tcp.maxConnection"), ErrorKind::UnknownKey),
            (13, format!("{pool}.http.maxRetries"), ErrorKind::WrongType),
            (14, format!("{pool}.http.h2UpgradePolicy"), ErrorKind::BadValue),
            (16, "spec.trafficPolicy.outlierDetection.maxEjectionPercent".to_owned(), ErrorKind::BadValue),
        ]
    );
}

#[test]
fn an_error_names_its_place_and_the_nearest_key() {
    let error = one(&rule("  host: a\n  trafficPolicy:\n    conectionPool: {}\n"));
    assert_eq!(
        error.to_string(),
        "test.yaml:8:5: DestinationRule default/r: spec.trafficPolicy.conectionPool: there is no such field; did you mean connectionPool?"
    );
}

#[test]
fn fields_that_do_not_act_are_refused_by_name() {
    let error = one(&rule("  host: a\n  trafficPolicy:\n    tunnel: {targetHost: b, targetPort: 1}\n"));
    assert_eq!(error.kind, ErrorKind::NotSupported);
    assert!(error.reason.starts_with("not supported yet"), "{error}");
}

#[test]
fn kinds_that_do_not_act_are_refused_by_name() {
    for kind in ["Sidecar", "Gateway", "AuthorizationPolicy", "Telemetry", "Deployment"] {
        let error =
            one(&format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n"));
        assert_eq!(error.kind, ErrorKind::KindNotSupported, "{error}");
    }
    let error = one("apiVersion: networking.istio.io/v1\nkind: DestinationRul\nmetadata: {name: a}\n");
    assert!(error.reason.contains("did you mean DestinationRule?"), "{error}");
    let error = one("apiVersion: networking.istio.io/v2\nkind: DestinationRule\nmetadata: {name: a}\n");
    assert_eq!(error.field, "apiVersion");
}

#[test]
fn fields_that_exclude_each_other() {
    for spec in [
        "  host: a\n  trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}}\n",
        "  host: a\n  trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}}\n",
        "  host: a\n  subsets: [{name: a}, {name: a}]\n",
        "  host: a\n  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, privateKey: /k}}\n",
    ] {
        assert_eq!(one(&rule(spec)).kind, ErrorKind::Conflict);
    }
}

#[test]
fn a_server_name_that_cannot_be_sent_is_refused_where_it_stands() {
    for (mode, sni) in [("SIMPLE", "bad name"), ("SIMPLE", "*.a"), ("ISTIO_MUTUAL", "a_b.*")] {
        let error = one(&rule(&format!("  host: a\n  trafficPolicy: {{tls: {{mode: {mode}, sni: '{sni}'}}}}\n")));
        assert_eq!((error.kind, error.field.as_str()), (ErrorKind::BadValue, "spec.trafficPolicy.tls.sni"), "{error}");
    }
    for sni in ["outbound_.80_._.a.default.svc.cluster.local", "10.0.0.1"] {
        common::read(&rule(&format!("  host: a\n  trafficPolicy: {{tls: {{mode: SIMPLE, sni: '{sni}'}}}}\n")))
            .expect("it can be sent");
    }
}

#[test]
fn words_of_old_yaml_are_no_booleans() {
    let spec = "  host: a\n  trafficPolicy: {connectionPool: {http: {useClientProtocol: yes}}}\n";
    assert_eq!(one(&rule(spec)).kind, ErrorKind::WrongType);
    for word in ["off", "Yes", "NO"] {
        // kubectl makes a boolean of it, and then refuses the label.
        let text = rule(&format!("  host: a\n  subsets: [{{name: b, labels: {{on: {word}}}}}]\n"));
        assert_eq!(one(&text).kind, ErrorKind::WrongType);
        let quoted = common::read(&text.replace(word, &format!("'{word}'"))).expect("text");
        assert_eq!(quoted.destination_rules[0].spec.subsets[0].labels.get("on").map(String::as_str), Some(word));
    }
    assert!(one(&rule("  host: a\n  subsets: [{name: b, labels: {version: 1}}]\n")).reason.contains("\"1\""));
}

#[test]
fn a_broken_document_spoils_only_itself() {
    let text = format!("{}---\na: [\n---\n{}", rule("  host: a\n"), rule("  host: a\n").replace("name: r", "name: s"));
    let file: std::sync::Arc<str> = "test.yaml".into();
    let (config, found) = celerity_model::istio::read_partial(&[(file, &text)]);
    assert_eq!((config.destination_rules.len(), found.len()), (2, 1));
    assert_eq!(config.destination_rules[1].source.document, 2);
}

#[test]
fn a_document_with_an_error_beside_its_spec_is_not_taken() {
    let file: std::sync::Arc<str> = "test.yaml".into();
    let text = rule("  host: a\nspecs: {}\n");
    let (config, found) = celerity_model::istio::read_partial(&[(file, &text)]);
    assert!(config.is_empty() && found.len() == 1);
}

#[test]
fn the_same_name_twice_is_refused() {
    let text = format!("{}---\n{}", rule("  host: a\n"), rule("  host: b\n"));
    let error = one(&text);
    assert_eq!(error.kind, ErrorKind::Duplicate);
    assert!(error.reason.contains("test.yaml:1"), "{error}");
}

#[test]
fn a_list_holds_documents() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: 80}]}\n- apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec: {ports: [{port: 80}, {port: 80}]}\n";
    let found = errors(text);
    assert!(found.iter().all(|e| e.document == "Service default/b"), "{found:?}");
}

#[test]
fn routes() {
    let route = |body: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [a]\n  http:\n  - {body}\n"
        )
    };
    for (body, kind) in [
        ("name: x", ErrorKind::Missing),
        ("route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]", ErrorKind::BadValue),
        ("{redirect: {uri: /}, directResponse: {status: 200}}", ErrorKind::Conflict),
        ("{match: [{uri: {regex: '('}}], redirect: {uri: /}}", ErrorKind::BadValue),
        ("{match: [{uri: {exact: a, prefix: b}}], redirect: {uri: /}}", ErrorKind::Conflict),
        (
            "{route: [{destination: {host: a}}], retries: {attempts: 2, retryOn: 5xx,conect-failure}}",
            ErrorKind::UnknownKey,
        ),
        (
            "{route: [{destination: {host: a}}], retries: {attempts: 2, retryOn: '5xx,conect-failure'}}",
            ErrorKind::BadValue,
        ),
        ("{route: [{destination: {host: a}}], fault: {abort: {percentage: {value: 1}}}}", ErrorKind::Missing),
        ("{directResponse: {status: 700}}", ErrorKind::BadValue),
    ] {
        let found = errors(&route(body));
        assert!(found.iter().any(|e| e.kind == kind), "{body}: {found:?}");
    }
    common::read(&route("{directResponse: {status: 200, body: {string: ok}}}")).expect("it is right");
}

#[test]
fn a_config_map_is_read_to_its_inner_lines() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: istio-system}\ndata:\n  note: hello\n  config.yaml: |\n    proxy:\n      concurency: 2\n";
    let error = one(text);
    assert_eq!((error.line, error.field.as_str()), (8, "data.config.yaml.proxy.concurency"));
    assert!(error.reason.contains("did you mean concurrency?"));
}

#[test]
fn a_config_map_of_another_program_is_data() {
    let map = |namespace: &str, key: &str, text: &str| {
        let text = text.replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: hub, namespace: {namespace}}}\ndata:\n  {key}: |\n    {text}\n"
        )
    };
    for (key, text) in [
        ("config.yaml", "proxy: {service: {type: LoadBalancer}}\nsingleuser: {cpu: 1}"),
        ("config.yaml", "proxy: {resources: {limits: {cpu: 1}}}\nhub: {}"),
        ("config.yaml", "proxy: http://proxy.example.com:3128"),
        ("config.yaml", "{{ template }}"),
        ("config.yaml", "a: 1\n---\nb: 2"),
        ("dns.yaml", "zones: [example.com]"),
        ("dns.yaml", "- a\n- b"),
        ("dns.yml", "zones: [example.com]"),
        ("config.yml", "proxy: {service: {type: LoadBalancer}}"),
        ("config.yaml", "concurrency: 4"),
        ("config.yaml", "resources: {limits: {cpu: 1}}\nconcurrency: 4"),
        ("config.yaml", "concurrency: 4\nproxyMetadata: {}\nqueue: a"),
        ("config.yaml", "prod: {database: a}"),
        ("config.yaml", "Proxy: {host: a}"),
        ("config.yaml", "proxi: {concurrency: 4}\nqueue: a"),
        ("values.yaml", "proxy: {concurrency: 4}"),
    ] {
        let read = common::read(&map("jupyter", key, text)).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
        let spec = &read.config_maps[0].spec;
        assert!(spec.proxy.is_none() && spec.dns.is_none() && spec.data.contains_key(key), "{text}: {spec:?}");
    }
    for (namespace, key, text) in [
        ("team", "config.yaml", "proxy: {concurency: 2}"),
        ("team", "config.yaml", "proxy: {concurrency: 2, workers: 3}"),
        ("team", "dns.yaml", "dns_refresh_rates: 300s"),
        ("team", "config.yaml", "proxy: {concurrency: 2"),
        ("team", "dns.yaml", "dns_refresh_rate: [300s"),
        ("istio-system", "config.yaml", "proxy: {workers: 3}"),
        ("istio-system", "config.yaml", "proxy: {concurrency: 2}\nhub: {}"),
        ("istio-system", "config.yaml", "proxy: {{ template }}"),
        ("istio-system", "dns.yaml", "zones: [example.com]"),
        ("team", "config.yaml", "prxy: {concurrency: 2}"),
        ("team", "config.yaml", "Proxy: {concurrency: 2}"),
        ("team", "config.yaml", "thread_pool: {core_size: 2}"),
        ("team", "config.yml", "proxy: {concurrency: 2}"),
        ("team", "dns.yml", "dns_refresh_rate: 300s"),
        ("istio-system", "config.yaml", "prxy: {concurrency: 2}"),
        ("istio-system", "config.yaml", "Proxy: {workers: 2}"),
        ("istio-system", "config.yaml", "concurrency: 2"),
        ("istio-system", "config.yml", "proxy: {workers: 2}"),
        ("istio-system", "Config.YAML", "proxy: {concurrency: 2}"),
    ] {
        assert_eq!(errors(&map(namespace, key, text)).len(), 1, "{text}");
    }
    for (key, text, wanted) in [
        ("config.yaml", "prxy: {concurrency: 2}", "did you mean proxy?"),
        ("config.yaml", "Proxy: {concurrency: 2}", "did you mean proxy?"),
        ("config.yaml", "concurrency: 2", "write proxy: before it"),
        ("config.yml", "proxy: {concurrency: 2}", "write config.yaml"),
    ] {
        let error = one(&map("istio-system", key, text));
        assert!(error.reason.contains(wanted) && error.line >= 5, "{error}");
    }
    // Kiali's and others of the mesh's namespace.
    for (key, text) in [("config.yaml", "auth: {strategy: a}\ndeployment: {}"), ("dns.yml", "zones: [example.com]")] {
        common::read(&map("istio-system", key, text)).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    }
    let read = common::read(&map("team", "config.yaml", "proxy: {concurrency: 2}")).expect("it is right");
    assert_eq!(read.proxy_settings("team").concurrency, Some(2));
}

#[test]
fn an_external_name_is_a_dns_name_outside_of_the_mesh() {
    for (spec, wanted) in [
        ("{type: ExternalName, ports: [{port: 80}]}", "needs the name"),
        ("{externalName: a.example.com, ports: [{port: 80}]}", "only type: ExternalName"),
        (
            "{type: ExternalName, externalName: b.default.svc.cluster.local, ports: [{port: 80}]}",
            "write a VirtualService",
        ),
        ("{type: ExternalName, externalName: 'a b', ports: [{port: 80}]}", "no DNS name"),
    ] {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n");
        let errors = common::read(&text).expect_err(spec);
        assert!(errors.iter().any(|error| error.to_string().contains(wanted)), "{spec}: {errors:?}");
    }
}

/// A dump as `kubectl get service,endpointslice,destinationrule,deployment -o json` prints it, shortened in length only.
const DUMP: &str = r#"{
    "apiVersion": "v1",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"apiVersion\":\"v1\",\"kind\":\"Service\"}\n"
                },
                "creationTimestamp": "2026-03-01T09:12:44Z",
                "labels": {"app": "reviews", "service": "reviews"},
                "managedFields": [
                    {"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:type": {}}}, "manager": "kubectl", "operation": "Update"}
                ],
                "name": "reviews",
                "namespace": "default",
                "resourceVersion": "88312",
                "uid": "5b2e0a53-2e9f-4f0e-9a51-3f5c8d9cf0a1"
            },
            "spec": {
                "clusterIP": "10.96.14.7",
                "clusterIPs": ["10.96.14.7"],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "http", "nodePort": 31380, "port": 9080, "protocol": "TCP", "targetPort": 9080}],
                "selector": {"app": "reviews"},
                "sessionAffinity": "None",
                "type": "NodePort"
            },
            "status": {"loadBalancer": {}}
        },
        {
            "addressType": "IPv4",
            "apiVersion": "discovery.k8s.io/v1",
            "endpoints": [
                {
                    "addresses": ["10.244.1.8"],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": "worker-1",
                    "targetRef": {"kind": "Pod", "name": "reviews-v1-7f99", "namespace": "default", "uid": "a"},
                    "zone": "us-west1-a"
                }
            ],
            "kind": "EndpointSlice",
            "metadata": {
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-03-01T09:12:51Z"},
                "creationTimestamp": "2026-03-01T09:12:44Z",
                "generateName": "reviews-",
                "generation": 4,
                "labels": {
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "kubernetes.io/service-name": "reviews"
                },
                "name": "reviews-x7k2p",
                "namespace": "default",
                "ownerReferences": [
                    {"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true, "kind": "Service", "name": "reviews", "uid": "b"}
                ],
                "resourceVersion": "88330",
                "uid": "c"
            },
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}]
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {
                "creationTimestamp": "2026-03-01T09:13:02Z",
                "generation": 1,
                "name": "reviews",
                "namespace": "default",
                "resourceVersion": "88401",
                "uid": "d"
            },
            "spec": {"host": "reviews", "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 100}}}},
            "status": {"conditions": [], "observedGeneration": "1"}
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "reviews-v1", "uid": "e"}, "spec": {"replicas": 1}}
    ],
    "kind": "List",
    "metadata": {"resourceVersion": ""}
}
"#;

#[test]
fn a_dump_of_a_cluster_is_read_as_it_is() {
    let config = common::read(DUMP).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!((config.services.len(), config.endpoint_slices.len(), config.destination_rules.len()), (1, 1, 1));
    assert_eq!(config.passed_over.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>(), ["Deployment"]);
    let yaml = "apiVersion: v1\nkind: Service\nmetadata:\n  creationTimestamp: null\n  name: a\n  uid: 0b\n  generation: 2\nspec:\n  ports:\n  - port: 80\n    targetPort: http\nstatus:\n  loadBalancer: {}\n";
    assert_eq!(common::read(yaml).expect("it is right").services.len(), 1);
}

#[test]
fn a_file_of_anything_else_is_an_error_whatever_its_name() {
    assert!(!errors("{\"name\": \"a-package\", \"version\": \"1.0.0\"}").is_empty());
}

#[test]
fn header_changes_that_no_proxy_can_make_are_refused() {
    let route = |headers: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [a]\n  http:\n  - {{route: [{{destination: {{host: a}}}}], headers: {headers}}}\n"
        )
    };
    for headers in [
        "{request: {remove: [Host]}}",
        "{request: {set: {':path': /x}}}",
        "{response: {set: {host: a}}}",
        "{response: {add: {':status': '200'}}}",
        "{response: {remove: [':status']}}",
    ] {
        let error = one(&route(headers));
        assert_eq!(error.kind, ErrorKind::BadValue, "{error}");
    }
    for headers in ["{request: {set: {':authority': b}}}", "{request: {add: {Host: c}}}"] {
        common::read(&route(headers)).expect("an authority may be set");
    }
}

#[test]
fn what_is_exported_to_nobody_or_beyond_its_selector_is_refused() {
    assert_eq!(one(&rule("  host: a\n  exportTo: ['~']\n")).kind, ErrorKind::BadValue);
    let selector = "  host: a\n  workloadSelector: {matchLabels: {app: b}}\n";
    assert_eq!(one(&rule(&format!("{selector}  exportTo: ['*']\n"))).kind, ErrorKind::Conflict);
    common::read(&rule(&format!("{selector}  exportTo: [.]\n"))).expect("its own namespace");
}

#[test]
fn gateways_stand_beside_the_mesh_only() {
    let text = |gateways: &str, inner: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [a]\n  gateways: {gateways}\n  http:\n  - {{match: [{{gateways: {inner}}}], redirect: {{uri: /}}}}\n"
        )
    };
    common::read(&text("[mesh, my-gateway]", "[my-gateway]")).expect("the mesh's half acts");
    assert_eq!(one(&text("[my-gateway]", "[]")).kind, ErrorKind::NotSupported);
}

/// Values that Istio's validation or Envoy refuses, each with the field that the error names.
#[test]
fn values_that_would_be_refused_later_are_refused_here() {
    let policy = |policy: &str| rule(&format!("  host: a\n  trafficPolicy: {policy}\n"));
    let hash = |hash: &str| policy(&format!("{{loadBalancer: {{consistentHash: {hash}}}}}"));
    let route = |route: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: [a]\n  http:\n  - {{{route}}}\n"
        )
    };
    let to = |more: &str| route(&format!("route: [{{destination: {{host: a}}}}], {more}"));
    let matching = |one: &str| to(&format!("match: [{{{one}}}]"));
    let entry = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: {{hosts: [a.example.com], {spec}}}\n"
        )
    };
    let workload = |spec: &str| {
        format!("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w}}\nspec: {{{spec}}}\n")
    };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  config.yaml: |\n    proxy: {concurrency: 2}\n    ---\n    proxy: {concurrency: 4}\n";
    for (text, field) in [
        (hash("{httpHeaderName: x, maglev: {tableSize: 0}}"), "maglev.tableSize"),
        (hash("{httpHeaderName: x, maglev: {tableSize: 1}}"), "maglev.tableSize"),
        (hash("{httpHeaderName: x, maglev: {tableSize: 65536}}"), "maglev.tableSize"),
        (hash("{httpHeaderName: x, minimumRingSize: 9, maglev: {}}"), "consistentHash"),
        (hash("{httpQueryParameterName: ''}"), "httpQueryParameterName"),
        (hash("{httpCookie: {name: a, path: \"/\\r\\nx: y\", ttl: 1s}}"), "httpCookie.path"),
        (policy("{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 1s, aggression: 0}}}"), "warmup.aggression"),
        (policy("{connectionPool: {http: {http2KeepAlive: {timeout: 1s}}}}"), "http2KeepAlive.interval"),
        (policy("{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}"), "http2KeepAlive.timeout"),
        (to("headers: {request: {set: {x: '100%'}}}"), "headers.request.set.x"),
        (to("headers: {request: {set: {x: '%NO_SUCH%'}}}"), "headers.request.set.x"),
        (to("headers: {response: {add: {x: \"a\\r\\nb: c\"}}}"), "headers.response.add"),
        (to("headers: {response: {add: {x: \"a\\x01b\"}}}"), "headers.response.add"),
        (to("rewrite: {uri: '/a b'}"), "rewrite.uri"),
        (to("rewrite: {uri: \"/a\\nb\"}"), "rewrite.uri"),
        (to("rewrite: {authority: \"a\\r\\nb: c\"}"), "rewrite.authority"),
        (to("rewrite: {uriRegexRewrite: {match: a, rewrite: \"/\\r\\n\"}}"), "uriRegexRewrite.rewrite"),
        (to("rewrite: {authority: a}, headers: {request: {set: {host: b}}}"), "http[0]"),
        (route("redirect: {uri: \"/\\r\\nx: y\"}"), "redirect.uri"),
        (route("redirect: {prefixRewrite: \"/\\r\\nx: y\"}"), "redirect.prefixRewrite"),
        (route("redirect: {authority: \"a\\r\\nx: y\"}"), "redirect.authority"),
        (route("redirect: {scheme: ftp}"), "redirect.scheme"),
        (route("redirect: {uri: '', authority: ''}"), "redirect"),
        (route("redirect: {prefixRewrite: '', scheme: '', redirectCode: 302}"), "redirect"),
        (to("rewrite: {uri: '', authority: ''}"), "rewrite"),
        (to("fault: {abort: {grpcStatus: 3}}"), "abort.grpcStatus"),
        (to("fault: {abort: {grpcStatus: '3'}}"), "abort.grpcStatus"),
        (to("fault: {abort: {grpcStatus: unavailable}}"), "abort.grpcStatus"),
        (to("").replace("hosts: [a]", "hosts: ['*']"), "hosts[0]"),
        (to("").replace("hosts: [a]", "hosts: [a, '*a']"), "hosts[1]"),
        (to("").replace("hosts: [a]", "hosts: ['*.example.com', b.example.com]"), "hosts[1]"),
        (to("").replace("hosts: [a]", "hosts: ['*.example.com', '*.com']"), "hosts[1]"),
        (to("").replace("hosts: [a]", "hosts: [a, a]"), "hosts"),
        (to("").replace("hosts: [a]", "hosts: [a]\n  gateways: [mesh, '']"), "gateways[1]"),
        (to("").replace("hosts: [a]", "hosts: [a]\n  gateways: [a_b]"), "gateways[0]"),
        (to("").replace("hosts: [a]", "hosts: [a]\n  gateways: [mesh, a/b/c]"), "gateways[1]"),
        (matching("gateways: ['']"), "match[0].gateways[0]"),
        (matching("gateways: [mesh, /a]"), "match[0].gateways[1]"),
        (matching("sourceNamespace: a.b"), "sourceNamespace"),
        (route("route: [{destination: {host: '*'}}]"), "route[0].destination.host"),
        (to("mirror: {host: '*'}"), "mirror.host"),
        (to("mirrors: [{destination: {host: '*'}}]"), "mirrors[0].destination.host"),
        (to("corsPolicy: {allowMethods: [\"GET\\r\\nx: y\"]}"), "corsPolicy.allowMethods[0]"),
        (to("corsPolicy: {allowHeaders: [\"a\\r\\nx: y\"]}"), "corsPolicy.allowHeaders[0]"),
        (to("corsPolicy: {exposeHeaders: ['']}"), "corsPolicy.exposeHeaders[0]"),
        (to("corsPolicy: {maxAge: 1500ms}"), "corsPolicy.maxAge"),
        (to("corsPolicy: {allowOrigins: [{}]}"), "corsPolicy.allowOrigins[0]"),
        (to("corsPolicy: {allowOrigins: [{prefix: ''}]}"), "corsPolicy.allowOrigins[0]"),
        (matching("headers: {x: {prefix: ''}}"), "headers.x"),
        (matching("headers: {x: {regex: '*'}}"), "headers.x"),
        (matching("headers: {x: {regex: ''}}"), "headers.x.regex"),
        (matching("withoutHeaders: {x: {prefix: ''}}"), "withoutHeaders.x"),
        (matching("queryParams: {x: {prefix: ''}}"), "queryParams.x"),
        (matching("uri: {regex: ''}"), "uri.regex"),
        (matching("uri: {regex: '(?x)a b'}"), "uri.regex"),
        (matching("uri: {regex: '[a-z&&[^b]]+'}"), "uri.regex"),
        (matching("method: {prefix: ''}"), "method"),
        (workload("address: bad_host!"), "address"),
        (workload(&format!("address: 10.0.0.1, locality: {}", "a".repeat(2_049))), "locality"),
        (workload(&format!("address: 10.0.0.1, network: {}", "a".repeat(2_049))), "network"),
        (workload(&format!("address: 10.0.0.1, serviceAccount: {}", "a".repeat(254))), "serviceAccount"),
        (entry(&format!("ports: [{{number: 80, name: {}}}]", "a".repeat(257))), "ports[0].name"),
        (workload("address: 10.0.0.300"), "address"),
        (entry("ports: [{number: 80, name: a, protocol: FOO}]"), "ports[0].protocol"),
        (entry("addresses: [10.0.0.0/33]"), "addresses[0]"),
        (entry("resolution: DNS").replace("a.example.com", "'*.example.com'"), "hosts[0]"),
        (
            entry(
                "resolution: STATIC, ports: [{number: 80, name: a}], endpoints: [{address: 10.0.0.1, ports: {b: 1}}]",
            ),
            "endpoints[0].ports.b",
        ),
        (map.to_owned(), "config.yaml"),
    ] {
        let found = one(&text);
        assert!(found.field.trim_end_matches('.').ends_with(field), "{field}: {found}");
        assert!(found.line > 1, "{found}");
    }
    for text in [
        matching("withoutHeaders: {x: {regex: '*'}}, uri: {prefix: ''}, headers: {y: {regex: 'a.*'}}"),
        to("headers: {request: {set: {x: '100%%', y: '%REQ(x-id)%', z: \"a\\tb\"}}}"),
        workload("address: a.example.com"),
        workload(&format!("address: 10.0.0.1, locality: {0}, network: {0}", "\u{e4}".repeat(2_048))),
        workload(&format!("address: 10.0.0.1, serviceAccount: {}", "a".repeat(253))),
        route("redirect: {uri: '', prefixRewrite: /b}, match: [{uri: {prefix: /a}}]"),
        route("redirect: {derivePort: FROM_PROTOCOL_DEFAULT}"),
        to("rewrite: {uri: '', uriRegexRewrite: {match: a, rewrite: /b}}"),
        matching("gateways: [mesh, ns/name, old.form.example.com], sourceNamespace: ''"),
        to("").replace("hosts: [a]", "hosts: [a, a.default.svc.cluster.local, '*.example.com', '*.example.org']"),
        entry("addresses: [10.0.0.0/8, '2001:db8::/32'], ports: [{number: 80, name: a, protocol: http2}]"),
    ] {
        assert!(common::read(&text).is_ok(), "{:?}\n{text}", common::read(&text));
    }
}

#[test]
fn what_has_no_bearing_on_a_mesh_has_its_type_too() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80, nodePort: 30080}}], {spec}}}\n"
        )
    };
    let slice = |more: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.1], {more}}}]\n"
        )
    };
    for (text, field) in [
        (service("selector: 3"), "spec.selector"),
        (service("selector: {app: [x]}"), "spec.selector.app"),
        (service("selector: {app: 3}"), "spec.selector.app"),
        (service("ipFamilies: 3"), "spec.ipFamilies"),
        (service("ipFamilies: [4]"), "spec.ipFamilies[0]"),
        (service("ipFamilyPolicy: {a: b}"), "spec.ipFamilyPolicy"),
        (service("sessionAffinityConfig: x"), "spec.sessionAffinityConfig"),
        (service("externalTrafficPolicy: []"), "spec.externalTrafficPolicy"),
        (service("healthCheckNodePort: x"), "spec.healthCheckNodePort"),
        (service("allocateLoadBalancerNodePorts: 'true'"), "spec.allocateLoadBalancerNodePorts"),
        (service("loadBalancerClass: 3"), "spec.loadBalancerClass"),
        (service("loadBalancerSourceRanges: 10.0.0.0/8"), "spec.loadBalancerSourceRanges"),
        (service("").replace("30080", "x"), "spec.ports[0].nodePort"),
        (slice("hints: x"), "endpoints[0].hints"),
        (slice("targetRef: []"), "endpoints[0].targetRef"),
        (slice("deprecatedTopology: {a: 1}"), "endpoints[0].deprecatedTopology.a"),
    ] {
        let error = one(&text);
        assert_eq!((error.kind, error.field.as_str()), (ErrorKind::WrongType, field), "{error}");
    }
    assert_eq!(one(&service("ipFamilies: [IPv5]")).kind, ErrorKind::BadValue);
    for text in [
        service("selector: {app: a}, ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, loadBalancerIP: null"),
        service("sessionAffinityConfig: {clientIP: {timeoutSeconds: 3}}, externalTrafficPolicy: Local"),
        slice("hints: {forZones: [{name: a}]}, targetRef: {kind: Pod, name: a}"),
    ] {
        common::read(&text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    }
}

#[test]
fn errors_beyond_the_bound_are_counted() {
    let many: String = (0..1_500).map(|n| format!("  unknown{n}: 1\n")).collect();
    let found = errors(&rule(&format!("  host: a\n{many}")));
    assert_eq!(found.len(), 1_001);
    assert!(found[1_000].reason.starts_with("500 more errors"), "{}", found[1_000]);
}

#[test]
fn a_key_that_is_written_twice_is_found_among_many() {
    let map = |more: &str| {
        let keys: String = (0..200).map(|n| format!("  k{n}: v\n")).collect();
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n{keys}{more}")
    };
    assert_eq!(common::read(&map("")).expect("right").config_maps[0].spec.data.len(), 200);
    for text in [map("  k100: v\n"), map("  k3: \"\\x41\"\n")] {
        assert!(one(&text).reason.contains("is written twice"), "{}", one(&text));
    }
}

#[test]
fn the_mend_of_a_number_beyond_its_type_names_no_wrong_range() {
    let policy = |policy: &str| rule(&format!("  host: a\n  trafficPolicy: {policy}\n"));
    for (text, mend) in [
        (policy("{connectionPool: {http: {maxRequestsPerConnection: -1}}}"), "write 0 or more"),
        (
            policy("{connectionPool: {http: {maxRequestsPerConnection: 2147483648}}}"),
            "write a number from 0 to 2147483647",
        ),
        (policy("{connectionPool: {http: {maxRequestsPerConnection: 4294967296}}}"), "write a smaller number"),
        (policy("{outlierDetection: {minHealthPercent: -1}}"), "write 0 or more"),
        (policy("{outlierDetection: {minHealthPercent: 101}}"), "write a number from 0 to 100"),
    ] {
        assert!(one(&text).reason.ends_with(mend), "{}", one(&text));
    }
}

#[test]
fn json_may_write_a_character_as_two_escapes() {
    let json = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "\ud83d\ude00 \u00e9 \\ud83d\\ude00"}}"#;
    let config = common::read(json).unwrap_or_else(|errors| panic!("{errors:?}"));
    let text = config.config_maps[0].spec.data.get("a").map(String::as_str);
    assert_eq!(text, Some("\u{1f600} \u{e9} \\ud83d\\ude00"));
    assert!(common::read(&json.replace("\\ude00 ", "")).is_err(), "half a character is none");
}
