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
    let mut documents: Vec<&Document<EnvoyFilter>> =
        config.envoy_filters.iter().filter(|document| is_for(document, workload)).collect();
    // The sort is stable, so equal ones stay as read.
    documents.sort_by_key(|document| (document.spec.priority.unwrap_or(0), document.meta.namespace != ROOT_NAMESPACE));
    let mut patches = Vec::new();
    let mut errors = Vec::new();
    for document in documents {
        for (index, patch) in document.spec.config_patches.iter().enumerate() {
            match convert(document, index, patch, workload) {
                Ok(Some(patch)) => patches.push(patch),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() { Ok(patches) } else { Err(errors) }
}

fn is_for(document: &Document<EnvoyFilter>, workload: Workload<'_>) -> bool {
    (document.meta.namespace == ROOT_NAMESPACE || document.meta.namespace == workload.namespace)
        && document
            .spec
            .workload_selector
            .as_ref()
            .is_none_or(|selector| selector.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
}

/// `None` for a patch that is for other proxies.
fn convert(
    document: &Document<EnvoyFilter>,
    index: usize,
    patch: &istio::ConfigPatch,
    workload: Workload<'_>,
) -> Result<Option<Patch>, PatchError> {
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
        if let Some(proxy) = &matches.proxy {
            if proxy.proxy_version.as_deref().is_some_and(|pattern| !is_of_version(pattern)) {
                return Ok(None);
            }
            if !proxy.metadata.iter().all(|(key, value)| workload.metadata.get(key) == Some(value)) {
                return Ok(None);
            }
        }
        if let Some(listener) = &matches.listener {
            target = Target::Listener(listener_match(listener));
        } else if let Some(route) = &matches.route_configuration {
            target = Target::Route(route_match(route));
        } else if let Some(cluster) = &matches.cluster {
            target = Target::Cluster(ClusterMatch {
                port: cluster.port_number,
                service: cluster.service.clone(),
                subset: cluster.subset.clone(),
                name: cluster.name.clone(),
            });
        }
    }
    let operation = match (operation(change.operation), change.filter_class.unwrap_or_default()) {
        (operation, istio::FilterClass::Unspecified) => operation,
        // None of the mesh's own filters authenticates, authorises or counts, so the place is the front, or before the router.
        (Operation::Add, istio::FilterClass::Authn | istio::FilterClass::Authz) if apply_to == ApplyTo::HttpFilter => {
            Operation::InsertFirst
        }
        (Operation::Add, istio::FilterClass::Stats) if apply_to == ApplyTo::HttpFilter => Operation::Add,
        _ => return Err(refuse("patch.filterClass", "goes with ADD of an HTTP_FILTER only")),
    };
    let value = change.value.clone().unwrap_or(Value::Null);
    Ok(Some(Patch { origin, apply_to, context, target, operation, value }))
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

fn listener_match(listener: &istio::ListenerMatch) -> ListenerMatch {
    let chain = listener.filter_chain.as_ref().map(|chain| FilterChainMatch {
        name: chain.name.clone(),
        sni: chain.sni.clone(),
        transport_protocol: chain.transport_protocol.clone(),
        application_protocols: chain.application_protocols.clone(),
        destination_port: chain.destination_port,
        filter: chain.filter.as_ref().and_then(|filter| filter.name.clone()),
        sub_filter: chain.filter.as_ref().and_then(|filter| filter.sub_filter.as_ref()?.name.clone()),
    });
    ListenerMatch { port: listener.port_number, name: listener.name.clone(), filter_chain: chain }
}

fn route_match(route: &istio::RouteConfigurationMatch) -> RouteMatch {
    let vhost = route.vhost.as_ref().map(|vhost| VhostMatch {
        name: vhost.name.clone(),
        domain_name: vhost.domain_name.clone(),
        route: vhost.route.as_ref().map(|route| HttpRouteMatch {
            name: route.name.clone(),
            action: route.action.map(|action| match action {
                istio::RouteAction::Any => RouteAction::Any,
                istio::RouteAction::Route => RouteAction::Route,
                istio::RouteAction::Redirect => RouteAction::Redirect,
                istio::RouteAction::DirectResponse => RouteAction::DirectResponse,
            }),
        }),
    });
    RouteMatch { port: route.port_number, name: route.name.clone(), vhost }
}
