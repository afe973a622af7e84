//! Ctrl-C for verbs that measure: the first one ends the measuring and prints what is known, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use celerity_load::Control;
use celerity_load::control::Stop;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a shell reports for a process that was ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// From now on SIGINT and SIGTERM stop the runs under `control`.
pub(crate) fn watch(control: &Control) -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt::default();
    let (flag, control) = (interrupt.clone(), control.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // The handlers are set here, so that no signal falls between the return and the thread's start.
    let (mut int, mut term) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                }
                if flag.0.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_INTERRUPTED);
                }
                control.stop(Stop::Gently);
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("a thread for signals cannot be started")?;
    Ok(interrupt)
}
