//! The command lines that people have in their fingers: wrk's, hey's and vegeta's, read as those tools read them and
//! answered in their words. The engine behind them is the same as everywhere, so what they leave out of a latency (the
//! wait for a free connection) is not left out here.
//!
//! What differs is said where it differs: redirects are not followed, and a flag that would do nothing is refused by name.

mod flags;
pub mod hey;
pub mod rows;
pub mod units;
pub mod vegeta;
pub mod vegeta_report;
pub mod wrk;

use std::sync::Arc;

/// What is wrong with a command line: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// `Name: value`, as all three tools write it.
fn header(tool: &str, text: &str) -> Result<(String, String), Usage> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(Usage::new(format!("{tool}: the header `{}` is not `Name: value`", text.escape_debug()))),
    }
}

/// What a tool's `-h` or wrk's `-v` asks for; `None` where the line asks for neither.
pub fn help(tool: &str, args: &[String]) -> Option<String> {
    let asked = |names: &[&str]| args.iter().take_while(|arg| *arg != "--").any(|arg| names.contains(&arg.as_str()));
    let text = match tool {
        "wrk" if asked(&["-v", "--version"]) => concat!("celerity ", env!("CARGO_PKG_VERSION"), ", as wrk\n"),
        "wrk" if asked(&["-h", "--help"]) => wrk::HELP,
        "hey" if asked(&["-h", "-help", "--help"]) => hey::HELP,
        "vegeta" if asked(&["-h", "-help", "--help"]) => vegeta::HELP,
        _ => return None,
    };
    Some(text.to_owned())
}

/// A body above this is a slip of the hand.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

fn read_body(tool: &str, path: &str) -> Result<Arc<[u8]>, Usage> {
    let fail = |why: String| Usage::new(format!("{tool}: the body `{path}` cannot be read: {why}"));
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > BODY_BYTES_MAX {
        return Err(fail(format!("it has {size} bytes, and may have {BODY_BYTES_MAX}")));
    }
    std::fs::read(path).map(Arc::from).map_err(|e| fail(e.to_string()))
}

fn read_pem(tool: &str, path: &str) -> Result<Arc<[u8]>, Usage> {
    std::fs::read(path).map(Arc::from).map_err(|error| Usage::new(format!("{tool}: `{path}` cannot be read: {error}")))
}

/// CPUs that may be used, for tools that take as many threads as there are.
fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What help names is read, and no flag goes unnamed.
    #[test]
    fn help_names_the_flags_that_are_read() {
        let helped = |tool: &str, flag: &str| help(tool, &[flag.to_owned()]).expect("help");
        let flags = |text: &str| -> Vec<String> {
            let words = text.lines().filter_map(|line| line.strip_prefix("  -"));
            words.map(|line| format!("-{}", line.split([' ', ',']).next().unwrap_or_default())).collect()
        };
        for (tool, flag) in [("wrk", "-h"), ("hey", "-h"), ("vegeta", "-help")] {
            let text = helped(tool, flag);
            assert!(flags(&text).len() > 5, "{text}");
            for flag in flags(&text) {
                let line = [flag.clone(), "1".to_owned(), "http://a".to_owned()];
                let refused = match tool {
                    "wrk" => wrk::Wrk::parse(&line).err(),
                    "hey" => hey::Hey::parse(&line).err(),
                    _ => vegeta::Attack::parse(&line[..1]).err(),
                };
                assert!(!refused.is_some_and(|why| why.0.contains("not supported")), "{tool} {flag}");
            }
        }
        assert!(helped("wrk", "-v").contains("as wrk"));
        assert_eq!(help("wrk", &["http://a".into(), "--".into(), "-h".into()]), None);
    }
}
