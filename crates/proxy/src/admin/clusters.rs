//! /clusters: every cluster with its limits, its outlier detection and its endpoints, in Envoy's lines or as JSON.

use super::Page;
use crate::dns::Name;
use crate::outlier::EndpointReport;
use crate::proxy::Control;
use crate::upstream::ClusterShared;
use celerity_model::snapshot::{Address, Cluster, Endpoint, Health, LocalityGroup};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Instant;

pub(super) fn page(control: &Control, format: &str) -> Page {
    let running = control.running.load();
    let mut all: Vec<_> = running.snapshot.clusters().collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    let now = Instant::now();
    let mut text = String::new();
    let mut list = Vec::new();
    for cluster in all {
        let shared = control.shared.cluster(cluster);
        let limits = limits(cluster, &shared, &mut text);
        let outlier = outlier(cluster, &shared, &mut text);
        let names = names(control, cluster, now, &mut text);
        let reports: HashMap<u64, EndpointReport> =
            shared.health.reports(now).into_iter().map(|report| (report.identity, report)).collect();
        let mut endpoints = Vec::new();
        for group in &cluster.localities {
            for one in cluster.group(group) {
                endpoints.push(endpoint(cluster, group, one, reports.get(&one.identity), &mut text));
            }
        }
        list.push(json!({
            "name": &*cluster.name,
            "limits": limits,
            "outlier_detection": outlier,
            "names": names,
            "endpoints": endpoints,
        }));
    }
    if format == "json" { Page::json(&json!({ "clusters": list })) } else { Page::text(text) }
}

fn limits(cluster: &Cluster, shared: &ClusterShared, text: &mut String) -> Value {
    let name = &cluster.name;
    let mut limits = serde_json::Map::new();
    for (limit, gate, active) in [
        ("max_connections", &shared.connections, "cx_active"),
        ("max_pending_requests", &shared.pending, "rq_pending_active"),
        ("max_requests", &shared.requests, "rq_active"),
        ("max_retries", &shared.retries, "rq_retry_active"),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}::default_priority::{limit}::{}", gate.limit());
        let _ = writeln!(text, "{name}::default_priority::{active}::{}", gate.used());
        limits.insert(limit.into(), json!({ "limit": gate.limit(), "used": gate.used() }));
    }
    Value::Object(limits)
}

fn outlier(cluster: &Cluster, shared: &ClusterShared, text: &mut String) -> Value {
    let Some(settings) = &cluster.policy.outlier else { return Value::Null };
    let name = &cluster.name;
    let ejected = shared.health.ejected();
    for (field, value) in [
        ("consecutive_5xx", u128::from(settings.consecutive_5xx)),
        ("consecutive_gateway_failure", u128::from(settings.consecutive_gateway_failure)),
        ("interval_ms", settings.interval.as_millis()),
        ("base_ejection_time_ms", settings.base_ejection_time.as_millis()),
        ("max_ejection_percent", u128::from(settings.max_ejection_percent)),
        ("ejections_active", u128::from(ejected)),
    ] {
        let _ = writeln!(text, "{name}::outlier::{field}::{value}");
    }
    json!({
        "consecutive_5xx": settings.consecutive_5xx,
        "consecutive_gateway_failure": settings.consecutive_gateway_failure,
        "interval_ms": settings.interval.as_millis() as u64,
        "base_ejection_time_ms": settings.base_ejection_time.as_millis() as u64,
        "max_ejection_percent": settings.max_ejection_percent,
        "ejections_active": ejected,
    })
}

/// The DNS names of a cluster, as they are configured: the running cluster has their addresses only.
fn names(control: &Control, cluster: &Cluster, now: Instant, text: &mut String) -> Vec<Value> {
    let configured = control.configured();
    let Some(named) = configured.cluster_by_name(&cluster.name).filter(|named| named.needs_dns()) else {
        return Vec::new();
    };
    let table = control.names.table();
    let mut all = Vec::new();
    for endpoint in &named.endpoints {
        let Address::Dns { host, .. } = &endpoint.address else { continue };
        let known = table.get(&Name::new(host, named.policy.dns.family)).cloned().unwrap_or_default();
        let age_s = known.answered_at.map(|at| now.saturating_duration_since(at).as_secs());
        let state = match (&known.last_error, age_s) {
            (Some(error), Some(age)) => {
                format!("{} addresses, answered {age} s ago, now failing: {error}", known.addresses.len())
            }
            (Some(error), None) => format!("no address: {error}"),
            (None, Some(age)) => format!("{} addresses, answered {age} s ago", known.addresses.len()),
            (None, None) => "no address: being resolved".to_owned(),
        };
        let _ = writeln!(text, "{}::dns::{host}::{state}", cluster.name);
        all.push(json!({
            "host": &**host,
            "addresses": known.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "answered_s_ago": age_s,
            "error": known.last_error.as_deref(),
        }));
    }
    all
}

fn endpoint(
    cluster: &Cluster,
    group: &LocalityGroup,
    endpoint: &Endpoint,
    report: Option<&EndpointReport>,
    text: &mut String,
) -> Value {
    let (name, address, locality) = (&cluster.name, &endpoint.address, &group.locality);
    let ejected = report.and_then(|report| report.ejected);
    let mut flags = String::new();
    if ejected.is_some() {
        flags.push_str("/failed_outlier_check");
    }
    flags.push_str(match endpoint.health {
        Health::Healthy => "",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
        Health::Draining => "/eds_status_draining",
    });
    if flags.is_empty() {
        flags.push_str("healthy");
    }
    let _ = writeln!(text, "{name}::{address}::health_flags::{flags}");
    if let Some((reason, left)) = ejected {
        let _ = writeln!(text, "{name}::{address}::ejected::{}, {} ms left", reason.as_str(), left.as_millis());
    }
    let count = |of: fn(&EndpointReport) -> u64| report.map_or(0, of);
    for (field, value) in [
        ("weight", u64::from(endpoint.weight)),
        ("priority", u64::from(group.priority)),
        ("ejections_total", count(|report| report.total_ejections)),
        ("consecutive_5xx", count(|report| report.consecutive_5xx.into())),
        ("consecutive_gateway_failure", count(|report| report.consecutive_gateway_failure.into())),
    ] {
        let _ = writeln!(text, "{name}::{address}::{field}::{value}");
    }
    for (field, value) in [
        ("region", &*locality.region),
        ("zone", &*locality.zone),
        ("sub_zone", &*locality.sub_zone),
        ("hostname", endpoint.hostname.as_deref().unwrap_or_default()),
    ] {
        let _ = writeln!(text, "{name}::{address}::{field}::{value}");
    }
    json!({
        "address": address.to_string(),
        "hostname": endpoint.hostname.as_deref(),
        "weight": endpoint.weight,
        "priority": group.priority,
        "locality": { "region": &*locality.region, "zone": &*locality.zone, "sub_zone": &*locality.sub_zone },
        "health_flags": flags,
        "ejected": ejected.map(|(reason, left)| json!({ "reason": reason.as_str(), "left_ms": left.as_millis() as u64 })),
        "ejections_total": count(|report| report.total_ejections),
        "consecutive_5xx": count(|report| report.consecutive_5xx.into()),
        "consecutive_gateway_failure": count(|report| report.consecutive_gateway_failure.into()),
    })
}
