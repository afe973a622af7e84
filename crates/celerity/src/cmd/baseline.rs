//! `celerity baseline`: keep a measurement, and check a later one against it.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use celerity_load::ab::design::{self, DISCARD_SHARE, FAILED_SHARE_MAX};
use celerity_load::ab::{BlockSpec, Metric, Verdict, text};
use celerity_load::baseline::{self, Baseline, BaselineError, BlockRecord, Check, Machine, Sending};
use celerity_load::stats::Rng;
use celerity_load::{Control, Plan, measure as measuring};

use crate::client::{self, Client, Message, Way};
use crate::cmd::ab;
use crate::cmd::analyze::Format;
use crate::{duration, interrupt, term};

/// Keep a measured baseline, and check a later measurement against it, for pipelines
///
/// check sends what save sent: method, body, rate, connections and the rest are kept with the baseline. Where it goes and as
/// whom may be given anew: --url, --proxy, headers and TLS.
///
/// Exit codes of check: 0 nothing is worse, 1 a latency or the failures are, 2 usage, 4 inconclusive or another machine.
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
    Check(Box<CheckArgs>),
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

    /// The quantile that the blocks are made for: it and those below it are judged, those above are described
    #[arg(long, value_name = "p50|p95|p99", default_value = "p95", value_parser = ab::metric)]
    pub(crate) primary: Metric,

    /// Length of each of the 8 blocks [default: as short as the quantile allows, 50 requests beyond it, and at least 1 s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) block: Option<Duration>,

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

    /// Another URL than the kept one, such as the same service at another port; what is sent, and how, is the kept
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// The highest quantile that is judged [default: the one that the blocks were made for]
    #[arg(long, value_name = "p50|p95|p99", value_parser = ab::metric)]
    pub(crate) primary: Option<Metric>,

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
    pub(crate) way: Way,

    /// How the result is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Beside the project's sources, so that a pipeline can keep it with them.
const FOLDER: &str = ".celerity/baselines";
/// Wrong usage that only the values show.
const USAGE: u8 = 2;
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
    // What cannot be is refused before minutes of measuring.
    let block = args.block.unwrap_or_else(|| design::shortest_block(args.primary, args.rate));
    let asked = || -> anyhow::Result<Plan> {
        baseline::may_save(&args.dir, &args.name)?;
        design::check_block(args.primary, args.rate, block)?;
        args.client.plan(&args.url)
    };
    let plan = match asked() {
        Ok(plan) => plan,
        Err(error) => return Ok(usage(&error)),
    };
    let (blocks, whole) = blocks(&plan, args.rate, block, true)?;
    if !whole {
        term::note("stopped: nothing was saved");
        return Ok(ExitCode::from(4));
    }
    let (failed, why) = baseline::failures(&blocks);
    let failing =
        format!("{:.2} % of the requests fail ({})", failed * 100.0, why.as_deref().unwrap_or("no reason known"));
    anyhow::ensure!(failed < FAILED_SHARE_MAX, "{failing}: a baseline of that compares nothing, so nothing was saved");
    let silent = blocks.iter().filter(|block| block.times.is_none()).count();
    anyhow::ensure!(silent == 0, "{} answered nothing in {silent} blocks: nothing was saved", args.url);
    if failed > 0.0 {
        term::note(format_args!("{failing}: the baseline is saved so, and a check takes that as usual"));
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let kept = Baseline {
        version: baseline::VERSION,
        name: args.name.clone(),
        saved_unix_ms: since.as_millis() as u64,
        machine: Machine::read(),
        load: baseline::Load {
            url: args.url.clone(),
            per_second: args.rate,
            block_ms: block.as_millis() as u64,
            primary: args.primary,
            sending: sending(&args.client, plan.threads),
        },
        blocks,
    };
    let path = kept.save(&args.dir)?;
    term::line(format_args!("{}", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut kept = match Baseline::read(&args.dir, &args.name) {
        Err(error @ BaselineError::Name(_)) => return Ok(usage(&error.into())),
        Err(BaselineError::File { path, source, .. }) if source.kind() == ErrorKind::NotFound => {
            let name = &args.name;
            return Ok(usage(&anyhow::anyhow!(
                "there is no baseline {}: `celerity baseline save {name} URL` keeps one",
                path.display()
            )));
        }
        read => read?,
    };
    kept.load.primary = args.primary.unwrap_or(kept.load.primary);
    // A file of an older version may hold blocks that are too short for it, too.
    if let Err(error) = kept.load.shows(kept.load.primary) {
        let cannot = format!("the kept blocks do not show a {}: save it anew", kept.load.primary.as_str());
        return Ok(usage(&anyhow::Error::new(error).context(cannot)));
    }
    let machine = Machine::read();
    let client = client(&kept.load.sending, &args.way);
    let plan = match client.plan(args.url.as_deref().unwrap_or(&kept.load.url)) {
        Ok(plan) => plan,
        Err(error) => return Ok(usage(&error)),
    };
    let differences = kept.machine.differences(&machine);
    let block = Duration::from_millis(kept.load.block_ms);
    // On another machine there is nothing to compare, so nothing is measured.
    let (now, whole) = if differences.is_empty() || args.any_machine {
        blocks(&plan, kept.load.per_second, block, false)?
    } else {
        (Vec::new(), true)
    };
    let check = kept.check(&now, &machine, args.margin, args.any_machine);
    let shown = term::shown(&match args.format {
        Format::Text => render(&check, whole),
        Format::Json => serde_json::to_string_pretty(&check)? + "\n",
    });
    Ok(term::with_unwritten(check.verdict.exit_code(), shown.err()))
}

fn usage(error: &anyhow::Error) -> ExitCode {
    term::error(error);
    ExitCode::from(USAGE)
}

/// What is kept of the flags. The number of threads is the one that was measured with, given or not.
fn sending(client: &Client, threads: u32) -> Sending {
    let Client { message, way } = client.clone();
    Sending {
        method: message.method,
        data: message.data,
        http2: message.http2,
        streams_per_connection: message.streams,
        keep_alive: !message.no_keepalive,
        connections: message.connections,
        timeout_ms: message.timeout.as_millis() as u64,
        connect_timeout_ms: message.connect_timeout.as_millis() as u64,
        threads,
        headers: way.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
        proxy: way.proxy,
        cacert: way.cacert,
        cert: way.cert,
        key: way.key,
        insecure: way.insecure,
        server_name: way.server_name,
    }
}

/// The kept flags, with the way that was given anew where it was.
fn client(kept: &Sending, given: &Way) -> Client {
    let kept = kept.clone();
    let message = Message {
        method: kept.method,
        data: kept.data,
        http2: kept.http2,
        streams: kept.streams_per_connection,
        no_keepalive: !kept.keep_alive,
        connections: kept.connections,
        timeout: Duration::from_millis(kept.timeout_ms),
        connect_timeout: Duration::from_millis(kept.connect_timeout_ms),
        threads: Some(kept.threads),
    };
    let headers = kept.headers.iter().filter_map(|header| header.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let given = given.clone();
    let anew = |own: &(String, String)| given.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(&own.0));
    let way = Way {
        headers: headers.filter(|own| !anew(own)).chain(given.headers.iter().cloned()).collect(),
        proxy: given.proxy.or(kept.proxy),
        cacert: given.cacert.or(kept.cacert),
        cert: given.cert.or(kept.cert),
        key: given.key.or(kept.key),
        insecure: given.insecure || kept.insecure,
        server_name: given.server_name.or(kept.server_name),
    };
    Client { message, way }
}

/// All blocks, also those without an answer; false if somebody stopped it. A service that cannot be reached at all is an
/// error; one that was there and has gone has lost the blocks that follow.
///
/// With `needs_answers` a first block in which every request fails is an error, too: nothing better is to be waited for.
fn blocks(
    plan: &Plan,
    per_second: f64,
    duration: Duration,
    needs_answers: bool,
) -> anyhow::Result<(Vec<BlockRecord>, bool)> {
    let control = Control::new();
    let interrupt = interrupt::watch(&control)?;
    let mut blocks = Vec::with_capacity(baseline::BLOCKS);
    // One more, first: it warms up and is dropped.
    for number in 0..=baseline::BLOCKS {
        let seed = Rng::stream(SEED, number as u64).next_u64();
        let spec = BlockSpec { seed, per_second, duration, discard: duration.mul_f64(DISCARD_SHARE) };
        let block = match measuring::block(plan, &spec, &control) {
            Err(error) if error.unreachable && number > 0 => spec.lost(),
            block => block?,
        };
        if interrupt.asked() || block.interrupted {
            return Ok((blocks, false));
        }
        if number == 0 {
            let all_failed = block.failed > 0 && block.succeeded == 0;
            let why = block.failure.as_deref().unwrap_or("no reason known");
            anyhow::ensure!(!(needs_answers && all_failed), "100.00 % of the requests fail ({why}): nothing was saved");
            continue;
        }
        let record = BlockRecord::from(&block);
        let ms = |ns: u64| text::millis(ns as f64 / 1e6);
        let times = record
            .times
            .map_or("no answer".to_owned(), |times| format!("p50 {}, p99 {}", ms(times.p50_ns), ms(times.p99_ns)));
        let failure =
            record.failure.as_ref().map_or_else(String::new, |why| format!(", {} failed: {why}", record.failed));
        term::note(format_args!("block {number} of {}: {times}{failure}", baseline::BLOCKS));
        blocks.push(record);
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
            "  {:<5} {:>12} {:>12} {:>10}   {}{}\n",
            metric.metric.as_str(),
            text::millis(metric.baseline_ms),
            text::millis(metric.now_ms),
            text::percent(metric.change.value),
            text::interval(metric.change),
            if metric.judged {
                ""
            } else {
                "   described: above the primary, or too few requests of a block lie beyond it"
            }
        ));
    }
    let (then, now) = (check.baseline_error_share * 100.0, check.error_share * 100.0);
    out.push_str(&format!("  {:<5} {then:>10.3} % {now:>10.3} %\n", "fail"));
    for difference in &check.machine {
        out.push_str(&format!("  another machine: {difference}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        client: Client,
    }

    #[test]
    fn a_check_sends_what_was_saved_and_goes_the_way_that_is_given_anew() {
        let line = "save -m PUT -d {} -H a:1 -H b:2 -x http://p:1 --timeout 3s --connections 7 --cacert ca.pem --http2";
        let line = <Line as clap::Parser>::try_parse_from(line.split_whitespace()).expect("flags");
        let kept = sending(&line.client, 2);
        let text = serde_json::to_string(&kept).expect("JSON");
        let kept: Sending = serde_json::from_str(&text).expect("what was saved");
        let same = client(&kept, &Way::default());
        assert_eq!(sending(&same, 2), kept);
        assert_eq!((same.message.threads, same.message.timeout), (Some(2), Duration::from_secs(3)));
        let way = Way { headers: vec![("A".into(), "9".into())], proxy: Some("http://q:2".into()), ..Way::default() };
        let moved = client(&kept, &way);
        assert_eq!(moved.way.headers, [("b".into(), "2".into()), ("A".into(), "9".into())]);
        assert_eq!((moved.way.proxy.as_deref(), moved.way.cacert), (Some("http://q:2"), line.client.way.cacert));
    }
}
