//! One spelling for each path, so that a rule on `/admin` is not passed by `/%61dmin`. Pure.
//!
//! What Envoy's `normalize_path` makes of a path is what counts, since rules are written with it in mind: RFC 3986's normal
//! form (section 6.2.2) but for the case of hexadecimal digits, and a browser's reading of what no URI may contain.

/// A path with an encoded zero byte: an application in C would take it for the path's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has an encoded zero byte, %00, in it")]
pub struct NulInPath;

/// What becomes of a byte of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is, encoded or not.
    Stays,
    /// Means the same encoded, and is written plainly (RFC 3986, section 2.3).
    Unreserved,
    /// A backslash is a slash to some servers, and so to everybody.
    Slash,
    /// No URI may contain it: it is written encoded.
    Encoded,
    Percent,
    /// The path is over.
    End,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Encoded; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Unreserved,
            b'\\' => Class::Slash,
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encoded,
            b'%' => Class::Percent,
            b'?' | b'#' => Class::End,
            _ => Class::Stays,
        };
        byte += 1;
    }
    classes
};

fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// The path as it is routed and sent on; the query stays. `None`: it is normal already.
///
/// # Errors
/// There is a `%00` in it.
pub(super) fn normal(path: &[u8]) -> Result<Option<Vec<u8>>, NulInPath> {
    let Some(first) = first_to_change(path) else { return Ok(None) };
    if path.first() != Some(&b'/') {
        // `*`, which stands for the server itself.
        return Ok(None);
    }
    let mut out = Vec::with_capacity(path.len() + 16);
    let (done, mut rest) = path.split_at(first);
    out.extend_from_slice(done);
    // Where the last `%` stands that begins no escape: what is decoded behind it must not make one of it.
    let mut loose = None;
    while let Some((&byte, after)) = rest.split_first() {
        let class = class(byte);
        rest = after;
        match class {
            Class::End => break,
            Class::Stays | Class::Unreserved => out.push(byte),
            Class::Slash => out.push(b'/'),
            Class::Encoded => encode(byte, &mut out),
            Class::Percent => match escape(after) {
                Some(0) => return Err(NulInPath),
                Some(decoded) if self::class(decoded) == Class::Unreserved => {
                    out.push(decoded);
                    rest = &after[2..];
                }
                Some(_) => {
                    out.push(b'%');
                    out.extend_from_slice(&after[..2]);
                    rest = &after[2..];
                }
                None => {
                    loose = Some(out.len());
                    out.push(b'%');
                }
            },
        }
        if let Some(at) = loose
            && out.len() == at + 3
            && escape(&out[at + 1..]).is_some()
        {
            out.splice(at + 1..at + 1, *b"25");
        }
    }
    let kept = resolve_dots(&mut out);
    out.truncate(kept);
    let end = path.iter().position(|&byte| class(byte) == Class::End).unwrap_or(path.len());
    out.extend_from_slice(&path[end..]);
    Ok((out != path).then_some(out))
}

/// The first place of a path at which there may be something to do: one pass, which is all that most paths cost.
fn first_to_change(path: &[u8]) -> Option<usize> {
    let mut before = 0;
    for (at, &byte) in path.iter().enumerate() {
        match class(byte) {
            Class::End => return None,
            Class::Stays => {}
            // A segment that begins with a dot may be one of two that mean something.
            Class::Unreserved if byte == b'.' && before == b'/' => return Some(at),
            Class::Unreserved => {}
            Class::Percent => match escape(&path[at + 1..]) {
                Some(decoded) if decoded != 0 && class(decoded) != Class::Unreserved => {}
                _ => return Some(at),
            },
            Class::Slash | Class::Encoded => return Some(at),
        }
        before = byte;
    }
    None
}

/// The byte that the two digits behind a `%` stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low, ..] = digits else { return None };
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

fn encode(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Resolves `.` and `..` in place (RFC 3986, section 5.2.4); says how much is left.
fn resolve_dots(path: &mut [u8]) -> usize {
    let end = path.len();
    let (mut read, mut kept) = (0, 0);
    while read < end {
        // `read` stands at a slash: a path begins with one, and a segment ends before the next.
        let next = memchr::memchr(b'/', &path[read + 1..end]).map_or(end, |at| read + 1 + at);
        let is_last = next == end;
        let up = match &path[read + 1..next] {
            b"." => Some(false),
            b".." => Some(true),
            _ => None,
        };
        match up {
            None => {
                path.copy_within(read..next, kept);
                kept += next - read;
            }
            Some(up) => {
                if up {
                    kept = memchr::memrchr(b'/', &path[..kept]).unwrap_or(0);
                }
                if is_last {
                    path[kept] = b'/';
                    kept += 1;
                }
            }
        }
        read = next;
    }
    kept
}

/// The path with one slash where there are several in a row (Envoy `merge_slashes`). `None`: there are none.
pub(super) fn merged(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().position(|&byte| class(byte) == Class::End).unwrap_or(path.len());
    let (bare, query) = path.split_at(end);
    memchr::memmem::find(bare, b"//")?;
    let mut out = bare.to_vec();
    out.dedup_by(|byte, before| (*byte, *before) == (b'/', b'/'));
    out.extend_from_slice(query);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Paths and what Envoy's `normalize_path` makes of each; `None`: it answers 400.
    const AS_ENVOY: &[(&str, Option<&str>)] = &[
        ("/a/b", Some("/a/b")),
        ("/%61dmin", Some("/admin")),
        ("/re/1%32", Some("/re/12")),
        ("/a\\..\\b", Some("/b")),
        ("/a\\", Some("/a/")),
        ("/a\\\\b?\\", Some("/a//b?\\")),
        ("/a%00b", None),
        ("/a?%00", Some("/a?%00")),
        ("/%7E%5F%2D%2e%41", Some("/~_-.A")),
        ("/x|^{}\"<>`y", Some("/x%7C%5E%7B%7D%22%3C%3E%60y")),
        ("/!$&'()*+,;=:@[]", Some("/!$&'()*+,;=:@[]")),
        ("/%2fa%2F%5cb%5C%2C%3a%25%20%1f%7f%c3%A9", Some("/%2fa%2F%5cb%5C%2C%3a%25%20%1f%7f%c3%A9")),
        ("/%zz%4", Some("/%zz%4")),
        ("/%", Some("/%")),
        ("/%2541", Some("/%2541")),
        ("/%%341", Some("/%2541")),
        ("/%2%65%2%65/x", Some("/%252e%252e/x")),
        ("/a/%%32e%%32e/b", Some("/a/%252e%252e/b")),
        ("/a/../b?x=/../", Some("/b?x=/../")),
        ("/a/./b//c/.", Some("/a/b//c/")),
        ("/a//../b", Some("/a/b")),
        ("//../..", Some("/")),
        ("/../..", Some("/")),
        ("/.", Some("/")),
        ("/%2e%2E/etc/%2e.", Some("/")),
        ("/a/.\\b\\..", Some("/a/")),
        ("/.a/..b/a./...", Some("/.a/..b/a./...")),
        ("/a/%2e%2e%2e", Some("/a/...")),
        ("/a/.%5c", Some("/a/.%5c")),
        ("*", Some("*")),
    ];

    #[test]
    fn paths_become_what_envoy_makes_of_them() {
        for (path, expected) in AS_ENVOY {
            let normal = normal(path.as_bytes()).map(|new| new.unwrap_or_else(|| path.as_bytes().to_vec()));
            let normal = normal.as_deref().map(String::from_utf8_lossy);
            assert_eq!(normal.as_deref().ok(), *expected, "{path}");
        }
    }

    #[test]
    fn slashes_are_merged_before_the_query_only() {
        for (path, expected) in [("/a/b?//", None), ("//a///b//?x//y", Some("/a/b/?x//y")), ("//", Some("/"))] {
            assert_eq!(merged(path.as_bytes()).as_deref(), expected.map(str::as_bytes), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_is_normal(path in "/([./%25eE0\\\\aA|?]|%2[eE]|%41|%2f){0,12}") {
            if let Ok(Some(once)) = normal(path.as_bytes()) {
                prop_assert_eq!(normal(&once), Ok(None));
                prop_assert_eq!(once.first(), Some(&b'/'));
            }
        }

        #[test]
        fn any_path_is_read_without_a_panic(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (normal(&path), merged(&path));
        }
    }
}
