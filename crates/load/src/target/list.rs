//! vegeta's targets files: which requests to send, as text or as a JSON object on each line.
//!
//! Text: `METHOD URL`, then header lines `Name: value`, then `@path` for a body; a line that begins with `#` is a comment.
//! A new request begins after an empty line, or where a line reads like `METHOD URL`. JSON: `method`, `url`, and where
//! wanted `header` (names to lists of values) and `body` (base64). Source: vegeta's README and its JSON schema.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Origin, parse};
use crate::source::{Request, Success, check_header, is_token_byte};

/// Requests of one file. They are kept in memory and gone through again and again; more are data, not a list.
pub const TARGETS_MAX: usize = 1_000_000;
/// The file itself.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// All bodies together, each file counted once.
pub const BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Http,
    Json,
}

/// What every request gets that does not say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub headers: Vec<(String, String)>,
    pub body: Arc<[u8]>,
}

/// The requests of a file, and the servers they name.
#[derive(Clone, Debug)]
pub struct Targets {
    pub origins: Vec<Origin>,
    pub requests: Vec<Request>,
}

/// What is wrong with a targets file, and in which line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Wrong {
    pub line: usize,
    pub why: String,
}

/// Reads a targets file. Bodies named by `@path` are read through `read_body`, each once.
///
/// # Errors
/// The first line that cannot be used, and why.
pub fn read(
    text: &str,
    format: Format,
    defaults: &Defaults,
    read_body: &mut dyn FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<Targets, Wrong> {
    let mut reader = Reader {
        defaults,
        read_body,
        bodies: HashMap::new(),
        bodies_bytes: 0,
        places: HashMap::new(),
        out: Targets { origins: Vec::new(), requests: Vec::new() },
    };
    match format {
        Format::Http => reader.http(text)?,
        Format::Json => reader.json(text)?,
    }
    if reader.out.requests.is_empty() {
        return Err(Wrong {
            line: 1,
            why: "there is no target: a target is a line such as `GET http://host/path`".into(),
        });
    }
    Ok(reader.out)
}

/// Reads a body file for [`read`]: as with vegeta, a path is one of the working folder, wherever the targets are from.
pub fn body_file(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |error: std::io::Error| format!("the body `{}` cannot be read: {error}", path.display());
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > BODIES_BYTES_MAX as u64 {
        return Err(format!("the body `{}` has {size} bytes, and may have {BODIES_BYTES_MAX}", path.display()));
    }
    std::fs::read(path).map_err(fail)
}

struct Reader<'a> {
    defaults: &'a Defaults,
    read_body: &'a mut dyn FnMut(&Path) -> Result<Vec<u8>, String>,
    bodies: HashMap<PathBuf, Arc<[u8]>>,
    bodies_bytes: usize,
    /// Where an origin stands in the list.
    places: HashMap<(bool, String, u16), u32>,
    out: Targets,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonTarget {
    method: String,
    url: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    header: HashMap<String, Vec<String>>,
}

impl Reader<'_> {
    fn http(&mut self, text: &str) -> Result<(), Wrong> {
        let mut current: Option<(usize, Request)> = None;
        for (number, raw) in text.lines().enumerate() {
            let line = number + 1;
            let at = |why: String| Wrong { line, why };
            let content = raw.trim();
            if content.starts_with('#') {
                continue;
            }
            if content.is_empty() {
                self.push(current.take())?;
                continue;
            }
            if let Some((method, url)) = request_line(content) {
                self.push(current.take())?;
                current = Some((line, self.request(method, url).map_err(at)?));
                continue;
            }
            let Some((_, request)) = &mut current else {
                return Err(at(format!("`{}` is not a target: it is a method and a URL", shorten(content))));
            };
            if let Some(path) = content.strip_prefix('@') {
                let path = path.trim();
                if path.is_empty() {
                    return Err(at("`@` is followed by the path of a file".into()));
                }
                request.body = self.body(Path::new(path)).map_err(at)?;
            } else if let Some((name, value)) = content.split_once(':') {
                check_header(name.trim(), value.trim()).map_err(at)?;
                set_header(&mut request.headers, self.defaults, name.trim(), value.trim());
            } else {
                let content = shorten(content);
                return Err(at(format!(
                    "`{content}` is neither a header `Name: value` nor a body `@file` nor a target"
                )));
            }
        }
        self.push(current)
    }

    fn json(&mut self, text: &str) -> Result<(), Wrong> {
        for (number, raw) in text.lines().enumerate() {
            let line = number + 1;
            let at = |why: String| Wrong { line, why };
            if raw.trim().is_empty() {
                continue;
            }
            let target: JsonTarget = serde_json::from_str(raw).map_err(|error| at(json_error(&error)))?;
            let mut request = self.request(&target.method, &target.url).map_err(at)?;
            if !target.body.is_empty() {
                let body =
                    STANDARD.decode(&target.body).map_err(|error| at(format!("`body` is not base64: {error}")))?;
                self.count_body(body.len()).map_err(at)?;
                request.body = Arc::from(body);
            }
            let mut headers: Vec<_> = target.header.into_iter().collect();
            // The same file gives the same octets: a JSON object has no order.
            headers.sort();
            for (name, values) in headers {
                for value in values {
                    set_header(&mut request.headers, self.defaults, &name, &value);
                }
            }
            self.push(Some((line, request)))?;
        }
        Ok(())
    }

    fn push(&mut self, target: Option<(usize, Request)>) -> Result<(), Wrong> {
        let Some((line, request)) = target else { return Ok(()) };
        request.check().map_err(|why| Wrong { line, why })?;
        if self.out.requests.len() >= TARGETS_MAX {
            return Err(Wrong { line, why: format!("a file may have {TARGETS_MAX} targets") });
        }
        self.out.requests.push(request);
        Ok(())
    }

    fn request(&mut self, method: &str, url: &str) -> Result<Request, String> {
        let (url, credentials) = without_credentials(url);
        let (origin, path) = parse(&url)?;
        let key = (origin.tls, origin.host.clone(), origin.port);
        let place = *self.places.entry(key).or_insert_with(|| {
            self.out.origins.push(origin);
            (self.out.origins.len() - 1) as u32
        });
        let mut headers = self.defaults.headers.clone();
        if let Some(credentials) = credentials {
            headers.push(("Authorization".into(), format!("Basic {}", STANDARD.encode(credentials))));
        }
        Ok(Request {
            origin: place,
            method: method.to_owned(),
            path,
            headers,
            body: Arc::clone(&self.defaults.body),
            success: Success::Status,
        })
    }

    fn body(&mut self, path: &Path) -> Result<Arc<[u8]>, String> {
        if let Some(body) = self.bodies.get(path) {
            return Ok(Arc::clone(body));
        }
        let body: Arc<[u8]> = Arc::from((self.read_body)(path)?);
        self.count_body(body.len())?;
        self.bodies.insert(path.to_owned(), Arc::clone(&body));
        Ok(body)
    }

    fn count_body(&mut self, bytes: usize) -> Result<(), String> {
        self.bodies_bytes = self.bodies_bytes.saturating_add(bytes);
        if self.bodies_bytes > BODIES_BYTES_MAX {
            return Err(format!("the bodies have more than {BODIES_BYTES_MAX} bytes together"));
        }
        Ok(())
    }
}

/// A target's own header takes the place of a default one of that name; several of its own stand beside each other.
fn set_header(headers: &mut Vec<(String, String)>, defaults: &Defaults, name: &str, value: &str) {
    headers.retain(|have| !(have.0.eq_ignore_ascii_case(name) && defaults.headers.contains(have)));
    headers.push((name.to_owned(), value.to_owned()));
}

/// `METHOD URL`, where the line reads so. A header such as `X-Url: http://a` does not: its name ends in a colon.
fn request_line(line: &str) -> Option<(&str, &str)> {
    let (method, url) = line.split_once(char::is_whitespace)?;
    let is_method = method.bytes().all(|b| is_token_byte(b) && !b.is_ascii_lowercase());
    (is_method && !method.is_empty()).then_some((method, url.trim()))
}

/// `http://user:password@host/` becomes the URL without them, and `user:password`.
fn without_credentials(url: &str) -> (String, Option<String>) {
    let plain = || (url.to_owned(), None);
    let Some((scheme, rest)) = url.split_once("://") else { return plain() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((credentials, host)) => (format!("{scheme}://{host}{path}"), Some(percent_decoded(credentials))),
        None => plain(),
    }
}

/// RFC 3986 section 2.1. What is not an escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |place: usize| tail.get(place).and_then(|&b| char::from(b).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, hex(0), hex(1)) {
            out.push((high * 16 + low) as u8);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// serde's message without its own line, which is always 1 here.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("column {}: {text}", error.column())
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    short.escape_debug().to_string()
}

/// Any text, for fuzzing: it is refused or gives requests that can be sent.
pub fn fuzz(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for format in [Format::Http, Format::Json] {
        if let Ok(targets) = read(text, format, &Defaults::default(), &mut |_| Ok(vec![1])) {
            for request in &targets.requests {
                assert!(request.check().is_ok() && (request.origin as usize) < targets.origins.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(text: &str) -> Result<Targets, Wrong> {
        read(text, Format::Http, &Defaults::default(), &mut |path| match path.to_str() {
            Some("body.json") => Ok(b"{}".to_vec()),
            _ => Err(format!("no file {}", path.display())),
        })
    }

    #[test]
    fn lines_headers_bodies_and_comments() {
        let text = "# two services\nGET http://user-service/api/users?x=1\nHEAD https://[::1]:8443/a\n\n\
                    POST http://user-service/api\nContent-Type: application/json\nX-A: 1\nX-A: http://b\n@body.json\n\n\n\
                    DELETE http://u%40x:p@user-service/z\r\n";
        let targets = http(text).expect("targets");
        let lines: Vec<_> = targets.requests.iter().map(|r| format!("{} {} {}", r.method, r.origin, r.path)).collect();
        assert_eq!(lines, ["GET 0 /api/users?x=1", "HEAD 1 /a", "POST 0 /api", "DELETE 0 /z"]);
        assert_eq!(targets.origins.len(), 2);
        let post = &targets.requests[2];
        assert_eq!((post.headers.len(), &*post.body), (3, &b"{}"[..]));
        assert_eq!(targets.requests[3].header("authorization"), Some("Basic dUB4OnA="));
    }

    #[test]
    fn json_lines() {
        let text = r#"{"method":"POST","url":"http://a/b","body":"aGk=","header":{"X":["1","2"],"A":["z"]}}"#;
        let defaults =
            Defaults { headers: vec![("x".into(), "0".into()), ("y".into(), "0".into())], body: Arc::from([]) };
        let targets = read(text, Format::Json, &defaults, &mut |_| Err("no".into())).expect("targets");
        let headers: Vec<_> = targets.requests[0].headers.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(headers, ["y=0", "A=z", "X=1", "X=2"]);
        assert_eq!(&*targets.requests[0].body, b"hi");
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, line, why) in [
            ("GET http://a/\nnonsense", 2, "neither"),
            ("X: y\nGET http://a/", 1, "not a target"),
            ("GET http://a/\n\n@body.json", 3, "not a target"),
            ("GET ftp://a/", 1, "scheme"),
            ("\n\nPOST http://a/\n@gone", 4, "no file gone"),
            ("GET http://a/\n@", 2, "path of a file"),
            ("GET http://a/\nX: 1\nContent-Length: 3\n", 3, "content-length"),
            ("# nothing", 1, "no target"),
        ] {
            let wrong = http(text).expect_err(text);
            assert!(wrong.line == line && wrong.why.to_lowercase().contains(why), "{text:?}: {wrong}");
        }
        for (text, line) in
            [("{\"method\":\"GET\"}", 1), ("\n{\"method\":\"GET\",\"url\":\"http://a\",\"x\":1}", 2), ("[]", 1)]
        {
            let wrong = read(text, Format::Json, &Defaults::default(), &mut |_| Err("no".into())).expect_err(text);
            assert_eq!(wrong.line, line, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_can_be_sent(text in "[A-Za-z:/@#{}\"\\[\\]\\n .%-]{0,80}") {
            fuzz(text.as_bytes());
            fuzz(format!("GET http://a/{text}").as_bytes());
        }
    }
}
