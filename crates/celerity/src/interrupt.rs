//! Ctrl-C for verbs that take their time: the first one ends what is under way and prints what is known, the second ends the
//! process. A verb of several stages says at each what the next one ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use celerity_load::Control;
use celerity_load::control::Stop;
use tokio::signal::unix::{SignalKind, signal};

use crate::term;

/// Whether somebody asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// SIGINT: somebody at a terminal.
    Interrupt,
    /// SIGTERM: whoever manages the process.
    Terminate,
}

/// What a shell reports for a process that was ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;
/// A signal that follows another so soon is the same wish: `timeout` sends one to its child and one to the group, a moment apart.
/// Nobody presses two keys twice in that time.
const SAME_WISH: Duration = Duration::from_millis(100);

/// Tells a new wish from the last one repeated.
#[derive(Default)]
struct Ear(Option<Instant>);

impl Ear {
    /// What is not heard does not count as the last one: somebody who presses the key on and on is heard.
    fn hears(&mut self, now: Instant) -> bool {
        let new = self.0.is_none_or(|last| now.duration_since(last) >= SAME_WISH);
        if new {
            self.0 = Some(now);
        }
        new
    }
}

type Act = Box<dyn FnOnce(Wish) + Send>;

/// SIGINT and SIGTERM of the process, as wishes.
#[derive(Clone)]
pub(crate) struct Signals(Arc<Mutex<Option<Act>>>);

impl Signals {
    /// From now on a wish does what [`Signals::next`] said last, once; without that it ends the process, after `clean`.
    pub(crate) fn listen(clean: impl Fn() + Send + 'static) -> anyhow::Result<Self> {
        let signals = Self(Arc::default());
        let next = Arc::clone(&signals.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // The handlers are set here, so that no signal falls between the return and the thread's start.
        let (mut int, mut term) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let wait = move || {
            runtime.block_on(async move {
                let mut ear = Ear::default();
                loop {
                    let wish = tokio::select! {
                        _ = int.recv() => Wish::Interrupt,
                        _ = term.recv() => Wish::Terminate,
                    };
                    if !ear.hears(Instant::now()) {
                        continue;
                    }
                    let act = next.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(act) = act else {
                        clean();
                        term::give_back();
                        std::process::exit(EXIT_INTERRUPTED);
                    };
                    act(wish);
                }
            });
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(wait).context("a thread for signals cannot be started")?;
        Ok(signals)
    }

    /// What the next wish does; the one after that ends the process.
    pub(crate) fn next(&self, act: impl FnOnce(Wish) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
    }

    /// The next wish ends the process.
    pub(crate) fn at_once(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The next wish stops the runs under `control`.
    pub(crate) fn stop(&self, control: &Control) -> Interrupt {
        let interrupt = Interrupt::default();
        let (flag, control) = (interrupt.clone(), control.clone());
        self.next(move |_| {
            flag.0.store(true, Ordering::Relaxed);
            control.stop(Stop::Gently);
        });
        interrupt
    }
}

/// From now on the first wish ends the run under `control` and leaves its report, the second ends it at once, the third ends the
/// process.
pub(crate) fn watch_run(control: &Control) -> anyhow::Result<Signals> {
    let signals = Signals::listen(|| {})?;
    let (second, control) = (signals.clone(), control.clone());
    signals.next(move |_| {
        term::note("stopping: the report comes within a second");
        control.stop(Stop::Gently);
        second.next(move |_| control.stop(Stop::Now));
    });
    Ok(signals)
}

/// From now on SIGINT and SIGTERM stop the runs under `control`.
pub(crate) fn watch(control: &Control) -> anyhow::Result<Interrupt> {
    Ok(Signals::listen(|| {})?.stop(control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_soon_after_one_that_was_heard_is_the_same_wish() {
        let (begin, mut ear) = (Instant::now(), Ear::default());
        let mut heard = |ms| ear.hears(begin + Duration::from_millis(ms));
        assert_eq!([0, 10, 80, 120, 180, 230].map(&mut heard), [true, false, false, true, false, true]);
    }
}
