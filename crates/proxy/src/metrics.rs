//! Which series exist: those of configured destinations, from the moment they are configured until a little after.
//!
//! Enters: configurations. Leaves: targets made and dropped in the recorder; and the page of Envoy's names for the same
//! counters. Requests are recorded by `http::record` and `tcp`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_series::canonical::{Direction, Peer, Recorder};
use weir_series::names;

use crate::config::{Action, Active, Cluster, ClusterStats, Filter, Telemetry};
use crate::peers::Peers;
use crate::shared::Shared;

/// How long the series of a removed destination stay, so that scrapes see its last counts.
pub const LINGER: Duration = Duration::from_secs(15);

/// What is configured, and until when the rest is kept.
#[derive(Debug, Default)]
pub struct Series {
    /// `None`: configured now; else when it was removed.
    peers: HashMap<Arc<Peer>, Option<Instant>>,
    authorities: HashMap<(Direction, Arc<str>), Option<Instant>>,
}

impl Series {
    /// Makes the series of every destination of a configuration.
    pub fn follow(&mut self, active: &Active, recorder: &Recorder, now: Instant) {
        let mut peers: HashSet<Arc<Peer>> = HashSet::new();
        let mut authorities: HashSet<(Direction, Arc<str>)> = HashSet::new();
        for listener in active.listeners.values() {
            let direction = listener.direction;
            for chain in listener.all_chains() {
                match &chain.filter {
                    Filter::Tcp(tcp) => {
                        make(active.clusters.get(&tcp.cluster), direction, "", recorder, &mut peers);
                    }
                    Filter::Http(http) => {
                        let Some(table) = active.routes_of(http) else { continue };
                        let domains = table.hosts.iter().flat_map(|h| &h.domains).filter(|d| &***d != "*");
                        authorities.extend(domains.map(|d| (direction, Arc::clone(d))));
                        for (authority, route) in table.destinations() {
                            let (Some(authority), Action::Forward(forward)) = (authority, &route.action) else {
                                continue;
                            };
                            let cluster = active.clusters.get(&forward.cluster);
                            make(cluster, direction, authority, recorder, &mut peers);
                        }
                    }
                }
            }
        }
        // Endpoints that no route reaches may still be reached by address.
        peers.extend(
            active
                .clusters
                .values()
                .flat_map(|c| c.endpoints.iter())
                .map(|e| Arc::clone(&e.peer)),
        );
        mark(&mut self.peers, peers, now);
        mark(&mut self.authorities, authorities, now);
    }

    /// Drops the series of destinations that were removed long enough ago; `true` when there were any.
    pub fn sweep(&mut self, recorder: &Recorder, sources: &Peers, now: Instant) -> bool {
        let lingers = |removed: &Option<Instant>| removed.is_none_or(|since| now < since + LINGER);
        self.peers.retain(|_, removed| lingers(removed));
        self.authorities.retain(|_, removed| lingers(removed));
        let (known_peers, known_authorities) = (&self.peers, &self.authorities);
        let mut dropped = false;
        recorder.retain(|direction, authority, peer| {
            let peer = *peer == Peer::default()
                || match direction {
                    Direction::Outbound => known_peers.contains_key(peer),
                    Direction::Inbound => sources.holds(peer),
                };
            let authority = matches!(authority, "" | names::AUTHORITY_OTHER)
                || known_authorities.contains_key(&(direction, Arc::from(authority)));
            dropped |= !(peer && authority);
            peer && authority
        });
        dropped
    }
}

fn make(
    cluster: Option<&Arc<Cluster>>,
    direction: Direction,
    authority: &str,
    recorder: &Recorder,
    peers: &mut HashSet<Arc<Peer>>,
) {
    if direction == Direction::Inbound {
        // Who will come is not known in advance; the sum over everybody exists.
        let buckets = cluster.map_or_else(Telemetry::usual, |c| Arc::clone(&c.spec.telemetry));
        recorder.slot(0, direction, authority, &Arc::default(), &buckets.buckets_ms);
        return;
    }
    let Some(cluster) = cluster else { return };
    for endpoint in cluster.endpoints.iter() {
        recorder.slot(
            0,
            direction,
            authority,
            &endpoint.peer,
            &cluster.spec.telemetry.buckets_ms,
        );
        peers.insert(Arc::clone(&endpoint.peer));
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

/// Appends the counters under the names that Envoy's users know.
pub fn envoy_page(shared: &Shared, out: &mut String) {
    let active = shared.active.load();
    let mut clusters: Vec<_> = active.clusters.values().collect();
    clusters.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    gauge(out, "envoy_server_live", u64::from(!shared.life.draining()));
    gauge(
        out,
        "envoy_control_plane_connected_state",
        u64::from(shared.connected.load(Ordering::Relaxed)),
    );
    gauge(
        out,
        "envoy_listener_downstream_cx_active",
        shared.connections.load(Ordering::Relaxed) as u64,
    );
    family(out, "membership_total", "gauge", &clusters, |c| {
        c.endpoints.len() as u64
    });
    family(out, "membership_healthy", "gauge", &clusters, |c| {
        c.endpoints.len() as u64
    });
    type Counter = (&'static str, fn(&ClusterStats) -> &std::sync::atomic::AtomicU64);
    let counters: [Counter; 4] = [
        ("upstream_rq_total", |s| &s.rq_total),
        ("upstream_rq_retry", |s| &s.rq_retry),
        ("upstream_cx_total", |s| &s.cx_total),
        ("upstream_cx_connect_fail", |s| &s.cx_connect_fail),
    ];
    for (name, counter) in counters {
        family(out, name, "counter", &clusters, |c| number(counter(&c.stats)));
    }
}

fn gauge(out: &mut String, name: &str, value: u64) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "# TYPE {name} gauge\n{name}{{}} {value}");
}

/// A metric of all clusters. Envoy takes a cluster's name up to its first dot as the label and puts the rest into the
/// metric's name: `9080|default|reviews.outbound` counts in `envoy_cluster_outbound_...`.
fn family(out: &mut String, metric: &str, kind: &str, clusters: &[&Arc<Cluster>], value: impl Fn(&Cluster) -> u64) {
    let mut by_name: std::collections::BTreeMap<String, Vec<(&str, u64)>> = Default::default();
    for cluster in clusters {
        let (label, rest) = cluster.spec.name.split_once('.').unwrap_or((&cluster.spec.name, ""));
        let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let infix: String = rest
            .chars()
            .map(clean)
            .chain((!rest.is_empty()).then_some('_'))
            .collect();
        by_name
            .entry(format!("envoy_cluster_{infix}{metric}"))
            .or_default()
            .push((label, value(cluster)));
    }
    for (name, values) in by_name {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (label, value) in values {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(out, "{name}{{envoy_cluster_name=\"{label}\"}} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_destination_lingers_and_then_goes() {
        let recorder = Recorder::new(1);
        let sources = Peers::default();
        let peer = Arc::new(Peer {
            pod: "p".into(),
            ..Peer::default()
        });
        recorder.target(Direction::Outbound, "", &peer);
        let mut series = Series::default();
        let start = Instant::now();
        series.peers.insert(Arc::clone(&peer), None);
        series.follow(&Active::default(), &recorder, start);
        let shown = || {
            let mut page = String::new();
            recorder.render(&mut page);
            page.contains("dst_pod=\"p\"")
        };
        assert!(!series.sweep(&recorder, &sources, start + LINGER / 2) && shown());
        assert!(series.sweep(&recorder, &sources, start + LINGER) && !shown());
    }
}
