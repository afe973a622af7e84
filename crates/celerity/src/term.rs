//! What the binary writes for people: standard output, standard error and colour.
//!
//! A closed pipe (`celerity analyze | head`) is not an error of ours. A result that cannot be written is one ([`result`]); what is
//! said beside results is dropped then.

use std::io::{IsTerminal, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;

/// Writes a line to standard output.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes text to standard output as it is, and flushes it.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes the result that a command is for to standard output.
///
/// # Errors
/// It cannot be written, as on a full disk; not where whoever reads it has gone.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("standard output cannot be written"))
        }
        _ => Ok(()),
    }
}

/// Writes a line to standard error: notes that must not mix with a result on standard output.
pub(crate) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes an error with all that caused it, in one line.
pub(crate) fn error(error: &anyhow::Error) {
    let prefix = if colour(std::io::stderr().is_terminal()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    note(format_args!("{prefix} {error:#}"));
}

/// Whether standard output is a terminal that may be redrawn.
pub(crate) fn live() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether to colour: only on a terminal that can, and never when `NO_COLOR` is set to something (https://no-color.org).
pub(crate) fn colour(terminal: bool) -> bool {
    let able = terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    able && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The exit code of a verb of whose result some could not be written, for these reasons. Whoever asked for it must hear so, and it is
/// an error (2) where all else went well; a run that failed by itself says that instead.
pub(crate) fn with_unwritten(code: u8, reasons: impl IntoIterator<Item = String>) -> std::process::ExitCode {
    let mut missing = false;
    for reason in reasons {
        missing = true;
        error(&anyhow::Error::msg(reason));
    }
    std::process::ExitCode::from(if missing && code == 0 { 2 } else { code })
}

/// As [`result`]; the error is one sentence.
pub(crate) fn shown(text: &str) -> Result<(), String> {
    result(text).map_err(|error| format!("{error:#}"))
}

/// The width of a table on standard output where there is no terminal: what a page takes without wrapping.
const COLUMNS: usize = 100;

/// The width of standard output in characters: the terminal's, else COLUMNS, else 100.
pub(crate) fn columns() -> usize {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(told).filter(|columns| *columns > 0).unwrap_or(COLUMNS)
}

/// Replaces the line that the cursor is in on standard error, for progress on a terminal.
pub(crate) fn rewrite(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = write!(out, "\r{text}\x1b[K");
    let _ = out.flush();
}

/// As much of a text as fits into so many columns; colours take none, and are ended.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    let (mut out, mut shown, mut escape, mut coloured) = (String::new(), 0, false, false);
    for c in text.chars() {
        if escape {
            escape = !c.is_ascii_alphabetic();
        } else if c == '\x1b' {
            (escape, coloured) = (true, true);
        } else if shown == columns {
            break;
        } else {
            shown += 1;
        }
        out.push(c);
    }
    if coloured { out + "\x1b[0m" } else { out }
}

/// Standard error, caught on its way to a terminal on which something is redrawn. Given back when it is dropped, and before a
/// panic's message and an exit ([`give_back`]).
pub(crate) struct Caught(());

/// Where standard error led before, and what is to be shown there. Global as the descriptor is: a panic and an exit in any
/// thread must find it.
static CAUGHT: Mutex<Option<Catch>> = Mutex::new(None);
/// The panic hook is set once, however often standard error is caught.
static HOOK: Once = Once::new();

struct Catch {
    terminal: OwnedFd,
    lines: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

/// Bytes that wait to be shown. A log that says more between two drawings is cut.
const CAUGHT_BYTES_MAX: usize = 64 << 10;

impl Caught {
    pub(crate) fn start() -> std::io::Result<Self> {
        let terminal = std::io::stderr().as_fd().try_clone_to_owned()?;
        let (reader, writer) = std::io::pipe()?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || keep(reader, &kept))?;
        HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                hook(panic);
            }));
        });
        let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::stdio::dup2_stderr(&writer)?;
        *caught = Some(Catch { terminal, lines, thread });
        Ok(Self(()))
    }

    /// The lines that came since the last call, without an unfinished one.
    pub(crate) fn take(&mut self) -> Vec<String> {
        let caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(caught) = &*caught else { return Vec::new() };
        let whole = whole(&mut caught.lines.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

/// Takes what may be shown: whole lines, or all of a line that has no room to end in.
fn whole(lines: &mut Vec<u8>) -> Vec<u8> {
    let end = lines.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let full = (lines.len() >= CAUGHT_BYTES_MAX).then_some(lines.len());
    lines.drain(..end.or(full).unwrap_or(0)).collect()
}

fn keep(mut reader: PipeReader, lines: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut piece) {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CAUGHT_BYTES_MAX.saturating_sub(lines.len());
        lines.extend(piece.iter().take(count.min(room)));
    }
}

/// Standard error leads to the terminal again if it was caught, and has what waited. For whoever ends the process.
pub(crate) fn give_back() {
    let Some(caught) = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    // The last writer of the pipe goes with this, so that its reader ends.
    if rustix::stdio::dup2_stderr(&caught.terminal).is_ok() {
        let _ = caught.thread.join();
    }
    let rest = std::mem::take(&mut *caught.lines.lock().unwrap_or_else(PoisonError::into_inner));
    let _ = std::io::stderr().lock().write_all(&rest);
}

impl Drop for Caught {
    fn drop(&mut self) {
        give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_terminals_edge_and_colours_take_no_room() {
        assert_eq!(cut("served by: a 50 %", 9), "served by");
        assert_eq!(cut("short", 80), "short");
        assert_eq!(cut("\x1b[36m███\x1b[0m 5 %", 2), "\x1b[36m██\x1b[0m");
    }
    #[test]
    fn a_line_without_an_end_is_shown_when_it_fills_the_room() {
        let mut lines = b"a\nb".to_vec();
        assert_eq!((whole(&mut lines), &*lines), (b"a\n".to_vec(), &b"b"[..]));
        lines.resize(CAUGHT_BYTES_MAX, b'b');
        assert_eq!((whole(&mut lines).len(), lines.len()), (CAUGHT_BYTES_MAX, 0));
    }

    /// Set in the process that a test starts of itself.
    const ENDING: &str = "CELERITY_TEST_ENDING";

    #[test]
    fn what_is_said_last_reaches_the_terminal() {
        if let Ok(ending) = std::env::var(ENDING) {
            return end(&ending);
        }
        for (ending, last) in [("panic", "the last words"), ("signal", "a log's line")] {
            let output = std::process::Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "term::tests::what_is_said_last_reaches_the_terminal", "--nocapture"])
                .env(ENDING, ending)
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("a log's line\n") && said.contains(last), "{ending}: {output:?}");
            assert!(ending == "panic" || output.status.code() == Some(130), "{ending}: {output:?}");
        }
    }

    fn end(ending: &str) {
        let _signals = crate::interrupt::Signals::listen(|| {}).expect("signals");
        let _caught = Caught::start().expect("a pipe");
        note("a log's line");
        if ending == "panic" {
            let panics = std::thread::spawn(|| panic!("the last words"));
            assert!(panics.join().is_err());
            // As where a panic aborts: nothing is dropped.
            std::process::exit(1);
        }
        let id = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
}
