//! What a request leaves behind: its series, its ledger, its line in the access log.

use super::context::{Ended, Exchange};
use super::{details, fields};
use crate::downstream::stream::DownstreamStream;
use crate::http::HeaderId;
use crate::upstream::shared::RareEvents;
use celerity_telemetry::access_log::Record;
use celerity_telemetry::metrics::{ConnectionSecurity, Outcome, RequestProtocol, Sample};
use celerity_telemetry::trace::TraceContext;
use celerity_telemetry::{Breakdown, ResponseFlags};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

impl Exchange<'_> {
    /// Accounts for the request. `true`: the client's connection may carry another one.
    pub fn finish(mut self, down: &mut DownstreamStream<'_>, ended: Ended) -> bool {
        let worker = self.worker;
        let now = worker.clock.now();
        self.ledger.woke(worker.woken.get());
        let breakdown = if worker.clock.runs() {
            self.ledger.finish(now, &worker.clock)
        } else {
            Breakdown::unattributed(self.began.elapsed().as_nanos() as u64)
        };
        if ended == Ended::Unanswered && self.flags == ResponseFlags::NONE {
            self.details = details::CLIENT_GONE;
            self.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
        }
        // One stream given up is another thing than a connection that is gone.
        if self.flags.contains(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION) && down.was_reset() {
            self.flags.remove(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.flags.insert(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
        }
        // In a response without messages the head is the trailers (gRPC over HTTP/2, "Trailers-Only").
        let grpc_status =
            if self.is_grpc { self.grpc_status.or_else(|| fields::grpc_status(&self.response.headers)) } else { None };
        let outcome = Outcome {
            request_protocol: if self.is_grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            response_code: self.status,
            response_flags: self.flags,
            grpc_response_status: grpc_status,
            connection_security_policy: match (self.conn.is_inbound(), self.conn.is_tls) {
                (false, _) => ConnectionSecurity::Unknown,
                (true, true) => ConnectionSecurity::MutualTls,
                (true, false) => ConnectionSecurity::None,
            },
        };
        let total_ns = breakdown.total_ns();
        let sample = Sample {
            duration_us: total_ns / 1_000,
            request_bytes: self.upload.bytes,
            response_bytes: self.response_bytes,
            request_messages: self.upload.messages(),
            response_messages: self.response_messages.count(),
        };
        if self.upload.has_given_up()
            && let Some(cluster) = &self.cluster
        {
            RareEvents::add(&cluster.shared.events.bodies_given_up);
        }
        worker.record(&self, outcome, sample, &breakdown, now);
        self.log(&breakdown);
        worker.give_head_back(std::mem::take(&mut self.response));
        ended == Ended::Whole && (self.upload.is_finished() || self.upload.is_read())
    }
}

impl Exchange<'_> {
    /// The service that an inbound request was meant for: the name of its virtual host, which Istio's inbound routes
    /// do not tell, so the authority as far as it is a Kubernetes name.
    pub fn inbound_service(&self) -> Option<(String, String, String)> {
        let authority = std::str::from_utf8(&self.request.authority).ok()?;
        let host = authority.split(':').next().unwrap_or(authority);
        let own = &self.worker.shared.workload;
        let mut labels = host.split('.');
        let short = labels.next().filter(|short| !short.is_empty() && host.parse::<std::net::IpAddr>().is_err())?;
        // A name that this workload does not have would let a client make up series.
        if short != own.canonical_service && short != own.app && short != own.workload {
            return None;
        }
        let namespace = labels.next().unwrap_or(&own.workload_namespace);
        if namespace != own.workload_namespace {
            return None;
        }
        Some((format!("{short}.{namespace}.svc.cluster.local"), short.to_owned(), namespace.to_owned()))
    }

    fn log(&self, breakdown: &Breakdown) {
        let worker = self.worker;
        if !worker.logs(self.status, self.flags) {
            return;
        }
        let text = |address: Option<SocketAddr>| {
            let mut text = fields::Buffer::default();
            if let Some(address) = address {
                text.display(address);
            }
            text
        };
        let (local, client) = (text(Some(self.conn.local)), text(Some(self.client)));
        let upstream = text(self.endpoint.as_ref().map(|endpoint| endpoint.address));
        let upstream_local = text(self.upstream_local);
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let duration_ms = breakdown.total_ns() / 1_000_000;
        let sni = self.conn.peer.as_ref().and_then(|peer| peer.sni.as_deref()).unwrap_or_default();
        let header = |id| self.request.headers.get_id(id).unwrap_or_default();
        let trace = TraceContext::extract(|name| self.request.headers.get(name.as_bytes()));
        let original = self.request.headers.get(b"x-envoy-original-path").filter(|_| self.is_rewritten);
        worker.log(&Record {
            start_time_unix_ms: (since_unix.as_millis() as u64).saturating_sub(duration_ms),
            method: self.request.method.as_str().as_bytes(),
            // Istio's %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%: people look for what the client asked.
            // But not where it is the client that speaks of an original.
            path: original.unwrap_or(&self.request.path),
            authority: &self.request.authority,
            protocol: if self.conn.is_http2 { "HTTP/2" } else { "HTTP/1.1" },
            response_code: self.status,
            response_code_details: self.details,
            failure: &self.sentence,
            // Envoy's filters that end a connection by themselves are not among ours.
            connection_termination_details: "",
            response_flags: self.flags,
            bytes_received: self.upload.bytes,
            bytes_sent: self.response_bytes,
            route_name: self.matched.map(|(_, route)| &*route.name).unwrap_or_default(),
            upstream_cluster: self.asked_cluster().map_or("", |cluster| &cluster.name),
            upstream_host: upstream.text(),
            upstream_local_address: upstream_local.text(),
            upstream_transport_failure_reason: self.transport.as_deref().unwrap_or_default(),
            downstream_local_address: local.text(),
            downstream_remote_address: client.text(),
            requested_server_name: sni,
            request_id: header(HeaderId::XRequestId),
            user_agent: header(HeaderId::UserAgent),
            x_forwarded_for: header(HeaderId::XForwardedFor),
            trace_id: trace.map(|trace| trace.trace_id),
            ledger: Some(breakdown),
        });
    }
}
