//! Byte streams under HTTP.

pub mod io;
pub mod socket;
pub mod tcp_info;

pub use io::Io;
pub use socket::{Arrives, Socket, stamp};
