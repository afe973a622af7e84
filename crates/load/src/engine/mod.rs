//! The run on real sockets: one thread for each share of the plan, each with its own loop, connections and recorder.

pub mod ask;
mod h1;
pub mod h2;
mod h2_link;
pub mod h2_request;
mod ledger;
mod link;
mod machine;
mod prepare;
mod timer;
mod tls;
mod worker;

use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::{Arrivals, Load, Protocol};
use crate::source::Source;
use crate::summary::About;
use crate::{Control, Error, Plan, Summary, schedule};
use machine::MachineFacts;
use timer::Clock;
use worker::{Job, Worker};

/// Descriptors beside the connections: files, the terminal, each thread's epoll and timer.
const DESCRIPTORS_SPARE: u64 = 64;
const DESCRIPTORS_PER_THREAD: u64 = 4;

/// Carries the plan out and returns when it is through. Blocks; `control` tells how it goes and can end it.
pub fn run(plan: &Plan, control: &Control) -> Result<Summary, Error> {
    Ready::new(plan, control)?.run(control)
}

/// A run of which all is known but what comes of it: the plan is right, the server is there.
#[derive(Debug)]
pub struct Ready<'a> {
    plan: &'a Plan,
    prep: prepare::Prep,
}

impl<'a> Ready<'a> {
    /// # Errors
    /// Why the run cannot begin.
    pub fn new(plan: &'a Plan, control: &Control) -> Result<Self, Error> {
        plan.check()?;
        make_room(plan)?;
        Ok(Self { plan, prep: prepare::prepare(plan, control)? })
    }

    /// Begins, and blocks until the plan is through.
    ///
    /// # Errors
    /// A thread of the run failed.
    pub fn run(self, control: &Control) -> Result<Summary, Error> {
        carry_out(self.plan, &self.prep, control)
    }
}

fn carry_out(plan: &Plan, prep: &prepare::Prep, control: &Control) -> Result<Summary, Error> {
    control.clear();
    let before = MachineFacts::read();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let gate = Gate::default();
    let (tell, told) = mpsc::channel();
    let parts: Vec<Result<Summary, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|index| {
                let job = Job { plan, prep, control, index, live: control.add_thread() };
                let (gate, tell) = (&gate, tell.clone());
                std::thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, move || {
                    let worker = Worker::new(job);
                    let _ = tell.send(worker.is_ok());
                    drop(tell);
                    match (worker, gate.wait()) {
                        (Ok(worker), Some(clock)) => worker.work(clock),
                        (Ok(_), None) => Ok(Summary::default()),
                        (Err(error), _) => Err(error),
                    }
                })
            })
            .collect();
        drop(tell);
        // All begin at the same moment, or none does.
        let all = told.iter().filter(|&ok| ok).count() == threads.len();
        gate.open(all.then(Clock::start));
        threads
            .into_iter()
            .map(|thread| match thread {
                Ok(thread) => thread.join().unwrap_or(Err(Error::Thread)),
                Err(source) => Err(Error::System { what: "a thread", source }),
            })
            .collect()
    });
    let elapsed_ns = gate.wait().map_or(0, |clock| clock.now_ns());
    let mut summary: Option<Summary> = None;
    for part in parts {
        let part = part?;
        match &mut summary {
            None => summary = Some(part),
            Some(all) => all.merge(&part),
        }
    }
    let mut summary = summary.unwrap_or_default();
    let after = MachineFacts::read();
    summary.audit.steal_share = after.steal_share_since(before);
    summary.audit.pressure_share = after.pressure_share_since(before, elapsed_ns);
    summary.about = About { interrupted: summary.about.interrupted, ..about(plan, started.as_millis() as u64) };
    Ok(summary)
}

/// Where the threads wait for their common start; `None` sends them home.
#[derive(Default)]
struct Gate(Mutex<Option<Option<Clock>>>, Condvar);

impl Gate {
    fn open(&self, clock: Option<Clock>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
        self.1.notify_all();
    }

    fn wait(&self) -> Option<Clock> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *state {
                Some(clock) => return clock,
                None => state = self.1.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The most connections for which this process may have descriptors, beside what so many threads need.
pub fn connections_max(threads: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let beside = u64::from(threads) * DESCRIPTORS_PER_THREAD + DESCRIPTORS_SPARE;
    u32::try_from(limit.saturating_sub(beside)).unwrap_or(u32::MAX)
}

/// Raises the limit of descriptors as far as it may be raised, and refuses what does not fit.
fn make_room(plan: &Plan) -> Result<(), Error> {
    let needed = u64::from(plan.connections) + u64::from(plan.threads) * DESCRIPTORS_PER_THREAD + DESCRIPTORS_SPARE;
    let limit = getrlimit(Resource::Nofile);
    match raised(limit.current, limit.maximum, needed, plan.connections)? {
        None => Ok(()),
        Some(current) => setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum })
            .map_err(|e| Error::System { what: "more descriptors", source: e.into() }),
    }
}

/// The limit to set; `None` where there is room. A limit that is not there is no limit.
fn raised(current: Option<u64>, maximum: Option<u64>, needed: u64, connections: u32) -> Result<Option<u64>, Error> {
    match (current, maximum) {
        (None, _) => Ok(None),
        (Some(current), _) if current >= needed => Ok(None),
        (_, Some(limit)) if limit < needed => Err(Error::Descriptors { connections, limit }),
        _ => Ok(Some(needed)),
    }
}

fn about(plan: &Plan, started_unix_ms: u64) -> About {
    let (path, method) = match &plan.source {
        Source::Static(requests) => {
            requests.first().map_or((String::new(), String::new()), |r| (r.path.clone(), r.method.clone()))
        }
        Source::Script(_) => (String::new(), String::new()),
    };
    let origin = plan.origins.first();
    let target = origin.map_or(String::new(), |o| format!("{}://{}{path}", o.scheme(), o.authority()));
    let (open_loop, load, offered_per_second) = match &plan.load {
        Load::Open(open) => {
            // The warm-up is the schedule's first part, and said apart.
            let whole: Duration = open.segments.iter().map(|s| s.duration).sum();
            let measured = whole.saturating_sub(plan.warm_up);
            let requests = schedule::requests_until(open, whole) - schedule::requests_until(open, plan.warm_up);
            let rate = requests / measured.as_secs_f64().max(1e-9);
            let until = match open.count {
                Some(count) if (count as f64) < requests => format!("for {count} requests"),
                _ => format!("for {}", length(measured)),
            };
            let stages_at = if plan.warm_up.is_zero() { 1 } else { 2 };
            let arrivals = match open.arrivals {
                Arrivals::Constant => "constant".to_owned(),
                Arrivals::Poisson => "poisson".to_owned(),
                Arrivals::Burst(size) => format!("bursts of {size}"),
            };
            let stages = if open.segments.len() > stages_at {
                format!(" on average in {} stages", open.segments.len() + 1 - stages_at)
            } else {
                String::new()
            };
            (true, format!("open loop, {}/s{stages}, {arrivals}, {until}", number(rate)), Some(rate))
        }
        Load::Closed(closed) => {
            let until = match (closed.duration.map(|d| length(d.saturating_sub(plan.warm_up))), closed.count) {
                (Some(time), Some(n)) => format!("for {time} or {n} requests"),
                (Some(time), None) => format!("for {time}"),
                (None, Some(n)) => format!("for {n} requests"),
                (None, None) => String::new(),
            };
            (false, format!("closed loop, {} at a time, {until}", plan.connections * plan.streams_per_connection), None)
        }
    };
    About {
        target: if method.is_empty() || method == "GET" { target } else { format!("{method} {target}") },
        targets: match &plan.source {
            Source::Static(requests) => requests.len() as u32,
            Source::Script(_) => 1,
        },
        protocol: match plan.protocol {
            Protocol::Http1 => "http/1.1".into(),
            Protocol::Http2 => "h2".into(),
        },
        open_loop,
        load,
        offered_per_second,
        connections: plan.connections,
        streams_per_connection: plan.streams_per_connection,
        threads: plan.threads,
        seed: plan.seed,
        warm_up_ns: u64::try_from(plan.warm_up.as_nanos()).unwrap_or(u64::MAX),
        started_unix_ms,
        interrupted: false,
    }
}

/// Three digits, and none that say nothing: `0.5`, `2000`.
fn number(value: f64) -> String {
    let text = if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn length(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", number(time.as_secs_f64() * 1e3));
    }
    format!("{} s", number(time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Closed, Open, Segment, WhenFull};
    use crate::source::Request;

    #[test]
    fn a_plan_is_told_as_it_was_asked_for() {
        let (origin, path) = crate::target::parse("http://a/").expect("a URL");
        let told = |load, warm_up| {
            let source = Source::single(Request::get(path.as_str()));
            about(&Plan { warm_up, ..Plan::new(origin.clone(), source, load) }, 0).load
        };
        let open = |per_second, time, count| {
            let segments = vec![Segment::hold(per_second, time)];
            Load::Open(Open { segments, arrivals: Arrivals::Constant, when_full: WhenFull::Queue, count })
        };
        let (none, second) = (Duration::ZERO, Duration::from_secs(1));
        let year = second * 365 * 86_400;
        assert_eq!(told(open(50.0, year, Some(20)), none), "open loop, 50/s, constant, for 20 requests");
        assert_eq!(told(open(0.5, second * 4, Some(20)), none), "open loop, 0.5/s, constant, for 4 s");
        assert_eq!(told(open(2e3, second / 4, None), none), "open loop, 2000/s, constant, for 250 ms");
        let closed = |count| Load::Closed(Closed { duration: Some(second * 5 / 2), count, slot_per_second: None });
        assert_eq!(told(closed(Some(9)), second), "closed loop, 1 at a time, for 1.5 s or 9 requests");
    }

    #[test]
    fn the_limit_of_descriptors_is_raised_or_named() {
        assert!(matches!(raised(Some(1024), Some(4096), 500, 400), Ok(None)));
        assert!(matches!(raised(Some(1024), Some(4096), 3000, 2900), Ok(Some(3000))));
        let error = raised(Some(1024), Some(4096), 10_100, 10_000).expect_err("too many").to_string();
        assert!(error.starts_with("10000 connections") && error.contains("4096"), "{error}");
        assert!(error.contains("ulimit -n"), "{error}");
    }
}
