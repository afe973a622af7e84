//! One worker: a thread, its runtime, its listeners' sockets, its pools, its shards of the metrics.
//!
//! Nothing here is shared with another worker but through `ProxyShared`, which requests touch only where the
//! configuration sets a limit that holds for the whole proxy.

use crate::apply::Running;
use crate::downstream::activity::Activity;
use crate::downstream::{Runners, accept};
use crate::drain::Leaving;
use crate::exchange::{Account, Exchange};
use crate::filters::cache::{Cache, CacheLimits};
use crate::http::ResponseHead;
use crate::log::{Level, Log};
use crate::outlier::{Event, EventKind};
use crate::timers::Timers;
use crate::upstream::ClusterShared;
use crate::upstream::cluster::ClusterPools;
use celerity_model::snapshot::{Cluster, Snapshot};
use celerity_telemetry::access_log::{AccessLog, Choice, Record};
use celerity_telemetry::introduction::introduce;
use celerity_telemetry::metrics::{
    Counter, Family, LedgerShard, Outcome, Peer, Registry, Reporter, RequestSeries, Sample, Shard, names,
};
use celerity_telemetry::{Breakdown, Clock, Lag, Rng, Tick};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

/// How late a request's deadline may fire.
const TICK: Duration = Duration::from_millis(5);

/// How late an idle connection's may.
const SLOW_TICK: Duration = Duration::from_millis(250);

/// Between two looks at what has grown old: idle connections, quiet log lines.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that may wait for a worker. More means that it hangs, and more would not help.
pub const COMMANDS_MAX: usize = 1024;

/// What the control side and other workers ask of a worker.
pub enum Command {
    /// Take up a configuration, and listen on this worker's sockets of the listeners that are new in it.
    Apply { running: Arc<Running>, opened: Vec<Opened> },
    /// Another worker starves for a connection to this cluster.
    GiveConnection { cluster: u64, endpoint: u64 },
    /// Go on accepting for this time, then answer what is under way and close what is idle.
    Drain { leave: Duration },
}

/// A listener's name and address, as the configuration has them.
pub type Place = (Arc<str>, SocketAddr);

/// A listener's socket for one worker, not yet accepted from.
pub struct Opened {
    pub listener: Place,
    pub socket: std::net::TcpListener,
}

/// What all workers of a proxy share.
pub struct ProxyShared {
    clusters: Mutex<HashMap<u64, Arc<ClusterShared>>>,
    pub registry: Arc<Registry>,
    pub hostname: Arc<str>,
    /// This workload, as metric labels name it.
    pub workload: Arc<Peer>,
    /// The same as other sidecars are told it.
    pub introduction: Option<Box<[u8]>>,
    pub cache: Cache,
    pub log_choice: Choice,
    pub log: Log,
    /// Open client connections of all workers, written by each about its own.
    pub connections: AtomicUsize,
    /// Injected faults under way in all workers.
    pub active_faults: AtomicU32,
    /// The memory limit is near: new requests are refused. Written by the control side; read-mostly, so it costs workers nothing.
    pub overloaded: AtomicBool,
    quiet: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

fn take_up_health(shared: &ClusterShared, cluster: &Cluster) {
    let identities = cluster.endpoints.iter().map(|endpoint| endpoint.identity);
    shared.health.take_up(cluster.policy.outlier.as_ref(), identities, Instant::now());
}

/// Lines of one kind on the log: the first at once, then one in this time, with how many were left out.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

impl ProxyShared {
    pub fn new(registry: Arc<Registry>, hostname: Arc<str>, workload: Arc<Peer>, log_choice: Choice, log: Log) -> Self {
        Self {
            clusters: Mutex::default(),
            registry,
            hostname,
            introduction: introduce(&workload).map(Vec::into_boxed_slice),
            workload,
            cache: Cache::new(CacheLimits::default()),
            log_choice,
            log,
            connections: AtomicUsize::new(0),
            active_faults: AtomicU32::new(0),
            overloaded: AtomicBool::new(false),
            quiet: Mutex::default(),
        }
    }

    /// What the workers share of a cluster; made with its first use, its limits brought up to date.
    pub fn cluster(&self, cluster: &Cluster) -> Arc<ClusterShared> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = &cluster.policy.limits;
        let shared = clusters.entry(cluster.identity).or_insert_with(|| {
            let shared = ClusterShared::new(cluster.name.clone(), limits);
            take_up_health(&shared, cluster);
            shared
        });
        shared.clone()
    }

    /// A cluster's limits, endpoints and outlier settings as a new configuration has them.
    pub fn take_up(&self, cluster: &Cluster) {
        if let Some(shared) = self.known_cluster(cluster.identity) {
            shared.set_limits(&cluster.policy.limits);
            take_up_health(&shared, cluster);
        }
    }

    /// What outlier detection did, in the metrics and on the log.
    pub fn tell_event(&self, cluster: &Cluster, address: SocketAddr, event: &Event) {
        let name = &cluster.name;
        let labels = [("cluster_name", &**name)];
        match &event.kind {
            EventKind::Ejected { reason, time, times } => {
                self.registry.counter(&names::CLUSTER_OUTLIER_EJECTIONS_TOTAL, &labels).inc();
                let reason = reason.as_str();
                self.log_limited(
                    "ejected",
                    format_args!("{address} of {name} is ejected for {time:?}: {reason}, ejection {times}"),
                );
            }
            EventKind::Capped { reason, ejected, cap } => {
                self.registry.counter(&names::CLUSTER_OUTLIER_EJECTIONS_OVERFLOW, &labels).inc();
                let reason = reason.as_str();
                self.log_limited(
                    "capped",
                    format_args!(
                        "{address} of {name} is not ejected ({reason}): {ejected} are, and maxEjectionPercent allows {cap}"
                    ),
                );
            }
            EventKind::Returned => {
                let text = format_args!("{address} of {name} is back from its ejection");
                self.log_at(Level::Info, "returned", text);
            }
            EventKind::NotEnforced { .. } => {}
        }
    }

    pub fn known_cluster(&self, identity: u64) -> Option<Arc<ClusterShared>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).get(&identity).cloned()
    }

    pub fn clusters(&self) -> Vec<(u64, Arc<ClusterShared>)> {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.iter().map(|(identity, shared)| (*identity, shared.clone())).collect()
    }

    /// Forgets clusters that left the configuration, and their series.
    pub fn retain_clusters(&self, mut keep: impl FnMut(u64) -> bool) {
        let mut gone = Vec::new();
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).retain(|identity, shared| {
            let stays = keep(*identity);
            if !stays {
                gone.push(shared.name.clone());
            }
            stays
        });
        for name in gone {
            self.registry.forget("cluster_name", &name);
        }
    }

    /// A warning on the log that a flood of failures can't turn into a flood of lines.
    pub fn log_limited(&self, kind: &'static str, text: fmt::Arguments<'_>) {
        self.log_at(Level::Warn, kind, text);
    }

    fn log_at(&self, level: Level, kind: &'static str, text: fmt::Arguments<'_>) {
        let now = Instant::now();
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = match quiet.get_mut(kind) {
            Some((since, count)) if now.duration_since(*since) < LOG_INTERVAL => {
                *count += 1;
                return;
            }
            Some((since, count)) => {
                *since = now;
                std::mem::take(count)
            }
            None => {
                quiet.insert(kind, (now, 0));
                0
            }
        };
        drop(quiet);
        let more = if left_out > 0 { format!(" ({left_out} more like it before)") } else { String::new() };
        self.log.write(level, &format_args!("{text}{more}"));
    }
}

/// What a thread needs to become a worker.
pub struct Start {
    pub id: usize,
    pub shared: Arc<ProxyShared>,
    pub running: Arc<Running>,
    pub sockets: Vec<Opened>,
    pub commands: mpsc::Receiver<Command>,
    pub others: Vec<mpsc::Sender<Command>>,
    pub shard: Shard,
    pub log: Option<AccessLog>,
    /// Whether requests' time is accounted for.
    pub ledger: bool,
}

pub struct Worker {
    pub id: usize,
    pub clock: Clock,
    pub rng: RefCell<Rng>,
    pub timers: Rc<Timers>,
    pub slow_timers: Rc<Timers>,
    pub shared: Arc<ProxyShared>,
    pub clusters: ClusterPools,
    pub others: Rc<[mpsc::Sender<Command>]>,
    pub connections: Cell<usize>,
    /// Shadow requests under way.
    pub mirrors: Cell<u32>,
    /// What is kept of large bodies.
    pub(crate) bodies: Rc<Account>,
    #[expect(
        clippy::redundant_allocation,
        reason = "a request takes the Rc: the Arc's counter is shared by all workers"
    )]
    running: RefCell<Rc<Arc<Running>>>,
    draining: Cell<bool>,
    closing: Cell<bool>,
    closing_began: Notify,
    /// Connections since the start.
    pub accepted: Cell<u64>,
    /// When the exchange that runs now was woken.
    pub woken: Cell<Tick>,
    /// When the last configuration was taken up: its begin and its end.
    swapped: Cell<(Tick, Tick)>,
    /// Sockets that still accept.
    pub listening: Cell<usize>,
    /// The listeners that are accepted from, each with what ends it.
    accepting: RefCell<Vec<(Place, Rc<Notify>)>>,
    shard: Shard,
    ledgers: RefCell<LedgerShard>,
    log: Option<RefCell<AccessLog>>,
    /// The tasks of HTTP/2 requests.
    pub runners: Rc<Runners>,
    /// Response heads with the memory of earlier ones: an exchange borrows one instead of growing its own.
    spare_heads: RefCell<Vec<ResponseHead>>,
    date: RefCell<(u64, [u8; 29])>,
    /// By family and the value of its varying label, which may be none.
    counters: RefCell<HashMap<(&'static str, &'static str), Counter>>,
    /// By the listener's name.
    activities: RefCell<HashMap<Box<str>, Rc<Activity>>>,
    /// Series of requests that never had an endpoint, and of inbound ones, by who talks to whom.
    series: RefCell<HashMap<(u64, u64), Rc<RequestSeries>>>,
}

/// Runs a worker until it has drained. `started` is told once whether it accepts connections.
pub fn run(start: Start, started: impl FnOnce(std::io::Result<()>)) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().event_interval(61).build() {
        Ok(runtime) => runtime,
        Err(error) => return started(Err(error)),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let clock = if start.ledger { Clock::system() } else { Clock::stopped() };
        let ledgers = start.shard.ledger(&clock);
        let worker = Rc::new(Worker {
            id: start.id,
            clock,
            rng: RefCell::new(Rng::from_entropy()),
            timers: Timers::start(TICK),
            slow_timers: Timers::start(SLOW_TICK),
            shared: start.shared,
            clusters: ClusterPools::default(),
            others: start.others.into(),
            connections: Cell::new(0),
            mirrors: Cell::new(0),
            bodies: Rc::default(),
            running: RefCell::new(Rc::new(start.running)),
            draining: Cell::new(false),
            closing: Cell::new(false),
            closing_began: Notify::new(),
            accepted: Cell::new(0),
            woken: Cell::default(),
            swapped: Cell::default(),
            listening: Cell::new(0),
            accepting: RefCell::default(),
            shard: start.shard,
            ledgers: RefCell::new(ledgers),
            log: start.log.map(RefCell::new),
            runners: Rc::default(),
            spare_heads: RefCell::default(),
            date: RefCell::new((0, [0; 29])),
            counters: RefCell::default(),
            activities: RefCell::default(),
            series: RefCell::default(),
        });
        let listening = start.sockets.into_iter().try_for_each(|opened| worker.listen(opened));
        let listens = listening.is_ok();
        started(listening);
        if listens {
            worker.serve(start.commands).await;
        }
    });
}

impl Worker {
    /// Obeys commands and sweeps, until drained.
    async fn serve(self: &Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut published = 0;
        let (mut commanded, mut leaving) = (true, None);
        loop {
            tokio::select! {
                command = commands.recv(), if commanded => match command {
                    Some(Command::Apply { running, opened }) => self.apply(running, opened),
                    Some(Command::GiveConnection { cluster, endpoint }) => self.give_connection(cluster, endpoint),
                    Some(Command::Drain { leave }) => self.leave(&mut leaving, leave),
                    None => {
                        commanded = false;
                        self.leave(&mut leaving, Duration::ZERO);
                    }
                },
                _ = sweep.tick() => {
                    let now = Instant::now();
                    for pool in self.clusters.all() {
                        pool.sweep(self, now);
                    }
                    if let Some(log) = &self.log {
                        log.borrow_mut().flush();
                    }
                }
            }
            let open = self.connections.get();
            self.shared.connections.fetch_add(open.wrapping_sub(published), Ordering::Relaxed);
            published = open;
            if let Some(leaving) = &mut leaving {
                if !self.closing.get() && leaving.is_over(Instant::now(), open, self.accepted.get()) {
                    self.closing.set(true);
                    self.closing_began.notify_waiters();
                    self.slow_timers.fire_all();
                }
                if self.closing.get() && self.listening.get() == 0 && open == 0 {
                    break;
                }
                // Looks again soon: a drain should end when the last connection does.
                sweep.reset_after(Duration::from_millis(20));
            }
        }
        if let Some(log) = &self.log {
            log.borrow_mut().flush();
        }
    }

    fn leave(&self, leaving: &mut Option<Leaving>, time: Duration) {
        if leaving.is_none() {
            *leaving = Some(Leaving::new(Instant::now(), time));
            self.draining.set(true);
            // HTTP/2 connections say GOAWAY.
            self.slow_timers.fire_all();
        }
    }

    fn listen(self: &Rc<Self>, opened: Opened) -> std::io::Result<()> {
        let Opened { listener, socket } = opened;
        if self.clock.runs() {
            crate::net::stamp(&socket)?;
        }
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let ended = Rc::new(Notify::new());
        self.listening.set(self.listening.get() + 1);
        tokio::task::spawn_local(accept::accept_all(self.clone(), listener.0.clone(), socket, ended.clone()));
        self.accepting.borrow_mut().push((listener, ended));
        Ok(())
    }

    /// Accepts no more on listeners that are gone, or are elsewhere now. Their connections finish what is under way.
    fn retain_listeners(&self, snapshot: &Snapshot) {
        self.accepting.borrow_mut().retain(|((name, address), ended)| {
            let stays = snapshot.listener(name).is_some_and(|listener| listener.address == *address);
            if !stays {
                ended.notify_one();
            }
            stays
        });
    }

    fn apply(self: &Rc<Self>, running: Arc<Running>, opened: Vec<Opened>) {
        let began = self.clock.now();
        let snapshot = running.snapshot.clone();
        let before = self.running.replace(Rc::new(running));
        if waits_differ(&before.snapshot, &snapshot) {
            // Who waits under the old times would not hear of the new ones.
            self.slow_timers.fire_all();
        }
        self.clusters.take_up(self, &snapshot);
        self.retain_listeners(&snapshot);
        for opened in opened {
            let name = opened.listener.0.clone();
            if let Err(error) = self.listen(opened) {
                self.shared.log_limited("listen", format_args!("a worker does not accept on {name}: {error}"));
            }
        }
        self.series.borrow_mut().clear();
        self.swapped.set((began, self.clock.now()));
    }

    /// Whose fault it is that what had `arrived` lay unread until `now`.
    pub fn lag(&self, arrived: Tick, now: Tick) -> Lag {
        let waited = now.since(arrived);
        let (began, ended) = self.swapped.get();
        let swap = ended.min(now).since(began.max(arrived)).min(waited);
        Lag { loop_lag: waited - swap, swap }
    }

    fn give_connection(&self, cluster: u64, endpoint: u64) {
        if let Some(pool) = self.clusters.find(cluster) {
            pool.starvation.give(endpoint);
        }
    }

    pub fn running(&self) -> Rc<Arc<Running>> {
        self.running.borrow().clone()
    }

    pub fn spare_head(&self) -> ResponseHead {
        self.spare_heads.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give_head_back(&self, mut head: ResponseHead) {
        let mut spare = self.spare_heads.borrow_mut();
        if spare.len() < SPARE_HEADS_MAX {
            head.headers.clear();
            spare.push(head);
        }
    }

    /// Responses say that their connection closes.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// Nothing more is accepted, and what is idle closes.
    pub fn closing(&self) -> bool {
        self.closing.get()
    }

    pub async fn until_closing(&self) {
        let notified = self.closing_began.notified();
        if !self.closing.get() {
            notified.await;
        }
    }

    /// The writing end of this worker's metrics.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// What is open on a listener.
    pub fn activity(&self, listener: &str) -> Rc<Activity> {
        if let Some(known) = self.activities.borrow().get(listener) {
            return known.clone();
        }
        let made = Rc::new(Activity::new(self, listener));
        self.activities.borrow_mut().insert(listener.into(), made.clone());
        made
    }

    /// Adds one to a counter of this worker. For events of connections, not of requests.
    pub fn count(&self, family: &'static Family) {
        self.count_kept(family, "", &[]);
    }

    /// As `count`, for a family with one label. Takes the registry's lock: for what is no request of every day.
    pub fn count_labelled(&self, family: &'static Family, name: &str, value: &str) {
        self.shard.counter(family, &[(name, value)]).inc();
    }

    /// A request that was none. Its counter is kept: who floods must not make all workers wait for the registry.
    pub fn bad_request(&self, reason: &'static str) {
        self.count_kept(&names::PROXY_PROTOCOL_ERRORS, reason, &[("side", "downstream"), ("reason", reason)]);
    }

    fn count_kept(&self, family: &'static Family, value: &'static str, labels: &[(&str, &str)]) {
        let mut counters = self.counters.borrow_mut();
        counters.entry((family.name, value)).or_insert_with(|| self.shard.counter(family, labels)).inc();
    }

    /// The `date` of now (RFC 9110, section 5.6.7), formatted once a second.
    pub fn with_date(&self, use_it: impl FnOnce(&[u8])) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            *date = (now, http_date(now));
        }
        use_it(&date.1);
    }

    /// Takes a finished request into the series and the ledger.
    pub fn record(&self, x: &Exchange<'_>, outcome: Outcome, sample: Sample, breakdown: &Breakdown, now: Tick) {
        let side = if x.conn.is_inbound() { Reporter::Destination } else { Reporter::Source };
        if self.clock.runs() {
            self.ledgers.borrow_mut().record(side, breakdown, now);
        }
        match (&x.endpoint, side) {
            (Some(endpoint), Reporter::Source) => match endpoint.series.get() {
                Some(series) => series.record(&self.shard, outcome, sample),
                None => {
                    let (series, is_final) = crate::labels::to_endpoint(&self.shared.workload, x, endpoint);
                    series.record(&self.shard, outcome, sample);
                    if is_final {
                        let _ = endpoint.series.set(series);
                    }
                }
            },
            _ => self.other_series(x, side).record(&self.shard, outcome, sample),
        }
    }

    /// Inbound requests, and those that never had an endpoint. The last one of the connection is tried first.
    fn other_series(&self, x: &Exchange<'_>, side: Reporter) -> Rc<RequestSeries> {
        let about = match (x.asked_cluster(), x.host) {
            (Some(cluster), _) => cluster.identity,
            (None, Some(host)) => host.fingerprint as u64,
            (None, None) => 0,
        };
        if let Some((known, series)) = &*x.conn.series.borrow()
            && *known == about
        {
            return series.clone();
        }
        let mut who = DefaultHasher::new();
        match x.conn.introduced() {
            Some(peer) => (side as u8, peer).hash(&mut who),
            None => (side as u8, x.conn.peer.as_ref().and_then(|peer| peer.spiffe.as_deref())).hash(&mut who),
        }
        let key = (about, who.finish());
        let mut all = self.series.borrow_mut();
        if all.len() >= OTHER_SERIES_MAX {
            all.clear();
        }
        let made = || Rc::new(crate::labels::of_side(&self.shared.workload, x, side));
        let series = all.entry(key).or_insert_with(made).clone();
        *x.conn.series.borrow_mut() = Some((about, series.clone()));
        series
    }

    pub fn logs(&self, status: u16, flags: celerity_telemetry::ResponseFlags) -> bool {
        self.log.is_some() && self.shared.log_choice.wants(status, flags, &mut self.rng.borrow_mut())
    }

    pub fn log(&self, record: &Record<'_>) {
        if let Some(log) = &self.log {
            log.borrow_mut().log(record);
        }
    }
}

/// Whether connections wait under other times than before, or for a chain that is gone.
fn waits_differ(before: &Snapshot, after: &Snapshot) -> bool {
    let waits = |snapshot: &Snapshot| {
        let listeners = snapshot.listeners.iter().map(|listener| {
            let chains = listener.chains.iter().chain(listener.default_chain.as_deref());
            let chains: Vec<_> =
                chains.map(|chain| (chain.name.clone(), chain.tls.is_some(), chain.manager.timeouts)).collect();
            (listener.name.clone(), chains)
        });
        listeners.collect::<Vec<_>>()
    };
    waits(before) != waits(after)
}

/// Heads kept for later exchanges: as many as are usually under way at once, 2 KB each.
const SPARE_HEADS_MAX: usize = 64;

/// Look-ups that a worker remembers; the registry has its own budget of series.
const OTHER_SERIES_MAX: usize = 4096;

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(unix_seconds: u64) -> [u8; 29] {
    use std::io::Write;
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut out = [b' '; 29];
    let Ok(now) = time::OffsetDateTime::from_unix_timestamp(unix_seconds as i64) else { return out };
    let day = DAYS.get(usize::from(now.weekday().number_days_from_sunday())).copied().unwrap_or("Sun");
    let month = MONTHS.get(usize::from(u8::from(now.month())) - 1).copied().unwrap_or("Jan");
    // The text has 29 bytes until the year 10000.
    let _ = write!(
        &mut out[..],
        "{day}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        now.day(),
        now.year(),
        now.hour(),
        now.minute(),
        now.second()
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_http_wants_them() {
        assert_eq!(&http_date(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
