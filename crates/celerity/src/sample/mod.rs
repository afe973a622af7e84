//! The sample services of `celerity up`: small HTTP/1.1 servers whose service time is drawn from a stated
//! distribution, and which can be made slow, failing or flapping while they run.

pub(crate) mod http;
pub(crate) mod lab;
pub(crate) mod order;
pub(crate) mod service;
pub(crate) mod switch;
pub(crate) mod threads;
pub(crate) mod user;
