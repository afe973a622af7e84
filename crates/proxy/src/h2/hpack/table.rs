//! The static table of RFC 7541, appendix A, and how names find their place in it.

pub(crate) const STATIC_LEN: usize = 61;

pub(crate) static STATIC: [(&[u8], &[u8]); STATIC_LEN] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// Slots of the name index: eight times the names, so that a name sits at its first place or next to it.
const SLOTS: usize = 512;

/// The first static index of each name, by the hash of the name; 0 where the slot is empty.
static NAMES: [u8; SLOTS] = names();

const fn names() -> [u8; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut index = 0;
    while index < STATIC_LEN {
        let name = STATIC[index].0;
        let known = index > 0 && same(STATIC[index - 1].0, name);
        if !known {
            let mut slot = hash(name) as usize % SLOTS;
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8 + 1;
        }
        index += 1;
    }
    slots
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A multiplicative hash over eight octets at a time. Not keyed: a collision in the tables that use it replaces an
/// entry and costs a few octets on the wire, never time.
pub(crate) const fn hash(text: &[u8]) -> u32 {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = text.len() as u64;
    let mut rest = text;
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(SEED).rotate_left(29);
        rest = tail;
    }
    if let Some((word, tail)) = rest.split_first_chunk::<4>() {
        state = (state ^ u32::from_le_bytes(*word) as u64).wrapping_mul(SEED).rotate_left(29);
        rest = tail;
    }
    while let Some((&byte, tail)) = rest.split_first() {
        state = (state ^ byte as u64).wrapping_mul(SEED).rotate_left(29);
        rest = tail;
    }
    (state.wrapping_mul(SEED) >> 32) as u32
}

/// The first static index (from 1) of a name whose hash is `hash`.
pub(crate) fn static_name(name: &[u8], hash: u32) -> Option<usize> {
    let mut slot = hash as usize % SLOTS;
    loop {
        let index = usize::from(NAMES[slot]);
        if index == 0 {
            return None;
        }
        if STATIC[index - 1].0 == name {
            return Some(index);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The static index of name and value, given the first index of the name.
pub(crate) fn static_pair(first: usize, name: &[u8], value: &[u8]) -> Option<usize> {
    (first..=STATIC_LEN)
        .take_while(|&index| STATIC[index - 1].0 == name)
        .find(|&index| !value.is_empty() && STATIC[index - 1].1 == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for (index, (name, value)) in STATIC.iter().enumerate() {
            let first = static_name(name, hash(name)).unwrap_or_default();
            assert_eq!(STATIC[first - 1].0, *name);
            assert!(first <= index + 1);
            if !value.is_empty() {
                assert_eq!(static_pair(first, name, value), Some(index + 1));
            }
        }
        assert_eq!(static_name(b"x-request-id", hash(b"x-request-id")), None);
        assert_eq!(static_pair(2, b":method", b"PUT"), None);
    }
}
