//! `celerity up`: a whole mesh on this machine, with traffic, a live view and a closing report.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::duration;

/// Start a whole mesh on this machine: sample services, sidecars, mutual TLS, traffic, a live view
///
/// It loads examples/tutorial (or the folder given), sends gentle traffic through it and shows rate, success,
/// latency and where the time goes. After --for, or on Ctrl-C, it drains and prints a report.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity up\n  celerity up --for 30s --rate 100\n  celerity up --config my-rules/ --port-base 25000\n\nWhile it runs:\n  http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"
)]
pub(crate) struct Args {
    /// Folder with the Istio YAML to load instead of the tutorial's documents
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,

    /// Stop by itself after this time, such as 30s or 5m; without it, run until Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) run_for: Option<Duration>,

    /// Requests per second that the traffic generator starts
    #[arg(long, value_name = "N", default_value_t = 50.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// First port: admin is N, outbound N+1, inbound N+6, health N+21, metrics N+90
    #[arg(long, value_name = "N", default_value_t = 15000, value_parser = clap::value_parser!(u16).range(1024..=65000))]
    pub(crate) port_base: u16,
}

/// The most that one gentle generator is asked to start in a second; a load test is another tool's work.
const RATE_PER_SECOND_MAX: f64 = 5000.0;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=RATE_PER_SECOND_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is not a rate: write requests per second from 0 to {RATE_PER_SECOND_MAX}")),
    }
}

pub(crate) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`celerity up` cannot start a mesh in this build: the data plane is not linked in")
}
