//! EnvoyFilter: patches of the Envoy resources that the other kinds become.

use std::collections::BTreeMap;

use serde_json::Value;

use super::record::{choice, record};
use super::service_entry::WorkloadSelector;

choice! {
    /// Which resource a patch changes.
    pub enum ApplyTo {
        Listener = "LISTENER",
        FilterChain = "FILTER_CHAIN",
        NetworkFilter = "NETWORK_FILTER",
        HttpFilter = "HTTP_FILTER",
        RouteConfiguration = "ROUTE_CONFIGURATION",
        VirtualHost = "VIRTUAL_HOST",
        HttpRoute = "HTTP_ROUTE",
        Cluster = "CLUSTER",
        ExtensionConfig = "EXTENSION_CONFIG" later "patches of extension configurations",
        Bootstrap = "BOOTSTRAP" later "patches of the bootstrap",
        ListenerFilter = "LISTENER_FILTER" later "patches of listener filters",
    }
}

choice! {
    /// Which proxies and listeners a patch is for.
    pub enum PatchContext {
        Any = "ANY",
        SidecarInbound = "SIDECAR_INBOUND",
        SidecarOutbound = "SIDECAR_OUTBOUND",
        /// No sidecar matches.
        Gateway = "GATEWAY",
        Waypoint = "WAYPOINT" later "patches of waypoints",
    }
}

choice! {
    /// What a patch does.
    pub enum PatchOperation {
        Merge = "MERGE",
        Add = "ADD",
        Remove = "REMOVE",
        InsertBefore = "INSERT_BEFORE",
        InsertAfter = "INSERT_AFTER",
        InsertFirst = "INSERT_FIRST",
        Replace = "REPLACE",
        /// As MERGE, but lists are replaced, not appended to.
        MergeAndReplaceList = "MERGE_AND_REPLACE_LIST",
    }
}

choice! {
    /// Where an added filter goes relative to the mesh's own.
    pub enum FilterClass {
        Unspecified = "UNSPECIFIED",
        Authn = "AUTHN",
        Authz = "AUTHZ",
        Stats = "STATS",
    }
}

choice! {
    /// What a route does.
    pub enum RouteAction {
        Any = "ANY",
        Route = "ROUTE",
        Redirect = "REDIRECT",
        DirectResponse = "DIRECT_RESPONSE",
    }
}

record! {
    /// Patches in order (networking.istio.io EnvoyFilter).
    pub struct EnvoyFilter {
        config_patches: Vec<ConfigPatch> = "configPatches";
        /// Lower first; default 0. Equal ones as they were read, the root namespace first.
        priority: Option<i32> = "priority";
        /// Workloads that it is for; unset: all of the namespace, or of the mesh in the root namespace.
        workload_selector: Option<WorkloadSelector> = "workloadSelector";
    }
    refused {
        "targetRefs": "patches of gateways and waypoints",
    }
}

record! {
    /// One patch.
    pub struct ConfigPatch checked check_patch {
        apply_to: ApplyTo = "applyTo";
        match_: Option<PatchMatch> = "match";
        patch: Option<Patch> = "patch";
    }
}

record! {
    /// What the patch is for. At most one of the three object matches.
    pub struct PatchMatch checked check_patch_match {
        /// Unset: ANY.
        context: Option<PatchContext> = "context";
        proxy: Option<ProxyMatch> = "proxy";
        listener: Option<ListenerMatch> = "listener";
        route_configuration: Option<RouteConfigurationMatch> = "routeConfiguration";
        cluster: Option<ClusterMatch> = "cluster";
    }
    refused {
        "waypoint": "patches of waypoints",
    }
}

record! {
    /// Properties of the proxy.
    pub struct ProxyMatch {
        /// Regular expression that the version of Istio whose semantics these are must meet (1.30.0).
        proxy_version: Option<String> = "proxyVersion" [regex];
        /// All must be equal.
        metadata: BTreeMap<String, String> = "metadata";
    }
}

record! {
    /// A listener, and what is in it.
    pub struct ListenerMatch {
        port_number: Option<u32> = "portNumber";
        filter_chain: Option<FilterChainMatch> = "filterChain";
        name: Option<String> = "name";
    }
    refused {
        "portName": "matching a listener by the name of its port",
        "listenerFilter": "patches of listener filters",
    }
}

record! {
    /// A filter chain of the listener.
    pub struct FilterChainMatch {
        name: Option<String> = "name";
        sni: Option<String> = "sni";
        transport_protocol: Option<String> = "transportProtocol";
        /// Comma-separated ALPN names; all must be there.
        application_protocols: Option<String> = "applicationProtocols";
        filter: Option<FilterMatch> = "filter";
        destination_port: Option<u32> = "destinationPort";
    }
    refused {
        "transportSocket": "matching a filter chain by its transport socket",
    }
}

record! {
    /// A network filter of the chain.
    pub struct FilterMatch {
        name: Option<String> = "name";
        sub_filter: Option<SubFilterMatch> = "subFilter";
    }
}

record! {
    /// An HTTP filter within the HTTP connection manager.
    pub struct SubFilterMatch {
        name: Option<String> = "name";
    }
}

record! {
    /// A route configuration, and what is in it.
    pub struct RouteConfigurationMatch {
        port_number: Option<u32> = "portNumber";
        /// As `80`, `outbound|80||host` or `inbound|80||`.
        name: Option<String> = "name";
        vhost: Option<VirtualHostMatch> = "vhost";
    }
    refused {
        "gateway": "matching by gateway",
        "portName": "matching a route configuration by the name of its port",
    }
}

record! {
    /// A virtual host of the route configuration.
    pub struct VirtualHostMatch {
        /// As `host:port`.
        name: Option<String> = "name";
        domain_name: Option<String> = "domainName";
        route: Option<RouteMatch> = "route";
    }
}

record! {
    /// A route of the virtual host.
    pub struct RouteMatch {
        name: Option<String> = "name";
        /// Unset: ANY.
        action: Option<RouteAction> = "action";
    }
}

record! {
    /// A cluster.
    pub struct ClusterMatch {
        port_number: Option<u32> = "portNumber";
        /// Full name of the host.
        service: Option<String> = "service";
        subset: Option<String> = "subset";
        /// As `outbound|80|v1|host`; then the other fields do not matter.
        name: Option<String> = "name";
    }
}

record! {
    /// The change.
    pub struct Patch {
        operation: PatchOperation = "operation";
        /// Envoy v3 in its JSON form, with snake_case or camelCase names.
        value: Option<Value> = "value" [is_object];
        filter_class: Option<FilterClass> = "filterClass";
    }
}
