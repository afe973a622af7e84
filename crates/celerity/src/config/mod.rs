//! Configuration from files: collected, read, translated; and watched for changes.
//!
//! `up`, `proxy`, `analyze` and `translate` all come through here, so that none of them understands a file differently.

pub(crate) mod files;
pub(crate) mod inventory;
pub(crate) mod packed;
pub(crate) mod watch;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use celerity_model::istio::{self, Config};
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
        Ok(read(&self.sources()?)?)
    }
}

/// The documents of some texts, all right or none.
pub(crate) fn read(sources: &[Source]) -> Result<Config, Refused> {
    istio::read(&named(sources)).map_err(Refused::of)
}

/// Sources in the form that the model takes.
pub(crate) fn named(sources: &[Source]) -> Vec<(Arc<str>, &str)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "a.yaml".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn one_wrong_document_refuses_all_and_every_error_is_told() {
        let good = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a}\n";
        let bad = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: b}\nspec: {hots: a}\n";
        assert_eq!(read(&[source(good)]).expect("right").destination_rules.len(), 1);
        let refused = read(&[source(&format!("{good}---\n{bad}"))]).expect_err("refused").to_string();
        assert!(refused.contains("a.yaml:") && refused.contains("hots"), "{refused}");
    }
}
