//! PeerAuthentication: which TLS a workload asks of its callers.

use std::collections::BTreeMap;

use super::destination_rule::Selector;
use super::record::{choice, record};

choice! {
    /// Mutual TLS on the inbound side.
    pub enum MtlsMode {
        /// As the next wider policy says; PERMISSIVE in the end.
        Unset = "UNSET",
        Disable = "DISABLE",
        /// Mutual TLS and plain text both.
        Permissive = "PERMISSIVE",
        Strict = "STRICT",
    }
}

record! {
    /// Which TLS a workload asks of its callers (security.istio.io PeerAuthentication).
    /// Without a selector it is for the namespace; in the root namespace, for the mesh.
    pub struct PeerAuthentication checked check_peer_authentication {
        selector: Option<Selector> = "selector";
        mtls: Option<Mtls> = "mtls";
        /// By port of the workload; needs a selector.
        port_level_mtls: BTreeMap<u16, Mtls> = "portLevelMtls" [not_an_empty_map];
    }
}

record! {
    /// The mode.
    pub struct Mtls {
        mode: Option<MtlsMode> = "mode";
    }
}
