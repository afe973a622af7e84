//! vegeta's `attack`: its command line, and the stream of results that `report` reads.
//!
//! The stream is what `vegeta encode --to json` gives, a JSON object on each line, so that vegeta's own commands read it
//! too. `latency` counts from the intended send time, and `timestamp` is that time: in an open loop the wait for a free
//! connection belongs to the answer. Redirects are not followed.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::flags::{Arg, go};
use super::rows::{Row, Rows};
use super::units::{DURATION_MAX, parse_go_duration};
use super::{Usage, cpus, header, read_body, read_pem};
use crate::engine::connections_max;
use crate::plan::{Arrivals, ClientIdentity, Closed, Load, Open, Plan, Protocol, Segment, Tls, Unreachable, WhenFull};
use crate::source::{Request, Source};
use crate::target::Origin;
use crate::target::list::{self, Defaults, FILE_BYTES_MAX, Format};

/// vegeta's own defaults.
const RATE: f64 = 50.0;
const TIMEOUT: Duration = Duration::from_secs(30);
/// vegeta's `-connections`, and here the most that are opened; each is opened when it is first needed.
const CONNECTIONS: u32 = 10_000;

pub(super) const HELP: &str = "Usage: celerity load --as vegeta attack|report [flags]
attack, of targets on standard input; results go to standard output:
  -rate  requests per time, such as 50/1s; 0 with -max-workers is as many as can be [50/1s]
  -duration  length of the attack, 0 for ever
  -targets  file of the targets
  -format  of the targets: http or json
  -output  file of the results
  -body  file of the requests' body
  -header  header, may be repeated
  -timeout  longest wait for an answer [30s]
  -connections, -max-connections, -max-workers  the most that are open
  -keepalive  [true]
  -http2, -h2c  HTTP/2
  -cert, -key, -root-certs  PEM files
  -insecure  take any certificate
  -name  of the attack
report, of files or standard input: -type=text|json|hist[0,1ms,10ms]|hdrplot, -buckets, -output
";

/// A `vegeta attack` command line.
#[derive(Clone, Debug)]
pub struct Attack {
    pub name: String,
    /// `None` is standard input.
    pub targets: Option<String>,
    pub output: Option<String>,
    pub format: Format,
    /// Requests per second; `None` is as many as the connections give (`-rate=0`).
    pub rate: Option<f64>,
    pub duration: Duration,
    pub timeout: Duration,
    pub connections: u32,
    pub max_given: bool,
    pub keep_alive: bool,
    pub protocol: Protocol,
    pub defaults: Defaults,
    pub tls: Tls,
}

impl Attack {
    /// # Errors
    /// What vegeta would refuse, and what is not supported, by name.
    pub fn parse(args: &[String]) -> Result<Self, Usage> {
        let valued = [
            "body",
            "cert",
            "connections",
            "duration",
            "format",
            "header",
            "key",
            "max-body",
            "max-connections",
            "max-workers",
            "name",
            "output",
            "rate",
            "redirects",
            "root-certs",
            "targets",
            "timeout",
            "workers",
        ];
        let switches = ["h2c", "http2", "insecure", "keepalive", "lazy"];
        let tool = "vegeta attack";
        let mut out = Self {
            name: String::new(),
            targets: None,
            output: None,
            format: Format::Http,
            rate: Some(RATE),
            duration: DURATION_MAX,
            timeout: TIMEOUT,
            connections: CONNECTIONS,
            max_given: false,
            keep_alive: true,
            protocol: Protocol::Http1,
            defaults: Defaults::default(),
            tls: Tls::default(),
        };
        let (mut cert, mut key) = (None, None);
        for arg in go(tool, args, &valued, &switches)? {
            let (name, value) = match arg {
                Arg::Flag { name, value } => (name, value),
                Arg::Plain(text) => {
                    return Err(Usage::new(format!(
                        "{tool}: `{}` is not a flag: targets come from -targets or standard input",
                        text.escape_debug()
                    )));
                }
            };
            let wrong = |what: &str| Usage::new(format!("{tool}: -{name}={}: {what}", value.escape_debug()));
            let time = || parse_go_duration(&value).ok_or_else(|| wrong("it must be a duration such as 30s or 5m"));
            let on = value == "true";
            let file = || (value != "stdin" && value != "stdout" && value != "-").then(|| value.clone());
            match name.as_str() {
                "body" => out.defaults.body = read_body(tool, &value)?,
                "cert" => cert = Some(read_pem(tool, &value)?),
                "key" => key = Some(read_pem(tool, &value)?),
                "root-certs" => {
                    let mut all = Vec::new();
                    for path in value.split(',') {
                        all.extend_from_slice(&read_pem(tool, path)?);
                        all.push(b'\n');
                    }
                    out.tls.ca_pem = Some(Arc::from(all));
                }
                "connections" | "max-connections" | "max-workers" => {
                    let count = value
                        .parse::<u32>()
                        .ok()
                        .filter(|&n| n > 0)
                        .ok_or_else(|| wrong("it must be a number above 0"))?;
                    out.connections = if out.max_given { out.connections.min(count) } else { count };
                    out.max_given = true;
                }
                "duration" => {
                    let duration = time()?;
                    out.duration = if duration.is_zero() { DURATION_MAX } else { duration };
                }
                "format" => {
                    out.format = match value.as_str() {
                        "http" => Format::Http,
                        "json" => Format::Json,
                        _ => return Err(wrong("it must be http or json")),
                    };
                }
                "header" => out.defaults.headers.push(header(tool, &value)?),
                "name" => out.name = value,
                "output" => out.output = file(),
                "targets" => out.targets = file(),
                "rate" => out.rate = rate(&value).ok_or_else(|| wrong("it must be a rate such as 100, 100/1s or 0"))?,
                // The senders wait for no answer, so that there is none to begin with.
                "workers" if value.parse::<u64>().is_ok() => {}
                "workers" => return Err(wrong("it must be a number")),
                "max-body" if value == "0" => {}
                "max-body" => return Err(wrong("no body is kept in the results: 0 is what can be asked for")),
                "redirects" if value == "-1" || value == "0" => {}
                "redirects" => return Err(wrong("redirects are not followed: -1 is what can be asked for")),
                "timeout" => {
                    let timeout = time()?;
                    out.timeout = if timeout.is_zero() { DURATION_MAX } else { timeout };
                }
                "h2c" | "http2" if on => out.protocol = Protocol::Http2,
                "h2c" | "http2" => {}
                "insecure" => out.tls.insecure = on,
                "keepalive" => out.keep_alive = on,
                _ => {
                    return Err(Usage::new(format!(
                        "{tool}: the flag `-{name}` is not supported: targets are read before the attack"
                    )));
                }
            }
        }
        out.tls.client = match (cert, key) {
            (Some(cert_pem), Some(key_pem)) => Some(ClientIdentity { cert_pem, key_pem }),
            (None, None) => None,
            _ => return Err(Usage::new(format!("{tool}: -cert and -key go together"))),
        };
        if out.rate.is_none() && !out.max_given {
            return Err(Usage::new(format!("{tool}: -rate=0 needs -max-workers")));
        }
        Ok(out)
    }

    /// The plan: targets are read here, from the file or from `stdin`.
    ///
    /// # Errors
    /// The targets cannot be read: the line, and why.
    pub fn plan(&self, stdin: &mut dyn Read, rows: Rows) -> Result<(Plan, Vec<Request>), Usage> {
        let name = self.targets.as_deref().unwrap_or("standard input");
        let fail = |why: String| Usage::new(format!("vegeta attack: the targets in {name} cannot be used: {why}"));
        let mut file;
        let from: &mut dyn Read = match &self.targets {
            Some(path) => {
                file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
                &mut file
            }
            None => stdin,
        };
        let mut text = String::new();
        from.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(fail(format!("they have more than {FILE_BYTES_MAX} bytes")));
        }
        let targets = list::read(&text, self.format, &self.defaults, &mut list::body_file)
            .map_err(|wrong| fail(wrong.to_string()))?;
        let load = match self.rate {
            Some(rate) => Load::Open(Open {
                segments: vec![Segment::hold(rate, self.duration)],
                arrivals: Arrivals::Constant,
                when_full: WhenFull::Queue,
                count: None,
            }),
            None => Load::Closed(Closed { duration: Some(self.duration), count: None, slot_per_second: None }),
        };
        let requests = targets.requests;
        let mut origins = targets.origins.into_iter();
        let first = origins.next().ok_or_else(|| fail("there is none".into()))?;
        let mut plan = Plan::new(first, Source::Static(Arc::from(requests.as_slice())), load);
        plan.origins.extend(origins);
        plan.protocol = self.protocol;
        plan.keep_alive = self.keep_alive || self.protocol == Protocol::Http2;
        plan.timeout = self.timeout;
        plan.threads = cpus().min(self.connections);
        plan.connections = self.fitting(connections_max(plan.threads)).max(plan.threads);
        plan.tls = plan.origins.iter().any(|origin| origin.tls).then(|| self.tls.clone());
        plan.unreachable = Unreachable::Counted;
        plan.capture.rows = Some(rows);
        Ok((plan, requests))
    }
}

impl Attack {
    /// The connections that there is room for. A number that was asked for stands, and is refused where it does not fit; the
    /// default of vegeta is more than many shells allow, and few attacks need it.
    fn fitting(&self, room: u32) -> u32 {
        if self.max_given { self.connections } else { self.connections.min(room) }
    }
}

/// `100`, `100/1s`, `6000/1m`; `0` and `infinity` are no limit.
fn rate(text: &str) -> Option<Option<f64>> {
    if text == "0" || text == "infinity" {
        return Some(None);
    }
    let (number, per) = text.split_once('/').unwrap_or((text, "1s"));
    // vegeta takes `100/s` as well.
    let per = parse_go_duration(per).or_else(|| parse_go_duration(&format!("1{per}")))?;
    let rate = number.parse::<u32>().ok()? as f64 / per.as_secs_f64();
    (rate.is_finite() && rate > 0.0).then_some(Some(rate))
}

/// One line of the stream: a result, in vegeta's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    #[serde(default)]
    pub attack: String,
    #[serde(default)]
    pub seq: u64,
    /// 0 without an answer.
    pub code: u16,
    /// RFC 3339 with nanoseconds.
    pub timestamp: String,
    /// Nanoseconds.
    pub latency: u64,
    #[serde(default)]
    pub bytes_out: u64,
    #[serde(default)]
    pub bytes_in: u64,
    /// Empty for a success.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub url: String,
}

/// Writes rows as lines.
pub struct Stream<W> {
    out: W,
    /// The wall clock at the run's start.
    started: OffsetDateTime,
    line: Line,
    seq: u64,
    /// Method, URL and length of body of each request.
    requests: Vec<(String, String, u64)>,
}

impl<W: Write> Stream<W> {
    pub fn new(out: W, name: &str, started: OffsetDateTime, requests: &[Request], origins: &[Origin]) -> Self {
        let describe = |request: &Request| {
            let origin = origins.get(request.origin as usize);
            let base = origin.map(|o| format!("{}://{}", o.scheme(), o.authority())).unwrap_or_default();
            (request.method.clone(), format!("{base}{}", request.path), request.body.len() as u64)
        };
        let line = Line { attack: name.to_owned(), ..Line::default() };
        Self { out, started, line, seq: 0, requests: requests.iter().map(describe).collect() }
    }

    /// # Errors
    /// The other end of the pipe is gone, or the disk is full.
    pub fn write(&mut self, rows: &[Row]) -> std::io::Result<()> {
        for row in rows {
            let at = self.started + time::Duration::nanoseconds(i64::try_from(row.intended_ns).unwrap_or(i64::MAX));
            let line = &mut self.line;
            line.seq = self.seq;
            self.seq += 1;
            line.code = row.status;
            line.timestamp = at.format(&Rfc3339).map_err(std::io::Error::other)?;
            line.latency = row.ended_ns.saturating_sub(row.intended_ns);
            line.bytes_in = row.body_bytes;
            if let Some((method, url, bytes)) = self.requests.get(row.request as usize) {
                line.method.clone_from(method);
                line.url.clone_from(url);
                line.bytes_out = *bytes;
            }
            line.error = match row.error {
                // As Go's client has it.
                Some(kind) => {
                    let (first, rest) = line.method.split_at_checked(1).unwrap_or_default();
                    format!("{first}{} {:?}: {}", rest.to_lowercase(), line.url, kind.as_str())
                }
                None if !row.success => format!("{} {}", row.status, reason(row.status)).trim_end().to_owned(),
                None => String::new(),
            };
            serde_json::to_writer(&mut self.out, &self.line)?;
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// RFC 9110 section 15: what servers commonly say beside these numbers.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Attack, Usage> {
        Attack::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_tutorials_line_is_read() {
        let attack = parse("-duration=30s -rate=100 -workers=5 -max-body=0").expect("an attack");
        let mut stdin = &b"GET http://user-service/api/users\nGET http://other/\n"[..];
        let (plan, requests) = attack.plan(&mut stdin, Rows::new().0).expect("a plan");
        assert!(plan.check().is_ok());
        assert_eq!((plan.origins.len(), requests.len(), plan.duration()), (2, 2, Some(Duration::from_secs(30))));
        let Load::Open(open) = &plan.load else { panic!() };
        assert_eq!(open.segments[0].requests(), 3000.0);
        for (text, per_second) in [("600/1m", 10.0), ("5/s", 5.0), ("1/100ms", 10.0)] {
            assert_eq!(rate(text), Some(Some(per_second)));
        }
        let closed = parse("-rate 0 -max-workers 10 -duration 1s").expect("an attack");
        assert_eq!((closed.rate, closed.connections), (None, 10));
    }

    #[test]
    fn the_default_number_of_connections_fits_into_the_limit_of_descriptors() {
        let attack = parse("-rate=1 -duration=1s").expect("an attack");
        assert_eq!((attack.fitting(4000), attack.fitting(1_000_000)), (4000, CONNECTIONS));
        let asked = parse("-rate=1 -max-connections=5000").expect("an attack");
        assert_eq!(asked.fitting(4000), 5000);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("-foo", "`-foo`"),
            ("-lazy", "`-lazy`"),
            ("-rate=x", "a rate"),
            ("-rate=0", "-max-workers"),
            ("-redirects=10", "not followed"),
            ("-max-body=9", "no body is kept"),
            ("-workers=x", "a number"),
            ("-duration=5", "duration"),
            ("-format=xml", "http or json"),
            ("http://a", "not a flag"),
            ("-cert=/dev/null", "go together"),
        ] {
            assert!(parse(text).is_err_and(|e| e.0.contains(why)), "{text}");
        }
        let attack = parse("").expect("an attack");
        let error = attack.plan(&mut &b"GET http://a/\nnonsense"[..], Rows::new().0).expect_err("a bad line");
        assert!(error.0.contains("standard input") && error.0.contains("line 2"), "{error}");
    }

    #[test]
    fn results_are_lines_of_json() {
        let (origin, path) = crate::target::parse("http://user-service/api").expect("a URL");
        let request = Request { method: "POST".into(), body: Arc::from(*b"abc"), ..Request::get(path) };
        let mut out = Vec::new();
        let started = OffsetDateTime::from_unix_timestamp(1_700_000_000).expect("a time");
        let row =
            Row { request: 0, intended_ns: 5, ended_ns: 1005, status: 200, body_bytes: 7, success: true, error: None };
        let failed = Row { status: 0, error: Some(crate::summary::ErrorKind::Timeout), success: false, ..row };
        let missing = Row { status: 404, success: false, ..row };
        let rows = [row, failed, missing];
        Stream::new(&mut out, "a", started, &[request], &[origin]).write(&rows).expect("written");
        let lines: Vec<Line> = out
            .split(|&b| b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).expect("JSON"))
            .collect();
        assert_eq!(lines[0].timestamp, "2023-11-14T22:13:20.000000005Z");
        assert_eq!(
            (lines[0].latency, lines[0].bytes_in, lines[0].bytes_out, lines[0].url.as_str()),
            (1000, 7, 3, "http://user-service/api")
        );
        assert_eq!(
            (lines[1].seq, lines[1].code, lines[1].error.as_str()),
            (1, 0, "Post \"http://user-service/api\": no answer in time")
        );
        assert_eq!((lines[2].code, lines[2].error.as_str()), (404, "404 Not Found"));
    }
}
