//! The one rule that stands for several of the same host.

use serde_json::{Map, Value, json};

use super::yaml;
use crate::istio::{DestinationRule, Document, ToJson};

/// Parts of a policy that a port's own policy shuts out.
const PORT_PARTS: [&str; 4] = ["loadBalancer", "connectionPool", "outlierDetection", "tls"];

/// The merged rule as YAML. Where rules contradict each other the earlier stands, and a comment says so.
pub(super) fn rule(documents: &[&Document<DestinationRule>]) -> String {
    let Some(first) = documents.first() else { return String::new() };
    let mut policy = Map::new();
    let mut ports: Vec<(u64, Map<String, Value>)> = Vec::new();
    let mut subsets: Vec<Value> = Vec::new();
    let mut contradictions = Vec::new();
    for document in documents {
        let name = &document.meta.name;
        if let Some(Value::Object(mut own)) = document.spec.traffic_policy.as_ref().and_then(ToJson::json) {
            if let Some(Value::Array(own_ports)) = own.remove("portLevelSettings") {
                for port in own_ports {
                    let Value::Object(mut port) = port else { continue };
                    let number = port.remove("port").and_then(|p| p.get("number").and_then(Value::as_u64)).unwrap_or(0);
                    match ports.iter_mut().find(|(known, _)| *known == number) {
                        Some((_, known)) => merge(known, &port, &format!("port {number}"), name, &mut contradictions),
                        None => ports.push((number, port)),
                    }
                }
            }
            merge(&mut policy, &own, "", name, &mut contradictions);
        }
        for subset in document.spec.subsets.iter().filter_map(ToJson::json) {
            if !subsets.iter().any(|known| known.get("name") == subset.get("name")) {
                subsets.push(subset);
            }
        }
    }
    if !ports.is_empty() {
        let with_all = ports.into_iter().map(|(number, mut port)| {
            let above: Map<String, Value> = policy
                .iter()
                .filter(|(key, _)| PORT_PARTS.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            // What the port says stands; contradictions with the policy above are what it is for.
            merge(&mut port, &above, "", "", &mut Vec::new());
            let mut whole = Map::from_iter([("port".to_owned(), json!({ "number": number }))]);
            whole.extend(port);
            Value::Object(whole)
        });
        let with_all: Vec<Value> = with_all.collect();
        policy.insert("portLevelSettings".to_owned(), Value::Array(with_all));
    }
    let mut spec = Map::from_iter([("host".to_owned(), Value::String(first.spec.host.clone()))]);
    if !policy.is_empty() {
        spec.insert("trafficPolicy".to_owned(), Value::Object(policy));
    }
    if !subsets.is_empty() {
        spec.insert("subsets".to_owned(), Value::Array(subsets));
    }
    let document = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": { "name": first.meta.name, "namespace": first.meta.namespace },
        "spec": spec,
    });
    let mut text = String::new();
    for line in contradictions {
        text.push_str("# ");
        text.push_str(&line);
        text.push('\n');
    }
    yaml::write(&document, 0, &mut text);
    text
}

/// Adds what is not there yet. Depth is that of a TrafficPolicy.
fn merge(
    into: &mut Map<String, Value>,
    from: &Map<String, Value>,
    path: &str,
    rule: &str,
    contradictions: &mut Vec<String>,
) {
    for (key, value) in from {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let excluded = match key.as_str() {
            "simple" => into.contains_key("consistentHash"),
            "consistentHash" => into.contains_key("simple"),
            _ => false,
        };
        match (into.get_mut(key), value) {
            _ if excluded => {
                contradictions.push(format!("left out: {at} of {rule}, which excludes what an earlier rule sets"))
            }
            (None, value) => {
                into.insert(key.clone(), value.clone());
            }
            (Some(Value::Object(have)), Value::Object(more)) => merge(have, more, &at, rule, contradictions),
            (Some(have), value) if have != value => {
                contradictions.push(format!(
                    "left out: {at}: {} of {rule}; an earlier rule sets {}",
                    plain(value),
                    plain(have)
                ));
            }
            _ => {}
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
