//! Configuration from files: collected, read, translated; and watched for changes.
//!
//! `up`, `proxy`, `analyze` and `translate` all come through here, so that none of them understands a file differently.

pub(crate) mod files;
pub(crate) mod held;
pub(crate) mod inventory;
pub(crate) mod packed;
pub(crate) mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use celerity_model::istio::{self, Config, ReadError};
use celerity_model::patch::{Outcome, PatchReport};
use celerity_model::translate::{self, Node, Resources};

use files::{FilesError, Source};

/// Everything that is wrong with a configuration, a line each. Nothing of it is taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(Vec<String>);

impl Refused {
    pub(crate) fn of<E: fmt::Display>(errors: impl IntoIterator<Item = E>) -> Self {
        Self(errors.into_iter().map(|error| error.to_string()).collect())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Refused {}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Emptied(#[from] held::Emptied),
}

/// Where configuration comes from: paths that may change, and texts that do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loader {
    fixed: Vec<Source>,
    pub(crate) paths: Vec<PathBuf>,
}

impl Loader {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { fixed: Vec::new(), paths }
    }

    /// Adds texts that are read before the files.
    pub(crate) fn with(mut self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.fixed.extend(sources);
        self
    }

    /// The texts, unread.
    pub(crate) fn sources(&self) -> Result<Vec<Source>, FilesError> {
        let mut sources = self.fixed.clone();
        sources.extend(files::read(&self.paths)?);
        Ok(sources)
    }

    /// Reads everything, whole or not at all.
    pub(crate) fn load(&self) -> Result<Config, LoadError> {
        Ok(self.read(&self.sources()?)?)
    }

    /// The documents of its sources, all right or none.
    pub(crate) fn read(&self, sources: &[Source]) -> Result<Config, Refused> {
        read(sources, &self.paths)
    }
}

/// The documents of some texts, all right or none. Texts whose names are not among `paths` were found in folders.
pub(crate) fn read(sources: &[Source], paths: &[PathBuf]) -> Result<Config, Refused> {
    let (config, errors) = read_partial(sources, paths);
    if errors.is_empty() { Ok(config) } else { Err(Refused::of(errors)) }
}

/// The documents of some texts that are right, and the errors of the others.
pub(crate) fn read_partial(sources: &[Source], paths: &[PathBuf]) -> (Config, Vec<ReadError>) {
    istio::read_found(&named(sources), &is_named(paths))
}

/// Whether a text's name is one of `paths`, so that its user named it, and not a folder that it is in.
fn is_named(paths: &[PathBuf]) -> impl Fn(&str) -> bool {
    move |name| name == files::STANDARD_INPUT || paths.iter().any(|path| path.as_os_str() == name)
}

/// Sources in the form that the model takes.
fn named(sources: &[Source]) -> Vec<(Arc<str>, &str)> {
    sources.iter().map(|source| (Arc::from(source.name.as_str()), source.text.as_str())).collect()
}

/// What the configuration is for one proxy, patches applied.
pub(crate) fn resources(config: &Config, node: &Node) -> Result<Resources, Refused> {
    translate::translate(config, node).map_err(Refused::of)
}

/// What became of one patch, in a line.
pub(crate) fn patch_line(report: &PatchReport) -> String {
    match &report.outcome {
        Outcome::Matched { count, places } => format!("{}: matched {count}: {}", report.origin, places.join(", ")),
        Outcome::Unmatched(reason) | Outcome::Elsewhere(reason) => format!("{}: unmatched: {reason}", report.origin),
    }
}

/// The patches that are for this proxy and match nothing, and why.
pub(crate) fn unmatched(reports: &[PatchReport]) -> Vec<String> {
    let of = |report: &PatchReport| match &report.outcome {
        Outcome::Unmatched(reason) => Some(format!("{}: it matches nothing: {reason}", report.origin)),
        Outcome::Matched { .. } | Outcome::Elsewhere(_) => None,
    };
    reports.iter().filter_map(of).collect()
}

/// Patches without a match that are told one by one; a file for another mesh would fill the log.
const UNMATCHED_SHOWN: usize = 10;

/// What the log says of patches without a match that were not told before.
pub(crate) fn unmatched_notes(now: Vec<String>, before: &[String]) -> Vec<String> {
    let mut new: Vec<String> = now.into_iter().filter(|one| !before.contains(one)).collect();
    let more = new.len().saturating_sub(UNMATCHED_SHOWN);
    new.truncate(UNMATCHED_SHOWN);
    if more > 0 {
        let patches = if more == 1 { "patch matches" } else { "patches match" };
        new.push(format!("{more} more {patches} nothing; see patches at /config_dump"));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_patches_without_a_match_ten_are_told_and_each_once() {
        let list = |count: u32| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(unmatched_notes(list(10), &[]).len(), 10);
        let notes = unmatched_notes(list(13), &[]);
        assert_eq!(
            (notes.len(), notes[10].as_str()),
            (11, "3 more patches match nothing; see patches at /config_dump")
        );
        assert_eq!(unmatched_notes(list(3), &list(2)), ["2"]);
    }

    fn source(text: &str) -> Source {
        Source { name: "a.yaml".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn one_wrong_document_refuses_all_and_every_error_is_told() {
        let good = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a}\n";
        let bad = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b}\nspec: {hots: a}\n";
        assert_eq!(read(&[source(good)], &[]).expect("right").destination_rules.len(), 1);
        let refused = read(&[source(&format!("{good}---\n{bad}"))], &[]).expect_err("refused").to_string();
        assert!(refused.contains("a.yaml:") && refused.contains("hots"), "{refused}");
    }

    #[test]
    fn other_programs_files_are_passed_over_in_a_folder_and_refused_by_name() {
        let values = source(
            "replicas: 2\n---\napiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: c}\n---\n[1, 2]\n",
        );
        assert_eq!(read(std::slice::from_ref(&values), &["folder".into()]).expect("passed over").passed_over.len(), 3);
        assert!(read(&[values], &["a.yaml".into()]).is_err());
    }
}
