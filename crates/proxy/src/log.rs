//! The proxy's own log: one line per event on standard error.

use std::fmt;
use std::io::Write;

/// Writes a line. A log that can't be written must not stop what it tells of.
pub fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "celerity: {text}");
}
