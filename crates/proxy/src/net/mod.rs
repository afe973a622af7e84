//! Byte streams under HTTP.

pub mod io;

pub use io::Io;
