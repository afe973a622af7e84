//! The parts of a file: what lies between its `---` lines.
//!
//! A change of one document of thousands must cost one document, so a reader keeps a hash of each part and reads again only
//! those that are new.

use xxhash_rust::xxh64::xxh64;

use super::node;

/// Where a part stands in its file, and what tells it from another text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In bytes.
    pub start: u32,
    /// In bytes.
    pub length: u32,
    pub lines_before: u32,
    /// Of the text. 128 bits: a chance meeting would keep an old document silently.
    pub hash: u128,
}

/// A part's text, for [`super::read_parts`].
#[derive(Debug, Clone, Copy)]
pub struct PartText<'a> {
    pub text: &'a str,
    pub lines_before: u32,
}

impl Part {
    /// Its text within that of its file; `None` if the file is another one now.
    pub fn of<'a>(&self, file: &'a str) -> Option<PartText<'a>> {
        let start = self.start as usize;
        let text = file.get(start..start + self.length as usize)?;
        (hash(text) == self.hash).then_some(PartText { text, lines_before: self.lines_before })
    }
}

/// Cuts a file. One longer than 4 GiB has no parts; none of that length is ever read.
pub fn parts(file: &str) -> Vec<Part> {
    let base = file.as_ptr() as usize;
    let part = |piece: &node::Piece<'_>| {
        Some(Part {
            start: u32::try_from(piece.text.as_ptr() as usize - base).ok()?,
            length: u32::try_from(piece.text.len()).ok()?,
            lines_before: piece.lines_before,
            hash: hash(piece.text),
        })
    };
    node::pieces(file).iter().map_while(part).collect()
}

fn hash(text: &str) -> u128 {
    let half = |seed| u128::from(xxh64(text.as_bytes(), seed));
    half(0) << 64 | half(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::istio::{read, read_parts};

    const TEXT: &str = "\u{feff}# head\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn parts_give_what_the_whole_gives() {
        let name: Arc<str> = "a.yaml".into();
        let texts = parts(TEXT).iter().map(|part| part.of(TEXT).expect("its own")).collect();
        let whole = read(&[(name.clone(), TEXT)]).expect("readable");
        assert_eq!(read_parts(&[(name, texts)], &|_| true).expect("readable"), whole);
        assert_eq!(whole.services.iter().map(|service| service.source.line).collect::<Vec<_>>(), [3, 8]);
    }

    #[test]
    fn a_document_that_lost_its_kind_is_an_error_in_a_file_that_was_named() {
        let text = "metadata: {name: a}\nspec: {}\n";
        let read = |named: bool| {
            let texts = parts(text).iter().map(|part| part.of(text).expect("its own")).collect();
            read_parts(&[("a.yaml".into(), texts)], &|_| named)
        };
        assert!(read(true).is_err());
        assert_eq!(read(false).expect("passed over").passed_over.len(), 1);
    }

    #[test]
    fn a_part_knows_its_text() {
        let cut = parts(TEXT);
        let changed = TEXT.replace("name: b", "name: c");
        let same: Vec<bool> = parts(&changed).iter().zip(&cut).map(|(a, b)| a.hash == b.hash).collect();
        assert_eq!(same, [true, true, false]);
        assert!(cut.get(2).is_some_and(|part| part.of(&changed).is_none() && part.of("").is_none()));
    }
}
