//! Look-ups by index find what a scan in the order of Envoy's rules would find.

use std::borrow::Cow;

use celerity_model::snapshot::{RequestView, Snapshot};
use celerity_model::translate::Resources;
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use proptest::arbitrary::any as arbitrary;
use proptest::collection::{btree_set, vec};
use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, prop_oneof, proptest};
use proptest::string::string_regex;
use prost::{Message, Name};

struct Request<'a> {
    path: &'a [u8],
    flagged: bool,
}

impl RequestView for Request<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn scheme(&self) -> &[u8] {
        b"http"
    }

    fn authority(&self) -> &[u8] {
        b"host"
    }

    fn path(&self) -> &[u8] {
        self.path
    }

    fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        (self.flagged && name == b"x-flag").then_some(Cow::Borrowed(b"1"))
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn snapshot(hosts: Vec<VirtualHost>) -> Snapshot {
    let routes = RouteConfiguration { name: "table".into(), virtual_hosts: hosts, ..RouteConfiguration::default() };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        http_filters: vec![HttpFilter {
            name: "router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(1)),
        ..SocketAddress::default()
    };
    let listener = Listener {
        name: "l".into(),
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "hcm".into(),
                config_type: Some(filter::ConfigType::TypedConfig(any(&manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    Snapshot::build(&Resources { listeners: vec![listener], ..Resources::default() }, None).expect("builds")
}

/// The name as it is, else without the dot that ends an absolute one, else `*`.
fn scan<'a>(domains: &'a [String], authority: &str) -> Option<&'a String> {
    let authority = authority.to_ascii_lowercase();
    let bare = authority.strip_suffix('.').filter(|bare| !bare.is_empty());
    scan_named(domains, &authority)
        .or_else(|| scan_named(domains, bare?))
        .or_else(|| domains.iter().find(|domain| *domain == "*"))
}

/// Envoy's rules, one after the other, over every domain but `*`.
fn scan_named<'a>(domains: &'a [String], authority: &str) -> Option<&'a String> {
    let longest = |matches: &dyn Fn(&str) -> bool| {
        domains.iter().filter(|domain| *domain != "*" && matches(domain)).max_by_key(|domain| domain.len())
    };
    let ends = |domain: &str| {
        let tail = domain.strip_prefix('*');
        tail.is_some_and(|tail| authority.len() > tail.len() && authority.ends_with(tail))
    };
    let starts = |domain: &str| {
        let head = domain.strip_suffix('*');
        head.is_some_and(|head| authority.len() > head.len() && authority.starts_with(head))
    };
    domains.iter().find(|domain| **domain == authority).or_else(|| longest(&ends)).or_else(|| longest(&starts))
}

#[derive(Clone, Debug)]
enum PathKind {
    Exact(String),
    Prefix(String),
    Segments(String),
    Regex(String),
}

// Small alphabets make names and paths meet.
fn word() -> impl Strategy<Value = String> {
    string_regex("[ab.]{1,5}").expect("valid")
}

fn path() -> impl Strategy<Value = String> {
    string_regex("(/[ab]{0,2}){1,4}").expect("valid")
}

fn kind() -> impl Strategy<Value = (PathKind, bool, bool)> {
    let kind = prop_oneof![
        path().prop_map(PathKind::Exact),
        path().prop_map(PathKind::Prefix),
        path().prop_map(|path| PathKind::Segments(format!("/{}", path.replace('/', "")))),
        path().prop_map(|path| PathKind::Regex(format!("{path}.*"))),
    ]
    .prop_map(|kind| match kind {
        PathKind::Segments(path) if path == "/" => PathKind::Exact(path),
        kind => kind,
    });
    (kind, arbitrary::<bool>(), arbitrary::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn domains(
        exact in btree_set(word(), 0..12),
        suffix in btree_set(word(), 0..6),
        prefix in btree_set(word(), 0..6),
        fallback in arbitrary::<bool>(),
        asked in vec(string_regex("[abAB.]{1,8}").expect("valid"), 1..20),
    ) {
        let mut domains: Vec<String> = exact.into_iter().collect();
        domains.extend(suffix.iter().map(|word| format!("*{word}")));
        domains.extend(prefix.iter().map(|word| format!("{word}*")));
        if fallback {
            domains.push("*".into());
        }
        let host = |domain: &String| VirtualHost {
            name: domain.clone(),
            domains: vec![domain.clone()],
            ..VirtualHost::default()
        };
        let snapshot = snapshot(domains.iter().map(host).collect());
        let table = &snapshot.listeners[0].chains[0].manager.routes;
        for authority in &asked {
            let found = table.lookup(authority.as_bytes()).map(|host| host.name.to_string());
            prop_assert_eq!(found.as_ref(), scan(&domains, authority), "{} in {:?}", authority, domains);
        }
    }

    #[test]
    fn routes(
        kinds in vec(kind(), 1..40),
        asked in vec((path(), arbitrary::<bool>()), 1..20),
    ) {
        let route = |(index, (kind, ignore_case, flagged)): (usize, &(PathKind, bool, bool))| Route {
            name: index.to_string(),
            r#match: Some(RouteMatch {
                path_specifier: Some(match kind.clone() {
                    PathKind::Exact(path) => route_match::PathSpecifier::Path(path),
                    PathKind::Prefix(path) => route_match::PathSpecifier::Prefix(path),
                    PathKind::Segments(path) => route_match::PathSpecifier::PathSeparatedPrefix(path),
                    PathKind::Regex(regex) => {
                        route_match::PathSpecifier::SafeRegex(RegexMatcher { regex, ..RegexMatcher::default() })
                    }
                }),
                case_sensitive: Some(BoolValue { value: !ignore_case }),
                headers: Vec::from_iter(
                    flagged.then(|| HeaderMatcher { name: "x-flag".into(), ..HeaderMatcher::default() }),
                ),
                ..RouteMatch::default()
            }),
            action: Some(route::Action::DirectResponse(DirectResponseAction {
                status: 200,
                ..DirectResponseAction::default()
            })),
            ..Route::default()
        };
        let snapshot = snapshot(vec![VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: kinds.iter().enumerate().map(route).collect(),
            ..VirtualHost::default()
        }]);
        let host = snapshot.listeners[0].chains[0].manager.routes.lookup(b"any").expect("the fallback");
        for (path, flagged) in &asked {
            let path = format!("{path}?query");
            let request = Request { path: path.as_bytes(), flagged: *flagged };
            let scanned = host.routes.iter().find(|route| route.matching.matches(&request, 0));
            let found = host.route(&request, 0);
            prop_assert_eq!(found.map(|route| &route.name), scanned.map(|route| &route.name));
        }
    }
}
