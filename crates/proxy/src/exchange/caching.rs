//! The cache filter's part in an exchange: answer from it, ask the origin whether it still holds, store what comes.

use super::attempt::Up;
use super::context::{Ended, Exchange};
use super::details;
use super::filters::Passed;
use crate::downstream::stream::DownstreamStream;
use crate::filters::cache::{Freshened, Lookup, Pending, Revalidation, Scope, Served, ServedKind, StoreWriter};
use crate::http::{HeaderId, RequestHead};
use celerity_model::snapshot::{Action, Forward, HostRewrite, Route, VirtualHost};
use celerity_telemetry::ResponseFlags;
use celerity_telemetry::metrics::names;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the cache waits for.
pub(crate) enum Caching {
    /// A response that may be stored.
    Pending(Pending),
    /// Word whether a stored response still holds.
    Revalidation(Revalidation),
    /// The response to a request that may change what is stored; the request as it was sent.
    Changes(Box<RequestHead>),
}

/// What to do with the upstream's response.
pub(super) enum Consulted {
    Relay(Up),
    Answered(Ended),
    /// The origin's 304 speaks of a response that is not there: ask for the whole one.
    Again,
}

/// Seconds since 1970: HTTP dates have no finer unit.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl<'a> Exchange<'a> {
    pub(super) async fn cached(
        &mut self,
        down: &mut DownstreamStream<'_>,
        host: &VirtualHost,
        route: &'a Route,
    ) -> Passed {
        // What answers by itself, and what has no cluster to go to, has nothing to store.
        let Action::Forward(forward) = &route.action else { return Passed::On };
        let Ok(cluster) = self.choose(forward) else { return Passed::On };
        let changes = self.changes(host, route, forward);
        let scope = Scope { cluster: cluster.name.clone(), is_inbound: self.conn.is_inbound(), changes };
        // A hit ends the chain: a policy that stands behind this filter would not be heard.
        if self.cors.is_none() {
            self.admit_origin(route);
        }
        // Drawn once: what comes of it is stored under this cluster.
        self.chosen = Some(cluster);
        match self.worker.shared.cache.lookup(scope, self.request, now_s()) {
            Lookup::Bypass => {
                if !self.request.method.is_safe() {
                    self.caching = Some(Caching::Changes(Box::new(self.request.clone())));
                }
                Passed::On
            }
            Lookup::Served(served) => Passed::Answered(self.serve_stored(down, *served).await),
            Lookup::OnlyIfCached => {
                self.details = details::NOT_IN_CACHE;
                Passed::Answered(self.reply(down, 504, b"not in the cache", ResponseFlags::NONE).await)
            }
            Lookup::Miss(pending) => {
                self.worker.count(&names::CACHE_MISSES);
                self.caching = Some(Caching::Pending(pending));
                Passed::On
            }
            Lookup::Revalidate(revalidation) => {
                revalidation.conditions(self.request);
                self.caching = Some(Caching::Revalidation(revalidation));
                Passed::On
            }
        }
    }

    /// What the route will make of the request, as far as an origin's answer may depend on it. Of changes to headers their
    /// rules count and not what comes of them: an answer that depends on a header's value says so with Vary.
    fn changes(&self, host: &VirtualHost, route: &Route, forward: &Forward) -> u64 {
        let mut changes = DefaultHasher::new();
        let weighted = self.weighted;
        forward.path_rewrite.apply(&route.matching, &self.request.path).hash(&mut changes);
        match (weighted.and_then(|weighted| weighted.host_rewrite.as_deref()), &forward.host_rewrite) {
            (Some(name), _) => name.hash(&mut changes),
            (None, HostRewrite::Literal(name)) => name.hash(&mut changes),
            (None, HostRewrite::Header(name)) => (name, self.request.headers.get(name.as_bytes())).hash(&mut changes),
            (None, HostRewrite::Endpoint | HostRewrite::None) => {}
        }
        let weighted = weighted.map(|weighted| &weighted.request_headers);
        let rules =
            [Some(&route.request_headers), Some(&host.request_headers), Some(&self.manager.routes.request_headers)];
        for rules in rules.into_iter().chain([weighted]).flatten().filter(|rules| !rules.is_empty()) {
            rules.hash(&mut changes);
        }
        changes.finish()
    }

    /// Answers with what is stored, as the origin gave it, and the changes that the configuration has for responses.
    async fn serve_stored(&mut self, down: &mut DownstreamStream<'_>, served: Served) -> Ended {
        let kind = match served.kind {
            ServedKind::Fresh => "fresh",
            ServedKind::Revalidated => "revalidated",
            ServedKind::Stale | ServedKind::StaleOnError => "stale",
        };
        self.worker.count_labelled(&names::CACHE_HITS, "kind", kind);
        self.flags.insert(ResponseFlags::RESPONSE_FROM_CACHE_FILTER);
        self.details = details::FROM_CACHE;
        self.response = served.head;
        self.own_mutations();
        self.respond(down, &served.body).await
    }

    /// Hears the upstream's response, once its head is there and before anything of it goes to the client.
    pub(super) async fn consult_cache(&mut self, down: &mut DownstreamStream<'_>, up: Up) -> Consulted {
        let cache = &self.worker.shared.cache;
        let pending = match self.caching.take() {
            None => return Consulted::Relay(up),
            Some(Caching::Changes(request)) => {
                cache.invalidate(&request, &self.response);
                return Consulted::Relay(up);
            }
            Some(Caching::Pending(pending)) => pending,
            Some(Caching::Revalidation(revalidation)) => match self.response.status {
                304 => match cache.freshen(&revalidation, &self.response, now_s()) {
                    Freshened::Serve(served) => {
                        drop(up);
                        return Consulted::Answered(self.serve_stored(down, *served).await);
                    }
                    Freshened::Forward => return Consulted::Relay(up),
                    Freshened::Retry => {
                        revalidation.own_conditions(self.request);
                        self.caching = Some(Caching::Pending(revalidation.into_pending()));
                        return Consulted::Again;
                    }
                },
                500 | 502..=504 => match revalidation.on_error(now_s()) {
                    Some(served) => {
                        drop(up);
                        return Consulted::Answered(self.serve_stored(down, *served).await);
                    }
                    None => revalidation.into_pending(),
                },
                _ => revalidation.into_pending(),
            },
        };
        // `max_body_bytes`: what tells its length is left alone at once, the rest when it turns out larger.
        let told = self.response.headers.get_id(HeaderId::ContentLength);
        let told = told.and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
        if let (Some(told), Some(most)) = (told, self.cache_body_bytes_max)
            && told > u64::from(most)
        {
            return Consulted::Relay(up);
        }
        self.store = cache.begin_store(pending, &self.response, now_s());
        Consulted::Relay(up)
    }

    /// A stored response that may stand in for an origin that does not answer.
    pub(super) async fn stale_instead(&mut self, down: &mut DownstreamStream<'_>) -> Option<Ended> {
        match self.caching.take() {
            Some(Caching::Revalidation(revalidation)) => {
                let served = revalidation.on_error(now_s())?;
                Some(self.serve_stored(down, *served).await)
            }
            _ => None,
        }
    }

    /// Gives a piece of the response to the cache, which lets go of what turns out too large.
    pub(super) fn tee(store: &mut Option<StoreWriter>, left: &mut u64, piece: &[u8]) {
        if piece.len() as u64 > *left {
            *store = None;
        }
        *left = left.saturating_sub(piece.len() as u64);
        if store.as_mut().is_some_and(|writer| !writer.push(piece)) {
            *store = None;
        }
    }
}
