//! The proxy that resources are made for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::istio::{DEFAULT_NAMESPACE, Locality};

/// A workload, its proxy, and what the mesh takes for granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name of the workload.
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// Addresses by which the services' endpoints name this workload; its inbound side serves those endpoints.
    pub addresses: Vec<IpAddr>,
    pub locality: Locality,
    /// The service account, last part of the SPIFFE identity.
    pub service_account: String,
    /// Compared with `match.proxy.metadata` of EnvoyFilters.
    pub metadata: BTreeMap<String, String>,
    /// Where the outbound listener is.
    pub outbound: SocketAddr,
    /// Where the inbound listener is. Endpoints that name its port reach the service's `targetPort` behind it.
    pub inbound: SocketAddr,
    /// Where the application listens, whatever address its clients use.
    pub application: IpAddr,
    /// The workload's own certificate; without one there is no mesh mTLS on either side.
    pub certificates: Option<Certificates>,
    pub mesh: Mesh,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: String::new(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            locality: Locality::default(),
            service_account: "default".to_owned(),
            metadata: BTreeMap::new(),
            outbound: SocketAddr::from((Ipv4Addr::LOCALHOST, 15001)),
            inbound: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15006)),
            application: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificates: None,
            mesh: Mesh::default(),
        }
    }
}

/// Paths of PEM files. They are named in the resources and read by the proxy, so a rotation changes no resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The workload's certificate and those between it and the root.
    pub chain: String,
    pub key: String,
    /// Roots of the mesh.
    pub roots: String,
}

/// What holds for the whole mesh (Istio's MeshConfig).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    pub trust_domain: String,
    /// Services of Kubernetes are `NAME.NAMESPACE.svc.<this>`.
    pub cluster_domain: String,
    /// Mutual TLS towards endpoints of the mesh without a DestinationRule that says so.
    pub auto_mtls: bool,
    /// Locality failover and distribution, where a DestinationRule does not switch it off.
    pub locality_lb: bool,
    /// Hosts that no service has are refused (Istio `outboundTrafficPolicy: REGISTRY_ONLY`) instead of sent on.
    pub registry_only: bool,
    /// Roots for TLS to the outside, where a DestinationRule names none. A PEM file.
    pub system_roots: String,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            auto_mtls: true,
            locality_lb: true,
            registry_only: false,
            system_roots: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
        }
    }
}

impl Node {
    /// The SPIFFE identity of a service account of this mesh.
    pub fn spiffe_id(&self, namespace: &str, service_account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.mesh.trust_domain)
    }
}
