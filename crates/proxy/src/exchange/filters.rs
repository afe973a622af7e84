//! The filters before the router, in the order of the configuration.

use super::context::{Ended, Exchange, Failure};
use super::details;
use super::fields::joined;
use crate::downstream::stream::DownstreamStream;
use crate::http::{HeaderId, Headers, Method, ResponseHead};
use crate::worker::ProxyShared;
use celerity_model::snapshot::{Abort, Action, CorsPolicy, Fault, HttpFilter, Route, RouteBuffer, VirtualHost};
use celerity_telemetry::{ResponseFlags, State};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// What the filters did with a request.
pub enum Passed {
    On,
    Answered(Ended),
}

/// What a response to a cross-origin request is given.
pub(crate) struct CorsAnswer {
    origin: Vec<u8>,
    credentials: bool,
    expose: Box<str>,
}

impl CorsAnswer {
    pub(crate) fn write(&self, headers: &mut Headers) {
        headers.set(b"access-control-allow-origin", &self.origin);
        if self.credentials {
            headers.set(b"access-control-allow-credentials", b"true");
        }
        if !self.expose.is_empty() {
            headers.set(b"access-control-expose-headers", self.expose.as_bytes());
        }
    }
}

/// One fault under way, of all workers (Envoy `max_active_faults`).
struct ActiveFault(Arc<ProxyShared>);

impl ActiveFault {
    fn begin(shared: &Arc<ProxyShared>, most: u32) -> Option<Self> {
        let more = |active: u32| (active < most).then(|| active.saturating_add(1));
        let taken = shared.active_faults.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
        taken.is_ok().then(|| Self(shared.clone()))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.active_faults.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<'a> Exchange<'a> {
    pub async fn filters(&mut self, down: &mut DownstreamStream<'_>, host: &VirtualHost, route: &'a Route) -> Passed {
        let manager = self.manager;
        if !manager.proxy_100_continue
            && matches!(route.action, Action::Forward(_))
            && let Err(failure) = self.continue_client(down).await
        {
            return Passed::Answered(self.fail(down, failure).await);
        }
        for filter in &manager.filters {
            let passed = match filter {
                HttpFilter::Router(_) => break,
                HttpFilter::Fault(fault) => match route.filters.fault.as_ref().or(fault.as_ref()) {
                    Some(fault) => self.fault(down, fault).await,
                    None => Passed::On,
                },
                HttpFilter::Cors(policy) => match route.filters.cors.as_ref().or(policy.as_ref()) {
                    Some(policy) if policy.enabled => self.cross_origin(down, policy).await,
                    _ => Passed::On,
                },
                HttpFilter::Buffer { max_request_bytes } => match route.filters.buffer {
                    Some(RouteBuffer::Off) => Passed::On,
                    Some(RouteBuffer::MaxRequestBytes(limit)) => self.buffer(down, limit).await,
                    None => self.buffer(down, *max_request_bytes).await,
                },
                HttpFilter::Cache(_) if route.filters.cache_off || self.websocket => Passed::On,
                HttpFilter::Cache(cache) => {
                    self.cache_body_bytes_max = cache.max_body_bytes;
                    self.cached(down, host, route).await
                }
            };
            if let Passed::Answered(ended) = passed {
                return Passed::Answered(ended);
            }
        }
        Passed::On
    }

    /// Faults that the configuration puts in (Envoy `HTTPFault`).
    async fn fault(&mut self, down: &mut DownstreamStream<'_>, fault: &Fault) -> Passed {
        if !fault.headers.iter().all(|wanted| wanted.matches(&self.view())) {
            return Passed::On;
        }
        let most = fault.max_active.unwrap_or(u32::MAX);
        let Some(_active) = ActiveFault::begin(&self.worker.shared, most) else { return Passed::On };
        if let Some((delay, share)) = fault.delay
            && share.hits(self.rng())
        {
            self.flags.insert(ResponseFlags::DELAY_INJECTED);
            self.enter(State::FaultDelay);
            let mut sleep = std::pin::pin!(tokio::time::sleep(delay));
            let watches_client = self.upload.is_finished();
            let gone = std::future::poll_fn(|cx| {
                if sleep.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                if watches_client { down.poll_gone(cx).map(|()| true) } else { Poll::Pending }
            })
            .await;
            self.enter(State::Filters);
            if gone {
                self.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                self.details = details::CLIENT_GONE;
                down.abort();
                return Passed::Answered(Ended::Unanswered);
            }
        }
        if let Some((abort, share)) = fault.abort
            && share.hits(self.rng())
        {
            let flags = ResponseFlags::FAULT_INJECTED;
            self.details = details::FAULT_ABORT;
            return Passed::Answered(match abort {
                Abort::Http(status) => self.reply(down, status, b"fault filter abort", flags).await,
                Abort::Grpc(code) => {
                    self.flags.insert(flags);
                    self.begin_own(200);
                    self.own_answer(down, b"fault filter abort", Some(code)).await
                }
            });
        }
        Passed::On
    }

    /// Cross-origin resource sharing (WHATWG Fetch, section 3.2; Envoy `Cors`).
    async fn cross_origin(&mut self, down: &mut DownstreamStream<'_>, policy: &CorsPolicy) -> Passed {
        if !self.request.headers.contains_id(HeaderId::Origin) {
            return Passed::On;
        }
        let preflight = self.request.method == Method::Options
            && self.request.headers.get(b"access-control-request-method").is_some();
        if !self.allow_origin(policy) {
            if preflight && !policy.forward_unmatched_preflights {
                self.details = details::CORS;
                self.response = ResponseHead::new(200);
                return Passed::Answered(self.respond(down, &[]).await);
            }
            return Passed::On;
        }
        if !preflight {
            return Passed::On;
        }
        self.details = details::CORS;
        self.response = ResponseHead::new(200);
        let any = |asked: &[u8]| joined(&self.request.headers, asked).unwrap_or_default().into_owned();
        for (name, value, asked) in [
            (&b"access-control-allow-methods"[..], &policy.allow_methods, &b"access-control-request-method"[..]),
            (b"access-control-allow-headers", &policy.allow_headers, b"access-control-request-headers"),
        ] {
            // To a request with credentials a browser takes `*` for a name of its own: what was asked for is said, as by Envoy.
            match &**value {
                "" => {}
                "*" => self.response.headers.set(name, &any(asked)),
                listed => self.response.headers.set(name, listed.as_bytes()),
            }
        }
        if !policy.max_age.is_empty() {
            self.response.headers.set(b"access-control-max-age", policy.max_age.as_bytes());
        }
        Passed::Answered(self.respond(down, &[]).await)
    }

    /// Tells a client that waits with its body to send it, in the upstream's stead (RFC 9110, section 10.1.1).
    async fn continue_client(&mut self, down: &mut DownstreamStream<'_>) -> Result<(), Failure> {
        let expect = self.request.headers.get_id(HeaderId::Expect);
        if !expect.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")) {
            return Ok(());
        }
        self.request.headers.remove_id(HeaderId::Expect);
        down.send_interim(&ResponseHead::new(100));
        let patience = &mut self.patience;
        std::future::poll_fn(|cx| match down.poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|error| Failure::of_client(&error))),
            Poll::Pending => patience.poll(cx).map(|expired| Err(Failure::of_time(expired))),
        })
        .await
    }

    /// Whether the policy admits the request's origin; the response will say so.
    fn allow_origin(&mut self, policy: &CorsPolicy) -> bool {
        let Some(origin) = self.request.headers.get_id(HeaderId::Origin) else { return false };
        let allowed = policy.allow_origins.iter().any(|matcher| matcher.matches(origin));
        if allowed {
            self.cors = Some(CorsAnswer {
                origin: origin.to_vec(),
                credentials: policy.allow_credentials,
                expose: policy.expose_headers.clone(),
            });
        }
        allowed
    }

    /// Makes the response say whether the route admits the request's origin, wherever in the chain that is looked at.
    pub(super) fn admit_origin(&mut self, route: &Route) {
        let policies = self.manager.filters.iter().filter_map(|filter| match filter {
            HttpFilter::Cors(policy) => route.filters.cors.as_ref().or(policy.as_ref()),
            _ => None,
        });
        for policy in policies.filter(|policy| policy.enabled) {
            self.allow_origin(policy);
        }
    }

    /// Takes the whole request in before anything goes up (Envoy `Buffer`).
    async fn buffer(&mut self, down: &mut DownstreamStream<'_>, limit: u32) -> Passed {
        if self.upload.is_finished() {
            return Passed::On;
        }
        // Nobody above will see the expectation before the body is here.
        if let Err(failure) = self.continue_client(down).await {
            return Passed::Answered(self.fail(down, failure).await);
        }
        self.enter(State::RequestBodyWait);
        let patience = &mut self.patience;
        let upload = &mut self.upload;
        let read = std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = down.poll_flush(cx) {
                return Poll::Ready(Err(Failure::of_client(&error)));
            }
            match upload.poll_buffer(cx, down, limit as usize) {
                Poll::Ready(Ok(fits)) => Poll::Ready(Ok(fits)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(Failure::of_client(&error))),
                Poll::Pending => patience.poll(cx).map(|expired| Err(Failure::of_time(expired))),
            }
        })
        .await;
        self.enter(State::Filters);
        match read {
            Ok(true) => {
                self.patience.request_is_in();
                Passed::On
            }
            Ok(false) => {
                let sentence = format!("the request's body is larger than max_request_bytes, {limit}");
                let failure = Failure::new(413, ResponseFlags::NONE, details::PAYLOAD_TOO_LARGE, sentence);
                Passed::Answered(self.fail(down, failure).await)
            }
            Err(failure) => Passed::Answered(self.fail(down, failure).await),
        }
    }
}
