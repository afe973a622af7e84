//! One module for each verb: its arguments, and `run`, which turns them into a plan and carries it out.
//!
//! `run` returns the exit code: 0 when all is well, 1 when an error was found. Wrong usage is 2 and is answered by
//! the parser of the command line before `run` is called.

pub(crate) mod ab;
pub(crate) mod analyze;
pub(crate) mod baseline;
pub(crate) mod ca;
pub(crate) mod capacity;
pub(crate) mod explain;
pub(crate) mod habits;
pub(crate) mod load;
pub(crate) mod proxy;
pub(crate) mod translate;
pub(crate) mod up;
