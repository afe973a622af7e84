//! Hash look-ups that replace scans: names, hosts and paths.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh64::xxh64;

use super::matching::{PathMatch, RequestView, path_only};
use super::route::Route;

/// Hash of a name.
pub(super) fn hash(name: &[u8]) -> u64 {
    xxh64(name, 0)
}

/// A map whose keys are hashes already.
pub(super) type HashedMap<V> = HashMap<u64, V, BuildHasherDefault<Hashed>>;

#[derive(Default, Clone, Copy)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh64(bytes, self.0);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Under this many routes a scan is faster than the index, and costs no memory.
const SCANNED_ROUTES_MAX: usize = 8;

/// Routes by path. One pass over the path gives the hash of each of its prefixes (FNV-1a, which can be continued byte
/// by byte), so that a look-up costs the length of the path and not the number of routes.
#[derive(Debug)]
pub(super) struct PathIndex {
    exact: HashedMap<Box<[u32]>>,
    prefix: HashedMap<Box<[u32]>>,
    /// Lengths of prefixes, ascending.
    prefix_lengths: Box<[u32]>,
    /// Expressions and matches without case: these are scanned.
    others: Box<[u32]>,
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, &byte| (state ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// FNV's high bits are weak for short keys; the map uses them.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^ (state >> 29)
}

impl PathIndex {
    /// `None` where a scan does as well.
    pub(super) fn of(routes: &[Route]) -> Option<Self> {
        if routes.len() <= SCANNED_ROUTES_MAX {
            return None;
        }
        let mut exact: HashedMap<Vec<u32>> = HashedMap::default();
        let mut prefix: HashedMap<Vec<u32>> = HashedMap::default();
        let mut lengths = Vec::new();
        let mut others = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let at = at as u32;
            match &route.matching.path {
                PathMatch::Exact(path) if !route.matching.ignore_case => {
                    exact.entry(mixed(fnv(FNV_OFFSET, path.as_bytes()))).or_default().push(at);
                }
                PathMatch::Prefix(path) | PathMatch::Segments(path) if !route.matching.ignore_case => {
                    prefix.entry(mixed(fnv(FNV_OFFSET, path.as_bytes()))).or_default().push(at);
                    lengths.push(path.len() as u32);
                }
                _ => others.push(at),
            }
        }
        lengths.sort_unstable();
        lengths.dedup();
        let boxed = |map: HashedMap<Vec<u32>>| map.into_iter().map(|(key, list)| (key, list.into())).collect();
        Some(Self { exact: boxed(exact), prefix: boxed(prefix), prefix_lengths: lengths.into(), others: others.into() })
    }

    /// The first route in configuration order that matches: the lowest over all candidate lists.
    pub(super) fn first<'a>(
        &self,
        routes: &'a [Route],
        request: &(impl RequestView + ?Sized),
        rng: u64,
    ) -> Option<&'a Route> {
        let mut best = routes.len() as u32;
        let mut look = |candidates: &[u32]| {
            for &at in candidates.iter().take_while(|&&at| at < best) {
                if routes.get(at as usize).is_some_and(|route| route.matching.matches(request, rng)) {
                    best = at;
                    break;
                }
            }
        };
        let path = path_only(request.path());
        let (mut state, mut done) = (FNV_OFFSET, 0);
        for &length in &self.prefix_lengths {
            let Some(more) = path.get(done..length as usize) else { break };
            state = fnv(state, more);
            done = length as usize;
            if let Some(candidates) = self.prefix.get(&mixed(state)) {
                look(candidates);
            }
        }
        if !self.exact.is_empty() {
            state = fnv(state, path.get(done..).unwrap_or_default());
            if let Some(candidates) = self.exact.get(&mixed(state)) {
                look(candidates);
            }
        }
        look(&self.others);
        routes.get(best as usize)
    }
}
