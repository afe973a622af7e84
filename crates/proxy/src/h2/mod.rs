//! HTTP/2 (RFC 9113) for one thread: a connection's streams share one state, one read buffer and one output.
//!
//! A proxy carries many streams on few connections. So every frame is appended to the connection's one output buffer,
//! and the connection's task writes it once after all tasks that were ready have run: the frames of many streams leave
//! in one system call and, under TLS, in few records. Nothing is allocated for a frame in the steady state.
//!
//! Not offered: server push (refused by setting) and extended CONNECT (RFC 8441). Priorities are ignored, as RFC 9113
//! section 5.3 allows.

mod abuse;
pub mod client;
mod connection;
mod core;
pub mod error;
mod fields;
mod fuzz;
mod handle;
mod read;
mod receive;
mod send;
pub mod server;
pub mod settings;
mod spare;
mod stream;

use celerity_wire::{flow, frame};

pub use celerity_wire::hpack;
pub use client::{Client, ClientStream, connect};
pub use connection::Connection;
pub use core::Refused;
pub use error::{Code, Error, Kind};
pub use handle::{Receiver, Sender};
pub use server::{Incoming, ServerControl, ServerStream, accept, accept_with};
pub use settings::{ClientSettings, Common, Keepalive, ServerSettings};
