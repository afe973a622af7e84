//! Whatever rules and routes are written, they become a snapshot, and a request goes where reading the documents says.

#[path = "translate_support/mod.rs"]
mod support;

use std::borrow::Cow;
use std::fmt::Write as _;

use celerity_model::snapshot::{Action, Chosen, RequestView, Snapshot};
use celerity_model::translate::translate;
use proptest::prelude::*;
use support::{config, node};

const SERVICES: usize = 4;
const SUBSETS: usize = 3;

#[derive(Clone, Debug)]
enum Uri {
    Any,
    Exact(String),
    Prefix(String),
    Regex(String),
}

#[derive(Clone, Debug)]
struct Match {
    uri: Uri,
    ignore_case: bool,
    /// `x-a` must have this value.
    header: Option<String>,
    /// `x-b` must not be there.
    without: bool,
}

#[derive(Clone, Debug)]
struct Route {
    matches: Vec<Match>,
    service: usize,
    subset: Option<usize>,
}

#[derive(Clone, Debug)]
struct Mesh {
    policies: Vec<String>,
    /// Of each service: those of a VirtualService, or none.
    routes: Vec<Option<Vec<Route>>>,
}

fn path() -> impl Strategy<Value = String> {
    "(/[ab]{1,2}){0,2}/[aB]?"
}

fn uri() -> impl Strategy<Value = Uri> {
    prop_oneof![
        Just(Uri::Any),
        path().prop_map(Uri::Exact),
        path().prop_map(Uri::Prefix),
        prop::sample::select(vec!["/a(/b)?", "/[ab]+", "/.*", "/(a|b)/b", ".*/a", "/ab?/"])
            .prop_map(|text| Uri::Regex(text.to_owned())),
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    (uri(), any::<bool>(), prop::option::of("[xy]"), any::<bool>())
        .prop_map(|(uri, ignore_case, header, without)| Match { uri, ignore_case, header, without })
}

fn route() -> impl Strategy<Value = Route> {
    (prop::collection::vec(matches(), 0..3), 0..SERVICES, prop::option::of(0..SUBSETS))
        .prop_map(|(matches, service, subset)| Route { matches, service, subset })
}

fn policy() -> impl Strategy<Value = String> {
    let balancer = prop_oneof![
        "simple: (RANDOM|ROUND_ROBIN|LEAST_REQUEST|LEAST_CONN)",
        "consistentHash: \\{(httpHeaderName: x|useSourceIp: true|httpCookie: \\{name: c, ttl: [1-9]s\\})(, maglev: \\{tableSize: 101\\})?\\}",
        "simple: ROUND_ROBIN, warmupDurationSecs: [1-9]s",
    ];
    let pool = "tcp: \\{maxConnections: [0-9]{1,3}, connectTimeout: [1-9]s\\}, http: \\{http2MaxRequests: [0-9]{1,3}, maxRetries: [0-9](, h2UpgradePolicy: (UPGRADE|DO_NOT_UPGRADE))?\\}";
    let outlier = "(consecutive5xxErrors: [0-9], interval: [1-9]s, maxEjectionPercent: [0-9]{1,2}|)";
    (balancer, pool, outlier).prop_map(|(balancer, pool, outlier)| {
        format!("{{loadBalancer: {{{balancer}}}, connectionPool: {{{pool}}}, outlierDetection: {{{outlier}}}}}")
    })
}

fn mesh() -> impl Strategy<Value = Mesh> {
    let routes = prop::collection::vec(prop::option::of(prop::collection::vec(route(), 1..14)), SERVICES);
    (prop::collection::vec(policy(), SERVICES), routes).prop_map(|(policies, routes)| Mesh { policies, routes })
}

impl Mesh {
    fn yaml(&self) -> String {
        let mut text = String::new();
        let mut put = |document: String| text.push_str(&format!("---\n{document}"));
        for (n, policy) in self.policies.iter().enumerate() {
            put(format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
            ));
            put(format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{n}-a, labels: {{kubernetes.io/service-name: s{n}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [10.0.{n}.1]}}]\n"
            ));
            let subsets: Vec<String> = (0..SUBSETS).map(|v| format!("{{name: v{v}}}")).collect();
            put(format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: s{n}}}\nspec: {{host: s{n}, trafficPolicy: {policy}, subsets: [{}]}}\n",
                subsets.join(", ")
            ));
        }
        for (n, routes) in self.routes.iter().enumerate() {
            let Some(routes) = routes else { continue };
            let http: Vec<String> = routes.iter().map(Route::yaml).collect();
            put(format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{n}}}\nspec:\n  hosts: [s{n}]\n  http:\n{}",
                http.concat()
            ));
        }
        text
    }

    /// The cluster by reading the documents; `None`: no route matches.
    fn expected(&self, service: usize, request: &Request) -> Option<String> {
        let name = |service: usize, subset: &str| format!("outbound|80|{subset}|s{service}.default.svc.cluster.local");
        let Some(routes) = &self.routes[service] else { return Some(name(service, "")) };
        let route = routes
            .iter()
            .find(|route| route.matches.is_empty() || route.matches.iter().any(|one| one.takes(request)))?;
        Some(name(route.service, &route.subset.map(|v| format!("v{v}")).unwrap_or_default()))
    }
}

impl Route {
    fn yaml(&self) -> String {
        let subset = self.subset.map(|v| format!(", subset: v{v}")).unwrap_or_default();
        let mut text = format!("  - route: [{{destination: {{host: s{}{subset}}}}}]\n", self.service);
        if !self.matches.is_empty() {
            text.push_str("    match:\n");
        }
        for one in &self.matches {
            let _ = writeln!(text, "    - ignoreUriCase: {}", one.ignore_case);
            let _ = match &one.uri {
                Uri::Any => Ok(()),
                Uri::Exact(path) => writeln!(text, "      uri: {{exact: '{path}'}}"),
                Uri::Prefix(path) => writeln!(text, "      uri: {{prefix: '{path}'}}"),
                Uri::Regex(path) => writeln!(text, "      uri: {{regex: '{path}'}}"),
            };
            if let Some(value) = &one.header {
                let _ = writeln!(text, "      headers: {{x-a: {{exact: '{value}'}}}}");
            }
            if one.without {
                text.push_str("      withoutHeaders: {x-b: {}}\n");
            }
        }
        text
    }
}

impl Match {
    fn takes(&self, request: &Request) -> bool {
        let fold = |text: &str| if self.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let path = fold(&request.path);
        let uri = match &self.uri {
            Uri::Any => true,
            Uri::Exact(wanted) => path == fold(wanted),
            Uri::Prefix(wanted) => path.starts_with(&fold(wanted)),
            // Case is kept for expressions, as in Istio.
            Uri::Regex(wanted) => {
                let full = regex::Regex::new(&format!("^(?:{wanted})$")).expect("it compiles");
                full.is_match(&request.path)
            }
        };
        uri && self.header.as_ref().is_none_or(|wanted| request.a.as_ref() == Some(wanted))
            && !(self.without && request.b)
    }
}

#[derive(Clone, Debug)]
struct Request {
    path: String,
    a: Option<String>,
    b: bool,
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn scheme(&self) -> &[u8] {
        b"http"
    }

    fn authority(&self) -> &[u8] {
        b"s"
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn header(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        match name {
            b"x-a" => self.a.as_ref().map(|value| Cow::Borrowed(value.as_bytes())),
            b"x-b" => self.b.then_some(Cow::Borrowed(b"1")),
            _ => None,
        }
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let one = (path(), prop::option::of("[xyz]"), any::<bool>()).prop_map(|(path, a, b)| Request { path, a, b });
    prop::collection::vec(one, 12)
}

fn chosen(snapshot: &Snapshot, authority: &str, request: &Request) -> Option<String> {
    let listener = snapshot.listener("outbound").expect("an outbound listener");
    let chain = listener.chains.iter().chain(listener.default_chain.as_deref()).next().expect("a chain");
    let host = chain.manager.routes.lookup(authority.as_bytes()).expect("a virtual host");
    let Action::Forward(forward) = &host.route(request, 0)?.action else { panic!("every route forwards") };
    match forward.target.choose(0) {
        Some(Chosen::Cluster(cluster)) => {
            assert!(snapshot.cluster(cluster).is_some(), "{} is there", cluster.name);
            Some(cluster.name.to_string())
        }
        other => panic!("one cluster, not {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_go_where_the_documents_say(mesh in mesh(), requests in requests()) {
        let resources = translate(&config(&mesh.yaml()), &node()).expect("no patch, no error");
        let snapshot = Snapshot::build(&resources, None).unwrap_or_else(|errors| panic!("{errors:?}\n{}", mesh.yaml()));
        for service in 0..SERVICES {
            for authority in [format!("s{service}"), format!("S{service}.default:80"), format!("s{service}.default.svc.cluster.local")] {
                for request in &requests {
                    let expected = mesh.expected(service, request);
                    prop_assert_eq!(chosen(&snapshot, &authority, request), expected, "{} {:?}\n{}", authority, request, mesh.yaml());
                }
            }
        }
    }
}
