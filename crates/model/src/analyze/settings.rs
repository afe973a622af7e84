//! ConfigMaps: settings that contradict each other or the machine.

use std::net::IpAddr;

use super::{Findings, codes};
use crate::istio::{Config, ConfigMap, Document, IDLE_TIMEOUT_KEY, ROOT_NAMESPACE, scalar};

const KIND: &str = "ConfigMap";
const PROXY: &str = "data.config.yaml.proxy";

pub(super) fn check(config: &Config, findings: &mut Findings) {
    for document in &config.config_maps {
        one(document, findings);
    }
    disagree(config, findings);
    workers(config, findings);
}

/// Keys that a finding names; a ConfigMap may have a hundred thousand.
const KEYS_SHOWN: usize = 8;

fn one(document: &Document<ConfigMap>, findings: &mut Findings) {
    let map = &document.spec;
    if map.dns.is_none() && map.proxy.is_none() {
        let mut keys: Vec<&str> = map.data.keys().map(String::as_str).take(KEYS_SHOWN).collect();
        if map.data.len() > KEYS_SHOWN {
            keys.push("and others");
        }
        let reason = format!(
            "what its keys ({}) hold is nothing of the mesh's; settings in dns.yaml, and in config.yaml under proxy, would be",
            keys.join(", ")
        );
        findings.add(
            &codes::CONFIG_MAP_WITHOUT_EFFECT,
            KIND,
            document,
            "data",
            reason,
            codes::CONFIG_MAP_WITHOUT_EFFECT.mend.to_owned(),
        );
        return;
    }
    if document.meta.namespace != ROOT_NAMESPACE {
        let reason = format!("these settings hold only for workloads of the namespace {}", document.meta.namespace);
        findings.add(
            &codes::SETTINGS_ELSEWHERE,
            KIND,
            document,
            "metadata.namespace",
            reason,
            codes::SETTINGS_ELSEWHERE.mend.to_owned(),
        );
    }
    if let Some(dns) = &map.dns {
        let is_public = |address: IpAddr| match address {
            IpAddr::V4(v4) => !(v4.is_private() || v4.is_loopback() || v4.is_link_local()),
            IpAddr::V6(v6) => {
                !(v6.is_loopback() || (v6.segments()[0] & 0xfe00) == 0xfc00 || (v6.segments()[0] & 0xffc0) == 0xfe80)
            }
        };
        let resolvers = dns.resolvers();
        if !resolvers.is_empty() && resolvers.iter().all(|r| is_public(r.address.ip())) {
            findings.add(
                &codes::PUBLIC_RESOLVERS,
                KIND,
                document,
                "data.dns.yaml.dns_resolution_config.resolvers",
                codes::PUBLIC_RESOLVERS.reason.to_owned(),
                codes::PUBLIC_RESOLVERS.mend.to_owned(),
            );
        }
    }
    for (key, value) in map.proxy.iter().flat_map(|proxy| &proxy.proxy_metadata) {
        let field = format!("{PROXY}.proxyMetadata.{key}");
        if key != IDLE_TIMEOUT_KEY {
            let reason =
                format!("{key} is only compared with match.proxy.metadata of EnvoyFilters; it switches nothing");
            findings.add(
                &codes::METADATA_WITHOUT_EFFECT,
                KIND,
                document,
                &field,
                reason,
                codes::METADATA_WITHOUT_EFFECT.mend.to_owned(),
            );
        } else if let Err(syntax) = scalar::duration(value) {
            let reason = format!("{value:?} is no duration, so the default stands: {syntax}");
            findings.add(
                &codes::BAD_IDLE_TIMEOUT,
                KIND,
                document,
                &field,
                reason,
                codes::BAD_IDLE_TIMEOUT.mend.to_owned(),
            );
        }
    }
}

/// A setting's path, and its value as text.
type Setting = (&'static str, fn(&ConfigMap) -> Option<String>);

const SETTINGS: [Setting; 7] = [
    ("data.config.yaml.proxy.concurrency", |m| Some(m.proxy.as_ref()?.concurrency?.to_string())),
    ("data.config.yaml.proxy.resources", |m| m.proxy.as_ref()?.resources.as_ref().map(|r| format!("{r:?}"))),
    ("data.config.yaml.proxy.thread_pool", |m| m.proxy.as_ref()?.thread_pool.as_ref().map(|t| format!("{t:?}"))),
    ("data.config.yaml.proxy.envoy_stats_config", |m| {
        m.proxy.as_ref()?.envoy_stats_config.as_ref().map(|s| format!("{s:?}"))
    }),
    ("data.dns.yaml.dns_refresh_rate", |m| Some(crate::istio::duration_text(m.dns.as_ref()?.refresh_rate?))),
    ("data.dns.yaml.dns_lookup_family", |m| Some(m.dns.as_ref()?.lookup_family?.as_str().to_owned())),
    ("data.dns.yaml.dns_resolution_config", |m| m.dns.as_ref()?.resolution.as_ref().map(|r| format!("{r:?}"))),
];

fn disagree(config: &Config, findings: &mut Findings) {
    for (path, value) in SETTINGS {
        let mut earlier: Vec<(&Document<ConfigMap>, String)> = Vec::new();
        for document in &config.config_maps {
            let Some(own) = value(&document.spec) else { continue };
            let other =
                earlier.iter().rev().find(|(d, text)| d.meta.namespace == document.meta.namespace && *text != own);
            if let Some((other, text)) = other {
                let name = path.rsplit('.').next().unwrap_or(path);
                // Whole structures are long in text and stand in the documents anyway.
                let short = |text: &str| if text.len() > 40 { "other values".to_owned() } else { text.to_owned() };
                let reason = format!(
                    "{} sets {name} to {} ({}:{}), this document to {}; the later one read, this one, stands",
                    other.meta.name,
                    short(text),
                    other.source.file,
                    other.line(path),
                    short(&own),
                );
                findings.add(
                    &codes::SETTINGS_DISAGREE,
                    KIND,
                    document,
                    path,
                    reason,
                    format!("Remove {name} from {}.", other.meta.name),
                );
            }
            earlier.push((document, own));
        }
    }
}

/// The settings in force, so that two documents which are harmless alone are seen together.
fn workers(config: &Config, findings: &mut Findings) {
    let limit = |d: &Document<ConfigMap>| d.spec.proxy.as_ref()?.resources.as_ref()?.limits.as_ref()?.cpu;
    let Some(document) = config.config_maps.iter().rev().find(|d| limit(d).is_some()) else { return };
    let settings = config.proxy_settings(&document.meta.namespace);
    let Some(cpu) = settings.resources.as_ref().and_then(|r| r.limits.as_ref()?.cpu) else { return };
    let Some(workers) = settings.concurrency.filter(|n| *n > 0) else { return };
    if u64::from(workers) * 1_000 > cpu.millicores {
        let reason = format!(
            "{workers} workers share a CPU limit of {}m: when all are busy the quota of a 100 ms period is spent after {} ms, and every request then waits for the next period",
            cpu.millicores,
            cpu.millicores / (u64::from(workers) * 10)
        );
        let fits = (cpu.millicores / 1_000).max(1);
        let mend = format!("limits: {{cpu: \"{workers}\"}}, or concurrency: {fits}");
        findings.add(&codes::WORKERS_ABOVE_CPU, KIND, document, &format!("{PROXY}.resources.limits.cpu"), reason, mend);
    }
}
