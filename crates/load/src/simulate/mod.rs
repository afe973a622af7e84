//! Simulated machines, servers and experiments: the truth is known, so an experiment's answer can be checked against it.
//! Minutes of traffic take milliseconds, and the same seed gives the same minutes.

pub mod server;
pub mod tutorial;
pub mod world;

pub use server::{Server, SimulatedArms};
pub use world::World;
