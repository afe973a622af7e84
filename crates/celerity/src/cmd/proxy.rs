//! `celerity proxy`: the data plane alone, as the sidecar of a real service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use celerity_telemetry::access_log::Target;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::watch::Watcher;
use crate::config::{self, Loader};
use crate::follow::Follower;
use crate::log::{Level, Log};
use crate::node::{self, Given};
use crate::sidecar::{Listen, Plan};

/// Run the data plane as the sidecar of a service of your own, from files
///
/// A change on disk is taken up within a second, whole or not at all. SIGTERM drains: no request is lost. A second one, a second
/// later or more, ends at once.
/// SIGUSR1 opens the access log's file anew, for log rotation.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity proxy --config istio/\n  celerity proxy --config istio/ --workload orders --identity certs/orders --labels app=orders,version=v1 \\\n      --locality us-central1/us-central1-a --workers 2\n\nThen, from the service:\n  http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"
)]
pub(crate) struct Args {
    /// Files and folders with Istio and Kubernetes YAML; folders are read whole and watched
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub(crate) config: Vec<PathBuf>,

    /// Worker threads; without it, what the configuration says, else one for each CPU of the cgroup's quota
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,

    /// Where traffic that leaves the workload arrives, or `off`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15001", value_parser = listen)]
    pub(crate) outbound: Maybe,

    /// Where traffic for the workload arrives, or `off`; a specific address is also where the workload is reached
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15006", value_parser = listen)]
    pub(crate) inbound: Maybe,

    /// Admin: /ready /config_dump /clusters /listeners /stats/prometheus /ledger /drain /debug/pprof/..., or `off`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = listen)]
    pub(crate) admin: Maybe,

    /// Metrics for Prometheus, or `off`
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15090", value_parser = listen)]
    pub(crate) prometheus: Maybe,

    /// Readiness probes, or `off`
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021", value_parser = listen)]
    pub(crate) health: Maybe,

    /// Folder with cert-chain.pem, key.pem and root-cert.pem (`celerity ca` issues them); without it, no mutual TLS
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,

    /// File with the WorkloadEntry of the workload: its name, namespace, labels, locality, address, service account
    #[arg(long, value_name = "FILE")]
    pub(crate) node: Option<PathBuf>,

    /// Name of the workload, for metrics and logs
    #[arg(long, value_name = "NAME")]
    pub(crate) workload: Option<String>,

    /// Namespace of the workload; short hosts resolve in it [default: default]
    #[arg(long, value_name = "NS")]
    pub(crate) namespace: Option<String>,

    /// Labels of the workload, by which selectors choose it
    #[arg(long, value_name = "K=V,..", value_delimiter = ',', value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,

    /// Where the workload runs, for locality-aware balancing
    #[arg(long, value_name = "REGION/ZONE/SUBZONE", value_parser = locality)]
    pub(crate) locality: Option<String>,

    /// What becomes of hosts that no service has: ALLOW_ANY sends connections that iptables redirected here to where they
    /// were meant to go, REGISTRY_ONLY refuses them
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = OutboundPolicy::AllowAny)]
    pub(crate) outbound_traffic_policy: OutboundPolicy,

    /// How much to log on standard error
    #[arg(long, value_enum, default_value_t = Level::Info)]
    pub(crate) log_level: Level,

    /// Access log as JSON lines: a file, `-` for standard output, or `off`
    #[arg(long, value_name = "PATH|-|off", default_value = "off")]
    pub(crate) access_log: String,

    /// Whether each request's time is accounted for; off only to measure what that costs
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(crate) ledger: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// Istio's `outboundTrafficPolicy`, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutboundPolicy {
    #[value(name = "ALLOW_ANY")]
    AllowAny,
    #[value(name = "REGISTRY_ONLY")]
    RegistryOnly,
}

/// A listener that may be switched off. Not an `Option`: clap would read that as an argument that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maybe(pub(crate) Option<SocketAddr>);

fn listen(text: &str) -> Result<Maybe, String> {
    if text == "off" {
        return Ok(Maybe(None));
    }
    text.parse()
        .map(|address| Maybe(Some(address)))
        .map_err(|_| format!("`{text}` is not an address: write IP:PORT, such as 127.0.0.1:15001, or off"))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label: write KEY=VALUE, such as app=user-service")),
    }
}

fn locality(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.len() <= 3 && parts.iter().all(|part| !part.is_empty()) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not a locality: write REGION/ZONE/SUBZONE, or less of it from the left")),
    }
}

/// After a signal, requests under way get this long; Kubernetes kills after 30 s.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Signals within this time of the first are taken for the same one.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// Between two looks at whether somebody asked for a drain at the admin port.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let log = Log::from(args.log_level);
    let loader = Loader::new(args.config.clone());
    let (changed, mut changes) = mpsc::channel(1);
    // Watching begins before reading, so that no change falls between the two.
    let watcher = Watcher::start(loader.paths.clone(), move || _ = changed.try_send(()));
    let watcher = watcher.context("the configuration's files cannot be watched")?;
    let (mut follower, read) = Follower::start(loader, plan(args)?)?;
    let sidecar = &follower.sidecar;
    for (purpose, address) in sidecar.addresses() {
        log.info(format_args!("{purpose} at {address}"));
    }
    if args.identity.is_none() {
        log.warn("no --identity: this sidecar neither offers nor asks for mutual TLS");
    }
    if let Some(note) = sidecar.identity_note() {
        log.warn(note);
    }
    for note in config::unmatched_notes(sidecar.unmatched(), &[]) {
        log.warn(note);
    }
    let workers = sidecar.workers;
    log.info(format_args!("{workers}, by {}", workers.reason.as_str()));
    let passed_over = match read.config.passed_over.len() {
        0 => String::new(),
        some => format!(", {some} passed over that say nothing to a mesh"),
    };
    log.info(format_args!("ready: {} documents{passed_over}", read.config.len()));
    follower.settle(read);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let one = |kind| signal(kind).context("the handler for signals cannot be set");
        let (mut terminate, mut interrupt) = (one(SignalKind::terminate())?, one(SignalKind::interrupt())?);
        // A closed terminal and a rotated log end no sidecar: SIGHUP is heard and passed over, SIGUSR1 opens the log anew, as in
        // Envoy.
        let (_hangup, mut rotated) = (one(SignalKind::hangup())?, one(SignalKind::user_defined1())?);
        // None where the admin port was asked.
        let first_signal = loop {
            tokio::select! {
                _ = terminate.recv() => break Some(Instant::now()),
                _ = interrupt.recv() => break Some(Instant::now()),
                _ = rotated.recv() => follower.sidecar.reopen_access_log(),
                Some(()) = changes.recv() => take_up(&mut follower, log),
                () = tokio::time::sleep(DRAIN_LOOK) => if follower.sidecar.is_draining() { break None },
            }
        };
        drop(watcher);
        log.info(format_args!(
            "draining for at most {} s; a second signal, a second later or more, ends at once",
            DRAIN_MAX.as_secs()
        ));
        let drained = tokio::task::spawn_blocking(move || follower.sidecar.drain(DRAIN_MAX));
        tokio::select! {
            drained = drained => match drained {
                Ok(true) => log.info("drained"),
                _ => log.warn("ended with requests under way: they took longer than the drain"),
            },
            () = second_signal(first_signal, &mut terminate, &mut interrupt) => std::process::exit(1),
        }
        Ok::<_, anyhow::Error>(ExitCode::SUCCESS)
    })
}

/// Waits for a second signal that means it: a supervisor that signals the whole process group, and forwards the signal as well, sends
/// two at once.
async fn second_signal(mut first: Option<Instant>, terminate: &mut Signal, interrupt: &mut Signal) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        match first {
            Some(at) if at.elapsed() >= SAME_SIGNAL => return,
            Some(_) => {}
            None => first = Some(Instant::now()),
        }
    }
}

/// Whole or not at all: a change that is wrong anywhere leaves what runs as it is.
fn take_up(follower: &mut Follower, log: Log) {
    // What was refused is told by the proxy.
    let Ok(Some(done)) = follower.follow() else { return };
    let read = match done.parts_new {
        Some(1) => "1 new part read".to_owned(),
        Some(count) => format!("{count} new parts read"),
        None => "all read".to_owned(),
    };
    let (report, took_ms) = (done.report, done.took.as_secs_f64() * 1e3);
    log.info(format_args!(
        "taken up: {} documents, {read}, {} of {} clusters and {} of {} virtual hosts made anew, in {took_ms:.1} ms",
        done.documents,
        report.clusters_rebuilt,
        report.clusters_rebuilt + report.clusters_reused,
        report.virtual_hosts_rebuilt,
        report.virtual_hosts_rebuilt + report.virtual_hosts_reused,
    ));
    for note in done.notes {
        log.warn(note);
    }
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mut node = node::describe(&Given {
        file: args.node.as_deref(),
        name: args.workload.as_deref(),
        namespace: args.namespace.as_deref(),
        labels: &args.labels,
        locality: args.locality.as_deref(),
    })?;
    node.application = node::application(args.inbound.0);
    node.mesh.registry_only = args.outbound_traffic_policy == OutboundPolicy::RegistryOnly;
    let listen = Listen {
        outbound: args.outbound.0,
        inbound: args.inbound.0,
        admin: args.admin.0,
        prometheus: args.prometheus.0,
        health: args.health.0,
    };
    let access_log = match args.access_log.as_str() {
        "off" => None,
        "-" => Some(Target::Stdout),
        path => Some(Target::File(path.into())),
    };
    Ok(Plan {
        node,
        listen,
        identity: args.identity.clone(),
        workers: args.workers.map(u32::from),
        access_log,
        ledger: args.ledger == Switch::On,
        log: args.log_level.into(),
    })
}
