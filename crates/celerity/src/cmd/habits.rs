//! `celerity load --as wrk|hey|vegeta`: another tool's command line, read as that tool reads it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::process::ExitCode;

use anyhow::Context;
use celerity_load::control::{Control, Stop};
use celerity_load::habits::hey::{CSV_HEAD, Hey, csv_line};
use celerity_load::habits::rows::{Row, Rows};
use celerity_load::habits::vegeta::{Attack, Stream};
use celerity_load::habits::vegeta_report::Report;
use celerity_load::habits::wrk::Wrk;
use celerity_load::plan::Proxy;
use celerity_load::summary::ErrorKind;
use celerity_load::target::Origin;
use celerity_load::{Error, Plan, Ready, Summary, habits};

use super::load::end::{self, EXIT_NOT_ACHIEVED, EXIT_USAGE};
use crate::interrupt::{self, Signals};
use crate::term;

/// Takes the command line where it says `load --as TOOL`. What follows the tool's name is the tool's; clap, which has
/// its own idea of `-t12` and `-duration=30s`, does not see it.
pub(crate) fn taken(args: &[String]) -> Option<anyhow::Result<ExitCode>> {
    let [_, verb, rest @ ..] = args else { return None };
    if verb != "load" {
        return None;
    }
    let (tool, rest) = match rest {
        [flag, tool, rest @ ..] if flag == "--as" => (tool.as_str(), rest),
        [flag, rest @ ..] if flag.starts_with("--as=") => (flag.trim_start_matches("--as="), rest),
        rest => return late(rest),
    };
    if let Some(text) = habits::help(tool, rest) {
        return Some(Ok(printed(&text)));
    }
    Some(match tool {
        "wrk" => wrk(rest),
        "hey" => hey(rest),
        "vegeta" => vegeta(rest),
        other => Ok(usage(&format!("--as {}: there are wrk, hey and vegeta", other.escape_debug()))),
    })
}

/// `--as` behind other arguments: they would have been read in another tool's way, so the line is refused whole.
fn late(args: &[String]) -> Option<anyhow::Result<ExitCode>> {
    let late = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--as" || arg.starts_with("--as="));
    late.then(|| {
        Ok(usage("put --as first: `celerity load --as wrk -t2 -c50 -d10s URL`; all that follows it is the tool's own"))
    })
}

fn usage(text: &str) -> ExitCode {
    term::error(&anyhow::Error::msg(text.to_owned()));
    ExitCode::from(EXIT_USAGE)
}

fn could_not_begin(error: Error) -> ExitCode {
    let error = error.into();
    term::error(&error);
    ExitCode::from(end::could_not_begin(&error))
}

fn printed(text: &str) -> ExitCode {
    term::with_unwritten(0, term::shown(text).err())
}

/// 0 where anything was answered, as those tools have it; a script that failed, and results that could not be written, are
/// told.
fn ended(summary: &Summary, unwritten: &[String]) -> ExitCode {
    if let Some(text) = summary.error_examples.get(&ErrorKind::Script) {
        return usage(text);
    }
    if summary.succeeded + summary.failed_answers == 0 {
        end::tell_unanswered(summary);
        return term::with_unwritten(EXIT_NOT_ACHIEVED, unwritten.iter().cloned());
    }
    term::with_unwritten(0, unwritten.iter().cloned())
}

type Write = Box<dyn FnMut(&[Row]) -> io::Result<()> + Send>;

/// Where rows come out, what writes them, and where to.
struct Writing {
    rows: std::sync::mpsc::Receiver<Vec<Row>>,
    write: Write,
    place: String,
}

/// What a run gave, and what of it could not be written.
type Done = (Summary, Vec<String>);

/// Runs until the plan is through or Ctrl-C; `begins` is called when nothing stands in its way any more. Rows are written
/// meanwhile, on a thread of their own. Takes the plan, for it holds an end of the rows.
fn run(plan: Plan, writing: Option<Writing>, begins: impl FnOnce()) -> anyhow::Result<Result<Done, Error>> {
    let control = Control::new();
    let signals = interrupt::watch_run(&control)?;
    let writer = match writing {
        None => None,
        Some(Writing { rows, mut write, place }) => {
            let control = control.clone();
            let thread = std::thread::Builder::new().name("rows".into()).spawn(move || {
                let mut written = Ok(());
                // Read to the end even when nobody listens any more: the senders must not be held up.
                for batch in rows {
                    if written.is_ok() {
                        written = write(&batch);
                        if written.is_err() {
                            control.stop(Stop::Gently);
                        }
                    }
                }
                end::heard(&place, written)
            });
            Some(thread.context("a thread for the results cannot be started")?)
        }
    };
    let done = Ready::new(&plan, &control).and_then(|ready| {
        begins();
        ready.run(&control)
    });
    drop(plan);
    let unwritten = writer.and_then(|writer| writer.join().ok()?.err());
    signals.at_once();
    Ok(done.map(|summary| (summary, unwritten.into_iter().collect())))
}

fn wrk(args: &[String]) -> anyhow::Result<ExitCode> {
    let wrk = match Wrk::parse(args) {
        Ok(wrk) => wrk,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    let (plan, program) = match wrk.plan() {
        Ok(planned) => planned,
        Err(error) => return Ok(no_wrk(error)),
    };
    let mut unwritten = Vec::new();
    let (summary, _) = match run(plan, None, || unwritten.extend(term::shown(&wrk.banner()).err()))? {
        Ok(done) => done,
        Err(error) => return Ok(no_wrk(error)),
    };
    if unwritten.is_empty() {
        unwritten.extend(term::shown(&wrk.report(&summary)).err());
    }
    if let Some(program) = program
        && let Err(text) = program.done(&summary)
    {
        return Ok(usage(&text));
    }
    Ok(ended(&summary, &unwritten))
}

/// wrk says in its own words that there is no server.
fn no_wrk(error: Error) -> ExitCode {
    if !error.is_unreached() {
        return could_not_begin(error);
    }
    term::note(Wrk::unreached(&error));
    ExitCode::from(EXIT_NOT_ACHIEVED)
}

fn hey(args: &[String]) -> anyhow::Result<ExitCode> {
    let hey = match Hey::parse(args) {
        Ok(hey) => hey,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    let (send, rows) = Rows::new();
    let plan = match hey.plan(hey.csv.then_some(send)) {
        Ok(plan) => plan,
        Err(error) => return Ok(could_not_begin(error)),
    };
    let mut unwritten = Vec::new();
    let writing = hey.csv.then(|| {
        unwritten.extend(term::shown(CSV_HEAD).err());
        let write = |rows: &[Row]| {
            let text: String = rows.iter().filter_map(csv_line).collect();
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        Writing { rows, write: Box::new(write), place: "standard output".into() }
    });
    if !unwritten.is_empty() {
        return Ok(term::with_unwritten(0, unwritten));
    }
    let (summary, mut unwritten) = match run(plan, writing, || ())? {
        Ok(done) => done,
        Err(error) => return Ok(could_not_begin(error)),
    };
    if !hey.csv {
        unwritten.extend(term::shown(&hey.report(&summary)).err());
    }
    Ok(ended(&summary, &unwritten))
}

fn vegeta(args: &[String]) -> anyhow::Result<ExitCode> {
    match args {
        [verb, rest @ ..] if verb == "attack" => attack(rest),
        [verb, rest @ ..] if verb == "report" => report(rest),
        [verb, ..] => Ok(usage(&format!(
            "vegeta: the command `{}` is not supported: there are attack and report",
            verb.escape_debug()
        ))),
        [] => Ok(usage("vegeta: a command is needed: attack or report")),
    }
}

fn attack(args: &[String]) -> anyhow::Result<ExitCode> {
    let attack = match Attack::parse(args) {
        Ok(attack) => attack,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    let (send, rows) = Rows::new();
    let (mut plan, requests) = match attack.plan(&mut io::stdin().lock(), send) {
        Ok(planned) => planned,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    plan.proxy = match proxy_of(&plan.origins, |name| std::env::var(name).ok()) {
        Ok(proxy) => proxy,
        Err(why) => return Ok(usage(&why)),
    };
    let (out, place): (Box<dyn io::Write + Send>, _) = match &attack.output {
        None => (Box::new(io::stdout()), "standard output".to_owned()),
        Some(path) => match File::create(path) {
            Ok(file) => (Box::new(file), path.clone()),
            Err(error) => return Ok(usage(&format!("vegeta attack: {path} cannot be written: {error}"))),
        },
    };
    let started = time::OffsetDateTime::now_utc();
    let mut stream = Stream::new(BufWriter::new(out), &attack.name, started, &requests, &plan.origins);
    let writing = Writing { rows, write: Box::new(move |rows| stream.write(rows)), place };
    Ok(match run(plan, Some(writing), || ())? {
        Ok((summary, unwritten)) => ended(&summary, &unwritten),
        Err(error) => could_not_begin(error),
    })
}

/// The forward proxy that the environment names, as vegeta's HTTP client takes it: `http_proxy` or `https_proxy` by scheme,
/// in small or capital letters, never for this machine's own addresses, nor for what `no_proxy` lists.
fn proxy_of(origins: &[Origin], variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let either = |name: &str| variable(name).or_else(|| variable(&name.to_uppercase())).filter(|text| !text.is_empty());
    let spared = either("no_proxy").unwrap_or_default();
    let is_spared = |host: &str| {
        let own = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        own || spared
            .split(',')
            .map(|entry| entry.trim().trim_start_matches('.'))
            .any(|entry| entry == "*" || !entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
    };
    let mut found = origins.iter().map(|origin| {
        let name = if origin.tls { "https_proxy" } else { "http_proxy" };
        (!is_spared(&origin.host)).then(|| either(name).map(|text| (name, text))).flatten()
    });
    let first = found.next().flatten();
    if found.any(|other| other != first) {
        return Err(
            "vegeta attack: the environment sends some targets through a proxy and others not; attack them apart"
                .into(),
        );
    }
    let Some((name, text)) = first else { return Ok(None) };
    let url = if text.contains("://") { text } else { format!("http://{text}") };
    let (origin, _) = celerity_load::target::parse(&url).map_err(|why| format!("vegeta attack: {name}: {why}"))?;
    Ok(Some(Proxy { host: origin.host, port: origin.port, addresses: Vec::new() }))
}

fn report(args: &[String]) -> anyhow::Result<ExitCode> {
    let report = match Report::parse(args) {
        Ok(report) => report,
        Err(error) => return Ok(usage(&error.to_string())),
    };
    // The first Ctrl-C is for the attack at the other end of the pipe: what it has measured is still to come.
    Signals::listen(|| {})?.next(|_| term::note("the results are read to their end; Ctrl-C again stops at once"));
    let mut files = Vec::new();
    for path in &report.inputs {
        match File::open(path) {
            Ok(file) => files.push((path.clone(), BufReader::new(file))),
            Err(error) => return Ok(usage(&format!("vegeta report: {path} cannot be read: {error}"))),
        }
    }
    let mut stdin = io::stdin().lock();
    let mut inputs: Vec<(String, &mut dyn BufRead)> = Vec::new();
    if files.is_empty() {
        inputs.push(("standard input".into(), &mut stdin));
    }
    inputs.extend(files.iter_mut().map(|(name, file)| (name.clone(), file as &mut dyn BufRead)));
    match report.run(&mut inputs) {
        Ok(text) => Ok(match &report.output {
            None => printed(&text),
            Some(path) => match std::fs::write(path, text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => usage(&format!("vegeta report: {path} cannot be written: {error}")),
            },
        }),
        Err(error) => Ok(usage(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn only_another_tools_line_is_taken() {
        assert!(taken(&line("celerity load http://a --rate 3")).is_none());
        assert!(taken(&line("celerity up --as wrk")).is_none());
        assert!(taken(&line("celerity load")).is_none());
        for text in [
            "celerity load http://a --as wrk",
            "celerity load http://a --as=hey",
            "celerity load --as ab http://a",
            "celerity load --as=wrk -x http://a",
            "celerity load --as vegeta plot",
        ] {
            assert!(matches!(taken(&line(text)), Some(Ok(code)) if code == ExitCode::from(EXIT_USAGE)), "{text}");
        }
    }
    #[test]
    fn an_attack_goes_through_the_environments_proxy() {
        let origin = |url: &str| celerity_load::target::parse(url).expect("a URL").0;
        let of = |urls: &[&str], variables: &[(&str, &str)]| {
            let origins: Vec<_> = urls.iter().map(|url| origin(url)).collect();
            let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            proxy_of(&origins, variable).map(|proxy| proxy.map(|proxy| (proxy.host, proxy.port)))
        };
        let some = Ok(Some(("127.0.0.1".to_owned(), 15001)));
        assert_eq!(of(&["http://users/x"], &[("http_proxy", "http://127.0.0.1:15001")]), some);
        assert_eq!(of(&["http://users/x"], &[("HTTP_PROXY", "127.0.0.1:15001")]), some);
        for spared in ["http://localhost/", "http://127.0.1.1:80/", "https://users/", "http://a.corp/", "http://corp/"]
        {
            let variables = [("http_proxy", "127.0.0.1:15001"), ("no_proxy", "x, .corp")];
            assert_eq!(of(&[spared], &variables), Ok(None), "{spared}");
        }
        assert!(of(&["http://users/", "http://localhost/"], &[("http_proxy", "127.0.0.1:15001")]).is_err());
        assert!(of(&["http://users/"], &[("http_proxy", "ftp://x")]).is_err());
    }
}
