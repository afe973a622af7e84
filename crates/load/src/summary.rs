//! What a run gave: everything that a report, a comparison or a kept baseline needs. Made of counters and histograms, so
//! that threads, blocks and runs can be added up.

use std::collections::BTreeMap;

use celerity_telemetry::ledger::CATEGORIES;
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::histogram::Histogram;
use crate::timeline::Timeline;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The connection was refused.
    Refused,
    /// The connection failed otherwise: no route, no port left, no descriptor left.
    Connect,
    /// TCP connect, proxy and TLS together took longer than the connect timeout.
    ConnectTimeout,
    /// The forward proxy did not give a tunnel.
    Proxy,
    /// The TLS handshake failed, or TLS broke later.
    Tls,
    /// No whole answer within the timeout.
    Timeout,
    /// The server closed the connection before the answer was whole.
    Closed,
    /// The connection was reset.
    Reset,
    /// What came is not HTTP.
    Protocol,
    /// No connection was free, and the plan says to drop then.
    Dropped,
    /// Its time had come, but the run ended before a connection was free.
    Unsent,
    /// The run was stopped while it was under way.
    Stopped,
    /// The script failed.
    Script,
    /// The server's name has no address.
    Resolve,
}

impl ErrorKind {
    /// Those of requests that never reached the server.
    pub const UNCONNECTED: [Self; 6] =
        [Self::Refused, Self::Connect, Self::ConnectTimeout, Self::Proxy, Self::Tls, Self::Resolve];

    pub const ALL: [Self; 14] = [
        Self::Refused,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Proxy,
        Self::Tls,
        Self::Timeout,
        Self::Closed,
        Self::Reset,
        Self::Protocol,
        Self::Dropped,
        Self::Unsent,
        Self::Stopped,
        Self::Script,
        Self::Resolve,
    ];

    /// A name for tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Connect => "connect failed",
            Self::ConnectTimeout => "connect timeout",
            Self::Proxy => "proxy refused",
            Self::Tls => "TLS failed",
            Self::Timeout => "no answer in time",
            Self::Closed => "closed before the answer was whole",
            Self::Reset => "connection reset",
            Self::Protocol => "not HTTP",
            Self::Dropped => "dropped, no free connection",
            Self::Unsent => "not sent before the end",
            Self::Stopped => "stopped while under way",
            Self::Script => "script failed",
            Self::Resolve => "no such host",
        }
    }
}

/// A run's result. Times are nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub about: About,
    /// From the start to the end of the measured part: the schedule, not the wait for the last answers.
    pub duration_ns: u64,
    /// When the last answer came, and when the last request ended, with an answer or without: from the measured part's start.
    #[serde(default)]
    pub answered_ns: u64,
    #[serde(default)]
    pub ended_ns: u64,
    /// Requests whose intended time lay in the measured part (open loop), or that were started (closed loop).
    pub intended: u64,
    /// Written to a connection.
    pub sent: u64,
    /// Answers that count as a success.
    pub succeeded: u64,
    /// Answers that do not: status 400 and above, or a gRPC status other than 0.
    pub failed_answers: u64,
    /// Requests without an answer, by reason. `intended` = `succeeded` + `failed_answers` + these.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first message of each kind of error, as the system or the library gave it.
    pub error_examples: BTreeMap<ErrorKind, String>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    pub grpc_statuses: BTreeMap<u16, u64>,
    pub bytes_sent: u64,
    /// Heads and bodies as they came, without TLS.
    pub bytes_received: u64,
    pub body_bytes_received: u64,
    /// Answered requests, from the intended send time to the last byte. In a closed loop the intended time is the real one.
    pub response: Histogram,
    /// Of these, the answers that are no success.
    #[serde(default)]
    pub failed_response: Histogram,
    /// Answers to requests of the warm-up that came in the measured part.
    #[serde(default)]
    pub carried_in: Crossed,
    /// Answers to requests of the measured part that came after its end.
    #[serde(default)]
    pub late: Crossed,
    /// Answered requests, from the real write to the last byte.
    pub service: Histogram,
    /// Requests that were sent and got no answer: from the intended time until they were given up.
    pub unanswered: Histogram,
    /// How much later than possible the sender was: send less intended time, where a connection was free.
    pub lag: Histogram,
    /// TCP connects that succeeded.
    pub connect: Histogram,
    /// TLS handshakes that succeeded.
    pub tls: Histogram,
    pub timeline: Timeline,
    /// Only where the plan asked for it.
    pub ledger: Option<LedgerTotals>,
    /// Answers by the value of the plan's `tally_header`; at most [`TALLY_MAX`] values, the rest as `other`.
    pub tally: BTreeMap<String, u64>,
    pub audit: Audit,
}

/// Answers on the other side of an edge of the measured part than their requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossed {
    pub answers: u64,
    pub successes: u64,
}

impl Crossed {
    pub(crate) fn count(&mut self, success: bool) {
        self.answers += 1;
        self.successes += u64::from(success);
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.successes += other.successes;
    }
}

/// Values of a tallied header that are told apart.
pub const TALLY_MAX: usize = 64;
/// Ledgers kept one by one, for cohorts: 36 bytes each.
pub const LEDGER_SAMPLES_MAX: usize = 16_384;

/// What was run, for reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The first target's URL, and how many there are.
    pub target: String,
    pub targets: u32,
    /// `http/1.1` or `h2`.
    pub protocol: String,
    pub open_loop: bool,
    /// In words: `open loop, 2000/s poisson for 30 s`.
    pub load: String,
    /// Mean offered rate of an open loop.
    pub offered_per_second: Option<f64>,
    pub connections: u32,
    pub streams_per_connection: u32,
    pub threads: u32,
    pub seed: u64,
    pub warm_up_ns: u64,
    /// Start of the run, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// It was ended by a signal or by a hook before the plan was through.
    pub interrupted: bool,
}

/// What the mesh said of its own time, added up over the responses that carried a ledger.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerTotals {
    /// Responses that carried one.
    pub responses: u64,
    /// Sum of their response times.
    pub response_ns: u64,
    /// Sum of each category, in `Category::ALL`'s order.
    pub categories_ns: [u64; CATEGORIES],
    /// An even sample of them, at most [`LEDGER_SAMPLES_MAX`].
    pub samples: Vec<LedgerSample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerSample {
    pub response_us: u32,
    pub categories_us: [u32; CATEGORIES],
}

/// The mean of each category over some requests, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerMeans {
    pub requests: u64,
    pub response_us: f64,
    pub categories_us: [f64; CATEGORIES],
}

impl LedgerMeans {
    /// What the client waited beyond the mesh's own total: its connect, its queue, its event loop.
    pub fn outside_us(&self) -> f64 {
        (self.response_us - self.categories_us.iter().sum::<f64>()).max(0.0)
    }
}

impl LedgerTotals {
    /// Over all responses that carried a ledger.
    pub fn means(&self) -> LedgerMeans {
        let per = |ns: u64| ns as f64 / 1e3 / self.responses.max(1) as f64;
        LedgerMeans {
            requests: self.responses,
            response_us: per(self.response_ns),
            categories_us: self.categories_ns.map(per),
        }
    }

    /// Over the sampled responses between two quantiles of response time. Percentiles of parts do not add up to a
    /// percentile of the whole; the means of one cohort do.
    pub fn cohort(&self, from: f64, to: f64) -> LedgerMeans {
        let mut sorted: Vec<&LedgerSample> = self.samples.iter().collect();
        sorted.sort_unstable_by_key(|s| s.response_us);
        let count = sorted.len();
        let low = ((from * count as f64).floor() as usize).min(count.saturating_sub(1));
        let high = ((to * count as f64).ceil() as usize).clamp(low, count);
        let mut means = LedgerMeans::default();
        for sample in sorted.get(low..high).unwrap_or_default() {
            means.requests += 1;
            means.response_us += f64::from(sample.response_us);
            for (sum, part) in means.categories_us.iter_mut().zip(sample.categories_us) {
                *sum += f64::from(part);
            }
        }
        let requests = means.requests.max(1) as f64;
        means.response_us /= requests;
        means.categories_us.iter_mut().for_each(|sum| *sum /= requests);
        means
    }

    fn merge(&mut self, other: &Self) {
        // Each side's share of the sample follows how many it stands for; taken evenly from both, which keeps it seeded.
        let all = (self.responses + other.responses).max(1);
        let room = |mine: &Self| (LEDGER_SAMPLES_MAX as u64 * mine.responses / all) as usize;
        if self.samples.len() + other.samples.len() > LEDGER_SAMPLES_MAX {
            let mut kept = thinned(&self.samples, room(self));
            kept.extend(thinned(&other.samples, room(other)));
            self.samples = kept;
        } else {
            self.samples.extend_from_slice(&other.samples);
        }
        self.responses += other.responses;
        self.response_ns = self.response_ns.saturating_add(other.response_ns);
        for (mine, theirs) in self.categories_ns.iter_mut().zip(other.categories_ns) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

fn thinned(samples: &[LedgerSample], room: usize) -> Vec<LedgerSample> {
    let room = room.min(samples.len());
    (0..room).filter_map(|n| samples.get(n * samples.len() / room.max(1))).copied().collect()
}

impl Summary {
    /// Requests without a success.
    pub fn failed(&self) -> u64 {
        self.failed_answers + self.errors.values().sum::<u64>()
    }

    /// Requests that have ended, one way or the other.
    pub fn total(&self) -> u64 {
        self.succeeded + self.failed()
    }

    /// 0 to 1; 0 where nothing was sent.
    pub fn success_share(&self) -> f64 {
        if self.total() == 0 { 0.0 } else { self.succeeded as f64 / self.total() as f64 }
    }

    /// Answers in a second of the measured part: those that came in it. A server that falls behind answers the rest after the
    /// end, and those say nothing of its rate.
    pub fn answered_per_second(&self) -> f64 {
        self.in_a_second(self.succeeded + self.failed_answers, self.carried_in.answers, self.late.answers)
    }

    /// Successes in a second of the measured part: those that came in it.
    pub fn succeeded_per_second(&self) -> f64 {
        self.in_a_second(self.succeeded, self.carried_in.successes, self.late.successes)
    }

    fn in_a_second(&self, own: u64, carried_in: u64, late: u64) -> f64 {
        let seconds = self.duration_ns as f64 / 1e9;
        if seconds == 0.0 { 0.0 } else { (own + carried_in).saturating_sub(late) as f64 / seconds }
    }

    /// Bytes received in a second of the time in which they came.
    pub fn received_per_second(&self) -> f64 {
        let ns = self.duration_ns.max(self.answered_ns);
        if ns == 0 { 0.0 } else { self.bytes_received as f64 / (ns as f64 / 1e9) }
    }

    /// What went wrong most often, in words; `None` where nothing did.
    pub fn failure(&self) -> Option<String> {
        let error = self.errors.iter().filter(|(_, count)| **count > 0).max_by_key(|(_, count)| **count);
        let status = self.statuses.iter().filter(|(status, _)| **status >= 400).max_by_key(|(_, count)| **count);
        let grpc = self.grpc_statuses.iter().filter(|(status, _)| **status != 0).max_by_key(|(_, count)| **count);
        let told = |kind: &ErrorKind| match self.error_examples.get(kind) {
            // The system says `Connection refused (os error 111)`, which the name says already.
            Some(example) if !example.to_ascii_lowercase().starts_with(kind.as_str()) => {
                format!("{}: {example}", kind.as_str())
            }
            _ => kind.as_str().to_owned(),
        };
        let candidates = [
            error.map(|(kind, count)| (*count, told(kind))),
            status.map(|(status, count)| (*count, format!("status {status}"))),
            grpc.map(|(status, count)| (*count, format!("gRPC status {status}"))),
        ];
        candidates.into_iter().flatten().max_by_key(|(count, _)| *count).map(|(_, reason)| reason)
    }

    /// The share of the intended requests that could be sent before the schedule's end; 1 for a closed loop.
    pub fn achieved_share(&self) -> f64 {
        if !self.about.open_loop || self.intended == 0 {
            return 1.0;
        }
        let missed: u64 = [ErrorKind::Dropped, ErrorKind::Unsent].iter().filter_map(|k| self.errors.get(k)).sum();
        1.0 - (missed + self.audit.sent_after_end) as f64 / self.intended as f64
    }

    /// Adds another part of the same run: a thread's, or a block's. `about` stays; the longer duration counts.
    pub fn merge(&mut self, other: &Self) {
        self.duration_ns = self.duration_ns.max(other.duration_ns);
        self.answered_ns = self.answered_ns.max(other.answered_ns);
        self.ended_ns = self.ended_ns.max(other.ended_ns);
        self.add_counts(other);
        self.audit.merge(&other.audit);
    }

    /// Adds a run that came after this one, such as the next block of the same arm: durations add up. The timeline stays
    /// this one's.
    pub fn append(&mut self, other: &Self) {
        self.answered_ns = self.duration_ns.saturating_add(other.answered_ns);
        self.ended_ns = self.duration_ns.saturating_add(other.ended_ns);
        self.duration_ns = self.duration_ns.saturating_add(other.duration_ns);
        let timeline = std::mem::take(&mut self.timeline);
        self.add_counts(other);
        self.timeline = timeline;
        self.audit.append(&other.audit);
    }

    fn add_counts(&mut self, other: &Self) {
        self.intended += other.intended;
        self.sent += other.sent;
        self.succeeded += other.succeeded;
        self.failed_answers += other.failed_answers;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.body_bytes_received += other.body_bytes_received;
        add_maps(&mut self.errors, &other.errors);
        add_maps(&mut self.statuses, &other.statuses);
        add_maps(&mut self.grpc_statuses, &other.grpc_statuses);
        add_maps(&mut self.tally, &other.tally);
        for (&kind, example) in &other.error_examples {
            self.error_examples.entry(kind).or_insert_with(|| example.clone());
        }
        self.response.merge(&other.response);
        self.failed_response.merge(&other.failed_response);
        self.carried_in.add(other.carried_in);
        self.late.add(other.late);
        self.service.merge(&other.service);
        self.unanswered.merge(&other.unanswered);
        self.lag.merge(&other.lag);
        self.connect.merge(&other.connect);
        self.tls.merge(&other.tls);
        self.timeline.merge(&other.timeline);
        if let Some(theirs) = &other.ledger {
            self.ledger.get_or_insert_default().merge(theirs);
        }
        self.about.interrupted |= other.about.interrupted;
    }
}

fn add_maps<K: Ord + Clone>(mine: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    for (key, count) in theirs {
        *mine.entry(key.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_survive_json() {
        let mut a = Summary { duration_ns: 2, intended: 3, succeeded: 2, ..Summary::default() };
        a.errors.insert(ErrorKind::Timeout, 1);
        a.response.record(1_000_000);
        let mut b = a.clone();
        b.duration_ns = 5;
        a.merge(&b);
        assert_eq!((a.duration_ns, a.intended, a.total(), a.failed(), a.response.count()), (5, 6, 6, 2, 2));
        a.append(&b);
        assert_eq!((a.duration_ns, a.total()), (10, 9));
        let json = serde_json::to_string(&a).expect("json");
        let back: Summary = serde_json::from_str(&json).expect("a summary");
        assert_eq!(back.errors, a.errors);
    }

    #[test]
    fn rates_count_the_answers_that_came_in_the_measured_part() {
        let mut s = Summary { duration_ns: 2_000_000_000, succeeded: 600, failed_answers: 10, ..Summary::default() };
        s.late = Crossed { answers: 410, successes: 405 };
        s.carried_in = Crossed { answers: 2, successes: 1 };
        assert_eq!((s.answered_per_second(), s.succeeded_per_second()), (101.0, 98.0));
        (s.bytes_received, s.answered_ns) = (300, 3_000_000_000);
        assert_eq!(s.received_per_second(), 100.0);
    }

    #[test]
    fn the_commonest_failure_is_told() {
        let mut s = Summary::default();
        assert_eq!(s.failure(), None);
        s.statuses = [(200, 50), (500, 3), (503, 5)].into();
        assert_eq!(s.failure().as_deref(), Some("status 503"));
        s.errors.insert(ErrorKind::Tls, 9);
        s.error_examples.insert(ErrorKind::Tls, "it has expired".into());
        assert_eq!(s.failure().as_deref(), Some("TLS failed: it has expired"));
    }

    #[test]
    fn an_open_loop_that_could_not_send_everything_says_so() {
        let mut s = Summary { intended: 100, ..Summary::default() };
        s.errors.insert(ErrorKind::Unsent, 10);
        assert!((s.achieved_share() - 1.0).abs() < 1e-9);
        s.about.open_loop = true;
        assert!((s.achieved_share() - 0.9).abs() < 1e-9);
    }
}
