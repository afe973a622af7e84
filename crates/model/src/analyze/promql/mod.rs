//! Whether an expression is PromQL (prometheus.io, "Querying basics", "Operators"): its form and its types.
//!
//! Written by hand: the crates for it bring a parser generator and a second calendar along. The measure is Prometheus 2.42, whose
//! `promtool` the tests ask. What later releases added (functions, quoted names, arithmetic of durations, durations as numbers)
//! is let through: nothing here says which release will read the rules.

mod functions;
mod lex;
mod parse;
mod regex;
mod selector;

pub(super) use lex::{text_length, unquote};

/// Where an expression stops being PromQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// From 1, in characters.
    pub(super) position: usize,
    pub(super) message: String,
}

/// The first mistake of an expression, if there is one.
pub(super) fn mistake(expr: &str) -> Option<Mistake> {
    match parse::check(expr) {
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
    /// Not judged.
    TooDeep,
}

impl Stop {
    fn at(offset: usize, message: impl Into<String>) -> Self {
        Self::At(offset, message.into())
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
            "limitk(3, x) + sort_by_label(x, \"a\")",
            "start() + step()",
            "rate(x[5m + 1m])",
            "time() - 1h30m > bool 5m",
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
            ("rate(x) > 1", 6, "needs a range"),
            ("rate(x[5minutes])", 8, "duration"),
            ("rate(x[5])", 8, "write its unit, such as 5m"),
            ("rate(x[0m])", 8, "longer than 0"),
            ("x{a=b}", 5, "text in quotes"),
            ("x{a\"b\"}", 4, "=, !="),
            ("x{a=\"b}", 5, "no end"),
            ("x{a=~\"[\"}", 6, "no regular expression"),
            ("x{a=\"\\q\"}", 6, "escape"),
            ("x{__name__=\"y\"}", 3, "set twice"),
            ("1 + {a=~\".*\"}", 5, "selects all series"),
            ("x > ", 4, "ends where"),
            ("x & y", 3, "no meaning"),
            ("sum() > 1", 1, "nothing to aggregate"),
            ("sum(x, y)", 1, "takes 1 argument,"),
            ("topk(x, y)", 6, "topk needs a scalar"),
            ("abs(1)", 5, "abs needs an instant vector here, and this is a scalar"),
            ("histogram_quntile(0.9, x)", 1, "did you mean histogram_quantile?"),
            ("round(x, 1, 2)", 1, "takes 1 to 2"),
            ("label_join(x)", 1, "takes 3 or more"),
            ("1 == 2", 3, "needs bool"),
            ("x + bool y", 3, "after comparisons only"),
            ("1 and x", 3, "a scalar stands beside it"),
            ("x and on (a) group_left y", 3, "no group_left"),
            ("a / on (x) group_left (x) b", 3, "at once"),
            ("x[5m] + 1", 1, "cannot be applied to a range"),
            ("-x[5m]", 1, "cannot stand before"),
            ("x offset 5m offset 5m", 13, "twice"),
            ("x offset 5m [5m]", 13, "before offset"),
            ("(x) offset 5m", 5, "after a series"),
            ("(x)[5m]", 4, "[5m:]"),
            ("1[5m:]", 1, "made of an instant vector"),
            ("on", 1, "word of the language"),
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

    proptest::proptest! {
        #[test]
        fn nothing_that_is_written_panics(expr in "[a-z0-9 ä(){}\\[\\],:\"'`\\\\=!~<>@+*^.#-]{0,24}") {
            let _ = mistake(&expr);
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(mistake(&"(".repeat(10_000)), None);
        assert_eq!(mistake(&format!("{}1{}", "(".repeat(20), ")".repeat(20))), None);
    }
}
