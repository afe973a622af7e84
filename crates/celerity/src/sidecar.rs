//! One running proxy and the configuration that it has.
//!
//! The one place that turns documents into what a worker looks up; `up` and `proxy` both come through it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use celerity_model::analyze::not_taken;
use celerity_model::istio::{Config, ProxySettings};
use celerity_model::snapshot::{BuildError, BuildReport, Replaced, Snapshot};
use celerity_model::translate::{self, INBOUND, Index, Node, OUTBOUND, Resources};
use celerity_proxy::blocking;
use celerity_proxy::proxy::Describe;
use celerity_proxy::sizing::{Machine, Reason, Workers};
use celerity_proxy::tls::Source;
use celerity_proxy::{Handle, NotTakenUp, Proxy, Settings, StartError, Tuning};
use celerity_telemetry::access_log::{Choice, Target};
use celerity_telemetry::metrics::Peer;

use crate::config::packed::{Kept, is_replaced};
use crate::config::{self, Refused};
use crate::log::Log;
use crate::{memory, node};

/// Where a sidecar listens; `None` where it does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) prometheus: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
}

/// Everything about a sidecar that its configuration does not say.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its `addresses`, where there are none, are looked for among the configuration's endpoints.
    pub(crate) node: Node,
    pub(crate) listen: Listen,
    /// The folder of its certificate; without it there is no mutual TLS.
    pub(crate) identity: Option<PathBuf>,
    /// Without a number: what the configuration says, else one for each CPU that may be used.
    pub(crate) workers: Option<u32>,
    pub(crate) access_log: Option<Target>,
    pub(crate) ledger: bool,
    pub(crate) log: Log,
}

pub(crate) struct Sidecar {
    plan: Plan,
    handle: Handle,
    state: Mutex<State>,
    /// How many threads carry the traffic, and why so many.
    pub(crate) workers: Workers,
}

/// What is kept of the configuration that runs.
struct State {
    /// For /config_dump.
    shown: Arc<Kept>,
    /// Its services can change one by one.
    divisible: bool,
    /// Patches that are for this proxy and match nothing, and why.
    unmatched: Vec<String>,
}

/// A configuration made ready, and not yet taken up.
pub(crate) struct Prepared {
    snapshot: Arc<Snapshot>,
    tuning: Tuning,
    shown: Arc<Kept>,
    divisible: bool,
    unmatched: Vec<String>,
}

impl Prepared {
    /// What of it had to be built.
    pub(crate) fn report(&self) -> BuildReport {
        self.snapshot.report
    }
}

fn describe(shown: &Arc<Kept>) -> Describe {
    let shown = Arc::clone(shown);
    Arc::new(move || shown.to_json())
}

impl Sidecar {
    /// Starts one with this configuration.
    pub(crate) fn start(config: &Config, mut plan: Plan) -> anyhow::Result<Self> {
        if let Some(folder) = &plan.identity {
            node::identify(&mut plan.node, folder)?;
        }
        let prepared = prepare(config, &plan, None)?;
        let workers = workers(config, &plan);
        let started = Proxy::start(Settings {
            snapshot: prepared.snapshot,
            workers: workers.count,
            identity: plan.identity.as_deref().map(Source::directory),
            workload: peer(&plan),
            admin: plan.listen.admin,
            prometheus: plan.listen.prometheus,
            health: plan.listen.health,
            access_log: plan.access_log.clone().map(|target| (target, Choice::ALL)),
            ledger: plan.ledger,
            log: plan.log,
            describe: describe(&prepared.shown),
            tuning: prepared.tuning,
            give_back: memory::give_back,
        });
        let handle = started.map_err(|error| match error {
            StartError::Certificates(refused) => anyhow::Error::new(with_documents(&refused, config, &plan)),
            other => other.into(),
        })?;
        Ok(Self {
            plan,
            handle,
            state: Mutex::new(State {
                shown: prepared.shown,
                divisible: prepared.divisible,
                unmatched: prepared.unmatched,
            }),
            workers,
        })
    }

    /// What of this configuration acts only after a restart, as a sentence.
    pub(crate) fn restart_note(&self, config: &Config) -> Option<String> {
        let wanted = workers(config, &self.plan);
        (wanted.count != self.workers.count).then(|| {
            let reason = wanted.reason.as_str();
            let run = if self.workers.count == 1 { "runs" } else { "run" };
            format!("{} {run} and {reason} now says {}: only a restart acts on it", self.workers, wanted.count)
        })
    }

    /// Which services cannot be reached because this sidecar has no certificate, as a sentence.
    pub(crate) fn identity_note(&self) -> Option<String> {
        let running = self.handle.control().configured();
        let names: Vec<&str> =
            running.clusters().filter(|cluster| cluster.lacks_identity).map(|cluster| &*cluster.name).collect();
        let first = names.first()?;
        let others = match names.len() {
            1 => String::new(),
            more => format!(" and {} more", more - 1),
        };
        Some(format!(
            "requests to {first}{others} get 503: a rule wants ISTIO_MUTUAL, and this sidecar has no certificate. Give it one with \
             --identity, or the rule another mode"
        ))
    }

    /// The patches that are for this sidecar and match nothing, a sentence each.
    pub(crate) fn unmatched(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).unmatched.clone()
    }

    /// Makes a configuration ready without touching the running one. What did not change is shared with it.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Prepared, Refused> {
        prepare(config, &self.plan, Some(&self.handle.control().configured()))
    }

    /// Makes a change of some services ready: `config` holds the documents that they need, and those that concern all. Gives
    /// the hosts that this workload serves as well. `None`: only the whole configuration can tell.
    pub(crate) fn prepare_change(
        &self,
        config: &Config,
        hosts: &HashSet<u64>,
    ) -> Result<Option<(Prepared, HashSet<u64>)>, Refused> {
        let before = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.divisible {
                return Ok(None);
            }
            Arc::clone(&state.shown)
        };
        let node = addressed(&self.plan, config);
        let patches = translate::patch_set(config, &node).map_err(Refused::of)?;
        if !patches.is_about_listeners() {
            return Ok(None);
        }
        let index = Index::new(config, &node);
        let served = translate::served_hosts(&index).map(translate::host_key).collect();
        let mut resources = translate::translate_some(&index, hosts);
        resources.patches = patches.apply(&mut resources);
        retain_listeners(&mut resources, &self.plan);
        let replaced = |item: Replaced<'_>| match item {
            Replaced::Cluster(cluster) => is_replaced(&cluster.service, hosts),
            Replaced::VirtualHost(name) => hosts.contains(&translate::host_key(translate::host_of_virtual_host(name))),
        };
        let unmatched = config::unmatched(&resources.patches);
        // What is wrong is said by building everything: it knows of more than this change.
        let Ok(snapshot) = self.handle.control().configured().update(&resources, replaced) else { return Ok(None) };
        let shown = Arc::new(Kept::changed(&before, hosts.clone(), resources));
        let tuning = tuning(config, &self.plan);
        let snapshot = Arc::new(snapshot);
        Ok(Some((Prepared { snapshot, tuning, shown, divisible: true, unmatched }, served)))
    }

    #[cfg(test)]
    pub(crate) fn configured(&self) -> Arc<Snapshot> {
        self.handle.control().configured()
    }

    #[cfg(test)]
    pub(crate) fn shown(&self) -> serde_json::Value {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).shown.to_json()
    }

    /// The node as this configuration names it.
    pub(crate) fn node(&self, config: &Config) -> Node {
        addressed(&self.plan, config)
    }

    /// Takes it up, or says why a certificate that it names cannot be used; the running one then stays.
    /// `config` is what it was made of.
    pub(crate) fn apply(&self, prepared: Prepared, config: &Config) -> Result<(), Refused> {
        let Prepared { snapshot, tuning, shown, divisible, unmatched } = prepared;
        let applied = self.handle.apply_described(snapshot, tuning, describe(&shown));
        applied.map_err(|refused| with_documents(&refused, config, &self.plan))?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { shown, divisible, unmatched };
        Ok(())
    }

    /// After a start or a change: does what could wait until requests are answered, and gives memory back.
    pub(crate) fn settle(&self) {
        let shown = Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner).shown);
        shown.pack();
        memory::give_back();
    }

    /// Says on the log, at the admin port and in the metrics that a configuration was not taken up.
    pub(crate) fn reject(&self, reason: &str) {
        self.handle.config_rejected(reason);
    }

    /// The same without the log, for one of several sidecars of a process that refuse the same.
    pub(crate) fn reject_silently(&self, reason: &str) {
        self.handle.config_rejected_silently(reason);
    }

    /// Where it listens, by purpose.
    pub(crate) fn addresses(&self) -> &[(String, SocketAddr)] {
        self.handle.addresses()
    }

    /// Somebody asked for a drain at the admin port.
    pub(crate) fn is_draining(&self) -> bool {
        self.handle.is_draining()
    }

    /// The access log's file was moved away.
    pub(crate) fn reopen_access_log(&self) {
        self.handle.reopen_access_log();
    }

    /// Leaves: goes on accepting for some seconds, answers what is under way and ends; true if everything was answered within
    /// `limit`.
    pub(crate) fn drain(self, limit: Duration) -> bool {
        self.handle.drain(limit)
    }

    /// As `drain`, where nobody sends any more.
    pub(crate) fn stop(self, limit: Duration) -> bool {
        self.handle.stop(limit)
    }
}

/// Names the documents behind clusters and listeners whose certificates cannot be used.
fn with_documents(refused: &NotTakenUp, config: &Config, plan: &Plan) -> Refused {
    let node = addressed(plan, config);
    let known = translate::explain(&Index::new(config, &node));
    Refused::of(refused.0.iter().map(|unusable| {
        let of_it = known.iter().find(|one| one.resource == unusable.resource && one.name == *unusable.name);
        // TLS is a rule's to set; without one the service itself stands for it.
        let inputs = of_it.map(|one| one.inputs.as_slice()).unwrap_or_default();
        match inputs.iter().find(|input| input.kind == "DestinationRule").or(inputs.first()) {
            Some(input) => {
                format!("{}:{}: {} {}: {unusable}", input.source.file, input.source.line, input.kind, input.id)
            }
            None => unusable.to_string(),
        }
    }))
}

fn prepare(config: &Config, plan: &Plan, previous: Option<&Snapshot>) -> Result<Prepared, Refused> {
    let node = addressed(plan, config);
    let mut resources = config::resources(config, &node)?;
    retain_listeners(&mut resources, plan);
    let divisible = !resources.contended_domains;
    let unmatched = config::unmatched(&resources.patches);
    let snapshot =
        Snapshot::build(&resources, previous).map(Arc::new).map_err(|errors| with_patches(&errors, config, &node))?;
    let shown = Arc::new(Kept::new(resources));
    Ok(Prepared { snapshot, tuning: tuning(config, plan), shown, divisible, unmatched })
}

/// Names the patches that made what cannot be run with.
fn with_patches(errors: &[BuildError], config: &Config, node: &Node) -> Refused {
    let patches = not_taken(config, node);
    Refused::of(errors.iter().map(|error| match patches.iter().find(|(_, made)| made.contains(error)) {
        Some((origin, _)) => format!("{origin}.patch: {error}"),
        None => error.to_string(),
    }))
}

fn retain_listeners(resources: &mut Resources, plan: &Plan) {
    resources.listeners.retain(|listener| match listener.name.as_str() {
        OUTBOUND => plan.listen.outbound.is_some(),
        INBOUND => plan.listen.inbound.is_some(),
        _ => true,
    });
}

/// What the ConfigMaps say of the proxy itself.
fn tuning(config: &Config, plan: &Plan) -> Tuning {
    let dns = config.dns_settings(&plan.node.namespace);
    let settings = config.proxy_settings(&plan.node.namespace);
    let default = blocking::Settings::default();
    let pool = settings.thread_pool.clone().unwrap_or_default();
    let size = |set: Option<u32>, default: usize| set.map_or(default, |set| set as usize);
    Tuning {
        name_servers: dns.resolvers().iter().copied().map(Into::into).collect(),
        thread_pool: blocking::Settings {
            core_size: size(pool.core_size, default.core_size),
            max_size: size(pool.max_size, default.max_size),
            queue_size: size(pool.queue_size, default.queue_size),
        },
        memory_limit_bytes: machine(&settings).memory_limit_bytes,
        reduce_labels: settings.envoy_stats_config.and_then(|stats| stats.use_all_default_tags) == Some(false),
    }
}

/// The node with the addresses by which this configuration names it.
fn addressed(plan: &Plan, config: &Config) -> Node {
    let mut node = plan.node.clone();
    // Without an inbound listener nobody asks which endpoints are this workload's own.
    if node.addresses.is_empty() && plan.listen.inbound.is_some() {
        node.addresses = node::own_addresses(config, plan.listen.inbound);
    }
    node.outbound = plan.listen.outbound.unwrap_or(node.outbound);
    node.inbound = plan.listen.inbound.unwrap_or(node.inbound);
    node
}

/// How many workers: a flag wins over the configuration, and that over the machine.
fn workers(config: &Config, plan: &Plan) -> Workers {
    let settings = config.proxy_settings(&plan.node.namespace);
    let by_flag = plan.workers.map(|count| Workers { reason: Reason::Flag, ..machine(&settings).workers(Some(count)) });
    by_flag.unwrap_or_else(|| machine(&settings).workers(settings.concurrency))
}

/// What this process may use: what the kernel says and what the configuration allows.
fn machine(settings: &ProxySettings) -> Machine {
    let limits = settings.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let cpu_millis = limits.and_then(|limits| limits.cpu).map(|cpu| cpu.millicores);
    let memory_bytes = limits.and_then(|limits| limits.memory).map(|memory| memory.bytes);
    Machine::read().limited_to(cpu_millis, memory_bytes)
}

/// The workload as metrics name it.
fn peer(plan: &Plan) -> Peer {
    let node = &plan.node;
    let label = |keys: &[&str]| keys.iter().find_map(|key| node.labels.get(*key)).cloned();
    let mut peer = Peer { workload_namespace: node.namespace.clone(), ..Peer::default() };
    if !node.name.is_empty() {
        peer.workload.clone_from(&node.name);
        peer.canonical_service.clone_from(&node.name);
    }
    if plan.identity.is_some() {
        peer.principal = node.spiffe_id(&node.namespace, &node.service_account);
    }
    if let Some(app) = label(&["app", "app.kubernetes.io/name"]) {
        peer.canonical_service.clone_from(&app);
        peer.app = app;
    }
    if let Some(name) = label(&["service.istio.io/canonical-name"]) {
        peer.canonical_service = name;
    }
    if let Some(version) = label(&["version", "app.kubernetes.io/version"]) {
        peer.canonical_revision.clone_from(&version);
        peer.version = version;
    }
    if let Some(revision) = label(&["service.istio.io/canonical-revision"]) {
        peer.canonical_revision = revision;
    }
    peer
}
