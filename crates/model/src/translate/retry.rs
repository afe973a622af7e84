//! Retries, with Istio's defaults.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::util::pack_any;

use super::wire::{duration, uint32};
use crate::istio::Retries;

/// Only what no endpoint has worked on is tried again (pilot `retry.go`).
const DEFAULT_CONDITIONS: &str = "connect-failure,refused-stream,unavailable,cancelled";
const DEFAULT_RETRIES: u32 = 2;
/// How often the balancer picks anew to avoid endpoints that have failed this request already.
const HOST_PICKS_MAX: i64 = 5;
/// After how many failed tries of one priority the next is used.
const PRIORITY_UPDATE_FREQUENCY: i32 = 2;

/// The policy of a route; `None` where retries are switched off. With a consistent hash the same key must meet the same
/// endpoint, so previous ones are not avoided unless the policy says so.
pub(super) fn policy(retries: Option<&Retries>, consistent_hash: bool) -> Option<RetryPolicy> {
    let Some(retries) = retries else {
        return Some(RetryPolicy {
            retry_on: DEFAULT_CONDITIONS.to_owned(),
            num_retries: Some(uint32(DEFAULT_RETRIES)),
            retry_host_predicate: if consistent_hash { Vec::new() } else { vec![previous_hosts()] },
            host_selection_retry_max_attempts: if consistent_hash { 0 } else { HOST_PICKS_MAX },
            ..RetryPolicy::default()
        });
    };
    let attempts = u32::try_from(retries.attempts.unwrap_or(0)).ok().filter(|attempts| *attempts > 0)?;
    let (retry_on, retriable_status_codes) = conditions(retries.retry_on.as_deref().unwrap_or_default());
    let avoid_previous = retries.retry_ignore_previous_hosts.unwrap_or(!consistent_hash);
    Some(RetryPolicy {
        retry_on,
        num_retries: Some(uint32(attempts)),
        per_try_timeout: retries.per_try_timeout.filter(|timeout| !timeout.is_zero()).map(duration),
        retry_host_predicate: if avoid_previous { vec![previous_hosts()] } else { Vec::new() },
        host_selection_retry_max_attempts: if avoid_previous { HOST_PICKS_MAX } else { 0 },
        retriable_status_codes,
        retry_priority: (retries.retry_remote_localities == Some(true)).then(previous_priorities),
        retry_back_off: retries
            .backoff
            .filter(|base| *base >= Duration::from_millis(1))
            .map(|base| RetryBackOff { base_interval: Some(duration(base)), max_interval: None }),
        ..RetryPolicy::default()
    })
}

/// Statuses among the conditions become a list of their own.
fn conditions(text: &str) -> (String, Vec<u32>) {
    let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let codes: Vec<u32> = words().filter_map(|word| word.parse().ok()).collect();
    let mut named: Vec<&str> = words().filter(|word| word.parse::<u32>().is_err()).collect();
    if named.is_empty() && codes.is_empty() {
        return (DEFAULT_CONDITIONS.to_owned(), codes);
    }
    if !codes.is_empty() && !named.contains(&"retriable-status-codes") {
        named.push("retriable-status-codes");
    }
    (named.join(","), codes)
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_any(PreviousHostsPredicate {}))),
    }
}

fn previous_priorities() -> RetryPriority {
    let config = PreviousPrioritiesConfig { update_frequency: PRIORITY_UPDATE_FREQUENCY };
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(pack_any(config))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_move_to_their_own_list() {
        assert_eq!(conditions("5xx, 409"), ("5xx,retriable-status-codes".to_owned(), vec![409]));
        assert_eq!(conditions(""), (DEFAULT_CONDITIONS.to_owned(), vec![]));
    }

    #[test]
    fn no_attempts_means_no_retries() {
        assert_eq!(policy(Some(&Retries { attempts: Some(0), ..Retries::default() }), false), None);
        assert_eq!(policy(None, false).and_then(|policy| policy.num_retries), Some(uint32(2)));
        assert!(policy(None, true).is_some_and(|policy| policy.retry_host_predicate.is_empty()));
        let explicit = |avoid| Retries { attempts: Some(1), retry_ignore_previous_hosts: avoid, ..Retries::default() };
        for (avoid, hash, predicates) in
            [(None, true, 0), (Some(true), true, 1), (None, false, 1), (Some(false), false, 0)]
        {
            let made = policy(Some(&explicit(avoid)), hash).map(|policy| policy.retry_host_predicate.len());
            assert_eq!(made, Some(predicates), "{avoid:?} {hash}");
        }
    }
}
