//! Kubernetes Service and EndpointSlice, as far as a mesh needs them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::config::Document;
use super::record::{choice, record};
use super::service_entry::Locality;

/// Label of an EndpointSlice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label that names a region.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Label that names a zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

choice! {
    /// How a Service is reached in Kubernetes.
    pub enum ServiceType {
        ClusterIp = "ClusterIP",
        NodePort = "NodePort",
        LoadBalancer = "LoadBalancer",
        ExternalName = "ExternalName",
    }
}

choice! {
    /// Transport of a port.
    pub enum TransportProtocol {
        Tcp = "TCP",
        Udp = "UDP",
        Sctp = "SCTP",
    }
}

choice! {
    /// Whether one client's requests go to one endpoint.
    pub enum SessionAffinity {
        None = "None",
        ClientIp = "ClientIP",
    }
}

choice! {
    /// Which endpoints get requests from within the cluster.
    pub enum InternalTrafficPolicy {
        Cluster = "Cluster",
        Local = "Local",
    }
}

choice! {
    /// Which endpoints are preferred. The node of an endpoint is not known here, so the same node means the same zone.
    pub enum TrafficDistribution {
        PreferClose = "PreferClose",
        PreferSameZone = "PreferSameZone",
        PreferSameNode = "PreferSameNode",
    }
}

record! {
    /// Names, address and ports of a service (v1 Service).
    pub struct Service checked check_service {
        type_: Option<ServiceType> = "type";
        /// An address, `None` for a headless service, or nothing.
        cluster_ip: Option<String> = "clusterIP" [cluster_ip];
        cluster_ips: Vec<String> = "clusterIPs" [cluster_ips];
        /// The DNS name that a Service of type ExternalName stands for.
        external_name: Option<String> = "externalName" [not_empty];
        ports: Vec<ServicePort> = "ports";
        /// Endpoints that are not ready get requests too.
        publish_not_ready_addresses: Option<bool> = "publishNotReadyAddresses";
        /// Endpoints of the client's region and zone first, where no DestinationRule speaks of localities.
        traffic_distribution: Option<TrafficDistribution> = "trafficDistribution";
        session_affinity: Option<SessionAffinity> = "sessionAffinity", idle;
        external_ips: Vec<String> = "externalIPs", idle;
        internal_traffic_policy: Option<InternalTrafficPolicy> = "internalTrafficPolicy", idle;
    }
    ignored {
        "selector": text_map, "sessionAffinityConfig": mapping, "externalTrafficPolicy": traffic_policy,
        "healthCheckNodePort": whole_number, "ipFamilies": ip_families, "ipFamilyPolicy": ip_family_policy,
        "allocateLoadBalancerNodePorts": boolean, "loadBalancerClass": string, "loadBalancerIP": string,
        "loadBalancerSourceRanges": strings,
    }
}

record! {
    /// A port of a service.
    pub struct ServicePort {
        /// May be absent when there is only one port.
        name: Option<String> = "name";
        port: u16 = "port" [port];
        /// Port of the endpoints, by number or name; unset: `port`. EndpointSlices give the number.
        target_port: Option<TargetPort> = "targetPort";
        protocol: Option<TransportProtocol> = "protocol";
        /// `http`, `http2`, `grpc`, `kubernetes.io/h2c`, `tcp` and so on; unset: from the name's prefix.
        app_protocol: Option<String> = "appProtocol";
    }
    ignored { "nodePort": whole_number }
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

choice! {
    /// What the addresses of an EndpointSlice are.
    pub enum AddressType {
        Ipv4 = "IPv4",
        Ipv6 = "IPv6",
        Fqdn = "FQDN" later "endpoints by name in an EndpointSlice (write a ServiceEntry with resolution: DNS)",
    }
}

record! {
    /// Endpoints of a service (discovery.k8s.io/v1 EndpointSlice). Its service is named by the label
    /// `kubernetes.io/service-name`. Other labels of the slice count as labels of each of its endpoints,
    /// since there are no Pods to ask: that is how subsets and regions are found.
    pub struct EndpointSlice checked check_endpoint_slice {
        address_type: AddressType = "addressType";
        endpoints: Vec<Endpoint> = "endpoints";
        ports: Vec<EndpointPort> = "ports";
    }
}

record! {
    /// One endpoint.
    pub struct Endpoint checked check_endpoint {
        /// Only the first counts, as in Kubernetes.
        addresses: Vec<IpAddr> = "addresses";
        conditions: Option<EndpointConditions> = "conditions";
        zone: Option<String> = "zone";
        hostname: Option<String> = "hostname", idle;
        node_name: Option<String> = "nodeName", idle;
    }
    ignored { "targetRef": mapping, "deprecatedTopology": text_map, "hints": mapping }
}

impl Endpoint {
    /// Whether it may get requests; unknown counts as ready, as in Kubernetes.
    pub fn is_ready(&self) -> bool {
        self.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
    }

    /// It is about to end and answers until then.
    pub fn serves_while_ending(&self) -> bool {
        self.conditions.as_ref().is_some_and(|c| c.terminating == Some(true) && c.serving == Some(true))
    }
}

record! {
    /// State of an endpoint.
    pub struct EndpointConditions {
        ready: Option<bool> = "ready";
        serving: Option<bool> = "serving";
        terminating: Option<bool> = "terminating";
    }
}

record! {
    /// A port of the endpoints.
    pub struct EndpointPort {
        /// Name of the service's port; absent when that has none.
        name: Option<String> = "name";
        port: u16 = "port" [port];
        /// Only TCP is spoken; a port of UDP or SCTP is as if it were not there.
        protocol: Option<TransportProtocol> = "protocol";
        /// The Service's own counts, as in Istio.
        app_protocol: Option<String> = "appProtocol", idle;
    }
}

impl Document<EndpointSlice> {
    /// The service that the endpoints belong to.
    pub fn service_name(&self) -> Option<&str> {
        self.meta.labels.get(SERVICE_NAME_LABEL).map(String::as_str)
    }

    /// Where an endpoint runs: region from the slice's label, zone from the endpoint or the slice's label.
    pub fn locality(&self, endpoint: &Endpoint) -> Locality {
        let label = |name: &str| self.meta.labels.get(name).cloned();
        Locality {
            region: label(REGION_LABEL).unwrap_or_default(),
            zone: endpoint.zone.clone().or_else(|| label(ZONE_LABEL)).unwrap_or_default(),
            sub_zone: String::new(),
        }
    }

    /// Labels that each endpoint carries: those of the slice without Kubernetes' own.
    pub fn endpoint_labels(&self) -> BTreeMap<String, String> {
        let own = |name: &str| name == SERVICE_NAME_LABEL || name.starts_with("endpointslice.kubernetes.io/");
        self.meta.labels.iter().filter(|(k, _)| !own(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}
