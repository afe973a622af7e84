//! What was read last: enough to tell what a change of the files touches, without keeping the documents.
//!
//! A mark tells that a file changed, a hash that a part of it did; only such parts are read again, and of the others those
//! documents that the services need which the change affects. About 100 bytes a document are kept.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use celerity_model::istio::{Config, Part, PartText, parts, read_parts};
use celerity_model::translate::{Concern, Needed, Node, affected, concerns};

use super::files::{self, Mark, Source};
use super::held::Emptied;
use super::{LoadError, Refused, is_named};

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    files: Vec<File>,
    /// Hosts of which this workload is an endpoint: the inbound side needs their documents, whatever changes.
    pub(crate) served: HashSet<u64>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    name: Arc<str>,
    mark: Mark,
    parts: Box<[Part]>,
    /// By line.
    concerns: Vec<Concern>,
}

/// What became of the files since.
#[derive(Debug)]
pub(crate) enum Difference {
    /// No document is another one.
    None(Inventory),
    /// The services of some hosts.
    Some(Box<Change>),
    /// All must be read.
    All,
}

#[derive(Debug)]
pub(crate) struct Change {
    /// The documents that the affected services need, and those that concern every service.
    pub(crate) config: Config,
    pub(crate) hosts: HashSet<u64>,
    /// Parts of files whose text is new.
    pub(crate) parts_new: usize,
    /// What to compare with next, once this is taken up.
    pub(crate) next: Inventory,
}

impl Inventory {
    /// What `sources` hold, which were read from `listed` and are `config`.
    pub(crate) fn of(listed: &[(PathBuf, Mark)], sources: &[Source], config: &Config, node: &Node) -> Self {
        let mut by_file = by_file(concerns(config, node));
        let files = listed.iter().zip(sources).map(|((path, mark), source)| {
            let concerns = by_file.remove(source.name.as_str()).unwrap_or_default();
            let parts = parts(&source.text).into();
            File { path: path.clone(), name: source.name.as_str().into(), mark: *mark, parts, concerns }
        });
        Self { files: files.collect(), served: HashSet::new() }
    }

    /// How many documents there are.
    pub(crate) fn len(&self) -> usize {
        self.files.iter().map(|file| file.concerns.len()).sum()
    }

    /// Whether these texts are what somebody meant to put in the place of what was read: a file that is written anew is empty
    /// for a moment, and would take all its services away.
    ///
    /// # Errors
    /// A file that held documents is blank, or nothing is left of all.
    pub(crate) fn consider(&self, sources: &[Source], documents: usize) -> Result<(), Emptied> {
        let known: HashMap<&str, &File> = self.files.iter().map(|file| (&*file.name, file)).collect();
        for source in sources {
            if let Some(before) = known.get(source.name.as_str()) {
                before.consider(&source.text)?;
            }
        }
        Emptied::all(self.len(), documents)
    }

    /// Compares the files that `paths` mean now with what was read.
    ///
    /// # Errors
    /// A file cannot be read, a new document is wrong, or what is there cannot be meant.
    pub(crate) fn difference(&self, paths: &[PathBuf], node: &Node) -> Result<Difference, LoadError> {
        let listed = files::list(paths)?;
        let known: HashMap<&Path, &File> = self.files.iter().map(|file| (file.path.as_path(), file)).collect();
        let mut texts: HashMap<usize, String> = HashMap::new();
        let mut next = Self { files: Vec::with_capacity(listed.len()), served: self.served.clone() };
        let mut gone: Vec<Concern> = Vec::new();
        let mut new_parts: Vec<(usize, Part)> = Vec::new();
        let names: HashSet<&Path> = listed.iter().map(|(path, _)| path.as_path()).collect();
        for file in self.files.iter().filter(|file| !names.contains(file.path.as_path())) {
            gone.extend(file.concerns.iter().cloned());
        }
        for (at, (path, mark)) in listed.iter().enumerate() {
            let before = known.get(path.as_path()).copied();
            if let Some(before) = before.filter(|before| before.mark == *mark) {
                next.files.push(before.again(*mark, before.parts.clone(), before.concerns.clone()));
                continue;
            }
            let text = files::read_one(path)?;
            if let Some(before) = before {
                before.consider(&text)?;
            }
            let now: Box<[Part]> = parts(&text).into();
            texts.insert(at, text);
            let Some(compared) = compare(before, &now) else { return Ok(Difference::All) };
            gone.extend(compared.gone);
            new_parts.extend(compared.new.into_iter().map(|part| (at, part)));
            let name: Arc<str> = path.display().to_string().into();
            next.files.push(File { path: path.clone(), name, mark: *mark, parts: now, concerns: compared.kept });
        }
        if gone.is_empty() && new_parts.is_empty() {
            return Ok(Difference::None(next));
        }
        let Some(read) = next.read(paths, &new_parts, &mut texts)? else { return Ok(Difference::All) };
        let came = concerns(&read, node);
        let kept: HashSet<u64> = next.concerns().map(|concern| concern.id).collect();
        if came.iter().any(|concern| kept.contains(&concern.id)) {
            // Two documents of one name: reading everything says where.
            return Ok(Difference::All);
        }
        let changed = gone.iter().chain(&came);
        let Some(hosts) = affected(changed.clone(), next.concerns().chain(changed)) else { return Ok(Difference::All) };
        let mut came = by_file(came);
        for file in &mut next.files {
            if let Some(more) = came.remove(&*file.name) {
                file.concerns.extend(more);
                file.concerns.sort_by_key(|concern| concern.source.line);
            }
        }
        Emptied::all(self.len(), next.len())?;
        let wanted: HashSet<u64> = hosts.union(&self.served).copied().collect();
        let needed = Needed::new(&wanted, next.concerns());
        let mut needed_parts = Vec::new();
        for (at, file) in next.files.iter().enumerate() {
            let lines = file.concerns.iter().filter(|concern| needed.contains(concern)).map(|c| c.source.line);
            let mut places: Vec<usize> = lines.filter_map(|line| part_at(&file.parts, line)).collect();
            places.dedup();
            needed_parts.extend(places.into_iter().filter_map(|place| Some((at, *file.parts.get(place)?))));
        }
        let parts_new = new_parts.len();
        let Some(config) = next.read(paths, &needed_parts, &mut texts)? else { return Ok(Difference::All) };
        Ok(Difference::Some(Box::new(Change { config, hosts, parts_new, next })))
    }

    fn concerns(&self) -> impl Iterator<Item = &Concern> + Clone {
        self.files.iter().flat_map(|file| &file.concerns)
    }

    /// Reads some parts, given by their file and in order. `None`: a file changed meanwhile.
    fn read(
        &self,
        paths: &[PathBuf],
        wanted: &[(usize, Part)],
        texts: &mut HashMap<usize, String>,
    ) -> Result<Option<Config>, LoadError> {
        for (at, _) in wanted {
            if let Some(file) = self.files.get(*at).filter(|_| !texts.contains_key(at)) {
                texts.insert(*at, files::read_one(&file.path)?);
            }
        }
        let mut by_file: Vec<(Arc<str>, Vec<PartText<'_>>)> = Vec::new();
        let mut last = None;
        for (at, part) in wanted {
            let text = texts.get(at).and_then(|text| part.of(text));
            let (Some(text), Some(file)) = (text, self.files.get(*at)) else { return Ok(None) };
            match by_file.last_mut().filter(|_| last == Some(*at)) {
                Some((_, texts)) => texts.push(text),
                None => by_file.push((Arc::clone(&file.name), vec![text])),
            }
            last = Some(*at);
        }
        Ok(Some(read_parts(&by_file, &is_named(paths)).map_err(Refused::of)?))
    }
}

impl File {
    fn consider(&self, text: &str) -> Result<(), Emptied> {
        Emptied::file(&self.name, text, !self.concerns.is_empty())
    }

    fn again(&self, mark: Mark, parts: Box<[Part]>, concerns: Vec<Concern>) -> Self {
        Self { path: self.path.clone(), name: Arc::clone(&self.name), mark, parts, concerns }
    }
}

fn by_file(concerns: Vec<Concern>) -> HashMap<Arc<str>, Vec<Concern>> {
    let mut by_file: HashMap<Arc<str>, Vec<Concern>> = HashMap::new();
    for concern in concerns {
        by_file.entry(Arc::clone(&concern.source.file)).or_default().push(concern);
    }
    for list in by_file.values_mut() {
        list.sort_by_key(|concern| concern.source.line);
    }
    by_file
}

/// The part in which a line stands; lines count from 1.
fn part_at(parts: &[Part], line: u32) -> Option<usize> {
    parts.partition_point(|part| part.lines_before < line).checked_sub(1)
}

struct Compared {
    kept: Vec<Concern>,
    gone: Vec<Concern>,
    new: Vec<Part>,
}

/// Finds the parts of `now` among those of before, whose documents then stand on other lines at most. `None`: they are in
/// another order, and of two documents for one host the first read wins.
fn compare(before: Option<&File>, now: &[Part]) -> Option<Compared> {
    let Some(before) = before else {
        return Some(Compared { kept: Vec::new(), gone: Vec::new(), new: now.to_vec() });
    };
    let mut places: HashMap<u128, Vec<usize>> = HashMap::new();
    for (place, part) in before.parts.iter().enumerate().rev() {
        places.entry(part.hash).or_default().push(place);
    }
    // Of each part before, the part that it is now.
    let mut stays: HashMap<usize, Part> = HashMap::new();
    let mut new = Vec::new();
    let mut last = None;
    for part in now {
        match places.get_mut(&part.hash).and_then(Vec::pop) {
            Some(place) if last > Some(place) => return None,
            Some(place) => {
                last = Some(place);
                stays.insert(place, *part);
            }
            None => new.push(*part),
        }
    }
    let (mut kept, mut gone) = (Vec::with_capacity(before.concerns.len()), Vec::new());
    for concern in &before.concerns {
        let place = part_at(&before.parts, concern.source.line);
        let was = place.and_then(|place| before.parts.get(place));
        match place.and_then(|place| stays.get(&place)).zip(was) {
            Some((is, was)) => {
                let mut concern = concern.clone();
                let line = concern.source.line.saturating_sub(was.lines_before);
                concern.source.line = is.lines_before.saturating_add(line);
                kept.push(concern);
            }
            None => gone.push(concern.clone()),
        }
    }
    Some(Compared { kept, gone, new })
}
