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

impl Emptied {
    /// # Errors
    /// `file` held documents, and its text is blank now. A comment is enough to say that it is empty on purpose.
    pub(super) fn file(file: &str, text: &str, held: bool) -> Result<(), Self> {
        if held && text.trim().is_empty() { Err(Self::File { file: file.to_owned() }) } else { Ok(()) }
    }

    /// # Errors
    /// Nothing is left of all.
    pub(super) fn all(before: usize, now: usize) -> Result<(), Self> {
        if before > 0 && now == 0 { Err(Self::All) } else { Ok(()) }
    }
}

/// The files that hold documents, by the name that errors give them, and how many documents there are in all.
#[derive(Debug, Default)]
pub(crate) struct Held {
    files: HashSet<String>,
    documents: usize,
}

impl Held {
    pub(crate) fn of(sources: &[Source], documents: usize) -> Self {
        let held = sources.iter().filter(|source| has_content(&source.text));
        Self { files: held.map(|source| source.name.clone()).collect(), documents }
    }

    /// # Errors
    /// One of them is blank now, or nothing is left of all.
    pub(crate) fn consider(&self, sources: &[Source], documents: usize) -> Result<(), Emptied> {
        for source in sources {
            Emptied::file(&source.name, &source.text, self.files.contains(&source.name))?;
        }
        Emptied::all(self.documents, documents)
    }
}

/// Whether there is more than comments and the marks between documents.
fn has_content(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Vec<Source> {
        let named = texts.iter().enumerate();
        named.map(|(number, text)| Source { name: format!("{number}.yaml"), text: (*text).to_owned() }).collect()
    }

    #[test]
    fn what_held_documents_is_not_emptied_by_accident() {
        let held = Held::of(&sources(&["kind: A", "# nothing yet\n---\n", "kind: B"]), 2);
        let judged = |texts: &[&str], documents| {
            held.consider(&sources(texts), documents).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(judged(&["kind: A", "", " \n"], 1).starts_with("2.yaml is empty, and held documents"));
        assert_eq!(judged(&["kind: A", "", "# gone on purpose"], 1), "", "comments held nothing");
        assert!(judged(&["# gone", "# gone", "# gone"], 0).starts_with("no document is left"));
        assert_eq!(judged(&["kind: A"], 1), "", "a deleted file is meant");
    }
}
