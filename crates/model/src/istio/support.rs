//! The table of what acts and what is refused, taken from the same declarations that the reader runs on.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Collects the fields of one kind.
#[derive(Default)]
pub(crate) struct Support {
    path: Vec<&'static str>,
    acts: String,
    refused: Vec<String>,
    /// Records that were shown before in this row, such as the TrafficPolicy of a subset.
    seen: BTreeSet<&'static str>,
}

impl Support {
    pub(crate) fn field(&mut self, key: &'static str, later: Option<&str>, below: fn(&mut Self)) {
        self.path.push(key);
        if later.is_some() {
            self.refused.push(self.path.join("."));
        } else {
            if !self.acts.is_empty() && !self.acts.ends_with('{') {
                self.acts.push_str(", ");
            }
            self.acts.push_str(key);
            below(self);
        }
        self.path.pop();
    }

    pub(crate) fn record(&mut self, name: &'static str, refused: &[(&'static str, &str)], fields: fn(&mut Self)) {
        if !self.seen.insert(name) {
            self.acts.push_str("{…}");
            return;
        }
        for (key, _) in refused {
            let path = self.path.iter().chain([key]).copied().collect::<Vec<_>>();
            self.refused.push(path.join("."));
        }
        self.acts.push('{');
        fields(self);
        self.acts.push('}');
    }

    pub(crate) fn word(&mut self, word: &str, later: Option<&str>) {
        if later.is_some() {
            self.refused.push(format!("{}: {word}", self.path.join(".")));
        }
    }
}

/// The table in Markdown: for each kind its API versions, the fields that act and those refused by name.
/// `{…}` stands for fields that the same row showed before.
pub fn support_table() -> String {
    let mut table = String::from("| kind | fields that act | refused by name |\n|---|---|---|\n");
    for kind in super::read::KINDS {
        let mut support = Support::default();
        (kind.support)(&mut support);
        let acts = support.acts.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(&support.acts);
        let refused: Vec<String> = support.refused.iter().map(|path| format!("`{path}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| **{}** ({}) | `{acts}` | {} |",
            kind.name,
            kind.api_versions.join(", "),
            if refused.is_empty() { "-".to_owned() } else { refused.join(", ") }
        );
    }
    let _ = writeln!(table, "| {} | - | the whole kind |", super::read::REFUSED_KINDS.map(|(kind, _)| kind).join(", "));
    table
}
