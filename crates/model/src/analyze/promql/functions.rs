//! The functions of PromQL and what they take.

/// What an expression gives (prometheus.io, "Expression language data types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Scalar,
    /// One sample of each series.
    Vector,
    /// Samples over time of each series.
    Range,
    Text,
}

impl Type {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "a scalar",
            Self::Vector => "an instant vector",
            Self::Range => "a range of samples",
            Self::Text => "a text",
        }
    }
}

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    /// The type of each argument; more than these are of the last one's.
    pub(super) arguments: &'static [Type],
    pub(super) at_least: usize,
    /// `None`: any number.
    pub(super) at_most: Option<usize>,
    pub(super) gives: Type,
}

/// Prometheus 2.42 (promql/parser/functions.go), and what later releases added, up to 3.9; there some names ask for a flag.
pub(super) fn signature(name: &str) -> Option<Signature> {
    use Type::{Range, Scalar, Text, Vector};
    let exactly = |arguments: &'static [Type], gives| Signature {
        arguments,
        at_least: arguments.len(),
        at_most: Some(arguments.len()),
        gives,
    };
    let optional_last = |arguments: &'static [Type]| Signature {
        arguments,
        at_least: arguments.len().saturating_sub(1),
        at_most: Some(arguments.len()),
        gives: Vector,
    };
    let any_more =
        |arguments: &'static [Type], at_least| Signature { arguments, at_least, at_most: None, gives: Vector };
    let found = match name {
        "abs" | "absent" | "acos" | "acosh" | "asin" | "asinh" | "atan" | "atanh" | "ceil" | "cos" | "cosh" | "deg"
        | "exp" | "floor" | "histogram_count" | "histogram_sum" | "ln" | "log10" | "log2" | "rad" | "sgn" | "sin"
        | "sinh" | "sort" | "sort_desc" | "sqrt" | "tan" | "tanh" | "timestamp" => exactly(&[Vector], Vector),
        "absent_over_time" | "avg_over_time" | "changes" | "count_over_time" | "delta" | "deriv" | "idelta"
        | "increase" | "irate" | "last_over_time" | "max_over_time" | "min_over_time" | "present_over_time"
        | "rate" | "resets" | "stddev_over_time" | "stdvar_over_time" | "sum_over_time" => exactly(&[Range], Vector),
        "day_of_month" | "day_of_week" | "day_of_year" | "days_in_month" | "hour" | "minute" | "month" | "year" => {
            optional_last(&[Vector])
        }
        "clamp" => exactly(&[Vector, Scalar, Scalar], Vector),
        "clamp_max" | "clamp_min" => exactly(&[Vector, Scalar], Vector),
        "histogram_fraction" => exactly(&[Scalar, Scalar, Vector], Vector),
        "histogram_quantile" => exactly(&[Scalar, Vector], Vector),
        "holt_winters" | "double_exponential_smoothing" => exactly(&[Range, Scalar, Scalar], Vector),
        "label_join" => any_more(&[Vector, Text, Text, Text], 3),
        "label_replace" => exactly(&[Vector, Text, Text, Text, Text], Vector),
        "pi" | "time" => exactly(&[], Scalar),
        "predict_linear" => exactly(&[Range, Scalar], Vector),
        "quantile_over_time" => exactly(&[Scalar, Range], Vector),
        "round" => optional_last(&[Vector, Scalar]),
        "scalar" => exactly(&[Vector], Scalar),
        "vector" => exactly(&[Scalar], Vector),
        // After 2.42.
        "histogram_avg" | "histogram_stddev" | "histogram_stdvar" => exactly(&[Vector], Vector),
        "first_over_time"
        | "mad_over_time"
        | "ts_of_first_over_time"
        | "ts_of_last_over_time"
        | "ts_of_max_over_time"
        | "ts_of_min_over_time" => exactly(&[Range], Vector),
        "histogram_quantiles" => any_more(&[Vector, Text, Scalar], 3),
        "info" => optional_last(&[Vector, Vector]),
        "integral" => optional_last(&[Range, Scalar]),
        "sort_by_label" | "sort_by_label_desc" => any_more(&[Vector, Text], 1),
        "end" | "range" | "start" | "step" => exactly(&[], Scalar),
        _ => return None,
    };
    Some(found)
}

/// Names that a misspelt one may have meant: the ones that rules are made of.
pub(super) const OFTEN: [&str; 34] = [
    "abs",
    "absent",
    "absent_over_time",
    "avg_over_time",
    "ceil",
    "changes",
    "clamp_max",
    "clamp_min",
    "count_over_time",
    "day_of_week",
    "delta",
    "deriv",
    "floor",
    "histogram_quantile",
    "hour",
    "increase",
    "irate",
    "label_join",
    "label_replace",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "minute",
    "predict_linear",
    "quantile_over_time",
    "rate",
    "resets",
    "round",
    "scalar",
    "sort_desc",
    "sum_over_time",
    "time",
    "timestamp",
    "vector",
];
