//! Where a patch applies: the conditions of its `match`, and the nearest miss when nothing matches.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost, route::Action};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::google::protobuf::value::Kind;

use super::pool::unpack;
use super::spec::{
    ApplyTo, ClusterMatch, Context, HttpRouteMatch, ListenerMatch, Outcome, PLACES_MAX, RouteAction, RouteMatch,
    VhostMatch,
};
use crate::translate::{INBOUND_PORT, OWN_METADATA};

/// What a patch hit, and, while it hit nothing, the deepest place where it failed to.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    count: usize,
    places: Vec<String>,
    near: Option<(u8, String)>,
}

impl Trace {
    pub(crate) fn hit(&mut self, place: String) {
        self.count += 1;
        if self.places.len() < PLACES_MAX {
            self.places.push(place);
        }
    }

    pub(crate) fn hits(&self) -> usize {
        self.count
    }

    /// Notes that matching failed, or may yet fail, at this depth. The first note of the greatest depth stands.
    pub(crate) fn near(&mut self, depth: u8, reason: impl FnOnce() -> String) {
        if self.count == 0 && self.near.as_ref().is_none_or(|(old, _)| *old < depth) {
            self.near = Some((depth, reason()));
        }
    }

    pub(crate) fn outcome(self) -> Outcome {
        match self.near {
            _ if self.count > 0 => Outcome::Matched { count: self.count, places: self.places },
            Some((_, reason)) => Outcome::Unmatched(reason),
            None => Outcome::Unmatched("nothing of that kind exists in this proxy".to_owned()),
        }
    }
}

pub(crate) fn none_of(kind: &str, names: Vec<String>) -> String {
    if names.is_empty() {
        return format!("there is no {kind}");
    }
    let more = if names.len() > PLACES_MAX { ", ..." } else { "" };
    let shown = names.into_iter().take(PLACES_MAX).collect::<Vec<_>>().join(", ");
    format!("no {kind} matches; there is {shown}{more}")
}

pub(crate) fn in_context(wanted: Context, is: Context) -> bool {
    wanted == Context::Any || wanted == is
}

/// Names that Envoy had before 2020. EnvoyFilters copied from old pages still use them; Istio maps them too.
const OLD_NAMES: &[(&str, &str)] = &[
    ("envoy.http_connection_manager", "envoy.filters.network.http_connection_manager"),
    ("envoy.tcp_proxy", "envoy.filters.network.tcp_proxy"),
    ("envoy.buffer", "envoy.filters.http.buffer"),
    ("envoy.cors", "envoy.filters.http.cors"),
    ("envoy.fault", "envoy.filters.http.fault"),
    ("envoy.router", "envoy.filters.http.router"),
];

/// The present name of a filter.
pub(crate) fn present_name(name: &str) -> &str {
    OLD_NAMES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new)
}

pub(crate) fn same_filter(has: &str, wanted: &str) -> bool {
    has == wanted || has == present_name(wanted)
}

pub(crate) fn listener_matches(listener: &Listener, condition: Option<&ListenerMatch>) -> bool {
    let Some(condition) = condition else { return true };
    let name = condition.name.as_deref().map(|name| match name {
        "virtualOutbound" => "outbound",
        "virtualInbound" => "inbound",
        other => other,
    });
    name.is_none_or(|name| name == listener.name)
        && condition.port.is_none_or(|port| {
            port_of_listener(listener) == Some(port)
                || listener.filter_chains.iter().any(|chain| application_port(chain) == Some(port))
        })
}

/// The one port of the application that an inbound chain serves; `None` for a chain that serves several.
///
/// Istio has a chain for each port, so a patch for `portNumber: 8080` means the chain of the application's 8080. Here the chains
/// differ by TLS, and one may serve several ports: such a patch then matches nothing rather than all of them.
fn application_port(chain: &FilterChain) -> Option<u32> {
    let mut managers = chain.filters.iter().filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => unpack::<HttpConnectionManager>(any),
        _ => None,
    });
    match managers.next()?.route_specifier? {
        RouteSpecifier::RouteConfig(routes) => routes.name.strip_prefix("inbound|")?.split('|').next()?.parse().ok(),
        _ => None,
    }
}

/// Why a patch for a port of a listener finds none, where there is more to say than that no listener matches.
pub(crate) fn shared_port(listener: &Listener, condition: Option<&ListenerMatch>) -> Option<String> {
    let port = condition.and_then(|condition| condition.port)?;
    (port_of_listener(listener) != Some(port)).then(|| {
        format!(
            "one listener, {}, serves every port, so none is for port {port} alone; leave out portNumber",
            listener.name
        )
    })
}

pub(crate) fn port_of_listener(listener: &Listener) -> Option<u32> {
    match listener.address.as_ref()?.address.as_ref()? {
        Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => Some(*port),
            PortSpecifier::NamedPort(_) => None,
        },
        _ => None,
    }
}

pub(crate) fn chain_matches(
    listener_port: Option<u32>,
    chain: &FilterChain,
    condition: Option<&ListenerMatch>,
) -> bool {
    let Some(condition) = condition else { return true };
    let of_application = |port: u32| application_port(chain) == Some(port);
    if condition.port.is_some_and(|port| listener_port != Some(port) && !of_application(port)) {
        return false;
    }
    let Some(wanted) = &condition.filter_chain else { return true };
    let matches = chain.filter_chain_match.as_ref();
    wanted.name.as_ref().is_none_or(|name| *name == chain.name)
        && wanted.sni.as_ref().is_none_or(|sni| matches.is_some_and(|m| m.server_names.contains(sni)))
        && wanted
            .transport_protocol
            .as_ref()
            .is_none_or(|protocol| matches.is_some_and(|m| m.transport_protocol == *protocol))
        && wanted.application_protocols.as_ref().is_none_or(|protocols| {
            matches.is_some_and(|m| {
                protocols.split(',').all(|one| m.application_protocols.iter().any(|has| has == one.trim()))
            })
        })
        && wanted.destination_port.is_none_or(|port| {
            matches.is_some_and(|m| m.destination_port.as_ref().is_some_and(|p| p.value == port))
                || of_application(port)
        })
}

/// Whose traffic a route configuration is: `inbound|8080||` or `outbound`.
pub(crate) fn route_direction(name: &str) -> Context {
    if name.starts_with("inbound") { Context::SidecarInbound } else { Context::SidecarOutbound }
}

/// Whose traffic a cluster is: its name begins with the direction.
pub(crate) fn cluster_direction(name: &str) -> Context {
    if name.starts_with("inbound") || name == "InboundPassthroughCluster" {
        Context::SidecarInbound
    } else {
        Context::SidecarOutbound
    }
}

/// The port that a condition asks for, as `portNumber` or as the name of one of Istio's per-port route configurations: `80` of
/// the outbound side, `inbound|8080||` of the inbound one.
pub(crate) fn port_of(condition: &RouteMatch) -> Option<u32> {
    let name = condition.name.as_deref();
    let named = || name?.strip_prefix("inbound|").and_then(|rest| rest.split('|').next()).or(name)?.parse().ok();
    condition.port.or_else(named)
}

/// Whether a route configuration is meant. `Err` says why not, if there is more to say than that the name differs.
pub(crate) fn route_matches(
    config: &RouteConfiguration,
    condition: &RouteMatch,
    apply_to: ApplyTo,
) -> Result<(), Option<String>> {
    let inbound = route_direction(&config.name) == Context::SidecarInbound;
    // The name of a configuration of the other side means none of this one.
    if condition.name.as_ref().is_some_and(|name| name.starts_with("inbound") != inbound) {
        return Err(None);
    }
    if let Some(port) = port_of(condition) {
        let of_one_port = config.name.split('|').nth(1);
        if inbound && of_one_port.is_some() {
            return if of_one_port == Some(port.to_string().as_str()) { Ok(()) } else { Err(None) };
        }
        if apply_to == ApplyTo::RouteConfiguration {
            return Err(Some(format!(
                "one route configuration, {}, serves every port, so none is for port {port} alone; leave out the port",
                config.name
            )));
        }
    } else if condition.name.as_ref().is_some_and(|name| *name != config.name) {
        return Err(None);
    }
    Ok(())
}

pub(crate) fn vhost_matches(host: &VirtualHost, condition: Option<&VhostMatch>, port: Option<u32>) -> bool {
    let inbound = host.name.starts_with("inbound|");
    let port_right = |port: u32| match inbound {
        // By the application's port, as Istio's inbound route configurations are named.
        true => inbound_port(host) == Some(port),
        false => host.name.rsplit(':').next() == Some(port.to_string().as_str()),
    };
    // Where several services share a port, `inbound|http|80|HOST` are the parts of Istio's `inbound|http|80`.
    let is_part = |name: &str| inbound && host.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('|'));
    port.is_none_or(port_right)
        && condition.is_none_or(|condition| {
            condition.name.as_ref().is_none_or(|name| *name == host.name || is_part(name))
                && condition.domain_name.as_ref().is_none_or(|domain| host.domains.contains(domain))
        })
}

/// The port of the application that an inbound virtual host is for.
fn inbound_port(host: &VirtualHost) -> Option<u32> {
    match host.metadata.as_ref()?.filter_metadata.get(OWN_METADATA)?.fields.get(INBOUND_PORT)?.kind.as_ref()? {
        Kind::StringValue(port) => port.parse().ok(),
        _ => None,
    }
}

pub(crate) fn http_route_matches(route: &Route, condition: Option<&HttpRouteMatch>) -> bool {
    let Some(condition) = condition else { return true };
    let action = condition.action.unwrap_or(RouteAction::Any);
    condition.name.as_ref().is_none_or(|name| *name == route.name)
        && match action {
            RouteAction::Any => true,
            RouteAction::Route => matches!(route.action, Some(Action::Route(_))),
            RouteAction::Redirect => matches!(route.action, Some(Action::Redirect(_))),
            RouteAction::DirectResponse => matches!(route.action, Some(Action::DirectResponse(_))),
        }
}

pub(crate) fn cluster_matches(cluster: &Cluster, condition: Option<&ClusterMatch>) -> bool {
    let Some(condition) = condition else { return true };
    if let Some(name) = &condition.name {
        return *name == cluster.name;
    }
    // `direction|port|subset|host`; the names of the fixed clusters have no parts and match no condition.
    let mut parts = cluster.name.split('|').skip(1);
    let (port, subset, host) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    condition.port.is_none_or(|wanted| port == Some(wanted.to_string().as_str()))
        && condition.subset.as_ref().is_none_or(|wanted| wanted == subset)
        && condition.service.as_ref().is_none_or(|wanted| wanted == host || is_of_service(cluster, wanted))
}

/// An inbound cluster has no host in its name; what it was made for stands in its metadata.
fn is_of_service(cluster: &Cluster, host: &str) -> bool {
    let about =
        cluster.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("istio")?.fields.get("services"));
    let Some(Kind::ListValue(services)) = about.and_then(|value| value.kind.as_ref()) else { return false };
    services.values.iter().any(|service| match &service.kind {
        Some(Kind::StructValue(service)) => service
            .fields
            .get("host")
            .is_some_and(|value| matches!(&value.kind, Some(Kind::StringValue(text)) if text == host)),
        _ => false,
    })
}
