//! Whose request it was, in Istio's labels.

use crate::exchange::Exchange;
use crate::tls::SpiffeId;
use crate::upstream::cluster::WorkerEndpoint;
use celerity_model::snapshot::ServiceName;
use celerity_model::translate::{BLOCKING_HOST, host_of_virtual_host};
use celerity_telemetry::metrics::{Peer, Reporter, RequestSeries};
use std::sync::Arc;

/// The series of requests to the endpoint that the exchange used. `false`: who answers there is not known yet, since there was
/// no connection to it.
pub(crate) fn to_endpoint(workload: &Arc<Peer>, x: &Exchange<'_>, endpoint: &WorkerEndpoint) -> (RequestSeries, bool) {
    let pool = endpoint.pool_for(x.conn.is_http2);
    let principal = pool.principal();
    let is_final = principal.is_some() || !pool.plan.is_mutual;
    let mut destination = Peer::default();
    // What is not told stays unknown: a label without a value would be none, and the other side has one.
    let tell = |slot: &mut String, value: &str| {
        if !value.is_empty() {
            value.clone_into(slot);
        }
    };
    tell(&mut destination.principal, principal.as_deref().unwrap_or_default());
    if let Some(known) = endpoint.workload.as_deref() {
        tell(&mut destination.workload, &known.name);
        tell(&mut destination.workload_namespace, &known.namespace);
        tell(&mut destination.app, &known.canonical_service);
        tell(&mut destination.version, &known.canonical_revision);
        tell(&mut destination.canonical_service, &known.canonical_service);
        tell(&mut destination.canonical_revision, &known.canonical_revision);
        tell(&mut destination.cluster, &known.cluster);
    }
    (series(workload.clone(), Arc::new(destination), x, Reporter::Source), is_final)
}

/// The series of requests that this workload received, or that never had an endpoint.
pub(crate) fn of_side(workload: &Arc<Peer>, x: &Exchange<'_>, side: Reporter) -> RequestSeries {
    match side {
        Reporter::Source => series(workload.clone(), Arc::new(Peer::default()), x, side),
        Reporter::Destination => {
            let mut source = x.conn.introduced().map(|peer| (**peer).clone()).unwrap_or_default();
            let principal = x.conn.peer.as_ref().and_then(|peer| peer.spiffe.as_deref());
            if let Some(principal) = principal.filter(|_| x.conn.introduced().is_none()) {
                source.principal = principal.to_owned();
                // The service account usually bears the workload's name; it is all that a certificate tells.
                if let Some((namespace, account)) = SpiffeId::parse(principal).and_then(|id| id.workload()) {
                    source.workload_namespace = namespace.to_owned();
                    source.workload = account.to_owned();
                    source.canonical_service = account.to_owned();
                    source.app = account.to_owned();
                }
            }
            let mut destination = (**workload).clone();
            if let Some(own) = &x.conn.own_identity {
                destination.principal = own.to_string();
            }
            series(Arc::new(source), Arc::new(destination), x, side)
        }
    }
}

fn series(source: Arc<Peer>, destination: Arc<Peer>, x: &Exchange<'_>, side: Reporter) -> RequestSeries {
    let [host, short, namespace] =
        service(&destination, x, side).map(|name| if name.is_empty() { UNKNOWN.into() } else { name });
    RequestSeries::new(side, source, destination, host.into(), short.into(), namespace.into())
}

const UNKNOWN: &str = "unknown";

/// Istio's name for where requests go that the mesh's policy lets go nowhere (`outboundTrafficPolicy: REGISTRY_ONLY`).
const BLACK_HOLE: &str = "BlackHoleCluster";

/// Host, short name and namespace of the service that was asked for: that of the cluster, else that of the virtual host. Istio
/// falls back to the `Host` header; the virtual host is as much of it as a client cannot make up.
fn service(destination: &Peer, x: &Exchange<'_>, side: Reporter) -> [Box<str>; 3] {
    let known = x.asked_cluster().map(|cluster| cluster.told_as()).filter(|service| !service.host.is_empty());
    if let Some(service) = known {
        return [service.host.clone(), service.short.clone(), service.namespace.clone()];
    }
    match (side, x.host) {
        (Reporter::Destination, _) => match x.inbound_service() {
            Some((host, short, namespace)) => [host.into(), short.into(), namespace.into()],
            None => {
                // The workload is its own service.
                let own = &*destination.canonical_service;
                [own.into(), own.into(), (*destination.workload_namespace).into()]
            }
        },
        (Reporter::Source, Some(host)) if &*host.name == BLOCKING_HOST => {
            [BLACK_HOLE.into(), BLACK_HOLE.into(), Box::default()]
        }
        (Reporter::Source, Some(host)) => {
            let named = ServiceName::parse(host_of_virtual_host(&host.name));
            [named.host, named.short, named.namespace]
        }
        (Reporter::Source, None) => Default::default(),
    }
}
