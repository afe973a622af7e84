//! Merging one message into another, with the meaning of Istio's MERGE (pilot `runtime.Merge`, after `proto.Merge`).

use prost::Message;
use prost_reflect::{Cardinality, DynamicMessage, Kind, ReflectMessage, Value};

use super::pool;

/// Types that stand for one value. Merging them field by field would make 30 s and 500 ms into 30.5 s, or let a `false` lose
/// against a `true`; Istio replaces Durations for that reason, and here the wrappers are treated alike.
const WHOLE: &[&str] = &[
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "google.protobuf.BoolValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.FloatValue",
    "google.protobuf.DoubleValue",
    "google.protobuf.StringValue",
    "google.protobuf.BytesValue",
];

/// What a list in a patch does to the list that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    Append,
    Replace,
}

/// Merges `from` into `into`: scalars overwrite, lists grow, maps unite, messages merge, and an `Any` of the same type merges
/// inside. Of a `oneof`, the member in `from` stands. A scalar without presence that is zero in `from` counts as absent.
pub(crate) fn merge(into: &mut DynamicMessage, from: &DynamicMessage, lists: Lists) {
    for (field, value) in from.fields() {
        match value {
            Value::List(added) if field.cardinality() == Cardinality::Repeated => {
                if let Value::List(list) = into.get_field_mut(&field) {
                    if lists == Lists::Replace {
                        list.clear();
                    }
                    list.extend(added.iter().cloned());
                }
            }
            Value::Map(added) => {
                if let Value::Map(map) = into.get_field_mut(&field) {
                    map.extend(added.iter().map(|(key, value)| (key.clone(), value.clone())));
                }
            }
            Value::Message(added) if into.has_field(&field) && !is_whole(&field.kind()) => {
                if let Value::Message(old) = into.get_field_mut(&field) {
                    if old.descriptor().full_name() == "google.protobuf.Any" {
                        merge_any(old, added, lists);
                    } else {
                        merge(old, added, lists);
                    }
                }
            }
            _ => into.set_field(&field, value.clone()),
        }
    }
}

fn is_whole(kind: &Kind) -> bool {
    matches!(kind, Kind::Message(message) if WHOLE.contains(&message.full_name()))
}

/// Of another type, or of one unknown here, the new content replaces the old.
fn merge_any(into: &mut DynamicMessage, from: &DynamicMessage, lists: Lists) {
    match (any_content(into), any_content(from)) {
        (Some(mut old), Some(new)) if old.descriptor() == new.descriptor() => {
            merge(&mut old, &new, lists);
            into.set_field_by_name("value", Value::Bytes(old.encode_to_vec().into()));
        }
        _ => *into = from.clone(),
    }
}

fn any_content(any: &DynamicMessage) -> Option<DynamicMessage> {
    let type_url = any.get_field_by_name("type_url")?;
    let value = any.get_field_by_name("value")?;
    DynamicMessage::decode(pool::descriptor(pool::any_type(type_url.as_str()?))?, value.as_bytes()?.clone()).ok()
}
