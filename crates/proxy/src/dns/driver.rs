use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use celerity_model::snapshot::DnsFamily;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::plan::{Answer, Name, Plan, Table, Wanted};

/// For one query to one resolver. With the retry below, a dead resolver is given up within 4 s.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Queries to the same resolver before it counts as failed: UDP loses packets.
const QUERY_ATTEMPTS: usize = 2;

/// Over all resolvers and retries of one name. A query may take no longer, whatever the resolvers do.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A resolver's address (`udp://8.8.8.8:53`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// TCP only. Otherwise UDP, and TCP where an answer was cut off.
    pub tcp: bool,
}

impl From<celerity_model::istio::Resolver> for NameServer {
    fn from(resolver: celerity_model::istio::Resolver) -> Self {
        let tcp = resolver.transport == celerity_model::istio::ResolverTransport::Tcp;
        Self { address: resolver.address, tcp }
    }
}

/// There is nobody to ask.
#[derive(Debug, thiserror::Error)]
#[error("DNS cannot be used: {0}; name resolvers in dns_resolution_config, such as udp://10.0.0.10:53")]
pub struct ResolverError(String);

/// Asks resolvers for the names that clusters need.
pub struct Resolver {
    by_family: [TokioResolver; 5],
}

const FAMILIES: [DnsFamily; 5] =
    [DnsFamily::Auto, DnsFamily::V4Only, DnsFamily::V6Only, DnsFamily::V4Preferred, DnsFamily::All];

impl Resolver {
    /// With these resolvers, or with those of `/etc/resolv.conf` when the list is empty.
    ///
    /// # Errors
    /// The list is empty and `/etc/resolv.conf` is of no use.
    pub fn new(servers: &[NameServer]) -> Result<Self, ResolverError> {
        let text = |error: &dyn std::fmt::Display| ResolverError(error.to_string());
        let (config, system) = if servers.is_empty() {
            hickory_resolver::system_conf::read_system_conf().map_err(|e| text(&e))?
        } else {
            let servers = servers.iter().copied().map(name_server).collect();
            (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
        };
        let one = |family| {
            let mut options = system.clone();
            options.ip_strategy = strategy(family);
            options.timeout = QUERY_TIMEOUT;
            options.attempts = QUERY_ATTEMPTS;
            // The plan is the cache. A second one behind it would answer with its own idea of freshness.
            options.cache_size = 0;
            TokioResolver::builder_with_config(config.clone(), TokioRuntimeProvider::default())
                .with_options(options)
                .build()
                .map_err(|e| text(&e))
        };
        let [a, b, c, d, e] = FAMILIES;
        Ok(Self { by_family: [one(a)?, one(b)?, one(c)?, one(d)?, one(e)?] })
    }

    /// Follows `wanted` and publishes a table whenever something changed. On the control runtime; ends when the sender of
    /// `wanted` is gone. `jitter` gives numbers in 0..1; `heard` is told of every answer. What `publish` holds already is
    /// where it begins.
    pub async fn run(
        self,
        mut wanted: watch::Receiver<Vec<Wanted>>,
        publish: watch::Sender<Arc<Table>>,
        mut jitter: impl FnMut() -> f64,
        mut heard: impl FnMut(&Name, &Answer),
    ) {
        let mut plan = Plan::remembering(&publish.borrow());
        let mut asking: JoinSet<(Name, Answer)> = JoinSet::new();
        let first = wanted.borrow_and_update().clone();
        plan.want(first, Instant::now());
        publish.send_replace(Arc::new(plan.table()));
        loop {
            for question in plan.due(Instant::now()) {
                let resolver = self.of(question.0.family.into()).clone();
                asking.spawn(async move {
                    let answer = ask(&resolver, &question.0).await;
                    (question.0, answer)
                });
            }
            let wake = plan.next_wake();
            let publish_now = tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now_wanted = wanted.borrow_and_update().clone();
                    plan.want(now_wanted, Instant::now())
                }
                Some(done) = asking.join_next(), if !asking.is_empty() => match done {
                    // The table shows age and errors too, so every answer is news for the admin port.
                    Ok((name, answer)) => {
                        heard(&name, &answer);
                        plan.answered(&name, answer, Instant::now(), jitter());
                        true
                    }
                    Err(_) => false,
                },
                () = sleep_until(wake) => false,
            };
            if publish_now {
                publish.send_replace(Arc::new(plan.table()));
            }
        }
    }

    fn of(&self, family: DnsFamily) -> &TokioResolver {
        let [auto, v4_only, v6_only, v4_preferred, all] = &self.by_family;
        match family {
            DnsFamily::Auto => auto,
            DnsFamily::V4Only => v4_only,
            DnsFamily::V6Only => v6_only,
            DnsFamily::V4Preferred => v4_preferred,
            DnsFamily::All => all,
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn ask(resolver: &TokioResolver, name: &Name) -> Answer {
    match tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(&*name.host)).await {
        Err(_) => Answer::Failed(format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs())),
        Ok(Ok(found)) => {
            let ttl = found.valid_until().saturating_duration_since(Instant::now());
            let addresses: Vec<IpAddr> = found.iter().collect();
            Answer::Addresses(addresses, ttl)
        }
        Ok(Err(error)) if error.is_nx_domain() || error.is_no_records_found() => Answer::NoSuchName,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
    }
}

fn name_server(server: NameServer) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.address.port();
        connection
    };
    let connections = if server.tcp {
        vec![connection(ProtocolConfig::Tcp)]
    } else {
        vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)]
    };
    NameServerConfig::new(server.address.ip(), true, connections)
}

fn strategy(family: DnsFamily) -> LookupIpStrategy {
    match family {
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Mutex;

    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;

    use super::*;

    /// What the scripted server does with the next queries.
    #[derive(Clone)]
    enum Script {
        Addresses(Vec<IpAddr>, u32),
        Code(ResponseCode),
    }

    struct Server {
        address: SocketAddr,
        script: Arc<Mutex<Script>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Server {
        async fn start(script: Script) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let script = Arc::new(Mutex::new(script));
            let shared = Arc::clone(&script);
            let task = tokio::spawn(async move {
                let mut buffer = [0; 1500];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
                    let script = shared.lock().unwrap().clone();
                    let _ = socket.send_to(&answer(query, &script), from).await;
                }
            });
            Self { address, script, task }
        }

        fn now(&self, script: Script) {
            *self.script.lock().unwrap() = script;
        }

        fn resolver(&self) -> Resolver {
            Resolver::new(&[NameServer { address: self.address, tcp: false }]).unwrap()
        }
    }

    fn answer(query: Message, script: &Script) -> Vec<u8> {
        let question = query.queries.first().unwrap().clone();
        let mut reply = query.into_response();
        match script {
            Script::Code(code) => reply.metadata.response_code = *code,
            Script::Addresses(addresses, ttl) => {
                for address in addresses {
                    let data = match (address, question.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => RData::A((*v4).into()),
                        (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA((*v6).into()),
                        _ => continue,
                    };
                    reply.add_answer(Record::from_rdata(question.name().clone(), *ttl, data));
                }
            }
        }
        reply.to_vec().unwrap()
    }

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn lookup(server: &Server, family: DnsFamily) -> Answer {
        let resolver = server.resolver();
        ask(resolver.of(family), &Name::new("users.example.test", family)).await
    }

    #[tokio::test]
    async fn families_are_asked_for_as_configured() {
        let server = Server::start(Script::Addresses(vec![V4, V6], 60)).await;
        let addresses = async |family| match lookup(&server, family).await {
            Answer::Addresses(mut found, ttl) => {
                assert!(ttl <= Duration::from_secs(60));
                found.sort();
                found
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(addresses(DnsFamily::V4Only).await, [V4]);
        assert_eq!(addresses(DnsFamily::V6Only).await, [V6]);
        assert_eq!(addresses(DnsFamily::Auto).await, [V6]);
        assert_eq!(addresses(DnsFamily::V4Preferred).await, [V4]);
        assert_eq!(addresses(DnsFamily::All).await, [V4, V6]);
    }

    #[tokio::test]
    async fn denials_and_failures_are_told_apart() {
        let server = Server::start(Script::Code(ResponseCode::NXDomain)).await;
        assert_eq!(lookup(&server, DnsFamily::V4Only).await, Answer::NoSuchName);
        server.now(Script::Addresses(Vec::new(), 1));
        assert_eq!(lookup(&server, DnsFamily::V4Only).await, Answer::NoSuchName);
        server.now(Script::Code(ResponseCode::ServFail));
        assert!(matches!(lookup(&server, DnsFamily::V4Only).await, Answer::Failed(_)));
    }

    #[tokio::test]
    async fn the_table_follows_the_resolver_and_outlives_its_failure() {
        let server = Server::start(Script::Addresses(vec![V4], 0)).await;
        let name = Name::new("users.example.test", DnsFamily::V4Only);
        let want = Wanted { name: name.clone(), refresh_rate: Duration::from_secs(1), respect_ttl: false };
        let (wanted, follow) = watch::channel(vec![want]);
        let (publish, mut tables) = watch::channel(Arc::new(Table::default()));
        let running = tokio::spawn(server.resolver().run(follow, publish, || 1.0, |_, _| ()));
        let mut until = async |what: &dyn Fn(&Table) -> bool| {
            let found = tables.wait_for(|table| what(table));
            let table = tokio::time::timeout(PATIENCE, found).await.unwrap().unwrap();
            table.addresses("users.example.test", DnsFamily::V4Only, 80)
        };
        assert_eq!(until(&|t| t.get(&name).is_some_and(|n| !n.addresses.is_empty())).await, [SocketAddr::new(V4, 80)]);
        server.now(Script::Code(ResponseCode::ServFail));
        assert_eq!(until(&|t| t.get(&name).is_some_and(|n| n.failures > 0)).await, [SocketAddr::new(V4, 80)]);
        let moved: IpAddr = [10, 9, 9, 9].into();
        server.now(Script::Addresses(vec![moved], 0));
        assert_eq!(until(&|t| t.get(&name).is_some_and(|n| n.failures == 0)).await, [SocketAddr::new(moved, 80)]);
        drop(wanted);
        tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    }
}
