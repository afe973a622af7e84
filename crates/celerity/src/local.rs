//! Which addresses are this machine's own.
//!
//! A configuration may name tens of thousands of endpoints, and each must be looked at to find those that this sidecar
//! stands before: asking the kernel about one at a time costs three system calls each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// What the kernel routes to itself, read once.
pub(crate) struct LocalAddresses {
    /// Network and mask; 127.0.0.0/8 is local as a whole. `None`: the kernel does not tell.
    v4: Option<Vec<(u32, u32)>>,
    v6: Option<Vec<Ipv6Addr>>,
}

impl LocalAddresses {
    pub(crate) fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            v4: file("/proc/net/fib_trie").map(|text| networks(&text)),
            v6: file("/proc/net/if_inet6").map(|text| addresses(&text)),
        }
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match (ip, &self.v4, &self.v6) {
            (IpAddr::V4(ip), Some(networks), _) => {
                networks.iter().any(|(network, mask)| u32::from(ip) & mask == *network)
            }
            (IpAddr::V6(ip), _, Some(addresses)) => addresses.contains(&ip),
            // Only an address of this machine can be bound; asking needs no privilege.
            _ => UdpSocket::bind((ip, 0)).is_ok(),
        }
    }
}

/// The local routes of `/proc/net/fib_trie`: a line with an address, then one for each route of it. Only of the tables that
/// say what is this machine's own: a table of policy routing (as transparent proxying needs one) may call everything local.
fn networks(text: &str) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    let mut address = None;
    let mut own = false;
    for line in text.lines() {
        if let Some(table) = line.strip_suffix(':').filter(|table| !table.starts_with(' ')) {
            own = matches!(table, "Main" | "Local");
        }
        if !own {
            continue;
        }
        let line = line.trim();
        if let Some(text) = line.strip_prefix("|-- ") {
            address = text.parse::<Ipv4Addr>().ok();
        } else if let Some(length) = line.strip_prefix('/').and_then(|rest| rest.strip_suffix(" host LOCAL"))
            && let (Some(address), Ok(length @ 0..=32)) = (address, length.parse::<u32>())
        {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            found.push((u32::from(address) & mask, mask));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The addresses of `/proc/net/if_inet6`: 32 hexadecimal digits at the start of each line.
fn addresses(text: &str) -> Vec<Ipv6Addr> {
    text.lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_addresses_are_local() {
        let local = LocalAddresses::read();
        assert!(local.contains(IpAddr::from([127, 0, 0, 1])) && local.contains(IpAddr::from([127, 0, 3, 4])));
        // Of the block for documentation (RFC 3849), which no machine has.
        assert!(!local.contains(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/31 1 0 0\n           |-- 127.0.0.0\n              /8 host LOCAL\n           |-- 127.0.0.1\n              /32 host LOCAL\n        |-- 10.1.2.3\n           /24 link UNICAST\n           /32 host LOCAL\nId 133:\n     |-- 0.0.0.0\n        /0 host LOCAL\n";
        let local = LocalAddresses {
            v4: Some(networks(text)),
            v6: Some(addresses("fe80000000000000000000000000001f 04 40\n")),
        };
        for (ip, is_local) in
            [("127.9.9.9", true), ("10.1.2.3", true), ("10.1.2.4", false), ("fe80::1f", true), ("::1", false)]
        {
            assert_eq!(local.contains(ip.parse().expect("an address")), is_local, "{ip}");
        }
    }
}
