//! What both HTTP versions share: message heads, header sections, and the errors of a message.

pub mod head;
pub mod headers;

pub use head::{Method, RequestHead, ResponseHead, Scheme};
pub use headers::{HeaderId, Headers};
