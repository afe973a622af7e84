//! PeerAuthentication: which TLS a workload asks of its callers.

use std::collections::BTreeMap;

use super::registry::contains;
use crate::istio::{Config, Document, Mtls, MtlsMode, PeerAuthentication, ROOT_NAMESPACE};

/// The mode on a port of a workload: the port's own, else the workload's, the namespace's, the mesh's, else PERMISSIVE.
/// Of several policies for the same, the first read stands, as Istio's oldest.
pub(super) fn mode(config: &Config, namespace: &str, labels: &BTreeMap<String, String>, port: u16) -> MtlsMode {
    let policies = &config.peer_authentications;
    // Asked for every endpoint of the mesh.
    if policies.is_empty() {
        return MtlsMode::Permissive;
    }
    let in_namespace = |namespace: &str| {
        policies.iter().filter(|document| document.meta.namespace == namespace).collect::<Vec<_>>().into_iter()
    };
    let mode_of = |mtls: Option<&Mtls>| mtls.and_then(|mtls| mtls.mode).filter(|mode| *mode != MtlsMode::Unset);
    let wide = |document: &&Document<PeerAuthentication>| {
        document.spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty())
    };
    let own = in_namespace(namespace).find(|document| {
        !wide(document) && document.spec.selector.as_ref().is_some_and(|s| contains(labels, &s.match_labels))
    });
    own.and_then(|document| {
        mode_of(document.spec.port_level_mtls.get(&port)).or_else(|| mode_of(document.spec.mtls.as_ref()))
    })
    .or_else(|| in_namespace(namespace).find(wide).and_then(|document| mode_of(document.spec.mtls.as_ref())))
    .or_else(|| in_namespace(ROOT_NAMESPACE).find(wide).and_then(|document| mode_of(document.spec.mtls.as_ref())))
    .unwrap_or(MtlsMode::Permissive)
}
