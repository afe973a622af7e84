//! Whose request it was, in Istio's labels.

use crate::exchange::Exchange;
use crate::tls::SpiffeId;
use celerity_telemetry::metrics::{Peer, Reporter, RequestSeries};
use std::sync::Arc;

/// The series of requests to the endpoint that the exchange used.
pub(crate) fn to_endpoint(workload: &Arc<Peer>, x: &Exchange<'_>) -> RequestSeries {
    let endpoint = x.endpoint.as_ref().and_then(|endpoint| endpoint.workload.as_deref());
    let mut destination = Peer::default();
    if let Some(known) = endpoint {
        destination.workload = known.name.to_string();
        destination.workload_namespace = known.namespace.to_string();
        destination.app = known.canonical_service.to_string();
        destination.version = known.canonical_revision.to_string();
        destination.canonical_service = known.canonical_service.to_string();
        destination.canonical_revision = known.canonical_revision.to_string();
        destination.cluster = known.cluster.to_string();
    }
    series(workload.clone(), Arc::new(destination), x, Reporter::Source)
}

/// The series of requests that this workload received, or that never had an endpoint.
pub(crate) fn of_side(workload: &Arc<Peer>, x: &Exchange<'_>, side: Reporter) -> RequestSeries {
    match side {
        Reporter::Source => series(workload.clone(), Arc::new(Peer::default()), x, side),
        Reporter::Destination => {
            let mut source = Peer::default();
            let principal = x.conn.peer.as_ref().and_then(|peer| peer.spiffe.as_deref());
            if let Some(principal) = principal {
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
