//! Whether an attempt is repeated, and when. Pure: limits are the caller's, and so is whether the body can be sent again.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use celerity_model::snapshot::{RequestView, RetryBudget, RetryOn, RetryPolicy};

/// How an attempt ended without a response, or with which one.
#[derive(Clone, Copy)]
pub enum AttemptEnd<'a> {
    Response {
        status: u16,
        /// The first value of a lower-case name.
        header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
    },
    /// No connection was made.
    ConnectFailed,
    /// The peer said that it did not process the stream.
    Refused,
    /// The stream ended before any of the request was sent.
    ResetBeforeRequest,
    /// The stream ended without a response.
    Reset,
    /// The attempt's own time was over.
    PerTryTimeout,
    /// A limit of ours was reached. Trying again would meet it again.
    Overflow,
}

/// gRPC statuses that have a condition (gRPC, `statuscodes.md`).
const GRPC_CONDITIONS: [(&[u8], RetryOn); 5] = [
    (b"1", RetryOn::GRPC_CANCELLED),
    (b"4", RetryOn::GRPC_DEADLINE_EXCEEDED),
    (b"8", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    (b"13", RetryOn::GRPC_INTERNAL),
    (b"14", RetryOn::GRPC_UNAVAILABLE),
];

/// Whether the policy repeats an attempt that ended so (Envoy `RetryStateImpl`). The number of retries is not looked at.
pub fn wants_retry(policy: &RetryPolicy, end: &AttemptEnd<'_>) -> bool {
    let on = policy.on;
    // These three cover every end without a response.
    let any_reset = on.any(RetryOn::SERVER_ERROR.with(RetryOn::GATEWAY_ERROR).with(RetryOn::RESET));
    match end {
        AttemptEnd::Overflow => false,
        AttemptEnd::ConnectFailed => any_reset || on.any(RetryOn::CONNECT_FAILURE.with(RetryOn::RESET_BEFORE_REQUEST)),
        AttemptEnd::Refused => any_reset || on.any(RetryOn::REFUSED_STREAM),
        AttemptEnd::ResetBeforeRequest => any_reset || on.any(RetryOn::RESET_BEFORE_REQUEST),
        AttemptEnd::Reset | AttemptEnd::PerTryTimeout => any_reset,
        AttemptEnd::Response { status, header } => wants_after_response(policy, *status, *header),
    }
}

fn wants_after_response<'a>(policy: &RetryPolicy, status: u16, header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>) -> bool {
    let on = policy.on;
    // A rate limit asks for patience: only who names it goes on.
    if header(b"x-envoy-ratelimited").is_some() {
        return on.any(RetryOn::RATELIMITED);
    }
    let by_status = (on.any(RetryOn::SERVER_ERROR) && (500..600).contains(&status))
        || (on.any(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
        || (on.any(RetryOn::RETRIABLE_4XX) && status == 409)
        || (on.any(RetryOn::RETRIABLE_STATUS_CODES) && policy.statuses.contains(&status));
    let by_header = || {
        on.any(RetryOn::RETRIABLE_HEADERS)
            && policy.headers.iter().any(|wanted| wanted.matches(&ResponseFields { header }))
    };
    let by_grpc = || {
        header(b"grpc-status").is_some_and(|sent| {
            GRPC_CONDITIONS.iter().any(|(code, condition)| *code == sent.trim_ascii() && on.any(*condition))
        })
    };
    by_status || by_header() || by_grpc()
}

/// A response's fields where matchers expect a request's.
struct ResponseFields<'a> {
    header: &'a dyn Fn(&[u8]) -> Option<&'a [u8]>,
}

impl RequestView for ResponseFields<'_> {
    fn method(&self) -> &[u8] {
        b""
    }

    fn scheme(&self) -> &[u8] {
        b""
    }

    fn authority(&self) -> &[u8] {
        b""
    }

    fn path(&self) -> &[u8] {
        b""
    }

    fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        (self.header)(name).map(Cow::Borrowed)
    }

    fn source_ip(&self) -> Option<IpAddr> {
        None
    }
}

/// How long to wait before the `retry`-th retry (the first is 1): anything up to `base * 2^(retry - 1)`, at most `max`
/// (Envoy `JitteredExponentialBackOffStrategy`).
pub fn backoff(policy: &RetryPolicy, retry: u32, rng: u64) -> Duration {
    // Past 2^30 every maximum is reached.
    let doublings = retry.saturating_sub(1).min(30);
    let ceiling = policy.backoff_base.saturating_mul(1 << doublings).min(policy.backoff_max);
    let ceiling_us = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(if ceiling_us == 0 { 0 } else { rng % ceiling_us })
}

/// How many retries may be in flight: a share of `requests` in flight, at least the
/// minimum (Envoy `RetryBudget`).
pub fn budgeted_retries(budget: &RetryBudget, requests: u64) -> u32 {
    let share = requests as f64 * budget.percent / 100.0;
    (share as u32).max(budget.min_concurrency)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        let mut statuses = Vec::new();
        let on = RetryOn::parse(on, |status| statuses.push(status)).expect("known conditions");
        RetryPolicy { on, statuses: statuses.into(), ..RetryPolicy::default() }
    }

    fn after(on: &str, status: u16, headers: &'static [(&'static [u8], &'static [u8])]) -> bool {
        let header = move |name: &[u8]| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        wants_retry(&policy(on), &AttemptEnd::Response { status, header: &header })
    }

    #[test]
    fn statuses_follow_their_conditions() {
        assert!(after("5xx", 500, &[]) && !after("5xx", 404, &[]));
        assert!(after("gateway-error", 503, &[]) && !after("gateway-error", 500, &[]));
        assert!(after("retriable-4xx", 409, &[]) && !after("retriable-4xx", 404, &[]));
        assert!(after("503,429", 429, &[]) && !after("503,429", 502, &[]));
        assert!(!after("5xx", 503, &[(b"x-envoy-ratelimited", b"true")]));
        assert!(after("envoy-ratelimited", 429, &[(b"x-envoy-ratelimited", b"true")]));
    }

    #[test]
    fn istios_default_does_not_retry_a_503() {
        let default = "connect-failure,refused-stream,unavailable,cancelled";
        assert!(!after(default, 503, &[]));
        assert!(after(default, 200, &[(b"grpc-status", b"14")]));
        assert!(!after(default, 200, &[(b"grpc-status", b"13")]));
        let policy = policy(default);
        assert!(wants_retry(&policy, &AttemptEnd::ConnectFailed) && wants_retry(&policy, &AttemptEnd::Refused));
        assert!(!wants_retry(&policy, &AttemptEnd::Reset) && !wants_retry(&policy, &AttemptEnd::PerTryTimeout));
    }

    #[test]
    fn resets_follow_their_conditions() {
        for on in ["5xx", "gateway-error", "reset"] {
            assert!(wants_retry(&policy(on), &AttemptEnd::Reset), "{on}");
            assert!(wants_retry(&policy(on), &AttemptEnd::PerTryTimeout), "{on}");
            assert!(!wants_retry(&policy(on), &AttemptEnd::Overflow), "{on}");
        }
        assert!(wants_retry(&policy("reset-before-request"), &AttemptEnd::ResetBeforeRequest));
        assert!(!wants_retry(&policy("reset-before-request"), &AttemptEnd::Reset));
    }

    #[test]
    fn backoff_doubles_up_to_its_maximum_and_uses_all_of_it() {
        let policy = policy("5xx");
        for (retry, ceiling_ms) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (60, 250)] {
            let waits = (0..1000).map(|draw| backoff(&policy, retry, draw * 7_919));
            let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
            for wait in waits {
                (least, most) = (least.min(wait), most.max(wait));
            }
            assert!(most < Duration::from_millis(ceiling_ms) && most > Duration::from_millis(ceiling_ms * 8 / 10));
            assert!(least < Duration::from_millis(ceiling_ms / 5));
        }
    }

    #[test]
    fn a_budget_is_a_share_with_a_minimum() {
        let budget = RetryBudget { percent: 20.0, min_concurrency: 3 };
        assert_eq!([0, 10, 100].map(|requests| budgeted_retries(&budget, requests)), [3, 3, 20]);
    }
}
