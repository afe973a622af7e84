//! Where the other forms of a report go. A file that cannot be written takes nothing else away: the text is printed first,
//! the other files are still written, and each failure is one sentence.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{csv, hdr, html};
use crate::Summary;
use crate::slo::Outcome;

/// The files that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    pub csv: Option<PathBuf>,
    pub hdr: Option<PathBuf>,
    pub html: Option<PathBuf>,
}

impl Outputs {
    /// Writes them all; says which could not be.
    pub fn write(&self, summary: &Summary, outcomes: &[Outcome]) -> Vec<String> {
        let mut failed = Vec::new();
        let mut one = |path: &Option<PathBuf>, what: &str, text: &dyn Fn() -> Result<String, String>| {
            let Some(path) = path else { return };
            if let Err(reason) = text().and_then(|text| write(path, &text)) {
                failed.push(format!("the {what} cannot be written to {}: {reason}", path.display()));
            }
        };
        one(&self.csv, "CSV", &|| Ok(csv::render(summary)));
        one(&self.hdr, "histogram", &|| Ok(hdr::render(&summary.response)));
        one(&self.html, "page", &|| html::render(summary, outcomes));
        failed
    }
}

/// Writes a file whole. The error is a reason without the path.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut file = std::fs::File::create(path).map_err(|error| error.to_string())?;
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(|error| error.to_string())
}

/// Writes a page where one was asked for; says why it could not be drawn or written.
pub fn write_page(path: Option<&Path>, page: impl FnOnce() -> Result<String, String>) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    page()
        .and_then(|text| write(path, &text))
        .map_err(|reason| format!("the page cannot be written to {}: {reason}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_missing_folder_are_named_and_the_rest_is_written() {
        let folder = std::env::temp_dir().join(format!("celerity-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let outputs = Outputs {
            csv: Some("/dev/full".into()),
            hdr: Some(folder.join("missing/x.hdr")),
            html: Some(folder.join("x.html")),
        };
        let failed = outputs.write(&crate::report::sample(), &[]);
        assert_eq!(failed.len(), 2, "{failed:?}");
        assert!(failed[0].contains("/dev/full") && failed[1].contains("missing/x.hdr"), "{failed:?}");
        let page = std::fs::read_to_string(folder.join("x.html")).expect("the page");
        assert!(page.ends_with("</html>\n"));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
