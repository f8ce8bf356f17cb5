//! Where hashes lead: a ring, or a table. Made when endpoints change, then only read, by all workers.
//!
//! Both depend on nothing but addresses and weights, so that every worker, and the next process, sends the same hash to
//! the same endpoint; and when one endpoint goes, few hashes but its own move.

use super::xxhash::xxh64;
use crate::config::{Endpoint, LbPolicy};

/// Hashes to places in the list of endpoints.
#[derive(Debug)]
pub enum Table {
    /// Where each hash begins that leads to an endpoint, in order.
    Ring(Box<[(u64, u32)]>),
    /// The endpoint of each remainder.
    Maglev(Box<[u32]>),
}

impl Table {
    /// The table of a policy; `None`: it needs none, or there is nothing to be found.
    pub fn new(policy: LbPolicy, endpoints: &[Endpoint]) -> Option<Self> {
        match policy {
            _ if endpoints.is_empty() => None,
            LbPolicy::RingHash { min, max } => Some(Self::Ring(ring(endpoints, min, max))),
            LbPolicy::Maglev { size } => Some(Self::Maglev(maglev(endpoints, size))),
            LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. } | LbPolicy::Random | LbPolicy::PeakEwma => None,
        }
    }

    /// The endpoint for a hash: where that one is not allowed, the next behind it that is.
    pub fn find(&self, hash: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => {
                let start = ring.partition_point(|(begin, _)| *begin < hash);
                let mut round = ring[start..]
                    .iter()
                    .chain(&ring[..start])
                    .map(|(_, place)| *place as usize);
                round.find(|i| allowed(*i))
            }
            Self::Maglev(table) => {
                let start = usize::try_from(hash % table.len() as u64).unwrap_or(0);
                let mut round = table[start..]
                    .iter()
                    .chain(&table[..start])
                    .map(|place| *place as usize);
                round.find(|i| allowed(*i))
            }
        }
    }
}

/// Weights as parts of a whole.
fn parts(endpoints: &[Endpoint]) -> (Vec<f64>, f64, f64) {
    let total: f64 = endpoints.iter().map(|e| f64::from(e.weight)).sum();
    let parts: Vec<f64> = endpoints.iter().map(|e| f64::from(e.weight) / total).collect();
    let least = parts.iter().copied().fold(1.0, f64::min);
    let most = parts.iter().copied().fold(0.0, f64::max);
    (parts, least, most)
}

/// As Envoy makes it: the lightest endpoint has a whole number of entries, all together at least `min`.
#[allow(clippy::cast_precision_loss)] // sizes of rings are far below what a double holds
fn ring(endpoints: &[Endpoint], min: u64, max: u64) -> Box<[(u64, u32)]> {
    let (parts, least, _) = parts(endpoints);
    let scale = ((least * min as f64).ceil() / least).min(max as f64);
    let mut ring = Vec::new();
    let (mut wanted, mut made) = (0.0, 0.0);
    for (place, (endpoint, part)) in (0u32..).zip(endpoints.iter().zip(parts)) {
        wanted += scale * part;
        let address = endpoint.address.to_string();
        let mut number = 0u64;
        while made < wanted {
            ring.push((xxh64(format!("{address}_{number}").as_bytes(), 0), place));
            number += 1;
            made += 1.0;
        }
    }
    ring.sort_unstable();
    ring.into()
}

/// The turn that one endpoint takes through the table.
struct Turn {
    place: u32,
    offset: u64,
    skip: u64,
    next: u64,
    part: f64,
    due: f64,
}

/// Each endpoint takes the next free entry of its own permutation, as often as its weight says.
fn maglev(endpoints: &[Endpoint], size: u32) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let (parts, _, most) = parts(endpoints);
    let size = u64::from(size);
    let mut turns: Vec<(String, Turn)> = (0u32..)
        .zip(endpoints.iter().zip(parts))
        .map(|(place, (endpoint, part))| {
            let address = endpoint.address.to_string();
            let turn = Turn {
                place,
                offset: xxh64(address.as_bytes(), 0) % size,
                skip: xxh64(address.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                part,
                due: 0.0,
            };
            (address, turn)
        })
        .collect();
    // In whatever order endpoints come, the table is the same.
    turns.sort_by(|a, b| a.0.cmp(&b.0));
    let mut table = vec![FREE; usize::try_from(size).unwrap_or(0)];
    let mut left = table.len();
    let mut iteration = 0.0;
    while left > 0 {
        iteration += 1.0;
        for (_, turn) in &mut turns {
            if left == 0 {
                break;
            }
            if iteration * turn.part < turn.due {
                continue;
            }
            turn.due += most;
            loop {
                let at = usize::try_from((turn.offset + turn.skip * turn.next) % size).unwrap_or(0);
                turn.next += 1;
                if table[at] == FREE {
                    table[at] = turn.place;
                    break;
                }
            }
            left -= 1;
        }
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::endpoints;
    use super::*;
    use proptest::prelude::*;

    const RING: LbPolicy = LbPolicy::RingHash {
        min: 1024,
        max: 8 << 20,
    };
    const MAGLEV: LbPolicy = LbPolicy::Maglev { size: 65_537 };

    fn find(table: &Table, endpoints: &[Endpoint], key: u64) -> std::net::SocketAddr {
        let hash = xxh64(&key.to_le_bytes(), 0);
        endpoints[table.find(hash, |_| true).unwrap()].address
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whoever is left keeps what it had; what the one that goes had is spread over the others.
        #[test]
        fn when_an_endpoint_goes_only_its_own_hashes_move(count in 3usize..9, gone in 0usize..9) {
            let all = endpoints(&vec![1; count]);
            let gone = gone % count;
            let mut rest = (*all).clone();
            let address = rest.remove(gone).address;
            // A ring has as many entries as ever, and so each of the others gets some more of them.
            for (policy, moved_max) in [(RING, 500), (MAGLEV, 60)] {
                let (before, after) = (Table::new(policy, &all).unwrap(), Table::new(policy, &rest).unwrap());
                let (mut moved, mut heirs) = (0, std::collections::BTreeSet::new());
                for key in 0..2000 {
                    let owner = find(&before, &all, key);
                    let hash = xxh64(&key.to_le_bytes(), 0);
                    let left_out = all[before.find(hash, |i| i != gone).unwrap()].address;
                    if owner == address {
                        heirs.insert(left_out);
                    } else {
                        prop_assert_eq!(left_out, owner);
                        moved += u32::from(find(&after, &rest, key) != owner);
                    }
                }
                prop_assert!(moved <= moved_max, "{policy:?}: {moved} of others moved");
                prop_assert_eq!(heirs.len(), rest.len());
            }
        }

        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u32..5, 2..6)) {
            let all = endpoints(&weights);
            let total: u32 = weights.iter().sum();
            for (policy, tolerance) in [(RING, 0.5), (MAGLEV, 0.02)] {
                let table = Table::new(policy, &all).unwrap();
                let mut counts = vec![0u32; weights.len()];
                for key in 0..20_000u64 {
                    let hash = xxh64(&key.to_le_bytes(), 7);
                    counts[table.find(hash, |_| true).unwrap()] += 1;
                }
                for (weight, count) in weights.iter().zip(&counts) {
                    let expected = 20_000.0 * f64::from(*weight) / f64::from(total);
                    let off = (f64::from(*count) / expected - 1.0).abs();
                    // The draw of keys is itself uneven.
                    prop_assert!(off < tolerance + 5.0 / expected.sqrt(), "{policy:?} {weights:?} {counts:?}");
                }
            }
        }

        #[test]
        fn the_order_of_endpoints_does_not_matter(count in 2usize..7, turn in 1usize..6) {
            let all = endpoints(&vec![1; count]);
            let mut turned = (*all).clone();
            turned.rotate_left(turn % count);
            for policy in [RING, MAGLEV] {
                let (a, b) = (Table::new(policy, &all).unwrap(), Table::new(policy, &turned).unwrap());
                for key in 0..500 {
                    prop_assert_eq!(find(&a, &all, key), find(&b, &turned, key));
                }
            }
        }
    }
}
