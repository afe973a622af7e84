//! Kubernetes' own kinds that say nothing to a mesh.
//!
//! Whoever has manifests has them side by side with a Service and its rules. Nothing in them could act here, so they are passed
//! over, each with a finding. What has a meaning to a mesh and does not act yet is refused by name all the same.

/// API groups of which no kind is about traffic, without their versions (Kubernetes API reference; and kustomize's own).
const GROUPS: [&str; 22] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "kustomize.config.k8s.io",
    "metrics.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// Kinds of the core group, `v1`. Service and ConfigMap act; Endpoints is refused, since its addresses would be missed.
const CORE: [&str; 14] = [
    "Binding",
    "ComponentStatus",
    "Event",
    "LimitRange",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
];

/// Kinds of `networking.k8s.io`. Ingress is another program's: Istio's sidecars do not look at it either.
const NETWORKING: [&str; 5] = ["IPAddress", "Ingress", "IngressClass", "NetworkPolicy", "ServiceCIDR"];

/// Whether a document is none of the mesh's business.
pub(crate) fn is_passed_over(api_version: &str, kind: &str) -> bool {
    match api_version.split_once('/') {
        None => api_version == "v1" && CORE.contains(&kind),
        Some(("networking.k8s.io", _)) => NETWORKING.contains(&kind),
        Some((group, _)) => GROUPS.contains(&group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mesh_acts_on_is_never_passed_over() {
        for (version, kind) in [("apps/v1", "Deployment"), ("v1", "Secret"), ("networking.k8s.io/v1", "Ingress")] {
            assert!(is_passed_over(version, kind), "{kind}");
        }
        for (version, kind) in [
            ("v1", "Service"),
            ("v1", "Endpoints"),
            ("v1", "Sevice"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("gateway.networking.k8s.io/v1", "HTTPRoute"),
            ("networking.istio.io/v1", "Deployment"),
            ("security.istio.io/v1", "AuthorizationPolicy"),
        ] {
            assert!(!is_passed_over(version, kind), "{kind}");
        }
    }
}
