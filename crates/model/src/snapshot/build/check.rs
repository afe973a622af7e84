//! Reading messages field by field, with every error in one list.
//!
//! A reader takes the fields that act out of a copy of the message; what is left must be empty. So a field that nobody reads is
//! refused by name, whichever release of Envoy's API brings it, and no list of unsupported fields can grow stale.

use std::borrow::Cow;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{DataSource, RuntimeFractionalPercent, data_source};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, StringMatcher as EnvoyStringMatcher, string_matcher,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, Duration as EnvoyDuration, UInt32Value};
use prost::{Message, Name};

use super::super::matching::{
    Fraction, FullRegex, HeaderMatch, StringMatcher, StringPattern, Substitution, ValueMatch,
};
use super::BuildError;

/// The place in the resources that is being read, and the errors found.
#[derive(Default)]
pub(super) struct Check {
    resource: String,
    path: Vec<Step>,
    pub(super) errors: Vec<BuildError>,
}

/// A step of a path, put into words only when there is an error to tell: ten thousand endpoints have none.
enum Step {
    Field(Cow<'static, str>),
    Item(&'static str, usize),
}

impl std::fmt::Display for Step {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Field(name) => out.write_str(name),
            Self::Item(list, index) => write!(out, "{list}[{index}]"),
        }
    }
}

impl Check {
    /// From here on errors are about this resource.
    pub(super) fn enter_resource(&mut self, kind: &str, name: &str) {
        self.resource.clear();
        self.resource.push_str(kind);
        self.resource.push(' ');
        self.resource.push_str(name);
        self.path.clear();
    }

    /// Reads what is under a field.
    pub(super) fn within<T>(&mut self, field: impl Into<Cow<'static, str>>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.step(Step::Field(field.into()), read)
    }

    fn step<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let value = read(self);
        self.path.pop();
        value
    }

    /// Reads the `index`-th item of a list.
    pub(super) fn item<T>(&mut self, field: &'static str, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        self.step(Step::Item(field, index), read)
    }

    pub(super) fn error(&mut self, field: &str, message: impl Into<String>) {
        let mut path = self.path.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
        if !field.is_empty() {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(field);
        }
        self.errors.push(BuildError { resource: self.resource.clone(), field: path, message: message.into() });
    }

    /// Refuses every field that is still set.
    pub(super) fn leftover<M: Message + Name + Default + PartialEq>(&mut self, rest: &M) {
        if *rest == M::default() {
            return;
        }
        // The slow road to the names is walked only when there is an error to tell.
        let names: Vec<String> = crate::patch::pool::dynamic(rest)
            .map(|message| message.fields().map(|(field, _)| field.name().to_owned()).collect())
            .unwrap_or_default();
        if names.is_empty() {
            self.error("", format!("a field of {} is not supported", M::full_name()));
        }
        for name in names {
            self.error(&name, "not supported; remove the field");
        }
    }

    pub(super) fn unsupported(&mut self, field: &str) {
        self.error(field, "not supported; remove the field");
    }

    /// Opens an `Any` that must hold an `M`.
    pub(super) fn unpack<M: Message + Name + Default>(&mut self, any: &Any) -> Option<M> {
        if !is_type::<M>(any) {
            self.error("type_url", format!("{} where {} belongs", any.type_url, M::full_name()));
            return None;
        }
        match M::decode(any.value.as_slice()) {
            Ok(message) => Some(message),
            Err(error) => {
                self.error("value", format!("not a {}: {error}", M::full_name()));
                None
            }
        }
    }

    /// A duration that must not be negative.
    pub(super) fn duration(&mut self, field: &str, value: Option<EnvoyDuration>) -> Option<Duration> {
        let value = value?;
        match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
            (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
            _ => {
                self.error(field, "a negative or malformed duration; give 0s or more");
                None
            }
        }
    }

    /// A duration where 0 means that there is no limit, and unset means `unset`.
    pub(super) fn limit(
        &mut self,
        field: &str,
        value: Option<EnvoyDuration>,
        unset: Option<Duration>,
    ) -> Option<Duration> {
        match self.duration(field, value) {
            None => unset,
            Some(Duration::ZERO) => None,
            some => some,
        }
    }

    pub(super) fn percent(&mut self, field: &str, value: Option<Percent>) -> Option<f64> {
        let value = value?.value;
        if !(0.0..=100.0).contains(&value) {
            self.error(field, format!("{value} is not a percentage; give 0 to 100"));
            return None;
        }
        Some(value)
    }

    pub(super) fn percent_u32(&mut self, field: &str, value: Option<UInt32Value>, unset: u32) -> u32 {
        match value {
            Some(UInt32Value { value }) if value > 100 => {
                self.error(field, format!("{value} is not a percentage; give 0 to 100"));
                unset
            }
            Some(UInt32Value { value }) => value,
            None => unset,
        }
    }

    pub(super) fn fraction(&mut self, field: &str, value: &FractionalPercent) -> Fraction {
        let denominator = match DenominatorType::try_from(value.denominator) {
            Ok(DenominatorType::Hundred) => 100,
            Ok(DenominatorType::TenThousand) => 10_000,
            Ok(DenominatorType::Million) => 1_000_000,
            Err(_) => {
                self.error(field, "an unknown denominator");
                100
            }
        };
        Fraction { numerator: value.numerator, denominator }
    }

    /// Runtime keys have no effect here: there is no runtime that could override the value.
    pub(super) fn runtime_fraction(&mut self, field: &str, value: &RuntimeFractionalPercent) -> Fraction {
        value
            .default_value
            .as_ref()
            .map_or(Fraction { numerator: 0, denominator: 100 }, |value| self.fraction(field, value))
    }

    pub(super) fn port(&mut self, field: &str, value: u32) -> u16 {
        u16::try_from(value).unwrap_or_else(|_| {
            self.error(field, format!("{value} is not a port; give 0 to 65535"));
            0
        })
    }

    /// A text that goes into a header as it is.
    pub(super) fn header_text(&mut self, field: &str, text: &str) {
        if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.error(field, "a line break or a NUL does not belong into a header");
        }
    }

    /// A text that goes into the request line as it is.
    pub(super) fn path_text(&mut self, field: &str, text: &str) {
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            self.error(field, "a space or a control character does not belong into a request line");
        }
    }

    pub(super) fn regex(&mut self, field: &str, source: &str) -> Option<FullRegex> {
        FullRegex::new(source).map_err(|error| self.error(field, format!("`{source}` does not compile: {error}"))).ok()
    }

    pub(super) fn substitution(&mut self, field: &str, value: &RegexMatchAndSubstitute) -> Option<Substitution> {
        let source = value.pattern.as_ref().map_or("", |pattern| pattern.regex.as_str());
        self.path_text(field, &value.substitution);
        Substitution::new(source, &value.substitution)
            .map_err(|error| self.error(field, format!("`{source}` does not compile: {error}")))
            .ok()
    }

    pub(super) fn string_matcher(&mut self, field: &str, value: &EnvoyStringMatcher) -> Option<StringMatcher> {
        use string_matcher::MatchPattern;
        let pattern = match &value.match_pattern {
            Some(MatchPattern::Exact(text)) => StringPattern::Exact(text.as_str().into()),
            Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(text.as_str().into()),
            Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(text.as_str().into()),
            Some(MatchPattern::Contains(text)) => StringPattern::Contains(text.as_str().into()),
            Some(MatchPattern::SafeRegex(regex)) => StringPattern::Regex(self.regex(field, &regex.regex)?),
            Some(MatchPattern::Custom(_)) => {
                self.error(field, "custom matchers are not supported");
                return None;
            }
            None => {
                self.error(field, "a string matcher without a pattern");
                return None;
            }
        };
        Some(StringMatcher { pattern, ignore_case: value.ignore_case })
    }

    pub(super) fn header_matches(&mut self, field: &'static str, values: &[HeaderMatcher]) -> Box<[HeaderMatch]> {
        values
            .iter()
            .enumerate()
            .filter_map(|(index, value)| self.item(field, index, |check| check.header_match(value)))
            .collect()
    }

    fn header_match(&mut self, value: &HeaderMatcher) -> Option<HeaderMatch> {
        use header_matcher::HeaderMatchSpecifier as Specifier;
        let text = |pattern| Some(ValueMatch::Text(StringMatcher { pattern, ignore_case: false }));
        #[allow(deprecated)]
        let kind = match &value.header_match_specifier {
            None => Some(ValueMatch::Present(true)),
            Some(Specifier::PresentMatch(present)) => Some(ValueMatch::Present(*present)),
            Some(Specifier::StringMatch(matcher)) => self.string_matcher("string_match", matcher).map(ValueMatch::Text),
            Some(Specifier::RangeMatch(range)) => Some(ValueMatch::Range { start: range.start, end: range.end }),
            Some(Specifier::ExactMatch(exact)) => text(StringPattern::Exact(exact.as_str().into())),
            Some(Specifier::PrefixMatch(prefix)) => text(StringPattern::Prefix(prefix.as_str().into())),
            Some(Specifier::SuffixMatch(suffix)) => text(StringPattern::Suffix(suffix.as_str().into())),
            Some(Specifier::ContainsMatch(part)) => text(StringPattern::Contains(part.as_str().into())),
            Some(Specifier::SafeRegexMatch(regex)) => {
                self.regex("safe_regex_match", &regex.regex).and_then(|regex| text(StringPattern::Regex(regex)))
            }
        }?;
        if value.name.is_empty() {
            self.error("name", "a header matcher needs a name");
        }
        Some(HeaderMatch {
            name: value.name.to_ascii_lowercase().into(),
            kind,
            invert: value.invert_match,
            missing_is_empty: value.treat_missing_header_as_empty,
        })
    }

    /// A file name, or the bytes themselves.
    pub(super) fn data(&mut self, field: &str, value: &DataSource) -> Option<Data> {
        use data_source::Specifier;
        match &value.specifier {
            Some(Specifier::Filename(name)) => Some(Data::File(name.as_str().into())),
            Some(Specifier::InlineBytes(bytes)) => Some(Data::Inline(bytes.as_slice().into())),
            Some(Specifier::InlineString(text)) => Some(Data::Inline(text.as_bytes().into())),
            Some(Specifier::EnvironmentVariable(_)) => {
                self.error(field, "environment variables are not supported; give a file");
                None
            }
            None => None,
        }
    }
}

pub(super) enum Data {
    File(Box<str>),
    Inline(Box<[u8]>),
}

pub(super) fn is_type<M: Name>(any: &Any) -> bool {
    any.type_url.rsplit('/').next().is_some_and(|name| name == M::full_name())
}

/// The value of an optional wrapper.
pub(super) fn u32_or(value: Option<UInt32Value>, unset: u32) -> u32 {
    value.map_or(unset, |wrapper| wrapper.value)
}
