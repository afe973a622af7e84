//! A message's header section: names and values in one arena, in wire order.
//!
//! A request passes through with ten headers or so, most of them untouched. A hash map per message would hash and
//! allocate for each; here a message is one growing buffer and one list of spans, both reused from one request to
//! the next, and a look-up is a scan over a byte (`HeaderId`) per header. Names are kept in lower case, as HTTP/2
//! requires (RFC 9113, section 8.2.1) and as Envoy writes them on HTTP/1.1 too.
//!
//! The arena holds whole HTTP/1.1 field lines, so that those which pass through untouched are copied in runs: parsing
//! and writing header by header took a third of a request's instructions.

/// The header names that the proxy itself reads or writes. Comparing one byte replaces comparing a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HeaderId {
    Other,
    AcceptEncoding,
    Age,
    Authorization,
    CacheControl,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Etag,
    Expect,
    Expires,
    GrpcStatus,
    Host,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    KeepAlive,
    LastModified,
    Location,
    Origin,
    Pragma,
    ProxyConnection,
    Range,
    Server,
    ServerTiming,
    SetCookie,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Vary,
    Via,
    XCelerityHop,
    XCelerityLedger,
    XCelerityPeer,
    XEnvoyAttemptCount,
    /// Any of those by which a client would control an Envoy, or say what only an Envoy knows.
    XEnvoyControl,
    XEnvoyExpectedRqTimeoutMs,
    XEnvoyUpstreamServiceTime,
    XForwardedClientCert,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    XRequestId,
}

impl HeaderId {
    /// The id of a lower-case name.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"accept-encoding" => Self::AcceptEncoding,
            b"age" => Self::Age,
            b"authorization" => Self::Authorization,
            b"cache-control" => Self::CacheControl,
            b"connection" => Self::Connection,
            b"content-length" => Self::ContentLength,
            b"content-type" => Self::ContentType,
            b"cookie" => Self::Cookie,
            b"date" => Self::Date,
            b"etag" => Self::Etag,
            b"expect" => Self::Expect,
            b"expires" => Self::Expires,
            b"grpc-status" => Self::GrpcStatus,
            b"host" => Self::Host,
            b"if-match" => Self::IfMatch,
            b"if-modified-since" => Self::IfModifiedSince,
            b"if-none-match" => Self::IfNoneMatch,
            b"if-range" => Self::IfRange,
            b"if-unmodified-since" => Self::IfUnmodifiedSince,
            b"keep-alive" => Self::KeepAlive,
            b"last-modified" => Self::LastModified,
            b"location" => Self::Location,
            b"origin" => Self::Origin,
            b"pragma" => Self::Pragma,
            b"proxy-connection" => Self::ProxyConnection,
            b"range" => Self::Range,
            b"server" => Self::Server,
            b"server-timing" => Self::ServerTiming,
            b"set-cookie" => Self::SetCookie,
            b"te" => Self::Te,
            b"trailer" => Self::Trailer,
            b"transfer-encoding" => Self::TransferEncoding,
            b"upgrade" => Self::Upgrade,
            b"user-agent" => Self::UserAgent,
            b"vary" => Self::Vary,
            b"via" => Self::Via,
            b"x-celerity-hop" => Self::XCelerityHop,
            b"x-celerity-ledger" => Self::XCelerityLedger,
            b"x-celerity-peer" => Self::XCelerityPeer,
            b"x-envoy-attempt-count" => Self::XEnvoyAttemptCount,
            b"x-envoy-expected-rq-timeout-ms" => Self::XEnvoyExpectedRqTimeoutMs,
            b"x-envoy-upstream-service-time" => Self::XEnvoyUpstreamServiceTime,
            b"x-envoy-force-trace"
            | b"x-envoy-hedge-on-per-try-timeout"
            | b"x-envoy-internal"
            | b"x-envoy-ip-tags"
            | b"x-envoy-max-retries"
            | b"x-envoy-original-url"
            | b"x-envoy-retriable-header-names"
            | b"x-envoy-retriable-status-codes"
            | b"x-envoy-retry-grpc-on"
            | b"x-envoy-retry-on"
            | b"x-envoy-upstream-alt-stat-name"
            | b"x-envoy-upstream-rq-per-try-timeout-ms"
            | b"x-envoy-upstream-rq-timeout-alt-response"
            | b"x-envoy-upstream-rq-timeout-ms"
            | b"x-envoy-upstream-stream-duration-ms" => Self::XEnvoyControl,
            b"x-forwarded-client-cert" => Self::XForwardedClientCert,
            b"x-forwarded-for" => Self::XForwardedFor,
            b"x-forwarded-host" => Self::XForwardedHost,
            b"x-forwarded-proto" => Self::XForwardedProto,
            b"x-request-id" => Self::XRequestId,
            _ => Self::Other,
        }
    }

    /// Fields that speak of one connection only and are never forwarded (RFC 9110, section 7.6.1).
    /// `te: trailers` is the one value that may be put back.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// What must not stand in trailers: it frames, routes or authenticates (RFC 9110, section 6.5.1).
    pub fn is_for_heads_only(self) -> bool {
        matches!(self, Self::ContentLength | Self::Host | Self::Authorization | Self::Trailer)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name_at: u32,
    value_at: u32,
    value_len: u32,
    name_len: u16,
    id: HeaderId,
    place: Place,
}

/// How an entry stands in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// As `name: value` and CRLF.
    Line,
    /// Its name and value are there, but not as one line.
    Apart,
    Removed,
}

impl Entry {
    fn is_live(&self) -> bool {
        self.place != Place::Removed
    }
}

/// The headers that fit without a second allocation: more than most requests carry. They are not kept inside the section:
/// heads are used again, so the allocation is rare, and moving one moves 48 bytes instead of 400.
const USUAL: usize = 24;

#[derive(Clone, Default, Debug)]
pub struct Headers {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

/// A field line of HTTP/1.1 as it came, its end included. `value_at` counts from its start; the value is trimmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub bytes: &'a [u8],
    pub name_len: u16,
    pub value_at: usize,
    pub value_len: usize,
}

impl<'a> Line<'a> {
    pub(crate) fn value(&self) -> &'a [u8] {
        &self.bytes[self.value_at..self.value_at + self.value_len]
    }

    /// Whether it is written as we write it ourselves.
    fn is_canonical(&self) -> bool {
        let colon = usize::from(self.name_len);
        self.value_at == colon + 2
            && self.bytes.get(colon + 1) == Some(&b' ')
            && self.value_at + self.value_len + 2 == self.bytes.len()
    }
}

/// One header, borrowed from its section.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    pub id: HeaderId,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the section and keeps its memory for the next message.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
    }

    /// Adds a header after those that are there. The name is lowered on the way in.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name_at = self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena[name_at..].make_ascii_lowercase();
        let id = HeaderId::of(&self.arena[name_at..]);
        self.push_value(name_at, id, value);
    }

    /// Adds a header whose name is known to be in lower case, and whose id is `HeaderId::of(name)`: what HTTP/2 has
    /// already checked is not looked at again.
    #[inline]
    pub(crate) fn push_lower(&mut self, name: &[u8], id: HeaderId, value: &[u8]) {
        debug_assert!(id == HeaderId::of(name));
        let name_at = self.arena.len();
        self.arena.reserve(name.len() + value.len() + 4);
        self.arena.extend_from_slice(name);
        self.push_value(name_at, id, value);
    }

    fn push_value(&mut self, name_at: usize, id: HeaderId, value: &[u8]) {
        let name_len = self.arena.len() - name_at;
        self.arena.extend_from_slice(b": ");
        let value_at = self.arena.len();
        self.arena.extend_from_slice(value);
        self.arena.extend_from_slice(b"\r\n");
        self.enter(Entry {
            name_at: name_at as u32,
            value_at: value_at as u32,
            value_len: value.len() as u32,
            name_len: name_len as u16,
            id,
            place: Place::Line,
        });
    }

    #[inline]
    fn enter(&mut self, entry: Entry) {
        if self.entries.capacity() == 0 {
            self.entries.reserve_exact(USUAL);
        }
        self.entries.push(entry);
    }

    /// Puts a whole field line of HTTP/1.1 in the arena, its name lowered, and says which header it is. It is not part
    /// of the section before `keep_line`.
    #[inline]
    pub(crate) fn try_line(&mut self, line: &Line<'_>) -> HeaderId {
        let name_at = self.arena.len();
        self.arena.extend_from_slice(line.bytes);
        let name = &mut self.arena[name_at..name_at + usize::from(line.name_len)];
        name.make_ascii_lowercase();
        HeaderId::of(name)
    }

    /// Takes the line of the last `try_line` into the section.
    #[inline]
    pub(crate) fn keep_line(&mut self, line: &Line<'_>, id: HeaderId) {
        let name_at = self.arena.len() - line.bytes.len();
        self.enter(Entry {
            name_at: name_at as u32,
            value_at: (name_at + line.value_at) as u32,
            value_len: line.value_len as u32,
            name_len: line.name_len,
            id,
            place: if line.is_canonical() { Place::Line } else { Place::Apart },
        });
    }

    /// Forgets the line of the last `try_line`.
    #[inline]
    pub(crate) fn drop_line(&mut self, line: &Line<'_>) {
        self.arena.truncate(self.arena.len() - line.bytes.len());
    }

    /// Appends the section as field lines of HTTP/1.1, without the headers whose id `skip` names.
    pub(crate) fn write_lines(&self, out: &mut Vec<u8>, mut skip: impl FnMut(HeaderId) -> bool) {
        out.reserve(self.arena.len());
        // The part of the arena that goes out with one copy.
        let mut run = 0..0;
        for entry in &self.entries {
            match entry.place {
                Place::Removed => {}
                _ if skip(entry.id) => {}
                Place::Line => {
                    let from = entry.name_at as usize;
                    let to = entry.value_at as usize + entry.value_len as usize + 2;
                    if from == run.end {
                        run.end = to;
                    } else {
                        out.extend_from_slice(&self.arena[std::mem::replace(&mut run, from..to)]);
                    }
                }
                Place::Apart => {
                    out.extend_from_slice(&self.arena[std::mem::replace(&mut run, 0..0)]);
                    let header = view(&self.arena, entry);
                    for part in [header.name, b": ", header.value, b"\r\n"] {
                        out.extend_from_slice(part);
                    }
                }
            }
        }
        out.extend_from_slice(&self.arena[run]);
    }

    /// Removes every header of that name, then adds this one.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.push(name, value);
    }

    /// As `set`, for a well-known name in lower case: a scan over a byte per header instead of names.
    pub(crate) fn set_id(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        self.remove_id(id);
        self.push_lower(name, id, value);
    }

    /// Adds to the first header of that name, with a comma between (RFC 9110, section 5.3), or adds a new one.
    pub fn append_to_list(&mut self, name: &[u8], value: &[u8]) {
        match self.position(name) {
            None => self.push(name, value),
            Some(at) => {
                let entry = self.entries[at];
                let joined = self.arena.len();
                self.arena.extend_from_within(span(entry.value_at, entry.value_len));
                self.arena.extend_from_slice(b",");
                self.arena.extend_from_slice(value);
                let entry = &mut self.entries[at];
                entry.value_at = joined as u32;
                entry.value_len = (self.arena.len() - joined) as u32;
                entry.place = Place::Apart;
            }
        }
    }

    /// Removes every header of that name (any case) and says whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let mut found = false;
        while let Some(at) = self.position(name) {
            self.entries[at].place = Place::Removed;
            found = true;
        }
        found
    }

    /// Removes every header with that id and says whether there was one.
    pub fn remove_id(&mut self, id: HeaderId) -> bool {
        let mut removed = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.id == id && entry.is_live()) {
            entry.place = Place::Removed;
            removed = true;
        }
        removed
    }

    /// Keeps the headers for which `keep` is true; says whether any went.
    pub fn retain(&mut self, mut keep: impl FnMut(Header<'_>) -> bool) -> bool {
        let mut removed = false;
        for entry in self.entries.iter_mut().filter(|entry| entry.is_live()) {
            if !keep(view(&self.arena, entry)) {
                entry.place = Place::Removed;
                removed = true;
            }
        }
        removed
    }

    /// The first value of a name (any case).
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.position(name).map(|at| view(&self.arena, &self.entries[at]).value)
    }

    /// The first value of a well-known name.
    pub fn get_id(&self, id: HeaderId) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|entry| entry.id == id && entry.is_live())?;
        Some(view(&self.arena, entry).value)
    }

    /// Every value of a well-known name, in order.
    pub fn all_id(&self, id: HeaderId) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |header| header.id == id).map(|header| header.value)
    }

    /// Every value of a name (any case), in order.
    pub fn all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    pub fn contains_id(&self, id: HeaderId) -> bool {
        self.entries.iter().any(|entry| entry.id == id && entry.is_live())
    }

    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> {
        self.entries.iter().filter(|entry| entry.is_live()).map(|entry| view(&self.arena, entry))
    }

    pub fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_live()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The section's size as HTTP/2 counts it: names, values and 32 octets each (RFC 9113, section 6.5.2).
    pub fn list_size(&self) -> usize {
        self.iter().map(|header| header.name.len() + header.value.len() + 32).sum()
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.entries.iter().position(|entry| {
            usize::from(entry.name_len) == name.len()
                && entry.is_live()
                && self.arena[span(entry.name_at, u32::from(entry.name_len))].eq_ignore_ascii_case(name)
        })
    }
}

fn span(at: u32, len: u32) -> std::ops::Range<usize> {
    at as usize..at as usize + len as usize
}

fn view<'a>(arena: &'a [u8], entry: &Entry) -> Header<'a> {
    Header {
        id: entry.id,
        name: &arena[span(entry.name_at, u32::from(entry.name_len))],
        value: &arena[span(entry.value_at, entry.value_len)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_found_in_any_case() {
        let mut headers = Headers::new();
        headers.push(b"X-User-Id", b"7");
        assert_eq!(headers.get(b"x-user-ID"), Some(&b"7"[..]));
        assert_eq!(headers.iter().next().map(|header| header.name.to_vec()), Some(b"x-user-id".to_vec()));
    }

    #[test]
    fn set_replaces_every_value_and_append_joins() {
        let mut headers = Headers::new();
        headers.push(b"a", b"1");
        headers.push(b"A", b"2");
        headers.set(b"a", b"3");
        assert_eq!(headers.all(b"a").collect::<Vec<_>>(), [b"3"]);
        headers.append_to_list(b"a", b"4");
        assert_eq!(headers.get(b"a"), Some(&b"3,4"[..]));
        assert!(headers.remove(b"a"));
        assert!(headers.is_empty());
    }

    #[test]
    fn lines_go_out_as_they_are_now() {
        let mut headers = Headers::new();
        for name in ["A", "b", "c", "d", "e"] {
            headers.push(name.as_bytes(), b"1");
        }
        headers.remove(b"b");
        headers.append_to_list(b"d", b"2");
        headers.set_id(HeaderId::Via, b"via", b"x");
        let mut out = Vec::new();
        headers.write_lines(&mut out, |_| false);
        assert_eq!(String::from_utf8_lossy(&out), "a: 1\r\nc: 1\r\nd: 1,2\r\ne: 1\r\nvia: x\r\n");
        out.clear();
        headers.write_lines(&mut out, |id| id == HeaderId::Via);
        assert!(out.ends_with(b"e: 1\r\n"));
    }
}
