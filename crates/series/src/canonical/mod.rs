//! The canonical series: what every proxy, ours or Envoy's supervisor, records about its traffic, and how it shows it.
//!
//! A [`Target`] is one (direction, authority, peer). It is looked up when configuration is applied or when a peer is
//! first seen, never per request: recording is a few relaxed atomic additions. Labels of the proxy's own pod are added
//! by the scraper and are unknown here. A scrape reads the atomics while traffic goes on; within one histogram
//! `_count` is computed from the buckets that were read, so that a page never contradicts itself.

mod render;
mod slots;

use crate::names;
use slots::{Histogram, NamedCounters, Responses};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

pub use slots::{BUCKETS_MS, MAX_NAMES, MAX_RESPONSE_KINDS};

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

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    direction: Direction,
    authority: String,
    peer: Peer,
}

/// All targets of one proxy.
#[derive(Debug)]
pub struct Recorder {
    targets: Mutex<BTreeMap<Key, Arc<Target>>>,
    start_time_s: f64,
}

impl Recorder {
    /// An empty recorder; its making counts as the start of the process.
    pub fn new() -> Arc<Self> {
        let start = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Arc::new(Recorder {
            targets: Mutex::default(),
            start_time_s: (start.as_millis() as f64) / 1000.0,
        })
    }

    /// The slot of one (direction, authority, peer). Its series exist at zero from now on; the same key gives the same
    /// slot. An empty authority marks a TCP destination: its HTTP series appear only when HTTP is recorded on it.
    pub fn target(&self, direction: Direction, authority: &str, peer: &Peer) -> Arc<Target> {
        let key = Key {
            direction,
            authority: authority.to_owned(),
            peer: peer.clone(),
        };
        let mut targets = self.lock();
        if let Some(target) = targets.get(&key) {
            return target.clone();
        }
        let target = Arc::new(Target::new(&key));
        targets.insert(key, target.clone());
        target
    }

    /// Drops the targets for which `keep` is false. Late writes to a dropped target are harmless and not shown.
    pub fn retain(&self, mut keep: impl FnMut(Direction, &str, &Peer) -> bool) {
        self.lock()
            .retain(|key, _| keep(key.direction, &key.authority, &key.peer));
    }

    /// Appends the whole page: text format 0.0.4 with HELP and TYPE.
    pub fn render(&self, out: &mut String) {
        let targets: Vec<Arc<Target>> = self.lock().values().cloned().collect();
        render::page(out, &targets, self.start_time_s);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Target>>> {
        // Nothing panics while the map is changed half-way.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The counters of one (direction, authority, peer).
#[derive(Debug)]
pub struct Target {
    /// Rendered label set without braces.
    labels: String,
    /// HTTP has been configured or seen.
    http: AtomicBool,
    requests: AtomicU64,
    attempts: AtomicU64,
    retries: AtomicU64,
    responses: Responses,
    latency: Histogram,
    faults: NamedCounters,
    overflows: NamedCounters,
    tcp_open: AtomicU64,
    tcp_close_success: AtomicU64,
    tcp_close_failure: AtomicU64,
    tcp_read_bytes: AtomicU64,
    tcp_write_bytes: AtomicU64,
}

impl Target {
    fn new(key: &Key) -> Self {
        Target {
            labels: render::target_labels(key.direction, &key.authority, &key.peer),
            http: AtomicBool::new(!key.authority.is_empty()),
            requests: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            responses: Responses::default(),
            latency: Histogram::default(),
            faults: NamedCounters::default(),
            overflows: NamedCounters::default(),
            tcp_open: AtomicU64::new(0),
            tcp_close_success: AtomicU64::new(0),
            tcp_close_failure: AtomicU64::new(0),
            tcp_read_bytes: AtomicU64::new(0),
            tcp_write_bytes: AtomicU64::new(0),
        }
    }

    /// A client's request came in (once, however often it is tried).
    pub fn request(&self) {
        self.saw_http();
        self.requests.fetch_add(1, Relaxed);
    }

    /// One try of a request, the first included.
    pub fn attempt(&self) {
        self.saw_http();
        self.attempts.fetch_add(1, Relaxed);
    }

    /// One try after the first; [`Target::attempt`] is called as well.
    pub fn retry(&self) {
        self.saw_http();
        self.retries.fetch_add(1, Relaxed);
    }

    /// A response ended. Aborted ones leave no latency: it would be the client's patience.
    pub fn response(&self, response: &Response) {
        self.saw_http();
        self.responses.add(response);
        if response.classification != Classification::Aborted {
            self.latency.observe(response.latency);
        }
    }

    /// A connection with the peer was opened.
    pub fn tcp_open(&self) {
        self.tcp_open.fetch_add(1, Relaxed);
    }

    /// A connection with the peer was closed; `failure` when it broke.
    pub fn tcp_close(&self, failure: bool) {
        let counter = if failure {
            &self.tcp_close_failure
        } else {
            &self.tcp_close_success
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Bytes read from and written to the peer.
    pub fn tcp_bytes(&self, read: u64, written: u64) {
        self.tcp_read_bytes.fetch_add(read, Relaxed);
        self.tcp_write_bytes.fetch_add(written, Relaxed);
    }

    /// A fault was injected: `delay`, `abort`, ...
    pub fn fault(&self, kind: &str) {
        self.faults.add(kind);
    }

    /// A request was refused because a limit was reached.
    pub fn overflow(&self, reason: &'static str) {
        self.overflows.add(reason);
    }

    fn saw_http(&self) {
        // A plain load first: the line of memory is shared by all workers and almost never changes.
        if !self.http.load(Relaxed) {
            self.http.store(true, Relaxed);
        }
    }
}

/// The label that names an owner of `kind` behind `prefix`, None for a kind that is not known.
fn owner_label(prefix: &str, kind: &str) -> Option<String> {
    names::OWNER_KINDS.contains(&kind).then(|| format!("{prefix}{kind}"))
}

#[cfg(test)]
mod tests;
