//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: the length of each symbol's code says everything, so the tables are made from the lengths
//! when the program is compiled. Decoding looks at ten bits at a time, which holds every symbol that occurs in
//! ordinary headers; longer codes take a second step over the lengths.

/// Length in bits of the code of each octet.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;
/// Bits that the first step looks at: 1,024 entries of two octets, half a core's fastest cache line set in use.
const FAST_BITS: u32 = 10;

struct Tables {
    codes: [u32; 256],
    /// Symbol in the high byte, length in the low one; 0 where the code is longer than `FAST_BITS`.
    fast: [u16; 1 << FAST_BITS],
    /// For each length: the first code, and where its symbols start in `by_code`.
    first_code: [u32; LONGEST + 1],
    first_place: [u16; LONGEST + 1],
    count: [u16; LONGEST + 1],
    by_code: [u8; 256],
}

static TABLES: Tables = build();

const fn build() -> Tables {
    let mut tables = Tables {
        codes: [0; 256],
        fast: [0; 1 << FAST_BITS],
        first_code: [0; LONGEST + 1],
        first_place: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        by_code: [0; 256],
    };
    let mut code: u32 = 0;
    let mut place = 0;
    let mut len = 1;
    while len <= LONGEST {
        code <<= 1;
        tables.first_code[len] = code;
        tables.first_place[len] = place as u16;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == len {
                tables.codes[symbol] = code;
                tables.by_code[place] = symbol as u8;
                if len <= FAST_BITS as usize {
                    let shift = FAST_BITS as usize - len;
                    let mut fill = 0;
                    while fill < 1 << shift {
                        tables.fast[((code as usize) << shift) + fill] = (symbol as u16) << 8 | len as u16;
                        fill += 1;
                    }
                }
                code += 1;
                place += 1;
                tables.count[len] += 1;
            }
            symbol += 1;
        }
        len += 1;
    }
    tables
}

/// The input is not a Huffman string: it holds EOS, an impossible code, or wrong padding (RFC 7541, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Appends the decoded string to `out`. The output is at most 8/5 of the input.
///
/// # Errors
/// [`Malformed`]; `out` then holds the part before the error.
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    out.resize(start + input.len() * 8 / 5 + 1, 0);
    let mut at = start;
    let result = decode_into(input, out, &mut at);
    out.truncate(at);
    result
}

/// As `decode`, into the room from `at` on, which suffices for any input.
fn decode_into(input: &[u8], out: &mut [u8], at: &mut usize) -> Result<(), Malformed> {
    let mut input = input;
    let mut bits: u64 = 0;
    let mut held: u32 = 0;
    // Most of a long string: five symbols for a refill, without asking at each whether its bits are there. The end, with
    // its padding, stays for the careful loop: a refill takes seven octets at most of the eight that it looks at.
    while let Some(word) = input.first_chunk::<8>() {
        // What a refill brings beyond the octets that it takes, the next one brings again at the same place.
        bits |= u64::from_be_bytes(*word) >> held;
        let taken = (63 - held) / 8;
        input = input.get(taken as usize..).unwrap_or_default();
        held += taken * 8;
        for _ in 0..5 {
            let entry = TABLES.fast[(bits >> (64 - FAST_BITS)) as usize];
            let mut len = u32::from(entry & 0xff);
            let mut symbol = (entry >> 8) as u8;
            if len == 0 {
                if held < LONGEST as u32 {
                    break;
                }
                (symbol, len) = long_code(bits, held).ok_or(Malformed)?;
            }
            *out.get_mut(*at).ok_or(Malformed)? = symbol;
            *at += 1;
            bits <<= len;
            held -= len;
            if held < FAST_BITS {
                break;
            }
        }
    }
    if held < 64 {
        bits &= !(u64::MAX >> held);
    }
    loop {
        // Refill to at least 32 bits: enough for the longest code.
        if held < 32 {
            if let Some((word, rest)) = input.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*word)) << (32 - held);
                held += 32;
                input = rest;
            } else {
                while let Some((&byte, rest)) = input.split_first() {
                    bits |= u64::from(byte) << (56 - held);
                    held += 8;
                    input = rest;
                    if held > 56 {
                        break;
                    }
                }
            }
        }
        let entry = TABLES.fast[(bits >> (64 - FAST_BITS)) as usize];
        let len = u32::from(entry & 0xff);
        if len != 0 && len <= held {
            *out.get_mut(*at).ok_or(Malformed)? = (entry >> 8) as u8;
            *at += 1;
            bits <<= len;
            held -= len;
            continue;
        }
        if input.is_empty() && held < 8 && padding_only(bits, held) {
            return Ok(());
        }
        let (symbol, len) = long_code(bits, held).ok_or(Malformed)?;
        *out.get_mut(*at).ok_or(Malformed)? = symbol;
        *at += 1;
        bits <<= len;
        held -= len;
    }
}

/// The rest is the most significant bits of EOS: ones.
fn padding_only(bits: u64, held: u32) -> bool {
    held == 0 || bits >> (64 - held) == (1 << held) - 1
}

fn long_code(bits: u64, held: u32) -> Option<(u8, u32)> {
    for len in FAST_BITS as usize + 1..=LONGEST {
        if len as u32 > held {
            return None;
        }
        let code = (bits >> (64 - len)) as u32;
        let offset = code.wrapping_sub(TABLES.first_code[len]);
        if offset < u32::from(TABLES.count[len]) {
            let place = u32::from(TABLES.first_place[len]) + offset;
            return TABLES.by_code.get(place as usize).map(|&symbol| (symbol, len as u32));
        }
    }
    None
}

/// Octets that `input` takes when encoded.
pub fn encoded_len(input: &[u8]) -> usize {
    input.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum::<usize>().div_ceil(8)
}

/// Appends `input` in Huffman code, padded with ones.
pub fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut bits: u64 = 0;
    let mut held: u32 = 0;
    for &byte in input {
        let len = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << len | u64::from(TABLES.codes[usize::from(byte)]);
        held += len;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | ((1u16 << (8 - held)) - 1) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn codes_of_the_appendix() {
        for (symbol, code) in [(b'0', 0), (b'a', 3), (b' ', 0x14), (b'\\', 0x7fff0), (b'~', 0x1ffd), (0, 0x1ff8)] {
            assert_eq!(TABLES.codes[usize::from(symbol)], code);
        }
        assert_eq!(TABLES.codes[22], 0x3fff_fffe);
        assert_eq!(TABLES.codes[255], 0x3ff_ffee);
    }

    #[test]
    fn every_octet_survives_alone_and_in_company() {
        let all: Vec<u8> = (0..=255).collect();
        for text in all.chunks(1).chain([&all[..], b"www.example.com", b""]) {
            let mut out = Vec::new();
            encode(text, &mut out);
            assert_eq!(out.len(), encoded_len(text));
            assert_eq!(decoded(&out).as_deref(), Ok(text));
        }
    }

    #[test]
    fn wrong_padding_and_eos_are_refused() {
        assert_eq!(decoded(&[0b0000_0000]), Err(Malformed));
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0xff]), Err(Malformed));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(Malformed));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn any_string_survives(text: Vec<u8>) {
            let mut out = Vec::new();
            encode(&text, &mut out);
            proptest::prop_assert_eq!(decoded(&out), Ok(text));
        }
    }
}
