//! The workload that a proxy stands in front of: from a file, from the flags, from what the machine says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use celerity_model::istio::{Config, Locality};
use celerity_model::translate::{Certificates, Node};
use celerity_proxy::tls::{Identity, Source, SpiffeId};

use crate::config::files;
use crate::local::LocalAddresses;

/// What the flags say about the workload. They win over the file.
#[derive(Debug, Default)]
pub(crate) struct Given<'a> {
    /// A file with one WorkloadEntry: the document that describes a workload in Istio's own words.
    pub(crate) file: Option<&'a Path>,
    pub(crate) name: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) labels: &'a [(String, String)],
    pub(crate) locality: Option<&'a str>,
}

/// The node that `given` describes.
pub(crate) fn describe(given: &Given<'_>) -> anyhow::Result<Node> {
    let mut node = match given.file {
        Some(file) => from_file(file)?,
        None => Node::default(),
    };
    if let Some(name) = given.name {
        node.name = name.to_owned();
    }
    if let Some(namespace) = given.namespace {
        node.namespace = namespace.to_owned();
    }
    for (index, (key, value)) in given.labels.iter().enumerate() {
        if let Some((_, earlier)) = given.labels.iter().take(index).find(|(known, _)| known == key) {
            anyhow::bail!("--labels names {key} twice, as {earlier} and as {value}: keep one");
        }
    }
    node.labels.extend(given.labels.iter().cloned());
    if let Some(locality) = given.locality {
        node.locality = Locality::parse(locality);
    }
    Ok(node)
}

fn from_file(file: &Path) -> anyhow::Result<Node> {
    let paths = [file.to_owned()];
    let config = crate::config::read(&files::read(&paths)?, &paths)?;
    let [entry] = &config.workload_entries[..] else {
        anyhow::bail!("{} holds {} WorkloadEntries: it must hold one", file.display(), config.workload_entries.len())
    };
    let address = entry.spec.address.as_deref().and_then(|address| address.parse().ok());
    Ok(Node {
        name: entry.meta.name.clone(),
        namespace: entry.meta.namespace.clone(),
        labels: entry.spec.labels.clone(),
        addresses: Vec::from_iter(address),
        locality: entry.spec.locality.clone().unwrap_or_default(),
        service_account: entry.spec.service_account.clone().unwrap_or_else(|| "default".to_owned()),
        ..Node::default()
    })
}

/// The three files of an identity, or the one that is missing.
pub(crate) fn certificates(folder: &Path) -> anyhow::Result<Certificates> {
    let file = |name: &str| {
        let path: PathBuf = folder.join(name);
        std::fs::File::open(&path)
            .with_context(|| format!("{} cannot be read: `celerity ca` issues it", path.display()))?;
        Ok::<_, anyhow::Error>(path.display().to_string())
    };
    Ok(Certificates { chain: file("cert-chain.pem")?, key: file("key.pem")?, roots: file("root-cert.pem")? })
}

/// Takes over what the workload's certificate says of it: trust domain and service account, and where its files are.
pub(crate) fn identify(node: &mut Node, folder: &Path) -> anyhow::Result<()> {
    node.certificates = Some(certificates(folder)?);
    let identity = Identity::read(&Source::directory(folder)).map_err(|error| {
        anyhow::anyhow!("{} cannot be used: {}: `celerity ca` issues another", error.file, error.reason)
    })?;
    let spiffe = identity.leaf().and_then(|leaf| leaf.spiffe.clone());
    if let Some(id) = spiffe.as_deref().and_then(SpiffeId::parse) {
        node.mesh.trust_domain = id.trust_domain.to_owned();
        if let Some((_, account)) = id.path.rsplit_once("/sa/") {
            node.service_account = account.to_owned();
        }
    }
    Ok(())
}

/// Where Istio puts a workload's certificates: for resources that are only looked at.
pub(crate) fn certificates_by_convention() -> Certificates {
    let file = |name: &str| format!("/etc/certs/{name}");
    Certificates { chain: file("cert-chain.pem"), key: file("key.pem"), roots: file("root-cert.pem") }
}

/// Where the application is: behind a specific inbound address at that address, else on this machine's 127.0.0.1.
pub(crate) fn application(inbound: Option<SocketAddr>) -> IpAddr {
    match inbound {
        Some(address) if !address.ip().is_unspecified() => address.ip(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

/// The addresses among the configuration's endpoints that are this workload's own. A specific inbound address is; with
/// an unspecified one, each that this machine has.
pub(crate) fn own_addresses(config: &Config, inbound: Option<SocketAddr>) -> Vec<IpAddr> {
    match inbound.map(|address| address.ip()) {
        Some(ip) if !ip.is_unspecified() => vec![ip],
        _ => {
            let mut named = endpoint_addresses(config);
            named.sort();
            named.dedup();
            let local = LocalAddresses::read();
            named.retain(|&ip| local.contains(ip));
            named
        }
    }
}

fn endpoint_addresses(config: &Config) -> Vec<IpAddr> {
    let entries = config.workload_entries.iter().map(|entry| &entry.spec);
    let inline = config.service_entries.iter().flat_map(|entry| &entry.spec.endpoints);
    let named = entries.chain(inline).filter_map(|entry| entry.address.as_deref()?.parse().ok());
    let slices = config.endpoint_slices.iter().flat_map(|slice| &slice.spec.endpoints);
    named.chain(slices.flat_map(|endpoint| endpoint.addresses.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use celerity_testkit::TempDir;

    use super::*;

    #[test]
    fn a_file_describes_the_workload_and_flags_win() {
        let folder = TempDir::new();
        let file = folder.write(
            "node.yaml",
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: api-1, namespace: shop}\n\
             spec: {address: 10.0.0.7, labels: {app: api}, locality: r/z, serviceAccount: api}\n",
        );
        let labels = [("version".to_owned(), "v2".to_owned())];
        let given = Given { file: Some(&file), name: Some("api-2"), labels: &labels, ..Given::default() };
        let node = describe(&given).expect("a node");
        assert_eq!(
            (node.name.as_str(), node.namespace.as_str(), node.service_account.as_str()),
            ("api-2", "shop", "api")
        );
        assert_eq!((node.labels["app"].as_str(), node.labels["version"].as_str()), ("api", "v2"));
        assert_eq!((node.locality.zone.as_str(), &node.addresses[..]), ("z", &[IpAddr::from([10, 0, 0, 7])][..]));
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let folder = TempDir::new();
        let error = certificates(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("cert-chain.pem cannot be read"), "{error}");
    }
}
