//! Resources kept for `/config_dump`: encoded, since they are looked at rarely and would otherwise take more memory than the
//! snapshot that was made of them.

use celerity_model::translate::{self, Resources};
use prost::Message;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct Packed {
    listeners: Box<[u8]>,
    routes: Box<[u8]>,
    clusters: Box<[u8]>,
    endpoints: Box<[u8]>,
    patches: Box<[String]>,
}

impl Packed {
    pub(crate) fn of(resources: &Resources) -> Self {
        Self {
            listeners: pack(&resources.listeners),
            routes: pack(&resources.routes),
            clusters: pack(&resources.clusters),
            endpoints: pack(&resources.endpoints),
            patches: resources.patches.iter().map(super::patch_line).collect(),
        }
    }

    /// What runs, as a bootstrap that an Envoy would run too, and what became of each EnvoyFilter's patches.
    pub(crate) fn to_json(&self) -> Value {
        let resources = Resources {
            listeners: unpack(&self.listeners),
            routes: unpack(&self.routes),
            clusters: unpack(&self.clusters),
            endpoints: unpack(&self.endpoints),
            ..Resources::default()
        };
        let mut shown = translate::to_json(&resources);
        shown["patches"] = json!(self.patches);
        shown
    }
}

/// Each message behind its length.
fn pack<M: Message>(messages: &[M]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(messages.iter().map(|message| message.encoded_len() + 5).sum());
    for message in messages {
        // A Vec grows as needed, so this cannot fail.
        let _ = message.encode_length_delimited(&mut bytes);
    }
    bytes.into_boxed_slice()
}

fn unpack<M: Message + Default>(mut bytes: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let Ok(message) = M::decode_length_delimited(&mut bytes) else { break };
        messages.push(message);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Loader;
    use crate::sample::lab::{self, Ports};

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let ports = Ports::from_base(lab::PORT_BASE);
        let config = Loader::default().with(ports.documents()).with(lab::tutorial()).load().expect("readable");
        let resources = crate::config::resources(&config, &translate::Node::default()).expect("translatable");
        assert!(!resources.patches.is_empty());
        let shown = Packed::of(&resources).to_json();
        assert_eq!(shown["static_resources"], translate::to_json(&resources)["static_resources"]);
        assert_eq!(shown["patches"].as_array().map(Vec::len), Some(resources.patches.len()));
    }
}
