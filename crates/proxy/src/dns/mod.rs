//! Names to addresses for STRICT_DNS and LOGICAL_DNS clusters.
//!
//! [`plan`] decides what to ask and when, and keeps the answers; it does no IO. [`driver`] asks, on the control runtime, and
//! publishes a [`Table`]; [`follow`] brings the table to the workers as endpoints. When a resolver fails, the last answer stands: an old address mostly works, none never does.

mod driver;
mod follow;
mod plan;

use std::collections::HashSet;

use celerity_model::snapshot::{Address, Cluster};

pub use driver::{NameServer, Resolver, ResolverError};
pub(crate) use follow::{Names, follow};
pub use plan::{Answer, NAMES_MAX, Name, Plan, Question, Resolved, Table, Wanted};

/// The names that these clusters need, each once per way of asking: what [`Resolver::run`] follows.
pub fn wanted<'a>(clusters: impl IntoIterator<Item = &'a Cluster>) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for cluster in clusters {
        let dns = &cluster.policy.dns;
        for endpoint in cluster.endpoints.iter() {
            let Address::Dns { host, .. } = &endpoint.address else { continue };
            let name = Name::new(host, dns.family);
            let one = Wanted { name, refresh_rate: dns.refresh_rate, respect_ttl: dns.respect_ttl };
            if seen.insert((one.name.clone(), one.refresh_rate, one.respect_ttl)) {
                all.push(one);
            }
        }
    }
    all
}
