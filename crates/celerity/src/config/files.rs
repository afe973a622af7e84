//! The YAML files that a list of paths means.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

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
    #[error("{} is a pipe, a socket or a device: name it itself if it is to be read, or take it out of the folder", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is not UTF-8 text; save it as UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("{} is longer than {} MiB; split it into several files", path.display(), FILE_BYTES_MAX >> 20)]
    TooLong { path: PathBuf },
    #[error("there are more than {FILES_MAX} files or {} MiB below {}; name a smaller folder", TOTAL_BYTES_MAX >> 20, path.display())]
    TooMany { path: PathBuf },
    #[error("{} holds folders more than {DEPTH_MAX} deep; look for a symbolic link that leads back", path.display())]
    TooDeep { path: PathBuf },
    #[error("{} holds no .yaml, .yml or .json file; name a folder that does", path.display())]
    Empty { path: PathBuf },
}

/// Reads every file that `paths` mean: a file as it is, a folder with all `.yaml`, `.yml` and `.json` files below
/// it, by name, as `kubectl` does. Hidden entries are passed over: editors and mounted ConfigMaps keep their spare copies there.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, FilesError> {
    read_listed(&list(paths)?)
}

/// What could be read, and why the rest could not.
#[derive(Debug, Default)]
pub(crate) struct Readable {
    pub(crate) sources: Vec<Source>,
    pub(crate) failures: Vec<FilesError>,
}

/// As [`read`], but goes on where a single file cannot be read: the other files have findings too.
///
/// # Errors
/// A path that is not there, or that means too much or nothing.
pub(crate) fn read_what_can_be(paths: &[PathBuf]) -> Result<Readable, FilesError> {
    for path in paths {
        std::fs::metadata(path).map_err(|reason| FilesError::Unreadable { path: path.clone(), reason })?;
    }
    let mut readable = Readable::default();
    let mut total_bytes = 0;
    for (path, _) in list_by(paths, &mut |error| pass(error, &mut readable.failures))? {
        match read_one(&path) {
            Ok(text) => {
                total_bytes += text.len() as u64;
                if total_bytes > TOTAL_BYTES_MAX {
                    return Err(FilesError::TooMany { path });
                }
                readable.sources.push(Source { name: path.display().to_string(), text });
            }
            Err(error) => pass(error, &mut readable.failures)?,
        }
    }
    Ok(readable)
}

/// Keeps an error of a single file; one of the whole ends the reading.
fn pass(error: FilesError, failures: &mut Vec<FilesError>) -> Result<(), FilesError> {
    match error.path_of_file() {
        Some(_) => failures.push(error),
        None => return Err(error),
    }
    Ok(())
}

impl FilesError {
    /// The file, where it is about one alone.
    pub(crate) fn path_of_file(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::NotAFile { path }
            | Self::NotText { path }
            | Self::TooLong { path } => Some(path),
            Self::TooMany { .. } | Self::TooDeep { .. } | Self::Empty { .. } => None,
        }
    }
}

/// The text that stands on standard input, under the name `-`.
fn read_standard_input() -> Result<Source, FilesError> {
    let path = || PathBuf::from(STANDARD_INPUT);
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|reason| FilesError::Unreadable { path: path(), reason })?;
    text_of(bytes, &path()).map(|text| Source { name: STANDARD_INPUT.to_owned(), text })
}

/// The path that means standard input, as for many tools.
pub(crate) const STANDARD_INPUT: &str = "-";

/// What stands on standard input, if that is among the paths, and the other paths.
pub(crate) fn with_standard_input(paths: &[PathBuf]) -> Result<(Option<Source>, Vec<PathBuf>), FilesError> {
    let (input, others): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.iter().cloned().partition(|path| path.as_os_str() == STANDARD_INPUT);
    let input = if input.is_empty() { None } else { Some(read_standard_input()?) };
    Ok((input, others))
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
    // One more than there is, so that the end is seen without growing. What a pipe or /proc holds is not known before.
    let length = file.metadata().map_or(0, |metadata| metadata.len().min(FILE_BYTES_MAX));
    let mut bytes = Vec::with_capacity(length as usize + 1);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    text_of(bytes, path)
}

fn text_of(bytes: Vec<u8>, path: &Path) -> Result<String, FilesError> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FilesError::TooLong { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| FilesError::NotText { path: path.to_owned() })
}

/// What tells that a file changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// When it last changed, by the kernel: nobody can set that back, as tools do with the time of modification.
    changed_s: i64,
    changed_ns: i64,
    bytes: u64,
    inode: u64,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            changed_s: metadata.ctime(),
            changed_ns: metadata.ctime_nsec(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

/// The files that `paths` mean, in the order in which they are read, each once.
pub(crate) fn list(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Mark)>, FilesError> {
    list_by(paths, &mut Err)
}

/// `failed` says whether to go on after an error.
fn list_by(
    paths: &[PathBuf],
    failed: &mut dyn FnMut(FilesError) -> Result<(), FilesError>,
) -> Result<Vec<(PathBuf, Mark)>, FilesError> {
    let mut found = Vec::new();
    let mut failures = 0;
    for path in paths {
        let before = found.len() + failures;
        walk(path, 0, &mut found, &mut |error| {
            failures += 1;
            failed(error)
        })?;
        if found.len() + failures == before {
            return Err(FilesError::Empty { path: path.clone() });
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|(path, _)| seen.insert(path.clone()));
    Ok(found)
}

fn walk(
    path: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, Mark)>,
    failed: &mut dyn FnMut(FilesError) -> Result<(), FilesError>,
) -> Result<(), FilesError> {
    let unreadable = |reason| FilesError::Unreadable { path: path.to_owned(), reason };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(reason) => return failed(unreadable(reason)),
    };
    if !metadata.is_dir() {
        if depth > 0 && !metadata.is_file() {
            // Nobody may ever write to a pipe that lies in a folder, and its reader would wait.
            return failed(FilesError::NotAFile { path: path.to_owned() });
        }
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
    match std::fs::read_dir(path) {
        Ok(listed) => {
            for entry in listed {
                entries.push(entry.map_err(unreadable)?.path());
            }
        }
        Err(reason) => return failed(unreadable(reason)),
    }
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let meant = entry.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        if !hidden && (meant || entry.is_dir()) {
            walk(&entry, depth + 1, found, failed)?;
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
    fn one_file_that_cannot_be_read_hides_no_other() {
        let folder = TempDir::new();
        folder.write("a.yaml", "a");
        folder.write("c.yaml", "c");
        std::fs::write(folder.path().join("b.yaml"), [0xff]).expect("written");
        std::os::unix::fs::symlink(folder.path().join("gone"), folder.path().join("d.yaml")).expect("a link");
        let read = read_what_can_be(&[folder.path().to_owned()]).expect("readable");
        let texts: Vec<_> = read.sources.iter().map(|source| source.text.as_str()).collect();
        let failed: Vec<_> = read.failures.iter().filter_map(|error| error.path_of_file()?.file_name()).collect();
        assert_eq!(texts, ["a", "c"]);
        assert_eq!(failed, ["d.yaml", "b.yaml"]);
        assert!(super::read(&[folder.path().to_owned()]).is_err(), "whoever runs it takes all or nothing");
        assert!(read_what_can_be(&[folder.path().join("gone")]).is_err(), "a path that is not there was named wrongly");
    }

    #[test]
    fn a_pipe_in_a_folder_is_named_and_not_waited_for() {
        let folder = TempDir::new();
        folder.write("a.yaml", "a");
        let socket = folder.path().join("s.yaml");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let pipe = folder.path().join("p.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let read = read_what_can_be(&[folder.path().to_owned()]).expect("readable");
        assert_eq!((read.sources.len(), read.failures.len()), (1, 2));
        let refused = super::read(&[folder.path().to_owned()]).expect_err("refused").to_string();
        assert!(refused.contains("p.yaml is a pipe"), "{refused}");
    }

    #[test]
    fn a_change_that_keeps_length_and_time_is_seen() {
        let folder = TempDir::new();
        let file = folder.write("a.yaml", "one");
        let before = list(std::slice::from_ref(&file)).expect("listed");
        let modified = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("a time");
        std::thread::sleep(std::time::Duration::from_millis(20));
        folder.write("a.yaml", "two");
        std::fs::File::options().write(true).open(&file).and_then(|f| f.set_modified(modified)).expect("set back");
        assert_ne!(list(&[file]).expect("listed"), before);
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
