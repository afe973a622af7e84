//! How an endpoint is chosen, from Envoy's `lb_policy` and what belongs to it.

use envoy_types::pb::envoy::config::cluster::v3::Cluster as EnvoyCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, SlowStartConfig, common_lb_config::LocalityConfigSpecifier,
};

use super::super::cluster::{Algorithm, LoadBalancing, SlowStart};
use super::check::{Check, u32_or};

/// Envoy's bounds of a ring.
const RING_SIZE_MAX: u64 = 8 * 1024 * 1024;

pub(super) fn load_balancing(check: &mut Check, rest: &mut EnvoyCluster) -> LoadBalancing {
    let mut read = LoadBalancing::default();
    let mut use_hostname = false;
    if let Some(mut common) = rest.common_lb_config.take() {
        check.within("common_lb_config", |check| {
            common_lb(check, &mut common, &mut read, &mut use_hostname);
        });
    }
    let policy = LbPolicy::try_from(std::mem::take(&mut rest.lb_policy));
    let configuration = rest.lb_config.take();
    let stray = |check: &mut Check| check.error("lb_config", "belongs to another lb_policy");
    // The settings of the policy itself; those of another one are refused.
    macro_rules! own {
        ($configuration:ident, $policy:ident) => {
            match $configuration {
                Some(LbConfig::$policy(settings)) => settings,
                Some(_) => {
                    stray(check);
                    Default::default()
                }
                None => Default::default(),
            }
        };
    }
    let mut slow_start = None;
    read.algorithm = match (policy, configuration) {
        (Ok(LbPolicy::RoundRobin), configuration) => {
            slow_start = own!(configuration, RoundRobinLbConfig).slow_start_config;
            Algorithm::RoundRobin
        }
        (Ok(LbPolicy::LeastRequest), configuration) => {
            let settings = own!(configuration, LeastRequestLbConfig);
            slow_start = settings.slow_start_config;
            let choices = u32_or(settings.choice_count, 2);
            if choices < 2 {
                check.error("least_request_lb_config.choice_count", "must be 2 or more");
            }
            let bias = settings.active_request_bias.map_or(1.0, |bias| bias.default_value);
            Algorithm::LeastRequest { choices: choices.max(2), active_request_bias: bias.max(0.0) }
        }
        (Ok(LbPolicy::Random), configuration) => {
            if configuration.is_some() {
                stray(check);
            }
            Algorithm::Random
        }
        (Ok(LbPolicy::RingHash), configuration) => {
            let settings = own!(configuration, RingHashLbConfig);
            if settings.hash_function != 0 {
                check.error("ring_hash_lb_config.hash_function", "only XX_HASH is supported");
            }
            let least = settings.minimum_ring_size.map_or(1024, |size| size.value);
            let most = settings.maximum_ring_size.map_or(RING_SIZE_MAX, |size| size.value);
            if least > most || most > RING_SIZE_MAX {
                check.error(
                    "ring_hash_lb_config",
                    format!(
                        "minimum_ring_size {least} and maximum_ring_size {most} must rise to at most {RING_SIZE_MAX}"
                    ),
                );
            }
            Algorithm::RingHash { ring_size_min: least, ring_size_max: most, use_hostname }
        }
        (Ok(LbPolicy::Maglev), configuration) => {
            let size = own!(configuration, MaglevLbConfig).table_size.map_or(65_537, |size| size.value);
            if !(2..=5_000_011).contains(&size) || !is_prime(size) {
                check.error("maglev_lb_config.table_size", format!("{size} is not a prime of at most 5000011"));
            }
            Algorithm::Maglev { table_size: size, use_hostname }
        }
        (Ok(LbPolicy::ClusterProvided), _) => Algorithm::ClusterProvided,
        (Ok(LbPolicy::LoadBalancingPolicyConfig), _) | (Err(_), _) => {
            check.unsupported("lb_policy");
            Algorithm::RoundRobin
        }
    };
    read.slow_start = slow_start.and_then(|settings| slow_start_settings(check, settings));
    read
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

fn common_lb(check: &mut Check, common: &mut CommonLbConfig, read: &mut LoadBalancing, use_hostname: &mut bool) {
    if let Some(percent) = check.percent("healthy_panic_threshold", common.healthy_panic_threshold.take()) {
        read.panic_threshold_percent = percent;
    }
    match common.locality_config_specifier.take() {
        None => {}
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => read.locality_weighted = true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zone)) => {
            // Routing to the own zone by share needs to know the own cluster's zones; switched off, it is what acts here.
            let off = zone.routing_enabled.is_some_and(|percent| percent.value == 0.0);
            if !off {
                check.unsupported("zone_aware_lb_config");
            }
        }
    }
    if let Some(mut hashing) = common.consistent_hashing_lb_config.take() {
        *use_hostname = std::mem::take(&mut hashing.use_hostname_for_hashing);
        check.within("consistent_hashing_lb_config", |check| check.leftover(&hashing));
    }
    // Updates are applied at once: merging them would only be later.
    common.update_merge_window = None;
    check.leftover(common);
}

fn slow_start_settings(check: &mut Check, settings: SlowStartConfig) -> Option<SlowStart> {
    let window = check.duration("slow_start_config.slow_start_window", settings.slow_start_window)?;
    let aggression = settings.aggression.map_or(1.0, |value| value.default_value);
    if aggression <= 0.0 || !aggression.is_finite() {
        check.error("slow_start_config.aggression", format!("{aggression} must be more than 0"));
        return None;
    }
    let min_weight_percent =
        check.percent("slow_start_config.min_weight_percent", settings.min_weight_percent).unwrap_or(10.0);
    (!window.is_zero()).then_some(SlowStart { window, aggression, min_weight_percent })
}
