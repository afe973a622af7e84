//! Istio's standard labels (istio.io, "Istio Standard Metrics").

use std::sync::Arc;

use super::text::push_label;
use crate::flags::ResponseFlags;

/// Which sidecar reports: the client's or the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The outbound sidecar.
    Source,
    /// The inbound sidecar.
    Destination,
}

impl Reporter {
    pub const ALL: [Self; 2] = [Self::Source, Self::Destination];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    #[default]
    Http,
    Grpc,
}

impl RequestProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// Known to the server's sidecar; the client's reports `Unknown`, as Istio's does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnectionSecurity {
    #[default]
    Unknown,
    None,
    MutualTls,
}

impl ConnectionSecurity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::None => "none",
            Self::MutualTls => "mutual_tls",
        }
    }
}

/// One end of a request, as its labels name it. Share it in an `Arc` per workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    pub workload: String,
    pub workload_namespace: String,
    /// The SPIFFE identity, `spiffe://...`.
    pub principal: String,
    pub app: String,
    pub version: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    pub cluster: String,
}

impl Default for Peer {
    fn default() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            workload: unknown(),
            workload_namespace: unknown(),
            principal: unknown(),
            app: unknown(),
            version: unknown(),
            canonical_service: unknown(),
            canonical_revision: "latest".to_owned(),
            cluster: unknown(),
        }
    }
}

/// One label set of Istio's request metrics. Cloning is a few counter increments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    pub reporter: Reporter,
    pub source: Arc<Peer>,
    pub destination: Arc<Peer>,
    /// The host of the service: `user-service.default.svc.cluster.local`.
    pub destination_service: Arc<str>,
    /// Its short name: `user-service`.
    pub destination_service_name: Arc<str>,
    pub destination_service_namespace: Arc<str>,
    pub request_protocol: RequestProtocol,
    /// 0 where no response was sent.
    pub response_code: u16,
    pub response_flags: ResponseFlags,
    /// The label is there for gRPC only.
    pub grpc_response_status: Option<u32>,
    pub connection_security_policy: ConnectionSecurity,
}

impl Peer {
    /// Without the labels that `use_all_default_tags: false` leaves out: they repeat what workload, service and version
    /// say already.
    fn reduced(&self) -> Self {
        let none = String::new;
        let Self { workload, workload_namespace, version, canonical_service, .. } = self.clone();
        Self {
            workload,
            workload_namespace,
            version,
            canonical_service,
            principal: none(),
            app: none(),
            canonical_revision: none(),
            cluster: none(),
        }
    }
}

impl RequestLabels {
    pub(super) fn reduced(&self) -> Self {
        let peer = |peer: &Arc<Peer>| Arc::new(peer.reduced());
        Self { source: peer(&self.source), destination: peer(&self.destination), ..self.clone() }
    }

    /// The labels as exposition text, without braces.
    pub(super) fn render(&self) -> String {
        let mut out = String::with_capacity(1_024);
        push_label(&mut out, "reporter", self.reporter.as_str());
        let (source, destination) = (&*self.source, &*self.destination);
        for (name, value) in [
            ("source_workload", &source.workload),
            ("source_canonical_service", &source.canonical_service),
            ("source_canonical_revision", &source.canonical_revision),
            ("source_workload_namespace", &source.workload_namespace),
            ("source_principal", &source.principal),
            ("source_app", &source.app),
            ("source_version", &source.version),
            ("source_cluster", &source.cluster),
            ("destination_workload", &destination.workload),
            ("destination_workload_namespace", &destination.workload_namespace),
            ("destination_principal", &destination.principal),
            ("destination_app", &destination.app),
            ("destination_version", &destination.version),
            ("destination_canonical_service", &destination.canonical_service),
            ("destination_canonical_revision", &destination.canonical_revision),
            ("destination_cluster", &destination.cluster),
        ] {
            // A label without a value is no label (prometheus.io, "Data model").
            if !value.is_empty() {
                push_label(&mut out, name, value);
            }
        }
        push_label(&mut out, "destination_service", &self.destination_service);
        push_label(&mut out, "destination_service_name", &self.destination_service_name);
        push_label(&mut out, "destination_service_namespace", &self.destination_service_namespace);
        push_label(&mut out, "request_protocol", self.request_protocol.as_str());
        push_label(&mut out, "response_code", &self.response_code.to_string());
        if let Some(status) = self.grpc_response_status {
            push_label(&mut out, "grpc_response_status", &status.to_string());
        }
        push_label(&mut out, "response_flags", &self.response_flags.to_string());
        push_label(&mut out, "connection_security_policy", self.connection_security_policy.as_str());
        out
    }
}

/// The labels of the series that collects what the budget has no room for.
pub(super) fn render_other(reporter: Reporter) -> String {
    let mut out = String::new();
    push_label(&mut out, "reporter", reporter.as_str());
    for name in [
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_service",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service_name",
        "destination_service_namespace",
        "destination_cluster",
        "request_protocol",
        "response_code",
        "response_flags",
        "connection_security_policy",
    ] {
        push_label(&mut out, name, "other");
    }
    out
}
