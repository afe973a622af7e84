//! `celerity ca`: a certificate authority in a folder, for meshes without one.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::ca::{Authority, Identity};
use crate::duration;

/// Make a certificate authority, and certificates with SPIFFE identities for workloads
///
/// The files have Istio's names: cert-chain.pem, key.pem, root-cert.pem. A running proxy takes new ones up within a
/// second, without a restart.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  celerity ca init --dir ca\n  celerity ca issue --dir ca --namespace default --service-account orders --out certs/orders\n  celerity ca issue --dir ca --spiffe spiffe://cluster.local/ns/default/sa/users --dns users.test --ttl 72h --out certs/users"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Init(InitArgs),
    Issue(IssueArgs),
}

/// Make a root certificate and its key
#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Folder of the authority; ca-key.pem in it must stay secret
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The first part of every identity
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,

    /// Replace an authority that is there; certificates it issued stop working
    #[arg(long)]
    force: bool,
}

/// Issue a certificate for a workload, or renew it
#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The whole identity, such as spiffe://cluster.local/ns/default/sa/orders
    #[arg(long, value_name = "ID", conflicts_with_all = ["namespace", "service_account"], required_unless_present = "service_account")]
    spiffe: Option<String>,

    /// Namespace of the workload [default: default]
    #[arg(long, value_name = "NS", requires = "service_account", value_parser = segment)]
    namespace: Option<String>,

    /// Service account of the workload
    #[arg(long, value_name = "NAME", value_parser = segment)]
    service_account: Option<String>,

    /// A DNS name to put in as well; may be given again
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,

    /// An IP address to put in as well; may be given again
    #[arg(long, value_name = "ADDR")]
    ip: Vec<IpAddr>,

    /// Folder for cert-chain.pem, key.pem and root-cert.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How long the certificate is good, such as 24h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    ttl: Duration,
}

/// One segment of an identity's path (SPIFFE-ID, section 2.2). With a slash in it a name would be another workload's identity, or
/// one that no policy's pattern is meant for.
fn segment(text: &str) -> Result<String, String> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if text.is_empty() || !text.bytes().all(letters) || matches!(text, "." | "..") {
        return Err("write letters, digits, dots, dashes and underscores".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let said = match &args.what {
        What::Init(args) => init(args)?,
        What::Issue(args) => issue(args)?,
    };
    crate::term::line(&said);
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> anyhow::Result<String> {
    Authority::create(&args.trust_domain)?.save(&args.dir, args.force)?;
    Ok(format!(
        "authority of {} in {}; keep ca-key.pem secret\nnext: celerity ca issue --dir {} --service-account NAME --out certs/NAME",
        args.trust_domain,
        args.dir.display(),
        args.dir.display()
    ))
}

fn issue(args: &IssueArgs) -> anyhow::Result<String> {
    let authority = Authority::load(&args.dir)
        .with_context(|| format!("no authority in {}; `celerity ca init` makes one", args.dir.display()))?;
    let namespace = args.namespace.as_deref().unwrap_or("default");
    let account = args.service_account.as_deref().unwrap_or_default();
    let mut identity = Identity::workload(authority.trust_domain(), namespace, account);
    if let Some(spiffe) = &args.spiffe {
        identity.spiffe.clone_from(spiffe);
    }
    identity.dns.clone_from(&args.dns);
    identity.ips.clone_from(&args.ip);
    identity.ttl = args.ttl;
    let issued = authority.issue(&identity)?;
    issued.write(&args.out)?;
    let until = time::OffsetDateTime::from_unix_timestamp(issued.not_after_s)
        .map(|end| end.format(&time::format_description::well_known::Rfc3339).unwrap_or_default())
        .unwrap_or_default();
    Ok(format!("{} until {until}, in {}", identity.spiffe, args.out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_of_the_identity() {
        for right in ["orders", "orders-v2", "a.b_C9"] {
            assert_eq!(segment(right).as_deref(), Ok(right));
        }
        for wrong in ["", "a/b", "..", "a b", "a%2fb", "\u{e9}"] {
            assert!(segment(wrong).is_err(), "{wrong}");
        }
    }
}
