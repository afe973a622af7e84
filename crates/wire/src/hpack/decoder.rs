//! The decoder of header blocks (RFC 7541, section 6).

use std::collections::VecDeque;

use super::table::{STATIC, STATIC_LEN};
use super::{DecodeError, ENTRY_OVERHEAD, huffman};

/// Octets of one dynamic entry: name and value in one buffer, reused when the entry is evicted.
#[derive(Debug, Default)]
struct Entry {
    text: Vec<u8>,
    name_len: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at_checked(self.name_len).unwrap_or((&self.text, b""))
    }
}

/// Evicted entries kept for their memory. A table of 4,096 octets turns over a handful in a block.
const SPARE_ENTRIES: usize = 16;

/// A type of its own so that it can be borrowed beside the name that stands in the table.
#[derive(Debug, Default)]
struct Spare(Vec<Vec<u8>>);

impl Spare {
    fn take_text(&mut self) -> Vec<u8> {
        let mut text = self.0.pop().unwrap_or_default();
        text.clear();
        text
    }
}

#[derive(Debug)]
pub struct Decoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    spare: Spare,
    size: usize,
    max_size: usize,
    /// What the peer may raise `max_size` to: our SETTINGS_HEADER_TABLE_SIZE.
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Where a string of the current field lies.
enum Text<'a> {
    Input(&'a [u8]),
    Scratch,
}

impl Decoder {
    pub fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            spare: Spare::default(),
            size: 0,
            max_size: crate::settings::DEFAULT_TABLE_SIZE as usize,
            limit,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// The table size that the peer has acknowledged.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Decodes a whole header block and hands each field to `field`, in order.
    ///
    /// # Errors
    /// The block breaks RFC 7541; the connection cannot go on (COMPRESSION_ERROR).
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), DecodeError> {
        let mut rest = block;
        let mut fields = false;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut rest, 7)?;
                let (name, value) = lookup(&self.entries, index)?;
                field(name, value);
            } else if first & 0x40 != 0 {
                let index = integer(&mut rest, 6)?;
                self.literal(index, &mut rest, true, &mut field)?;
            } else if first & 0x20 != 0 {
                let size = integer(&mut rest, 5)?;
                if fields {
                    return Err(DecodeError("a table size update after a field"));
                }
                if size > self.limit {
                    return Err(DecodeError("a table size above SETTINGS_HEADER_TABLE_SIZE"));
                }
                self.max_size = size;
                self.evict(0);
                continue;
            } else {
                let index = integer(&mut rest, 4)?;
                self.literal(index, &mut rest, false, &mut field)?;
            }
            fields = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        index: usize,
        rest: &mut &[u8],
        keep: bool,
        field: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), DecodeError> {
        let mut name_scratch = std::mem::take(&mut self.name);
        let mut value_scratch = std::mem::take(&mut self.value);
        let result = (|| {
            let name_text = if index == 0 { Some(string(rest, &mut name_scratch)?) } else { None };
            let value_text = string(rest, &mut value_scratch)?;
            let name = match name_text {
                Some(Text::Input(text)) => text,
                Some(Text::Scratch) => &name_scratch,
                None => lookup(&self.entries, index)?.0,
            };
            let value = match value_text {
                Text::Input(text) => text,
                Text::Scratch => &value_scratch,
            };
            field(name, value);
            if keep {
                let size = name.len() + value.len() + ENTRY_OVERHEAD;
                // A peer that sets the size to nothing and asks to keep each field all the same (nginx does) costs no copy.
                let entry = (size <= self.max_size).then(|| {
                    let mut text = self.spare.take_text();
                    text.extend_from_slice(name);
                    text.extend_from_slice(value);
                    Entry { text, name_len: name.len() }
                });
                self.insert(size, entry);
            }
            Ok(())
        })();
        self.name = name_scratch;
        self.value = value_scratch;
        result
    }

    /// An entry larger than the table empties it (RFC 7541, section 4.4): that is `None`.
    fn insert(&mut self, size: usize, entry: Option<Entry>) {
        self.evict(size);
        if let Some(entry) = entry {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.max_size {
            let Some(entry) = self.entries.pop_back() else { break };
            self.size -= entry.size();
            if self.spare.0.len() < SPARE_ENTRIES {
                self.spare.0.push(entry.text);
            }
        }
    }

    /// Octets in the dynamic table, as RFC 7541 counts them.
    pub fn table_size(&self) -> usize {
        self.size
    }
}

fn lookup(entries: &VecDeque<Entry>, index: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    if let Some(&(name, value)) = index.checked_sub(1).and_then(|at| STATIC.get(at)) {
        return Ok((name, value));
    }
    index
        .checked_sub(STATIC_LEN + 1)
        .and_then(|at| entries.get(at))
        .map(Entry::parts)
        .ok_or(DecodeError("an index that is in no table"))
}

/// The most octets of an integer: five carry 35 bits, more than any length or index here can use.
const INTEGER_OCTETS: usize = 5;

/// An integer with a prefix of `prefix` bits (RFC 7541, section 5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, DecodeError> {
    let mask = (1usize << prefix) - 1;
    let (&first, mut tail) = rest.split_first().ok_or(DecodeError("the block ends within a field"))?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (&byte, next) = tail.split_first().ok_or(DecodeError("the block ends within an integer"))?;
            tail = next;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift >= 7 * INTEGER_OCTETS {
                return Err(DecodeError("an integer is too large"));
            }
        }
    }
    *rest = tail;
    Ok(value)
}

fn string<'a>(rest: &mut &'a [u8], scratch: &mut Vec<u8>) -> Result<Text<'a>, DecodeError> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(rest, 7)?;
    let (text, tail) = rest.split_at_checked(len).ok_or(DecodeError("the block ends within a string"))?;
    *rest = tail;
    if !coded {
        return Ok(Text::Input(text));
    }
    scratch.clear();
    huffman::decode(text, scratch).map_err(|huffman::Malformed| DecodeError("a Huffman string is malformed"))?;
    Ok(Text::Scratch)
}

/// Decodes `input` as successive blocks, for fuzzing: no input may panic, and the table stays within its bound.
pub fn fuzz(input: &[u8]) {
    let mut decoder = Decoder::new(4096);
    for block in input.chunks(64) {
        let result = decoder.decode(block, |name, value| {
            std::hint::black_box((name.len(), value.len()));
        });
        assert!(decoder.table_size() <= 4096);
        if result.is_err() {
            return;
        }
    }
}
