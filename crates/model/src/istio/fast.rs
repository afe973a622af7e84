//! A reader of the plain part of YAML: block mappings and lists, one value on a line. Nearly every document of Kubernetes
//! is that, and thousands of services must be read in milliseconds; the full parser costs several times as much.
//!
//! What it does not know for certain it leaves to the full parser by giving `None`, so it never decides that a text is
//! wrong, and what it accepts must give the same tree: a test compares the two.

use std::borrow::Cow;

use super::node::{DEPTH_MAX, Entry, Node, Piece, Style, Value};

struct Token<'a> {
    line: u32,
    column: u32,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Dash,
    Key(&'a str, Option<Node<'a>>),
    Item(Node<'a>),
}

/// The document of a piece, `Some(None)` when it is empty, or `None` when the full parser must say.
pub(super) fn parse<'a>(piece: &Piece<'a>) -> Option<Option<Node<'a>>> {
    if !piece.text.is_ascii() || piece.text.bytes().any(|b| b == b'\t' || b == b'\r') {
        return None;
    }
    let mut tokens = Vec::with_capacity(piece.text.len() / 16);
    let mut line = piece.lines_before;
    for (index, text) in piece.text.lines().enumerate() {
        line = line.checked_add(1)?;
        let text = text.trim_end_matches(' ');
        let content = text.trim_start_matches(' ');
        let indent = u32::try_from(text.len() - content.len()).ok()?;
        if content.is_empty() || content.starts_with('#') || (index == 0 && text == "---") {
            continue;
        }
        tokens_of(content, line, indent + 1, &mut tokens)?;
    }
    if tokens.is_empty() {
        return Some(None);
    }
    let mut reader = Reader { tokens: tokens.into_iter().peekable() };
    let root = reader.node(0, 0)?;
    // What is left over is indented in a way that only the full parser understands.
    reader.tokens.peek().is_none().then_some(Some(root))
}

fn tokens_of<'a>(content: &'a str, line: u32, column: u32, tokens: &mut Vec<Token<'a>>) -> Option<()> {
    let (mut content, mut column) = (content, column);
    while let Some(rest) = content.strip_prefix("- ") {
        tokens.push(Token { line, column, kind: Kind::Dash });
        let trimmed = rest.trim_start_matches(' ');
        column += 2 + u32::try_from(rest.len() - trimmed.len()).ok()?;
        content = trimmed;
    }
    let is_key_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    let key_end = content.bytes().position(|b| !is_key_byte(b)).unwrap_or(content.len());
    let (key, rest) = content.split_at(key_end);
    let starts_well = key.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let after = rest.strip_prefix(':').filter(|after| after.is_empty() || after.starts_with(' '));
    let kind = match after {
        Some(after) if starts_well => {
            let text = after.trim_start_matches(' ');
            let at = column + u32::try_from(content.len() - text.len()).ok()?;
            Kind::Key(key, if text.is_empty() { None } else { Some(scalar(text, line, at)?) })
        }
        Some(_) => return None,
        None => Kind::Item(scalar(content, line, column)?),
    };
    tokens.push(Token { line, column, kind });
    Some(())
}

fn scalar(text: &str, line: u32, column: u32) -> Option<Node<'_>> {
    let value = match text.as_bytes() {
        b"{}" => Value::Map(Vec::new()),
        b"[]" => Value::List(Vec::new()),
        [quote @ (b'"' | b'\''), inner @ .., end] if quote == end => {
            if inner.iter().any(|b| b == quote || *b == b'\\') {
                return None;
            }
            Value::Scalar { text: Cow::Borrowed(text.get(1..text.len() - 1)?), style: Style::Quoted }
        }
        [first, ..] if first.is_ascii_alphanumeric() || matches!(first, b'/' | b'_') => {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./+=@ ,()$%^;<>~*?!&|".contains(&b);
            let bytes = text.as_bytes();
            let fits = |(at, b): (usize, &u8)| {
                is_plain(*b) || (*b == b':' && bytes.get(at + 1).is_some_and(|next| *next != b' '))
            };
            if !bytes.iter().enumerate().all(fits) {
                return None;
            }
            Value::Scalar { text: Cow::Borrowed(text), style: Style::Plain }
        }
        _ => return None,
    };
    Some(Node { line, column, value })
}

struct Reader<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
}

impl<'a> Reader<'a> {
    /// The node that starts at the next token, which must stand to the right of `beyond`.
    fn node(&mut self, beyond: u32, depth: usize) -> Option<Node<'a>> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let next = self.tokens.peek().filter(|token| token.column > beyond)?;
        let (line, column) = (next.line, next.column);
        match next.kind {
            Kind::Dash => self.list(column, depth),
            Kind::Key(..) => {
                let value = Value::Map(self.map(column, depth)?);
                Some(Node { line, column, value })
            }
            Kind::Item(_) => match self.tokens.next()?.kind {
                Kind::Item(node) => Some(node),
                Kind::Dash | Kind::Key(..) => None,
            },
        }
    }

    fn list(&mut self, column: u32, depth: usize) -> Option<Node<'a>> {
        let line = self.tokens.peek()?.line;
        let mut items = Vec::new();
        while self.tokens.next_if(|token| token.column == column && matches!(token.kind, Kind::Dash)).is_some() {
            items.push(self.node(column, depth + 1)?);
        }
        Some(Node { line, column, value: Value::List(items) })
    }

    fn map(&mut self, column: u32, depth: usize) -> Option<Vec<Entry<'a>>> {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        while let Some(token) = self.tokens.next_if(|t| t.column == column && matches!(t.kind, Kind::Key(..))) {
            let Kind::Key(key, value) = token.kind else { return None };
            if entries.iter().any(|entry| entry.key == key) {
                return None;
            }
            let node = match value {
                Some(node) => node,
                None => match self.tokens.peek().map(|next| (next.column, matches!(next.kind, Kind::Dash))) {
                    Some((below, _)) if below > column => self.node(column, depth + 1)?,
                    // A list may stand at the column of its key.
                    Some((below, true)) if below == column && depth + 1 < DEPTH_MAX => self.list(column, depth + 1)?,
                    _ => Node {
                        line: token.line,
                        column: token.column,
                        value: Value::Scalar { text: Cow::Borrowed(""), style: Style::Plain },
                    },
                },
            };
            entries.push(Entry { key: Cow::Borrowed(key), line: token.line, column: token.column, node });
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::istio::node::{parse_fully, pieces};

    /// The two place empty values and lists differently; no error is about those places.
    fn without_places(node: &mut Node<'_>) {
        if node.is_null() || matches!(node.value, Value::List(_)) {
            (node.line, node.column) = (0, 0);
        }
        match &mut node.value {
            Value::Map(entries) => entries.iter_mut().for_each(|entry| without_places(&mut entry.node)),
            Value::List(items) => items.iter_mut().for_each(without_places),
            Value::Scalar { .. } => {}
        }
    }

    /// How many pieces the fast parser took; what it took is the same by the full parser.
    fn compare(text: &str) -> usize {
        let mut taken = 0;
        for piece in pieces(text) {
            let Some(root) = parse(&piece) else { continue };
            taken += 1;
            let mut fast: Vec<Node<'_>> = root.into_iter().filter(|root| !root.is_null()).collect();
            let mut full = parse_fully(&piece).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
            fast.iter_mut().chain(&mut full).for_each(without_places);
            assert_eq!(fast, full, "{text:?}");
        }
        taken
    }

    #[test]
    fn plain_documents_are_taken() {
        let text = "---\na: 1\nb:\n- c: x y\n  d: \"q\"\n- e\nf:\n  - g:\n    h: {}\n# end\n---\n\n";
        assert_eq!(compare(text), 2);
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for text in [
            "a: [b]",
            "a: |\n  b",
            "a: &x b",
            "a: b # c",
            "a: b\n  c",
            "a:\n    b: 1\n  c: 2",
            "a: 1\na: 2",
            "- - a: b\n   c: d",
            "\ta: b",
            "a: \u{e9}",
        ] {
            assert!(pieces(text).iter().all(|piece| parse(piece).is_none()), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn same_tree_as_the_full_parser(text in "(a|b: |c:|- |\\n|\\n  |\\n    |x y|1|\\{\\}|\\[\\]|'q'|\"q\"|#| |d: e|---\\n|\\.\\.\\.|-|:|\\?|\\||>|&a|\\*a|!t|%|true|~|a:b|\\n- |\\n  - |k: v\\n|k:\\n){0,14}") {
            compare(&text);
        }
    }
}
