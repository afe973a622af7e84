//! Connection pools under their limits: no request fails or waits for ever because of a bound of the pool's own.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod multiplexed;
mod one_at_a_time;
mod upstream;
