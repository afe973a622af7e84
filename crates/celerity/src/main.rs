//! The binary: `main` reads the command line and hands each verb to its module in `cmd`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod ca;
mod client;
mod cmd;
mod compare;
mod config;
mod duration;
mod experiment;
mod findings;
mod follow;
mod interrupt;
mod local;
mod log;
mod memory;
mod mesh;
mod node;
mod report;
mod rng;
mod sample;
mod session;
mod sidecar;
mod stats;
mod term;
mod timer;
mod traffic;
mod view;
mod yaml;

// Measured against the system's allocator, jemalloc keeps memory flat under many small, short-lived buffers, and it
// is the one that can sample the heap for /debug/pprof/heap.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads before `main` runs. `prof:true` only makes room for sampling; with `prof_active:false` an
/// allocation pays one predictable branch until somebody asks for a heap profile. One sample in 512 KiB (2^19).
// SAFETY: the name is the one that jemalloc declares as a weak `const char *`, and `Option<&c_char>` has that layout.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    Some(unsafe { &*c"prof:true,prof_active:false,lg_prof_sample:19".as_ptr() });

/// The command line. Verbs that this release does not have are not listed.
#[derive(Debug, Parser)]
#[command(
    name = "celerity",
    version,
    about = "A service mesh that reads Istio's YAML, moves the traffic and says where each microsecond went",
    after_help = "Start here:\n  celerity up                        a whole mesh on this machine, with traffic and a live view\n  celerity analyze istio/            what is wrong, risky or without effect in a configuration\n  celerity proxy --config istio/     a sidecar for a service of your own",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Up(cmd::up::Args),
    Load(Box<cmd::load::Args>),
    Proxy(Box<cmd::proxy::Args>),
    Analyze(cmd::analyze::Args),
    Translate(cmd::translate::Args),
    Ca(cmd::ca::Args),
    Explain(Box<cmd::explain::Args>),
    Ab(Box<cmd::ab::Args>),
    Capacity(Box<cmd::capacity::Args>),
    Baseline(cmd::baseline::Args),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let done = cmd::habits::taken(&args).unwrap_or_else(|| match Cli::parse().verb {
        Verb::Up(args) => cmd::up::run(&args),
        Verb::Load(args) => cmd::load::run(&args),
        Verb::Proxy(args) => cmd::proxy::run(&args),
        Verb::Analyze(args) => cmd::analyze::run(&args),
        Verb::Translate(args) => cmd::translate::run(&args),
        Verb::Ca(args) => cmd::ca::run(&args),
        Verb::Explain(args) => cmd::explain::run(&args),
        Verb::Ab(args) => cmd::ab::run(&args),
        Verb::Capacity(args) => cmd::capacity::run(&args),
        Verb::Baseline(args) => cmd::baseline::run(&args),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            term::error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example in its help", verb.get_name());
        }
    }
}
