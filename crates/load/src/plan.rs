//! What a run is: typed and checked. The engine takes only this; arguments, scripts and targets files are turned into it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::record::Answer;
use crate::source::Source;
use crate::summary::ErrorKind;
use crate::target::Origin;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where requests go. A request names its origin by its place here; at least one.
    pub origins: Vec<Origin>,
    pub source: Source,
    pub protocol: Protocol,
    pub load: Load,
    /// All connections together, over all threads; at least one for each thread. In an open loop the most that are opened,
    /// each when it is first needed; in a closed loop all are opened at once.
    pub connections: u32,
    /// Requests under way on one connection: HTTP/2 only, 1 otherwise.
    pub streams_per_connection: u32,
    /// False closes the connection after each response (`Connection: close`).
    pub keep_alive: bool,
    /// From the write of a request to the last byte of its response.
    pub timeout: Duration,
    /// TCP connect, proxy's CONNECT and TLS handshake together.
    pub connect_timeout: Duration,
    /// For origins with https; required when there is one.
    pub tls: Option<Tls>,
    pub proxy: Option<Proxy>,
    pub threads: u32,
    /// The same seed gives the same intended send times.
    pub seed: u64,
    /// Requests whose intended time lies in it are sent but not recorded.
    pub warm_up: Duration,
    /// What becomes of a run whose server is not there.
    pub unreachable: Unreachable,
    /// What is under way when no more requests are started is given up at once, and counts as stopped: wrk's way.
    pub cut_at_end: bool,
    pub capture: Capture,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// It does not begin: one sentence says more than a million counted errors.
    Refused,
    /// It goes on, and each request has failed: what hey and vegeta do.
    Counted,
}

/// The version of HTTP. No negotiation that changes it silently: a TLS server that does not take it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// Over TLS by ALPN; over plain TCP with prior knowledge (RFC 9113 section 3.3).
    Http2,
}

/// What is taken from responses beyond status and size. Nothing here costs anything when it is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// Ask for the mesh's ledger (request header `x-celerity-ledger: 1`, which the request source writes) and add up the
    /// categories of `Server-Timing`.
    pub ledger: bool,
    /// Count responses by this header's value, such as `x-served-by`; lower case.
    pub tally_header: Option<String>,
    /// Tell each request there.
    pub rows: Option<crate::habits::rows::Rows>,
    /// Shown each request as it ends.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Watches a run request by request, on the senders' threads: for a live view, not for fast runs. The warm-up is shown too.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// Its time has come.
    fn intended(&self, intended_ns: u64);
    /// An answer, with the value of the plan's `tally_header` (empty where there is none).
    fn answered(&self, answer: &Answer, tally: &str);
    /// No answer; `waited_ns` since its intended time.
    fn failed(&self, kind: ErrorKind, waited_ns: u64);
}

#[derive(Clone, Debug)]
pub enum Load {
    Open(Open),
    Closed(Closed),
}

/// Requests start when their time has come, whatever became of earlier ones. Latency counts from that time.
#[derive(Clone, Debug)]
pub struct Open {
    /// One after the other; the run's length is their sum.
    pub segments: Vec<Segment>,
    pub arrivals: Arrivals,
    pub when_full: WhenFull,
    /// Ends the schedule after so many requests, if it has not ended by then. Those of the plan's warm-up do not count.
    pub count: Option<u64>,
}

/// A piece of the schedule in which the rate changes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub from_per_second: f64,
    pub to_per_second: f64,
    pub duration: Duration,
}

impl Segment {
    pub fn hold(per_second: f64, duration: Duration) -> Self {
        Self { from_per_second: per_second, to_per_second: per_second, duration }
    }

    /// Requests that it asks for, on average.
    pub fn requests(&self) -> f64 {
        (self.from_per_second + self.to_per_second) / 2.0 * self.duration.as_secs_f64()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// Independent of each other, as those of many users are.
    Poisson,
    /// Groups of so many at the same instant, evenly spaced; at least 1.
    Burst(u32),
}

/// What happens to a request whose time has come when no connection is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits; the wait is part of its response time.
    Queue,
    /// It is counted as an error at once.
    Drop,
}

/// Each slot (a connection, or a stream of one) starts its next request when its last one has ended.
#[derive(Clone, Debug)]
pub struct Closed {
    pub duration: Option<Duration>,
    /// Requests altogether, without those of the plan's warm-up.
    pub count: Option<u64>,
    /// The most that one slot starts in a second; `None` is as many as it can.
    pub slot_per_second: Option<f64>,
}

/// TLS towards the origins.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates to trust, PEM; `None` is the system's.
    pub ca_pem: Option<Arc<[u8]>>,
    pub client: Option<ClientIdentity>,
    /// Another name than the URL's to ask for (SNI) and to check.
    pub server_name: Option<String>,
    /// Take any certificate.
    pub insecure: bool,
}

/// What the client shows of itself.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The chain, leaf first, PEM.
    pub cert_pem: Arc<[u8]>,
    pub key_pem: Arc<[u8]>,
}

impl std::fmt::Debug for ClientIdentity {
    // A private key does not belong in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity")
    }
}

/// A forward proxy: http origins by absolute-form requests (RFC 9112 section 3.2.2), https origins by CONNECT.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// Known addresses; empty asks the system's resolver.
    pub addresses: Vec<SocketAddr>,
}

/// More threads than this have no machine.
pub const THREADS_MAX: u32 = 256;
/// More is a slip of the hand: each takes a port, and there are 64 K of them to one address.
pub const CONNECTIONS_MAX: u32 = 1_000_000;
/// A longer run is a slip of the hand; it also keeps sums of times in nanoseconds from overflowing.
pub const LENGTH_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A rate above is a slip of the hand; it also keeps intended times apart in nanoseconds.
pub const RATE_PER_SECOND_MAX: f64 = 1e8;

impl Plan {
    /// A plan with everything at its default: one thread, 30 s timeout, HTTP/1.1 with keep-alive.
    pub fn new(origin: Origin, source: Source, load: Load) -> Self {
        Self {
            origins: vec![origin],
            source,
            protocol: Protocol::Http1,
            load,
            connections: 1,
            streams_per_connection: 1,
            keep_alive: true,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            tls: None,
            proxy: None,
            threads: 1,
            seed: 1,
            warm_up: Duration::ZERO,
            unreachable: Unreachable::Refused,
            cut_at_end: false,
            capture: Capture::default(),
        }
    }

    /// Finds what cannot be run before anything is opened.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Plan(why));
        if self.origins.is_empty() {
            return refuse("there is no target".into());
        }
        if let Source::Static(requests) = &self.source {
            if requests.is_empty() {
                return refuse("there is no request to send".into());
            }
            if let Some(request) = requests.iter().find(|r| r.origin as usize >= self.origins.len()) {
                return refuse(format!(
                    "a request names target {}, and there are {}",
                    request.origin,
                    self.origins.len()
                ));
            }
            for request in requests.iter() {
                request.check().map_err(Error::Plan)?;
            }
        }
        if self.threads == 0 || self.threads > THREADS_MAX {
            return refuse(format!("{} threads: there may be 1 to {THREADS_MAX}", self.threads));
        }
        if self.connections < self.threads || self.connections > CONNECTIONS_MAX {
            return refuse(format!(
                "{} connections for {} threads: each thread needs one, and there may be {CONNECTIONS_MAX}",
                self.connections, self.threads
            ));
        }
        match self.protocol {
            Protocol::Http1 if self.streams_per_connection != 1 => {
                return refuse("several streams on a connection need HTTP/2".into());
            }
            Protocol::Http2 if self.streams_per_connection == 0 => return refuse("a connection needs a stream".into()),
            Protocol::Http2 if !self.keep_alive => {
                return refuse("an HTTP/2 connection is kept: there is no close for each request".into());
            }
            _ => {}
        }
        if self.timeout.is_zero() || self.connect_timeout.is_zero() {
            return refuse("a timeout of 0 lets nothing succeed".into());
        }
        if self.tls.is_none() && self.origins.iter().any(|o| o.tls) {
            return refuse("an https target needs TLS settings".into());
        }
        self.load.check()?;
        // Before anything adds them up.
        let length = match &self.load {
            Load::Open(open) => open.segments.iter().fold(Duration::ZERO, |sum, s| sum.saturating_add(s.duration)),
            Load::Closed(closed) => closed.duration.unwrap_or_default(),
        };
        if length > LENGTH_MAX || self.warm_up > LENGTH_MAX {
            return refuse(format!("a run may take {} days at most", LENGTH_MAX.as_secs() / 86_400));
        }
        Ok(())
    }

    /// How long requests are started; `None` where only a count ends the run.
    pub fn duration(&self) -> Option<Duration> {
        match &self.load {
            Load::Open(open) => Some(open.segments.iter().map(|s| s.duration).sum()),
            Load::Closed(closed) => closed.duration,
        }
    }
}

impl Load {
    fn check(&self) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::Plan(why.to_owned()));
        match self {
            Self::Open(open) => {
                if open.segments.is_empty() || open.segments.iter().all(|s| s.duration.is_zero()) {
                    return refuse("a schedule needs a length");
                }
                let rate_ok = |rate: f64| rate.is_finite() && (0.0..=RATE_PER_SECOND_MAX).contains(&rate);
                if !open.segments.iter().all(|s| rate_ok(s.from_per_second) && rate_ok(s.to_per_second)) {
                    return refuse("a rate must be between 0 and 100000000 per second");
                }
                if open.segments.iter().all(|s| s.requests() == 0.0) {
                    return refuse("a rate of 0 sends nothing");
                }
                if open.arrivals == Arrivals::Burst(0) {
                    return refuse("a burst needs at least one request");
                }
            }
            Self::Closed(closed) => {
                if closed.duration.is_none() && closed.count.is_none() {
                    return refuse("a closed loop needs a duration or a count to end");
                }
                if closed.duration.is_some_and(|d| d.is_zero()) || closed.count == Some(0) {
                    return refuse("a run of length 0 sends nothing");
                }
                if closed.slot_per_second.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
                    return refuse("the rate of a connection must be above 0");
                }
            }
        }
        Ok(())
    }
}
