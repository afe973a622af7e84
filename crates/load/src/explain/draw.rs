//! The waterfall and the distribution as text.

use celerity_telemetry::Category;

use super::{Account, Answer, Distribution, Kind, Part, millis, percent};

/// How wide to draw, and whether in colour.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub columns: usize,
    pub colour: bool,
}

/// Narrower than this and nothing could be told apart: the lines then wrap.
const COLUMNS_MIN: usize = 60;
const COLUMNS_MAX: usize = 200;
const NAME_COLUMNS_MIN: usize = 26;
/// ` 1234.5 ms  99.9 % `
const NUMBER_COLUMNS: usize = 22;

/// States below this share of the total are drawn as one row for their hop: 30 rows of nothing hide the one that matters.
const SHARE_MIN: f64 = 0.005;

fn colour_of(category: Category) -> &'static str {
    match category {
        Category::Network => "\x1b[34m",
        Category::Processing => "\x1b[36m",
        Category::Queueing => "\x1b[33m",
        Category::Protocol => "\x1b[35m",
        Category::Config => "\x1b[32m",
        Category::Service => "\x1b[37m",
        Category::Unattributed => "\x1b[31m",
    }
}

impl Style {
    fn columns(self) -> usize {
        self.columns.clamp(COLUMNS_MIN, COLUMNS_MAX)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One request: what was asked and answered, the waterfall, the categories, the notes.
pub(super) fn waterfall(title: &str, answer: &Answer, account: &Account, style: Style) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&style.paint("\x1b[1m", title));
    let kept = if answer.reused { ", on a connection that was open" } else { "" };
    let tls = answer.tls.as_deref().map_or_else(String::new, |tls| format!(", {tls}"));
    line(&format!("{} from {}, {} bytes of body{tls}{kept}", answer.status, answer.address, answer.body_bytes));
    line("");
    let parts = folded(account);
    let widest = parts.iter().map(|part| 2 * part.depth + part.name.chars().count()).max().unwrap_or(0);
    let columns = style.columns();
    let name_columns = widest.clamp(NAME_COLUMNS_MIN, NAME_COLUMNS_MIN.max((columns - NUMBER_COLUMNS) / 2));
    let bar_columns = columns.saturating_sub(name_columns + NUMBER_COLUMNS).max(10);
    for part in &parts {
        let name = shortened(&format!("{}{}", "  ".repeat(part.depth), part.name), name_columns);
        let share = percent(part.ns as f64, account.total_ns as f64);
        let bar = bar(part, account.total_ns, bar_columns);
        let bar = match part.kind {
            Kind::Leaf(category) => style.paint(colour_of(category), bar.trim_end()),
            Kind::Segment | Kind::Hop => bar,
        };
        line(&format!("{name:<name_columns$}{:>12}{share:>8}  {bar}", millis(part.ns as f64)));
    }
    let total = millis(account.total_ns as f64);
    line(&style.paint("\x1b[1m", &format!("{:<name_columns$}{total:>12}", "total")));
    line("");
    let mut by_category: Vec<_> = account.categories().into_iter().filter(|(_, ns)| *ns > 0).collect();
    by_category.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    let words = by_category.iter().map(|(category, ns)| {
        let words = format!("{} {}", category.as_str(), percent(*ns as f64, account.total_ns as f64));
        style.paint(colour_of(*category), &words)
    });
    line(&words.collect::<Vec<_>>().join("   "));
    for note in &account.notes {
        line(&format!("note: {note}"));
    }
    out
}

/// The parts to draw: a hop's small states in one row, its sum unchanged.
fn folded(account: &Account) -> Vec<Part> {
    let small_ns = (account.total_ns as f64 * SHARE_MIN) as u64;
    let is_small = |part: &Part| part.depth > 0 && part.is_leaf && part.ns <= small_ns;
    let mut out: Vec<Part> = Vec::new();
    let mut at = 0;
    while let Some(part) = account.parts.get(at) {
        let run = account.parts.iter().skip(at).take_while(|next| is_small(next) && next.depth == part.depth);
        let run: Vec<&Part> = run.collect();
        if run.len() < 2 {
            out.push(part.clone());
            at += 1;
            continue;
        }
        let mut one = part.clone();
        let names: Vec<&str> = run.iter().map(|part| part.name.as_str()).collect();
        one.name = names.join(", ");
        one.ns = run.iter().map(|part| part.ns).sum();
        one.spans = run.iter().flat_map(|part| part.spans.clone()).collect();
        out.push(one);
        at += run.len();
    }
    out
}

/// A bar with a cell for each part of the time; a part that is there has a mark, however short.
fn bar(part: &Part, total_ns: u64, columns: usize) -> String {
    let mut cells = vec![' '; columns];
    let cell = |ns: u64| ns as f64 / total_ns.max(1) as f64 * columns as f64;
    for &(start, ns) in part.spans.iter().filter(|(_, ns)| *ns > 0) {
        let (from, to) = (cell(start), cell(start + ns));
        let first = (from.round() as usize).min(columns - 1);
        let last = (to.round() as usize).min(columns);
        if last > first {
            cells.iter_mut().take(last).skip(first).for_each(|cell| *cell = if part.is_leaf { '█' } else { '─' });
        } else if let Some(cell @ ' ') = cells.get_mut(first) {
            *cell = '▏';
        }
    }
    cells.into_iter().collect()
}

fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(2)).chain("…".chars()).collect()
}

/// The end of a name, which tells it from its neighbours.
fn ending(text: &str, columns: usize) -> String {
    let count = text.chars().count();
    if count <= columns {
        return text.to_owned();
    }
    "…".chars().chain(text.chars().skip(count + 1 - columns)).collect()
}

/// Many requests: percentiles of each part, and the middle requests beside the slow ones.
pub(super) fn table(title: &str, failed: &[(String, u64)], found: &Distribution, style: Style) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&style.paint("\x1b[1m", title));
    line(&format!("{} requests, one after the other", found.requests));
    for (reason, count) in failed {
        line(&format!("  {count} failed: {reason}"));
    }
    line("");
    let widest = found.rows.iter().map(|row| display_name(&row.name).chars().count()).max().unwrap_or(0);
    let numbers = 12 * 6;
    let name_columns = widest.clamp(NAME_COLUMNS_MIN, NAME_COLUMNS_MIN.max(style.columns().saturating_sub(numbers)));
    let cohort = |cohort: &super::distribution::Cohort| format!("{} req", cohort.requests);
    line(&format!(
        "{:name_columns$}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "", "p50", "p95", "p99", "middle", "slow", "slow -"
    ));
    line(&format!(
        "{:name_columns$}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "",
        "",
        "",
        "",
        cohort(&found.median),
        cohort(&found.tail),
        "middle"
    ));
    for row in found.rows.iter().chain([&found.total]) {
        let name = ending(&display_name(&row.name), name_columns);
        let [p50, p95, p99] = [row.p50_ns, row.p95_ns, row.p99_ns].map(|ns| millis(ns as f64));
        let (middle, slow) = (millis(row.median_ns), millis(row.tail_ns));
        let sign = if row.tail_ns >= row.median_ns { "+" } else { "" };
        let more = format!("{sign}{}", millis(row.tail_ns - row.median_ns));
        let text = format!("{name:<name_columns$}{p50:>12}{p95:>12}{p99:>12}{middle:>12}{slow:>12}{more:>12}");
        let is_total = row.name == "total";
        line(&if is_total { style.paint("\x1b[1m", &text) } else { style.paint(colour_of(row.category), &text) });
    }
    line("");
    line(&format!(
        "middle: mean of the requests from p{} to p{}; slow: from p{} to p{}. Means of one cohort add up to its total;\n\
         percentiles of parts do not: the request with the slowest connect is not the one with the slowest service.",
        share(found.median.from),
        share(found.median.to),
        share(found.tail.from),
        share(found.tail.to)
    ));
    if let Some(most) = found.rows.iter().max_by(|a, b| (a.tail_ns - a.median_ns).total_cmp(&(b.tail_ns - b.median_ns)))
        && found.total.tail_ns > found.total.median_ns
    {
        line(&format!(
            "what makes the slow ones slow: {}, {} of the difference",
            display_name(&most.name),
            percent(most.tail_ns - most.median_ns, found.total.tail_ns - found.total.median_ns)
        ));
    }
    out
}

fn share(q: f64) -> f64 {
    (q * 1000.0).round() / 10.0
}

/// The last two names of a path tell it apart; the whole is in the JSON.
pub(super) fn display_name(path: &str) -> String {
    let names: Vec<&str> = path.split(" / ").collect();
    let from = names.len().saturating_sub(2);
    names.get(from..).unwrap_or_default().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Segments;
    use celerity_telemetry::State;
    use celerity_telemetry::server_timing::Hop;

    fn answer() -> Answer {
        let states = vec![
            (State::Parse, 20_000),
            (State::Route, 2_000),
            (State::Pick, 1_000),
            (State::AwaitResponse, 3_000_000),
        ];
        Answer {
            segments: Segments {
                connect_ns: 500_000,
                send_ns: 10_000,
                wait_ns: 4_000_000,
                body_ns: 90_000,
                ..Segments::default()
            },
            status: 200,
            headers: Vec::new(),
            body_bytes: 12,
            hops: vec![Hop { name: "outbound a".into(), states, ..Hop::default() }],
            address: ([127, 0, 0, 1], 80).into(),
            reused: false,
            tls: None,
        }
    }

    #[test]
    fn the_waterfall_fits_the_terminal_and_is_plain_without_colour() {
        let answer = answer();
        let account = Account::of(&answer.segments, &answer.hops);
        for columns in [40, 80, 133, 1000] {
            let text = waterfall("GET http://a/", &answer, &account, Style { columns, colour: false });
            assert!(!text.contains('\x1b'));
            let rows = text.lines().take_while(|line| !line.starts_with("total"));
            let widest = rows.map(|line| line.chars().count()).max();
            assert!(widest <= Some(columns.clamp(COLUMNS_MIN, COLUMNS_MAX)), "{widest:?} of {columns}\n{text}");
            for expected in ["connect", "outbound a", "service", "route, pick", "total", "4.600 ms", "network, there"] {
                assert!(text.contains(expected), "{expected} is not in\n{text}");
            }
        }
        assert!(waterfall("x", &answer, &account, Style { columns: 80, colour: true }).contains("\x1b["));
    }

    #[test]
    fn the_table_names_what_makes_the_tail() {
        let mut gathered = super::super::distribution::Gathered::default();
        for n in 0..100_u64 {
            let wait_ns = if n >= 95 { 9_000_000 } else { 1_000_000 };
            gathered.add(&Account::of(&Segments { connect_ns: 100_000, wait_ns, ..Segments::default() }, &[]));
        }
        let found = gathered.distribution().expect("a distribution");
        let text = table("GET http://a/", &[("refused".into(), 2)], &found, Style { columns: 100, colour: false });
        for expected in
            ["2 failed: refused", "slow: wait for the first byte, 100.0 % of the difference", "from p95 to p100"]
        {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(ending("inbound user-service: upstream connect", 17), "…upstream connect");
        let name = "inbound a-service-with-a-very-long-name: round trip";
        assert_eq!((ending(name, 60), ending(name, 12).chars().count()), (name.to_owned(), 12));
    }
}
