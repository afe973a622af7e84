//! Everything that one service becomes on the outbound side.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily as EnvoyFamily, EdsClusterConfig, LbPolicy,
    TransportSocketMatch,
};
use envoy_types::pb::envoy::config::core::v3::DnsResolverOptions;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::VirtualHost;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::util::pack_any;

use super::cluster::{self, Upstream};
use super::endpoints::{self, Reached, Shape};
use super::matching::any_concerns;
use super::policy::MergedRule;
use super::registry::{Index, Port, Protocol, Service, Workload};
use super::tls::{self, Identities, Inner};
use super::wire::{ads, duration, list, metadata, nested, object, socket, text};
use super::{LACKS_IDENTITY, OWN_METADATA, authentication, domains, outbound_name, routes};
use crate::istio::{DnsLookupFamily, DnsSettings, MtlsMode, Resolution, ResolverTransport, TlsMode, TrafficPolicy};
use crate::server_name;

/// Istio's default for names without a rate of their own.
const DNS_REFRESH_RATE: std::time::Duration = std::time::Duration::from_secs(60);

/// What one service becomes. Its inputs: the service's document and endpoints, the rules in force for its host, its
/// VirtualService and the rules and ports of that one's destinations, PeerAuthentications, and the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceResources {
    /// By port, the whole service first, then its subsets.
    pub clusters: Vec<Cluster>,
    /// Endpoints of the clusters of type EDS.
    pub endpoints: Vec<ClusterLoadAssignment>,
    /// One for each HTTP port.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Translates one service. Empty for a host that is not known, or that the node does not see.
pub fn translate_service(index: &Index<'_>, host: &str) -> ServiceResources {
    let mut resources = ServiceResources::default();
    let Some(service) = index.service(host) else { return resources };
    let rule = MergedRule::of(index, host);
    for port in &service.ports {
        clusters(index, service, &rule, port, &mut resources);
    }
    let http: Vec<&Port> = service.ports.iter().filter(|port| port.protocol != Protocol::Opaque).collect();
    // Without a port in its name a request means port 80, or the first HTTP port where there is no 80.
    let default = http.iter().find(|port| port.number == 80).or(http.first()).map(|port| port.number);
    let routes = index.virtual_service(host);
    for port in http {
        resources.virtual_hosts.push(VirtualHost {
            name: format!("{host}:{}", port.number),
            domains: domains::of_service(service, index.node, port.number, default == Some(port.number)),
            routes: match routes.filter(|document| any_concerns(&document.spec, index.node, port.number)) {
                Some(document) => routes::of_virtual_service(index, document, port),
                None => routes::plain(&rule, host, port),
            },
            include_request_attempt_count: true,
            ..VirtualHost::default()
        });
    }
    resources
}

fn clusters(
    index: &Index<'_>,
    service: &Service<'_>,
    rule: &MergedRule<'_>,
    port: &Port,
    resources: &mut ServiceResources,
) {
    let subsets = rule.subsets.iter().map(|subset| Some(subset.name.as_str()));
    for subset in std::iter::once(None).chain(subsets) {
        let policy = rule.policy(port, subset);
        let mut made = one_cluster(index, service, port, subset, &policy, rule);
        if let Some(assignment) = made.load_assignment.take_if(|_| made.eds_cluster_config.is_some()) {
            resources.endpoints.push(assignment);
        }
        resources.clusters.push(made);
    }
}

fn discovery(service: &Service<'_>) -> DiscoveryType {
    match service.resolution {
        Resolution::Static => DiscoveryType::Eds,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        _ => DiscoveryType::OriginalDst,
    }
}

fn one_cluster(
    index: &Index<'_>,
    service: &Service<'_>,
    port: &Port,
    subset: Option<&str>,
    policy: &TrafficPolicy,
    rule: &MergedRule<'_>,
) -> Cluster {
    let node = index.node;
    let name = outbound_name(port.number, subset.unwrap_or_default(), &service.host);
    let discovery = discovery(service);
    let auto = policy.tls.is_none() && node.mesh.auto_mtls && node.certificates.is_some() && !service.external;
    let takes_mtls = |workload: &Workload<'_>, number: u16| {
        auto && workload.in_mesh()
            && authentication::mode(index.config, workload.namespace, &workload.labels, number) != MtlsMode::Disable
    };
    let mut reached = endpoints::reached(&service.endpoints, port, rule.labels(subset), takes_mtls);
    let mode = policy.tls.as_ref().map(|tls| tls.mode.unwrap_or_default());
    let lacks_identity = mode == Some(TlsMode::IstioMutual) && node.certificates.is_none();
    if lacks_identity {
        // Mutual TLS was asked for and cannot be: requests must fail, not go in plain text.
        reached.clear();
    }
    let all_mtls = match mode {
        Some(mode) => mode == TlsMode::IstioMutual,
        None => !reached.is_empty() && reached.iter().all(|endpoint| endpoint.mtls),
    };
    let upstream = cluster::upstream(port.protocol, policy, all_mtls && node.certificates.is_some());
    let mut made = cluster::cluster(name.clone(), discovery, policy);
    // PASSTHROUGH goes where its client meant to go, whatever endpoints the service has.
    let passes = made.lb_policy == LbPolicy::ClusterProvided as i32;
    let discovery = if passes { DiscoveryType::OriginalDst } else { discovery };
    made.metadata = Some(describe(service, port, subset));

    let tls_rule = policy.tls.as_ref().filter(|_| matches!(mode, Some(TlsMode::Simple | TlsMode::Mutual)));
    let auto_sni = tls_rule.is_some_and(|tls| tls.sni.as_deref().unwrap_or_default().is_empty());
    let auto_san = tls_rule.is_some_and(|tls| {
        auto_sni
            && tls.subject_alt_names.is_empty()
            && service.subject_alt_names.is_empty()
            && tls.insecure_skip_verify != Some(true)
    });
    cluster::http_options(&mut made, policy, upstream, auto_sni, auto_san);
    transport(index, service, &mut made, policy, &reached, port, subset, inner(upstream));
    if lacks_identity {
        let own = object([(LACKS_IDENTITY, text("ISTIO_MUTUAL"))]);
        made.metadata.get_or_insert_default().filter_metadata.insert(OWN_METADATA.to_owned(), own);
    }

    let own = policy.load_balancer.as_ref().and_then(|balancer| balancer.locality_lb_setting.as_ref());
    // A Service's trafficDistribution acts where no rule says anything of localities, and without outlier detection too.
    let near = (service.near_first && own.is_none() && !node.locality.is_empty()).then(endpoints::near_first);
    let setting = own.or(near.as_ref());
    let shape = endpoints::shape(node, setting, policy.outlier_detection.is_some() || near.is_some());
    // A DNS service without endpoints is reached by its own name.
    let local = [Workload::by_name(service.dns_name.unwrap_or(&service.host), service.namespace)];
    match discovery {
        DiscoveryType::OriginalDst => return made,
        DiscoveryType::Eds => {
            made.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), service_name: name.clone() });
            made.load_assignment = Some(endpoints::assign(&name, node, &reached, setting, shape));
        }
        _ => {
            let by_name = if service.endpoints.is_empty() {
                endpoints::reached(&local, port, None, |_, _| false)
            } else {
                reached
            };
            // A logical DNS cluster has one name; the first stands.
            let kept = if discovery == DiscoveryType::LogicalDns {
                by_name.get(..1).unwrap_or_default()
            } else {
                by_name.as_slice()
            };
            made.load_assignment = Some(endpoints::assign(&name, node, kept, setting, shape));
            resolver(&mut made, &index.config.dns_settings(&node.namespace));
        }
    }
    if shape != Shape::Flat {
        cluster::weigh_localities(&mut made);
    }
    made
}

fn inner(upstream: Upstream) -> Inner {
    match upstream {
        Upstream::Http1 => Inner::Http1,
        Upstream::Http2 => Inner::Http2,
        Upstream::Negotiated => Inner::Either,
        Upstream::AsClient => Inner::AsClient,
        Upstream::Opaque => Inner::Opaque,
    }
}

#[allow(clippy::too_many_arguments)] // one leaf that joins what one_cluster has found out
fn transport(
    index: &Index<'_>,
    service: &Service<'_>,
    cluster: &mut Cluster,
    policy: &TrafficPolicy,
    reached: &[Reached<'_, '_>],
    port: &Port,
    subset: Option<&str>,
    inner: Inner,
) {
    let node = index.node;
    let sni = |stated: Option<&str>| match stated {
        Some(sni) if !sni.is_empty() => sni.to_owned(),
        _ => {
            let name = format!("outbound_.{}_.{}_.{}", port.number, subset.unwrap_or_default(), service.host);
            // A wildcard host, or a long one. A sidecar tells its ports apart without the name.
            if server_name::is_sendable(&name) { name } else { String::new() }
        }
    };
    match (&policy.tls, &node.certificates) {
        (Some(rule), certificates) => match (rule.mode.unwrap_or_default(), certificates) {
            (TlsMode::Disable, _) => {}
            (TlsMode::IstioMutual, Some(certificates)) => {
                let identities = match rule.subject_alt_names.as_slice() {
                    [] => identities(index, service, reached),
                    stated => Identities { exact: stated.to_vec(), prefix: None },
                };
                cluster.transport_socket =
                    Some(tls::mesh_upstream(certificates, sni(rule.sni.as_deref()), identities, inner));
            }
            // The cluster has no endpoints then, and its metadata say why.
            (TlsMode::IstioMutual, None) => {}
            (TlsMode::Simple | TlsMode::Mutual, _) => {
                cluster.transport_socket = Some(tls::client_upstream(node, rule, service.subject_alt_names, inner));
            }
        },
        (None, Some(certificates)) if reached.iter().any(|endpoint| endpoint.mtls) => {
            let socket = tls::mesh_upstream(certificates, sni(None), identities(index, service, reached), inner);
            if reached.iter().all(|endpoint| endpoint.mtls) {
                cluster.transport_socket = Some(socket);
            } else {
                let wanted = object([("tlsMode", text("istio"))]);
                cluster.transport_socket_matches = vec![
                    TransportSocketMatch {
                        name: "tlsMode-istio".to_owned(),
                        r#match: Some(wanted),
                        transport_socket: Some(socket),
                    },
                    TransportSocketMatch {
                        name: "tlsMode-disabled".to_owned(),
                        r#match: Some(object([])),
                        transport_socket: Some(tls::raw()),
                    },
                ];
            }
        }
        (None, _) => {}
    }
}

/// Who may answer for a service: the accounts of its endpoints and the names that its entry lists.
fn identities(index: &Index<'_>, service: &Service<'_>, reached: &[Reached<'_, '_>]) -> Identities {
    let mut exact: BTreeSet<String> = service.subject_alt_names.iter().cloned().collect();
    let mut unknown = false;
    for endpoint in reached {
        match endpoint.workload.service_account {
            Some(account) => {
                exact.insert(index.node.spiffe_id(endpoint.workload.namespace, account));
            }
            None => unknown = true,
        }
    }
    let prefix = (unknown && service.subject_alt_names.is_empty())
        .then(|| format!("spiffe://{}/ns/{}/sa/", index.node.mesh.trust_domain, service.namespace));
    Identities { exact: exact.into_iter().collect(), prefix }
}

#[allow(deprecated)] // Envoy's successor is another cluster type; Istio, and every Envoy in use, speak this one
fn resolver(cluster: &mut Cluster, settings: &DnsSettings) {
    cluster.dns_refresh_rate = Some(duration(settings.refresh_rate.unwrap_or(DNS_REFRESH_RATE)));
    cluster.respect_dns_ttl = settings.refresh_rate.is_none();
    let family = match settings.lookup_family.unwrap_or(DnsLookupFamily::V4Only) {
        DnsLookupFamily::Auto => EnvoyFamily::Auto,
        DnsLookupFamily::V4Only => EnvoyFamily::V4Only,
        DnsLookupFamily::V6Only => EnvoyFamily::V6Only,
        DnsLookupFamily::V4Preferred => EnvoyFamily::V4Preferred,
        DnsLookupFamily::All => EnvoyFamily::All,
    };
    cluster.dns_lookup_family = family as i32;
    let resolvers = settings.resolvers();
    if !resolvers.is_empty() {
        let config = CaresDnsResolverConfig {
            resolvers: resolvers.iter().map(|one| socket(&one.address.ip().to_string(), one.address.port())).collect(),
            dns_resolver_options: Some(DnsResolverOptions {
                use_tcp_for_dns_lookups: resolvers.iter().all(|one| one.transport == ResolverTransport::Tcp),
                no_default_search_domain: true,
            }),
            ..CaresDnsResolverConfig::default()
        };
        cluster.typed_dns_resolver_config = Some(TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(pack_any(config)),
        });
    }
}

/// Which service a cluster stands for, in Istio's own place for it (`filter_metadata.istio`), for metrics and logs.
fn describe(
    service: &Service<'_>,
    port: &Port,
    subset: Option<&str>,
) -> envoy_types::pb::envoy::config::core::v3::Metadata {
    let about = object([
        ("host", text(&*service.host)),
        ("name", text(&*service.name)),
        ("namespace", text(service.namespace)),
    ]);
    let mut fields = object([("services", list(vec![nested(about)])), ("port", text(port.number.to_string()))]);
    if let Some(subset) = subset {
        fields.fields.insert("subset".to_owned(), text(subset));
    }
    metadata("istio", fields)
}

/// Discovery type of a cluster, for output.
pub(super) fn is_eds(cluster: &Cluster) -> bool {
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32))
}
