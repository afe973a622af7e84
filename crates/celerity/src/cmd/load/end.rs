//! How `load` ends: what it exits with, and what becomes of a result that cannot be written.

use std::io;

use celerity_load::audit::Verdict;
use celerity_load::slo::Outcome;
use celerity_load::summary::ErrorKind;
use celerity_load::{Error, Summary};

use crate::term;

/// Exit codes of every verb that measures.
pub(crate) const EXIT_OBJECTIVE: u8 = 1;
pub(crate) const EXIT_USAGE: u8 = 2;
pub(crate) const EXIT_NOT_ACHIEVED: u8 = 3;
pub(crate) const EXIT_VOID: u8 = 4;
/// Below this share of requests sent in time, the offered rate was not achieved.
const ACHIEVED_SHARE_MIN: f64 = 0.99;

/// What could not begin: a slip in the arguments, or a server that is not there.
pub(crate) fn could_not_begin(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::System { .. } | Error::Thread | Error::Stopped) => EXIT_NOT_ACHIEVED,
        Some(error) if error.is_unreached() => EXIT_NOT_ACHIEVED,
        _ => EXIT_USAGE,
    }
}

/// A void run decides nothing; an objective that failed in a run that can be trusted decides.
pub(crate) fn exit_code(summary: &Summary, outcomes: &[Outcome]) -> u8 {
    if summary.errors.contains_key(&ErrorKind::Script) {
        EXIT_USAGE
    } else if summary.succeeded + summary.failed_answers == 0 {
        EXIT_NOT_ACHIEVED
    } else if summary.verdict() != Verdict::Trusted {
        EXIT_VOID
    } else if outcomes.iter().any(|o| !o.passed) {
        EXIT_OBJECTIVE
    } else if summary.achieved_share() < ACHIEVED_SHARE_MIN
        || unconnected_share(summary) > 1.0 - ACHIEVED_SHARE_MIN
        || summary.fell_behind()
    {
        EXIT_NOT_ACHIEVED
    } else {
        0
    }
}

/// Says on standard error that nothing was answered, and why: a report does not begin with it, and a script reads no report.
pub(crate) fn tell_unanswered(summary: &Summary) {
    if summary.succeeded + summary.failed_answers > 0 {
        return;
    }
    if let Some((kind, text)) = summary.error_examples.iter().next() {
        term::error(&anyhow::Error::msg(format!("nothing was answered: {}: {text}", kind.as_str())));
    }
}

/// Requests that never reached the server.
fn unconnected_share(summary: &Summary) -> f64 {
    let count: u64 = ErrorKind::UNCONNECTED.iter().filter_map(|kind| summary.errors.get(kind)).sum();
    count as f64 / summary.total().max(1) as f64
}

/// What is to be said of a write. A reader that has gone away (`| head`) wants no more, and is told nothing.
pub(crate) fn heard(place: &str, written: io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("{place} cannot be written: {error}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use celerity_load::timeline::Timeline;

    use super::*;

    #[test]
    fn a_target_that_is_not_reached_is_no_slip_of_the_hand() {
        let resolve = Error::Resolve { host: "a".into(), reason: "none".into() };
        assert_eq!(could_not_begin(&resolve.into()), EXIT_NOT_ACHIEVED);
        assert_eq!(could_not_begin(&Error::Stopped.into()), EXIT_NOT_ACHIEVED);
        assert_eq!(could_not_begin(&Error::Plan("no".into()).into()), EXIT_USAGE);
        assert_eq!(could_not_begin(&anyhow::Error::msg("no")), EXIT_USAGE);
    }

    #[test]
    fn a_server_that_fell_behind_did_not_achieve_the_rate() {
        let mut run = Summary { duration_ns: 2_000_000_000, intended: 200, succeeded: 200, ..Summary::default() };
        run.about.open_loop = true;
        (run.late.answers, run.answered_ns) = (110, 3_000_000_000);
        for (first_ns, code) in [(1_000_000_000, 0), (20_000_000, EXIT_NOT_ACHIEVED)] {
            run.timeline = Timeline::default();
            for n in 0..200 {
                run.timeline.at(n * 10_000_000).intended += 1;
                run.timeline.latency(n * 10_000_000, if n < 20 { first_ns } else { 1_000_000_000 });
            }
            assert_eq!(exit_code(&run, &[]), code, "a second of latency is half of the run");
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_told_nothing() {
        assert_eq!(heard("x", Err(io::ErrorKind::BrokenPipe.into())), Ok(()));
        assert!(
            heard("x", Err(io::ErrorKind::StorageFull.into())).is_err_and(|why| why.contains("x cannot be written"))
        );
    }
}
