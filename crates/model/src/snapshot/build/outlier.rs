//! Envoy's `OutlierDetection`: what takes an endpoint out for a time.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection as EnvoyOutlier;

use super::super::cluster::OutlierDetection;
use super::check::{Check, u32_or};

pub(super) fn outlier_detection(check: &mut Check, mut source: EnvoyOutlier) -> OutlierDetection {
    let unset = OutlierDetection::default();
    let duration = |check: &mut Check, field: &str, value, unset| check.duration(field, value).unwrap_or(unset);
    let interval = duration(check, "interval", source.interval.take(), unset.interval);
    if interval.is_zero() {
        check.error("interval", "must be more than 0s");
    }
    let base = duration(check, "base_ejection_time", source.base_ejection_time.take(), unset.base_ejection_time);
    // The fields have Envoy's names, so that none can be taken for another.
    macro_rules! percent {
        ($field:ident) => {
            check.percent_u32(stringify!($field), source.$field.take(), unset.$field)
        };
    }
    macro_rules! count {
        ($field:ident) => {
            u32_or(source.$field.take(), unset.$field)
        };
    }
    let detection = OutlierDetection {
        interval,
        base_ejection_time: base,
        // As in Envoy, a base time over the default maximum raises the maximum.
        max_ejection_time: duration(
            check,
            "max_ejection_time",
            source.max_ejection_time.take(),
            unset.max_ejection_time.max(base),
        ),
        max_ejection_time_jitter: duration(
            check,
            "max_ejection_time_jitter",
            source.max_ejection_time_jitter.take(),
            unset.max_ejection_time_jitter,
        ),
        max_ejection_percent: percent!(max_ejection_percent),
        always_eject_one_endpoint: source.always_eject_one_host.take().is_some_and(|value| value.value),
        consecutive_5xx: count!(consecutive_5xx),
        enforcing_consecutive_5xx: percent!(enforcing_consecutive_5xx),
        consecutive_gateway_failure: count!(consecutive_gateway_failure),
        enforcing_consecutive_gateway_failure: percent!(enforcing_consecutive_gateway_failure),
        split_external_local_origin_errors: std::mem::take(&mut source.split_external_local_origin_errors),
        consecutive_local_origin_failure: count!(consecutive_local_origin_failure),
        enforcing_consecutive_local_origin_failure: percent!(enforcing_consecutive_local_origin_failure),
        enforcing_success_rate: percent!(enforcing_success_rate),
        enforcing_local_origin_success_rate: percent!(enforcing_local_origin_success_rate),
        success_rate_minimum_hosts: count!(success_rate_minimum_hosts),
        success_rate_request_volume: count!(success_rate_request_volume),
        success_rate_stdev_factor: count!(success_rate_stdev_factor),
        enforcing_failure_percentage: percent!(enforcing_failure_percentage),
        enforcing_failure_percentage_local_origin: percent!(enforcing_failure_percentage_local_origin),
        failure_percentage_threshold: percent!(failure_percentage_threshold),
        failure_percentage_minimum_hosts: count!(failure_percentage_minimum_hosts),
        failure_percentage_request_volume: count!(failure_percentage_request_volume),
        error_statuses: Box::default(),
    };
    check.leftover(&source);
    detection
}
