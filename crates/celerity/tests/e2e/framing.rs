//! Ambiguous framing on the wire: refused with 400 and a closed connection, and an upstream never sees it.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use celerity_testkit::raw::{End, exchange, exchange_bytewise};
use celerity_testkit::{Upstream, client};

use crate::support::{Sidecar, service};

/// A connection that stays open this long after an answer was not closed.
const QUIET: Duration = Duration::from_secs(5);

/// Request that would be smuggled if the one before it were framed otherwise than we think.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: user-service\r\n\r\n";

/// Heads that leave open where the message ends, or who reads it how. RFC 9112, sections 2.2, 3.2, 5 and 6.
const AMBIGUOUS_HEADS: &[(&str, &str)] = &[
    (
        "both lengths",
        "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "both lengths, the other way round",
        "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths that differ",
        "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ),
    (
        "two lengths that agree",
        "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: +5\r\n\r\nhello"),
    ("a negative length", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: -5\r\n\r\nhello"),
    ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("an empty length", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length:\r\n\r\nhello"),
    ("a length with a space in it", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 5 0\r\n\r\nhello"),
    (
        "a length over 64 bits",
        "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
    ),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (
        "chunked in two fields",
        "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunked in quotes", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("identity", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: user-service\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "POST / HTTP/1.1\r\nHost: user-service\r\nContent-Length : 5\r\n\r\nhello"),
    (
        "a tab before the colon",
        "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a folded line", "GET / HTTP/1.1\r\nHost: user-service\r\nX-A: one\r\n two\r\n\r\n"),
    ("a folded coding", "POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a first header that is folded", "GET / HTTP/1.1\r\n X-A: one\r\nHost: user-service\r\n\r\n"),
    ("a bare LF after the request line", "GET / HTTP/1.1\nHost: user-service\r\n\r\n"),
    ("a bare LF after a header", "GET / HTTP/1.1\r\nHost: user-service\nX-A: one\r\n\r\n"),
    ("a bare LF at the end", "GET / HTTP/1.1\r\nHost: user-service\r\n\n"),
    ("LF only", "GET / HTTP/1.1\nHost: user-service\n\n"),
    ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: user-service\r\nX-A: one\rX-B: two\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: user-service\r\nX-A: a\0b\r\n\r\n"),
    ("a NUL in a name", "GET / HTTP/1.1\r\nHost: user-service\r\nX\0A: b\r\n\r\n"),
    ("a space in a name", "GET / HTTP/1.1\r\nHost: user-service\r\nX A: b\r\n\r\n"),
    ("a line without a colon", "GET / HTTP/1.1\r\nHost: user-service\r\nnonsense\r\n\r\n"),
    ("an empty name", "GET / HTTP/1.1\r\nHost: user-service\r\n: b\r\n\r\n"),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: user-service\r\n\r\n"),
    ("a space in the target", "GET /a b HTTP/1.1\r\nHost: user-service\r\n\r\n"),
    ("a tab in the request line", "GET\t/ HTTP/1.1\r\nHost: user-service\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: user-service\r\nHost: other\r\n\r\n"),
    ("a Host with a path", "GET / HTTP/1.1\r\nHost: user-service/x\r\n\r\n"),
    ("user information in the target", "GET http://a@user-service/ HTTP/1.1\r\nHost: user-service\r\n\r\n"),
];

/// Bodies whose chunks are malformed. The head is sound and may have gone upstream by then; the request must not.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("not a number", "g\r\nhello\r\n0\r\n\r\n"),
    ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a space after", "5 \r\nhello\r\n0\r\n\r\n"),
    ("a space before", " 5\r\nhello\r\n0\r\n\r\n"),
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("over 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("over 63 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
    ("a bare LF after the data", "5\r\nhello\n0\r\n\r\n"),
    ("more data than the size", "5\r\nhello!\r\n0\r\n\r\n"),
    ("a bare LF in the trailers", "5\r\nhello\r\n0\r\nX-A: b\n\r\n"),
    ("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
];

#[test]
fn ambiguous_heads_get_400_and_a_close_and_reach_nobody() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    assert_eq!(client::get(sidecar.outbound, "user-service", "/").status, 200, "the way is open");
    let served = upstream.requests();
    for (what, bytes) in AMBIGUOUS_HEADS {
        let bytes = format!("{bytes}{SMUGGLED}");
        for (how, answer) in [
            ("whole", exchange(sidecar.outbound, bytes.as_bytes(), QUIET)),
            ("byte by byte", exchange_bytewise(sidecar.outbound, bytes.as_bytes(), QUIET)),
        ] {
            let (answer, end) = answer.expect("an exchange");
            let answer = String::from_utf8_lossy(&answer);
            // Sent byte by byte, the rest of the bytes may meet a closed connection, whose reset can overtake the answer.
            let overtaken = how == "byte by byte" && answer.is_empty();
            assert!(overtaken || answer.starts_with("HTTP/1.1 400 "), "{what}, {how}: {answer:?}");
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                usize::from(!overtaken),
                "{what}, {how}: one answer: {answer:?}"
            );
            assert_eq!(end, End::Closed, "{what}, {how}");
        }
        assert_eq!(upstream.requests(), served, "{what}: it reached the upstream");
    }
    assert_eq!(client::get(sidecar.outbound, "user-service", "/").status, 200, "and it still serves");
}

#[test]
fn bad_chunks_close_the_connection_and_no_request_is_completed() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    for (what, body) in BAD_CHUNKS {
        let bytes =
            format!("POST / HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}");
        let (answer, end) = exchange(sidecar.outbound, bytes.as_bytes(), QUIET).expect("an exchange");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer: {answer:?}");
        assert_eq!(end, End::Closed, "{what}");
        assert_eq!(upstream.completed(), 0, "{what}: a request was completed upstream");
    }
}

#[test]
fn a_client_that_has_said_all_is_answered_for_a_while() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    let say_all = |paths: &[&str]| {
        let mut stream = TcpStream::connect(sidecar.outbound).expect("a connection");
        for path in paths {
            write!(stream, "GET {path} HTTP/1.1\r\nHost: user-service\r\n\r\n").expect("it is sent");
        }
        stream.shutdown(Shutdown::Write).expect("a half-closed connection");
        let mut heard = Vec::new();
        // A reset ends it as well.
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).matches("HTTP/1.1 200 ").count()
    };
    assert_eq!(say_all(&["/a", "/delay/200", "/b"]), 3);
    // Who is gone has closed its side as well: nobody works for it for long.
    let begun = Instant::now();
    assert_eq!(say_all(&["/delay/20000"]), 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_request_that_is_only_unusual_passes() {
    let upstream = Upstream::start("one");
    let sidecar = Sidecar::start(&service("user-service", &[(&upstream, "version: v1")]));
    for (what, bytes) in [
        ("an empty line first", "\r\nGET /a HTTP/1.1\r\nHost: user-service\r\nConnection: close\r\n\r\n"),
        ("no space after the colon", "GET /a HTTP/1.1\r\nHost:user-service\r\nConnection:close\r\n\r\n"),
        (
            "chunk extensions",
            "POST /a HTTP/1.1\r\nHost: user-service\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "upper case",
            "POST /a HTTP/1.1\r\nHOST: user-service\r\nTRANSFER-ENCODING: CHUNKED\r\nCONNECTION: CLOSE\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        ("the absolute form", "GET http://user-service/a HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"),
        ("HTTP/1.0", "GET /a HTTP/1.0\r\nHost: user-service\r\n\r\n"),
        ("another method", "BREW /a HTTP/1.1\r\nHost: user-service\r\nConnection: close\r\n\r\n"),
    ] {
        let (answer, end) = exchange(sidecar.outbound, bytes.as_bytes(), QUIET).expect("an exchange");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"/a\""), "{what}: {answer:?}");
        assert_eq!(end, End::Closed, "{what}");
    }
}
