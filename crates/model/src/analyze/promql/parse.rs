//! The grammar of expressions, read by recursive descent; each operand comes back with what it gives, so that types are judged
//! on the way.

use super::Stop;
use super::functions::{OFTEN, Signature, Type, signature};
use super::lex::{Kind, Token, is_plain_number, tokens, unquote};
use crate::istio::{did_you_mean, scalar};

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

/// Words that are no name of a series, whatever follows.
const RESERVED: [&str; 6] = ["atan2", "bool", "group_left", "group_right", "ignoring", "on"];

/// Operators by how tightly they bind, the loosest first; within a row the leftmost binds first, but for `^`.
const OPERATORS: [&[&str]; 6] = [
    &["or"],
    &["and", "unless"],
    &["==", "!=", "<=", ">=", "</", ">/", "<", ">"],
    &["+", "-"],
    &["*", "/", "%", "atan2"],
    &["^"],
];
const COMPARISON: usize = 2;
const POWER: usize = 5;

pub(super) fn check(expr: &str) -> Result<(), Stop> {
    let mut parser = Parser { tokens: tokens(expr)?, at: 0, depth: 0 };
    parser.expression()?;
    match parser.peek() {
        None => Ok(()),
        Some(_) => Err(parser.wrong("an operator or the end")),
    }
}

/// What an expression looks like, as far as what may follow depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Selector,
    /// A selector with a range, or a subquery.
    Ranged,
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) gives: Type,
    pub(super) form: Form,
    /// Bytes from the start.
    pub(super) offset: usize,
}

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    pub(super) fn next_is(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.kind != Kind::Text && token.text.eq_ignore_ascii_case(text))
    }

    fn is_followed_by(&self, text: &str) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|next| next.kind == Kind::Sign && next.text == text)
    }

    pub(super) fn take(&mut self, text: &str) -> bool {
        let found = self.next_is(text);
        self.at += usize::from(found);
        found
    }

    pub(super) fn take_any(&mut self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.take(text))
    }

    pub(super) fn take_kind(&mut self, kind: Kind) -> Option<Token<'a>> {
        let token = self.peek().filter(|token| token.kind == kind)?;
        self.at += 1;
        Some(token)
    }

    pub(super) fn wrong(&self, wanted: &str) -> Stop {
        match self.peek() {
            Some(token) => Stop::at(token.offset, format!("{} stands where {wanted} belongs", token.text)),
            None => {
                let end = self.tokens.last().map_or(0, |token| token.offset + token.text.len());
                Stop::at(end, format!("the expression ends where {wanted} belongs"))
            }
        }
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), Stop> {
        if self.take(text) { Ok(()) } else { Err(self.wrong(text)) }
    }

    fn expression(&mut self) -> Result<Operand, Stop> {
        self.binary(0)
    }

    /// Operators that bind at least as tightly as those of the row.
    fn binary(&mut self, row: usize) -> Result<Operand, Stop> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        let mut left = self.unary()?;
        while let Some((found, operator)) = self.operator(row) {
            self.at += 1;
            let matching = self.matching(&operator)?;
            let right = self.binary(if found == POWER { POWER } else { found + 1 })?;
            left = joined(found, &operator, left, &matching, right)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operator(&self, row: usize) -> Option<(usize, Token<'a>)> {
        let token = self.peek()?;
        let has = |words: &&[&str]| words.iter().any(|word| self.next_is(word));
        let found = OPERATORS.iter().position(has).filter(|found| *found >= row)?;
        Some((found, token))
    }

    /// `bool`, `on (…) group_left (…)` and the like, after an operator.
    fn matching(&mut self, operator: &Token<'_>) -> Result<Matching<'a>, Stop> {
        let mut matching = Matching { bool: self.take("bool"), ..Matching::default() };
        if matching.bool && !OPERATORS[COMPARISON].contains(&operator.text) {
            let reason = format!("bool stands after comparisons only, not after {}", operator.text);
            return Err(Stop::at(operator.offset, reason));
        }
        if self.next_is("on") || self.next_is("ignoring") {
            matching.on = self.next_is("on");
            self.at += 1;
            matching.labels = self.names()?;
            matching.grouped = self.take_any(&["group_left", "group_right"]);
            if matching.grouped && self.next_is("(") {
                matching.included = self.names()?;
            }
        }
        while ["fill", "fill_left", "fill_right"].iter().any(|word| self.next_is(word)) && self.is_followed_by("(") {
            self.at += 2;
            self.expression()?;
            self.expect(")")?;
        }
        Ok(matching)
    }

    /// The name of a label, as a word or in quotes.
    pub(super) fn label(&mut self) -> Result<Token<'a>, Stop> {
        let label = self.take_kind(Kind::Word).or_else(|| self.take_kind(Kind::Text));
        let Some(label) = label else { return Err(self.wrong("the name of a label")) };
        if label.kind == Kind::Word && label.text.contains(':') {
            return Err(Stop::at(label.offset, format!("{} is no name of a label, which has no colon", label.text)));
        }
        Ok(label)
    }

    /// `(a, "b")`
    fn names(&mut self) -> Result<Vec<&'a str>, Stop> {
        self.expect("(")?;
        let mut names = Vec::new();
        while !self.take(")") {
            names.push(self.label()?.text);
            if !self.take(",") && !self.next_is(")") {
                return Err(self.wrong(", or )"));
            }
        }
        Ok(names)
    }

    fn unary(&mut self) -> Result<Operand, Stop> {
        let sign = self.peek().filter(|_| self.take_any(&["+", "-"]));
        let Some(sign) = sign else { return self.postfix() };
        let operand = self.binary(POWER)?;
        match operand.gives {
            Type::Scalar | Type::Vector => Ok(Operand { gives: operand.gives, form: Form::Other, offset: sign.offset }),
            other => Err(Stop::at(sign.offset, format!("{} cannot stand before {}", sign.text, other.as_str()))),
        }
    }

    /// An operand with its range, `offset` and `@`.
    fn postfix(&mut self) -> Result<Operand, Stop> {
        let mut operand = self.primary()?;
        let (mut shifted, mut pinned) = (false, false);
        loop {
            let Some(token) = self.peek() else { return Ok(operand) };
            if self.take("[") {
                let is_subquery = self.range()?;
                if is_subquery && operand.gives != Type::Vector {
                    let reason =
                        format!("a subquery is made of an instant vector, and this is {}", operand.gives.as_str());
                    return Err(Stop::at(operand.offset, reason));
                }
                if !is_subquery && operand.form != Form::Selector {
                    let reason = "a range stands after the selector of a series only; write [5m:] for a subquery";
                    return Err(Stop::at(token.offset, reason));
                }
                if !is_subquery && (shifted || pinned) {
                    return Err(Stop::at(token.offset, "the range stands before offset and @"));
                }
                operand = Operand { gives: Type::Range, form: Form::Ranged, offset: operand.offset };
                (shifted, pinned) = (false, false);
            } else if self.take("offset") {
                after_selector(&operand, &token, &mut shifted)?;
                self.offset()?;
            } else if self.take("@") {
                after_selector(&operand, &token, &mut pinned)?;
                self.time()?;
            } else if operand.form == Form::Other || !self.take_any(&["smoothed", "anchored"]) {
                return Ok(operand);
            }
        }
    }

    fn offset(&mut self) -> Result<(), Stop> {
        while self.take_any(&["+", "-"]) {}
        if self.next_is("(") {
            // Newer releases calculate here.
            return self.primary().map(|_| ());
        }
        match self.take_kind(Kind::Number) {
            Some(token) => duration(&token).map(|_| ()),
            None => Err(self.wrong("a duration such as 5m")),
        }
    }

    fn time(&mut self) -> Result<(), Stop> {
        self.take_any(&["+", "-"]);
        if let Some(token) = self.take_kind(Kind::Number) {
            return match is_plain_number(token.text) {
                true => Ok(()),
                false => Err(Stop::at(token.offset, "a time after @ is seconds, as a number")),
            };
        }
        if !self.take_any(&["start", "end"]) {
            return Err(self.wrong("a time, start() or end()"));
        }
        self.expect("(")?;
        self.expect(")")
    }

    /// `5m]`, `30m:1m]`, `30m:]`, and whether it is that of a subquery. Newer releases calculate with durations: what is more than
    /// one is not judged further.
    fn range(&mut self) -> Result<bool, Stop> {
        let mut parts: Vec<Vec<Token<'a>>> = vec![Vec::new()];
        while !self.take("]") {
            let Some(token) = self.peek() else { return Err(self.wrong("]")) };
            let known = match token.kind {
                Kind::Number => true,
                Kind::Word => matches!(token.text, "step" | "range" | "min" | "max"),
                Kind::Text => false,
                Kind::Sign if token.text == ":" => parts.len() == 1 && parts.iter().all(|part| !part.is_empty()),
                Kind::Sign => matches!(token.text, "+" | "-" | "*" | "/" | "%" | "^" | "(" | ")" | ","),
            };
            if !known {
                return Err(self.wrong("a duration such as 5m"));
            }
            self.at += 1;
            match parts.last_mut() {
                Some(part) if token.text != ":" => part.push(token),
                _ => parts.push(Vec::new()),
            }
        }
        if parts.first().is_none_or(Vec::is_empty) {
            self.at -= 1;
            return Err(self.wrong("a duration such as 5m"));
        }
        for part in &parts {
            let too_short = match part.as_slice() {
                [token] if token.kind == Kind::Number => duration(token)?.is_zero(),
                [sign, _] => sign.text == "-",
                _ => false,
            };
            if let (true, Some(token)) = (too_short, part.first()) {
                return Err(Stop::at(token.offset, "a range is longer than 0"));
            }
        }
        Ok(parts.len() > 1)
    }

    fn primary(&mut self) -> Result<Operand, Stop> {
        let Some(token) = self.peek() else { return Err(self.wrong("a series, a number or a function")) };
        let other = |gives| Operand { gives, form: Form::Other, offset: token.offset };
        match (token.kind, token.text) {
            (Kind::Number, text) if is_plain_number(text) || scalar::prometheus_duration(text).is_ok() => {
                self.at += 1;
                Ok(other(Type::Scalar))
            }
            (Kind::Number, text) => Err(Stop::at(token.offset, format!("{text} is neither number nor duration"))),
            (Kind::Text, text) => {
                self.at += 1;
                unquote(text).map_err(|(at, reason)| Stop::at(token.offset + at, reason))?;
                Ok(other(Type::Text))
            }
            (Kind::Sign, "(") => {
                self.at += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(other(inner.gives))
            }
            (Kind::Sign, "{") => self.selector(None, token.offset),
            (Kind::Word, word) => {
                self.at += 1;
                self.named(word, token.offset)
            }
            (Kind::Sign, _) => Err(self.wrong("a series, a number or a function")),
        }
    }

    /// What follows a name: an aggregation, the arguments of a function, or the labels of a series.
    fn named(&mut self, word: &str, offset: usize) -> Result<Operand, Stop> {
        let lower = word.to_ascii_lowercase();
        if AGGREGATORS.contains(&lower.as_str()) && (self.next_is("(") || self.next_is("by") || self.next_is("without"))
        {
            return self.aggregation(&lower, offset);
        }
        if RESERVED.contains(&lower.as_str()) {
            return Err(Stop::at(offset, format!("{word} is a word of the language and no name of a series")));
        }
        if matches!(lower.as_str(), "inf" | "nan") {
            return Ok(Operand { gives: Type::Scalar, form: Form::Other, offset });
        }
        if self.next_is("(") {
            return self.call(word, offset);
        }
        self.selector(Some(word), offset)
    }

    fn aggregation(&mut self, name: &str, offset: usize) -> Result<Operand, Stop> {
        let before = self.take_any(&["by", "without"]);
        if before {
            self.names()?;
        }
        let arguments = self.arguments()?;
        if !before && self.take_any(&["by", "without"]) {
            self.names()?;
        }
        let parameter = match name {
            "count_values" => Some(Type::Text),
            "bottomk" | "limit_ratio" | "limitk" | "quantile" | "topk" => Some(Type::Scalar),
            _ => None,
        };
        let wanted: Vec<Type> = parameter.into_iter().chain([Type::Vector]).collect();
        if arguments.is_empty() {
            return Err(Stop::at(offset, format!("{name} has nothing to aggregate")));
        }
        if arguments.len() != wanted.len() {
            let count = wanted.len();
            let noun = if count == 1 { "argument" } else { "arguments" };
            return Err(Stop::at(offset, format!("{name} takes {count} {noun}, and {} stand here", arguments.len())));
        }
        for (argument, wanted) in arguments.iter().zip(wanted) {
            fits(name, argument, wanted)?;
        }
        Ok(Operand { gives: Type::Vector, form: Form::Other, offset })
    }

    fn call(&mut self, name: &str, offset: usize) -> Result<Operand, Stop> {
        let Some(found) = signature(name) else {
            let meant = did_you_mean(name, OFTEN.into_iter().chain(AGGREGATORS));
            return Err(Stop::at(offset, format!("there is no function {name}{meant}")));
        };
        let Signature { arguments: wanted, at_least, at_most, gives } = found;
        let arguments = self.arguments()?;
        let count = arguments.len();
        if count < at_least || at_most.is_some_and(|most| count > most) {
            let takes = match at_most {
                Some(most) if most == at_least => most.to_string(),
                Some(most) => format!("{at_least} to {most}"),
                None => format!("{at_least} or more"),
            };
            return Err(Stop::at(offset, format!("{name} takes {takes} arguments, and {count} stand here")));
        }
        for (index, argument) in arguments.iter().enumerate() {
            if let Some(wanted) = wanted.get(index).or_else(|| wanted.last()) {
                fits(name, argument, *wanted)?;
            }
        }
        Ok(Operand { gives, form: Form::Other, offset })
    }

    fn arguments(&mut self) -> Result<Vec<Operand>, Stop> {
        self.expect("(")?;
        let mut arguments = Vec::new();
        if self.take(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.take(")") {
                return Ok(arguments);
            }
            if !self.take(",") {
                return Err(self.wrong(", or )"));
            }
        }
    }
}

/// What stands between an operator and its right side.
#[derive(Default)]
struct Matching<'a> {
    bool: bool,
    on: bool,
    grouped: bool,
    labels: Vec<&'a str>,
    included: Vec<&'a str>,
}

/// Both sides of an operator, judged by their types.
fn joined(
    row: usize,
    operator: &Token<'_>,
    left: Operand,
    matching: &Matching<'_>,
    right: Operand,
) -> Result<Operand, Stop> {
    let wrong = |reason: String| Err(Stop::at(operator.offset, reason));
    let text = operator.text;
    for side in [left, right] {
        if !matches!(side.gives, Type::Scalar | Type::Vector) {
            return Err(Stop::at(side.offset, format!("{text} cannot be applied to {}", side.gives.as_str())));
        }
    }
    let scalars = [left, right].iter().filter(|side| side.gives == Type::Scalar).count();
    let is_set = row < COMPARISON;
    if row == COMPARISON && scalars == 2 && !matching.bool {
        return wrong(format!("a comparison between scalars needs bool: {text} bool"));
    }
    if is_set && scalars > 0 {
        return wrong(format!("{text} joins instant vectors, and a scalar stands beside it"));
    }
    if scalars > 0 && !matching.labels.is_empty() {
        return wrong("on and ignoring match instant vectors, and a scalar stands here".to_owned());
    }
    if is_set && matching.grouped {
        return wrong(format!("{text} takes no group_left and no group_right"));
    }
    if matching.on
        && let Some(both) = matching.labels.iter().find(|label| matching.included.contains(label))
    {
        return wrong(format!("the label {both} cannot stand in on and in the group at once"));
    }
    let gives = if scalars == 2 { Type::Scalar } else { Type::Vector };
    Ok(Operand { gives, form: Form::Other, offset: left.offset })
}

fn fits(name: &str, argument: &Operand, wanted: Type) -> Result<(), Stop> {
    if argument.gives == wanted {
        return Ok(());
    }
    let example = match wanted {
        Type::Range => format!(", as {name}(x[5m])"),
        _ => String::new(),
    };
    let reason = format!("{name} needs {} here{example}, and this is {}", wanted.as_str(), argument.gives.as_str());
    Err(Stop::at(argument.offset, reason))
}

fn after_selector(operand: &Operand, token: &Token<'_>, seen: &mut bool) -> Result<(), Stop> {
    if operand.form == Form::Other {
        let reason = format!("{} stands after a series, a range of it or a subquery only", token.text);
        return Err(Stop::at(token.offset, reason));
    }
    if std::mem::replace(seen, true) {
        return Err(Stop::at(token.offset, format!("{} stands here twice", token.text)));
    }
    Ok(())
}

/// A duration with its unit: before 3.0 Prometheus reads no number without one, so a bare one is most likely a slip.
fn duration(token: &Token<'_>) -> Result<std::time::Duration, Stop> {
    let text = token.text;
    if is_plain_number(text) {
        return Err(Stop::at(
            token.offset,
            format!("{text} is no duration; write its unit, such as {text}m or {text}s"),
        ));
    }
    scalar::prometheus_duration(text)
        .map_err(|_| Stop::at(token.offset, format!("{text} stands where a duration such as 5m belongs")))
}
