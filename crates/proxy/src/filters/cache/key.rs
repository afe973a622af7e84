//! The primary key of a stored response: its target URI, normalised (RFC 9111, section 2; RFC 9110, section 4.2.3).

use crate::http::{RequestHead, Scheme};

/// `scheme://authority/path?query`. GET is the only method stored, so the method is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Box<[u8]>);

impl Key {
    pub(super) fn of(request: &RequestHead) -> Self {
        Self::new(request.scheme, &request.authority, &request.path)
    }

    fn new(scheme: Scheme, authority: &[u8], path: &[u8]) -> Self {
        let authority = without_default_port(scheme, authority);
        let mut key = Vec::with_capacity(8 + authority.len() + path.len());
        key.extend_from_slice(scheme.as_str().as_bytes());
        key.extend_from_slice(b"://");
        key.extend(authority.iter().map(u8::to_ascii_lowercase));
        key.extend_from_slice(path);
        Self(key.into())
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The key of a Location or Content-Location, if it is of the request's own origin: nobody may invalidate what
    /// belongs to others (section 4.4). A reference with dot segments is not resolved, and gives nothing.
    pub(super) fn of_reference(request: &RequestHead, reference: &[u8]) -> Option<Self> {
        let reference = reference.split(|byte| *byte == b'#').next()?.trim_ascii();
        if reference.is_empty() || reference.windows(2).any(|pair| pair == b"/." || pair == b"./") {
            return None;
        }
        if reference.starts_with(b"//") {
            return Self::if_same_origin(request, request.scheme, reference.get(2..)?);
        }
        for scheme in [Scheme::Http, Scheme::Https] {
            let name = scheme.as_str().len();
            let names_it =
                reference.get(..name).is_some_and(|text| text.eq_ignore_ascii_case(scheme.as_str().as_bytes()));
            if names_it && reference.get(name..name + 3) == Some(b"://") {
                return Self::if_same_origin(request, scheme, reference.get(name + 3..)?);
            }
        }
        let path = if reference.starts_with(b"/") {
            reference.to_vec()
        } else {
            let first_segment = reference.split(|byte| matches!(byte, b'/' | b'?')).next()?;
            if first_segment.contains(&b':') {
                // Another scheme.
                return None;
            }
            let base = request.path.split(|byte| *byte == b'?').next()?;
            let folder = if reference.starts_with(b"?") {
                base
            } else {
                base.get(..=base.iter().rposition(|byte| *byte == b'/')?)?
            };
            [folder, reference].concat()
        };
        Some(Self::new(request.scheme, &request.authority, &path))
    }

    fn if_same_origin(request: &RequestHead, scheme: Scheme, rest: &[u8]) -> Option<Self> {
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let same = scheme == request.scheme
            && without_default_port(scheme, authority)
                .eq_ignore_ascii_case(without_default_port(scheme, &request.authority));
        let path = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
        same.then(|| Self::new(scheme, authority, &path))
    }
}

fn without_default_port(scheme: Scheme, authority: &[u8]) -> &[u8] {
    let port: &[u8] = match scheme {
        Scheme::Http => b":80",
        Scheme::Https => b":443",
    };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> RequestHead {
        RequestHead { authority: b"Shop:80".to_vec(), path: b"/a/b?c".to_vec(), ..RequestHead::default() }
    }

    #[test]
    fn one_resource_has_one_key() {
        let same = RequestHead { authority: b"shop".to_vec(), ..request() };
        assert_eq!(Key::of(&request()), Key::of(&same));
        assert_ne!(Key::of(&request()), Key::of(&RequestHead { scheme: Scheme::Https, ..request() }));
    }

    #[test]
    fn references_are_resolved_within_the_origin_only() {
        for (reference, path) in [
            ("/x", Some("/x")),
            ("x?y", Some("/a/x?y")),
            ("?y", Some("/a/b?y")),
            ("HTTP://SHOP/x#z", Some("/x")),
            ("http://shop:80", Some("/")),
            ("//shop/x", Some("/x")),
            ("https://shop/x", None),
            ("http://other/x", None),
            ("mailto:me", None),
            ("../x", None),
            ("", None),
        ] {
            let expected = path.map(|path| Key::of(&RequestHead { path: path.into(), ..request() }));
            assert_eq!(Key::of_reference(&request(), reference.as_bytes()), expected, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn any_reference_is_read_without_a_panic(reference in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Key::of_reference(&request(), &reference);
        }
    }
}
