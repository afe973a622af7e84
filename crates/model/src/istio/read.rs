//! From text to [`Config`]: documents, kinds, names, and every error at once.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{
    Config, DEFAULT_NAMESPACE, Document, Lines, Metadata, PATH_HASH_START, PassedOver, Source, path_hash,
};
use super::config_map::{DnsSettings, ProxyConfigFile};
use super::config_map_read;
use super::destination_rule::DestinationRule;
use super::envoy_filter::EnvoyFilter;
use super::kubernetes::{EndpointSlice, Service};
use super::node::{self, Entry, FILE_BYTES_MAX, Node, Piece, Value};
use super::others;
use super::parts::PartText;
use super::peer_authentication::PeerAuthentication;
use super::prometheus_rule::PrometheusRule;
use super::reader::{Cx, ERRORS_MAX, ErrorKind, Fields, FromNode, ReadError, nearest};
use super::service_entry::{ServiceEntry, WorkloadEntry};
use super::support::Support;
use super::virtual_service::VirtualService;

const NETWORKING: &[&str] = &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
const SECURITY: &[&str] = &["security.istio.io/v1", "security.istio.io/v1beta1"];

/// A kind that acts.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) api_versions: &'static [&'static str],
    pub(crate) support: fn(&mut Support),
    read: fn(&Kind, Head, &mut Fields<'_>, Lined<'_>, &mut Cx, &mut Config),
}

/// Name and place of a document, read before its body.
struct Head {
    meta: Metadata,
    source: Source,
}

/// The root of a document, for the lines of its fields.
type Lined<'a> = &'a Node<'a>;

macro_rules! kind_with_spec {
    ($name:literal, $versions:expr, $ty:ty, $list:ident) => {
        Kind {
            name: $name,
            api_versions: $versions,
            support: <$ty as FromNode>::support,
            read: |kind, head, fields, root, cx, config| {
                if let Some(document) = spec::<$ty>(kind, head, fields, root, cx) {
                    config.$list.push(document);
                }
            },
        }
    };
}

/// The kinds that act, in the order of the table of supported fields.
pub(crate) const KINDS: &[Kind] = &[
    kind_with_spec!("DestinationRule", NETWORKING, DestinationRule, destination_rules),
    kind_with_spec!("VirtualService", NETWORKING, VirtualService, virtual_services),
    kind_with_spec!("ServiceEntry", NETWORKING, ServiceEntry, service_entries),
    kind_with_spec!("WorkloadEntry", NETWORKING, WorkloadEntry, workload_entries),
    kind_with_spec!("PeerAuthentication", SECURITY, PeerAuthentication, peer_authentications),
    // Istio serves this kind in v1alpha3 only.
    kind_with_spec!("EnvoyFilter", &["networking.istio.io/v1alpha3"], EnvoyFilter, envoy_filters),
    kind_with_spec!("PrometheusRule", &["monitoring.coreos.com/v1"], PrometheusRule, prometheus_rules),
    kind_with_spec!("Service", &["v1"], Service, services),
    Kind {
        name: "EndpointSlice",
        api_versions: &["discovery.k8s.io/v1"],
        support: EndpointSlice::support,
        read: |_, head, fields, _, cx, config| {
            if let Some(spec) = EndpointSlice::read_fields(fields, cx) {
                // No lines are kept: these are the many documents, and no finding is about a field of theirs.
                let Head { meta, source } = head;
                config.endpoint_slices.push(Document { meta, source, lines: Lines::default(), spec });
            }
        },
    },
    Kind {
        name: "ConfigMap",
        api_versions: &["v1"],
        support: |table| {
            table.field("data.dns.yaml", None, DnsSettings::support);
            table.field("data.config.yaml", None, ProxyConfigFile::support);
            table.idle("binaryData");
            table.idle("immutable");
        },
        read: |_, head, fields, root, cx, config| {
            let mut inner = Vec::new();
            if let Some(spec) = config_map_read::config_map(fields, &head.meta.namespace, cx, &mut inner) {
                let mut pairs = Vec::new();
                collect_lines(root, PATH_HASH_START, &mut pairs);
                pairs.extend(inner.into_iter().flat_map(|(_, pairs)| pairs));
                let Head { meta, source } = head;
                config.config_maps.push(Document { meta, source, lines: Lines::from_pairs(pairs), spec });
            }
        },
    },
];

/// Kinds that are known and refused, with what each is for.
pub(crate) const REFUSED_KINDS: [(&str, &str); 11] = [
    ("Sidecar", "the scope of what a sidecar sees"),
    ("Gateway", "gateways"),
    ("WorkloadGroup", "templates of WorkloadEntry"),
    ("ProxyConfig", "settings of single proxies (write a ConfigMap with config.yaml)"),
    ("AuthorizationPolicy", "authorisation"),
    ("RequestAuthentication", "JWT authentication"),
    ("Telemetry", "settings of telemetry"),
    ("WasmPlugin", "WebAssembly filters"),
    ("TrafficExtension", "extensions of the data path"),
    ("Endpoints", "the old form of EndpointSlice (write discovery.k8s.io/v1 EndpointSlice)"),
    ("ServiceMonitor", "discovery of scrape targets"),
];

/// The other fields of ObjectMeta (Kubernetes API reference, ObjectMeta v1 meta; `clusterName` until 1.24, `initializers` until
/// 1.16): the API server's bookkeeping, which every dump of a cluster holds.
const METADATA_IGNORED: [&str; 13] = [
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "initializers",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads all documents of all files; pure.
///
/// # Errors
/// Every error of every document, in the order of the text; after [`ERRORS_MAX`] one that says how many more there are.
pub fn read(files: &[(Arc<str>, &str)]) -> Result<Config, Vec<ReadError>> {
    let (config, errors) = read_partial(files);
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// As [`read`], but gives the documents that are right together with the errors of the others.
pub fn read_partial(files: &[(Arc<str>, &str)]) -> (Config, Vec<ReadError>) {
    read_found(files, &|_| true)
}

/// As [`read_partial`], for files of which some were found in a folder: of those, documents of other programs are passed over.
/// `is_named` says of a file whether its user named it.
pub fn read_found(files: &[(Arc<str>, &str)], is_named: &dyn Fn(&str) -> bool) -> (Config, Vec<ReadError>) {
    read_files(files.iter().map(|(file, content)| {
        let fits = content.len() <= FILE_BYTES_MAX;
        (file, !is_named(file), if fits { Ok(node::pieces(content)) } else { Err(()) })
    }))
}

/// Reads some parts of files, as [`super::parts`] cut them, in the order given; `is_named` as for [`read_found`].
///
/// # Errors
/// As [`read`].
pub fn read_parts(
    files: &[(Arc<str>, Vec<PartText<'_>>)],
    is_named: &dyn Fn(&str) -> bool,
) -> Result<Config, Vec<ReadError>> {
    let (config, errors) = read_files(files.iter().map(|(file, parts)| {
        let pieces = parts.iter().map(|part| Piece { text: part.text, lines_before: part.lines_before });
        (file, !is_named(file), Ok(pieces.collect()))
    }));
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

/// A file, whether it was found in a folder, and its pieces, unless it is too long.
type FileOf<'a> = (&'a Arc<str>, bool, Result<Vec<Piece<'a>>, ()>);

fn read_files<'a>(files: impl Iterator<Item = FileOf<'a>>) -> (Config, Vec<ReadError>) {
    let mut config = Config::default();
    let mut errors: Vec<ReadError> = Vec::new();
    let mut left_out = 0;
    let mut names = HashMap::new();
    for (file, found, pieces) in files {
        let mut cx = Cx::new(file.clone());
        cx.found = found;
        config.files.push(file.clone());
        match pieces {
            Ok(pieces) => read_file(&pieces, &mut cx, &mut config, &mut names),
            Err(()) => cx.error(ErrorKind::Syntax, format!("the file is larger than {FILE_BYTES_MAX} bytes; split it")),
        }
        left_out += cx.left_out;
        errors.append(&mut cx.errors);
    }
    left_out += errors.len().saturating_sub(ERRORS_MAX);
    errors.truncate(ERRORS_MAX);
    if let Some(last) = errors.last().filter(|_| left_out > 0).cloned() {
        let reason = format!("{left_out} more errors are not listed; mend these first");
        errors.push(ReadError {
            kind: ErrorKind::Syntax,
            document: String::new(),
            field: String::new(),
            reason,
            ..last
        });
    }
    (config, errors)
}

/// Kind, namespace and name, to the place where they were read first.
type Names = HashMap<(&'static str, String, String), (Arc<str>, u32)>;

fn read_file(pieces: &[Piece<'_>], cx: &mut Cx, config: &mut Config, names: &mut Names) {
    let mut index = 0;
    names.reserve(pieces.len());
    for piece in pieces {
        match node::parse(piece) {
            Ok(roots) => {
                for root in roots {
                    read_document(&root, index, true, cx, config, names);
                    index += 1;
                }
            }
            Err(error) => {
                cx.start(error.line, error.column);
                cx.error(ErrorKind::Syntax, error.reason);
                index += 1;
            }
        }
    }
}

fn read_document(root: &Node<'_>, index: u32, lists: bool, cx: &mut Cx, config: &mut Config, names: &mut Names) {
    cx.start(root.line, root.column);
    let (stated_version, stated_kind) = (plain_word(root, "apiVersion"), plain_word(root, "kind"));
    if cx.found && others::is_of_another_program(stated_version, stated_kind) {
        let source = Source { file: cx.file.clone(), line: root.line, document: index };
        let text = |word: Option<&str>| word.unwrap_or_default().to_owned();
        config.passed_over.push(PassedOver { kind: text(stated_kind), api_version: text(stated_version), source });
        return;
    }
    let Some(mut fields) = Fields::open(root, cx) else { return };
    let api_version: Option<String> = word(&mut fields, "apiVersion", cx);
    let Some(name) = word(&mut fields, "kind", cx) else { return };
    if name == "List" && lists && api_version.as_deref().is_none_or(|v| v == "v1") {
        fields.take("metadata");
        if let Some(Entry { node: Node { value: Value::List(items), .. }, .. }) = fields.take("items") {
            for item in items {
                read_document(item, index, false, cx, config, names);
            }
        } else {
            cx.missing("items", "a List needs its documents under items");
        }
        return;
    }
    cx.document.clone_from(&name);
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        if let Some(api_version) = api_version.as_deref().filter(|version| others::is_passed_over(version, &name)) {
            let source = Source { file: cx.file.clone(), line: root.line, document: index };
            config.passed_over.push(PassedOver { kind: name, api_version: api_version.to_owned(), source });
            return;
        }
        refuse_kind(&name, api_version.as_deref(), cx);
        return;
    };
    let Some(api_version) = api_version else { return };
    if !kind.api_versions.contains(&api_version.as_str()) {
        let reason = format!(
            "{api_version} has no {name} that is known here; write apiVersion: {}",
            kind.api_versions.join(" or ")
        );
        cx.error_at("apiVersion", ErrorKind::KindNotSupported, reason);
        return;
    }
    let errors_before = cx.errors.len();
    let Some(meta) = metadata(&mut fields, kind.name, cx) else { return };
    let first = names.entry((kind.name, meta.namespace.clone(), meta.name.clone()));
    if let std::collections::hash_map::Entry::Occupied(earlier) = &first {
        let (file, line) = earlier.get();
        cx.error(
            ErrorKind::Duplicate,
            format!(
                "{} {}/{} was read before, at {file}:{line}; remove or rename one",
                kind.name, meta.namespace, meta.name
            ),
        );
        return;
    }
    first.or_insert_with(|| (cx.file.clone(), root.line));
    fields.take("status");
    let source = Source { file: cx.file.clone(), line: root.line, document: index };
    let before = config.len();
    (kind.read)(kind, Head { meta, source }, &mut fields, root, cx, config);
    let known: &[&str] = match kind.name {
        "ConfigMap" => &["data"],
        "EndpointSlice" => EndpointSlice::KNOWN,
        _ => &["spec"],
    };
    let ignored: &[&str] = if kind.name == "ConfigMap" { &["binaryData", "immutable"] } else { &[] };
    fields.finish(known, &[], ignored, cx);
    if cx.errors.len() > errors_before && config.len() > before {
        config.pop(kind.name);
    }
}

/// The text of a field of a document of which it is not known yet whether it is to be read.
fn plain_word<'n>(root: &'n Node<'_>, key: &str) -> Option<&'n str> {
    let Value::Map(entries) = &root.value else { return None };
    match &entries.iter().find(|entry| entry.key == key)?.node.value {
        Value::Scalar { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn word(fields: &mut Fields<'_>, key: &str, cx: &mut Cx) -> Option<String> {
    fields.field::<String>(key, None, cx, |value: &String, cx| super::check::not_empty(value, cx))
}

fn refuse_kind(name: &str, api_version: Option<&str>, cx: &mut Cx) {
    let known = KINDS.iter().map(|kind| kind.name);
    let reason = if let Some((_, what)) = REFUSED_KINDS.iter().find(|(kind, _)| *kind == name) {
        format!("this kind is not supported yet: {what}")
    } else if let Some(near) = nearest(name, known.clone()) {
        format!("there is no such kind; did you mean {near}?")
    } else {
        let api_version = api_version.unwrap_or_default();
        let known = known.collect::<Vec<_>>().join(", ");
        format!("{name} of {api_version} is not supported yet; known kinds are {known}")
    };
    cx.error_at("kind", ErrorKind::KindNotSupported, reason);
}

fn metadata(fields: &mut Fields<'_>, kind: &str, cx: &mut Cx) -> Option<Metadata> {
    let Some(entry) = fields.take("metadata") else {
        cx.missing("metadata", "a document needs metadata with a name");
        return None;
    };
    let read = cx.within("metadata", (entry.line, entry.column), |cx| {
        let mut fields = Fields::open(&entry.node, cx)?;
        let name: Option<String> = fields.field("name", None, cx, |value: &String, cx| {
            let fits = !value.is_empty() && value.len() <= 253 && value.split('.').all(super::check::is_dns_label);
            if !fits {
                cx.bad(format!("{value:?} is no name; use letters, digits, dashes and dots"));
            }
        });
        let namespace: Option<Option<String>> =
            fields.field("namespace", None, cx, |value: &String, cx| super::check::dns_label(value, cx));
        let labels = fields.field("labels", None, cx, super::check::labels);
        let annotations = fields.field("annotations", None, cx, |_, _| {});
        fields.finish(&["name", "namespace", "labels", "annotations"], &[], &METADATA_IGNORED, cx);
        Some(Metadata {
            name: name?,
            namespace: namespace?.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            labels: labels?,
            annotations: annotations?,
        })
    });
    if let Some(meta) = &read {
        cx.document.clear();
        [kind, " ", &meta.namespace, "/", &meta.name].into_iter().for_each(|part| cx.document.push_str(part));
    }
    read
}

fn spec<T: FromNode>(
    _: &Kind,
    head: Head,
    fields: &mut Fields<'_>,
    root: &Node<'_>,
    cx: &mut Cx,
) -> Option<Document<T>> {
    let entry = fields.take("spec");
    let empty = Node::empty_map(root.line);
    let (node, at) = match entry.filter(|entry| !entry.node.is_null()) {
        Some(entry) => (&entry.node, (entry.line, entry.column)),
        None => (&empty, (root.line, root.column)),
    };
    let spec = cx.within("spec", at, |cx| T::read(node, cx))?;
    let mut pairs = Vec::new();
    collect_lines(root, PATH_HASH_START, &mut pairs);
    Some(Document { meta: head.meta, source: head.source, lines: Lines::from_pairs(pairs), spec })
}

/// Path hash and line of every field below `node`. Recursion is bounded by the depth of the tree.
pub(crate) fn collect_lines(node: &Node<'_>, hash: u64, pairs: &mut Vec<(u64, u32)>) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::Map(entries) => {
            for entry in entries {
                let below = if hash == PATH_HASH_START { hash } else { path_hash(hash, ".") };
                let own = path_hash(below, &entry.key);
                pairs.push((own, entry.line));
                collect_lines(&entry.node, own, pairs);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let digits = path_hash(path_hash(hash, "["), itoa::Buffer::new().format(index));
                let own = path_hash(digits, "]");
                pairs.push((own, item.line));
                collect_lines(item, own, pairs);
            }
        }
    }
}
