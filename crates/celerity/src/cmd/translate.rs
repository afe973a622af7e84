//! `celerity translate`: the Envoy v3 resources that a configuration becomes.

use std::path::PathBuf;
use std::process::ExitCode;

use celerity_model::snapshot::Snapshot;
use celerity_model::translate::{self, Explanation, Index, Input};
use serde_json::{Value, json};

use crate::config::{self, Loader, files};
use crate::node::{self, Given};
use crate::{term, yaml};

/// Print the Envoy v3 resources that a configuration becomes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity translate examples/tutorial examples/mesh\n  celerity translate --format json --node sidecar.yaml istio/\n  celerity translate --explain istio/"
)]
pub(crate) struct Args {
    /// Files and folders with Istio and Kubernetes YAML; - is standard input
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,

    /// How to print the resources
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    pub(crate) format: Format,

    /// Say which file and line each resource came from
    #[arg(long)]
    pub(crate) explain: bool,

    /// File with the WorkloadEntry of the workload to translate for; without it, a client of the mesh that serves nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) node: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Yaml,
    Json,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (input, paths) = files::with_standard_input(&args.paths)?;
    let config = Loader::new(paths).with(input).load()?;
    let mut node = node::describe(&Given { file: args.node.as_deref(), ..Given::default() })?;
    node.application = node.addresses.first().copied().unwrap_or(node.application);
    if args.node.is_some() {
        // The resources name the files in which a mesh's certificates are; reading them is the proxy's work.
        node.certificates = Some(node::certificates_by_convention());
    }
    let resources = config::resources(&config, &node)?;
    let sources = if args.explain { translate::explain(&Index::new(&config, &node)) } else { Vec::new() };
    let shown = translate::to_json(&resources);
    let patches: Vec<String> = resources.patches.iter().map(config::patch_line).collect();
    let mut text = match args.format {
        Format::Yaml => {
            let mut text = yaml::write(&shown, &|item: &Value| origin(&sources, item));
            for patch in patches.iter().filter(|_| args.explain) {
                text.push_str(&format!("# {patch}\n"));
            }
            text
        }
        Format::Json if args.explain => {
            let origins: Vec<Value> = sources.iter().map(origin_json).collect();
            serde_json::to_string_pretty(&json!({ "resources": shown, "origins": origins, "patches": patches }))?
        }
        Format::Json => serde_json::to_string_pretty(&shown)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    term::result(&text)?;
    if config.services.is_empty() && config.service_entries.is_empty() {
        term::note(
            "note: no Service and no ServiceEntry was read, so no service has a cluster: name their files as well, or ask \
             `celerity analyze` what is wrong",
        );
    }
    if !config.passed_over.is_empty() {
        let count = config.passed_over.len();
        term::note(format_args!(
            "note: documents passed over, for they say nothing to a mesh: {count}; `celerity analyze` names them"
        ));
    }
    // Envoy may take what this program's own proxy does not.
    for error in Snapshot::build(&resources, None).err().unwrap_or_default() {
        term::note(format_args!("note: `celerity proxy` refuses this: {error}"));
    }
    for note in &resources.notes {
        term::note(format_args!("note: {}: {}", place(&note.input), note.message));
    }
    Ok(ExitCode::SUCCESS)
}

/// The documents behind a cluster or a virtual host, a line each.
fn origin(sources: &[Explanation], item: &Value) -> Vec<String> {
    let name = item.get("name").and_then(Value::as_str);
    let found = sources.iter().find(|source| Some(source.name.as_str()) == name);
    found.map(|found| found.inputs.iter().map(|input| format!("from {}", place(input))).collect()).unwrap_or_default()
}

fn origin_json(source: &Explanation) -> Value {
    let from: Vec<_> = source
        .inputs
        .iter()
        .map(|input| json!({ "kind": input.kind, "id": input.id, "file": &*input.source.file, "line": input.source.line }))
        .collect();
    json!({ "resource": source.resource, "name": source.name, "from": from })
}

fn place(input: &Input) -> String {
    format!("{}:{}: {} {}", input.source.file, input.source.line, input.kind, input.id)
}
