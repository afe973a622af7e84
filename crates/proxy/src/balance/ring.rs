//! Ring hash and Maglev: the same request hash gives the same endpoint as in Envoy, so that both can serve one fleet.

use std::sync::Arc;

use celerity_model::snapshot::{Algorithm, Cluster};
use xxhash_rust::xxh64::xxh64;

use super::Table;

/// The table of a hashing algorithm over endpoints with their localities' weights.
pub(super) fn table(cluster: &Cluster, lists: &[(f64, Vec<u32>)]) -> Option<Table> {
    let (hostname, algorithm) = match cluster.policy.load_balancing.algorithm {
        algorithm @ (Algorithm::RingHash { use_hostname, .. } | Algorithm::Maglev { use_hostname, .. }) => {
            (use_hostname, algorithm)
        }
        _ => return None,
    };
    let localities: f64 = lists.iter().map(|(weight, _)| weight).sum();
    let mut entries = Vec::new();
    for (weight, list) in lists {
        let endpoints = list.iter().filter_map(|&index| Some((index, cluster.endpoints.get(index as usize)?)));
        let sum: f64 = endpoints.clone().map(|(_, endpoint)| f64::from(endpoint.weight)).sum();
        entries.extend(endpoints.map(|(index, endpoint)| {
            let key = match &endpoint.hostname {
                Some(name) if hostname => name.to_string(),
                _ => endpoint.address.to_string(),
            };
            Entry { index, key, weight: f64::from(endpoint.weight) / sum * (weight / localities) }
        }));
    }
    if entries.is_empty() {
        return None;
    }
    Some(match algorithm {
        Algorithm::Maglev { table_size, .. } => Table::Maglev(Arc::new(MaglevTable::new(&entries, table_size))),
        Algorithm::RingHash { ring_size_min, ring_size_max, .. } => {
            Table::Ring(Arc::new(Ring::new(&entries, ring_size_min, ring_size_max)))
        }
        _ => return None,
    })
}

/// An endpoint with its share of the whole.
struct Entry {
    index: u32,
    key: String,
    weight: f64,
}

fn lightest(entries: &[Entry]) -> f64 {
    entries.iter().map(|entry| entry.weight).fold(f64::INFINITY, f64::min)
}

/// Points on a circle: XXH64 of `key_i`, as many per endpoint as its weight asks for.
#[derive(Debug)]
pub struct Ring {
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// The lightest endpoint gets a whole number of points, and the ring at least `size_min` in all unless that passes
    /// `size_max` (Envoy `RingHashLoadBalancer`).
    fn new(entries: &[Entry], size_min: u64, size_max: u64) -> Self {
        let lightest = lightest(entries);
        let scale = ((lightest * size_min as f64).ceil() / lightest).min(size_max as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut placed, mut wanted) = (0.0, 0.0);
        let mut name = String::new();
        for entry in entries {
            name.clear();
            name.push_str(&entry.key);
            name.push('_');
            let stem = name.len();
            wanted += scale * entry.weight;
            let mut number = 0_u64;
            while placed < wanted {
                name.truncate(stem);
                name.push_str(&number.to_string());
                points.push((xxh64(name.as_bytes(), 0), entry.index));
                number += 1;
                placed += 1.0;
            }
        }
        points.sort_unstable_by_key(|&(hash, _)| hash);
        Self { points: points.into() }
    }

    /// The first point at the hash or after it. Each further attempt is one point on.
    pub(super) fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let at = self.points.partition_point(|&(point, _)| point < hash);
        let at = if at == self.points.len() { 0 } else { at };
        let at = (at + attempt as usize) % self.points.len().max(1);
        self.points.get(at).map(|&(_, index)| index as usize)
    }
}

/// The table of Maglev ("Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4), with Envoy's weights.
#[derive(Debug)]
pub struct MaglevTable {
    slots: Box<[u32]>,
}

impl MaglevTable {
    fn new(entries: &[Entry], size: u64) -> Self {
        struct Turn<'a> {
            entry: &'a Entry,
            offset: u64,
            skip: u64,
            next: u64,
            target: f64,
        }
        const FREE: u32 = u32::MAX;
        let size = size.max(2);
        let heaviest = entries.iter().map(|entry| entry.weight).fold(0.0, f64::max);
        let mut turns: Vec<Turn<'_>> = entries
            .iter()
            .map(|entry| Turn {
                entry,
                offset: xxh64(entry.key.as_bytes(), 0) % size,
                skip: xxh64(entry.key.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                target: 0.0,
            })
            .collect();
        // As Envoy does: proxies that hear of the endpoints in different orders then agree on who takes which slot.
        turns.sort_by(|a, b| a.entry.key.cmp(&b.entry.key));
        let mut slots = vec![FREE; size as usize];
        let mut filled = 0;
        let mut round = 1.0;
        'filling: loop {
            for turn in &mut turns {
                // The heaviest takes a slot in each round, the others as often as their weight allows.
                if round * turn.entry.weight < turn.target {
                    continue;
                }
                turn.target += heaviest;
                loop {
                    let at = (turn.offset + turn.skip * turn.next) % size;
                    turn.next += 1;
                    if let Some(slot) = slots.get_mut(at as usize).filter(|slot| **slot == FREE) {
                        *slot = turn.entry.index;
                        break;
                    }
                }
                filled += 1;
                if filled == size {
                    break 'filling;
                }
            }
            round += 1.0;
        }
        Self { slots: slots.into() }
    }

    /// Each further attempt looks with most bits of the hash turned (Envoy `MaglevTable::chooseHost`).
    pub(super) fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = if attempt > 0 { hash ^ (u64::MAX - u64::from(attempt) + 1) } else { hash };
        let at = hash % self.slots.len().max(1) as u64;
        self.slots.get(at as usize).map(|&index| index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_endpoints_are_listed_changes_no_slot() {
        let entry = |index: u32, port: u16| Entry { index, key: format!("127.0.0.1:{port}"), weight: 1.0 };
        let ports = [40339, 35515, 33045, 36843, 34137];
        let listed: Vec<Entry> = (0..5).zip(ports).map(|(index, port)| entry(index, port)).collect();
        let reversed: Vec<Entry> = (0..5).zip(ports).rev().map(|(index, port)| entry(index, port)).collect();
        for size in [11, 101] {
            let (one, other) = (MaglevTable::new(&listed, size), MaglevTable::new(&reversed, size));
            assert!((0..1000).all(|hash| one.pick(hash, 0) == other.pick(hash, 0)));
        }
    }
}
