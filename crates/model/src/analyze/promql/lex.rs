//! The tokens of an expression.

use super::Stop;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers and durations; which of them is for the place to say.
    Number,
    Text,
    Word,
    Sign,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Bytes from the start.
    pub(super) offset: usize,
}

/// Longer ones first.
const SIGNS: [&str; 26] = [
    "==", "!=", "=~", "!~", "<=", ">=", "</", ">/", "+", "-", "*", "/", "%", "^", "<", ">", "=", "(", ")", "{", "}",
    "[", "]", ",", "@", ":",
];

pub(super) fn tokens(expr: &str) -> Result<Vec<Token<'_>>, Stop> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let mut offset = 0;
    // Within brackets a colon stands before the step of a subquery, and does not begin a name.
    let mut brackets: usize = 0;
    while let Some(rest) = expr.get(offset..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or(' ');
        let (kind, length) = if first.is_whitespace() {
            offset += first.len_utf8();
            continue;
        } else if first == '#' {
            offset += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if matches!(first, '"' | '\'' | '`') {
            (Kind::Text, text_length(rest, first).ok_or_else(|| Stop::at(offset, "this text has no end"))?)
        } else if first.is_ascii_digit() || (first == '.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit)) {
            (Kind::Number, number_length(rest))
        } else if first.is_ascii_alphabetic() || first == '_' || (first == ':' && brackets == 0) {
            (Kind::Word, rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()))
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            match *sign {
                "[" => brackets += 1,
                "]" => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            (Kind::Sign, sign.len())
        } else {
            return Err(Stop::at(offset, format!("{first:?} has no meaning here")));
        };
        tokens.push(Token { kind, text: rest.get(..length).unwrap_or_default(), offset });
        offset += length;
    }
    Ok(tokens)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Bytes of a text in quotes, which are Go's; none where it does not end.
pub(in crate::analyze) fn text_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote != '`' => escaped = true,
            '\n' if quote != '`' => return None,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `5`, `0x1F`, `1.5e-3`, `5m`, `1h30m`.
fn number_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let is_exponent = matches!(byte, b'+' | b'-')
            && at > 0
            && matches!(bytes.get(at - 1), Some(b'e' | b'E'))
            && !rest.starts_with("0x")
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || is_exponent {
            at += 1;
        } else {
            break;
        }
    }
    at
}

/// Whether it counts: `5`, `0x1F`, `1_000`, and not `5m`.
pub(super) fn is_plain_number(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let hex = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X"));
    plain.parse::<f64>().is_ok()
        || hex.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What a text in quotes stands for; the escapes are Go's (strutil/quote.go). The error says where it is wrong, in bytes from
/// its start.
pub(in crate::analyze) fn unquote(quoted: &str) -> Result<String, (usize, &'static str)> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    let quote = quoted.chars().next().unwrap_or('"');
    if quote == '`' || !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        let at = 1 + inner.len() - rest.len();
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let Some(kind) = rest.chars().next() else { break };
        let unknown = (at, "this escape is unknown; write \\\\ for the backslash itself");
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            c if c == quote => u8::try_from(c).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            bytes.push(byte);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let (skipped, digits, base) = match kind {
            '0'..='7' => (0, 3, 8),
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            _ => return Err(unknown),
        };
        let text = rest.get(skipped..skipped + digits).filter(|text| text.chars().all(|c| c.is_digit(base)));
        let value = text.and_then(|text| u32::from_str_radix(text, base).ok()).ok_or(unknown)?;
        if matches!(kind, 'u' | 'U') {
            let c = char::from_u32(value).ok_or((at, "this escape stands for no character"))?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            bytes.push(u8::try_from(value).map_err(|_| unknown)?);
        }
        rest = rest.get(skipped + digits..).unwrap_or_default();
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
