//! What `ab`, `capacity` and `baseline` have in common: how a request is made and sent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use celerity_load::Plan;
use celerity_load::plan::{Arrivals, Capture, Load, Open, Proxy, Segment, Tls, WhenFull};
use celerity_load::source::{Request, Source};
use celerity_load::target;
use celerity_telemetry::LEDGER_REQUEST_HEADER;

use crate::duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Client {
    /// A header of every request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,

    /// The most connections that are opened
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,

    /// A request without an answer for so long has failed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub(crate) timeout: Duration,

    /// Certificates to trust for https, PEM, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// Take any certificate
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,

    /// Forward proxy, such as a sidecar's outbound port: http://127.0.0.1:15001
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
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
    /// A plan for GET requests of this URL that asks for the ledger; its load is the experiment's to set.
    pub(crate) fn plan(&self, url: &str) -> anyhow::Result<Plan> {
        let (origin, path) = target::parse(url).map_err(anyhow::Error::msg)?;
        let mut request = Request::get(path);
        request.headers.clone_from(&self.headers);
        ask_for_ledger(&mut request);
        request.check().map_err(anyhow::Error::msg)?;
        let tls = if origin.tls { Some(self.tls()?) } else { None };
        Ok(Plan { tls, proxy: self.proxy()?, ..self.bare(Plan::new(origin, Source::single(request), any_load())) })
    }

    /// The same with the settings that do not hang on a URL.
    pub(crate) fn bare(&self, plan: Plan) -> Plan {
        let capture = Capture { ledger: true, ..Capture::default() };
        Plan { connections: self.connections, timeout: self.timeout, capture, ..plan }
    }

    fn tls(&self) -> anyhow::Result<Tls> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let ca_pem = self.cacert.as_ref().map(read).transpose()?.map(Into::into);
        Ok(Tls { ca_pem, insecure: self.insecure, ..Tls::default() })
    }

    fn proxy(&self) -> anyhow::Result<Option<Proxy>> {
        let Some(url) = &self.proxy else { return Ok(None) };
        let (origin, _) = target::parse(url).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(!origin.tls, "a forward proxy is reached over http: `{url}` is not");
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

    #[test]
    fn arguments_are_read_as_people_write_them() {
        assert_eq!(header("Host: user-service"), Ok(("Host".into(), "user-service".into())));
        assert!(header("Host").is_err() && header(": x").is_err());
        assert_eq!((percent("5%"), rate("200/s")), (Ok(0.05), Ok(200.0)));
        assert!(percent("0").is_err() && rate("0").is_err() && rate("nan").is_err());
    }
}
