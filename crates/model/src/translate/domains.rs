//! The names under which a service is asked for.

use super::node::Node;
use super::registry::Service;

/// Every alias of a service at a port: as Istio, the short name within its namespace only. Each with the port, and without
/// one where `bare` says that the port is the one meant.
pub(super) fn of_service(service: &Service<'_>, node: &Node, port: u16, bare: bool) -> Vec<String> {
    let mut names = vec![service.host.clone()];
    let suffix = [".svc.", &node.mesh.cluster_domain].concat();
    if let Some(inside) = service.host.strip_suffix(&suffix)
        && let Some((name, namespace)) = inside.rsplit_once('.')
    {
        names.push([inside, ".svc"].concat());
        names.push(inside.to_owned());
        if namespace == node.namespace {
            names.push(name.to_owned());
        }
    }
    for address in &service.addresses {
        // A range of addresses is no name.
        if !address.contains('/') {
            names.push(if address.contains(':') { format!("[{address}]") } else { (*address).to_owned() });
        }
    }
    with_port(names, port, bare)
}

/// A host that only a VirtualService names.
pub(super) fn of_host(host: &str, port: u16) -> Vec<String> {
    // Every name at every port is `*` already.
    if host == "*" { vec!["*".to_owned()] } else { with_port(vec![host.to_owned()], port, true) }
}

fn with_port(names: Vec<String>, port: u16, bare: bool) -> Vec<String> {
    let mut domains = Vec::with_capacity(names.len() * 2);
    let mut digits = itoa::Buffer::new();
    let port = digits.format(port);
    for name in names {
        domains.push([&name, ":", port].concat());
        if bare {
            domains.push(name);
        }
    }
    domains
}
