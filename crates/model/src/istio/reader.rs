//! Checked reading: every error of a document is collected, each with its place and what would be right.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::node::{self, Entry, Node, PlainKind, Style, Value};
use super::scalar::{self, PromDuration};
use super::shape::Shape;
use super::support::Support;

/// Errors that are kept of one load; a file that is something else entirely would give one for each line.
pub const ERRORS_MAX: usize = 1_000;

/// What sort of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No YAML, or YAML beyond the bounds.
    Syntax,
    /// A key that the kind does not have.
    UnknownKey,
    WrongType,
    /// A value out of its range or list of words.
    BadValue,
    /// A field that must be there.
    Missing,
    /// Fields that exclude each other.
    Conflict,
    /// A field that is known and does not act yet.
    NotSupported,
    /// A kind that is not known or does not act yet.
    KindNotSupported,
    /// A second document of the same kind, namespace and name.
    Duplicate,
}

/// One error of reading: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    pub kind: ErrorKind,
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// `Kind namespace/name`, as far as known.
    pub document: String,
    /// As `spec.trafficPolicy.connectionPool.tcp.maxConnections`; empty for the document as a whole.
    pub field: String,
    /// One sentence: what is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.document.is_empty() {
            write!(f, "{}: ", self.document)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ReadError {}

/// Where reading is, and what was found wrong so far.
pub(crate) struct Cx {
    pub(crate) file: Arc<str>,
    pub(crate) document: String,
    pub(crate) errors: Vec<ReadError>,
    /// The file was found in a folder, where other programs' files are too.
    pub(crate) found: bool,
    /// Errors beyond [`ERRORS_MAX`].
    pub(crate) left_out: usize,
    path: String,
    line: u32,
    column: u32,
}

impl Cx {
    pub(crate) fn new(file: Arc<str>) -> Self {
        Self {
            file,
            document: String::new(),
            errors: Vec::new(),
            found: false,
            left_out: 0,
            path: String::new(),
            line: 1,
            column: 1,
        }
    }

    /// Starts at the root of a document.
    pub(crate) fn start(&mut self, line: u32, column: u32) {
        self.document.clear();
        self.path.clear();
        (self.line, self.column) = (line, column);
    }

    pub(crate) fn error(&mut self, kind: ErrorKind, reason: impl Into<String>) {
        if self.errors.len() >= ERRORS_MAX {
            self.left_out += 1;
            return;
        }
        self.errors.push(ReadError {
            kind,
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            document: self.document.clone(),
            field: self.path.clone(),
            reason: reason.into(),
        });
    }

    /// An error at a field below this one. The line stays that of the enclosing field.
    pub(crate) fn error_at(&mut self, field: &str, kind: ErrorKind, reason: impl Into<String>) {
        let length = self.path.len();
        self.push(field);
        self.error(kind, reason);
        self.path.truncate(length);
    }

    pub(crate) fn bad(&mut self, reason: impl Into<String>) {
        self.error(ErrorKind::BadValue, reason);
    }

    pub(crate) fn missing(&mut self, field: &str, reason: impl Into<String>) {
        self.error_at(field, ErrorKind::Missing, reason);
    }

    fn push(&mut self, key: &str) {
        if !self.path.is_empty() && !key.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(key);
    }

    /// Runs `read` with the path and the place of `node`.
    pub(crate) fn within<T>(&mut self, key: &str, at: (u32, u32), read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.push(key);
        self.standing_at(length, at, read)
    }

    /// As [`Cx::within`] for an item of a list.
    pub(crate) fn within_item<T>(&mut self, index: usize, at: (u32, u32), read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push('[');
        self.path.push_str(itoa::Buffer::new().format(index));
        self.path.push(']');
        self.standing_at(length, at, read)
    }

    fn standing_at<T>(&mut self, length: usize, at: (u32, u32), read: impl FnOnce(&mut Self) -> T) -> T {
        let (line, column) = (self.line, self.column);
        (self.line, self.column) = at;
        let result = read(self);
        self.path.truncate(length);
        (self.line, self.column) = (line, column);
        result
    }

    pub(crate) fn wrong_type(&mut self, node: &Node<'_>, wanted: &str) {
        let found = node.describe();
        self.error(ErrorKind::WrongType, format!("this is {found}; write {wanted}"));
    }
}

/// What can be read from a node.
pub(crate) trait FromNode: Sized {
    /// What a check of the field looks at: the value itself, or what an `Option` holds.
    type Checked;

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self>;

    /// The value of a field that is not written; `None` when it must be.
    fn absent() -> Option<Self> {
        None
    }

    fn checked(&self) -> Option<&Self::Checked>;

    /// Adds what stands below this type to the table of supported fields.
    fn support(_: &mut Support) {}
}

/// Most entries of one record. Each record knows fewer keys than this.
const RECORD_ENTRIES_MAX: usize = 128;

/// The entries of a mapping that is read key by key.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry<'n>],
    taken: u128,
}

impl<'n> Fields<'n> {
    pub(crate) fn open(node: &'n Node<'n>, cx: &mut Cx) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self { entries, taken: 0 }),
            _ => {
                cx.wrong_type(node, "a mapping");
                None
            }
        }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<&'n Entry<'n>> {
        let position = self.entries.iter().take(RECORD_ENTRIES_MAX).position(|entry| entry.key == key)?;
        self.taken |= 1 << position;
        self.entries.get(position)
    }

    /// Reads one field and checks it. `later` refuses it by name.
    pub(crate) fn field<T: FromNode>(
        &mut self,
        key: &str,
        later: Option<&str>,
        cx: &mut Cx,
        check: impl FnOnce(&T::Checked, &mut Cx),
    ) -> Option<T> {
        let Some(entry) = self.take(key).filter(|entry| !entry.node.is_null()) else {
            let value = T::absent();
            if value.is_none() {
                cx.missing(key, "this field must be set");
            }
            return value;
        };
        cx.within(key, (entry.line, entry.column), |cx| {
            if let Some(what) = later {
                cx.error(ErrorKind::NotSupported, format!("not supported yet: {what}; remove the field"));
                return T::absent();
            }
            let value = T::read(&entry.node, cx)?;
            if let Some(value) = value.checked() {
                check(value, cx);
            }
            Some(value)
        })
    }

    /// Checks the type of a field of which nothing is kept.
    pub(crate) fn shaped(&mut self, key: &str, shape: Shape, cx: &mut Cx) -> bool {
        let Some(entry) = self.take(key).filter(|entry| !entry.node.is_null()) else { return true };
        cx.within(key, (entry.line, entry.column), |cx| shape(&entry.node, cx))
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self, known: &[&str], refused: &[(&str, &str)], ignored: &[&str], cx: &mut Cx) {
        for (position, entry) in self.entries.iter().enumerate() {
            if position < RECORD_ENTRIES_MAX && self.taken & (1 << position) != 0 {
                continue;
            }
            let key = entry.key.as_ref();
            if ignored.contains(&key) {
                continue;
            }
            cx.within(key, (entry.line, entry.column), |cx| {
                if let Some((_, what)) = refused.iter().find(|(name, _)| *name == key) {
                    cx.error(ErrorKind::NotSupported, format!("not supported yet: {what}; remove the field"));
                    return;
                }
                let all = known.iter().copied().chain(refused.iter().map(|(name, _)| *name));
                let reason = match nearest(key, all) {
                    Some(near) => format!("there is no such field; did you mean {near}?"),
                    None => format!("there is no such field here; known are {}", known.join(", ")),
                };
                cx.error(ErrorKind::UnknownKey, reason);
            });
        }
    }
}

/// The candidate with the fewest edits, when that is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are not typing mistakes, and would cost quadratic time.
    if word.len() > 64 {
        return None;
    }
    let bound = 1 + word.chars().count() / 4;
    candidates.map(|c| (edits(word, c), c)).filter(|(n, _)| *n <= bound).min_by_key(|(n, _)| *n).map(|(_, c)| c)
}

/// The end of a sentence about a word that is not known.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// Levenshtein's distance, letters compared without case.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != *y)).min(left + 1).min(above + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

impl<T: FromNode> FromNode for Option<T> {
    type Checked = T;

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        T::read(node, cx).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn checked(&self) -> Option<&T> {
        self.as_ref()
    }

    fn support(table: &mut Support) {
        T::support(table);
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    type Checked = Self;

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let Value::List(items) = &node.value else {
            cx.wrong_type(node, "a list, each item on a line that starts with a dash");
            return None;
        };
        let mut found = Self::with_capacity(items.len());
        let mut whole = true;
        for (index, item) in items.iter().enumerate() {
            match cx.within_item(index, (item.line, item.column), |cx| T::read(item, cx)) {
                Some(value) => found.push(value),
                None => whole = false,
            }
        }
        whole.then_some(found)
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn support(table: &mut Support) {
        T::support(table);
    }
}

/// What can be the key of a map.
pub(crate) trait FromKey: Sized + Ord {
    fn from_key(key: &str) -> Result<Self, &'static str>;
}

impl FromKey for String {
    fn from_key(key: &str) -> Result<Self, &'static str> {
        Ok(key.to_owned())
    }
}

impl FromKey for u16 {
    fn from_key(key: &str) -> Result<Self, &'static str> {
        key.parse().ok().filter(|n| *n != 0).ok_or("a port is a number from 1 to 65535")
    }
}

impl<K: FromKey, T: FromNode> FromNode for BTreeMap<K, T> {
    type Checked = Self;

    fn read(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            cx.wrong_type(node, "a mapping of names to values");
            return None;
        };
        let mut found = Self::new();
        let mut whole = true;
        for entry in entries {
            let read = cx.within(&entry.key, (entry.line, entry.column), |cx| {
                let key = K::from_key(&entry.key).map_err(|reason| cx.bad(reason)).ok();
                // Labels and the like: a word that looks like text and stops the whole document elsewhere.
                if let Value::Scalar { text, style: Style::Plain } = &entry.node.value
                    && node::is_old_boolean(text)
                {
                    let reason = format!("this is a boolean for kubectl (YAML 1.1); write it in quotes: \"{text}\"");
                    cx.error(ErrorKind::WrongType, reason);
                    return None;
                }
                let value = T::read(&entry.node, cx);
                key.zip(value)
            });
            match read {
                Some((key, value)) => {
                    found.insert(key, value);
                }
                None => whole = false,
            }
        }
        whole.then_some(found)
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn checked(&self) -> Option<&Self> {
        Some(self)
    }

    fn support(table: &mut Support) {
        T::support(table);
    }
}

/// Text of a scalar that is meant as a string.
pub(crate) fn text<'n>(node: &'n Node<'_>, cx: &mut Cx, wanted: &str) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, style } if *style != Style::Plain || node::plain_kind(text) == PlainKind::Text => {
            Some(text)
        }
        Value::Scalar { text, .. } if wanted == "a string" && !text.is_empty() => {
            cx.error(ErrorKind::WrongType, format!("this is {}; write it in quotes: \"{text}\"", node.describe()));
            None
        }
        _ => {
            cx.wrong_type(node, wanted);
            None
        }
    }
}

/// Declares how a type without parts is read.
macro_rules! leaf {
    ($ty:ty, |$node:ident, $cx:ident| $body:expr) => {
        impl FromNode for $ty {
            type Checked = Self;

            fn read($node: &Node<'_>, $cx: &mut Cx) -> Option<Self> {
                $body
            }

            fn checked(&self) -> Option<&Self> {
                Some(self)
            }
        }
    };
}
pub(crate) use leaf;

/// Reads a leaf from its text; the message of `parse` says what would be right.
pub(crate) fn parsed<T>(
    node: &Node<'_>,
    cx: &mut Cx,
    wanted: &str,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Option<T> {
    let text = match &node.value {
        Value::Scalar { text, .. } if !node.is_null() => text.as_ref(),
        _ => {
            cx.wrong_type(node, wanted);
            return None;
        }
    };
    parse(text).map_err(|reason| cx.bad(format!("{text:?} does not do here: {reason}"))).ok()
}

leaf!(String, |node, cx| text(node, cx, "a string").map(str::to_owned));
leaf!(Duration, |node, cx| parsed(node, cx, "a duration such as 30ms", scalar::duration));
leaf!(PromDuration, |node, cx| parsed(node, cx, "a duration such as 5m", scalar::prometheus_duration)
    .map(PromDuration));
leaf!(IpAddr, |node, cx| parsed(node, cx, "an IP address", |text| text.parse().map_err(|_| "write an IP address")));

leaf!(bool, |node, cx| {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } if node::boolean(text).is_some() => node::boolean(text),
        _ => {
            cx.wrong_type(node, "true or false, without quotes");
            None
        }
    }
});

leaf!(f64, |node, cx| {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } if node::plain_kind(text) == PlainKind::Number => {
            let number = node::integer(text).map(|n| n as Self).or_else(|| text.parse().ok());
            number.filter(|n: &Self| n.is_finite()).or_else(|| {
                cx.bad(format!("{text} is too large a number"));
                None
            })
        }
        _ => {
            cx.wrong_type(node, "a number, without quotes");
            None
        }
    }
});

macro_rules! whole_number {
    ($($ty:ty),*) => {
        $( leaf!($ty, |node, cx| {
            let number = match &node.value {
                Value::Scalar { text, style: Style::Plain } => node::integer(text),
                _ => None,
            };
            let Some(number) = number else {
                cx.wrong_type(node, "a whole number, without quotes");
                return None;
            };
            <$ty>::try_from(number).map_err(|_| {
                // The range of the field is narrower than its type's, and its check's to say.
                let right = if number < 0 { "0 or more" } else { "a smaller number" };
                cx.bad(format!("{number} is out of range; write {right}"));
            }).ok()
        }); )*
    };
}
whole_number!(u16, u32, u64, i32);

leaf!(serde_json::Value, |node, cx| {
    use serde_json::Value as Json;
    match &node.value {
        Value::List(items) => {
            let items: Option<Vec<Json>> = items.iter().map(|item| Json::read(item, cx)).collect();
            items.map(Json::Array)
        }
        Value::Map(entries) => {
            let mut object = serde_json::Map::with_capacity(entries.len());
            for entry in entries {
                object.insert(entry.key.clone().into_owned(), Json::read(&entry.node, cx)?);
            }
            Some(Json::Object(object))
        }
        Value::Scalar { text, style: Style::Plain } => match node::plain_kind(text) {
            PlainKind::Null => Some(Json::Null),
            PlainKind::Boolean => node::boolean(text).map(Json::Bool),
            PlainKind::Text => Some(Json::String(text.clone().into_owned())),
            PlainKind::Number => {
                let whole = node::integer(text);
                let number =
                    match (whole.and_then(|n| u64::try_from(n).ok()), whole.and_then(|n| i64::try_from(n).ok())) {
                        (Some(n), _) => Some(n.into()),
                        (_, Some(n)) => Some(n.into()),
                        _ => text.parse().ok().and_then(serde_json::Number::from_f64),
                    };
                // A number beyond 64 bits keeps its text: Envoy's JSON takes numbers as strings too.
                Some(number.map_or_else(|| Json::String(text.clone().into_owned()), Json::Number))
            }
        },
        Value::Scalar { text, .. } => Some(Json::String(text.clone().into_owned())),
    }
});
