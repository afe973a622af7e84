//! gRPC unary calls: from a method's name and JSON to the request that goes on the wire, again and again
//! (gRPC over HTTP/2, the protocol's own document). What the messages look like comes from .proto files, compiled here, or
//! from the server itself (gRPC Server Reflection Protocol).

mod reflection;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};

use crate::source::{Request, Success};

pub use reflection::reflect;

/// A message above this is beyond what gRPC servers take unless told otherwise (4 MB), with room for those that were.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Methods that an error names.
const NAMES_MAX: usize = 20;

/// A unary method, ready to be called.
#[derive(Clone, Debug)]
pub struct Method(MethodDescriptor);

/// `package.Service/Method`, or with a dot before the method: the full name of the service, and the method.
///
/// # Errors
/// It is neither.
pub fn split_name(name: &str) -> Result<(&str, &str), String> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let parts = name.split_once('/').or_else(|| name.rsplit_once('.'));
    match parts {
        Some((service, method)) if !service.is_empty() && !method.is_empty() && !method.contains(['/', '.']) => {
            Ok((service, method))
        }
        _ => Err(format!("`{}` is not the name of a gRPC method: write package.Service/Method", name.escape_debug())),
    }
}

/// Compiles `files`. Imports are looked up in `folders`; without any, in each file's own.
///
/// # Errors
/// A file cannot be read, or is not right: what the compiler says, with the place.
pub fn compile(files: &[PathBuf], folders: &[PathBuf]) -> Result<DescriptorPool, String> {
    let own: Vec<PathBuf> = files
        .iter()
        .map(|file| file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned())
        .collect();
    let folders = if folders.is_empty() { own } else { folders.to_vec() };
    let set = protox::compile(files, folders).map_err(|error| {
        // The error's own line, then what it is about: one sentence.
        let text = format!("{error:?}");
        let first = text.lines().next().unwrap_or_default();
        format!(
            "the .proto files cannot be compiled: {}",
            if first.is_empty() { error.to_string() } else { first.to_owned() }
        )
    })?;
    DescriptorPool::from_file_descriptor_set(set)
        .map_err(|error| format!("the .proto files do not fit together: {error}"))
}

impl Method {
    /// # Errors
    /// There is no such service or method, and which there are; or the method streams.
    pub fn find(pool: &DescriptorPool, name: &str) -> Result<Self, String> {
        let (service_name, method_name) = split_name(name)?;
        let Some(service) = pool.get_service_by_name(service_name) else {
            let mut known: Vec<String> = pool.services().map(|s| s.full_name().to_owned()).collect();
            known.truncate(NAMES_MAX);
            let known =
                if known.is_empty() { "there is none".into() } else { format!("there are {}", known.join(", ")) };
            return Err(format!("there is no gRPC service `{service_name}`: {known}"));
        };
        let Some(method) = service.methods().find(|method| method.name() == method_name) else {
            let mut known: Vec<String> = service.methods().map(|m| m.name().to_owned()).collect();
            known.truncate(NAMES_MAX);
            return Err(format!(
                "the gRPC service `{service_name}` has no method `{method_name}`: it has {}",
                known.join(", ")
            ));
        };
        if method.is_client_streaming() || method.is_server_streaming() {
            return Err(format!("the gRPC method `{name}` streams: only unary methods can be called"));
        }
        Ok(Self(method))
    }

    /// The request that calls it with a message given as JSON (protobuf's JSON mapping; `{}` is an empty message).
    /// `headers` are the call's metadata.
    ///
    /// # Errors
    /// The JSON does not fit the message: where, and why.
    pub fn request(&self, json: &str, headers: Vec<(String, String)>) -> Result<Request, String> {
        let input = self.0.input();
        let fail = |why: String| format!("the message does not fit `{}`: {why}", input.full_name());
        let mut reader = serde_json::Deserializer::from_str(json);
        let message =
            DynamicMessage::deserialize(input.clone(), &mut reader).map_err(|error| fail(error.to_string()))?;
        reader.end().map_err(|error| fail(error.to_string()))?;
        let body = frame(&message.encode_to_vec())
            .ok_or_else(|| fail(format!("it has more than {MESSAGE_BYTES_MAX} bytes")))?;
        let path = format!("/{}/{}", self.0.parent_service().full_name(), self.0.name());
        Ok(call(path, body, headers))
    }
}

/// A call as an HTTP request.
fn call(path: String, body: Vec<u8>, headers: Vec<(String, String)>) -> Request {
    let mut all =
        vec![("te".to_owned(), "trailers".to_owned()), ("content-type".to_owned(), "application/grpc".to_owned())];
    all.retain(|(name, _)| !headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)));
    all.extend(headers);
    Request { method: "POST".into(), headers: all, body: Arc::from(body), success: Success::Grpc, ..Request::get(path) }
}

/// A message behind its prefix: not compressed, and so long.
fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let len = u32::try_from(message.len()).ok().filter(|&len| len as usize <= MESSAGE_BYTES_MAX)?;
    let mut out = Vec::with_capacity(message.len() + 5);
    out.push(0);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(message);
    Some(out)
}

/// What a server's reflection may answer, for fuzzing.
pub fn fuzz(input: &[u8]) {
    reflection::fuzz(input);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = "syntax = \"proto3\";\npackage shop.v1;\nimport \"item.proto\";\n\
        message Ask { string id = 1; repeated Item items = 2; }\nmessage Told { int64 total = 1; }\n\
        service Orders { rpc Total(Ask) returns (Told); rpc Watch(Ask) returns (stream Told); }\n";

    fn pool() -> DescriptorPool {
        let folder = std::env::temp_dir().join(format!(
            "celerity-grpc-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("orders.proto"), PROTO).expect("a file");
        let item = "syntax = \"proto3\";\npackage shop.v1;\nmessage Item { uint32 count = 1; }\n";
        std::fs::write(folder.join("item.proto"), item).expect("a file");
        std::fs::write(folder.join("bad.proto"), "syntax = \"proto3\";\nmessage {").expect("a file");
        let bad = compile(&[folder.join("bad.proto")], &[]).expect_err("a bad file");
        assert!(bad.contains("bad.proto") && bad.lines().count() == 1, "{bad}");
        let pool = compile(&[folder.join("orders.proto")], &[]).expect("a pool");
        std::fs::remove_dir_all(&folder).expect("removed");
        pool
    }

    #[test]
    fn json_becomes_the_message_on_the_wire() {
        let method = Method::find(&pool(), "shop.v1.Orders/Total").expect("a method");
        let json = r#"{"id":"a","items":[{"count":3}]}"#;
        let request = method.request(json, vec![("x-user".into(), "me".into())]).expect("a request");
        assert_eq!(&*request.body, b"\0\0\0\0\x07\x0a\x01a\x12\x02\x08\x03");
        assert_eq!((request.path.as_str(), request.success), ("/shop.v1.Orders/Total", Success::Grpc));
        assert_eq!(
            (request.header("content-type"), request.header("te")),
            (Some("application/grpc"), Some("trailers"))
        );
        assert_eq!(request.check(), Ok(()));
        for (json, why) in [("{\"idx\":1}", "idx"), ("{\"id\":1}", "string"), ("{} x", "trailing"), ("", "EOF")] {
            let error = method.request(json, Vec::new()).expect_err(json);
            assert!(error.contains(why) && error.contains("shop.v1.Ask"), "{json}: {error}");
        }
    }

    #[test]
    fn names_that_are_not_there_are_told_with_those_that_are() {
        let pool = pool();
        let error = |name: &str| Method::find(&pool, name).expect_err(name);
        assert!(error("shop.v1.Orders/Watch").contains("streams"));
        assert!(error("shop.v1.Orders.Sum").contains("it has Total, Watch"));
        assert!(error("shop.v2.Orders/Total").contains("shop.v1.Orders"));
        assert!(error("nonsense").contains("package.Service/Method"));
    }
}
