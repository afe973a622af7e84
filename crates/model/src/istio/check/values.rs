//! Checks of single values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::policy::PortPolicy;
use super::super::prometheus_rule::Expression;
use super::super::reader::{Cx, ErrorKind, did_you_mean, nearest};

/// Words that guides give for a field and that are written in another one.
const WORDS_ELSEWHERE: [(&str, &str); 2] = [
    ("MAGLEV", "write consistentHash: {httpHeaderName: x-user-id, maglev: {}} in place of simple"),
    ("RING_HASH", "write consistentHash: {httpHeaderName: x-user-id, ringHash: {}} in place of simple"),
];

pub(crate) fn word<T: Copy>(text: &str, words: &[(&'static str, T, Option<&'static str>)], cx: &mut Cx) -> Option<T> {
    match words.iter().find(|(word, ..)| *word == text) {
        Some((_, value, None)) => Some(*value),
        Some((word, _, Some(what))) => {
            cx.error(ErrorKind::NotSupported, format!("{word} is not supported yet: {what}"));
            None
        }
        None => {
            let known: Vec<&str> = words.iter().filter(|w| w.2.is_none()).map(|w| w.0).collect();
            let elsewhere = WORDS_ELSEWHERE.iter().find(|(word, _)| *word == text).map(|(_, hint)| format!("; {hint}"));
            let hint = elsewhere.unwrap_or_else(|| did_you_mean(text, known.iter().copied()));
            cx.bad(format!("{text} is not one of {}{hint}", known.join(", ")));
            None
        }
    }
}

fn between<T: PartialOrd + std::fmt::Display>(value: &T, low: T, high: T, cx: &mut Cx) {
    if *value < low || *value > high {
        cx.bad(format!("{value} is out of range; write a number from {low} to {high}"));
    }
}

pub(crate) fn int32(value: &u32, cx: &mut Cx) {
    between(value, 0, i32::MAX as u32, cx);
}

pub(crate) fn percent(value: &f64, cx: &mut Cx) {
    between(value, 0.0, 100.0, cx);
}

pub(crate) fn percent_u32(value: &u32, cx: &mut Cx) {
    between(value, 0, 100, cx);
}

pub(crate) fn positive(value: &f64, cx: &mut Cx) {
    if *value <= 0.0 {
        cx.bad(format!("{value} is out of range; write more than 0"));
    }
}

pub(crate) fn port(value: &u16, cx: &mut Cx) {
    if *value == 0 {
        cx.bad("a port is a number from 1 to 65535");
    }
}

pub(crate) fn ring_size(value: &u64, cx: &mut Cx) {
    between(value, 0, 8 << 20, cx);
}

pub(crate) fn table_size(value: &u64, cx: &mut Cx) {
    between(value, 2, 5_000_011, cx);
    if *value > 5_000_011 {
        return;
    }
    let divisor = (2..).take_while(|d| d * d <= *value).find(|d| value.is_multiple_of(*d));
    if let Some(divisor) = divisor {
        cx.bad(format!("{value} is divisible by {divisor}; a Maglev table needs a prime size such as 65537"));
    }
}

pub(crate) fn workers(value: &u32, cx: &mut Cx) {
    between(value, 0, 1_024, cx);
}

pub(crate) fn threads(value: &u32, cx: &mut Cx) {
    between(value, 1, 4_096, cx);
}

pub(crate) fn queue(value: &u32, cx: &mut Cx) {
    between(value, 1, 10_000_000, cx);
}

pub(crate) fn redirect_code(value: &u16, cx: &mut Cx) {
    if ![301, 302, 303, 307, 308].contains(value) {
        cx.bad(format!("{value} is no redirect; write 301, 302, 303, 307 or 308"));
    }
}

pub(crate) fn response_status(value: &u16, cx: &mut Cx) {
    between(value, 200, 599, cx);
}

pub(crate) fn error_codes(values: &[u16], cx: &mut Cx) {
    for value in values {
        between(value, 100, 599, cx);
    }
}

pub(crate) fn min_1ms(value: &Duration, cx: &mut Cx) {
    if *value < Duration::from_millis(1) {
        cx.bad("a duration here is at least 1ms");
    }
}

/// A Max-Age counts seconds.
pub(crate) fn whole_seconds(value: &Duration, cx: &mut Cx) {
    min_1ms(value, cx);
    if value.subsec_nanos() > 0 {
        cx.bad("this counts whole seconds; write 1s or more, without a fraction");
    }
}

pub(crate) fn redirect_scheme(value: &str, cx: &mut Cx) {
    if !matches!(value, "" | "http" | "https") {
        cx.bad(format!("{value:?} is not one of http, https"));
    }
}

pub(crate) fn not_empty(value: &str, cx: &mut Cx) {
    if value.is_empty() {
        cx.bad("this cannot be empty");
    }
}

/// Longest text of a field in characters, from Istio's schema (manifests/charts/base/files/crd-all.gen.yaml, `maxLength`).
fn at_most(chars: usize, value: &str, cx: &mut Cx) {
    if value.chars().count() > chars {
        cx.bad(format!("this is longer than {chars} characters, the bound of Istio's schema; make it shorter"));
    }
}

pub(crate) fn at_most_253(value: &str, cx: &mut Cx) {
    at_most(253, value, cx);
}

pub(crate) fn at_most_256(value: &str, cx: &mut Cx) {
    at_most(256, value, cx);
}

pub(crate) fn at_most_2048(value: &str, cx: &mut Cx) {
    at_most(2_048, value, cx);
}

pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(crate) fn header_name(value: &str, cx: &mut Cx) {
    if !is_token(value.strip_prefix(':').unwrap_or(value)) {
        cx.bad(format!("{value:?} is no name of a header; use letters, digits and dashes"));
    }
}

pub(crate) fn header_names(values: &[String], cx: &mut Cx) {
    values.iter().for_each(|value| header_name(value, cx));
}

pub(crate) fn header_keys<V>(values: &BTreeMap<String, V>, cx: &mut Cx) {
    values.keys().for_each(|value| header_name(value, cx));
}

pub(crate) fn is_dns_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !value.is_empty()
        && value.len() <= 63
        && value.bytes().all(inner)
        && !value.starts_with('-')
        && !value.ends_with('-')
}

pub(crate) fn dns_label(value: &str, cx: &mut Cx) {
    if !is_dns_label(value) {
        cx.bad(format!("{value:?} is no name; use at most 63 letters, digits and dashes, with no dash at an end"));
    }
}

/// A DNS name whose first label may start with a star.
fn is_host(value: &str) -> bool {
    let plain = |label: &str| {
        is_dns_label(label) || (label.len() <= 63 && label.split('_').all(|p| p.is_empty() || is_dns_label(p)))
    };
    let (first, rest) = value.split_once('.').map_or((value, None), |(first, rest)| (first, Some(rest)));
    let first = first.strip_prefix('*').unwrap_or(first);
    let first = first.strip_prefix('-').unwrap_or(first);
    let rest_fits =
        rest.is_none_or(|rest| rest.strip_suffix('.').unwrap_or(rest).split('.').all(|l| !l.is_empty() && plain(l)));
    value.len() <= 255 && (first.is_empty() || plain(first)) && rest_fits
}

pub(crate) fn host(value: &str, cx: &mut Cx) {
    if value.is_empty() || (!is_host(value) && value.parse::<IpAddr>().is_err()) {
        cx.bad(format!("{value:?} is no host; write a name such as reviews or reviews.default.svc.cluster.local"));
    }
}

/// As Istio's validateDestination; a wildcard with a domain may be a ServiceEntry's own host.
pub(crate) fn destination_host(value: &str, cx: &mut Cx) {
    if value == "*" {
        cx.bad("* is no destination: requests go to one service; write its name such as reviews");
        return;
    }
    host(value, cx);
}

pub(crate) fn hosts(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate() {
        host(value, cx);
        if values.iter().take(index).any(|earlier| earlier == value) {
            cx.bad(format!("{value} is listed twice; remove one"));
        }
    }
}

/// As [`export_to`], without `~`: that is a ServiceEntry's own (Istio, ServiceEntry reference).
pub(crate) fn export_to_someone(values: &[String], cx: &mut Cx) {
    if values.iter().any(|value| value == "~") {
        cx.bad("~ (nobody) is for a ServiceEntry only; write . for the document's own namespace");
    }
    export_to(values, cx);
}

pub(crate) fn export_to(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate() {
        if !matches!(value.as_str(), "." | "*" | "~") && !is_dns_label(value) {
            cx.bad(format!("{value:?} is no namespace; write its name, . for this one or * for all"));
        }
        if values.iter().take(index).any(|earlier| earlier == value) {
            cx.bad(format!("{value} is listed twice; remove one"));
        }
    }
    if values.len() > 1 && values.iter().any(|v| v == "*" || v == "~") {
        cx.error(ErrorKind::Conflict, "* and ~ stand alone; remove the others");
    }
}

fn is_label_value(value: &str) -> bool {
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    value.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && end(bytes.first())
        && end(bytes.last())
}

fn is_label_name(name: &str) -> bool {
    let (prefix, name) = name.split_once('/').map_or((None, name), |(prefix, name)| (Some(prefix), name));
    !name.is_empty()
        && is_label_value(name)
        && prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253 && p.split('.').all(is_dns_label))
}

pub(crate) fn labels(values: &BTreeMap<String, String>, cx: &mut Cx) {
    for (name, value) in values {
        if !is_label_name(name) {
            cx.bad(format!(
                "{name:?} is no name of a label; use at most 63 letters, digits, dashes, dots and underscores"
            ));
        }
        if !is_label_value(value) {
            cx.bad(format!(
                "{value:?} is no value of a label; use at most 63 letters, digits, dashes, dots and underscores"
            ));
        }
    }
}

pub(crate) fn selector_labels(values: &BTreeMap<String, String>, cx: &mut Cx) {
    if values.iter().any(|(name, value)| name.contains('*') || value.contains('*')) {
        cx.bad("a selector takes no wildcard; write the label in full");
        return;
    }
    labels(values, cx);
}

/// As `promtool`: the name of a series is no label to set.
pub(crate) fn rule_labels(values: &BTreeMap<String, String>, cx: &mut Cx) {
    if values.contains_key("__name__") {
        cx.bad("__name__ is the name of the series and no label to set; remove it, or name the series with record");
    }
    annotation_names(values, cx);
}

pub(crate) fn expression(expr: &Expression, cx: &mut Cx) {
    not_empty(&expr.0, cx);
}

pub(crate) fn annotation_names(values: &BTreeMap<String, String>, cx: &mut Cx) {
    for name in values.keys() {
        let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            cx.bad(format!("{name:?} is no name here; use letters, digits and underscores, with no digit first"));
        }
    }
}

pub(crate) fn metric_name(name: &str, cx: &mut Cx) {
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
    if !fits || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        cx.bad(format!(
            "{name:?} is no name of a series; use letters, digits, underscores and colons, with no digit first"
        ));
    }
}

/// `mesh`, `NAMESPACE/NAME`, or the old form with dots (Istio, validateGatewayNames).
fn is_gateway(name: &str) -> bool {
    match name.split_once('/') {
        Some((namespace, name)) => is_dns_label(namespace) && is_dns_label(name),
        None => name.len() <= 255 && name.strip_suffix('.').unwrap_or(name).split('.').all(is_dns_label),
    }
}

pub(crate) fn gateway_names(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate().filter(|(_, value)| !is_gateway(value)) {
        let reason = format!("{value:?} is no gateway; write mesh, or NAMESPACE/NAME");
        cx.error_at(&format!("[{index}]"), ErrorKind::BadValue, reason);
    }
}

pub(crate) fn namespace_or_empty(value: &str, cx: &mut Cx) {
    if !value.is_empty() && !is_dns_label(value) {
        cx.bad(format!("{value:?} is no namespace; write its name such as default"));
    }
}

/// Routes that no sidecar has are refused whole: with gateways alone nothing of them would act.
pub(crate) fn with_mesh(values: &[String], cx: &mut Cx) {
    if !values.is_empty() && values.iter().all(|value| is_gateway(value)) && !values.iter().any(|value| value == "mesh")
    {
        let reason = format!(
            "not supported yet: gateways ({}); only mesh, the sidecars, acts; add mesh if these routes are for them too",
            values.join(", ")
        );
        cx.error(ErrorKind::NotSupported, reason);
    }
}

/// Conditions of Envoy's router that need nothing beside their name.
const RETRY_CONDITIONS: [&str; 13] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "envoy-ratelimited",
];
/// Known conditions that do not act here.
const RETRY_CONDITIONS_REFUSED: [&str; 2] = ["retriable-headers", "http3-post-connect-failure"];

pub(crate) fn retry_on(value: &str, cx: &mut Cx) {
    for condition in value.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        let is_status = condition.parse::<u16>().is_ok_and(|n| (100..600).contains(&n));
        if RETRY_CONDITIONS.contains(&condition) || condition == "retriable-status-codes" || is_status {
            continue;
        }
        if RETRY_CONDITIONS_REFUSED.contains(&condition) {
            cx.error(ErrorKind::NotSupported, format!("not supported yet: retry on {condition}"));
            continue;
        }
        let hint = match nearest(condition, RETRY_CONDITIONS.into_iter()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {} and statuses such as 503", RETRY_CONDITIONS.join(", ")),
        };
        cx.bad(format!("{condition} is no condition of a retry; {hint}"));
    }
}

pub(crate) fn named_ports(values: &BTreeMap<String, u16>, cx: &mut Cx) {
    for (name, number) in values {
        if name.len() >= 63 || !is_dns_label(name) {
            cx.bad(format!("{name:?} is no name of a port; use letters, digits and dashes"));
        }
        port(number, cx);
    }
}

/// A full DNS name. One whose last label is a number would be an address (RFC 1123, 2.1).
fn is_dns_name(value: &str) -> bool {
    let mut labels = value.strip_suffix('.').unwrap_or(value).split('.');
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    value.len() <= 255 && labels.clone().all(is_dns_label) && !labels.next_back().is_some_and(is_number)
}

pub(crate) fn workload_address(value: &str, cx: &mut Cx) {
    let Some(path) = value.strip_prefix("unix://") else {
        if !value.is_empty() && value.parse::<IpAddr>().is_err() && !is_dns_name(value) {
            cx.bad(format!(
                "{value:?} is no address; write an IP address, or a DNS name for a service of resolution DNS"
            ));
        }
        return;
    };
    if !path.starts_with(['/', '@']) {
        cx.bad("the path of a Unix socket starts with / (a file) or @ (an abstract socket)");
    } else if path.ends_with('/') {
        cx.bad("a Unix socket cannot be a folder");
    } else {
        cx.error(ErrorKind::NotSupported, "not supported yet: endpoints on Unix sockets; give an address and a port");
    }
}

/// What Istio knows as the protocol of a port (pilot `protocol.Parse`), in lower case.
const PROTOCOLS: [&str; 12] =
    ["http", "http2", "grpc", "grpc-web", "https", "tcp", "tls", "mongo", "mysql", "redis", "udp", "http_proxy"];

pub(crate) fn protocol(value: &str, cx: &mut Cx) {
    let word = value.to_ascii_lowercase();
    if !word.is_empty() && !PROTOCOLS.contains(&word.as_str()) {
        let near = nearest(&word, PROTOCOLS.into_iter()).map(|near| format!("; did you mean {}?", near.to_uppercase()));
        let known = PROTOCOLS.map(str::to_uppercase).join(", ");
        cx.bad(format!("{value} is not one of {known}{}", near.unwrap_or_default()));
    }
}

/// Addresses, each alone or with the length of its prefix.
pub(crate) fn prefixes(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate() {
        let (address, bits) = value.split_once('/').map_or((value.as_str(), None), |(ip, bits)| (ip, Some(bits)));
        let bits_max = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => Some(32),
            Ok(IpAddr::V6(_)) => Some(128),
            Err(_) => None,
        };
        let fits = bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| Some(bits) <= bits_max));
        if bits_max.is_none() || !fits {
            let reason = format!("{value:?} is no address; write one such as 10.0.0.1, or a prefix such as 10.0.0.0/8");
            cx.error_at(&format!("[{index}]"), ErrorKind::BadValue, reason);
        }
    }
}

pub(crate) fn not_an_empty_map<K, V>(values: &BTreeMap<K, V>, cx: &mut Cx) {
    if values.is_empty() {
        cx.bad("this cannot be empty; name a port or remove the field");
    }
}

pub(crate) fn is_object(value: &serde_json::Value, cx: &mut Cx) {
    if !value.is_object() {
        cx.error(ErrorKind::WrongType, "this must be a mapping: an Envoy message");
    }
}

pub(crate) fn cluster_ip(value: &str, cx: &mut Cx) {
    if !value.is_empty() && value != "None" && value.parse::<IpAddr>().is_err() {
        cx.bad(format!("{value:?} is no address; write an IP address, or None for a headless service"));
    }
}

pub(crate) fn cluster_ips(values: &[String], cx: &mut Cx) {
    values.iter().for_each(|value| cluster_ip(value, cx));
}

pub(crate) fn at_most_ports(values: &[PortPolicy], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate() {
        if values.iter().take(index).any(|earlier| earlier.port == value.port) {
            cx.error(ErrorKind::Conflict, format!("port {} has two policies; merge them into one", value.port));
        }
    }
}
