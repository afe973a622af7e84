//! The Prometheus text format 0.0.4 (prometheus.io, "Exposition formats").

use std::fmt::Write;
use std::io;

/// Appends `name="value"` with a comma before it where one is due; the value is escaped.
pub(super) fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The text is handed on in pieces of about this size, so that a scrape of many series needs no memory for all of it.
const PIECE_BYTES: usize = 64 * 1_024;

/// Writes one exposition. A family's lines must be written together.
pub struct Exposition<'a> {
    out: &'a mut dyn io::Write,
    piece: String,
    error: Option<io::Error>,
}

impl<'a> Exposition<'a> {
    pub fn new(out: &'a mut dyn io::Write) -> Self {
        Self { out, piece: String::with_capacity(PIECE_BYTES + 4_096), error: None }
    }

    /// `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.piece, "# HELP {name} ");
        for character in help.chars() {
            match character {
                '\\' => self.piece.push_str("\\\\"),
                '\n' => self.piece.push_str("\\n"),
                other => self.piece.push(other),
            }
        }
        let _ = writeln!(self.piece, "\n# TYPE {name} {kind}");
    }

    /// One line. `labels` is rendered text without braces, see `labels`; empty for none.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        if labels.is_empty() {
            let _ = writeln!(self.piece, "{name} {value}");
        } else {
            let _ = writeln!(self.piece, "{name}{{{labels}}} {value}");
        }
        self.hand_on(PIECE_BYTES);
    }

    /// The lines of one histogram: cumulative counts at ascending borders, then `+Inf`, sum and count.
    pub fn histogram<B: std::fmt::Display>(
        &mut self,
        name: &str,
        labels: &str,
        buckets: impl Iterator<Item = (B, u64)>,
        count: u64,
        sum: f64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (border, below) in buckets {
            let _ = writeln!(self.piece, "{name}_bucket{{{labels}{comma}le=\"{border}\"}} {below}");
        }
        let _ = writeln!(self.piece, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.piece, "{name}_sum{open}{labels}{close} {sum}");
        let _ = writeln!(self.piece, "{name}_count{open}{labels}{close} {count}");
        self.hand_on(PIECE_BYTES);
    }

    /// Renders labels; values are escaped.
    pub fn labels(pairs: &[(&str, &str)]) -> String {
        let mut out = String::new();
        for (name, value) in pairs {
            push_label(&mut out, name, value);
        }
        out
    }

    fn hand_on(&mut self, over: usize) {
        if self.piece.len() > over {
            if self.error.is_none() {
                self.error = self.out.write_all(self.piece.as_bytes()).err();
            }
            self.piece.clear();
        }
    }

    /// Hands on the rest. The first error of the writer, if there was one.
    pub fn finish(mut self) -> io::Result<()> {
        self.hand_on(0);
        match self.error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_histograms_are_whole() {
        let mut out = Vec::new();
        let mut text = Exposition::new(&mut out);
        text.family("a_seconds", "one\ntwo", "histogram");
        let labels = Exposition::labels(&[("path", "a\"b\\c\nd")]);
        text.histogram("a_seconds", &labels, [("0.5", 1)].into_iter(), 2, 1.5);
        text.sample("b", "", 7);
        text.finish().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "# HELP a_seconds one\\ntwo\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{path=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 1\n\
             a_seconds_bucket{path=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 2\n\
             a_seconds_sum{path=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             a_seconds_count{path=\"a\\\"b\\\\c\\nd\"} 2\nb 7\n"
        );
    }
}
