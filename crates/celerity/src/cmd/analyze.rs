//! `celerity analyze`: all that is wrong, risky or without effect in a configuration.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use celerity_model::analyze::Severity;

use crate::config::files;
use crate::{findings, term};

/// Say what is wrong, risky or without effect in a configuration
///
/// Every finding has a stable code, the file and line, the reason and the mend. Exit code 0: no error; 1: at least
/// one error; 2: wrong usage.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity analyze examples/tutorial\n  celerity analyze --format json istio/ services.yaml"
)]
pub(crate) struct Args {
    /// Files and folders with Istio and Kubernetes YAML; - is standard input
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,

    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (input, paths) = files::with_standard_input(&args.paths)?;
    let mut readable = files::read_what_can_be(&paths)?;
    readable.sources.splice(0..0, input);
    let found = findings::with_failures(&readable.sources, &args.paths, &readable.failures);
    term::result(&match args.format {
        Format::Text => findings::text(&found, term::colour(std::io::stdout().is_terminal())),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&found)?),
    })?;
    let wrong = found.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
