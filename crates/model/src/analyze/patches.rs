//! EnvoyFilters. What a patch matches, and how its value is understood, is the patch engine's to say; its reports become
//! findings here.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde_json::Value;

use super::{Code, Finding, Findings, codes};
use crate::istio::{
    AddressType, ApplyTo, Config, ConfigPatch, DEFAULT_NAMESPACE, Document, Endpoint, EndpointPort, EndpointSlice,
    EnvoyFilter, Metadata, PatchContext, PatchOperation, ROOT_NAMESPACE, SERVICE_NAME_LABEL, Service, ServicePort,
    TargetPort, TransportProtocol, scalar,
};
use crate::patch::{
    ISTIO_VERSION, Origin, Outcome, Patch, PatchError, PatchReport, PatchSet, WarningKind, Workload, is_of_version,
    patches,
};
use crate::snapshot::{BuildError, Snapshot};
use crate::translate::{
    Certificates, Index, Node, Protocol, proxy_metadata, served_hosts, translate, translate_unpatched,
};

const KIND: &str = "EnvoyFilter";
/// Different proxies, certificates apart, that are tried to find out whether a patch matches anything: each costs a translation.
const NODES_MAX: usize = 16;
const HTTP_MANAGER_SUFFIX: &str = "HttpConnectionManager";
const BUFFER_FILTER: &str = "envoy.filters.http.buffer";

pub(super) fn check(config: &Config, findings: &mut Findings) {
    if config.envoy_filters.is_empty() {
        return;
    }
    for document in &config.envoy_filters {
        for (index, patch) in document.spec.config_patches.iter().enumerate() {
            let path = format!("spec.configPatches[{index}]");
            one(document, patch, &path, findings);
            other_metadata(config, document, patch, &path, findings);
        }
    }
    let mut reports: Vec<PatchReport> = Vec::new();
    let mut refusals = Refusals::default();
    let mut config = Cow::Borrowed(config);
    let nodes = nodes(&mut config);
    let config = &*config;
    for node in nodes {
        match translate(config, &node) {
            Ok(resources) => {
                let refused = match Snapshot::build(&resources, None) {
                    Ok(_) => Vec::new(),
                    Err(_) => not_taken(config, &node),
                };
                refusals.add(&node, refused, &resources.patches);
                for report in resources.patches {
                    match reports.iter_mut().find(|known| known.origin == report.origin) {
                        // Matched for any proxy is matched.
                        Some(known) if rank(&report.outcome) > rank(&known.outcome) => *known = report,
                        Some(_) => {}
                        None => reports.push(report),
                    }
                }
            }
            Err(errors) => {
                for finding in errors.iter().map(refused) {
                    if !findings.list.contains(&finding) {
                        findings.list.push(finding);
                    }
                }
            }
        }
    }
    findings.list.extend(refusals.findings());
    findings.list.extend(patch_findings(&reports));
}

/// What the proxies that are tried make of one patch.
#[derive(Default)]
struct Tried {
    /// Of the first that refused it.
    errors: Vec<BuildError>,
    /// Whether one without a certificate refused it, and one with.
    refused: [bool; 2],
    /// Whether one without a certificate was changed by it and runs, and one with.
    taken: [bool; 2],
}

#[derive(Default)]
struct Refusals(BTreeMap<Origin, Tried>);

impl Refusals {
    fn add(&mut self, node: &Node, refused: Vec<(Origin, Vec<BuildError>)>, reports: &[PatchReport]) {
        let by = |seen: &mut [bool; 2]| {
            let [without, with] = seen;
            *(if node.certificates.is_some() { with } else { without }) = true;
        };
        let acted = reports.iter().filter(|report| matches!(report.outcome, Outcome::Matched { .. }));
        for origin in acted.map(|report| &report.origin).filter(|origin| !refused.iter().any(|(one, _)| one == *origin))
        {
            by(&mut self.0.entry(origin.clone()).or_default().taken);
        }
        for (origin, errors) in refused {
            let tried = self.0.entry(origin).or_default();
            if tried.refused == [false; 2] {
                tried.errors = errors;
            }
            by(&mut tried.refused);
        }
    }

    fn findings(&self) -> impl Iterator<Item = Finding> {
        self.0.iter().filter(|(_, tried)| tried.refused != [false; 2]).map(|(origin, tried)| {
            let all = not_taken_finding(origin, &tried.errors);
            // What some run with is not wrong for all.
            let who = match (tried.refused, tried.taken) {
                (_, [false, false]) => return all,
                ([true, false], [false, true]) => "a sidecar without a certificate refuses it",
                ([false, true], [true, false]) => "a sidecar with a certificate refuses it",
                _ => "some sidecars refuse it",
            };
            let code = &codes::PATCH_NOT_TAKEN_BY_ALL;
            Finding {
                code: code.id,
                severity: code.severity,
                title: code.title,
                reason: format!("{who} ({}), and the others run with it", all.reason),
                mend: code.mend.to_owned(),
                ..all
            }
        })
    }
}

fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Elsewhere(_) => 0,
        Outcome::Unmatched(_) => 1,
        Outcome::Matched { .. } => 2,
    }
}

/// The patches whose outcome the proxy refuses to run with, each with what it says. It costs translations: only to be asked for
/// where the proxy refuses the whole.
pub fn not_taken(config: &Config, node: &Node) -> Vec<(Origin, Vec<BuildError>)> {
    let metadata = proxy_metadata(config, node);
    let workload = Workload { namespace: &node.namespace, labels: &node.labels, metadata: &metadata };
    let Ok(all) = patches(config, workload) else { return Vec::new() };
    let plain = translate_unpatched(&Index::new(config, node));
    // What no patch touches is built once; what is wrong without any patch is no patch's doing.
    let (base, known) = match Snapshot::build(&plain, None) {
        Ok(base) => (Some(base), Vec::new()),
        Err(errors) => (None, errors),
    };
    let errors_with = |list: Vec<Patch>| {
        let mut resources = plain.clone();
        PatchSet::new(list).ok()?.apply(&mut resources);
        let mut errors = Snapshot::build(&resources, base.as_ref()).err()?;
        errors.retain(|error| !known.contains(error));
        (!errors.is_empty()).then_some(errors)
    };
    let Some(errors) = errors_with(all.clone()) else { return Vec::new() };
    // One patch alone is to blame if all is well without it; else each that spoils what was well before it.
    for leave_out in 0..all.len() {
        let mut others = all.clone();
        let left_out = others.remove(leave_out);
        if errors_with(others).is_none() {
            return vec![(left_out.origin, errors)];
        }
    }
    let (mut kept, mut found) = (Vec::with_capacity(all.len()), Vec::new());
    for patch in all {
        kept.push(patch);
        if let Some(errors) = errors_with(kept.clone()) {
            found.extend(kept.pop().map(|patch| (patch.origin, errors)));
        }
    }
    found
}

/// Errors of one patch that are told; the others are of the same sort.
const ERRORS_SHOWN: usize = 3;

fn not_taken_finding(origin: &Origin, errors: &[BuildError]) -> Finding {
    let code = &codes::PATCH_NOT_TAKEN;
    let mut shown: Vec<String> = errors.iter().take(ERRORS_SHOWN).map(ToString::to_string).collect();
    if errors.len() > ERRORS_SHOWN {
        shown.push(format!("and {} more", errors.len() - ERRORS_SHOWN));
    }
    Finding {
        code: code.id,
        severity: code.severity,
        title: code.title,
        file: origin.file.clone(),
        line: origin.line,
        document: format!("{KIND} {}", origin.document),
        field: format!("spec.configPatches[{}].patch", origin.index),
        reason: shown.join("; "),
        mend: code.mend.to_owned(),
    }
}

/// Proxies for each namespace and selector that patches name, each with an inbound side, without a certificate and with one:
/// patches may be for mutual TLS alone. What is matched for one of them is matched. Endpoints that `config` lacks are added.
fn nodes(config: &mut Cow<'_, Config>) -> Vec<Node> {
    let mut wanted: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for document in &config.envoy_filters {
        let labels = document.spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default();
        let namespace = match document.meta.namespace.as_str() {
            ROOT_NAMESPACE => config.services.first().map_or(DEFAULT_NAMESPACE, |s| s.meta.namespace.as_str()),
            own => own,
        };
        let one = (namespace.to_owned(), labels);
        if !wanted.contains(&one) && wanted.len() < NODES_MAX {
            wanted.push(one);
        }
    }
    let most = (NODES_MAX / wanted.len().max(1)).max(1);
    let mut known: HashMap<String, Vec<Vec<IpAddr>>> = HashMap::new();
    let mut nodes = Vec::new();
    // RFC 5737: no endpoint has such an address.
    let mut made_up = (1..=u8::MAX).map(|last| IpAddr::from([192, 0, 2, last]));
    for (namespace, labels) in wanted {
        let found = known.entry(namespace.clone()).or_insert_with(|| addresses(config, &namespace, most, &mut made_up));
        nodes.extend(found.iter().map(|addresses| Node {
            namespace: namespace.clone(),
            labels: labels.clone(),
            addresses: addresses.clone(),
            ..Node::default()
        }));
    }
    // Nothing here opens the files.
    let certificates = Certificates { chain: "chain".to_owned(), key: "key".to_owned(), roots: "roots".to_owned() };
    let with = |node: &Node| Node { certificates: Some(certificates.clone()), ..node.clone() };
    let secure: Vec<Node> = nodes.iter().map(with).collect();
    nodes.extend(secure);
    nodes
}

/// Addresses of proxies of a namespace, by proxy. Files for Kubernetes name no endpoints: each of the namespace's services then
/// gets one that is made up, and so does a service that is made up where there is none.
fn addresses(
    config: &mut Cow<'_, Config>,
    namespace: &str,
    most: usize,
    made_up: &mut dyn Iterator<Item = IpAddr>,
) -> Vec<Vec<IpAddr>> {
    let node = node_of(config, namespace, BTreeMap::new());
    if served_hosts(&Index::new(config, &node)).next().is_some() {
        return vec![node.addresses];
    }
    let is_http = |port: &ServicePort| {
        let name = port.name.as_deref().unwrap_or_default();
        matches!(port.protocol, None | Some(TransportProtocol::Tcp))
            && Protocol::of(port.app_protocol.as_deref(), name) != Protocol::Opaque
    };
    let of_namespace = config.services.iter().filter(|service| service.meta.namespace == namespace);
    let mut services: Vec<_> = of_namespace
        .filter(|service| service.spec.external_name.is_none() && service.spec.ports.iter().any(is_http))
        .take(most)
        .cloned()
        .collect();
    let config = config.to_mut();
    if services.is_empty() {
        let meta = Metadata { name: MADE_UP.to_owned(), namespace: namespace.to_owned(), ..Metadata::default() };
        let ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
        let service = Document { meta, spec: Service { ports, ..Service::default() }, ..Document::default() };
        config.services.push(service.clone());
        services.push(service);
    }
    let mut all = Vec::with_capacity(services.len());
    for (service, address) in services.into_iter().zip(made_up) {
        let ports = service.spec.ports.iter().filter(|port| is_http(port)).map(|port| EndpointPort {
            name: port.name.clone(),
            port: match port.target_port {
                Some(TargetPort::Number(number)) => number,
                _ => port.port,
            },
            ..EndpointPort::default()
        });
        let spec = EndpointSlice {
            address_type: AddressType::Ipv4,
            endpoints: vec![Endpoint { addresses: vec![address], ..Endpoint::default() }],
            ports: ports.collect(),
        };
        let meta = Metadata {
            name: format!("{}-{MADE_UP}", service.meta.name),
            namespace: namespace.to_owned(),
            labels: BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service.meta.name)]),
            ..Metadata::default()
        };
        config.endpoint_slices.push(Document { meta, spec, ..Document::default() });
        all.push(vec![address]);
    }
    all
}

/// Part of the names of services and endpoints that stand in no file.
const MADE_UP: &str = "made-up";

/// A proxy in a namespace, at the address of one of its endpoints.
pub(super) fn node_of(config: &Config, namespace: &str, labels: BTreeMap<String, String>) -> Node {
    let from_slices = config.endpoint_slices.iter().filter(|s| s.meta.namespace == namespace);
    let mut addresses: Vec<_> =
        from_slices.flat_map(|s| &s.spec.endpoints).filter_map(|e| e.addresses.first()).copied().take(1).collect();
    let entries = config.workload_entries.iter().filter(|w| w.meta.namespace == namespace).map(|w| &w.spec);
    let inline =
        config.service_entries.iter().filter(|s| s.meta.namespace == namespace).flat_map(|s| &s.spec.endpoints);
    addresses.extend(entries.chain(inline).filter_map(|w| w.address.as_deref()?.parse::<IpAddr>().ok()).take(1));
    Node { namespace: namespace.to_owned(), labels, addresses, ..Node::default() }
}

/// Findings of what the patch engine reports for one proxy: patches that match nothing, and values that are understood
/// otherwise than Envoy or Istio would.
pub fn patch_findings(reports: &[PatchReport]) -> Vec<Finding> {
    let mut found = Vec::new();
    for report in reports {
        let path = format!("spec.configPatches[{}]", report.origin.index);
        let mut add = |code: &Code, field: String, reason: String, mend: String| {
            found.push(Finding {
                code: code.id,
                severity: code.severity,
                title: code.title,
                file: report.origin.file.clone(),
                line: report.origin.line,
                document: format!("{KIND} {}", report.origin.document),
                field,
                reason,
                mend,
            });
        };
        for warning in &report.warnings {
            let code = match warning.kind {
                WarningKind::FilterNamedByValue => &codes::FILTER_NAMED_BY_VALUE,
                WarningKind::WrongForm => &codes::WRONG_FORM,
                WarningKind::DeprecatedName => &codes::OLD_FILTER_NAME,
            };
            add(code, format!("{path}.patch.value"), warning.message.clone(), warning.mend.clone());
        }
        if let Outcome::Unmatched(why) = &report.outcome {
            add(&codes::PATCH_UNMATCHED, format!("{path}.match"), why.clone(), codes::PATCH_UNMATCHED.mend.to_owned());
        }
    }
    found
}

fn refused(error: &PatchError) -> Finding {
    let code = &codes::PATCH_REFUSED;
    Finding {
        code: code.id,
        severity: code.severity,
        title: code.title,
        file: error.origin.file.clone(),
        line: error.origin.line,
        document: format!("{KIND} {}", error.origin.document),
        field: format!("spec.configPatches[{}].{}", error.origin.index, error.field),
        reason: error.message.clone(),
        mend: code.mend.to_owned(),
    }
}

/// A condition on metadata that no proxy of the document's namespace meets.
fn other_metadata(
    config: &Config,
    document: &Document<EnvoyFilter>,
    patch: &ConfigPatch,
    path: &str,
    findings: &mut Findings,
) {
    let Some(proxy) = patch.match_.as_ref().and_then(|found| found.proxy.as_ref()) else { return };
    let has = proxy_metadata(config, &node_of(config, &document.meta.namespace, BTreeMap::new()));
    if let Some((key, value)) = proxy.metadata.iter().find(|(key, value)| has.get(*key) != Some(value)) {
        let code = &codes::PATCH_UNMATCHED;
        let reason =
            format!("no ConfigMap gives proxies the metadata {key}: {value}, so the patch is for none of them");
        let mend = format!("proxyMetadata: {{ISTIO_META_{key}: \"{value}\"}} in config.yaml, or remove the condition");
        findings.add(code, KIND, document, &format!("{path}.match.proxy.metadata"), reason, mend);
    }
}

fn one(document: &Document<EnvoyFilter>, patch: &ConfigPatch, path: &str, findings: &mut Findings) {
    let mut add = |code: &Code, field: &str, reason: String, mend: String| {
        findings.add(code, KIND, document, &format!("{path}.{field}"), reason, mend);
    };
    let plain = |code: &Code| (code.reason.to_owned(), code.mend.to_owned());
    if patch.match_.as_ref().and_then(|m| m.context) == Some(PatchContext::Gateway) {
        let (reason, mend) = plain(&codes::GATEWAY_PATCH);
        add(&codes::GATEWAY_PATCH, "match.context", reason, mend);
    }
    let version = patch.match_.as_ref().and_then(|m| m.proxy.as_ref()?.proxy_version.as_deref());
    if let Some(pattern) = version.filter(|pattern| !is_of_version(pattern)) {
        let reason = format!("{pattern} does not meet {ISTIO_VERSION}, the version of Istio whose semantics these are");
        let (_, mend) = plain(&codes::OTHER_VERSION);
        add(&codes::OTHER_VERSION, "match.proxy.proxyVersion", reason, mend);
    }
    let Some(change) = &patch.patch else { return };
    let sub_filter = patch.match_.as_ref().and_then(|m| {
        m.listener.as_ref()?.filter_chain.as_ref()?.filter.as_ref()?.sub_filter.as_ref()?.name.as_deref()
    });
    let value = change.value.as_ref();
    let name = value.and_then(|v| v.get("name")).and_then(Value::as_str).unwrap_or_default();
    if patch.apply_to == ApplyTo::HttpFilter && change.operation == PatchOperation::InsertBefore && sub_filter.is_none()
    {
        let reason = format!("without subFilter {name} goes before all other filters of the chain");
        let mend = "listener:\n  filterChain:\n    filter:\n      name: envoy.filters.network.http_connection_manager\n      subFilter:\n        name: envoy.filters.http.router\n";
        add(&codes::INSERTED_AT_FRONT, "match.listener.filterChain.filter", reason, mend.to_owned());
    }
    if change.operation == PatchOperation::Remove && value.is_some() && sub_filter.is_some() {
        let (reason, mend) = plain(&codes::VALUE_IGNORED);
        add(&codes::VALUE_IGNORED, "patch.value", reason, mend);
    }
    let Some(config) = value.and_then(|v| v.get("typed_config").or_else(|| v.get("typedConfig"))) else { return };
    let type_url = config.get("@type").and_then(Value::as_str).unwrap_or_default();
    if name == BUFFER_FILTER {
        let bytes = config
            .get("max_request_bytes")
            .or_else(|| config.get("maxRequestBytes"))
            .map(Value::to_string)
            .unwrap_or_default();
        let reason = format!(
            "a request goes on only when its whole body has arrived; beyond {bytes} bytes it gets 413, and streaming ends"
        );
        add(&codes::BUFFER_HOLDS_BODIES, "patch.value", reason, codes::BUFFER_HOLDS_BODIES.mend.to_owned());
    }
    if type_url.ends_with(HTTP_MANAGER_SUFFIX) {
        let read = |snake: &str, camel: &str| {
            let text = config.get(snake).or_else(|| config.get(camel)).and_then(Value::as_str)?;
            scalar::duration(text).ok().map(|duration| (duration, text.to_owned()))
        };
        let idle = read("stream_idle_timeout", "streamIdleTimeout").filter(|(duration, _)| !duration.is_zero());
        if let (Some((idle, idle_text)), Some((whole, whole_text))) = (idle, read("request_timeout", "requestTimeout"))
            && idle < whole
        {
            let reason = format!(
                "a service that works for {idle_text} without sending a byte is cut off by stream_idle_timeout, long before request_timeout: {whole_text}; streams and long polls end too"
            );
            let mend = format!("stream_idle_timeout: {}", crate::istio::duration_text(whole * 2));
            add(&codes::STREAM_IDLE_BEFORE_TIMEOUT, "patch.value.typed_config.stream_idle_timeout", reason, mend);
        }
    }
}
