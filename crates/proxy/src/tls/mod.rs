//! TLS on both sides of the proxy: who a peer is, and whether it may talk to us.
//!
//! A [`Store`] holds one identity and one trust bundle and follows the files they came from. An [`Acceptor`] (towards the
//! client) and a [`Connector`] (towards an upstream) do handshakes with whatever the store holds at that moment, and say who
//! the peer is in a [`Peer`]. A resumed session is checked again, as a full handshake is: the certificate may have expired and
//! the trust bundle may have changed since the session began.
//!
//! Only TLS 1.2 and 1.3 (RFC 5246, RFC 8446) are spoken. Identities are SPIFFE ids in a URI subject alternative name
//! (SPIFFE X509-SVID, section 2).

mod anchor;
mod client;
mod error;
mod material;
mod peer;
mod provider;
mod resumption;
mod rules;
mod secrets;
mod server;
mod sniff;
mod store;
mod verify;

pub use client::{ClientPolicy, Connected, Connector, Target};
pub use error::{Blame, HandshakeError, Kind};
pub use material::{Identity, KeyPair, LoadError, Piece, Roots, Source};
pub use peer::{Alpn, Peer, PeerCertificate};
pub use rules::{IdentityError, PeerRules, SanKind, SanMatcher, SanPattern, SpiffeId};
pub use secrets::{Secrets, SetupError};
pub use server::{Accepted, Acceptor, ClientAuth, Hello, ServerPolicy};
pub use sniff::{Sniffed, sniff};
pub use store::{RELOAD_INTERVAL, Reloaded, Status, Store};

#[cfg(test)]
mod tests;
