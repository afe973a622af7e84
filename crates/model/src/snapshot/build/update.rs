//! A snapshot in which a few services are other ones: the others are taken over without being looked at.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::index::{HashedMap, hash};
use super::super::route::VirtualHost;
use super::super::table::RouteTable;
use super::super::{Cluster, Snapshot};
use super::check::Check;
use super::endpoint::Interner;
use super::{BuildError, BuildReport, Builder};
use crate::translate::Resources;

impl Snapshot {
    /// The snapshot in which the clusters that `replaced` names, and the virtual hosts of the table of `resources` that it
    /// names, are those of `resources`. Its listeners are those of `resources`; a table that `resources` does not have stays.
    /// Costs time for what is replaced, and for the tables' index of names.
    ///
    /// # Errors
    /// As [`Snapshot::build`]; also where a name is that of another service already.
    pub fn update(
        &self,
        resources: &Resources,
        replaced: impl Fn(Replaced<'_>) -> bool,
    ) -> Result<Snapshot, Vec<BuildError>> {
        let mut builder = Builder {
            previous: Some(self),
            check: Check::default(),
            interner: Interner::default(),
            report: BuildReport::default(),
            scratch: Vec::new(),
        };
        let made = builder.clusters(resources);
        let mut clusters: HashedMap<Arc<Cluster>> = self.clusters.clone();
        clusters.retain(|_, cluster| !replaced(Replaced::Cluster(cluster)));
        builder.report.clusters_reused += clusters.len();
        for (key, cluster) in made {
            if let Some(other) = clusters.insert(key, cluster) {
                builder.check.enter_resource("cluster", &other.name);
                builder.check.error("name", "another service has a cluster of this name");
            }
        }
        let mut tables = builder.tables(&resources.routes);
        for (name, table) in &mut tables {
            let earlier = self.tables().find(|earlier| *earlier.name == **name);
            if let Some(earlier) = earlier {
                *table = builder.merged(earlier, table, &replaced);
            }
        }
        let listeners = builder.listeners(resources, tables);
        if !builder.check.errors.is_empty() {
            return Err(builder.check.errors);
        }
        Ok(Snapshot { version: self.version + 1, listeners, clusters, report: builder.report })
    }

    fn tables(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        let chains = self.listeners.iter().flat_map(|l| l.chains.iter().chain(l.default_chain.as_deref()));
        chains.map(|chain| &chain.manager.routes)
    }
}

/// What [`Snapshot::update`] asks about.
#[derive(Debug, Clone, Copy)]
pub enum Replaced<'a> {
    Cluster(&'a Cluster),
    /// By its name.
    VirtualHost(&'a str),
}

impl Builder<'_> {
    /// The hosts of `earlier` with those that are replaced. A host keeps its place; a new one comes first, since the last is
    /// the one that takes every name.
    fn merged(
        &mut self,
        earlier: &Arc<RouteTable>,
        made: &RouteTable,
        replaced: &impl Fn(Replaced<'_>) -> bool,
    ) -> Arc<RouteTable> {
        let mut new: HashMap<u64, &Arc<VirtualHost>> =
            made.hosts.iter().map(|host| (hash(host.name.as_bytes()), host)).collect();
        let mut hosts = Vec::with_capacity(earlier.hosts.len() + new.len());
        for host in &earlier.hosts {
            if replaced(Replaced::VirtualHost(&host.name)) {
                hosts.extend(new.remove(&hash(host.name.as_bytes())).cloned());
            } else {
                self.report.virtual_hosts_reused += 1;
                hosts.push(Arc::clone(host));
            }
        }
        let added = made.hosts.iter().filter(|host| new.contains_key(&hash(host.name.as_bytes()))).cloned();
        hosts.splice(0..0, added);
        if hosts.len() == earlier.hosts.len() && hosts.iter().zip(&earlier.hosts).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return Arc::clone(earlier);
        }
        match RouteTable::new(&earlier.name, hosts, earlier.ignore_port) {
            Ok(mut table) => {
                table.request_headers = made.request_headers.clone();
                table.response_headers = made.response_headers.clone();
                table.most_specific_mutation_wins = made.most_specific_mutation_wins;
                Arc::new(table)
            }
            Err(duplicates) => {
                self.check.enter_resource("route configuration", &earlier.name);
                for duplicate in duplicates {
                    let (first, second) = (duplicate.first, duplicate.second);
                    let message = format!("domain {} stands in both {first} and {second}", duplicate.domain);
                    self.check.error("virtual_hosts", message);
                }
                Arc::clone(earlier)
            }
        }
    }
}
