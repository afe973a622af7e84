//! What is sent: one URL, a targets file, a script or a gRPC method.

use std::io::Read;
use std::sync::Arc;

use anyhow::Context;
use celerity_load::grpc;
use celerity_load::plan::Tls;
use celerity_load::script::{Program, Target, Text};
use celerity_load::source::{Request, Source, Success};
use celerity_load::target::list::{self, Defaults, FILE_BYTES_MAX};
use celerity_load::target::{self, Origin};
use celerity_telemetry::LEDGER_REQUEST_HEADER;

use super::{Args, Format};

/// What is sent, and to whom.
pub(super) struct What {
    pub(super) origins: Vec<Origin>,
    pub(super) source: Source,
    /// Whose `done` is to be called when the run is through.
    pub(super) program: Option<Arc<Program>>,
}

pub(super) fn what(args: &Args, threads: u32, tls: &Tls) -> anyhow::Result<What> {
    let body: Option<Arc<[u8]>> = match args.data.as_deref().map(|data| (data, data.strip_prefix('@'))) {
        None => None,
        Some((_, Some(file))) => {
            Some(std::fs::read(file).with_context(|| format!("the body's file {file} cannot be read"))?.into())
        }
        Some((text, None)) => Some(text.as_bytes().into()),
    };
    let mut headers = args.headers.clone();
    if args.ledger {
        headers.push((LEDGER_REQUEST_HEADER.to_owned(), "1".to_owned()));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        headers.push(("user-agent".to_owned(), concat!("celerity/", env!("CARGO_PKG_VERSION")).to_owned()));
    }
    if let Some(file) = &args.targets {
        return targets(args, file, Defaults { headers, body: body.unwrap_or_default() });
    }
    let url = args.url.as_deref().unwrap_or_default();
    let (origin, path) = target::parse(url).map_err(anyhow::Error::msg)?;
    if let Some(file) = &args.script {
        let arguments = std::iter::once(url.to_owned()).chain(args.script_arguments.iter().cloned()).collect();
        let mut text = Text::read(file, arguments).map_err(anyhow::Error::msg)?;
        text.aside = args.format == Format::Json;
        let target = match &args.proxy {
            Some(_) => Target::proxied(url, &origin, path, headers),
            None => Target::resolve(url, &origin, path, headers)?,
        };
        let program = Arc::new(Program::load(text, &target, threads).map_err(anyhow::Error::msg)?);
        return Ok(What { origins: vec![origin], source: Source::Script(program.clone()), program: Some(program) });
    }
    let request = match &args.grpc {
        Some(method) => {
            let json = String::from_utf8(body.as_deref().unwrap_or(b"{}").to_vec()).context("--data is not UTF-8")?;
            call(args, method, &json, headers, &origin, tls)?
        }
        None => {
            let default_method = if body.is_some() { "POST" } else { "GET" };
            Request {
                origin: 0,
                method: args.method.clone().unwrap_or_else(|| default_method.to_owned()),
                path,
                headers,
                body: body.unwrap_or_default(),
                success: Success::Status,
            }
        }
    };
    Ok(What { origins: vec![origin], source: Source::single(request), program: None })
}

fn targets(args: &Args, file: &str, defaults: Defaults) -> anyhow::Result<What> {
    let name = if file == "-" { "standard input" } else { file };
    let mut text = String::new();
    let mut read = |from: &mut dyn Read| from.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let taken = match file {
        "-" => read(&mut std::io::stdin().lock()),
        file => std::fs::File::open(file).and_then(|mut file| read(&mut file)),
    };
    taken.with_context(|| format!("the targets in {name} cannot be read"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        anyhow::bail!("the targets in {name} have more than {FILE_BYTES_MAX} bytes");
    }
    let targets = list::read(&text, args.targets_format.into(), &defaults, &mut list::body_file)
        .with_context(|| format!("the targets in {name} cannot be used"))?;
    Ok(What { origins: targets.origins, source: Source::Static(targets.requests.into()), program: None })
}

fn call(
    args: &Args,
    method: &str,
    json: &str,
    headers: Vec<(String, String)>,
    origin: &Origin,
    tls: &Tls,
) -> anyhow::Result<Request> {
    let pool = if args.reflection {
        grpc::reflect(origin, Some(tls), args.connect_timeout, method)?
    } else if args.proto.is_empty() {
        anyhow::bail!("--grpc needs to know the messages: give --proto FILE or --reflection");
    } else {
        grpc::compile(&args.proto, &args.import_path).map_err(anyhow::Error::msg)?
    };
    let method = grpc::Method::find(&pool, method).map_err(anyhow::Error::msg)?;
    method.request(json, headers).map_err(anyhow::Error::msg)
}
