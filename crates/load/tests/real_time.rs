//! The validation of `src/validation.rs` once more, in real time and on sockets: what is told of a server whose mathematics
//! are known. It takes half a minute and a machine that has little else to do, so it is run by hand:
//! `cargo test --release -p celerity-load --test real_time -- --ignored --test-threads 1`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use celerity_load::plan::{Arrivals, Load, Open, Plan, Segment, WhenFull};
use celerity_load::source::{Request, Source};
use celerity_load::{Control, Summary, run, target};
use celerity_telemetry::Rng;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Beside the service times: two context switches, a wake-up, loopback.
const MACHINE_MS: f64 = 0.35;

/// One request at a time in the order in which they come, each as long as `service` says. Their ends are kept on the clock,
/// so that a late wake-up makes one request late and not all that follow.
fn queueing(mut service: impl FnMut() -> Duration + Send + 'static, stall: Option<(Duration, Duration)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (ask, asked) = channel::<(Instant, Sender<()>)>();
    std::thread::spawn(move || {
        let mut first = None;
        let mut free_at = Instant::now();
        while let Ok((came, answer)) = asked.recv() {
            let first = *first.get_or_insert(came);
            let mut begins = came.max(free_at);
            if let Some((from, to)) = stall
                && (from..to).contains(&(begins - first))
            {
                begins = first + to;
            }
            free_at = begins + service();
            // The last stretch is waited for awake: a sleep is late by 50 µs and more.
            while let Some(left) = free_at.checked_duration_since(Instant::now()) {
                if left > Duration::from_micros(200) {
                    std::thread::sleep(left - Duration::from_micros(150));
                }
            }
            let _ = answer.send(());
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let ask = ask.clone();
            std::thread::spawn(move || connection(stream, &ask));
        }
    });
    address
}

fn connection(mut stream: TcpStream, ask: &Sender<(Instant, Sender<()>)>) {
    let _ = stream.set_nodelay(true);
    let (answer, answered) = channel();
    let mut buffer = [0; 1024];
    // A request of the engine comes in one piece.
    while stream.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {
        if ask.send((Instant::now(), answer.clone())).is_err()
            || answered.recv().is_err()
            || stream.write_all(OK).is_err()
        {
            return;
        }
    }
}

fn measured(address: SocketAddr, per_second: f64, seconds: u64, arrivals: Arrivals) -> Summary {
    let (origin, path) = target::parse(&format!("http://{address}/")).expect("a URL");
    let segments = vec![Segment::hold(per_second, Duration::from_secs(seconds))];
    let load = Load::Open(Open { segments, arrivals, when_full: WhenFull::Queue, count: None });
    let mut plan = Plan::new(origin, Source::single(Request::get(path)), load);
    plan.connections = 400;
    let summary = run(&plan, &Control::new()).expect("a run");
    assert_eq!(summary.failed(), 0, "{:?}", summary.errors);
    summary
}

/// Holds what is told against what is known, in milliseconds: to a share, and beside it the machine's own time.
fn assert_near(what: &str, told_ms: f64, known_ms: f64, share: f64) {
    let (low, high) = (known_ms * (1.0 - share), known_ms * (1.0 + share) + MACHINE_MS);
    assert!((low..=high).contains(&told_ms), "{what}: told {told_ms}, known {known_ms}");
}

fn ms(summary: &Summary, q: f64) -> f64 {
    summary.response.quantile_ns(q) as f64 / 1e6
}

fn unit(rng: &mut Rng) -> f64 {
    ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// M/D/1 at half use, 5 ms each: the mean of Pollaczek and Khinchine; and who finds nobody waits for nobody.
#[test]
#[ignore = "real time, on a machine that has little else to do"]
fn real_time_constant_service_is_md1() {
    let s = measured(queueing(|| Duration::from_millis(5), None), 100.0, 10, Arrivals::Poisson);
    assert_near("mean", s.response.mean_ns() / 1e6, 5.0 * (1.0 + 0.5 / (2.0 * 0.5)), 0.15);
    assert_near("p40", ms(&s, 0.40), 5.0, 0.05);
}

/// M/M/1 at half use, mean 5 ms: response times are exponential with mean 10 ms.
#[test]
#[ignore = "real time, on a machine that has little else to do"]
fn real_time_exponential_service_is_mm1() {
    let mut rng = Rng::seeded(5);
    let service = move || Duration::from_secs_f64(-unit(&mut rng).ln() * 5e-3);
    let s = measured(queueing(service, None), 100.0, 10, Arrivals::Poisson);
    // A thousand requests of a queue that remembers: the quantiles are as wide as that.
    for q in [0.5, 0.9] {
        assert_near(&format!("p{}", q * 100.0), ms(&s, q), -(1.0_f64 - q).ln() * 10.0, 0.25);
    }
}

/// Nine in ten take 2 ms and one 20 ms, so rarely that hardly any waits: the quantiles are the two.
#[test]
#[ignore = "real time, on a machine that has little else to do"]
fn real_time_bimodal_service_has_two_modes() {
    let mut number = 0_u32;
    let service = move || {
        number += 1;
        Duration::from_millis(if number.is_multiple_of(10) { 20 } else { 2 })
    };
    let s = measured(queueing(service, None), 25.0, 8, Arrivals::Constant);
    assert_near("p50", ms(&s, 0.5), 2.0, 0.05);
    assert_near("p95", ms(&s, 0.95), 20.0, 0.05);
}

/// A second in which nothing is served, in eight: of 800 requests 100 wait for its end, one every hundredth of it.
#[test]
#[ignore = "real time, on a machine that has little else to do"]
fn real_time_a_stall_of_one_second_is_seen_in_full() {
    let stall = Some((Duration::from_secs(3), Duration::from_secs(4)));
    let s = measured(queueing(|| Duration::from_micros(100), stall), 100.0, 8, Arrivals::Constant);
    assert_near("p50", ms(&s, 0.5), 0.1, 0.5);
    for (q, known_ms) in [(0.90, 200.0), (0.95, 600.0), (0.99, 920.0)] {
        assert_near(&format!("p{}", q * 100.0), ms(&s, q), known_ms, 0.1);
    }
    assert_near("max", ms(&s, 1.0), 1000.0, 0.03);
}
