//! The sidecars of `celerity up`, with the authority that gives them their identities, and the files that they follow.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use celerity_model::istio::{Config, Locality};
use celerity_model::translate::Node;

use crate::ca::{Authority, Identity, TTL_MAX};
use crate::config::files::{FilesError, Source};
use crate::config::held::Held;
use crate::config::watch::Watcher;
use crate::config::{LoadError, Loader};
use crate::log::Log;
use crate::sample::lab::Workload;
use crate::session::StatusLine;
use crate::sidecar::{Listen, Plan, Sidecar};
use crate::term;

/// For sidecars that have served nobody yet.
const UNUSED_DRAIN_MAX: Duration = Duration::from_secs(1);
const TRUST_DOMAIN: &str = "cluster.local";

pub(crate) struct Mesh {
    watcher: Option<Watcher>,
    running: Arc<Running>,
    /// Goes last: the sidecars read their keys from it.
    _identities: Identities,
}

struct Running {
    sidecars: Vec<Sidecar>,
    loader: Loader,
    held: Mutex<Held>,
    status: StatusLine,
}

impl Mesh {
    /// Starts a sidecar for each workload with what `loader` gives, and follows its files.
    pub(crate) fn start(workloads: &[Workload], loader: Loader, status: StatusLine) -> anyhow::Result<Self> {
        let sources = loader.sources()?;
        let config = loader.read(&sources)?;
        let identities = Identities::issue(workloads)?;
        let mut sidecars = Vec::with_capacity(workloads.len());
        for workload in workloads {
            let name = &workload.instance.name;
            match Sidecar::start(&config, plan(workload, &identities)) {
                Ok(sidecar) => sidecars.push(sidecar),
                Err(error) => {
                    // They read their keys again and again, which go with this function.
                    for sidecar in sidecars {
                        let _: bool = Sidecar::stop(sidecar, UNUSED_DRAIN_MAX);
                    }
                    return Err(error.context(format!("the sidecar of {name} cannot start")));
                }
            }
        }
        status.set(taken_up(&config));
        sidecars.iter().for_each(Sidecar::settle);
        let running =
            Arc::new(Running { sidecars, loader, held: Mutex::new(Held::of(&sources, config.len())), status });
        let follower = Arc::clone(&running);
        let watcher = match running.loader.paths.clone() {
            paths if paths.is_empty() => None,
            paths => Some(Watcher::start(paths, move || follower.follow()).context("the files cannot be watched")?),
        };
        // A change between the first reading and the first watch is not lost.
        if running.loader.load().map_or(true, |now| now != config) {
            running.follow();
        }
        Ok(Self { watcher, running, _identities: identities })
    }

    /// The texts that the configuration comes from, as they are now.
    pub(crate) fn sources(&self) -> Result<Vec<Source>, FilesError> {
        self.running.loader.sources()
    }

    /// Lets every sidecar finish what is under way, all at the same time, and ends them. True if all was answered.
    pub(crate) fn drain(self, limit: Duration) -> bool {
        // Its thread holds the sidecars too, until it has ended.
        drop(self.watcher);
        let Some(running) = Arc::into_inner(self.running) else { return false };
        std::thread::scope(|scope| {
            let drains: Vec<_> =
                running.sidecars.into_iter().map(|sidecar| scope.spawn(move || sidecar.stop(limit))).collect();
            drains.into_iter().all(|drain| drain.join().unwrap_or(false))
        })
    }
}

/// What was read, made ready for each sidecar, and the files that it was in.
type ForAll = (Config, Vec<crate::sidecar::Prepared>, Held);

impl Running {
    /// Reads the files again and takes them up in every sidecar or, but for an address that cannot be had, in none.
    fn follow(&self) {
        match self.prepare().map_err(|error| error.to_string()) {
            Ok((config, prepared, held)) => {
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
                for (sidecar, prepared) in self.sidecars.iter().zip(prepared) {
                    // Every identity is the mesh's own and readable, so what can be prepared can be taken up; all but one listener
                    // that all sidecars are to open at the same address of this machine.
                    if let Err(reason) = sidecar.apply(prepared, &config) {
                        sidecar.reject(&reason.to_string());
                        self.status.set(format!("the last change acts in part only: {reason}"));
                        return;
                    }
                }
                self.status.set(taken_up(&config));
                // On a terminal the view says it.
                if !term::live() {
                    term::note(format_args!("configuration: {}", taken_up(&config)));
                }
                drop(config);
                self.sidecars.iter().for_each(Sidecar::settle);
            }
            Err(reason) => {
                // Each shows it at its admin port; the log, which is one, has it once.
                for (number, sidecar) in self.sidecars.iter().enumerate() {
                    if number == 0 { sidecar.reject(&reason) } else { sidecar.reject_silently(&reason) }
                }
                let first = reason.lines().next().unwrap_or_default();
                self.status.set(format!("the last change was refused and nothing of it acts: {first}"));
            }
        }
    }

    fn prepare(&self) -> Result<ForAll, LoadError> {
        let sources = self.loader.sources()?;
        let config = self.loader.read(&sources)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).consider(&sources, config.len())?;
        let prepared: Result<Vec<_>, _> = self.sidecars.iter().map(|sidecar| sidecar.prepare(&config)).collect();
        let held = Held::of(&sources, config.len());
        Ok((config, prepared?, held))
    }
}

fn taken_up(config: &Config) -> String {
    format!("{} documents act", config.len())
}

fn plan(workload: &Workload, identities: &Identities) -> Plan {
    let instance = &workload.instance;
    let node = Node {
        name: instance.name.clone(),
        namespace: workload.namespace.to_owned(),
        labels: workload.labels().into_iter().collect(),
        locality: Locality::parse(&instance.locality),
        service_account: workload.service_account.clone(),
        outbound: workload.outbound(),
        inbound: workload.inbound(),
        application: instance.address.ip(),
        ..Node::default()
    };
    let listen = Listen {
        outbound: Some(workload.outbound()),
        inbound: Some(workload.inbound()),
        admin: Some(workload.admin()),
        prometheus: Some(workload.prometheus()),
        health: Some(workload.health()),
    };
    Plan {
        node,
        listen,
        identity: Some(identities.folder.join(&instance.name)),
        workers: None,
        access_log: None,
        ledger: true,
        log: Log::default(),
    }
}

/// Where the keys of the mesh with this admin port are. Whoever ends the process without ending the mesh takes it away.
pub(crate) fn identities_folder(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("celerity-up-{}-{port}", std::process::id()))
}

/// A folder with a certificate and a key for each workload, which goes with the mesh.
struct Identities {
    folder: PathBuf,
}

impl Identities {
    fn issue(workloads: &[Workload]) -> anyhow::Result<Self> {
        let authority = Authority::create(TRUST_DOMAIN)?;
        // Two meshes of one process differ in their ports.
        let port = workloads.first().map_or(0, |workload| workload.ports.admin());
        let identities = Self { folder: identities_folder(port) };
        for workload in workloads {
            // The authority dies with the mesh and nobody renews, so the certificates last as long as they may.
            let identity = Identity {
                ttl: TTL_MAX,
                ..Identity::workload(TRUST_DOMAIN, workload.namespace, &workload.service_account)
            };
            authority.issue(&identity)?.write(&identities.folder.join(&workload.instance.name))?;
        }
        Ok(identities)
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
