//! The time between "the mesh is up" and its drain: traffic flows, the view is drawn, and somebody may say stop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::stats::Stats;
use crate::term;
use crate::timer::Timer;
use crate::traffic::{self, Plan};
use crate::view::{self, Frame, Screen};

/// How often the view is drawn on a terminal, and how often a line is written elsewhere.
const REDRAW: Duration = Duration::from_millis(500);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// After the traffic stops, requests in flight get this long to end.
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(20);

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
}

/// Drives the traffic and draws the view until `run_for` is over or the process is told to end (SIGINT, SIGTERM).
/// Runs on a `LocalSet`.
pub(crate) async fn run(
    plan: Plan,
    timer: Timer,
    run_for: Option<Duration>,
    config: StatusLine,
) -> std::io::Result<Ended> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let started = Instant::now();
    let stats = Rc::new(RefCell::new(Stats::default()));
    let offered_per_second = plan.per_second;
    let over = async {
        match run_for {
            Some(run_for) => tokio::time::sleep(run_for).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = traffic::drive(plan, timer, Rc::clone(&stats)) => {}
        () = draw(started, offered_per_second, &stats, &config) => {}
        () = over => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let ran_for = started.elapsed();
    let settle_until = Instant::now() + SETTLE_MAX;
    while stats.borrow().in_flight() > 0 && Instant::now() < settle_until {
        tokio::time::sleep(SETTLE_LOOK).await;
    }
    let stats = stats.take();
    Ok(Ended { stats, ran_for })
}

async fn draw(started: Instant, offered_per_second: f64, stats: &RefCell<Stats>, config: &StatusLine) {
    let live = term::live();
    let colour = term::colour(live);
    let mut screen = Screen::default();
    let mut every = tokio::time::interval(if live { REDRAW } else { LINE_EVERY });
    every.tick().await;
    loop {
        every.tick().await;
        let stats = stats.borrow();
        let config = config.text();
        let window = stats.window(Instant::now());
        let frame =
            Frame { elapsed: started.elapsed(), offered_per_second, stats: &stats, window: &window, config: &config };
        if live {
            screen.draw(&view::block(&frame, colour));
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

    /// The services and the traffic without any sidecar between: what is left when the mesh is taken away.
    #[test]
    fn traffic_reaches_the_samples_and_ends_with_the_session() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut workloads = lab::workloads(Ports::from_base(free.min(60_000)));
        workloads.truncate(1);
        let timer = Timer::start().expect("a timer");
        let _samples = Samples::start(workloads.clone(), timer.clone()).expect("the samples listen");
        let plan = Plan { entry: workloads[0].instance.address, per_second: 200.0, seed: 1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let session = run(plan, timer, Some(Duration::from_millis(800)), StatusLine::default());
        let ended = tokio::task::LocalSet::new().block_on(&runtime, session).expect("a session");
        assert!(ended.stats.answered > 50 && ended.stats.failed == 0, "{:?}", ended.stats.failures);
        assert_eq!(ended.stats.in_flight(), 0);
        // Orders are unknown to user-service, so a quarter is 404; nothing is slower than the service time's cut.
        assert_eq!(ended.stats.served_by.get("user-service-v1-1"), Some(&ended.stats.answered));
    }
}
