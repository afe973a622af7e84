//! All that is wrong, risky or without effect in a configuration, each finding with a stable code.

mod alerts;
mod codes;
mod merged;
mod patches;
mod policy;
mod promql;
mod routes;
mod rules;
mod services;
mod settings;
mod shadow;
mod taken;
mod template;
mod world;
mod yaml;

use std::collections::HashMap;

use serde::Serialize;

use crate::istio::{Config, Document, ErrorKind, PassedOver, ReadError};
pub use codes::{CODES, Code, reference};
pub use patches::{not_taken, patch_findings};

/// Findings that are kept of one analysis.
pub const FINDINGS_MAX: usize = 10_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused, or requests fail.
    Error,
    /// It does not do what it seems to say, or costs latency or safety.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One finding: where, why, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, as `CEL0201`.
    pub code: &'static str,
    pub severity: Severity,
    pub title: &'static str,
    pub file: String,
    /// From 1.
    pub line: u32,
    /// `Kind namespace/name`.
    pub document: String,
    /// As `spec.host`; empty for the document as a whole.
    pub field: String,
    pub reason: String,
    /// What to do; YAML where that is possible.
    pub mend: String,
}

/// Everything that there is to say, in the order of files and lines; pure.
///
/// `errors` are those that reading gave; `config` holds the documents that were right.
pub fn analyze(config: &Config, errors: &[ReadError]) -> Vec<Finding> {
    let world = world::World::of(config);
    let mut findings = Findings::default();
    for error in errors {
        findings.read_error(error);
    }
    for passed in &config.passed_over {
        findings.passed_over(passed);
    }
    rules::check(config, &world, &mut findings);
    policy::check(config, &world, &mut findings);
    routes::check(config, &world, &mut findings);
    taken::check(config, &mut findings);
    patches::check(config, &mut findings);
    settings::check(config, &mut findings);
    services::check(config, &world, &mut findings);
    alerts::check(config, &mut findings);
    let order: HashMap<&str, usize> = config.files.iter().enumerate().map(|(at, file)| (&**file, at)).collect();
    let place = |file: &str| order.get(file).copied().unwrap_or(usize::MAX);
    findings.list.sort_by(|a, b| (place(&a.file), a.line, a.code).cmp(&(place(&b.file), b.line, b.code)));
    findings.list.dedup();
    findings.list
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn add<T>(&mut self, code: &Code, kind: &str, document: &Document<T>, field: &str, reason: String, mend: String) {
        if self.list.len() >= FINDINGS_MAX {
            return;
        }
        self.list.push(Finding {
            code: code.id,
            severity: code.severity,
            title: code.title,
            file: document.source.file.to_string(),
            line: document.line(field),
            document: format!("{kind} {}", document.id()),
            field: field.to_owned(),
            reason,
            mend,
        });
    }

    fn read_error(&mut self, error: &ReadError) {
        let code = match error.kind {
            ErrorKind::Syntax => &codes::SYNTAX,
            ErrorKind::UnknownKey => &codes::UNKNOWN_KEY,
            ErrorKind::WrongType => &codes::WRONG_TYPE,
            ErrorKind::BadValue => &codes::BAD_VALUE,
            ErrorKind::Missing => &codes::MISSING,
            ErrorKind::Conflict => &codes::CONFLICT,
            ErrorKind::NotSupported => &codes::FIELD_NOT_SUPPORTED,
            ErrorKind::KindNotSupported => &codes::KIND_NOT_SUPPORTED,
            ErrorKind::Duplicate => &codes::DUPLICATE_DOCUMENT,
        };
        self.list.push(Finding {
            code: code.id,
            severity: code.severity,
            title: code.title,
            file: error.file.to_string(),
            line: error.line,
            document: error.document.clone(),
            field: error.field.clone(),
            reason: error.reason.clone(),
            mend: mend_of(error).unwrap_or_else(|| code.mend.to_owned()),
        });
    }

    fn passed_over(&mut self, passed: &PassedOver) {
        let code = &codes::PASSED_OVER;
        self.list.push(Finding {
            code: code.id,
            severity: code.severity,
            title: code.title,
            file: passed.source.file.to_string(),
            line: passed.source.line,
            document: passed.kind.clone(),
            field: "kind".to_owned(),
            reason: match passed.kind.as_str() {
                "" => "this names no kind, so it is no document of Kubernetes; it was passed over".to_owned(),
                kind => format!("{kind} of {} says nothing to a mesh; it was passed over", passed.api_version),
            },
            mend: code.mend.to_owned(),
        });
    }
}

/// Words with which the readers' sentences go on to say what would be right.
const ADVICE: [&str; 20] = [
    "add", "choose", "give", "keep", "leave", "lower", "make", "merge", "move", "name", "raise", "remove", "rename",
    "save", "set", "split", "use", "write", "look", "see",
];

/// What the error itself says would be right; `None` where it says only what is wrong.
fn mend_of(error: &ReadError) -> Option<String> {
    let field = error.field.rsplit(['.', ']']).next().unwrap_or_default();
    let sentence = |text: &str| {
        let mut letters = text.chars();
        let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
        let end = if text.ends_with('.') { "" } else { "." };
        format!("{first}{}{end}", letters.as_str())
    };
    if let Some((_, near)) = error.reason.rsplit_once("did you mean ") {
        let near = near.trim_end_matches('?');
        let wrong = match error.kind {
            ErrorKind::UnknownKey => field,
            _ => "it",
        };
        return Some(format!("Write {near} in place of {wrong}."));
    }
    if let Some((_, known)) = error.reason.split_once("known are ") {
        return Some(format!("Write one of {known}, or remove {}.", if field.is_empty() { "it" } else { field }));
    }
    let advice = |text: &str| ADVICE.contains(&text.split([' ', ':']).next().unwrap_or_default());
    let tail = error.reason.match_indices("; ").map(|(at, _)| error.reason.get(at + 2..).unwrap_or_default());
    if let Some(tail) = tail.clone().find(|tail| advice(tail)) {
        return Some(sentence(tail));
    }
    if advice(&error.reason) {
        return Some(sentence(&error.reason));
    }
    match error.kind {
        ErrorKind::Missing if !field.is_empty() => Some(format!("Add {field}: {}", error.reason)),
        ErrorKind::KindNotSupported => Some("Keep the document out of the files that the mesh reads.".to_owned()),
        ErrorKind::BadValue => {
            error.reason.split_once("is not one of ").map(|(_, words)| format!("Write one of {words}."))
        }
        _ => None,
    }
}
