//! A map's hasher for keys that are hashes already.
//!
//! Identities of clusters and endpoints are 64 bits of xxHash over configuration, so no client chooses them: hashing them
//! again, against an attacker, cost a hundred instructions per request.

use std::hash::Hasher;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Identity(u64);

pub(crate) type BuildHasher = std::hash::BuildHasherDefault<Identity>;

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not for keys of other types, but right for them too.
        self.0 = bytes.iter().fold(self.0, |sum, &byte| sum.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, identity: u64) {
        self.0 = identity;
    }
}
