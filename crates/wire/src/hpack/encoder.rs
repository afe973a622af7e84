//! The encoder of header blocks (RFC 7541, section 6).
//!
//! A proxy sends the same few fields again and again. A field enters the dynamic table when it is sent for the second
//! time: what differs in every message (request ids, traces) then never pushes out what repeats. Finding a field costs
//! one hash of name and value and one comparison: the hash leads to a slot of a fixed array, and a newer field may
//! take the slot of an older one, which costs octets and nothing else.

use std::collections::VecDeque;

use super::table::{STATIC_LEN, hash, static_name, static_pair};
use super::{ENTRY_OVERHEAD, huffman};

/// Huffman coding saves a quarter of a string's octets and costs its time at both ends. Within a mesh octets are
/// cheap, and what repeats is sent as an index anyway.
const HUFFMAN: bool = false;

/// The table that we fill, whatever larger one the peer offers: more would only cost memory at both ends.
const MAX_TABLE_SIZE: usize = 4096;

/// Slots of each array: eight times the fields that a table of 4,096 octets usually holds.
const SLOTS: usize = 256;

/// A field larger than this part of the table would push out too much.
const LARGEST_SHARE: usize = 4;

#[derive(Debug, Default)]
struct Entry {
    text: Vec<u8>,
    name_len: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }

    fn name(&self) -> &[u8] {
        self.text.get(..self.name_len).unwrap_or_default()
    }

    fn is(&self, name: &[u8], value: &[u8]) -> bool {
        self.text.len() == name.len() + value.len() && self.name() == name && self.text.ends_with(value)
    }
}

#[derive(Debug)]
pub struct Encoder {
    /// Oldest first; the newest has the number `inserted - 1`.
    entries: VecDeque<Entry>,
    spare: Vec<Entry>,
    inserted: u32,
    size: usize,
    max_size: usize,
    /// A size that must be announced at the start of the next block.
    announce: Option<usize>,
    /// By hash of name and value: the number of the entry, plus one.
    pairs: [u32; SLOTS],
    /// By hash of the name: the number of an entry with that name, plus one.
    names: [u32; SLOTS],
    /// By hash of name and value: the hash of the last field that was sent as a literal.
    seen: [u32; SLOTS],
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            spare: Vec::new(),
            inserted: 0,
            size: 0,
            max_size: MAX_TABLE_SIZE,
            announce: None,
            pairs: [0; SLOTS],
            names: [0; SLOTS],
            seen: [0; SLOTS],
        }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE. Call [`Self::begin`] before the next block.
    pub fn set_peer_limit(&mut self, limit: usize) {
        let next = limit.min(MAX_TABLE_SIZE);
        if next != self.max_size {
            // Where the size went down and up again between two blocks the lower one must be said too
            // (RFC 7541, section 4.2). An empty table makes that one announcement.
            if next > self.max_size && self.announce.is_some() {
                self.resize(0);
            }
            self.resize(next);
            self.announce = Some(next);
        }
    }

    /// Starts a header block: announces a changed table size.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(size) = self.announce.take() {
            if size > 0 && self.entries.is_empty() {
                integer(out, 0x20, 5, 0);
            }
            integer(out, 0x20, 5, size);
        }
    }

    /// Changes when the table does: what was encoded before may read differently after.
    pub fn table_version(&self) -> u32 {
        self.inserted
    }

    /// Appends one field. `name` is in lower case.
    #[inline]
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.field_settled(name, value, out);
    }

    /// As [`Self::field`]. True where the same field gives the same octets again for as long as
    /// the table's version stands, so that a sender of the same head may keep them.
    pub fn field_settled(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
        let name_hash = hash(name);
        if is_secret(name, value) {
            let index = self.name_index(name, name_hash);
            literal(out, 0x10, 4, index, name, value);
            return true;
        }
        let pair_hash = hash(value).rotate_left(11) ^ name_hash.wrapping_mul(0x85eb_ca6b);
        let slot = pair_hash as usize % SLOTS;
        if let Some((index, entry)) = self.entry(self.pairs[slot])
            && entry.is(name, value)
        {
            integer(out, 0x80, 7, index);
            return true;
        }
        let in_static = static_name(name, name_hash);
        if let Some(index) = in_static.and_then(|first| static_pair(first, value)) {
            integer(out, 0x80, 7, index);
            return true;
        }
        let index = in_static.unwrap_or_else(|| self.dynamic_name(name, name_hash));
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        // Zero marks an empty slot, so that value never counts as seen.
        let again = self.seen[slot] == pair_hash && pair_hash != 0;
        let too_large = size > self.max_size / LARGEST_SHARE;
        if !again || too_large {
            self.seen[slot] = pair_hash;
            literal(out, 0, 4, index, name, value);
            return too_large;
        }
        literal(out, 0x40, 6, index, name, value);
        self.insert(name, value, size);
        self.pairs[slot] = self.inserted;
        self.names[name_hash as usize % SLOTS] = self.inserted;
        false
    }

    /// The live entry of a slot, with its index on the wire.
    fn entry(&self, slot: u32) -> Option<(usize, &Entry)> {
        let age = self.inserted.checked_sub(slot)? as usize;
        if slot == 0 {
            return None;
        }
        let place = self.entries.len().checked_sub(age + 1)?;
        self.entries.get(place).map(|entry| (STATIC_LEN + 1 + age, entry))
    }

    /// An index of the name, 0 where there is none.
    fn name_index(&self, name: &[u8], name_hash: u32) -> usize {
        static_name(name, name_hash).unwrap_or_else(|| self.dynamic_name(name, name_hash))
    }

    fn dynamic_name(&self, name: &[u8], name_hash: u32) -> usize {
        let entry = self.entry(self.names[name_hash as usize % SLOTS]);
        entry.filter(|(_, entry)| entry.name() == name).map_or(0, |(index, _)| index)
    }

    fn insert(&mut self, name: &[u8], value: &[u8], size: usize) {
        self.evict(size);
        if self.inserted == u32::MAX {
            // The numbers are used up: forget where things are, which costs octets only.
            self.inserted = self.entries.len() as u32;
            self.pairs = [0; SLOTS];
            self.names = [0; SLOTS];
        }
        let mut entry = self.spare.pop().unwrap_or_default();
        entry.text.clear();
        entry.text.extend_from_slice(name);
        entry.name_len = name.len();
        entry.text.extend_from_slice(value);
        self.entries.push_back(entry);
        self.size += size;
        self.inserted += 1;
    }

    fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict(0);
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.size();
            if self.spare.len() < SLOTS {
                self.spare.push(entry);
            }
        }
    }
}

/// Cookies shorter than this can be guessed octet by octet through the compression (RFC 7541, section 7.1.3).
const GUESSABLE_COOKIE: usize = 20;

/// Fields that no hop may put in a table.
fn is_secret(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"authorization" | b"proxy-authorization" | b"set-cookie" => true,
        b"cookie" => value.len() < GUESSABLE_COOKIE,
        _ => false,
    }
}

fn literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, index: usize, name: &[u8], value: &[u8]) {
    integer(out, pattern, prefix, index);
    if index == 0 {
        string(out, name);
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    if HUFFMAN {
        let len = huffman::encoded_len(text);
        if len < text.len() {
            integer(out, 0x80, 7, len);
            huffman::encode(text, out);
            return;
        }
    }
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

#[inline]
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = (1usize << prefix) - 1;
    if value < mask {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
