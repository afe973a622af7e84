//! One thread's recorder. In the steady state it adds to counters and buckets that exist already: no allocation.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use celerity_telemetry::Rng;
use celerity_telemetry::ledger::CATEGORIES;

use crate::control::Cell;
use crate::habits::rows::{Batch, Row, Rows};
use crate::summary::{ErrorKind, LEDGER_SAMPLES_MAX, LedgerSample, LedgerTotals, Summary, TALLY_MAX};

/// One answered request. Times are nanoseconds since the run's start.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub intended_ns: u64,
    /// When it was written.
    pub sent_ns: u64,
    pub ended_ns: u64,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub success: bool,
    /// Head and body as they came.
    pub bytes: u64,
    pub body_bytes: u64,
    /// What the mesh said of its own time, microseconds by category.
    pub ledger_us: Option<[u32; CATEGORIES]>,
}

/// Statuses are counted in an array: 100 to 599, as RFC 9110 section 15 has them.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;

/// Collects what happens on one thread.
pub struct Recorder {
    summary: Summary,
    statuses: Box<[u64; STATUSES]>,
    odd_statuses: u64,
    errors: [u64; ErrorKind::ALL.len()],
    /// Requests intended before this are not recorded.
    warm_up_ns: u64,
    /// Where the measured part ends, if that is known from the start.
    end_ns: u64,
    rng: Rng,
    live: Arc<Cell>,
    /// Which request is told next, for the rows.
    pub(crate) request: u32,
    rows: Option<Batch>,
}

impl Recorder {
    pub(crate) fn new(warm_up_ns: u64, ledger: bool, seed: u64, live: Arc<Cell>) -> Self {
        let summary = Summary { ledger: ledger.then(LedgerTotals::default), ..Summary::default() };
        Self {
            summary,
            statuses: Box::new([0; STATUSES]),
            odd_statuses: 0,
            errors: [0; ErrorKind::ALL.len()],
            warm_up_ns,
            end_ns: u64::MAX,
            rng: Rng::seeded(seed),
            live,
            request: 0,
            rows: None,
        }
    }

    /// Tells each request there too.
    pub(crate) fn with_rows(mut self, rows: Option<&Rows>) -> Self {
        self.rows = rows.cloned().map(Batch::new);
        self
    }

    /// Answers from there on are late: they count, and not in the rate.
    pub(crate) fn ending_at(mut self, end_ns: Option<u64>) -> Self {
        self.end_ns = end_ns.unwrap_or(u64::MAX);
        self
    }

    /// A request's time has come.
    pub fn intended(&mut self, intended_ns: u64, requests: u64) {
        Cell::add(&self.live.intended, requests);
        if intended_ns >= self.warm_up_ns {
            self.summary.intended += requests;
            self.summary.timeline.at(intended_ns - self.warm_up_ns).intended += requests;
        }
    }

    /// A request was handed to a connection. `lag_ns` as in [`Summary::lag`].
    #[inline]
    pub fn started(&mut self, intended_ns: u64, lag_ns: u64) {
        self.live.lag(lag_ns);
        if intended_ns >= self.warm_up_ns {
            self.summary.lag.record(lag_ns);
        }
    }

    /// A request was written.
    #[inline]
    pub fn sent(&mut self, intended_ns: u64, sent_ns: u64, bytes: u64, requests: u64) {
        Cell::add(&self.live.sent, requests);
        if intended_ns >= self.warm_up_ns {
            self.summary.sent += requests;
            self.summary.bytes_sent += bytes;
            self.summary.timeline.at(sent_ns.saturating_sub(self.warm_up_ns)).sent += requests;
        }
    }

    #[inline]
    pub fn answered(&mut self, answer: &Answer) {
        let response_ns = answer.ended_ns.saturating_sub(answer.intended_ns);
        self.live.latency(response_ns);
        Cell::add(if answer.success { &self.live.succeeded } else { &self.live.failed }, 1);
        Cell::add(&self.live.bytes_received, answer.bytes);
        if answer.intended_ns < self.warm_up_ns {
            if (self.warm_up_ns..self.end_ns).contains(&answer.ended_ns) {
                self.summary.carried_in.count(answer.success);
            }
            return;
        }
        if answer.ended_ns >= self.end_ns {
            self.summary.late.count(answer.success);
        }
        if let Some(rows) = &mut self.rows {
            rows.push(Row {
                request: self.request,
                intended_ns: answer.intended_ns - self.warm_up_ns,
                ended_ns: answer.ended_ns.saturating_sub(self.warm_up_ns),
                status: answer.status,
                body_bytes: answer.body_bytes,
                success: answer.success,
                error: None,
            });
        }
        let summary = &mut self.summary;
        summary.answered_ns = summary.answered_ns.max(answer.ended_ns.saturating_sub(self.warm_up_ns));
        summary.ended_ns = summary.ended_ns.max(summary.answered_ns);
        summary.response.record(response_ns);
        summary.service.record(answer.ended_ns.saturating_sub(answer.sent_ns));
        summary.bytes_received += answer.bytes;
        summary.body_bytes_received += answer.body_bytes;
        match self.statuses.get_mut(usize::from(answer.status.wrapping_sub(STATUS_MIN))) {
            Some(count) => *count += 1,
            None => self.odd_statuses += 1,
        }
        if let Some(status) = answer.grpc_status {
            *summary.grpc_statuses.entry(status).or_default() += 1;
        }
        let bin = summary.timeline.at(answer.ended_ns.saturating_sub(self.warm_up_ns));
        bin.bytes_received += answer.bytes;
        if answer.success {
            bin.succeeded += 1;
            summary.succeeded += 1;
        } else {
            bin.failed += 1;
            summary.failed_answers += 1;
            summary.failed_response.record(response_ns);
        }
        summary.timeline.latency(answer.intended_ns - self.warm_up_ns, response_ns);
        if let (Some(parts), Some(ledger)) = (answer.ledger_us, &mut summary.ledger) {
            ledger.responses += 1;
            ledger.response_ns = ledger.response_ns.saturating_add(response_ns);
            for (sum, part) in ledger.categories_ns.iter_mut().zip(parts) {
                *sum = sum.saturating_add(u64::from(part) * 1000);
            }
            let sample = LedgerSample {
                response_us: u32::try_from(response_ns / 1000).unwrap_or(u32::MAX),
                categories_us: parts,
            };
            // Vitter's algorithm R (1985): each response is in the sample with the same probability.
            if ledger.samples.len() < LEDGER_SAMPLES_MAX {
                ledger.samples.push(sample);
            } else if let Some(place) = ledger.samples.get_mut(self.rng.below(ledger.responses) as usize) {
                *place = sample;
            }
        }
    }

    /// A request ended without an answer. `sent` is false where it never reached a connection.
    pub fn failed(&mut self, intended_ns: u64, now_ns: u64, kind: ErrorKind, sent: bool, example: Option<&str>) {
        Cell::add(&self.live.failed, 1);
        if intended_ns < self.warm_up_ns {
            return;
        }
        self.row_failed(intended_ns, now_ns, kind);
        self.errors[kind as usize] += 1;
        self.summary.ended_ns = self.summary.ended_ns.max(now_ns.saturating_sub(self.warm_up_ns));
        if sent {
            self.summary.unanswered.record(now_ns.saturating_sub(intended_ns));
        }
        self.summary.timeline.at(now_ns.saturating_sub(self.warm_up_ns)).failed += 1;
        if let Some(text) = example
            && !self.summary.error_examples.contains_key(&kind)
        {
            self.summary.error_examples.insert(kind, text.to_owned());
        }
    }

    /// The script of this thread failed at a request. Counts in the warm-up too: the run ends with it.
    pub fn script_failed(&mut self, now_ns: u64, text: &str) {
        let at_ns = now_ns.max(self.warm_up_ns);
        self.intended(at_ns, 1);
        self.failed(at_ns, at_ns, ErrorKind::Script, false, Some(text));
    }

    fn row_failed(&mut self, intended_ns: u64, now_ns: u64, kind: ErrorKind) {
        if let Some(rows) = &mut self.rows {
            rows.push(Row {
                request: self.request,
                intended_ns: intended_ns.saturating_sub(self.warm_up_ns),
                ended_ns: now_ns.saturating_sub(self.warm_up_ns),
                status: 0,
                body_bytes: 0,
                success: false,
                error: Some(kind),
            });
        }
    }

    /// Many at once, such as the rest of a schedule that could not be sent.
    pub fn failed_many(&mut self, now_ns: u64, kind: ErrorKind, requests: u64) {
        Cell::add(&self.live.failed, requests);
        if now_ns < self.warm_up_ns {
            return;
        }
        for _ in 0..if self.rows.is_some() { requests } else { 0 } {
            self.row_failed(now_ns, now_ns, kind);
        }
        self.errors[kind as usize] += requests;
        self.summary.timeline.at(now_ns.saturating_sub(self.warm_up_ns)).failed += requests;
    }

    /// A header's value, for the plan's tally.
    pub fn tally(&mut self, intended_ns: u64, value: &str) {
        if intended_ns < self.warm_up_ns {
            return;
        }
        let tally = &mut self.summary.tally;
        if let Some(count) = tally.get_mut(value) {
            *count += 1;
            return;
        }
        let name = if tally.len() < TALLY_MAX { value } else { "other" };
        *tally.entry(name.to_owned()).or_default() += 1;
    }

    pub fn connected(&mut self, connect_ns: u64, tls_ns: Option<u64>) {
        self.summary.connect.record(connect_ns);
        if let Some(ns) = tls_ns {
            self.summary.tls.record(ns);
        }
    }

    pub(crate) fn audit(&mut self) -> &mut crate::audit::Audit {
        &mut self.summary.audit
    }

    pub(crate) fn publish(&mut self, elapsed_ns: u64, in_flight: u32, open: u32) {
        if let Some(rows) = &mut self.rows {
            rows.flush();
        }
        self.live.elapsed_ns.store(elapsed_ns, Relaxed);
        self.live.in_flight.store(in_flight, Relaxed);
        self.live.open_connections.store(open, Relaxed);
    }

    /// What was collected. `measured_ns` is the run's length without its warm-up.
    pub fn finish(mut self, measured_ns: u64) -> Summary {
        self.summary.duration_ns = measured_ns;
        for (place, &count) in self.statuses.iter().enumerate().filter(|&(_, &count)| count > 0) {
            self.summary.statuses.insert(STATUS_MIN + place as u16, count);
        }
        if self.odd_statuses > 0 {
            self.summary.statuses.insert(0, self.odd_statuses);
        }
        for (kind, &count) in ErrorKind::ALL.iter().zip(&self.errors).filter(|&(_, &count)| count > 0) {
            self.summary.errors.insert(*kind, count);
        }
        self.summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Crossed;

    #[test]
    fn response_counts_from_the_intended_time_and_service_from_the_write() {
        let mut r = Recorder::new(1_000, true, 1, Arc::default()).ending_at(Some(5_000_000));
        let answer = Answer {
            intended_ns: 1_000_000,
            sent_ns: 3_000_000,
            ended_ns: 4_000_000,
            status: 200,
            grpc_status: None,
            success: true,
            bytes: 100,
            body_bytes: 10,
            ledger_us: Some([1; CATEGORIES]),
        };
        r.answered(&answer);
        r.answered(&Answer { intended_ns: 0, ..answer });
        r.answered(&Answer { success: false, status: 500, ended_ns: 9_000_000, ..answer });
        r.failed(2_000, 5_000_000, ErrorKind::Timeout, true, Some("x"));
        let s = r.finish(10);
        assert_eq!((s.succeeded, s.failed(), s.statuses[&200]), (1, 2, 1));
        assert!((s.response.mean_ns() - 5.5e6).abs() < 1.0 && (s.service.mean_ns() - 3.5e6).abs() < 1.0);
        assert_eq!((s.answered_ns, s.ended_ns), (8_999_000, 8_999_000));
        assert_eq!((s.failed_response.count(), s.failed_response.mean_ns()), (1, 8e6));
        assert_eq!(
            (s.carried_in, s.late),
            (Crossed { answers: 1, successes: 1 }, Crossed { answers: 1, successes: 0 })
        );
        assert_eq!(s.ledger.map(|l| l.responses), Some(2));
    }
}
