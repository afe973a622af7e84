//! Takes from the dependency `envoy-types` the descriptors of its protobuf files and keeps those that patches and output need.
//!
//! The crate ships them compiled (`src/generated/types.bin`), but neither exports them nor says where it lies, so this script
//! looks for its folder. Reading the ready descriptors takes milliseconds; compiling the crate's `.proto` files takes seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// Overrides the search, for a build system that keeps crates where cargo does not.
const OVERRIDE: &str = "CELERITY_ENVOY_TYPES_DIR";

/// Path inside the crate's folder.
const DESCRIPTORS: &str = "src/generated/types.bin";

/// Files kept are these and all that they import. The others (admin API, discovery services, UDP, other protocols) would
/// double the size and the time to open the pool, and no patch on HTTP traffic can name them.
const ROOTS: &[&str] = &[
    "envoy/config/bootstrap/v3/",
    "envoy/config/listener/v3/",
    "envoy/config/route/v3/",
    "envoy/config/cluster/v3/",
    "envoy/config/endpoint/v3/",
    "envoy/extensions/access_loggers/file/",
    "envoy/extensions/access_loggers/grpc/",
    "envoy/extensions/access_loggers/open_telemetry/",
    "envoy/extensions/access_loggers/stream/",
    "envoy/extensions/clusters/dns/",
    "envoy/extensions/compression/",
    "envoy/extensions/filters/http/adaptive_concurrency/",
    "envoy/extensions/filters/http/admission_control/",
    "envoy/extensions/filters/http/buffer/",
    "envoy/extensions/filters/http/cache/",
    "envoy/extensions/filters/http/compressor/",
    "envoy/extensions/filters/http/cors/",
    "envoy/extensions/filters/http/csrf/",
    "envoy/extensions/filters/http/decompressor/",
    "envoy/extensions/filters/http/ext_authz/",
    "envoy/extensions/filters/http/fault/",
    "envoy/extensions/filters/http/grpc_stats/",
    "envoy/extensions/filters/http/grpc_web/",
    "envoy/extensions/filters/http/header_mutation/",
    "envoy/extensions/filters/http/header_to_metadata/",
    "envoy/extensions/filters/http/health_check/",
    "envoy/extensions/filters/http/jwt_authn/",
    "envoy/extensions/filters/http/local_ratelimit/",
    "envoy/extensions/filters/http/lua/",
    "envoy/extensions/filters/http/on_demand/",
    "envoy/extensions/filters/http/ratelimit/",
    "envoy/extensions/filters/http/rbac/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/set_metadata/",
    "envoy/extensions/filters/http/stateful_session/",
    "envoy/extensions/filters/http/wasm/",
    "envoy/extensions/filters/listener/http_inspector/",
    "envoy/extensions/filters/listener/original_dst/",
    "envoy/extensions/filters/listener/proxy_protocol/",
    "envoy/extensions/filters/listener/tls_inspector/",
    "envoy/extensions/filters/network/connection_limit/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/local_ratelimit/",
    "envoy/extensions/filters/network/rbac/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/http/cache/",
    "envoy/extensions/http/header_formatters/preserve_case/",
    "envoy/extensions/load_balancing_policies/",
    "envoy/extensions/network/dns_resolver/cares/",
    "envoy/extensions/request_id/",
    "envoy/extensions/retry/",
    "envoy/extensions/transport_sockets/raw_buffer/",
    "envoy/extensions/transport_sockets/tls/v3/",
    "envoy/extensions/transport_sockets/proxy_protocol/",
    "envoy/extensions/upstreams/http/v3/",
    "envoy/extensions/upstreams/tcp/v3/",
    "xds/type/v3/",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let lock = manifest_dir.ancestors().map(|dir| dir.join("Cargo.lock")).find(|path| path.is_file());
    if let Some(lock) = &lock {
        println!("cargo::rerun-if-changed={}", lock.display());
    }
    let version = lock.and_then(|path| locked_version(&fs::read_to_string(path).ok()?));

    let source = find(&manifest_dir, version.as_deref())?;
    println!("cargo::rerun-if-changed={}", source.display());
    let all = FileDescriptorSet::decode(fs::read(&source)?.as_slice())
        .map_err(|error| format!("{} holds no descriptors: {error}", source.display()))?;
    let kept = keep(all)?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("envoy_descriptors.bin"), kept.encode_to_vec())?;
    Ok(())
}

fn locked_version(lock: &str) -> Option<String> {
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"envoy-types\""))?;
    let version = package.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(version.trim_matches('"').to_owned())
}

fn find(manifest_dir: &Path, version: Option<&str>) -> Result<PathBuf, Box<dyn Error>> {
    if let Ok(dir) = env::var(OVERRIDE) {
        let path = Path::new(&dir).join(DESCRIPTORS);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{OVERRIDE}: {} does not exist", path.display()).into())
        };
    }
    let folders: Vec<String> = match version {
        Some(version) => vec![format!("envoy-types-{version}"), "envoy-types".to_owned()],
        None => vec!["envoy-types".to_owned()],
    };
    for base in bases(manifest_dir) {
        for folder in &folders {
            let path = base.join(folder).join(DESCRIPTORS);
            if path.is_file() && (folder != "envoy-types" || right_version(&base.join(folder), version)) {
                return Ok(path);
            }
        }
    }
    from_cargo(manifest_dir).ok_or_else(|| {
        format!("the folder of the crate envoy-types is not to be found; set {OVERRIDE} to the folder that holds its {DESCRIPTORS}").into()
    })
}

/// A vendored folder carries no version in its name.
fn right_version(folder: &Path, version: Option<&str>) -> bool {
    let Some(version) = version else { return true };
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|toml| toml.contains(&format!("version = \"{version}\"")))
}

/// Cargo's unpacked registries first, then every folder that a `.cargo/config.toml` in force names, then `vendor`.
fn bases(manifest_dir: &Path) -> Vec<PathBuf> {
    let mut bases = Vec::new();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        env::var_os("HOME").or_else(|| env::var_os("USERPROFILE")).map(|home| PathBuf::from(home).join(".cargo"))
    });
    if let Some(home) = &home {
        for registry in fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten() {
            bases.push(registry.path());
        }
    }
    let configured = manifest_dir.ancestors().map(|dir| (dir.to_path_buf(), dir.join(".cargo")));
    for (root, dir) in configured.chain(home.and_then(|home| Some((home.parent()?.to_path_buf(), home.clone())))) {
        for name in ["config.toml", "config"] {
            let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
            for line in text.lines() {
                if let Some(value) =
                    line.trim().strip_prefix("directory").and_then(|rest| rest.trim_start().strip_prefix('='))
                {
                    bases.push(root.join(value.trim().trim_matches(['"', '\''])));
                }
            }
        }
        bases.push(root.join("vendor"));
    }
    bases
}

/// The last resort, for path, git and patched dependencies: cargo itself knows. Last because it costs a process, and because
/// it fails offline where a crate of another platform was never downloaded.
fn from_cargo(manifest_dir: &Path) -> Option<PathBuf> {
    let output = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--offline", "--format-version", "1", "--filter-platform", &env::var("TARGET").ok()?])
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split("\"manifest_path\":\"").skip(1).find_map(|rest| {
        let manifest = rest.split('"').next()?.replace("\\\\", "\\");
        let path = Path::new(&manifest).parent()?.join(DESCRIPTORS);
        path.is_file().then_some(path)
    })
}

fn keep(all: FileDescriptorSet) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut wanted: Vec<String> = all
        .file
        .iter()
        .filter_map(|file| file.name.clone())
        .filter(|name| ROOTS.iter().any(|root| name.starts_with(root)) && !name.contains("dynamic_modules"))
        .collect();
    let by_name: BTreeMap<&str, &FileDescriptorProto> = all.file.iter().map(|file| (file.name(), file)).collect();
    let mut kept = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        let file = by_name.get(name.as_str()).ok_or_else(|| format!("the descriptors lack {name}"))?;
        if kept.insert(name) {
            wanted.extend(file.dependency.iter().cloned());
        }
    }
    for root in ROOTS {
        if !kept.iter().any(|name| name.starts_with(root)) {
            return Err(format!("the descriptors lack {root}").into());
        }
    }
    // Order is kept: importers come after what they import. Comments and positions are four fifths of the bytes.
    let file = all
        .file
        .into_iter()
        .filter(|file| kept.contains(file.name()))
        .map(|file| FileDescriptorProto { source_code_info: None, ..file })
        .collect();
    Ok(FileDescriptorSet { file })
}
