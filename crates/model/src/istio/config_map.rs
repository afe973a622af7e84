//! ConfigMap: settings of the resolver (`dns.yaml`) and of the proxy (`config.yaml`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::record::{choice, record};
use super::scalar;

/// A v1 ConfigMap. The keys `dns.yaml` and `config.yaml` are read; others are data without effect on the mesh.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConfigMap {
    /// All keys, as text.
    pub data: BTreeMap<String, String>,
    /// From `dns.yaml`.
    pub dns: Option<DnsSettings>,
    /// From `config.yaml`, under `proxy`.
    pub proxy: Option<ProxySettings>,
}

record! {
    /// How names are resolved.
    pub struct DnsSettings {
        /// How long an answer is used before it is asked for again.
        refresh_rate: Option<Duration> = "dns_refresh_rate" [min_1ms];
        lookup_family: Option<DnsLookupFamily> = "dns_lookup_family";
        resolution: Option<DnsResolution> = "dns_resolution_config";
    }
}

impl DnsSettings {
    /// Servers to ask, in order; empty: the system's.
    pub fn resolvers(&self) -> &[Resolver] {
        self.resolution.as_ref().map_or(&[], |r| &r.resolvers)
    }

    /// `self` stands; what it leaves unset comes from `earlier`.
    pub fn over(self, earlier: Self) -> Self {
        Self {
            refresh_rate: self.refresh_rate.or(earlier.refresh_rate),
            lookup_family: self.lookup_family.or(earlier.lookup_family),
            resolution: self.resolution.or(earlier.resolution),
        }
    }
}

choice! {
    /// Which addresses of a name are used.
    pub enum DnsLookupFamily {
        /// IPv6, and IPv4 when there is none.
        Auto = "AUTO",
        V4Only = "V4_ONLY",
        V6Only = "V6_ONLY",
        V4Preferred = "V4_PREFERRED",
        All = "ALL",
    }
}

record! {
    /// Where names are resolved.
    pub struct DnsResolution {
        resolvers: Vec<Resolver> = "resolvers";
    }
}

/// A DNS server, `udp://ADDRESS:PORT` or `tcp://ADDRESS:PORT`; the port may be absent (53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver {
    pub transport: ResolverTransport,
    pub address: SocketAddr,
}

/// How a DNS server is asked first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResolverTransport {
    #[default]
    Udp,
    Tcp,
}

record! {
    /// What `config.yaml` holds.
    pub struct ProxyConfigFile {
        proxy: Option<ProxySettings> = "proxy";
    }
}

record! {
    /// Size of the proxy.
    pub struct ProxySettings {
        /// Worker threads. 0 or unset: as many as the CPU quota has cores.
        concurrency: Option<u32> = "concurrency" [workers];
        resources: Option<Resources> = "resources";
        envoy_stats_config: Option<StatsConfig> = "envoy_stats_config";
        /// `ISTIO_META_IDLE_TIMEOUT` acts; others are kept for EnvoyFilter matches.
        proxy_metadata: BTreeMap<String, String> = "proxyMetadata";
        thread_pool: Option<ThreadPool> = "thread_pool";
    }
}

/// The key of `proxyMetadata` that sets the idle timeout of downstream connections.
pub const IDLE_TIMEOUT_KEY: &str = "ISTIO_META_IDLE_TIMEOUT";

impl ProxySettings {
    /// Idle timeout of downstream connections, from `proxyMetadata`.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.proxy_metadata.get(IDLE_TIMEOUT_KEY).and_then(|text| scalar::duration(text).ok())
    }

    /// `self` stands; what it leaves unset comes from `earlier`.
    pub fn over(self, earlier: Self) -> Self {
        let mut proxy_metadata = earlier.proxy_metadata;
        proxy_metadata.extend(self.proxy_metadata);
        Self {
            concurrency: self.concurrency.or(earlier.concurrency),
            resources: self.resources.or(earlier.resources),
            envoy_stats_config: self.envoy_stats_config.or(earlier.envoy_stats_config),
            proxy_metadata,
            thread_pool: self.thread_pool.or(earlier.thread_pool),
        }
    }
}

record! {
    /// What the proxy may use, as in a Pod.
    pub struct Resources {
        /// What Kubernetes sets aside; a running process has nothing to do with it.
        requests: Option<ResourceList> = "requests", idle;
        limits: Option<ResourceList> = "limits";
    }
}

record! {
    /// CPU and memory.
    pub struct ResourceList {
        cpu: Option<CpuQuantity> = "cpu";
        memory: Option<MemoryQuantity> = "memory";
    }
}

/// CPU time in thousandths of a core: `500m` is 500, `2` is 2000.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuQuantity {
    pub millicores: u64,
}

/// Memory in bytes: `1Gi` is 1073741824.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryQuantity {
    pub bytes: u64,
}

record! {
    /// Which labels statistics carry.
    pub struct StatsConfig {
        /// Default true; false leaves out the labels that are not needed to tell services apart.
        use_all_default_tags: Option<bool> = "use_all_default_tags";
    }
}

record! {
    /// The bounded pool for work that blocks (files, name lookups by the system).
    pub struct ThreadPool checked check_thread_pool {
        /// Threads that are always there.
        core_size: Option<u32> = "core_size" [threads];
        /// Most threads.
        max_size: Option<u32> = "max_size" [threads];
        /// Jobs that may wait; more are refused.
        queue_size: Option<u32> = "queue_size" [queue];
    }
}
