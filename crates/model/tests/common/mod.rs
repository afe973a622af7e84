//! Finds the data that several tests share, beside the repository.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `$CELERITY_SHARED`, or `../shared` or `../../shared` beside the workspace.
/// Without it a test is skipped and says so; on CI it fails instead.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let candidates = match std::env::var_os("CELERITY_SHARED") {
        Some(given) => vec![PathBuf::from(given)],
        None => vec![root.join("../shared"), root.join("../../shared")],
    };
    let found = candidates.iter().map(|folder| folder.join(part)).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{part} is not in any of {candidates:?}");
        eprintln!("skipped: {part} is not in any of {candidates:?}");
    }
    found
}

/// The text of a file that must be there.
pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The YAML code blocks of the tutorial, verbatim, without those that hold comments only.
pub(crate) fn tutorial_blocks() -> Option<Vec<(Arc<str>, String)>> {
    let tutorial = text(&shared("mission/tutorial.md")?);
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in tutorial.lines().enumerate() {
        match &mut block {
            None if line == "```yaml" => block = Some((number + 2, String::new())),
            Some((start, body)) if line == "```" => {
                if body.lines().any(|line| !line.is_empty() && !line.starts_with('#')) {
                    blocks.push((Arc::from(format!("tutorial-{start}.yaml")), std::mem::take(body)));
                }
                block = None;
            }
            Some((_, body)) => {
                body.push_str(line);
                body.push('\n');
            }
            None => {}
        }
    }
    Some(blocks)
}

/// As the reader takes files.
pub(crate) fn borrowed(files: &[(Arc<str>, String)]) -> Vec<(Arc<str>, &str)> {
    files.iter().map(|(name, text)| (name.clone(), text.as_str())).collect()
}

/// Reads one text as `test.yaml`.
pub(crate) fn read(text: &str) -> Result<celerity_model::istio::Config, Vec<celerity_model::istio::ReadError>> {
    celerity_model::istio::read(&[(Arc::from("test.yaml"), text)])
}
