//! Kubernetes' own kinds that say nothing to a mesh.
//!
//! Whoever has manifests has them side by side with a Service and its rules. Nothing in them could act here, so they are passed
//! over, each with a finding. What has a meaning to a mesh and does not act yet is refused by name all the same.

use super::reader::nearest;

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

/// API groups whose kinds are read, or refused by name because a mesh acts on them.
const MESH_GROUPS: [&str; 7] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "install.istio.io",
    "monitoring.coreos.com",
    "discovery.k8s.io",
];

/// Whether a document that was found in a folder, not named, is another program's: of an API group of its own (a Certificate, a
/// Rollout), or of none (a chart's values). What may be a slip of the pen in a name of ours is not.
pub(crate) fn is_of_another_program(api_version: Option<&str>, kind: Option<&str>) -> bool {
    match (api_version, kind) {
        (None, kind) => kind.is_none(),
        (Some(version), kind) => match version.split_once('/') {
            // Charts say apiVersion: v2 and no kind; the core group has v1 alone.
            None => version != "v1" && kind.is_none(),
            // Nearly all documents are of one of these, and to compare spellings costs more than to read a document.
            Some((group, _)) if MESH_GROUPS.contains(&group) => false,
            Some((group, _)) => nearest(group, MESH_GROUPS.into_iter()).is_none() && !group.ends_with(".istio.io"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_meant_for_the_mesh_is_no_other_programs() {
        for (version, kind) in [
            (None, None),
            (Some("v2"), None),
            (Some("cert-manager.io/v1"), Some("Certificate")),
            (Some("serving.knative.dev/v1"), Some("Service")),
            (Some("gateway.networking.k8s.io/v1"), Some("HTTPRoute")),
            (Some("argoproj.io/v1alpha1"), Some("Rollout")),
        ] {
            assert!(is_of_another_program(version, kind), "{version:?} {kind:?}");
        }
        for (version, kind) in [
            (None, Some("VirtualService")),
            (Some("v1"), None),
            (Some("v1"), Some("Sevice")),
            (Some("networking.istio.io/v1"), None),
            (Some("networking.istio.oi/v1"), Some("DestinationRule")),
            (Some("security.istio.io/v1"), Some("AuthorizationPolicy")),
            (Some("discovery.k8s.io/v1"), Some("EndpointSlices")),
        ] {
            assert!(!is_of_another_program(version, kind), "{version:?} {kind:?}");
        }
    }

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
