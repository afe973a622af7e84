//! Checks between the fields of routes.

use super::super::reader::{Cx, ErrorKind};
use super::super::virtual_service::{
    Fault, FaultAbort, FaultDelay, HeaderChanges, HttpRoute, Redirect, Retries, Rewrite, StringMatch, VirtualService,
};

fn conflict(cx: &mut Cx, reason: &str) {
    cx.error(ErrorKind::Conflict, reason);
}

pub(crate) fn check_virtual_service(service: &VirtualService, cx: &mut Cx) {
    if service.hosts.is_empty() {
        cx.missing("hosts", "name at least one host");
    }
    if service.http.is_empty() {
        cx.missing("http", "a VirtualService needs at least one route");
    }
    let for_sidecars = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
    for (index, host) in service.hosts.iter().enumerate() {
        if host == "*" && for_sidecars {
            let reason = "for sidecars a host cannot be a wildcard alone; name a domain, as *.example.com";
            cx.error_at(&format!("hosts[{index}]"), ErrorKind::BadValue, reason);
            continue;
        }
        // Equal ones are told by the check of the list.
        let earlier = service.hosts.iter().take(index).find(|earlier| *earlier != host && overlap(earlier, host));
        if let Some(earlier) = earlier.filter(|earlier| *earlier != "*" || !for_sidecars) {
            let reason =
                format!("{earlier} and {host} have names in common, which Istio calls duplicate hosts; keep one");
            cx.error_at(&format!("hosts[{index}]"), ErrorKind::Conflict, reason);
        }
    }
}

/// Whether two hosts as they are written have names in common (Istio, host.Name.Matches).
fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (None, None) => one == other,
    }
}

pub(crate) fn check_route(route: &HttpRoute, cx: &mut Cx) {
    let ends = usize::from(!route.route.is_empty())
        + usize::from(route.redirect.is_some())
        + usize::from(route.direct_response.is_some());
    match ends {
        0 => cx.missing("route", "a route needs one of route, redirect and directResponse"),
        1 => {}
        _ => conflict(cx, "route, redirect and directResponse exclude each other; keep one"),
    }
    if route.route.is_empty() && (route.fault.is_some() || route.rewrite.is_some()) {
        conflict(cx, "fault and rewrite go only with route; remove them");
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        conflict(cx, "mirror and mirrors exclude each other; move mirror into mirrors");
    }
    check_authority(route, cx);
    let sum: u64 = route.route.iter().map(|r| u64::from(r.weight.unwrap_or(0))).sum();
    if route.route.len() > 1 && sum == 0 {
        cx.error_at("route", ErrorKind::BadValue, "the weights add up to 0; give at least one destination a weight");
    }
    if sum > u64::from(u32::MAX) {
        cx.error_at("route", ErrorKind::BadValue, "the weights add up to more than 4294967295; make them smaller");
    }
    let prefix_only = route.redirect.as_ref().is_some_and(|r| is_set(r.prefix_rewrite.as_ref()));
    let all_prefix = route.matches.iter().all(|m| matches!(m.uri, None | Some(StringMatch::Prefix(_))));
    if prefix_only && !all_prefix {
        let reason = "prefixRewrite goes only with matches of a path's prefix; write uri";
        cx.error_at("redirect.prefixRewrite", ErrorKind::Conflict, reason);
    }
}

/// As Istio: the authority is written in one place.
fn check_authority(route: &HttpRoute, cx: &mut Cx) {
    let rewritten = route.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref()).unwrap_or_default();
    let request = route.headers.as_ref().and_then(|headers| headers.request.as_ref());
    let places = request
        .map_or(0, |request| request.set.keys().chain(request.add.keys()).filter(|name| is_authority(name)).count());
    if places + usize::from(!rewritten.is_empty()) > 1 {
        let reason =
            "the authority is set more than once, by rewrite.authority or by the headers host and :authority; keep one";
        conflict(cx, reason);
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// As Istio: names that begin with a colon, and `host`, are no headers to change; the authority of a request may be set.
pub(crate) fn check_header_changes(changes: &HeaderChanges, cx: &mut Cx) {
    let is_internal = |name: &str| name.starts_with(':') || is_authority(name);
    let mut refuse = |field: &str, name: &str| {
        let reason = format!("{name} cannot be changed here; remove it");
        cx.error_at(field, ErrorKind::BadValue, reason);
    };
    if let Some(request) = &changes.request {
        for (field, map) in [("request.set", &request.set), ("request.add", &request.add)] {
            map.keys().filter(|name| is_internal(name) && !is_authority(name)).for_each(|name| refuse(field, name));
        }
        request.remove.iter().filter(|name| is_internal(name)).for_each(|name| refuse("request.remove", name));
    }
    if let Some(response) = &changes.response {
        for (field, map) in [("response.set", &response.set), ("response.add", &response.add)] {
            map.keys().filter(|name| is_internal(name)).for_each(|name| refuse(field, name));
        }
        response.remove.iter().filter(|name| is_internal(name)).for_each(|name| refuse("response.remove", name));
    }
}

/// An empty text is as if it were not written, as in Istio's messages.
fn is_set(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

pub(crate) fn check_redirect(redirect: &Redirect, cx: &mut Cx) {
    let (uri, prefix) = (is_set(redirect.uri.as_ref()), is_set(redirect.prefix_rewrite.as_ref()));
    if uri && prefix {
        conflict(cx, "uri and prefixRewrite exclude each other; keep one");
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        conflict(cx, "port and derivePort exclude each other; keep one");
    }
    let elsewhere = uri || prefix || is_set(redirect.authority.as_ref()) || is_set(redirect.scheme.as_ref());
    if !elsewhere && redirect.port.is_none() && redirect.derive_port.is_none() {
        conflict(cx, "a redirect to the same place never ends; set uri, authority, scheme or port");
    }
}

pub(crate) fn check_rewrite(rewrite: &Rewrite, cx: &mut Cx) {
    let uri = is_set(rewrite.uri.as_ref());
    if !uri && rewrite.uri_regex_rewrite.is_none() && !is_set(rewrite.authority.as_ref()) {
        conflict(cx, "a rewrite needs uri, uriRegexRewrite or authority");
    }
    if uri && rewrite.uri_regex_rewrite.is_some() {
        conflict(cx, "uri and uriRegexRewrite exclude each other; keep one");
    }
}

pub(crate) fn check_retries(retries: &Retries, cx: &mut Cx) {
    let off = retries.attempts.is_some_and(|n| n <= 0);
    if retries.attempts.is_some_and(|n| n < 0) {
        cx.error_at("attempts", ErrorKind::BadValue, "attempts cannot be negative; write 0 for no retries");
    }
    if off && (retries.per_try_timeout.is_some() || retries.retry_on.is_some()) {
        conflict(cx, "with attempts: 0 there is no retry, so perTryTimeout and retryOn cannot act; remove them");
    }
}

pub(crate) fn check_fault(fault: &Fault, cx: &mut Cx) {
    if fault.delay.is_none() && fault.abort.is_none() {
        conflict(cx, "a fault needs delay or abort");
    }
}

pub(crate) fn check_delay(delay: &FaultDelay, cx: &mut Cx) {
    if delay.fixed_delay.is_none() {
        cx.missing("fixedDelay", "a delay needs its length");
    }
}

pub(crate) fn check_abort(abort: &FaultAbort, cx: &mut Cx) {
    match (abort.http_status, abort.grpc_status) {
        (None, None) => cx.missing("httpStatus", "an abort needs httpStatus or grpcStatus"),
        (Some(_), Some(_)) => conflict(cx, "httpStatus and grpcStatus exclude each other; keep one"),
        _ => {}
    }
}
