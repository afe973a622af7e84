//! What one exchange knows while it lasts.

use super::details;
use super::fields::{self, Client, FormatContext, View};
use super::path;
use super::patience::{Expired, Patience};
use super::upload::Upload;
use crate::downstream::Conn;
use crate::downstream::activity::ActiveRequest;
use crate::downstream::stream::ClientError;
use crate::h1::BodyLength;
use crate::http::{HeaderId, RequestHead, ResponseHead};
use crate::upstream::cluster::{ClusterPool, WorkerEndpoint};
use crate::worker::Worker;
use celerity_model::snapshot::{Action, Cluster, HttpManager, Route, Snapshot, VirtualHost, WeightedCluster};
use celerity_telemetry::grpc::Messages;
use celerity_telemetry::server_timing::Asked;
use celerity_telemetry::{Ledger, ResponseFlags, State, Tick};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request as its connection hands it over.
#[derive(Debug)]
pub struct Begun {
    pub ledger: Ledger,
    /// When its first byte was there.
    pub started: Tick,
    /// The same, for what is measured in `Instant`s.
    pub began: Instant,
    pub body: BodyLength,
    pub http_10: bool,
    /// The connection will not carry another request.
    pub last: bool,
    /// The client asks to go on in WebSocket, and may.
    pub websocket: bool,
}

/// Why no response came from the upstream, or not all of it.
#[derive(Debug)]
pub struct Failure {
    pub status: u16,
    pub flags: ResponseFlags,
    /// One of Envoy's words for it, which the access log counts by.
    pub details: &'static str,
    /// One sentence for the client and the access log.
    pub sentence: String,
    /// Why there was no connection to the upstream.
    pub transport: Option<Arc<str>>,
    /// The client is gone: nothing can be answered.
    pub client_gone: bool,
    /// A circuit breaker dropped it: the answer says so (Envoy `x-envoy-overloaded`).
    pub overloaded: bool,
    /// The gRPC status, where it is not the one that follows from `status`.
    pub grpc_status: Option<u32>,
}

/// gRPC `DEADLINE_EXCEEDED`.
const GRPC_DEADLINE_EXCEEDED: u32 = 4;

impl Failure {
    pub fn new(status: u16, flags: ResponseFlags, details: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            status,
            flags,
            details,
            sentence: sentence.into(),
            transport: None,
            client_gone: false,
            overloaded: false,
            grpc_status: None,
        }
    }

    /// A limit of the cluster is reached; nothing was sent.
    pub fn overflow(sentence: impl Into<String>) -> Self {
        let failure = Self::new(503, ResponseFlags::UPSTREAM_OVERFLOW, details::OVERFLOW.before, sentence);
        Self { overloaded: true, ..failure }
    }

    pub fn of_client(error: &ClientError) -> Self {
        match error {
            ClientError::Gone(_) => {
                let flags = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
                Self { client_gone: true, ..Self::new(0, flags, details::CLIENT_GONE, error.to_string()) }
            }
            ClientError::Malformed(_) => {
                Self::new(400, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, details::CODEC_ERROR, error.to_string())
            }
            ClientError::Length => {
                let details = details::PROTOCOL_ERROR.after;
                Self::new(502, ResponseFlags::UPSTREAM_PROTOCOL_ERROR, details, error.to_string())
            }
        }
    }

    pub fn of_time(expired: Expired) -> Self {
        // Envoy `Utility::maybeRequestTimeoutCode`: whom one waits for decides, and that is the client until the request is in.
        let status = |request_is_in| if request_is_in { 504 } else { 408 };
        match expired {
            Expired::Overall => Self::late(details::RESPONSE_TIMEOUT, "upstream request timeout"),
            Expired::PerTry => Self::late(details::PER_TRY_TIMEOUT, "upstream per-try timeout"),
            Expired::PerTryIdle => Self::late(details::PER_TRY_IDLE_TIMEOUT, "upstream per-try idle timeout"),
            Expired::Idle { request_is_in } => {
                let flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
                Self::new(status(request_is_in), flags, details::STREAM_IDLE_TIMEOUT, "stream timeout")
            }
            // Envoy has no flag for these two.
            Expired::Duration { request_is_in } => {
                let (flags, details) = (ResponseFlags::NONE, details::MAX_DURATION_TIMEOUT);
                let failure = Self::new(status(request_is_in), flags, details, "downstream duration timeout");
                Self { grpc_status: Some(GRPC_DEADLINE_EXCEEDED), ..failure }
            }
            Expired::Request => {
                let sentence = "the request did not arrive within request_timeout";
                Self::new(408, ResponseFlags::NONE, details::REQUEST_TIMEOUT, sentence)
            }
        }
    }

    fn late(details: &'static str, sentence: &str) -> Self {
        Self::new(504, ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, details, sentence)
    }
}

/// How the exchange ended, as far as the connection has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The response is whole.
    Whole,
    /// It broke off after its head: the connection must not be used again.
    Broken,
    /// No response was sent; nobody was there for it.
    Unanswered,
}

pub struct Exchange<'a> {
    pub conn: &'a Conn,
    pub worker: &'a Rc<Worker>,
    pub snapshot: &'a Snapshot,
    pub manager: &'a HttpManager,
    pub request: &'a mut RequestHead,
    pub response: ResponseHead,
    pub upload: Upload,
    pub patience: Patience,
    pub ledger: Ledger,
    pub started: Tick,
    pub began: Instant,
    /// When the last byte of the request was on its way up. `None`: it is not there yet.
    pub request_in: Option<Tick>,
    pub flags: ResponseFlags,
    /// Why the response is what it is: one of Envoy's words. Empty until there is one.
    pub details: &'static str,
    /// What went wrong, in a sentence.
    pub sentence: String,
    /// Why there was no connection to the upstream.
    pub transport: Option<Arc<str>>,
    /// Our end of the connection that carried the last attempt.
    pub upstream_local: Option<SocketAddr>,
    pub last: bool,
    pub http_10: bool,
    /// Whose name was asked for. `None`: nobody's, or it was answered before one looked.
    pub host: Option<&'a VirtualHost>,
    /// Where the request belongs there. `None`: nowhere.
    pub matched: Option<(&'a VirtualHost, &'a Route)>,
    /// The route's cluster where a filter had to know it, or answered; otherwise it is chosen when the request goes on.
    pub(super) chosen: Option<Arc<Cluster>>,
    /// The one that was drawn, where the route has several.
    pub(super) weighted: Option<&'a WeightedCluster>,
    pub cluster: Option<Rc<ClusterPool>>,
    pub endpoint: Option<Rc<WorkerEndpoint>>,
    pub attempts: u32,
    pub response_bytes: u64,
    /// 0 until a head was sent.
    pub status: u16,
    pub cookie: Option<crate::balance::hash::NewCookie>,
    pub(crate) caching: Option<super::caching::Caching>,
    pub(crate) store: Option<crate::filters::cache::StoreWriter>,
    /// The route's changes were made: a second sending must not make them again.
    pub rewritten: bool,
    /// Its mirrors were sent.
    pub(super) mirrored: bool,
    /// The cache filter's own limit of a body.
    pub(super) cache_body_bytes_max: Option<u32>,
    pub(crate) cors: Option<super::filters::CorsAnswer>,
    /// What the client wants to know of where the time went.
    pub asked: Asked,
    /// What the next hop said of itself in `Server-Timing`. It waits here, out of the cache's sight: stored, it would be
    /// told of requests that it knows nothing of.
    pub inner_hops: Option<Box<[u8]>>,
    /// Whose request it is, as far as the manager believes `x-forwarded-for`.
    pub client: SocketAddr,
    pub is_grpc: bool,
    /// Of a gRPC response.
    pub response_messages: Messages,
    /// The path is the route's, and the client's in x-envoy-original-path.
    pub is_rewritten: bool,
    /// `grpc-status` of the response's trailers.
    pub grpc_status: Option<u32>,
    /// The client asks to go on in WebSocket.
    pub websocket: bool,
    _active: ActiveRequest<'a>,
}

impl<'a> Exchange<'a> {
    pub fn new(
        conn: &'a Conn,
        worker: &'a Rc<Worker>,
        snapshot: &'a Snapshot,
        manager: &'a HttpManager,
        request: &'a mut RequestHead,
        begun: Begun,
    ) -> Self {
        let timeouts = &manager.timeouts;
        let is_grpc = request.headers.get_id(HeaderId::ContentType).is_some_and(fields::is_grpc);
        let asked = Asked::of(request.headers.get_id(HeaderId::XCelerityLedger));
        if asked != Asked::Nothing {
            request.headers.remove_id(HeaderId::XCelerityLedger);
        }
        // Only a sidecar's own response says what a hop took; a client that says so is not believed.
        request.headers.remove_id(HeaderId::XCelerityHop);
        if let Some(value) = request.headers.get_id(HeaderId::XCelerityPeer) {
            conn.hear_introduction(value);
            request.headers.remove_id(HeaderId::XCelerityPeer);
        }
        let client = fields::client_of(conn.client, manager, &request.headers);
        let mut patience = Patience::new(&worker.timers, begun.began, timeouts.stream_idle, timeouts.request);
        if begun.body == BodyLength::Empty {
            patience.request_is_in();
        }
        Self {
            conn,
            worker,
            snapshot,
            manager,
            request,
            response: worker.spare_head(),
            upload: Upload::new(begun.body, &worker.bodies, is_grpc),
            patience,
            ledger: begun.ledger,
            started: begun.started,
            began: begun.began,
            request_in: (begun.body == BodyLength::Empty).then_some(begun.started),
            flags: ResponseFlags::NONE,
            details: "",
            sentence: String::new(),
            transport: None,
            upstream_local: None,
            last: begun.last,
            http_10: begun.http_10,
            host: None,
            matched: None,
            chosen: None,
            weighted: None,
            cluster: None,
            endpoint: None,
            attempts: 0,
            response_bytes: 0,
            status: 0,
            cookie: None,
            caching: None,
            store: None,
            rewritten: false,
            mirrored: false,
            cache_body_bytes_max: None,
            cors: None,
            asked,
            inner_hops: None,
            client,
            is_grpc,
            response_messages: Messages::default(),
            is_rewritten: false,
            grpc_status: None,
            websocket: begun.websocket,
            _active: conn.activity.request(),
        }
    }

    pub fn enter(&mut self, state: State) {
        self.ledger.woke(self.worker.woken.get());
        self.ledger.enter(state, self.worker.clock.now());
    }

    pub fn rng(&self) -> u64 {
        self.worker.rng.borrow_mut().next_u64()
    }

    pub fn view(&self) -> View<'_> {
        View { head: self.request, source: Some(self.client.ip()) }
    }

    /// Makes the request one to be routed.
    ///
    /// # Errors
    /// Its path can have no normal form.
    pub fn clean(&mut self) -> Result<(), path::NulInPath> {
        let client = Client {
            address: self.conn.client,
            peer: self.conn.peer.as_ref(),
            own_identity: self.conn.own_identity.as_deref(),
            is_tls: self.conn.is_tls,
        };
        if self.manager.normalize_path
            && let Some(path) = path::normal(&self.request.path)?
        {
            self.request.path = path;
        }
        // Behind the other, as in Envoy: `/a//../b` is `/a/b` there, and not `/b`.
        if self.manager.merge_slashes
            && let Some(path) = path::merged(&self.request.path)
        {
            self.request.path = path;
        }
        if self.manager.strip_port {
            let kept = fields::without_port(&self.request.authority).len();
            self.request.authority.truncate(kept);
        }
        fields::clean_request(self.manager, &client, self.request, &mut self.worker.rng.borrow_mut());
        Ok(())
    }

    /// The route's own limits replace the listener's.
    pub fn patience_of(&mut self, action: &Action) {
        let mut duration = self.manager.timeouts.max_stream_duration;
        if let Action::Forward(forward) = action {
            if let Some(idle) = forward.idle_timeout {
                self.patience.set_idle((!idle.is_zero()).then_some(idle));
            }
            let own = forward.grpc_duration_max.and_then(|most| self.grpc_timeout(most));
            duration = own.or(forward.max_stream_duration).or(duration);
        }
        let duration = duration.filter(|limit| !limit.is_zero());
        self.patience.set_duration(duration.and_then(|limit| self.began.checked_add(limit)));
    }

    /// What a gRPC request says of its own patience, at most `most` (zero: any). A request that says zero has any patience.
    pub(super) fn grpc_timeout(&self, most: Duration) -> Option<Duration> {
        let asked = fields::grpc_timeout(self.request.headers.get(b"grpc-timeout").filter(|_| self.is_grpc)?)?;
        Some(match (asked.is_zero(), most.is_zero()) {
            (_, true) => asked,
            (true, false) => most,
            (false, false) => asked.min(most),
        })
    }

    /// Time since the request was whole.
    pub(super) fn since_request_in(&self) -> Option<Duration> {
        let clock = &self.worker.clock;
        let since = self.request_in?;
        Some(if clock.runs() { Duration::from_nanos(clock.ns_between(since, clock.now())) } else { self.elapsed() })
    }

    pub fn format_context(&self) -> FormatContext<'_> {
        FormatContext {
            client: self.client,
            upstream: self.endpoint.as_ref().map(|endpoint| endpoint.address),
            cluster: self.asked_cluster().map_or("", |cluster| &cluster.name),
            protocol: if self.conn.is_http2 { "HTTP/2" } else { "HTTP/1.1" },
            flags: self.flags,
            hostname: &self.worker.shared.hostname,
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}
