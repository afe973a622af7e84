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

/// How many entries from each one on have the same name.
static RUNS: [u8; STATIC_LEN] = runs();

const fn runs() -> [u8; STATIC_LEN] {
    let mut runs = [1; STATIC_LEN];
    let mut index = STATIC_LEN - 1;
    while index > 0 {
        index -= 1;
        if same(STATIC[index].0, STATIC[index + 1].0) {
            runs[index] = runs[index + 1] + 1;
        }
    }
    runs
}

/// A multiplicative hash over eight octets at a time; the last eight may overlap those before them. Not keyed: a
/// collision in the tables that use it replaces an entry and costs a few octets on the wire, never time.
pub(crate) const fn hash(text: &[u8]) -> u32 {
    let mut state = text.len() as u64;
    let mut rest = text;
    while rest.len() > 8 {
        let Some((word, tail)) = rest.split_first_chunk::<8>() else { break };
        state = mix(state, u64::from_le_bytes(*word));
        rest = tail;
    }
    if let Some(word) = text.last_chunk::<8>() {
        state = mix(state, u64::from_le_bytes(*word));
    } else if let (Some(first), Some(last)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        state = mix(state, (u32::from_le_bytes(*first) as u64) << 32 | u32::from_le_bytes(*last) as u64);
    } else {
        while let Some((&byte, tail)) = rest.split_first() {
            state = mix(state, byte as u64);
            rest = tail;
        }
    }
    (state >> 32) as u32
}

const fn mix(state: u64, word: u64) -> u64 {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = (state.rotate_left(23) ^ word).wrapping_mul(SEED);
    product ^ (product >> 32)
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

/// The static index of a name and value, given the first index of the name.
pub(crate) fn static_pair(first: usize, value: &[u8]) -> Option<usize> {
    let run = usize::from(*RUNS.get(first.checked_sub(1)?)?);
    (first..first + run).find(|&index| !value.is_empty() && STATIC[index - 1].1 == value)
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
                assert_eq!(static_pair(first, value), Some(index + 1));
            }
        }
        assert_eq!(static_name(b"x-request-id", hash(b"x-request-id")), None);
        assert_eq!(static_pair(2, b"PUT"), None);
    }
}
