//! Istio's six request metrics: the cells of a series, and a request's way to them.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::labels::{ConnectionSecurity, Peer, Reporter, RequestLabels, RequestProtocol};
use super::registry::Shard;
use crate::flags::ResponseFlags;
use crate::histogram::{ClassicBuckets, Histogram, Merged, bump};

/// One worker's numbers of one label set: about 1 KB, and 256 bytes for each octave of latency that was seen.
#[derive(Debug, Default)]
pub(super) struct RequestCells {
    /// Set by the sweep: the series is gone, or there may be room for a better one.
    pub(super) stale: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) duration_us: Histogram,
    pub(super) duration: ClassicBuckets,
    pub(super) request_bytes: ClassicBuckets,
    pub(super) response_bytes: ClassicBuckets,
    pub(super) request_messages: AtomicU64,
    pub(super) response_messages: AtomicU64,
}

/// What one request adds to its series.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub duration_us: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Of gRPC.
    pub request_messages: u64,
    /// Of gRPC.
    pub response_messages: u64,
}

/// One worker's hold on one label set. It stays on the thread that resolved it: two writers would lose counts.
#[derive(Clone, Debug)]
pub struct SeriesHandle {
    pub(super) cells: Arc<RequestCells>,
    pub(super) one_thread: PhantomData<Rc<()>>,
}

impl SeriesHandle {
    /// Records a request: some ten relaxed stores. `false`, and nothing recorded, where the series was evicted: resolve
    /// the labels again. A request that records while the sweep evicts may be lost; the series had then been idle.
    #[inline]
    #[must_use]
    pub fn record(&self, sample: Sample) -> bool {
        let cells = &*self.cells;
        if cells.stale.load(Relaxed) {
            return false;
        }
        bump(&cells.requests, 1);
        cells.duration_us.record(sample.duration_us);
        cells.duration.record_milli(sample.duration_us);
        cells.request_bytes.record_units(sample.request_bytes);
        cells.response_bytes.record_units(sample.response_bytes);
        if sample.request_messages | sample.response_messages != 0 {
            bump(&cells.request_messages, sample.request_messages);
            bump(&cells.response_messages, sample.response_messages);
        }
        true
    }
}

/// The labels that a request's end decides; the rest are known by its route and endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub request_protocol: RequestProtocol,
    pub response_code: u16,
    pub response_flags: ResponseFlags,
    pub grpc_response_status: Option<u32>,
    pub connection_security_policy: ConnectionSecurity,
}

/// Outcomes remembered for a pair of peers and a service. Most see two or three; beyond this the oldest is forgotten
/// and costs a look-up under the registry's lock when it comes back.
const OUTCOMES_MAX: usize = 16;

/// A worker's series of one (reporter, source, destination, service). Keep one beside the endpoint or the connection;
/// a request then finds its series by comparing a few words.
#[derive(Debug)]
pub struct RequestSeries {
    labels: RequestLabels,
    known: RefCell<Vec<(Outcome, SeriesHandle)>>,
}

impl RequestSeries {
    pub fn new(
        reporter: Reporter,
        source: Arc<Peer>,
        destination: Arc<Peer>,
        service: Arc<str>,
        service_name: Arc<str>,
        service_namespace: Arc<str>,
    ) -> Self {
        let outcome = Outcome::default();
        Self {
            labels: RequestLabels {
                reporter,
                source,
                destination,
                destination_service: service,
                destination_service_name: service_name,
                destination_service_namespace: service_namespace,
                request_protocol: outcome.request_protocol,
                response_code: outcome.response_code,
                response_flags: outcome.response_flags,
                grpc_response_status: outcome.grpc_response_status,
                connection_security_policy: outcome.connection_security_policy,
            },
            known: RefCell::new(Vec::new()),
        }
    }

    /// Records a finished request. The first of an outcome takes the registry's lock and allocates; later ones do not.
    pub fn record(&self, shard: &Shard, outcome: Outcome, sample: Sample) {
        let mut known = self.known.borrow_mut();
        if let Some(at) = known.iter().position(|(seen, _)| *seen == outcome) {
            if known[at].1.record(sample) {
                return;
            }
            known.swap_remove(at);
        }
        let handle = shard.requests(&RequestLabels {
            request_protocol: outcome.request_protocol,
            response_code: outcome.response_code,
            response_flags: outcome.response_flags,
            grpc_response_status: outcome.grpc_response_status,
            connection_security_policy: outcome.connection_security_policy,
            ..self.labels.clone()
        });
        let _ = handle.record(sample);
        if known.len() == OUTCOMES_MAX {
            known.remove(0);
        }
        known.push((outcome, handle));
    }
}

/// A label set with its numbers of all workers, for reports.
#[derive(Clone, Debug)]
pub struct RequestSummary {
    /// `None` for the series that collects what the budget had no room for.
    pub labels: Option<RequestLabels>,
    pub requests: u64,
    pub duration_us: Merged,
}
