//! Endpoints of a cluster, and the values that many of them share.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    Address as EnvoyAddress, HealthStatus, Metadata, address, socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use xxhash_rust::xxh64::xxh64;

use super::super::cluster::*;
use super::super::retry::RetryPolicy;
use super::check::Check;

/// Distinct policies that are looked through before one is kept of its own: mostly there are a handful, and a scan of many
/// would make building quadratic.
const SCANNED_MAX: usize = 64;

/// Values that are equal become one object.
#[derive(Default)]
pub(super) struct Interner {
    policies: Vec<(Arc<ClusterPolicy>, u64)>,
    retries: Vec<Arc<RetryPolicy>>,
    localities: HashMap<Locality, Arc<Locality>>,
    workloads: HashMap<Box<str>, Arc<Workload>>,
}

impl Interner {
    /// The shared policy and the hash of those of its parts that a connection depends on.
    pub(super) fn policy(&mut self, policy: ClusterPolicy) -> (Arc<ClusterPolicy>, u64) {
        if let Some((shared, hash)) = self.policies.iter().find(|(shared, _)| **shared == policy) {
            return (shared.clone(), *hash);
        }
        let parts = format!("{:?}{:?}{:?}", policy.connection, policy.protocol, policy.http2);
        let entry = (Arc::new(policy), xxh64(parts.as_bytes(), 0));
        if self.policies.len() < SCANNED_MAX {
            self.policies.push(entry.clone());
        }
        entry
    }

    pub(super) fn retry(&mut self, policy: RetryPolicy) -> Arc<RetryPolicy> {
        if let Some(shared) = self.retries.iter().find(|shared| ***shared == policy) {
            return shared.clone();
        }
        let shared = Arc::new(policy);
        if self.retries.len() < SCANNED_MAX {
            self.retries.push(shared.clone());
        }
        shared
    }

    fn locality(&mut self, locality: Locality) -> Arc<Locality> {
        self.localities.entry(locality).or_insert_with_key(|locality| Arc::new(locality.clone())).clone()
    }

    /// `conditions` choose the transports after the first one.
    pub(super) fn endpoints(
        &mut self,
        check: &mut Check,
        assignment: &ClusterLoadAssignment,
        conditions: &[Struct],
    ) -> (Box<[Endpoint]>, Box<[LocalityGroup]>) {
        if !assignment.named_endpoints.is_empty() {
            check.unsupported("named_endpoints");
        }
        let mut order: Vec<usize> = (0..assignment.endpoints.len()).collect();
        order.sort_by_key(|&index| assignment.endpoints.get(index).map(|group| group.priority));
        let total = assignment.endpoints.iter().map(|group| group.lb_endpoints.len()).sum();
        let mut endpoints = Vec::with_capacity(total);
        let mut groups = Vec::with_capacity(order.len());
        for index in order {
            let Some(group) = assignment.endpoints.get(index) else { continue };
            check.item("endpoints", index, |check| {
                if group.lb_config.is_some() {
                    check.error("lb_config", "not supported; give lb_endpoints");
                }
                if group.proximity.is_some() {
                    check.unsupported("proximity");
                }
                let start = endpoints.len() as u32;
                for (index, endpoint) in group.lb_endpoints.iter().enumerate() {
                    endpoints
                        .extend(check.item("lb_endpoints", index, |check| self.endpoint(check, endpoint, conditions)));
                }
                let locality = group.locality.as_ref().map(|locality| Locality {
                    region: locality.region.as_str().into(),
                    zone: locality.zone.as_str().into(),
                    sub_zone: locality.sub_zone.as_str().into(),
                });
                groups.push(LocalityGroup {
                    locality: self.locality(locality.unwrap_or_default()),
                    priority: group.priority,
                    weight: group.load_balancing_weight.map(|weight| weight.value),
                    start,
                    len: endpoints.len() as u32 - start,
                });
            });
        }
        (endpoints.into(), groups.into())
    }

    fn endpoint(&mut self, check: &mut Check, source: &LbEndpoint, conditions: &[Struct]) -> Option<Endpoint> {
        let Some(HostIdentifier::Endpoint(endpoint)) = &source.host_identifier else {
            check.error("endpoint_name", "named endpoints are not supported; give `endpoint`");
            return None;
        };
        if !endpoint.additional_addresses.is_empty() {
            check.unsupported("endpoint.additional_addresses");
        }
        let address = check.within("endpoint.address", |check| address(check, endpoint.address.as_ref()))?;
        let weight = source.load_balancing_weight.map_or(1, |weight| weight.value);
        if weight == 0 {
            check.error("load_balancing_weight", "must be 1 or more");
        }
        let health = match HealthStatus::try_from(source.health_status) {
            Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
            Ok(HealthStatus::Degraded) => Health::Degraded,
            Ok(HealthStatus::Draining) => Health::Draining,
            Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) | Err(_) => Health::Unhealthy,
        };
        let metadata = source.metadata.as_ref();
        let transport = metadata
            .and_then(|metadata| metadata.filter_metadata.get("envoy.transport_socket_match"))
            .map_or_else(|| first_match(&Struct::default(), conditions), |labels| first_match(labels, conditions));
        Some(Endpoint {
            identity: match &address {
                Address::Socket(address) => Endpoint::identity_of_socket(*address),
                other => Endpoint::identity_of(&other.to_string()),
            },
            address,
            weight: weight.max(1),
            health,
            transport,
            hostname: (!endpoint.hostname.is_empty()).then(|| endpoint.hostname.as_str().into()),
            workload: metadata.and_then(|metadata| self.workload(metadata)),
        })
    }

    fn workload(&mut self, metadata: &Metadata) -> Option<Arc<Workload>> {
        let value = metadata.filter_metadata.get("istio")?.fields.get("workload")?;
        let Some(Kind::StringValue(text)) = &value.kind else { return None };
        if let Some(known) = self.workloads.get(text.as_str()) {
            return Some(known.clone());
        }
        let mut parts = text.split(';').map(Box::from);
        let mut next = || parts.next().unwrap_or_default();
        let workload = Arc::new(Workload {
            name: next(),
            namespace: next(),
            canonical_service: next(),
            canonical_revision: next(),
            cluster: next(),
        });
        self.workloads.insert(text.as_str().into(), workload.clone());
        Some(workload)
    }
}

/// The index of the first transport all of whose labels the endpoint has; 0 is the cluster's own.
fn first_match(labels: &Struct, conditions: &[Struct]) -> u8 {
    conditions
        .iter()
        .position(|condition| condition.fields.iter().all(|(key, value)| labels.fields.get(key) == Some(value)))
        .and_then(|index| u8::try_from(index + 1).ok())
        .unwrap_or(0)
}

/// An IP address, a DNS name or a socket's path.
pub(super) fn address(check: &mut Check, source: Option<&EnvoyAddress>) -> Option<Address> {
    match source.and_then(|source| source.address.as_ref()) {
        Some(address::Address::SocketAddress(socket)) => {
            if socket.protocol != 0 {
                check.error("socket_address.protocol", "only TCP is supported");
            }
            let port = match &socket.port_specifier {
                Some(socket_address::PortSpecifier::PortValue(port)) => check.port("socket_address.port_value", *port),
                Some(socket_address::PortSpecifier::NamedPort(_)) => {
                    check.unsupported("socket_address.named_port");
                    return None;
                }
                None => 0,
            };
            if socket.address.is_empty() {
                check.error("socket_address.address", "must be given");
                return None;
            }
            Some(match socket.address.parse::<IpAddr>() {
                Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
                Err(_) => Address::Dns { host: socket.address.as_str().into(), port },
            })
        }
        Some(address::Address::Pipe(pipe)) => Some(Address::Pipe(pipe.path.as_str().into())),
        Some(address::Address::EnvoyInternalAddress(_)) => {
            check.unsupported("envoy_internal_address");
            None
        }
        None => {
            check.error("", "an address must be given");
            None
        }
    }
}
