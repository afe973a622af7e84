//! A measured baseline, kept in a file, and the comparison of a later measurement with it.
//!
//! The two are not paired, so whatever changed on the machine in between is in the difference. Therefore the machine's facts
//! are kept and compared, the margin is wider than an A/B's, and what hangs on a few percent belongs in an A/B.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ab::arms::Block;
use crate::ab::design::{self, DesignError, ERROR_MARGIN, Metric};
use crate::ab::verdict::{Guardrail, Verdict, combine};
use crate::stats::{Estimate, binomial, two_sample};

/// The version of the file; another one is refused.
pub const VERSION: u32 = 3;
/// Both sides: 8 against 8 gives a smallest p of 2 in 12,870.
pub const BLOCKS: usize = 8;
pub const MARGIN: f64 = 0.10;
const ALPHA: f64 = 0.05;
/// A kept baseline has a few kilobytes; a larger file is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    pub version: u32,
    pub name: String,
    pub saved_unix_ms: u64,
    pub machine: Machine,
    pub load: Load,
    pub blocks: Vec<BlockRecord>,
}

/// What was measured, so that a check measures the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub url: String,
    pub per_second: f64,
    pub block_ms: u64,
    /// The quantile that the blocks were made long enough for.
    pub primary: Metric,
    pub sending: Sending,
}

impl Load {
    /// Whether the blocks show enough requests beyond a quantile to judge it.
    pub fn shows(&self, metric: Metric) -> Result<(), DesignError> {
        design::check_block(metric, self.per_second, Duration::from_millis(self.block_ms))
    }

    /// The primary quantile is judged, and those below it; what lies above is described.
    fn judges(&self, metric: Metric) -> bool {
        metric.quantile() <= self.primary.quantile() && self.shows(metric).is_ok()
    }
}

/// How requests are made and sent, as it was asked for. Of files the path is kept, and no key or certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sending {
    pub method: Option<String>,
    /// The text of the body, or `@` and a file's path.
    pub data: Option<String>,
    pub http2: bool,
    pub streams_per_connection: u32,
    pub keep_alive: bool,
    pub connections: u32,
    pub timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub threads: u32,
    /// `name: value`, as they were given.
    pub headers: Vec<String>,
    pub proxy: Option<String>,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub insecure: bool,
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRecord {
    /// Of successes; `None` if there was none.
    pub times: Option<Times>,
    pub succeeded: u64,
    pub failed: u64,
    pub succeeded_per_second: f64,
    /// The commonest failure, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    pub p50_ns: u64,
    pub p95_ns: u64,
    pub p99_ns: u64,
}

impl From<&Block> for BlockRecord {
    fn from(block: &Block) -> Self {
        let ns = |metric: Metric| block.response.quantile(metric.quantile());
        let times = || Some(Times { p50_ns: ns(Metric::P50)?, p95_ns: ns(Metric::P95)?, p99_ns: ns(Metric::P99)? });
        Self {
            times: times(),
            succeeded: block.succeeded,
            failed: block.failed,
            succeeded_per_second: block.succeeded_per_second,
            failure: block.failure.clone(),
        }
    }
}

impl BlockRecord {
    pub fn error_share(&self) -> f64 {
        self.failed as f64 / (self.succeeded + self.failed).max(1) as f64
    }

    fn ns(&self, metric: Metric) -> Option<f64> {
        let times = self.times?;
        let ns = match metric {
            Metric::P50 => times.p50_ns,
            Metric::P95 => times.p95_ns,
            Metric::P99 => times.p99_ns,
        };
        Some(ns.max(1) as f64)
    }
}

/// The machine that measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub cpu: String,
    pub cpus: u32,
    pub memory_mib: u64,
    pub kernel: String,
}

impl Machine {
    /// Reads /proc; what it does not tell stays empty or 0.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/cpuinfo"), &text("/proc/meminfo"), &text("/proc/sys/kernel/osrelease"))
    }

    fn parse(cpuinfo: &str, meminfo: &str, release: &str) -> Self {
        let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
        let mut models = cpuinfo.lines().filter(|line| line.starts_with("model name") || line.starts_with("CPU part"));
        let memory = meminfo.lines().find(|line| line.starts_with("MemTotal")).and_then(value).unwrap_or_default();
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or_default();
        Self {
            cpu: models.next().and_then(value).unwrap_or_default(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u32,
            memory_mib: kib >> 10,
            kernel: release.trim().to_owned(),
        }
    }

    /// What makes numbers of two machines incomparable, in words; none if they may be compared.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut out = Vec::new();
        if self.cpu != other.cpu {
            out.push(format!("the CPU was `{}` and is `{}`", self.cpu, other.cpu));
        }
        if self.cpus != other.cpus {
            out.push(format!("there were {} CPUs and are {}", self.cpus, other.cpus));
        }
        out
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    pub reason: String,
    pub margin: f64,
    pub metrics: Vec<CheckMetric>,
    pub baseline_error_share: f64,
    pub error_share: f64,
    /// Facts of the machine that changed and make the comparison weak.
    pub machine: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckMetric {
    pub metric: Metric,
    pub baseline_ms: f64,
    pub now_ms: f64,
    /// As a share, later against kept.
    pub change: Estimate,
    /// It is the primary one or below it, and the blocks show enough requests beyond it; otherwise it is a description.
    pub judged: bool,
}

/// The share of failed requests, and the first reason there is.
pub fn failures(blocks: &[BlockRecord]) -> (f64, Option<String>) {
    let (failed, all) = counts(blocks);
    (failed as f64 / all.max(1) as f64, blocks.iter().find_map(|block| block.failure.clone()))
}

fn counts(blocks: &[BlockRecord]) -> (u64, u64) {
    blocks.iter().fold((0, 0), |(failed, all), block| (failed + block.failed, all + block.failed + block.succeeded))
}

/// Why a baseline cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error(
        "`{0}` cannot be a baseline's name: 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes and underscores, and no dot first"
    )]
    Name(String),
    #[error("the baseline {path} cannot be {what}")]
    File { path: PathBuf, what: &'static str, source: std::io::Error },
    #[error("the baseline {path} is not one: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("the baseline {path} has version {found} and this build reads {VERSION}: save it anew")]
    Version { path: PathBuf, found: u64 },
}

/// Where the baseline of this name lies in a folder.
pub fn path(folder: &Path, name: &str) -> Result<PathBuf, BaselineError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !plain || name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') {
        return Err(BaselineError::Name(name.escape_debug().to_string()));
    }
    Ok(folder.join(format!("{name}.json")))
}

/// Makes the folder, and tries whether a baseline of this name could be written there.
///
/// # Errors
/// Not the name of a file, or a folder that cannot be written.
pub fn may_save(folder: &Path, name: &str) -> Result<(), BaselineError> {
    let path = path(folder, name)?;
    let trial = beside(&path);
    let tried = std::fs::create_dir_all(folder).and_then(|()| std::fs::File::create(&trial));
    let _ = std::fs::remove_file(&trial);
    tried.map(drop).map_err(|source| BaselineError::File { path, what: "written", source })
}

/// Where a baseline is written before it takes its place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("json.{}", std::process::id()))
}

impl Baseline {
    /// Writes it whole or not at all: to a file beside it, to the disk, then in its place.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, BaselineError> {
        let path = path(folder, &self.name)?;
        let beside = beside(&path);
        let written = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        match written() {
            Ok(()) => Ok(path),
            Err(source) => {
                let _ = std::fs::remove_file(&beside);
                Err(BaselineError::File { path, what: "written", source })
            }
        }
    }

    pub fn read(folder: &Path, name: &str) -> Result<Self, BaselineError> {
        let path = path(folder, name)?;
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        if let Err(source) = read {
            return Err(BaselineError::File { path, what: "read", source });
        }
        let refuse = |reason: String| BaselineError::Content { path: path.clone(), reason };
        // The version first: another one may have other fields.
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found == u64::from(VERSION) => {}
            Some(found) => return Err(BaselineError::Version { path, found }),
            None => return Err(refuse("it has no version".into())),
        }
        serde_json::from_value(value).map_err(|error| refuse(error.to_string()))
    }

    /// Compares blocks measured now. A difference of the machines voids it unless `any_machine`.
    pub fn check(&self, now: &[BlockRecord], machine: &Machine, margin: f64, any_machine: bool) -> Check {
        let differences = self.machine.differences(machine);
        let metrics: Vec<CheckMetric> = Metric::ALL.iter().filter_map(|metric| self.metric(*metric, now)).collect();
        let (guardrail, baseline_error_share, error_share) = errors(&self.blocks, now);
        let (verdict, reason) = if !differences.is_empty() && !any_machine {
            (Verdict::Void, format!("the machine is another one: {}", differences.join("; ")))
        } else {
            let why = failures(now).1.map_or_else(String::new, |why| format!(" ({why})"));
            let (share, kept) = (error_share * 100.0, baseline_error_share * 100.0);
            let fail = format!("{share:.2} % of the requests fail{why}, {kept:.2} % did");
            let (verdict, reason) = overall(&metrics, margin);
            match (guardrail, combine(verdict, guardrail)) {
                (Guardrail::Broken, verdict) => (verdict, fail),
                (Guardrail::Suspect, Verdict::Inconclusive) => {
                    (Verdict::Inconclusive, format!("{fail}, too few of the blocks to be sure; {reason}"))
                }
                (_, verdict) => (verdict, reason),
            }
        };
        let (name, machine) = (self.name.clone(), differences);
        Check { name, verdict, reason, margin, metrics, baseline_error_share, error_share, machine }
    }

    fn metric(&self, metric: Metric, now: &[BlockRecord]) -> Option<CheckMetric> {
        let logs =
            |blocks: &[BlockRecord]| blocks.iter().filter_map(|block| Some(block.ns(metric)?.ln())).collect::<Vec<_>>();
        let (then, now) = (logs(&self.blocks), logs(now));
        // Those that are judged share the error; a description has no part in it.
        let sharing = Metric::ALL.iter().filter(|metric| self.load.judges(**metric)).count().max(1);
        let change = two_sample::shift(&then, &now, ALPHA / sharing as f64)?.map(f64::exp_m1);
        let middle = |logs: &[f64]| crate::stats::median(logs).map(|log| log.exp() / 1e6);
        Some(CheckMetric {
            metric,
            baseline_ms: middle(&then)?,
            now_ms: middle(&now)?,
            change,
            judged: self.load.judges(metric),
        })
    }
}

/// The later blocks' failures against the kept ones', and both shares.
///
/// Two conditions, for failures come in swarms: as single events they must be more than chance gives at the kept share and
/// the margin, or one failure of a few hundred requests would look like a finding; and they must be in so many blocks that
/// the rank-sum test sees it, or one bad moment would.
fn errors(then: &[BlockRecord], now: &[BlockRecord]) -> (Guardrail, f64, f64) {
    let share = |(failed, all): (u64, u64)| failed as f64 / all.max(1) as f64;
    let (then_sum, now_sum) = (counts(then), counts(now));
    let by_chance = binomial::at_least(now_sum.0, now_sum.1, (share(then_sum) + ERROR_MARGIN).min(1.0));
    let shares = |blocks: &[BlockRecord]| blocks.iter().map(BlockRecord::error_share).collect::<Vec<_>>();
    let guardrail = if by_chance > ALPHA {
        Guardrail::Kept
    } else if two_sample::p_value(&shares(then), &shares(now)) <= ALPHA {
        Guardrail::Broken
    } else {
        Guardrail::Suspect
    };
    (guardrail, share(then_sum), share(now_sum))
}

/// Worse if any judged metric is, beyond the margin and not by chance; fine if none can be worse by the margin.
fn overall(metrics: &[CheckMetric], margin: f64) -> (Verdict, String) {
    let told = |metric: &CheckMetric| {
        let Estimate { value, low, high } = metric.change.map(|share| share * 100.0);
        format!("{} {value:+.1} % ({low:+.1} % to {high:+.1} %)", metric.metric.as_str())
    };
    if metrics.is_empty() {
        return (Verdict::Void, "nothing was answered".into());
    }
    let metrics: Vec<&CheckMetric> = metrics.iter().filter(|metric| metric.judged).collect();
    if metrics.is_empty() {
        return (Verdict::Inconclusive, "its blocks are too short to judge any quantile: save it anew".into());
    }
    let worse = metrics.iter().find(|metric| metric.change.low > 0.0 && metric.change.value > margin);
    if let Some(metric) = worse {
        return (Verdict::Worse, format!("{} against a margin of {:.0} %", told(metric), margin * 100.0));
    }
    let all = metrics.iter().map(|metric| told(metric)).collect::<Vec<_>>().join(", ");
    if metrics.iter().all(|metric| metric.change.high < margin) {
        let better = metrics.iter().any(|metric| metric.change.high < 0.0 && metric.change.value < -margin);
        return (if better { Verdict::Better } else { Verdict::Equivalent }, all);
    }
    (Verdict::Inconclusive, format!("{all}: a change beyond the margin of {:.0} % is possible", margin * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Rng;

    fn blocks(seed: u64, ms: f64) -> Vec<BlockRecord> {
        let mut rng = Rng::new(seed);
        let mut ns = move |ms: f64| (ms * 1e6 * (1.0 + 0.01 * rng.normal())) as u64;
        let mut block = || BlockRecord {
            times: Some(Times { p50_ns: ns(ms), p95_ns: ns(3.0 * ms), p99_ns: ns(5.0 * ms) }),
            succeeded: 100,
            failed: 0,
            succeeded_per_second: 100.0,
            failure: None,
        };
        (0..BLOCKS).map(|_| block()).collect()
    }

    fn kept() -> Baseline {
        let sending = Sending { connections: 8, headers: vec!["a: b".into()], ..Sending::default() };
        let load = Load { url: "http://a/".into(), per_second: 100.0, block_ms: 60_000, primary: Metric::P95, sending };
        let machine = Machine { cpu: "a CPU".into(), cpus: 2, ..Machine::default() };
        Baseline { version: VERSION, name: "main".into(), saved_unix_ms: 1, machine, load, blocks: blocks(1, 2.0) }
    }

    #[test]
    fn later_measurements_are_judged() {
        let kept = kept();
        let check = |blocks: &[BlockRecord]| kept.check(blocks, &kept.machine, MARGIN, false);
        assert_eq!(check(&blocks(2, 2.0)).verdict, Verdict::Equivalent);
        assert_eq!(check(&blocks(2, 2.5)).verdict, Verdict::Worse);
        assert_eq!(check(&blocks(2, 1.5)).verdict, Verdict::Better);
        assert_eq!(check(&blocks(2, 2.2)[..2]).verdict, Verdict::Inconclusive);
        assert_eq!(check(&[]).verdict, Verdict::Void);
    }

    /// With 1,020 requests a block has ten beyond its p99: what they say is shown and decides nothing.
    #[test]
    fn a_quantile_that_the_blocks_cannot_show_is_described() {
        let mut kept = kept();
        kept.load.block_ms = 12_000;
        let mut now = blocks(2, 2.0);
        for times in now.iter_mut().filter_map(|block| block.times.as_mut()) {
            times.p99_ns *= 3;
        }
        let check = kept.check(&now, &kept.machine, MARGIN, false);
        assert_eq!(check.verdict, Verdict::Equivalent, "{}", check.reason);
        assert_eq!(check.metrics.iter().map(|metric| metric.judged).collect::<Vec<_>>(), [true, true, false]);
        assert!(!check.reason.contains("p99") && check.metrics[2].change.value > 1.5);
        kept.load.block_ms = 60_000;
        assert_eq!(kept.check(&now, &kept.machine, MARGIN, false).verdict, Verdict::Equivalent);
        kept.load.primary = Metric::P99;
        assert_eq!(kept.check(&now, &kept.machine, MARGIN, false).verdict, Verdict::Worse);
        kept.load.block_ms = 300;
        assert_eq!(kept.check(&now, &kept.machine, MARGIN, false).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn failures_decide_where_they_are_many_and_in_many_blocks() {
        let kept = kept();
        let check = |failed: [u64; BLOCKS]| {
            let mut now = blocks(2, 2.0);
            for (block, failed) in now.iter_mut().zip(failed) {
                (block.failed, block.succeeded) = (failed, 100 - failed);
                block.times = block.times.filter(|_| failed < 100);
            }
            kept.check(&now, &kept.machine, MARGIN, false)
        };
        // One of 800: chance, at the kept share and the margin of a thousandth.
        assert_eq!(check([0, 0, 1, 0, 0, 0, 0, 0]).verdict, Verdict::Equivalent);
        // One bad moment, and a service that fails all the time.
        let burst = check([0, 0, 50, 0, 0, 0, 0, 0]);
        assert_eq!(burst.verdict, Verdict::Inconclusive);
        assert!(burst.reason.contains("6.25 % of the requests fail"), "{}", burst.reason);
        assert_eq!(check([3, 2, 4, 1, 2, 3, 1, 2]).verdict, Verdict::Worse);
        let lost = check([0, 0, 100, 100, 100, 100, 100, 100]);
        assert_eq!(lost.verdict, Verdict::Worse);
        assert!(lost.reason.starts_with("75.00 %"), "{}", lost.reason);
        let all = check([100; BLOCKS]);
        assert_eq!((all.verdict, all.metrics.len(), all.error_share), (Verdict::Worse, 0, 1.0));
    }

    #[test]
    fn another_machine_voids_it_unless_allowed() {
        let kept = kept();
        let other = Machine { cpus: 8, ..kept.machine.clone() };
        let check = kept.check(&blocks(2, 2.0), &other, MARGIN, false);
        assert_eq!(check.verdict, Verdict::Void);
        assert!(check.reason.contains("there were 2 CPUs and are 8"), "{}", check.reason);
        assert_eq!(kept.check(&blocks(2, 2.0), &other, MARGIN, true).verdict, Verdict::Equivalent);
    }

    #[test]
    fn what_was_saved_is_read_and_what_is_broken_is_refused() {
        let folder = std::env::temp_dir().join(format!("celerity-baseline-{}", std::process::id()));
        let kept = kept();
        let path = kept.save(&folder).expect("saved");
        assert_eq!(Baseline::read(&folder, "main").expect("read"), kept);
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
        let text = std::fs::read_to_string(&path).expect("text");
        let broken = |text: &str| {
            std::fs::write(&path, text).expect("written");
            Baseline::read(&folder, "main").expect_err("refused").to_string()
        };
        // Version 2 counted late answers in its rates, and failures in its times.
        for other in [2, 9] {
            let other = broken(&text.replacen("\"version\": 3", &format!("\"version\": {other}"), 1));
            assert!(other.contains("has version") && other.ends_with("save it anew"), "{other}");
        }
        assert!(broken(&text[..40]).contains("is not one"));
        assert!(broken("{}").contains("no version"));
        let missing = Baseline::read(&folder, "other").expect_err("missing").to_string();
        assert!(missing.contains("other.json cannot be read"), "{missing}");
        for name in ["", "../x", "a/b", ".hidden"] {
            assert!(matches!(super::path(&folder, name), Err(BaselineError::Name(_))), "{name}");
        }
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn machine_facts_come_from_proc() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Fast 9000\nprocessor\t: 1\nmodel name\t: Fast 9000\n";
        let machine = Machine::parse(cpuinfo, "MemTotal:       16384000 kB\n", "6.1.0\n");
        let expected = Machine { cpu: "Fast 9000".into(), cpus: 2, memory_mib: 16_000, kernel: "6.1.0".into() };
        assert_eq!(machine, expected);
    }
}
