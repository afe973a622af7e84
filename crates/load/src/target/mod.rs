//! Where requests go: URLs, and what a run has to know of a server.

pub mod list;

use std::net::SocketAddr;

/// A server: scheme, host and port (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Where to connect instead of asking the resolver for `host`; empty asks.
    pub addresses: Vec<SocketAddr>,
}

impl Origin {
    /// The value of `Host` and `:authority`: the default port is left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

/// Reads `http://host[:port]/path?query`. A URL without a scheme is http. Returns the origin and the path with its query.
pub fn parse(url: &str) -> Result<(Origin, String), String> {
    let refuse = |why: &str| Err(format!("`{}` is not a URL that can be loaded: {why}", url.escape_debug()));
    let url_text = url.trim();
    if url_text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return refuse("it has a space or a control character in it");
    }
    let (tls, rest) = match url_text.split_once("://") {
        None => (false, url_text),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return refuse("the scheme must be http or https"),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    if authority.contains('@') {
        return refuse("user and password go into an Authorization header");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, after)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                (host, after.strip_prefix(':').or(after.is_empty().then_some("")))
            }
            _ => return refuse("the IPv6 address in brackets is malformed"),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    if host.is_empty() {
        return refuse("it has no host");
    }
    let port = match port {
        Some("") => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return refuse("the port must be a number from 1 to 65535"),
        },
        None => return refuse("after the host comes a port or a path"),
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((Origin { tls, host: host.to_owned(), port, addresses: Vec::new() }, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let (origin, path) = parse("http://user-service/api/users?x=1#top").expect("a URL");
        assert_eq!((origin.authority().as_str(), origin.port, path.as_str()), ("user-service", 80, "/api/users?x=1"));
        let (origin, path) = parse("HTTPS://[::1]:8443").expect("a URL");
        assert_eq!((origin.authority().as_str(), origin.host.as_str(), path.as_str()), ("[::1]:8443", "::1", "/"));
        let (origin, path) = parse("localhost:8080?q").expect("a URL");
        assert_eq!((origin.tls, origin.port, path.as_str()), (false, 8080, "/?q"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, why) in [
            ("ftp://a/", "scheme"),
            ("http:///x", "no host"),
            ("http://a:0/", "port"),
            ("http://a:99999/", "port"),
            ("http://u:p@a/", "Authorization"),
            ("http://[::1/", "brackets"),
            ("http://[::1]x/", "port or a path"),
            ("http://a b/", "space"),
        ] {
            let error = parse(url).expect_err(url);
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
