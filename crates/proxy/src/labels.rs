//! Whose request it was, in Istio's labels.

use crate::exchange::Exchange;
use crate::tls::SpiffeId;
use crate::upstream::cluster::WorkerEndpoint;
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
    let service = x.cluster.as_ref().map(|cluster| &cluster.cluster.service);
    let (host, short, namespace) = match service {
        Some(service) if !service.host.is_empty() => (&*service.host, &*service.short, &*service.namespace),
        // An inbound cluster's name holds a port only: the workload is its own service.
        Some(_) => (&*destination.canonical_service, &*destination.canonical_service, &*destination.workload_namespace),
        None => ("unknown", "unknown", "unknown"),
    };
    let inbound_host = (side == Reporter::Destination).then(|| x.inbound_service()).flatten();
    let (host, short, namespace) = match &inbound_host {
        Some((host, short, namespace)) => (host.as_str(), short.as_str(), namespace.as_str()),
        None => (host, short, namespace),
    };
    RequestSeries::new(side, source, destination.clone(), host.into(), short.into(), namespace.into())
}
