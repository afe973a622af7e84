//! Hashes of resources that do not depend on the order in which maps happen to be stored.
//!
//! Protobuf maps are hash maps in memory with an order of their own, so that one resource encodes in several ways. Maps
//! are therefore taken out and hashed entry by entry, in an order-free sum; the rest is hashed as encoded.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::config::route::v3::{VirtualHost, route, route_action};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use prost::Message;
use std::collections::HashMap;
use xxhash_rust::xxh64::xxh64;

/// Two hashes with different seeds: a chance meeting would keep an old configuration silently.
#[derive(Clone, Copy, Default)]
pub(super) struct Print {
    low: u64,
    high: u64,
    scratch_used: u64,
}

impl Print {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.low = self.low.rotate_left(5) ^ xxh64(bytes, self.scratch_used);
        self.high = self.high.rotate_left(11) ^ xxh64(bytes, self.scratch_used ^ 0x9e37_79b9_7f4a_7c15);
        self.scratch_used += 1;
    }

    pub(super) fn message(&mut self, message: &impl Message, scratch: &mut Vec<u8>) {
        scratch.clear();
        // A vector grows: encoding into it cannot fail.
        if message.encode(scratch).is_ok() {
            self.bytes(scratch);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(super) fn metadata(&mut self, metadata: Option<&Metadata>) {
        let Some(metadata) = metadata else { return self.number(0) };
        let filters =
            metadata.filter_metadata.iter().map(|(key, value)| pair(key, structure(value))).fold(1, u64::wrapping_add);
        self.number(filters);
        self.anys(&metadata.typed_filter_metadata);
    }

    pub(super) fn anys(&mut self, map: &HashMap<String, Any>) {
        let sum = map
            .iter()
            .map(|(key, any)| pair(key, xxh64(&any.value, xxh64(any.type_url.as_bytes(), 0))))
            .fold(2, u64::wrapping_add);
        self.number(sum);
    }

    pub(super) fn value(self) -> u128 {
        u128::from(self.low) << 64 | u128::from(self.high)
    }
}

fn pair(key: &str, value: u64) -> u64 {
    xxh64(key.as_bytes(), value)
}

fn structure(value: &Struct) -> u64 {
    value.fields.iter().map(|(key, value)| pair(key, json(value))).fold(3, u64::wrapping_add)
}

fn json(value: &Value) -> u64 {
    match &value.kind {
        None => 0,
        Some(Kind::NullValue(_)) => 1,
        Some(Kind::BoolValue(value)) => 2 + u64::from(*value),
        Some(Kind::NumberValue(number)) => xxh64(&number.to_bits().to_le_bytes(), 4),
        Some(Kind::StringValue(text)) => xxh64(text.as_bytes(), 5),
        Some(Kind::StructValue(inner)) => structure(inner).rotate_left(1),
        Some(Kind::ListValue(list)) => {
            list.values.iter().fold(6, |sum: u64, item| xxh64(&json(item).to_le_bytes(), sum))
        }
    }
}

pub(super) fn cluster(cluster: &Cluster, scratch: &mut Vec<u8>) -> Print {
    let mut print = Print::default();
    let mut rest = cluster.clone();
    print.metadata(rest.metadata.take().as_ref());
    print.anys(&std::mem::take(&mut rest.typed_extension_protocol_options));
    for matched in &mut rest.transport_socket_matches {
        let wanted = matched.r#match.take().unwrap_or_default();
        print.number(structure(&wanted));
    }
    if let Some(assignment) = rest.load_assignment.take() {
        endpoints(&mut print, &assignment, scratch);
    }
    print.message(&rest, scratch);
    print
}

pub(super) fn endpoints(print: &mut Print, assignment: &ClusterLoadAssignment, scratch: &mut Vec<u8>) {
    if let Some(policy) = &assignment.policy {
        print.message(policy, scratch);
    }
    for group in &assignment.endpoints {
        if let Some(locality) = &group.locality {
            print.message(locality, scratch);
        }
        print.number(u64::from(group.priority));
        print.number(group.load_balancing_weight.map_or(u64::MAX, |weight| u64::from(weight.value)));
        print.number(group.lb_endpoints.len() as u64);
        for endpoint in &group.lb_endpoints {
            let LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = endpoint;
            print.metadata(metadata.as_ref());
            let weight = load_balancing_weight.map_or(u64::from(u32::MAX), |weight| u64::from(weight.value));
            print.number((*health_status as u64) << 32 | weight);
            match host_identifier {
                Some(HostIdentifier::Endpoint(endpoint)) => print.message(endpoint, scratch),
                Some(HostIdentifier::EndpointName(name)) => print.bytes(name.as_bytes()),
                None => print.number(0),
            }
        }
    }
}

pub(super) fn virtual_host(host: &VirtualHost, inherited: u64, scratch: &mut Vec<u8>) -> u128 {
    let mut print = Print::default();
    print.number(inherited);
    let mut rest = host.clone();
    print.metadata(rest.metadata.take().as_ref());
    print.anys(&std::mem::take(&mut rest.typed_per_filter_config));
    for route in &mut rest.routes {
        print.metadata(route.metadata.take().as_ref());
        print.anys(&std::mem::take(&mut route.typed_per_filter_config));
        if let Some(route::Action::Route(action)) = &mut route.action
            && let Some(route_action::ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier
        {
            for cluster in &mut weighted.clusters {
                print.anys(&std::mem::take(&mut cluster.typed_per_filter_config));
            }
        }
    }
    print.message(&rest, scratch);
    print.value()
}
