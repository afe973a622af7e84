//! Notices that configuration files changed.
//!
//! The kernel's notification wakes the watcher at once; a look every `POLL` catches what it misses (network file
//! systems, a folder replaced by another, too many watches). Either way only marks are compared, so that a
//! notification without a change costs nothing. A change is reported once the files have been quiet for `QUIET`:
//! an editor or `kubectl` writes in several steps.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode, Watcher as _};

use super::files::{self, Mark};

/// With `QUIET_WAIT_MAX` under a second together: a change is taken up within one.
const POLL: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(60);
const QUIET_WAIT_MAX: Duration = Duration::from_millis(300);

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
    let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading opens files, which is an event too.
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
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
        if now != seen && !stop.load(Ordering::Relaxed) {
            seen = now;
            changed();
        }
    }
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
    fn a_file_replaced_by_renaming_is_noticed() {
        let folder = TempDir::new();
        let file = folder.write("a.yaml", "one");
        let (tell, told) = mpsc::channel();
        let _watcher = Watcher::start(vec![file.clone()], move || _ = tell.send(())).expect("a watcher");
        std::fs::rename(folder.write("a.new", "other"), &file).expect("renamed");
        told.recv_timeout(PATIENCE).expect("the change");
    }
}
