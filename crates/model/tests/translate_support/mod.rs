//! A small mesh for the tests of translation and patches.
#![allow(dead_code)] // each test program uses its part

use std::collections::BTreeMap;
use std::sync::Arc;

use celerity_model::istio::{self, Config, Locality};
use celerity_model::translate::{Certificates, Node};

/// Reads documents that must be right.
pub(crate) fn config(yaml: &str) -> Config {
    istio::read(&[(Arc::from("test.yaml"), yaml)]).unwrap_or_else(|errors| {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}\nin\n{yaml}", all.join("\n"))
    })
}

/// The order-service's sidecar, in zone us-central1-a.
pub(crate) fn node() -> Node {
    Node {
        name: "order-service-v1-1".to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "order-service".to_owned())]),
        locality: Locality::parse("us-central1/us-central1-a"),
        service_account: "order-service".to_owned(),
        ..Node::default()
    }
}

/// Names of files that nobody opens.
pub(crate) fn certificates() -> Certificates {
    Certificates {
        chain: "/certs/cert-chain.pem".to_owned(),
        key: "/certs/key.pem".to_owned(),
        roots: "/certs/root-cert.pem".to_owned(),
    }
}

/// The user-service: v1 with two endpoints in one zone and one in another, v2 in another region.
pub(crate) fn service_and_endpoints() -> String {
    let mut yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: user-service}\nspec:\n  hosts: [user-service.default.svc.cluster.local]\n  addresses: [10.1.2.3]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}]\n  workloadSelector: {labels: {app: user-service}}\n".to_owned();
    let endpoints = [
        ("v1", "us-central1/us-central1-a"),
        ("v1", "us-central1/us-central1-a"),
        ("v1", "us-central1/us-central1-b"),
        ("v2", "us-west1/us-west1-a"),
    ];
    for (at, (version, locality)) in endpoints.iter().enumerate() {
        let n = at + 1;
        yaml.push_str(&format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: user-{n}}}\nspec:\n  address: 127.0.1.{n}\n  ports: {{http: 15006}}\n  labels: {{app: user-service, version: {version}, security.istio.io/tlsMode: istio}}\n  locality: {locality}\n  serviceAccount: user-service\n"
        ));
    }
    yaml
}

/// The YAML documents of the tutorial that stands beside the repository, verbatim.
pub(crate) fn tutorial() -> Option<Vec<String>> {
    let path = celerity_testkit::shared("mission/tutorial.md")?;
    let text = std::fs::read_to_string(path).expect("the tutorial");
    let mut documents = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim_end()) {
            (None, "```yaml") => block = Some(String::new()),
            (Some(_), "```") => {
                let block = block.take().unwrap_or_default();
                documents.extend(
                    block.split("\n---\n").filter(|one| one.contains("\napiVersion:")).map(|one| format!("{one}\n")),
                );
            }
            (Some(block), line) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    Some(documents)
}

/// Every field that has a meaning, at least once.
pub(crate) fn everything() -> String {
    let head = "---\napiVersion: networking.istio.io/v1\n";
    let mut yaml = service_and_endpoints();
    yaml += head;
    yaml += "kind: DestinationRule\nmetadata: {name: everything}\nspec:\n  host: user-service\n  subsets:\n  - {name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, path: /, ttl: 1s, attributes: [{name: SameSite, value: Strict}]}}}}}\n  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}}}\n  - {name: warm, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s, aggression: 2, minimumPercent: 20}}, connectionPool: {http: {useClientProtocol: true}}}}\n  - {name: tls, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [a.example.com]}}}\n  - {name: skip, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, sni: x}}}\n  - {name: plain, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {localityLbSetting: {distribute: [{from: 'us-central1/*', to: {'us-central1/*': 70, 'us-west1/*': 30}}]}}}}\n  trafficPolicy:\n    retryBudget: {percent: 25, minRetryConcurrency: 4}\n    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, maxConnectionDuration: 60s, idleTimeout: 5s, tcpKeepalive: {probes: 2, time: 10s, interval: 5s}}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 3, maxRequestsPerConnection: 4, idleTimeout: 1s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 9, http2KeepAlive: {interval: 5s, timeout: 20s}}}\n    outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4, consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, minHealthPercent: 30, outlierDetectionHttpErrorCodes: [429, 503]}\n    loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, 'app=user-service']}}\n";
    yaml += head;
    yaml += "kind: VirtualService\nmetadata: {name: routes}\nspec:\n  hosts: [user-service, only-routes.example.com]\n  http:\n  - match: [{uri: {regex: '/a.*'}, headers: {a: {prefix: b}, p: {}}, withoutHeaders: {n: {exact: x}}, queryParams: {q: {exact: y}}, scheme: {exact: http}, authority: {exact: user-service}, method: {regex: 'GET|PUT'}}]\n    rewrite: {uriRegexRewrite: {match: '/a(.*)', rewrite: '/b\\1'}}\n    retries: {attempts: 3, retryOn: '5xx,409', perTryTimeout: 1s, retryRemoteLocalities: true, backoff: 50ms}\n    fault: {delay: {fixedDelay: 1s, percentage: {value: 1}}, abort: {grpcStatus: UNAVAILABLE, percentage: {value: 1}}}\n    corsPolicy: {allowOrigins: [{regex: '.*'}], allowCredentials: true, unmatchedPreflights: IGNORE}\n    route:\n    - {destination: {host: user-service, subset: v1}, weight: 1, headers: {request: {set: {host: h, x: '1'}, add: {y: '2'}, remove: [z]}}}\n    - {destination: {host: user-service, subset: v2}, weight: 2}\n  - match: [{uri: {prefix: /r}}]\n    redirect: {prefixRewrite: /s, port: 81, redirectCode: 303}\n  - match: [{uri: {exact: /d}}]\n    directResponse: {status: 299, body: {string: text}}\n  - rewrite: {uri: /, authority: h}\n    route: [{destination: {host: nobody.example.com, port: {number: 80}}}]\n";
    for (name, resolution, extra) in [
        ("dns", "DNS", ""),
        ("round", "DNS_ROUND_ROBIN", "  endpoints: [{address: a.example.com}]\n"),
        ("none", "NONE", ""),
        ("secure", "DNS", ""),
    ] {
        let protocol = if name == "secure" { "GRPC" } else { "HTTP" };
        yaml += head;
        yaml += &format!(
            "kind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.example.com]\n  location: MESH_EXTERNAL\n  resolution: {resolution}\n  ports: [{{number: 80, name: first, protocol: {protocol}}}, {{number: 443, name: tls, protocol: TLS}}]\n{extra}"
        );
    }
    yaml += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: dns, namespace: istio-system}\ndata:\n  dns.yaml: |\n    dns_refresh_rate: 30s\n    dns_lookup_family: V4_PREFERRED\n    dns_resolution_config: {resolvers: ['udp://127.0.0.53:53']}\n";
    yaml
}
