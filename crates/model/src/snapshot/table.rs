//! A route configuration: from an authority to its virtual host.

use std::borrow::Cow;
use std::sync::Arc;

use super::index::{HashedMap, hash};
use super::mutation::HeaderMutations;
use super::route::VirtualHost;

pub struct RouteTable {
    pub name: Box<str>,
    pub hosts: Box<[Arc<VirtualHost>]>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// The table's mutations act first and the route's last, so that the most specific wins.
    pub most_specific_mutation_wins: bool,
    /// The port of an authority does not count.
    pub ignore_port: bool,
    exact: HashedMap<DomainAt>,
    /// `*.example.com`, keyed by what follows the star.
    suffix: HashedMap<DomainAt>,
    /// `example.*`, keyed by what stands before the star.
    prefix: HashedMap<DomainAt>,
    /// Descending: the longest wins.
    suffix_lengths: Box<[u16]>,
    prefix_lengths: Box<[u16]>,
    any: Option<u32>,
}

/// The name only: thousands of virtual hosts help nobody in a log line.
impl std::fmt::Debug for RouteTable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RouteTable").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct DomainAt {
    host: u32,
    domain: u32,
}

/// Two virtual hosts have the same domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateDomain {
    pub domain: Box<str>,
    pub first: Box<str>,
    pub second: Box<str>,
}

/// Authorities up to this length are lowered without an allocation. A DNS name has at most 253 octets.
const AUTHORITY_INLINE: usize = 264;

impl RouteTable {
    /// # Errors
    /// Every domain that stands in two virtual hosts: which of them should answer could not be said.
    pub fn new(name: &str, hosts: Vec<Arc<VirtualHost>>, ignore_port: bool) -> Result<Self, Vec<DuplicateDomain>> {
        let mut table = Self {
            name: name.into(),
            hosts: hosts.into(),
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            most_specific_mutation_wins: false,
            ignore_port,
            exact: HashedMap::default(),
            suffix: HashedMap::default(),
            prefix: HashedMap::default(),
            suffix_lengths: Box::default(),
            prefix_lengths: Box::default(),
            any: None,
        };
        let domains: usize = table.hosts.iter().map(|host| host.domains.len()).sum();
        table.exact.reserve(domains);
        let (mut suffixes, mut prefixes, mut duplicates) = (Vec::new(), Vec::new(), Vec::new());
        for (at, host) in table.hosts.iter().enumerate() {
            for (domain_at, domain) in host.domains.iter().enumerate() {
                let entry = DomainAt { host: at as u32, domain: domain_at as u32 };
                let earlier = if domain.as_ref() == "*" {
                    table.any.replace(entry.host)
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    suffixes.push(suffix.len().min(usize::from(u16::MAX)) as u16);
                    table.suffix.insert(hash(suffix.as_bytes()), entry).map(|earlier| earlier.host)
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    prefixes.push(prefix.len().min(usize::from(u16::MAX)) as u16);
                    table.prefix.insert(hash(prefix.as_bytes()), entry).map(|earlier| earlier.host)
                } else {
                    table.exact.insert(hash(domain.as_bytes()), entry).map(|earlier| earlier.host)
                };
                if let Some(earlier) = earlier.and_then(|earlier| table.hosts.get(earlier as usize)) {
                    duplicates.push(DuplicateDomain {
                        domain: domain.clone(),
                        first: earlier.name.clone(),
                        second: host.name.clone(),
                    });
                }
            }
        }
        if !duplicates.is_empty() {
            return Err(duplicates);
        }
        table.suffix_lengths = longest_first(suffixes);
        table.prefix_lengths = longest_first(prefixes);
        Ok(table)
    }

    /// The virtual host of an authority: the exact domain, else the longest `*suffix`, else the longest `prefix*`, else
    /// `*` (Envoy `RouteMatcher::findVirtualHost`). Costs one hash, and one per distinct length of wildcards. A name that
    /// ends in a dot and is nobody's is looked for without it.
    pub fn lookup(&self, authority: &[u8]) -> Option<&Arc<VirtualHost>> {
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        if self.exact.is_empty() && self.suffix.is_empty() && self.prefix.is_empty() {
            return self.any.and_then(|at| self.hosts.get(at as usize));
        }
        let mut buffer = [0; AUTHORITY_INLINE];
        let lowered: Cow<'_, [u8]> = match buffer.get_mut(..authority.len()) {
            Some(short) => {
                short.copy_from_slice(authority);
                short.make_ascii_lowercase();
                Cow::Borrowed(short)
            }
            None => Cow::Owned(authority.to_ascii_lowercase()),
        };
        let name = lowered.as_ref();
        self.named(name)
            .or_else(|| self.named(&without_dot(name)?))
            .or_else(|| self.any.and_then(|at| self.hosts.get(at as usize)))
    }

    /// The virtual host of a lower-case name, `*` aside.
    fn named(&self, name: &[u8]) -> Option<&Arc<VirtualHost>> {
        self.probe(&self.exact, name, |domain| domain.as_bytes() == name)
            .or_else(|| {
                self.suffix_lengths.iter().find_map(|&length| {
                    let at = name.len().checked_sub(usize::from(length)).filter(|&at| at > 0)?;
                    let tail = name.get(at..)?;
                    self.probe(&self.suffix, tail, |domain| domain.as_bytes().get(1..) == Some(tail))
                })
            })
            .or_else(|| {
                self.prefix_lengths.iter().find_map(|&length| {
                    let head = name.get(..usize::from(length)).filter(|head| head.len() < name.len())?;
                    self.probe(&self.prefix, head, |domain| domain.strip_suffix('*').map(str::as_bytes) == Some(head))
                })
            })
    }

    fn probe(&self, map: &HashedMap<DomainAt>, key: &[u8], is_it: impl Fn(&str) -> bool) -> Option<&Arc<VirtualHost>> {
        let at = map.get(&hash(key))?;
        let host = self.hosts.get(at.host as usize)?;
        host.domains.get(at.domain as usize).is_some_and(|domain| is_it(domain)).then_some(host)
    }
}

fn longest_first(mut lengths: Vec<u16>) -> Box<[u16]> {
    lengths.sort_unstable_by(|left, right| right.cmp(left));
    lengths.dedup();
    lengths.into()
}

/// `a.example.com.:80` without the dot that ends an absolute name (RFC 1034, 3.1): the same host. Istio gives each service a
/// second domain for it; looked up so, it costs only the requests that write it.
fn without_dot(authority: &[u8]) -> Option<Vec<u8>> {
    let host = without_port(authority);
    let mut name = host.strip_suffix(b".").filter(|name| !name.is_empty())?.to_vec();
    name.extend_from_slice(authority.get(host.len()..)?);
    Some(name)
}

/// The host of an authority; a colon inside of `[...]` is part of an address.
pub fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|&byte| byte == b':') {
        Some(at) if authority.get(at + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            authority.get(..at).unwrap_or(authority)
        }
        _ => authority,
    }
}
