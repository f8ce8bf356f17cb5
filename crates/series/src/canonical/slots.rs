//! The counters behind a target: lock-free once they exist.

use super::{Classification, Response};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the latency buckets in milliseconds; the last bucket is +Inf.
pub const BUCKETS_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000, 30_000,
    40_000, 50_000,
];

/// Distinct (status, gRPC status, classification, origin) of one target; a peer that sends more gets `status_code="other"`.
pub const MAX_RESPONSE_KINDS: usize = 48;

/// Distinct names in one family of a target (faults, overflows); further ones count as `other`.
pub const MAX_NAMES: usize = 16;

/// Latency in [`BUCKETS_MS`].
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // `le` is inclusive, and 1.2 ms is above 1 ms: compare in microseconds.
        let bucket = BUCKETS_MS.partition_point(|&ms| ms * 1000 < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    /// Not cumulative, one for each of [`BUCKETS_MS`] and one for +Inf.
    pub fn counts(&self) -> [u64; BUCKETS_MS.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    pub fn sum_ms(&self) -> f64 {
        self.sum_us.load(Relaxed) as f64 / 1000.0
    }
}

/// What tells one `response_total` series of a target from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseKind {
    /// None: `status_code="other"`.
    pub status: Option<u16>,
    pub grpc_status: Option<u16>,
    pub classification: Classification,
    pub from_proxy: bool,
}

/// An append-only list of counters. Targets see few kinds, the commonest first, so a walk is shorter than a hash.
#[derive(Debug)]
pub(super) struct Responses {
    first: Slot,
}

#[derive(Debug)]
struct Slot {
    kind: ResponseKind,
    count: AtomicU64,
    next: OnceLock<Box<Slot>>,
}

impl Slot {
    fn new(kind: ResponseKind) -> Self {
        Slot {
            kind,
            count: AtomicU64::new(0),
            next: OnceLock::new(),
        }
    }
}

impl Default for Responses {
    /// The first slot exists from the beginning: a rate of successes must be zero, not absent.
    fn default() -> Self {
        let kind = ResponseKind {
            status: Some(200),
            grpc_status: None,
            classification: Classification::Success,
            from_proxy: false,
        };
        Responses { first: Slot::new(kind) }
    }
}

impl Responses {
    pub fn add(&self, response: &Response) {
        let Response {
            status,
            grpc_status,
            classification,
            from_proxy,
            ..
        } = *response;
        let kind = ResponseKind {
            status: Some(status),
            grpc_status,
            classification,
            from_proxy,
        };
        let slot = self.find(kind, MAX_RESPONSE_KINDS).or_else(|| {
            let rest = ResponseKind {
                status: None,
                grpc_status: None,
                ..kind
            };
            self.find(rest, usize::MAX) // three classifications and two origins: at most six more
        });
        if let Some(slot) = slot {
            slot.count.fetch_add(1, Relaxed);
        }
    }

    fn find(&self, kind: ResponseKind, limit: usize) -> Option<&Slot> {
        let mut slot = &self.first;
        let mut length = 1;
        while slot.kind != kind {
            length += 1;
            slot = match slot.next.get() {
                Some(next) => next,
                None if length > limit => return None,
                // Two threads may race for the end of the list: the loser walks on and appends behind the winner.
                None => slot.next.get_or_init(|| Box::new(Slot::new(kind))),
            };
        }
        Some(slot)
    }

    pub fn each(&self, mut see: impl FnMut(ResponseKind, u64)) {
        let mut slot = Some(&self.first);
        while let Some(Slot { kind, count, next }) = slot {
            see(*kind, count.load(Relaxed));
            slot = next.get().map(Box::as_ref);
        }
    }
}

/// Counters by a short name.
#[derive(Debug, Default)]
pub(super) struct NamedCounters {
    slots: [OnceLock<(Box<str>, AtomicU64)>; MAX_NAMES],
}

impl NamedCounters {
    pub fn add(&self, name: &str) {
        for (i, slot) in self.slots.iter().enumerate() {
            let name = if i + 1 == MAX_NAMES { "other" } else { name };
            let (held, count) = slot.get_or_init(|| (name.into(), AtomicU64::new(0)));
            if **held == *name {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    pub fn each(&self, mut see: impl FnMut(&str, u64)) {
        for (name, count) in self.slots.iter().map_while(OnceLock::get) {
            see(name, count.load(Relaxed));
        }
    }
}
