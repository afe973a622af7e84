use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::server::ProducesTickets;

use super::material::{Identity, LoadError, Source};

/// How often [`Store::watch`] looks at its files: a stat per file, so that a rotated certificate acts within a second.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// One identity and trust bundle, shared by all workers, replaced as a whole.
pub struct Store {
    source: Source,
    current: ArcSwap<Material>,
    /// The control side only. Handshakes never come here.
    control: Mutex<Control>,
}

/// What handshakes use, and the number that says whether something built from it is still the newest.
pub(super) struct Material {
    pub(super) generation: u64,
    pub(super) identity: Identity,
    /// Ticket keys, the same for all workers and across configurations, changed every six hours and whenever the trust
    /// bundle changes: a session that the old bundle vouched for must prove itself again.
    pub(super) tickets: Arc<dyn ProducesTickets>,
    loaded_at: SystemTime,
}

#[derive(Default)]
struct Control {
    stamps: Vec<Option<Stamp>>,
    last_error: Option<LoadError>,
}

/// Tells one file version from the next. A rename over the file changes the inode, so equal times do not hide it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The files are as they were.
    Unchanged,
    /// New handshakes use the new files. Connections that stand are not touched.
    Swapped {
        /// The trust bundle or revocation list is another one, so sessions cannot be resumed across the change.
        trust_changed: bool,
    },
}

/// What a store holds, for the admin port and for metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// Counts swaps, from 1.
    pub generation: u64,
    /// When the current material was read.
    pub loaded_at: SystemTime,
    /// Our own SPIFFE id.
    pub spiffe: Option<Arc<str>>,
    /// When our own certificate ends, in seconds since 1970.
    pub not_after_s: Option<i64>,
    /// Its serial number in hexadecimal.
    pub serial_hex: Option<Box<str>>,
    /// The files that are watched.
    pub files: Vec<PathBuf>,
    /// Why the newest files are not in use. `None` when they are.
    pub last_error: Option<LoadError>,
}

impl Store {
    /// Reads `source`. Reads files: not for a worker's thread.
    ///
    /// # Errors
    /// Names the file and what is wrong with it; an expired certificate is wrong too.
    pub fn open(source: Source) -> Result<Arc<Self>, LoadError> {
        let stamps = stamps(&source);
        let identity = Identity::read(&source)?;
        refuse_expired(&source, &identity, SystemTime::now())?;
        Self::with(source, identity, stamps)
    }

    /// Holds `identity` until [`Store::replace`] brings another.
    ///
    /// # Errors
    /// The system gave no random bytes for the ticket keys.
    pub fn fixed(identity: Identity) -> Result<Arc<Self>, LoadError> {
        Self::with(Source::default(), identity, Vec::new())
    }

    fn with(source: Source, identity: Identity, stamps: Vec<Option<Stamp>>) -> Result<Arc<Self>, LoadError> {
        let material = Material { generation: 1, identity, tickets: new_tickets()?, loaded_at: SystemTime::now() };
        Ok(Arc::new(Self {
            source,
            current: ArcSwap::from_pointee(material),
            control: Mutex::new(Control { stamps, last_error: None }),
        }))
    }

    pub(super) fn material(&self) -> arc_swap::Guard<Arc<Material>> {
        self.current.load()
    }

    /// Where this store reads from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Reads the files again if they changed, or if they were broken the last time. Reads files: not for a worker's thread.
    ///
    /// # Errors
    /// The new files cannot be used. What was in use stays in use, and [`Status::last_error`] says why.
    pub fn poll(&self) -> Result<Reloaded, LoadError> {
        let now = stamps(&self.source);
        {
            let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            if control.stamps == now && control.last_error.is_none() {
                return Ok(Reloaded::Unchanged);
            }
        }
        self.reload()
    }

    /// Reads the files again, whether they look changed or not.
    ///
    /// # Errors
    /// As [`Store::poll`].
    pub fn reload(&self) -> Result<Reloaded, LoadError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if self.source.watched_files().next().is_none() {
            return Ok(Reloaded::Unchanged);
        }
        // Stamps first: a write between stamp and read is seen by the next poll.
        control.stamps = stamps(&self.source);
        let read = Identity::read(&self.source).and_then(|identity| {
            refuse_expired(&self.source, &identity, SystemTime::now())?;
            self.swap(identity)
        });
        control.last_error = read.as_ref().err().cloned();
        read
    }

    /// Puts `identity` in place of what is held.
    ///
    /// # Errors
    /// The system gave no random bytes for new ticket keys.
    pub fn replace(&self, identity: Identity) -> Result<Reloaded, LoadError> {
        let _one_at_a_time = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        self.swap(identity)
    }

    fn swap(&self, identity: Identity) -> Result<Reloaded, LoadError> {
        let old = self.current.load_full();
        let trust_changed = old.identity.trust_sha256 != identity.trust_sha256;
        let same_leaf = match (&old.identity.leaf, &identity.leaf) {
            (Some(old), Some(new)) => old.sha256_hex == new.sha256_hex,
            (None, None) => true,
            _ => false,
        };
        if same_leaf && !trust_changed {
            return Ok(Reloaded::Unchanged);
        }
        let tickets = if trust_changed { new_tickets()? } else { Arc::clone(&old.tickets) };
        self.current.store(Arc::new(Material {
            generation: old.generation + 1,
            identity,
            tickets,
            loaded_at: SystemTime::now(),
        }));
        Ok(Reloaded::Swapped { trust_changed })
    }

    /// Polls the files for as long as the store lives, on the control runtime. `on_change` hears of every swap and of every
    /// new error, once each.
    pub async fn watch(self: Arc<Self>, mut on_change: impl FnMut(&Self, Result<Reloaded, LoadError>)) {
        let mut told: Option<LoadError> = None;
        let mut tick = tokio::time::interval(RELOAD_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.poll() {
                Ok(Reloaded::Unchanged) => told = None,
                Ok(swapped) => {
                    told = None;
                    on_change(&self, Ok(swapped));
                }
                Err(error) if told.as_ref() == Some(&error) => {}
                Err(error) => {
                    told = Some(error.clone());
                    on_change(&self, Err(error));
                }
            }
        }
    }

    /// What is held now.
    #[must_use]
    pub fn status(&self) -> Status {
        let material = self.material();
        let leaf = material.identity.leaf.as_ref();
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            generation: material.generation,
            loaded_at: material.loaded_at,
            spiffe: leaf.and_then(|leaf| leaf.spiffe.clone()),
            not_after_s: leaf.map(|leaf| leaf.not_after_s),
            serial_hex: leaf.map(|leaf| leaf.serial_hex.clone()),
            files: self.source.watched_files().map(Path::to_path_buf).collect(),
            last_error: control.last_error.clone(),
        }
    }
}

fn new_tickets() -> Result<Arc<dyn ProducesTickets>, LoadError> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
        .map_err(|e| LoadError { file: "session ticket keys".into(), reason: e.to_string() })
}

fn refuse_expired(source: &Source, identity: &Identity, now: SystemTime) -> Result<(), LoadError> {
    let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    match (&identity.leaf, &source.identity) {
        (Some(leaf), Some(pair)) if leaf.not_after_s < now_s => Err(LoadError {
            file: pair.chain.to_string(),
            reason: format!("the certificate expired {} s ago; issue a new one", now_s - leaf.not_after_s),
        }),
        _ => Ok(()),
    }
}

fn stamps(source: &Source) -> Vec<Option<Stamp>> {
    use std::os::unix::fs::MetadataExt as _;
    source
        .watched_files()
        .map(|path| {
            let about = std::fs::metadata(path).ok()?;
            Some(Stamp {
                device: about.dev(),
                inode: about.ino(),
                length: about.len(),
                changed_s: about.ctime(),
                changed_ns: about.ctime_nsec(),
            })
        })
        .collect()
}
