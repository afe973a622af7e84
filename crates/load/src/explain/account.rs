//! Joins a client's segments with the hops' accounts into one tree whose leaves sum to the total.

use celerity_telemetry::server_timing::Hop;
use celerity_telemetry::{Category, State};

use super::Segments;

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of the client's own segments.
    Segment,
    /// A proxy, all of it.
    Hop,
    /// A leaf.
    Leaf(Category),
}

/// A row of the waterfall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 0 for the client's segments; a part lies within the last one before it that is less deep.
    pub depth: usize,
    pub name: String,
    pub kind: Kind,
    pub ns: u64,
    /// Where it is drawn: start and length in nanoseconds from the beginning. Two for a way there and back. Of a hop only
    /// durations are known: its states stand in the order in which they usually come.
    pub spans: Vec<(u64, u64)>,
    pub is_leaf: bool,
}

/// A request's parts in the order in which they are drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub total_ns: u64,
    pub parts: Vec<Part>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The order in which a request usually meets the states before the wait for its endpoint, and after it.
const BEFORE: [State; 16] = [
    State::AcceptWait,
    State::LoopLag,
    State::Parse,
    State::SwapStall,
    State::Route,
    State::Filters,
    State::FaultDelay,
    State::Pick,
    State::RetryBackoff,
    State::PoolPending,
    State::UpstreamConnect,
    State::UpstreamTls,
    State::StreamWait,
    State::Serialise,
    State::RequestBodyWait,
    State::UpstreamFlush,
];
const AFTER: [State; 4] = [State::ResponseBodyWait, State::Copy, State::DownstreamFlush, State::Unattributed];

impl Account {
    /// `hops` are the accounts that came back, the innermost first.
    pub fn of(segments: &Segments, hops: &[Hop]) -> Self {
        let mut account = Self { total_ns: segments.total_ns(), ..Self::default() };
        let own = [
            ("name lookup", segments.name_lookup_ns, Category::Config),
            ("connect", segments.connect_ns, Category::Network),
            ("proxy tunnel", segments.tunnel_ns, Category::Network),
            ("TLS handshake", segments.tls_ns, Category::Protocol),
            ("request sent", segments.send_ns, Category::Network),
        ];
        let mut at = 0;
        for (name, ns, category) in own {
            if ns > 0 {
                account.segment(name, at, ns, Some(category));
            }
            at += ns;
        }
        let outermost_first: Vec<&Hop> = hops.iter().rev().collect();
        if outermost_first.is_empty() {
            account.segment("wait for the first byte", at, segments.wait_ns, Some(Category::Service));
            account.notes.push(
                "no hop gave an account (Server-Timing): the wait holds the network, every proxy and the service"
                    .into(),
            );
        } else {
            account.segment("wait for the first byte", at, segments.wait_ns, None);
            account.wait(1, at, segments.wait_ns, &outermost_first);
        }
        at += segments.wait_ns;
        account.segment("body", at, segments.body_ns, Some(Category::Network));
        account
    }

    /// The leaves' sums by category, in the order of `Category::ALL`. Together they are the total.
    pub fn categories(&self) -> [(Category, u64); 7] {
        Category::ALL.map(|category| {
            let own = self.parts.iter().filter(|part| part.kind == Kind::Leaf(category) && part.is_leaf);
            (category, own.map(|part| part.ns).sum())
        })
    }

    /// The leaves with the names of all they lie in: what tells them apart from one request to the next.
    pub fn leaves(&self) -> impl Iterator<Item = (String, &Part)> {
        let mut within: Vec<&str> = Vec::new();
        self.parts.iter().filter_map(move |part| {
            within.truncate(part.depth);
            within.push(&part.name);
            part.is_leaf.then(|| (within.join(" / "), part))
        })
    }

    fn segment(&mut self, name: &str, at: u64, ns: u64, leaf: Option<Category>) {
        let kind = leaf.map_or(Kind::Segment, Kind::Leaf);
        self.push(0, name, kind, vec![(at, ns)], leaf.is_some());
    }

    fn push(&mut self, depth: usize, name: &str, kind: Kind, spans: Vec<(u64, u64)>, is_leaf: bool) {
        let ns = spans.iter().map(|&(_, ns)| ns).sum();
        self.parts.push(Part { depth, name: name.to_owned(), kind, ns, spans, is_leaf });
    }

    /// What one side waited for the first of `hops`: the network between, and the hop's own parts.
    fn wait(&mut self, depth: usize, at: u64, wait_ns: u64, hops: &[&Hop]) {
        let Some((hop, inner)) = hops.split_first() else {
            self.push(depth, "next hop, without an account", Kind::Leaf(Category::Service), vec![(at, wait_ns)], true);
            return;
        };
        let handshake_ns = hop.state_ns(State::DownstreamTls);
        if handshake_ns > 0 {
            self.notes.push(format!(
                "{} counted {} for its side of the TLS handshake: that lies in its caller's handshake, not in the wait",
                hop.name,
                super::millis(handshake_ns as f64)
            ));
        }
        let said_ns = hop.total_ns().saturating_sub(handshake_ns);
        let own_ns = said_ns.min(wait_ns);
        if said_ns > wait_ns {
            self.notes.push(format!(
                "{} accounts for {}, {} more than its caller waited (it began while the request was still on its way): \
                 its parts are scaled to the wait",
                hop.name,
                super::millis(said_ns as f64),
                super::millis((said_ns - wait_ns) as f64),
            ));
        }
        let way_ns = wait_ns - own_ns;
        let (there, back) = (way_ns / 2, way_ns - way_ns / 2);
        let spans = vec![(at, there), (at + there + own_ns, back)];
        self.push(depth, "network, there and back", Kind::Leaf(Category::Network), spans, true);
        let called = if hop.endpoint.is_empty() { String::new() } else { format!(" -> {}", hop.endpoint) };
        self.push(depth, &format!("{}{called}", hop.name), Kind::Hop, vec![(at + there, own_ns)], false);
        self.hop(depth + 1, at + there, (own_ns, said_ns), hop, inner);
    }

    /// A hop's states, `own_ns` of time for `said_ns` of account.
    fn hop(&mut self, depth: usize, start: u64, (own_ns, said_ns): (u64, u64), hop: &Hop, inner: &[&Hop]) {
        // Cut at running sums, so that scaled parts still sum to the whole.
        let mut said = 0_u64;
        let mut cut = |ns: u64| {
            let scaled = |sum: u64| {
                if said_ns <= own_ns {
                    sum
                } else {
                    (u128::from(sum) * u128::from(own_ns) / u128::from(said_ns)) as u64
                }
            };
            let from = scaled(said);
            said = said.saturating_add(ns);
            (start + from, scaled(said) - from)
        };
        for state in BEFORE {
            let ns = hop.state_ns(state);
            if ns > 0 {
                let span = cut(ns);
                self.push(depth, &spoken(state), Kind::Leaf(state.category()), vec![span], true);
            }
        }
        // What the endpoint did without a ledger of its own: the round trip around the service, or an earlier attempt.
        let (trip, service) = (hop.state_ns(State::RoundTrip), hop.state_ns(State::AwaitResponse));
        if trip + service > 0 {
            let (there, served, back) = (cut(trip / 2), cut(service), cut(trip - trip / 2));
            if trip > 0 {
                self.push(depth, "round trip", Kind::Leaf(Category::Network), vec![there, back], true);
            }
            if service > 0 {
                let name = if hop.upstream_ns > 0 { "earlier attempts' answers" } else { "service" };
                self.push(depth, name, Kind::Leaf(Category::Service), vec![served], true);
            }
        }
        if hop.upstream_ns > 0 {
            let (at, ns) = cut(hop.upstream_ns);
            self.wait(depth, at, ns, inner);
        } else if !inner.is_empty() {
            self.notes.push(format!("{} says nothing of {} further accounts that came", hop.name, inner.len()));
        }
        for state in AFTER {
            let ns = hop.state_ns(state);
            if ns > 0 {
                let span = cut(ns);
                self.push(depth, &spoken(state), Kind::Leaf(state.category()), vec![span], true);
            }
        }
    }
}

fn spoken(state: State) -> String {
    state.as_str().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments() -> Segments {
        Segments {
            name_lookup_ns: 10,
            connect_ns: 20,
            tls_ns: 30,
            send_ns: 5,
            wait_ns: 1_000,
            body_ns: 50,
            tunnel_ns: 0,
        }
    }

    fn hop(name: &str, states: &[(State, u64)], upstream_ns: u64) -> Hop {
        Hop { name: name.into(), states: states.to_vec(), upstream_ns, ..Hop::default() }
    }

    fn leaves_ns(account: &Account) -> u64 {
        account.leaves().map(|(_, part)| part.ns).sum()
    }

    #[test]
    fn hops_are_joined_by_subtraction() {
        let inner = hop("inbound b", &[(State::DownstreamTls, 77), (State::Parse, 10), (State::AwaitResponse, 500)], 0);
        let outer = hop("outbound a", &[(State::Parse, 20), (State::Copy, 30)], 800);
        let account = Account::of(&segments(), &[inner, outer]);
        let find = |path: &str| account.leaves().find(|(own, _)| own == path).map(|(_, part)| part.ns);
        let wait = "wait for the first byte / ";
        assert_eq!(find(&format!("{wait}network, there and back")), Some(150));
        assert_eq!(find(&format!("{wait}outbound a / network, there and back")), Some(290));
        assert_eq!(find(&format!("{wait}outbound a / inbound b / service")), Some(500));
        assert_eq!(leaves_ns(&account), segments().total_ns());
        assert_eq!(account.categories().iter().map(|(_, ns)| ns).sum::<u64>(), account.total_ns);
        assert_eq!(account.notes.len(), 1, "{:?}", account.notes);
    }

    #[test]
    fn without_an_account_the_wait_is_one_piece_and_that_is_said() {
        let account = Account::of(&segments(), &[]);
        assert_eq!(leaves_ns(&account), account.total_ns);
        assert!(account.notes[0].contains("Server-Timing"));
    }

    fn any_hop() -> impl Strategy<Value = Hop> {
        let states = proptest::collection::btree_map(0..celerity_telemetry::ledger::STATES, 1_u64..1 << 40, 0..8);
        (states, 0_u64..1 << 40).prop_map(|(states, upstream_ns)| {
            let states = states.into_iter().map(|(at, ns)| (State::ALL[at], ns)).collect();
            Hop { name: "h".into(), states, upstream_ns, ..Hop::default() }
        })
    }

    proptest! {
        /// Whatever hops claim, the leaves are the total, and no part is drawn outside of it.
        #[test]
        fn the_leaves_are_the_total(hops in proptest::collection::vec(any_hop(), 0..5), wait_ns in 0_u64..1 << 40) {
            let segments = Segments { wait_ns, ..segments() };
            let account = Account::of(&segments, &hops);
            prop_assert_eq!(leaves_ns(&account), segments.total_ns());
            for part in &account.parts {
                for (start, ns) in &part.spans {
                    prop_assert!(start + ns <= account.total_ns);
                }
            }
        }
    }
}
