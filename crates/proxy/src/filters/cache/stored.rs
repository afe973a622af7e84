//! A stored response: what is kept of it, how it is freshened, and what is served from it.

use bytes::Bytes;
use celerity_telemetry::HOP_HEADER;

use super::Scope;
use super::control::CacheControl;
use super::date;
use super::policy::{Freshness, VaryKey, is_strong, not_modified};
use super::range::{self, Range};
use crate::http::{HeaderId, Headers, Method, RequestHead, ResponseHead};

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) head: ResponseHead,
    pub(super) body: Bytes,
    pub(super) scope: Scope,
    pub(super) vary: VaryKey,
    pub(super) freshness: Freshness,
}

/// Fixed cost of a stored response: its structs and the map's own.
const OVERHEAD_BYTES: usize = 1_024;

impl Stored {
    pub(super) fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.head.headers.list_size() + self.vary.bytes() + self.body.len()
    }

    /// This response with the fields of a 304 (RFC 9111, sections 3.2 and 4.3.4). `None` where the 304 speaks of
    /// another representation.
    pub(super) fn freshened(
        &self,
        not_modified: &ResponseHead,
        request: &RequestHead,
        requested_s: u64,
        now_s: u64,
    ) -> Option<Self> {
        let mine = &self.head.headers;
        let theirs = &not_modified.headers;
        if let (Some(theirs), mine) = (theirs.get_id(HeaderId::Etag), mine.get_id(HeaderId::Etag)) {
            let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
            let same = mine
                .is_some_and(|mine| if is_strong(theirs) { mine == theirs } else { opaque(mine) == opaque(theirs) });
            if !same {
                return None;
            }
        }
        let mut head = self.head.clone();
        let updates = storable_headers(theirs, |id, name| {
            // What belongs to the stored body stays with it; a 304's own length is none.
            !matches!(id, HeaderId::ContentLength | HeaderId::Etag)
                && !matches!(name, b"content-encoding" | b"content-range" | b"content-md5")
        });
        head.headers.retain(|header| !updates.iter().any(|update| update.name == header.name));
        for update in updates.iter() {
            head.headers.push(update.name, update.value);
        }
        if !theirs.contains_id(HeaderId::Date) {
            head.headers.set(b"date", date::format(now_s).as_bytes());
        }
        // Its age starts again from the 304's own Age, which is not among the stored fields.
        let mut dated = head.clone();
        for age in theirs.all_id(HeaderId::Age) {
            dated.headers.push(b"age", age);
        }
        let freshness = Freshness::of(&dated, requested_s, now_s);
        let vary = VaryKey::of(&head.headers, request);
        Some(Self { head, body: self.body.clone(), scope: self.scope.clone(), vary, freshness })
    }

    /// The answer to a request: 304 to a condition that holds, a part to a range, else the whole.
    pub(super) fn answer(&self, request: &RequestHead, now_s: u64) -> (ResponseHead, Bytes) {
        let mut head = self.head.clone();
        head.headers.set(b"age", self.freshness.age_s(now_s).min(1 << 31).to_string().as_bytes());
        if not_modified(&request.headers, &self.head, self.freshness.received_s) {
            head.status = 304;
            head.headers.retain(|header| {
                !header.name.starts_with(b"content-")
                    || matches!(header.name, b"content-location" | b"content-security-policy")
            });
            return (head, Bytes::new());
        }
        let mut body = self.body.clone();
        if request.method == Method::Get && head.status == 200 {
            match range::requested(request, &self.head, body.len(), now_s) {
                Range::Whole => {}
                Range::Part { start, end } => {
                    let of = format!("bytes {start}-{}/{}", end - 1, body.len());
                    head.status = 206;
                    head.headers.set(b"content-range", of.as_bytes());
                    body = body.slice(start..end);
                }
                Range::Unsatisfiable => {
                    head = ResponseHead::new(416);
                    head.headers.push(b"content-range", format!("bytes */{}", body.len()).as_bytes());
                    head.headers.push(b"date", date::format(now_s).as_bytes());
                    body = Bytes::new();
                }
            }
        }
        if head.status != 204 {
            head.headers.set(b"content-length", body.len().to_string().as_bytes());
        }
        if request.method == Method::Head {
            body = Bytes::new();
        }
        (head, body)
    }
}

/// The head as it is stored: without the fields of one connection (section 3.1) and those that the origin keeps from
/// us, and with the Date that a recipient must add (RFC 9110, section 6.6.1).
pub(super) fn storable_head(response: &ResponseHead, now_s: u64) -> ResponseHead {
    let mut head = ResponseHead::new(response.status);
    head.headers = storable_headers(&response.headers, |id, _| id != HeaderId::ContentLength);
    if !head.headers.contains_id(HeaderId::Date) {
        head.headers.push(b"date", date::format(now_s).as_bytes());
    }
    head
}

/// Set-Cookie stays: section 7.3 leaves it to the origin to forbid its storing, and names `no-cache="set-cookie"`.
fn storable_headers(headers: &Headers, keep: impl Fn(HeaderId, &[u8]) -> bool) -> Headers {
    let control = CacheControl::of(headers);
    let connection: Vec<Vec<u8>> = headers
        .all_id(HeaderId::Connection)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect();
    let named = |list: &[Vec<u8>], name: &[u8]| list.iter().any(|entry| entry == name);
    let mut kept = Headers::new();
    for header in headers.iter() {
        let dropped = header.id.is_hop_by_hop()
            || matches!(header.id, HeaderId::Age | HeaderId::Trailer)
            || matches!(header.name, b"proxy-authenticate" | b"proxy-authentication-info" | b"proxy-authorization")
            || header.name == HOP_HEADER.as_bytes()
            || named(&connection, header.name)
            || named(&control.private_fields, header.name)
            || named(&control.no_cache_fields, header.name);
        if !dropped && keep(header.id, header.name) {
            kept.push(header.name, header.value);
        }
    }
    kept
}
