//! A shared HTTP cache (RFC 9111), one for all workers, bounded in bytes.
//!
//! ```text
//!   lookup ─► Bypass      forward; afterwards `invalidate`
//!          ─► Served      answer with it
//!          ─► OnlyIfCached  answer 504
//!          ─► Miss        forward; `begin_store`, feed the body, `finish`
//!          ─► Revalidate  `conditions` on the request, forward
//!                           304  ─► `freshen`
//!                           5xx or no answer ─► `on_error`
//!                           else ─► `into_pending`, and as for Miss
//! ```
//!
//! The decisions are pure and stand in `policy`. Times are seconds since 1970: HTTP dates have no finer grain.
//! Not done: stale-while-revalidate (an answer that is stale is revalidated first, as without the directive),
//! collapsing of misses that run at once, storing of partial responses, updating by HEAD.

mod control;
mod date;
mod key;
mod policy;
mod range;
mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use self::control::CacheControl;
use self::key::Key;
use self::policy::{Freshness, Use, VaryKey};
use self::stored::{Stored, storable_head};
use crate::http::{HeaderId, Method, RequestHead, ResponseHead};

/// The default bound on all stored responses: a sidecar should not outgrow the service beside it.
pub const CACHE_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// The default bound on one response: larger ones would push out a thousand small ones and gain little.
pub const OBJECT_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Bodies being collected, all requests together, as a share of the cache: an eighth.
const BUILDING_DIVISOR: u64 = 8;
/// Stored responses of one URI. Beyond it the oldest goes: an origin that varies on User-Agent fills no cache.
const VARIANTS_MAX: usize = 16;

/// The bounds of a cache, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    pub bytes_max: u64,
    pub object_bytes_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { bytes_max: CACHE_BYTES_MAX, object_bytes_max: OBJECT_BYTES_MAX }
    }
}

/// Where a request goes: one URI may lead to several services, a canary for instance, and each has its own responses.
/// Envoy has the cluster's name in its key (`CacheFilter`, `Key.cluster_name`). Here it is matched like a field of Vary, so
/// that one look-up finds, and one invalidation forgets, a URI's responses of all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub cluster: Arc<str>,
    /// Of the workload's own service, and not of one that it calls.
    pub is_inbound: bool,
    /// What the route makes of the request on its way, as a hash: with two routes to one cluster, a rewritten path asks for
    /// something else than the URI says. Envoy's key has no part for it.
    pub changes: u64,
}

/// The stored responses of one URI, newest first.
type Variants = Arc<[Arc<Stored>]>;

/// A shared cache. A clone is the same cache.
#[derive(Clone, Debug)]
pub struct Cache {
    entries: moka::sync::Cache<Key, Variants>,
    limits: CacheLimits,
    building_bytes: Arc<AtomicUsize>,
}

/// What the cache says to a request.
#[derive(Debug)]
pub enum Lookup {
    /// The cache has no part in this request. Call `invalidate` when its response is there.
    Bypass,
    /// Answer with this. Boxed: a head is half a kilobyte, and this value lies in every request's future.
    Served(Box<Served>),
    /// The client wants a stored response or none, and there is none: answer 504 (section 5.2.1.7).
    OnlyIfCached,
    /// Nothing usable is stored. Forward, and offer the response to `begin_store`.
    Miss(Pending),
    /// Something is stored that the origin must confirm.
    Revalidate(Revalidation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedKind {
    Fresh,
    /// Stale, and the client said that it takes stale responses.
    Stale,
    /// Confirmed by the origin just now.
    Revalidated,
    /// Stale, and the origin failed.
    StaleOnError,
}

/// A complete answer. `body` is empty for HEAD and for 304; the head's Content-Length is right in each case.
#[derive(Debug)]
pub struct Served {
    pub head: ResponseHead,
    pub body: Bytes,
    pub kind: ServedKind,
}

/// A request whose response may be stored.
#[derive(Debug)]
pub struct Pending {
    key: Key,
    scope: Scope,
    request: Box<RequestHead>,
    requested_s: u64,
    /// A stored response that this request's response makes obsolete.
    replaces: Option<Arc<Stored>>,
}

/// A request that asks the origin whether a stored response still holds.
#[derive(Debug)]
pub struct Revalidation {
    pending: Pending,
    stored: Arc<Stored>,
    has_validator: bool,
    stale_on_error: bool,
}

/// What a 304 means.
#[derive(Debug)]
pub enum Freshened {
    /// The stored response holds: answer with this.
    Serve(Box<Served>),
    /// The 304 answers the client's own condition: pass it on.
    Forward,
    /// The 304 speaks of a response that we do not have: send the request again without conditions.
    Retry,
}

impl Revalidation {
    /// Puts the stored validators on the request in place of the client's own conditions (section 4.3.1), which are
    /// weighed when the answer is there. Leaves the client's where nothing stored can be confirmed.
    pub fn conditions(&self, request: &mut RequestHead) {
        if !self.has_validator {
            return;
        }
        let headers = &mut request.headers;
        headers.remove_id(HeaderId::IfNoneMatch);
        headers.remove_id(HeaderId::IfModifiedSince);
        if let Some(etag) = self.stored.head.headers.get_id(HeaderId::Etag) {
            headers.push(b"if-none-match", etag);
        }
        if let Some(changed) = self.stored.head.headers.get_id(HeaderId::LastModified) {
            headers.push(b"if-modified-since", changed);
        }
    }

    /// Puts the client's own conditions back in place of those of `conditions`, for a request that asks for the whole.
    pub fn own_conditions(&self, request: &mut RequestHead) {
        if !self.has_validator {
            return;
        }
        for id in [HeaderId::IfNoneMatch, HeaderId::IfModifiedSince] {
            request.headers.remove_id(id);
        }
        let own = self.pending.request.headers.iter();
        for header in own.filter(|header| matches!(header.id, HeaderId::IfNoneMatch | HeaderId::IfModifiedSince)) {
            request.headers.push(header.name, header.value);
        }
    }

    /// The stored response, where the origin answered 500, 502, 503 or 504 or not at all and it may stand in
    /// (RFC 5861, section 4).
    pub fn on_error(&self, now_s: u64) -> Option<Box<Served>> {
        self.stale_on_error.then(|| served(&self.stored, &self.pending.request, now_s, ServedKind::StaleOnError))
    }

    /// The request as one whose response may be stored, once that is neither a 304 nor an error to stand in for.
    pub fn into_pending(self) -> Pending {
        self.pending
    }
}

fn served(stored: &Stored, request: &RequestHead, now_s: u64, kind: ServedKind) -> Box<Served> {
    let (head, body) = stored.answer(request, now_s);
    Box::new(Served { head, body, kind })
}

impl Cache {
    pub fn new(limits: CacheLimits) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(limits.bytes_max)
            .weigher(|key: &Key, variants: &Variants| {
                let bytes = key.bytes() + variants.iter().map(|stored| stored.bytes()).sum::<usize>();
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .build();
        Self { entries, limits, building_bytes: Arc::default() }
    }

    /// Bytes that the stored responses weigh, as of the cache's last housekeeping.
    pub fn bytes(&self) -> u64 {
        self.entries.weighted_size()
    }

    /// What to do with a request: at most a look-up in a concurrent map, and for a miss a copy of its head.
    pub fn lookup(&self, scope: Scope, request: &RequestHead, now_s: u64) -> Lookup {
        if !matches!(request.method, Method::Get | Method::Head) {
            return Lookup::Bypass;
        }
        // These ask the origin about its present state, which no cache may answer (RFC 9110, section 13.1.1).
        if request.headers.contains_id(HeaderId::IfMatch) || request.headers.contains_id(HeaderId::IfUnmodifiedSince) {
            return Lookup::Bypass;
        }
        let control = CacheControl::of(&request.headers);
        let key = Key::of(request);
        let variants = self.entries.get(&key);
        let stored = variants
            .as_ref()
            .and_then(|variants| variants.iter().find(|stored| stored.scope == scope && stored.vary.matches(request)))
            .map(Arc::clone);
        let pending = |key, replaces| {
            let request = Box::new(request.clone());
            Pending { key, scope, request, requested_s: now_s, replaces }
        };
        let Some(stored) = stored else {
            return if control.only_if_cached { Lookup::OnlyIfCached } else { Lookup::Miss(pending(key, None)) };
        };
        match policy::usable(&control, policy::pragma_no_cache(&request.headers), &stored.freshness, now_s) {
            Use::Serve => {
                let fresh = stored.freshness.lifetime_s > stored.freshness.age_s(now_s);
                let kind = if fresh { ServedKind::Fresh } else { ServedKind::Stale };
                Lookup::Served(served(&stored, request, now_s, kind))
            }
            Use::Revalidate { .. } if control.only_if_cached => Lookup::OnlyIfCached,
            Use::Revalidate { stale_on_error } => {
                let headers = &stored.head.headers;
                Lookup::Revalidate(Revalidation {
                    pending: pending(key, Some(Arc::clone(&stored))),
                    has_validator: headers.contains_id(HeaderId::Etag) || headers.contains_id(HeaderId::LastModified),
                    stored,
                    stale_on_error,
                })
            }
        }
    }

    /// Takes up a 304 (section 4.3.4).
    pub fn freshen(&self, revalidation: &Revalidation, not_modified: &ResponseHead, now_s: u64) -> Freshened {
        if !revalidation.has_validator {
            return Freshened::Forward;
        }
        let Pending { key, request, requested_s, .. } = &revalidation.pending;
        match revalidation.stored.freshened(not_modified, request, *requested_s, now_s) {
            Some(fresh) => {
                let answer = served(&fresh, request, now_s, ServedKind::Revalidated);
                if policy::may_store(&as_get(request), &fresh.head) {
                    self.replace(key.clone(), Some(&revalidation.stored), Some(fresh));
                } else {
                    self.replace(key.clone(), Some(&revalidation.stored), None);
                }
                Freshened::Serve(answer)
            }
            None => {
                self.replace(key.clone(), Some(&revalidation.stored), None);
                Freshened::Retry
            }
        }
    }

    /// Begins to store a response, if it may be stored. Give it the head as it came from the origin, before other
    /// filters change it for this client. `now_s` is when the head came.
    pub fn begin_store(&self, pending: Pending, response: &ResponseHead, now_s: u64) -> Option<StoreWriter> {
        let freshness = Freshness::of(response, pending.requested_s, now_s);
        let len = content_length(response);
        let wanted = policy::may_store(&pending.request, response)
            && policy::worth_storing(response, &freshness)
            && len.is_none_or(|len| len <= self.limits.object_bytes_max as u64);
        if !wanted {
            if pending.request.method == Method::Get
                && let Some(obsolete) = pending.replaces.filter(|stored| is_newer(response, stored))
            {
                self.replace(pending.key, Some(&obsolete), None);
            }
            return None;
        }
        let head = storable_head(response, now_s);
        let vary = VaryKey::of(&response.headers, &pending.request);
        Some(StoreWriter {
            cache: self.clone(),
            replaces: pending.replaces,
            key: pending.key,
            request: pending.request,
            stored: Stored { head, body: Bytes::new(), scope: pending.scope, vary, freshness },
            body: Vec::new(),
            len,
            aborted: false,
        })
    }

    /// Forgets what an unsafe request has changed (section 4.4): its own URI, and those of Location and
    /// Content-Location within its origin. Call it with every final response that was forwarded; it looks for itself.
    pub fn invalidate(&self, request: &RequestHead, response: &ResponseHead) {
        if request.method.is_safe() || !(200..400).contains(&response.status) {
            return;
        }
        self.entries.invalidate(&Key::of(request));
        let references = [response.headers.get_id(HeaderId::Location), response.headers.get(b"content-location")];
        for reference in references.into_iter().flatten() {
            if let Some(key) = Key::of_reference(request, reference) {
                self.entries.invalidate(&key);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries.invalidate_all();
    }

    /// Puts a response in front of a URI's others, without those that it replaces: `old`, and any of its own key.
    fn replace(&self, key: Key, old: Option<&Arc<Stored>>, new: Option<Stored>) {
        let new = new.map(Arc::new);
        self.entries.entry(key).and_compute_with(|entry| {
            let present = entry.map(moka::Entry::into_value);
            let others = present.iter().flat_map(|variants| variants.iter()).filter(|stored| {
                !old.is_some_and(|old| Arc::ptr_eq(old, stored))
                    && !new.as_ref().is_some_and(|new| new.scope == stored.scope && new.vary == stored.vary)
            });
            let kept: Variants = new.iter().chain(others).take(VARIANTS_MAX).map(Arc::clone).collect();
            if !kept.is_empty() {
                moka::ops::compute::Op::Put(kept)
            } else if present.is_some() {
                moka::ops::compute::Op::Remove
            } else {
                moka::ops::compute::Op::Nop
            }
        });
    }
}

/// A HEAD may freshen what a GET has stored.
fn as_get(request: &RequestHead) -> RequestHead {
    RequestHead { method: Method::Get, ..request.clone() }
}

/// Whether a response that is not stored makes a stored one obsolete. A 5xx or a 304 says nothing about the resource, nor
/// does a 416; a part (206) is of the stored whole unless its ETag is another.
fn is_newer(response: &ResponseHead, stored: &Stored) -> bool {
    match response.status {
        304 | 416 => false,
        206 => {
            let etag = |head: &ResponseHead| head.headers.get_id(HeaderId::Etag).map(<[u8]>::to_vec);
            etag(response).is_some_and(|part| etag(&stored.head).is_some_and(|whole| whole != part))
        }
        status => status < 500,
    }
}

/// `None` where it is absent or no number; the body then ends as its framing says.
fn content_length(response: &ResponseHead) -> Option<u64> {
    let value = response.headers.get_id(HeaderId::ContentLength)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Collects the body of a response that is being forwarded. Dropping it stores nothing.
#[derive(Debug)]
pub struct StoreWriter {
    cache: Cache,
    replaces: Option<Arc<Stored>>,
    key: Key,
    request: Box<RequestHead>,
    stored: Stored,
    body: Vec<u8>,
    len: Option<u64>,
    aborted: bool,
}

impl StoreWriter {
    /// Takes a piece of the body. False once it has grown beyond a bound: there is no use in giving more.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        if self.aborted {
            return false;
        }
        let limits = self.cache.limits;
        let building_max = (limits.bytes_max / BUILDING_DIVISOR) as usize;
        let building = self.cache.building_bytes.fetch_add(piece.len(), Relaxed) + piece.len();
        self.body.extend_from_slice(piece);
        if self.body.len() > limits.object_bytes_max || building > building_max.max(limits.object_bytes_max) {
            self.abort();
        }
        !self.aborted
    }

    /// Stores the response. Call it only where the body has come to its proper end; false where it was given up, or
    /// is not as long as its Content-Length said (section 3.3).
    pub fn finish(mut self) -> bool {
        if self.aborted || self.len.is_some_and(|len| len != self.body.len() as u64) {
            return false;
        }
        let head = std::mem::take(&mut self.stored.head);
        let vary = std::mem::take(&mut self.stored.vary);
        let body = Bytes::copy_from_slice(&self.body);
        let (scope, freshness) = (self.stored.scope.clone(), self.stored.freshness.clone());
        let stored = Stored { head, body, scope, vary, freshness };
        debug_assert!(stored.vary.matches(&self.request), "a response must answer the request that brought it");
        self.cache.replace(self.key.clone(), self.replaces.as_ref(), Some(stored));
        true
    }

    fn abort(&mut self) {
        self.cache.building_bytes.fetch_sub(self.body.len(), Relaxed);
        self.body = Vec::new();
        self.aborted = true;
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.cache.building_bytes.fetch_sub(self.body.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
