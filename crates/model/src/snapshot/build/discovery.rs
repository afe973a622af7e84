//! Where a cluster's endpoints come from, and how names are asked for.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as EnvoyCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
use envoy_types::pb::envoy::config::core::v3::{
    TypedExtensionConfig, address::Address as AddressKind, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;

use super::super::cluster::{Discovery, DnsFamily, DnsSettings};
use super::check::Check;
use crate::patch::pool::unpack;

pub(super) fn discovery(check: &mut Check, rest: &mut EnvoyCluster) -> Discovery {
    match rest.cluster_discovery_type.take() {
        None => Discovery::Static,
        Some(ClusterDiscoveryType::Type(number)) => match DiscoveryType::try_from(number) {
            Ok(DiscoveryType::Static) => Discovery::Static,
            Ok(DiscoveryType::StrictDns) => Discovery::StrictDns,
            Ok(DiscoveryType::LogicalDns) => Discovery::LogicalDns,
            Ok(DiscoveryType::Eds) => Discovery::Eds,
            Ok(DiscoveryType::OriginalDst) => Discovery::OriginalDst,
            Err(_) => {
                check.error("type", "an unknown discovery type");
                Discovery::Static
            }
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            check.error("cluster_type", format!("{} is not supported; use `type`", custom.name));
            Discovery::Static
        }
    }
}

pub(super) fn dns(check: &mut Check, rest: &mut EnvoyCluster) -> DnsSettings {
    let mut settings = DnsSettings::default();
    #[allow(deprecated)]
    if let Some(rate) = check.duration("dns_refresh_rate", rest.dns_refresh_rate.take()) {
        if rate < Duration::from_millis(1) {
            check.error("dns_refresh_rate", "must be 1ms or more");
        }
        settings.refresh_rate = rate;
    }
    #[allow(deprecated)]
    {
        settings.respect_ttl = std::mem::take(&mut rest.respect_dns_ttl);
        settings.family = match DnsLookupFamily::try_from(std::mem::take(&mut rest.dns_lookup_family)) {
            Ok(DnsLookupFamily::Auto) | Err(_) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
        };
    }
    if let Some(resolver) = rest.typed_dns_resolver_config.take() {
        check.within("typed_dns_resolver_config", |check| name_servers(check, &resolver, &mut settings));
    }
    settings
}

/// The servers of Envoy's c-ares resolver. Its searching of other domains is Envoy's own; names here are always whole.
fn name_servers(check: &mut Check, resolver: &TypedExtensionConfig, settings: &mut DnsSettings) {
    let Some(mut config) = resolver.typed_config.as_ref().and_then(unpack::<CaresDnsResolverConfig>) else {
        check.error("", format!("{} is not supported; envoy.network.dns_resolver.cares is", resolver.name));
        return;
    };
    let mut servers = Vec::with_capacity(config.resolvers.len());
    for (index, server) in std::mem::take(&mut config.resolvers).into_iter().enumerate() {
        let address = match server.address {
            Some(AddressKind::SocketAddress(socket)) => match (socket.address.parse(), socket.port_specifier) {
                (Ok(ip), Some(PortSpecifier::PortValue(port))) => {
                    u16::try_from(port).ok().map(|port| SocketAddr::new(ip, port))
                }
                _ => None,
            },
            _ => None,
        };
        match address {
            Some(address) => servers.push(address),
            None => check.error(&format!("resolvers[{index}]"), "must be an IP address and a port"),
        }
    }
    settings.servers = servers.into();
    if let Some(mut options) = config.dns_resolver_options.take() {
        settings.over_tcp = std::mem::take(&mut options.use_tcp_for_dns_lookups);
        options.no_default_search_domain = false;
        check.within("dns_resolver_options", |check| check.leftover(&options));
    }
    check.leftover(&config);
}
