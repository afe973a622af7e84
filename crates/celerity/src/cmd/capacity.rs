//! `celerity capacity`: how much a service carries within its objective, and what gives way first.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use celerity_load::Control;
use celerity_load::ab::Verdict;
use celerity_load::capacity::{Report, Search, SearchEvent, Sweep, report, search, text};
use celerity_load::measure::CapacityTarget;
use celerity_load::report::{capacity_page, files};
use celerity_load::slo::Slo;

use crate::client::{self, Client};
use crate::cmd::analyze::Format;
use crate::{duration, interrupt, term};

/// Find the highest rate that keeps an objective, how the service scales, and which part of the time grows first
///
/// The rate doubles until two of three trials miss the objective, or is halved until two keep it; then the bracket is halved
/// until its ends are 5 % apart. Closed loops of rising concurrency give the points for the Universal Scalability Law, which is fitted only if
/// it may be.
///
/// Exit codes: 0 a rate was found, 1 the objective is missed at the lowest one, 2 usage, 4 it could not be found, or not to
/// the end.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity capacity http://127.0.0.1:8080/ --slo 'p99<50ms,success>99.9%'\n  celerity capacity http://user-service/api/users --proxy http://127.0.0.1:15001 --slo 'p99<50ms' --peak 12000"
)]
pub(crate) struct Args {
    /// What is requested
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// What must hold, such as p99<50ms,success>99.9%
    #[arg(long, value_name = "OBJECTIVES")]
    pub(crate) slo: Slo,

    /// The rate at which the search begins, per second
    #[arg(long, value_name = "N", default_value = "100", value_parser = client::rate)]
    pub(crate) from: f64,

    /// The highest rate that is tried, per second
    #[arg(long, value_name = "N", default_value = "100000", value_parser = client::rate)]
    pub(crate) to: f64,

    /// Length of one trial
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub(crate) trial: Duration,

    /// Length of each closed loop for the scalability law
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    pub(crate) closed: Duration,

    /// Leave the closed loops out
    #[arg(long)]
    pub(crate) no_sweep: bool,

    /// Forecast peak, per second: how many replicas it needs
    #[arg(long, value_name = "N", value_parser = client::rate)]
    pub(crate) peak: Option<f64>,

    /// Gives the schedules
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    #[command(flatten)]
    pub(crate) client: Client,

    /// How the report is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Write a page with charts, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Wrong usage that only the values show.
const USAGE: u8 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // 1 says that something was measured and is worse; what could not be measured must not look like it.
    Ok(measure(args).unwrap_or_else(|error| {
        term::error(&error);
        ExitCode::from(Verdict::Void.exit_code())
    }))
}

fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    let ordered = || {
        let (from, to) = (args.from, args.to);
        anyhow::ensure!(from <= to, "--from {from} is above --to {to}: the search goes up from the one to the other");
        args.client.plan(&args.url)
    };
    let plan = match ordered() {
        Ok(plan) => plan,
        Err(error) => {
            term::error(&error);
            return Ok(ExitCode::from(USAGE));
        }
    };
    let control = Control::new();
    let interrupt = interrupt::watch(&control)?;
    let mut target = CapacityTarget { plan, slo: args.slo.clone(), trial: args.trial, closed: args.closed, control };
    let plan = Search { from_per_second: args.from, to_per_second: args.to, seed: args.seed };
    let show = |event: SearchEvent<'_>| {
        match event {
            SearchEvent::Trial(trial) => term::note(text::trial(trial)),
            SearchEvent::Closed { concurrency, per_second } => {
                term::note(format_args!("{concurrency} in flight: {per_second:.0}/s"));
            }
        }
        !interrupt.asked()
    };
    let found = search(&plan, &mut target, show).map_err(anyhow::Error::msg)?;
    let sweep = if args.no_sweep || interrupt.asked() {
        Sweep::default()
    } else {
        // The capacity that was found stands without it.
        report::sweep(&mut target, args.seed, show)
            .unwrap_or_else(|why| Sweep { refusal: Some(why), ..Sweep::default() })
    };
    let lowest = found.trials.iter().map(|trial| trial.offered_per_second).reduce(f64::min);
    let judged = found.kept_per_second.or(lowest);
    let warning = judged.and_then(|rate| report::thin(&args.slo, rate, target.recorded()));
    let report = Report { warning, ..Report::new(&args.url, &args.slo.to_string(), found, sweep, args.peak) };
    let shown = term::shown(&match args.format {
        Format::Text => text::render(&report),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    });
    let page = files::write_page(args.html.as_deref(), || capacity_page::render(&report));
    Ok(term::with_unwritten(report.exit_code(), [shown, page].into_iter().filter_map(Result::err)))
}
