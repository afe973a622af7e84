//! Building a snapshot from resources: checked as a whole, with what did not change taken over from the last one.

mod balancing;
mod check;
mod cluster;
mod discovery;
mod endpoint;
mod filter;
mod fingerprint;
mod listener;
mod outlier;
mod route;
mod tls;
mod update;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::index::{HashedMap, hash};
use super::route::VirtualHost;
use super::table::RouteTable;
use super::{Cluster, Listener, Snapshot};
use crate::translate::Resources;
use check::Check;
use endpoint::Interner;
use listener::{RouteSource, Tables};
use route::Inherited;
pub use update::Replaced;

/// One reason why resources cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{resource}: {}{}{message}", self.field, if self.field.is_empty() { "" } else { ": " })]
pub struct BuildError {
    /// Kind and name, such as `cluster outbound|80||reviews.default.svc.cluster.local`.
    pub resource: String,
    /// Path of the field, such as `routes[2].route.timeout`; empty for the resource as a whole.
    pub field: String,
    pub message: String,
}

/// What building had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    pub clusters_rebuilt: usize,
    pub clusters_reused: usize,
    pub virtual_hosts_rebuilt: usize,
    pub virtual_hosts_reused: usize,
    pub listeners_rebuilt: usize,
    pub listeners_reused: usize,
}

impl Snapshot {
    /// Builds the snapshot of these resources. What is unchanged since `previous` is the same object as there.
    ///
    /// # Errors
    /// Everything that is wrong or not supported, all at once; `previous` stays usable.
    pub fn build(resources: &Resources, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<BuildError>> {
        let mut builder = Builder {
            previous,
            check: Check::default(),
            interner: Interner::default(),
            report: BuildReport::default(),
            scratch: Vec::new(),
        };
        let clusters = builder.clusters(resources);
        let tables = builder.tables(&resources.routes);
        let listeners = builder.listeners(resources, tables);
        if !builder.check.errors.is_empty() {
            return Err(builder.check.errors);
        }
        Ok(Snapshot {
            version: previous.map_or(1, |previous| previous.version + 1),
            listeners,
            clusters,
            report: builder.report,
        })
    }
}

struct Builder<'a> {
    previous: Option<&'a Snapshot>,
    check: Check,
    interner: Interner,
    report: BuildReport,
    scratch: Vec<u8>,
}

impl Builder<'_> {
    fn clusters(&mut self, resources: &Resources) -> HashedMap<Arc<Cluster>> {
        let assignments: HashMap<&str, &ClusterLoadAssignment> =
            resources.endpoints.iter().map(|assignment| (assignment.cluster_name.as_str(), assignment)).collect();
        let mut clusters = HashedMap::default();
        clusters.reserve(resources.clusters.len());
        for source in &resources.clusters {
            self.check.enter_resource("cluster", &source.name);
            if source.name.is_empty() {
                self.check.error("name", "must be given");
            }
            let service = source.eds_cluster_config.as_ref().map_or("", |eds| eds.service_name.as_str());
            let wanted = if service.is_empty() { source.name.as_str() } else { service };
            let assignment = assignments.get(wanted).copied();
            let mut print = fingerprint::cluster(source, &mut self.scratch);
            if let Some(assignment) = assignment {
                fingerprint::endpoints(&mut print, assignment, &mut self.scratch);
            }
            let print = print.value();
            let reused = self
                .previous
                .and_then(|previous| previous.cluster_by_name(&source.name))
                .filter(|earlier| earlier.fingerprint == print)
                .cloned();
            let cluster = match reused {
                Some(cluster) => {
                    self.report.clusters_reused += 1;
                    cluster
                }
                None => {
                    self.report.clusters_rebuilt += 1;
                    Arc::new(cluster::read(&mut self.check, &mut self.interner, source, assignment, print))
                }
            };
            if clusters.insert(hash(source.name.as_bytes()), cluster).is_some() {
                self.check.error("name", "another cluster has the same name");
            }
        }
        clusters
    }

    fn tables(&mut self, sources: &[RouteConfiguration]) -> Tables {
        let earlier: HashMap<&str, &Arc<RouteTable>> = self
            .previous
            .iter()
            .flat_map(|previous| previous.listeners.iter())
            .flat_map(|listener| listener.chains.iter().chain(listener.default_chain.as_deref()))
            .map(|chain| (chain.manager.route_name.as_ref(), &chain.manager.routes))
            .collect();
        let mut tables = Tables::with_capacity(sources.len());
        for source in sources {
            self.check.enter_resource("route configuration", &source.name);
            let table = self.table(source, earlier.get(source.name.as_str()).copied());
            if let Some(table) = table
                && tables.insert(source.name.clone(), table).is_some()
            {
                self.check.error("name", "another route configuration has the same name");
            }
        }
        tables
    }

    fn table(&mut self, source: &RouteConfiguration, earlier: Option<&Arc<RouteTable>>) -> Option<Arc<RouteTable>> {
        let known: HashMap<&str, &Arc<VirtualHost>> =
            earlier.iter().flat_map(|table| table.hosts.iter()).map(|host| (host.name.as_ref(), host)).collect();
        let inherited =
            Inherited { mirrors: &source.request_mirror_policies, per_filter: &source.typed_per_filter_config };
        let mut print = fingerprint::Print::default();
        for mirror in &source.request_mirror_policies {
            print.message(mirror, &mut self.scratch);
        }
        print.anys(&source.typed_per_filter_config);
        let inherited_hash = print.value() as u64;
        let mut hosts = Vec::with_capacity(source.virtual_hosts.len());
        let mut names = HashSet::with_capacity(source.virtual_hosts.len());
        for (index, host) in source.virtual_hosts.iter().enumerate() {
            let print = fingerprint::virtual_host(host, inherited_hash, &mut self.scratch);
            let reused = known.get(host.name.as_str()).filter(|known| known.fingerprint == print);
            hosts.push(match reused {
                Some(&host) => {
                    self.report.virtual_hosts_reused += 1;
                    host.clone()
                }
                None => {
                    self.report.virtual_hosts_rebuilt += 1;
                    let interner = &mut self.interner;
                    Arc::new(self.check.item("virtual_hosts", index, |check| {
                        route::virtual_host(check, interner, host, &inherited, print)
                    }))
                }
            });
            if !names.insert(host.name.as_str()) {
                self.check.error(&format!("virtual_hosts[{index}].name"), format!("{} stands here twice", host.name));
            }
        }
        let mut rest = RouteConfiguration { virtual_hosts: Vec::new(), ..shallow(source) };
        let (request_headers, response_headers) = route::check_mutations(
            &mut self.check,
            (&rest.request_headers_to_add, &rest.request_headers_to_remove),
            (&rest.response_headers_to_add, &rest.response_headers_to_remove),
        );
        route::clear_mutations!(rest);
        let most_specific = std::mem::take(&mut rest.most_specific_header_mutations_wins);
        let ignore_port = std::mem::take(&mut rest.ignore_port_in_host_matching);
        rest.name.clear();
        rest.request_mirror_policies.clear();
        rest.typed_per_filter_config.clear();
        rest.metadata = None;
        rest.max_direct_response_body_size_bytes = None;
        // A cluster may come later than its route; a request until then gets the route's status for a missing one.
        rest.validate_clusters = None;
        self.check.leftover(&rest);
        if let Some(earlier) = earlier
            && earlier.hosts.len() == hosts.len()
            && earlier.hosts.iter().zip(&hosts).all(|(left, right)| Arc::ptr_eq(left, right))
            && earlier.request_headers == request_headers
            && earlier.response_headers == response_headers
            && earlier.most_specific_mutation_wins == most_specific
            && earlier.ignore_port == ignore_port
        {
            return Some(earlier.clone());
        }
        match RouteTable::new(&source.name, hosts, ignore_port) {
            Ok(mut table) => {
                table.request_headers = request_headers;
                table.response_headers = response_headers;
                table.most_specific_mutation_wins = most_specific;
                Some(Arc::new(table))
            }
            Err(duplicates) => {
                for duplicate in duplicates {
                    self.check.error(
                        "virtual_hosts",
                        format!(
                            "domain {} stands in both {} and {}",
                            duplicate.domain, duplicate.first, duplicate.second
                        ),
                    );
                }
                None
            }
        }
    }

    fn listeners(&mut self, resources: &Resources, tables: Tables) -> Vec<Arc<Listener>> {
        let mut listeners = Vec::with_capacity(resources.listeners.len());
        let mut addresses = HashMap::new();
        let broken: HashSet<&str> = resources.routes.iter().map(|source| source.name.as_str()).collect();
        for source in &resources.listeners {
            // Inline tables are built while the listener's fields are being read, so the checker changes hands.
            let mut check = std::mem::take(&mut self.check);
            check.enter_resource("listener", &source.name);
            let read = listener::read(&mut check, source, &mut |check, wanted| match wanted {
                RouteSource::Named(name) => {
                    let table = tables.get(&name).cloned();
                    // A table that was there but is wrong has its own error already.
                    if table.is_none() && !broken.contains(name.as_str()) {
                        check.error("route_config_name", format!("there is no route configuration {name}"));
                    }
                    table
                }
                RouteSource::Inline(routes) => {
                    std::mem::swap(&mut self.check, check);
                    let table = self.table(&routes, None);
                    std::mem::swap(&mut self.check, check);
                    table
                }
            });
            self.check = check;
            let Some(listener) = read else { continue };
            if let Some(other) =
                addresses.insert(listener.address, source.name.clone()).filter(|_| listener.address.port() != 0)
            {
                self.check.error("address", format!("{} is also the address of listener {other}", listener.address));
            }
            let reused = self
                .previous
                .and_then(|previous| previous.listener(&source.name))
                .filter(|earlier| earlier.fingerprint == listener.fingerprint && same_tables(earlier, &listener));
            listeners.push(match reused {
                Some(earlier) => {
                    self.report.listeners_reused += 1;
                    earlier.clone()
                }
                None => {
                    self.report.listeners_rebuilt += 1;
                    Arc::new(listener)
                }
            });
        }
        listeners
    }
}

fn same_tables(left: &Listener, right: &Listener) -> bool {
    let tables = |listener: &Listener| -> Vec<Arc<RouteTable>> {
        let chains = listener.chains.iter().chain(listener.default_chain.as_deref());
        chains.map(|chain| chain.manager.routes.clone()).collect()
    };
    let (left, right) = (tables(left), tables(right));
    left.len() == right.len() && left.iter().zip(&right).all(|(left, right)| Arc::ptr_eq(left, right))
}

/// Everything but the virtual hosts, which may be thousands.
fn shallow(source: &RouteConfiguration) -> RouteConfiguration {
    let RouteConfiguration {
        name,
        virtual_hosts: _,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = source;
    RouteConfiguration {
        name: name.clone(),
        virtual_hosts: Vec::new(),
        vhds: vhds.clone(),
        internal_only_headers: internal_only_headers.clone(),
        response_headers_to_add: response_headers_to_add.clone(),
        response_headers_to_remove: response_headers_to_remove.clone(),
        request_headers_to_add: request_headers_to_add.clone(),
        request_headers_to_remove: request_headers_to_remove.clone(),
        most_specific_header_mutations_wins: *most_specific_header_mutations_wins,
        validate_clusters: *validate_clusters,
        max_direct_response_body_size_bytes: *max_direct_response_body_size_bytes,
        cluster_specifier_plugins: cluster_specifier_plugins.clone(),
        request_mirror_policies: request_mirror_policies.clone(),
        ignore_port_in_host_matching: *ignore_port_in_host_matching,
        vhost_header: vhost_header.clone(),
        ignore_path_parameters_in_path_matching: *ignore_path_parameters_in_path_matching,
        typed_per_filter_config: typed_per_filter_config.clone(),
        metadata: metadata.clone(),
        route_specifiers: route_specifiers.clone(),
    }
}
