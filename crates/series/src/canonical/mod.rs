//! The canonical series: what every proxy, ours or Envoy's supervisor, records about its traffic, and how it shows it.
//!
//! A [`Target`] is one (direction, authority, peer), a [`Slot`] a worker's part of it. It is looked up when configuration
//! is applied or when a peer is first seen, never per request: recording is a few relaxed atomic additions to counters
//! that no other worker writes to. Labels of the proxy's own pod are added by the scraper and are unknown here. A scrape
//! reads the atomics while traffic goes on, a [`Page`] at a time; within one histogram `_count` is computed from the
//! buckets that were read, so that a page never contradicts itself.

mod counters;
mod page;
mod target;

use crate::names;
use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

pub use counters::{BUCKETS_MS, MAX_NAMES, MAX_RESPONSE_KINDS};
pub use page::Page;
pub use target::{Slot, Target};

/// Seen from the pod beside which the proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

impl Direction {
    /// As the label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// The other side. Every part may be "", which means unknown and leaves its label out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    /// Namespace of the pod or the service.
    pub namespace: String,
    /// Pod; "" for replies that the proxy makes itself.
    pub pod: String,
    /// Kind of the pod's owner in lower case, one of [`names::OWNER_KINDS`].
    pub owner_kind: String,
    /// Name of the pod's owner.
    pub owner: String,
    /// Service through which the pod was chosen (outbound).
    pub service: String,
}

/// How a response counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Classification {
    /// Anything that is not a failure.
    Success,
    /// HTTP 5xx, a gRPC status that is the server's fault, an upstream reset or timeout.
    Failure,
    /// The client went away: neither success nor failure, and no latency.
    Aborted,
}

impl Classification {
    /// As the label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Classification::Success => "success",
            Classification::Failure => "failure",
            Classification::Aborted => "aborted",
        }
    }
}

/// How a finished response counts. A gRPC response without a status is a failure.
pub fn classify(status: u16, grpc_status: Option<u16>, is_grpc: bool) -> Classification {
    // UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS
    let failed = match grpc_status {
        Some(code) => matches!(code, 2 | 4 | 7 | 13 | 14 | 15),
        None => is_grpc,
    };
    if failed || (500..600).contains(&status) {
        Classification::Failure
    } else {
        Classification::Success
    }
}

/// The end of a response.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// gRPC status, where the response was gRPC and had one.
    pub grpc_status: Option<u16>,
    /// See [`classify`].
    pub classification: Classification,
    /// The proxy made this response itself.
    pub from_proxy: bool,
    /// From the request's head to the end of the response's stream.
    pub latency: Duration,
}

/// Targets are taken from under the lock so many at a time: a worker that makes one waits for less than this.
const TAKEN_AT_A_TIME: usize = 256;

/// Ordered as the page is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    direction: Direction,
    authority: Arc<str>,
    peer: Arc<Peer>,
}

/// All targets of one proxy.
#[derive(Debug)]
pub struct Recorder {
    targets: Mutex<Targets>,
    usual_buckets: Arc<[u64]>,
    workers: usize,
    start_time_s: f64,
    /// Without it, no slot counts anything.
    records: bool,
}

#[derive(Debug, Default)]
struct Targets {
    by_key: BTreeMap<Key, Arc<Target>>,
    /// Each text once, for many targets have the same.
    authorities: HashSet<Arc<str>>,
    /// How many targets were ever made.
    made: u64,
}

impl Recorder {
    /// An empty recorder for so many workers; its making counts as the start of the process.
    pub fn new(workers: usize) -> Arc<Self> {
        Self::of(workers, true)
    }

    /// A recorder whose slots count nothing: what recording costs is measured against it.
    pub fn silent() -> Arc<Self> {
        Self::of(1, false)
    }

    fn of(workers: usize, records: bool) -> Arc<Self> {
        let start = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Arc::new(Recorder {
            targets: Mutex::default(),
            usual_buckets: BUCKETS_MS.as_slice().into(),
            workers: workers.max(1),
            start_time_s: (start.as_millis() as f64) / 1000.0,
            records,
        })
    }

    /// The target of one (direction, authority, peer). Its series exist at zero from now on; the same key gives the same
    /// target. An empty authority marks a TCP destination: its HTTP series appear only when HTTP is recorded on it.
    pub fn target(&self, direction: Direction, authority: &str, peer: &Peer) -> Arc<Target> {
        self.find(direction, authority, &Arc::new(peer.clone()), None)
    }

    /// What one worker (counted from 0) records on the target of one (direction, authority, peer), whose latency buckets
    /// end at `buckets` milliseconds, which increase strictly. Where the target has other bounds, a new one at zero
    /// takes its place.
    pub fn slot(
        &self,
        worker: usize,
        direction: Direction,
        authority: &str,
        peer: &Arc<Peer>,
        buckets: &Arc<[u64]>,
    ) -> Slot {
        Slot {
            target: self
                .records
                .then(|| self.find(direction, authority, peer, Some(buckets))),
            worker: worker.min(self.workers - 1),
        }
    }

    fn find(
        &self,
        direction: Direction,
        authority: &str,
        peer: &Arc<Peer>,
        buckets: Option<&Arc<[u64]>>,
    ) -> Arc<Target> {
        let mut targets = self.lock();
        let known = targets.authorities.get(authority).cloned();
        let authority = known.unwrap_or_else(|| {
            let new: Arc<str> = authority.into();
            targets.authorities.insert(Arc::clone(&new));
            new
        });
        let key = Key {
            direction,
            authority,
            peer: Arc::clone(peer),
        };
        if let Some(target) = targets.by_key.get(&key)
            && buckets.is_none_or(|wanted| Arc::ptr_eq(wanted, &target.buckets) || *wanted == target.buckets)
        {
            return Arc::clone(target);
        }
        let target = Arc::new(Target::new(
            direction,
            Arc::clone(&key.authority),
            Arc::clone(peer),
            Arc::clone(buckets.unwrap_or(&self.usual_buckets)),
            self.workers,
        ));
        targets.by_key.insert(key, Arc::clone(&target));
        targets.made += 1;
        target
    }

    /// How many targets were ever made: who looks for targets to drop need not, while this has not changed.
    pub fn made(&self) -> u64 {
        self.lock().made
    }

    /// Drops the targets for which `keep` is false. Late writes to a dropped target are harmless and not shown.
    pub fn retain(&self, mut keep: impl FnMut(Direction, &str, &Peer) -> bool) {
        // Decided outside the lock, which workers wait for.
        let mut gone: Vec<Arc<Target>> = Vec::new();
        for some in self.snapshot().chunks(TAKEN_AT_A_TIME) {
            let ended = some.iter().filter(|t| !keep(t.direction, &t.authority, &t.peer));
            gone.extend(ended.map(Arc::clone));
            std::thread::yield_now();
        }
        if gone.is_empty() {
            return;
        }
        for some in gone.chunks(TAKEN_AT_A_TIME) {
            let mut targets = self.lock();
            for target in some {
                targets.by_key.remove(&target.key());
            }
            drop(targets);
            std::thread::yield_now();
        }
        drop(gone);
        // One reference is the set's own.
        self.lock().authorities.retain(|a| Arc::strong_count(a) > 1);
    }

    /// Begins a page: text format 0.0.4 with HELP and TYPE.
    pub fn page(&self) -> Page {
        Page::new(self.snapshot(), self.start_time_s)
    }

    /// Appends the whole page at once.
    pub fn render(&self, out: &mut String) {
        self.page().write(out, usize::MAX);
    }

    /// All targets. Takes them in portions and gives way after each, for a worker may want the lock or the core.
    fn snapshot(&self) -> Vec<Arc<Target>> {
        let mut all: Vec<Arc<Target>> = Vec::new();
        loop {
            let after = all.last().map(|last| last.key());
            let targets = self.lock();
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let before = all.len();
            let rest = targets.by_key.range((from, Bound::Unbounded));
            all.extend(rest.take(TAKEN_AT_A_TIME).map(|(_, target)| Arc::clone(target)));
            if all.len() - before < TAKEN_AT_A_TIME {
                return all;
            }
            drop(targets);
            std::thread::yield_now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Targets> {
        // Nothing panics while the map is changed half-way.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn key(&self) -> Key {
        Key {
            direction: self.direction,
            authority: Arc::clone(&self.authority),
            peer: Arc::clone(&self.peer),
        }
    }
}

/// The label that names an owner of `kind` behind `prefix`, None for a kind that is not known.
fn owner_label(prefix: &str, kind: &str) -> Option<String> {
    names::OWNER_KINDS.contains(&kind).then(|| format!("{prefix}{kind}"))
}

#[cfg(test)]
mod tests;
