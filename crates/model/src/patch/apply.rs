//! Applying patches, in order, to the resources of one proxy.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{TrafficDirection, TransportSocket};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier,
};
use envoy_types::util::pack_any;
use prost::{Message, Name};
use prost_reflect::DynamicMessage;

use super::merge::{Lists, merge};
use super::place::{self, Trace, chain_matches, cluster_matches, in_context, listener_matches, route_matches};
use super::pool::{dynamic, unpack};
use super::spec::ListenerMatch;
use super::spec::{ApplyTo, Context, Operation, Patch, Target, VhostMatch};

/// A patch whose value has been read.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) patch: Patch,
    pub(crate) value: Option<DynamicMessage>,
    /// The named filter, or for REMOVE and MERGE the one that the value names.
    pub(crate) filter_name: Option<String>,
}

impl Compiled {
    fn typed<M: Message + Default>(&self) -> Option<M> {
        M::decode(self.value.as_ref()?.encode_to_vec().as_slice()).ok()
    }

    fn merged<M: Message + Name + Default>(&self, old: &M) -> Option<M> {
        let mut message = dynamic(old)?;
        let replace = self.patch.operation == Operation::MergeAndReplaceList;
        merge(&mut message, self.value.as_ref()?, if replace { Lists::Replace } else { Lists::Append });
        M::decode(message.encode_to_vec().as_slice()).ok()
    }

    fn listener_match(&self) -> Option<&ListenerMatch> {
        match &self.patch.target {
            Target::Listener(listener) => Some(listener),
            _ => None,
        }
    }

    fn vhost_match(&self) -> Option<&VhostMatch> {
        match &self.patch.target {
            Target::Route(route) => route.vhost.as_ref(),
            _ => None,
        }
    }
}

/// Changes the items of one list by the patch: `selects` says which items are named. `before`, `after` and `first` put the
/// value in once; without a named item, before and first mean the front and after means the end, as in Istio. The last HTTP filter is the
/// router, which must stay last, so an added HTTP filter goes before it.
fn edit<M: Message + Name + Default>(
    list: &mut Vec<M>,
    compiled: &Compiled,
    named: bool,
    selects: impl Fn(&M) -> bool,
    label: impl Fn(&M) -> String,
    trace: &mut Trace,
) {
    let at = list.iter().position(&selects);
    let add_at = if compiled.patch.apply_to == ApplyTo::HttpFilter { list.len().saturating_sub(1) } else { list.len() };
    match compiled.patch.operation {
        Operation::Remove => list.retain(|item| {
            let hit = selects(item);
            if hit {
                trace.hit(label(item));
            }
            !hit
        }),
        Operation::Merge | Operation::MergeAndReplaceList => {
            for item in list.iter_mut().filter(|item| selects(item)) {
                if let Some(merged) = compiled.merged(item) {
                    trace.hit(label(item));
                    *item = merged;
                }
            }
        }
        Operation::Replace => {
            if let (Some(item), Some(new)) = (at.and_then(|at| list.get_mut(at)), compiled.typed()) {
                trace.hit(label(item));
                *item = new;
            }
        }
        Operation::Add => insert(list, add_at, compiled, label, trace),
        // A route goes first in virtual hosts that have the one it names, as in Istio.
        Operation::InsertFirst if compiled.patch.apply_to == ApplyTo::HttpRoute && named && at.is_none() => {}
        Operation::InsertFirst => insert(list, 0, compiled, label, trace),
        Operation::InsertBefore if !named => insert(list, 0, compiled, label, trace),
        Operation::InsertAfter if !named => insert(list, add_at, compiled, label, trace),
        Operation::InsertBefore => {
            if let Some(at) = at {
                insert(list, at, compiled, label, trace);
            }
        }
        Operation::InsertAfter => {
            if let Some(at) = at {
                insert(list, at + 1, compiled, label, trace);
            }
        }
    }
}

fn insert<M: Message + Default>(
    list: &mut Vec<M>,
    at: usize,
    compiled: &Compiled,
    label: impl Fn(&M) -> String,
    trace: &mut Trace,
) {
    if let Some(new) = compiled.typed() {
        trace.hit(label(&new));
        list.insert(at.min(list.len()), new);
    }
}

pub(crate) fn listeners(list: &mut Vec<Listener>, compiled: &Compiled, trace: &mut Trace) {
    let context = compiled.patch.context;
    let condition = compiled.listener_match();
    if compiled.patch.apply_to == ApplyTo::Listener {
        let names = list.iter().map(|listener| listener.name.clone()).collect();
        let selects =
            |listener: &Listener| in_context(context, direction(listener)) && listener_matches(listener, condition);
        edit(list, compiled, true, selects, |listener| format!("listener {}", listener.name), trace);
        trace.near(0, || place::none_of("listener", names));
        return;
    }
    let names = list.iter().map(|listener| listener.name.clone()).collect();
    trace.near(0, || place::none_of("listener", names));
    for listener in list.iter_mut() {
        if !in_context(context, direction(listener)) {
            continue;
        }
        if !listener_matches(listener, condition) {
            if let Some(reason) = place::shared_port(listener, condition) {
                trace.near(1, || reason);
            }
            continue;
        }
        let port = place::port_of_listener(listener);
        let place = format!("listener {}", listener.name);
        if compiled.patch.apply_to == ApplyTo::FilterChain {
            let selects = |chain: &FilterChain| chain_matches(port, chain, condition);
            let label = |chain: &FilterChain| format!("{place}, filter chain {}", chain.name);
            trace.near(1, || format!("no filter chain of {place} matches"));
            edit(&mut listener.filter_chains, compiled, true, selects, label, trace);
            continue;
        }
        for chain in listener.filter_chains.iter_mut().chain(listener.default_filter_chain.as_mut()) {
            if !chain_matches(port, chain, condition) {
                trace.near(1, || format!("no filter chain of {place} matches"));
                continue;
            }
            let place =
                if chain.name.is_empty() { place.clone() } else { format!("{place}, filter chain {}", chain.name) };
            match compiled.patch.apply_to {
                ApplyTo::NetworkFilter => network_filters(chain, compiled, &place, trace),
                _ => http_filters(chain, compiled, &place, trace),
            }
        }
    }
}

fn network_filters(chain: &mut FilterChain, compiled: &Compiled, place: &str, trace: &mut Trace) {
    let name = compiled.filter_name.as_deref();
    let names = chain.filters.iter().map(|filter| filter.name.clone()).collect();
    trace.near(2, || format!("{place}: {}", place::none_of("network filter", names)));
    let selects = |filter: &Filter| name.is_none_or(|name| place::same_filter(&filter.name, name));
    let label = |filter: &Filter| format!("{place}, filter {}", filter.name);
    edit(&mut chain.filters, compiled, name.is_some(), selects, label, trace);
}

fn http_filters(chain: &mut FilterChain, compiled: &Compiled, place: &str, trace: &mut Trace) {
    let manager_name = compiled.listener_match().and_then(|listener| listener.filter_chain.as_ref()?.filter.as_deref());
    for filter in &mut chain.filters {
        let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
        let Some(mut manager) = unpack::<HttpConnectionManager>(any) else { continue };
        if manager_name.is_some_and(|name| !place::same_filter(&filter.name, name)) {
            trace.near(2, || format!("{place}: the HTTP connection manager is named {}", filter.name));
            continue;
        }
        let name = compiled.filter_name.as_deref();
        let names = manager.http_filters.iter().map(|filter| filter.name.clone()).collect();
        trace.near(3, || format!("{place}: {}", place::none_of("HTTP filter", names)));
        let selects = |filter: &HttpFilter| name.is_none_or(|name| place::same_filter(&filter.name, name));
        let label = |filter: &HttpFilter| format!("{place}, HTTP filter {}", filter.name);
        let hits = trace.hits();
        edit(&mut manager.http_filters, compiled, name.is_some(), selects, label, trace);
        if trace.hits() != hits {
            *any = pack_any(manager);
        }
    }
}

/// Patches route configurations: the outbound one, and those that stand within the managers of inbound listeners.
pub(crate) fn routes(
    outbound: &mut [RouteConfiguration],
    listeners: &mut [Listener],
    compiled: &Compiled,
    trace: &mut Trace,
) {
    let mut names: Vec<String> = outbound.iter().map(|route| route.name.clone()).collect();
    for config in outbound {
        apply_routes(config, compiled, trace);
    }
    let is_meant = |listener: &&mut Listener| {
        direction(listener) == Context::SidecarInbound && in_context(compiled.patch.context, Context::SidecarInbound)
    };
    let chains = listeners
        .iter_mut()
        .filter(is_meant)
        .flat_map(|listener| listener.filter_chains.iter_mut().chain(listener.default_filter_chain.as_mut()));
    for filter in chains.flat_map(|chain| &mut chain.filters) {
        let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
        let Some(mut manager) = unpack::<HttpConnectionManager>(any) else { continue };
        let Some(RouteSpecifier::RouteConfig(config)) = &mut manager.route_specifier else { continue };
        names.push(config.name.clone());
        let hits = trace.hits();
        apply_routes(config, compiled, trace);
        if trace.hits() != hits {
            *any = pack_any(manager);
        }
    }
    trace.near(0, || place::none_of("route configuration", names));
}

fn apply_routes(config: &mut RouteConfiguration, compiled: &Compiled, trace: &mut Trace) {
    if !in_context(compiled.patch.context, place::route_direction(&config.name)) {
        return;
    }
    if let Target::Route(condition) = &compiled.patch.target
        && let Err(reason) = route_matches(config, condition, compiled.patch.apply_to)
    {
        if let Some(reason) = reason {
            trace.near(1, || reason);
        }
        return;
    }
    let place = format!("route configuration {}", config.name);
    match compiled.patch.apply_to {
        ApplyTo::RouteConfiguration => {
            if let Some(merged) = compiled.merged(config) {
                trace.hit(place);
                *config = merged;
            }
        }
        _ => virtual_hosts(&mut config.virtual_hosts, compiled, &place, trace),
    }
}

/// VIRTUAL_HOST and HTTP_ROUTE patches on virtual hosts of one route configuration.
pub(crate) fn virtual_hosts(list: &mut Vec<VirtualHost>, compiled: &Compiled, place: &str, trace: &mut Trace) {
    let condition = compiled.vhost_match();
    let port = match &compiled.patch.target {
        Target::Route(route) => place::port_of(route),
        _ => None,
    };
    let selects = |host: &VirtualHost| place::vhost_matches(host, condition, port);
    trace.near(2, || format!("{place}: no virtual host matches"));
    if compiled.patch.apply_to == ApplyTo::VirtualHost {
        edit(list, compiled, true, selects, |host| format!("{place}, virtual host {}", host.name), trace);
        return;
    }
    let route_condition = condition.and_then(|host| host.route.as_ref());
    for host in list.iter_mut().filter(|host| selects(host)) {
        let place = format!("{place}, virtual host {}", host.name);
        let names = host.routes.iter().map(|route| route.name.clone()).collect();
        trace.near(3, || format!("{place}: {}", place::none_of("route", names)));
        let selects = |route: &Route| place::http_route_matches(route, route_condition);
        let label = |route: &Route| format!("{place}, route {}", route.name);
        edit(&mut host.routes, compiled, route_condition.is_some(), selects, label, trace);
    }
}

pub(crate) fn clusters(list: &mut Vec<Cluster>, compiled: &Compiled, trace: &mut Trace) {
    let condition = match &compiled.patch.target {
        Target::Cluster(cluster) => Some(cluster),
        _ => None,
    };
    let context = compiled.patch.context;
    let selects = |cluster: &Cluster| {
        in_context(context, place::cluster_direction(&cluster.name)) && cluster_matches(cluster, condition)
    };
    trace.near(0, || "no cluster matches".to_owned());
    if let Some(socket) = socket_to_merge(compiled) {
        merge_socket(list, compiled, &socket, selects, trace);
        return;
    }
    edit(list, compiled, true, selects, |cluster| format!("cluster {}", cluster.name), trace);
}

/// The transport socket of a MERGE.
fn socket_to_merge(compiled: &Compiled) -> Option<DynamicMessage> {
    let merges = matches!(compiled.patch.operation, Operation::Merge | Operation::MergeAndReplaceList);
    let value = compiled.value.as_ref().filter(|value| merges && value.has_field_by_name("transport_socket"))?;
    value.get_field_by_name("transport_socket")?.as_message().cloned()
}

/// Where a cluster chooses among several transport sockets, its own `transport_socket` decides nothing: the patch changes the
/// first of them that has its name, as in Istio (`mergeTransportSocketCluster`).
fn merge_socket(
    list: &mut [Cluster],
    compiled: &Compiled,
    socket: &DynamicMessage,
    selects: impl Fn(&Cluster) -> bool,
    trace: &mut Trace,
) {
    let replace = compiled.patch.operation == Operation::MergeAndReplaceList;
    let lists = if replace { Lists::Replace } else { Lists::Append };
    let name = socket.get_field_by_name("name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let rest = compiled.value.clone().map(|mut value| {
        value.clear_field_by_name("transport_socket");
        Compiled { value: Some(value), ..compiled.clone() }
    });
    for cluster in list.iter_mut().filter(|cluster| selects(cluster)) {
        let label = format!("cluster {}", cluster.name);
        if cluster.transport_socket_matches.is_empty() {
            if let Some(merged) = compiled.merged(cluster) {
                trace.hit(label);
                *cluster = merged;
            }
            continue;
        }
        let mut sockets = cluster.transport_socket_matches.iter_mut().filter_map(|one| one.transport_socket.as_mut());
        let Some(found) = sockets.find(|one| one.name == name) else {
            trace.near(1, || format!("{label} chooses among transport sockets, and none of them is named {name}"));
            continue;
        };
        let Some(mut message) = dynamic(found) else { continue };
        merge(&mut message, socket, lists);
        if let Ok(merged) = TransportSocket::decode(message.encode_to_vec().as_slice()) {
            *found = merged;
            trace.hit(label);
        }
        if let Some(merged) = rest.as_ref().and_then(|rest| rest.merged(cluster)) {
            *cluster = merged;
        }
    }
}

fn direction(listener: &Listener) -> Context {
    if listener.traffic_direction == TrafficDirection::Inbound as i32 {
        Context::SidecarInbound
    } else {
        Context::SidecarOutbound
    }
}
