//! `celerity proxy`: the data plane alone, as the sidecar of a real service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::log::Level;

/// Run the data plane as the sidecar of a service of your own, from files
///
/// A change on disk is taken up within a second, whole or not at all. SIGTERM drains: no request is lost.
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
    pub(crate) outbound: Listen,

    /// Where traffic for the workload arrives, or `off`; a specific address is also where the workload is reached
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15006", value_parser = listen)]
    pub(crate) inbound: Listen,

    /// Admin: /ready /config_dump /clusters /listeners /stats/prometheus /ledger /drain /debug/pprof/..., or `off`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15000", value_parser = listen)]
    pub(crate) admin: Listen,

    /// Metrics for Prometheus, or `off`
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15090", value_parser = listen)]
    pub(crate) prometheus: Listen,

    /// Readiness probes, or `off`
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15021", value_parser = listen)]
    pub(crate) health: Listen,

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
    #[arg(long, value_name = "REGION/ZONE/SUBZONE")]
    pub(crate) locality: Option<String>,

    /// How much to log on standard error
    #[arg(long, value_enum, default_value_t = Level::Info)]
    pub(crate) log_level: Level,

    /// Access log as JSON lines: a file, `-` for standard output, or `off`
    #[arg(long, value_name = "PATH|-|off", default_value = "off")]
    pub(crate) access_log: String,
}

/// An address to listen on; `None` for `off`.
pub(crate) type Listen = Maybe;

/// A listener that may be switched off. Not an `Option`: clap would read that as an argument that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maybe(pub(crate) Option<SocketAddr>);

fn listen(text: &str) -> Result<Listen, String> {
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

pub(crate) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`celerity proxy` cannot start in this build: the data plane is not linked in")
}
