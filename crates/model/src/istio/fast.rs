//! A reader of the plain part of YAML: block mappings and lists, one value or one flow collection on a line. Nearly every
//! document of Kubernetes is that, and thousands of services must be read in milliseconds; the full parser costs ten times
//! as much.
//!
//! What it does not know for certain it leaves to the full parser by giving `None`, so it never decides that a text is
//! wrong, and what it accepts must give the same tree: a test compares the two.

use std::borrow::Cow;

use super::node::{DEPTH_MAX, Entry, Keys, Node, Piece, Style, Value};

/// Half of the bound for what stands on several lines, half for what stands within one of them.
const HALF_DEPTH_MAX: usize = DEPTH_MAX / 2;

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
    let is_known = |byte: u8| byte.is_ascii() && (byte >= b' ' || matches!(byte, b'\n' | b'\t'));
    // Without an early end, so that many bytes are compared at once.
    if !piece.text.bytes().fold(true, |all, byte| all & is_known(byte)) {
        return None;
    }
    let mut tokens = Vec::with_capacity(piece.text.len() / 16);
    let mut line = piece.lines_before;
    let bytes = piece.text.as_bytes();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        line = line.checked_add(1)?;
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let text = piece.text.get(at..at + length)?;
        let text = text.get(..text.bytes().rposition(|byte| byte != b' ').map_or(0, |last| last + 1))?;
        let is_first = at == 0;
        at += length + 1;
        let content = text.get(spaces(text)..)?;
        if content.is_empty() || content.starts_with('#') || (is_first && text == "---") {
            // A tab may stand in a comment; elsewhere no class below has it.
            continue;
        }
        let indent = u32::try_from(text.len() - content.len()).ok()?;
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

/// How many spaces a text begins with.
fn spaces(text: &str) -> usize {
    text.bytes().position(|byte| byte != b' ').unwrap_or(text.len())
}

fn tokens_of<'a>(content: &'a str, line: u32, column: u32, tokens: &mut Vec<Token<'a>>) -> Option<()> {
    let (mut content, mut column) = (content, column);
    while let Some(rest) = content.strip_prefix("- ") {
        tokens.push(Token { line, column, kind: Kind::Dash });
        let trimmed = rest.get(spaces(rest)..)?;
        column += 2 + u32::try_from(rest.len() - trimmed.len()).ok()?;
        content = trimmed;
    }
    let (key, rest) = content.split_at(key_length(content));
    let after = rest.strip_prefix(':').filter(|after| after.is_empty() || after.starts_with(' '));
    let kind = match after {
        Some(after) if !key.is_empty() => {
            let text = after.get(spaces(after)..)?;
            let at = column + u32::try_from(content.len() - text.len()).ok()?;
            let is_empty = text.is_empty() || text.starts_with('#');
            Kind::Key(key, if is_empty { None } else { Some(value(text, line, at)?) })
        }
        Some(_) => return None,
        None => Kind::Item(value(content, line, column)?),
    };
    tokens.push(Token { line, column, kind });
    Some(())
}

/// Bytes of a key.
const KEY: u8 = 1;
/// Bytes with which a plain scalar may begin.
const FIRST: u8 = 2;
/// Bytes that a plain scalar may hold anywhere, in a flow collection too.
const PLAIN: u8 = 4;
/// Bytes that end a plain scalar in a flow collection and do not elsewhere.
const COMMA: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        classes[at] = match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'/' => KEY | FIRST | PLAIN,
            b'-' | b'.' => KEY | PLAIN,
            b'+' | b'=' | b'@' | b' ' | b'(' | b')' | b'$' | b'%' | b'^' | b';' | b'<' | b'>' | b'~' | b'*' | b'?'
            | b'!' | b'&' | b'|' => PLAIN,
            b',' => COMMA,
            _ => 0,
        };
        at += 1;
    }
    classes
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// Length of the key with which `text` begins; 0: none.
fn key_length(text: &str) -> usize {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let end = || text.bytes().position(|byte| !is(byte, KEY)).unwrap_or(text.len());
    if starts_well { end() } else { 0 }
}

/// The value that fills the rest of a line, but for a comment.
fn value(text: &str, line: u32, column: u32) -> Option<Node<'_>> {
    let mut flow = Flow { text, at: 0, line, column };
    let node = if text.starts_with(['{', '[']) { flow.collection(0)? } else { flow.scalar(COMMA)? };
    let rest = text.get(flow.at..)?;
    let comment = rest.trim_start_matches(' ');
    (comment.is_empty() || (comment.len() < rest.len() && comment.starts_with('#'))).then_some(node)
}

/// Reads within one line.
struct Flow<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    /// Of the text's first byte.
    column: u32,
}

impl<'a> Flow<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    fn here(&self) -> Option<u32> {
        self.column.checked_add(u32::try_from(self.at).ok()?)
    }

    /// A scalar up to the end of the line, to a comment, or to what ends it in a flow collection; `also` are classes of
    /// bytes that a plain one may hold beside the usual.
    fn scalar(&mut self, also: u8) -> Option<Node<'a>> {
        let (start, column) = (self.at, self.here()?);
        let bytes = self.text.as_bytes();
        let (text, style) = match self.peek()? {
            quote @ (b'"' | b'\'') => {
                let inner = self.text.get(start + 1..)?;
                let length = memchr::memchr(quote, inner.as_bytes())?;
                self.at = start + 1 + length + 1;
                // A quote that is doubled, an escape, or a tab is for the full parser; so is what follows at once.
                let inner = inner.get(..length).filter(|inner| !inner.bytes().any(|b| b == b'\\' || b < b' '))?;
                let ends = self.peek().is_none_or(|next| matches!(next, b' ' | b',' | b'}' | b']'));
                (ends.then_some(inner)?, Style::Quoted)
            }
            first if is(first, FIRST) => {
                let mut end = start;
                while let Some(&byte) = bytes.get(end) {
                    let colon_within = || bytes.get(end + 1).is_some_and(|&next| is(next, KEY));
                    let comment = || byte == b' ' && bytes.get(end + 1) == Some(&b'#');
                    if (is(byte, PLAIN | also) && !comment()) || (byte == b':' && colon_within()) {
                        end += 1;
                    } else {
                        break;
                    }
                }
                self.at = end;
                (self.text.get(start..end)?.trim_end_matches(' '), Style::Plain)
            }
            _ => return None,
        };
        Some(Node { line: self.line, column, value: Value::Scalar { text: Cow::Borrowed(text), style } })
    }

    /// `{a: b}` or `[a, b]`, at its bracket.
    fn collection(&mut self, depth: usize) -> Option<Node<'a>> {
        if depth >= HALF_DEPTH_MAX {
            return None;
        }
        let column = self.here()?;
        let is_map = self.peek()? == b'{';
        let close = if is_map { b'}' } else { b']' };
        let (mut entries, mut items): (Vec<Entry<'a>>, Vec<Node<'a>>) = (Vec::new(), Vec::new());
        let mut keys = Keys::default();
        self.at += 1;
        self.skip_spaces();
        let mut is_open = self.peek()? != close;
        if !is_open {
            self.at += 1;
        }
        while is_open {
            self.skip_spaces();
            let at = self.here()?;
            let mut key = None;
            if is_map {
                let rest = self.text.get(self.at..)?;
                let name = rest.get(..key_length(rest)).filter(|name| !name.is_empty())?;
                if !rest.get(name.len()..)?.starts_with(": ") || !keys.is_new(&entries, name) {
                    return None;
                }
                self.at += name.len() + 2;
                self.skip_spaces();
                key = Some(name);
            }
            let node = match self.peek()? {
                b'{' | b'[' => self.collection(depth + 1)?,
                _ => self.scalar(0)?,
            };
            match key {
                Some(key) => entries.push(Entry { key: Cow::Borrowed(key), line: self.line, column: at, node }),
                None => items.push(node),
            }
            self.skip_spaces();
            is_open = match self.peek()? {
                b',' => true,
                byte if byte == close => false,
                _ => return None,
            };
            self.at += 1;
        }
        let value = if is_map { Value::Map(entries) } else { Value::List(items) };
        Some(Node { line: self.line, column, value })
    }
}

struct Reader<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
}

impl<'a> Reader<'a> {
    /// The node that starts at the next token, which must stand to the right of `beyond`.
    fn node(&mut self, beyond: u32, depth: usize) -> Option<Node<'a>> {
        if depth >= HALF_DEPTH_MAX {
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
        let mut keys = Keys::default();
        while let Some(token) = self.tokens.next_if(|t| t.column == column && matches!(t.kind, Kind::Key(..))) {
            let Kind::Key(key, value) = token.kind else { return None };
            if !keys.is_new(&entries, key) {
                return None;
            }
            let node = match value {
                Some(node) => node,
                None => match self.tokens.peek().map(|next| (next.column, matches!(next.kind, Kind::Dash))) {
                    Some((below, _)) if below > column => self.node(column, depth + 1)?,
                    // A list may stand at the column of its key.
                    Some((below, true)) if below == column && depth + 1 < HALF_DEPTH_MAX => {
                        self.list(column, depth + 1)?
                    }
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
        let text = "a: {b: c, d: [1, {e: f g}], h: {}} # why\nb: [ 'x y', \"{z, a: b}\" ]\nc: d,e # f\ng: # h\n- {i: j:k}\n- [[]]\n";
        assert_eq!(compare(text), 1);
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for text in [
            "a: [b",
            "a: [b: c]",
            "a: {b}",
            "a: {b: c, b: d}",
            "a: {b:c}",
            "a: [b]: c",
            "a: [b] c",
            "a: [b]# c",
            "a: 'it''s'",
            "a: \"b\\n\"",
            "a: |\n  b",
            "a: &x b",
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

    fn flow() -> impl Strategy<Value = String> {
        let leaf = "(a|x y|1\\.5|'q, r'|\"\\{s\\}\"|/h/\\*|b:c|30ms|true)";
        leaf.prop_recursive(4, 24, 4, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", ")));
            let map = prop::collection::btree_map("[a-e]", inner, 0..4).prop_map(|entries| {
                let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{{}}}", entries.join(","))
            });
            prop_oneof![list, map]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn same_tree_as_the_full_parser(text in "(a|b: |c:|- |\\n|\\n  |\\n    |x y|1|\\{\\}|\\[\\]|'q'|\"q\"|#| |d: e|---\\n|\\.\\.\\.|-|:|\\?|\\||>|&a|\\*a|!t|%|true|~|a:b|\\n- |\\n  - |k: v\\n|k:\\n){0,14}") {
            compare(&text);
        }

        #[test]
        fn same_tree_within_a_line(text in "(a: |b: |c: |\\{|\\}|\\[|\\]|, |,|'q'|\"q r\"|x y|z| #|# d|:| |e:f|-|\\n- |\\ng: |/h|1|~){1,16}") {
            compare(&format!("k: {text}"));
        }

        #[test]
        fn same_tree_of_nested_collections(text in flow()) {
            prop_assert_eq!(compare(&format!("k: {text}\nl:\n- {text} # end")), 1);
        }
    }
}
