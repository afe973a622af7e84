//! wrk's command line and its report.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::flags::{Arg, getopt};
use super::units::{parse_wrk_count, parse_wrk_duration, wrk_bytes, wrk_metric, wrk_time};
use super::{Usage, header};
use crate::plan::{Closed, Load, Plan, Tls};
use crate::script::{Program, Target, Text, stats};
use crate::source::{Request, Source};
use crate::summary::ErrorKind;
use crate::{Error, Summary, target};

/// wrk's own defaults.
const THREADS: u32 = 2;
const CONNECTIONS: u32 = 10;
const DURATION: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) const HELP: &str = "Usage: celerity load --as wrk <options> <url> [-- arguments of the script]
  -c, --connections <N>  connections, all threads together [10]
  -d, --duration <T>     length of the run, such as 30s [10s]
  -t, --threads <N>      threads [2]
  -s, --script <FILE>    Lua script
  -H, --header <H>       header of every request, may be repeated
  -L, --latency          show the distribution of latencies
  -T, --timeout <T>      longest wait for an answer [2s]
";

/// A wrk command line.
#[derive(Clone, Debug)]
pub struct Wrk {
    pub url: String,
    pub threads: u32,
    pub connections: u32,
    pub duration: Duration,
    pub timeout: Duration,
    pub latency: bool,
    pub headers: Vec<(String, String)>,
    pub script: Option<String>,
    /// What follows `--`, for the script.
    pub extra: Vec<String>,
}

impl Wrk {
    /// # Errors
    /// What wrk would refuse, and what is not supported, by name.
    pub fn parse(args: &[String]) -> Result<Self, Usage> {
        let long = [
            ("connections", "c"),
            ("duration", "d"),
            ("threads", "t"),
            ("script", "s"),
            ("header", "H"),
            ("latency", "L"),
            ("timeout", "T"),
        ];
        let (list, extra) = getopt("wrk", args, &["c", "d", "t", "s", "H", "T"], &["L"], &long)?;
        let mut out = Self {
            url: String::new(),
            threads: THREADS,
            connections: CONNECTIONS,
            duration: DURATION,
            timeout: TIMEOUT,
            latency: false,
            headers: Vec::new(),
            script: None,
            extra,
        };
        let mut urls = Vec::new();
        for arg in list {
            let (name, value) = match arg {
                Arg::Plain(url) => {
                    urls.push(url);
                    continue;
                }
                Arg::Flag { name, value } => (name, value),
            };
            let count = || {
                parse_wrk_count(&value).filter(|&n| n > 0).ok_or_else(|| {
                    Usage::new(format!("wrk: -{name} {value}: it must be a number above 0, such as 400 or 1k"))
                })
            };
            let time = || {
                parse_wrk_duration(&value)
                    .filter(|d| !d.is_zero())
                    .ok_or_else(|| Usage::new(format!("wrk: `{value}` is not a duration: write 30s, 2m or 1h")))
            };
            match name.as_str() {
                "c" => out.connections = count()?,
                "t" => out.threads = count()?,
                "d" => out.duration = time()?,
                "T" => out.timeout = time()?,
                "L" => out.latency = true,
                "H" => out.headers.push(header("wrk", &value)?),
                _ => out.script = Some(value),
            }
        }
        if let [url] = urls.as_slice() {
            out.url.clone_from(url);
        } else {
            return Err(Usage::new(format!("wrk: one URL is needed, and {} are given", urls.len())));
        }
        if out.connections < out.threads {
            return Err(Usage::new("wrk: number of connections must be >= threads"));
        }
        Ok(out)
    }

    /// The plan of the run, and the script where there is one: its [`Program::done`] is to be called with the summary.
    ///
    /// # Errors
    /// The URL or the script cannot be used, or the script's host has no address.
    pub fn plan(&self) -> Result<(Plan, Option<Arc<Program>>), Error> {
        let (origin, path) = target::parse(&self.url).map_err(Error::Plan)?;
        let (source, program) = match &self.script {
            None => {
                let request = Request { headers: self.headers.clone(), ..Request::get(path) };
                (Source::single(request), None)
            }
            Some(script) => {
                let args = std::iter::once(self.url.clone()).chain(self.extra.iter().cloned()).collect();
                let text = Text::read(Path::new(script), args).map_err(Error::Script)?;
                let program = Arc::new(
                    Program::load(
                        text,
                        &Target::resolve(&self.url, &origin, path, self.headers.clone())?,
                        self.threads,
                    )
                    .map_err(Error::Script)?,
                );
                (Source::Script(program.clone()), Some(program))
            }
        };
        let tls = origin.tls.then(|| Tls { insecure: true, ..Tls::default() });
        let load = Load::Closed(Closed { duration: Some(self.duration), count: None, slot_per_second: None });
        let plan = Plan {
            // As with wrk: the same number for each thread.
            connections: self.connections / self.threads * self.threads,
            threads: self.threads,
            timeout: self.timeout,
            tls,
            cut_at_end: true,
            ..Plan::new(origin, source, load)
        };
        Ok((plan, program))
    }

    /// What wrk says of a server that it cannot reach.
    pub fn unreached(error: &Error) -> String {
        match error {
            Error::Unreachable { address, reason, .. } => format!("unable to connect to {address}: {reason}"),
            Error::Resolve { host, reason } => format!("unable to resolve {host}: {reason}"),
            other => other.to_string(),
        }
    }

    /// What wrk prints before a run, when its server has been found.
    pub fn banner(&self) -> String {
        let (time, _) = wrk_time(self.duration.as_secs_f64() * 1e6);
        let time = time.replace(".00", "");
        // The number that was asked for, although each thread has as many as the others.
        format!("Running {time} test @ {}\n  {} threads and {} connections\n", self.url, self.threads, self.connections)
    }

    /// What wrk prints after a run. What was under way at the end was not counted.
    pub fn report(&self, run: &Summary) -> String {
        let mut out = String::new();
        let latency = stats::latency(run);
        let requests = stats::requests(run, self.threads as usize);
        let _ = writeln!(out, "  Thread Stats{:>6}{:>11}{:>8}{:>12}", "Avg", "Stdev", "Max", "+/- Stdev");
        row(&mut out, "    Latency", &latency, wrk_time);
        row(&mut out, "    Req/Sec", &requests, wrk_metric);
        if self.latency {
            out.push_str("  Latency Distribution\n");
            for percent in [50.0, 75.0, 90.0, 99.0] {
                let (text, unit) = wrk_time(run.response.quantile_ns(percent / 100.0) as f64 / 1e3);
                let _ = writeln!(out, "{percent:>7.0}%{:>width$}", text, width = 8 + unit);
            }
        }
        let answers = run.succeeded + run.failed_answers;
        let seconds = run.duration_ns as f64 / 1e9;
        let (time, _) = wrk_time(run.duration_ns as f64 / 1e3);
        let _ = writeln!(out, "  {answers} requests in {time}, {} read", wrk_bytes(run.bytes_received as f64));
        let count = |kinds: &[ErrorKind]| kinds.iter().filter_map(|kind| run.errors.get(kind)).sum::<u64>();
        let connect = count(&ErrorKind::UNCONNECTED);
        let read = count(&[ErrorKind::Closed, ErrorKind::Reset, ErrorKind::Protocol]);
        let timeout = count(&[ErrorKind::Timeout]);
        if connect + read + timeout > 0 {
            let _ = writeln!(out, "  Socket errors: connect {connect}, read {read}, write 0, timeout {timeout}");
        }
        let not_ok: u64 = run.statuses.iter().filter(|(status, _)| !(200..400).contains(*status)).map(|(_, n)| n).sum();
        if not_ok > 0 {
            let _ = writeln!(out, "  Non-2xx or 3xx responses: {not_ok}");
        }
        let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
        let _ = writeln!(out, "Requests/sec: {:>9.2}", per_second(answers as f64));
        let _ = writeln!(out, "Transfer/sec: {:>10}", wrk_bytes(per_second(run.bytes_received as f64)));
        out
    }
}

/// Columns line up where their numbers end, not their units.
fn row(out: &mut String, name: &str, stats: &stats::Stats, unit: fn(f64) -> (String, usize)) {
    out.push_str(name);
    for (value, width) in [(stats.mean(), 11), (stats.stdev(), 10), (stats.max(), 9)] {
        let (text, unit) = unit(value);
        let after = 2usize.saturating_sub(unit);
        let _ = write!(out, "{text:>width$}{:after$}", "", width = width - after);
    }
    let _ = writeln!(out, "{:>8.2}%", stats.within_stdev_percent());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Wrk, Usage> {
        Wrk::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_tutorials_line_is_read() {
        let wrk =
            parse("-t12 -c400 -d30s --latency -HHost:user-service http://127.0.0.1:15001/api/users").expect("a run");
        assert_eq!((wrk.threads, wrk.connections, wrk.latency), (12, 400, true));
        let (plan, script) = wrk.plan().expect("a plan");
        assert!(script.is_none() && plan.check().is_ok());
        assert_eq!((plan.connections, plan.threads, plan.duration()), (396, 12, Some(Duration::from_secs(30))));
        assert!(plan.cut_at_end);
        assert_eq!(
            wrk.banner(),
            "Running 30s test @ http://127.0.0.1:15001/api/users\n  12 threads and 400 connections\n"
        );
        assert_eq!(parse("--duration 2m --timeout 5s -c1k http://a -- x").expect("a run").extra, ["x"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("-x http://a", "`-x`"),
            ("--foo http://a", "`--foo`"),
            ("-t5 -c1 http://a", "connections must be >= threads"),
            ("-d5x http://a", "not a duration"),
            ("-t0 http://a", "above 0"),
            ("-t2", "one URL"),
            ("http://a http://b", "one URL"),
            ("-H nonsense http://a", "Name: value"),
        ] {
            assert!(parse(text).is_err_and(|e| e.0.contains(why)), "{text}");
        }
    }

    #[test]
    fn the_report_has_wrks_words() {
        let mut run = Summary {
            duration_ns: 2_000_000_000,
            succeeded: 9,
            failed_answers: 1,
            bytes_received: 4096,
            ..Summary::default()
        };
        run.statuses.extend([(200, 9), (500, 1)]);
        run.errors.insert(ErrorKind::Timeout, 3);
        (1..=10).for_each(|n| run.response.record(n * 1_000_000));
        let text = parse("--latency http://a").expect("a run").report(&run);
        for line in [
            "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n",
            "  Latency Distribution\n     50%    5.00ms\n",
            "     99%   10.00ms\n",
            "  10 requests in 2.00s, 4.00KB read\n",
            "  Socket errors: connect 0, read 0, write 0, timeout 3\n",
            "  Non-2xx or 3xx responses: 1\n",
            "Requests/sec:      5.00\n",
            "Transfer/sec:     2.00KB\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(text.contains("    Latency     5.50ms    2.87ms  10.00ms   60.00%\n"), "{text}");
    }
}
