//! One request, taken apart: curl's segments, carried on through every hop of the mesh.
//!
//! ```text
//!   name lookup | connect | tunnel | TLS | request sent | wait for the first byte | body
//!                                                         network | hop 1 ...
//!                                                                   network | hop 2 ... | service
//! ```
//!
//! Each hop accounts for its own time in `Server-Timing`; hops are joined by subtracting durations (network = the wait of
//! the one less the total of the next). No two machines' clocks are compared.

mod account;
mod distribution;
mod draw;
mod html;
mod json;
mod tls;
mod wire;

pub use account::{Account, Kind, Part};
pub use distribution::{Cohort, Distribution, Gathered, Row};
pub use draw::Style;
pub use html::{distribution_page, page};
pub use json::{answer_json, distribution_json};
pub use wire::{Answer, Connection, Error, Segments};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::target::Origin;

/// The most requests of one distribution. Each leaves some 300 bytes: 30 MB.
pub const REQUESTS_MAX: u32 = 100_000;

/// What to ask, and how to get there.
#[derive(Clone, Debug)]
pub struct Plan {
    pub origin: Origin,
    /// The path with its query.
    pub path: String,
    pub method: String,
    /// Header fields, checked by [`field`]. They replace those of the same name that are sent by default.
    pub headers: Vec<(String, String)>,
    /// Default fields that are not to be sent, lower case.
    pub without: Vec<String>,
    pub body: Vec<u8>,
    /// A forward proxy: requests for `http` go to it in absolute form, those for `https` through CONNECT.
    pub proxy: Option<Origin>,
    /// Addresses that stand in for a name's own, by host and port.
    pub resolve: Vec<(String, u16, Vec<SocketAddr>)>,
    pub tls: Tls,
    /// The limit of one request, name lookup to last byte.
    pub time_max: Duration,
    /// All requests on one connection, as far as the server keeps it.
    pub keep_alive: bool,
}

/// What is trusted, and who we are.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Trust whoever answers.
    pub insecure: bool,
}

/// One request as text.
pub fn answer_text(title: &str, answer: &Answer, account: &Account, style: Style) -> String {
    draw::waterfall(title, answer, account, style)
}

/// Many requests as text. `failed`: reasons and how often.
pub fn distribution_text(title: &str, failed: &[(String, u64)], found: &Distribution, style: Style) -> String {
    draw::table(title, failed, found, style)
}

/// Reads `Name: value`. `Ok((name, None))` for `Name:`, which takes a default field away, as in curl.
pub fn field(text: &str) -> Result<(String, Option<String>), String> {
    let refuse = |why: &str| Err(format!("`{}` is not a header field: {why}", text.escape_debug()));
    let Some((name, value)) = text.split_once(':') else { return refuse("write it as `Name: value`") };
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return refuse("the name may hold letters, digits and - only");
    }
    let value = value.trim();
    if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        return refuse("the value has a control character in it");
    }
    let framing = ["connection", "transfer-encoding", "content-length"];
    if framing.iter().any(|owned| name.eq_ignore_ascii_case(owned)) {
        return refuse("the framing of the message is not yours to set");
    }
    Ok((name.to_owned(), (!value.is_empty()).then(|| value.to_owned())))
}

/// Reads curl's `HOST:PORT:ADDRESS[,ADDRESS]...`.
pub fn resolve(text: &str) -> Result<(String, u16, Vec<SocketAddr>), String> {
    let refuse = || format!("`{}` is not HOST:PORT:ADDRESS, such as user-service:80:127.0.0.1", text.escape_debug());
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(refuse)?,
        None => text.split_once(':').ok_or_else(refuse)?,
    };
    let (port, addresses) = rest.split_once(':').ok_or_else(refuse)?;
    let port: u16 = port.parse().map_err(|_| refuse())?;
    let address = |text: &str| {
        let text = text.trim().trim_start_matches('[').trim_end_matches(']');
        Ok::<_, String>(SocketAddr::new(text.parse().map_err(|_| refuse())?, port))
    };
    let addresses = addresses.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
    Ok((host.to_ascii_lowercase(), port, addresses))
}

/// Nanoseconds as milliseconds, with as many decimals as still mean something.
fn millis(ns: f64) -> String {
    match ns / 1e6 {
        ms if ms.abs() < 10.0 => format!("{ms:.3} ms"),
        ms if ms.abs() < 100.0 => format!("{ms:.2} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 { "-".to_owned() } else { format!("{:.1} %", part / whole * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_checked_before_they_are_sent() {
        assert_eq!(field("X-A: b c "), Ok(("X-A".into(), Some("b c".into()))));
        assert_eq!(field("Accept:"), Ok(("Accept".into(), None)));
        for wrong in ["x", ": a", "a b: c", "a: b\r\nc: d", "Content-Length: 5"] {
            assert!(field(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn curl_s_resolve_is_read() {
        let (host, port, addresses) = resolve("User-Service:80:127.0.0.1,[::1]").expect("an entry");
        assert_eq!((host.as_str(), port, addresses.len()), ("user-service", 80, 2));
        assert_eq!(addresses[1].to_string(), "[::1]:80");
        for wrong in ["a", "a:80", "a:x:127.0.0.1", "a:80:b"] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }
}
