use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celerity_model::snapshot::DnsFamily;

/// Names followed at once. Each costs a query per refresh; a mesh that needs more than this has a mistake in it.
pub const NAMES_MAX: usize = 10_000;

/// Queries under way at once, so that a start with many names does not flood the resolver or run out of ports.
const IN_FLIGHT_MAX: usize = 64;

/// Addresses taken from one answer. More do not fit into an ordinary answer anyway.
const ADDRESSES_MAX: usize = 1024;

/// Nothing is asked more often than this, whatever the TTL says: a TTL of 0 is common.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// First wait after a failure; doubles up to the refresh rate, or to [`RETRY_MAX`] if that is longer.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A resolver that restarts may deny names it knows. So many "no such name" in a row are believed.
const DENIALS_BELIEVED: u32 = 3;

/// A name and the kind of address wanted. One name may be wanted in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// As in the configuration.
    pub host: Box<str>,
    /// Which addresses.
    pub family: Family,
}

/// [`DnsFamily`], as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Family(u8);

impl From<DnsFamily> for Family {
    fn from(family: DnsFamily) -> Self {
        Self(match family {
            DnsFamily::Auto => 0,
            DnsFamily::V4Only => 1,
            DnsFamily::V6Only => 2,
            DnsFamily::V4Preferred => 3,
            DnsFamily::All => 4,
        })
    }
}

impl From<Family> for DnsFamily {
    fn from(family: Family) -> Self {
        match family.0 {
            1 => Self::V4Only,
            2 => Self::V6Only,
            3 => Self::V4Preferred,
            4 => Self::All,
            _ => Self::Auto,
        }
    }
}

impl Name {
    /// `host` in `family`.
    #[must_use]
    pub fn new(host: &str, family: DnsFamily) -> Self {
        Self { host: host.into(), family: family.into() }
    }
}

/// A name that some cluster needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name.
    pub name: Name,
    /// Time between queries (`dns_refresh_rate`).
    pub refresh_rate: Duration,
    /// The answer's own time to live decides instead (`respect_dns_ttl`).
    pub respect_ttl: bool,
}

/// What a resolver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Addresses, and how long they are good.
    Addresses(Vec<IpAddr>, Duration),
    /// The resolver is sure that there are none.
    NoSuchName,
    /// No answer, or not a useful one.
    Failed(String),
}

/// A query to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question(pub Name);

/// What is known of one name. Published; never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The last good answer. Empty until the first one.
    pub addresses: Arc<[IpAddr]>,
    /// When that answer came. `None`: never yet.
    pub answered_at: Option<Instant>,
    /// Why the newest query brought nothing. `None`: it did.
    pub last_error: Option<Arc<str>>,
    /// Queries without a good answer since the last one with.
    pub failures: u32,
}

/// All names and their addresses, for building endpoints and for the admin port.
#[derive(Clone, Debug, Default)]
pub struct Table {
    by_name: HashMap<Name, Resolved>,
    /// Names beyond [`NAMES_MAX`], which are not followed.
    pub refused: Vec<Name>,
}

impl Table {
    /// The addresses of `host` with `port`: what `Cluster::resolved` asks for.
    #[must_use]
    pub fn addresses(&self, host: &str, family: DnsFamily, port: u16) -> Vec<SocketAddr> {
        let known = self.by_name.get(&Name::new(host, family));
        let addresses = known.into_iter().flat_map(|one| one.addresses.iter());
        addresses.map(|&ip| SocketAddr::new(ip, port)).collect()
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Resolved)> {
        self.by_name.iter()
    }

    /// What is known of one name. `None`: it is not followed.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<&Resolved> {
        self.by_name.get(name)
    }

    /// True when every name has been answered, or denied, or failed once: a start need not wait any longer.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.by_name.values().all(|one| one.answered_at.is_some() || one.failures > 0)
    }
}

/// Decides what to ask when. Every method takes the time, so that tests own the clock.
#[derive(Debug, Default)]
pub struct Plan {
    entries: HashMap<Name, Entry>,
    refused: Vec<Name>,
    in_flight: usize,
    /// What was known before this plan.
    remembered: HashMap<Name, Resolved>,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    known: Resolved,
    denials: u32,
    state: State,
}

/// ```text
///            due()                  answered()
/// Due(at) ----------> InFlight ------------------> Due(later)
/// ```
/// A name that is not wanted any more is dropped in either state; its late answer is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    InFlight,
}

impl Plan {
    /// A plan that begins with these answers: other resolvers are no reason to forget what works.
    #[must_use]
    pub fn remembering(table: &Table) -> Self {
        Self { remembered: table.by_name.clone(), ..Self::default() }
    }

    /// Follows exactly these names from now on. What is known of those that stay is kept. True when a name came or went.
    pub fn want(&mut self, wanted: Vec<Wanted>, now: Instant) -> bool {
        let mut old = std::mem::take(&mut self.entries);
        let mut changed = false;
        self.refused.clear();
        for one in wanted {
            // Several clusters may want one name: the quickest refresh serves them all.
            if let Some(twin) = self.entries.get_mut(&one.name) {
                twin.wanted.refresh_rate = twin.wanted.refresh_rate.min(one.refresh_rate);
                twin.wanted.respect_ttl |= one.respect_ttl;
                continue;
            }
            if self.entries.len() >= NAMES_MAX {
                self.refused.push(one.name);
                continue;
            }
            let entry = match old.remove(&one.name) {
                Some(entry) => Entry { wanted: one.clone(), ..entry },
                None => {
                    changed = true;
                    let known = self.remembered.remove(&one.name).unwrap_or_default();
                    Entry { wanted: one.clone(), known, denials: 0, state: State::Due(now) }
                }
            };
            self.entries.insert(one.name, entry);
        }
        self.remembered.clear();
        let abandoned = old.values().filter(|entry| entry.state == State::InFlight).count();
        self.in_flight = self.in_flight.saturating_sub(abandoned);
        changed || !old.is_empty()
    }

    /// The queries to send now. Each must be brought back to [`Plan::answered`].
    pub fn due(&mut self, now: Instant) -> Vec<Question> {
        let room = IN_FLIGHT_MAX.saturating_sub(self.in_flight);
        let mut ready: Vec<(Instant, &mut Entry)> = self
            .entries
            .values_mut()
            .filter_map(|entry| match entry.state {
                State::Due(at) if at <= now => Some((at, entry)),
                _ => None,
            })
            .collect();
        // The longest overdue first, so that no name starves behind quick ones.
        ready.sort_by_key(|(at, _)| *at);
        ready.truncate(room);
        let questions: Vec<Question> = ready
            .into_iter()
            .map(|(_, entry)| {
                entry.state = State::InFlight;
                Question(entry.wanted.name.clone())
            })
            .collect();
        self.in_flight += questions.len();
        questions
    }

    /// Takes an answer. `jitter` in 0..1 spreads the next query over the last tenth of its wait, so that many proxies that
    /// started together do not ask together for ever. True when the addresses are other ones.
    pub fn answered(&mut self, name: &Name, answer: Answer, now: Instant, jitter: f64) -> bool {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.state == State::InFlight) else {
            return false;
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        let before = Arc::clone(&entry.known.addresses);
        let wait = match answer {
            Answer::Addresses(addresses, ttl) if !addresses.is_empty() => entry.accept(addresses, ttl, now),
            Answer::Addresses(..) | Answer::NoSuchName => entry.deny(now),
            Answer::Failed(reason) => entry.fail(&reason),
        };
        entry.state = State::Due(now + wait.mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0)));
        before != entry.known.addresses
    }

    /// When [`Plan::due`] has something next. `None`: not before an answer comes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        if self.in_flight >= IN_FLIGHT_MAX {
            return None;
        }
        let due = self.entries.values().filter_map(|entry| match entry.state {
            State::Due(at) => Some(at),
            State::InFlight => None,
        });
        due.min()
    }

    /// A picture of all that is known: one clone of the map, so not more often than something changed.
    #[must_use]
    pub fn table(&self) -> Table {
        let by_name = self.entries.iter().map(|(name, entry)| (name.clone(), entry.known.clone())).collect();
        Table { by_name, refused: self.refused.clone() }
    }
}

impl Entry {
    fn accept(&mut self, mut addresses: Vec<IpAddr>, ttl: Duration, now: Instant) -> Duration {
        addresses.truncate(ADDRESSES_MAX);
        let mut seen = std::collections::HashSet::with_capacity(addresses.len());
        addresses.retain(|address| seen.insert(*address));
        // Resolvers rotate their answers. The same set in another order is no change, and must not rebuild a cluster.
        let same = addresses.len() == self.known.addresses.len()
            && self.known.addresses.iter().all(|address| seen.contains(address));
        if !same {
            self.known.addresses = addresses.into();
        }
        self.known.answered_at = Some(now);
        self.known.last_error = None;
        self.known.failures = 0;
        self.denials = 0;
        if self.wanted.respect_ttl { ttl.max(REFRESH_MIN) } else { self.wanted.refresh_rate.max(REFRESH_MIN) }
    }

    fn deny(&mut self, now: Instant) -> Duration {
        self.denials += 1;
        if self.denials >= DENIALS_BELIEVED && !self.known.addresses.is_empty() {
            self.known.addresses = Arc::default();
            self.known.answered_at = Some(now);
        }
        self.fail("the resolver says that there is no such name, or no address of this family")
    }

    fn fail(&mut self, reason: &str) -> Duration {
        if self.known.last_error.as_deref() != Some(reason) {
            self.known.last_error = Some(reason.into());
        }
        let doubled = RETRY_MIN.saturating_mul(1 << self.known.failures.min(16));
        self.known.failures = self.known.failures.saturating_add(1);
        doubled.min(self.wanted.refresh_rate.clamp(RETRY_MIN, RETRY_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(300);

    fn name(host: &str) -> Name {
        Name::new(host, DnsFamily::V4Only)
    }

    fn wanted(host: &str) -> Wanted {
        Wanted { name: name(host), refresh_rate: REFRESH, respect_ttl: false }
    }

    fn good(last: u8) -> Answer {
        Answer::Addresses(vec![[10, 0, 0, last].into(), [10, 0, 0, last + 1].into()], Duration::from_secs(7))
    }

    #[test]
    fn asks_at_once_and_then_at_the_refresh_rate() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        assert!(plan.want(vec![wanted("a.test")], start));
        assert_eq!(plan.due(start), [Question(name("a.test"))]);
        assert_eq!(plan.due(start), [], "asked once");
        assert!(plan.answered(&name("a.test"), good(1), start, 0.0));
        assert_eq!(plan.next_wake(), Some(start + REFRESH));
        assert_eq!(plan.due(start + REFRESH - Duration::from_millis(1)), []);
        assert_eq!(plan.due(start + REFRESH).len(), 1);
        let table = plan.table();
        assert_eq!(table.addresses("a.test", DnsFamily::V4Only, 80)[0], "10.0.0.1:80".parse().unwrap());
        assert!(table.addresses("a.test", DnsFamily::V6Only, 80).is_empty());
    }

    #[test]
    fn the_last_answer_stands_when_the_resolver_fails() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        plan.want(vec![wanted("a.test")], start);
        plan.due(start);
        plan.answered(&name("a.test"), good(1), start, 0.0);
        let mut now = start + REFRESH;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(plan.due(now).len(), 1);
            assert!(!plan.answered(&name("a.test"), Answer::Failed("timed out".into()), now, 0.0));
            assert_eq!(plan.next_wake(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        let table = plan.table();
        let known = table.get(&name("a.test")).unwrap();
        assert_eq!(known.addresses.len(), 2);
        assert_eq!((known.answered_at, known.failures), (Some(start), 7));
        assert_eq!(known.last_error.as_deref(), Some("timed out"));
        plan.due(now);
        plan.answered(&name("a.test"), good(1), now, 0.0);
        assert_eq!(plan.table().get(&name("a.test")).unwrap().last_error, None);
    }

    #[test]
    fn one_denial_is_not_believed_and_three_are() {
        let (mut plan, mut now) = (Plan::default(), Instant::now());
        plan.want(vec![wanted("a.test")], now);
        plan.due(now);
        plan.answered(&name("a.test"), good(1), now, 0.0);
        for (round, changes) in [false, false, true, false].into_iter().enumerate() {
            now += REFRESH;
            plan.due(now);
            assert_eq!(plan.answered(&name("a.test"), Answer::NoSuchName, now, 0.0), changes, "{round}");
        }
        assert!(plan.table().addresses("a.test", DnsFamily::V4Only, 1).is_empty());
    }

    #[test]
    fn a_rotated_answer_is_no_change_and_another_is() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.want(vec![wanted("a.test")], now);
        plan.due(now);
        plan.answered(&name("a.test"), good(1), now, 0.0);
        let later = now + REFRESH;
        plan.due(later);
        let rotated = Answer::Addresses(vec![[10, 0, 0, 2].into(), [10, 0, 0, 1].into()], REFRESH);
        assert!(!plan.answered(&name("a.test"), rotated, later, 0.0));
        plan.due(later + REFRESH);
        assert!(plan.answered(&name("a.test"), good(5), later + REFRESH, 0.0));
    }

    #[test]
    fn the_time_to_live_decides_when_it_is_respected() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.want(vec![Wanted { respect_ttl: true, ..wanted("a.test") }], now);
        plan.due(now);
        plan.answered(&name("a.test"), good(1), now, 0.0);
        assert_eq!(plan.next_wake(), Some(now + Duration::from_secs(7)));
        let later = now + Duration::from_secs(7);
        plan.due(later);
        let zero = Answer::Addresses(vec![[10, 0, 0, 1].into()], Duration::ZERO);
        plan.answered(&name("a.test"), zero, later, 1.0);
        assert_eq!(plan.next_wake(), Some(later + REFRESH_MIN.mul_f64(0.9)));
    }

    #[test]
    fn names_and_queries_are_bounded() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.want((0..NAMES_MAX + 3).map(|i| wanted(&format!("{i}.test"))).collect(), now);
        assert_eq!(plan.table().refused.len(), 3);
        let first = plan.due(now);
        assert_eq!(first.len(), IN_FLIGHT_MAX);
        assert_eq!(plan.next_wake(), None);
        plan.answered(&first[0].0, good(1), now, 0.0);
        assert_eq!(plan.due(now).len(), 1);
        // Names that go take their queries along, and late answers change nothing.
        assert!(plan.want(vec![wanted("other.test")], now));
        assert!(!plan.answered(&first[1].0, good(1), now, 0.0));
        assert_eq!(plan.due(now), [Question(name("other.test"))]);
    }

    #[test]
    fn what_is_known_survives_a_new_configuration() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.want(vec![wanted("a.test")], now);
        plan.due(now);
        plan.answered(&name("a.test"), good(1), now, 0.0);
        assert!(!plan.want(vec![wanted("a.test"), wanted("a.test")], now), "nothing came or went");
        assert!(plan.want(vec![wanted("a.test"), wanted("b.test")], now));
        assert_eq!(plan.table().addresses("a.test", DnsFamily::V4Only, 1).len(), 2);
        assert!(!plan.table().settled());
    }
}
