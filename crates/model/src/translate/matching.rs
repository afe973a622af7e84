//! What a route matches.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use super::node::Node;
use super::registry::contains;
use super::wire::boolean;
use crate::istio::{HttpMatch, StringMatch, VirtualService};

/// Whether a condition can hold for requests that leave `node` for `port`. What a client's labels, namespace and port decide
/// is decided here, once, and costs a request nothing.
pub(super) fn concerns(matches: &HttpMatch, node: &Node, port: u16) -> bool {
    matches.port.is_none_or(|wanted| wanted == port)
        && contains(&node.labels, &matches.source_labels)
        && matches
            .source_namespace
            .as_ref()
            .is_none_or(|namespace| namespace.is_empty() || *namespace == node.namespace)
        && (matches.gateways.is_empty() || matches.gateways.iter().any(|gateway| gateway == "mesh"))
}

/// Whether any route can be for requests that leave `node` for `port`. A VirtualService without one is, for them, as if it were not
/// there (pilot `route.go`).
pub(super) fn any_concerns(service: &VirtualService, node: &Node, port: u16) -> bool {
    service.http.iter().any(|http| http.matches.is_empty() || http.matches.iter().any(|one| concerns(one, node, port)))
}

/// Everything.
pub(super) fn every_path() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() }
}

pub(super) fn route_match(matches: &HttpMatch) -> RouteMatch {
    let path = match matches.uri.as_ref().unwrap_or(&StringMatch::Present) {
        StringMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        StringMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.clone()),
        StringMatch::Regex(regex) => PathSpecifier::SafeRegex(regex_matcher(regex)),
        StringMatch::Present => PathSpecifier::Prefix("/".to_owned()),
    };
    let mut headers = Vec::new();
    for (name, condition) in &matches.headers {
        headers.push(header(name, condition));
    }
    for (name, condition) in &matches.without_headers {
        // A request without the header passes `withoutHeaders`, whatever value is named.
        let treat_missing_header_as_empty = !condition.is_presence();
        headers.push(HeaderMatcher { invert_match: true, treat_missing_header_as_empty, ..header(name, condition) });
    }
    let pseudo = [(":method", &matches.method), (":authority", &matches.authority), (":scheme", &matches.scheme)];
    headers.extend(pseudo.into_iter().filter_map(|(name, condition)| Some(header(name, condition.as_ref()?))));
    RouteMatch {
        case_sensitive: (matches.ignore_uri_case == Some(true)).then(|| boolean(false)),
        headers,
        query_parameters: matches.query_params.iter().map(|(name, condition)| query(name, condition)).collect(),
        path_specifier: Some(path),
        ..RouteMatch::default()
    }
}

fn header(name: &str, condition: &StringMatch) -> HeaderMatcher {
    let specifier = match string_matcher(condition) {
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

fn query(name: &str, condition: &StringMatch) -> QueryParameterMatcher {
    let specifier = match string_matcher(condition) {
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
        None => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}

/// `None` where presence alone is asked for.
pub(super) fn string_matcher(condition: &StringMatch) -> Option<StringMatcher> {
    let pattern = match condition {
        _ if condition.is_presence() => return None,
        StringMatch::Present => return None,
        StringMatch::Exact(value) => MatchPattern::Exact(value.clone()),
        StringMatch::Prefix(value) => MatchPattern::Prefix(value.clone()),
        StringMatch::Regex(value) => MatchPattern::SafeRegex(regex_matcher(value)),
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() })
}

pub(super) fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..RegexMatcher::default() }
}
