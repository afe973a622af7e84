//! PrometheusRules: alerts that cannot fire, or cannot say what they mean. Beyond the form of an expression this is a look at its
//! text: what is not understood is not reported.

use std::time::Duration;

use super::{Code, Findings, codes, promql, template};
use crate::istio::{Config, Document, PrometheusRule, Rule, scalar};

/// Twice Prometheus' default scrape interval.
const SHORT_WINDOW: Duration = Duration::from_secs(120);

pub(super) fn check(config: &Config, findings: &mut Findings) {
    for document in &config.prometheus_rules {
        for (group_index, group) in document.spec.groups.iter().enumerate() {
            for (rule_index, rule) in group.rules.iter().enumerate() {
                one(document, rule, &format!("spec.groups[{group_index}].rules[{rule_index}]"), findings);
            }
        }
    }
}

fn one(document: &Document<PrometheusRule>, rule: &Rule, path: &str, findings: &mut Findings) {
    let mut add = |code: &Code, field: &str, reason: String, mend: String| {
        findings.add(code, "PrometheusRule", document, &format!("{path}.{field}"), reason, mend);
    };
    let expr = rule.expr.0.as_str();
    let of_alert = rule.alert.iter().flat_map(|_| [("annotations", &rule.annotations), ("labels", &rule.labels)]);
    for (field, texts) in of_alert {
        for (key, text) in texts {
            if let Some(reason) = template::mistake(text) {
                add(&codes::NO_TEMPLATE, &format!("{field}.{key}"), reason, codes::NO_TEMPLATE.mend.to_owned());
            }
        }
    }
    if let Some(found) = promql::mistake(expr) {
        let reason = format!("character {}: {}", found.position, found.message);
        add(&codes::NO_PROMQL, "expr", reason, codes::NO_PROMQL.mend.to_owned());
        return;
    }
    let name = rule.alert.as_deref().or(rule.record.as_deref()).unwrap_or_default();
    let groups = by_lists(expr);
    if let Some(series) = rule.alert.is_some().then(|| rated_below(expr)).flatten() {
        let reason = format!(
            "{name} fires while {series} exists with a low rate; when the series vanish (all instances gone, or no request since the start) the expression has no result and the alert goes silent"
        );
        let mend = format!("- alert: {name}Absent\n  expr: absent({series})\n  for: 5m\n");
        add(&codes::ALERT_GOES_SILENT, "expr", reason, mend);
    }
    if expr.contains("histogram_quantile")
        && expr.contains("_bucket")
        && !groups.is_empty()
        && !groups.iter().any(|g| g.contains(&"le"))
    {
        add(
            &codes::QUANTILE_WITHOUT_LE,
            "expr",
            codes::QUANTILE_WITHOUT_LE.reason.to_owned(),
            codes::QUANTILE_WITHOUT_LE.mend.to_owned(),
        );
    }
    let aggregates = ["sum", "avg", "max", "min", "count"].iter().any(|word| {
        expr.contains(&format!("{word}("))
            || expr.contains(&format!("{word} ("))
            || expr.contains(&format!("{word} by"))
    });
    let without = expr.contains("without");
    for (key, text) in rule.annotations.iter().chain(&rule.labels) {
        for label in used_labels(text) {
            let kept = groups.iter().any(|group| group.contains(&label.as_str()));
            if aggregates && !without && !kept && label != "alertname" {
                let reason = format!(
                    "the text shows $labels.{label}, but the expression aggregates {label} away, so nothing stands there"
                );
                let field = if rule.annotations.contains_key(key) { "annotations" } else { "labels" };
                add(&codes::LABEL_AGGREGATED_AWAY, &format!("{field}.{key}"), reason, format!("by ({label})"));
            }
        }
    }
    if let Some(window) = shortest_window(expr).filter(|w| *w < SHORT_WINDOW) {
        let reason = format!(
            "a rate over {} needs two scrapes within it: with Prometheus' default interval of 1 min it has no result, and the rule never fires",
            crate::istio::duration_text(window)
        );
        add(&codes::SHORT_WINDOW, "expr", reason, "Scrape every 15s, or use [5m].".to_owned());
    }
    if rule.alert.is_some() && rule.for_.is_none() {
        add(
            &codes::ALERT_AT_ONCE,
            "alert",
            codes::ALERT_AT_ONCE.reason.to_owned(),
            codes::ALERT_AT_ONCE.mend.to_owned(),
        );
    }
}

/// The labels of every `by (…)`.
fn by_lists(expr: &str) -> Vec<Vec<&str>> {
    let mut lists = Vec::new();
    let mut rest = expr;
    while let Some(at) = rest.find("by") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        let is_word = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if let Some(list) = after.trim_start().strip_prefix('(').filter(|_| is_word) {
            let end = list.find(')').unwrap_or(list.len());
            lists.push(
                list.get(..end).unwrap_or_default().split(',').map(str::trim).filter(|l| !l.is_empty()).collect(),
            );
        }
        rest = after;
    }
    lists
}

/// The rated series of an expression that ends in `< NUMBER`, without a fallback for absent series.
fn rated_below(expr: &str) -> Option<&str> {
    let (left, right) = expr.rsplit_once('<')?;
    right.trim_start_matches('=').trim().parse::<f64>().ok()?;
    if expr.contains("absent") || expr.contains("vector(") || left.contains('/') {
        return None;
    }
    let at = ["rate(", "increase("].iter().filter_map(|word| left.find(word).map(|at| at + word.len())).min()?;
    let series = left.get(at..)?;
    let end = series.find('[')?;
    series.get(..end).map(str::trim)
}

/// The names after `$labels.` in an annotation.
fn used_labels(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in text.split("$labels.").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if !name.is_empty() && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// The shortest `[5m]` of the expression.
fn shortest_window(expr: &str) -> Option<Duration> {
    expr.split('[').skip(1).filter_map(|part| scalar::prometheus_duration(part.split([']', ':']).next()?).ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_expression() {
        let expr = "sum(rate(istio_requests_total[5m])) by (destination_service) < 100\n";
        assert_eq!(by_lists(expr), [["destination_service"]]);
        assert_eq!(rated_below(expr), Some("istio_requests_total"));
        assert_eq!(shortest_window(expr), Some(Duration::from_secs(300)));
        assert_eq!(rated_below("sum(rate(a[5m])) / sum(rate(b[5m])) < 0.9"), None);
        assert_eq!(rated_below("sum(rate(a[5m])) < 1 or absent(a)"), None);
        assert_eq!(used_labels("{{ $labels.a_b }} and {{$labels.c}}"), ["a_b", "c"]);
    }
}
