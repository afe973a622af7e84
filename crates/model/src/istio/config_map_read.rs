//! How a ConfigMap is read, and which of them are the mesh's.

use std::collections::BTreeMap;

use super::config::{PATH_HASH_START, ROOT_NAMESPACE, path_hash};
use super::config_map::{ConfigMap, DnsSettings, ProxyConfigFile, ProxySettings};
use super::node::{self, Entry, Node, Value};
use super::reader::{Cx, ErrorKind, Fields, FromNode, nearest};

/// Reads the root of a ConfigMap: `data`, and the YAML within the keys that act.
pub(crate) fn config_map(
    fields: &mut Fields<'_>,
    namespace: &str,
    cx: &mut Cx,
    inner_lines: &mut Vec<(String, Vec<(u64, u32)>)>,
) -> Option<ConfigMap> {
    let Some(entry) = fields.take("data").filter(|entry| !entry.node.is_null()) else {
        return Some(ConfigMap::default());
    };
    let own = namespace == ROOT_NAMESPACE;
    cx.within("data", (entry.line, entry.column), |cx| {
        let mut map = ConfigMap { data: BTreeMap::read(&entry.node, cx)?, ..ConfigMap::default() };
        let Value::Map(entries) = &entry.node.value else { return Some(map) };
        let mut whole = true;
        for inner in entries {
            let Value::Scalar { text, .. } = &inner.node.value else { continue };
            let key = inner.key.as_ref();
            if key != DNS_KEY && key != PROXY_KEY {
                whole &= !is_misnamed(key, text, own, (inner.line, inner.column), cx);
                continue;
            }
            // The parser puts the text of a block scalar on its first own line, after the `|`.
            let line = inner.node.line.saturating_sub(1);
            let read = cx.within(key, (inner.line, inner.column), |cx| {
                let piece = node::Piece { text, lines_before: line };
                let roots = match node::parse(&piece) {
                    Ok(roots) => roots,
                    // A template, or no YAML at all: some other program's, unless it speaks of what only a mesh has.
                    Err(_) if !own && !DISTINCTIVE.iter().any(|setting| text.contains(setting)) => return Some(()),
                    Err(error) => {
                        cx.within("", (error.line, error.column), |cx| cx.error(ErrorKind::Syntax, error.reason));
                        return None;
                    }
                };
                if !roots.iter().any(|root| is_of_mesh(key, root, own)) {
                    return Some(());
                }
                let mut roots = roots.into_iter();
                let Some(root) = roots.next() else { return Some(()) };
                if let Some(second) = roots.next() {
                    let reason =
                        "only the first YAML document of this text would be read; merge the two, or remove one";
                    cx.within("", (second.line, second.column), |cx| cx.error(ErrorKind::Conflict, reason));
                    return None;
                }
                let mut pairs = Vec::new();
                super::read::collect_lines(&root, path_hash(PATH_HASH_START, &format!("data.{key}")), &mut pairs);
                inner_lines.push((key.to_owned(), pairs));
                if key == PROXY_KEY && is_bare(&root) {
                    let reason = "a setting of the proxy stands under proxy; write proxy: before it, and indent it";
                    cx.within("", (root.line, root.column), |cx| cx.error(ErrorKind::UnknownKey, reason));
                    return None;
                }
                if key == DNS_KEY {
                    map.dns = Some(DnsSettings::read(&root, cx)?);
                } else {
                    map.proxy = ProxyConfigFile::read(&root, cx)?.proxy;
                }
                Some(())
            });
            whole &= read.is_some();
        }
        whole.then_some(map)
    })
}

const DNS_KEY: &str = "dns.yaml";
const PROXY_KEY: &str = "config.yaml";

/// Settings that no other program is likely to have, by which a text that is broken is known.
const DISTINCTIVE: [&str; 8] = [
    "concurrency:",
    "thread_pool:",
    "proxyMetadata:",
    "envoy_stats_config:",
    "use_all_default_tags:",
    "dns_refresh_rate:",
    "dns_lookup_family:",
    "dns_resolution_config:",
];

/// Whether a text is for the mesh. Other programs keep a `config.yaml` too, some with a `proxy` in it, and a `dns.yaml`. What is read
/// is read strictly, so that a misspelt key is refused; what is another program's must not stop the mesh.
///
/// In the mesh's `own` namespace `dns.yaml` says enough, and so does `proxy` in a `config.yaml`, in whatever case. A misspelt
/// `proxy` counts if a setting stands below it, and settings count where they stand alone at the top. Elsewhere a text must hold a
/// setting that is known, or misspelt, under `proxy` and nothing beside it; under a misspelt `proxy` one that is spelt right; and
/// at the top one that no other program is likely to have, for many have a `concurrency`.
fn is_of_mesh(key: &str, root: &Node<'_>, own: bool) -> bool {
    let Value::Map(entries) = &root.value else { return own && key == DNS_KEY };
    let nearly = |entries: &[Entry<'_>], known: &[&'static str]| {
        entries.iter().any(|entry| nearest(&entry.key, known.iter().copied()).is_some())
    };
    if key == DNS_KEY {
        return own || nearly(entries, DnsSettings::KNOWN);
    }
    let below = |entry: &Entry<'_>, holds: &dyn Fn(&[Entry<'_>]) -> bool| match &entry.node.value {
        Value::Map(settings) => holds(settings),
        _ => false,
    };
    let is_setting = |entry: &Entry<'_>| ProxySettings::KNOWN.contains(&entry.key.as_ref());
    let any_setting = |entries: &[Entry<'_>]| entries.iter().any(is_setting);
    let is_misspelt = |entry: &&Entry<'_>| nearest(&entry.key, ["proxy"].into_iter()).is_some();
    let alone = own || entries.len() == 1;
    if let Some(proxy) = entries.iter().find(|entry| entry.key == "proxy") {
        return own || (alone && below(proxy, &|settings| nearly(settings, ProxySettings::KNOWN)));
    }
    if let Some(proxy) = entries.iter().find(is_misspelt) {
        let cased = own && proxy.key.eq_ignore_ascii_case("proxy");
        return cased || (alone && below(proxy, &any_setting));
    }
    let is_distinctive = |entry: &Entry<'_>| !matches!(entry.key.as_ref(), "concurrency" | "resources");
    is_bare(root) && (own || entries.iter().any(is_distinctive))
}

/// Settings without `proxy` above them.
fn is_bare(root: &Node<'_>) -> bool {
    let Value::Map(entries) = &root.value else { return false };
    !entries.is_empty() && entries.iter().all(|entry| ProxySettings::KNOWN.contains(&entry.key.as_ref()))
}

/// Tells of a key that is nearly one that acts, such as `config.yml`, over a text that is for the mesh.
fn is_misnamed(key: &str, text: &str, own: bool, at: (u32, u32), cx: &mut Cx) -> bool {
    let lower = key.to_ascii_lowercase();
    let stem =
        lower.strip_suffix(".yaml").or_else(|| lower.strip_suffix(".yml")).or_else(|| lower.strip_suffix(".json"));
    let meant = match stem {
        Some("config") => PROXY_KEY,
        Some("dns") => DNS_KEY,
        _ => return false,
    };
    let Ok(roots) = node::parse(&node::Piece { text, lines_before: 0 }) else { return false };
    // The name of dns.yaml says enough in the mesh's namespace; a name beside it does not.
    let misnamed = roots.iter().any(|root| is_of_mesh(meant, root, own && meant == PROXY_KEY));
    if misnamed {
        cx.within(key, at, |cx| {
            cx.error(ErrorKind::UnknownKey, format!("the mesh reads {meant} and nothing of this name; write {meant}"));
        });
    }
    misnamed
}
