//! An A/B as a person watches it: progress while it runs, the report at its end.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use celerity_load::ab::{self, Arms, Design, Event, Flow, Report};

use crate::interrupt::Interrupt;
use crate::term;

/// Runs it, with progress on standard error, for `limit` at most.
pub(crate) fn run(
    design: &Design,
    names: (&str, &str),
    arms: &mut dyn Arms,
    interrupt: &Interrupt,
    limit: Option<Duration>,
) -> anyhow::Result<Report> {
    let began = Instant::now();
    let mut progress = Progress::new();
    progress.note(&format!(
        "{} blocks of {:.1} s at {:.0}/s at most: {:.0} s; Ctrl-C prints what is known",
        2 * (design.aa_pairs + design.pairs_max() + 1),
        design.block.as_secs_f64(),
        design.per_second,
        design.longest().as_secs_f64()
    ));
    let report = ab::run(design, names, arms, |event| {
        progress.show(&event);
        let over = limit.is_some_and(|limit| began.elapsed() >= limit);
        if over || interrupt.asked() { Flow::Stop } else { Flow::Continue }
    })?;
    progress.clear();
    Ok(report)
}

/// A line that is redrawn on a terminal, lines elsewhere.
struct Progress {
    live: bool,
    /// Pairs of the A/B that are through, the void ones too.
    pairs: usize,
}

/// Without a terminal, a line for so many pairs.
const PAIRS_A_LINE: usize = 4;

impl Progress {
    fn new() -> Self {
        Self {
            live: std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
            pairs: 0,
        }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Aa { done, of } => self.step(&format!("A/A: pair {done} of {of}"), *done),
            Event::Floor(aa) => self.note(&ab::text::floor(aa)),
            Event::Refused(why) => {
                self.note(&format!(
                    "{why}. Pairs follow to describe the arms, and what is beyond the floor is decided"
                ));
            }
            Event::Pair { kept, of, row } => {
                let change = row.change.map_or("no answer".to_owned(), ab::text::percent);
                self.pairs += 1;
                let number = self.pairs;
                let void = if row.void.is_empty() { String::new() } else { format!(", void: {}", row.void.join("; ")) };
                self.step(&format!("A/B: pair {number}, {kept} of at most {of} count, {change}{void}"), number);
            }
            Event::Look(look) => self.note(&ab::text::look(look.pairs, look.change, look.verdict)),
        }
    }

    fn step(&self, text: &str, number: usize) {
        if self.live {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}");
            let _ = out.flush();
        } else if number.is_multiple_of(PAIRS_A_LINE) {
            term::note(text);
        }
    }

    fn note(&self, text: &str) {
        self.clear();
        term::note(text);
    }

    fn clear(&self) {
        if self.live {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
