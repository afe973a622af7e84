//! A small tree of YAML nodes with positions, built from parser events.
//!
//! Documents are cut at their `---` lines first: a syntax error spoils one document, not the file.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Deepest nesting. Istio's own kinds end at 12; Envoy messages within patches may go further.
pub(crate) const DEPTH_MAX: usize = 100;
/// Nodes that aliases may add to one document. Stops a small text from growing without end.
pub(crate) const ALIAS_NODES_MAX: usize = 10_000;
/// Largest file in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node<'a> {
    /// From 1.
    pub(crate) line: u32,
    /// From 1.
    pub(crate) column: u32,
    pub(crate) value: Value<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Scalar { text: Cow<'a, str>, style: Style },
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

/// Only a plain scalar can be a number, a boolean or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    /// `|` or `>`: the text starts on the next line.
    Block,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, str>,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) node: Node<'a>,
}

impl Node<'_> {
    pub(crate) fn empty_map(line: u32) -> Node<'static> {
        Node { line, column: 1, value: Value::Map(Vec::new()) }
    }

    /// Written as `null`, `~` or nothing: the same as not written.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, style: Style::Plain }
            if matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Recursion is bounded by `DEPTH_MAX`.
    fn into_owned(self) -> Node<'static> {
        let value = match self.value {
            Value::Scalar { text, style } => Value::Scalar { text: Cow::Owned(text.into_owned()), style },
            Value::List(items) => Value::List(items.into_iter().map(Node::into_owned).collect()),
            Value::Map(entries) => Value::Map(entries.into_iter().map(Entry::into_owned).collect()),
        };
        Node { line: self.line, column: self.column, value }
    }

    /// What a reader of an error knows it as.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Map(_) => "a mapping",
            Value::List(_) => "a list",
            Value::Scalar { style: Style::Plain, text } => match plain_kind(text) {
                PlainKind::Null => "nothing",
                PlainKind::Boolean => "a boolean",
                PlainKind::Number => "a number",
                PlainKind::Text => "a string",
            },
            Value::Scalar { .. } => "a string",
        }
    }
}

impl Entry<'_> {
    fn into_owned(self) -> Entry<'static> {
        let key = Cow::Owned(self.key.into_owned());
        Entry { key, line: self.line, column: self.column, node: self.node.into_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlainKind {
    Null,
    Boolean,
    Number,
    Text,
}

/// What a plain scalar is under YAML 1.2's core schema: `yes`, `no`, `on` and `off` are text.
pub(crate) fn plain_kind(text: &str) -> PlainKind {
    match text.as_bytes().first() {
        None => PlainKind::Null,
        Some(b'~' | b'n' | b'N') if matches!(text, "~" | "null" | "Null" | "NULL") => PlainKind::Null,
        Some(b't' | b'T' | b'f' | b'F') if boolean(text).is_some() => PlainKind::Boolean,
        Some(b'0'..=b'9' | b'-' | b'+' | b'.') if is_number(text) => PlainKind::Number,
        _ => PlainKind::Text,
    }
}

/// Words that are booleans for readers of YAML 1.1, kubectl among them, and text for those of 1.2.
pub(crate) fn is_old_boolean(text: &str) -> bool {
    let lower = || ["yes", "no", "on", "off"].into_iter().find(|word| word.eq_ignore_ascii_case(text));
    text.len() <= 3
        && lower().is_some_and(|word| {
            let upper = word.to_ascii_uppercase();
            text == word || text == upper || (text.get(..1) == upper.get(..1) && text.get(1..) == word.get(1..))
        })
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    integer(text).is_some()
        || (text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
            && text.parse::<f64>().is_ok())
}

/// Decimal, `0x` and `0o` integers.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (digits, radix) = match (digits.strip_prefix("0x"), digits.strip_prefix("0o")) {
        (Some(hex), _) => (hex, 16),
        (_, Some(octal)) => (octal, 8),
        _ => (digits, 10),
    };
    if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// A place where the text is no YAML that is accepted here.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) reason: String,
}

/// One `---` document of a file: its text and the number of lines before it.
pub(crate) struct Piece<'a> {
    pub(crate) text: &'a str,
    pub(crate) lines_before: u32,
}

/// Cuts a file at its `---` lines. No scalar can hold such a line, so this never cuts a value in two
/// (YAML 1.2, 9.1.2). Directives (`%YAML 1.2`) belong to the document whose `---` line follows them (9.1.1).
pub(crate) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let (mut at, mut line) = (0, 0u32);
    // Before a document there may be comments and directives; with a directive, the marker that follows starts nothing new.
    let (mut is_before, mut has_directive) = (true, false);
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1);
    for end in ends.chain([text.len()]) {
        let full = text.get(at..end).unwrap_or_default();
        if full.is_empty() {
            // What follows the last line's end.
            break;
        }
        let is_line = |word: &str| {
            full.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if is_line("---") {
            if at > start && !has_directive {
                found.push(Piece { text: text.get(start..at).unwrap_or_default(), lines_before: start_line });
                (start, start_line) = (at, line);
            }
            (is_before, has_directive) = (false, false);
        } else if is_line("...") {
            is_before = true;
        } else if is_before && full.starts_with('%') {
            has_directive = true;
        } else if is_before && !full.trim().is_empty() && !full.starts_with('#') {
            is_before = false;
        }
        at = end;
        line = line.saturating_add(1);
    }
    if at > start {
        found.push(Piece { text: text.get(start..at).unwrap_or_default(), lines_before: start_line });
    }
    found
}

enum Open<'a> {
    List(Vec<Node<'a>>, Place),
    Map(Vec<Entry<'a>>, Option<(Cow<'a, str>, Place)>, Place, Keys<'a>),
}

/// Entries up to which comparing each key is quicker than hashing.
const KEYS_COMPARED_MAX: usize = 32;

/// The keys of a mapping that is being read. A ConfigMap may have a hundred thousand, and comparing each with each would take
/// seconds.
#[derive(Default)]
pub(crate) struct Keys<'a> {
    /// Those of the first entries, once there are many.
    seen: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// Whether none of the entries has the key.
    pub(crate) fn is_new(&mut self, entries: &[Entry<'a>], key: &str) -> bool {
        if entries.len() <= KEYS_COMPARED_MAX {
            return !entries.iter().any(|entry| entry.key == key);
        }
        let unseen = entries.get(self.seen.len()..).unwrap_or_default();
        self.seen.extend(unseen.iter().map(|entry| entry.key.clone()));
        !self.seen.contains(key)
    }
}

#[derive(Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
    anchor: usize,
}

/// The documents of one piece (more than one only with `...` lines); empty ones are left out.
pub(crate) fn parse<'a>(piece: &Piece<'a>) -> Result<Vec<Node<'a>>, SyntaxError> {
    match super::fast::parse(piece) {
        Some(root) => Ok(root.into_iter().filter(|root| !root.is_null()).collect()),
        None => parse_fully(piece).or_else(|error| match with_whole_characters(piece.text) {
            Some(text) => {
                let roots = parse_fully(&Piece { text: &text, lines_before: piece.lines_before })?;
                Ok(roots.into_iter().map(Node::into_owned).collect())
            }
            None => Err(error),
        }),
    }
}

/// JSON writes a character beyond U+FFFF as two escapes (RFC 8259, 7), which YAML does not know: as its one, where there are such.
/// In JSON a backslash stands in strings only.
fn with_whole_characters(text: &str) -> Option<String> {
    if !text.contains("\\u") || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return None;
    }
    let unit = |at: &str| u16::from_str_radix(at.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let (mut out, mut rest, mut found) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let second = escape.get(6..).and_then(unit);
        let whole = unit(escape).zip(second).and_then(|(first, second)| {
            char::decode_utf16([first, second]).next()?.ok().filter(|c| u32::from(*c) > 0xffff)
        });
        let length = match whole {
            Some(c) => {
                out.push_str(&format!("\\U{:08X}", u32::from(c)));
                found = true;
                12
            }
            // The escaped character, which may be a backslash itself.
            None => {
                out.push_str(escape.get(..2)?);
                2
            }
        };
        rest = escape.get(length..)?;
    }
    out.push_str(rest);
    found.then_some(out)
}

/// As [`parse`], always with the full parser.
pub(crate) fn parse_fully<'a>(piece: &Piece<'a>) -> Result<Vec<Node<'a>>, SyntaxError> {
    let mut documents = Vec::new();
    let mut builder = Builder { stack: Vec::new(), anchors: HashMap::new(), alias_nodes: 0, root: None };
    let mut parser = Parser::new_from_str(piece.text);
    let place = |span: &Span, anchor| Place {
        line: u32::try_from(span.start.line()).unwrap_or(u32::MAX).saturating_add(piece.lines_before),
        column: u32::try_from(span.start.col()).unwrap_or(u32::MAX).saturating_add(1),
        anchor,
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(found) => found,
            Err(error) => {
                let at = place(&Span::empty(*error.marker()), 0);
                return Err(SyntaxError {
                    line: at.line,
                    column: at.column,
                    reason: format!("the YAML is broken: {}", error.info()),
                });
            }
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let at = place(&span, anchor);
                if let Some(tag) = tag.filter(|t| !(t.is_yaml_core_schema() && t.suffix == "str")) {
                    return Err(at.error(format!("the tag {tag} is not accepted; write the value without it")));
                }
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                    _ => Style::Quoted,
                };
                builder.scalar(text, style, at)?;
            }
            Event::SequenceStart(anchor, _) => builder.open(Open::List(Vec::new(), place(&span, anchor)))?,
            Event::MappingStart(anchor, _) => {
                builder.open(Open::Map(Vec::new(), None, place(&span, anchor), Keys::default()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.close()?,
            Event::Alias(anchor) => builder.alias(anchor, place(&span, 0))?,
            Event::DocumentEnd => {
                documents.extend(builder.root.take().filter(|root| !root.is_null()));
                builder.anchors.clear();
                builder.alias_nodes = 0;
            }
            _ => {}
        }
    }
    Ok(documents)
}

impl Place {
    fn error(self, reason: String) -> SyntaxError {
        SyntaxError { line: self.line, column: self.column, reason }
    }
}

struct Builder<'a> {
    stack: Vec<Open<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    alias_nodes: usize,
    root: Option<Node<'a>>,
}

impl<'a> Builder<'a> {
    fn open(&mut self, open: Open<'a>) -> Result<(), SyntaxError> {
        let (Open::List(_, place) | Open::Map(_, _, place, _)) = &open;
        if self.stack.len() >= DEPTH_MAX {
            return Err(place.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        if let Some(Open::Map(_, None, ..)) = self.stack.last() {
            return Err(place.error("a key must be a string".to_owned()));
        }
        self.stack.push(open);
        Ok(())
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: Style, at: Place) -> Result<(), SyntaxError> {
        if let Some(Open::Map(entries, key @ None, _, keys)) = self.stack.last_mut() {
            if !keys.is_new(entries, &text) {
                return Err(at.error(format!("the key {text} is written twice; remove one")));
            }
            *key = Some((text, at));
            return Ok(());
        }
        self.place(Node { line: at.line, column: at.column, value: Value::Scalar { text, style } }, at.anchor)
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(at.error("an alias cannot stand within its own anchor".to_owned()));
        };
        if let Some(Open::Map(_, None, ..)) = self.stack.last() {
            return Err(at.error("a key must be a string".to_owned()));
        }
        self.alias_nodes += count(node);
        if self.alias_nodes > ALIAS_NODES_MAX {
            return Err(at.error(format!("aliases add more than {ALIAS_NODES_MAX} values to the document")));
        }
        let depth = depth(node);
        if self.stack.len() + depth > DEPTH_MAX {
            return Err(at.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let node = node.clone();
        self.place(node, 0)
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        match self.stack.pop() {
            Some(Open::List(items, at)) => {
                self.place(Node { line: at.line, column: at.column, value: Value::List(items) }, at.anchor)
            }
            Some(Open::Map(entries, _, at, _)) => {
                let entries = if entries.iter().any(|e| e.key == MERGE_KEY) { merged(entries)? } else { entries };
                self.place(Node { line: at.line, column: at.column, value: Value::Map(entries) }, at.anchor)
            }
            None => Ok(()),
        }
    }

    fn place(&mut self, node: Node<'a>, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            // The copy that the anchor keeps counts as well: nested anchors copy each level again.
            self.alias_nodes += count(&node);
            if self.alias_nodes > ALIAS_NODES_MAX {
                let reason = format!("anchors hold more than {ALIAS_NODES_MAX} values");
                return Err(SyntaxError { line: node.line, column: node.column, reason });
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(items, _)) => items.push(node),
            Some(Open::Map(entries, key, ..)) => {
                if let Some((key, at)) = key.take() {
                    entries.push(Entry { key, line: at.line, column: at.column, node });
                }
            }
        }
        Ok(())
    }
}

/// The key under which YAML 1.1 takes over the entries of other mappings (yaml.org/type/merge.html). `kubectl` reads it so.
const MERGE_KEY: &str = "<<";

/// Puts the entries of the merged mappings where `<<` stands. What is written out wins over what is merged, and of several
/// mappings the earlier. The copies were counted when their alias was read.
fn merged(entries: Vec<Entry<'_>>) -> Result<Vec<Entry<'_>>, SyntaxError> {
    let mut all: Vec<Entry<'_>> = Vec::with_capacity(entries.len());
    let mut own: HashSet<Cow<'_, str>> = entries.iter().map(|entry| entry.key.clone()).collect();
    own.remove(MERGE_KEY);
    for entry in entries {
        if entry.key != MERGE_KEY {
            all.push(entry);
            continue;
        }
        let sources = match entry.node.value {
            Value::List(items) => items,
            _ => vec![entry.node],
        };
        for source in sources {
            let Value::Map(entries) = source.value else {
                let reason = "<< takes over the entries of mappings; write an alias of one, as <<: *name".to_owned();
                return Err(SyntaxError { line: entry.line, column: entry.column, reason });
            };
            for entry in entries {
                if own.insert(entry.key.clone()) {
                    all.push(entry);
                }
            }
        }
    }
    Ok(all)
}

/// Recursion is bounded by `DEPTH_MAX`: no deeper tree is ever built.
fn count(node: &Node<'_>) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|e| count(&e.node)).sum(),
    }
}

fn depth(node: &Node<'_>) -> usize {
    match &node.value {
        Value::Scalar { .. } => 0,
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|e| depth(&e.node)).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Node<'_>>, SyntaxError> {
        let mut found = Vec::new();
        for piece in pieces(text) {
            found.extend(parse(&piece)?);
        }
        Ok(found)
    }

    #[test]
    fn documents_and_their_lines() {
        let found = all("# only a comment\n---\na: 1\n--- # next\n\nb:\n- x\n").expect("it is YAML");
        assert_eq!(found.iter().map(|n| n.line).collect::<Vec<_>>(), [3, 6]);
    }

    #[test]
    fn duplicate_keys_are_refused_where_they_stand() {
        let error = all("a: 1\nb: 2\na: 3\n").expect_err("a stands twice");
        assert_eq!((error.line, error.column), (3, 1));
    }

    #[test]
    fn a_directive_belongs_to_the_document_that_follows() {
        for text in ["%YAML 1.2\n---\na: 1\n", "# note\n%YAML 1.2\n# note\n---\na: 1\n---\nb: 2\n"] {
            let found = all(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
            assert_eq!(found.len(), text.matches("---").count(), "{text:?}");
        }
        let found = all("a: 1\n...\n%YAML 1.2\n---\nb: 2\n").expect("it is YAML");
        assert_eq!(found.iter().map(|n| n.line).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn line_ends_of_windows_and_byte_order_marks() {
        let plain = all("a: 1\n---\nb:\n- c: |\n    x\n    y\n").expect("it is YAML");
        let dos = all("\u{feff}a: 1\r\n---\r\nb:\r\n- c: |\r\n    x\r\n    y\r\n").expect("it is YAML");
        assert_eq!(plain, dos);
    }

    #[test]
    fn merge_keys_take_over_entries() {
        let text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\none:\n  <<: *base\n  b: 5\nboth: {<<: [*base, *more], d: 6}\n";
        let found = all(text).expect("it is YAML");
        let Value::Map(entries) = &found[0].value else { panic!("a mapping") };
        let shown = |key: &str| {
            let entry = entries.iter().find(|e| e.key == key).expect("the key");
            let Value::Map(entries) = &entry.node.value else { panic!("a mapping") };
            let text = |node: &Node<'_>| match &node.value {
                Value::Scalar { text, .. } => text.to_string(),
                _ => String::new(),
            };
            entries.iter().map(|e| format!("{}={}", e.key, text(&e.node))).collect::<Vec<_>>()
        };
        assert_eq!(shown("one"), ["a=1", "b=5"]);
        assert_eq!(shown("both"), ["a=1", "b=2", "c=4", "d=6"]);
        assert!(all("a: {<<: 1}\n").expect_err("no mapping").reason.contains("alias"));
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let before = i - 1;
            text.push_str(&format!("a{i}: &a{i} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n"));
        }
        assert!(all(&text).expect_err("too many").reason.contains("more than"));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(all(&"[".repeat(5_000)).is_err());
        assert!(all(&"- ".repeat(5_000)).is_err());
    }

    #[test]
    fn plain_scalars_under_the_core_schema() {
        for text in ["yes", "no", "on", "off", "y", "1.2.3", "v1", "0x", "1e", "."] {
            assert_eq!(plain_kind(text), PlainKind::Text, "{text}");
        }
        for text in ["1", "-1", "0x1F", "1.5", "1e3", ".5"] {
            assert_eq!(plain_kind(text), PlainKind::Number, "{text}");
        }
        assert_eq!(plain_kind("True"), PlainKind::Boolean);
    }
}
