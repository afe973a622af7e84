//! A running proxy: its workers, its control thread, and the handle by which others steer it.

use crate::admin::{self, Admin};
use crate::apply::{NotTakenUp, Running, Unusable};
use crate::blocking::{self, BlockingPool};
use crate::dns::{self, NameServer};
use crate::drain::LEAVE_TIME;
use crate::log::Log;
use crate::sockets::{BindError, Listen};
use crate::tls::{Secrets, Source};
use crate::worker::{self, COMMANDS_MAX, Command, Opened, Place, ProxyShared};
use arc_swap::ArcSwap;
use celerity_model::snapshot::{Cluster, Listener, Snapshot};
use celerity_telemetry::access_log::{AccessLogError, AccessLogWriter, Choice, Target};
use celerity_telemetry::metrics::{Limits, Peer, Registry};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Text about the running configuration, for /config_dump.
pub type Describe = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What a proxy is started with.
pub struct Settings {
    pub snapshot: Arc<Snapshot>,
    /// 1 or more.
    pub workers: usize,
    /// The workload's certificate, key and roots; without it there is no mutual TLS.
    pub identity: Option<Source>,
    /// This workload, as metric labels name it.
    pub workload: Peer,
    pub admin: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    pub health: Option<SocketAddr>,
    pub access_log: Option<(Target, Choice)>,
    /// Whether each request's time is accounted for. Without it there is no ledger anywhere; durations stay.
    pub ledger: bool,
    pub log: Log,
    /// Gives memory that is free back to the kernel: the allocator keeps it, and the guard sees no difference.
    pub give_back: fn(),
    /// The resources that the snapshot was made of.
    pub describe: Describe,
    pub tuning: Tuning,
}

/// What a configuration says of the proxy itself, beside its traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Who is asked for names; empty: those of `/etc/resolv.conf`.
    pub name_servers: Vec<NameServer>,
    /// The pool for work that blocks.
    pub thread_pool: blocking::Settings,
    /// Near this much memory new requests are refused. `None`: there is no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Request metrics without the labels that are not needed to tell services apart.
    pub reduce_labels: bool,
}

/// Why a proxy did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the configuration cannot be taken up: {0}")]
    Certificates(NotTakenUp),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error(
        "a thread could not be started: {0}; look at the limits of processes and open files (ulimit -u, ulimit -n)"
    )]
    Thread(std::io::Error),
}

/// What the admin port shows of the configuration's state.
#[derive(Clone, Debug, Default)]
pub struct ConfigState {
    /// Why the newest change was refused; `None`: it was taken up.
    pub rejected: Option<String>,
    pub accepted_count: u64,
    pub rejected_count: u64,
    /// When the running one was taken up, in seconds since 1970.
    pub changed_unix_s: u64,
}

/// What the control side shares: the handle, the admin port, the resolver.
pub struct Control {
    pub shared: Arc<ProxyShared>,
    pub running: ArcSwap<Running>,
    /// The running configuration as it was given, with names where `running` has their addresses.
    configured: ArcSwap<Snapshot>,
    pub(crate) names: dns::Names,
    pub secrets: Arc<Secrets>,
    pub(crate) blocking: BlockingPool,
    /// 0: there is none.
    memory_limit_bytes: AtomicU64,
    pub(crate) give_back: fn(),
    pub state: Mutex<ConfigState>,
    pub describe: Mutex<Describe>,
    pub started: Instant,
    draining: AtomicBool,
    stopped: tokio::sync::Notify,
    live_workers: AtomicUsize,
    workers: Vec<mpsc::Sender<Command>>,
    pub worker_count: usize,
    /// One change at a time: two that race must not leave the older one running. Holds the listeners whose sockets are
    /// open.
    applying: Mutex<Vec<Place>>,
}

impl Control {
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes a configuration up in every worker, or not at all.
    ///
    /// # Errors
    /// The certificates that it names can't be used, or an address where it newly listens can't be had; the running
    /// configuration stays. The caller says so with [`Self::rejected`], since it knows what the configuration was made of.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), NotTakenUp> {
        let mut listening = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.running.load_full();
        let resolved = Arc::new(self.names.resolve(&snapshot, Some(&before.snapshot)));
        let running = Arc::new(Running::prepare(resolved, &self.secrets, Some(&before))?);
        let opened = self.open(&running.snapshot, &listening)?;
        *listening = running.snapshot.listeners.iter().map(|one| (one.name.clone(), one.address)).collect();
        self.names.want(&snapshot);
        self.configured.store(snapshot);
        let identities: std::collections::HashSet<u64> =
            running.snapshot.clusters().map(|cluster| cluster.identity).collect();
        for cluster in running.snapshot.clusters() {
            self.shared.take_up(cluster);
        }
        self.shared.retain_clusters(|identity| identities.contains(&identity));
        self.hand_over(running, opened);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rejected = None;
        state.accepted_count += 1;
        state.changed_unix_s = unix_s();
        drop(state);
        self.count_reload("accepted");
        Ok(())
    }

    /// The configuration stays and the addresses of its names are other ones: only the clusters that they belong to change.
    pub(crate) fn take_up_addresses(&self) {
        let _one = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.running.load_full();
        let resolved = Arc::new(self.names.resolve(&self.configured.load(), Some(&before.snapshot)));
        let known = |cluster: &Arc<Cluster>| {
            before.snapshot.cluster_by_name(&cluster.name).is_some_and(|known| Arc::ptr_eq(known, cluster))
        };
        let changed: Vec<Arc<Cluster>> = resolved.clusters().filter(|cluster| !known(cluster)).cloned().collect();
        if changed.is_empty() {
            return;
        }
        match Running::prepare(resolved, &self.secrets, Some(&before)) {
            Ok(running) => {
                for cluster in &changed {
                    self.shared.take_up(cluster);
                }
                self.hand_over(Arc::new(running), Vec::new());
            }
            // Every certificate is loaded already, so this is a mistake of ours; the old addresses serve on.
            Err(errors) => self.shared.log.error(format_args!("new addresses were not taken up: {errors}")),
        }
    }

    /// The sockets, one list for each worker, of listeners that are not open yet.
    fn open(&self, snapshot: &Snapshot, known: &[Place]) -> Result<Vec<Vec<Opened>>, NotTakenUp> {
        let mut sockets: Vec<Vec<Opened>> = self.workers.iter().map(|_| Vec::new()).collect();
        let mut errors = Vec::new();
        let began = Instant::now();
        for listener in &snapshot.listeners {
            if known.iter().any(|(name, address)| (name, *address) == (&listener.name, listener.address)) {
                continue;
            }
            let mut result = open(listener, &mut sockets);
            while matches!(result, Err(BindError::InUse { .. })) && began.elapsed() < LISTENER_CLOSES_MAX {
                std::thread::sleep(LISTENER_LOOK);
                result = open(listener, &mut sockets);
            }
            if let Err(error) = result {
                let (resource, name, reason) = ("listener", listener.name.clone(), error.to_string());
                errors.push(Unusable { resource, name, reason });
            }
        }
        if errors.is_empty() { Ok(sockets) } else { Err(NotTakenUp(errors)) }
    }

    /// `opened`: the new sockets of each worker.
    fn hand_over(&self, running: Arc<Running>, opened: Vec<Vec<Opened>>) {
        self.running.store(running.clone());
        let opened = opened.into_iter().chain(std::iter::repeat_with(Vec::new));
        for (worker, opened) in self.workers.iter().zip(opened) {
            // The queue is emptied faster than files change; a worker that hangs must not hang the control side.
            if worker.try_send(Command::Apply { running: running.clone(), opened }).is_err() {
                self.shared.log.error(format_args!("a worker did not take the new configuration: it is busy or gone"));
            }
        }
    }

    /// The running configuration as it was given: what the next one is compared with.
    pub fn configured(&self) -> Arc<Snapshot> {
        self.configured.load_full()
    }

    /// Takes up what the configuration says of the proxy itself.
    pub fn tune(&self, tuning: Tuning) {
        self.names.ask(tuning.name_servers);
        self.blocking.resize(tuning.thread_pool);
        self.memory_limit_bytes.store(tuning.memory_limit_bytes.unwrap_or(0), Ordering::Relaxed);
        self.shared.registry.reduce_labels(tuning.reduce_labels);
    }

    pub(crate) fn memory_limit_bytes(&self) -> Option<u64> {
        Some(self.memory_limit_bytes.load(Ordering::Relaxed)).filter(|&limit| limit > 0)
    }

    /// A change that could not be read, translated or loaded: said wherever one would look.
    pub fn rejected(&self, reason: &str) {
        self.shared.log.error(format_args!("configuration refused, the running one stays: {reason}"));
        self.rejected_silently(reason);
    }

    /// The same without the log.
    pub fn rejected_silently(&self, reason: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rejected = Some(reason.to_owned());
        state.rejected_count += 1;
        drop(state);
        self.count_reload("rejected");
    }

    fn count_reload(&self, result: &str) {
        let family = &celerity_telemetry::metrics::names::CONFIG_RELOADS;
        self.shared.registry.counter(family, &[("result", result)]).inc();
    }

    /// Says so at `/ready`, goes on accepting for `leave`, then finishes what is under way.
    pub fn start_draining(&self, leave: Duration) {
        if !self.draining.swap(true, Ordering::AcqRel) {
            for worker in &self.workers {
                let _ = worker.try_send(Command::Drain { leave });
            }
        }
    }

    pub fn live_workers(&self) -> usize {
        self.live_workers.load(Ordering::Acquire)
    }

    pub async fn until_stopped(&self) {
        self.stopped.notified().await;
    }
}

/// A proxy that runs.
pub struct Handle {
    control: Arc<Control>,
    addresses: Vec<(String, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
    log: Option<AccessLogWriter>,
}

pub struct Proxy;

impl Proxy {
    /// Binds every address, loads every certificate, then starts the threads.
    ///
    /// # Errors
    /// An address is taken, a certificate is unusable, the log can't be opened. Nothing keeps running then.
    pub fn start(settings: Settings) -> Result<Handle, StartError> {
        let workers = settings.workers.max(1);
        celerity_telemetry::Clock::system();
        let secrets = Arc::new(Secrets::new(settings.identity));
        let configured = settings.snapshot;
        let tuning = settings.tuning;
        let names = dns::Names::new(&configured, tuning.name_servers.clone());
        let resolved = Arc::new(names.resolve(&configured, None));
        let running = Running::prepare(resolved, &secrets, None).map_err(StartError::Certificates)?;
        let running = Arc::new(running);
        let mut addresses = Vec::new();
        let mut sockets: Vec<Vec<Opened>> = (0..workers).map(|_| Vec::new()).collect();
        let mut listening = Vec::new();
        for listener in &running.snapshot.listeners {
            if let Some(address) = open(listener, &mut sockets)? {
                addresses.push((listener.name.to_string(), address));
            }
            listening.push((listener.name.clone(), listener.address));
        }
        let mut admin = Admin::default();
        for (name, address, purpose, flag, pages) in [
            ("admin", settings.admin, "the admin port", "--admin", admin::Pages::All),
            ("prometheus", settings.prometheus, "Prometheus", "--prometheus", admin::Pages::Metrics),
            ("health", settings.health, "health probes", "--health", admin::Pages::Health),
        ] {
            let Some(address) = address else { continue };
            for socket in (Listen { address, purpose, flag }).bind(1)? {
                if let Ok(address) = socket.local_addr() {
                    addresses.push((name.to_owned(), address));
                }
                admin.sockets.push((socket, pages));
            }
        }
        let registry = Registry::new(Limits::default());
        let (log, choice) = match settings.access_log {
            Some((target, choice)) => (Some(AccessLogWriter::start(target)?), choice),
            None => (None, Choice::ALL),
        };
        if let Some(log) = &log {
            log.register(&registry);
        }
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let shared = Arc::new(ProxyShared::new(
            registry,
            hostname.trim().into(),
            Arc::new(settings.workload),
            choice,
            settings.log,
        ));
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(COMMANDS_MAX)).unzip();
        let control = Arc::new(Control {
            shared: shared.clone(),
            running: ArcSwap::new(running.clone()),
            configured: ArcSwap::new(configured),
            names,
            secrets,
            blocking: BlockingPool::new(tuning.thread_pool),
            memory_limit_bytes: AtomicU64::new(0),
            give_back: settings.give_back,
            state: Mutex::new(ConfigState { changed_unix_s: unix_s(), ..ConfigState::default() }),
            describe: Mutex::new(settings.describe),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            stopped: tokio::sync::Notify::new(),
            live_workers: AtomicUsize::new(0),
            workers: senders.clone(),
            worker_count: workers,
            applying: Mutex::new(listening),
        });
        control.tune(tuning);
        let start = |(id, (commands, sockets)): (usize, (_, _))| {
            let others = senders.iter().enumerate().filter(|(other, _)| *other != id).map(|(_, sender)| sender.clone());
            worker::Start {
                id,
                shared: shared.clone(),
                running: running.clone(),
                sockets,
                commands,
                others: others.collect(),
                shard: shared.registry.shard(),
                log: log.as_ref().and_then(AccessLogWriter::worker),
                ledger: settings.ledger,
            }
        };
        let starts = receivers.into_iter().zip(sockets).enumerate().map(start).collect();
        let mut handle = Handle { control, addresses, threads: Vec::new(), log };
        match handle.begin(starts, admin) {
            Ok(()) => Ok(handle),
            Err(error) => {
                handle.stop(GIVE_UP_MAX);
                Err(error)
            }
        }
    }
}

/// Binds a listener's sockets, one for each worker. Gives the address that it has.
fn open(listener: &Listener, workers: &mut [Vec<Opened>]) -> Result<Option<SocketAddr>, BindError> {
    let (purpose, flag) = match &*listener.name {
        "outbound" => ("outbound traffic", "--outbound"),
        "inbound" => ("inbound traffic", "--inbound"),
        _ => ("a listener of the configuration", "its address in the configuration"),
    };
    let bound = Listen { address: listener.address, purpose, flag }.bind(workers.len())?;
    let address = bound.first().and_then(|socket| socket.local_addr().ok());
    for (opened, socket) in workers.iter_mut().zip(bound) {
        opened.push(Opened { listener: (listener.name.clone(), listener.address), socket });
    }
    Ok(address)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(StartError::Thread)
}

/// For all listeners of a change that take the address of one that went with the change before: its sockets empty their queues,
/// and then the address is free.
const LISTENER_CLOSES_MAX: Duration = Duration::from_secs(1);

/// Between two looks at whether it is.
const LISTENER_LOOK: Duration = Duration::from_millis(20);

/// For the threads of a proxy that could not start as a whole: they have nothing to do yet.
const GIVE_UP_MAX: Duration = Duration::from_secs(5);

/// Between two looks at whether a drain is over.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

impl Handle {
    /// Starts the threads, workers first, and waits until every one of those accepts connections: whoever is told that the proxy has
    /// started finds it so; and on a core that is shared, workers get it now and not when this thread has done what can wait.
    fn begin(&mut self, starts: Vec<worker::Start>, admin: Admin) -> Result<(), StartError> {
        let (starting, started) = std::sync::mpsc::channel();
        let mut missing = starts.len();
        for start in starts {
            let (control, starting) = (self.control.clone(), starting.clone());
            self.control.live_workers.fetch_add(1, Ordering::AcqRel);
            let thread = spawn(&format!("worker-{}", start.id), move || {
                worker::run(start, move |result| _ = starting.send(result));
                control.live_workers.fetch_sub(1, Ordering::AcqRel);
            });
            self.threads.push(thread.inspect_err(|_| _ = self.control.live_workers.fetch_sub(1, Ordering::AcqRel))?);
        }
        drop(starting);
        while let Ok(result) = started.recv() {
            result.map_err(StartError::Thread)?;
            missing -= 1;
        }
        if missing > 0 {
            return Err(StartError::Thread(std::io::Error::other("a worker ended before it began")));
        }
        let control = self.control.clone();
        self.threads.push(spawn("control", move || admin::run(&control, admin))?);
        Ok(())
    }

    /// Takes a new configuration up, whole or not at all.
    ///
    /// # Errors
    /// Why it was not taken up. The running one stays.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), NotTakenUp> {
        self.control.apply(snapshot)
    }

    /// As `apply`, with what the configuration says of the proxy itself; and replaces what /config_dump shows.
    ///
    /// # Errors
    /// As `apply`.
    pub fn apply_described(
        &self,
        snapshot: Arc<Snapshot>,
        tuning: Tuning,
        describe: Describe,
    ) -> Result<(), NotTakenUp> {
        self.control.apply(snapshot)?;
        self.control.tune(tuning);
        *self.control.describe.lock().unwrap_or_else(PoisonError::into_inner) = describe;
        Ok(())
    }

    /// A change that was refused before it became a snapshot.
    pub fn config_rejected(&self, reason: &str) {
        self.control.rejected(reason);
    }

    /// The same, where another proxy of this process has told the log of it.
    pub fn config_rejected_silently(&self, reason: &str) {
        self.control.rejected_silently(reason);
    }

    /// Where it listens, by name: `outbound`, `inbound`, `admin`, `prometheus`, `health`.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(known, _)| known == name).map(|(_, address)| *address)
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.control.shared.registry
    }

    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// True once somebody asked for a drain, by signal or at the admin port.
    pub fn is_draining(&self) -> bool {
        self.control.is_draining()
    }

    /// Has the access log's file opened anew, for whoever has moved it away.
    pub fn reopen_access_log(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Goes on accepting for [`LEAVE_TIME`], answers what is under way, closes what is idle. `true`: everything was done
    /// before the deadline, the time of leaving with it.
    pub fn drain(self, deadline: Duration) -> bool {
        self.end(deadline, LEAVE_TIME.min(deadline / 2))
    }

    /// As `drain`, for a proxy whose clients are known to be done: it accepts no more.
    pub fn stop(self, deadline: Duration) -> bool {
        self.end(deadline, Duration::ZERO)
    }

    fn end(mut self, deadline: Duration, leave: Duration) -> bool {
        self.control.start_draining(leave);
        let until = Instant::now() + deadline;
        while self.control.live_workers() > 0 && Instant::now() < until {
            std::thread::sleep(DRAIN_LOOK);
        }
        let done = self.control.live_workers() == 0;
        self.control.stopped.notify_waiters();
        self.control.stopped.notify_one();
        if done {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
        drop(self.log.take());
        done
    }
}
