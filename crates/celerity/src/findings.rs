//! What `analyze` found, for people.

use std::path::PathBuf;

use celerity_model::analyze::{Finding, Severity, analyze};
use celerity_model::istio::{ErrorKind, ReadError};

use crate::config;
use crate::config::files::{FilesError, Source};

/// Everything that there is to say about some texts.
pub(crate) fn of(sources: &[Source]) -> Vec<Finding> {
    with_failures(sources, &[], &[])
}

/// Everything that there is to say about some texts, which `paths` meant, and about files that could not be read.
pub(crate) fn with_failures(sources: &[Source], paths: &[PathBuf], failures: &[FilesError]) -> Vec<Finding> {
    let (config, mut errors) = config::read_partial(sources, paths);
    errors.extend(failures.iter().map(|failure| ReadError {
        kind: ErrorKind::Syntax,
        file: failure.path_of_file().map(|path| path.display().to_string()).unwrap_or_default().into(),
        line: 1,
        column: 1,
        document: String::new(),
        field: String::new(),
        reason: failure.to_string(),
    }));
    analyze(&config, &errors)
}

/// Each finding with its reason and its mend.
pub(crate) fn text(findings: &[Finding], colour: bool) -> String {
    let mut out = String::new();
    for finding in findings {
        out.push_str(&heading(finding, colour));
        // What is no document of any kind has neither.
        let about: Vec<&str> =
            [finding.document.as_str(), finding.field.as_str()].into_iter().filter(|s| !s.is_empty()).collect();
        if !about.is_empty() {
            out.push_str(&format!("\n    {}", about.join(", ")));
        }
        out.push_str(&format!("\n    {}\n", indented(&finding.reason)));
        if !finding.mend.is_empty() {
            out.push_str(&format!("    mend: {}\n", indented(&finding.mend)));
        }
        out.push('\n');
    }
    out.push_str(&summary(findings));
    out.push('\n');
    out
}

/// A line each: for the report, which has other things to say too.
pub(crate) fn brief(findings: &[Finding], colour: bool) -> String {
    let mut out = format!("analyze: {}\n", summary(findings));
    for finding in findings {
        out.push_str(&format!("  {}\n", heading(finding, colour)));
    }
    out
}

/// `2 errors, 1 warning, no notes`.
pub(crate) fn summary(findings: &[Finding]) -> String {
    let count =
        |severity: Severity, name: &str| match findings.iter().filter(|finding| finding.severity == severity).count() {
            0 => format!("no {name}s"),
            1 => format!("1 {name}"),
            many => format!("{many} {name}s"),
        };
    format!(
        "{}, {}, {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Info, "note")
    )
}

fn heading(finding: &Finding, colour: bool) -> String {
    let (on, off) = match (colour, finding.severity) {
        (false, _) => ("", ""),
        (true, Severity::Error) => ("\x1b[1;31m", "\x1b[0m"),
        (true, Severity::Warning) => ("\x1b[1;33m", "\x1b[0m"),
        (true, Severity::Info) => ("\x1b[1;36m", "\x1b[0m"),
    };
    let severity = finding.severity.as_str();
    format!("{}:{}: {on}{severity} {}{off}: {}", finding.file, finding.line, finding.code, finding.title)
}

/// Further lines (YAML of a mend) stay under the first.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n        ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_their_place_their_code_and_their_mend() {
        let text_of = |yaml: &str| {
            let source = Source { name: "a.yaml".to_owned(), text: yaml.to_owned() };
            text(&of(&[source]), false)
        };
        let wrong = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b}\nspec: {hots: a}\n";
        let shown = text_of(wrong);
        assert!(
            shown.starts_with("a.yaml:4: error CEL") && shown.contains("mend: ") && shown.contains("hots"),
            "{shown}"
        );
        assert!(!shown.contains('\x1b'));
        assert_eq!(text_of(""), "no errors, no warnings, no notes\n");
    }
}
