//! Whether an expression is PromQL (prometheus.io, "Querying basics", "Operators"): its form, not its meaning.
//!
//! Written by hand: the crates for it bring a parser generator and a second calendar along. What newer releases of Prometheus may
//! add (functions, arithmetic of durations) is let through; only what no release reads is a mistake.

/// Where an expression stops being PromQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// From 1, in characters.
    pub(super) position: usize,
    pub(super) message: String,
}

/// Parentheses within parentheses; Prometheus' own rules end far below. Deeper ones are not judged.
const DEPTH_MAX: usize = 64;

const AGGREGATORS: [&str; 14] = [
    "avg",
    "bottomk",
    "count",
    "count_values",
    "group",
    "limit_ratio",
    "limitk",
    "max",
    "min",
    "quantile",
    "stddev",
    "stdvar",
    "sum",
    "topk",
];

/// Functions that take a range of samples.
const OF_RANGES: [&str; 9] =
    ["changes", "delta", "deriv", "idelta", "increase", "irate", "predict_linear", "rate", "resets"];

/// The first mistake of an expression, if there is one.
pub(super) fn mistake(expr: &str) -> Option<Mistake> {
    let found = tokens(expr).and_then(|tokens| {
        let mut parser = Parser { tokens, at: 0, depth: 0 };
        parser.expression()?;
        match parser.peek() {
            None => Ok(()),
            Some(_) => Err(parser.wrong("an operator or the end")),
        }
    });
    match found {
        Err(Stop::At(offset, message)) => {
            let position = expr.get(..offset).map_or(0, |before| before.chars().count()) + 1;
            Some(Mistake { position, message })
        }
        Err(Stop::TooDeep) | Ok(()) => None,
    }
}

enum Stop {
    /// Bytes from the start.
    At(usize, String),
    TooDeep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Numbers and durations; where either may stand, so may the other.
    Number,
    Text,
    Word,
    Sign,
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    offset: usize,
}

/// Longer ones first.
const SIGNS: [&str; 24] = [
    "==", "!=", "=~", "!~", "<=", ">=", "</", ">/", "+", "-", "*", "/", "%", "^", "<", ">", "=", "(", ")", "{", "}",
    "[", "]", ",",
];
const SIGNS_MORE: [&str; 2] = ["@", ":"];

fn tokens(expr: &str) -> Result<Vec<Token<'_>>, Stop> {
    let mut tokens = Vec::new();
    let mut offset = 0;
    while let Some(rest) = expr.get(offset..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or(' ');
        let length_while = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let (kind, length) = if first.is_whitespace() {
            offset += first.len_utf8();
            continue;
        } else if first == '#' {
            offset += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if matches!(first, '"' | '\'' | '`') {
            (Kind::Text, text_length(rest, first).ok_or_else(|| Stop::At(offset, "this text has no end".to_owned()))?)
        } else if first.is_ascii_digit() || (first == '.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit)) {
            (Kind::Number, number_length(rest))
        } else if first.is_ascii_alphabetic() || first == '_' || (first == ':' && is_recorded(&tokens, rest)) {
            (Kind::Word, length_while(&|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        } else if let Some(sign) = SIGNS.iter().chain(&SIGNS_MORE).find(|sign| rest.starts_with(**sign)) {
            (Kind::Sign, sign.len())
        } else {
            return Err(Stop::At(offset, format!("{first:?} has no meaning here")));
        };
        tokens.push(Token { kind, text: rest.get(..length).unwrap_or_default(), offset });
        offset += length;
    }
    Ok(tokens)
}

/// A name may begin with a colon, but not within brackets, where the colon stands before the step of a subquery.
fn is_recorded(tokens: &[Token<'_>], rest: &str) -> bool {
    let open = tokens.iter().filter(|token| token.text == "[").count();
    let closed = tokens.iter().filter(|token| token.text == "]").count();
    open == closed && rest.get(1..2).is_some_and(|c| c.chars().all(|c| c.is_ascii_alphabetic() || c == '_' || c == ':'))
}

fn text_length(rest: &str, quote: char) -> Option<usize> {
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

fn is_number(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let hex = plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X"));
    plain.parse::<f64>().is_ok()
        || hex.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        || crate::istio::scalar::prometheus_duration(text).is_ok()
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn next_is(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.kind != Kind::Text && token.text.eq_ignore_ascii_case(text))
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.next_is(text);
        self.at += usize::from(found);
        found
    }

    fn take_any(&mut self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.take(text))
    }

    fn take_kind(&mut self, kind: Kind) -> Option<Token<'a>> {
        let token = self.peek().filter(|token| token.kind == kind)?;
        self.at += 1;
        Some(token)
    }

    fn wrong(&self, wanted: &str) -> Stop {
        match self.peek() {
            Some(token) => Stop::At(token.offset, format!("{} stands where {wanted} belongs", token.text)),
            None => {
                let end = self.tokens.last().map_or(0, |token| token.offset + token.text.len());
                Stop::At(end, format!("the expression ends where {wanted} belongs"))
            }
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), Stop> {
        if self.take(text) { Ok(()) } else { Err(self.wrong(text)) }
    }

    fn expression(&mut self) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        self.operand()?;
        while self.operator() {
            self.matching()?;
            self.operand()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn operator(&mut self) -> bool {
        self.take_any(&[
            "+", "-", "*", "/", "%", "^", "==", "!=", "<=", ">=", "</", ">/", "<", ">", "and", "or", "unless", "atan2",
        ])
    }

    /// `bool`, `on (…) group_left (…)` and the like, after an operator.
    fn matching(&mut self) -> Result<(), Stop> {
        // A series may have the name of any of these words; only what must follow tells.
        let follows =
            |parser: &Self, text: &str| parser.tokens.get(parser.at + 1).is_some_and(|next| next.text == text);
        if self.next_is("bool") {
            self.at += 1;
        }
        if (self.next_is("on") || self.next_is("ignoring")) && follows(self, "(") {
            self.at += 1;
            self.names()?;
            if self.take_any(&["group_left", "group_right"]) && self.next_is("(") && self.is_list_of_names() {
                self.names()?;
            }
        }
        while ["fill", "fill_left", "fill_right"].iter().any(|word| self.next_is(word)) && follows(self, "(") {
            self.at += 2;
            self.expression()?;
            self.expect(")")?;
        }
        Ok(())
    }

    /// Whether the parentheses here hold the labels of `group_left`, and are not the right side itself: an operand follows.
    fn is_list_of_names(&self) -> bool {
        let inside = self.tokens.iter().skip(self.at + 1).take_while(|token| token.text != ")");
        let count = inside.clone().count();
        let plain = inside.clone().all(|token| matches!(token.kind, Kind::Word | Kind::Text) || token.text == ",");
        let after = self.tokens.get(self.at + count + 2);
        plain && after.is_some_and(|token| token.kind != Kind::Sign || matches!(token.text, "(" | "{" | "+" | "-"))
    }

    /// `(a, "b")`
    fn names(&mut self) -> Result<(), Stop> {
        self.expect("(")?;
        while !self.take(")") {
            if self.take_kind(Kind::Word).or_else(|| self.take_kind(Kind::Text)).is_none() {
                return Err(self.wrong("the name of a label"));
            }
            if !self.take(",") && !self.next_is(")") {
                return Err(self.wrong(", or )"));
            }
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<(), Stop> {
        while self.take_any(&["+", "-"]) {}
        self.primary()?;
        loop {
            if self.take("[") {
                self.range()?;
            } else if self.take("offset") {
                while self.take_any(&["+", "-"]) {}
                if self.next_is("(") {
                    self.primary()?;
                } else if self.take_kind(Kind::Number).is_none() {
                    return Err(self.wrong("a duration such as 5m"));
                }
            } else if self.take("@") {
                while self.take_any(&["+", "-"]) {}
                if self.take_kind(Kind::Number).is_none() {
                    if !self.take_any(&["start", "end"]) {
                        return Err(self.wrong("a time, start() or end()"));
                    }
                    self.expect("(")?;
                    self.expect(")")?;
                }
            } else if !self.take_any(&["smoothed", "anchored"]) {
                return Ok(());
            }
        }
    }

    /// `5m]`, `30m:1m]`, `30m:]`; newer releases calculate with durations, so what is within is not judged further.
    fn range(&mut self) -> Result<(), Stop> {
        if self.next_is("]") || self.next_is(":") {
            return Err(self.wrong("a duration such as 5m"));
        }
        while !self.take("]") {
            let Some(token) = self.peek() else { return Err(self.wrong("]")) };
            let known = match token.kind {
                Kind::Number => is_number(token.text),
                Kind::Word => matches!(token.text, "step" | "range" | "min" | "max"),
                Kind::Text => false,
                Kind::Sign => matches!(token.text, "+" | "-" | "*" | "/" | "%" | "^" | "(" | ")" | "," | ":"),
            };
            if !known {
                return Err(self.wrong("a duration such as 5m"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn primary(&mut self) -> Result<(), Stop> {
        let Some(token) = self.peek() else { return Err(self.wrong("a series, a number or a function")) };
        match (token.kind, token.text) {
            (Kind::Number, text) if is_number(text) => self.at += 1,
            (Kind::Number, text) => {
                return Err(Stop::At(token.offset, format!("{text} is neither number nor duration")));
            }
            (Kind::Text, _) => self.at += 1,
            (Kind::Sign, "(") => {
                self.at += 1;
                self.expression()?;
                self.expect(")")?;
            }
            (Kind::Sign, "{") => self.selector(false)?,
            (Kind::Word, word) => {
                self.at += 1;
                self.named(word, token.offset)?;
            }
            (Kind::Sign, _) => return Err(self.wrong("a series, a number or a function")),
        }
        Ok(())
    }

    /// What follows a name: an aggregation, the arguments of a function, or the labels of a series.
    fn named(&mut self, word: &str, offset: usize) -> Result<(), Stop> {
        let lower = word.to_ascii_lowercase();
        if AGGREGATORS.contains(&lower.as_str()) && (self.next_is("(") || self.next_is("by") || self.next_is("without"))
        {
            let before = self.take_any(&["by", "without"]);
            if before {
                self.names()?;
            }
            if self.arguments()? == 0 {
                return Err(Stop::At(offset, format!("{word} has nothing to aggregate")));
            }
            if !before && self.take_any(&["by", "without"]) {
                self.names()?;
            }
            return Ok(());
        }
        if self.next_is("(") {
            let start = self.at;
            self.arguments()?;
            let needs_range = OF_RANGES.contains(&lower.as_str()) || lower.ends_with("_over_time");
            let inside = self.tokens.get(start..self.at).unwrap_or_default();
            if needs_range && !inside.iter().any(|token| token.text == "[" && token.kind == Kind::Sign) {
                return Err(Stop::At(offset, format!("{word} needs a range of samples, as {word}(x[5m])")));
            }
            return Ok(());
        }
        if self.next_is("{") {
            return self.selector(true);
        }
        Ok(())
    }

    /// How many there were.
    fn arguments(&mut self) -> Result<usize, Stop> {
        self.expect("(")?;
        if self.take(")") {
            return Ok(0);
        }
        let mut count = 0;
        loop {
            self.expression()?;
            count += 1;
            if self.take(")") {
                return Ok(count);
            }
            if !self.take(",") {
                return Err(self.wrong(", or )"));
            }
        }
    }

    /// `{a="b", c=~"d.*"}`
    fn selector(&mut self, has_name: bool) -> Result<(), Stop> {
        self.expect("{")?;
        if self.next_is("}") && !has_name {
            return Err(self.wrong("a condition"));
        }
        while !self.take("}") {
            let quoted = self.take_kind(Kind::Text).is_some();
            if !quoted && self.take_kind(Kind::Word).is_none() {
                return Err(self.wrong("the name of a label"));
            }
            if self.take_any(&["=", "!=", "=~", "!~"]) {
                if self.take_kind(Kind::Text).is_none() {
                    return Err(self.wrong("a text in quotes"));
                }
            } else if !quoted {
                return Err(self.wrong("=, !=, =~ or !~"));
            }
            if !self.take_any(&[",", "or"]) && !self.next_is("}") {
                return Err(self.wrong(", or }"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_reads_is_no_mistake() {
        for expr in [
            "up",
            "up == 0",
            "-1 + +2 ^ 0x1F % 1e-3 - .5 * Inf / NaN",
            "job:requests:rate5m{job=~\"a.*\",instance!=\"b\",} offset -5m @ 1609746000.5",
            ":requests:rate5m > 1",
            "sum(rate(istio_requests_total[5m])) by (destination_service) < 100",
            "sum by (a, b,) (rate(x{c='d'}[1m])) / on (a) group_left (c) sum without () (y)",
            "histogram_quantile(0.95, sum(rate(x_bucket[1m])) by (le, \"utf8.label\")) > bool 1000",
            "max_over_time(rate(x[5m])[30m:1m] @ end())",
            "max_over_time((x)[30m:])",
            "topk(5, x) and on() vector(1) unless absent(y)",
            "count_values(\"version\", build_info) or label_replace(up, \"a\", \"$1\", 'b', `c(.*)`)",
            "{\"metric.name\", a=\"b\"} # a comment\n + 1",
            "{__name__=~\"x.*\"}",
            "a * on (b) group_left c",
            "sum{a=\"b\"} + by + offset_total",
            "rate(x[5m + 1m])",
            "time() - 1h30m > 5m",
            "x offset (5m)",
        ] {
            assert_eq!(mistake(expr), None, "{expr}");
        }
    }

    #[test]
    fn the_first_mistake_is_found_where_it_is() {
        for (expr, position, about) in [
            ("this is ((( not promql", 6, "is stands where"),
            ("sum(rate(x[5m])) by destination", 21, "destination stands"),
            ("sum(rate(x[5m]) > 1", 20, "ends where"),
            ("rate(x) > 1", 1, "needs a range"),
            ("rate(x[5minutes])", 8, "duration"),
            ("x{a=b}", 5, "text in quotes"),
            ("x{a\"b\"}", 4, "=, !="),
            ("x{a=\"b}", 5, "no end"),
            ("x > ", 4, "ends where"),
            ("x & y", 3, "no meaning"),
            ("sum() > 1", 1, "nothing to aggregate"),
            ("{}", 2, "a condition"),
            ("up == 5x", 7, "neither number"),
            ("rate(x[])", 8, "duration"),
            ("\u{fc}p", 1, "no meaning"),
            ("max(x,)", 7, "a series"),
        ] {
            let found = mistake(expr).unwrap_or_else(|| panic!("{expr} is no PromQL"));
            assert!(found.position == position && found.message.contains(about), "{expr}: {found:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(mistake(&"(".repeat(10_000)), None);
        assert_eq!(mistake(&format!("{}1{}", "(".repeat(20), ")".repeat(20))), None);
    }
}
