//! JSON values written as YAML, with comments where a reader asked for them.

use serde_json::Value;

/// Lines of comment to write above an item of a list, such as where a cluster came from.
pub(crate) type Comment<'a> = dyn Fn(&Value) -> Vec<String> + 'a;

/// The value in block style, ending with a line break.
pub(crate) fn write(value: &Value, comment: &Comment<'_>) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut out, map, 0, comment),
        Value::Array(items) if !items.is_empty() => write_list(&mut out, items, 0, comment),
        _ => {
            write_scalar(&mut out, value);
            out.push('\n');
        }
    }
    out
}

fn write_map(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, comment: &Comment<'_>) {
    for (at, (key, value)) in map.iter().enumerate() {
        // The first key stands behind the dash of its list item, which has set it in already.
        if at > 0 || out.is_empty() || out.ends_with('\n') {
            out.push_str(&" ".repeat(indent));
        }
        write_text(out, key);
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                write_map(out, map, indent + 2, comment);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                write_list(out, items, indent, comment);
            }
            _ => {
                out.push(' ');
                write_scalar(out, value);
                out.push('\n');
            }
        }
    }
}

fn write_list(out: &mut String, items: &[Value], indent: usize, comment: &Comment<'_>) {
    let margin = " ".repeat(indent);
    for item in items {
        for line in comment(item) {
            out.push_str(&format!("{margin}# {line}\n"));
        }
        out.push_str(&margin);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(out, map, indent + 2, comment),
            // A list within a list in flow style: rare, and unmistakable.
            Value::Array(_) => out.push_str(&format!("{item}\n")),
            _ => {
                write_scalar(out, item);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => write_text(out, text),
        // Empty maps and lists, numbers, booleans and null are the same in both languages.
        other => out.push_str(&other.to_string()),
    }
}

/// Plain where nothing can misread it, else quoted as JSON does, which is YAML too.
fn write_text(out: &mut String, text: &str) {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./|".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain {
        out.push_str(text);
    } else {
        // JSON leaves these as they are; YAML does not take them (1.2, 5.1).
        for c in Value::from(text).to_string().chars() {
            match c {
                '\u{7f}'..='\u{9f}' | '\u{feff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let value = json!({
            "listeners": [{"name": "outbound", "address": {"port": 15001, "ip": "127.0.0.1"}, "filters": [{"a": [1, 2]}, {}, []]}],
            "odd": {"yes": "no", "@type": "type.googleapis.com/x", "1": "1", "empty": "", "nl": "a\nb", "colon": "a: b #c", "é": "\u{7}", "del\u{7f}": "\u{80}\u{85}\u{9f}\u{feff}"},
            "none": null, "list": [], "map": {}, "nested": [[1, {"a": "b"}]], "float": 0.5, "neg": -3, "big": 18446744073709551615u64,
        });
        let text = write(&value, &|_| vec!["a comment: with - marks".to_owned()]);
        let back: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(back, value, "{text}");
    }

    #[test]
    fn comments_stand_above_their_item() {
        let value = json!({"clusters": [{"name": "a"}, {"name": "b"}]});
        let text = write(&value, &|item| vec![format!("{}'s", item["name"])]);
        assert_eq!(text, "clusters:\n# \"a\"'s\n- name: a\n# \"b\"'s\n- name: b\n");
    }
}
