//! Checks between the fields of policies, services, endpoints, patches and rules.

use super::super::config_map::ThreadPool;
use super::super::destination_rule::DestinationRule;
use super::super::envoy_filter::{ApplyTo, ConfigPatch, PatchMatch, PatchOperation};
use super::super::kubernetes::{AddressType, Endpoint, EndpointSlice, Service, ServiceType};
use super::super::peer_authentication::PeerAuthentication;
use super::super::policy::{
    ClientTls, ConsistentHash, LoadBalancer, LocalityLbSetting, OutlierDetection, TlsMode, TrafficPolicy,
};
use super::super::prometheus_rule::{PrometheusRule, Rule};
use super::super::reader::{Cx, ErrorKind};
use super::super::service_entry::{Resolution, ServiceEntry, WorkloadEntry};
use super::values::{is_dns_label, not_empty, port};
use crate::server_name;

const PORT_POLICIES_MAX: usize = 4_096;

fn conflict(cx: &mut Cx, reason: &str) {
    cx.error(ErrorKind::Conflict, reason);
}

pub(crate) fn check_policy(policy: &TrafficPolicy, cx: &mut Cx) {
    if policy.port_level_settings.len() > PORT_POLICIES_MAX {
        cx.bad(format!("there are at most {PORT_POLICIES_MAX} policies of ports"));
    }
}

pub(crate) fn check_balancer(balancer: &LoadBalancer, cx: &mut Cx) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        conflict(cx, "simple and consistentHash exclude each other; remove one");
    }
    if balancer.warmup.is_some() && balancer.warmup_duration_secs.is_some() {
        conflict(cx, "warmup and warmupDurationSecs exclude each other; keep warmup");
    }
}

pub(crate) fn check_hash(hash: &ConsistentHash, cx: &mut Cx) {
    let keys = usize::from(hash.http_header_name.is_some())
        + usize::from(hash.http_cookie.is_some())
        + usize::from(hash.use_source_ip.is_some())
        + usize::from(hash.http_query_parameter_name.is_some());
    if keys > 1 {
        conflict(cx, "httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName exclude each other; keep one");
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        conflict(cx, "ringHash and maglev exclude each other; keep one");
    }
    if hash.minimum_ring_size.is_some_and(|size| size > 0) && (hash.ring_hash.is_some() || hash.maglev.is_some()) {
        conflict(cx, "minimumRingSize excludes ringHash and maglev; move it to ringHash.minimumRingSize");
    }
}

pub(crate) fn check_locality(setting: &LocalityLbSetting, cx: &mut Cx) {
    if !setting.distribute.is_empty() && (!setting.failover.is_empty() || !setting.failover_priority.is_empty()) {
        conflict(cx, "distribute excludes failover and failoverPriority; keep one");
    }
    for (index, from) in setting.distribute.iter().enumerate() {
        let sum: u64 = from.to.values().map(|share| u64::from(*share)).sum();
        if sum != 100 {
            cx.error_at(
                &format!("distribute[{index}].to"),
                ErrorKind::BadValue,
                format!("the shares add up to {sum}; make them 100"),
            );
        }
        for place in from.to.keys().chain([&from.from]) {
            let star = place.find('*');
            if star.is_some_and(|at| at + 1 != place.len())
                || place.split('/').any(str::is_empty)
                || place.split('/').count() > 3
            {
                cx.error_at(
                    &format!("distribute[{index}]"),
                    ErrorKind::BadValue,
                    format!("{place:?} is no locality; write region/zone/subzone, with * as the last part only"),
                );
            }
        }
        if setting.distribute.iter().take(index).any(|earlier| earlier.from == from.from) {
            cx.error_at(
                &format!("distribute[{index}].from"),
                ErrorKind::Conflict,
                format!("{} is listed twice; merge the two", from.from),
            );
        }
    }
    for (index, failover) in setting.failover.iter().enumerate() {
        let at = format!("failover[{index}]");
        if failover.from == failover.to {
            cx.error_at(&at, ErrorKind::BadValue, "a region cannot fail over to itself; name another in to");
        }
        if failover.from.contains(['/', '*']) || failover.to.contains(['/', '*']) {
            cx.error_at(&at, ErrorKind::BadValue, "failover takes regions only; write the part before the slash");
        }
    }
}

pub(crate) fn check_outlier(outlier: &OutlierDetection, cx: &mut Cx) {
    let split = outlier.split_external_local_origin_errors == Some(true);
    if outlier.consecutive_local_origin_failures.is_some_and(|n| n > 0) && !split {
        conflict(cx, "consecutiveLocalOriginFailures acts only with splitExternalLocalOriginErrors: true; set it too");
    }
}

pub(crate) fn check_tls(tls: &ClientTls, cx: &mut Cx) {
    match tls.mode.unwrap_or_default() {
        TlsMode::Mutual => {
            if tls.client_certificate.as_deref().is_none_or(str::is_empty) {
                cx.missing("clientCertificate", "MUTUAL needs the path of the client's certificate");
            }
            if tls.private_key.as_deref().is_none_or(str::is_empty) {
                cx.missing("privateKey", "MUTUAL needs the path of the client's private key");
            }
        }
        TlsMode::IstioMutual => {
            if tls.client_certificate.is_some() || tls.private_key.is_some() || tls.ca_certificates.is_some() {
                conflict(cx, "ISTIO_MUTUAL uses the mesh's own certificates; remove the paths or write MUTUAL");
            }
        }
        TlsMode::Disable | TlsMode::Simple => {}
    }
    if let Some(sni) = tls.sni.as_deref().filter(|sni| !sni.is_empty() && !server_name::is_sendable(sni)) {
        let reason = format!("{sni:?} cannot be sent as a server name; write a DNS name such as api.example.com");
        cx.error_at("sni", ErrorKind::BadValue, reason);
    }
    if tls.insecure_skip_verify == Some(true) && (tls.ca_certificates.is_some() || !tls.subject_alt_names.is_empty()) {
        conflict(cx, "insecureSkipVerify excludes caCertificates and subjectAltNames; remove it to verify the server");
    }
}

pub(crate) fn check_rule(rule: &DestinationRule, cx: &mut Cx) {
    if rule.workload_selector.is_some() && (rule.export_to.len() > 1 || rule.export_to.iter().any(|to| to == "*")) {
        let reason = "a rule with a workloadSelector is for its own namespace only; write exportTo: [.] or remove it";
        cx.error_at("exportTo", ErrorKind::Conflict, reason);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        if rule.subsets.iter().take(index).any(|earlier| earlier.name == subset.name) {
            let reason = format!("the subset {} is defined twice; remove or rename one", subset.name);
            cx.error_at(&format!("subsets[{index}].name"), ErrorKind::Conflict, reason);
        }
    }
}

pub(crate) fn check_service_entry(entry: &ServiceEntry, cx: &mut Cx) {
    if entry.hosts.is_empty() {
        cx.missing("hosts", "name at least one host");
    }
    if entry.hosts.iter().any(|host| host == "*") {
        cx.error_at("hosts", ErrorKind::BadValue, "a host cannot be a wildcard alone; name a domain, as *.example.com");
    }
    let resolution = entry.resolution.unwrap_or_default();
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        conflict(cx, "only one of workloadSelector and endpoints can be set; remove one");
    }
    let has_prefix = entry.addresses.iter().any(|a| a.contains('/'));
    if has_prefix && !matches!(resolution, Resolution::None | Resolution::Static) {
        let reason = "an address with a prefix length goes only with resolution NONE or STATIC";
        cx.error_at("addresses", ErrorKind::Conflict, reason);
    }
    if resolution == Resolution::None && !entry.endpoints.is_empty() {
        let reason = "resolution NONE has no endpoints; write resolution: STATIC for addresses or DNS for names";
        cx.error_at("endpoints", ErrorKind::Conflict, reason);
    }
    if resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        cx.error_at("endpoints", ErrorKind::Conflict, "DNS_ROUND_ROBIN takes one endpoint; write resolution: DNS");
    }
    if resolution.asks_dns() && entry.endpoints.is_empty() && entry.workload_selector.is_none() {
        // Istio: "hosts must be FQDN if no endpoints are provided" (`validation.go`). Nobody resolves a wildcard.
        for (index, host) in entry.hosts.iter().enumerate().filter(|(_, host)| host.starts_with('*')) {
            let reason = format!("DNS has no answer for {host}; write endpoints for it, or resolution: NONE");
            cx.error_at(&format!("hosts[{index}]"), ErrorKind::Conflict, reason);
        }
    }
    if resolution == Resolution::Static {
        for (index, endpoint) in entry.endpoints.iter().enumerate() {
            let address = endpoint.address.as_deref().unwrap_or_default();
            if !address.is_empty() && !address.starts_with("unix://") && address.parse::<std::net::IpAddr>().is_err() {
                let reason = format!("{address} is no IP address, which STATIC needs; write resolution: DNS");
                cx.error_at(&format!("endpoints[{index}].address"), ErrorKind::Conflict, reason);
            }
        }
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let unknown = |name: &&String| !entry.ports.iter().any(|port| port.name == **name);
        for name in endpoint.ports.keys().filter(unknown) {
            let known: Vec<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
            let reason = format!("the entry has no port of this name; known are {}", known.join(", "));
            cx.error_at(&format!("endpoints[{index}].ports.{name}"), ErrorKind::BadValue, reason);
        }
    }
    for (index, one) in entry.ports.iter().enumerate() {
        let earlier = || entry.ports.iter().take(index);
        if earlier().any(|other| other.name == one.name) {
            let reason = format!("the port name {} is used twice; rename one", one.name);
            cx.error_at(&format!("ports[{index}].name"), ErrorKind::Conflict, reason);
        }
        if earlier().any(|other| other.number == one.number) {
            let reason = format!("the port number {} is used twice; remove one", one.number);
            cx.error_at(&format!("ports[{index}].number"), ErrorKind::Conflict, reason);
        }
    }
}

pub(crate) fn check_workload_entry(entry: &WorkloadEntry, cx: &mut Cx) {
    let unset = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if unset(&entry.address) && unset(&entry.network) {
        cx.missing("address", "an endpoint needs an address");
    }
    if entry.address.as_deref().is_some_and(|a| a.starts_with("unix://")) && !entry.ports.is_empty() {
        cx.error_at("ports", ErrorKind::Conflict, "a Unix socket has no ports; remove them");
    }
}

pub(crate) fn check_peer_authentication(policy: &PeerAuthentication, cx: &mut Cx) {
    let selects = policy.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
    if !policy.port_level_mtls.is_empty() && !selects {
        cx.error_at("portLevelMtls", ErrorKind::Conflict, "portLevelMtls needs a selector with matchLabels");
    }
}

pub(crate) fn check_patch(patch: &ConfigPatch, cx: &mut Cx) {
    match &patch.patch {
        None => cx.missing("patch", "a patch needs an operation"),
        Some(change) if change.operation != PatchOperation::Remove && change.value.is_none() => {
            cx.missing("patch.value", format!("{} needs a value", change.operation.as_str()));
        }
        Some(_) => {}
    }
    let Some(found) = &patch.match_ else { return };
    let (listener, route, cluster) =
        (found.listener.is_some(), found.route_configuration.is_some(), found.cluster.is_some());
    let (fits, wanted) = match patch.apply_to {
        ApplyTo::Listener
        | ApplyTo::FilterChain
        | ApplyTo::NetworkFilter
        | ApplyTo::HttpFilter
        | ApplyTo::ListenerFilter => (!route && !cluster, "listener"),
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            (!listener && !cluster, "routeConfiguration")
        }
        ApplyTo::Cluster => (!listener && !route, "cluster"),
        ApplyTo::ExtensionConfig | ApplyTo::Bootstrap => (!listener && !route && !cluster, "no object"),
    };
    if !fits {
        let reason = format!("{} is matched by {wanted}; write that instead", patch.apply_to.as_str());
        cx.error_at("match", ErrorKind::Conflict, reason);
    }
}

pub(crate) fn check_patch_match(found: &PatchMatch, cx: &mut Cx) {
    let objects = usize::from(found.listener.is_some())
        + usize::from(found.route_configuration.is_some())
        + usize::from(found.cluster.is_some());
    if objects > 1 {
        conflict(cx, "listener, routeConfiguration and cluster exclude each other; keep one");
    }
}

pub(crate) fn check_prometheus_rule(rules: &PrometheusRule, cx: &mut Cx) {
    for (index, group) in rules.groups.iter().enumerate() {
        if rules.groups.iter().take(index).any(|earlier| earlier.name == group.name) {
            let reason = format!("the group {} is defined twice; rename one", group.name);
            cx.error_at(&format!("groups[{index}].name"), ErrorKind::Conflict, reason);
        }
    }
}

pub(crate) fn check_rule_body(rule: &Rule, cx: &mut Cx) {
    match (&rule.alert, &rule.record) {
        (Some(_), Some(_)) => conflict(cx, "alert and record exclude each other; keep one"),
        (None, None) => cx.missing("alert", "name the alert, or the series with record"),
        (None, Some(_)) if rule.for_.is_some() || rule.keep_firing_for.is_some() || !rule.annotations.is_empty() => {
            conflict(cx, "for, keep_firing_for and annotations are for alerts; remove them from a recorded series");
        }
        _ => {}
    }
}

pub(crate) fn check_service(service: &Service, cx: &mut Cx) {
    match (service.type_ == Some(ServiceType::ExternalName), &service.external_name) {
        (true, None) => cx.missing("externalName", "a Service of type ExternalName needs the name that it stands for"),
        (false, Some(_)) => {
            cx.error_at("externalName", ErrorKind::Conflict, "only type: ExternalName has an externalName; remove one");
        }
        (true, Some(name)) if name.ends_with(".svc") || name.contains(".svc.") => {
            let reason = "not supported yet: an alias of a service of the mesh; write a VirtualService for the host that routes to it";
            cx.error_at("externalName", ErrorKind::NotSupported, reason);
        }
        (true, Some(name)) if !name.trim_end_matches('.').split('.').all(is_dns_label) => {
            cx.error_at(
                "externalName",
                ErrorKind::BadValue,
                format!("{name:?} is no DNS name; write one such as api.example.com"),
            );
        }
        _ => {}
    }
    for (index, one) in service.ports.iter().enumerate() {
        let earlier = || service.ports.iter().take(index);
        if service.ports.len() > 1 && one.name.is_none() {
            cx.missing(&format!("ports[{index}].name"), "with several ports each needs a name");
        }
        if one.name.is_some() && earlier().any(|other| other.name == one.name) {
            cx.error_at(&format!("ports[{index}].name"), ErrorKind::Conflict, "this name is used twice; rename one");
        }
        if earlier().any(|other| {
            other.port == one.port && other.protocol.unwrap_or_default() == one.protocol.unwrap_or_default()
        }) {
            cx.error_at(&format!("ports[{index}].port"), ErrorKind::Conflict, "this port is listed twice; remove one");
        }
        if let Some(super::super::kubernetes::TargetPort::Name(name)) = &one.target_port {
            not_empty(name, cx);
        }
        if let Some(super::super::kubernetes::TargetPort::Number(number)) = &one.target_port {
            port(number, cx);
        }
    }
}

pub(crate) fn check_endpoint_slice(slice: &EndpointSlice, cx: &mut Cx) {
    let wants_v4 = slice.address_type == AddressType::Ipv4;
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.iter().any(|address| address.is_ipv4() != wants_v4) {
            let reason = format!("this address is not {}, as addressType says", slice.address_type.as_str());
            cx.error_at(&format!("endpoints[{index}].addresses"), ErrorKind::Conflict, reason);
        }
    }
}

pub(crate) fn check_endpoint(endpoint: &Endpoint, cx: &mut Cx) {
    if endpoint.addresses.is_empty() {
        cx.missing("addresses", "an endpoint needs an address");
    }
}

pub(crate) fn check_thread_pool(pool: &ThreadPool, cx: &mut Cx) {
    if pool.core_size.zip(pool.max_size).is_some_and(|(core, max)| core > max) {
        conflict(cx, "core_size is larger than max_size; lower it or raise max_size");
    }
}
