//! Which series exist: those of configured destinations, from the moment they are configured until a little after.
//!
//! Enters: configurations. Leaves: targets made and dropped in the recorder. Only what differs from the configuration
//! before is looked at. Requests are recorded by the request path.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_series::canonical::{Direction, Peer, Recorder};
use weir_series::names;

use crate::config::{Action, Active, Cluster, Filter, Map};
use crate::peers::Peers;

/// How long the series of a removed destination stay, so that scrapes see its last counts.
pub const LINGER: Duration = Duration::from_secs(15);

/// What is configured, and until when the rest is kept.
#[derive(Debug, Default)]
pub struct Series {
    /// The configuration followed last.
    last: Active,
    /// Clusters that traffic reaches, and as what.
    reached: Map<Arc<str>, Vec<(Direction, Arc<str>)>>,
    peers: HashMap<Arc<Peer>, Use>,
    /// `None`: configured now; else when it was removed.
    authorities: BTreeMap<Direction, HashMap<Arc<str>, Option<Instant>>>,
    /// When targets were looked through last: how many there had been, and what was known of sources.
    swept: Option<(u64, u64)>,
}

/// How often a peer is configured.
#[derive(Debug, Default)]
struct Use {
    clusters: usize,
    /// Set where `clusters` is 0: since when.
    removed: Option<Instant>,
}

impl Series {
    /// Makes the series of every destination of a configuration.
    pub fn follow(&mut self, active: &Active, recorder: &Recorder, now: Instant) {
        let rerouted =
            !Arc::ptr_eq(&active.listeners, &self.last.listeners) || !Arc::ptr_eq(&active.routes, &self.last.routes);
        if rerouted {
            self.reroute(active, now);
        }
        let before = std::mem::replace(&mut self.last, active.clone());
        let regrouped = !Arc::ptr_eq(&active.clusters, &before.clusters);
        if regrouped {
            for (name, cluster) in before.clusters.iter() {
                if !active.clusters.get(name).is_some_and(|c| Arc::ptr_eq(c, cluster)) {
                    self.leave(cluster, now);
                }
            }
        }
        if !regrouped && !rerouted {
            return;
        }
        for (name, cluster) in active.clusters.iter() {
            let changed = !before.clusters.get(name).is_some_and(|c| Arc::ptr_eq(c, cluster));
            if changed {
                self.join(cluster);
            }
            if changed || rerouted {
                for (direction, authority) in self.reached.get(name).into_iter().flatten() {
                    make(cluster, *direction, authority, recorder);
                }
            }
        }
    }

    /// Notes which clusters the listeners lead to, under which names.
    fn reroute(&mut self, active: &Active, now: Instant) {
        self.reached.clear();
        let mut authorities: BTreeMap<Direction, HashSet<Arc<str>>> = BTreeMap::new();
        let tcp: Arc<str> = "".into();
        let mut reach = |cluster: &Arc<str>, direction: Direction, authority: &Arc<str>| {
            let reached = self.reached.entry(Arc::clone(cluster)).or_default();
            if !reached.iter().any(|(d, a)| *d == direction && a == authority) {
                reached.push((direction, Arc::clone(authority)));
            }
        };
        for listener in active.listeners.values() {
            let direction = listener.direction;
            for chain in listener.all_chains() {
                let http = match &chain.filter {
                    Filter::Tcp(chain) => {
                        chain.clusters().for_each(|cluster| reach(cluster, direction, &tcp));
                        continue;
                    }
                    Filter::Http(http) => http,
                };
                let Some(table) = active.routes_of(http) else { continue };
                let domains = table.hosts.iter().flat_map(|h| &h.domains).filter(|d| &***d != "*");
                authorities
                    .entry(direction)
                    .or_default()
                    .extend(domains.map(Arc::clone));
                for (authority, route) in table.destinations() {
                    if let (Some(authority), Action::Forward(forward)) = (authority, &route.action) {
                        forward
                            .clusters()
                            .for_each(|cluster| reach(cluster, direction, authority));
                    }
                }
            }
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            let configured = authorities.remove(&direction).unwrap_or_default();
            mark(self.authorities.entry(direction).or_default(), configured, now);
        }
    }

    fn join(&mut self, cluster: &Cluster) {
        for endpoint in cluster.endpoints.iter() {
            let entry = self.peers.entry(Arc::clone(&endpoint.peer)).or_default();
            entry.clusters += 1;
            entry.removed = None;
        }
    }

    fn leave(&mut self, cluster: &Cluster, now: Instant) {
        for endpoint in cluster.endpoints.iter() {
            let Some(entry) = self.peers.get_mut(&endpoint.peer) else {
                continue;
            };
            entry.clusters = entry.clusters.saturating_sub(1);
            if entry.clusters == 0 {
                entry.removed = Some(now);
            }
        }
    }

    /// Drops the series of destinations that were removed long enough ago; `true` when there were any.
    /// Looks through the targets only where one may have ended: of thousands, that takes milliseconds.
    pub fn sweep(&mut self, recorder: &Recorder, sources: &Peers, now: Instant) -> bool {
        let lingers = |removed: &Option<Instant>| removed.is_none_or(|since| now < since + LINGER);
        let size = |series: &Self| series.peers.len() + series.authorities.values().map(HashMap::len).sum::<usize>();
        let before = size(self);
        self.peers.retain(|_, used| lingers(&used.removed));
        for authorities in self.authorities.values_mut() {
            authorities.retain(|_, removed| lingers(removed));
        }
        let seen = Some((recorder.made(), sources.changes()));
        if size(self) == before && self.swept == seen {
            return false;
        }
        self.swept = seen;
        let sources = sources.known();
        let mut dropped = false;
        recorder.retain(|direction, authority, peer| {
            let peer = *peer == Peer::default()
                || match direction {
                    Direction::Outbound => self.peers.contains_key(peer),
                    Direction::Inbound => sources.contains(peer),
                };
            let authority = matches!(authority, "" | names::AUTHORITY_OTHER)
                || self
                    .authorities
                    .get(&direction)
                    .is_some_and(|known| known.contains_key(authority));
            dropped |= !(peer && authority);
            peer && authority
        });
        dropped
    }
}

fn make(cluster: &Cluster, direction: Direction, authority: &str, recorder: &Recorder) {
    let buckets = &cluster.spec.telemetry.buckets_ms;
    if direction == Direction::Inbound {
        // Who will come is not known in advance; the sum over everybody exists.
        recorder.slot(0, direction, authority, &Arc::default(), buckets);
        return;
    }
    for endpoint in cluster.endpoints.iter() {
        recorder.slot(0, direction, authority, &endpoint.peer, buckets);
    }
}

fn mark<K: Eq + std::hash::Hash>(known: &mut HashMap<K, Option<Instant>>, configured: HashSet<K>, now: Instant) {
    for (key, removed) in known.iter_mut() {
        match (configured.contains(key), &removed) {
            (true, _) => *removed = None,
            (false, None) => *removed = Some(now),
            (false, Some(_)) => {}
        }
    }
    for key in configured {
        known.entry(key).or_insert(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(clusters: &[(&str, &Arc<Cluster>)]) -> Active {
        let named = clusters.iter().map(|(name, c)| (Arc::from(*name), Arc::clone(c)));
        Active {
            clusters: Arc::new(named.collect()),
            ..Active::default()
        }
    }

    #[test]
    fn a_removed_destination_lingers_and_then_goes() {
        let recorder = Recorder::new(1);
        let sources = Peers::default();
        let peer = Arc::new(Peer {
            pod: "p".into(),
            ..Peer::default()
        });
        let mut spec = crate::config::decode::cluster(&[]).unwrap();
        spec.name = "c".into();
        let endpoint = crate::config::Endpoint {
            address: ([127, 0, 0, 1], 1).into(),
            weight: 1,
            peer: Arc::clone(&peer),
        };
        let cluster = Arc::new(Cluster::new(Arc::new(spec), Arc::new(vec![endpoint]), None));
        recorder.target(Direction::Outbound, "", &peer);
        let mut series = Series::default();
        let start = Instant::now();
        let shown = || {
            let mut page = String::new();
            recorder.render(&mut page);
            page.contains("dst_pod=\"p\"")
        };
        series.follow(&active(&[("c", &cluster), ("d", &cluster)]), &recorder, start);
        series.follow(&active(&[("c", &cluster)]), &recorder, start);
        assert!(
            !series.sweep(&recorder, &sources, start + LINGER) && shown(),
            "another cluster has it"
        );
        series.follow(&active(&[]), &recorder, start + LINGER);
        assert!(!series.sweep(&recorder, &sources, start + LINGER * 3 / 2) && shown());
        assert!(series.sweep(&recorder, &sources, start + LINGER * 2) && !shown());
    }
}
