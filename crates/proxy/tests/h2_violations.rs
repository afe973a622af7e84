//! Raw frames against our HTTP/2 server and client: what each breach of RFC 9113 is answered with.

use std::time::Duration;

use celerity_proxy::h2::hpack::Encoder;
use celerity_proxy::h2::{ClientSettings, Code, Error, Incoming, Kind, ServerSettings, accept, connect};
use celerity_proxy::http::{RequestHead, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, LocalSet};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const END: u8 = END_STREAM | END_HEADERS;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Reset(u32, Code),
    GoAway(Code),
    /// The PING at the end was answered: nothing was wrong.
    Fine,
    /// The connection ended without GOAWAY.
    Ended,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::default();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

fn request(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(&[&GET[..], more].concat()))
}

fn word(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

async fn read_frame(io: &mut DuplexStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut header = [0; 9];
    io.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
    io.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    Some((header[3], header[4], stream, payload))
}

fn code(payload: &[u8]) -> Code {
    Code(u32::from_be_bytes(payload.try_into().unwrap()))
}

async fn answer(io: &mut DuplexStream) -> Answer {
    while let Some((kind, flags, stream, payload)) = read_frame(io).await {
        match kind {
            RST_STREAM => return Answer::Reset(stream, code(&payload)),
            GOAWAY => return Answer::GoAway(code(&payload[4..8])),
            PING if flags == 1 && payload == *b"sentinel" => return Answer::Fine,
            _ => {}
        }
    }
    Answer::Ended
}

fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test takes too long")
    })
}

/// A server that reads every request and never answers, to which `bytes` are sent after the preface.
fn server_says(settings: ServerSettings, bytes: &[u8]) -> Answer {
    raw_server_says(settings, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, b"")[..], bytes].concat())
}

fn raw_server_says(settings: ServerSettings, bytes: &[u8]) -> Answer {
    local(async {
        let (near, mut far) = tokio::io::duplex(8 * 1024 * 1024);
        let (connection, mut incoming) = accept(near, settings);
        tokio::task::spawn_local(connection.run());
        tokio::task::spawn_local(async move {
            while let Some((_, mut stream, _)) = incoming.next().await {
                tokio::task::spawn_local(async move {
                    while let Ok(Some(_)) = stream.chunk().await {}
                    stream.reset_received().await;
                });
            }
        });
        far.write_all(bytes).await.unwrap();
        far.write_all(&frame(PING, 0, 0, b"sentinel")).await.unwrap();
        answer(&mut far).await
    })
}

fn after_request(bytes: &[u8]) -> Answer {
    server_says(ServerSettings::default(), &[&request(1, END_HEADERS, &[])[..], bytes].concat())
}

#[test]
fn breaches_by_a_client_that_end_the_connection() {
    let protocol = Code::PROTOCOL_ERROR;
    let size = Code::FRAME_SIZE_ERROR;
    let flow = Code::FLOW_CONTROL_ERROR;
    let half = [&request(1, END_HEADERS, &[])[..]].concat();
    for (what, bytes, expected) in [
        ("DATA on an idle stream", frame(DATA, 0, 3, b"x"), protocol),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 3, &word(8)), protocol),
        ("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 3, &word(8)), protocol),
        ("WINDOW_UPDATE of 0 on the connection", frame(WINDOW_UPDATE, 0, 0, &word(0)), protocol),
        ("a window above 2^31-1", frame(WINDOW_UPDATE, 0, 0, &word(0x7fff_ffff)), flow),
        ("an even stream id", request(2, END, &[]), protocol),
        ("a lower stream id", [request(5, END, &[]), request(3, END, &[])].concat(), protocol),
        (
            "a request on a stream that was reset",
            [request(3, END_HEADERS, &[]), frame(RST_STREAM, 0, 3, &word(8)), request(3, END, &[])].concat(),
            Code::STREAM_CLOSED,
        ),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), protocol),
        ("CONTINUATION alone", frame(CONTINUATION, END_HEADERS, 1, b""), protocol),
        ("a frame within a header block", [frame(HEADERS, 0, 1, b""), frame(PING, 0, 0, &[0; 8])].concat(), protocol),
        ("a stream that depends on itself", frame(HEADERS, END | 0x20, 1, &[0, 0, 0, 1, 9, 0x82]), protocol),
        ("a frame that is too long", frame(DATA, 0, 1, &vec![0; 16_385]), size),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), protocol),
        ("SETTINGS of 5 octets", frame(SETTINGS, 0, 0, b"12345"), size),
        ("ENABLE_PUSH 2", frame(SETTINGS, 0, 0, &setting(2, 2)), protocol),
        ("INITIAL_WINDOW_SIZE 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), flow),
        ("MAX_FRAME_SIZE 1", frame(SETTINGS, 0, 0, &setting(5, 1)), protocol),
        ("an index that does not exist", frame(HEADERS, END, 1, &[0xff, 0x70]), Code::COMPRESSION_ERROR),
        ("padding longer than the frame", [half, frame(DATA, 8, 1, &[9, 0])].concat(), protocol),
        (
            "HEADERS after the end",
            [request(1, END, &[]), frame(RST_STREAM, 0, 1, &word(8)), request(1, END, &[])].concat(),
            Code::STREAM_CLOSED,
        ),
    ] {
        assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::GoAway(expected), "{what}");
    }
}

#[test]
fn breaches_by_a_client_that_end_the_stream() {
    let protocol = Code::PROTOCOL_ERROR;
    for (what, bytes, expected) in [
        ("WINDOW_UPDATE of 0", frame(WINDOW_UPDATE, 0, 1, &word(0)), protocol),
        ("a window above 2^31-1", frame(WINDOW_UPDATE, 0, 1, &word(0x7fff_ffff)), Code::FLOW_CONTROL_ERROR),
        ("PRIORITY of 4 octets", frame(PRIORITY, 0, 1, &[0; 4]), Code::FRAME_SIZE_ERROR),
        ("trailers without the end", frame(HEADERS, END_HEADERS, 1, &block(&[("a", "b")])), protocol),
        ("a pseudo-header in trailers", frame(HEADERS, END, 1, &block(&[(":path", "/")])), protocol),
        ("DATA after the end", [frame(DATA, 1, 1, b""), frame(DATA, 0, 1, b"x")].concat(), Code::STREAM_CLOSED),
        ("HEADERS after the end", [frame(DATA, 1, 1, b""), request(1, END, &[])].concat(), Code::STREAM_CLOSED),
        (
            "DATA after RST_STREAM",
            [frame(RST_STREAM, 0, 1, &word(8)), frame(DATA, 0, 1, b"x")].concat(),
            Code::STREAM_CLOSED,
        ),
    ] {
        assert_eq!(after_request(&bytes), Answer::Reset(1, expected), "{what}");
    }
    for (what, more) in [
        ("an upper-case name", ("Name", "x")),
        ("connection", ("connection", "close")),
        ("te", ("te", "gzip")),
        ("host and :authority differ", ("host", "b")),
        ("a pseudo-header after a field", (":path", "/")),
        ("a control character", ("a", "b\r\nc")),
        ("a length and no body", ("content-length", "1")),
    ] {
        let more = if what.starts_with("a pseudo") { vec![("x", "y"), more] } else { vec![more] };
        let says = server_says(ServerSettings::default(), &request(1, END, &more));
        assert_eq!(says, Answer::Reset(1, protocol), "{what}");
    }
    for body in [&b"abc"[..], b"a"] {
        let bytes = [request(1, END_HEADERS, &[("content-length", "2")]), frame(DATA, 1, 1, body)].concat();
        assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::Reset(1, protocol));
    }
}

#[test]
fn what_must_be_ignored_or_accepted_is() {
    let length = [request(1, END_HEADERS, &[("content-length", "2")]), frame(DATA, 1, 1, b"ab")].concat();
    let cut = block(&GET);
    let (first, second) = cut.split_at(3);
    let continued = [
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, END_HEADERS, 1, second),
    ];
    for (what, bytes) in [
        ("an unknown frame", frame(0x77, 0xff, 1, b"anything")),
        ("an unknown setting", frame(SETTINGS, 0, 0, &setting(0x99, 1))),
        ("PRIORITY of an idle stream", frame(PRIORITY, 0, 9, &[0, 0, 0, 1, 5])),
        ("a padded frame", [request(1, END_HEADERS, &[]), frame(DATA, 9, 1, &[3, b'x', 0, 0, 0])].concat()),
        ("a body of the declared length", length),
        ("a continued block", continued.concat()),
        ("RST_STREAM twice", [request(1, END, &[]), frame(RST_STREAM, 0, 1, &word(8)).repeat(2)].concat()),
        ("a window that shrinks", frame(SETTINGS, 0, 0, &setting(4, 0))),
    ] {
        assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::Fine, "{what}");
    }
}

/// The layout of each kind of frame, kind by kind (RFC 9113, section 6), and the order of frames (sections 4.3 and 5.1).
#[test]
fn frames_in_the_wrong_place_or_of_the_wrong_length_end_the_connection() {
    let (protocol, size) = (Code::PROTOCOL_ERROR, Code::FRAME_SIZE_ERROR);
    let open = request(1, END_HEADERS, &[]);
    let began = frame(HEADERS, END_STREAM, 1, &block(&GET));
    for (what, bytes, expected) in [
        ("HEADERS that are too long", frame(HEADERS, END, 1, &vec![0; 16_385]), size),
        ("PRIORITY within a block", [&began[..], &frame(PRIORITY, 0, 1, &[0; 5])].concat(), protocol),
        ("HEADERS of another stream within a block", [&began[..], &request(3, END, &[])].concat(), protocol),
        ("CONTINUATION of another stream", [&began[..], &frame(CONTINUATION, END_HEADERS, 3, b"")].concat(), protocol),
        ("an unknown frame within a block", [&began[..], &frame(0x77, 0, 1, b"")].concat(), protocol),
        ("CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 7, b""), protocol),
        ("CONTINUATION after END_HEADERS", [&open[..], &frame(CONTINUATION, END_HEADERS, 1, b"")].concat(), protocol),
        ("CONTINUATION on stream 0", [&began[..], &frame(CONTINUATION, END_HEADERS, 0, b"")].concat(), protocol),
        (
            "CONTINUATION after DATA",
            [&open[..], &frame(DATA, 0, 1, b"x"), &frame(CONTINUATION, END_HEADERS, 1, b"")].concat(),
            protocol,
        ),
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), protocol),
        ("HEADERS on stream 0", frame(HEADERS, END, 0, &block(&GET)), protocol),
        ("HEADERS with too much padding", frame(HEADERS, END | 8, 1, &[200, 0x82]), protocol),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), protocol),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &word(8)), protocol),
        ("RST_STREAM of 3 octets", [&open[..], &frame(RST_STREAM, 0, 1, &[0; 3])].concat(), size),
        ("SETTINGS ACK with a payload", frame(SETTINGS, 1, 0, &setting(3, 1)), size),
        ("ENABLE_PUSH 2^31", frame(SETTINGS, 0, 0, &setting(2, 1 << 31)), protocol),
        ("MAX_FRAME_SIZE 2^24", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), protocol),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), protocol),
        ("PING of 6 octets", frame(PING, 0, 0, &[0; 6]), size),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), protocol),
        ("GOAWAY of 4 octets", frame(GOAWAY, 0, 0, &[0; 4]), size),
        ("WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), size),
        (
            "windows that a setting overflows",
            [
                &open[..],
                &frame(WINDOW_UPDATE, 0, 1, &word(0x7000_0000)),
                &frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ]
            .concat(),
            Code::FLOW_CONTROL_ERROR,
        ),
    ] {
        assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::GoAway(expected), "{what}");
    }
}

/// Header blocks that cannot be decoded (RFC 7541): both sides' tables differ from then on.
#[test]
fn header_blocks_that_cannot_be_decoded_end_the_connection() {
    let huffman = |bytes: &[u8]| [&[0x40, 1, b'a', 0x80 | bytes.len() as u8][..], bytes].concat();
    let get = block(&GET);
    for (what, more) in [
        ("index 0", vec![0x80]),
        ("an index above the tables", vec![0xff, 0x00]),
        ("a name index above the tables", vec![0x7f, 0x00, 1, b'x']),
        ("an integer without end", [&[0xff][..], &[0x80; 12]].concat()),
        ("an integer above 2^32", vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a string beyond the block", vec![0x40, 10, b'a']),
        ("a value that is missing", vec![0x40, 1, b'a']),
        ("a table size update after a field", vec![0x20]),
        ("Huffman padding above 7 bits", huffman(&[0x1f, 0xff])),
        ("Huffman padding of zeros", huffman(&[0x18])),
        ("Huffman EOS", huffman(&[0xff, 0xff, 0xff, 0xff])),
    ] {
        let bytes = frame(HEADERS, END, 1, &[&get[..], &more].concat());
        assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::GoAway(Code::COMPRESSION_ERROR), "{what}");
    }
    // Above what our SETTINGS allow.
    let bytes = frame(HEADERS, END, 1, &[&[0x3f, 0xff, 0xff, 0x7f][..], &get].concat());
    assert_eq!(server_says(ServerSettings::default(), &bytes), Answer::GoAway(Code::COMPRESSION_ERROR));
    // A trailer section and a block for a stream that is refused change the tables too.
    let trailers = [request(1, END_HEADERS, &[]), frame(HEADERS, END, 1, &[0x80])].concat();
    assert_eq!(server_says(ServerSettings::default(), &trailers), Answer::GoAway(Code::COMPRESSION_ERROR));
}

/// Pseudo-header fields that are missing, doubled, misplaced or unknown (RFC 9113, section 8.3).
#[test]
fn malformed_requests_are_reset() {
    let without = |name: &str| GET.iter().copied().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let with = |field: (&'static str, &'static str)| [&GET[..], &[field]].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        (":method twice", with((":method", "GET"))),
        (":scheme twice", with((":scheme", "http"))),
        (":path twice", with((":path", "/"))),
        (":authority twice", with((":authority", "a"))),
        (":status in a request", with((":status", "200"))),
        ("an unknown pseudo-header", with((":test", "ok"))),
        (":protocol without a CONNECT", with((":protocol", "websocket"))),
        ("an empty :path", [without(":path"), vec![(":path", "")]].concat()),
        ("a :path that is no path", [without(":path"), vec![(":path", "a/b")]].concat()),
        ("a :path with a space", [without(":path"), vec![(":path", "/a b")]].concat()),
        ("a :method that is no token", [without(":method"), vec![(":method", "G T")]].concat()),
        ("an :authority with a path", [without(":authority"), vec![(":authority", "a/b")]].concat()),
        ("an :authority with user information", [without(":authority"), vec![(":authority", "u@a")]].concat()),
        ("an empty name", with(("", "x"))),
        ("a name with a space", with(("a b", "x"))),
        ("a value with a line feed", with(("a", "b\nc"))),
        ("a value with a NUL", with(("a", "b\0c"))),
        ("a value that begins with a space", with(("a", " b"))),
        ("keep-alive", with(("keep-alive", "1"))),
        ("proxy-connection", with(("proxy-connection", "close"))),
        ("transfer-encoding", with(("transfer-encoding", "chunked"))),
        ("upgrade", with(("upgrade", "h2c"))),
        ("two lengths", [&GET[..], &[("content-length", "0"), ("content-length", "1")]].concat()),
        ("a length that is no number", with(("content-length", "0x1"))),
        ("a signed length", with(("content-length", "+0"))),
    ];
    for (what, fields) in cases {
        let says = server_says(ServerSettings::default(), &frame(HEADERS, END, 1, &block(&fields)));
        assert_eq!(says, Answer::Reset(1, Code::PROTOCOL_ERROR), "{what}");
    }
}

/// A server that does not wait long for what its peer owes; what it takes; and that peer's end.
fn impatient() -> (JoinHandle<Result<(), Error>>, Incoming, DuplexStream) {
    let mut settings = ServerSettings::default();
    settings.common.owed_within = Duration::from_millis(200);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (connection, incoming) = accept(near, settings);
    (tokio::task::spawn_local(connection.run()), incoming, far)
}

#[test]
fn a_header_block_that_does_not_end_is_not_waited_for() {
    local(async {
        let (run, _incoming, mut far) = impatient();
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&[frame(SETTINGS, 0, 0, b""), frame(HEADERS, 0, 1, &[0x82])].concat()).await.unwrap();
        assert_eq!(answer(&mut far).await, Answer::GoAway(Code::ENHANCE_YOUR_CALM));
        drop(far);
        assert_eq!(run.await.unwrap().unwrap_err().code(), Some(Code::ENHANCE_YOUR_CALM));
    });
}

/// A peer that owes its SETTINGS, or the answer to the PING of a shutdown, does not hold a connection for ever.
#[test]
fn a_peer_that_says_nothing_is_not_waited_for() {
    local(async {
        let (run, _incoming, mut far) = impatient();
        assert_eq!(answer(&mut far).await, Answer::GoAway(Code::SETTINGS_TIMEOUT));
        drop(far);
        assert_eq!(run.await.unwrap().unwrap_err().code(), Some(Code::SETTINGS_TIMEOUT));

        let (run, mut incoming, mut far) = impatient();
        let control = incoming.control();
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&[frame(SETTINGS, 0, 0, b""), request(1, END, &[])].concat()).await.unwrap();
        let (_, stream, _) = incoming.next().await.unwrap();
        control.shutdown();
        assert_eq!(answer(&mut far).await, Answer::GoAway(Code::NO_ERROR));
        // The second one, with the last stream that was taken; the stream itself still ends well.
        assert_eq!(answer(&mut far).await, Answer::GoAway(Code::NO_ERROR));
        stream.send_head(&ResponseHead::new(200), true).unwrap();
        drop(stream);
        assert!(incoming.next().await.is_none());
        run.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_that_is_not_http_2_is_refused() {
    let settings = ServerSettings::default();
    assert_eq!(raw_server_says(settings, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Answer::GoAway(Code::PROTOCOL_ERROR));
    let no_settings = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &request(1, END, &[])[..]].concat();
    assert_eq!(raw_server_says(settings, &no_settings), Answer::GoAway(Code::PROTOCOL_ERROR));
}

#[test]
fn data_beyond_the_windows_is_refused() {
    let mut settings = ServerSettings::default();
    settings.common.stream_window = 1000;
    let bytes = [request(1, END_HEADERS, &[]), frame(DATA, 0, 1, &[0; 1001])].concat();
    assert_eq!(server_says(settings, &bytes), Answer::Reset(1, Code::FLOW_CONTROL_ERROR));
    settings.common.stream_window = 1 << 20;
    settings.common.connection_window = 0;
    let mut bytes = request(1, END_HEADERS, &[]);
    (0..5).for_each(|_| bytes.extend(frame(DATA, 0, 1, &[0; 16_384])));
    assert_eq!(server_says(settings, &bytes), Answer::GoAway(Code::FLOW_CONTROL_ERROR));
}

#[test]
fn streams_above_the_limit_are_refused() {
    let settings = ServerSettings { max_concurrent_streams: 2, ..ServerSettings::default() };
    let bytes: Vec<u8> = [1, 3, 5].into_iter().flat_map(|id| request(id, END, &[])).collect();
    assert_eq!(server_says(settings, &bytes), Answer::Reset(5, Code::REFUSED_STREAM));
}

#[test]
fn floods_end_the_connection() {
    let calm = Answer::GoAway(Code::ENHANCE_YOUR_CALM);
    let continuations = [frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, b"").repeat(40)].concat();
    let block = [frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, &vec![0; 16_384]).repeat(9)].concat();
    let resets: Vec<u8> = (0..2000u32)
        .flat_map(|nth| [request(2 * nth + 1, END, &[]), frame(RST_STREAM, 0, 2 * nth + 1, &word(8))].concat())
        .collect();
    let malformed: Vec<u8> = (0..2000u32).flat_map(|nth| request(2 * nth + 1, END, &[("te", "gzip")])).collect();
    for (what, bytes) in [
        ("empty CONTINUATION", continuations),
        ("a block without end", block),
        ("rapid reset", resets),
        ("PING", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
        ("SETTINGS", frame(SETTINGS, 0, 0, b"").repeat(20_000)),
        ("empty DATA", [request(1, END_HEADERS, &[]), frame(DATA, 0, 1, b"").repeat(20_000)].concat()),
        ("unknown frames", frame(0x77, 0, 0, b"").repeat(20_000)),
        ("PRIORITY", frame(PRIORITY, 0, 9, &[0, 0, 0, 1, 5]).repeat(20_000)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &word(1)).repeat(2000)),
        (
            "WINDOW_UPDATE of a stream",
            [request(1, END_HEADERS, &[]), frame(WINDOW_UPDATE, 0, 1, &word(1)).repeat(2000)].concat(),
        ),
    ] {
        assert_eq!(server_says(ServerSettings::default(), &bytes), calm, "{what}");
    }
    // Only the stream ends: a proxy shares its connection with other clients.
    let tiny = [request(1, END_HEADERS, &[]), frame(DATA, 0, 1, b"x").repeat(60_000)].concat();
    assert_eq!(
        server_says(ServerSettings::default(), &tiny),
        Answer::Reset(1, Code::ENHANCE_YOUR_CALM),
        "DATA of one octet"
    );
    let some = [request(1, END_HEADERS, &[]), frame(DATA, 0, 1, b"x").repeat(5000)].concat();
    assert_eq!(server_says(ServerSettings::default(), &some), Answer::Fine, "a client that types fast");
    // Malformed requests are each reset until there are too many.
    local(async {
        let (near, mut far) = tokio::io::duplex(8 * 1024 * 1024);
        let (connection, _incoming) = accept(near, ServerSettings::default());
        let run = tokio::task::spawn_local(connection.run());
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        far.write_all(&malformed).await.unwrap();
        let mut far = far;
        while let Answer::Reset(_, code) = answer(&mut far).await {
            assert_eq!(code, Code::PROTOCOL_ERROR);
        }
        drop(far);
        assert_eq!(run.await.unwrap().unwrap_err().code(), Some(Code::ENHANCE_YOUR_CALM));
    });
}

/// A client with one GET in progress receives `bytes`: what it answers, and how the request ends.
fn client_says(bytes: &[u8]) -> (Answer, Kind) {
    local(async {
        let (near, mut far) = tokio::io::duplex(8 * 1024 * 1024);
        let (connection, client) = connect(near, ClientSettings::default());
        tokio::task::spawn_local(connection.run());
        let mut head = RequestHead::default();
        head.authority.extend_from_slice(b"a");
        head.path.extend_from_slice(b"/");
        let mut stream = client.start(&head, true).unwrap();
        far.read_exact(&mut [0; 24]).await.unwrap();
        far.write_all(bytes).await.unwrap();
        far.write_all(&frame(PING, 0, 0, b"sentinel")).await.unwrap();
        let answer = answer(&mut far).await;
        let kind = loop {
            match stream.head().await {
                Ok(head) if head.is_interim() => {}
                Ok(_) => {
                    while let Ok(Some(_)) = stream.chunk().await {}
                    break stream.chunk().await.err().map_or(Kind::Closed, |error| error.kind());
                }
                Err(error) => break error.kind(),
            }
        };
        (answer, kind)
    })
}

#[test]
fn breaches_by_a_server() {
    let settings = frame(SETTINGS, 0, 0, b"");
    let response = |fields: &[(&str, &str)], flags| frame(HEADERS, flags, 1, &block(fields));
    for (what, bytes) in [
        ("DATA before the head", frame(DATA, 1, 1, b"x")),
        ("no status", response(&[("a", "b")], END)),
        ("a request's pseudo-header", response(&[(":status", "200"), (":path", "/")], END)),
        ("status 101", response(&[(":status", "101")], END_HEADERS)),
        ("status 20", response(&[(":status", "20")], END)),
        ("an interim response at the end", response(&[(":status", "100")], END)),
        ("a connection field", response(&[(":status", "200"), ("connection", "close")], END)),
        (
            "a body that is too short",
            [response(&[(":status", "200"), ("content-length", "3")], END_HEADERS), frame(DATA, 1, 1, b"ab")].concat(),
        ),
        ("a body of 204", [response(&[(":status", "204")], END_HEADERS), frame(DATA, 1, 1, b"ab")].concat()),
    ] {
        let (says, kind) = client_says(&[&settings[..], &bytes].concat());
        assert_eq!(says, Answer::Reset(1, Code::PROTOCOL_ERROR), "{what}");
        assert!(matches!(kind, Kind::LocalReset(Code::PROTOCOL_ERROR, _)), "{what}: {kind:?}");
    }
    for (what, bytes) in [
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("HEADERS on an even stream", frame(HEADERS, END, 2, &block(&[(":status", "200")]))),
        ("HEADERS on an idle stream", frame(HEADERS, END, 3, &block(&[(":status", "200")]))),
        ("ENABLE_PUSH 1", frame(SETTINGS, 0, 0, &setting(2, 1))),
    ] {
        let (says, kind) = client_says(&[&settings[..], &bytes].concat());
        assert_eq!(says, Answer::GoAway(Code::PROTOCOL_ERROR), "{what}");
        assert!(matches!(kind, Kind::Violation(Code::PROTOCOL_ERROR, _)), "{what}: {kind:?}");
    }
    let many = response(&[(":status", "103")], END_HEADERS).repeat(100);
    let (says, _) = client_says(&[&settings[..], &many].concat());
    assert_eq!(says, Answer::Reset(1, Code::ENHANCE_YOUR_CALM));
}

#[test]
fn a_response_that_a_head_request_gets_has_a_length_and_no_body() {
    local(async {
        let (near, far) = tokio::io::duplex(50_000);
        let (connection, client) = connect(near, ClientSettings::default());
        tokio::task::spawn_local(connection.run());
        let (connection, mut incoming) = accept(far, ServerSettings::default());
        tokio::task::spawn_local(connection.run());
        let mut head = RequestHead { method: celerity_proxy::http::Method::Head, ..RequestHead::default() };
        head.authority.extend_from_slice(b"a");
        let mut stream = client.start(&head, true).unwrap();
        let (_, served, _) = incoming.next().await.unwrap();
        let mut response = ResponseHead::new(200);
        response.headers.push(b"content-length", b"1000");
        served.send_head(&response, true).unwrap();
        assert_eq!(stream.head().await.unwrap().status, 200);
        assert_eq!(stream.chunk().await.unwrap(), None);
    });
}
