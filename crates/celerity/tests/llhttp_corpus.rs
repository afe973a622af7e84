//! llhttp's texts of requests and responses against our reader of HTTP/1.1: what its strict mode refuses we refuse, what
//! it accepts we accept, but for a list with reasons. Lenient cases must only not be taken for more than they are.
#![allow(clippy::print_stderr, reason = "a test says what it counted")]

use std::path::Path;

use celerity_proxy::h1::body::{BodyLength, BodyReader, Step};
use celerity_proxy::h1::parse;
use celerity_proxy::http::{Headers, RequestHead, ResponseHead};

/// One text of the corpus.
struct Case {
    /// `file.md: heading / heading`.
    name: String,
    kind: String,
    bytes: Vec<u8>,
    log: String,
}

/// Cases in which we differ from llhttp's strict mode on purpose: part of the name, and why.
const STRICTER: &[(&str, &str)] = &[
    ("M-SEARCH request", "`*` is a target of OPTIONS only (RFC 9112, section 3.2.4)"),
    ("SOURCE request with ICE", "not HTTP"),
    ("OPTIONS request with RTSP", "not HTTP"),
    ("ANNOUNCE request with RTSP", "not HTTP"),
    ("RTSP response", "not HTTP"),
    ("ICE response", "not HTTP"),
    ("HTTP version 0.9", "no heads in HTTP/0.9"),
    ("No HTTP version", "HTTP/0.9"),
    ("POST with `chunked` as last transfer-encoding", "no coding but chunked: what a peer does with it differs"),
    ("`chunked` before other transfer-encoding", "the end of the body would be a guess"),
    ("multiple transfer-encoding where chunked is not the last one", "the end of the body would be a guess"),
    ("`chunkedchunked` transfer-encoding", "an unknown coding: the end of the body would be a guess"),
    ("Fragment in URI", "a fragment is never sent (RFC 9110, section 7.1)"),
    ("`host:port` and basic auth", "user information is not sent (RFC 9110, section 4.2.4)"),
];
const LAXER: &[(&str, &str)] = &[
    ("HTTP protocol and ANNOUNCE method", "a method is any token (RFC 9110, section 9.1)"),
    ("Invalid method", "a method is any token (RFC 9110, section 9.1)"),
    ("No extension after semicolon", "chunk extensions are dropped, not read; the size stands before them"),
    ("Unbalanced chunk extensions quoting", "chunk extensions are dropped, not read; the size stands before them"),
];

#[derive(Debug, PartialEq)]
enum Outcome {
    /// Whole messages, and whether the last one wanted more bytes.
    Accepted {
        messages: usize,
        unfinished: bool,
    },
    Refused(String),
}

#[test]
fn requests_and_responses_are_judged_as_llhttp_does_when_strict() {
    let Some(folder) = celerity_testkit::shared("corpora/http1/llhttp/test") else { return };
    let mut wrong = Vec::new();
    let (mut refused, mut accepted, mut lenient, mut handed_over) = (0, 0, 0, 0);
    for direction in ["request", "response"] {
        for case in cases(&folder.join(direction)) {
            let mut outcome = judge(direction, &case.bytes);
            if case.kind.contains("lenient") {
                lenient += 1;
                continue;
            }
            if case.log.contains("reason=\"Pause on") {
                handed_over += 1;
                continue;
            }
            // llhttp can be told to pause after a callback; that refuses nothing.
            let expected_error = case.log.lines().any(|line| {
                line.contains("error code=") && !line.contains("reason=\"on_")
                    // We read nothing after it, so there is nothing to refuse.
                    && !line.contains("reason=\"Data after `Connection: close`\"")
            });
            if expected_error && matches!(outcome, Outcome::Accepted { unfinished: true, .. }) {
                // llhttp refuses at the offending byte; we may wait for the end of the head. It must be refused then.
                outcome = judge(direction, &[&case.bytes[..], b"\r\n\r\n"].concat());
            }
            let excused = |list: &[(&str, &str)]| list.iter().any(|(part, _)| case.name.contains(part));
            match (expected_error, &outcome) {
                (true, Outcome::Refused(_)) => refused += 1,
                (false, Outcome::Accepted { .. }) => accepted += 1,
                (true, Outcome::Accepted { .. }) if excused(LAXER) => {}
                (false, Outcome::Refused(_)) if excused(STRICTER) => {}
                (_, outcome) => wrong.push(format!(
                    "{}\n{}  -> {outcome:?}\n{}\n",
                    case.name,
                    String::from_utf8_lossy(&case.bytes),
                    case.log.lines().filter(|l| l.contains("error")).collect::<String>()
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!(
        "llhttp: {accepted} accepted and {refused} refused as expected, {lenient} lenient ones read \
         without harm, {handed_over} upgrades not judged"
    );
}

/// Read message after message as a connection does.
fn judge(direction: &str, bytes: &[u8]) -> Outcome {
    let bytes = &with_host(direction, bytes)[..];
    let (mut at, mut messages) = (0, 0);
    while at < bytes.len() {
        let head = match direction {
            "request" => parse::request(&bytes[at..], &mut RequestHead::default())
                .map(|r| r.map(|(n, m)| (n, m.body, m.keep_alive))),
            _ => parse::response(&bytes[at..], &mut ResponseHead::default(), false)
                .map(|r| r.map(|(n, m)| (n, m.body, m.keep_alive))),
        };
        let (taken, length, keep_alive) = match head {
            Ok(Some(read)) => read,
            Ok(None) => return Outcome::Accepted { messages, unfinished: true },
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        at += taken;
        match body(&bytes[at..], length) {
            Ok((taken, true)) => at += taken,
            Ok((_, false)) => return Outcome::Accepted { messages, unfinished: true },
            Err(error) => return Outcome::Refused(error),
        }
        messages += 1;
        if !keep_alive {
            break;
        }
    }
    Outcome::Accepted { messages, unfinished: false }
}

/// The bytes that a body takes, and whether it is whole.
fn body(bytes: &[u8], length: BodyLength) -> Result<(usize, bool), String> {
    let mut reader = BodyReader::new(length);
    let mut trailer = Headers::default();
    let mut at = 0;
    loop {
        match reader.step(&bytes[at..], &mut trailer).map_err(|e| e.to_string())? {
            Step::Data(taken) => {
                reader.took(taken);
                at += taken;
            }
            Step::Skip(taken) => at += taken,
            Step::More => return Ok((at, length == BodyLength::UntilClose)),
            Step::Done => return Ok((at, true)),
        }
    }
}

/// llhttp is a parser and does not ask for Host; a server must (RFC 9112, section 3.2), so each request line gets one.
/// Bytes are taken for characters one to one, and back.
fn with_host(direction: &str, bytes: &[u8]) -> Vec<u8> {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    if direction != "request" || text.to_ascii_lowercase().contains("\nhost:") {
        return bytes.to_vec();
    }
    let text =
        text.replace(" HTTP/1.1\r\n", " HTTP/1.1\r\nHost: a\r\n").replace(" HTTP/1.0\r\n", " HTTP/1.0\r\nHost: a\r\n");
    text.chars().map(|c| c as u8).collect()
}

/// All cases of a folder's files, in order.
fn cases(folder: &Path) -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cases.extend(cases_of(&name, &text));
    }
    assert!(cases.len() > 50, "the corpus has its cases");
    cases
}

/// The form of these files: a heading, a comment with `meta={"type": ...}`, a block `http`, a block `log`.
fn cases_of(file: &str, text: &str) -> Vec<Case> {
    let (mut cases, mut heading, mut kind, mut block) = (Vec::new(), String::new(), String::new(), None);
    let mut bytes = None;
    for line in text.lines() {
        match (&mut block, line) {
            (None, "```http") => block = Some(("http", String::new())),
            (None, "```log") => block = Some(("log", String::new())),
            (None, _) if line.starts_with('#') => heading = line.trim_start_matches('#').trim().to_owned(),
            (None, _) => {
                if let Some((_, rest)) = line.replace(' ', "").split_once("\"type\":\"") {
                    kind = rest.split('"').next().unwrap_or("").to_owned();
                }
            }
            (Some(("http", content)), "```") => {
                bytes = Some(unescape(content));
                block = None;
            }
            (Some((_, content)), "```") => {
                if let Some(bytes) = bytes.take() {
                    cases.push(Case {
                        name: format!("{file}: {heading}"),
                        kind: kind.clone(),
                        bytes,
                        log: std::mem::take(content),
                    });
                }
                block = None;
            }
            (Some((_, content)), _) => {
                content.push_str(line);
                content.push('\n');
            }
        }
    }
    cases
}

/// In a block the last line's end does not count, a backslash at a line's end joins it with the next, every other line's
/// end is CRLF, and \r \n \t \f \xNN stand for their bytes.
fn unescape(content: &str) -> Vec<u8> {
    let content = content.strip_suffix('\n').unwrap_or(content).replace("\\\n", "").replace('\n', "\r\n");
    let mut bytes = Vec::new();
    let mut rest = content.as_str();
    while let Some(first) = rest.chars().next() {
        let hex = rest.strip_prefix("\\x").and_then(|r| r.get(..2)).and_then(|h| u8::from_str_radix(h, 16).ok());
        let (byte, taken) = match rest.as_bytes() {
            [b'\\', b'r', ..] => (Some(b'\r'), 2),
            [b'\\', b'n', ..] => (Some(b'\n'), 2),
            [b'\\', b't', ..] => (Some(b'\t'), 2),
            [b'\\', b'f', ..] => (Some(0x0c), 2),
            [b'\\', b'x', ..] if hex.is_some() => (hex, 4),
            _ => (None, first.len_utf8()),
        };
        match byte {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(&rest.as_bytes()[..taken]),
        }
        rest = &rest[taken..];
    }
    bytes
}
