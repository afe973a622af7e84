//! The time between "the mesh is up" and its drain: traffic flows, the view is drawn, and somebody may say stop.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use celerity_load::Control;
use celerity_load::control::Stop;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::interrupt::Wish;
use crate::stats::Stats;
use crate::term::{self, Caught};
use crate::traffic::{self, Plan, Shared};
use crate::view::{self, Frame, Screen};

/// How often the view is drawn on a terminal, and how often a line is written elsewhere.
const REDRAW: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// One line about the configuration that another thread may change.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusLine(Arc<Mutex<String>>);

impl StatusLine {
    pub(crate) fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the session leaves for the report.
pub(crate) struct Ended {
    pub(crate) stats: Stats,
    pub(crate) ran_for: Duration,
    /// Who ended it; `None`: its time was over.
    pub(crate) by: Option<Wish>,
}

/// Drives the traffic and draws the view until `run_for` is over or somebody wishes it to end.
pub(crate) async fn run(
    plan: Plan,
    run_for: Option<Duration>,
    config: StatusLine,
    mut wishes: UnboundedReceiver<Wish>,
) -> anyhow::Result<Ended> {
    let started = Instant::now();
    let stats = Shared::default();
    let offered_per_second = plan.per_second;
    let control = Control::new();
    let mut engine = start(&plan, &stats, &control);
    let over = async {
        match run_for {
            Some(run_for) => tokio::time::sleep(run_for).await,
            None => std::future::pending().await,
        }
    };
    let by = tokio::select! {
        // The engine ends by itself only when it could not begin.
        done = &mut engine => { done??; None }
        () = draw(started, offered_per_second, &stats, &config) => None,
        () = over => None,
        Some(wish) = wishes.recv() => Some(wish),
    };
    let ran_for = started.elapsed();
    control.stop(Stop::Gently);
    if !engine.is_finished() {
        engine.await??;
    }
    let stats = std::mem::take(&mut *stats.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Ended { stats, ran_for, by })
}

/// The engine on a thread of its own, for it blocks. A rate of 0 sends nothing and waits for the stop.
fn start(plan: &Plan, stats: &Shared, control: &Control) -> tokio::task::JoinHandle<Result<(), celerity_load::Error>> {
    if plan.per_second <= 0.0 {
        let control = control.clone();
        return tokio::spawn(async move {
            while control.stopping() == Stop::No {
                tokio::time::sleep(REDRAW).await;
            }
            Ok(())
        });
    }
    let (plan, control) = (traffic::engine_plan(plan, stats), control.clone());
    tokio::task::spawn_blocking(move || celerity_load::run(&plan, &control).map(drop))
}

async fn draw(started: Instant, offered_per_second: f64, stats: &Shared, config: &StatusLine) {
    let live = term::live();
    let colour = term::colour(live);
    // What others write to standard error would tear the block; where it cannot be caught, it does.
    let both = live && std::io::stderr().is_terminal();
    let mut caught = both.then(Caught::start).and_then(Result::ok);
    let mut screen = Screen::default();
    let mut every = tokio::time::interval(if live { REDRAW } else { LINE_EVERY });
    every.tick().await;
    loop {
        every.tick().await;
        let config = config.text();
        let stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
        let window = stats.window(Instant::now());
        let frame =
            Frame { elapsed: started.elapsed(), offered_per_second, stats: &stats, window: &window, config: &config };
        if live {
            let notes = caught.as_mut().map(Caught::take).unwrap_or_default();
            screen.draw(&notes, &view::block(&frame, colour), term::columns());
        } else {
            term::line(view::plain_line(&frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::lab::{self, Ports};
    use crate::sample::threads::Samples;
    use crate::timer::Timer;

    /// The services and the traffic without any sidecar between: what is left when the mesh is taken away.
    #[test]
    fn traffic_reaches_the_samples_and_ends_with_the_session() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut workloads = lab::workloads(Ports::from_base(free.min(60_000)));
        workloads.truncate(1);
        let timer = Timer::start().expect("a timer");
        let _samples = Samples::start(workloads.clone(), timer).expect("the samples listen");
        let plan = Plan { entry: workloads[0].instance.address, per_second: 200.0, seed: 1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_, wishes) = tokio::sync::mpsc::unbounded_channel();
        let session = run(plan, Some(Duration::from_millis(800)), StatusLine::default(), wishes);
        let ended = tokio::task::LocalSet::new().block_on(&runtime, session).expect("a session");
        assert!(ended.stats.answered > 50 && ended.stats.failed == 0, "{:?}", ended.stats.failures);
        assert_eq!(ended.stats.in_flight(), 0);
        // Orders are unknown to user-service, so a quarter is 404; nothing is slower than the service time's cut.
        assert_eq!(ended.stats.served_by.get("user-service-v1-1"), Some(&ended.stats.answered));
    }
}
