//! What the admin port tells: series of clusters, of the machine and of the configuration; ejections; settings that act.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use celerity_testkit::{Client, Upstream};

use crate::support::{PATIENCE, Sidecar, documents, eventually, service};

const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: small, namespace: istio-system}\ndata:\n  \
     config.yaml: |\n    proxy:\n      resources: {limits: {memory: 8Gi}}\n      envoy_stats_config: \
     {use_all_default_tags: false}\n      thread_pool: {core_size: 1, max_size: 1, queue_size: 1}";

const RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: user, namespace: default}\n\
     spec:\n  host: user-service\n  trafficPolicy:\n    outlierDetection: {consecutive5xxErrors: 2, interval: 10s, \
     baseEjectionTime: 60s, maxEjectionPercent: 100}";

/// The value of the first line that begins so.
fn value(text: &str, begins: &str) -> Option<f64> {
    text.lines().find(|line| line.starts_with(begins))?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn series_and_pages_tell_what_the_clusters_do() {
    let upstream = Upstream::start("one");
    let yaml = documents(&[SETTINGS, RULE, &service("user-service", &[(&upstream, "version: v1")])]);
    let sidecar = Sidecar::start(&yaml);
    let mut client = sidecar.client();
    for status in [200, 404, 500, 500] {
        assert_eq!(client.get("user-service", &format!("/status/{status}")).expect("an answer").status, status);
    }
    let metrics = sidecar.admin("/stats/prometheus");
    let of = |name: &str| value(&metrics, &format!("{name}{{cluster_name=\"outbound|80||user-service.default"));
    assert_eq!(of("envoy_cluster_upstream_rq_total"), Some(4.0), "{metrics}");
    assert_eq!(of("envoy_cluster_upstream_cx_total"), Some(1.0));
    assert_eq!(of("envoy_cluster_membership_total"), Some(1.0));
    assert_eq!(of("envoy_cluster_membership_healthy"), Some(0.0));
    assert_eq!(of("envoy_cluster_outlier_detection_ejections_active"), Some(1.0));
    assert_eq!(of("envoy_cluster_outlier_detection_ejections_enforced_total"), Some(1.0));
    assert!(metrics.contains("response_code_class=\"5xx\"} 2"), "{metrics}");
    assert!(of("envoy_cluster_upstream_cx_tx_bytes_total").is_some_and(|bytes| bytes > 4.0 * 100.0), "{metrics}");
    assert!(of("envoy_cluster_upstream_cx_rx_bytes_total").is_some_and(|bytes| bytes > 4.0 * 40.0), "{metrics}");
    assert_eq!(value(&metrics, "celerity_proxy_workers"), Some(2.0));
    assert_eq!(value(&metrics, "celerity_config_version"), Some(1.0));
    assert_eq!(value(&metrics, "celerity_config_last_reload_success"), Some(1.0));
    assert!(value(&metrics, "celerity_config_last_reload_timestamp_seconds").is_some_and(|at| at > 1e9));
    assert!(value(&metrics, "celerity_build_info{version=").is_some());
    assert!(value(&metrics, "celerity_memory_limit_bytes").is_some_and(|limit| limit <= f64::from(1 << 30) * 8.0));
    assert!(metrics.contains("destination_service=") && !metrics.contains("source_principal="), "fewer labels");
    let families: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let distinct: std::collections::HashSet<&&str> = families.iter().collect();
    assert_eq!(families.len(), distinct.len(), "a family stands once");

    let page = sidecar.admin("/clusters");
    assert!(page.contains("::health_flags::/failed_outlier_check"), "{page}");
    assert!(page.contains("::ejected::consecutive_5xx, "), "{page}");
    assert!(page.contains("::outlier::base_ejection_time_ms::60000"), "{page}");
    let json: serde_json::Value = serde_json::from_str(&sidecar.admin("/clusters?format=json")).expect("JSON");
    let clusters = json["clusters"].as_array().expect("a list");
    let ours = clusters.iter().find(|one| one["name"].as_str().is_some_and(|name| name.contains("user-service")));
    let endpoint = &ours.expect("the cluster")["endpoints"][0];
    assert_eq!(endpoint["ejected"]["reason"], "consecutive_5xx", "{endpoint}");

    let mut admin = Client::connect(sidecar.admin).expect("the admin port accepts");
    for wrong in ["/clusters?format=xml", "/ledger?format=xml", "/debug/pprof/profile?seconds=100000"] {
        assert_eq!(admin.get("localhost", wrong).expect("an answer").status, 400, "{wrong}");
    }

    eventually("certificates are looked at by a thread of the pool", || {
        value(&sidecar.admin("/stats/prometheus"), "celerity_blocking_pool_completed_total")
            .is_some_and(|jobs| jobs > 0.0)
    });
}

#[test]
fn what_is_open_is_counted_for_each_listener() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let open = || {
        let metrics = sidecar.admin("/stats/prometheus");
        ["envoy_listener_downstream_cx_active", "envoy_http_downstream_rq_active"]
            .map(|name| value(&metrics, &format!("{name}{{listener=\"outbound\"}}")).unwrap_or(-1.0))
    };
    eventually("nothing yet", || open() == [0.0, 0.0]);
    let mut client = sidecar.client();
    assert_eq!(client.get("user-service", "/").expect("an answer").status, 200);
    eventually("a connection that is idle", || open() == [1.0, 0.0]);
    client.send(b"GET /delay/60000 HTTP/1.1\r\nHost: user-service\r\n\r\n").expect("sent");
    eventually("a request under way", || open() == [1.0, 1.0]);
    drop(client);
    eventually("nothing", || open() == [0.0, 0.0]);
}

#[test]
fn an_idle_client_is_let_go_after_the_time_in_the_metadata() {
    let upstream = Upstream::start("one");
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: idle, namespace: istio-system}\ndata:\n  \
         config.yaml: |\n    proxy: {proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: \"1s\"}}";
    let sidecar = Sidecar::start(&documents(&[settings, &service("user-service", &[(&upstream, "version: v1")])]));
    let mut client = TcpStream::connect(sidecar.outbound).expect("the outbound listener accepts");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(b"GET /status/200 HTTP/1.1\r\nhost: user-service\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("closed by the sidecar, not by patience");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn the_memory_guard_ends_with_the_spike() {
    let upstream = Upstream::start("one");
    let services = service("user-service", &[(&upstream, "version: v1")]);
    let limited = |mebibytes: u64| {
        let settings = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: small, namespace: istio-system}}\ndata:\n  config.yaml: |\n    proxy: \
             {{resources: {{limits: {{memory: {mebibytes}Mi}}}}}}"
        );
        documents(&[&services, &settings])
    };
    let sidecar = Sidecar::start(&limited(4096));
    assert_eq!(sidecar.get("user-service", "/").status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.process.id())).expect("its status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    sidecar.config.write("mesh.yaml", &limited(kibibytes / 1024 + 24));
    let bytes = |megabytes: u64| (kibibytes / 1024 + megabytes) << 20;
    eventually("the limit is taken up", || {
        value(&sidecar.admin("/stats/prometheus"), "celerity_memory_limit_bytes") == Some(bytes(24) as f64)
    });
    // Uploads that do not end: what has come of each is kept in case it must be sent again.
    let mut uploads = Vec::new();
    let piece = vec![b'x'; 900_000];
    eventually("the guard acts", || {
        let mut upload = TcpStream::connect(sidecar.outbound).expect("the outbound listener accepts");
        upload.set_write_timeout(Some(std::time::Duration::from_millis(200))).expect("a timeout");
        let head = b"POST / HTTP/1.1\r\nhost: user-service\r\ncontent-length: 1000000\r\n\r\n";
        let _ = upload.write_all(head).and_then(|()| upload.write_all(&piece));
        uploads.push(upload);
        sidecar.get("user-service", "/").status == 503
    });
    drop(uploads);
    eventually("requests are taken again", || sidecar.get("user-service", "/").status == 200);
}
