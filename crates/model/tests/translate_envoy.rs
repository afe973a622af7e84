//! A real Envoy accepts what translation makes.

#[path = "translate_support/mod.rs"]
mod support;

use std::process::Command;

use celerity_model::translate::{Certificates, Node, to_json, translate};
use celerity_testkit::{TempDir, peer};
use support::{config, node, service_and_endpoints, tutorial};

/// A self-signed certificate that is its own root: Envoy's check reads the files, it verifies nobody.
fn certificates(folder: &TempDir) -> Certificates {
    let made = rcgen::generate_simple_self_signed(vec!["user-service".to_owned()]).expect("a certificate");
    let path = |name: &str, text: &str| folder.write(name, text).display().to_string();
    let chain = made.cert.pem();
    Certificates {
        chain: path("cert-chain.pem", &chain),
        key: path("key.pem", &made.signing_key.serialize_pem()),
        roots: path("root-cert.pem", &chain),
    }
}

fn accepted(name: &str, yaml: &str) {
    let Some(envoy) = peer("envoy") else { return };
    let folder = TempDir::new();
    let mut me = Node { addresses: vec![[127, 0, 1, 4].into()], certificates: Some(certificates(&folder)), ..node() };
    me.mesh.system_roots = folder.path().join("root-cert.pem").display().to_string();
    let made = translate(&config(yaml), &me).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
    let file = folder.write("envoy.json", &to_json(&made).to_string());
    let output =
        Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().expect("envoy runs");
    assert!(
        output.status.success(),
        "{name}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_tutorial() {
    let Some(documents) = tutorial() else { return };
    accepted("all", &format!("{}---\n{}", service_and_endpoints(), documents.join("---\n")));
    for document in documents.iter().filter(|one| one.contains("kind: DestinationRule")) {
        accepted(document, &format!("{}---\n{document}", service_and_endpoints()));
    }
}

#[test]
fn every_field_that_is_translated() {
    let head = "---\napiVersion: networking.istio.io/v1\n";
    let mut yaml = service_and_endpoints();
    yaml += head;
    yaml += "kind: DestinationRule\nmetadata: {name: everything}\nspec:\n  host: user-service\n  subsets:\n  - {name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, path: /, ttl: 1s, attributes: [{name: SameSite, value: Strict}]}}}}}\n  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}}}\n  - {name: warm, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s, aggression: 2, minimumPercent: 20}}, connectionPool: {http: {useClientProtocol: true}}}}\n  - {name: tls, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [a.example.com]}}}\n  - {name: skip, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, sni: x}}}\n  - {name: plain, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}, loadBalancer: {localityLbSetting: {distribute: [{from: 'us-central1/*', to: {'us-central1/*': 70, 'us-west1/*': 30}}]}}}}\n  trafficPolicy:\n    retryBudget: {percent: 25, minRetryConcurrency: 4, budgetInterval: 1s}\n    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, maxConnectionDuration: 60s, idleTimeout: 5s, tcpKeepalive: {probes: 2, time: 10s, interval: 5s}}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 3, maxRequestsPerConnection: 4, idleTimeout: 1s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 9, http2KeepAlive: {interval: 5s}}}\n    outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4, consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, minHealthPercent: 30, outlierDetectionHttpErrorCodes: [429, 503]}\n    loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, 'app=user-service']}}\n";
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
    accepted("everything", &yaml);
}
