//! Envoy's message types by name, for JSON in and out.

use std::sync::LazyLock;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

/// Opening takes some 20 ms and a few MB, so it waits for the first patch or the first output: a proxy without patches never
/// pays.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/envoy_descriptors.bin")).as_slice())
        .expect("the descriptors are built in, and a test opens them")
});

/// The descriptor of the message type `name`, such as `envoy.config.cluster.v3.Cluster`.
pub(crate) fn descriptor(name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(name)
}

/// Every message type known whose last part is `last`, to suggest a type for a misspelt one.
pub(crate) fn types_named(last: &str) -> Vec<String> {
    let suffix = format!(".{last}");
    POOL.all_messages().map(|message| message.full_name().to_owned()).filter(|name| name.ends_with(&suffix)).collect()
}

/// A typed message as a dynamic one. `None` when its type is not among the kept descriptors, or does not decode.
pub(crate) fn dynamic<M: Message + Name>(message: &M) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor(&M::full_name())?, message.encode_to_vec().as_slice()).ok()
}

/// The message type that an [`Any`] holds: what follows the last slash of its type URL.
pub(crate) fn any_type(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Reads the content of an [`Any`] if it is an `M`.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    (any_type(&any.type_url) == M::full_name()).then(|| M::decode(any.value.as_slice()).ok()).flatten()
}

/// Protobuf's JSON form of a message, with Envoy's own field names (`typed_config`, not `typedConfig`) and [`Any`] resolved.
/// `Null` when the type of the message, or of an [`Any`] inside, is unknown here.
pub fn json<M: Message + Name>(message: &M) -> serde_json::Value {
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    dynamic(message)
        .and_then(|message| message.serialize_with_options(serde_json::value::Serializer, &options).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_opens_and_knows_what_translation_emits() {
        for name in [
            "envoy.config.bootstrap.v3.Bootstrap",
            "envoy.config.listener.v3.Listener",
            "envoy.extensions.filters.http.fault.v3.HTTPFault",
            "envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        ] {
            assert!(descriptor(name).is_some(), "{name}");
        }
    }
}
