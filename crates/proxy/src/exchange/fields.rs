//! The header fields that a connection manager owns, and the configuration's changes to header sections.

use crate::http::{HeaderId, Headers, RequestHead, ResponseHead, Scheme};
use crate::tls::Peer;
use celerity_model::snapshot::{
    AppendAction, ClientCertificateHeader, FormatPiece, ForwardMode, HeaderMutations, HeaderValue, HttpManager,
    RequestView,
};
use celerity_telemetry::{ResponseFlags, Rng};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A request as routing sees it.
pub struct View<'a> {
    pub head: &'a RequestHead,
    pub source: Option<IpAddr>,
}

impl RequestView for View<'_> {
    fn method(&self) -> &[u8] {
        self.head.method.as_str().as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.head.scheme.as_str().as_bytes()
    }

    fn authority(&self) -> &[u8] {
        &self.head.authority
    }

    fn path(&self) -> &[u8] {
        &self.head.path
    }

    fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        joined(&self.head.headers, name)
    }

    fn any_value(&self, name: &[u8], test: &mut dyn FnMut(&[u8]) -> bool) -> Option<bool> {
        let mut values = self.head.headers.iter().filter(|header| header.name == name).map(|header| header.value);
        let first = values.next()?;
        Some(test(first) || values.any(test))
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.source
    }
}

/// All values of a name, with commas between them.
pub(super) fn joined<'a>(headers: &'a Headers, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.iter().filter(|header| header.name == name).map(|header| header.value);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut all = [first, b",", second].concat();
    for value in values {
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(Cow::Owned(all))
}

/// What the manager knows of the client's connection.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub address: SocketAddr,
    pub peer: Option<&'a Peer>,
    pub own_identity: Option<&'a str>,
    pub is_tls: bool,
}

/// Makes a request fit to be routed: identity, forwarding and tracing fields as Envoy's connection manager sets them.
pub(super) fn clean_request(manager: &HttpManager, client: &Client<'_>, head: &mut RequestHead, rng: &mut Rng) {
    // Every request is an external one: which addresses would be internal says `internal_address_config`, and none are without
    // it (Envoy `ConnectionManagerUtility::mutateRequestHeaders`).
    head.headers.remove_id(HeaderId::XEnvoyControl);
    head.headers.remove_id(HeaderId::XEnvoyExpectedRqTimeoutMs);
    let edge = manager.use_remote_address;
    if edge && !manager.skip_xff_append {
        let mut text = Buffer::default();
        text.display(client.address.ip());
        head.headers.append_to_list(b"x-forwarded-for", text.bytes());
    }
    let scheme = if client.is_tls { Scheme::Https } else { Scheme::Http };
    match head.headers.get_id(HeaderId::XForwardedProto) {
        Some(value) if !edge => {
            head.scheme = if value.eq_ignore_ascii_case(b"https") { Scheme::Https } else { Scheme::Http };
        }
        _ => {
            head.scheme = scheme;
            head.headers.set_id(HeaderId::XForwardedProto, b"x-forwarded-proto", scheme.as_str().as_bytes());
        }
    }
    let keep_id = !edge || manager.request_id.preserve_external;
    if manager.request_id.generate && !(keep_id && head.headers.contains_id(HeaderId::XRequestId)) {
        head.headers.set_id(HeaderId::XRequestId, b"x-request-id", &request_id(rng));
    }
    client_certificate(manager.client_certificate, client, &mut head.headers);
    if let Some(via) = &manager.via {
        head.headers.append_to_list(b"via", via.as_bytes());
    }
}

/// The host of an authority.
pub(super) fn without_port(authority: &[u8]) -> &[u8] {
    let bracket = authority.iter().rposition(|&byte| byte == b']').unwrap_or(0);
    let colon = authority.iter().skip(bracket).position(|&byte| byte == b':').map(|at| at + bracket);
    authority.get(..colon.unwrap_or(authority.len())).unwrap_or_default()
}

/// Whose request it is: the peer's, or, where the manager believes what is forwarded (without `use_remote_address`), whose
/// `x-forwarded-for` says, as in Envoy. Hashes, formats and the access log go by it.
pub fn client_of(peer: SocketAddr, manager: &HttpManager, headers: &Headers) -> SocketAddr {
    if manager.use_remote_address { peer } else { forwarded_for(peer, headers) }
}

/// The last address of `x-forwarded-for`, without a port; the peer's where there is none.
fn forwarded_for(peer: SocketAddr, headers: &Headers) -> SocketAddr {
    let last = |value: &[u8]| std::str::from_utf8(value).ok()?.rsplit(',').next()?.trim().parse().ok();
    let forwarded = headers.all_id(HeaderId::XForwardedFor).last().and_then(last);
    forwarded.map_or(peer, |address| SocketAddr::new(address, 0))
}

/// Whether a content type is gRPC's, and not gRPC-Web's (Envoy `Grpc::Common::isGrpcContentType`).
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// Takes off a request's trailers what says who it comes from: an application that merges them with the head must not believe it.
pub(super) fn clean_trailers(trailers: &mut Headers) {
    for id in [
        HeaderId::XForwardedClientCert,
        HeaderId::XForwardedProto,
        HeaderId::XEnvoyControl,
        HeaderId::XEnvoyExpectedRqTimeoutMs,
        HeaderId::XCelerityPeer,
        HeaderId::XCelerityHop,
        HeaderId::XCelerityLedger,
    ] {
        trailers.remove_id(id);
    }
}

/// A `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
pub(super) fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A `grpc-timeout` of so many milliseconds, in the smallest unit whose eight digits hold it, rounded down.
pub(super) fn write_grpc_timeout(ms: u64, headers: &mut Headers) {
    const DIGITS_MAX: u64 = 99_999_999;
    let units = [(1, b'm'), (1_000, b'S'), (60_000, b'M'), (3_600_000, b'H')];
    let (unit_ms, unit) = units.into_iter().find(|(unit_ms, _)| ms / unit_ms <= DIGITS_MAX).unwrap_or(units[3]);
    let mut text: smallvec::SmallVec<[u8; 16]> = smallvec::SmallVec::new();
    text.extend_from_slice(itoa::Buffer::new().format((ms / unit_ms).min(DIGITS_MAX)).as_bytes());
    text.push(unit);
    headers.set(b"grpc-timeout", &text);
}

/// The `grpc-status` of a head or of trailers.
pub(super) fn grpc_status(headers: &Headers) -> Option<u32> {
    std::str::from_utf8(headers.get_id(HeaderId::GrpcStatus)?).ok()?.trim().parse().ok()
}

/// Envoy's mapping from gRPC status to HTTP status (`Grpc::Utility::grpcToHttpStatus`).
pub(super) fn http_status_of_grpc(code: u32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// A random UUID, version 4 (RFC 9562, section 5.4).
fn request_id(rng: &mut Rng) -> [u8; 36] {
    // Two digits at a time: one by one they were 3 % of a request's instructions.
    const PAIRS: [[u8; 2]; 256] = {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [HEX[byte >> 4], HEX[byte & 15]];
            byte += 1;
        }
        pairs
    };
    const AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    let bits = bits & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let mut text = [b'-'; 36];
    for (byte, at) in bits.to_be_bytes().into_iter().zip(AT) {
        text[at..at + 2].copy_from_slice(&PAIRS[usize::from(byte)]);
    }
    text
}

fn client_certificate(rule: ClientCertificateHeader, client: &Client<'_>, headers: &mut Headers) {
    let name = b"x-forwarded-client-cert";
    let certificate = client.peer.and_then(|peer| peer.certificate.as_ref());
    let keeps = match rule.mode {
        ForwardMode::AlwaysForwardOnly => true,
        ForwardMode::ForwardOnly | ForwardMode::AppendForward => certificate.is_some(),
        ForwardMode::Sanitize | ForwardMode::SanitizeSet => false,
    };
    if !keeps && headers.contains_id(HeaderId::XForwardedClientCert) {
        headers.remove(name);
    }
    let (ForwardMode::AppendForward | ForwardMode::SanitizeSet, Some(certificate)) = (rule.mode, certificate) else {
        return;
    };
    let mut value = String::with_capacity(256);
    if let Some(own) = client.own_identity {
        value.push_str("By=");
        value.push_str(own);
        value.push(';');
    }
    value.push_str("Hash=");
    value.push_str(&certificate.sha256_hex);
    if rule.subject {
        value.push_str(";Subject=\"");
        push_quoted(&certificate.subject, &mut value);
        value.push('"');
    }
    if rule.uri {
        value.push_str(";URI=");
        push_bare(certificate.uris.first().map_or("", |uri| uri), &mut value);
    }
    if rule.dns {
        for dns in &certificate.dns_names {
            value.push_str(";DNS=");
            push_bare(dns, &mut value);
        }
    }
    headers.append_to_list(name, value.as_bytes());
}

/// What a certificate says of its owner may hold any character, whoever signed it: none of them may end the text that it
/// stands in, or the header.
fn push_quoted(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            _ if character.is_control() => push_percent(character, out),
            _ => out.push(character),
        }
    }
}

/// As [`push_quoted`], where no quotation marks stand around it.
fn push_bare(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '"' | ',' | ';' | '=' | ' ' => push_percent(character, out),
            _ if character.is_control() => push_percent(character, out),
            _ => out.push(character),
        }
    }
}

fn push_percent(character: char, out: &mut String) {
    use std::fmt::Write as _;
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        // Writing to a String cannot fail.
        let _ = write!(out, "%{byte:02X}");
    }
}

/// What header formats may read.
pub struct FormatContext<'a> {
    pub client: SocketAddr,
    pub upstream: Option<SocketAddr>,
    pub cluster: &'a str,
    pub protocol: &'static str,
    pub flags: ResponseFlags,
    pub hostname: &'a str,
}

/// Additions that were worked out while the section they change was still borrowed.
type Worked = Vec<(Box<str>, Vec<u8>, AppendAction)>;

/// Works out a mutation's values. Literals too: the section they go into may be the one that formats read.
fn work_out(
    mutations: &HeaderMutations,
    context: &FormatContext<'_>,
    request: &RequestHead,
    response: Option<&ResponseHead>,
) -> Worked {
    let worked = mutations.add.iter().filter_map(|addition| {
        let value = match &addition.value {
            HeaderValue::Literal(bytes) => bytes.to_vec(),
            HeaderValue::Format(pieces) => pieces.iter().fold(Vec::new(), |mut text, piece| {
                format_piece(piece, context, request, response, &mut text);
                text
            }),
        };
        (!value.is_empty() || addition.keep_empty).then(|| (addition.name.clone(), value, addition.action))
    });
    worked.collect()
}

fn format_piece(
    piece: &FormatPiece,
    context: &FormatContext<'_>,
    request: &RequestHead,
    response: Option<&ResponseHead>,
    out: &mut Vec<u8>,
) {
    use std::io::Write;
    let view = View { head: request, source: None };
    let field = |name: &str| celerity_model::snapshot::matching::field(&view, name).map(Cow::into_owned);
    // Writing to a Vec cannot fail.
    let _ = match piece {
        FormatPiece::Text(text) => out.write_all(text),
        FormatPiece::RequestHeader { name, alternative, bytes_max } => {
            let value = field(name).or_else(|| alternative.as_deref().and_then(field)).unwrap_or_default();
            out.write_all(&value[..value.len().min(bytes_max.unwrap_or(usize::MAX))])
        }
        FormatPiece::ResponseHeader { name } => {
            let value = response.and_then(|response| response.headers.get(name.as_bytes()));
            out.write_all(value.unwrap_or_default())
        }
        FormatPiece::DownstreamAddress => write!(out, "{}", context.client),
        FormatPiece::DownstreamIp => write!(out, "{}", context.client.ip()),
        FormatPiece::UpstreamAddress => match context.upstream {
            Some(address) => write!(out, "{address}"),
            None => Ok(()),
        },
        FormatPiece::UpstreamCluster => out.write_all(context.cluster.as_bytes()),
        FormatPiece::Protocol => out.write_all(context.protocol.as_bytes()),
        FormatPiece::ResponseCode => write!(out, "{}", response.map_or(0, |response| response.status)),
        FormatPiece::ResponseFlags => write!(out, "{}", context.flags),
        FormatPiece::StartTime => {
            let now = time::OffsetDateTime::now_utc();
            write!(
                out,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
                now.year(),
                u8::from(now.month()),
                now.day(),
                now.hour(),
                now.minute(),
                now.second(),
                now.millisecond()
            )
        }
        FormatPiece::Hostname => out.write_all(context.hostname.as_bytes()),
    };
}

fn apply(worked: Worked, headers: &mut Headers) {
    for (name, value, action) in worked {
        let name = name.as_bytes();
        match action {
            AppendAction::Append => headers.push(name, &value),
            AppendAction::AddIfAbsent if headers.get(name).is_none() => headers.push(name, &value),
            AppendAction::Overwrite => headers.set(name, &value),
            AppendAction::OverwriteIfPresent if headers.get(name).is_some() => headers.set(name, &value),
            AppendAction::AddIfAbsent | AppendAction::OverwriteIfPresent => {}
        }
    }
}

/// Changes a request's section. `:authority` and `:path` are changed where they stand.
pub(super) fn mutate_request<'m>(
    all: impl IntoIterator<Item = &'m HeaderMutations>,
    request: &mut RequestHead,
    context: &FormatContext<'_>,
) {
    for mutations in all.into_iter().filter(|mutations| !mutations.is_empty()) {
        for name in &mutations.remove {
            request.headers.remove(name.as_bytes());
        }
        let mut worked = work_out(mutations, context, request, None);
        worked.retain(|(name, value, _)| match &**name {
            ":authority" => {
                request.authority.clone_from(value);
                false
            }
            ":path" => {
                request.path.clone_from(value);
                false
            }
            _ => true,
        });
        apply(worked, &mut request.headers);
    }
}

pub(super) fn mutate_response<'m>(
    all: impl IntoIterator<Item = &'m HeaderMutations>,
    response: &mut ResponseHead,
    request: &RequestHead,
    context: &FormatContext<'_>,
) {
    for mutations in all.into_iter().filter(|mutations| !mutations.is_empty()) {
        for name in &mutations.remove {
            response.headers.remove(name.as_bytes());
        }
        let worked = work_out(mutations, context, request, Some(response));
        apply(worked, &mut response.headers);
    }
}

/// Takes the peer proxy's report off a response.
pub(super) fn take_hop(headers: &mut Headers) -> Option<celerity_telemetry::HopReport> {
    let report = celerity_telemetry::HopReport::parse(headers.get_id(HeaderId::XCelerityHop)?);
    headers.remove_id(HeaderId::XCelerityHop);
    report
}

/// Takes every header of a name off, as one list.
pub(super) fn take_list(headers: &mut Headers, name: &[u8]) -> Option<Box<[u8]>> {
    let all = joined(headers, name)?.into_owned();
    headers.remove(name);
    Some(all.into())
}

/// Text on the stack: an address is short, and this is the request path.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: smallvec::SmallVec<[u8; 48]>,
}

impl Buffer {
    pub(super) fn display(&mut self, value: impl fmt::Display) {
        // Writing here cannot fail.
        let _ = fmt::Write::write_fmt(self, format_args!("{value}"));
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn text(&self) -> &str {
        // It came from `write_str`.
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_was_forwarded_last() {
        let of = |lines: &[&str]| {
            let mut headers = Headers::new();
            lines.iter().for_each(|line| headers.push(b"x-forwarded-for", line.as_bytes()));
            forwarded_for(SocketAddr::from(([127, 0, 0, 1], 5)), &headers).to_string()
        };
        assert_eq!(of(&["1.2.3.4, 8.8.8.8"]), "8.8.8.8:0");
        assert_eq!(of(&["1.2.3.4", "::1"]), "[::1]:0");
        for lines in [&[][..], &["1.2.3.4, x"], &["1.2.3.4:80"]] {
            assert_eq!(of(lines), "127.0.0.1:5", "{lines:?}");
        }
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        assert!(is_grpc(b"application/grpc") && is_grpc(b"application/grpc+proto"));
        assert!(
            !is_grpc(b"application/grpc-web") && !is_grpc(b"application/grpc-web+proto") && !is_grpc(b"text/plain")
        );
    }

    #[test]
    fn trailers_say_nothing_of_who_sends_them() {
        let mut trailers = Headers::new();
        for name in
            [&b"x-forwarded-client-cert"[..], b"X-Celerity-Peer", b"x-celerity-hop", b"x-celerity-ledger", b"x-sum"]
        {
            trailers.push(name, b"1");
        }
        clean_trailers(&mut trailers);
        assert_eq!(trailers.len(), 1);
        assert!(trailers.get(b"x-sum").is_some());
    }

    #[test]
    fn grpc_timeouts_have_digits_and_a_unit() {
        assert_eq!(grpc_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout(b"2H"), Some(Duration::from_secs(7200)));
        for wrong in [&b""[..], b"S", b"5", b"5x", b"123456789S", b"-1S"] {
            assert_eq!(grpc_timeout(wrong), None);
        }
        for (ms, text) in [(200, "200m"), (99_999_999, "99999999m"), (100_000_000, "100000S"), (u64::MAX, "99999999H")]
        {
            let mut headers = Headers::new();
            write_grpc_timeout(ms, &mut headers);
            assert_eq!(headers.get(b"grpc-timeout"), Some(text.as_bytes()));
        }
    }

    #[test]
    fn a_certificates_text_stays_in_its_place() {
        let (mut quoted, mut bare) = (String::new(), String::new());
        push_quoted("CN=a \"b\" \\, é\r\nx-user: admin", &mut quoted);
        assert_eq!(quoted, "CN=a \\\"b\\\" \\\\, é%0D%0Ax-user: admin");
        push_bare("spiffe://a/ns/b;DNS=c,d \"e\"\n", &mut bare);
        assert_eq!(bare, "spiffe://a/ns/b%3BDNS%3Dc%2Cd%20%22e%22%0A");
    }

    #[test]
    fn a_grpc_failure_is_one_of_http() {
        let server_errors: Vec<u32> = (0..20).filter(|code| http_status_of_grpc(*code) >= 500).collect();
        assert_eq!(server_errors, [2, 4, 12, 13, 14, 15, 17, 18, 19]);
        assert_eq!([0, 4, 14].map(http_status_of_grpc), [200, 504, 503]);
    }

    #[test]
    fn ports_come_off() {
        for (authority, host) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(without_port(authority.as_bytes()), host.as_bytes());
        }
    }

    #[test]
    fn request_ids_are_version_4() {
        let id = request_id(&mut Rng::seeded(7));
        assert_eq!(id[14], b'4');
        assert!(b"89ab".contains(&id[19]));
        assert_eq!(id.iter().filter(|&&byte| byte == b'-').count(), 4);
    }
}
