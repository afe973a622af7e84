//! HTTP filters, and their settings on routes.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{FilterConfig, retry_policy};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{
    Buffer, BufferPerRoute, buffer_per_route::Override,
};
use envoy_types::pb::envoy::extensions::filters::http::cache::v3::CacheConfig as EnvoyCache;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy as EnvoyCors};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter as EnvoyFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::http::cache::simple_http_cache::v3::SimpleHttpCacheConfig;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::google::protobuf::Any;

use super::super::listener::{CacheConfig, HttpFilter, RouterConfig};
use super::super::matching::Fraction;
use super::super::route::{Abort, CorsPolicy, Fault, RouteBuffer, RouteFilters};
use super::check::{Check, is_type};

impl RouteFilters {
    /// These settings where given, else those of the wider scope.
    pub(super) fn over(self, wider: &RouteFilters) -> RouteFilters {
        RouteFilters {
            fault: self.fault.or_else(|| wider.fault.clone()),
            cors: self.cors.or_else(|| wider.cors.clone()),
            buffer: self.buffer.or(wider.buffer),
            cache_off: self.cache_off || wider.cache_off,
        }
    }
}

/// The filters in order. The last one must be the router, and only the last.
pub(super) fn chain(check: &mut Check, filters: &[EnvoyFilter]) -> Box<[HttpFilter]> {
    let mut chain = Vec::with_capacity(filters.len());
    for (index, filter) in filters.iter().enumerate() {
        check.item("http_filters", index, |check| {
            if filter.disabled {
                check.error("disabled", "not supported; leave the filter out");
            }
            match &filter.config_type {
                Some(http_filter::ConfigType::TypedConfig(any)) => {
                    let read = check.within("typed_config", |check| read(check, filter, any));
                    chain.extend(read);
                }
                Some(http_filter::ConfigType::ConfigDiscovery(_)) => check.unsupported("config_discovery"),
                None if filter.is_optional => {}
                None => check.error("typed_config", format!("filter {} has no configuration", filter.name)),
            }
        });
    }
    let routers = chain.iter().filter(|filter| matches!(filter, HttpFilter::Router(_))).count();
    if routers != 1 || !matches!(chain.last(), Some(HttpFilter::Router(_))) {
        check.error("http_filters", "the router must be the last filter, and there must be one");
    }
    chain.into()
}

fn read(check: &mut Check, filter: &EnvoyFilter, any: &Any) -> Option<HttpFilter> {
    if is_type::<Router>(any) {
        let mut router: Router = check.unpack(any)?;
        let suppress_envoy_headers = std::mem::take(&mut router.suppress_envoy_headers);
        // Both only change Envoy's own statistics and spans.
        router.dynamic_stats = None;
        #[allow(deprecated)]
        {
            router.start_child_span = false;
        }
        check.leftover(&router);
        return Some(HttpFilter::Router(RouterConfig { suppress_envoy_headers }));
    }
    if is_type::<HttpFault>(any) {
        let fault = check.unpack(any)?;
        let fault = fault_of(check, fault);
        return Some(HttpFilter::Fault((fault != Fault::default()).then(|| Arc::new(fault))));
    }
    if is_type::<Cors>(any) {
        return Some(HttpFilter::Cors(None));
    }
    if is_type::<Buffer>(any) {
        let buffer: Buffer = check.unpack(any)?;
        return buffer_bytes(check, &buffer).map(|max_request_bytes| HttpFilter::Buffer { max_request_bytes });
    }
    if is_type::<EnvoyCache>(any) {
        let cache = check.unpack(any)?;
        return cache_of(check, cache).map(HttpFilter::Cache);
    }
    if !filter.is_optional {
        check.error("", format!("HTTP filter {} ({}) is not supported; remove it", filter.name, any.type_url));
    }
    None
}

fn buffer_bytes(check: &mut Check, buffer: &Buffer) -> Option<u32> {
    let bytes = buffer.max_request_bytes.map_or(0, |value| value.value);
    if bytes == 0 {
        check.error("max_request_bytes", "must be given, and more than 0");
        return None;
    }
    Some(bytes)
}

/// `None` where the filter is disabled.
fn cache_of(check: &mut Check, mut source: EnvoyCache) -> Option<CacheConfig> {
    let disabled = source.disabled.take().is_some_and(|value| value.value);
    if let Some(store) = source.typed_config.take()
        && !is_type::<SimpleHttpCacheConfig>(&store)
    {
        check.error("typed_config", format!("{} is not supported; SimpleHttpCacheConfig is", store.type_url));
    }
    let body = std::mem::take(&mut source.max_body_bytes);
    check.leftover(&source);
    (!disabled).then_some(CacheConfig { max_body_bytes: (body > 0).then_some(body) })
}

fn fault_of(check: &mut Check, mut source: HttpFault) -> Fault {
    let delay = source.delay.take().and_then(|delay| {
        check.within("delay", |check| {
            let share = delay.percentage.as_ref().map_or(Fraction { numerator: 0, denominator: 100 }, |percentage| {
                check.fraction("percentage", percentage)
            });
            match delay.fault_delay_secifier {
                Some(FaultDelaySecifier::FixedDelay(duration)) => {
                    check.duration("fixed_delay", Some(duration)).map(|duration| (duration, share))
                }
                Some(FaultDelaySecifier::HeaderDelay(_)) => {
                    check.unsupported("header_delay");
                    None
                }
                None => {
                    check.error("fixed_delay", "must be given");
                    None
                }
            }
        })
    });
    let abort = source.abort.take().and_then(|abort| {
        check.within("abort", |check| {
            let share = abort.percentage.as_ref().map_or(Fraction { numerator: 0, denominator: 100 }, |percentage| {
                check.fraction("percentage", percentage)
            });
            if !abort.response_body.is_empty() {
                check.unsupported("response_body");
            }
            match abort.error_type {
                Some(ErrorType::HttpStatus(status)) => {
                    let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
                    if status.is_none() {
                        check.error("http_status", "must be 200 to 599");
                    }
                    status.map(|status| (Abort::Http(status), share))
                }
                Some(ErrorType::GrpcStatus(status)) => Some((Abort::Grpc(status), share)),
                Some(ErrorType::HeaderAbort(_)) => {
                    check.unsupported("header_abort");
                    None
                }
                None => {
                    check.error("http_status", "must be given");
                    None
                }
            }
        })
    });
    let headers = check.header_matches("headers", &std::mem::take(&mut source.headers));
    let max_active = source.max_active_faults.take().map(|value| value.value);
    source.disable_downstream_cluster_stats = false;
    check.leftover(&source);
    Fault { delay, abort, headers, max_active }
}

fn cors_of(check: &mut Check, mut source: EnvoyCors) -> CorsPolicy {
    let enabled = source.filter_enabled.take().is_none_or(|fraction| {
        let fraction = check.runtime_fraction("filter_enabled", &fraction);
        if fraction.numerator != 0 && fraction.numerator < fraction.denominator {
            check.error("filter_enabled", "a share of requests is not supported; give 0 or 100");
        }
        fraction.numerator != 0
    });
    let allow_origins = std::mem::take(&mut source.allow_origin_string_match)
        .iter()
        .enumerate()
        .filter_map(|(index, matcher)| check.string_matcher(&format!("allow_origin_string_match[{index}]"), matcher))
        .collect();
    let lists = [
        ("allow_methods", &source.allow_methods),
        ("allow_headers", &source.allow_headers),
        ("expose_headers", &source.expose_headers),
        ("max_age", &source.max_age),
    ];
    lists.into_iter().for_each(|(field, text)| check.header_text(field, text));
    let policy = CorsPolicy {
        enabled,
        allow_origins,
        allow_methods: std::mem::take(&mut source.allow_methods).into(),
        allow_headers: std::mem::take(&mut source.allow_headers).into(),
        expose_headers: std::mem::take(&mut source.expose_headers).into(),
        max_age: std::mem::take(&mut source.max_age).into(),
        allow_credentials: source.allow_credentials.take().is_some_and(|value| value.value),
        forward_unmatched_preflights: source.forward_not_matching_preflights.take().is_none_or(|value| value.value),
    };
    check.leftover(&source);
    policy
}

/// Settings of filters on a virtual host, a route or a weighted cluster, by the type of each.
pub(super) fn per_route(check: &mut Check, configurations: &HashMap<String, Any>) -> RouteFilters {
    let mut filters = RouteFilters::default();
    for (name, any) in configurations {
        check.within(format!("typed_per_filter_config[{name}]"), |check| {
            one_per_route(check, name, any, &mut filters);
        });
    }
    filters
}

fn one_per_route(check: &mut Check, name: &str, any: &Any, filters: &mut RouteFilters) {
    if is_type::<FilterConfig>(any) {
        let Some(wrapper) = check.unpack::<FilterConfig>(any) else { return };
        if wrapper.disabled {
            match name {
                "envoy.filters.http.fault" => filters.fault = Some(Arc::default()),
                "envoy.filters.http.buffer" => filters.buffer = Some(RouteBuffer::Off),
                "envoy.filters.http.cache" => filters.cache_off = true,
                _ => check.error("disabled", format!("not supported for {name}")),
            }
        } else if let Some(inner) = wrapper.config.as_ref().filter(|inner| !is_type::<FilterConfig>(inner)) {
            check.within("config", |check| one_per_route(check, name, inner, filters));
        }
    } else if is_type::<HttpFault>(any) {
        if let Some(fault) = check.unpack(any) {
            filters.fault = Some(Arc::new(fault_of(check, fault)));
        }
    } else if is_type::<EnvoyCors>(any) {
        if let Some(cors) = check.unpack(any) {
            filters.cors = Some(Arc::new(cors_of(check, cors)));
        }
    } else if is_type::<BufferPerRoute>(any) {
        match check.unpack::<BufferPerRoute>(any).and_then(|buffer| buffer.r#override) {
            Some(Override::Disabled(true)) => filters.buffer = Some(RouteBuffer::Off),
            Some(Override::Buffer(buffer)) => {
                filters.buffer = buffer_bytes(check, &buffer).map(RouteBuffer::MaxRequestBytes);
            }
            Some(Override::Disabled(false)) | None => check.error("override", "disabled or buffer must be given"),
        }
    } else if is_type::<EnvoyCache>(any) {
        if let Some(cache) = check.unpack::<EnvoyCache>(any)
            && cache_of(check, cache).is_none()
        {
            filters.cache_off = true;
        }
    } else {
        check.error("", format!("{} is not supported; remove it", any.type_url));
    }
}

/// Attempts after which priorities count anew.
pub(super) fn previous_priorities(check: &mut Check, source: &retry_policy::RetryPriority) -> Option<u32> {
    let Some(retry_policy::retry_priority::ConfigType::TypedConfig(any)) = &source.config_type else {
        check.error("typed_config", "must be given");
        return None;
    };
    let settings: PreviousPrioritiesConfig = check.within("typed_config", |check| check.unpack(any))?;
    u32::try_from(settings.update_frequency).ok().filter(|&frequency| frequency > 0).or_else(|| {
        check.error("typed_config.update_frequency", "must be more than 0");
        None
    })
}
