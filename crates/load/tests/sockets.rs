//! The engine against scripted servers on loopback: what they do wrong is counted by name, and no run hangs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use celerity_load::control::Stop;
use celerity_load::plan::{Arrivals, Closed, Load, Open, Plan, Proxy, Segment, Tls, WhenFull};
use celerity_load::source::{Request, Source};
use celerity_load::summary::ErrorKind;
use celerity_load::{Control, Error, Summary, run, target};

/// Serves each connection on a thread of its own; the number tells them apart. The threads end with their connections.
fn server(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream, number));
        }
    });
    address
}

/// Reads up to the end of a request's head; false at the connection's end.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

/// Answers every request with these bytes.
fn answering(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream, _| {
        while head(&mut stream).is_some() {
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    })
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn closed(address: SocketAddr, count: u64) -> Plan {
    let (origin, path) = target::parse(&format!("http://{address}/")).expect("a URL");
    let load = Load::Closed(Closed { duration: None, count: Some(count), slot_per_second: None });
    let mut plan = Plan::new(origin, Source::single(Request::get(path)), load);
    plan.connections = 2;
    plan.timeout = Duration::from_millis(300);
    plan
}

fn open(address: SocketAddr, per_second: f64, seconds: f64) -> Plan {
    let mut plan = closed(address, 1);
    plan.load = Load::Open(Open {
        segments: vec![Segment::hold(per_second, Duration::from_secs_f64(seconds))],
        arrivals: Arrivals::Poisson,
        when_full: WhenFull::Queue,
        count: None,
    });
    plan.connections = 50;
    plan
}

fn ran(plan: &Plan) -> Summary {
    let began = Instant::now();
    let summary = run(plan, &Control::new()).expect("a run");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(summary.intended, summary.total(), "{summary:?}");
    summary
}

fn errors(summary: &Summary, kind: ErrorKind) -> u64 {
    summary.errors.get(&kind).copied().unwrap_or(0)
}

#[test]
fn a_good_server_is_counted_to_the_byte() {
    let s = ran(&closed(answering(OK), 100));
    assert_eq!((s.succeeded, s.failed(), s.statuses[&200]), (100, 0, 100));
    assert_eq!((s.body_bytes_received, s.bytes_received), (200, 100 * OK.len() as u64));
    assert_eq!((s.response.count(), s.service.count(), s.audit.connections_opened), (100, 100, 2));
}

#[test]
fn an_open_loop_sends_what_its_schedule_says() {
    let s = ran(&open(answering(OK), 500.0, 0.6));
    assert!((200..=420).contains(&s.succeeded) && s.failed() == 0, "{s:?}");
    assert_eq!(s.lag.count(), s.succeeded);
    assert_eq!(s.duration_ns, 600_000_000);
}

/// One at a time, ten milliseconds each: at most 100 a second, however long the queue that it works off after the end.
#[test]
fn what_is_answered_after_the_end_is_not_in_the_rate() {
    let one = Arc::new(std::sync::Mutex::new(()));
    let address = server(move |mut stream, _| {
        while head(&mut stream).is_some() {
            let _turn = one.lock();
            std::thread::sleep(Duration::from_millis(10));
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    });
    let mut plan = open(address, 150.0, 1.2);
    (plan.timeout, plan.warm_up) = (Duration::from_secs(5), Duration::from_millis(200));
    let s = ran(&plan);
    assert!(s.late.answers > 20 && s.failed() == s.errors.values().sum::<u64>(), "{s:?}");
    assert!((50.0..=101.0).contains(&s.answered_per_second()), "{}", s.answered_per_second());
    assert_eq!(s.answered_per_second(), s.succeeded_per_second());
}

#[test]
fn chunked_no_content_head_and_continue_are_whole_answers() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ] {
        let s = ran(&closed(answering(answer), 10));
        assert_eq!((s.succeeded, s.audit.connections_opened), (10, 2), "{}", String::from_utf8_lossy(answer));
    }
    let mut plan = closed(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"), 10);
    plan.source = Source::single(Request { method: "HEAD".into(), ..Request::get("/") });
    assert_eq!(ran(&plan).succeeded, 10);
}

#[test]
fn an_answer_that_ends_with_the_connection_is_one() {
    let address = server(|mut stream, _| {
        if head(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
        }
    });
    let s = ran(&closed(address, 6));
    assert_eq!((s.succeeded, s.body_bytes_received, s.audit.connections_opened), (6, 6 * 13, 6));
}

#[test]
fn garbage_half_answers_and_early_closes_have_names() {
    let s = ran(&closed(answering(b"220 smtp.example ESMTP\r\n\r\n"), 4));
    assert_eq!((s.succeeded, errors(&s, ErrorKind::Protocol)), (0, 4));
    let half = server(|mut stream, _| {
        if head(&mut stream).is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
        }
    });
    let s = ran(&closed(half, 4));
    assert_eq!(errors(&s, ErrorKind::Closed), 4);
    assert!(s.error_examples[&ErrorKind::Closed].contains("middle"));
    let early = server(|mut stream, _| {
        head(&mut stream);
    });
    let s = ran(&closed(early, 4));
    assert_eq!(errors(&s, ErrorKind::Closed) + errors(&s, ErrorKind::Reset), 4);
}

#[test]
fn bytes_after_an_answer_cost_the_connection_and_are_no_answer() {
    let s = ran(&closed(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"), 10));
    assert_eq!(s.succeeded, 10);
    assert!(s.audit.connections_opened >= 5, "{}", s.audit.connections_opened);
}

#[test]
fn a_server_that_never_answers_is_a_timeout_and_no_hang() {
    let silent = server(|mut stream, _| while head(&mut stream).is_some() {});
    let s = ran(&closed(silent, 4));
    assert_eq!((s.succeeded, errors(&s, ErrorKind::Timeout)), (0, 4));
    assert!(s.unanswered.min_ns() >= 290_000_000);
    // Nobody accepts: the kernel connects, and there is no answer.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let s = ran(&closed(listener.local_addr().expect("an address"), 2));
    assert_eq!(errors(&s, ErrorKind::Timeout), 2);
}

#[test]
fn a_stall_is_seen_by_the_open_loop_and_missed_by_the_closed_one() {
    let stalling = || {
        let served = AtomicUsize::new(0);
        let gate = std::sync::Mutex::new(());
        server(move |mut stream, _| {
            while head(&mut stream).is_some() {
                // One at a time, as a service with one worker has it; the hundredth takes long.
                let turn = gate.lock().expect("a lock");
                if served.fetch_add(1, Relaxed) == 100 {
                    std::thread::sleep(Duration::from_millis(600));
                }
                drop(turn);
                let _ = stream.write_all(OK);
            }
        })
    };
    let mut plan = open(stalling(), 300.0, 1.5);
    plan.timeout = Duration::from_secs(5);
    let open = ran(&plan);
    let mut plan = closed(stalling(), 450);
    plan.connections = 1;
    plan.timeout = Duration::from_secs(5);
    let closed = ran(&plan);
    // 600 ms of 1,500: two in five requests fall into it, and the closed loop sends one of them.
    assert!(open.response.quantile_ns(0.9) > 100_000_000, "{:?}", open.response);
    assert!(closed.response.quantile_ns(0.99) < 100_000_000, "{:?}", closed.response);
}

#[test]
fn a_full_open_loop_drops_or_queues_as_told_and_says_what_was_not_sent() {
    let slow = || {
        server(|mut stream, _| {
            while head(&mut stream).is_some() {
                std::thread::sleep(Duration::from_millis(50));
                let _ = stream.write_all(OK);
            }
        })
    };
    // One connection carries 20 in a second, and 200 are offered.
    let mut plan = open(slow(), 200.0, 0.5);
    plan.connections = 1;
    let queued = ran(&plan);
    assert!(errors(&queued, ErrorKind::Unsent) > 20 && queued.achieved_share() < 0.8, "{queued:?}");
    assert!(queued.response.max_ns() > 500_000_000);
    let Load::Open(open) = &mut plan.load else { return };
    open.when_full = WhenFull::Drop;
    plan.origins[0].port = slow().port();
    let dropped = ran(&plan);
    assert!(errors(&dropped, ErrorKind::Dropped) > 50, "{dropped:?}");
    // What was sent was sent at its time: nobody waited for a connection.
    assert!(dropped.response.quantile_ns(0.5) < 150_000_000);
}

#[test]
fn without_keep_alive_each_request_has_a_connection_and_says_so() {
    let address = server(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            assert!(head.contains("connection: close\r\n"), "{head}");
            let _ = stream.write_all(OK);
        }
    });
    let mut plan = closed(address, 10);
    plan.keep_alive = false;
    let s = ran(&plan);
    assert_eq!((s.succeeded, s.audit.connections_opened, s.connect.count()), (10, 10, 10));
}

#[test]
fn a_forward_proxy_gets_the_absolute_form() {
    let proxy = server(|mut stream, _| {
        while let Some(head) = head(&mut stream) {
            let good = head.starts_with("GET http://user-service/api HTTP/1.1\r\nhost: user-service\r\n");
            let _ = stream.write_all(if good { OK } else { b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n" });
        }
    });
    let mut plan = closed(proxy, 4);
    let (origin, path) = target::parse("http://user-service/api").expect("a URL");
    plan.origins = vec![origin];
    plan.source = Source::single(Request::get(path));
    plan.proxy = Some(Proxy { host: "127.0.0.1".into(), port: proxy.port(), addresses: Vec::new() });
    assert_eq!(ran(&plan).statuses.get(&200), Some(&4));
}

#[test]
fn a_proxy_that_refuses_the_tunnel_and_a_server_without_tls_are_named() {
    let refusing = answering(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let mut plan = closed(refusing, 2);
    plan.origins = vec![target::parse("https://user-service/").expect("a URL").0];
    plan.tls = Some(Tls { insecure: true, ..Tls::default() });
    plan.proxy = Some(Proxy { host: "127.0.0.1".into(), port: refusing.port(), addresses: Vec::new() });
    let s = ran(&plan);
    assert_eq!(errors(&s, ErrorKind::Proxy), 2);
    assert!(s.error_examples[&ErrorKind::Proxy].contains("403"));
    let mut plan = closed(answering(OK), 2);
    plan.origins[0].tls = true;
    plan.tls = Some(Tls { insecure: true, ..Tls::default() });
    plan.connect_timeout = Duration::from_millis(300);
    let s = ran(&plan);
    assert_eq!(errors(&s, ErrorKind::Tls) + errors(&s, ErrorKind::ConnectTimeout), 2, "{:?}", s.errors);
}

#[test]
fn a_refused_connection_is_one_sentence() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let error = run(&closed(address, 1), &Control::new()).expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().contains("refuses"), "{error}");
}

#[test]
fn a_stop_keeps_what_was_measured() {
    let mut plan = open(answering(OK), 200.0, 60.0);
    plan.threads = 2;
    let control = Control::new();
    let watched = control.clone();
    let stopper = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(10);
        while watched.progress().succeeded < 20 && Instant::now() < until {
            std::thread::yield_now();
        }
        watched.stop(Stop::Gently);
    });
    let began = Instant::now();
    let s = run(&plan, &control).expect("a run");
    stopper.join().expect("a thread");
    assert!(s.about.interrupted && s.succeeded >= 20 && began.elapsed() < Duration::from_secs(15));
    assert!(s.duration_ns < 15_000_000_000);
}
