//! The binary: each verb of the command line is a module of `cmd`.

fn main() {}
