//! Responses: the proxy's own, and the upstream's on its way down.

use super::attempt::Up;
use super::context::{Ended, Exchange, Failure};
use super::details;
use super::end::reset_of;
use super::fields;
use super::relay::{self, Broken};
use crate::downstream::stream::DownstreamStream;
use crate::filters::cache::StoreWriter;
use crate::h1::BodyLength;
use crate::http::{HeaderId, Method, ResponseHead};
use crate::upstream::connect::Protocol;
use celerity_model::snapshot::{
    DirectResponse, HeaderMutations, HttpFilter, Redirect, RedirectPath, RedirectScheme, Route, VirtualHost,
};
use celerity_telemetry::server_timing::Asked;
use celerity_telemetry::{HOP_HEADER, HopReport, ResponseFlags, State};
use std::future::poll_fn;
use std::time::Instant;

impl<'a> Exchange<'a> {
    /// Relays the upstream's response.
    pub async fn relay(&mut self, down: &mut DownstreamStream<'_>, host: &VirtualHost, up: Up) -> Ended {
        let Up { mut stream, length, hop, .. } = up;
        let worker = self.worker.clone();
        self.answer(down, host, &stream, (length, hop));
        if self.status == 0 {
            return Ended::Unanswered;
        }
        let now = worker.clock.now();
        self.ledger.enter(State::Copy, now);
        self.patience.progressed(Instant::now());
        let mut store = self.store.take();
        let mut left = self.cache_body_bytes_max.map_or(u64::MAX, u64::from);
        let mut watch = relay::Watch {
            patience: &mut self.patience,
            ledger: &mut self.ledger,
            clock: &worker.clock,
            response_bytes: 0,
            grpc_status: None,
        };
        // Stored before the client sees its end: who asks again then is answered from the cache, by whichever worker.
        // A gateway's page of HTML is no gRPC.
        let speaks_grpc = || self.response.headers.get_id(HeaderId::ContentType).is_some_and(fields::is_grpc);
        let mut messages = (self.is_grpc && speaks_grpc()).then_some(&mut self.response_messages);
        let tee = |piece: Option<&[u8]>| match piece {
            Some(piece) => {
                if let Some(messages) = &mut messages {
                    messages.take(piece);
                }
                Self::tee(&mut store, &mut left, piece);
            }
            None => drop(store.take().map(StoreWriter::finish)),
        };
        let result = relay::body(&mut stream, down, &mut self.upload, &mut watch, tee).await;
        self.response_bytes = watch.response_bytes;
        self.grpc_status = watch.grpc_status;
        match result {
            Ok(()) => Ended::Whole,
            Err(broken) => {
                let failure = match broken {
                    Broken::Client(error) => Failure::of_client(&error),
                    Broken::Expired(expired) => Failure::of_time(expired),
                    Broken::Upstream(error) => {
                        Failure::new(0, error.flags(), reset_of(&error).after, error.to_string())
                    }
                };
                self.flags.insert(failure.flags);
                self.details = failure.details;
                self.sentence = failure.sentence;
                if !failure.client_gone {
                    // What came before goes on to the client, as far as it takes it at once.
                    let _ = poll_fn(|cx| std::task::Poll::Ready(down.poll_flush(cx))).await;
                }
                down.abort();
                Ended::Broken
            }
        }
    }

    /// Puts the upstream's head, with the changes that were configured, in the client's buffer.
    pub(super) fn answer(
        &mut self,
        down: &mut DownstreamStream<'_>,
        host: &VirtualHost,
        stream: &crate::upstream::UpstreamStream,
        (length, hop): (BodyLength, Option<HopReport>),
    ) {
        match hop {
            Some(report) => self.ledger.join_peer(&report, &self.worker.clock),
            None => self.sample_round_trip(stream),
        }
        self.details = details::VIA_UPSTREAM;
        self.enter(State::Filters);
        self.own_mutations();
        if host.attempt_count_in_response {
            let count = self.attempts;
            let mut text = itoa::Buffer::new();
            let text = text.format(count).as_bytes();
            self.response.headers.set_id(HeaderId::XEnvoyAttemptCount, b"x-envoy-attempt-count", text);
        }
        if !self.suppresses_envoy_headers()
            && let Some(took) = self.since_request_in()
        {
            let mut text = itoa::Buffer::new();
            let text = text.format(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)).as_bytes();
            let name = b"x-envoy-upstream-service-time";
            self.response.headers.set_id(HeaderId::XEnvoyUpstreamServiceTime, name, text);
        }
        if let Some(cookie) = self.cookie.take() {
            self.response.headers.push(b"set-cookie", cookie.header.as_bytes());
        }
        self.enter(State::Serialise);
        // Where nothing went out `status` stays 0.
        let _ = self.send_head(down, length);
    }

    /// The round trip that the kernel measured splits the wait from the service's own time.
    fn sample_round_trip(&mut self, stream: &crate::upstream::UpstreamStream) {
        if let Some(us) = stream.round_trip_us() {
            self.ledger.split_round_trip(self.worker.clock.ticks(u64::from(us) * 1_000));
        }
    }

    pub fn mutate_response<const N: usize>(&mut self, mut order: [Option<&HeaderMutations>; N]) {
        if order.iter().flatten().all(|mutations| mutations.is_empty()) {
            return;
        }
        if self.manager.routes.most_specific_mutation_wins {
            order.reverse();
        }
        let mut response = std::mem::take(&mut self.response);
        fields::mutate_response(order.into_iter().flatten(), &mut response, self.request, &self.format_context());
        self.response = response;
    }

    /// The fields that every response gets, then the head goes into the client's buffer.
    pub fn send_head(&mut self, down: &mut DownstreamStream<'_>, length: BodyLength) -> Result<(), Ended> {
        let worker = self.worker.clone();
        let headers = &mut self.response.headers;
        if let Some(server) = &self.manager.server_header {
            headers.set_id(HeaderId::Server, b"server", server.as_bytes());
        }
        if !headers.contains_id(HeaderId::Date) {
            worker.with_date(|date| headers.push_lower(b"date", HeaderId::Date, date));
        }
        if self.manager.request_id.always_set_in_response
            && let Some(id) = self.request.headers.get_id(HeaderId::XRequestId)
        {
            headers.set(b"x-request-id", id);
        }
        if let Some(via) = &self.manager.via {
            headers.append_to_list(b"via", via.as_bytes());
        }
        if let Some(cors) = &self.cors {
            cors.write(headers);
        }
        let now = worker.clock.now();
        if self.conn.is_mesh_inbound() && worker.clock.runs() {
            let mut text = Vec::with_capacity(celerity_telemetry::hop::HOP_BYTES_MAX);
            HopReport::of(&mut self.ledger, now, &worker.clock).write(&mut text);
            headers.set_id(HeaderId::XCelerityHop, HOP_HEADER.as_bytes(), &text);
        }
        if self.asked != Asked::Nothing && worker.clock.runs() {
            let account = self.ledger.so_far(now, &worker.clock);
            let mut text = self.inner_hops.take().map_or_else(|| Vec::with_capacity(512), Vec::from);
            if self.asked == Asked::Rows {
                account.write_server_timing(&mut text);
            } else {
                if !text.is_empty() {
                    text.extend_from_slice(b", ");
                }
                let side = if self.conn.is_inbound() { "inbound" } else { "outbound" };
                let endpoint = self.endpoint.as_ref().map(|endpoint| endpoint.address);
                account.write_hop(&format!("{side} {}", worker.shared.workload.workload), endpoint, &mut text);
            }
            headers.append_to_list(b"server-timing", &text);
        }
        // A body that nobody read to its end would be taken for the next request. Where the client is still sending one, the
        // connection most likely ends with this response: it is told now, since later it cannot be.
        let last = self.last || worker.draining() || !self.upload.is_read();
        let sent = down.send_head(&self.response, length, last);
        if sent.is_err() {
            self.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            return Err(Ended::Unanswered);
        }
        self.status = self.response.status;
        Ok(())
    }

    /// Answers in the proxy's own name.
    pub async fn reply(
        &mut self,
        down: &mut DownstreamStream<'_>,
        status: u16,
        body: &[u8],
        flags: ResponseFlags,
    ) -> Ended {
        self.flags.insert(flags);
        self.begin_own(status);
        self.own_answer(down, body, None).await
    }

    /// The head of an answer in the proxy's own name, with the configuration's changes. They come first, as in Envoy
    /// (`Utility::prepareLocalReply`): what the answer itself must say, they can't take away.
    pub(super) fn begin_own(&mut self, status: u16) {
        self.response = ResponseHead::new(status);
        self.own_mutations();
        self.forget_length();
    }

    /// What the route says of a length that the body of our own answer has: over HTTP/2 another one makes the answer malformed
    /// (RFC 9113, section 8.1.1).
    fn forget_length(&mut self) {
        self.response.headers.remove_id(HeaderId::ContentLength);
    }

    /// Sends `self.response` in the proxy's own name. `code`: the gRPC status, where it does not follow from HTTP's.
    pub(super) async fn own_answer(
        &mut self,
        down: &mut DownstreamStream<'_>,
        body: &[u8],
        code: Option<u32>,
    ) -> Ended {
        if self.is_grpc {
            // A gRPC client reads its status from trailers; one that gets HTTP's would report nothing useful.
            let code = code.unwrap_or_else(|| grpc_status(self.response.status));
            self.response.status = 200;
            self.response.headers.set(b"content-type", b"application/grpc");
            self.response.headers.set(b"grpc-status", itoa::Buffer::new().format(code).as_bytes());
            self.response.headers.set(b"grpc-message", &percent_encoded(body));
            return self.respond(down, &[]).await;
        }
        self.as_text(body);
        self.respond(down, body).await
    }

    fn as_text(&mut self, body: &[u8]) {
        if !body.is_empty() && !self.response.headers.contains_id(HeaderId::ContentType) {
            self.response.headers.push(b"content-type", b"text/plain");
        }
    }

    /// Sends `self.response` with a body that is there.
    pub async fn respond(&mut self, down: &mut DownstreamStream<'_>, body: &[u8]) -> Ended {
        let body = if self.response.never_has_body() { &[] } else { body };
        let bodyless = self.request.method == Method::Head;
        let length = match body.len() {
            0 => BodyLength::Empty,
            length => {
                let text = length.to_string();
                self.response.headers.set(b"content-length", text.as_bytes());
                if bodyless { BodyLength::Empty } else { BodyLength::Exact(length as u64) }
            }
        };
        // What is left of the request's body would be taken for the next request: the client is told.
        self.last |= !self.upload.is_read();
        if let Err(ended) = self.send_head(down, length) {
            return ended;
        }
        self.enter(State::DownstreamFlush);
        let mut rest = if bodyless { &[][..] } else { body };
        self.response_bytes = rest.len() as u64;
        let patience = &mut self.patience;
        let sent = poll_fn(|cx| {
            while !rest.is_empty() {
                match down.poll_send(cx, rest) {
                    std::task::Poll::Ready(Ok(count)) => rest = &rest[count..],
                    std::task::Poll::Ready(Err(error)) => {
                        return std::task::Poll::Ready(Err(Failure::of_client(&error)));
                    }
                    std::task::Poll::Pending => return patience.poll(cx).map(|expired| Err(Failure::of_time(expired))),
                }
            }
            let mut finish = || {
                std::task::ready!(down.poll_finish(cx, None))?;
                down.poll_flush(cx)
            };
            match finish() {
                std::task::Poll::Ready(result) => {
                    std::task::Poll::Ready(result.map_err(|error| Failure::of_client(&error)))
                }
                std::task::Poll::Pending => patience.poll(cx).map(|expired| Err(Failure::of_time(expired))),
            }
        })
        .await;
        match sent {
            Ok(()) => Ended::Whole,
            Err(failure) => {
                self.flags.insert(failure.flags);
                down.abort();
                Ended::Broken
            }
        }
    }

    /// Says with a failure what in the configuration made it certain.
    pub(super) fn explained(&self, mut failure: Failure) -> Failure {
        if self.cluster.as_ref().is_some_and(|pool| pool.cluster.lacks_identity) {
            failure.sentence.push_str(": ISTIO_MUTUAL is wanted, and this proxy has no certificate to show");
        }
        // Extended CONNECT (RFC 8441) is not spoken, and to HTTP/1.1 such an upstream answers nonsense.
        let protocol = self.endpoint.as_ref().map(|endpoint| endpoint.pool_for(false).plan.protocol);
        if self.websocket && protocol == Some(Protocol::Http2) {
            failure.sentence.push_str(
                ". An upgrade to WebSocket goes over HTTP/1.1, and this upstream is configured for HTTP/2: give its port a \
                 protocol of HTTP",
            );
        }
        failure
    }

    pub async fn fail(&mut self, down: &mut DownstreamStream<'_>, failure: Failure) -> Ended {
        self.details = failure.details;
        self.sentence = failure.sentence;
        self.transport = failure.transport;
        if failure.client_gone {
            self.flags.insert(failure.flags);
            down.abort();
            return Ended::Unanswered;
        }
        if matches!(failure.status, 400 | 408 | 413) {
            self.last = true;
        }
        self.flags.insert(failure.flags);
        self.begin_own(failure.status);
        if failure.overloaded && !self.suppresses_envoy_headers() {
            self.response.headers.push(b"x-envoy-overloaded", b"true");
        }
        let body = std::mem::take(&mut self.sentence);
        let ended = self.own_answer(down, body.as_bytes(), failure.grpc_status).await;
        self.sentence = body;
        ended
    }

    /// Whether the router adds no `x-envoy-` headers (Envoy `Router.suppress_envoy_headers`).
    pub(super) fn suppresses_envoy_headers(&self) -> bool {
        matches!(self.manager.filters.last(), Some(HttpFilter::Router(router)) if router.suppress_envoy_headers)
    }

    pub async fn direct(&mut self, down: &mut DownstreamStream<'_>, direct: &DirectResponse) -> Ended {
        self.details = details::DIRECT_RESPONSE;
        self.begin_own(direct.status);
        self.as_text(&direct.body);
        self.respond(down, &direct.body).await
    }

    /// The configuration's changes to a response, wherever it comes from.
    pub(super) fn own_mutations(&mut self) {
        let Some((host, route)) = self.matched else { return };
        self.mutate_response([
            self.weighted.map(|weighted| &weighted.response_headers),
            Some(&route.response_headers),
            Some(&host.response_headers),
            Some(&self.manager.routes.response_headers),
        ]);
    }

    pub async fn redirect(&mut self, down: &mut DownstreamStream<'_>, route: &Route, redirect: &Redirect) -> Ended {
        let location = self.location(route, redirect);
        self.details = details::DIRECT_RESPONSE;
        self.response = ResponseHead::new(redirect.status);
        self.response.headers.push(b"location", &location);
        self.own_mutations();
        self.forget_length();
        self.respond(down, &[]).await
    }

    fn location(&self, route: &Route, redirect: &Redirect) -> Vec<u8> {
        let old_scheme = self.request.scheme.as_str();
        let scheme = match &redirect.scheme {
            RedirectScheme::Keep => old_scheme,
            RedirectScheme::Https => "https",
            RedirectScheme::Named(name) => name,
        };
        let authority = &self.request.authority[..];
        let bracket = authority.iter().rposition(|&byte| byte == b']').unwrap_or(0);
        let colon = authority.iter().skip(bracket).position(|&byte| byte == b':').map(|at| at + bracket);
        let (old_host, old_port) = authority.split_at(colon.unwrap_or(authority.len()));
        let mut out = format!("{scheme}://").into_bytes();
        match &redirect.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => out.extend_from_slice(old_host),
        }
        match redirect.port {
            Some(port) if (scheme, port) != ("http", 80) && (scheme, port) != ("https", 443) => {
                out.extend_from_slice(format!(":{port}").as_bytes());
            }
            Some(_) => {}
            // A port that only meant the old scheme's default does not go along to another scheme.
            None if redirect.host.is_none() && !(scheme != old_scheme && matches!(old_port, b":80" | b":443")) => {
                out.extend_from_slice(old_port);
            }
            None => {}
        }
        let path = &self.request.path[..];
        let end = path.iter().position(|&byte| byte == b'?').unwrap_or(path.len());
        let (bare, query) = path.split_at(end);
        match &redirect.path {
            RedirectPath::Keep => out.extend_from_slice(bare),
            RedirectPath::Whole(new) => {
                out.extend_from_slice(new.as_bytes());
                if new.contains('?') {
                    return out;
                }
            }
            RedirectPath::Prefix(new) => {
                let rewrite = celerity_model::snapshot::PathRewrite::Prefix(new.clone());
                out.extend_from_slice(&rewrite.apply(&route.matching, bare).unwrap_or_else(|| bare.to_vec()));
            }
            RedirectPath::Regex(substitution) => out.extend_from_slice(&substitution.apply(bare)),
        }
        if !redirect.strip_query {
            out.extend_from_slice(query);
        }
        out
    }
}

/// Envoy's mapping from HTTP status to gRPC status (grpc `doc/http-grpc-status-mapping.md`).
fn grpc_status(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Status-Message").
fn percent_encoded(text: &[u8]) -> Vec<u8> {
    text.iter().fold(Vec::with_capacity(text.len()), |mut out, &byte| {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
        out
    })
}
