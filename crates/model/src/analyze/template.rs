//! Whether the label or annotation of an alert is a template that Prometheus reads: Go's text/template with the functions of
//! Prometheus (template/template.go of 2.42, and what later releases added). Like `promtool` it parses and runs nothing, so types
//! and fields are not judged.

use super::promql::{text_length, unquote};
use crate::istio::did_you_mean;

/// Parentheses and blocks within each other. Deeper ones are not judged.
const DEPTH_MAX: usize = 64;

/// Defined before every text (rules/alerting.go).
const VARIABLES: [&str; 5] = ["$", "$externalLabels", "$externalURL", "$labels", "$value"];

const FUNCTIONS: [&str; 48] = [
    // Go's own.
    "and",
    "call",
    "eq",
    "ge",
    "gt",
    "html",
    "index",
    "js",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
    "urlquery",
    // Prometheus'.
    "args",
    "externalURL",
    "first",
    "graphLink",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "label",
    "match",
    "parseDuration",
    "pathPrefix",
    "query",
    "reReplaceAll",
    "safeHtml",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "title",
    "toLower",
    "toTime",
    "toUpper",
    "value",
    // After 2.42.
    "now",
    "toDuration",
    "urlQueryEscape",
];

/// What is wrong with a text first, if anything is.
pub(super) fn mistake(text: &str) -> Option<String> {
    let mut parser = Parser { blocks: Vec::new(), variables: VARIABLES.map(str::to_owned).to_vec() };
    match parser.text(text) {
        Err(Stop::Wrong(reason)) => Some(reason),
        Err(Stop::TooDeep) | Ok(()) => None,
    }
}

enum Stop {
    Wrong(String),
    /// Not judged.
    TooDeep,
}

fn wrong<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Wrong(reason.into()))
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Space,
    /// `$name` or `$` alone.
    Variable(&'a str),
    /// `.name`
    Field(&'a str),
    Dot,
    Word(&'a str),
    Text,
    Number(&'a str),
    Declare,
    Assign,
    Sign(char),
}

/// What `end` will close, and what was known before it.
struct Block<'a> {
    word: &'a str,
    had_else: bool,
    /// Variables to go back to.
    variables: Variables,
}

enum Variables {
    /// The first so many stay.
    Count(usize),
    /// `define` and `block` start with none of those outside.
    Set(Vec<String>),
}

struct Parser<'a> {
    blocks: Vec<Block<'a>>,
    variables: Vec<String>,
}

impl<'a> Parser<'a> {
    fn text(&mut self, text: &'a str) -> Result<(), Stop> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("{{") {
            let trimmed = after.strip_prefix('-').filter(|tail| tail.starts_with(char::is_whitespace));
            let inside = trimmed.map_or(after, str::trim_start);
            if let Some(comment) = inside.strip_prefix("/*") {
                let Some((_, tail)) = comment.split_once("*/") else { return wrong("a comment has no end") };
                let end = tail.trim_start().strip_prefix('-').filter(|_| tail.starts_with(char::is_whitespace));
                let Some(tail) = end.unwrap_or(tail).strip_prefix("}}") else {
                    return wrong("a comment ends with */}}");
                };
                rest = tail;
                continue;
            }
            let mut tokens = Vec::new();
            rest = lex(inside, &mut tokens)?;
            self.action(&tokens)?;
        }
        match self.blocks.last() {
            Some(block) => wrong(format!("{{{{ {} }}}} has no {{{{ end }}}}", block.word)),
            None => Ok(()),
        }
    }

    fn action(&mut self, tokens: &[Token<'a>]) -> Result<(), Stop> {
        let mut words = Words { tokens, at: 0, depth: 0 };
        words.skip_spaces();
        let Some(Token::Word(word)) = words.peek().cloned() else { return self.pipeline(&mut words, "the braces") };
        let rest = words.after_word();
        match word {
            "if" | "with" | "range" => {
                words = rest;
                self.open(word, Variables::Count(self.variables.len()))?;
                self.pipeline(&mut words, word)
            }
            "else" => {
                words = rest;
                self.otherwise(&mut words)
            }
            "end" => {
                words = rest;
                words.end("end")?;
                match self.blocks.pop() {
                    Some(block) => self.restore(block.variables),
                    None => return wrong("{{ end }} closes nothing"),
                }
                Ok(())
            }
            "break" | "continue" => {
                words = rest;
                words.end(word)?;
                let in_range = self.blocks.iter().any(|block| block.word == "range");
                if in_range { Ok(()) } else { wrong(format!("{word} stands outside of range")) }
            }
            "define" | "block" => {
                words = rest;
                words.skip_spaces();
                if words.next() != Some(&Token::Text) {
                    return wrong(format!("{word} needs a name in quotes"));
                }
                if word == "block" {
                    self.pipeline(&mut words, word)?;
                } else {
                    words.end(word)?;
                    if !self.blocks.is_empty() {
                        return wrong("define stands within another block");
                    }
                }
                let outside = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
                self.open(word, Variables::Set(outside))
            }
            "template" => {
                words = rest;
                words.skip_spaces();
                if words.next() != Some(&Token::Text) {
                    return wrong("template needs a name in quotes");
                }
                words.skip_spaces();
                if words.peek().is_none() { Ok(()) } else { self.pipeline(&mut words, word) }
            }
            _ => self.pipeline(&mut words, "the braces"),
        }
    }

    fn open(&mut self, word: &'a str, variables: Variables) -> Result<(), Stop> {
        if self.blocks.len() >= DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        self.blocks.push(Block { word, had_else: false, variables });
        Ok(())
    }

    fn restore(&mut self, variables: Variables) {
        match variables {
            Variables::Count(count) => self.variables.truncate(count),
            Variables::Set(outside) => self.variables = outside,
        }
    }

    /// `else`, `else if …`
    fn otherwise(&mut self, words: &mut Words<'_, 'a>) -> Result<(), Stop> {
        words.skip_spaces();
        let again = match words.next() {
            None => None,
            Some(Token::Word(word @ ("if" | "with"))) => Some(*word),
            Some(_) => return wrong("after else there is if, or nothing"),
        };
        let Some(block) = self.blocks.last_mut().filter(|block| matches!(block.word, "if" | "with" | "range")) else {
            return wrong("{{ else }} belongs to nothing");
        };
        if let Some(word) = again.filter(|word| *word != block.word) {
            return wrong(format!("{{{{ else {word} }}}} does not belong to {}", block.word));
        }
        if std::mem::replace(&mut block.had_else, again.is_none()) {
            return wrong("{{ else }} stands twice");
        }
        match again {
            Some(word) => self.pipeline(words, word),
            None => Ok(()),
        }
    }

    /// `$x := a | b c`, to the end of the tokens.
    fn pipeline(&mut self, words: &mut Words<'_, 'a>, of: &str) -> Result<(), Stop> {
        let declared = Self::declaration(words, of);
        self.commands(words, of)?;
        self.variables.extend(declared);
        match words.peek() {
            None => Ok(()),
            Some(token) => wrong(format!("{} has no meaning here", shown(token))),
        }
    }

    fn declaration(words: &mut Words<'_, 'a>, of: &str) -> Vec<String> {
        words.skip_spaces();
        let start = words.at;
        let mut names = Vec::new();
        while let Some(Token::Variable(name)) = words.peek().cloned() {
            words.at += 1;
            words.skip_spaces();
            names.push(name.to_owned());
            match words.next() {
                // To Go's parser an assignment declares as well.
                Some(Token::Declare | Token::Assign) => return names,
                Some(Token::Sign(',')) if of == "range" && names.len() == 1 => words.skip_spaces(),
                _ => break,
            }
        }
        words.at = start;
        Vec::new()
    }

    fn commands(&self, words: &mut Words<'_, 'a>, of: &str) -> Result<(), Stop> {
        words.depth += 1;
        if words.depth > DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        let mut is_first = true;
        loop {
            words.skip_spaces();
            let starts = words.peek().cloned();
            let operands = self.command(words)?;
            // A | with nothing behind it passes.
            let ends = !matches!(words.peek(), Some(Token::Sign('|')));
            if operands == 0 && (is_first || !ends) {
                return wrong(format!("a value is missing in {of}"));
            }
            let cannot_be_called = match starts {
                Some(Token::Text | Token::Number(_) | Token::Dot) => true,
                Some(Token::Word(word)) => matches!(word, "true" | "false" | "nil"),
                _ => false,
            };
            if !is_first && cannot_be_called {
                return wrong("what stands after | is called, and this is no function");
            }
            is_first = false;
            if words.peek() == Some(&Token::Sign('|')) {
                words.at += 1;
                continue;
            }
            words.depth -= 1;
            return Ok(());
        }
    }

    /// Operands to the next `|`, `)` or the end, and how many there were.
    fn command(&self, words: &mut Words<'_, 'a>) -> Result<usize, Stop> {
        let mut count = 0;
        loop {
            words.skip_spaces();
            let Some(token) = words.peek().cloned() else { return Ok(count) };
            let mut chains = true;
            match &token {
                Token::Sign('|' | ')') => return Ok(count),
                Token::Sign('(') => {
                    words.at += 1;
                    self.commands(words, "the parentheses")?;
                    if words.peek() != Some(&Token::Sign(')')) {
                        return wrong("a parenthesis is not closed");
                    }
                }
                Token::Word("true" | "false" | "nil") | Token::Dot | Token::Text | Token::Number(_) => chains = false,
                Token::Word(name) => {
                    if !FUNCTIONS.contains(name) {
                        let meant = did_you_mean(name, FUNCTIONS.into_iter());
                        return wrong(format!("there is no function {name}{meant}"));
                    }
                }
                Token::Variable(name) => self.known(name)?,
                Token::Field(_) => {}
                other => return wrong(format!("{} has no meaning here", shown(other))),
            }
            words.at += 1;
            while let Some(Token::Field(field)) = words.peek() {
                if !chains {
                    return wrong(format!(".{field} has no meaning after {}", shown(&token)));
                }
                words.at += 1;
            }
            count += 1;
            match words.peek() {
                None | Some(Token::Space | Token::Sign('|' | ')')) => {}
                Some(other) => return wrong(format!("{} has no meaning here; put a space before it", shown(other))),
            }
        }
    }

    fn known(&self, name: &str) -> Result<(), Stop> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        let known: Vec<&str> = self.variables.iter().map(String::as_str).filter(|name| *name != "$").collect();
        wrong(format!("the variable {name} is not defined; known are {}", known.join(", ")))
    }
}

struct Words<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    depth: usize,
}

impl<'t, 'a> Words<'t, 'a> {
    fn peek(&self) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'t Token<'a>> {
        let token = self.peek();
        self.at += usize::from(token.is_some());
        token
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.at += 1;
        }
    }

    fn after_word(&self) -> Self {
        Self { tokens: self.tokens, at: self.at + 1, depth: 0 }
    }

    fn end(&mut self, word: &str) -> Result<(), Stop> {
        self.skip_spaces();
        match self.peek() {
            None => Ok(()),
            Some(token) => wrong(format!("{} has no meaning after {word}", shown(token))),
        }
    }
}

fn shown(token: &Token<'_>) -> String {
    match token {
        Token::Space => "a space".to_owned(),
        Token::Variable(name) | Token::Word(name) | Token::Number(name) => (*name).to_owned(),
        Token::Field(name) => format!(".{name}"),
        Token::Dot => ".".to_owned(),
        Token::Text => "a text in quotes".to_owned(),
        Token::Declare => ":=".to_owned(),
        Token::Assign => "=".to_owned(),
        Token::Sign(sign) => sign.to_string(),
    }
}

/// The tokens up to `}}`, and the text after it.
fn lex<'a>(inside: &'a str, tokens: &mut Vec<Token<'a>>) -> Result<&'a str, Stop> {
    let mut rest = inside;
    let mut open = 0_usize;
    loop {
        let spaces = rest.len() - rest.trim_start().len();
        let after_spaces = rest.get(spaces..).unwrap_or_default();
        let trimming = after_spaces.strip_prefix("-}}").filter(|_| spaces > 0);
        if let Some(tail) = trimming.or_else(|| rest.strip_prefix("}}")) {
            return if open == 0 { Ok(tail) } else { wrong("a parenthesis is not closed") };
        }
        let Some(first) = rest.chars().next() else { return wrong("{{ is not closed by }}") };
        if spaces > 0 {
            tokens.push(Token::Space);
            rest = after_spaces;
            continue;
        }
        let name_length = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        let length = match first {
            '"' | '\'' | '`' => {
                let Some(length) = text_length(rest, first) else { return wrong("a text in quotes has no end") };
                let text = rest.get(..length).unwrap_or_default();
                let inside = unquote(text).map_err(|(_, reason)| Stop::Wrong(format!("{text}: {reason}")))?;
                if first == '\'' && inside.chars().count() != 1 {
                    return wrong(format!("{text} is no single character; write a text in double quotes"));
                }
                tokens.push(if first == '\'' { Token::Number(text) } else { Token::Text });
                length
            }
            '$' => {
                let length = 1 + name_length(after);
                tokens.push(Token::Variable(rest.get(..length).unwrap_or_default()));
                length
            }
            '.' if !after.starts_with(|c: char| c.is_ascii_digit()) => {
                let length = name_length(after);
                let name = after.get(..length).unwrap_or_default();
                tokens.push(if name.is_empty() { Token::Dot } else { Token::Field(name) });
                1 + length
            }
            '0'..='9' | '.' | '+' | '-' => {
                let length = number_length(rest)?;
                tokens.push(Token::Number(rest.get(..length).unwrap_or_default()));
                length
            }
            ':' => match after.starts_with('=') {
                true => {
                    tokens.push(Token::Declare);
                    2
                }
                false => return wrong(": stands where := belongs"),
            },
            '=' => {
                tokens.push(Token::Assign);
                1
            }
            '(' | ')' | '|' | ',' => {
                match first {
                    '(' => open += 1,
                    ')' if open == 0 => return wrong("a parenthesis is closed that was not opened"),
                    ')' => open -= 1,
                    _ => {}
                }
                tokens.push(Token::Sign(first));
                1
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = name_length(rest);
                tokens.push(Token::Word(rest.get(..length).unwrap_or_default()));
                length
            }
            other => return wrong(format!("{other} has no meaning within the braces")),
        };
        rest = rest.get(length..).unwrap_or_default();
        let is_name = matches!(tokens.last(), Some(Token::Variable(_) | Token::Field(_) | Token::Word(_)));
        let ends = rest.is_empty()
            || rest.starts_with(char::is_whitespace)
            || rest.starts_with(['.', ',', '|', ':', ')', '('])
            || rest.starts_with("}}");
        if is_name && !ends {
            return wrong(format!("{} has no meaning within a name", rest.chars().next().unwrap_or(' ')));
        }
    }
}

fn number_length(rest: &str) -> Result<usize, Stop> {
    let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let mut length = digits.find(|c| !inside(c)).unwrap_or(digits.len());
    // The sign of an exponent.
    if digits.get(..length).is_some_and(|text| text.ends_with(['e', 'E']) && !text.starts_with("0x"))
        && digits.get(length..).is_some_and(|tail| tail.starts_with(['+', '-']))
    {
        let tail = digits.get(length + 1..).unwrap_or_default();
        length += 1 + tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    }
    let text = digits.get(..length).unwrap_or_default();
    let plain = text.replace('_', "");
    let radix = plain.get(..2).map(str::to_ascii_lowercase);
    let is_whole = |base| plain.get(2..).is_some_and(|digits| u64::from_str_radix(digits, base).is_ok());
    let fits = match radix.as_deref() {
        Some("0x") => is_whole(16),
        Some("0o") => is_whole(8),
        Some("0b") => is_whole(2),
        _ => {
            let real = plain.strip_suffix('i').unwrap_or(&plain);
            if real.contains(['.', 'e', 'E']) || real.len() < plain.len() {
                real.parse::<f64>().is_ok_and(f64::is_finite)
            } else if real.len() > 1 && real.starts_with('0') {
                u64::from_str_radix(real, 8).is_ok()
            } else {
                real.parse::<u64>().is_ok()
            }
        }
    };
    if fits { Ok(length + rest.len() - digits.len()) } else { wrong(format!("{text} is no number")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_what_is_wrong() {
        for (text, about) in [
            ("{{ $labels.instance ", "not closed by }}"),
            ("{{ $lables.instance }}", "known are $externalLabels, $externalURL, $labels, $value"),
            ("{{ humanise $value }}", "did you mean humanize?"),
            ("{{ if true }}a", "{{ if }} has no {{ end }}"),
            ("a {{ end }}", "closes nothing"),
            ("{{ $value > 1 }}", "> has no meaning within the braces"),
        ] {
            let found = mistake(text).unwrap_or_default();
            assert!(found.contains(about), "{text}: {found}");
        }
        // Later releases have these.
        assert_eq!(mistake("{{ now | toTime }}{{ with $value }}{{ else with 1 }}{{ end }}"), None);
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(mistake(&format!("{{{{ {}", "(".repeat(10_000))), Some("{{ is not closed by }}".to_owned()));
        assert_eq!(mistake(&format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000))), None);
        assert_eq!(mistake(&"{{ if true }}".repeat(10_000)), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_written_panics(text in "[a-z0-9 ä$(){}|,:\"'`\\\\=.*/-]{0,24}") {
            let _ = mistake(&format!("{{{{ {text} }}}}"));
            let _ = mistake(&format!("{{{{{text}"));
        }
    }
}
