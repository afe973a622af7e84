//! The router: which cluster, which endpoint, how often.

use super::context::{Exchange, Failure};
use super::details;
use super::end::{End, failure_of, no_endpoint, outcome_of};
use super::fields;
use super::patience::Expired;
use super::relay::{self, Broken};
use crate::balance::hash::request_hash;
use crate::downstream::stream::DownstreamStream;
use crate::h1::BodyLength;
use crate::http::HeaderId;
use crate::outlier::Outcome;
use crate::retry::{self, AttemptEnd};
use crate::upstream::cluster::{ClusterPool, Wanted, WorkerEndpoint};
use crate::upstream::shared::{ClusterShared, RareEvents};
use crate::upstream::{AcquireError, AttemptError, Lease, UpstreamStream};
use celerity_model::snapshot::{
    Chosen, Cluster, Discovery, Forward, HostRewrite, Limits, RetryPolicy, Route, VirtualHost,
};
use celerity_model::translate::PASSTHROUGH_CLUSTER;
use celerity_telemetry::server_timing::{Asked, HOPS};
use celerity_telemetry::{HopReport, LEDGER_REQUEST_HEADER, ResponseFlags, State};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends of a request that no upstream processed: a connection that the peer closed while it was idle costs the client
/// nothing. More often than this and something else is wrong.
const REPLAYS_MAX: u32 = 3;

/// Swaps of the configuration that one request may meet while it waits for connections. Each costs it nothing but the time,
/// which its timeouts bound; the number only ends what would go on for ever.
const MOVES_MAX: u32 = 100;

/// What a gRPC upstream is told beyond the time that it has: the client is to hear of our timeout (UNAVAILABLE), as from Envoy, and
/// not of the upstream's, which begins a little later; ours may fire a tick late.
const GRPC_TIMEOUT_SLACK_MS: u64 = 10;

/// A response whose head has come.
pub struct Up {
    pub stream: UpstreamStream,
    pub length: BodyLength,
    /// What the upstream's own proxy says of its part.
    pub hop: Option<HopReport>,
    /// Held until the response is over.
    _request: RequestPermit,
}

/// One unit of `max_requests`; nothing where there is no limit.
pub(super) struct RequestPermit(Option<Arc<ClusterShared>>);

impl RequestPermit {
    pub(super) fn take(shared: &Arc<ClusterShared>, limits: &Limits) -> Option<Self> {
        // A counter that all workers write costs tens of nanoseconds: only who needs it pays.
        if shared.requests.is_unlimited() && limits.retry_budget.is_none() {
            return Some(Self(None));
        }
        shared.requests.try_take().then(|| Self(Some(shared.clone())))
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.requests.give_back();
        }
    }
}

/// One unit of `max_retries`, held until the retry is over.
struct RetryPermit(Arc<ClusterShared>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.give_back();
    }
}

impl<'a> Exchange<'a> {
    /// Sends the request until there is a response to give, or a reason why there is none.
    pub async fn forward(
        &mut self,
        down: &mut DownstreamStream<'_>,
        host: &'a VirtualHost,
        route: &'a Route,
        forward: &'a Forward,
    ) -> Result<Up, Failure> {
        let mut cluster = match &self.chosen {
            Some(chosen) => chosen.clone(),
            None => self.choose(forward)?,
        };
        // A fault's delay or the buffer may have held the request while the configuration was swapped: it goes to the endpoints of
        // now.
        if let Some(now) = self.cluster_now(&cluster) {
            cluster = now;
        }
        let mut pool = self.worker.clusters.of(self.worker, &cluster);
        self.cluster = Some(pool.clone());
        if !std::mem::replace(&mut self.rewritten, true) {
            self.rewrite(host, route, forward);
        }
        self.mirror(forward, false);
        let timeout = self.timeout_of(forward);

        let Some(permit) = RequestPermit::take(&pool.shared, &cluster.policy.limits) else {
            RareEvents::add(&pool.shared.events.request_overflows);
            return Err(Failure::overflow("the cluster's requests are at their limit"));
        };
        let hash = self.hash(forward, &cluster);
        let policy = forward.retry.as_deref();
        if let Some(limit) = timeout.filter(|_| self.upload.is_finished()) {
            self.patience.set_overall(Instant::now().checked_add(limit));
        }
        let mut tried: smallvec::SmallVec<[u64; 4]> = smallvec::SmallVec::new();
        let (mut retries, mut replays, mut moves) = (0, 0, 0);
        // It was one stream too many for a server that had not said how many it takes.
        let mut overshot = false;
        let (mut met_priorities, mut tried_priorities) = (0_u64, 0_u64);
        // Held while a retry is under way, given back when it is over.
        let mut held: Option<RetryPermit> = None;

        loop {
            self.ledger.woke(self.worker.woken.get());
            self.ledger.begin_attempt(State::Pick, self.worker.clock.now());
            let retry = policy.filter(|policy| policy.avoid_previous_hosts && !tried.is_empty());
            let attempts_max = retry.map_or(1, |policy| policy.host_attempts_max);
            let tried_hosts = if retry.is_some() { &tried[..] } else { &[] };
            let wanted = Wanted { hash, tried: tried_hosts, attempts_max, tried_priorities };
            let picked = match (cluster.discovery, self.conn.original_dst) {
                (Discovery::OriginalDst, Some(meant)) => Some((pool.original(self.worker, meant), 0)),
                (Discovery::OriginalDst, None) => return Err(self.nowhere(&cluster)),
                _ => pool.pick(self.worker, &wanted),
            };
            let Some((endpoint, priority)) = picked else {
                RareEvents::add(&pool.shared.events.no_healthy_upstream);
                return Err(Failure::new(
                    503,
                    ResponseFlags::NO_HEALTHY_UPSTREAM,
                    details::NO_HEALTHY_UPSTREAM,
                    no_endpoint(&cluster),
                ));
            };
            met_priorities |= 1_u64.checked_shl(priority).unwrap_or(0);
            self.endpoint = Some(endpoint.clone());
            self.attempts += 1;
            pool.series.requests.inc();
            self.attempt_headers(host, forward, &endpoint);
            self.tell_timeout(forward, timeout);

            match self.attempt(down, timeout, policy, &endpoint).await? {
                Ok((stream, length)) => {
                    // Taken off here: neither a client nor the cache must see it.
                    let hop = fields::take_hop(&mut self.response.headers).filter(|_| stream.is_from_mesh());
                    if self.asked == Asked::Hops && self.worker.clock.runs() && stream.is_from_mesh() {
                        self.inner_hops = fields::take_list(&mut self.response.headers, b"server-timing");
                    }
                    pool.report(self.worker, &endpoint, Outcome::Status(self.judged_status()));
                    pool.series.answered(self.response.status);
                    let wanted = policy.is_some_and(|policy| self.wants_retry(policy, &End::Status));
                    if !wanted {
                        if retries > 0 {
                            RareEvents::add(&pool.shared.events.retry_successes);
                        }
                        return Ok(Up { stream, length, hop, _request: permit });
                    }
                    drop(held.take());
                    match self.next_retry(policy, &pool, retries) {
                        Ok(next) => held = Some(next),
                        Err(why) => {
                            self.flags.insert(why);
                            return Ok(Up { stream, length, hop, _request: permit });
                        }
                    }
                    drop(stream);
                    self.patience.set_per_try_idle(None, Instant::now());
                }
                Err(end) => {
                    // The configuration was swapped while the request waited: it goes on in the cluster as it is now.
                    if matches!(end, End::Acquire(AcquireError::Gone(_)))
                        && moves < MOVES_MAX
                        && self.upload.can_repeat()
                        && let Some(now) = self.cluster_now(&cluster)
                    {
                        moves += 1;
                        pool = self.worker.clusters.of(self.worker, &now);
                        self.cluster = Some(pool.clone());
                        cluster = now;
                        self.upload.rewind();
                        continue;
                    }
                    if self.is_free_replay(&end, policy, replays, overshot)
                        && replays < REPLAYS_MAX
                        && self.upload.can_repeat()
                    {
                        overshot |= matches!(end, End::Attempt(AttemptError::Refused { .. }));
                        replays += 1;
                        self.upload.rewind();
                        continue;
                    }
                    if matches!(end, End::PerTry) {
                        RareEvents::add(&pool.shared.events.per_try_timeouts);
                    }
                    if let Some(outcome) = outcome_of(&end) {
                        pool.report(self.worker, &endpoint, outcome);
                    }
                    let wanted = policy.is_some_and(|policy| self.wants_retry(policy, &end));
                    drop(held.take());
                    let next = if wanted { self.next_retry(policy, &pool, retries) } else { Err(ResponseFlags::NONE) };
                    match next {
                        Ok(next) => held = Some(next),
                        Err(why) => {
                            let mut failure = failure_of(&end);
                            failure.flags.insert(why);
                            return Err(failure);
                        }
                    }
                }
            }
            // A retry: not before a while, so that the upstream is not met by all of them at once.
            retries += 1;
            RareEvents::add(&pool.shared.events.retries);
            tried.push(endpoint.identity);
            // Envoy `PreviousPrioritiesRetryPriority`: looked at anew after so many tries.
            if let Some(often) = policy.and_then(|policy| policy.avoid_previous_priorities)
                && retries % often.max(1) == 0
            {
                tried_priorities = met_priorities;
            }
            self.upload.rewind();
            if let Some(policy) = policy {
                self.back_off(down, policy, retries).await?;
            }
        }
    }

    /// A connection that was not redirected has no destination of its own: to send it where it came would be a loop.
    fn nowhere(&self, cluster: &Cluster) -> Failure {
        let sentence = if &*cluster.name == PASSTHROUGH_CLUSTER {
            let host = String::from_utf8_lossy(&self.request.authority);
            format!(
                "no healthy upstream: no service of the mesh takes HTTP at {host:?}, and the connection was not redirected \
                 here, so it has no other destination"
            )
        } else {
            format!(
                "no healthy upstream: {} goes to where its clients connect, and this connection was not redirected here",
                cluster.name
            )
        };
        Failure::new(503, ResponseFlags::NO_HEALTHY_UPSTREAM, details::NO_HEALTHY_UPSTREAM, sentence)
    }

    /// The cluster as it is now, its settings and endpoints included, where it is another than this one.
    pub(super) fn cluster_now(&self, cluster: &Arc<Cluster>) -> Option<Arc<Cluster>> {
        let running = self.worker.running();
        if std::ptr::eq(&*running.snapshot, self.snapshot) {
            return None;
        }
        running.snapshot.cluster_by_name(&cluster.name).filter(|now| !Arc::ptr_eq(now, cluster)).cloned()
    }

    /// One attempt on one endpoint. The outer error ends the exchange; the inner one may be tried again.
    async fn attempt(
        &mut self,
        down: &mut DownstreamStream<'_>,
        timeout: Option<Duration>,
        policy: Option<&RetryPolicy>,
        endpoint: &Rc<WorkerEndpoint>,
    ) -> Result<Result<(UpstreamStream, BodyLength), End>, Failure> {
        let pool = endpoint.pool_for(self.conn.is_http2);
        // What an earlier attempt's hops said is not of this one.
        self.inner_hops = None;
        self.upstream_local = None;
        // A switch of protocols is HTTP/1.1's, and takes the connection with it.
        let own_connection = self.websocket && pool.plan.may_be_http2();
        let lease = loop {
            let lease = match if own_connection { None } else { pool.try_acquire() } {
                Some(lease) => lease,
                None => match self.wait_for_connection(down, pool).await? {
                    Ok(lease) => lease,
                    Err(error) => {
                        if matches!(error, AcquireError::PendingOverflow) {
                            // As in Envoy no host is named by what had no place to wait for one.
                            self.endpoint = None;
                        }
                        return Ok(Err(End::Acquire(error)));
                    }
                },
            };
            // Sent on a connection that the upstream has closed, it would be lost, or worse: perhaps not.
            if self.request.method.is_idempotent() || !lease.has_ended() {
                break lease;
            }
        };
        self.upstream_local = lease.local();
        pool.introduce(&lease, &self.worker.shared, &mut self.request.headers);
        self.enter(State::Serialise);
        if self.asked == Asked::Hops {
            // Only a sidecar of the mesh is asked; an application has no use for it.
            let name = LEDGER_REQUEST_HEADER.as_bytes();
            if pool.is_mesh(&lease) {
                self.request.headers.set(name, HOPS.as_bytes());
            } else {
                self.request.headers.remove(name);
            }
        }
        let mut stream = match UpstreamStream::start(lease, pool.clone(), self.request, self.upload.length()) {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(End::Attempt(error))),
        };
        if self.websocket {
            stream.ask_for_websocket();
        }
        let idle = policy.and_then(|policy| policy.per_try_idle_timeout).filter(|limit| !limit.is_zero());
        if idle.is_some() {
            self.patience.set_per_try_idle(idle, Instant::now());
        }
        let per_try = policy.and_then(|policy| policy.per_try_timeout).filter(|limit| !limit.is_zero());
        let was_uploaded = self.upload.is_finished();
        let clock = &self.worker.clock;
        let came = Cell::new(None);
        // Envoy counts both from the end of the request: a slow upload is not the upstream's fault.
        let on_uploaded = |patience: &mut super::patience::Patience| {
            came.set(Some(clock.now()));
            if per_try.is_none() && (timeout.is_none() || was_uploaded) {
                return;
            }
            let now = Instant::now();
            patience.set_per_try(per_try.and_then(|limit| now.checked_add(limit)));
            if !was_uploaded {
                patience.set_overall(timeout.and_then(|limit| now.checked_add(limit)));
            }
        };
        let wait = relay::Wait {
            response: &mut self.response,
            patience: &mut self.patience,
            ledger: &mut self.ledger,
            clock,
            websocket: self.websocket,
            passes_100: self.manager.proxy_100_continue,
        };
        let result = relay::until_head(&mut stream, down, &mut self.upload, wait, on_uploaded).await;
        self.request_in = self.request_in.or(came.get());
        self.patience.set_per_try(None);
        if result.is_err() {
            self.patience.set_per_try_idle(None, Instant::now());
        }
        match result {
            Ok(length) => {
                if let Some(arrived) = stream.arrived() {
                    self.ledger.split_lag(self.worker.lag(arrived, clock.now()));
                }
                Ok(Ok((stream, length)))
            }
            Err(Broken::Client(error)) => Err(Failure::of_client(&error)),
            Err(Broken::Upstream(error)) => Ok(Err(End::Attempt(error))),
            Err(Broken::Expired(Expired::PerTry)) => Ok(Err(End::PerTry)),
            Err(Broken::Expired(Expired::PerTryIdle)) => Ok(Err(End::PerTryIdle)),
            Err(Broken::Expired(expired)) => {
                let pool = self.cluster.clone();
                if let (Expired::Overall, Some(pool)) = (expired, &pool) {
                    RareEvents::add(&pool.shared.events.request_timeouts);
                    pool.report(self.worker, endpoint, Outcome::Timeout);
                }
                Err(Failure::of_time(expired))
            }
        }
    }

    async fn wait_for_connection(
        &mut self,
        down: &mut DownstreamStream<'_>,
        pool: &Rc<crate::upstream::EndpointPool>,
    ) -> Result<Result<Lease, AcquireError>, Failure> {
        self.enter(State::PoolPending);
        let acquired = {
            let own_connection = self.websocket && pool.plan.may_be_http2();
            let mut acquire = std::pin::pin!(async {
                // Boxed: a handshake's state would make every request's larger.
                if own_connection { Box::pin(pool.open_http1()).await } else { pool.acquire().await }
            });
            let patience = &mut self.patience;
            // A client that goes away gives its place up.
            let watches_client = self.upload.is_finished();
            std::future::poll_fn(|cx| {
                if let std::task::Poll::Ready(result) = acquire.as_mut().poll(cx) {
                    return std::task::Poll::Ready(Ok(result));
                }
                if watches_client && down.poll_gone(cx).is_ready() {
                    return std::task::Poll::Ready(Err(Failure::of_client(
                        &crate::downstream::stream::ClientError::Gone("while it waited for a connection".into()),
                    )));
                }
                patience.poll(cx).map(|expired| Err(Failure::of_time(expired)))
            })
            .await
        };
        self.enter(State::Copy);
        let mut acquired = acquired?;
        if let Ok(lease) = &mut acquired
            && let Some(setup) = lease.setup()
        {
            // Only the request that asked for the connection pays for it.
            let clock = &self.worker.clock;
            self.ledger.reattribute(State::PoolPending, State::UpstreamTls, clock.ticks_of(setup.tls));
            self.ledger.reattribute(State::PoolPending, State::UpstreamConnect, clock.ticks_of(setup.connect));
        } else if acquired.as_ref().is_ok_and(Lease::is_http2) {
            // An open connection, which had no stream to spare.
            self.ledger.reattribute(State::PoolPending, State::StreamWait, u64::MAX);
        }
        Ok(acquired)
    }

    /// Says where the request would have gone that a filter has answered: as in Envoy it belongs to that cluster's service.
    pub(super) fn name_cluster(&mut self, forward: &'a Forward) {
        if self.cluster.is_none() && self.chosen.is_none() {
            self.chosen = self.choose(forward).ok();
        }
    }

    /// The cluster that the request was for, whether or not it got there.
    pub fn asked_cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref().map(|pool| &pool.cluster).or(self.chosen.as_ref())
    }

    pub(super) fn choose(&mut self, forward: &'a Forward) -> Result<Arc<Cluster>, Failure> {
        let missing = |name: &str| {
            let sentence = format!("the cluster {name} is not in the configuration");
            let flags = ResponseFlags::NO_CLUSTER_FOUND;
            Failure::new(forward.cluster_missing_status, flags, details::CLUSTER_NOT_FOUND, sentence)
        };
        match forward.target.choose(self.rng()) {
            Some(Chosen::Cluster(reference)) => {
                let cluster = self.snapshot.cluster(reference).ok_or_else(|| missing(&reference.name))?;
                Ok(cluster.clone())
            }
            Some(Chosen::Weighted(weighted)) => {
                self.weighted = Some(weighted);
                let cluster =
                    self.snapshot.cluster(&weighted.cluster).ok_or_else(|| missing(&weighted.cluster.name))?;
                Ok(cluster.clone())
            }
            Some(Chosen::Header(name)) => {
                let value = self.request.headers.get(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok());
                let cluster = value.and_then(|value| self.snapshot.cluster_by_name(value));
                Ok(cluster.ok_or_else(|| missing(value.unwrap_or_default()))?.clone())
            }
            None => Err(missing("(none)")),
        }
    }

    /// The route's changes to the request, once, before the first attempt.
    fn rewrite(&mut self, host: &VirtualHost, route: &Route, forward: &Forward) {
        let (table, weighted) = (&self.manager.routes, self.weighted);
        let mut order = [
            weighted.map(|weighted| &weighted.request_headers),
            Some(&route.request_headers),
            Some(&host.request_headers),
            Some(&table.request_headers),
        ];
        if table.most_specific_mutation_wins {
            order.reverse();
        }
        if let Some(path) = forward.path_rewrite.apply(&route.matching, &self.request.path) {
            let original = std::mem::replace(&mut self.request.path, path);
            if !self.suppresses_envoy_headers() {
                self.request.headers.set(b"x-envoy-original-path", &original);
                self.is_rewritten = true;
            }
        }
        if order.iter().flatten().any(|mutations| !mutations.is_empty()) {
            // Taken out while it is changed: the context reads the rest of the exchange.
            let mut request = std::mem::take(self.request);
            fields::mutate_request(order.into_iter().flatten(), &mut request, &self.format_context());
            *self.request = request;
        }
        let literal = weighted.and_then(|weighted| weighted.host_rewrite.as_deref().map(str::as_bytes));
        let literal = literal.map(<[u8]>::to_vec).or_else(|| match &forward.host_rewrite {
            HostRewrite::Literal(name) => Some(name.as_bytes().to_vec()),
            HostRewrite::Header(name) => self.request.headers.get(name.as_bytes()).map(<[u8]>::to_vec),
            HostRewrite::None | HostRewrite::Endpoint => None,
        });
        if let Some(authority) = literal {
            self.replace_authority(forward, authority);
        }
    }

    fn replace_authority(&mut self, forward: &Forward, authority: Vec<u8>) {
        let original = std::mem::replace(&mut self.request.authority, authority);
        if forward.append_forwarded_host {
            self.request.headers.append_to_list(b"x-forwarded-host", &original);
        }
        if !self.suppresses_envoy_headers() {
            self.request.headers.set(b"x-envoy-original-host", &original);
        }
    }

    /// How long the upstream has for its answer (Envoy `FilterUtility::setTimeoutHeaders`): the attempt's time, within what is
    /// left of the whole.
    fn tell_timeout(&mut self, forward: &Forward, timeout: Option<Duration>) {
        let per_try = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout).filter(|limit| !limit.is_zero());
        let spent = if self.attempts > 1 { self.since_request_in().unwrap_or_default() } else { Duration::ZERO };
        // Nothing left would read as no limit.
        let left = timeout.map(|limit| limit.saturating_sub(spent).max(Duration::from_millis(1)));
        let Some(expected) = [per_try, left].into_iter().flatten().min() else { return };
        let ms = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        if !self.suppresses_envoy_headers() {
            let name = b"x-envoy-expected-rq-timeout-ms";
            let mut text = itoa::Buffer::new();
            self.request.headers.set_id(HeaderId::XEnvoyExpectedRqTimeoutMs, name, text.format(ms).as_bytes());
        }
        if self.is_grpc
            && forward.grpc_timeout_max.is_some()
            && self.grpc_timeout(Duration::ZERO).is_none_or(|asked| asked.is_zero() || asked > expected)
        {
            fields::write_grpc_timeout(ms.saturating_add(GRPC_TIMEOUT_SLACK_MS), &mut self.request.headers);
        }
    }

    fn attempt_headers(&mut self, host: &VirtualHost, forward: &Forward, endpoint: &WorkerEndpoint) {
        if host.attempt_count_in_request {
            let count = self.attempts;
            let mut text = itoa::Buffer::new();
            let text = text.format(count).as_bytes();
            self.request.headers.set_id(HeaderId::XEnvoyAttemptCount, b"x-envoy-attempt-count", text);
        }
        if forward.host_rewrite == HostRewrite::Endpoint
            && let Some(name) = endpoint.hostname.clone()
        {
            self.replace_authority(forward, name.as_bytes().to_vec());
        }
    }

    /// The number by which a consistent-hash balancer picks.
    fn hash(&mut self, forward: &Forward, cluster: &Cluster) -> Option<u64> {
        if forward.hash.is_empty() || !cluster.policy.load_balancing.algorithm.is_consistent_hash() {
            return None;
        }
        let (hash, cookie) = request_hash(&forward.hash, &self.view(), self.rng());
        self.cookie = cookie;
        hash
    }

    /// The limit of the whole exchange: a gRPC request's own where the route lets it say (Envoy `max_grpc_timeout`), else the
    /// route's.
    fn timeout_of(&self, forward: &Forward) -> Option<Duration> {
        let own = forward.grpc_timeout_max.and_then(|most| self.grpc_timeout(most));
        own.or(forward.timeout).filter(|limit| !limit.is_zero())
    }

    /// A request that certainly was not processed is sent again without counting as a retry. So is one without effects
    /// on a connection that had carried others: the peer closed it while it was idle (RFC 9112, section 9.3.1). But it may have
    /// been processed, and a client's route without retries (`attempts: 0`) wants none then.
    fn is_free_replay(&self, end: &End, policy: Option<&RetryPolicy>, replays: u32, overshot: bool) -> bool {
        match end {
            End::Attempt(AttemptError::Unprocessed(_)) => true,
            // More streams than it takes, which could not be known: as good as never sent. But one that takes none at first would
            // be asked again and again.
            End::Attempt(AttemptError::Refused { limit_known: false }) => !overshot,
            // Whether a body can be sent again is for the caller to see.
            End::Attempt(AttemptError::Idle(_)) => {
                // And once only (RFC 9110, section 9.2.2: a failed automatic retry is not retried); what the route's retries
                // allow comes on top.
                replays == 0 && self.request.method.is_idempotent() && (policy.is_some() || self.conn.is_inbound())
            }
            _ => false,
        }
    }

    fn wants_retry(&self, policy: &RetryPolicy, end: &End) -> bool {
        let all = &policy.request_headers;
        if !all.is_empty() && !all.iter().any(|wanted| wanted.matches(&self.view())) {
            return false;
        }
        let response = &self.response;
        let header = |name: &[u8]| response.headers.get(name);
        retry::wants_retry(
            policy,
            &match end {
                End::Acquire(AcquireError::PendingOverflow) => AttemptEnd::Overflow,
                End::Acquire(_) => AttemptEnd::ConnectFailed,
                End::Attempt(AttemptError::Refused { .. }) => AttemptEnd::Refused,
                End::Attempt(AttemptError::Unprocessed(_)) => AttemptEnd::ResetBeforeRequest,
                End::Attempt(_) => AttemptEnd::Reset,
                End::PerTry | End::PerTryIdle => AttemptEnd::PerTryTimeout,
                End::Status => AttemptEnd::Response { status: response.status, header: &header },
            },
        )
    }

    /// The permit for one more retry, if the policy, the body and the cluster allow one; else the flag that says why
    /// there is none (Envoy `RetryStateImpl::shouldRetry`, whose giving up for a large body has no flag). The permit of
    /// the retry before must have been given back: it is over.
    fn next_retry(
        &self,
        policy: Option<&RetryPolicy>,
        pool: &ClusterPool,
        done: u32,
    ) -> Result<RetryPermit, ResponseFlags> {
        if !self.upload.can_repeat() {
            return Err(ResponseFlags::NONE);
        }
        if policy.is_none_or(|policy| done >= policy.num_retries) {
            return Err(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
        if !pool.shared.try_take_retry(&pool.cluster.policy.limits) {
            RareEvents::add(&pool.shared.events.retry_overflows);
            return Err(ResponseFlags::UPSTREAM_OVERFLOW);
        }
        Ok(RetryPermit(pool.shared.clone()))
    }

    /// The status that outlier detection hears of: a gRPC failure comes with 200. Only what stands in the head counts, as
    /// in Envoy (`Filter::onUpstreamHeaders`): when trailers come the response has been given already.
    fn judged_status(&self) -> u16 {
        let grpc = if self.is_grpc { fields::grpc_status(&self.response.headers) } else { None };
        grpc.map_or(self.response.status, fields::http_status_of_grpc)
    }

    async fn back_off(
        &mut self,
        down: &mut DownstreamStream<'_>,
        policy: &RetryPolicy,
        retry: u32,
    ) -> Result<(), Failure> {
        self.enter(State::RetryBackoff);
        let wait = retry::backoff(policy, retry, self.rng());
        let mut sleep = std::pin::pin!(tokio::time::sleep(wait));
        let patience = &mut self.patience;
        let watches_client = self.upload.is_finished();
        std::future::poll_fn(|cx| {
            if sleep.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(Ok(()));
            }
            if watches_client && down.poll_gone(cx).is_ready() {
                let gone = crate::downstream::stream::ClientError::Gone("between two attempts".into());
                return std::task::Poll::Ready(Err(Failure::of_client(&gone)));
            }
            patience.poll(cx).map(|expired| Err(Failure::of_time(expired)))
        })
        .await
    }
}
