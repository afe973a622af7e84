//! `celerity load`: sends requests as a plan says, and reports what came of it.

pub(crate) mod end;
mod stages;
mod what;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use celerity_load::control::Control;
use celerity_load::plan::{
    Arrivals, ClientIdentity, Closed, Load, Open, Plan, Protocol, Proxy, Segment, Tls, WhenFull,
};
use celerity_load::report::{self, Outputs, Style};
use celerity_load::script::Program;
use celerity_load::slo::Slo;
use celerity_load::target;
use clap::ValueEnum;

use crate::{duration, interrupt, term};

/// Load a URL and report what its users would see: open loop by default, so that a stall is not hidden
///
/// An open loop (--rate, --stages) starts each request when its time has come; response times count from then. A closed
/// loop (-c) starts the next request of a connection when its last one has ended, as wrk and hey do.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity load http://127.0.0.1:8080/api/users --rate 2000 --for 30s\n  celerity load http://user-service/api/users -c 64 --for 10s --proxy http://127.0.0.1:15001\n  celerity load https://host/ --stages ramp:0..5000/60s,spike:1000..8000/60s --slo 'p99<50ms,success>99.9%'\n  celerity load --targets targets.txt --rate 500 --for 30s\n  celerity load http://127.0.0.1:50051 --grpc shop.v1.Orders/Total --proto orders.proto -d '{}'\n  celerity load --as wrk -t12 -c400 -d30s --latency http://127.0.0.1:8080/\n  celerity load --as hey -z 30s -c 50 http://127.0.0.1:8080/\n  echo 'GET http://127.0.0.1:8080/' | celerity load --as vegeta attack -duration=30s -rate=100 | celerity load --as vegeta report\n\nAfter `--as wrk`, `--as hey` or `--as vegeta` the rest of the line is that tool's own.\n\nExit codes: 0 all well, 1 an objective failed, 2 usage, 3 the offered rate was not achieved, or nothing was answered,\n4 the run is void: the sender was late or too busy"
)]
pub(crate) struct Args {
    /// http:// or https:// URL
    #[arg(value_name = "URL", required_unless_present = "targets", conflicts_with = "targets")]
    url: Option<String>,

    /// Instead of one URL: vegeta's targets, one after the other, from a file or - for standard input
    #[arg(long, value_name = "FILE|-")]
    targets: Option<String>,

    /// How the targets are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = TargetsFormat::Http, requires = "targets")]
    targets_format: TargetsFormat,

    /// wrk's Lua script, whose request() makes the requests
    #[arg(long, value_name = "FILE", conflicts_with_all = ["targets", "http2", "grpc", "method", "data"])]
    script: Option<PathBuf>,

    /// After --: what the script's init() is given
    #[arg(last = true, value_name = "ARGUMENT", requires = "script")]
    script_arguments: Vec<String>,

    /// Call this unary gRPC method with --data as its message in JSON; takes HTTP/2
    #[arg(long, value_name = "PACKAGE.SERVICE/METHOD", conflicts_with_all = ["targets", "method", "http2"])]
    grpc: Option<String>,

    /// What the messages of --grpc look like, may be repeated
    #[arg(long, value_name = "FILE", requires = "grpc")]
    proto: Vec<PathBuf>,

    /// Where the imports of --proto are looked up [the file's own folder]
    #[arg(long, value_name = "FOLDER", requires = "proto")]
    import_path: Vec<PathBuf>,

    /// Ask the server what the messages of --grpc look like
    #[arg(long, requires = "grpc", conflicts_with = "proto")]
    reflection: bool,

    /// Open loop: requests started in a second [100, where there is no -c and no --stages]
    #[arg(short = 'r', long, value_name = "N", value_parser = stages::rate, conflicts_with_all = ["concurrency", "stages"])]
    rate: Option<f64>,

    /// Open loop whose rate changes: hold:RATE/TIME, ramp:FROM..TO/TIME, step:FROM..TO/TIME[/STEPS], spike:BASE..PEAK/TIME[/LENGTH]
    #[arg(long, value_name = "STAGE,..", conflicts_with_all = ["concurrency", "run_for"])]
    stages: Option<String>,

    /// Closed loop: so many connections (times --streams), each starting a request when its last one has ended
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    concurrency: Option<u32>,

    /// How long requests are started, such as 30s or 5m [10s, where there is no -n]
    #[arg(long = "for", short = 'z', value_name = "DURATION", value_parser = duration::parse)]
    run_for: Option<Duration>,

    /// End after so many requests
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,

    /// When requests of an open loop come: constant, poisson, or burst:N (N at once)
    #[arg(long, value_name = "HOW", default_value = "poisson", value_parser = arrivals)]
    arrivals: Arrivals,

    /// What an open loop does when no connection is free: wait, which counts as latency, or drop, which counts as an error
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Full::Queue)]
    when_full: Full,

    /// Open loop: the most connections, opened as they are needed [256]
    #[arg(long, value_name = "N", conflicts_with = "concurrency", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: Option<u32>,

    /// Requests under way on one connection: HTTP/2 only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    streams: u32,

    /// HTTP/2: by ALPN over TLS, by prior knowledge over plain TCP
    #[arg(long)]
    http2: bool,

    /// Close each connection after one response
    #[arg(long)]
    no_keepalive: bool,

    /// Request method [GET, or POST with a body]
    #[arg(short, long, value_name = "METHOD")]
    method: Option<String>,

    /// Request header, may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Request body, or @FILE to read it from a file
    #[arg(short, long, value_name = "TEXT|@FILE")]
    data: Option<String>,

    /// Longest wait for a whole answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,

    /// Longest wait for TCP, proxy and TLS of a connection
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    connect_timeout: Duration,

    /// Forward proxy: http targets in absolute form, https targets through CONNECT
    #[arg(short = 'x', long, value_name = "http://HOST:PORT")]
    proxy: Option<String>,

    /// Certificates to trust instead of the system's, PEM
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,

    /// Client certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The client certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Take any server certificate
    #[arg(short = 'k', long)]
    insecure: bool,

    /// Name to ask for and to check in the server's certificate, instead of the URL's
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// Ask a Celerity mesh for its ledger and report where the time went
    #[arg(long)]
    ledger: bool,

    /// Sender threads [half the CPUs, at most one for each connection]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,

    /// The same seed gives the same intended send times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Send so long before measuring, at the first rate
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    warm_up: Duration,

    /// Objectives that must hold, such as 'p99<50ms,success>99.9%'
    #[arg(long, value_name = "OBJECTIVES")]
    slo: Option<Slo>,

    /// text for people, json for programs (docs/load.schema.json)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Write the run over time as CSV, a line for each bin of time
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Write the response times as HdrHistogram's percentile text
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Write a page with charts: latency over time, percentile spectrum, rate
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TargetsFormat {
    Http,
    Json,
}

impl From<TargetsFormat> for target::list::Format {
    fn from(format: TargetsFormat) -> Self {
        match format {
            TargetsFormat::Http => Self::Http,
            TargetsFormat::Json => Self::Json,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Full {
    Queue,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Open loop without `--connections`: enough for 25,000/s at 10 ms.
const OPEN_CONNECTIONS: u32 = 256;
const RATE_PER_SECOND: f64 = 100.0;
const RUN_FOR: Duration = Duration::from_secs(10);
/// With `-n` alone the schedule has no other end; a year is none.
const UNTIL_COUNT: Duration = Duration::from_secs(365 * 24 * 3600);

fn arrivals(text: &str) -> Result<Arrivals, String> {
    match text.split_once(':') {
        None if text == "constant" => Ok(Arrivals::Constant),
        None if text == "poisson" => Ok(Arrivals::Poisson),
        Some(("burst", size)) => match size.parse() {
            Ok(size) if size > 0 => Ok(Arrivals::Burst(size)),
            _ => Err(format!("`{size}` is not the size of a burst: write such as burst:50")),
        },
        _ => Err(format!("`{text}` is no kind of arrivals: write constant, poisson or burst:N")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or(format!("`{text}` is not a header: write 'Name: value'"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (plan, program) = match planned(args) {
        Ok(planned) => planned,
        Err(error) => {
            term::error(&error);
            return Ok(ExitCode::from(end::could_not_begin(&error)));
        }
    };
    let control = Control::new();
    let signals = interrupt::watch_run(&control)?;
    let done = show_while(&plan, &control, || celerity_load::run(&plan, &control));
    signals.at_once();
    let summary = match done {
        Ok(summary) => summary,
        Err(error) => {
            let error = error.into();
            term::error(&error);
            return Ok(ExitCode::from(end::could_not_begin(&error)));
        }
    };
    let outcomes = args.slo.as_ref().map(|slo| slo.evaluate(&summary)).unwrap_or_default();
    let text = match args.format {
        Format::Text => {
            let style = Style { columns: term::columns(), colour: term::colour(std::io::stdout().is_terminal()) };
            report::text::render(&summary, &outcomes, style)
        }
        Format::Json => serde_json::to_string_pretty(&report::json::render(&summary, &outcomes))? + "\n",
    };
    let mut unwritten: Vec<String> = term::shown(&text).err().into_iter().collect();
    let outputs = Outputs { csv: args.csv.clone(), hdr: args.hdr.clone(), html: args.html.clone() };
    unwritten.extend(outputs.write(&summary, &outcomes));
    end::tell_unanswered(&summary);
    let mut code = end::exit_code(&summary, &outcomes);
    if let Some(program) = program
        && let Err(text) = program.done(&summary)
    {
        term::error(&anyhow::Error::msg(text));
        code = end::EXIT_USAGE;
    }
    Ok(term::with_unwritten(code, unwritten))
}

/// Shows on standard error how the run goes: one line that is rewritten on a terminal, a line now and then elsewhere.
fn show_while<T>(plan: &Plan, control: &Control, run: impl FnOnce() -> T) -> T {
    let offered = match &plan.load {
        // What a ramp offers now would need its own reading; a constant rate is what one compares with.
        Load::Open(open) => match open.segments.as_slice() {
            [only] if only.from_per_second == only.to_per_second => Some(only.from_per_second),
            _ => None,
        },
        Load::Closed(_) => None,
    };
    let whole = plan.duration().filter(|whole| *whole < UNTIL_COUNT);
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let columns = terminal.then(term::columns);
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let shown = control.clone();
        scope.spawn(move || {
            report::progress::watch(&shown, offered, whole, columns, &ended, &mut std::io::stderr());
        });
        let done = run();
        drop(end);
        done
    })
}

/// The plan, and the script whose `done` is to be called after it.
fn planned(args: &Args) -> anyhow::Result<(Plan, Option<Arc<Program>>)> {
    let connections = args.concurrency.or(args.connections).unwrap_or(OPEN_CONNECTIONS);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let threads = args.threads.unwrap_or((cpus / 2).clamp(1, connections));
    let tls = tls(args)?;
    let what = what::what(args, threads, &tls)?;
    let mut origins = what.origins.into_iter();
    let first = origins.next().context("there is no target")?;
    let mut plan = Plan::new(first, what.source, load(args)?);
    plan.origins.extend(origins);
    if plan.origins.iter().any(|origin| origin.tls) {
        plan.tls = Some(tls);
    } else if args.cacert.is_some() || args.cert.is_some() || args.insecure || args.server_name.is_some() {
        anyhow::bail!("--cacert, --cert, -k and --server-name are for https targets, and there is none");
    }
    plan.protocol = if args.http2 || args.grpc.is_some() { Protocol::Http2 } else { Protocol::Http1 };
    plan.connections = connections;
    plan.streams_per_connection = args.streams;
    plan.keep_alive = !args.no_keepalive;
    plan.timeout = args.timeout;
    plan.connect_timeout = args.connect_timeout;
    plan.proxy = args.proxy.as_deref().map(proxy).transpose()?;
    plan.threads = threads;
    plan.seed = args.seed;
    plan.warm_up = args.warm_up;
    plan.capture.ledger = args.ledger;
    plan.check()?;
    Ok((plan, what.program))
}

fn load(args: &Args) -> anyhow::Result<Load> {
    let run_for = args.run_for.or(args.requests.is_none().then_some(RUN_FOR));
    if args.concurrency.is_some() {
        return Ok(Load::Closed(Closed {
            duration: run_for.map(|d| d.saturating_add(args.warm_up)),
            count: args.requests,
            slot_per_second: None,
        }));
    }
    let mut segments = match &args.stages {
        Some(text) => stages::parse(text).map_err(anyhow::Error::msg)?,
        None => vec![Segment::hold(args.rate.unwrap_or(RATE_PER_SECOND), run_for.unwrap_or(UNTIL_COUNT))],
    };
    if let Some(first) = segments.first().filter(|_| !args.warm_up.is_zero()) {
        segments.insert(0, Segment::hold(first.from_per_second, args.warm_up));
    }
    let when_full = match args.when_full {
        Full::Queue => WhenFull::Queue,
        Full::Drop => WhenFull::Drop,
    };
    Ok(Load::Open(Open { segments, arrivals: args.arrivals, when_full, count: args.requests }))
}

fn tls(args: &Args) -> anyhow::Result<Tls> {
    let read = |file: &PathBuf| -> anyhow::Result<Arc<[u8]>> {
        Ok(std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?.into())
    };
    let client = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some(ClientIdentity { cert_pem: read(cert)?, key_pem: read(key)? }),
        _ => None,
    };
    Ok(Tls {
        ca_pem: args.cacert.as_ref().map(read).transpose()?,
        client,
        server_name: args.server_name.clone(),
        insecure: args.insecure,
    })
}

fn proxy(url: &str) -> anyhow::Result<Proxy> {
    let (origin, path) = target::parse(url).map_err(anyhow::Error::msg)?;
    if origin.tls || path != "/" {
        anyhow::bail!("`{url}` is not a proxy: write http://HOST:PORT");
    }
    Ok(Proxy { host: origin.host, port: origin.port, addresses: Vec::new() })
}

#[cfg(test)]
mod tests {
    use celerity_load::source::Source;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> anyhow::Result<Plan> {
        let line = <Line as clap::Parser>::try_parse_from(std::iter::once("load").chain(line.split_whitespace()))?;
        planned(&line.args).map(|(plan, _)| plan)
    }

    #[test]
    fn arguments_become_a_plan() {
        let plan = parsed("http://a/x --rate 2000 --for 30s --arrivals constant -H host:b -d hi").expect("a plan");
        assert!(
            matches!(&plan.load, Load::Open(open) if open.segments == [Segment::hold(2000.0, Duration::from_secs(30))])
        );
        let Source::Static(requests) = &plan.source else { panic!("static") };
        assert_eq!((requests[0].method.as_str(), &*requests[0].body), ("POST", &b"hi"[..]));
        let plan = parsed("https://a -c 64 -n 100 -k --threads 2").expect("a plan");
        assert!(matches!(&plan.load, Load::Closed(c) if c.count == Some(100) && c.duration.is_none()));
        assert_eq!((plan.connections, plan.threads), (64, 2));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "http://a -c 2 --rate 3",
            "http://a --streams 4",
            "http://a --cert x",
            "http://a -k",
            "ftp://a",
            "http://a --arrivals burst:0",
            "http://a --stages ramp:1",
            "http://a -c 1 --threads 2",
            "http://a -x https://b",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
