//! Writes a JSON value as YAML, for the mends that show a whole document.

use std::fmt::Write;

use serde_json::Value;

/// YAML in block style, each line indented by `indent` spaces. Depth is that of the typed kinds, so recursion is bounded.
pub(super) fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(out, "{pad}{}:", scalar(key));
                below(value, indent, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut text = String::new();
                write(item, indent + 2, &mut text);
                match text.get(indent + 2..).filter(|_| is_filled(item)) {
                    Some(text) => {
                        let _ = write!(out, "{pad}- {text}");
                    }
                    None => {
                        let _ = writeln!(out, "{pad}- {}", inline(item));
                    }
                }
            }
        }
        _ => {
            let _ = writeln!(out, "{pad}{}", inline(value));
        }
    }
}

fn below(value: &Value, indent: usize, out: &mut String) {
    if is_filled(value) {
        out.push('\n');
        write(value, indent + if value.is_array() { 0 } else { 2 }, out);
    } else {
        let _ = writeln!(out, " {}", inline(value));
    }
}

fn is_filled(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty()) || value.as_array().is_some_and(|items| !items.is_empty())
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Plain where that is certainly read back as the same text, quoted otherwise.
fn scalar(text: &str) -> String {
    let plain = !text.is_empty()
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    let is_duration = crate::istio::scalar::duration(text).is_ok() && text != "0";
    if plain || is_duration { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values() {
        let value = serde_json::json!({"a": {"b": [{"c": 1, "d": {}}, "30s"], "e": "1", "f": "x y"}, "g": true});
        let mut text = String::new();
        write(&value, 0, &mut text);
        assert_eq!(text, "a:\n  b:\n  - c: 1\n    d: {}\n  - 30s\n  e: \"1\"\n  f: \"x y\"\ng: true\n");
    }
}
