//! What becomes of an attempt that failed: for outlier detection, for the client, for the access log.

use super::context::Failure;
use super::details;
use super::patience::Expired;
use crate::outlier::Outcome;
use crate::upstream::{AcquireError, AttemptError};
use celerity_model::snapshot::{Cluster, Discovery};
use celerity_telemetry::ResponseFlags;

/// How an attempt ended, when it is not what the client is given.
pub(super) enum End {
    Acquire(AcquireError),
    Attempt(AttemptError),
    PerTry,
    PerTryIdle,
    Status,
}

/// Why no endpoint may take a request.
pub(super) fn no_endpoint(cluster: &Cluster) -> &'static str {
    let is_named = matches!(cluster.discovery, Discovery::StrictDns | Discovery::LogicalDns);
    if is_named && cluster.endpoints.is_empty() {
        return "no healthy upstream: the DNS name of the cluster has no address yet";
    }
    "no healthy upstream"
}

/// What outlier detection hears of an attempt without a response. Our own limits say nothing about the endpoint, and one that
/// closes a connection before it takes a request from it does nothing wrong: it may be draining.
pub(super) fn outcome_of(end: &End) -> Option<Outcome> {
    match end {
        End::Acquire(error) => outcome_of_acquire(error),
        End::Status => None,
        End::Attempt(AttemptError::Unprocessed(_) | AttemptError::Refused { limit_known: false }) => None,
        End::Attempt(_) => Some(Outcome::Reset),
        End::PerTry | End::PerTryIdle => Some(Outcome::Timeout),
    }
}

/// See [`outcome_of`].
fn outcome_of_acquire(error: &AcquireError) -> Option<Outcome> {
    match error {
        AcquireError::Connect { .. } => Some(Outcome::ConnectFailed),
        AcquireError::PendingOverflow | AcquireError::Gone(_) => None,
    }
}

pub(super) fn failure_of(end: &End) -> Failure {
    let prefix = "upstream connect error or disconnect/reset before headers";
    match end {
        End::Acquire(AcquireError::PendingOverflow) => Failure::overflow(format!("{prefix}. reset reason: overflow")),
        End::Acquire(error) => {
            let (reset, transport) = match error {
                AcquireError::Connect { timed_out: true, reason, .. } => (details::CONNECTION_TIMEOUT, Some(reason)),
                AcquireError::Connect { reason, .. } => (details::CONNECTION_FAILURE, Some(reason)),
                _ => (details::CONNECTION_FAILURE, None),
            };
            let sentence = format!("{prefix}. reset reason: {}. {error}", reset.reason);
            let failure = Failure::new(503, ResponseFlags::UPSTREAM_CONNECTION_FAILURE, reset.before, sentence);
            Failure { transport: transport.cloned(), ..failure }
        }
        End::Attempt(error) => {
            let reset = reset_of(error);
            let status = if matches!(error, AttemptError::Protocol(_)) { 502 } else { 503 };
            let sentence = format!("{prefix}. reset reason: {}. {error}", reset.reason);
            Failure::new(status, error.flags(), reset.before, sentence)
        }
        End::PerTry => Failure::of_time(Expired::PerTry),
        End::PerTryIdle => Failure::of_time(Expired::PerTryIdle),
        End::Status => Failure::new(503, ResponseFlags::NONE, details::VIA_UPSTREAM, "retries used up"),
    }
}

pub(super) fn reset_of(error: &AttemptError) -> details::Reset {
    match error {
        AttemptError::Protocol(_) => details::PROTOCOL_ERROR,
        AttemptError::Refused { .. } => details::REMOTE_REFUSED,
        AttemptError::RemoteReset(_) => details::REMOTE_RESET,
        _ => details::CONNECTION_TERMINATION,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_limits_say_nothing_about_an_endpoint() {
        let address = ([127, 0, 0, 1], 1).into();
        let refused = AcquireError::Connect { address, reason: "refused".into(), timed_out: false, tls: false };
        assert_eq!(outcome_of_acquire(&refused), Some(Outcome::ConnectFailed));
        assert_eq!(outcome_of_acquire(&AcquireError::PendingOverflow), None);
        assert_eq!(outcome_of_acquire(&AcquireError::Gone(address)), None);
        assert_eq!(outcome_of(&End::Attempt(AttemptError::Unprocessed("GOAWAY".into()))), None);
        assert_eq!(outcome_of(&End::Attempt(AttemptError::Reset("FIN".into()))), Some(Outcome::Reset));
    }

    #[test]
    fn only_what_was_dropped_is_marked_as_overloaded() {
        assert!(failure_of(&End::Acquire(AcquireError::PendingOverflow)).overloaded);
        let words = |end| failure_of(&end).details;
        assert_eq!(
            words(End::Attempt(AttemptError::Protocol("it said 7".into()))),
            "upstream_reset_before_response_started{protocol_error}"
        );
        assert_eq!(
            words(End::Acquire(AcquireError::PendingOverflow)),
            "upstream_reset_before_response_started{overflow}"
        );
        assert_eq!(words(End::PerTry), "upstream_per_try_timeout");
        let failure = failure_of(&End::Attempt(AttemptError::RemoteReset("why".into())));
        assert_eq!((failure.overloaded, failure.status, failure.flags.to_string().as_str()), (false, 503, "UR"));
    }
}
