//! From the typed EnvoyFilter documents to the patches of one proxy, in order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::spec::{
    ApplyTo, ClusterMatch, Context, FilterChainMatch, HttpRouteMatch, ListenerMatch, Operation, Origin, Patch,
    PatchError, RouteAction, RouteMatch, Target, VhostMatch,
};
use crate::istio::{self, Config, Document, EnvoyFilter, ROOT_NAMESPACE};

/// The proxy that patches are chosen for.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    pub namespace: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// Compared with `match.proxy.metadata`.
    pub metadata: &'a BTreeMap<String, String>,
}

/// The release of Istio whose semantics the documents have here, as a sidecar of that release tells it (`ISTIO_VERSION`).
pub const ISTIO_VERSION: &str = "1.30.0";

/// Whether `match.proxy.proxyVersion` means this proxy: a regular expression that [`ISTIO_VERSION`] must meet somewhere, as in
/// Istio. Reading has bounded and compiled it before.
pub fn is_of_version(pattern: &str) -> bool {
    regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(ISTIO_VERSION))
}

/// The patches for one proxy: by priority, then those of the root namespace before the workload's own, then as read.
///
/// # Errors
/// For each patch that asks for what is not supported, naming the field.
pub fn patches(config: &Config, workload: Workload<'_>) -> Result<Vec<Patch>, Vec<PatchError>> {
    let mut documents: Vec<&Document<EnvoyFilter>> = config.envoy_filters.iter().collect();
    // The sort is stable, so equal ones stay as read.
    documents.sort_by_key(|document| (document.spec.priority.unwrap_or(0), document.meta.namespace != ROOT_NAMESPACE));
    let mut patches = Vec::new();
    let mut errors = Vec::new();
    for document in documents {
        let elsewhere = elsewhere(document, workload);
        for (index, patch) in document.spec.config_patches.iter().enumerate() {
            let elsewhere = elsewhere.clone().or_else(|| other_proxy(patch, workload));
            match convert(document, index, patch, elsewhere) {
                Ok(patch) => patches.push(patch),
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() { Ok(patches) } else { Err(errors) }
}

/// Why a document is not for a workload.
fn elsewhere(document: &Document<EnvoyFilter>, workload: Workload<'_>) -> Option<String> {
    let own = document.meta.namespace.as_str();
    if own != ROOT_NAMESPACE && own != workload.namespace {
        return Some(format!(
            "the document is for workloads of the namespace {own}, this one is of {}",
            workload.namespace
        ));
    }
    let selector = document.spec.workload_selector.as_ref()?;
    let (key, value) = selector.labels.iter().find(|(key, value)| workload.labels.get(*key) != Some(value))?;
    Some(format!("workloadSelector asks for {key}={value}, {}", has(workload.labels.get(key), "label")))
}

/// Why a patch is not for a proxy.
fn other_proxy(patch: &istio::ConfigPatch, workload: Workload<'_>) -> Option<String> {
    let proxy = patch.match_.as_ref()?.proxy.as_ref()?;
    if let Some(pattern) = proxy.proxy_version.as_deref().filter(|pattern| !is_of_version(pattern)) {
        return Some(format!("match.proxy.proxyVersion {pattern} does not meet {ISTIO_VERSION}"));
    }
    let (key, value) = proxy.metadata.iter().find(|(key, value)| workload.metadata.get(*key) != Some(value))?;
    Some(format!("match.proxy.metadata asks for {key}: {value}, {}", has(workload.metadata.get(key), "entry")))
}

fn has(value: Option<&String>, what: &str) -> String {
    value.map_or_else(|| format!("the proxy has no such {what}"), |value| format!("the proxy has {value}"))
}

fn convert(
    document: &Document<EnvoyFilter>,
    index: usize,
    patch: &istio::ConfigPatch,
    elsewhere: Option<String>,
) -> Result<Patch, PatchError> {
    let origin = Origin {
        document: document.id(),
        file: document.source.file.to_string(),
        line: document.line(&format!("spec.configPatches[{index}]")),
        index,
    };
    let refuse = |field: &str, message: &str| PatchError {
        origin: origin.clone(),
        field: field.to_owned(),
        message: message.to_owned(),
    };
    let apply_to = apply_to(patch.apply_to)
        .ok_or_else(|| refuse("applyTo", &format!("{} is not supported", patch.apply_to.as_str())))?;
    let Some(change) = &patch.patch else { return Err(refuse("patch", "is missing")) };
    let mut context = Context::Any;
    let mut target = Target::All;
    if let Some(matches) = &patch.match_ {
        context = match matches.context.unwrap_or_default() {
            istio::PatchContext::Any => Context::Any,
            istio::PatchContext::SidecarInbound => Context::SidecarInbound,
            istio::PatchContext::SidecarOutbound => Context::SidecarOutbound,
            istio::PatchContext::Gateway | istio::PatchContext::Waypoint => Context::Gateway,
        };
        if let Some(listener) = &matches.listener {
            target = Target::Listener(listener_match(listener));
        } else if let Some(route) = &matches.route_configuration {
            target = Target::Route(route_match(route));
        } else if let Some(cluster) = &matches.cluster {
            target = Target::Cluster(ClusterMatch {
                port: number(cluster.port_number),
                service: text(&cluster.service),
                subset: text(&cluster.subset),
                name: text(&cluster.name),
            });
        }
    }
    let operation = match (operation(change.operation), change.filter_class.unwrap_or_default()) {
        (operation, _) if elsewhere.is_some() => operation,
        (operation, istio::FilterClass::Unspecified) => operation,
        // None of the mesh's own filters authenticates, authorises or counts, so the place is the front, or before the router.
        (Operation::Add, istio::FilterClass::Authn | istio::FilterClass::Authz) if apply_to == ApplyTo::HttpFilter => {
            Operation::InsertFirst
        }
        (Operation::Add, istio::FilterClass::Stats) if apply_to == ApplyTo::HttpFilter => Operation::Add,
        _ => return Err(refuse("patch.filterClass", "goes with ADD of an HTTP_FILTER only")),
    };
    let value = change.value.clone().unwrap_or(Value::Null);
    Ok(Patch { origin, apply_to, context, target, operation, value, elsewhere })
}

fn apply_to(apply_to: istio::ApplyTo) -> Option<ApplyTo> {
    Some(match apply_to {
        istio::ApplyTo::Listener => ApplyTo::Listener,
        istio::ApplyTo::FilterChain => ApplyTo::FilterChain,
        istio::ApplyTo::NetworkFilter => ApplyTo::NetworkFilter,
        istio::ApplyTo::HttpFilter => ApplyTo::HttpFilter,
        istio::ApplyTo::RouteConfiguration => ApplyTo::RouteConfiguration,
        istio::ApplyTo::VirtualHost => ApplyTo::VirtualHost,
        istio::ApplyTo::HttpRoute => ApplyTo::HttpRoute,
        istio::ApplyTo::Cluster => ApplyTo::Cluster,
        _ => return None,
    })
}

fn operation(operation: istio::PatchOperation) -> Operation {
    match operation {
        istio::PatchOperation::Merge => Operation::Merge,
        istio::PatchOperation::Add => Operation::Add,
        istio::PatchOperation::Remove => Operation::Remove,
        istio::PatchOperation::InsertBefore => Operation::InsertBefore,
        istio::PatchOperation::InsertAfter => Operation::InsertAfter,
        istio::PatchOperation::InsertFirst => Operation::InsertFirst,
        istio::PatchOperation::Replace => Operation::Replace,
        istio::PatchOperation::MergeAndReplaceList => Operation::MergeAndReplaceList,
    }
}

/// Protobuf does not tell 0 and "" from what is unset, so neither is a condition.
fn number(value: Option<u32>) -> Option<u32> {
    value.filter(|number| *number != 0)
}

fn text(value: &Option<String>) -> Option<String> {
    value.clone().filter(|text| !text.is_empty())
}

fn listener_match(listener: &istio::ListenerMatch) -> ListenerMatch {
    let chain = listener.filter_chain.as_ref().map(|chain| FilterChainMatch {
        name: text(&chain.name),
        sni: text(&chain.sni),
        transport_protocol: text(&chain.transport_protocol),
        application_protocols: text(&chain.application_protocols),
        destination_port: number(chain.destination_port),
        filter: chain.filter.as_ref().and_then(|filter| text(&filter.name)),
        sub_filter: chain.filter.as_ref().and_then(|filter| text(&filter.sub_filter.as_ref()?.name)),
    });
    ListenerMatch { port: number(listener.port_number), name: text(&listener.name), filter_chain: chain }
}

fn route_match(route: &istio::RouteConfigurationMatch) -> RouteMatch {
    let vhost = route.vhost.as_ref().map(|vhost| VhostMatch {
        name: text(&vhost.name),
        domain_name: text(&vhost.domain_name),
        route: vhost.route.as_ref().map(|route| HttpRouteMatch {
            name: text(&route.name),
            action: route.action.map(|action| match action {
                istio::RouteAction::Any => RouteAction::Any,
                istio::RouteAction::Route => RouteAction::Route,
                istio::RouteAction::Redirect => RouteAction::Redirect,
                istio::RouteAction::DirectResponse => RouteAction::DirectResponse,
            }),
        }),
    });
    RouteMatch { port: number(route.port_number), name: text(&route.name), vhost }
}
