//! A file that is written anew is empty for a moment, and must not be taken for the end of what it held.

use std::collections::HashSet;

use super::files::Source;

/// What is there can hardly be meant. What runs stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Emptied {
    #[error(
        "{file} is empty, and held documents: whoever writes it has most likely only begun. What runs stays; delete the file if its \
         documents are to go"
    )]
    File { file: String },
    #[error("no document is left: what runs stays; to run without any, start anew")]
    All,
}

/// The files that say something, by the name that errors give them.
#[derive(Debug, Default)]
pub(crate) struct Held(HashSet<String>);

impl Held {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let held = sources.iter().filter(|source| !is_blank(&source.text));
        Self(held.map(|source| source.name.clone()).collect())
    }

    /// # Errors
    /// One of them says nothing now: whoever writes it has most likely only begun.
    pub(crate) fn consider(&self, sources: &[Source]) -> Result<(), Emptied> {
        match sources.iter().find(|source| is_blank(&source.text) && self.0.contains(&source.name)) {
            Some(emptied) => Err(Emptied::File { file: emptied.name.clone() }),
            None => Ok(()),
        }
    }
}

/// A comment is enough to say that a file is empty on purpose.
pub(super) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
