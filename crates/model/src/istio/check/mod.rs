//! What a value may be, beyond its type: Istio's own rules, plus what Envoy would refuse.

mod records;
mod routes;
mod text;
mod values;

pub(super) use records::*;
pub(super) use routes::*;
pub(crate) use text::beyond_re2;
pub(super) use text::*;
pub(super) use values::*;
