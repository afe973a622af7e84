//! Connection pools under their limits: no request fails or waits for ever because of a bound of the pool's own.

#[path = "../common/mod.rs"]
mod common;
mod multiplexed;
mod upstream;
