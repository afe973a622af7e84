//! `celerity up`: a whole mesh on this machine, with traffic, a live view and a closing report.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use celerity_load::ab::{Report, Verdict};
use tokio::task::LocalSet;

use crate::config::Loader;
use crate::interrupt::{Signals, Wish};
use crate::mesh::{self, Mesh};
use crate::sample::lab::{self, Ports, Workload};
use crate::sample::threads::Samples;
use crate::session::{self, StatusLine};
use crate::timer::Timer;
use crate::traffic::Plan;
use crate::{compare, duration, findings, report, term};

/// Start a whole mesh on this machine: sample services, sidecars, mutual TLS, traffic, a live view
///
/// It loads examples/tutorial (or the folder given), sends gentle traffic through it and shows rate, success,
/// latency and where the time goes. After --for, or on Ctrl-C, it prints a report and compares the loaded configuration with a
/// plain one. Ctrl-C again skips the comparison, once more ends at once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity up\n  celerity up --for 30s --rate 100\n  celerity up --config my-rules/ --port-base 25000\n  celerity up --for 10s --no-ab\n\nWhile it runs:\n  http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"
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

    /// End with the A/B of a plain configuration against the loaded one, up to 80 s, also where Ctrl-C came from no terminal
    #[arg(long)]
    pub(crate) ab: bool,

    /// Do not end with the A/B
    #[arg(long, conflicts_with = "ab")]
    pub(crate) no_ab: bool,
}

impl Args {
    /// What the mesh is worth is asked at the end, unless whoever ended it cannot skip it: SIGTERM does not wait for a minute,
    /// and a script that sends SIGINT sends no second one.
    fn compares(&self, by: Option<Wish>, terminal: bool) -> bool {
        !self.no_ab
            && match by {
                None => true,
                Some(Wish::Interrupt) => self.ab || terminal,
                Some(Wish::Terminate) => false,
            }
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
    let beside = if args.no_ab { Vec::new() } else { lab::workloads(ports.beside()) };
    ensure_free(&workloads, &beside)?;
    // The folders of keys go also where the process is told to end at once.
    let signals = Signals::listen(move || {
        for port in [ports.admin(), ports.beside().admin()] {
            let _ = std::fs::remove_dir_all(mesh::identities_folder(port));
        }
    })?;
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
    let (wish, wishes) = tokio::sync::mpsc::unbounded_channel();
    signals.next(move |who| {
        // Nobody waits for it any more: the session has ended by itself.
        let _ = wish.send(who);
    });
    let ended = LocalSet::new().block_on(&runtime, session::run(plan, args.run_for, status, wishes))?;
    term::line("");
    term::raw(&report::traffic(&ended.stats, &ended.stats.whole(), ended.ran_for));
    let found = mesh.sources().map(|sources| findings::of(&sources)).unwrap_or_default();
    term::raw(&format!("\n{}", findings::brief(&found, term::colour(term::live()))));
    let code = if args.compares(ended.by, term::live()) {
        let again = if ended.by.is_some() { "Ctrl-C again" } else { "Ctrl-C" };
        term::line(format_args!(
            "\ncomparing the services under a plain configuration with the loaded one, up to 80 s: {again} skips it"
        ));
        compared(compare::run(ports, entry.outbound(), &format!("optimised: {}", args.loaded()), &signals))
    } else {
        if !args.no_ab {
            term::line("\nthe comparison with a plain configuration was left out: --for with a time, or --ab, runs it");
        }
        ExitCode::SUCCESS
    };
    signals.at_once();
    term::line("\ndraining ...");
    if !mesh.drain(DRAIN_MAX) {
        term::line("some requests were still under way when the drain was over");
    }
    drop(samples);
    Ok(code)
}

/// Prints the comparison. The traffic's report is worth having also where it fails, and the exit code says that it did.
fn compared(outcome: anyhow::Result<Option<Report>>) -> ExitCode {
    match outcome {
        Ok(Some(found)) => term::raw(&format!("\n{}", celerity_load::ab::text::render(&found))),
        Ok(None) => term::line("the comparison was skipped"),
        Err(error) => {
            term::error(&error.context("the comparison could not run"));
            return ExitCode::from(Verdict::Void.exit_code());
        }
    }
    ExitCode::SUCCESS
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

/// So many taken addresses are named; more are counted.
const TAKEN_NAMED_MAX: usize = 3;

/// Tries every port before anything is started, those of the mesh that the comparison starts `beside` too.
fn ensure_free(workloads: &[Workload], beside: &[Workload]) -> anyhow::Result<()> {
    let sidecar = |workload: &Workload| {
        [workload.outbound(), workload.inbound(), workload.admin(), workload.health(), workload.prometheus()]
    };
    let own = workloads.iter().flat_map(|workload| sidecar(workload).into_iter().chain([workload.instance.address]));
    let taken = |wanted: &mut dyn Iterator<Item = SocketAddr>| -> Vec<String> {
        let error = |address: SocketAddr| TcpListener::bind(address).err().map(|error| (address, error));
        wanted.filter_map(error).map(|(address, error)| format!("{address} ({error})")).collect()
    };
    let own = taken(&mut own.into_iter());
    let others = taken(&mut beside.iter().flat_map(sidecar));
    let named = own.iter().chain(&others).take(TAKEN_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if named.is_empty() {
        return Ok(());
    }
    let more = match (own.len() + others.len()).saturating_sub(TAKEN_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    // Below the range from which the kernel takes the ports of outgoing connections.
    let other = if workloads.iter().any(|workload| workload.ports.admin() == 25_000) { 20_000 } else { 25_000 };
    let without = if own.is_empty() { ", or leave the comparison out with --no-ab" } else { "" };
    anyhow::bail!("the mesh cannot listen on {named}{more}: choose other ports, such as --port-base {other}{without}")
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
        "Ctrl-C prints a report and compares with a plain configuration".to_owned(),
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
        let error = ensure_free(&workloads, &[]).expect_err("taken").to_string();
        assert!(error.matches(&address.to_string()).count() >= 2 && error.contains("--port-base 25000"), "{error}");
        // The comparison's ports: they can be done without. However many are taken, it is a sentence.
        let none = ensure_free(&[], &[]);
        assert!(none.is_ok());
        let beside: Vec<Workload> = (0..4).map(|_| at(address.port())).collect();
        let error = ensure_free(&[], &beside).expect_err("taken").to_string();
        assert!(error.contains("--no-ab") && error.contains(" more") && error.len() < 300, "{error}");
    }

    /// A workload whose admin port this is.
    fn at(port: u16) -> Workload {
        lab::workloads(Ports::from_base(port)).pop().expect("a workload")
    }

    #[test]
    fn the_comparison_runs_unless_nobody_could_skip_it_or_wants_it() {
        let args = |ab, no_ab| Args { config: None, run_for: None, rate: 50.0, port_base: lab::PORT_BASE, ab, no_ab };
        let (int, term) = (Some(Wish::Interrupt), Some(Wish::Terminate));
        for (ab, no_ab, by, terminal, expected) in [
            (false, false, None, false, true),
            (false, false, int, true, true),
            (false, false, int, false, false),
            (true, false, int, false, true),
            (true, false, term, true, false),
            (false, true, None, true, false),
        ] {
            assert_eq!(args(ab, no_ab).compares(by, terminal), expected, "{ab} {no_ab} {by:?} {terminal}");
        }
    }

    #[test]
    fn the_welcome_gives_commands_that_name_the_entry() {
        let workloads = lab::workloads(Ports::from_base(lab::PORT_BASE));
        let text = welcome(&workloads, &workloads[4]).join("\n");
        assert!(text.contains("http_proxy=http://127.0.0.1:15001 curl http://user-service/api/users/123"), "{text}");
        assert!(text.contains("http://127.0.1.1:8080/switch?mode=slow"), "{text}");
    }
}
