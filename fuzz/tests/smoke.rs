//! A short, repeatable run of every target: its corpus, and a fixed number of mutations from a fixed seed. It finds what
//! a change breaks at once; the search for what nobody thought of is `cargo fuzz`.
use std::path::Path;

/// Mutations of each small file of a corpus. A few seconds for all targets in a debug build.
const MUTATIONS: usize = 3000;

/// A larger file gets fewer mutations, for each takes longer: as many as bring it to the same number of bytes.
const SMALL_BYTES: usize = 64;

/// Longer inputs find little more and cost much.
const INPUT_BYTES_MAX: usize = 4096;

/// What parsers stumble over, spliced in at random places.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00\x00\x00\x00",
    b"- ",
    b"{",
    b"}",
    b"\xc3\x28",
    b"...",
    b"&a *a",
];

/// A seeded xorshift: the same run everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            4 if at < bytes.len() => {
                let end = (at + 1 + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let from = random.below(other.len() + 1);
                bytes.splice(at..at, other[from..].iter().copied().take(64));
            }
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    for (name, target) in celerity_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}: each target has a corpus", folder.display()))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        let inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a corpus file")).collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for (input, file) in inputs.iter().zip(&files) {
            run(name, *target, input, &file.display().to_string());
            for _ in 0..MUTATIONS * SMALL_BYTES / input.len().max(SMALL_BYTES) {
                let other = &inputs[random.below(inputs.len())];
                run(name, *target, &mutate(input, other, &mut random), "a mutation");
            }
        }
    }
}

/// Run one input; a panic is reported with the bytes that caused it, to become a corpus file.
fn run(name: &str, target: fn(&[u8]), input: &[u8], origin: &str) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!("{name} failed on {origin}: b\"{}\"", input.escape_ascii());
    }
}
