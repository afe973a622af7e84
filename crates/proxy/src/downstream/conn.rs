//! What is known of a client's connection, for all its requests.

use super::activity::Activity;
use crate::apply::Running;
use crate::exchange::{client_of, details};
use crate::http::{HeaderId, RequestHead};
use crate::tls::{Peer, SpiffeId};
use crate::worker::Worker;
use celerity_model::snapshot::{Direction, HttpManager, VirtualHost};
use celerity_telemetry::access_log::Record;
use celerity_telemetry::introduction::introduced;
use celerity_telemetry::metrics::{self, RequestSeries};
use celerity_telemetry::{Ledger, ResponseFlags, State, Tick};
use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Conn {
    pub worker: Rc<Worker>,
    pub listener: Arc<str>,
    pub chain: Box<str>,
    pub direction: Direction,
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// Where the client meant to go, when the kernel redirected it here.
    pub original_dst: Option<SocketAddr>,
    pub peer: Option<Peer>,
    pub own_identity: Option<Arc<str>>,
    pub is_tls: bool,
    pub is_http2: bool,
    /// The manager of the running configuration. Looked up again when the configuration is swapped.
    #[expect(
        clippy::redundant_allocation,
        reason = "a request takes the Rc: the Arc's counter is shared by all workers"
    )]
    manager: RefCell<(u64, Rc<Arc<HttpManager>>)>,
    /// The connection's listener or filter chain is gone: it closes after the present request.
    pub orphaned: Cell<bool>,
    /// The series of the last request, which the next one most likely belongs to as well.
    pub series: RefCell<Option<(u64, Rc<RequestSeries>)>>,
    pub requests: Cell<u64>,
    /// The client's workload, as its sidecar introduced it with the connection's first request.
    introduced: OnceCell<Arc<metrics::Peer>>,
    pub activity: Rc<Activity>,
}

/// Why something is no request that could be passed on.
pub(super) struct Refusal<'a> {
    /// 0 where nothing was answered.
    pub status: u16,
    pub details: &'static str,
    pub reason: &'a str,
    /// Where it could be read.
    pub head: Option<&'a RequestHead>,
}

/// A connection as it was accepted.
pub struct Accepted {
    pub listener: Arc<str>,
    pub chain: Box<str>,
    pub direction: Direction,
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub original_dst: Option<SocketAddr>,
    pub peer: Option<Peer>,
    pub own_identity: Option<Arc<str>>,
    pub is_tls: bool,
    pub is_http2: bool,
    pub manager: Arc<HttpManager>,
    pub version: u64,
}

impl Conn {
    pub fn new(worker: &Rc<Worker>, accepted: Accepted) -> Self {
        Self {
            activity: worker.activity(&accepted.listener),
            worker: worker.clone(),
            listener: accepted.listener,
            chain: accepted.chain,
            direction: accepted.direction,
            client: accepted.client,
            local: accepted.local,
            original_dst: accepted.original_dst,
            peer: accepted.peer,
            own_identity: accepted.own_identity,
            is_tls: accepted.is_tls,
            is_http2: accepted.is_http2,
            manager: RefCell::new((accepted.version, Rc::new(accepted.manager))),
            orphaned: Cell::new(false),
            series: RefCell::new(None),
            requests: Cell::new(0),
            introduced: OnceCell::new(),
        }
    }

    /// The manager as `running` has it: a connection that outlives a swap follows the new routes.
    pub fn manager(&self, running: &Running) -> Rc<Arc<HttpManager>> {
        let mut held = self.manager.borrow_mut();
        if held.0 != running.snapshot.version {
            held.0 = running.snapshot.version;
            let listener = running.snapshot.listener(&self.listener);
            let chain = listener.and_then(|listener| {
                let all = listener.chains.iter().chain(listener.default_chain.as_deref());
                all.into_iter().find(|chain| chain.name == self.chain)
            });
            match chain {
                Some(chain) if chain.tls.is_some() == self.is_tls => {
                    if !Arc::ptr_eq(&held.1, &chain.manager) {
                        held.1 = Rc::new(chain.manager.clone());
                    }
                }
                _ => self.orphaned.set(true),
            }
        }
        held.1.clone()
    }

    /// The virtual host of a request. Traffic that was redirected here says by its destination which port it meant.
    pub fn virtual_host<'m>(&self, manager: &'m HttpManager, request: &RequestHead) -> Option<&'m Arc<VirtualHost>> {
        let routes = &manager.routes;
        if let Some(meant) = self.original_dst
            && !request.authority.iter().rev().take(6).any(|&byte| byte == b':')
        {
            let mut authority = request.authority.clone();
            authority.push(b':');
            authority.extend_from_slice(itoa::Buffer::new().format(meant.port()).as_bytes());
            if let Some(host) = routes.lookup(&authority) {
                return Some(host);
            }
        }
        routes.lookup(&request.authority)
    }

    pub fn is_inbound(&self) -> bool {
        self.direction == Direction::Inbound
    }

    /// Whether the client is another sidecar, which can read our part of the ledger.
    pub fn is_mesh_inbound(&self) -> bool {
        self.is_inbound() && self.peer.as_ref().is_some_and(|peer| peer.spiffe.is_some())
    }

    /// How long a request that had `arrived` lay unread at its `start`. Over TLS a connection's first bytes were the handshake's.
    pub fn charge_wait(&self, ledger: &mut Ledger, arrived: Tick, start: Tick) {
        let is_first = self.requests.get() == 0 && !self.is_tls;
        let state = if is_first { State::AcceptWait } else { State::LoopLag };
        ledger.charge_lag(state, self.worker.lag(arrived, start));
    }

    /// What was refused is in the access log as well: whoever tries to smuggle is to be seen there.
    pub(super) fn log_refusal(&self, refusal: &Refusal<'_>) {
        let flags = match refusal.details {
            details::CODEC_ERROR | details::HEADERS_TOO_LARGE => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            details::STREAM_IDLE_TIMEOUT => ResponseFlags::STREAM_IDLE_TIMEOUT,
            _ => ResponseFlags::NONE,
        };
        if !self.worker.logs(refusal.status, flags) {
            return;
        }
        let client =
            refusal.head.map_or(self.client, |head| client_of(self.client, &self.manager.borrow().1, &head.headers));
        let (local, client) = (self.local.to_string(), client.to_string());
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = |id| refusal.head.and_then(|head| head.headers.get_id(id)).unwrap_or_default();
        self.worker.log(&Record {
            start_time_unix_ms: since_unix.as_millis() as u64,
            method: refusal.head.map_or(&[], |head| head.method.as_str().as_bytes()),
            path: refusal.head.map_or(&[], |head| &head.path),
            authority: refusal.head.map_or(&[], |head| &head.authority),
            protocol: if self.is_http2 { "HTTP/2" } else { "HTTP/1.1" },
            response_code: refusal.status,
            response_code_details: refusal.details,
            failure: refusal.reason,
            response_flags: flags,
            // Over HTTP/2 a refusal has no body.
            bytes_sent: if self.is_http2 { 0 } else { refusal.reason.len() as u64 },
            downstream_local_address: &local,
            downstream_remote_address: &client,
            requested_server_name: self.peer.as_ref().and_then(|peer| peer.sni.as_deref()).unwrap_or_default(),
            request_id: header(HeaderId::XRequestId),
            user_agent: header(HeaderId::UserAgent),
            x_forwarded_for: header(HeaderId::XForwardedFor),
            ..Record::default()
        });
    }

    /// Hears an introduction. Only a sidecar of the mesh is believed; its namespace and identity are its certificate's.
    pub fn hear_introduction(&self, value: &[u8]) {
        if !self.is_mesh_inbound() || self.introduced.get().is_some() {
            return;
        }
        let principal = self.peer.as_ref().and_then(|peer| peer.spiffe.as_deref()).unwrap_or_default();
        if let Some(mut peer) = introduced(value) {
            peer.principal = principal.to_owned();
            if let Some((namespace, _)) = SpiffeId::parse(principal).and_then(|id| id.workload()) {
                peer.workload_namespace = namespace.to_owned();
            }
            let _ = self.introduced.set(Arc::new(peer));
        }
    }

    pub fn introduced(&self) -> Option<&Arc<metrics::Peer>> {
        self.introduced.get()
    }

    /// Counts a request; `true` when it is the last that this connection may carry.
    pub fn count_request(&self, manager: &HttpManager) -> bool {
        self.requests.set(self.requests.get() + 1);
        manager.max_requests_per_connection.is_some_and(|most| self.requests.get() >= u64::from(most))
    }
}
