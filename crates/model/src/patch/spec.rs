//! What one patch of an EnvoyFilter says.

use std::fmt;

use serde_json::Value;

/// Where a patch stands, for reports and errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// `namespace/name` of the EnvoyFilter.
    pub document: String,
    /// File as the user named it.
    pub file: String,
    /// Line of the patch, from 1.
    pub line: u32,
    /// Position in `configPatches`, from 0.
    pub index: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: EnvoyFilter {} configPatches[{}]", self.file, self.line, self.document, self.index)
    }
}

/// One patch, in the words of Istio's EnvoyFilter reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    pub origin: Origin,
    pub apply_to: ApplyTo,
    pub context: Context,
    pub target: Target,
    pub operation: Operation,
    /// `Null` for a REMOVE without a value.
    pub value: Value,
    /// Why the patch is not for this proxy, where it is for others only. Such a patch is reported and not read further.
    pub elsewhere: Option<String>,
}

macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),* }

        impl $name {
            /// The word in YAML.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}

words! {
    /// What a patch changes. LISTENER_FILTER, BOOTSTRAP and EXTENSION_CONFIG are not supported.
    pub enum ApplyTo {
        Listener = "LISTENER",
        FilterChain = "FILTER_CHAIN",
        NetworkFilter = "NETWORK_FILTER",
        HttpFilter = "HTTP_FILTER",
        RouteConfiguration = "ROUTE_CONFIGURATION",
        VirtualHost = "VIRTUAL_HOST",
        HttpRoute = "HTTP_ROUTE",
        Cluster = "CLUSTER",
    }
}

words! {
    /// Which traffic a patch is about.
    pub enum Context {
        Any = "ANY",
        SidecarInbound = "SIDECAR_INBOUND",
        SidecarOutbound = "SIDECAR_OUTBOUND",
        Gateway = "GATEWAY",
    }
}

words! {
    /// What a patch does with its value.
    pub enum Operation {
        Merge = "MERGE",
        /// As MERGE, but a list in the value replaces the old one.
        MergeAndReplaceList = "MERGE_AND_REPLACE_LIST",
        Add = "ADD",
        Remove = "REMOVE",
        InsertBefore = "INSERT_BEFORE",
        InsertAfter = "INSERT_AFTER",
        InsertFirst = "INSERT_FIRST",
        Replace = "REPLACE",
    }
}

/// The part of `match` that depends on what is patched.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Target {
    /// No condition: everything of that kind.
    #[default]
    All,
    Listener(ListenerMatch),
    Route(RouteMatch),
    Cluster(ClusterMatch),
}

/// `match.listener`. An unset field sets no condition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListenerMatch {
    /// The listener's own port.
    pub port: Option<u32>,
    /// `virtualOutbound` and `virtualInbound`, Istio's names, mean `outbound` and `inbound`.
    pub name: Option<String>,
    pub filter_chain: Option<FilterChainMatch>,
}

/// `match.listener.filterChain`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FilterChainMatch {
    pub name: Option<String>,
    pub sni: Option<String>,
    pub transport_protocol: Option<String>,
    /// Comma-separated; the chain must name all of them.
    pub application_protocols: Option<String>,
    pub destination_port: Option<u32>,
    /// Name of the network filter.
    pub filter: Option<String>,
    /// Name of the filter inside it (`subFilter`).
    pub sub_filter: Option<String>,
}

/// `match.routeConfiguration`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteMatch {
    /// Port of the service. Outbound it selects virtual hosts, for all services share one route configuration.
    pub port: Option<u32>,
    /// Name of the route configuration. A number means the port, as the names of Istio's outbound routes are ports.
    pub name: Option<String>,
    pub vhost: Option<VhostMatch>,
}

/// `match.routeConfiguration.vhost`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VhostMatch {
    pub name: Option<String>,
    /// One of the virtual host's domains.
    pub domain_name: Option<String>,
    pub route: Option<HttpRouteMatch>,
}

/// `match.routeConfiguration.vhost.route`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpRouteMatch {
    pub name: Option<String>,
    pub action: Option<RouteAction>,
}

words! {
    /// What a route does with a request.
    pub enum RouteAction {
        Any = "ANY",
        Route = "ROUTE",
        Redirect = "REDIRECT",
        DirectResponse = "DIRECT_RESPONSE",
    }
}

/// `match.cluster`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterMatch {
    pub port: Option<u32>,
    /// Full name of the service.
    pub service: Option<String>,
    pub subset: Option<String>,
    /// Full name of the cluster; the other conditions are then ignored, as in Istio.
    pub name: Option<String>,
}

/// What became of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchReport {
    pub origin: Origin,
    pub apply_to: ApplyTo,
    pub operation: Operation,
    pub outcome: Outcome,
    /// What was understood otherwise than Istio would, and the right form to write.
    pub warnings: Vec<PatchWarning>,
}

/// Whether a patch found its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `count` places were changed; `places` names the first [`PLACES_MAX`].
    Matched { count: usize, places: Vec<String> },
    /// Nothing was changed; why, in one sentence.
    Unmatched(String),
    /// The patch is for other proxies; why, in one sentence.
    Elsewhere(String),
}

/// Places named in a report. A patch may match each of thousands of clusters; a reader wants a few and the count.
pub const PLACES_MAX: usize = 32;

/// Something in a patch that works here but hardly as its author believes elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchWarning {
    pub kind: WarningKind,
    /// What was found and how it is understood.
    pub message: String,
    /// What to write instead.
    pub mend: String,
}

/// Stable kinds, for whoever gives them codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WarningKind {
    /// A change of a filter that only `value.name` names: on Istio a MERGE goes into every filter, and the others do nothing.
    FilterNamedByValue,
    /// A field or type that Envoy does not have, mended.
    WrongForm,
    /// An old name of a filter.
    DeprecatedName,
}

/// Why a patch cannot be applied at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}.{field}: {message}")]
pub struct PatchError {
    pub origin: Origin,
    /// Path below the patch, such as `patch.value.typed_config.cache_config`.
    pub field: String,
    pub message: String,
}
