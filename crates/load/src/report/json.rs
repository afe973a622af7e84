//! The result for programs. The schema stands in `docs/load.schema.json`; a field that is renamed or means something else
//! raises [`VERSION`]. Durations are milliseconds in fields that end in `_ms`, shares are 0 to 1.

use celerity_telemetry::Category;
use serde_json::{Map, Value, json};

use super::csv::quantile_ms;
use super::text::{MEDIAN_COHORT, TAIL_COHORT};
use crate::audit::Verdict;
use crate::slo::Outcome;
use crate::summary::LedgerMeans;
use crate::{Histogram, Summary};

pub const VERSION: u32 = 2;

fn ms(ns: f64) -> f64 {
    // Six decimals are nanoseconds; more would be noise of the division.
    (ns / 1e6 * 1e6).round() / 1e6
}

/// The whole result.
pub fn render(summary: &Summary, outcomes: &[Outcome]) -> Value {
    let about = &summary.about;
    let errors = summary.errors.iter().map(|(kind, count)| {
        json!({
            "kind": kind,
            "text": kind.as_str(),
            "count": count,
            "example": summary.error_examples.get(kind),
        })
    });
    let (void, reasons) = match summary.verdict() {
        Verdict::Trusted => (false, Vec::new()),
        Verdict::Void(reasons) => (true, reasons),
    };
    json!({
        "version": VERSION,
        "about": about,
        "duration_s": summary.duration_ns as f64 / 1e9,
        "requests": {
            "total": summary.total(),
            "intended": summary.intended,
            "sent": summary.sent,
            "succeeded": summary.succeeded,
            "failed": summary.failed(),
            "success_share": summary.success_share(),
            "late": summary.late.answers,
        },
        "rate": {
            "offered_per_second": about.offered_per_second,
            "answered_per_second": summary.answered_per_second(),
            "achieved_share": summary.achieved_share(),
            "behind_share": summary.behind_share(),
        },
        "bytes": {
            "sent": summary.bytes_sent,
            "received": summary.bytes_received,
            "body_received": summary.body_bytes_received,
        },
        "response_ms": histogram(&summary.response),
        "service_ms": histogram(&summary.service),
        "unanswered_ms": histogram(&summary.unanswered),
        "lag_ms": histogram(&summary.lag),
        "connect_ms": histogram(&summary.connect),
        "tls_ms": histogram(&summary.tls),
        "statuses": counts(summary.statuses.iter()),
        "grpc_statuses": counts(summary.grpc_statuses.iter()),
        "errors": errors.collect::<Vec<_>>(),
        "tally": counts(summary.tally.iter()),
        "ledger": summary.ledger.as_ref().map(|ledger| json!({
            "responses": ledger.responses,
            "mean_ms": means(&ledger.means()),
            "median_cohort_ms": means(&ledger.cohort(MEDIAN_COHORT.0, MEDIAN_COHORT.1)),
            "tail_cohort_ms": means(&ledger.cohort(TAIL_COHORT.0, TAIL_COHORT.1)),
        })),
        "timeline": timeline(summary),
        "objectives": outcomes,
        "audit": summary.audit,
        "void": void,
        "void_reasons": reasons,
        "cautions": summary.cautions(),
    })
}

fn counts<'a, K: std::fmt::Display + 'a>(of: impl Iterator<Item = (&'a K, &'a u64)>) -> Map<String, Value> {
    of.map(|(key, count)| (key.to_string(), json!(count))).collect()
}

/// `null` where nothing was recorded: a quantile of nothing is not 0.
fn histogram(of: &Histogram) -> Value {
    if of.is_empty() {
        return Value::Null;
    }
    let q = |q: f64| ms(of.quantile_ns(q) as f64);
    json!({
        "count": of.count(),
        "mean": ms(of.mean_ns()),
        "stdev": ms(of.stdev_ns()),
        "min": ms(of.min_ns() as f64),
        "p50": q(0.5),
        "p75": q(0.75),
        "p90": q(0.9),
        "p95": q(0.95),
        "p99": q(0.99),
        "p99_9": q(0.999),
        "p99_99": q(0.9999),
        "max": ms(of.max_ns() as f64),
    })
}

fn means(of: &LedgerMeans) -> Value {
    let mut out = Map::new();
    out.insert("requests".into(), json!(of.requests));
    for (category, us) in Category::ALL.iter().zip(of.categories_us) {
        out.insert(category.as_str().into(), json!(ms(us * 1e3)));
    }
    out.insert("client".into(), json!(ms(of.outside_us() * 1e3)));
    out.insert("total".into(), json!(ms(of.response_us * 1e3)));
    Value::Object(out)
}

fn timeline(summary: &Summary) -> Value {
    let bins = summary.timeline.bins.iter().map(|bin| {
        json!({
            "intended": bin.intended,
            "sent": bin.sent,
            "succeeded": bin.succeeded,
            "failed": bin.failed,
            "bytes_received": bin.bytes_received,
            "p50_ms": quantile_ms(&bin.rows, 0.5),
            "p99_ms": quantile_ms(&bin.rows, 0.99),
        })
    });
    json!({ "bin_s": summary.timeline.bin_ns as f64 / 1e9, "bins": bins.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds a value against the part of JSON Schema that our file uses.
    fn check(schema: &Value, root: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let target = root.pointer(name.trim_start_matches('#')).ok_or(format!("{at}: no {name}"))?;
            return check(target, root, value, at);
        }
        let is = |kind: &str| match kind {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        };
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if let Some(any) = schema["anyOf"].as_array() {
            let tried: Vec<_> = any.iter().map(|one| check(one, root, value, at)).collect();
            return if tried.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{at}: {tried:?}")) };
        }
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
            return Err(format!("{at}: {value} is not {kinds:?}"));
        }
        if let Value::Object(map) = value {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                map.get(name).ok_or(format!("{at}: {name} is missing"))?;
            }
            for (name, value) in map {
                let known = schema["properties"].get(name);
                let other = &schema["additionalProperties"];
                match known.or(other.is_object().then_some(other)) {
                    Some(schema) => check(schema, root, value, &format!("{at}.{name}"))?,
                    None if other == &Value::Bool(false) => return Err(format!("{at}: {name} is not in the schema")),
                    None => {}
                }
            }
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            check(&schema["items"], root, item, &format!("{at}[{n}]"))?;
        }
        Ok(())
    }

    fn holds(value: &Value) {
        let text = include_str!("../../../../docs/load.schema.json");
        let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
        check(&schema, &schema, value, "$").unwrap_or_else(|error| panic!("{error}\n{value:#}"));
    }

    #[test]
    fn the_output_is_what_the_schema_says() {
        let outcomes = [Outcome { objective: "p99<1ms".into(), passed: false, measured: "11.000ms".into() }];
        let full = render(&crate::report::sample(), &outcomes);
        holds(&full);
        let said = include_str!("../../../../docs/load.schema.json").matches(&format!("version {VERSION}\"")).count();
        assert_eq!(said, 1, "the schema is of another version");
        holds(&render(&Summary::default(), &[]));
        let mut wrong = full.clone();
        wrong["response_ms"]["p99"] = json!("fast");
        let schema: Value = serde_json::from_str(include_str!("../../../../docs/load.schema.json")).expect("JSON");
        assert!(check(&schema, &schema, &wrong, "$").is_err(), "the check itself works");
        let mut more = full;
        more["surprise"] = json!(1);
        assert!(check(&schema, &schema, &more, "$").is_err());
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let empty = render(&Summary::default(), &[]);
        assert!(empty["response_ms"].is_null() && empty["ledger"].is_null());
    }
}
