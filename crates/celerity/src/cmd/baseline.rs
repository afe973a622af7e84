//! `celerity baseline`: keep a measurement, and check a later one against it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use celerity_load::ab::{BlockSpec, Verdict, text};
use celerity_load::baseline::{self, Baseline, BlockRecord, Check, Machine};
use celerity_load::stats::Rng;
use celerity_load::{Control, Plan, measure as measuring};

use crate::client::{self, Client};
use crate::cmd::analyze::Format;
use crate::{duration, interrupt, term};

/// Keep a measured baseline, and check a later measurement against it, for pipelines
///
/// Exit codes of check: 0 no metric is worse, 1 one is, 2 usage, 4 inconclusive or another machine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity baseline save main http://127.0.0.1:8080/api/users --rate 500\n  celerity baseline check main --margin 10%"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) what: What,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum What {
    /// Measure a URL and keep what came out under a name
    Save(Box<Save>),
    /// Measure the same again and compare
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// Name of the baseline
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// What is requested
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// Requests per second
    #[arg(long, value_name = "N", default_value = "200", value_parser = client::rate)]
    pub(crate) rate: f64,

    /// Length of each of the 8 blocks
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub(crate) block: Duration,

    /// Folder of the baselines
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Name of the baseline
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Another URL than the kept one, such as the same service at another port
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// A smaller change does not matter
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = client::percent)]
    pub(crate) margin: f64,

    /// Compare although the machine is another one
    #[arg(long)]
    pub(crate) any_machine: bool,

    /// Folder of the baselines
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) client: Client,

    /// How the result is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Beside the project's sources, so that a pipeline can keep it with them.
const FOLDER: &str = ".celerity/baselines";
/// The first part of each block is sent and not recorded.
const DISCARD_SHARE: f64 = 0.15;
/// The same schedules in every measurement.
const SEED: u64 = 0xba5e;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // 1 says that something was measured and is worse; what could not be measured must not look like it.
    Ok(measure(args).unwrap_or_else(|error| {
        term::error(&error);
        ExitCode::from(Verdict::Void.exit_code())
    }))
}

fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Save(args) => save(args),
        What::Check(args) => check(args),
    }
}

fn save(args: &Save) -> anyhow::Result<ExitCode> {
    // A name that cannot be is refused before minutes of measuring.
    baseline::path(&args.dir, &args.name)?;
    let plan = args.client.plan(&args.url)?;
    let (blocks, whole) = blocks(&plan, args.rate, args.block)?;
    if !whole {
        term::note("stopped: nothing was saved");
        return Ok(ExitCode::from(4));
    }
    anyhow::ensure!(
        blocks.len() == baseline::BLOCKS,
        "{} answered nothing in some blocks: nothing was saved",
        args.url
    );
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let kept = Baseline {
        version: baseline::VERSION,
        name: args.name.clone(),
        saved_unix_ms: since.as_millis() as u64,
        machine: Machine::read(),
        load: baseline::Load {
            url: args.url.clone(),
            headers: args.client.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
            per_second: args.rate,
            block_ms: args.block.as_millis() as u64,
            connections: args.client.connections,
        },
        blocks,
    };
    let path = kept.save(&args.dir)?;
    term::line(format_args!("{}", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let kept = Baseline::read(&args.dir, &args.name)?;
    let machine = Machine::read();
    let mut plan = args.client.plan(args.url.as_deref().unwrap_or(&kept.load.url))?;
    plan.connections = kept.load.connections.max(1);
    if args.client.headers.is_empty() {
        plan = with_headers(plan, &kept.load.headers);
    }
    let differences = kept.machine.differences(&machine);
    let block = Duration::from_millis(kept.load.block_ms);
    // On another machine there is nothing to compare, so nothing is measured.
    let (now, whole) = if differences.is_empty() || args.any_machine {
        blocks(&plan, kept.load.per_second, block)?
    } else {
        (Vec::new(), true)
    };
    let check = kept.check(&now, &machine, args.margin, args.any_machine);
    match args.format {
        Format::Text => term::raw(&render(&check, whole)),
        Format::Json => term::line(serde_json::to_string_pretty(&check)?),
    }
    Ok(ExitCode::from(check.verdict.exit_code()))
}

fn with_headers(mut plan: Plan, headers: &[String]) -> Plan {
    if let celerity_load::source::Source::Static(requests) = &plan.source
        && let Some(first) = requests.first()
    {
        let mut request = first.clone();
        let pairs = headers.iter().filter_map(|header| header.split_once(": "));
        request.headers.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        plan.source = celerity_load::source::Source::single(request);
    }
    plan
}

/// Blocks that were answered; false if somebody stopped it.
fn blocks(plan: &Plan, per_second: f64, duration: Duration) -> anyhow::Result<(Vec<BlockRecord>, bool)> {
    let control = Control::new();
    let interrupt = interrupt::watch(&control)?;
    let mut blocks = Vec::with_capacity(baseline::BLOCKS);
    // One more, first: it warms up and is dropped.
    for number in 0..=baseline::BLOCKS {
        let seed = Rng::stream(SEED, number as u64).next_u64();
        let spec = BlockSpec { seed, per_second, duration, discard: duration.mul_f64(DISCARD_SHARE) };
        let block = measuring::block(plan, &spec, &control).map_err(anyhow::Error::msg)?;
        if interrupt.asked() || block.interrupted {
            return Ok((blocks, false));
        }
        if let Some(record) = BlockRecord::of(&block).filter(|_| number > 0) {
            term::note(format_args!(
                "block {number} of {}: p50 {}, p99 {}",
                baseline::BLOCKS,
                text::millis(record.p50_ns as f64 / 1e6),
                text::millis(record.p99_ns as f64 / 1e6)
            ));
            blocks.push(record);
        }
    }
    Ok((blocks, true))
}

fn render(check: &Check, whole: bool) -> String {
    let mut out = format!("baseline {}: {}\n  {}\n", check.name, check.verdict.as_str().to_uppercase(), check.reason);
    if !whole {
        out.push_str("  stopped early: fewer blocks than the baseline has\n");
    }
    for metric in &check.metrics {
        out.push_str(&format!(
            "  {:<5} {:>12} {:>12} {:>10}   {}\n",
            metric.metric.as_str(),
            text::millis(metric.baseline_ms),
            text::millis(metric.now_ms),
            text::percent(metric.change.value),
            text::interval(metric.change)
        ));
    }
    let (then, now) = (check.baseline_error_share * 100.0, check.error_share * 100.0);
    out.push_str(&format!("  {:<5} {then:>10.3} % {now:>10.3} %\n", "fail"));
    for difference in &check.machine {
        out.push_str(&format!("  another machine: {difference}\n"));
    }
    out
}
