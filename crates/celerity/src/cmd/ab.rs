//! `celerity ab`: is the candidate better, and why.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use celerity_load::Control;
use celerity_load::ab::{Design, Metric, Verdict, design, text};
use celerity_load::measure::Targets;
use celerity_load::report::{ab_page, files};
use celerity_model::istio::Config;

use crate::client::{self, Client};
use crate::cmd::analyze::Format;
use crate::config::Loader;
use crate::log::Log;
use crate::node::{self, Given};
use crate::sidecar::{Listen, Plan, Sidecar};
use crate::{duration, experiment, interrupt, term};

/// Compare two URLs, or one target under two configurations of the mesh: better, worse, equivalent, and why
///
/// First the baseline is compared with itself, which tells how small a change this machine can show. Then pairs of
/// blocks follow, their order by a coin, the same Poisson schedule for both, and a look at 8, 16, 32 and 64 pairs.
/// docs/experiments.md explains the statistics.
///
/// Exit codes: 0 better or equivalent, 1 worse or more errors, 2 usage, 4 inconclusive or void.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity ab --baseline http://10.0.0.1/api/users --candidate http://10.0.0.2/api/users --rate 500\n  celerity ab --baseline-config plain/ --candidate-config tuned/ --config services/ --target http://user-service/api/users\n  celerity ab --baseline http://a/ --candidate http://b/ --primary p50 --pairs-max 16 --format json"
)]
pub(crate) struct Args {
    /// URL of what is there now
    #[arg(long, value_name = "URL")]
    pub(crate) baseline: Option<String>,

    /// URL of what would replace it
    #[arg(long, value_name = "URL")]
    pub(crate) candidate: Option<String>,

    /// Folder with the configuration that acts now; a sidecar runs with each
    #[arg(long, value_name = "DIR")]
    pub(crate) baseline_config: Option<PathBuf>,

    /// Folder with the configuration that would replace it
    #[arg(long, value_name = "DIR")]
    pub(crate) candidate_config: Option<PathBuf>,

    /// What is requested through both sidecars, such as http://user-service/api/users
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,

    /// Files and folders that both sidecars read too, such as the services
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) config: Vec<PathBuf>,

    /// Folder with the certificate of both sidecars (`celerity ca`); without it, no mutual TLS
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) client: Client,

    #[command(flatten)]
    pub(crate) layout: Layout,

    /// How the report is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Write a page with charts, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// The experiment's knobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Layout {
    /// Requests per second, to one arm at a time
    #[arg(long, value_name = "N", default_value = "200", value_parser = client::rate)]
    pub(crate) rate: f64,

    /// The quantile that decides
    #[arg(long, value_name = "p50|p95|p99", default_value = "p95", value_parser = metric)]
    pub(crate) primary: Metric,

    /// A smaller change of the primary quantile does not matter [default: 3% at p50, 5% at p95 and p99]
    #[arg(long, value_name = "PERCENT", value_parser = client::percent)]
    pub(crate) margin: Option<f64>,

    /// Length of one block [default: as short as the quantile allows, 50 requests beyond it, and at least 1 s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) block: Option<Duration>,

    /// The most pairs of blocks: 8, 16, 32 or 64
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) pairs_max: usize,

    /// Pairs of baseline against itself; 0 leaves them out, and with them the noise floor
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) aa_pairs: usize,

    /// Gives the schedules and the coins
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

pub(crate) fn metric(text: &str) -> Result<Metric, String> {
    Metric::parse(text).ok_or_else(|| format!("`{text}` cannot decide: choose p50, p95 or p99"))
}

impl Layout {
    pub(crate) fn design(&self) -> anyhow::Result<Design> {
        let shortest = Design::new(self.primary, self.rate, self.pairs_max, self.seed)?;
        let design = Design {
            block: self.block.unwrap_or_else(|| design::shortest_block(self.primary, self.rate)),
            margin: self.margin.unwrap_or(shortest.margin),
            aa_pairs: self.aa_pairs,
            ..shortest
        };
        design.check()?;
        Ok(design)
    }
}

/// Wrong usage that only the values together show.
const USAGE: u8 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // 1 says that something was measured and is worse; what could not be measured must not look like it.
    Ok(measure(args).unwrap_or_else(|error| {
        term::error(&error);
        ExitCode::from(Verdict::Void.exit_code())
    }))
}

fn measure(args: &Args) -> anyhow::Result<ExitCode> {
    let design = match args.layout.design() {
        Ok(design) => design,
        Err(error) => {
            term::error(&error);
            return Ok(ExitCode::from(USAGE));
        }
    };
    let asked = match asked(args) {
        Ok(asked) => asked,
        Err(error) => {
            term::error(&error);
            return Ok(ExitCode::from(USAGE));
        }
    };
    let control = Control::new();
    let interrupt = interrupt::watch(&control)?;
    let [baseline, candidate] = asked;
    let sides = [baseline.start(args)?, candidate.start(args)?];
    let [baseline, candidate] = &sides;
    let mut arms =
        Targets { baseline: baseline.plan.clone(), candidate: candidate.plan.clone(), control: control.clone() };
    let names = (baseline.name.as_str(), candidate.name.as_str());
    let report = experiment::run(&design, names, &mut arms, &interrupt, None)?;
    let shown = term::shown(&match args.format {
        Format::Text => text::render(&report),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    });
    for sidecar in sides.into_iter().filter_map(|side| side.sidecar) {
        sidecar.stop(DRAIN_MAX);
    }
    let code = report.verdict.exit_code();
    let page = files::write_page(args.html.as_deref(), || ab_page::render(&report));
    Ok(term::with_unwritten(code, [shown, page].into_iter().filter_map(Result::err)))
}

/// Nobody else uses these sidecars, so there is nothing to wait for but their own ends.
const DRAIN_MAX: Duration = Duration::from_secs(2);

struct Side {
    name: String,
    plan: celerity_load::Plan,
    sidecar: Option<Sidecar>,
}

/// A side as it was asked for, checked: what is wrong with it is wrong usage. Nothing runs yet.
struct Asked {
    name: String,
    plan: celerity_load::Plan,
    /// Of the sidecar that the target is reached through.
    config: Option<Config>,
}

/// Both forms, for whoever wrote neither.
const FORMS: &str = "write `celerity ab --baseline URL --candidate URL`, or `celerity ab --baseline-config DIR --candidate-config DIR --target URL`";

/// The arms of one form or of the other. By hand, for a mixture of both is best answered with both.
enum Form<'a> {
    Urls(&'a String, &'a String),
    Configs(&'a PathBuf, &'a PathBuf, &'a String),
}

fn form(args: &Args) -> anyhow::Result<Form<'_>> {
    let (baseline, candidate) = (args.baseline.as_ref(), args.candidate.as_ref());
    let configs = (args.baseline_config.as_ref(), args.candidate_config.as_ref(), args.target.as_ref());
    let configured = args.identity.is_some() || !args.config.is_empty();
    match (baseline, candidate, configs) {
        (Some(baseline), Some(candidate), (None, None, None)) if !configured => Ok(Form::Urls(baseline, candidate)),
        (None, None, (Some(baseline), Some(candidate), Some(target))) => Ok(Form::Configs(baseline, candidate, target)),
        (None, None, (None, None, None)) => anyhow::bail!("there is nothing to compare: {FORMS}"),
        (None, None, (_, _, None)) => {
            anyhow::bail!("--target says what is requested through both configurations, and is missing: {FORMS}")
        }
        (None, None, _) => anyhow::bail!("two configurations are compared, and one is missing: {FORMS}"),
        (Some(_), Some(_), (None, None, None)) => {
            anyhow::bail!(
                "--config and --identity are for the sidecars of two configurations, not for two URLs: {FORMS}"
            )
        }
        (_, _, (None, None, None)) => anyhow::bail!("two URLs are compared, and one is missing: {FORMS}"),
        _ => anyhow::bail!("two URLs or two configurations are compared, and this is some of both: {FORMS}"),
    }
}

fn asked(args: &Args) -> anyhow::Result<[Asked; 2]> {
    let (baseline, candidate, target) = match form(args)? {
        Form::Configs(baseline, candidate, target) => (baseline, candidate, target),
        Form::Urls(baseline, candidate) => {
            let side = |url: &String| {
                Ok::<_, anyhow::Error>(Asked { name: url.clone(), plan: args.client.plan(url)?, config: None })
            };
            return Ok([side(baseline)?, side(candidate)?]);
        }
    };
    if let Some(folder) = args.identity.as_ref().filter(|folder| !folder.is_dir()) {
        anyhow::bail!("--identity {}: there is no such folder (`celerity ca` makes one)", folder.display());
    }
    let side = |folder: &Path| -> anyhow::Result<Asked> {
        let plan = args.client.plan(target)?;
        // The sidecar ends the client's connection, so TLS begins behind it, as its configuration says.
        let plain = plan.origins.iter().all(|origin| !origin.tls);
        anyhow::ensure!(plain, "{target}: a target under two configurations is an http URL");
        anyhow::ensure!(
            plan.proxy.is_none(),
            "--proxy and two configurations exclude each other: these are the proxies"
        );
        let mut paths = args.config.clone();
        paths.push(folder.to_owned());
        Ok(Asked { name: folder.display().to_string(), plan, config: Some(Loader::new(paths).load()?) })
    };
    Ok([side(baseline)?, side(candidate)?])
}

impl Asked {
    /// With a configuration, through a sidecar of its own.
    fn start(self, args: &Args) -> anyhow::Result<Side> {
        let Self { name, mut plan, config } = self;
        let Some(config) = config else { return Ok(Side { name, plan, sidecar: None }) };
        let outbound = free_port()?;
        let sidecar = Plan {
            node: node::describe(&Given::default())?,
            listen: Listen { outbound: Some(outbound), inbound: None, admin: None, prometheus: None, health: None },
            identity: args.identity.clone(),
            workers: None,
            access_log: None,
            ledger: true,
            log: Log::default(),
        };
        let sidecar =
            Sidecar::start(&config, sidecar).with_context(|| format!("the sidecar with {name} cannot start"))?;
        sidecar.settle();
        for origin in &mut plan.origins {
            origin.addresses = vec![outbound];
        }
        Ok(Side { name, plan, sidecar: Some(sidecar) })
    }
}

/// A port of loopback that is free now. Somebody else could take it before the sidecar does, which then says so.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("loopback has no free port")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_line_that_is_neither_form_is_told_both() {
        let form_of = |line: &str| {
            let line = std::iter::once("ab").chain(line.split_whitespace());
            let line = <Line as clap::Parser>::try_parse_from(line).expect("flags");
            form(&line.args).map(|_| ()).map_err(|error| error.to_string())
        };
        for right in ["--baseline a --candidate b", "--baseline-config a --candidate-config b --target c --config d"] {
            assert_eq!(form_of(right), Ok(()), "{right}");
        }
        for (wrong, why) in [
            ("", "nothing to compare"),
            ("--baseline a", "two URLs are compared, and one is missing"),
            ("--baseline-config a --candidate b", "some of both"),
            ("--baseline a --candidate b --target c", "some of both"),
            ("--baseline-config a --candidate-config b", "--target says"),
            ("--candidate-config b --target c", "two configurations are compared, and one is missing"),
            ("--baseline a --candidate b --identity c", "not for two URLs"),
        ] {
            let said = form_of(wrong).expect_err(wrong);
            assert!(said.contains(why) && said.contains(FORMS), "{wrong}: {said}");
        }
    }

    #[test]
    fn the_layout_is_checked_as_a_whole() {
        let layout = Layout {
            rate: 200.0,
            primary: Metric::P95,
            margin: None,
            block: None,
            pairs_max: 64,
            aa_pairs: 8,
            seed: 1,
        };
        let design = layout.design().expect("a design");
        assert_eq!((design.block, design.margin), (Duration::from_millis(5900), 0.05));
        let short = Layout { block: Some(Duration::from_secs(1)), ..layout };
        assert!(short.design().expect_err("too short").to_string().contains("make the block 5.9 s"));
    }
}
