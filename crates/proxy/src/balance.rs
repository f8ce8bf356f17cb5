//! Which endpoint is next: smooth weighted round robin.
//!
//! Enters: the endpoints of a cluster, and those to avoid. Leaves: one of them. Over any run of as many choices as the
//! sum of the weights, each endpoint is chosen exactly as often as its weight says, and never in bursts. State is a worker's own.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Endpoint;

/// The state of one cluster's rotation.
#[derive(Debug, Default)]
pub struct Rotation {
    endpoints: Arc<Vec<Endpoint>>,
    credit: Vec<i64>,
}

impl Rotation {
    /// The next endpoint that is not in `avoid`; when all are, the next that is not the last one avoided; `None` without
    /// endpoints.
    pub fn next(&mut self, endpoints: &Arc<Vec<Endpoint>>, avoid: &[SocketAddr]) -> Option<Endpoint> {
        self.follow(endpoints);
        let chosen = self
            .choose(|e| !avoid.contains(&e.address))
            .or_else(|| self.choose(|e| avoid.last() != Some(&e.address)))
            .or_else(|| self.choose(|_| true))?;
        endpoints.get(chosen).cloned()
    }

    /// Takes a new set of endpoints over; those that stay keep their credit.
    fn follow(&mut self, endpoints: &Arc<Vec<Endpoint>>) {
        if Arc::ptr_eq(&self.endpoints, endpoints) {
            return;
        }
        let credit_of = |e: &Endpoint| {
            let place = self
                .endpoints
                .iter()
                .position(|old| old.address == e.address && old.weight == e.weight)?;
            self.credit.get(place).copied()
        };
        let credit = endpoints.iter().map(|e| credit_of(e).unwrap_or(0)).collect();
        self.credit = credit;
        self.endpoints = Arc::clone(endpoints);
    }

    fn choose(&mut self, allowed: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            if !allowed(endpoint) {
                continue;
            }
            let weight = i64::from(endpoint.weight);
            total += weight;
            self.credit[i] += weight;
            if best.is_none_or(|b| self.credit[i] > self.credit[b]) {
                best = Some(i);
            }
        }
        self.credit[best?] -= total;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoints(weights: &[u32]) -> Arc<Vec<Endpoint>> {
        let endpoint = |(i, weight): (usize, &u32)| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], 1000 + i as u16)),
            weight: *weight,
            peer: Arc::default(),
        };
        Arc::new(weights.iter().enumerate().map(endpoint).collect())
    }

    fn counts(weights: &[u32], picks: u32) -> Vec<u32> {
        let endpoints = endpoints(weights);
        let mut rotation = Rotation::default();
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            let chosen = rotation.next(&endpoints, &[]).unwrap();
            counts[usize::from(chosen.address.port()) - 1000] += 1;
        }
        counts
    }

    #[test]
    fn one_hundred_to_ten() {
        assert_eq!(counts(&[100, 10], 110), [100, 10]);
        assert_eq!(counts(&[100, 10], 11), [10, 1]);
    }

    #[test]
    fn the_avoided_is_taken_only_when_it_is_the_only_one() {
        let two = endpoints(&[1, 1]);
        let mut rotation = Rotation::default();
        for _ in 0..5 {
            assert_eq!(rotation.next(&two, &[two[0].address]).unwrap().address, two[1].address);
        }
        let both = [two[1].address, two[0].address];
        assert_eq!(rotation.next(&two, &both).unwrap().address, two[1].address);
        let one = endpoints(&[1]);
        assert_eq!(rotation.next(&one, &[one[0].address]).unwrap().address, one[0].address);
        assert!(rotation.next(&Arc::default(), &[]).is_none());
    }

    proptest! {
        #[test]
        fn a_full_turn_gives_each_its_weight(weights in proptest::collection::vec(1u32..40, 1..8)) {
            let turn: u32 = weights.iter().sum();
            prop_assert_eq!(counts(&weights, turn), weights.clone());
            let twice: Vec<u32> = weights.iter().map(|w| w * 2).collect();
            prop_assert_eq!(counts(&weights, turn * 2), twice);
        }
    }
}
