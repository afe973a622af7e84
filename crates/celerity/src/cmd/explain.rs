//! `celerity explain`: one request taken apart, through every hop of the mesh.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use celerity_load::Control;
use celerity_load::explain::{
    self, Account, Connection, Gathered, Plan, REQUESTS_MAX, Style, Tls, answer_json, answer_text, distribution_json,
    distribution_page, distribution_text, page,
};
use celerity_load::target::{self, Origin};

use crate::interrupt::{self, Interrupt};
use crate::{duration, term};

/// Show where one request's time goes: name lookup, connect, TLS, every hop's ledger, body
///
/// A request as curl sends it, timed in curl's segments. It asks each sidecar on its way for its own account
/// (x-celerity-ledger: hops) and joins them: the network is what one side waited less what the next accounts for.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity explain --proxy http://127.0.0.1:15001 http://user-service/api/users/123\n  celerity explain -n 100 --keep-alive -H 'Host: user-service' http://127.0.0.1:15001/api/users\n  celerity explain --format json --html waterfall.html --cacert ca.pem https://localhost:8443/\n\nExit code: 0 answered, 1 no answer, 2 usage."
)]
pub(crate) struct Args {
    /// What to ask for; without a scheme it is http
    #[arg(value_name = "URL", value_parser = target::parse)]
    pub(crate) url: (Origin, String),

    /// Method; GET, or POST where there is a body
    #[arg(short = 'X', long, value_name = "METHOD", value_parser = method)]
    pub(crate) request: Option<String>,

    /// Header field as `Name: value`; `Name:` takes away one that is sent by default
    #[arg(short = 'H', long, value_name = "FIELD", value_parser = explain::field)]
    pub(crate) header: Vec<(String, Option<String>)>,

    /// Body of the request; @FILE reads it from a file
    #[arg(short, long, value_name = "DATA")]
    pub(crate) data: Option<String>,

    /// So many requests, one after the other: percentiles of each part, the middle beside the slow
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(REQUESTS_MAX)))]
    pub(crate) requests: u32,

    /// Send them all on one connection, as far as the server keeps it
    #[arg(long)]
    pub(crate) keep_alive: bool,

    /// Forward proxy, as curl takes it from http_proxy: http://host:port
    #[arg(short = 'x', long, value_name = "URL", value_parser = target::parse)]
    pub(crate) proxy: Option<(Origin, String)>,

    /// Use these addresses for a name
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = explain::resolve)]
    pub(crate) resolve: Vec<(String, u16, Vec<std::net::SocketAddr>)>,

    /// Authorities to trust, PEM; else those of SSL_CERT_FILE or of the system
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// Certificate to show, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// Its key, PEM; else it is looked for in --cert's file
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Trust whoever answers
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,

    /// Give up after this time, name lookup to last byte
    #[arg(short = 'm', long, value_name = "DURATION", default_value = "30s", value_parser = limit)]
    pub(crate) max_time: Duration,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Write a page with the waterfall, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

fn method(text: &str) -> Result<String, String> {
    let token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match token && text != "CONNECT" {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not a method that can be sent: GET, POST and the like")),
    }
}

/// A duration, or as in curl a plain number of seconds.
fn limit(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds.map_or_else(|| duration::parse(text), Ok)? {
        Duration::ZERO => Err("a limit of 0 lets nothing succeed".to_owned()),
        limit => Ok(limit),
    }
}

/// Different reasons of failure told apart; more are counted under the first that came after.
const REASONS_MAX: usize = 16;
const EXIT_USAGE: u8 = 2;
/// Between two lines of progress on a terminal.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(error) => {
            term::error(&error);
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let url = format!("{}://{}{}", plan.origin.scheme(), plan.origin.authority(), plan.path);
    let (method, title) = (plan.method.clone(), format!("{} {url}", plan.method));
    let mut connection = match Connection::new(plan) {
        Ok(connection) => connection,
        Err(error) => {
            term::error(&error.into());
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let terminal = std::io::stdout().is_terminal();
    let style = Style { columns: term::columns(), colour: term::colour(terminal) };
    let page = if args.requests == 1 {
        let answer = connection.ask()?;
        let account = Account::of(&answer.segments, &answer.hops);
        term::result(&match args.format {
            Format::Text => answer_text(&title, &answer, &account, style),
            Format::Json => serde_json::to_string_pretty(&answer_json(&url, &method, &answer, &account))? + "\n",
        })?;
        page(&title, &answer, &account)
    } else {
        let interrupt = interrupt::watch(&Control::new())?;
        let (gathered, failed, asked) = gather(&mut connection, args.requests, &interrupt);
        let answered = gathered.len();
        if asked < args.requests {
            term::note(format_args!("stopped after {asked} of {} requests", args.requests));
        }
        let found = gathered.distribution();
        match (&found, args.format) {
            (_, Format::Json) => {
                let json = distribution_json(&url, &method, &failed, found.as_ref());
                term::result(&(serde_json::to_string_pretty(&json)? + "\n"))?;
            }
            (Some(found), Format::Text) => {
                // In a file names need not be cut.
                let style = if terminal { style } else { Style { columns: usize::MAX, ..style } };
                term::result(&distribution_text(&title, &failed, found, style))?;
            }
            (None, Format::Text) => {}
        }
        let Some(found) = found else {
            let reason = failed.first().map_or("no reason known", |(reason, _)| reason);
            bail!("none of {asked} requests was answered: {reason}");
        };
        if answered < asked as usize {
            write(args.html.as_deref(), &distribution_page(&title, &failed, &found))?;
            return Ok(ExitCode::FAILURE);
        }
        distribution_page(&title, &failed, &found)
    };
    write(args.html.as_deref(), &page)?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: Option<&Path>, page: &str) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, page).with_context(|| format!("the page cannot be written to {}", path.display()))
}

/// Sends the requests one after the other, until somebody stops it; the third is how many were sent. A failed one is counted
/// by its reason.
fn gather(connection: &mut Connection, requests: u32, interrupt: &Interrupt) -> (Gathered, Vec<(String, u64)>, u32) {
    let mut gathered = Gathered::default();
    let mut failed: Vec<(String, u64)> = Vec::new();
    let shows = std::io::stderr().is_terminal();
    let mut shown = Instant::now();
    let mut asked = 0;
    while asked < requests && !interrupt.asked() {
        asked += 1;
        match connection.ask() {
            Ok(answer) => gathered.add(&Account::of(&answer.segments, &answer.hops)),
            Err(error) => {
                let reason = error.to_string();
                let known = failed.iter().position(|(own, _)| *own == reason);
                match known.or((failed.len() == REASONS_MAX).then_some(REASONS_MAX - 1)) {
                    Some(at) => failed.get_mut(at).into_iter().for_each(|(_, count)| *count += 1),
                    None => failed.push((reason, 1)),
                }
            }
        }
        if shows && shown.elapsed() >= PROGRESS_EVERY {
            shown = Instant::now();
            term::rewrite(&format!("{asked} of {requests}"));
        }
    }
    if shows {
        term::rewrite("");
    }
    (gathered, failed, asked)
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let (origin, path) = args.url.clone();
    let body = match args.data.as_deref() {
        None => Vec::new(),
        Some(data) => match data.strip_prefix('@') {
            Some(path) => std::fs::read(path).with_context(|| format!("the body cannot be read from {path}"))?,
            None => data.as_bytes().to_vec(),
        },
    };
    let default = if args.data.is_some() { "POST" } else { "GET" };
    let mut headers = Vec::new();
    let mut without = Vec::new();
    for (name, value) in &args.header {
        match value {
            Some(value) => headers.push((name.clone(), value.clone())),
            None => without.push(name.clone()),
        }
    }
    Ok(Plan {
        origin,
        path,
        method: args.request.clone().unwrap_or_else(|| default.to_owned()),
        headers,
        without,
        body,
        proxy: args.proxy.as_ref().map(|(origin, _)| origin.clone()),
        resolve: args.resolve.clone(),
        tls: Tls {
            ca: args.cacert.clone(),
            certificate: args.cert.clone(),
            key: args.key.clone(),
            insecure: args.insecure,
        },
        time_max: args.max_time,
        keep_alive: args.keep_alive,
    })
}
