//! For tests only: scripted peers, fault-injecting upstreams, guards for real programs. Everything is on loopback, takes
//! its port from the kernel, and waits no longer than a stated bound. Here a panic is a failed test, which is what it is
//! for.
pub mod client;
pub mod environment;
pub mod files;
pub mod process;
pub mod raw;
pub mod upstream;

pub use client::{Client, Response};
pub use environment::{free_port, peer, python, shared, skip};
pub use files::TempDir;
pub use process::Process;
pub use upstream::Upstream;
