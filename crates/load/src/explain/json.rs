//! The same for programs. Durations are milliseconds, in fields that end in `_ms`; `curl` holds seconds under the names of
//! curl's `-w` variables, counted from the beginning as curl counts them.

use serde_json::{Value, json};

use super::{Account, Answer, Distribution, Kind, Row};

fn ms(ns: f64) -> f64 {
    ns / 1e6
}

/// One request.
pub fn answer_json(url: &str, method: &str, answer: &Answer, account: &Account) -> Value {
    let segments = &answer.segments;
    let mut at = 0_u64;
    let mut until = |ns: u64| {
        at += ns;
        at as f64 / 1e9
    };
    let lookup = until(segments.name_lookup_ns);
    let connect = until(segments.connect_ns);
    let appconnect = until(segments.tunnel_ns + segments.tls_ns);
    let pretransfer = until(0);
    let sent = until(segments.send_ns);
    let first = until(segments.wait_ns);
    let total = until(segments.body_ns);
    let parts = account.parts.iter().map(|part| {
        let category = match part.kind {
            Kind::Leaf(category) => Some(category.as_str()),
            Kind::Segment | Kind::Hop => None,
        };
        json!({
            "depth": part.depth,
            "name": part.name,
            "kind": match part.kind { Kind::Segment => "segment", Kind::Hop => "hop", Kind::Leaf(_) => "leaf" },
            "category": category,
            "duration_ms": ms(part.ns as f64),
            "spans": part.spans.iter().map(|(start, ns)| json!({ "start_ms": ms(*start as f64), "duration_ms": ms(*ns as f64) })).collect::<Vec<_>>(),
        })
    });
    let hops = answer.hops.iter().rev().map(|hop| {
        let states: serde_json::Map<String, Value> =
            hop.states.iter().map(|(state, ns)| (state.as_str().to_owned(), json!(ms(*ns as f64)))).collect();
        json!({ "name": hop.name, "endpoint": hop.endpoint, "total_ms": ms(hop.total_ns() as f64), "upstream_ms": ms(hop.upstream_ns as f64), "states_ms": states })
    });
    let categories: serde_json::Map<String, Value> = account
        .categories()
        .iter()
        .map(|(category, ns)| (category.as_str().to_owned(), json!(ms(*ns as f64))))
        .collect();
    json!({
        "url": url,
        "method": method,
        "status": answer.status,
        "address": answer.address.to_string(),
        "connection": if answer.reused { "reused" } else { "new" },
        "tls": answer.tls,
        "body_bytes": answer.body_bytes,
        "total_ms": ms(account.total_ns as f64),
        "segments_ms": {
            "name_lookup": ms(segments.name_lookup_ns as f64),
            "connect": ms(segments.connect_ns as f64),
            "tunnel": ms(segments.tunnel_ns as f64),
            "tls": ms(segments.tls_ns as f64),
            "send": ms(segments.send_ns as f64),
            "wait": ms(segments.wait_ns as f64),
            "body": ms(segments.body_ns as f64),
        },
        "curl": {
            "time_namelookup": lookup,
            "time_connect": connect,
            "time_appconnect": if segments.tls_ns > 0 { appconnect } else { 0.0 },
            "time_pretransfer": pretransfer,
            "time_posttransfer": sent,
            "time_starttransfer": first,
            "time_total": total,
        },
        "categories_ms": categories,
        "hops": hops.collect::<Vec<_>>(),
        "parts": parts.collect::<Vec<_>>(),
        "notes": account.notes,
    })
}

/// Many requests.
pub fn distribution_json(url: &str, method: &str, failed: &[(String, u64)], found: Option<&Distribution>) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "category": if row.name == "total" { Value::Null } else { json!(row.category.as_str()) },
            "p50_ms": ms(row.p50_ns as f64),
            "p95_ms": ms(row.p95_ns as f64),
            "p99_ms": ms(row.p99_ns as f64),
            "median_cohort_mean_ms": ms(row.median_ns),
            "tail_cohort_mean_ms": ms(row.tail_ns),
        })
    };
    let cohort = |cohort: &super::distribution::Cohort| json!({ "from": cohort.from, "to": cohort.to, "requests": cohort.requests });
    json!({
        "url": url,
        "method": method,
        "requests": found.map_or(0, |found| found.requests),
        "failed": failed.iter().map(|(reason, count)| json!({ "reason": reason, "count": count })).collect::<Vec<_>>(),
        "median_cohort": found.map(|found| cohort(&found.median)),
        "tail_cohort": found.map(|found| cohort(&found.tail)),
        "total": found.map(|found| row(&found.total)),
        "parts": found.map_or_else(Vec::new, |found| found.rows.iter().map(row).collect()),
    })
}
