//! A route's retry policy, parsed. What is done with it is the data plane's.

use std::time::Duration;

use super::matching::HeaderMatch;

/// Conditions under which an attempt may be repeated (Envoy `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RetryOn(u32);

const NAMES: [(&str, RetryOn); 16] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::RATELIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("retriable-headers", RetryOn::RETRIABLE_HEADERS),
    ("http3-post-connect-failure", RetryOn::HTTP3_POST_CONNECT_FAILURE),
    ("cancelled", RetryOn::GRPC_CANCELLED),
    ("deadline-exceeded", RetryOn::GRPC_DEADLINE_EXCEEDED),
    ("internal", RetryOn::GRPC_INTERNAL),
    ("resource-exhausted", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::GRPC_UNAVAILABLE),
];

impl RetryOn {
    pub const NONE: Self = Self(0);
    pub const SERVER_ERROR: Self = Self(1);
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    pub const RESET: Self = Self(1 << 2);
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    pub const RATELIMITED: Self = Self(1 << 5);
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    pub const REFUSED_STREAM: Self = Self(1 << 7);
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 8);
    pub const RETRIABLE_HEADERS: Self = Self(1 << 9);
    /// Accepted, and never true: there is no HTTP/3 here.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    pub const GRPC_CANCELLED: Self = Self(1 << 16);
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 17);
    pub const GRPC_INTERNAL: Self = Self(1 << 18);
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 19);
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 20);

    /// Reads a comma-separated list. The error is the first word that is not a condition. A word that is a status, such
    /// as `503`, is given to `status`: Istio puts statuses into the same list.
    ///
    /// # Errors
    /// The word that is neither.
    pub fn parse(list: &str, mut status: impl FnMut(u16)) -> Result<Self, &str> {
        let mut conditions = Self::NONE;
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if let Some((_, condition)) = NAMES.iter().find(|(name, _)| *name == word) {
                conditions = conditions.with(*condition);
            } else if let Some(code) = word.parse::<u16>().ok().filter(|code| (100..600).contains(code)) {
                conditions = conditions.with(Self::RETRIABLE_STATUS_CODES);
                status(code);
            } else {
                return Err(word);
            }
        }
        Ok(conditions)
    }

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True where any of `other`'s conditions is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Attempts after the first.
    pub num_retries: u32,
    /// `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    /// The n-th retry waits for a random time up to `base * 2^n - 1`, at most `max`.
    pub backoff_base: Duration,
    pub backoff_max: Duration,
    pub statuses: Box<[u16]>,
    /// Response headers, any of which asks for a retry.
    pub headers: Box<[HeaderMatch]>,
    /// Only requests that match any of these are retried; empty: all.
    pub request_headers: Box<[HeaderMatch]>,
    /// A retry avoids endpoints that were tried.
    pub avoid_previous_hosts: bool,
    /// A retry avoids priorities that were tried, after this many attempts.
    pub avoid_previous_priorities: Option<u32>,
    /// Picks until one that was not tried is found.
    pub host_attempts_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::NONE,
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            statuses: Box::default(),
            headers: Box::default(),
            request_headers: Box::default(),
            avoid_previous_hosts: false,
            avoid_previous_priorities: None,
            host_attempts_max: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_default_list_is_read() {
        let mut statuses = Vec::new();
        let on =
            RetryOn::parse("connect-failure,refused-stream, unavailable,cancelled,503", |code| statuses.push(code));
        let on = on.expect("all known");
        assert!(on.any(RetryOn::CONNECT_FAILURE) && on.any(RetryOn::GRPC_CANCELLED) && !on.any(RetryOn::SERVER_ERROR));
        assert_eq!(statuses, [503]);
        assert_eq!(RetryOn::parse("5xx,typo", |_| ()), Err("typo"));
    }
}
