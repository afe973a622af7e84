//! The YAML files that a list of paths means.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Far above any configuration written by people or tools; a folder given by mistake (`/`) ends here, not in swap.
const FILES_MAX: usize = 20_000;
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
const TOTAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Folders within folders; also ends a cycle of symbolic links.
const DEPTH_MAX: usize = 24;

/// One file's text and the name that errors give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: std::io::Error },
    #[error("{} is not UTF-8 text: save it as UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("{} is longer than {} MiB: split it into several files", path.display(), FILE_BYTES_MAX >> 20)]
    TooLong { path: PathBuf },
    #[error("there are more than {FILES_MAX} files or {} MiB below {}: name a smaller folder", TOTAL_BYTES_MAX >> 20, path.display())]
    TooMany { path: PathBuf },
    #[error("{} holds folders more than {DEPTH_MAX} deep: look for a symbolic link that leads back", path.display())]
    TooDeep { path: PathBuf },
    #[error("{} holds no .yaml, .yml or .json file: name a folder that does", path.display())]
    Empty { path: PathBuf },
    #[error(
        "{} is empty, and held documents: whoever writes it has most likely only begun. What runs stays; delete the file if its \
         documents are to go",
        path.display()
    )]
    Emptied { path: PathBuf },
    #[error("no document is left: what runs stays; to run without any, start anew")]
    NothingLeft,
}

/// Reads every file that `paths` mean: a file as it is, a folder with all `.yaml`, `.yml` and `.json` files below
/// it, by name, as `kubectl` does. Hidden entries are passed over: editors and mounted ConfigMaps keep their spare copies there.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, FilesError> {
    read_listed(&list(paths)?)
}

/// The texts of listed files, in their order.
pub(crate) fn read_listed(listed: &[(PathBuf, Mark)]) -> Result<Vec<Source>, FilesError> {
    let mut sources = Vec::with_capacity(listed.len());
    let mut total_bytes = 0;
    for (path, _) in listed {
        let text = read_one(path)?;
        total_bytes += text.len() as u64;
        if total_bytes > TOTAL_BYTES_MAX {
            return Err(FilesError::TooMany { path: path.clone() });
        }
        sources.push(Source { name: path.display().to_string(), text });
    }
    Ok(sources)
}

/// The text of one file.
pub(crate) fn read_one(path: &Path) -> Result<String, FilesError> {
    let unreadable = |reason| FilesError::Unreadable { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FilesError::TooLong { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| FilesError::NotText { path: path.to_owned() })
}

/// What tells that a file changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { modified: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() }
    }
}

/// The files that `paths` mean, in the order in which they are read, each once.
pub(crate) fn list(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Mark)>, FilesError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        walk(path, 0, &mut found)?;
        if found.len() == before {
            return Err(FilesError::Empty { path: path.clone() });
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|(path, _)| seen.insert(path.clone()));
    Ok(found)
}

fn walk(path: &Path, depth: usize, found: &mut Vec<(PathBuf, Mark)>) -> Result<(), FilesError> {
    let unreadable = |reason| FilesError::Unreadable { path: path.to_owned(), reason };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_dir() {
        if found.len() == FILES_MAX {
            return Err(FilesError::TooMany { path: path.to_owned() });
        }
        found.push((path.to_owned(), Mark::of(&metadata)));
        return Ok(());
    }
    if depth == DEPTH_MAX {
        return Err(FilesError::TooDeep { path: path.to_owned() });
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let meant = entry.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        if !hidden && (meant || entry.is_dir()) {
            walk(&entry, depth + 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use celerity_testkit::TempDir;

    use super::*;

    #[test]
    fn a_folder_is_read_by_name_with_its_folders_and_without_what_is_hidden() {
        let folder = TempDir::new();
        for name in ["b.yaml", "a/2.yml", "a/1.yaml", "c.json", "notes.txt", ".a.yaml.swp", "..data/old.yaml"] {
            folder.write(name, name);
        }
        let texts: Vec<_> =
            read(&[folder.path().to_owned()]).expect("readable").into_iter().map(|source| source.text).collect();
        assert_eq!(texts, ["a/1.yaml", "a/2.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn a_file_named_twice_is_read_once_and_may_have_any_name() {
        let folder = TempDir::new();
        let file = folder.write("rules.txt", "x");
        assert_eq!(read(&[file.clone(), file]).expect("readable").len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = TempDir::new();
        let text = |paths: &[PathBuf]| read(paths).expect_err("refused").to_string();
        assert!(text(&[folder.path().join("gone")]).contains("gone cannot be read"));
        assert!(text(&[folder.path().to_owned()]).contains("no .yaml"));
        std::fs::write(folder.path().join("a.yaml"), [0xff, 0xfe]).expect("written");
        assert!(text(&[folder.path().to_owned()]).contains("not UTF-8"));
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("a link");
        assert!(text(&[folder.path().to_owned()]).contains("leads back"));
    }
}
