//! Trace context: W3C Trace Context level 1 and B3 (single and multiple headers), and request ids.
//!
//! A proxy that exports no spans passes these headers on as they came: writing a new parent id would put a span into
//! the trace that nobody ever reports. `child` and the writers are for those that do, and for requests that have none.

use crate::rng::Rng;

/// A tracestate longer than this is not passed on (W3C Trace Context, section 3.3.1.5, asks for at least 512).
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// List members of a tracestate (section 3.3.1.1).
pub const TRACESTATE_MEMBERS_MAX: usize = 32;

/// In which form the request carried its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    W3c,
    B3Single,
    B3Multi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// The caller's span. Never zero.
    pub span_id: u64,
    /// The caller's parent, where B3 told it.
    pub parent_span_id: Option<u64>,
    /// `None` where the decision was left to us (B3 only).
    pub sampled: Option<bool>,
    /// B3's debug flag: sampled, whatever anyone's rate.
    pub debug: bool,
    pub format: Format,
}

impl TraceContext {
    /// Reads a request's context: traceparent first, then `b3`, then `x-b3-*`. `header` gives the first value of a
    /// lower-case name. A malformed header counts as absent, as both specifications ask.
    pub fn extract<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Self> {
        header("traceparent")
            .and_then(parse_traceparent)
            .or_else(|| header("b3").and_then(parse_b3_single))
            .or_else(|| parse_b3_multi(header))
    }

    /// The context of a new trace.
    pub fn generate(sampled: bool, rng: &mut Rng) -> Self {
        let trace_id = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        Self {
            trace_id: trace_id.max(1),
            span_id: rng.next_u64().max(1),
            parent_span_id: None,
            sampled: Some(sampled),
            debug: false,
            format: Format::W3c,
        }
    }

    /// The context of a span of ours under the caller's.
    pub fn child(&self, rng: &mut Rng) -> Self {
        Self { span_id: rng.next_u64().max(1), parent_span_id: Some(self.span_id), ..*self }
    }

    pub fn traceparent(&self) -> String {
        let flags = u8::from(self.sampled == Some(true) || self.debug);
        format!("00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }

    pub fn b3_single(&self) -> String {
        let mut out = format!("{:032x}-{:016x}", self.trace_id, self.span_id);
        if self.debug {
            out.push_str("-d");
        } else if let Some(sampled) = self.sampled {
            out.push_str(if sampled { "-1" } else { "-0" });
        }
        if let (Some(parent), true) = (self.parent_span_id, self.debug || self.sampled.is_some()) {
            out.push_str(&format!("-{parent:016x}"));
        }
        out
    }

    /// Writes the context in the form it came in: name and value, one call per header.
    pub fn inject(&self, mut set: impl FnMut(&'static str, &str)) {
        match self.format {
            Format::W3c => set("traceparent", &self.traceparent()),
            Format::B3Single => set("b3", &self.b3_single()),
            Format::B3Multi => {
                set("x-b3-traceid", &format!("{:032x}", self.trace_id));
                set("x-b3-spanid", &format!("{:016x}", self.span_id));
                if let Some(parent) = self.parent_span_id {
                    set("x-b3-parentspanid", &format!("{parent:016x}"));
                }
                if self.debug {
                    set("x-b3-flags", "1");
                } else if let Some(sampled) = self.sampled {
                    set("x-b3-sampled", if sampled { "1" } else { "0" });
                }
            }
        }
    }
}

/// A number of exactly `value.len()` lower-case hexadecimal digits, at most 32.
fn hex(value: &[u8]) -> Option<u128> {
    if value.is_empty() || value.len() > 32 {
        return None;
    }
    value.iter().try_fold(0_u128, |sum, byte| {
        let nibble = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(nibble))
    })
}

/// B3 writes identifiers in either case in practice.
fn hex_any_case(value: &[u8]) -> Option<u128> {
    if value.len() > 32 { None } else { hex(&value.to_ascii_lowercase()) }
}

fn sized(value: &[u8], digits: usize) -> Option<u128> {
    if value.len() == digits { hex(value) } else { None }
}

/// W3C Trace Context, section 3.2. A version above ours may have more parts behind the four that we read.
pub fn parse_traceparent(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|byte| *byte == b'-');
    let version = sized(parts.next()?, 2)?;
    let trace_id = sized(parts.next()?, 32)?;
    let span_id = sized(parts.next()?, 16)? as u64;
    let flags = sized(parts.next()?, 2)?;
    let extra = parts.next().is_some();
    if version == 0xff || (version == 0 && extra) || trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(TraceContext {
        trace_id,
        span_id,
        parent_span_id: None,
        sampled: Some(flags & 1 != 0),
        debug: false,
        format: Format::W3c,
    })
}

/// Whether a tracestate may be passed on: bounded, and made of printable `key=value` members (section 3.3.1).
pub fn tracestate_is_sound(value: &[u8]) -> bool {
    value.len() <= TRACESTATE_BYTES_MAX
        && value.split(|byte| *byte == b',').count() <= TRACESTATE_MEMBERS_MAX
        && value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(|member| {
            member.is_empty()
                || (member.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0)
                    && member.iter().all(|byte| (0x20..0x7f).contains(byte)))
        })
}

/// openzipkin b3-propagation, "Single Header": `{trace}-{span}[-{0,1,d}[-{parent}]]`. A lone decision names no trace.
pub fn parse_b3_single(value: &[u8]) -> Option<TraceContext> {
    let mut parts = value.split(|byte| *byte == b'-');
    let trace_id = trace_id_of(parts.next()?)?;
    let span_id = span_id_of(parts.next()?)?;
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(b"0") => (Some(false), false),
        Some(b"1") => (Some(true), false),
        Some(b"d") => (Some(true), true),
        Some(_) => return None,
    };
    let parent_span_id = match parts.next() {
        None => None,
        Some(parent) => Some(span_id_of(parent)?),
    };
    if parts.next().is_some() {
        return None;
    }
    Some(TraceContext { trace_id, span_id, parent_span_id, sampled, debug, format: Format::B3Single })
}

fn parse_b3_multi<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<TraceContext> {
    let trace_id = trace_id_of(header("x-b3-traceid")?)?;
    let span_id = span_id_of(header("x-b3-spanid")?)?;
    let parent_span_id = header("x-b3-parentspanid").and_then(span_id_of);
    let debug = header("x-b3-flags") == Some(b"1");
    let sampled = match header("x-b3-sampled") {
        _ if debug => Some(true),
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    Some(TraceContext { trace_id, span_id, parent_span_id, sampled, debug, format: Format::B3Multi })
}

/// 64 or 128 bits, not zero.
fn trace_id_of(value: &[u8]) -> Option<u128> {
    if value.len() != 16 && value.len() != 32 {
        return None;
    }
    hex_any_case(value).filter(|id| *id != 0)
}

fn span_id_of(value: &[u8]) -> Option<u64> {
    if value.len() != 16 {
        return None;
    }
    hex_any_case(value).map(|id| id as u64).filter(|id| *id != 0)
}

/// A request id: a random UUID (RFC 9562, section 5.4) as text. About 20 ns, no allocation.
pub fn request_id(rng: &mut Rng) -> [u8; 36] {
    let high = rng.next_u64() & !0xf000 | 0x4000;
    let low = rng.next_u64() >> 2 | 1 << 63;
    let bits = u128::from(high) << 64 | u128::from(low);
    let mut out = [b'-'; 36];
    let mut at = 0;
    for nibble in (0..32).rev() {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        out[at] = b"0123456789abcdef"[(bits >> (4 * nibble)) as usize & 0xf];
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_is_read_as_the_specification_says() {
        let context = parse_traceparent(PARENT).unwrap();
        assert_eq!(context.traceparent().as_bytes(), PARENT);
        assert!(parse_traceparent(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
        for bad in [
            &b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"[..],
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            b"",
        ] {
            assert_eq!(parse_traceparent(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn both_forms_of_b3_are_read_and_written() {
        let single = b"80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90";
        let context = parse_b3_single(single).unwrap();
        assert_eq!(context.b3_single().as_bytes(), single);
        assert_eq!(parse_b3_single(b"0"), None);
        let headers =
            [("x-b3-traceid", "E457B5A2E4D86BD1"), ("x-b3-spanid", "e457b5a2e4d86bd1"), ("x-b3-sampled", "0")];
        let find = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes());
        let context = TraceContext::extract(find).unwrap();
        assert_eq!((context.trace_id, context.sampled), (0xe457_b5a2_e4d8_6bd1, Some(false)));
        let mut written = Vec::new();
        context.child(&mut Rng::seeded(1)).inject(|name, value| written.push((name, value.to_owned())));
        assert!(written.contains(&("x-b3-parentspanid", "e457b5a2e4d86bd1".to_owned())));
        assert!(written.contains(&("x-b3-sampled", "0".to_owned())));
    }

    #[test]
    fn a_tracestate_is_bounded() {
        assert!(tracestate_is_sound(b"rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"));
        assert!(!tracestate_is_sound(b"rojo"));
        assert!(!tracestate_is_sound(&[b'a'; 600]));
        assert!(!tracestate_is_sound("a=1,".repeat(33).as_bytes()));
    }

    #[test]
    fn request_ids_are_version_four() {
        let mut rng = Rng::from_entropy();
        let id = String::from_utf8(request_id(&mut rng).to_vec()).unwrap();
        let bytes = id.as_bytes();
        assert_eq!((bytes[14], [8, 13, 18, 23].map(|at| bytes[at])), (b'4', *b"----"));
        assert!(b"89ab".contains(&bytes[19]));
        assert_ne!(id.as_bytes(), request_id(&mut rng));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = (parse_traceparent(&value), parse_b3_single(&value), tracestate_is_sound(&value));
            let _ = TraceContext::extract(|_| Some(&value));
        }

        #[test]
        fn what_is_written_is_read_back(seed in any::<u64>(), sampled in any::<bool>()) {
            let context = TraceContext::generate(sampled, &mut Rng::seeded(seed));
            prop_assert_eq!(parse_traceparent(context.traceparent().as_bytes()), Some(context));
            let single = parse_b3_single(context.b3_single().as_bytes()).unwrap();
            prop_assert_eq!(single, TraceContext { format: Format::B3Single, ..context });
        }
    }
}
