//! The table of what acts and what is refused, taken from the same declarations that the reader runs on.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Collects the fields of one kind.
#[derive(Default)]
pub(crate) struct Support {
    path: Vec<&'static str>,
    acts: String,
    refused: Vec<String>,
    idle: Vec<String>,
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

    /// A field that is read and has no effect here.
    pub(crate) fn idle(&mut self, key: &'static str) {
        let path = self.path.iter().chain([&key]).copied().collect::<Vec<_>>();
        self.idle.push(path.join("."));
    }

    pub(crate) fn record(
        &mut self,
        name: &'static str,
        refused: &[(&'static str, &str)],
        ignored: &[&'static str],
        fields: fn(&mut Self),
    ) {
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
        ignored.iter().for_each(|key| self.idle(key));
    }

    pub(crate) fn word(&mut self, word: &str, later: Option<&str>) {
        if later.is_some() {
            self.refused.push(format!("{}: {word}", self.path.join(".")));
        }
    }
}

/// The table in Markdown: for each kind its API versions, the fields that act, those that are read and have no effect here, and
/// those refused by name. `{…}` stands for fields that the same row showed before.
pub fn support_table() -> String {
    let mut table = String::from(
        "| kind | fields that act | accepted, without effect here | refused by name |\n|---|---|---|---|\n",
    );
    let list = |paths: &[String]| match paths {
        [] => "-".to_owned(),
        some => some.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", "),
    };
    for kind in super::read::KINDS {
        let mut support = Support::default();
        (kind.support)(&mut support);
        let acts = support.acts.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(&support.acts);
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "| **{}** ({}) | `{acts}` | {} | {} |",
            kind.name,
            kind.api_versions.join(", "),
            list(&support.idle),
            list(&support.refused)
        );
    }
    let _ =
        writeln!(table, "| {} | - | - | the whole kind |", super::read::REFUSED_KINDS.map(|(kind, _)| kind).join(", "));
    table
}
