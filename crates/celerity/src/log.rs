//! The log of `celerity proxy`: one line an event on standard error, for people and for a collector alike.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::term;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Where to log and how much. Passed, not global, so that two proxies in one process do not share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) level_max: Level,
}

impl Log {
    pub(crate) fn warn(self, text: impl std::fmt::Display) {
        self.write(Level::Warn, &text);
    }

    pub(crate) fn info(self, text: impl std::fmt::Display) {
        self.write(Level::Info, &text);
    }

    fn write(self, level: Level, text: &dyn std::fmt::Display) {
        if level <= self.level_max {
            term::note(line(OffsetDateTime::now_utc(), level, text));
        }
    }
}

/// RFC 3339 in UTC, to the millisecond, so that lines sort and stand in columns.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A message of several lines stays one event: its further lines are set in.
fn line(now: OffsetDateTime, level: Level, text: &dyn std::fmt::Display) -> String {
    let name = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    let now = now.format(TIMESTAMP).unwrap_or_default();
    format!("{now} {name:<5} {}", text.to_string().trim_end().replace('\n', "\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_the_level_and_the_text() {
        let shown = line(OffsetDateTime::UNIX_EPOCH, Level::Warn, &"kept\nreason");
        assert_eq!(shown, "1970-01-01T00:00:00.000Z warn  kept\n    reason");
    }
}
