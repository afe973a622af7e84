//! ServiceEntry and WorkloadEntry: services and endpoints that are not found in Kubernetes.

use std::collections::BTreeMap;

use super::record::{choice, record};

choice! {
    /// Whether the endpoints belong to the mesh.
    pub enum ServiceLocation {
        MeshExternal = "MESH_EXTERNAL",
        MeshInternal = "MESH_INTERNAL",
    }
}

choice! {
    /// How endpoints are found.
    pub enum Resolution {
        /// To the address the caller asked for.
        None = "NONE",
        /// The addresses of `endpoints`.
        Static = "STATIC",
        /// Names of `endpoints`, or the host itself, resolved; all answers are used.
        Dns = "DNS",
        /// As DNS, but one answer at a time.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// Resolved per request.
        DynamicDns = "DYNAMIC_DNS" later "resolution per request",
    }
}

impl Resolution {
    /// Whether the addresses of endpoints may be names.
    pub fn asks_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin | Self::DynamicDns)
    }
}

record! {
    /// A service by names, ports and endpoints (networking.istio.io ServiceEntry).
    pub struct ServiceEntry checked check_service_entry {
        hosts: Vec<String> = "hosts" [hosts];
        /// Virtual addresses; with a prefix length only for NONE and STATIC.
        addresses: Vec<String> = "addresses" [prefixes];
        ports: Vec<ServiceEntryPort> = "ports";
        location: Option<ServiceLocation> = "location";
        /// Unset: NONE.
        resolution: Option<Resolution> = "resolution";
        endpoints: Vec<WorkloadEntry> = "endpoints";
        /// WorkloadEntries of the same namespace that carry these labels are the endpoints.
        workload_selector: Option<WorkloadSelector> = "workloadSelector";
        /// Namespaces that see the entry; empty: all. `.` is its own, `*` all.
        export_to: Vec<String> = "exportTo" [export_to];
        /// Identities that the endpoints may have.
        subject_alt_names: Vec<String> = "subjectAltNames";
    }
}

record! {
    /// A port of the service.
    pub struct ServiceEntryPort {
        number: u16 = "number" [port];
        name: String = "name" [not_empty, at_most_256];
        /// HTTP, HTTP2, GRPC, HTTPS, TCP, TLS and so on; unset: from the name.
        protocol: Option<String> = "protocol" [protocol];
        /// Port of the endpoints; unset: `number`.
        target_port: Option<u16> = "targetPort" [port];
    }
}

record! {
    /// Workloads that carry all these labels; `{}` means all of the namespace.
    pub struct WorkloadSelector {
        labels: BTreeMap<String, String> = "labels" [selector_labels];
    }
}

record! {
    /// One endpoint, alone (networking.istio.io WorkloadEntry) or within a ServiceEntry.
    pub struct WorkloadEntry checked check_workload_entry {
        /// An IP address, a name (DNS resolutions only), or `unix://PATH`.
        address: Option<String> = "address" [workload_address];
        /// Port name of the service to port of this endpoint.
        ports: BTreeMap<String, u16> = "ports" [named_ports];
        labels: BTreeMap<String, String> = "labels" [labels];
        /// One network is taken for granted: every endpoint is reached at its address.
        network: Option<String> = "network" [at_most_2048], idle;
        locality: Option<Locality> = "locality";
        /// Share relative to the others. Unset or 0: 1.
        weight: Option<u32> = "weight";
        service_account: Option<String> = "serviceAccount" [at_most_253];
    }
}

/// Where an endpoint runs: `region/zone/subzone`; missing parts are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

impl Locality {
    /// Reads `region/zone/subzone`; parts after the third are left out.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        Self {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        }
    }

    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

impl std::fmt::Display for Locality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.region)?;
        if !self.zone.is_empty() || !self.sub_zone.is_empty() {
            write!(f, "/{}", self.zone)?;
        }
        if !self.sub_zone.is_empty() {
            write!(f, "/{}", self.sub_zone)?;
        }
        Ok(())
    }
}
