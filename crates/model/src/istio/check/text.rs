//! Checks of texts that go into a request, a response or a matcher: header values, paths, regular expressions.

use std::collections::BTreeMap;

use regex_syntax::ast;

use super::super::reader::{Cx, ErrorKind};
use super::super::virtual_service::StringMatch;
use super::values::{header_name, is_token};
use crate::snapshot::HeaderValue;

/// Largest regular expression once compiled; Envoy bounds its own in the same way.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Longest text of a regular expression: Istio's own bound.
const REGEX_TEXT_BYTES_MAX: usize = 1_024;

/// As Istio, which refuses every control character but the tab.
fn breaks_a_line(value: &str) -> bool {
    value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f)
}

/// A text that becomes (a part of) a header as it is.
pub(crate) fn header_text(value: &str, cx: &mut Cx) {
    if breaks_a_line(value) {
        cx.bad("this holds a line break or another control character, which a header cannot carry; remove it");
    }
}

/// A text that becomes a part of the request line.
pub(crate) fn path_text(value: &str, cx: &mut Cx) {
    if value.contains(' ') || breaks_a_line(value) {
        cx.bad("this holds a space or a control character, which a request line cannot carry; write %20 for a space");
    }
}

/// Values with Envoy's format commands (`%REQ(x-id)%`), understood by whoever reads them when they are sent.
pub(crate) fn header_map(values: &BTreeMap<String, String>, cx: &mut Cx) {
    for (name, value) in values {
        header_name(name, cx);
        if breaks_a_line(value) {
            let reason = format!(
                "the value of {name} holds a line break or another control character, which a header cannot carry; remove it"
            );
            cx.bad(reason);
        }
        if let Err(reason) = HeaderValue::parse(value) {
            cx.error_at(name, ErrorKind::BadValue, reason);
        }
    }
}

/// Methods that Istio takes in a corsPolicy.
const CORS_METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(crate) fn cors_methods(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate().filter(|(_, value)| !CORS_METHODS.contains(&value.as_str())) {
        let reason = format!("{value:?} is not one of {}", CORS_METHODS.join(", "));
        cx.error_at(&format!("[{index}]"), ErrorKind::BadValue, reason);
    }
}

pub(crate) fn cors_headers(values: &[String], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate().filter(|(_, value)| *value != "*" && !is_token(value)) {
        let reason = format!("{value:?} is no name of a header; use letters, digits and dashes, or * for all");
        cx.error_at(&format!("[{index}]"), ErrorKind::BadValue, reason);
    }
}

/// What is wrong with a match, as far as not every field takes it.
fn wrong_match(value: &StringMatch) -> Option<&'static str> {
    match value {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            Some("an empty prefix says nothing; write {} where presence is meant")
        }
        StringMatch::Regex(regex) if regex == "*" => {
            Some("\"*\" is no regular expression (RE2 syntax); write .* for any text")
        }
        _ => None,
    }
}

fn string_match_at(field: &str, value: &StringMatch, cx: &mut Cx) {
    if let Some(reason) = wrong_match(value) {
        cx.error_at(field, ErrorKind::BadValue, reason);
    }
}

/// A match of a text that is always there.
pub(crate) fn string_match(value: &StringMatch, cx: &mut Cx) {
    if let Some(reason) = wrong_match(value) {
        cx.bad(reason);
    }
}

/// A match of the path, which may have an empty prefix.
pub(crate) fn path_match(value: &StringMatch, cx: &mut Cx) {
    if !matches!(value, StringMatch::Prefix(_)) {
        string_match(value, cx);
    }
}

pub(crate) fn string_matches(values: &BTreeMap<String, StringMatch>, cx: &mut Cx) {
    values.iter().for_each(|(name, value)| string_match_at(name, value, cx));
}

/// As [`string_matches`], but `regex: "*"` means presence here, as in Istio.
pub(crate) fn absence_matches(values: &BTreeMap<String, StringMatch>, cx: &mut Cx) {
    for (name, value) in values.iter().filter(|(_, value)| !value.is_presence()) {
        string_match_at(name, value, cx);
    }
}

pub(crate) fn origin_matches(values: &[StringMatch], cx: &mut Cx) {
    for (index, value) in values.iter().enumerate() {
        let empty = matches!(value, StringMatch::Exact(text) if text.is_empty()) || *value == StringMatch::Present;
        if empty {
            let reason = "an origin must be named; write exact, prefix or regex with a text, such as regex: .*";
            cx.error_at(&format!("[{index}]"), ErrorKind::BadValue, reason);
        }
        string_match_at(&format!("[{index}]"), value, cx);
    }
}

pub(crate) fn compile(pattern: &str) -> Result<regex::Regex, String> {
    regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build().map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim().to_owned()
    })
}

/// RE2 syntax, as Istio and Envoy read it.
pub(crate) fn regex(pattern: &str, cx: &mut Cx) {
    if pattern.is_empty() {
        cx.bad("an empty expression; write one such as .*, or remove the field");
    } else if pattern.len() > REGEX_TEXT_BYTES_MAX {
        cx.bad(format!("the expression is longer than {REGEX_TEXT_BYTES_MAX} bytes, Istio's bound; make it shorter"));
    } else if let Err(error) = compile(pattern) {
        cx.bad(format!("{pattern:?} is no regular expression (RE2 syntax): {error}"));
    } else if let Some(what) = beyond_re2(pattern) {
        cx.bad(format!("{pattern:?} is no regular expression (RE2 syntax): {what}"));
    }
}

/// As [`regex`], but a lone star passes: what it means is for the field to say.
pub(crate) fn regex_or_star(pattern: &str, cx: &mut Cx) {
    if pattern != "*" {
        regex(pattern, cx);
    }
}

/// What the expression uses that this program's matcher knows and RE2 does not, or reads otherwise.
pub(crate) fn beyond_re2(pattern: &str) -> Option<&'static str> {
    let tree = ast::parse::Parser::new().parse(pattern).ok()?;
    ast::visit(&tree, Beyond).err()
}

struct Beyond;

/// Most repetitions that RE2 takes.
const REPETITIONS_MAX: u32 = 1_000;
/// General categories by their short names, the only ones that RE2 knows.
const CATEGORIES: [&str; 38] = [
    "Any", "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs", "Cn",
];

impl Beyond {
    fn flags(flags: &ast::Flags) -> Result<(), &'static str> {
        let known = |item: &ast::FlagsItem| match item.kind {
            ast::FlagsItemKind::Negation => true,
            ast::FlagsItemKind::Flag(flag) => {
                use ast::Flag::{CaseInsensitive, DotMatchesNewLine, MultiLine, SwapGreed};
                matches!(flag, CaseInsensitive | MultiLine | DotMatchesNewLine | SwapGreed)
            }
        };
        if flags.items.iter().all(known) { Ok(()) } else { Err("it has flags other than i, m, s and U") }
    }

    fn class(class: &ast::ClassUnicode) -> Result<(), &'static str> {
        let known = match &class.kind {
            ast::ClassUnicodeKind::OneLetter(_) => true,
            ast::ClassUnicodeKind::Named(name) => {
                CATEGORIES.contains(&name.as_str())
                    || (name.starts_with(|c: char| c.is_ascii_uppercase())
                        && regex::Regex::new(&format!(r"\p{{sc={name}}}")).is_ok())
            }
            ast::ClassUnicodeKind::NamedValue { .. } => false,
        };
        if known { Ok(()) } else { Err("of \\p{…} it knows scripts and short categories such as Lu only") }
    }

    fn literal(literal: &ast::Literal) -> Result<(), &'static str> {
        use ast::HexLiteralKind::{UnicodeLong, UnicodeShort};
        use ast::LiteralKind::{HexBrace, HexFixed};
        match literal.kind {
            HexFixed(UnicodeShort | UnicodeLong) | HexBrace(UnicodeShort | UnicodeLong) => {
                Err("it has \\u or \\U; write \\x{…}")
            }
            _ => Ok(()),
        }
    }
}

impl ast::Visitor for Beyond {
    type Output = ();
    type Err = &'static str;

    fn finish(self) -> Result<(), Self::Err> {
        Ok(())
    }

    fn visit_pre(&mut self, tree: &ast::Ast) -> Result<(), Self::Err> {
        use ast::AssertionKind::{EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary};
        match tree {
            ast::Ast::Flags(set) => Self::flags(&set.flags),
            ast::Ast::Group(group) => group.flags().map_or(Ok(()), Self::flags),
            ast::Ast::ClassUnicode(class) => Self::class(class),
            ast::Ast::Literal(literal) => Self::literal(literal),
            ast::Ast::Assertion(one) => match one.kind {
                StartLine | EndLine | StartText | EndText | WordBoundary | NotWordBoundary => Ok(()),
                _ => Err("it has a word boundary other than \\b and \\B"),
            },
            ast::Ast::Repetition(one) if matches!(*one.ast, ast::Ast::Repetition(_)) => {
                Err("a repetition is repeated; put the inner one in parentheses")
            }
            ast::Ast::Repetition(one) => match &one.op.kind {
                ast::RepetitionKind::Range(
                    ast::RepetitionRange::Exactly(n)
                    | ast::RepetitionRange::AtLeast(n)
                    | ast::RepetitionRange::Bounded(_, n),
                ) if *n > REPETITIONS_MAX => Err("it repeats more than 1000 times"),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), Self::Err> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err("a class stands within a class; write \\[ for the bracket itself"),
            ast::ClassSetItem::Unicode(class) => Self::class(class),
            ast::ClassSetItem::Literal(literal) => Self::literal(literal),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), Self::Err> {
        Err("&&, -- and ~~ within a class are no operators to it; write the class in full")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_does_not_know_is_told() {
        for pattern in [
            r"(?x)a b",
            r"(?u:a)",
            r"(?R)a",
            r"\p{Alphabetic}",
            r"\p{sc=Greek}",
            r"\p{Uppercase_Letter}",
            r"[a-z&&[^b]]",
            r"[a[b]]",
            r"[a--b]",
            r"\b{start}a",
            r"\<a",
            r"\u00e9",
            r"a{1001}",
            r"[\p{Alphabetic}]",
            r"a**",
        ] {
            assert!(compile(pattern).is_err() || beyond_re2(pattern).is_some(), "{pattern}");
        }
        for pattern in [
            r".*",
            r"(?i)a",
            r"(?P<n>a)",
            r"(?ims-U:a)",
            r"\p{Greek}",
            r"\pL",
            r"\p{Lu}",
            r"[^/]+",
            r"[[:alpha:]]",
            r"\bа\B",
            r"\x{10ffff}",
            r"^/v[0-9]{1,3}/(.*)$",
            r"[\[\]]",
            r"\A\z",
            r"[\p{Lu}\d-]",
        ] {
            assert!(compile(pattern).is_ok() && beyond_re2(pattern).is_none(), "{pattern}");
        }
    }
}
