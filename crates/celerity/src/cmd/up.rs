//! `celerity up`: a whole mesh on this machine, with traffic, a live view and a closing report.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::task::LocalSet;

use crate::config::Loader;
use crate::mesh::Mesh;
use crate::sample::lab::{self, Ports, Workload};
use crate::sample::threads::Samples;
use crate::session::{self, StatusLine};
use crate::timer::Timer;
use crate::traffic::Plan;
use crate::{compare, duration, findings, report, term};

/// Start a whole mesh on this machine: sample services, sidecars, mutual TLS, traffic, a live view
///
/// It loads examples/tutorial (or the folder given), sends gentle traffic through it and shows rate, success,
/// latency and where the time goes. After --for, or on Ctrl-C, it drains and prints a report.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity up\n  celerity up --for 30s --rate 100\n  celerity up --config my-rules/ --port-base 25000\n  celerity up --for 10s --ab\n\nWhile it runs:\n  http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"
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

    /// End with an A/B of a plain configuration against the loaded one, which takes up to 100 s; it is on with --for
    /// of 60s or more, unless Ctrl-C ended the traffic
    #[arg(long)]
    pub(crate) ab: bool,

    /// Do not end with the A/B
    #[arg(long, conflicts_with = "ab")]
    pub(crate) no_ab: bool,
}

/// Who watches for so long wants to know what the configuration is worth.
const AB_FROM: Duration = Duration::from_secs(60);

impl Args {
    fn compares(&self, ran_for: Duration) -> bool {
        let long = self.run_for.is_some_and(|run_for| run_for >= AB_FROM && ran_for >= run_for);
        self.ab || (long && !self.no_ab)
    }

    /// What to say where there was none and nobody asked for that.
    fn left_out(&self, ran_for: Duration) -> Option<String> {
        let silent = self.no_ab || self.compares(ran_for);
        (!silent).then(|| "the A/B was left out: --ab runs it (up to 100 s)".to_owned())
    }

    fn loaded(&self) -> String {
        self.config.as_ref().map_or("the tutorial's documents".to_owned(), |folder| folder.display().to_string())
    }
}

/// The most that one gentle generator is asked to start in a second; a load test is another tool's work.
const RATE_PER_SECOND_MAX: f64 = 5000.0;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=RATE_PER_SECOND_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is not a rate: write requests per second from 0 to {RATE_PER_SECOND_MAX}")),
    }
}

/// After the traffic has ended, the sidecars get this long to finish what others still send.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The same arrivals and the same callers in every run.
const TRAFFIC_SEED: u64 = 0x7ea_f1c;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let ports = Ports::from_base(args.port_base);
    let workloads = lab::workloads(ports);
    ensure_free(&workloads)?;
    let loader = loader(args.config.as_deref(), ports);
    let status = StatusLine::default();
    let timer = Timer::start().context("a thread for the timer cannot be started")?;
    let samples = Samples::start(workloads.clone(), timer)?;
    let mesh = Mesh::start(&workloads, loader, status.clone())?;
    let entry = workloads.last().context("the arrangement has no workload")?;
    for line in welcome(&workloads, entry) {
        term::line(line);
    }
    let plan = Plan { entry: entry.outbound(), per_second: args.rate, seed: TRAFFIC_SEED };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = LocalSet::new()
        .block_on(&runtime, session::run(plan, args.run_for, status))
        .context("the handler for Ctrl-C cannot be set")?;
    if args.compares(ended.ran_for) {
        term::line("\nA/B: the services under a plain configuration against the loaded one");
        // The traffic's report is worth having also where this fails, such as for a port that is taken.
        match compare::run(ports, entry.outbound(), &format!("optimised: {}", args.loaded())) {
            Ok(found) => term::raw(&format!("{}\n", celerity_load::ab::text::render(&found))),
            Err(error) => term::error(&error),
        }
    }
    term::line("\ndraining ...");
    let found = mesh.sources().map(|sources| findings::of(&sources)).unwrap_or_default();
    if !mesh.drain(DRAIN_MAX) {
        term::line("some requests were still under way when the drain was over");
    }
    drop(samples);
    term::line("");
    term::raw(&report::traffic(&ended.stats, &ended.stats.whole(), ended.ran_for));
    term::raw(&format!("\n{}", findings::brief(&found, term::colour(term::live()))));
    if let Some(line) = args.left_out(ended.ran_for) {
        term::line(format_args!("\n{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder given, or the tutorial: from the working folder, where an edit is taken up, else from the binary.
fn loader(config: Option<&Path>, ports: Ports) -> Loader {
    let services = ports.documents();
    let tutorial = Path::new("examples/tutorial");
    match config {
        Some(folder) => Loader::new(vec![folder.to_owned()]).with(services),
        None if tutorial.is_dir() => Loader::new(vec![tutorial.to_owned()]).with(services),
        None => Loader::new(Vec::new()).with(services).with(lab::tutorial()),
    }
}

/// Tries every port before anything is started, so that one message names all that are taken.
fn ensure_free(workloads: &[Workload]) -> anyhow::Result<()> {
    let wanted = workloads.iter().flat_map(|workload| {
        let sidecar =
            [workload.outbound(), workload.inbound(), workload.admin(), workload.health(), workload.prometheus()];
        sidecar.into_iter().chain([workload.instance.address])
    });
    let taken: Vec<String> = wanted
        .filter_map(|address| TcpListener::bind(address).err().map(|error| format!("{address} ({error})")))
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    // Below the range from which the kernel takes the ports of outgoing connections.
    let other = if workloads.iter().any(|workload| workload.ports.admin() == 25_000) { 20_000 } else { 25_000 };
    anyhow::bail!("the mesh cannot listen on {}: choose other ports, such as --port-base {other}", taken.join(", "))
}

fn welcome(workloads: &[Workload], entry: &Workload) -> Vec<String> {
    let (outbound, admin) = (entry.outbound(), entry.admin());
    let mut lines = vec!["the mesh is up:".to_owned()];
    for workload in workloads {
        let instance = &workload.instance;
        lines.push(format!(
            "  {:<20} {:<26} app {}   sidecar {}   admin {}",
            instance.name,
            instance.locality,
            instance.address,
            workload.inbound(),
            workload.admin()
        ));
    }
    let first = workloads.first().unwrap_or(entry).instance.address;
    lines.extend([
        String::new(),
        "try, from another terminal:".to_owned(),
        format!("  http_proxy=http://{outbound} curl http://user-service/api/users/123"),
        format!("  curl -H 'Host: order-service' http://{outbound}/api/orders/7"),
        format!("  wrk -t2 -c50 -d10s -H 'Host: user-service' http://{outbound}/api/users"),
        format!("  curl http://{admin}/ledger"),
        format!("  curl -X POST 'http://{first}/switch?mode=slow&ms=300'    (failing, flapping, ok)"),
        "Ctrl-C drains and prints a report".to_owned(),
        String::new(),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_named_all_at_once_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("address");
        let mut workloads = lab::workloads(Ports::from_base(lab::PORT_BASE));
        workloads.truncate(2);
        for workload in &mut workloads {
            workload.instance.address = address;
        }
        let error = ensure_free(&workloads).expect_err("taken").to_string();
        assert!(error.matches(&address.to_string()).count() >= 2 && error.contains("--port-base 25000"), "{error}");
    }

    #[test]
    fn an_ab_that_did_not_run_is_told_unless_it_was_declined() {
        let args = |run_for: Option<u64>, ab, no_ab| Args {
            config: None,
            run_for: run_for.map(Duration::from_secs),
            rate: 50.0,
            port_base: lab::PORT_BASE,
            ab,
            no_ab,
        };
        let told = |args: Args, seconds| args.left_out(Duration::from_secs(seconds)).is_some();
        assert!(told(args(None, false, false), 90) && told(args(Some(10), false, false), 10));
        assert!(told(args(Some(60), false, false), 20), "Ctrl-C came first");
        assert!(!told(args(Some(60), false, false), 60) && !told(args(None, true, false), 5));
        assert!(!told(args(None, false, true), 90));
    }

    #[test]
    fn the_welcome_gives_commands_that_name_the_entry() {
        let workloads = lab::workloads(Ports::from_base(lab::PORT_BASE));
        let text = welcome(&workloads, &workloads[4]).join("\n");
        assert!(text.contains("http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"), "{text}");
        assert!(text.contains("http://127.0.1.1:8080/switch?mode=slow"), "{text}");
    }
}
