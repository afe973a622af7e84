//! The ledger as people read it: a table of the median cohort beside the tail, a bar by category; and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cohort::{Cohort, Cohorts};
use crate::ledger::{CATEGORIES, Category, STATES, State};
use crate::metrics::SideSummary;

/// One side's ledger with its cohorts.
#[derive(Clone, Debug)]
pub struct LedgerReport {
    pub summary: SideSummary,
    /// `None` where no request has finished.
    pub cohorts: Option<Cohorts>,
}

/// The width of a bar, in characters.
const BAR_COLUMNS: usize = 60;
/// A share of unattributed time above this is a failure of the ledger.
pub const UNATTRIBUTED_SHARE_MAX: f64 = 0.02;
/// States below this share of both cohorts are left out of the table; their category still counts them.
const STATE_SHARE_MIN: f64 = 0.005;

impl LedgerReport {
    /// The text table. `color` asks for ANSI colours: give false where NO_COLOR is set or the output is no terminal.
    pub fn text(&self, color: bool) -> String {
        let mut out = String::new();
        let total = &self.summary.total_us;
        let _ = write!(out, "{}: {} requests", self.summary.side.as_str(), total.count);
        for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)] {
            if let Some(us) = total.quantile(q) {
                let _ = write!(out, ", {name} {}", duration(us as f64 * 1e3));
            }
        }
        out.push('\n');
        let Some(Cohorts { median, tail }) = &self.cohorts else {
            out.push_str("no request has finished yet\n");
            return out;
        };
        let _ = writeln!(
            out,
            "{:<24}{:>12}{:>8}{:>12}{:>8}{:>13}",
            "mean of the cohort", "p45-p55", "", "p98.5-p99.5", "", "difference"
        );
        let (typical, slow) = (median.categories(), tail.categories());
        for category in Category::ALL {
            let at = category as usize;
            row(&mut out, category.as_str(), (typical[at], median.total_ns), (slow[at], tail.total_ns));
            for (name, typical, slow) in inner_rows(category, median, tail) {
                row(&mut out, &format!("  {name}"), (typical, median.total_ns), (slow, tail.total_ns));
            }
        }
        row(&mut out, "total", (median.total_ns, median.total_ns), (tail.total_ns, tail.total_ns));
        let _ = writeln!(out, "median |{}|", bar(&typical, color));
        let _ = writeln!(out, "tail   |{}|", bar(&slow, color));
        let _ = writeln!(out, "        {}", legend(color));
        let share = self.summary.unattributed_share();
        if share > UNATTRIBUTED_SHARE_MAX {
            let _ =
                writeln!(out, "unattributed is {:.1} % of all time: above 2 % the ledger has a hole", share * 100.0);
        }
        if tail.samples < 10 {
            let _ = writeln!(out, "the tail cohort has {} requests: too few to conclude from", tail.samples);
        }
        out
    }

    /// The same as JSON; durations in microseconds.
    pub fn json(&self) -> Value {
        let total = &self.summary.total_us;
        let states: serde_json::Map<String, Value> = State::ALL
            .iter()
            .filter(|state| self.summary.state_ns[**state as usize] > 0)
            .map(|state| (state.as_str().to_owned(), json!(self.summary.state_ns[*state as usize] as f64 / 1e3)))
            .collect();
        json!({
            "reporter": self.summary.side.as_str(),
            "requests": total.count,
            "latency_us": {
                "p50": total.quantile(0.5), "p90": total.quantile(0.9), "p95": total.quantile(0.95),
                "p99": total.quantile(0.99), "p99_9": total.quantile(0.999),
                "max": (total.count > 0).then_some(total.max), "mean": total.mean(),
            },
            "sum_us": categories_json(&self.summary.category_ns.map(|ns| ns as f64)),
            "state_sum_us": states,
            "unattributed_share": self.summary.unattributed_share(),
            "median": self.cohorts.as_ref().map(|cohorts| cohort_json(&cohorts.median)),
            "tail": self.cohorts.as_ref().map(|cohorts| cohort_json(&cohorts.tail)),
            "difference_us": self.cohorts.as_ref().map(|cohorts| {
                let (typical, slow) = (cohorts.median.categories(), cohorts.tail.categories());
                categories_json(&std::array::from_fn(|at| slow[at] - typical[at]))
            }),
        })
    }
}

fn row(out: &mut String, name: &str, typical: (f64, f64), slow: (f64, f64)) {
    let difference = slow.0 - typical.0;
    let sign = if difference < 0.0 { '-' } else { '+' };
    let _ = writeln!(
        out,
        "{name:<24}{:>12}{:>7.1}%{:>12}{:>7.1}%{:>13}",
        duration(typical.0),
        share(typical),
        duration(slow.0),
        share(slow),
        format!("{sign}{}", duration(difference.abs())),
    );
}

fn share((part, whole): (f64, f64)) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

/// What a category is made of, where it is made of more than itself.
fn inner_rows(category: Category, median: &Cohort, tail: &Cohort) -> Vec<(&'static str, f64, f64)> {
    let states = State::ALL.iter().filter(|state| state.category() == category);
    let mut rows: Vec<_> = states
        .map(|state| (state.as_str(), median.state_ns[*state as usize], tail.state_ns[*state as usize]))
        .collect();
    rows.push(("at the peer", median.peer_ns[category as usize], tail.peer_ns[category as usize]));
    rows.retain(|(name, typical, slow)| {
        *name != category.as_str()
            && (*typical > STATE_SHARE_MIN * median.total_ns || *slow > STATE_SHARE_MIN * tail.total_ns)
    });
    rows
}

/// Nanoseconds as a person reads them: three digits or so and a unit.
pub fn duration(ns: f64) -> String {
    if ns < 999.5 {
        format!("{ns:.0} ns")
    } else if ns < 999_950.0 {
        format!("{:.1} us", ns / 1e3)
    } else if ns < 999_950_000.0 {
        format!("{:.2} ms", ns / 1e6)
    } else {
        format!("{:.2} s", ns / 1e9)
    }
}

const LETTERS: [char; CATEGORIES] = ['n', 'p', 'q', 't', 'c', 's', '?'];
const COLORS: [&str; CATEGORIES] = ["34", "32", "33", "35", "36", "90", "31"];

/// A bar of 60 characters, each category's letter as often as its share. Largest remainders, so that it is always full.
pub fn bar(rows: &[f64; CATEGORIES], color: bool) -> String {
    let total: f64 = rows.iter().sum();
    if total <= 0.0 {
        return " ".repeat(BAR_COLUMNS);
    }
    let exact = rows.map(|part| part / total * BAR_COLUMNS as f64);
    let mut columns = exact.map(|part| part as usize);
    while columns.iter().sum::<usize>() < BAR_COLUMNS {
        let behind = |at: &usize| exact[*at] - columns[*at] as f64;
        let Some(next) = (0..CATEGORIES).max_by(|left, right| behind(left).total_cmp(&behind(right))) else { break };
        columns[next] += 1;
    }
    let mut out = String::new();
    for at in 0..CATEGORIES {
        if columns[at] > 0 {
            paint(&mut out, at, &LETTERS[at].to_string().repeat(columns[at]), color);
        }
    }
    out
}

fn legend(color: bool) -> String {
    let mut out = String::new();
    for category in Category::ALL {
        let at = category as usize;
        paint(&mut out, at, &format!("{} {}", LETTERS[at], category.as_str()), color);
        out.push_str("  ");
    }
    out.trim_end().to_owned()
}

fn paint(out: &mut String, at: usize, text: &str, color: bool) {
    if color {
        let _ = write!(out, "\x1b[{}m{text}\x1b[0m", COLORS[at]);
    } else {
        out.push_str(text);
    }
}

fn categories_json(ns: &[f64; CATEGORIES]) -> Value {
    Category::ALL
        .iter()
        .map(|category| (category.as_str().to_owned(), json!(ns[*category as usize] / 1e3)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn cohort_json(cohort: &Cohort) -> Value {
    let states: serde_json::Map<String, Value> = (0..STATES)
        .filter(|at| cohort.state_ns[*at] > 0.0)
        .map(|at| (State::ALL[at].as_str().to_owned(), json!(cohort.state_ns[at] / 1e3)))
        .collect();
    json!({
        "from": cohort.from, "to": cohort.to, "samples": cohort.samples,
        "total_us": cohort.total_ns / 1e3,
        "categories_us": categories_json(&cohort.categories()),
        "states_us": states,
        "peer_us": categories_json(&cohort.peer_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Tick};
    use crate::ledger::Ledger;
    use crate::metrics::{Limits, Registry, Reporter};

    #[test]
    fn the_table_has_every_row_and_the_bar_is_full() {
        let registry = Registry::new(Limits::default());
        let clock = Clock::instant_only();
        let mut shard = registry.shard().ledger(&clock);
        for n in 0..200_u64 {
            let mut ledger = Ledger::start(State::Route, Tick(0));
            ledger.enter(State::AwaitResponse, Tick(16_000));
            let closed = ledger.finish(Tick(160_000 + n * 1_600), &clock);
            shard.record(Reporter::Source, &closed, Tick(n));
        }
        let [source, destination] = registry.ledger_reports();
        let text = source.text(false);
        for category in Category::ALL {
            assert!(text.lines().any(|line| line.starts_with(category.as_str())), "{text}");
        }
        assert!(!text.contains('\x1b') && source.text(true).contains('\x1b'));
        let rows = source.cohorts.as_ref().unwrap().tail.categories();
        assert_eq!(bar(&rows, false).len(), BAR_COLUMNS);
        assert!(destination.text(false).contains("no request"));
        let json = source.json();
        assert_eq!(json["requests"], 200);
        assert_eq!(json["median"]["categories_us"]["processing"], 16.0);
        assert_eq!(json["difference_us"]["processing"], 0.0);
        assert!(destination.json()["tail"].is_null());
    }

    #[test]
    fn durations_keep_their_unit() {
        assert_eq!(duration(999.0), "999 ns");
        assert_eq!(duration(12_345.0), "12.3 us");
        assert_eq!(duration(1_500_000.0), "1.50 ms");
        assert_eq!(duration(2_000_000_000.0), "2.00 s");
    }
}
