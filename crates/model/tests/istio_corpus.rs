//! Documents of Istio's own validation tests and samples: accepted and refused as Istio does.

mod common;

use std::sync::Arc;

use celerity_model::analyze::{Severity, analyze};
use celerity_model::istio::{self, ErrorKind};

/// Valid for Istio, refused here, with the reason.
const EXCEPTIONS: [(&str, &str); 6] = [
    ("http-filter", "the filter ext_proc does not act yet; the patch is refused by its type"),
    (
        "full",
        "its `[1.2.3.4, 001:db8::]` holds a mapping by YAML 1.2 (7.3.3), a string for Istio's YAML 1.1; quotes mend it",
    ),
    ("waypoint-http-filter", "patches of waypoints do not act yet"),
    ("waypoint-cluster", "patches of waypoints do not act yet"),
    ("uds-abstract", "endpoints on Unix sockets do not act yet"),
    ("uds-path", "endpoints on Unix sockets do not act yet"),
];

/// Documents of a file, each with whether it is expected to be refused, and its text without that mark.
fn documents(text: &str) -> Vec<(bool, String)> {
    let pieces = text.split("\n---").map(|piece| {
        let body: Vec<&str> = piece.lines().filter(|line| !line.starts_with('#')).collect();
        let invalid = body.iter().any(|line| line.starts_with("_err:"));
        let body: Vec<&str> = body.into_iter().filter(|line| !line.starts_with("_err:")).collect();
        (invalid, body.join("\n"))
    });
    pieces.filter(|(_, body)| body.contains("kind:")).collect()
}

fn value_of<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_default().trim()
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are to be seen")]
fn istio_validation_documents() {
    let Some(folder) = common::shared("corpora/istio/validation-crds") else { return };
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    files.sort();
    let (mut accepted, mut refused, mut excepted) = (0, 0, 0);
    let mut unsupported: Vec<String> = Vec::new();
    let mut wrong: Vec<String> = Vec::new();
    for path in &files {
        let file: Arc<str> = Arc::from(path.file_name().and_then(|n| n.to_str()).unwrap_or_default());
        for (invalid, body) in documents(&common::text(path)) {
            let (kind, name) = (value_of(&body, "kind:").to_owned(), value_of(&body, "name:").to_owned());
            let result = istio::read(&[(file.clone(), &body)]);
            let by_kind = |e: &istio::ReadError| e.kind == ErrorKind::KindNotSupported;
            // What the commands refuse of a document that was read is refused.
            let refused_later = |config: &istio::Config| {
                let found = analyze(config, &[]);
                found.into_iter().find(|one| one.severity == Severity::Error && one.code.starts_with("CEL04"))
            };
            if let Some(finding) = result.as_ref().ok().and_then(refused_later) {
                match EXCEPTIONS.iter().any(|(n, _)| *n == name) {
                    true if !invalid => excepted += 1,
                    _ if invalid => refused += 1,
                    _ => wrong.push(format!("{file} {kind} {name} is valid, but: {}", finding.reason)),
                }
                continue;
            }
            match result {
                Err(errors) if errors.iter().any(by_kind) => unsupported.push(format!("{file} {kind} {name}")),
                Err(_) if invalid => refused += 1,
                Ok(_) if !invalid => accepted += 1,
                Err(errors) if EXCEPTIONS.iter().any(|(n, _)| *n == name) => {
                    let expected = [ErrorKind::NotSupported, ErrorKind::WrongType];
                    assert!(errors.iter().all(|e| expected.contains(&e.kind)), "{errors:?}");
                    excepted += 1;
                }
                Err(errors) => wrong.push(format!("{file} {kind} {name} is valid, but: {}", errors[0])),
                Ok(_) => wrong.push(format!("{file} {kind} {name} is invalid, but was accepted:\n{body}")),
            }
        }
    }
    println!(
        "validation-crds: {accepted} accepted, {refused} refused, {excepted} exceptions, {} of other kinds:",
        unsupported.len()
    );
    unsupported.iter().for_each(|line| println!("  {line}"));
    println!("exceptions:");
    EXCEPTIONS.iter().for_each(|(name, reason)| println!("  {name}: {reason}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(excepted, EXCEPTIONS.len());
    assert!(accepted >= 14 && refused >= 30, "the corpus was not read");
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are to be seen")]
fn bookinfo_loads_or_is_refused_by_name() {
    let Some(folder) = common::shared("corpora/istio/bookinfo-networking") else { return };
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).collect();
    files.sort();
    let mut loaded = 0;
    for path in &files {
        let file: Arc<str> = Arc::from(path.file_name().and_then(|n| n.to_str()).unwrap_or_default());
        let text = common::text(path);
        match istio::read(&[(file.clone(), &text)]) {
            Ok(config) => loaded += config.len(),
            Err(errors) => {
                for error in &errors {
                    println!("{error}");
                    let by_name = matches!(error.kind, ErrorKind::KindNotSupported | ErrorKind::NotSupported);
                    assert!(by_name, "{error}");
                }
            }
        }
    }
    println!("bookinfo: {loaded} documents of {} files load", files.len());
    assert!(loaded > 20);
}
