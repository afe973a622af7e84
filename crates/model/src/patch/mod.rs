//! EnvoyFilter: patches on the resources that translation made.
//!
//! Values are JSON, read through protobuf's JSON mapping into the exact message types, so that a field which does not exist is
//! an error and never a silent loss. Order: priority, then the mesh's root namespace before the workload's own, then as read
//! (Istio, EnvoyFilter reference, `priority`); and before all that by what they do ([`Step`]), as Istio's own code has it.
//!
//! Differences from Istio, each because the author's meaning is plain:
//! - REMOVE and MERGE of a filter without `subFilter` (or `filter`) but with `value.name` act on the filter of that name.
//!   In Istio such a REMOVE or REPLACE does nothing, and a MERGE goes into every filter, the router included
//!   (envoyfilter/listener_patch.go). Without either name it is refused.
//! - The outbound side has one listener and one route configuration, and so has the inbound side where it serves several ports; a
//!   port in `routeConfiguration` then selects virtual hosts.
//! - `match.proxy.proxyVersion` is met by [`ISTIO_VERSION`], whatever the version of this program.
//! - A MERGE of a cluster's `transport_socket` leaves the other fields of its value in force; Istio drops them.
//! - A route's `timeout` acts beside the `max_stream_duration` that Istio's inbound routes have; Envoy passes over it then
//!   (`FilterUtility::finalTimeout`).
//! - Values of the wrapper types replace each other in a MERGE, so that `false` can beat `true`.
//!
//! As in Istio, INSERT_BEFORE without a named filter inserts at the front, and INSERT_AFTER at the end; an HTTP filter that would
//! come after the router, which must stay last, goes before it.

mod apply;
mod check;
mod convert;
mod merge;
mod place;
pub mod pool;
mod spec;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::VirtualHost;
use serde_json::Value;

use crate::translate::Resources;
use apply::Compiled;
pub use convert::{ISTIO_VERSION, Workload, is_of_version, patches};
use place::Trace;
pub use spec::{
    ApplyTo, ClusterMatch, Context, FilterChainMatch, HttpRouteMatch, ListenerMatch, Operation, Origin, Outcome,
    PLACES_MAX, Patch, PatchError, PatchReport, PatchWarning, RouteAction, RouteMatch, Target, VhostMatch, WarningKind,
};

/// Patches that have been checked, in the order in which they apply.
#[derive(Debug, Clone, Default)]
pub struct PatchSet {
    patches: Vec<Checked>,
    /// Of patches that are for other proxies.
    elsewhere: Vec<PatchReport>,
}

#[derive(Debug, Clone)]
struct Checked {
    compiled: Compiled,
    warnings: Vec<PatchWarning>,
    /// As it was written, for reports.
    written: Operation,
    /// Among the patches as they were given, for reports.
    position: usize,
}

/// The order of what patches do, whatever order they stand in: what is there is merged and removed before anything is added to
/// it, the outer before the inner, so that nothing is changed that a patch has put in, but for filters (Istio, pilot
/// `listener_patch.go`, `rc_patch.go`, `cluster_patch.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    RouteConfigurations,
    VirtualHosts,
    HttpRoutes,
    AddHttpRoutes,
    AddVirtualHosts,
    Listeners,
    FilterChains,
    NetworkFilters,
    MergeNetworkFilters,
    HttpFilters,
    MergeHttpFilters,
    AddFilterChains,
    AddListeners,
    Clusters,
    AddClusters,
}

impl Step {
    fn of(apply_to: ApplyTo, operation: Operation) -> Self {
        let merges = matches!(operation, Operation::Merge | Operation::MergeAndReplaceList);
        let adds = !(merges || matches!(operation, Operation::Remove | Operation::Replace));
        match apply_to {
            ApplyTo::RouteConfiguration => Self::RouteConfigurations,
            ApplyTo::VirtualHost if adds => Self::AddVirtualHosts,
            ApplyTo::VirtualHost => Self::VirtualHosts,
            ApplyTo::HttpRoute if adds => Self::AddHttpRoutes,
            ApplyTo::HttpRoute => Self::HttpRoutes,
            ApplyTo::Listener if adds => Self::AddListeners,
            ApplyTo::Listener => Self::Listeners,
            ApplyTo::FilterChain if adds => Self::AddFilterChains,
            ApplyTo::FilterChain => Self::FilterChains,
            ApplyTo::NetworkFilter if merges => Self::MergeNetworkFilters,
            ApplyTo::NetworkFilter => Self::NetworkFilters,
            ApplyTo::HttpFilter if merges => Self::MergeHttpFilters,
            ApplyTo::HttpFilter => Self::HttpFilters,
            ApplyTo::Cluster if adds => Self::AddClusters,
            ApplyTo::Cluster => Self::Clusters,
        }
    }
}

impl PatchSet {
    /// Checks patches, given in the order in which they apply. All errors are told at once; a set with an error is not made.
    pub fn new(patches: impl IntoIterator<Item = Patch>) -> Result<Self, Vec<PatchError>> {
        let mut set = Self::default();
        let mut errors = Vec::new();
        for (position, mut patch) in patches.into_iter().enumerate() {
            if let Some(reason) = patch.elsewhere.take() {
                set.elsewhere.push(PatchReport {
                    origin: patch.origin,
                    apply_to: patch.apply_to,
                    operation: patch.operation,
                    outcome: Outcome::Elsewhere(reason),
                    warnings: Vec::new(),
                });
                continue;
            }
            let written = patch.operation;
            match compile(patch) {
                Ok((compiled, warnings)) if compiled.patch.context == Context::Gateway => {
                    set.elsewhere.push(PatchReport {
                        origin: compiled.patch.origin,
                        apply_to: compiled.patch.apply_to,
                        operation: written,
                        outcome: Outcome::Elsewhere("the proxy is a sidecar, the context is GATEWAY".to_owned()),
                        warnings,
                    });
                }
                Ok((compiled, warnings)) => set.patches.push(Checked { compiled, warnings, written, position }),
                Err(mut more) => errors.append(&mut more),
            }
        }
        // Within a step they keep their order.
        set.patches.sort_by_key(|one| Step::of(one.compiled.patch.apply_to, one.compiled.patch.operation));
        if errors.is_empty() { Ok(set) } else { Err(errors) }
    }

    /// Whether no patch is for this proxy.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Whether every patch is about listeners and what is in them, routes of the inbound side included: then a service is the
    /// same with and without patches.
    pub fn is_about_listeners(&self) -> bool {
        use ApplyTo::{FilterChain, HttpFilter, HttpRoute, Listener, NetworkFilter, RouteConfiguration, VirtualHost};
        self.patches.iter().all(|one| match one.compiled.patch.apply_to {
            Listener | FilterChain | NetworkFilter | HttpFilter => true,
            RouteConfiguration | VirtualHost | HttpRoute => one.compiled.patch.context == Context::SidecarInbound,
            ApplyTo::Cluster => false,
        })
    }

    /// Applies every patch to the whole of a proxy's resources and says what became of each; those for other proxies last.
    pub fn apply(&self, resources: &mut Resources) -> Vec<PatchReport> {
        let mut reports = Vec::with_capacity(self.patches.len());
        for Checked { compiled, warnings, written, position } in &self.patches {
            let mut trace = Trace::default();
            match compiled.patch.apply_to {
                ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
                    apply::listeners(&mut resources.listeners, compiled, &mut trace);
                }
                ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
                    apply::routes(&mut resources.routes, &mut resources.listeners, compiled, &mut trace);
                }
                ApplyTo::Cluster => apply::clusters(&mut resources.clusters, compiled, &mut trace),
            }
            let report = PatchReport {
                origin: compiled.patch.origin.clone(),
                apply_to: compiled.patch.apply_to,
                operation: *written,
                outcome: trace.outcome(),
                warnings: warnings.clone(),
            };
            reports.push((*position, report));
        }
        reports.sort_by_key(|(position, _)| *position);
        reports.into_iter().map(|(_, report)| report).chain(self.elsewhere.iter().cloned()).collect()
    }

    /// Applies to one service what concerns clusters, virtual hosts and routes that are already there; what adds a cluster or
    /// a virtual host to the whole proxy is left to [`PatchSet::apply`], or each service would get its own copy.
    pub fn apply_to_service(&self, clusters: &mut Vec<Cluster>, virtual_hosts: &mut Vec<VirtualHost>) {
        for Checked { compiled, .. } in &self.patches {
            let patch = &compiled.patch;
            let adds = patch.operation == Operation::Add;
            let mut trace = Trace::default();
            match patch.apply_to {
                ApplyTo::Cluster if !adds => apply::clusters(clusters, compiled, &mut trace),
                ApplyTo::VirtualHost if adds => {}
                ApplyTo::VirtualHost | ApplyTo::HttpRoute
                    if matches!(patch.context, Context::Any | Context::SidecarOutbound) =>
                {
                    let meant = match &patch.target {
                        Target::Route(route) => {
                            route.name.as_deref().is_none_or(|name| name == "outbound" || name.parse::<u16>().is_ok())
                        }
                        _ => true,
                    };
                    if meant {
                        apply::virtual_hosts(virtual_hosts, compiled, "route configuration outbound", &mut trace);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The message type of a patch's value.
fn value_type(apply_to: ApplyTo) -> &'static str {
    match apply_to {
        ApplyTo::Listener => "envoy.config.listener.v3.Listener",
        ApplyTo::FilterChain => "envoy.config.listener.v3.FilterChain",
        ApplyTo::NetworkFilter => "envoy.config.listener.v3.Filter",
        ApplyTo::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        ApplyTo::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
        ApplyTo::VirtualHost => "envoy.config.route.v3.VirtualHost",
        ApplyTo::HttpRoute => "envoy.config.route.v3.Route",
        ApplyTo::Cluster => "envoy.config.cluster.v3.Cluster",
    }
}

/// What an operation comes to. Where nothing has an order, Istio adds what is to be inserted (pilot `model/envoyfilter.go`).
fn meant(apply_to: ApplyTo, operation: Operation) -> Operation {
    let inserts = matches!(operation, Operation::InsertBefore | Operation::InsertAfter | Operation::InsertFirst);
    match apply_to {
        ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::VirtualHost | ApplyTo::Cluster if inserts => Operation::Add,
        _ => operation,
    }
}

/// The operations that Istio's reference allows for each kind.
fn operations(apply_to: ApplyTo) -> &'static [Operation] {
    use Operation::{
        Add, InsertAfter, InsertBefore, InsertFirst, Merge, MergeAndReplaceList as MergeLists, Remove, Replace,
    };
    match apply_to {
        ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::Cluster => &[Merge, MergeLists, Add, Remove],
        ApplyTo::VirtualHost => &[Merge, MergeLists, Add, Remove, Replace],
        ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
            &[Merge, MergeLists, Add, Remove, InsertBefore, InsertAfter, InsertFirst, Replace]
        }
        ApplyTo::HttpRoute => &[Merge, MergeLists, Add, Remove, InsertBefore, InsertAfter, InsertFirst],
        ApplyTo::RouteConfiguration => &[Merge, MergeLists],
    }
}

fn compile(mut patch: Patch) -> Result<(Compiled, Vec<PatchWarning>), Vec<PatchError>> {
    patch.operation = meant(patch.apply_to, patch.operation);
    let error =
        |field: &str, message: String| PatchError { origin: patch.origin.clone(), field: field.to_owned(), message };
    let (apply_to, operation) = (patch.apply_to.as_str(), patch.operation.as_str());
    let allowed = operations(patch.apply_to);
    if !allowed.contains(&patch.operation) {
        let allowed = allowed.iter().map(|operation| operation.as_str()).collect::<Vec<_>>().join(", ");
        return Err(vec![error("patch.operation", format!("{operation} does not apply to {apply_to}; {allowed} do"))]);
    }
    if let Some(message) = wrong_match(&patch) {
        return Err(vec![error("match", message)]);
    }
    let mut warnings = Vec::new();
    let value = match &patch.value {
        Value::Null if patch.operation == Operation::Remove => None,
        Value::Null => return Err(vec![error("patch.value", format!("{operation} needs a value"))]),
        value => match check::read(value_type(patch.apply_to), value, &mut warnings) {
            Ok(message) => Some(message),
            Err(mistakes) => {
                return Err(mistakes
                    .into_iter()
                    .map(|mistake| error(&format!("patch.value{}", mistake.path), mistake.message))
                    .collect());
            }
        },
    };
    let filter_name = match named_filter(&patch, &mut warnings) {
        Ok(name) => name,
        Err(message) => return Err(vec![error("match", message)]),
    };
    Ok((Compiled { patch, value, filter_name }, warnings))
}

fn wrong_match(patch: &Patch) -> Option<String> {
    let (wanted, is) = match (patch.apply_to, &patch.target) {
        (_, Target::All) => return None,
        (ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter, target) => {
            ("listener", matches!(target, Target::Listener(_)))
        }
        (ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute, target) => {
            ("routeConfiguration", matches!(target, Target::Route(_)))
        }
        (ApplyTo::Cluster, target) => ("cluster", matches!(target, Target::Cluster(_))),
    };
    (!is).then(|| format!("{} is matched by {wanted}", patch.apply_to.as_str()))
}

/// The name of the filter that a filter patch is about.
fn named_filter(patch: &Patch, warnings: &mut Vec<PatchWarning>) -> Result<Option<String>, String> {
    let chain = match &patch.target {
        Target::Listener(listener) => listener.filter_chain.as_ref(),
        _ => None,
    };
    let (key, named) = match patch.apply_to {
        ApplyTo::HttpFilter => ("subFilter", chain.and_then(|chain| chain.sub_filter.clone())),
        ApplyTo::NetworkFilter => ("filter", chain.and_then(|chain| chain.filter.clone())),
        _ => return Ok(None),
    };
    if let Some(name) = &named {
        let present = place::present_name(name);
        if present != name {
            warnings.push(PatchWarning {
                kind: WarningKind::DeprecatedName,
                message: format!("{name} is a former name of {present}"),
                mend: format!("{key}: {{name: {present}}}"),
            });
        }
        return Ok(named);
    }
    let operation = patch.operation.as_str();
    let on_istio = match patch.operation {
        Operation::Merge | Operation::MergeAndReplaceList => "goes into every filter",
        _ => "does nothing",
    };
    match patch.operation {
        Operation::Remove | Operation::Merge | Operation::MergeAndReplaceList | Operation::Replace => {
            match patch.value.get("name").and_then(Value::as_str) {
                Some(name) => {
                    warnings.push(PatchWarning {
                    kind: WarningKind::FilterNamedByValue,
                    message: format!(
                        "{operation} names the filter {name} in its value only; on Istio this {on_istio}, here it acts on the named one"
                    ),
                    mend: match patch.apply_to {
                        ApplyTo::HttpFilter => format!(
                            "match.listener.filterChain.filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: {name}}}}}"
                        ),
                        _ => format!("match.listener.filterChain.filter: {{name: {name}}}"),
                    },
                });
                    Ok(Some(name.to_owned()))
                }
                None => Err(format!("{operation} names no filter and would change every one; give {key}.name")),
            }
        }
        _ => Ok(None),
    }
}
