//! The log: one line an event on standard error, for people and for a collector alike.

use std::fmt;
use std::io::Write;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// How much to log. Passed, not global, so that two proxies in one process do not share it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    pub level_max: Level,
}

impl Log {
    /// The proxy does not do what it was told to.
    pub fn error(self, text: impl fmt::Display) {
        self.write(Level::Error, &text);
    }

    /// Somebody should know.
    pub fn warn(self, text: impl fmt::Display) {
        self.write(Level::Warn, &text);
    }

    /// All is as it should be.
    pub fn info(self, text: impl fmt::Display) {
        self.write(Level::Info, &text);
    }

    /// A line at a level that is found at run time. A log that can't be written must not stop what it tells of.
    pub fn write(self, level: Level, text: &dyn fmt::Display) {
        if level <= self.level_max {
            let _ = writeln!(std::io::stderr().lock(), "{}", line(OffsetDateTime::now_utc(), level, text));
        }
    }
}

/// RFC 3339 in UTC, to the millisecond, so that lines sort and stand in columns.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A message of several lines stays one event: its further lines are set in.
fn line(now: OffsetDateTime, level: Level, text: &dyn fmt::Display) -> String {
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
