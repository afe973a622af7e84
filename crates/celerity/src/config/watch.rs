//! Notices that configuration files changed.
//!
//! The kernel's notification wakes the watcher at once; a look every `POLL` catches what it misses (network file
//! systems, a folder replaced by another, too many watches). Either way only marks are compared, so that a
//! notification without a change costs nothing. A change is reported once the files have been quiet for `QUIET`:
//! an editor or `kubectl` writes in several steps. A file that its writer has not closed yet is waited for: half of it may be
//! right YAML.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecursiveMode, Watcher as _};

use super::files::{self, Mark};

/// With `QUIET_WAIT_MAX` under a second together: a change is taken up within one, once its writer is done.
const POLL: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(60);
const QUIET_WAIT_MAX: Duration = Duration::from_millis(300);
/// How long a writer may take from its first write to closing the file. Then the file is read as it is: somebody may keep it
/// open for ever.
const WRITER_MAX: Duration = Duration::from_secs(5);
/// Files that are known to be written at the same time. What is beyond is read when it has been quiet.
const WRITTEN_MAX: usize = 1_000;

/// Watches until dropped.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Calls `changed`, on the watcher's own thread, whenever the files that `paths` mean may have changed. A change
    /// from what is there now counts, so start it before the first reading.
    pub(crate) fn start(paths: Vec<PathBuf>, changed: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = marks(&paths);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("config-watch".into())
            .spawn(move || run(&paths, seen, &stopped, changed))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// `None` while the files cannot be listed: that is a state of its own, and leaving it is a change.
type Marks = Option<Vec<(PathBuf, Mark)>>;

fn marks(paths: &[PathBuf]) -> Marks {
    files::list(paths).ok()
}

fn run(paths: &[PathBuf], mut seen: Marks, stop: &AtomicBool, mut changed: impl FnMut()) {
    // One slot is enough: a notification says only "look again".
    let (wake, woken) = sync_channel(1);
    let written = Arc::new(Written::default());
    let noting = Arc::clone(&written);
    let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| noting.note(&event)) {
            let _ = wake.try_send(());
        }
    });
    // Without notifications (no watches left, say) the poll alone does.
    let mut notifier = notifier.ok();
    for path in paths {
        if let Some(notifier) = &mut notifier {
            let _ = notifier.watch(watched(path), RecursiveMode::Recursive);
        }
    }
    while !stop.load(Ordering::Relaxed) {
        match woken.recv_timeout(POLL) {
            Ok(()) => settle(&woken),
            Err(RecvTimeoutError::Timeout) => {}
            // The notifier could not be made, so nothing holds the sender.
            Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(POLL),
        }
        let now = marks(paths);
        if now != seen && !written.is_open(now.as_deref()) && !stop.load(Ordering::Relaxed) {
            seen = now;
            changed();
        }
    }
}

/// Somebody who wrote to a file has closed it.
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

/// Files that somebody writes: written to, and not closed since. By path, with the time of the first write.
#[derive(Default)]
struct Written(Mutex<HashMap<PathBuf, Instant>>);

impl Written {
    /// Whether the event may be one of a change. Our own reading opens and closes files, which are events too.
    fn note(&self, event: &notify::Event) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if event.need_rescan() {
            // Events were lost, and with them perhaps the end of a writing.
            written.clear();
        }
        for path in event.paths.iter().map(|path| whole(path)) {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) if written.len() < WRITTEN_MAX => {
                    // The time of the first write stays.
                    written.entry(path).or_insert_with(Instant::now);
                }
                CLOSED | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => _ = written.remove(&path),
                _ => {}
            }
        }
        event.kind == CLOSED || !matches!(event.kind, EventKind::Access(_))
    }

    /// Whether one of these files is being written. An editor's spare copy, open all the time, is none of them.
    fn is_open(&self, files: Option<&[(PathBuf, Mark)]>) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, since| since.elapsed() < WRITER_MAX);
        !written.is_empty() && files.unwrap_or_default().iter().any(|(path, _)| written.contains_key(&whole(path)))
    }
}

/// A path from the root: notifications name files so, whatever they are called here.
fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// An editor replaces a file by renaming another over it, which ends a watch on the file itself: watch its folder.
fn watched(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !path.is_dir() && !parent.as_os_str().is_empty() => parent,
        Some(_) if !path.is_dir() => Path::new("."),
        _ => path,
    }
}

/// Waits until no notification has come for `QUIET`, within reason.
fn settle(woken: &Receiver<()>) {
    let until = Instant::now() + QUIET_WAIT_MAX;
    while Instant::now() < until && woken.recv_timeout(QUIET).is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use celerity_testkit::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_change_a_new_file_and_a_removal_are_each_noticed() {
        let folder = TempDir::new();
        let file = folder.write("a.yaml", "one");
        let (tell, told) = mpsc::channel();
        let watcher = Watcher::start(vec![folder.path().to_owned()], move || _ = tell.send(())).expect("a watcher");
        std::fs::write(&file, "another").expect("written");
        told.recv_timeout(PATIENCE).expect("the change");
        folder.write("sub/b.yaml", "two");
        told.recv_timeout(PATIENCE).expect("the new file");
        std::fs::remove_file(&file).expect("removed");
        told.recv_timeout(PATIENCE).expect("the removal");
        drop(watcher);
        assert!(told.recv_timeout(Duration::from_millis(1)).is_err());
    }

    #[test]
    fn a_file_is_waited_for_until_its_writer_closes_it() {
        let folder = TempDir::new();
        waits_for_the_writer(&folder, folder.path().to_owned());
        // The same, as a user would name it.
        let folder = TempDir::new();
        let up = std::env::current_dir().expect("a directory").components().map(|_| "..").collect::<PathBuf>();
        let from_root = folder.path().strip_prefix("/").expect("a path from the root");
        waits_for_the_writer(&folder, up.join(from_root));
    }

    fn waits_for_the_writer(folder: &TempDir, named: PathBuf) {
        use std::io::Write as _;
        let file = folder.write("a.yaml", "one");
        let (tell, told) = mpsc::channel();
        let _watcher = Watcher::start(vec![named], move || _ = tell.send(())).expect("a watcher");
        // The watcher's notifications begin a moment after it does.
        folder.write("b.yaml", "two");
        told.recv_timeout(PATIENCE).expect("the new file");
        let mut spare = std::fs::File::create(folder.path().join(".a.yaml.swp")).expect("created");
        spare.write_all(b"x").expect("written");
        let mut writer = std::fs::File::create(&file).expect("opened");
        writer.write_all(b"half").expect("written");
        // Longer than the files must be quiet, and than a look without a notification takes.
        assert!(told.recv_timeout(POLL + QUIET_WAIT_MAX).is_err(), "a half-written file was reported");
        writer.write_all(b" and half").expect("written");
        drop(writer);
        told.recv_timeout(PATIENCE).expect("the change, when its writer closed it");
    }

    #[test]
    fn a_file_replaced_by_renaming_is_noticed() {
        let folder = TempDir::new();
        let file = folder.write("a.yaml", "one");
        let (tell, told) = mpsc::channel();
        let _watcher = Watcher::start(vec![file.clone()], move || _ = tell.send(())).expect("a watcher");
        std::fs::rename(folder.write("a.new", "other"), &file).expect("renamed");
        told.recv_timeout(PATIENCE).expect("the change");
    }
}
