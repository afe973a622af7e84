//! A thousand services read in one go. The time is printed, never asserted.

mod common;

use std::fmt::Write;

#[test]
#[allow(clippy::print_stdout, reason = "the time is to be seen")]
fn a_thousand_services_of_ten_endpoints() {
    let mut text = String::new();
    for service in 0..1_000 {
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: s{service}\n  namespace: default\nspec:\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{service}-a\n  namespace: default\n  labels:\n    kubernetes.io/service-name: s{service}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:\n"
        )
        .expect("a String grows");
        for endpoint in 0..10 {
            write!(
                text,
                "- addresses:\n  - 10.{}.{}.{endpoint}\n  conditions:\n    ready: true\n",
                service / 250,
                service % 250
            )
            .expect("a String grows");
        }
        text.push_str("---\n");
    }
    let start = std::time::Instant::now();
    let config = common::read(&text).expect("it is right");
    println!("{} lines read in {:?}", text.lines().count(), start.elapsed());
    assert_eq!((config.services.len(), config.endpoint_slices.len()), (1_000, 1_000));
    assert!(config.endpoint_slices.iter().all(|s| s.spec.endpoints.len() == 10));
}
