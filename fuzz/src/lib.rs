//! One function for each parser that reads what strangers send. A target of `cargo fuzz` calls it, and so does the smoke
//! test. Beyond "it does not panic", each checks a property that would be a hole if it failed.
use celerity_proxy::h1::body::{BodyLength, BodyReader, Step};
use celerity_proxy::h1::parse;
use celerity_proxy::http::{Headers, RequestHead, ResponseHead};

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; a folder of `corpus/` goes with each.
pub const TARGETS: &[Target] = &[
    ("http1_request", http1_request),
    ("http1_response", http1_response),
    ("h2_frame", h2_frame),
    ("hpack", hpack),
    ("trace_context", trace_context),
    ("hop_report", hop_report),
    ("istio_yaml", istio_yaml),
    ("prometheus_rule", prometheus_rule),
    ("load_h2", load_h2),
    ("load_targets", load_targets),
    ("load_message", load_message),
    ("load_results", load_results),
    ("load_reflection", load_reflection),
];

/// Requests of one connection, one after the other. However the bytes are cut, the framing must come out the same: if it
/// did not, a sender could hide a request from one of two readers.
pub fn http1_request(data: &[u8]) {
    let whole = requests(data, data.len().max(1));
    assert_eq!(whole, requests(data, 1), "cut into single bytes");
    assert_eq!(whole, requests(data, 7), "cut into sevens");
}

/// Responses of one connection, to a request that was not HEAD.
pub fn http1_response(data: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut head = ResponseHead::default();
        parse::response(bytes, &mut head, false).map(|read| read.map(|(taken, meta)| (taken, meta.body)))
    };
    assert_eq!(messages(data, data.len().max(1), read), messages(data, 1, read), "cut into single bytes");
}

/// Frames of HTTP/2.
pub fn h2_frame(data: &[u8]) {
    celerity_wire::frame::fuzz(data);
}

/// Header blocks of HTTP/2.
pub fn hpack(data: &[u8]) {
    celerity_wire::hpack::decoder::fuzz(data);
}

/// W3C and B3 trace contexts.
pub fn trace_context(data: &[u8]) {
    let context = celerity_telemetry::trace::parse_traceparent(data);
    if let Some(context) = context {
        assert!(context.trace_id != 0 && context.span_id != 0, "a zero id is malformed by the specification");
    }
    let _ = celerity_telemetry::trace::parse_b3_single(data);
}

/// What the other sidecar says of its own time.
pub fn hop_report(data: &[u8]) {
    let _ = celerity_telemetry::HopReport::parse(data);
}

/// A configuration: read, and what could be read of it translated and patched for a node. Whatever stands in the files,
/// the answer is resources or errors.
pub fn istio_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, _errors) = celerity_model::istio::read_partial(&[("fuzz.yaml".into(), text)]);
    if let Ok(resources) = celerity_model::translate::translate(&config, &celerity_model::translate::Node::default()) {
        let _ = celerity_model::translate::to_json(&resources);
    }
}

/// An alert: its expression on the first line, the template of its annotation below. Whatever stands there, there are findings
/// or none.
pub fn prometheus_rule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (expression, template) = text.split_once('\n').unwrap_or((text, ""));
    // JSON is YAML, and takes every character.
    let rule = serde_json::json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "fuzz"},
        "spec": {"groups": [{"name": "g", "rules": [{
            "alert": "a", "expr": expression, "annotations": {"summary": template},
        }]}]},
    });
    let (config, errors) = celerity_model::istio::read_partial(&[("fuzz.yaml".into(), &rule.to_string())]);
    let _ = celerity_model::analyze::analyze(&config, &errors);
}

/// What a server sends to the measuring engine's HTTP/2.
pub fn load_h2(data: &[u8]) {
    celerity_load::engine::h2::fuzz(data);
}

/// Targets files.
pub fn load_targets(data: &[u8]) {
    celerity_load::target::list::fuzz(data);
}

/// Messages that a script gives.
pub fn load_message(data: &[u8]) {
    celerity_load::script::fuzz(data);
}

/// Streams of results.
pub fn load_results(data: &[u8]) {
    celerity_load::habits::vegeta_report::fuzz(data);
}

/// Answers of a server's reflection.
pub fn load_reflection(data: &[u8]) {
    celerity_load::grpc::fuzz(data);
}

/// Where messages end and how they frame their bodies: (offset of the end, body length) of each whole one, and how the
/// reading stopped.
type Framing = (Vec<(usize, String)>, &'static str);

fn requests(data: &[u8], piece: usize) -> Framing {
    messages(data, piece, |bytes| {
        let mut head = RequestHead::default();
        parse::request(bytes, &mut head).map(|read| read.map(|(taken, meta)| (taken, meta.body)))
    })
}

/// Read messages from bytes that arrive `piece` at a time.
fn messages<E>(data: &[u8], piece: usize, head: impl Fn(&[u8]) -> Result<Option<(usize, BodyLength)>, E>) -> Framing {
    let (mut start, mut end, mut ends) = (0, 0, Vec::new());
    loop {
        let (taken, length) = match head(&data[start..end]) {
            Err(_) => return (ends, "refused"),
            Ok(Some(read)) => read,
            Ok(None) if end == data.len() => return (ends, "ended in a head"),
            Ok(None) => {
                end = (end + piece).min(data.len());
                continue;
            }
        };
        assert!(taken > 0 && taken <= end - start, "a head takes what was there");
        start += taken;
        let (mut reader, mut trailer) = (BodyReader::new(length), Headers::default());
        loop {
            match reader.step(&data[start..end], &mut trailer) {
                Err(_) => return (ends, "refused"),
                Ok(Step::Done) => break,
                Ok(Step::Skip(taken)) => start += taken,
                Ok(Step::Data(taken)) => {
                    assert!(taken > 0 && taken <= end - start, "data is only what was there");
                    reader.took(taken);
                    start += taken;
                }
                Ok(Step::More) if end == data.len() => return (ends, "ended in a body"),
                Ok(Step::More) => end = (end + piece).min(data.len()),
            }
        }
        ends.push((start, format!("{length:?}")));
    }
}
