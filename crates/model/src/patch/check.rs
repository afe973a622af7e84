//! The value of a patch: mended where a well-known mistake hides the author's meaning, then read into its message type.

use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::pool;
use super::spec::{PatchWarning, WarningKind};

/// Nesting of a value. Envoy's own messages nest some ten deep; the bound keeps a hostile document from the stack's end.
const DEPTH_MAX: usize = 64;

/// A mistake in a value: where, below `patch.value`, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) path: String,
    pub(crate) message: String,
}

/// Reads `value` as the message type `type_name`. All mistakes are told at once.
pub(crate) fn read(
    type_name: &str,
    value: &Value,
    warnings: &mut Vec<PatchWarning>,
) -> Result<DynamicMessage, Vec<Mistake>> {
    let Some(descriptor) = pool::descriptor(type_name) else {
        return Err(vec![Mistake {
            path: String::new(),
            message: format!("the message type {type_name} is not known here"),
        }]);
    };
    let mut value = value.clone();
    let mut mistakes = Vec::new();
    mend(&mut value, "", 0, warnings);
    walk(&value, &descriptor, "", 0, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    deserialize(&descriptor, &value).map_err(|message| vec![Mistake { path: String::new(), message }])
}

fn deserialize(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, String> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options).map_err(|error| error.to_string())
}

const CACHE_CONFIG: &str = "envoy.extensions.filters.http.cache.v3.CacheConfig";
const SIMPLE_CACHE: &str = "envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig";
/// A type that published examples name and Envoy never had.
const SIMPLE_CACHE_MISSPELT: &str = "envoy.extensions.http.cache.simple.v3.SimpleHttpCacheConfig";
const TYPED_STRUCTS: [&str; 2] = ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"];

/// Rewrites the forms whose meaning is plain although Envoy would refuse them.
fn mend(value: &mut Value, path: &str, depth: usize, warnings: &mut Vec<PatchWarning>) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                mend(item, &format!("{path}[{index}]"), depth + 1, warnings);
            }
        }
        Value::Object(object) => {
            untype_struct(object);
            let of_type = object.get("@type").and_then(Value::as_str).map(|url| pool::any_type(url).to_owned());
            match of_type.as_deref() {
                Some(SIMPLE_CACHE_MISSPELT) => {
                    object.insert("@type".to_owned(), format!("type.googleapis.com/{SIMPLE_CACHE}").into());
                    warnings.push(PatchWarning {
                        kind: WarningKind::WrongForm,
                        message: format!("patch.value{path}: Envoy has no type {SIMPLE_CACHE_MISSPELT}; read as its simple HTTP cache"),
                        mend: format!("\"@type\": type.googleapis.com/{SIMPLE_CACHE}"),
                    });
                }
                Some(CACHE_CONFIG) if !object.contains_key("typed_config") && !object.contains_key("typedConfig") => {
                    mend_cache_config(object, path, warnings);
                }
                _ => {}
            }
            for (key, item) in object.iter_mut() {
                mend(item, &format!("{path}.{key}"), depth + 1, warnings);
            }
        }
        _ => {}
    }
}

/// `cache_config: {name, typed_config}` is a guess at `typed_config`, where Envoy's CacheConfig names its storage.
fn mend_cache_config(object: &mut Map<String, Value>, path: &str, warnings: &mut Vec<PatchWarning>) {
    let Some(key) = ["cache_config", "cacheConfig"].into_iter().find(|key| object.contains_key(*key)) else { return };
    let storage = match object.get(key) {
        Some(Value::Object(guess)) => guess
            .get("typed_config")
            .or_else(|| guess.get("typedConfig"))
            .or_else(|| guess.contains_key("@type").then_some(&object[key]))
            .cloned(),
        _ => None,
    };
    let Some(storage) = storage else { return };
    object.remove(key);
    object.insert("typed_config".to_owned(), storage);
    warnings.push(PatchWarning {
        kind: WarningKind::WrongForm,
        message: format!("patch.value{path}.{key}: CacheConfig has no such field; its content is read as typed_config"),
        mend: format!("typed_config: {{\"@type\": type.googleapis.com/{SIMPLE_CACHE}}}"),
    });
}

/// A TypedStruct is a message in disguise: `{type_url, value}`. Unmasked, its fields are checked like any other's.
fn untype_struct(object: &mut Map<String, Value>) {
    let masked =
        object.get("@type").and_then(Value::as_str).is_some_and(|url| TYPED_STRUCTS.contains(&pool::any_type(url)));
    if !masked {
        return;
    }
    let url = object.get("type_url").or_else(|| object.get("typeUrl")).cloned();
    if let Some(Value::String(url)) = url
        && pool::descriptor(pool::any_type(&url)).is_some()
    {
        let inner = object.remove("value");
        object.clear();
        object.insert("@type".to_owned(), url.into());
        if let Some(Value::Object(inner)) = inner {
            object.extend(inner);
        }
    }
}

fn walk(value: &Value, descriptor: &MessageDescriptor, path: &str, depth: usize, mistakes: &mut Vec<Mistake>) {
    let mistake = |message: String| Mistake { path: path.to_owned(), message };
    if depth > DEPTH_MAX {
        mistakes.push(mistake(format!("nested deeper than {DEPTH_MAX}")));
        return;
    }
    if descriptor.full_name() == "google.protobuf.Any" {
        walk_any(value, path, depth, mistakes);
        return;
    }
    if descriptor.full_name().starts_with("google.protobuf.") {
        if let Err(message) = deserialize(descriptor, value) {
            mistakes.push(mistake(format!("not a {}: {message}", descriptor.name())));
        }
        return;
    }
    let Value::Object(object) = value else {
        mistakes.push(mistake(format!("must be a mapping with the fields of {}", descriptor.full_name())));
        return;
    };
    walk_fields(object, descriptor, path, depth, mistakes);
}

fn walk_fields(
    object: &Map<String, Value>,
    descriptor: &MessageDescriptor,
    path: &str,
    depth: usize,
    mistakes: &mut Vec<Mistake>,
) {
    for (key, value) in object {
        let path = format!("{path}.{key}");
        if key == "@type" {
            continue;
        }
        let Some(field) = descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key)) else {
            let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
            let hint = nearest(key, names.iter().map(String::as_str))
                .map(|name| format!("; the nearest is {name}"))
                .unwrap_or_default();
            mistakes.push(Mistake { path, message: format!("{} has no field {key}{hint}", descriptor.full_name()) });
            continue;
        };
        walk_field(value, &field, key, &path, depth, mistakes, descriptor);
    }
}

fn walk_field(
    value: &Value,
    field: &FieldDescriptor,
    key: &str,
    path: &str,
    depth: usize,
    mistakes: &mut Vec<Mistake>,
    parent: &MessageDescriptor,
) {
    match (field.kind(), value) {
        (_, Value::Null) => {}
        (Kind::Message(entry), Value::Object(entries)) if field.is_map() => {
            if let Kind::Message(inner) = entry.map_entry_value_field().kind() {
                for (name, value) in entries {
                    walk(value, &inner, &format!("{path}.{name}"), depth + 1, mistakes);
                }
            }
        }
        (Kind::Message(inner), Value::Array(items)) if field.is_list() => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &inner, &format!("{path}[{index}]"), depth + 1, mistakes);
            }
        }
        (Kind::Message(inner), _) if !field.is_list() && !field.is_map() => {
            walk(value, &inner, path, depth + 1, mistakes)
        }
        // Reading the field alone gives the reader's own reason at this field's path.
        _ => {
            let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
            if let Err(message) = deserialize(parent, &alone) {
                mistakes.push(Mistake { path: path.to_owned(), message });
            }
        }
    }
}

fn walk_any(value: &Value, path: &str, depth: usize, mistakes: &mut Vec<Mistake>) {
    let url = value.get("@type").and_then(Value::as_str);
    let (Value::Object(object), Some(url)) = (value, url) else {
        let message = "needs \"@type\": type.googleapis.com/<message type>".to_owned();
        mistakes.push(Mistake { path: path.to_owned(), message });
        return;
    };
    let name = pool::any_type(url);
    match pool::descriptor(name) {
        Some(inner) if inner.full_name().starts_with("google.protobuf.") => {}
        Some(inner) => walk_fields(object, &inner, path, depth + 1, mistakes),
        None => {
            let alike = pool::types_named(name.rsplit('.').next().unwrap_or(name));
            let hint =
                nearest_by_prefix(name, &alike).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            mistakes.push(Mistake {
                path: format!("{path}.@type"),
                message: format!("the message type {name} is not known here{hint}"),
            });
        }
    }
}

fn nearest_by_prefix<'a>(name: &str, alike: &'a [String]) -> Option<&'a str> {
    alike.iter().map(String::as_str).min_by_key(|candidate| distance(name, candidate))
}

/// The candidate nearest to `word`, if near enough to be meant.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let snake: String = word
        .chars()
        .flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
        .collect();
    candidates
        .map(|candidate| (distance(&snake, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(snake.len()) / 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substituted = diagonal + usize::from(x != y);
            diagonal = *cell;
            *cell = substituted.min(left + 1).min(diagonal + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HTTP_FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";

    #[test]
    fn the_cache_guess_becomes_the_right_form() {
        let mut warnings = Vec::new();
        let value = json!({
            "name": "envoy.filters.http.cache",
            "typed_config": {
                "@type": format!("type.googleapis.com/{CACHE_CONFIG}"),
                "cache_config": {
                    "name": "envoy.extensions.http.cache.simple",
                    "typed_config": {"@type": format!("type.googleapis.com/{SIMPLE_CACHE_MISSPELT}")},
                },
            },
        });
        read(HTTP_FILTER, &value, &mut warnings).expect("accepted");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path_and_the_nearest_one() {
        let value = json!({
            "name": "b",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_byte": 5,
            },
        });
        let mistakes = read(HTTP_FILTER, &value, &mut Vec::new()).expect_err("refused");
        assert_eq!(mistakes.len(), 1);
        assert_eq!(mistakes[0].path, ".typed_config.max_request_byte");
        assert!(mistakes[0].message.ends_with("the nearest is max_request_bytes"), "{}", mistakes[0].message);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_path() {
        let value = json!({"name": "c", "connect_timeout": "soon", "type": "STATICK"});
        let mistakes = read("envoy.config.cluster.v3.Cluster", &value, &mut Vec::new()).expect_err("refused");
        let paths: Vec<&str> = mistakes.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, [".connect_timeout", ".type"]);
    }

    #[test]
    fn a_typed_struct_is_checked_as_what_it_stands_for() {
        let value = json!({
            "name": "b",
            "typed_config": {
                "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                "type_url": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "value": {"max_request_bytes": 5},
            },
        });
        assert!(read(HTTP_FILTER, &value, &mut Vec::new()).is_ok());
    }

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("typedConfig", ["typed_config", "name"].into_iter()), Some("typed_config"));
    }
}
