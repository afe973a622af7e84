use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use celerity_model::snapshot::Snapshot;
use celerity_telemetry::metrics::names;
use tokio::sync::watch;

use super::driver::{NameServer, Resolver};
use super::plan::{Answer, Name, Table, Wanted};
use crate::proxy::Control;

/// Between two tries to find a resolver, when the machine names none.
const NO_RESOLVER_PAUSE: Duration = Duration::from_secs(10);

/// What the control side shares about names: which are wanted, who is asked, what was answered.
pub(crate) struct Names {
    wanted: watch::Sender<Vec<Wanted>>,
    servers: watch::Sender<Vec<NameServer>>,
    table: ArcSwap<Table>,
    began: Instant,
    warm: AtomicBool,
}

/// How long a start waits for the first answers before the proxy says that it is ready: as long as Envoy lets a cluster warm
/// up at most is too long for a name that nobody answers for, and all other services work.
const WARM_MAX: Duration = Duration::from_secs(5);

impl Names {
    pub(crate) fn new(snapshot: &Snapshot, servers: Vec<NameServer>) -> Self {
        let wanted = super::wanted(snapshot.clusters().map(|cluster| &**cluster));
        Self {
            warm: AtomicBool::new(wanted.is_empty()),
            wanted: watch::Sender::new(wanted),
            servers: watch::Sender::new(servers),
            table: ArcSwap::default(),
            began: Instant::now(),
        }
    }

    /// Whether every name of the start was answered, or denied, or has failed once: until then requests to it would find no
    /// endpoint. Names that come later do not count.
    pub(crate) fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Acquire) || self.began.elapsed() >= WARM_MAX
    }

    /// The workers have what the table says.
    fn taken_up(&self) {
        let table = self.table.load();
        let known = |one: &Wanted| table.get(&one.name).is_some() || table.refused.contains(&one.name);
        if table.settled() && self.wanted.borrow().iter().all(known) {
            self.warm.store(true, Ordering::Release);
        }
    }

    /// Follows the names of this configuration from now on.
    pub(crate) fn want(&self, snapshot: &Snapshot) {
        let wanted = super::wanted(snapshot.clusters().map(|cluster| &**cluster));
        self.wanted.send_if_modified(|old| {
            let changed = *old != wanted;
            *old = wanted;
            changed
        });
    }

    /// Asks these resolvers from now on; none: the machine's.
    pub(crate) fn ask(&self, servers: Vec<NameServer>) {
        self.servers.send_if_modified(|old| {
            let changed = *old != servers;
            *old = servers;
            changed
        });
    }

    /// What is known now.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// `snapshot` with the addresses that are known now.
    pub(crate) fn resolve(&self, snapshot: &Snapshot, previous: Option<&Snapshot>) -> Snapshot {
        let table = self.table.load();
        snapshot.resolved(previous, |host, family, port| table.addresses(host, family, port))
    }

    fn publish(&self, table: Arc<Table>) {
        self.table.store(table);
    }
}

/// Keeps the addresses of the running configuration's DNS clusters fresh, until the future is dropped. A mesh without such
/// clusters asks nobody and does not even look for a resolver.
pub(crate) async fn follow(control: Arc<Control>) {
    let mut wanted = control.names.wanted.subscribe();
    let mut servers = control.names.servers.subscribe();
    let (publish, mut tables) = watch::channel(Arc::new(Table::default()));
    let taking_up = async {
        while tables.changed().await.is_ok() {
            let table = tables.borrow_and_update().clone();
            control.names.publish(table);
            // A change of the configuration may hold the lock while it waits for an address; health checks go on meanwhile.
            let taking = Arc::clone(&control);
            let _ = tokio::task::spawn_blocking(move || taking.take_up_addresses()).await;
            control.names.taken_up();
        }
    };
    let asking = async {
        loop {
            if wanted.wait_for(|names| !names.is_empty()).await.is_err() {
                return;
            }
            let asked = servers.borrow_and_update().clone();
            let other_servers = servers.changed();
            match Resolver::new(&asked) {
                Ok(resolver) => {
                    let mut rng = celerity_telemetry::Rng::from_entropy();
                    let jitter = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                    let heard = |name: &Name, answer: &Answer| tell(&control, name, answer);
                    tokio::select! {
                        () = resolver.run(wanted.clone(), publish.clone(), jitter, heard) => return,
                        _ = other_servers => {}
                    }
                }
                Err(error) => {
                    control.shared.log.warn(format_args!("{error}"));
                    tokio::select! {
                        () = tokio::time::sleep(NO_RESOLVER_PAUSE) => {}
                        _ = other_servers => {}
                    }
                }
            }
        }
    };
    tokio::join!(taking_up, asking);
}

fn tell(control: &Control, name: &Name, answer: &Answer) {
    let (result, reason) = match answer {
        Answer::Addresses(addresses, _) if !addresses.is_empty() => ("answered", ""),
        Answer::Addresses(..) | Answer::NoSuchName => ("no_such_name", "there is no such name"),
        Answer::Failed(reason) => ("failed", reason.as_str()),
    };
    control.shared.registry.counter(&names::DNS_RESOLUTIONS, &[("result", result)]).inc();
    if result != "answered" {
        control.shared.log_limited("dns", format_args!("{} is not resolved: {reason}", name.host));
    }
}
