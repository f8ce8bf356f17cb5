//! Smooth weighted round robin.
//!
//! Over any run of as many choices as the sum of the weights, each endpoint is chosen exactly as often as its weight says,
//! and never in bursts. State is a worker's own.

use std::sync::Arc;

use crate::config::Endpoint;

/// The state of one cluster's rotation.
#[derive(Debug, Default)]
pub struct Rotation {
    endpoints: Arc<Vec<Endpoint>>,
    credit: Vec<i64>,
}

impl Rotation {
    /// Takes a new set of endpoints over; those that stay keep their credit.
    pub fn follow(&mut self, endpoints: &Arc<Vec<Endpoint>>) {
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

    /// The next of those that are allowed. `weight` may differ from one choice to the next.
    pub fn next(&mut self, allowed: impl Fn(usize) -> bool, weight: impl Fn(usize, u32) -> i64) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            if !allowed(i) {
                continue;
            }
            let weight = weight(i, endpoint.weight);
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
