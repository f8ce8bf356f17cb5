//! How much is measured about a destination: the grain of its labels and the bounds of its latencies.

use std::sync::{Arc, LazyLock};

use weir_series::canonical::{BUCKETS_MS, Peer};

/// How finely the other side is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// Every pod by itself.
    Pod,
    /// All pods of an owner together.
    Workload,
    /// All pods of a service together.
    Service,
}

/// What is measured about a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// The grain of the labels.
    pub granularity: Granularity,
    /// Upper bounds of the latency buckets in milliseconds, strictly increasing.
    pub buckets_ms: Arc<[u64]>,
}

/// Thousands of destinations have the same.
static USUAL: LazyLock<Arc<Telemetry>> = LazyLock::new(|| {
    Arc::new(Telemetry {
        granularity: Granularity::Pod,
        buckets_ms: BUCKETS_MS.as_slice().into(),
    })
});

impl Telemetry {
    /// Every pod, and the usual buckets: what holds where nothing is said.
    pub fn usual() -> Arc<Self> {
        Arc::clone(&USUAL)
    }

    /// A peer without what is finer than this grain.
    pub fn trim(&self, peer: &Arc<Peer>) -> Arc<Peer> {
        let (no_pod, no_owner) = match self.granularity {
            Granularity::Pod => return Arc::clone(peer),
            Granularity::Workload => (true, false),
            Granularity::Service => (true, true),
        };
        let trimmed = Peer {
            namespace: peer.namespace.clone(),
            pod: if no_pod { String::new() } else { peer.pod.clone() },
            owner_kind: if no_owner {
                String::new()
            } else {
                peer.owner_kind.clone()
            },
            owner: if no_owner { String::new() } else { peer.owner.clone() },
            service: peer.service.clone(),
        };
        if trimmed == **peer {
            return Arc::clone(peer);
        }
        Arc::new(trimmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_loses_what_is_finer_than_the_grain() {
        let peer = Arc::new(Peer {
            namespace: "n".into(),
            pod: "p-1".into(),
            owner_kind: "deployment".into(),
            owner: "p".into(),
            service: "s".into(),
        });
        let trimmed = |granularity| {
            let telemetry = Telemetry {
                granularity,
                ..(*Telemetry::usual()).clone()
            };
            let peer = telemetry.trim(&peer);
            [&peer.namespace, &peer.pod, &peer.owner_kind, &peer.owner, &peer.service].map(String::clone)
        };
        assert_eq!(trimmed(Granularity::Pod), ["n", "p-1", "deployment", "p", "s"]);
        assert_eq!(trimmed(Granularity::Workload), ["n", "", "deployment", "p", "s"]);
        assert_eq!(trimmed(Granularity::Service), ["n", "", "", "", "s"]);
    }
}
