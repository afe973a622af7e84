//! vegeta's `report`: reads a stream of results, ours or vegeta's own JSON, and says what it amounts to. Memory stays the
//! same however long the stream is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Usage;
use super::flags::{Arg, go};
use super::units::{go_duration, parse_go_duration};
use super::vegeta::Line;
use crate::Histogram;

/// A line above this is no result: vegeta puts bodies of answers into its lines.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Different errors that are told apart; the rest are counted together.
const ERRORS_MAX: usize = 64;
/// An error's text is cut here.
const ERROR_CHARS_MAX: usize = 300;
/// Buckets that may be asked for.
const BUCKETS_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Json,
    /// Lower edges of the buckets, nanoseconds, rising, the first 0.
    Hist(Vec<u64>),
    HdrPlot,
}

/// A `vegeta report` command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub kind: Type,
    /// `None` is standard output.
    pub output: Option<String>,
    /// Files to read; none is standard input.
    pub inputs: Vec<String>,
}

impl Report {
    /// # Errors
    /// What vegeta would refuse, and what is not supported, by name.
    pub fn parse(args: &[String]) -> Result<Self, Usage> {
        let tool = "vegeta report";
        let mut out = Self { kind: Type::Text, output: None, inputs: Vec::new() };
        let (mut kind, mut edges) = ("text".to_owned(), None);
        for arg in go(tool, args, &["type", "output", "buckets"], &[])? {
            match arg {
                Arg::Flag { name, value } if name == "type" => kind = value,
                Arg::Flag { name, value } if name == "buckets" => edges = Some(value),
                Arg::Flag { value, .. } => out.output = (value != "stdout" && value != "-").then_some(value),
                Arg::Plain(file) if file == "-" || file == "stdin" => {}
                Arg::Plain(file) => out.inputs.push(file),
            }
        }
        let wrong = |text: &str| {
            Usage::new(format!("{tool}: the buckets `{}` are not such as [0,1ms,10ms]", text.escape_debug()))
        };
        let edges = edges.map(|text| buckets(&text).ok_or_else(|| wrong(&text))).transpose()?;
        out.kind = match kind.as_str() {
            "text" => Type::Text,
            "json" => Type::Json,
            "hdrplot" => Type::HdrPlot,
            "hist" => Type::Hist(
                edges
                    .ok_or_else(|| Usage::new(format!("{tool}: -type=hist needs buckets: -type='hist[0,1ms,10ms]'")))?,
            ),
            other => match other.strip_prefix("hist") {
                Some(text) => Type::Hist(buckets(text).ok_or_else(|| wrong(text))?),
                None => {
                    let other = other.escape_debug();
                    return Err(Usage::new(format!(
                        "{tool}: -type={other}: it must be text, json, hist[...] or hdrplot"
                    )));
                }
            },
        };
        Ok(out)
    }

    /// Reads to the end and gives the report's text.
    ///
    /// # Errors
    /// A line is not a result: its number, and why.
    pub fn run(&self, inputs: &mut [(String, &mut dyn BufRead)]) -> Result<String, Usage> {
        let mut metrics = Metrics::default();
        if let Type::Hist(edges) = &self.kind {
            metrics.edges.clone_from(edges);
            metrics.counts = vec![0; edges.len()];
        }
        for (name, input) in inputs {
            read(name, *input, &mut |line| metrics.add(line))?;
        }
        Ok(match &self.kind {
            Type::Text => metrics.text(),
            Type::Json => metrics.json(),
            Type::Hist(_) => metrics.hist(),
            Type::HdrPlot => metrics.hdrplot(),
        })
    }
}

/// `[0,1ms,10ms]`; a first 0 is added where it is missing.
fn buckets(text: &str) -> Option<Vec<u64>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let mut edges = Vec::new();
    for part in inner.split(',') {
        edges.push(u64::try_from(parse_go_duration(part.trim())?.as_nanos()).ok()?);
    }
    if edges.first() != Some(&0) {
        edges.insert(0, 0);
    }
    (edges.is_sorted_by(|a, b| a < b) && edges.len() <= BUCKETS_MAX).then_some(edges)
}

/// Reads a stream line by line.
pub(super) fn read(
    name: &str,
    input: &mut dyn BufRead,
    each: &mut dyn FnMut(&Line) -> Result<(), String>,
) -> Result<(), Usage> {
    let mut buffer = Vec::new();
    let mut number = 0u64;
    loop {
        buffer.clear();
        number += 1;
        let fail = |why: String| Usage::new(format!("vegeta report: {name}, line {number}: {why}"));
        let mut limited = std::io::Read::take(&mut *input, LINE_BYTES_MAX as u64 + 1);
        let taken = limited.read_until(b'\n', &mut buffer).map_err(|e| fail(e.to_string()))?;
        if taken == 0 {
            return Ok(());
        }
        if taken > LINE_BYTES_MAX {
            return Err(fail("it is too long to be a result".into()));
        }
        if buffer.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&buffer).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            fail(format!(
                "it is not a result in JSON ({text}); vegeta's own files are turned into it by `vegeta encode`"
            ))
        })?;
        each(&line).map_err(fail)?;
    }
}

#[derive(Default)]
struct Metrics {
    latencies: Histogram,
    latency_sum_ns: u128,
    /// Exact, where the histogram has three digits.
    shortest_ns: u64,
    longest_ns: u64,
    bytes_in: u64,
    bytes_out: u64,
    requests: u64,
    successes: u64,
    codes: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    more_errors: u64,
    /// Nanoseconds since 1970: the first and the last request, and the last end.
    earliest: Option<i128>,
    latest: i128,
    end: i128,
    edges: Vec<u64>,
    counts: Vec<u64>,
}

impl Metrics {
    fn add(&mut self, line: &Line) -> Result<(), String> {
        let at = OffsetDateTime::parse(&line.timestamp, &Rfc3339)
            .map_err(|_| format!("the timestamp `{}` is not in RFC 3339", line.timestamp.escape_debug()))?
            .unix_timestamp_nanos();
        self.shortest_ns = if self.requests == 0 { line.latency } else { self.shortest_ns.min(line.latency) };
        self.longest_ns = self.longest_ns.max(line.latency);
        self.requests += 1;
        self.latencies.record(line.latency);
        self.latency_sum_ns += u128::from(line.latency);
        self.bytes_in = self.bytes_in.saturating_add(line.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(line.bytes_out);
        *self.codes.entry(line.code).or_default() += 1;
        if (200..400).contains(&line.code) {
            self.successes += 1;
        }
        if !line.error.is_empty() {
            let text: String = line.error.chars().take(ERROR_CHARS_MAX).collect();
            let known = self.errors.len();
            match self.errors.get_mut(&text) {
                Some(count) => *count += 1,
                None if known < ERRORS_MAX => {
                    self.errors.insert(text, 1);
                }
                None => self.more_errors += 1,
            }
        }
        let first = self.earliest.is_none();
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
        self.latest = if first { at } else { self.latest.max(at) };
        let end = at.saturating_add(i128::from(line.latency));
        self.end = if first { end } else { self.end.max(end) };
        let place = self.edges.partition_point(|&edge| edge <= line.latency);
        if let Some(count) = place.checked_sub(1).and_then(|place| self.counts.get_mut(place)) {
            *count += 1;
        }
        Ok(())
    }

    fn duration_ns(&self) -> u64 {
        self.earliest.map_or(0, |earliest| u64::try_from(self.latest - earliest).unwrap_or(u64::MAX))
    }

    fn wait_ns(&self) -> u64 {
        u64::try_from(self.end - self.latest).unwrap_or(0)
    }

    /// Requests per second of the attack. One request alone has no rate.
    fn rate(&self) -> f64 {
        let seconds = self.duration_ns() as f64 / 1e9;
        if seconds > 0.0 { self.requests as f64 / seconds } else { self.requests as f64 }
    }

    fn throughput(&self) -> f64 {
        let seconds = (self.duration_ns() as f64 + self.wait_ns() as f64) / 1e9;
        if seconds > 0.0 { self.successes as f64 / seconds } else { 0.0 }
    }

    fn share(&self, part: u64) -> f64 {
        part as f64 / self.requests.max(1) as f64
    }

    fn mean_ns(&self) -> u64 {
        u64::try_from(self.latency_sum_ns / u128::from(self.requests.max(1))).unwrap_or(u64::MAX)
    }

    /// To the histogram's three digits, and never beyond what there was.
    fn quantile_ns(&self, q: f64) -> u64 {
        self.latencies.quantile_ns(q).clamp(self.shortest_ns, self.longest_ns)
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, parts: &str, value: String| {
            let _ = writeln!(out, "{name:<13} {:<31} {value}", format!("[{parts}]"));
        };
        line(
            "Requests",
            "total, rate, throughput",
            format!("{}, {:.2}, {:.2}", self.requests, self.rate(), self.throughput()),
        );
        let (duration, wait) = (self.duration_ns(), self.wait_ns());
        let times = [duration.saturating_add(wait), duration, wait].map(go_duration);
        line("Duration", "total, attack, wait", times.join(", "));
        let quantile = |q| self.quantile_ns(q);
        let latencies = [
            self.shortest_ns,
            self.mean_ns(),
            quantile(0.5),
            quantile(0.9),
            quantile(0.95),
            quantile(0.99),
            self.longest_ns,
        ];
        line("Latencies", "min, mean, 50, 90, 95, 99, max", latencies.map(go_duration).join(", "));
        for (name, bytes) in [("Bytes In", self.bytes_in), ("Bytes Out", self.bytes_out)] {
            line(name, "total, mean", format!("{bytes}, {:.2}", self.share(bytes)));
        }
        line("Success", "ratio", format!("{:.2}%", self.share(self.successes) * 100.0));
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{code}:{count}")).collect();
        line("Status Codes", "code:count", codes.join("  "));
        out.push_str("Error Set:\n");
        for error in self.errors.keys() {
            let _ = writeln!(out, "{error}");
        }
        if self.more_errors > 0 {
            let _ = writeln!(out, "and {} requests with other errors", self.more_errors);
        }
        out
    }

    fn json(&self) -> String {
        let stamp = |ns: i128| {
            OffsetDateTime::from_unix_timestamp_nanos(ns)
                .ok()
                .and_then(|at| at.format(&Rfc3339).ok())
                .unwrap_or_default()
        };
        let quantile = |q| self.quantile_ns(q);
        let codes: serde_json::Map<_, _> = self.codes.iter().map(|(code, n)| (code.to_string(), (*n).into())).collect();
        let value = serde_json::json!({
            "latencies": {
                "total": u64::try_from(self.latency_sum_ns).unwrap_or(u64::MAX),
                "mean": self.mean_ns(),
                "50th": quantile(0.5),
                "90th": quantile(0.9),
                "95th": quantile(0.95),
                "99th": quantile(0.99),
                "max": self.longest_ns,
                "min": self.shortest_ns,
            },
            "bytes_in": { "total": self.bytes_in, "mean": self.share(self.bytes_in) },
            "bytes_out": { "total": self.bytes_out, "mean": self.share(self.bytes_out) },
            "earliest": stamp(self.earliest.unwrap_or(0)),
            "latest": stamp(self.latest),
            "end": stamp(self.end),
            "duration": self.duration_ns(),
            "wait": self.wait_ns(),
            "requests": self.requests,
            "rate": self.rate(),
            "throughput": self.throughput(),
            "success": self.share(self.successes),
            "status_codes": codes,
            "errors": self.errors.keys().collect::<Vec<_>>(),
        });
        format!("{value}\n")
    }

    fn hist(&self) -> String {
        let edge = |place: usize| self.edges.get(place).map_or("+Inf".to_owned(), |&ns| go_duration(ns));
        let rows: Vec<(String, u64)> = self
            .counts
            .iter()
            .enumerate()
            .map(|(n, &count)| (format!("[{}, {}]", edge(n), edge(n + 1)), count))
            .collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(6);
        let mut out = format!("{:<width$}  {:<8} {:<8} Histogram\n", "Bucket", "#", "%");
        for (name, count) in rows {
            let share = self.share(count);
            // vegeta's bars: three quarters of a sign for each percent.
            let bar = "#".repeat((share * 75.0) as usize);
            let _ = writeln!(out, "{name:<width$}  {count:<8} {:<8} {bar}", format!("{:.2}%", share * 100.0));
        }
        out
    }

    fn hdrplot(&self) -> String {
        let mut out = String::from("Value(ms)  Percentile  TotalCount  1/(1-Percentile)\n");
        // Half the distance to 1, in five steps, again and again, until no request is left above.
        let (mut left, mut step) = (1.0f64, 0);
        loop {
            let percentile = 1.0 - left;
            let ns = self.latencies.quantile_ns(percentile);
            let count = (percentile * self.requests as f64).ceil() as u64;
            let _ = writeln!(out, "{:<10.6} {percentile:<11.6} {count:<11} {:.6}", ns as f64 / 1e6, 1.0 / left);
            if left * (self.requests as f64) < 1.0 {
                return out;
            }
            step += 1;
            left = 0.5f64.powi(step / 5) * (1.0 - f64::from(step % 5) / 10.0);
        }
    }
}

/// Any stream, for fuzzing: a report or one sentence.
pub fn fuzz(input: &[u8]) {
    for kind in [Type::Text, Type::Json, Type::Hist(vec![0, 1000]), Type::HdrPlot] {
        let report = Report { kind, output: None, inputs: Vec::new() };
        match report.run(&mut [("fuzz".into(), &mut &*input)]) {
            Ok(text) => assert!(text.ends_with('\n')),
            Err(usage) => assert!(!usage.0.contains('\n'), "{usage}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(args: &[&str], stream: &str) -> Result<String, Usage> {
        let report = Report::parse(&args.iter().map(|&a| a.to_owned()).collect::<Vec<_>>())?;
        report.run(&mut [("standard input".into(), &mut stream.as_bytes())])
    }

    fn stream() -> String {
        (0..100u64)
            .map(|n| {
                let (code, error) = if n < 10 { (0, "no answer in time") } else { (200, "") };
                format!(
                    "{{\"attack\":\"\",\"seq\":{n},\"code\":{code},\"timestamp\":\"2026-01-01T00:00:{:02}.{:02}Z\",\"latency\":{},\
                     \"bytes_out\":1,\"bytes_in\":5,\"error\":\"{error}\",\"body\":null,\"method\":\"GET\",\"url\":\"http://a/\",\"headers\":null}}\n",
                    n / 10,
                    n % 10 * 10,
                    (n + 1) * 1_000_000
                )
            })
            .collect()
    }

    #[test]
    fn text_has_vegetas_words() {
        let text = run(&[], &stream()).expect("a report");
        for line in [
            "Requests      [total, rate, throughput]       100, 10.10, 9.00\n",
            "Duration      [total, attack, wait]           10s, 9.9s, 100ms\n",
            "Latencies     [min, mean, 50, 90, 95, 99, max] 1ms, 50.5ms,",
            "Bytes In      [total, mean]                   500, 5.00\n",
            "Success       [ratio]                         90.00%\n",
            "Status Codes  [code:count]                    0:10  200:90\n",
            "Error Set:\nno answer in time\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
    }

    #[test]
    fn json_hist_and_hdrplot() {
        let json: serde_json::Value =
            serde_json::from_str(&run(&["-type=json"], &stream()).expect("a report")).expect("JSON");
        assert_eq!((json["requests"].as_u64(), json["latencies"]["max"].as_u64()), (Some(100), Some(100_000_000)));
        assert_eq!((json["success"].as_f64(), json["status_codes"]["200"].as_u64()), (Some(0.9), Some(90)));
        let hist = run(&["-type", "hist[0,10ms,50ms]"], &stream()).expect("a report");
        assert!(hist.contains("[0s, 10ms]    9        9.00%    ######\n"), "{hist}");
        assert!(hist.contains("[50ms, +Inf]  51       51.00% "), "{hist}");
        assert!(hist == run(&["-type=hist", "-buckets=[10ms,50ms]"], &stream()).expect("a report"));
        let plot = run(&["-type=hdrplot"], &stream()).expect("a report");
        assert!(plot.lines().count() > 20 && plot.contains("0.500000"), "{plot}");
    }

    #[test]
    fn no_quantile_is_beyond_the_longest() {
        let line = r#"{"code":200,"timestamp":"2026-01-01T00:00:00Z","latency":123456789}"#;
        let text = run(&[], &format!("{line}\n")).expect("a report");
        assert_eq!(text.matches("123.456789ms").count(), 9, "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, why) in [
            (&["-foo"][..], "`-foo`"),
            (&["-type=xml"], "text, json"),
            (&["-type=hist"], "buckets"),
            (&["-type=hist[5]"], "buckets"),
            (&["-type=hist[0,2ms,1ms]"], "buckets"),
        ] {
            assert!(run(args, "").is_err_and(|e| e.0.contains(why)), "{args:?}");
        }
        let error = run(&[], &format!("{}nonsense\n", stream())).expect_err("a bad line");
        assert!(error.0.contains("standard input, line 101"), "{error}");
        assert!(
            run(&[], "")
                .expect("an empty report")
                .contains("Requests      [total, rate, throughput]       0, 0.00, 0.00")
        );
    }

    proptest! {
        #[test]
        fn any_stream_is_survived(text in "[{}\":,a-z0-9\\n]{0,200}", latency: u64) {
            fuzz(text.as_bytes());
            fuzz(format!("{{\"code\":200,\"timestamp\":\"9999-12-31T23:59:59.999999999Z\",\"latency\":{latency}}}").as_bytes());
        }
    }
}
