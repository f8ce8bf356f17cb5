//! What Envoy is configured to reach, as far as its series depend on it: which exist from the start, how finely each
//! tells the other side apart, and which are over.
//!
//! Enters: the resources that Envoy has accepted. Leaves: targets made and dropped in the recorder, and for each log entry
//! the label set and histogram bounds that its cluster asks for. Weir's own proxy does the same by itself.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use weir_api::telemetry::Granularity;
use weir_series::canonical::{BUCKETS_MS, Direction, Peer, Recorder, Slot};
use weir_series::names;

use super::relay::Relay;
use super::sources::Sources;

mod accepted;

pub(super) use accepted::references;

/// How long the series of a removed destination stay, so that scrapes see its last counts.
const LINGER: Duration = Duration::from_secs(15);
/// How often removed destinations are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// The cluster of inbound connections whose port asks for nothing of its own; its choice is the whole mesh's.
const INBOUND: &str = "inbound";

/// What a cluster says about how much is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    granularity: Granularity,
    bounds_ms: Arc<[u64]>,
}

static USUAL: LazyLock<Telemetry> = LazyLock::new(|| Telemetry {
    granularity: Granularity::default(),
    bounds_ms: BUCKETS_MS.as_slice().into(),
});

/// A peer without what is finer than this.
fn trimmed(granularity: Granularity, mut peer: Peer) -> Peer {
    if granularity >= Granularity::Workload {
        peer.pod.clear();
    }
    if granularity >= Granularity::Service {
        peer.owner_kind.clear();
        peer.owner.clear();
    }
    peer
}

/// What one configuration says.
#[derive(Debug, Default)]
struct Destinations {
    /// By cluster.
    clusters: HashMap<String, Telemetry>,
    /// Inbound hosts, which belong to one Service rather than to one port: their series must not change bounds from one
    /// entry to the next.
    inbound_hosts: HashMap<String, Arc<[u64]>>,
    /// Series that exist from the start: cluster, direction, authority, other side.
    targets: Vec<(String, Direction, String, Peer)>,
    /// Every host name that may be an authority.
    authorities: HashSet<(Direction, String)>,
    /// Every endpoint as its cluster wants it named.
    peers: HashSet<Peer>,
}

impl Destinations {
    fn telemetry(&self, direction: Direction, cluster: &str) -> &Telemetry {
        let inbound = || self.clusters.get(INBOUND).filter(|_| direction == Direction::Inbound);
        self.clusters.get(cluster).or_else(inbound).unwrap_or(&USUAL)
    }

    /// One target has one set of bounds, whichever entry comes first.
    fn bounds(&self, direction: Direction, authority: &str, peer: &Peer, cluster: &str) -> Arc<[u64]> {
        let of = |cluster| Arc::clone(&self.telemetry(direction, cluster).bounds_ms);
        match (direction, authority) {
            // Connections have no latency.
            (_, "") => Arc::clone(&USUAL.bounds_ms),
            // Answers of Envoy's own, for whichever cluster.
            (Direction::Outbound, _) if *peer == Peer::default() => Arc::clone(&USUAL.bounds_ms),
            (Direction::Outbound, _) => of(cluster),
            (Direction::Inbound, host) => self.inbound_hosts.get(host).cloned().unwrap_or_else(|| of(INBOUND)),
        }
    }
}

/// The configuration as Envoy has it now, and the recorder that follows it.
pub struct Measured {
    recorder: Arc<Recorder>,
    now: RwLock<Arc<Destinations>>,
}

impl Measured {
    /// Nothing is configured yet.
    pub fn new(recorder: Arc<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            recorder,
            now: RwLock::default(),
        })
    }

    fn now(&self) -> Arc<Destinations> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where something that went by a cluster is counted.
    pub fn slot(&self, direction: Direction, authority: &str, peer: Peer, cluster: &str) -> Slot {
        let now = self.now();
        let peer = trimmed(now.telemetry(direction, cluster).granularity, peer);
        self.make(&now, direction, authority, peer, cluster)
    }

    fn make(&self, now: &Destinations, direction: Direction, authority: &str, peer: Peer, cluster: &str) -> Slot {
        let bounds = now.bounds(direction, authority, &peer, cluster);
        self.recorder.slot(0, direction, authority, &Arc::new(peer), &bounds)
    }

    /// Takes over what Envoy accepts, as it does. Never ends.
    pub async fn follow(&self, relay: &Relay) {
        let mut changes = relay.changes();
        loop {
            self.take(accepted::read(relay));
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn take(&self, destinations: Destinations) {
        let now = Arc::new(destinations);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&now);
        for (cluster, direction, authority, peer) in &now.targets {
            self.make(&now, *direction, authority, peer.clone(), cluster);
        }
    }

    /// Drops the series of what is over, a little later. Never ends.
    pub async fn sweep(&self, sources: &Sources) {
        let mut over = HashMap::new();
        loop {
            tokio::time::sleep(SWEEP).await;
            self.drop_old(&mut over, &sources.peers(), Instant::now());
        }
    }

    /// `over`: since when nobody knows a target.
    fn drop_old(&self, over: &mut HashMap<Target, Instant>, sources: &[Peer], time: Instant) {
        let now = self.now();
        let grains = [Granularity::Pod, Granularity::Workload, Granularity::Service];
        let sources: HashSet<Peer> = sources
            .iter()
            .flat_map(|peer| grains.map(|grain| trimmed(grain, peer.clone())))
            .collect();
        let mut still = HashSet::new();
        self.recorder.retain(|direction, authority, peer| {
            let peer_is = *peer == Peer::default()
                || match direction {
                    Direction::Outbound => now.peers.contains(peer),
                    Direction::Inbound => sources.contains(peer),
                };
            let authority_is = matches!(authority, "" | names::AUTHORITY_OTHER)
                || now.authorities.contains(&(direction, authority.to_owned()));
            if peer_is && authority_is {
                return true;
            }
            let target = (direction, authority.to_owned(), peer.clone());
            let stays = *over.entry(target.clone()).or_insert(time) + LINGER > time;
            if stays {
                still.insert(target);
            }
            stays
        });
        over.retain(|target, _| still.contains(target));
    }
}

type Target = (Direction, String, Peer);

#[cfg(test)]
mod tests;
