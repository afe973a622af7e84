//! gRPC Server Reflection: asks a server what its messages look like. One call for the service, one for each file that is
//! still missing.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::{call, frame, split_name};
use crate::Error;
use crate::engine::ask::Asker;
use crate::plan::Tls;
use crate::target::Origin;

/// The versions of the protocol, newest first; the older one is what most servers had for years.
const SERVICES: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
/// Files that one service may need; the largest public interfaces need some hundreds.
const FILES_MAX: usize = 2000;
/// gRPC's status for a method that is not there.
const UNIMPLEMENTED: u16 = 12;

#[derive(Clone, PartialEq, Message)]
struct Ask {
    #[prost(string, optional, tag = "3")]
    file_by_filename: Option<String>,
    #[prost(string, optional, tag = "4")]
    file_containing_symbol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(message, optional, tag = "4")]
    files: Option<Files>,
    #[prost(message, optional, tag = "7")]
    error: Option<Failed>,
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Failed {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// What a server says of the service in `name` (`package.Service/Method`).
///
/// # Errors
/// The server cannot be reached, has no reflection, or does not know the service.
pub fn reflect(origin: &Origin, tls: Option<&Tls>, timeout: Duration, name: &str) -> Result<DescriptorPool, Error> {
    let (service, _) = split_name(name).map_err(Error::Grpc)?;
    let mut asker = Asker::connect(origin, tls, timeout)?;
    told(origin, &mut asker, service)
}

fn told(origin: &Origin, asker: &mut Asker, service: &str) -> Result<DescriptorPool, Error> {
    let wrong = |why: String| Error::Grpc(why);
    let first = Ask { file_by_filename: None, file_containing_symbol: Some(service.to_owned()) };
    let mut chosen = None;
    for version in SERVICES {
        let known = ask(asker, version, &first).map_err(|error| match error {
            Error::Grpc(why) => wrong(format!("the service `{service}` cannot be had: {why}")),
            other => other,
        })?;
        if let Some(files) = known {
            chosen = Some((version, files));
            break;
        }
    }
    let Some((version, mut files)) = chosen else {
        return Err(wrong(format!("{} has no gRPC reflection: give --proto FILE", origin.authority())));
    };
    let missing = |files: &[FileDescriptorProto]| {
        let have: BTreeSet<&str> = files.iter().map(FileDescriptorProto::name).collect();
        files.iter().flat_map(|f| &f.dependency).find(|name| !have.contains(name.as_str())).cloned()
    };
    while let Some(name) = missing(&files) {
        let want = Ask { file_by_filename: Some(name.clone()), file_containing_symbol: None };
        let more = ask(asker, version, &want)?.unwrap_or_default();
        let have: BTreeSet<String> = files.iter().map(|f| f.name().to_owned()).collect();
        files.extend(more.into_iter().filter(|f| !have.contains(f.name())));
        if files.iter().all(|f| f.name() != name) {
            return Err(wrong(format!(
                "the server's reflection does not give the file `{name}`, which the service needs"
            )));
        }
        if files.len() > FILES_MAX {
            return Err(wrong(format!("the server's reflection gives more than {FILES_MAX} files")));
        }
    }
    DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file: files })
        .map_err(|error| wrong(format!("what the server's reflection says does not fit together: {error}")))
}

/// One question. `None` where the server does not have this version of the protocol.
fn ask(asker: &mut Asker, version: &str, question: &Ask) -> Result<Option<Vec<FileDescriptorProto>>, Error> {
    let body = frame(&question.encode_to_vec()).ok_or_else(|| Error::Grpc("the name is too long".into()))?;
    let path = format!("/{version}/ServerReflectionInfo");
    let answer = asker.ask(&call(path, body, Vec::new()))?;
    if answer.grpc_status == Some(UNIMPLEMENTED) || answer.status == 404 {
        return Ok(None);
    }
    if answer.status != 200 || answer.grpc_status != Some(0) {
        let grpc = answer.grpc_status.map_or("none".to_owned(), |status| status.to_string());
        let status = answer.status;
        return Err(Error::Grpc(format!("the server's reflection answered with status {status}, gRPC status {grpc}")));
    }
    files(&answer.body).map(Some).map_err(Error::Grpc)
}

fn files(body: &[u8]) -> Result<Vec<FileDescriptorProto>, String> {
    let broken = || "the server's reflection answered with a broken message".to_owned();
    let Some((&[compressed, a, b, c, d], rest)) = body.split_first_chunk::<5>() else { return Err(broken()) };
    if compressed != 0 {
        return Err("the server's reflection answered with a compressed message, which was not asked for".into());
    }
    let message = rest.get(..u32::from_be_bytes([a, b, c, d]) as usize).ok_or_else(broken)?;
    let told = Told::decode(message).map_err(|_| broken())?;
    if let Some(error) = told.error {
        return Err(format!("the server's reflection says: {} (code {})", error.message.escape_debug(), error.code));
    }
    let files = told.files.ok_or_else(broken)?;
    files.file.iter().map(|file| FileDescriptorProto::decode(file.as_slice()).map_err(|_| broken())).collect()
}

/// What a server may answer, for fuzzing.
pub(super) fn fuzz(input: &[u8]) {
    if let Ok(file) = files(input) {
        let _ = DescriptorPool::from_file_descriptor_set(FileDescriptorSet { file });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes: Vec<u8>) {
            fuzz(&bytes);
            fuzz(&frame(&bytes).expect("short"));
            let told = Told { files: Some(Files { file: vec![bytes] }), error: None };
            fuzz(&frame(&told.encode_to_vec()).expect("short"));
        }
    }
}
