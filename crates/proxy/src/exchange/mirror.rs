//! Shadow requests: copies that go to another cluster, whose answers nobody sees (Envoy `request_mirror_policies`).
//!
//! A mirror must cost the client nothing: it is a task of its own, is never retried, and is left out when too many are
//! under way. Only a request whose whole body is here is copied, so that no upload waits for its mirror.

use super::attempt::RequestPermit;
use super::context::Exchange;
use super::end::{End, outcome_of};
use super::kept::Charge;
use crate::h1::BodyLength;
use crate::http::{HeaderId, RequestHead, ResponseHead};
use crate::outlier::Outcome;
use crate::upstream::cluster::Wanted;
use crate::upstream::{AttemptError, UpstreamStream};
use crate::worker::Worker;
use celerity_model::snapshot::{Cluster, Forward};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

/// Mirrors under way in one worker. Each may hold a body of 64 KiB, so that a shadow that hangs costs 16 MiB at most; larger
/// ones share the worker's account.
const MIRRORS_IN_FLIGHT_MAX: u32 = 256;

/// The longest life of a mirror whose route sets no timeout.
const MIRROR_TIME_MAX: Duration = Duration::from_secs(60);

/// One of the mirrors under way.
struct InFlight(Rc<Worker>);

impl InFlight {
    fn begin(worker: &Rc<Worker>) -> Option<Self> {
        let count = worker.mirrors.get();
        (count < MIRRORS_IN_FLIGHT_MAX).then(|| {
            worker.mirrors.set(count + 1);
            Self(worker.clone())
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

impl Exchange<'_> {
    /// Sends the route's mirrors, once, as soon as the whole request is known. `at_end`: it won't be known better.
    pub(super) fn mirror(&mut self, forward: &Forward, at_end: bool) {
        // A copy of a request for a switch of protocols that may not switch would be no WebSocket request.
        if forward.mirrors.is_empty() || self.mirrored || !self.rewritten || self.websocket {
            return;
        }
        let Some(body) = self.upload.whole() else {
            if at_end {
                self.mirrored = true;
                let text = format_args!("a request is not mirrored: its body was too large to be kept, or did not end");
                self.worker.shared.log_limited("mirror", text);
            }
            return;
        };
        let mut charge = Charge::new(&self.worker.bodies);
        if !charge.covers(body.len()) {
            self.mirrored = true;
            let text = format_args!("a request is not mirrored: too many large bodies are kept");
            return self.worker.shared.log_limited("mirror", text);
        }
        let (body, charge): (Arc<[u8]>, _) = (body.into(), Rc::new(charge));
        self.mirrored = true;
        for mirror in &forward.mirrors {
            if !mirror.fraction.hits(self.rng()) {
                continue;
            }
            let known = self.snapshot.cluster(&mirror.cluster);
            let Some(cluster) = known.map(|cluster| self.cluster_now(cluster).unwrap_or_else(|| cluster.clone()))
            else {
                let text = format_args!("a request is not mirrored: {} is not configured", mirror.cluster.name);
                self.worker.shared.log_limited("mirror", text);
                continue;
            };
            let Some(in_flight) = InFlight::begin(self.worker) else {
                let text = format_args!("a request is not mirrored: {MIRRORS_IN_FLIGHT_MAX} mirrors are under way");
                self.worker.shared.log_limited("mirror", text);
                continue;
            };
            let mut head = self.request.clone();
            // Nobody waits for a 100: the body goes at once.
            head.headers.remove_id(HeaderId::Expect);
            if mirror.shadow_host_suffix {
                head.authority = shadow_authority(&head.authority);
            }
            let limit = forward.timeout.filter(|limit| !limit.is_zero()).unwrap_or(MIRROR_TIME_MAX);
            let (worker, body, http2) = (self.worker.clone(), (body.clone(), charge.clone()), self.conn.is_http2);
            tokio::task::spawn_local(async move {
                // However it ends, the client has nothing of it.
                let _ = tokio::time::timeout(limit, send(&worker, &cluster, &mut head, &body.0, http2)).await;
                drop(in_flight);
            });
        }
    }
}

/// `-shadow` goes behind the host, before its port (Envoy `disable_shadow_host_suffix_append`).
fn shadow_authority(authority: &[u8]) -> Vec<u8> {
    let bracket = authority.iter().rposition(|&byte| byte == b']').unwrap_or(0);
    let colon = authority.iter().skip(bracket).position(|&byte| byte == b':').map(|at| at + bracket);
    let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
    [host, b"-shadow", port].concat()
}

/// Sends one mirror and throws its answer away. The cluster's limits hold for it, and its outlier detection hears of it.
async fn send(
    worker: &Rc<Worker>,
    cluster: &Arc<Cluster>,
    head: &mut RequestHead,
    body: &[u8],
    http2: bool,
) -> Option<()> {
    let pool = worker.clusters.of(worker, cluster);
    let _permit = RequestPermit::take(&pool.shared, &cluster.policy.limits)?;
    let wanted = Wanted { hash: None, tried: &[], attempts_max: 1, tried_priorities: 0 };
    let (endpoint, _) = pool.pick(worker, &wanted)?;
    let connections = endpoint.pool_for(http2);
    let lease = match connections.acquire().await {
        Ok(lease) => lease,
        Err(error) => {
            if let Some(outcome) = outcome_of(&End::Acquire(error)) {
                pool.report(worker, &endpoint, outcome);
            }
            return None;
        }
    };
    connections.introduce(&lease, &worker.shared, &mut head.headers);
    let length = if body.is_empty() { BodyLength::Empty } else { BodyLength::Exact(body.len() as u64) };
    let stream = UpstreamStream::start(lease, connections.clone(), head, length).ok()?;
    let outcome = match exchange(stream, body).await {
        Ok(status) => Some(Outcome::Status(status)),
        Err(error) => outcome_of(&End::Attempt(error)),
    };
    if let Some(outcome) = outcome {
        pool.report(worker, &endpoint, outcome);
    }
    Some(())
}

async fn exchange(mut stream: UpstreamStream, body: &[u8]) -> Result<u16, AttemptError> {
    let mut rest = body;
    poll_fn(|cx| {
        while !rest.is_empty() {
            let count = ready!(stream.poll_send(cx, rest))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        ready!(stream.poll_finish(cx, None))?;
        stream.poll_flush(cx)
    })
    .await?;
    let mut response = ResponseHead::default();
    loop {
        poll_fn(|cx| stream.poll_head(cx, &mut response)).await?;
        if !response.is_interim() {
            break;
        }
    }
    poll_fn(|cx| {
        while ready!(stream.poll_body(cx))? {
            stream.with_body(|piece| (piece.len(), ()));
        }
        Poll::Ready(Ok::<(), AttemptError>(()))
    })
    .await?;
    Ok(response.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_stands_before_the_port() {
        for (host, shadow) in
            [("a.b", "a.b-shadow"), ("a:80", "a-shadow:80"), ("[::1]:8", "[::1]-shadow:8"), ("", "-shadow")]
        {
            assert_eq!(shadow_authority(host.as_bytes()), shadow.as_bytes());
        }
    }
}
