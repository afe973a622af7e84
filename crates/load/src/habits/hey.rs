//! hey's command line and its report.
//!
//! Not followed: redirects (hey follows them unless told `-disable-redirects`); a 3xx stands in the distribution of
//! status codes. Not told apart, of the parts into which hey splits a request: its write, the wait and the read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::flags::{Arg, go};
use super::rows::{Row, Rows};
use super::units::{DURATION_MAX, parse_go_duration};
use super::{Usage, cpus, header, read_body};
use crate::plan::{Closed, Load, Plan, Protocol, Proxy, Tls, Unreachable};
use crate::source::{Request, Source};
use crate::{Error, Histogram, Summary, target};

/// hey's own defaults.
const REQUESTS: u64 = 200;
const WORKERS: u32 = 50;
const TIMEOUT: Duration = Duration::from_secs(20);
/// More workers are a slip of the hand.
const WORKERS_MAX: u32 = 1_000_000;

pub(super) const HELP: &str = "Usage: celerity load --as hey [options...] <url>
  -n  requests [200]
  -c  workers [50]
  -q  requests per second of each worker
  -z  length of the run, instead of -n, such as 10s
  -o  csv
  -m  method
  -H  header, may be repeated
  -t  seconds to wait for an answer, 0 for ever [20]
  -A  header Accept
  -d  body
  -D  file of the body
  -T  header Content-Type [text/html]
  -U  header User-Agent
  -a  username:password
  -x  proxy, host:port
  -h2  HTTP/2
  -host  header Host
  -cpus  threads
  -disable-compression, -disable-keepalive
  -disable-redirects  which are never followed here
";

/// A hey command line.
#[derive(Clone, Debug)]
pub struct Hey {
    pub url: String,
    pub requests: u64,
    pub workers: u32,
    /// Requests per second of each worker; `None` is as many as it can.
    pub rate: Option<f64>,
    /// Instead of a number of requests.
    pub duration: Option<Duration>,
    pub csv: bool,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    pub body: Arc<[u8]>,
    pub proxy: Option<(String, u16)>,
    pub http2: bool,
    pub keep_alive: bool,
    pub threads: u32,
}

impl Hey {
    /// # Errors
    /// What hey would refuse, and what is not supported, by name.
    pub fn parse(args: &[String]) -> Result<Self, Usage> {
        let valued = ["n", "c", "q", "z", "o", "m", "H", "t", "A", "d", "D", "T", "U", "a", "x", "host", "cpus"];
        let switches = ["h2", "disable-compression", "disable-keepalive", "disable-redirects"];
        let list = go("hey", args, &valued, &switches)?;
        let mut out = Self {
            url: String::new(),
            requests: REQUESTS,
            workers: WORKERS,
            rate: None,
            duration: None,
            csv: false,
            method: "GET".into(),
            headers: Vec::new(),
            timeout: TIMEOUT,
            body: Arc::from([]),
            proxy: None,
            http2: false,
            keep_alive: true,
            threads: cpus(),
        };
        let (mut urls, mut custom) = (Vec::new(), Vec::new());
        let (mut content_type, mut compression, mut count_given) = ("text/html".to_owned(), true, false);
        for arg in list {
            let (name, value) = match arg {
                Arg::Plain(url) => {
                    urls.push(url);
                    continue;
                }
                Arg::Flag { name, value } => (name, value),
            };
            let wrong = |what: &str| Usage::new(format!("hey: -{name} {}: {what}", value.escape_debug()));
            let number =
                || value.parse::<u32>().ok().filter(|&n| n > 0).ok_or_else(|| wrong("it must be a number above 0"));
            let on = value == "true";
            match name.as_str() {
                "n" => {
                    out.requests = u64::from(number()?);
                    count_given = true;
                }
                "c" => out.workers = number()?.min(WORKERS_MAX),
                "cpus" => out.threads = number()?,
                "q" => {
                    let rate = value.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
                    let rate = rate.ok_or_else(|| wrong("it must be a rate per second"))?;
                    out.rate = (rate > 0.0).then_some(rate);
                }
                "z" => {
                    let time =
                        parse_go_duration(&value).ok_or_else(|| wrong("it must be a duration such as 30s or 3m"))?;
                    out.duration = (!time.is_zero()).then_some(time);
                }
                "o" if value == "csv" => out.csv = true,
                "o" => return Err(wrong("csv is the only format")),
                "m" => out.method = value.to_ascii_uppercase(),
                "H" => custom.push(header("hey", &value)?),
                "t" => {
                    let seconds = value.parse::<u32>().map_err(|_| wrong("it must be a number of seconds"))?;
                    out.timeout = if seconds == 0 { DURATION_MAX } else { Duration::from_secs(u64::from(seconds)) };
                }
                "A" => custom.push(("Accept".into(), value)),
                "d" => out.body = Arc::from(value.into_bytes()),
                "D" => out.body = read_body("hey", &value)?,
                "T" => content_type = value,
                "a" if value.contains(':') => {
                    custom.push(("Authorization".into(), format!("Basic {}", STANDARD.encode(&value))));
                }
                "a" => return Err(wrong("it must be username:password")),
                "x" => {
                    let (origin, _) = target::parse(&value).map_err(|why| wrong(&why))?;
                    out.proxy = Some((origin.host, origin.port));
                }
                "U" => custom.push(("User-Agent".into(), value)),
                "host" => custom.push(("Host".into(), value)),
                "h2" => out.http2 = on,
                "disable-compression" => compression = !on,
                "disable-keepalive" => out.keep_alive = !on,
                // Redirects are never followed, so this asks for what is.
                _ => {}
            }
        }
        match urls.as_slice() {
            [url] => out.url.clone_from(url),
            [_, after, ..] => {
                let after = after.escape_debug();
                return Err(Usage::new(format!(
                    "hey: `{after}` stands behind the URL, where hey looks at nothing: put it before"
                )));
            }
            [] => return Err(Usage::new("hey: a URL is needed")),
        }
        if out.duration.is_none() && out.requests < u64::from(out.workers) {
            let why =
                if count_given { "-n cannot be less than -c" } else { "-n (200 by default) cannot be less than -c" };
            return Err(Usage::new(format!("hey: {why}")));
        }
        out.headers.push(("Content-Type".into(), content_type));
        if compression {
            out.headers.push(("Accept-Encoding".into(), "gzip".into()));
        }
        out.headers
            .retain(|(name, _)| !custom.iter().any(|(custom, _): &(String, String)| custom.eq_ignore_ascii_case(name)));
        out.headers.extend(custom);
        Ok(out)
    }

    /// The plan of the run. `rows` is where each request is told, for `-o csv`.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn plan(&self, rows: Option<Rows>) -> Result<Plan, Error> {
        let (origin, path) = target::parse(&self.url).map_err(Error::Plan)?;
        let request = Request {
            method: self.method.clone(),
            headers: self.headers.clone(),
            body: Arc::clone(&self.body),
            ..Request::get(path)
        };
        // As with hey: each worker gets the same number.
        let count = self.requests / u64::from(self.workers) * u64::from(self.workers);
        let load = Load::Closed(Closed {
            duration: self.duration,
            count: self.duration.is_none().then_some(count),
            slot_per_second: self.rate,
        });
        let tls = origin.tls.then(|| Tls { insecure: true, ..Tls::default() });
        let mut plan = Plan {
            protocol: if self.http2 { Protocol::Http2 } else { Protocol::Http1 },
            connections: self.workers,
            keep_alive: self.keep_alive || self.http2,
            timeout: self.timeout,
            tls,
            proxy: self.proxy.clone().map(|(host, port)| Proxy { host, port, addresses: Vec::new() }),
            threads: self.threads.min(self.workers),
            unreachable: Unreachable::Counted,
            ..Plan::new(origin, Source::single(request), load)
        };
        plan.capture.rows = rows;
        Ok(plan)
    }

    /// hey's closing report.
    pub fn report(&self, run: &Summary) -> String {
        let mut out = String::new();
        // hey waits for what is under way, and its total is until then.
        let seconds = run.duration_ns.max(run.ended_ns) as f64 / 1e9;
        let answers = run.succeeded + run.failed_answers;
        let secs = |ns: u64| format!("{:.4} secs", ns as f64 / 1e9);
        let rate = if seconds > 0.0 { answers as f64 / seconds } else { 0.0 };
        let _ = writeln!(out, "\nSummary:\n  Total:\t{seconds:.4} secs");
        if answers > 0 {
            let _ = writeln!(out, "  Slowest:\t{}", secs(run.response.max_ns()));
            let _ = writeln!(out, "  Fastest:\t{}", secs(run.response.min_ns()));
            let _ = writeln!(out, "  Average:\t{}", secs(run.response.mean_ns() as u64));
        }
        let _ = writeln!(out, "  Requests/sec:\t{rate:.4}\n");
        if run.body_bytes_received > 0 {
            let _ = writeln!(out, "  Total data:\t{} bytes", run.body_bytes_received);
            let _ = writeln!(out, "  Size/request:\t{} bytes\n", run.body_bytes_received / answers.max(1));
        }
        out.push_str("Response time histogram:\n");
        histogram(&mut out, &run.response);
        out.push_str("\n\nLatency distribution:\n");
        if answers > 0 {
            for percent in [10, 25, 50, 75, 90, 95, 99] {
                let _ = writeln!(out, "  {percent}% in {}", secs(run.response.quantile_ns(f64::from(percent) / 100.0)));
            }
        }
        if !run.connect.is_empty() {
            out.push_str("\nDetails (average, fastest, slowest):\n");
            // Names are looked up once, before the run.
            let none = Histogram::new();
            let parts = [("DNS+dialup", &run.connect), ("DNS-lookup", &none), ("resp wait", &run.service)];
            for (name, part) in parts {
                let (mean, min, max) = (secs(part.mean_ns() as u64), secs(part.min_ns()), secs(part.max_ns()));
                let _ = writeln!(out, "  {name}:\t{mean}, {min}, {max}");
                if name == "DNS-lookup" {
                    out.push_str("  req write:\tin resp wait\n");
                }
            }
            out.push_str("  resp read:\tin resp wait\n");
        }
        out.push_str("\nStatus code distribution:\n");
        for (status, count) in &run.statuses {
            let _ = writeln!(out, "  [{status}]\t{count} responses");
        }
        if !run.errors.is_empty() {
            out.push_str("\nError distribution:\n");
            for (kind, count) in &run.errors {
                let example = run.error_examples.get(kind).map(|text| format!(": {text}")).unwrap_or_default();
                let _ = writeln!(out, "  [{count}]\t{}{example}", kind.as_str());
            }
        }
        out.push('\n');
        out
    }
}

/// hey's buckets: ten of the same width above the fastest.
const BUCKETS: usize = 10;
/// The longest bar.
const BAR: u64 = 40;

fn histogram(out: &mut String, times: &Histogram) {
    if times.is_empty() {
        return;
    }
    let (low, high) = (times.min_ns(), times.max_ns());
    let width = (high - low) as f64 / BUCKETS as f64;
    let edges: Vec<u64> = (0..=BUCKETS).map(|n| low + (width * n as f64) as u64).collect();
    let mut below = 0;
    let mut counts = Vec::new();
    for (place, &edge) in edges.iter().enumerate() {
        let upto = if place == BUCKETS { times.count() } else { times.count_at_or_below(edge) };
        counts.push(upto.saturating_sub(below));
        below = upto.max(below);
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    for (edge, count) in edges.iter().zip(&counts) {
        let bar = "■".repeat(((count * BAR + most / 2) / most) as usize);
        let _ = writeln!(out, "  {:.3} [{count}]\t|{bar}", *edge as f64 / 1e9);
    }
}

/// The first line of hey's CSV. Columns that are not measured here stay empty.
pub const CSV_HEAD: &str =
    "response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset\n";

/// One request of hey's CSV. As with hey, requests without an answer have no line.
pub fn csv_line(row: &Row) -> Option<String> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let time = seconds(row.ended_ns.saturating_sub(row.intended_ns));
    row.error.is_none().then(|| format!("{time:.4},,,,,,{},{:.4}\n", row.status, seconds(row.intended_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::ErrorKind;

    fn parse(list: &[&str]) -> Result<Hey, Usage> {
        Hey::parse(&list.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_tutorials_line_is_read() {
        let hey =
            parse(&["-z", "30s", "-c", "50", "-host", "user-service", "http://127.0.0.1:15001/api"]).expect("a run");
        let plan = hey.plan(None).expect("a plan");
        assert!(plan.check().is_ok());
        assert_eq!((plan.connections, plan.duration()), (50, Some(Duration::from_secs(30))));
        let Source::Static(requests) = &plan.source else { panic!() };
        assert_eq!(requests[0].header("host"), Some("user-service"));
        assert_eq!(requests[0].header("content-type"), Some("text/html"));
        let hey = parse(&[
            "-n=205",
            "-c",
            "10",
            "-m",
            "post",
            "-d",
            "{}",
            "-T",
            "a/b",
            "-a",
            "u:p",
            "-H",
            "accept-encoding: x",
            "-U",
            "me/1",
            "http://a",
        ]);
        let plan = hey.expect("a run").plan(None).expect("a plan");
        let Source::Static(requests) = &plan.source else { panic!() };
        let Load::Closed(closed) = &plan.load else { panic!() };
        assert_eq!((closed.count, requests[0].method.as_str(), &*requests[0].body), (Some(200), "POST", &b"{}"[..]));
        assert_eq!(requests[0].header("authorization"), Some("Basic dTpw"));
        assert_eq!(requests[0].header("user-agent"), Some("me/1"));
        assert_eq!(requests[0].headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("accept-encoding")).count(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, why) in [
            (&["-foo", "http://a"][..], "`-foo`"),
            (&["-n", "5", "-c", "10", "http://a"], "less than -c"),
            (&["-c", "500", "http://a"], "less than -c"),
            (&["-o", "xml", "http://a"], "csv"),
            (&["-z", "5", "http://a"], "duration"),
            (&["-a", "x", "http://a"], "username:password"),
            (&["-n", "5"], "a URL"),
            (&["-c", "1", "http://a", "-n", "5"], "`-n` stands behind"),
            (&["-D", "/no/such/file", "http://a"], "cannot be read"),
        ] {
            assert!(parse(list).is_err_and(|e| e.0.contains(why)), "{list:?}");
        }
    }

    #[test]
    fn the_report_has_heys_words() {
        let mut run = Summary {
            duration_ns: 2_000_000_000,
            succeeded: 9,
            failed_answers: 1,
            body_bytes_received: 50,
            ..Summary::default()
        };
        run.statuses.extend([(200, 9), (500, 1)]);
        run.errors.insert(ErrorKind::Timeout, 3);
        (1..=10).for_each(|n| run.response.record(n * 10_000_000));
        run.connect.record(1_000_000);
        run.ended_ns = 2_500_000_000;
        let text = parse(&["http://a"]).expect("a run").report(&run);
        for line in [
            "Summary:\n  Total:\t2.5000 secs\n",
            "  Requests/sec:\t4.0000\n",
            "  DNS+dialup:\t0.0010 secs, 0.0010 secs, 0.0010 secs\n",
            "  req write:\t",
            "  resp read:\t",
            "  Size/request:\t5 bytes\n",
            "Response time histogram:\n  0.010 [1]\t|",
            "Latency distribution:\n  10% in 0.0100 secs\n",
            "Status code distribution:\n  [200]\t9 responses\n  [500]\t1 responses\n",
            "Error distribution:\n  [3]\tno answer in time\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        let counted: u64 =
            text.lines().filter_map(|l| l.split_once(" [")?.1.split_once("]\t|")?.0.parse::<u64>().ok()).sum();
        assert_eq!(counted, 10);
    }
}
