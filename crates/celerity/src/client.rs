//! What `ab`, `capacity` and `baseline` have in common: how a request is made and sent. The flags are those of `load`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use celerity_load::Plan;
use celerity_load::plan::{Arrivals, Capture, ClientIdentity, Load, Open, Protocol, Proxy, Segment, Tls, WhenFull};
use celerity_load::source::{Request, Source};
use celerity_load::target;
use celerity_telemetry::LEDGER_REQUEST_HEADER;

use crate::duration;

/// All that is known of a request and of how it goes out.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Client {
    #[command(flatten)]
    pub(crate) message: Message,

    #[command(flatten)]
    pub(crate) way: Way,
}

/// What shapes the load: two measurements that differ in it measure different things.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Message {
    /// Request method [GET, or POST with a body]
    #[arg(short, long, value_name = "METHOD")]
    pub(crate) method: Option<String>,

    /// Request body, or @FILE to read it from a file
    #[arg(short, long, value_name = "TEXT|@FILE")]
    pub(crate) data: Option<String>,

    /// HTTP/2: by ALPN over TLS, by prior knowledge over plain TCP
    #[arg(long)]
    pub(crate) http2: bool,

    /// Requests under way on one connection: HTTP/2 only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) streams: u32,

    /// Close each connection after one response
    #[arg(long)]
    pub(crate) no_keepalive: bool,

    /// The most connections that are opened
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,

    /// A request without an answer for so long has failed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,

    /// Longest wait for TCP, proxy and TLS of a connection
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub(crate) connect_timeout: Duration,

    /// Sender threads [half the CPUs, at most one for each connection]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,
}

/// How the service is reached, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Way {
    /// A header of every request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,

    /// Forward proxy, such as a sidecar's outbound port: http://127.0.0.1:15001
    #[arg(short = 'x', long, value_name = "URL")]
    pub(crate) proxy: Option<String>,

    /// Certificates to trust for https, PEM, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// Client certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// The client certificate's key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,

    /// Take any server certificate
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,

    /// Name to ask for and to check in the server's certificate, instead of the URL's
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
}

/// Rates above are a slip of the hand.
pub(crate) const RATE_PER_SECOND_MAX: f64 = 1e6;

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.trim_end_matches("/s").parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= RATE_PER_SECOND_MAX => Ok(rate),
        _ => Err(format!("`{text}` is not a rate: write requests per second, above 0 and up to {RATE_PER_SECOND_MAX}")),
    }
}

/// `5%` or `5`, as a share.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim_end().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is not a margin: write percent, above 0 and up to 100, such as 5%")),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{text}` is not a header: write NAME: VALUE")),
    }
}

impl Client {
    /// A plan for requests of this URL that ask for the ledger; its load is the experiment's to set.
    pub(crate) fn plan(&self, url: &str) -> anyhow::Result<Plan> {
        let (origin, path) = target::parse(url).map_err(anyhow::Error::msg)?;
        let message = &self.message;
        let body = message.body()?;
        let default = if message.data.is_some() { "POST" } else { "GET" };
        let mut request = Request {
            method: message.method.clone().unwrap_or_else(|| default.to_owned()),
            headers: self.way.headers.clone(),
            body,
            ..Request::get(path)
        };
        ask_for_ledger(&mut request);
        let tls = self.way.tls(origin.tls)?;
        let proxy = self.way.proxy()?;
        // The engine would say so too, but only when the experiment is under way.
        let through = message.http2 && proxy.is_some() && !origin.tls;
        anyhow::ensure!(!through, "a forward proxy takes http targets over HTTP/1.1 only: use https, or no --proxy");
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let plan = Plan {
            protocol: if message.http2 { Protocol::Http2 } else { Protocol::Http1 },
            connections: message.connections,
            streams_per_connection: message.streams,
            keep_alive: !message.no_keepalive,
            timeout: message.timeout,
            connect_timeout: message.connect_timeout,
            threads: message.threads.unwrap_or((cpus / 2).clamp(1, message.connections)),
            capture: Capture { ledger: true, ..Capture::default() },
            tls,
            proxy,
            ..Plan::new(origin, Source::single(request), any_load())
        };
        plan.check()?;
        Ok(plan)
    }
}

impl Message {
    fn body(&self) -> anyhow::Result<Arc<[u8]>> {
        let Some(data) = &self.data else { return Ok(Arc::from([])) };
        match data.strip_prefix('@') {
            Some(file) => {
                Ok(std::fs::read(file).with_context(|| format!("the body's file {file} cannot be read"))?.into())
            }
            None => Ok(data.as_bytes().into()),
        }
    }
}

impl Way {
    fn tls(&self, wanted: bool) -> anyhow::Result<Option<Tls>> {
        let given = self.cacert.is_some() || self.cert.is_some() || self.insecure || self.server_name.is_some();
        if !wanted {
            anyhow::ensure!(!given, "--cacert, --cert, -k and --server-name are for https targets, and there is none");
            return Ok(None);
        }
        let read = |file: &PathBuf| -> anyhow::Result<Arc<[u8]>> {
            Ok(std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?.into())
        };
        let client = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(ClientIdentity { cert_pem: read(cert)?, key_pem: read(key)? }),
            _ => None,
        };
        Ok(Some(Tls {
            ca_pem: self.cacert.as_ref().map(read).transpose()?,
            client,
            server_name: self.server_name.clone(),
            insecure: self.insecure,
        }))
    }

    fn proxy(&self) -> anyhow::Result<Option<Proxy>> {
        let Some(url) = &self.proxy else { return Ok(None) };
        let (origin, path) = target::parse(url).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(!origin.tls && path == "/", "`{url}` is not a proxy: write http://HOST:PORT");
        Ok(Some(Proxy { host: origin.host, port: origin.port, addresses: Vec::new() }))
    }
}

pub(crate) fn ask_for_ledger(request: &mut Request) {
    if request.header(LEDGER_REQUEST_HEADER).is_none() {
        request.headers.push((LEDGER_REQUEST_HEADER.to_owned(), "1".to_owned()));
    }
}

/// A place holder: every experiment sets the load of each of its runs.
pub(crate) fn any_load() -> Load {
    Load::Open(Open {
        segments: vec![Segment::hold(1.0, Duration::from_secs(1))],
        arrivals: Arrivals::Poisson,
        when_full: WhenFull::Queue,
        count: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        client: Client,
    }

    fn planned(line: &str, url: &str) -> anyhow::Result<Plan> {
        let line = <Line as clap::Parser>::try_parse_from(std::iter::once("ab").chain(line.split_whitespace()))?;
        line.client.plan(url)
    }

    #[test]
    fn arguments_are_read_as_people_write_them() {
        assert_eq!(header("Host: user-service"), Ok(("Host".into(), "user-service".into())));
        assert!(header("Host").is_err() && header(": x").is_err());
        assert_eq!((percent("5%"), rate("200/s")), (Ok(0.05), Ok(200.0)));
        assert!(percent("0").is_err() && rate("0").is_err() && rate("nan").is_err());
    }

    #[test]
    fn requests_are_made_as_load_makes_them() {
        let line = "-d {} -H x-a:1 --http2 --streams 4 --connections 8 --threads 2 --connect-timeout 1s";
        let plan = planned(line, "http://a/x").expect("a plan");
        let Source::Static(requests) = &plan.source else { panic!("static") };
        assert_eq!((requests[0].method.as_str(), &*requests[0].body), ("POST", &b"{}"[..]));
        assert_eq!((requests[0].header("x-a"), requests[0].header("x-celerity-ledger")), (Some("1"), Some("1")));
        assert_eq!((plan.protocol, plan.streams_per_connection, plan.connections), (Protocol::Http2, 4, 8));
        assert_eq!((plan.threads, plan.connect_timeout), (2, Duration::from_secs(1)));
        assert!(planned("-k", "https://a/").expect("a plan").tls.is_some_and(|tls| tls.insecure));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (line, why) in [
            ("--streams 4", "HTTP/2"),
            ("-k", "https targets"),
            ("--server-name x", "https targets"),
            ("--threads 2 --connections 1", "each thread needs one"),
            ("-x https://b", "not a proxy"),
            ("-x http://b/path", "not a proxy"),
            ("-x http://b --http2", "over HTTP/1.1 only"),
            ("-d @/nowhere", "cannot be read"),
            ("--http2 --no-keepalive", "HTTP/2"),
        ] {
            let error = planned(line, "http://a/").expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
