//! How one sidecar introduces its workload to another, so that both name it alike in their metrics.
//!
//! A request header between mesh peers, `x-celerity-peer`, on the first request of a connection: the version, then workload,
//! namespace, app, version, canonical service, canonical revision and cluster, joined by bars:
//! `1|orders-1|shop|orders|v2|orders|v2|unknown`. A certificate tells the service account only. It is a claim: believe it of a
//! peer whose certificate was checked, and strip it from everybody's requests.

use crate::metrics::Peer;

pub const INTRODUCTION_HEADER: &str = "x-celerity-peer";

/// Seven names of Kubernetes, which have 63 characters or fewer but for odd ones. A longer introduction is none.
pub const INTRODUCTION_BYTES_MAX: usize = 512;

/// The header's value. `None`: a name is too long, or cannot stand in a header.
pub fn introduce(peer: &Peer) -> Option<Vec<u8>> {
    let names = [
        &peer.workload,
        &peer.workload_namespace,
        &peer.app,
        &peer.version,
        &peer.canonical_service,
        &peer.canonical_revision,
        &peer.cluster,
    ];
    let out = names.iter().fold(b"1".to_vec(), |mut out, name| {
        out.push(b'|');
        out.extend_from_slice(name.as_bytes());
        out
    });
    let sound = names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'|'));
    (sound && out.len() <= INTRODUCTION_BYTES_MAX).then_some(out)
}

/// Who introduces itself. The principal is the certificate's to say.
pub fn introduced(value: &[u8]) -> Option<Peer> {
    if value.len() > INTRODUCTION_BYTES_MAX || !value.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let mut names = std::str::from_utf8(value).ok()?.split('|');
    if names.next()? != "1" {
        return None;
    }
    let mut name = || names.next().map(str::to_owned);
    let peer = Peer {
        workload: name()?,
        workload_namespace: name()?,
        app: name()?,
        version: name()?,
        canonical_service: name()?,
        canonical_revision: name()?,
        cluster: name()?,
        ..Peer::default()
    };
    names.next().is_none().then_some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_introduces_itself_is_known_by_the_same_names() {
        let peer =
            Peer { workload: "orders-1".into(), app: "orders".into(), version: String::new(), ..Peer::default() };
        let value = introduce(&peer).unwrap();
        assert_eq!(value, b"1|orders-1|unknown|orders||unknown|latest|unknown");
        assert_eq!(introduced(&value), Some(peer));
    }

    #[test]
    fn what_is_no_introduction_is_none() {
        let long = [b"1|".as_slice(), &[b'a'; INTRODUCTION_BYTES_MAX], b"||||||"].concat();
        for wrong in
            [&b""[..], b"1", b"2|a|b|c|d|e|f|g", b"1|a|b|c|d|e|f", b"1|a|b|c|d|e|f|g|h", b"1|a b|||||||", &long]
        {
            assert_eq!(introduced(wrong), None);
        }
        for name in ["a|b", "a\r\nb", &"a".repeat(INTRODUCTION_BYTES_MAX)] {
            assert_eq!(introduce(&Peer { workload: name.into(), ..Peer::default() }), None);
        }
    }
}
