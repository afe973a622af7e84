//! Resources kept for `/config_dump`: encoded and compressed, since they are looked at rarely and would otherwise take more
//! memory than the snapshot that was made of them.

use std::collections::HashSet;
use std::io::{BufWriter, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use celerity_model::patch::PatchReport;
use celerity_model::snapshot::ServiceName;
use celerity_model::translate::{self, Resources};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use prost::Message;
use serde_json::{Value, json};

/// What a proxy runs, as it is shown. Packing costs as much as translating, so it waits until there is time for it.
#[derive(Debug)]
pub(crate) struct Kept(Mutex<State>);

#[derive(Debug)]
enum State {
    Whole(Box<Resources>),
    Packed(Packed),
    /// What ran before, with the services of some hosts replaced.
    Changed {
        before: Arc<Kept>,
        depth: u32,
        hosts: HashSet<u64>,
        resources: Box<Resources>,
    },
}

/// Changes that are kept one upon another. Packing all again for each would make a change cost what a start costs; with this
/// many a thirty-second of it.
const CHANGES_MAX: u32 = 32;

/// Whether a cluster is made anew when the services of `hosts` are: the inbound ones always are.
pub(crate) fn is_replaced(service: &ServiceName, hosts: &HashSet<u64>) -> bool {
    service.inbound || hosts.contains(&translate::host_key(&service.host))
}

impl Kept {
    pub(crate) fn new(resources: Resources) -> Self {
        Self(Mutex::new(State::Whole(Box::new(resources))))
    }

    /// What runs after the services of `hosts` changed to `resources`.
    pub(crate) fn changed(before: &Arc<Self>, hosts: HashSet<u64>, resources: Resources) -> Self {
        let depth = match &*before.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Changed { depth, .. } => depth + 1,
            State::Whole(_) | State::Packed(_) => 1,
        };
        let (before, resources) = (Arc::clone(before), Box::new(resources));
        Self(Mutex::new(State::Changed { before, depth, hosts, resources }))
    }

    /// Packs what is whole, and changes that have become many.
    pub(crate) fn pack(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = match &mut *state {
            State::Whole(resources) => std::mem::take(resources),
            State::Changed { depth, .. } if *depth >= CHANGES_MAX => Box::new(state.resources()),
            State::Packed(_) | State::Changed { .. } => return,
        };
        *state = State::Packed(Packed::of(*whole));
    }

    /// What runs, as a bootstrap that an Envoy would run too, and what became of each EnvoyFilter's patches.
    pub(crate) fn to_json(&self) -> Value {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shown = translate::to_json(&state.resources());
        shown["patches"] = json!(match &*state {
            State::Whole(resources) | State::Changed { resources, .. } => lines(&resources.patches),
            State::Packed(packed) => packed.patches.clone(),
        });
        shown
    }

    /// A copy of the resources; packed ones have no reports of patches.
    fn resources(&self) -> Resources {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).resources()
    }
}

impl State {
    /// Recursion is bounded by `CHANGES_MAX`.
    fn resources(&self) -> Resources {
        match self {
            Self::Whole(resources) => Resources::clone(resources),
            Self::Packed(packed) => packed.resources(),
            Self::Changed { before, hosts, resources, .. } => {
                let mut all = before.resources();
                replace(&mut all, hosts, resources);
                all
            }
        }
    }
}

fn replace(all: &mut Resources, hosts: &HashSet<u64>, new: &Resources) {
    let goes = |name: &str| is_replaced(&ServiceName::parse(name), hosts);
    all.clusters.retain(|cluster| !goes(&cluster.name));
    all.clusters.extend_from_slice(&new.clusters);
    all.endpoints.retain(|endpoints| !goes(&endpoints.cluster_name));
    all.endpoints.extend_from_slice(&new.endpoints);
    all.listeners.clone_from(&new.listeners);
    all.patches.clone_from(&new.patches);
    for routes in &mut all.routes {
        let Some(changed) = new.routes.iter().find(|changed| changed.name == routes.name) else { continue };
        let host = |name: &str| translate::host_key(translate::host_of_virtual_host(name));
        routes.virtual_hosts.retain(|made| !hosts.contains(&host(&made.name)));
        routes.virtual_hosts.splice(0..0, changed.virtual_hosts.iter().cloned());
    }
}

fn lines(reports: &[PatchReport]) -> Box<[String]> {
    reports.iter().map(super::patch_line).collect()
}

#[derive(Debug)]
struct Packed {
    /// Listeners, routes, clusters, endpoints: of each how many, then each behind its length. The resources of many services
    /// differ in names only: a thousand of them shrink to a twentieth.
    bytes: Box<[u8]>,
    patches: Box<[String]>,
}

impl Packed {
    /// Takes the resources apart while it packs them, so that both together never need more than one of them.
    fn of(resources: Resources) -> Self {
        let Resources { listeners, routes, clusters, endpoints, patches, notes: _, contended_domains: _ } = resources;
        let deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
        let mut packer = Packer { out: BufWriter::with_capacity(BUFFER_BYTES, deflate), scratch: Vec::new() };
        packer.list(listeners);
        packer.list(routes);
        packer.list(clusters);
        packer.list(endpoints);
        // Writing to a Vec cannot fail.
        let deflate = packer.out.into_inner().map_err(|error| error.into_error());
        let bytes = deflate.and_then(DeflateEncoder::finish).unwrap_or_default();
        Self { bytes: bytes.into_boxed_slice(), patches: lines(&patches) }
    }

    fn resources(&self) -> Resources {
        let mut bytes = Vec::new();
        // The bytes are our own; if they were spoilt all the same, what could be read is shown.
        let _ = DeflateDecoder::new(&*self.bytes).read_to_end(&mut bytes);
        let mut rest = bytes.as_slice();
        Resources {
            listeners: unpack(&mut rest),
            routes: unpack(&mut rest),
            clusters: unpack(&mut rest),
            endpoints: unpack(&mut rest),
            ..Resources::default()
        }
    }
}

/// What is compressed at once: the compressor clears its output's space for each piece that it is given, so that small pieces
/// cost more than compressing them.
const BUFFER_BYTES: usize = 64 * 1024;

struct Packer {
    out: BufWriter<DeflateEncoder<Vec<u8>>>,
    scratch: Vec<u8>,
}

impl Packer {
    fn list<M: Message>(&mut self, messages: Vec<M>) {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        self.write(&count.to_le_bytes());
        for message in messages {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            // A Vec grows as needed, so neither this nor writing can fail.
            let _ = message.encode_length_delimited(&mut scratch);
            self.write(&scratch);
            self.scratch = scratch;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let _ = self.out.write_all(bytes);
    }
}

fn unpack<M: Message + Default>(rest: &mut &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    let Some((count, after)) = rest.split_first_chunk() else { return messages };
    *rest = after;
    for _ in 0..u32::from_le_bytes(*count) {
        let Ok(message) = M::decode_length_delimited(&mut *rest) else { break };
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
        let kept = Kept::new(resources.clone());
        let whole = kept.to_json();
        kept.pack();
        let shown = kept.to_json();
        assert_eq!(shown, whole);
        assert_eq!(shown["static_resources"], translate::to_json(&resources)["static_resources"]);
        assert_eq!(shown["patches"].as_array().map(Vec::len), Some(resources.patches.len()));
        assert_eq!(kept.resources().clusters, resources.clusters);
    }
}
