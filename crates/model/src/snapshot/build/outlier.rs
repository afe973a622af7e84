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
        max_ejection_percent: check.percent_u32(
            "max_ejection_percent",
            source.max_ejection_percent.take(),
            unset.max_ejection_percent,
        ),
        always_eject_one_endpoint: source.always_eject_one_host.take().is_some_and(|value| value.value),
        consecutive_5xx: u32_or(source.consecutive_5xx.take(), unset.consecutive_5xx),
        enforcing_consecutive_5xx: check.percent_u32(
            "enforcing_consecutive_5xx",
            source.enforcing_consecutive_5xx.take(),
            unset.enforcing_consecutive_5xx,
        ),
        consecutive_gateway_failure: u32_or(
            source.consecutive_gateway_failure.take(),
            unset.consecutive_gateway_failure,
        ),
        enforcing_consecutive_gateway_failure: check.percent_u32(
            "enforcing_consecutive_gateway_failure",
            source.enforcing_consecutive_gateway_failure.take(),
            unset.enforcing_consecutive_gateway_failure,
        ),
        split_external_local_origin_errors: std::mem::take(&mut source.split_external_local_origin_errors),
        consecutive_local_origin_failure: u32_or(
            source.consecutive_local_origin_failure.take(),
            unset.consecutive_local_origin_failure,
        ),
        enforcing_consecutive_local_origin_failure: check.percent_u32(
            "enforcing_consecutive_local_origin_failure",
            source.enforcing_consecutive_local_origin_failure.take(),
            unset.enforcing_consecutive_local_origin_failure,
        ),
        enforcing_success_rate: check.percent_u32(
            "enforcing_success_rate",
            source.enforcing_success_rate.take(),
            unset.enforcing_success_rate,
        ),
        enforcing_local_origin_success_rate: check.percent_u32(
            "enforcing_local_origin_success_rate",
            source.enforcing_local_origin_success_rate.take(),
            unset.enforcing_local_origin_success_rate,
        ),
        success_rate_minimum_hosts: u32_or(source.success_rate_minimum_hosts.take(), unset.success_rate_minimum_hosts),
        success_rate_request_volume: u32_or(
            source.success_rate_request_volume.take(),
            unset.success_rate_request_volume,
        ),
        success_rate_stdev_factor: u32_or(source.success_rate_stdev_factor.take(), unset.success_rate_stdev_factor),
        enforcing_failure_percentage: check.percent_u32(
            "enforcing_failure_percentage",
            source.enforcing_failure_percentage.take(),
            unset.enforcing_failure_percentage,
        ),
        enforcing_failure_percentage_local_origin: check.percent_u32(
            "enforcing_failure_percentage_local_origin",
            source.enforcing_failure_percentage_local_origin.take(),
            unset.enforcing_failure_percentage_local_origin,
        ),
        failure_percentage_threshold: check.percent_u32(
            "failure_percentage_threshold",
            source.failure_percentage_threshold.take(),
            unset.failure_percentage_threshold,
        ),
        failure_percentage_minimum_hosts: u32_or(
            source.failure_percentage_minimum_hosts.take(),
            unset.failure_percentage_minimum_hosts,
        ),
        failure_percentage_request_volume: u32_or(
            source.failure_percentage_request_volume.take(),
            unset.failure_percentage_request_volume,
        ),
        error_statuses: Box::default(),
    };
    check.leftover(&source);
    detection
}
