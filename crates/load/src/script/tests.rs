use super::*;

fn target() -> Target {
    Target {
        tls: false,
        host: "user-service".into(),
        port: Some(8080),
        path: "/api/users?x=1".into(),
        headers: vec![("X-From".into(), "line".into())],
        addresses: vec!["127.0.0.1:9".parse().expect("an address")],
        before_path: None,
    }
}

fn load(source: &str, threads: u32) -> Result<Program, String> {
    let text = Text {
        name: "t.lua".into(),
        source: source.into(),
        args: vec!["http://user-service:8080/".into(), "seven".into()],
        aside: false,
    };
    Program::load_within(text, &target(), threads, Limits { memory_bytes: 16 << 20, instructions: 5_000_000 })
}

fn message(script: &mut dyn Script) -> (String, u16) {
    let mut out = Vec::new();
    let count = script.next(&mut out).expect("a message");
    (String::from_utf8(out).expect("text"), count)
}

#[test]
fn the_table_alone_makes_the_request() {
    let program =
        load("wrk.method = 'POST'\nwrk.body = '{\"id\":1}'\nwrk.headers['Content-Type'] = 'application/json'", 1);
    let mut script = program.expect("a script").thread(0).expect("a thread");
    let (text, count) = message(&mut *script);
    assert_eq!(count, 1);
    assert!(text.starts_with("POST /api/users?x=1 HTTP/1.1\r\n"), "{text}");
    for line in ["Host: user-service:8080", "X-From: line", "Content-Type: application/json", "Content-Length: 8"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in {text}");
    }
    assert!(text.ends_with("\r\n\r\n{\"id\":1}"), "{text}");
    assert_eq!(message(&mut *script).0, text);
    assert!(!script.wants_responses() && !script.wants_delays());
}

#[test]
fn request_is_called_for_each_request_and_may_pipeline() {
    let source = "
        local n = 0
        function init(args) prefix = args[1] end
        function request()
          n = n + 1
          local one = wrk.format('GET', '/' .. prefix .. n, { ['X-N'] = n, host = 'other' })
          if n % 2 == 0 then return one .. wrk.format(nil, '/second') end
          return one
        end";
    let mut script = load(source, 1).expect("a script").thread(0).expect("a thread");
    let (first, count) = message(&mut *script);
    assert!(first.starts_with("GET /seven1 HTTP/1.1\r\n") && first.contains("X-N: 1\r\n"), "{first}");
    assert!(first.contains("host: other\r\n") && !first.contains("Host:"), "{first}");
    assert_eq!(count, 1);
    let (second, count) = message(&mut *script);
    assert!(
        second.contains("GET /seven2 ")
            && second.contains("GET /second ")
            && second.contains("Host: user-service:8080")
    );
    assert_eq!(count, 2);
}

#[test]
fn a_proxy_gets_the_absolute_form_of_each_request() {
    let source =
        "function request() return wrk.format('GET', '/a') .. 'OPTIONS * HTTP/1.1\\r\\n\\r\\n' .. wrk.format() end";
    let text = Text { name: "t.lua".into(), source: source.into(), args: Vec::new(), aside: true };
    let (origin, path) = crate::target::parse("http://user-service/api").expect("a URL");
    let target = Target::proxied("http://user-service/api", &origin, path, Vec::new());
    let mut script = Program::load(text, &target, 1).expect("a script").thread(0).expect("a thread");
    let (text, count) = message(&mut *script);
    let lines: Vec<&str> = text.lines().filter(|line| line.ends_with("HTTP/1.1")).collect();
    let absolute = "GET http://user-service/a HTTP/1.1";
    assert_eq!((count, lines), (3, vec![absolute, "OPTIONS * HTTP/1.1", "GET http://user-service/api HTTP/1.1"]));
}

#[test]
fn setup_gives_threads_values_and_addresses_and_done_reads_them_back() {
    let source = "
        local threads = {}
        function setup(thread)
          thread:set('id', #threads + 1)
          thread:set('deep', { a = { b = true }, 1.5 })
          thread.addr = wrk.lookup('127.0.0.1', 80 + #threads)[1]
          threads[#threads + 1] = thread
        end
        function init() seen = 0 end
        function response(status, headers, body)
          seen = seen + 1
          last = status .. headers['X-Token'] .. body .. tostring(deep.a.b) .. deep[1] .. tostring(wrk.thread.addr)
          if seen == 2 then wrk.thread:stop() end
        end
        function done(summary, latency, requests)
          assert(threads[1]:get('seen') == 2 and threads[2]:get('seen') == 0)
          assert(threads[2]:get('id') == 2)
          assert(threads[1]:get('last') == '200abcbodytrue1.5127.0.0.1:80', threads[1]:get('last'))
          assert(summary.duration == 2000000 and summary.requests == 10 and summary.bytes == 77)
          assert(summary.errors.timeout == 3 and summary.errors.status == 1 and summary.errors.connect == 0)
          assert(latency.min >= 999 and latency.max <= 10100 and latency.mean > 5000, latency.mean)
          assert(latency.stdev > 1000 and latency:percentile(50) > 4900 and latency:percentile(50) < 5100)
          local total = 0
          for i = 1, #latency do local value, count = latency(i); total = total + count end
          assert(total == 10)
          assert(requests.max >= requests.min)
        end";
    let program = load(source, 2).expect("a script");
    assert_eq!(program.address(0), "127.0.0.1:80".parse().ok());
    assert_eq!(program.address(1), "127.0.0.1:81".parse().ok());
    let (mut one, two) = (program.thread(0).expect("a thread"), program.thread(1).expect("a thread"));
    assert!(one.wants_responses());
    assert_eq!((one.response(200, &[("X-Token", b"abc")], b"body"), one.is_stopped()), (Ok(()), false));
    assert_eq!((one.response(200, &[("X-Token", b"abc")], b"body"), one.is_stopped()), (Ok(()), true));
    assert!(!two.is_stopped());
    drop((one, two));
    let mut run = Summary {
        duration_ns: 2_000_000_000,
        succeeded: 9,
        failed_answers: 1,
        bytes_received: 77,
        ..Summary::default()
    };
    run.statuses.extend([(200, 9), (500, 1)]);
    run.errors.insert(crate::summary::ErrorKind::Timeout, 3);
    (1..=10).for_each(|n| run.response.record(n * 1_000_000));
    assert_eq!(program.done(&run), Ok(()));
}

#[test]
fn delays_are_milliseconds() {
    let mut script = load("function delay() return 1.5 end", 1).expect("a script").thread(0).expect("a thread");
    assert!(script.wants_delays());
    assert_eq!(script.delay(), Ok(Duration::from_micros(1500)));
    let mut script = load("function delay() return -1 end", 1).expect("a script").thread(0).expect("a thread");
    assert!(script.delay().is_err());
}

#[test]
fn connect_tells_whether_an_address_answers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let source = format!(
        "local a = wrk.lookup('127.0.0.1', '{port}')
         assert(#a == 1 and wrk.connect(a[1]) == true and ('%s'):format(a[1]) == '127.0.0.1:{port}')"
    );
    load(&source, 0).expect("a script");
}

#[test]
fn format_takes_what_has_a_name() {
    let source = "
        local named = setmetatable({}, { __tostring = function() return 'me' end })
        local text = ('%s %s %s %s|%5.1f|%d'):format(named, nil, true, 'x', 1.25, 7, nil)
        assert(text == 'me nil true x|  1.2|7', text)";
    load(source, 0).expect("a script");
}

#[test]
fn what_is_wrong_is_one_sentence_with_the_line() {
    for (source, why) in [
        ("wrk.method = \nwrk.body =", "t.lua:2"),
        ("\nlocal x = nil + 1", "t.lua:2"),
        ("\nlocal x = ('%d'):format({})", "t.lua:2: bad argument #2 to 'format'"),
        ("function setup(thread)\n thread:set('f', print)\nend", "function cannot go to another thread"),
        ("function setup(thread)\n\n error('no')\nend", "t.lua:3: no"),
        ("function setup(thread) thread:stop() end", "while the thread runs"),
        ("request = 5", "`request` is a "),
        ("while true do end", "endless loop"),
        ("local s = 'x'\nwhile true do s = s .. s end", "memory"),
        ("require 'ffi'", "ffi"),
        ("debug.getinfo(1)", "debug"),
        ("wrk.lookup('127.0.0.1', 'gopher')", "service"),
    ] {
        let error = load(source, 1).err().unwrap_or_else(|| panic!("{source} was taken"));
        assert!(error.contains(why) && error.starts_with("t.lua") && error.lines().count() == 1, "{source}: {error}");
    }
}

#[test]
fn a_hook_that_fails_mid_run_says_where() {
    for (source, why) in [
        ("function request()\n return nil .. 'x'\nend", "t.lua:2"),
        ("function request() return 5 end", "must return a string"),
        ("function request() return 'hello\\r\\n\\r\\n' end", "not an HTTP/1.1 request"),
        ("function request() while true do end end", "endless loop"),
        ("function request() return wrk.format('POST', '/', {}, 'abc'):sub(1, -2) end", "ends within a request's body"),
    ] {
        let mut script = load(source, 1).expect("a script").thread(0).expect("a thread");
        let error = script.next(&mut Vec::new()).expect_err(source);
        assert!(error.contains(why) && error.starts_with("t.lua") && error.lines().count() == 1, "{source}: {error}");
    }
    let mut script = load("function response() error({}) end", 1).expect("a script").thread(0).expect("a thread");
    assert!(script.response(200, &[], b"").is_err());
    let error = load("function init()\n local t = nil\n t.x = 1\nend", 1).expect("a script").thread(0).err();
    assert!(error.is_some_and(|e| e.starts_with("t.lua:3")));
    let error = load("function done() error('late') end", 1).expect("a script").done(&Summary::default());
    assert!(error.is_err_and(|e| e.contains("late")));
}
