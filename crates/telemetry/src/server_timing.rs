//! Every hop's own account in one `Server-Timing` field (W3C Server Timing, section 3).
//!
//! With `x-celerity-ledger: hops` each proxy that a request passed adds a group to the list, the innermost first. A group
//! begins with the hop's name and ends with its total:
//!
//! ```text
//!   hop;desc="inbound user-v1-1", parse;dur=0.021, service;dur=4.2, hop-end;dur=4.221,
//!   hop;desc="outbound order-1", parse;dur=0.018, upstream;dur=4.6;desc="127.0.1.3:15006", hop-end;dur=4.618
//! ```
//!
//! A state's time is written as it was measured, so nothing is joined yet: `upstream` is the whole wait for the next hop.
//! Who reads the list joins by subtraction: the network is `upstream` less the next hop's total. What a hop spent on its
//! client's TLS handshake lies before that wait, in the other side's connect.

use std::io::Write;

use crate::ledger::{Breakdown, State};

/// What a request asked for in [`crate::LEDGER_REQUEST_HEADER`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    #[default]
    Nothing,
    /// Any value but `hops`: one row for each category, the peers' parts in them.
    Rows,
    /// `hops`: each proxy's own states.
    Hops,
}

/// The value that asks for each hop's states.
pub const HOPS: &str = "hops";

impl Asked {
    /// Reads the header's value.
    pub fn of(value: Option<&[u8]>) -> Self {
        match value {
            None => Self::Nothing,
            Some(value) if value.trim_ascii().eq_ignore_ascii_case(HOPS.as_bytes()) => Self::Hops,
            Some(_) => Self::Rows,
        }
    }
}

/// Hops that are read from one field. A request that passed more proxies than this goes in a circle.
pub const HOPS_MAX: usize = 32;
/// The longest name that is read or written, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The wait for the next hop, where that hop gave an account of its own.
const UPSTREAM: &str = "upstream";
const BEGIN: &str = "hop";
const END: &str = "hop-end";

/// One proxy's account, as it wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Such as `outbound order-1`.
    pub name: String,
    /// The address of the endpoint that it called; empty where it called none or did not say.
    pub endpoint: String,
    /// Nanoseconds by state, none of them zero, in the order of `State::ALL`.
    pub states: Vec<(State, u64)>,
    /// The wait for the next hop, which is not in `states`; 0 where there was none.
    pub upstream_ns: u64,
}

impl Hop {
    /// All of it: its states and its wait for the next hop.
    pub fn total_ns(&self) -> u64 {
        self.states.iter().fold(self.upstream_ns, |sum, &(_, ns)| sum.saturating_add(ns))
    }

    pub fn state_ns(&self, state: State) -> u64 {
        self.states.iter().find(|(own, _)| *own == state).map_or(0, |&(_, ns)| ns)
    }
}

impl Breakdown {
    /// Appends this hop's group. `endpoint` is the address of the endpoint that it called.
    pub fn write_hop(&self, name: &str, endpoint: Option<std::net::SocketAddr>, out: &mut Vec<u8>) {
        let joined = self.peer_ns.iter().fold(0_u64, |sum, &part| sum.saturating_add(part));
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{BEGIN};desc=\"{}\"", printable(name));
        for state in State::ALL {
            let ns = self.state(state);
            // What a join left of the wait is the network's; the reader subtracts it anew.
            if ns > 0 && !(joined > 0 && state == State::RoundTrip) {
                let _ = write!(out, ", {};dur={}", state.as_str(), Millis(ns));
            }
        }
        if joined > 0 {
            let upstream_ns = joined.saturating_add(self.state(State::RoundTrip));
            let _ = write!(out, ", {UPSTREAM};dur={}", Millis(upstream_ns));
            if let Some(endpoint) = endpoint {
                let _ = write!(out, ";desc=\"{endpoint}\"");
            }
        } else if let Some(endpoint) = endpoint {
            let _ = write!(out, ", endpoint;desc=\"{endpoint}\"");
        }
        let _ = write!(out, ", {END};dur={}", Millis(self.total_ns()));
    }
}

/// Nanoseconds written as milliseconds with six decimals: nothing is rounded, so a reader's sum is the writer's.
struct Millis(u64);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A name as it may stand in quotes: visible ASCII, no quote, no backslash.
fn printable(name: &str) -> String {
    let fits = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
    name.chars().take(NAME_BYTES_MAX).map(|c| if fits(c) { c } else { '?' }).collect()
}

/// One metric of a `Server-Timing` list.
#[derive(Debug, Default, PartialEq)]
struct Metric<'a> {
    name: &'a str,
    duration_ns: Option<u64>,
    description: &'a str,
}

/// Reads the hops out of a `Server-Timing` field, the innermost first as they were written. Other metrics are passed over;
/// a group without an end, and anything past [`HOPS_MAX`], is left out. What a group's total has more than its parts is
/// `Unattributed`: the total is believed.
pub fn hops(value: &str) -> Vec<Hop> {
    let mut hops = Vec::new();
    let mut open: Option<Hop> = None;
    for metric in split(value, ',').map(metric) {
        match (metric.name, &mut open) {
            (BEGIN, _) => open = Some(Hop { name: shortened(metric.description), ..Hop::default() }),
            (END, Some(_)) => {
                let Some(mut hop) = open.take() else { continue };
                let rest = metric.duration_ns.unwrap_or(0).saturating_sub(hop.total_ns());
                if rest > 0 {
                    add(&mut hop.states, State::Unattributed, rest);
                }
                hop.states.sort_by_key(|&(state, _)| state);
                if hops.len() < HOPS_MAX {
                    hops.push(hop);
                }
            }
            (UPSTREAM, Some(hop)) => {
                hop.upstream_ns = hop.upstream_ns.saturating_add(metric.duration_ns.unwrap_or(0));
                hop.endpoint = shortened(metric.description);
            }
            ("endpoint", Some(hop)) => hop.endpoint = shortened(metric.description),
            (name, Some(hop)) => {
                let state = State::ALL.into_iter().find(|state| state.as_str() == name);
                if let (Some(state), Some(ns @ 1..)) = (state, metric.duration_ns) {
                    add(&mut hop.states, state, ns);
                }
            }
            (_, None) => {}
        }
    }
    hops
}

fn add(states: &mut Vec<(State, u64)>, state: State, ns: u64) {
    match states.iter_mut().find(|(own, _)| *own == state) {
        Some((_, sum)) => *sum = sum.saturating_add(ns),
        None => states.push((state, ns)),
    }
}

fn shortened(text: &str) -> String {
    printable(text)
}

fn metric(text: &str) -> Metric<'_> {
    let mut parts = split(text, ';').map(str::trim);
    let mut metric = Metric { name: parts.next().unwrap_or_default(), ..Metric::default() };
    for part in parts {
        let Some((key, value)) = part.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "dur" => metric.duration_ns = nanoseconds(value),
            "desc" => metric.description = value,
            _ => {}
        }
    }
    metric
}

/// A duration in milliseconds. `None` for what is no number, is negative, or is longer than a day.
fn nanoseconds(text: &str) -> Option<u64> {
    const DAY_MS: f64 = 86_400_000.0;
    let ms: f64 = text.parse().ok()?;
    (0.0..=DAY_MS).contains(&ms).then(|| (ms * 1e6).round() as u64)
}

/// Splits outside of quotes.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c: char| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == at && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Tick};
    use crate::hop::HopReport;
    use crate::ledger::Ledger;
    use proptest::prelude::*;

    #[test]
    fn what_is_asked_is_read_from_the_header() {
        assert_eq!(Asked::of(None), Asked::Nothing);
        assert_eq!(Asked::of(Some(b"1")), Asked::Rows);
        assert_eq!(Asked::of(Some(b" Hops ")), Asked::Hops);
    }

    #[test]
    fn two_hops_come_back_as_they_were_written() {
        let clock = Clock::instant_only();
        let mut inner = Ledger::start(State::Parse, Tick(0));
        inner.charge(State::DownstreamTls, 900_000);
        inner.enter(State::AwaitResponse, Tick(20_000));
        let inner = inner.finish(Tick(4_220_000), &clock);

        let mut outer = Ledger::start(State::Parse, Tick(0));
        outer.begin_attempt(State::AwaitResponse, Tick(18_000));
        outer.enter(State::Copy, Tick(4_618_000));
        outer.join_peer(&HopReport::from(&inner), &clock);
        let outer = outer.finish(Tick(4_620_000), &clock);

        let mut field = b"db;dur=3;desc=\"a, b\", ".to_vec();
        inner.write_hop("inbound user-1", None, &mut field);
        field.push(b',');
        outer.write_hop("outbound \"order\"", Some(([127, 0, 1, 3], 15006).into()), &mut field);
        let field = String::from_utf8(field).unwrap();
        let hops = hops(&field);
        assert_eq!(hops.len(), 2, "{field}");
        assert_eq!(hops[0].name, "inbound user-1");
        assert_eq!((hops[0].state_ns(State::AwaitResponse), hops[0].upstream_ns), (4_200_000, 0));
        assert_eq!(hops[0].total_ns(), inner.total_ns());
        assert_eq!((hops[1].name.as_str(), hops[1].endpoint.as_str()), ("outbound ?order?", "127.0.1.3:15006"));
        assert_eq!((hops[1].upstream_ns, hops[1].total_ns()), (4_600_000, outer.total_ns()));
        assert_eq!(hops[1].state_ns(State::RoundTrip), 0);
    }

    #[test]
    fn a_total_beyond_its_parts_is_unattributed() {
        let hops = hops("hop;desc=x, parse;dur=1, later-state;dur=2, parse;dur=-1, hop-end;dur=4");
        assert_eq!(hops[0].states, [(State::Parse, 1_000_000), (State::Unattributed, 3_000_000)]);
    }

    #[test]
    fn groups_without_an_end_and_metrics_of_others_are_left_out() {
        assert!(hops("parse;dur=1, hop-end;dur=2, hop;desc=\"x\", parse;dur=1").is_empty());
        assert!(hops("").is_empty());
        let many = "hop, hop-end;dur=1,".repeat(HOPS_MAX + 5);
        assert_eq!(hops(&many).len(), HOPS_MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(value in "[hop;,=\"\\\\a-z0-9. -]{0,200}|\\PC{0,100}") {
            for hop in hops(&value) {
                let _ = hop.total_ns();
            }
        }
    }
}
