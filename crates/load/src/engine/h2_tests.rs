use celerity_wire::settings::MAX_CONCURRENT_STREAMS;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::source::Request;

fn prepared(request: &Request) -> Prepared {
    let (origin, _) = crate::target::parse("http://user-service/").expect("a URL");
    Prepared::new(request, &origin).expect("a request")
}

/// Requests: the stream, and all fields as text.
type Heads = Vec<(u32, String)>;
/// DATA frames: stream, octets, whether it ends the stream.
type Data = Vec<(u32, usize, bool)>;

/// The server's side of a connection, written by hand.
struct Server {
    encoder: Encoder,
    decoder: Decoder,
    out: Vec<u8>,
}

impl Server {
    fn new(settings: &[(u16, u32)]) -> Self {
        let mut out = Vec::new();
        frame::put_settings(&mut out, settings);
        Self { encoder: Encoder::default(), decoder: Decoder::new(4096), out }
    }

    fn head(&mut self, id: u32, fields: &[(&str, &str)], ends: bool) {
        let from = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEADER_LEN]);
        self.encoder.begin(&mut self.out);
        for (name, value) in fields {
            self.encoder.field(name.as_bytes(), value.as_bytes(), &mut self.out);
        }
        frame::finish_headers(&mut self.out, from, id, ends, 16_384);
    }

    fn data(&mut self, id: u32, body: &[u8], ends: bool) {
        frame::put_data(&mut self.out, id, body, ends);
    }

    /// Hands what was written to the client.
    fn flush(&mut self, client: &mut Connection, log: &mut Log) -> Result<usize, Violation> {
        let out = std::mem::take(&mut self.out);
        client.receive(&out, log)
    }

    /// What the client wrote: ids of requests with their fields, and the octets of body of each stream.
    fn read(&mut self, client: &mut Connection) -> (Heads, Data) {
        let bytes = client.output().to_vec();
        client.written(bytes.len());
        let mut rest = bytes.strip_prefix(frame::PREFACE).unwrap_or(&bytes);
        let (mut heads, mut data) = (Vec::new(), Vec::new());
        while let Ok(Some((frame, len))) = frame::decode(rest, 16_384) {
            match frame {
                Frame::Headers { stream, block, end_headers: true, .. } => {
                    let mut text = String::new();
                    let field = |n: &[u8], v: &[u8]| {
                        text += &format!("{}={};", String::from_utf8_lossy(n), String::from_utf8_lossy(v));
                    };
                    self.decoder.decode(block, field).expect("a block");
                    heads.push((stream, text));
                }
                Frame::Data { stream, end_stream, data: body, .. } => data.push((stream, body.len(), end_stream)),
                _ => {}
            }
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        (heads, data)
    }
}

fn open(streams: u32, settings: &[(u16, u32)]) -> (Connection, Server, Log) {
    let (mut client, mut server, mut log) = (Connection::new(streams), Server::new(settings), Log::default());
    assert_eq!(client.capacity(), 0, "nothing is known of the server yet");
    server.flush(&mut client, &mut log).expect("settings");
    server.read(&mut client);
    (client, server, log)
}

#[test]
fn requests_become_streams_and_answers_come_in_any_order() {
    let (mut client, mut server, mut log) = open(10, &[(MAX_CONCURRENT_STREAMS, 3)]);
    let get = prepared(&Request::get("/a"));
    assert_eq!(client.capacity(), 3);
    for token in 10..13 {
        assert!(client.start(&get, 0, token).is_some());
    }
    assert_eq!(client.start(&get, 0, 13), None);
    let (heads, _) = server.read(&mut client);
    let ids: Vec<u32> = heads.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 3, 5]);
    server.head(5, &[(":status", "204")], true);
    server.head(1, &[(":status", "100")], false);
    server.head(1, &[(":status", "200"), ("content-length", "5")], false);
    server.data(1, b"hel", false);
    server.data(1, b"lo", true);
    server.flush(&mut client, &mut log).expect("answers");
    assert_eq!(
        log.0[0],
        (12, Ok(Reply { status: 204, grpc_status: None, bytes: log.0[0].1.unwrap().bytes, body_bytes: 0 }))
    );
    let reply = log.0[1].1.expect("an answer");
    assert_eq!((log.0[1].0, reply.status, reply.body_bytes), (10, 200, 5));
    assert!(reply.bytes > 5 + 3 * 9);
    assert_eq!((client.live(), client.capacity()), (1, 2));
}

#[test]
fn a_repeated_head_is_sent_as_the_octets_it_was_and_still_reads_the_same() {
    let (mut client, mut server, mut log) = open(1, &[]);
    let a = prepared(&Request { headers: vec![("x-user".into(), "one".into())], ..Request::get("/a") });
    let b = prepared(&Request { headers: vec![("authorization".into(), "secret".into())], ..Request::get("/b") });
    let mut sizes = Vec::new();
    for round in 0..8 {
        for (index, request) in [&a, &b].into_iter().enumerate() {
            sizes.push(client.start(request, index, round).expect("a stream"));
            let (heads, _) = server.read(&mut client);
            let expected: String = request
                .fields()
                .map(|(n, v)| format!("{}={};", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
                .collect();
            assert_eq!(heads[0].1, expected);
            server.head(heads[0].0, &[(":status", "200")], true);
            server.flush(&mut client, &mut log).expect("an answer");
        }
    }
    assert!(sizes[14] < sizes[0] && client.kept.iter().flatten().count() == 2, "{sizes:?}");
}

#[test]
fn bodies_keep_within_both_windows() {
    let (mut client, mut server, mut log) = open(2, &[(INITIAL_WINDOW_SIZE, 20_000)]);
    let post = prepared(&Request { method: "POST".into(), body: Arc::from(vec![1; 50_000]), ..Request::get("/") });
    client.start(&post, 0, 1);
    client.start(&post, 0, 2);
    let sent = |data: &[(u32, usize, bool)], id| data.iter().filter(|d| d.0 == id).map(|d| d.1).sum::<usize>();
    let (_, data) = server.read(&mut client);
    assert_eq!((sent(&data, 1), sent(&data, 3)), (20_000, 20_000));
    frame::put_window_update(&mut server.out, 1, 100_000);
    server.flush(&mut client, &mut log).expect("a window");
    let (_, data) = server.read(&mut client);
    assert_eq!(sent(&data, 1), 65_535 - 40_000, "the connection's window");
    frame::put_window_update(&mut server.out, 0, 100_000);
    // The server answers the second without its whole body: it is reset with NO_ERROR and the answer counts.
    server.head(3, &[(":status", "413")], true);
    server.flush(&mut client, &mut log).expect("a window");
    let (_, data) = server.read(&mut client);
    assert_eq!(data.last(), Some(&(1, 50_000 - 20_000 - 25_535, true)));
    assert_eq!(log.0.len(), 1);
    assert_eq!(log.0[0].1.map(|r| r.status), Ok(413));
}

#[test]
fn large_answers_are_counted_as_they_come_and_the_window_is_given_back() {
    let (mut client, mut server, mut log) = open(1, &[]);
    client.start(&prepared(&Request::get("/")), 0, 1);
    server.read(&mut client);
    server.head(1, &[(":status", "200")], false);
    for _ in 0..600 {
        server.data(1, &[0; 16_384], false);
    }
    server.data(1, b"", true);
    let bytes = std::mem::take(&mut server.out);
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + 1000).min(bytes.len());
        let taken = client.receive(&bytes[start..end], &mut log).expect("data");
        assert!(end - start - taken <= 9, "DATA is taken in part");
        start += taken;
    }
    assert_eq!(log.0[0].1.map(|r| r.body_bytes), Ok(600 * 16_384));
}

#[test]
fn grpc_statuses_are_read_from_trailers_and_from_a_lone_head() {
    let (mut client, mut server, mut log) = open(2, &[]);
    let get = prepared(&Request::get("/"));
    client.start(&get, 0, 1);
    client.start(&get, 0, 2);
    server.head(1, &[(":status", "200"), ("grpc-status", "9")], false);
    server.data(1, &[0; 5], false);
    server.head(1, &[("grpc-status", "0")], true);
    server.head(3, &[(":status", "200"), ("grpc-status", "14")], true);
    server.flush(&mut client, &mut log).expect("answers");
    let statuses: Vec<_> = log.0.iter().map(|(_, r)| r.expect("an answer").grpc_status).collect();
    assert_eq!(statuses, [Some(0), Some(14)]);
}

#[test]
fn what_is_wrong_ends_the_stream_or_the_connection() {
    let try_one = |write: &dyn Fn(&mut Server)| {
        let (mut client, mut server, mut log) = open(2, &[]);
        client.start(&prepared(&Request::get("/")), 0, 1);
        client.start(&prepared(&Request::get("/")), 0, 2);
        write(&mut server);
        let result = server.flush(&mut client, &mut log).map(drop);
        (result, log.0, client.is_closing())
    };
    let stream = |write: &dyn Fn(&mut Server)| {
        let (result, log, _) = try_one(write);
        assert_eq!(result, Ok(()));
        assert_eq!(log.len(), 1);
        log[0].1.expect_err("a failure")
    };
    let malformed = |write: &dyn Fn(&mut Server)| assert!(matches!(stream(write), Failure::Malformed(_)));
    malformed(&|s| s.data(1, b"x", true));
    malformed(&|s| s.head(1, &[(":status", "20")], true));
    malformed(&|s| s.head(1, &[("a", "b")], true));
    malformed(&|s| s.head(1, &[(":status", "200"), ("content-length", "3")], true));
    malformed(&|s| s.head(1, &[(":status", "200"), ("content-length", "x")], true));
    malformed(&|s| s.head(1, &[(":status", "100")], true));
    malformed(&|s| frame::put_window_update(&mut s.out, 1, 0));
    assert_eq!(stream(&|s| frame::put_reset(&mut s.out, 1, Code::CANCEL)), Failure::Reset(Code::CANCEL));
    assert_eq!(stream(&|s| frame::put_reset(&mut s.out, 1, Code::REFUSED_STREAM)), Failure::Unprocessed);
    assert_eq!(stream(&|s| frame::put_goaway(&mut s.out, 1, Code::NO_ERROR)), Failure::Unprocessed);
    for broken in [
        (|s: &mut Server| s.data(7, b"x", true)) as fn(&mut Server),
        |s| s.head(2, &[(":status", "200")], true),
        |s| frame::put_header(&mut s.out, frame::PUSH_PROMISE, 0, 1, 0),
        |s| frame::put_header(&mut s.out, frame::PING, 0, 0, 0),
        |s| frame::put_header(&mut s.out, frame::DATA, 0, 1, 16_385),
        |s| frame::put_window_update(&mut s.out, 0, 0x7fff_ffff),
        |s| frame::put_header(&mut s.out, frame::CONTINUATION, 0, 1, 0),
        |s| (0..18).for_each(|n| frame::put_header(&mut s.out, if n == 0 { 1 } else { 9 }, 0, 1, 0)),
    ] {
        let (result, _, closing) = try_one(&broken);
        assert!(matches!(result, Err(Violation::Connection(..))) && closing);
    }
    let mut client = Connection::new(1);
    let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    assert!(client.receive(answer, &mut Log::default()).is_err(), "a server that speaks HTTP/1.1");
}

#[test]
fn pings_and_settings_are_answered_and_a_flood_of_them_is_not() {
    let (mut client, mut server, mut log) = open(1, &[]);
    frame::put_ping(&mut server.out, *b"12345678", false);
    server.flush(&mut client, &mut log).expect("a ping");
    let mut expected = Vec::new();
    frame::put_ping(&mut expected, *b"12345678", true);
    assert_eq!(client.output(), expected);
    let mut flood = Vec::new();
    (0..1000).for_each(|_| frame::put_ping(&mut flood, [0; 8], false));
    let ends = (0..1000).any(|_| client.receive(&flood, &mut log).is_err());
    assert!(ends, "its answers would fill the memory");
}

#[test]
fn a_cancelled_request_is_reset_and_its_late_answer_is_ignored() {
    let (mut client, mut server, mut log) = open(1, &[]);
    let get = prepared(&Request::get("/"));
    client.start(&get, 0, 1);
    client.cancel(1);
    client.start(&get, 0, 2);
    server.head(1, &[(":status", "200"), ("x", "y")], false);
    server.data(1, b"late", true);
    server.head(3, &[(":status", "200"), ("x", "y")], true);
    server.flush(&mut client, &mut log).expect("answers");
    assert_eq!(log.0.len(), 1);
    assert_eq!(log.0[0].0, 2);
}

proptest! {
    #[test]
    fn any_frames_are_survived_whichever_way_they_are_cut(
        frames in vec((0u8..11, any::<u8>(), 0u32..10, vec(any::<u8>(), 0..40)), 0..40)
    ) {
        let mut input = Vec::new();
        for (kind, flags, stream, payload) in frames {
            frame::put_header(&mut input, kind, flags, stream, payload.len());
            input.extend_from_slice(&payload);
        }
        fuzz(&input);
    }

    #[test]
    fn any_octets_are_survived(input in vec(any::<u8>(), 0..200)) {
        fuzz(&input);
    }
}
