//! The HTTP filters, one module each. A filter that is not in the chain costs nothing.

pub mod cache;
