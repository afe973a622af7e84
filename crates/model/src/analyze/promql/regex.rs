//! Whether a regular expression of a matcher is one to Prometheus, which reads them with Go's `regexp`, and whether it matches
//! the empty text.

use crate::istio::beyond_re2;

/// `Ok` says whether the whole of an empty text matches.
pub(super) fn matches_empty(pattern: &str) -> Result<bool, String> {
    let ours = in_our_syntax(pattern);
    match ::regex::Regex::new(&format!("^(?s:{ours})$")) {
        Ok(_) if let Some(what) = beyond_re2(&ours) => Err(what.to_owned()),
        Ok(regex) => Ok(regex.is_match("")),
        // Go's has no such bound.
        Err(::regex::Error::CompiledTooBig(_)) => Ok(false),
        Err(error) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            Err(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        }
    }
}

/// Go reads some signs as themselves where the matcher here wants a backslash, and knows `\Q…\E`.
fn in_our_syntax(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut in_class = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\\' {
            if let Some(literal) = after.strip_prefix('Q') {
                let (inside, tail) = literal.split_once("\\E").unwrap_or((literal, ""));
                out.push_str(&::regex::escape(inside));
                rest = tail;
                continue;
            }
            let escaped = after.chars().next().map_or(0, char::len_utf8);
            out.push(c);
            out.push_str(after.get(..escaped).unwrap_or_default());
            rest = after.get(escaped..).unwrap_or_default();
            continue;
        }
        rest = after;
        match c {
            '[' if !in_class => {
                in_class = true;
                out.push(c);
                for opening in ["^", "]"] {
                    if let Some(tail) = rest.strip_prefix(opening) {
                        out.push_str(if opening == "]" { "\\]" } else { opening });
                        rest = tail;
                    }
                }
            }
            '[' if rest.starts_with(':') && rest.contains(":]") => {
                let end = rest.find(":]").map_or(0, |at| at + 2);
                out.push('[');
                out.push_str(rest.get(..end).unwrap_or_default());
                rest = rest.get(end..).unwrap_or_default();
            }
            ']' if in_class => {
                in_class = false;
                out.push(c);
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '{' if !in_class && !begins_repetition(rest) => out.push_str("\\{"),
            _ => out.push(c),
        }
    }
    out
}

/// `3}`, `3,}` or `3,5}`, after the brace.
fn begins_repetition(after: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    after.split_once('}').is_some_and(|(inside, _)| match inside.split_once(',') {
        Some((from, to)) => is_number(from) && (to.is_empty() || is_number(to)),
        None => is_number(inside),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_reads_is_right() {
        for (pattern, empty) in [
            ("", true),
            (".*", true),
            (".+", false),
            ("a|", true),
            ("a{2,}", false),
            ("a{,2}", false),
            ("a{b}", false),
            (r"\Qa.b(\E.*", false),
            ("[a[b]+", false),
            ("[]a]", false),
            ("[^]a]", false),
            ("[a&&b]", false),
            ("[[:alpha:]_]*", true),
            (r"(?i)\pL\d\.", false),
            (r"(?P<name>x)?", true),
        ] {
            assert_eq!(matches_empty(pattern), Ok(empty), "{pattern}");
        }
        for pattern in ["[", "(", "*", "a**", "(?=b)", r"\1", "[b-a]", "a{1001}", "(?x)a", r"\y", "x)"] {
            assert!(matches_empty(pattern).is_err(), "{pattern}");
        }
    }
}
