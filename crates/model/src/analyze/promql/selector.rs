//! The selector of a series: its name and the conditions on its labels.

use super::functions::Type;
use super::lex::{Kind, Token, unquote};
use super::parse::{Form, Operand, Parser};
use super::{Stop, regex};

/// The label that holds a series' name.
const NAME_LABEL: &str = "__name__";

impl Parser<'_> {
    /// `{a="b", c=~"d.*"}` after the name, if there is one.
    pub(super) fn selector(&mut self, name: Option<&str>, offset: usize) -> Result<Operand, Stop> {
        let found = Operand { gives: Type::Vector, form: Form::Selector, offset };
        if !self.next_is("{") {
            return Ok(found);
        }
        self.expect("{")?;
        if self.next_is("}") && name.is_none() {
            return Err(self.wrong("a condition"));
        }
        let mut named = name.is_some();
        let mut selects = false;
        while !self.take("}") {
            let label = self.label()?;
            let is_quoted = label.kind == Kind::Text;
            let operator = self.peek().filter(|_| self.take_any(&["=", "!=", "=~", "!~"]));
            match operator {
                Some(operator) => {
                    let Some(value) = self.take_kind(Kind::Text) else { return Err(self.wrong("a text in quotes")) };
                    selects |= !matches_empty(operator.text, &value)?;
                    if named && label.text == NAME_LABEL {
                        let reason = "the name of the series is set twice, before the braces and within";
                        return Err(Stop::at(label.offset, reason));
                    }
                }
                // Newer releases take the name of a series here, in quotes.
                None if is_quoted && !named => {
                    named = true;
                    selects = true;
                }
                None if is_quoted => {
                    return Err(Stop::at(label.offset, "the name of the series is set twice"));
                }
                None => return Err(self.wrong("=, !=, =~ or !~")),
            }
            if !self.take_any(&[",", "or"]) && !self.next_is("}") {
                return Err(self.wrong(", or }"));
            }
        }
        if !named && !selects {
            let reason = "every condition holds for a series without these labels too, so this selects all series; one must not match the empty text";
            return Err(Stop::at(offset, reason));
        }
        Ok(found)
    }
}

/// Whether the condition holds for a series that lacks the label.
fn matches_empty(operator: &str, value: &Token<'_>) -> Result<bool, Stop> {
    let text = unquote(value.text).map_err(|(at, reason)| Stop::at(value.offset + at, reason))?;
    let equal = match operator {
        "=" | "!=" => text.is_empty(),
        _ => regex::matches_empty(&text).map_err(|reason| {
            Stop::at(value.offset, format!("{text:?} is no regular expression (RE2 syntax): {reason}"))
        })?,
    };
    Ok(equal != operator.starts_with('!'))
}
