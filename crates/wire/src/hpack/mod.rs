//! Header compression (RFC 7541).

pub mod decoder;
pub mod encoder;
pub mod huffman;
mod table;

pub use decoder::Decoder;
pub use encoder::Encoder;

/// A header block that cannot be decoded: always the end of the connection, for the two tables differ from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header block is malformed: {0}")]
pub struct DecodeError(pub &'static str);

/// Octets that a field counts beyond its name and value (RFC 7541, section 4.1).
pub const ENTRY_OVERHEAD: usize = 32;

#[cfg(test)]
mod tests;
