//! What is said of rules, beside the verdict of Prometheus' own `promtool`.

use std::process::Command;
use std::sync::Arc;

use celerity_model::analyze::{Severity, analyze};
use celerity_model::istio;
use celerity_testkit::{TempDir, peer};
use serde_json::{Value, json};

fn expressions() -> Vec<&'static str> {
    let lists = [include_str!("data/promql_right.txt"), include_str!("data/promql_wrong.txt")];
    lists.iter().flat_map(|list| list.lines()).filter(|line| !line.is_empty()).collect()
}

/// Every function with arguments of each type: which of them fit is `promtool`'s to say.
fn calls() -> Vec<String> {
    let names = [
        "abs",
        "absent",
        "absent_over_time",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "avg_over_time",
        "ceil",
        "changes",
        "clamp",
        "clamp_max",
        "clamp_min",
        "cos",
        "cosh",
        "count_over_time",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "days_in_month",
        "deg",
        "delta",
        "deriv",
        "exp",
        "floor",
        "histogram_count",
        "histogram_fraction",
        "histogram_quantile",
        "histogram_sum",
        "holt_winters",
        "hour",
        "idelta",
        "increase",
        "irate",
        "label_join",
        "label_replace",
        "last_over_time",
        "ln",
        "log10",
        "log2",
        "max_over_time",
        "min_over_time",
        "minute",
        "month",
        "pi",
        "predict_linear",
        "present_over_time",
        "quantile_over_time",
        "rad",
        "rate",
        "resets",
        "round",
        "scalar",
        "sgn",
        "sin",
        "sinh",
        "sort",
        "sort_desc",
        "sqrt",
        "stddev_over_time",
        "stdvar_over_time",
        "sum_over_time",
        "tan",
        "tanh",
        "time",
        "timestamp",
        "vector",
        "year",
        "no_such_function",
        "sum",
        "avg",
        "min",
        "max",
        "count",
        "group",
        "stddev",
        "stdvar",
        "topk",
        "bottomk",
        "quantile",
        "count_values",
    ];
    let arguments = [
        "",
        "1",
        "x",
        "x[5m]",
        "\"a\"",
        "1, x",
        "x, 1",
        "x[5m], 1",
        "1, x[5m]",
        "x, 1, 2",
        "1, 2, x",
        "x[5m], 0.1, 0.2",
        "\"a\", x",
        "x, \"a\", \"b\"",
        "x, \"a\", \"b\", \"c\"",
        "x, \"a\", \"b\", \"c\", \"d\"",
        "x, \"a\", \"b\", \"c\", \"d\", \"e\"",
    ];
    names.iter().flat_map(|name| arguments.iter().map(move |list| format!("{name}({list})"))).collect()
}

fn texts() -> Vec<&'static str> {
    let lists = [include_str!("data/templates_right.txt"), include_str!("data/templates_wrong.txt")];
    lists.iter().flat_map(|list| list.lines()).filter(|line| !line.is_empty()).collect()
}

/// Whole rules, of which an operator's schema and Prometheus think alike.
fn rules() -> Vec<Value> {
    vec![
        json!({"alert": "A", "record": "b", "expr": "up"}),
        json!({"expr": "up"}),
        json!({"alert": "A", "expr": 5}),
        json!({"alert": "A", "expr": ""}),
        json!({"record": "a-b", "expr": "up"}),
        json!({"record": "a:b", "expr": "up"}),
        json!({"record": "a:b", "expr": "up", "for": "1m"}),
        json!({"record": "a:b", "expr": "up", "annotations": {"a": "b"}}),
        json!({"record": "a:b", "expr": "up", "labels": {"a": "{{ x"}}),
        json!({"alert": "A", "expr": "up", "labels": {"1a": "x"}}),
        json!({"alert": "A", "expr": "up", "labels": {"a-b": "x"}}),
        json!({"alert": "A", "expr": "up", "labels": {"__name__": "x"}}),
        json!({"record": "a:b", "expr": "up", "labels": {"__name__": "x"}}),
        json!({"alert": "A", "expr": "up", "labels": {"_a1": "{{ $value }}"}}),
        json!({"alert": "A", "expr": "up", "labels": {"a": "{{ $value "}}),
        json!({"alert": "A", "expr": "up", "annotations": {"a-b": "x"}}),
        json!({"alert": "A", "expr": "up", "annotations": {"__name__": "x"}}),
        json!({"alert": "A", "expr": "up", "for": "1h30m"}),
        json!({"alert": "A", "expr": "up", "for": "1.5h"}),
        json!({"alert": "A", "expr": "up", "for": "-1m"}),
    ]
}

/// Of each rule whether no error is found.
fn ours(rules: &[Value]) -> Vec<bool> {
    let is_right = |rule: &Value| {
        let document = json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "p"},
            "spec": {"groups": [{"name": "g", "rules": [rule]}]},
        });
        let text = document.to_string();
        let (config, errors) = istio::read_partial(&[(Arc::from("test.json"), text.as_str())]);
        // A series that is aggregated away has no result; it is read all the same.
        analyze(&config, &errors).iter().all(|f| f.severity != Severity::Error || f.code == "CEL0603")
    };
    rules.iter().map(is_right).collect()
}

/// Of each rule whether `promtool` takes it: a line of its own says so after the name of the file.
fn promtools(promtool: &std::path::Path, rules: &[Value]) -> Vec<bool> {
    let folder = TempDir::new();
    let mut command = Command::new(promtool);
    command.args(["check", "rules", "--lint=none"]);
    let mut files = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let text = json!({"groups": [{"name": "g", "rules": [rule]}]}).to_string();
        files.push(folder.write(&format!("{index}.json"), &text).display().to_string());
    }
    let output = command.args(&files).output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut right = vec![None; rules.len()];
    for part in said.split("Checking ").skip(1) {
        let (file, verdict) = part.split_once('\n').unwrap_or((part, ""));
        let index = files.iter().position(|known| known == file.trim()).expect("a file of ours");
        right[index] = Some(verdict.contains("SUCCESS"));
    }
    right.into_iter().map(|verdict| verdict.expect("promtool speaks of every file")).collect()
}

#[test]
fn rules_are_right_to_us_where_they_are_to_prometheus() {
    let Some(promtool) = peer("promtool") else { return };
    let mut rules = rules();
    let exprs = expressions().into_iter().map(str::to_owned).chain(calls());
    rules.extend(exprs.map(|expr| json!({"alert": "A", "expr": expr})));
    rules.extend(texts().into_iter().map(|text| json!({"alert": "A", "expr": "up", "annotations": {"a": text}})));
    let (ours, theirs) = (ours(&rules), promtools(&promtool, &rules));
    let mut differ = Vec::new();
    for ((rule, ours), theirs) in rules.iter().zip(ours).zip(theirs) {
        if ours != theirs {
            differ.push(format!("{rule}: to us {ours}, to promtool {theirs}"));
        }
    }
    assert!(differ.is_empty(), "{} of {}:\n{}", differ.len(), rules.len(), differ.join("\n"));
}

/// The lists say which is which, so that something is tested where there is no `promtool`.
#[test]
fn the_lists_are_told_apart() {
    let lists = [
        (include_str!("data/promql_right.txt"), "expr", true),
        (include_str!("data/promql_wrong.txt"), "expr", false),
        (include_str!("data/templates_right.txt"), "text", true),
        (include_str!("data/templates_wrong.txt"), "text", false),
    ];
    for (list, what, right) in lists {
        let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty()).collect();
        assert!(lines.len() >= 30, "{what}: {}", lines.len());
        let rules: Vec<Value> = lines
            .iter()
            .map(|line| match what {
                "expr" => json!({"alert": "A", "expr": line}),
                _ => json!({"alert": "A", "expr": "up", "annotations": {"a": line}}),
            })
            .collect();
        for (line, found) in lines.iter().zip(ours(&rules)) {
            assert_eq!(found, right, "{line}");
        }
    }
}
