//! The counters behind a target: one block for each worker, so that no two workers write to one line of memory.

use super::Classification;
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Upper bounds of the latency buckets in milliseconds where nothing else is configured; the last bucket is +Inf.
pub const BUCKETS_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1000, 2000, 3000, 4000, 5000, 10_000, 20_000, 30_000,
    40_000, 50_000,
];

/// Distinct (status, gRPC status, classification, origin) of one target; a peer that sends more gets `status_code="other"`.
pub const MAX_RESPONSE_KINDS: usize = 48;

/// Distinct names in one family of a target (faults, overflows); further ones count as `other`.
pub const MAX_NAMES: usize = 16;

/// Counters in a line of memory (64 bytes).
const LINE: usize = 8;

/// `width` counters for each worker.
#[derive(Debug)]
pub(super) struct Block {
    cells: Box<[AtomicU64]>,
    workers: usize,
}

impl Block {
    pub fn new(workers: usize, width: usize) -> Self {
        let cells = if workers < 2 {
            width
        } else {
            workers * Self::stride(workers, width)
        };
        Block {
            cells: std::iter::repeat_with(AtomicU64::default).take(cells).collect(),
            workers,
        }
    }

    /// Blocks of two workers lie a whole line apart, wherever the allocation begins.
    fn stride(workers: usize, width: usize) -> usize {
        if workers < 2 {
            width
        } else {
            width.next_multiple_of(LINE) + LINE
        }
    }

    pub fn add(&self, worker: usize, cell: usize, n: u64) {
        let stride = self.cells.len() / self.workers;
        self.cells[worker * stride + cell].fetch_add(n, Relaxed);
    }

    /// Over all workers.
    pub fn sum(&self, cell: usize) -> u64 {
        let stride = self.cells.len() / self.workers;
        let cells = self.cells.iter().skip(cell).step_by(stride);
        cells.fold(0, |sum, c| sum.wrapping_add(c.load(Relaxed)))
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.cells.len() * size_of::<AtomicU64>()
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

impl ResponseKind {
    /// Its series exists from the beginning: a rate of successes must be zero, not absent.
    pub const OK: Self = ResponseKind {
        status: Some(200),
        grpc_status: None,
        classification: Classification::Success,
        from_proxy: false,
    };

    /// Where those count that are too many.
    pub fn rest(self) -> Self {
        ResponseKind {
            status: None,
            grpc_status: None,
            ..self
        }
    }
}

/// A name in one of a target's families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Injected faults by kind.
    Fault,
    /// Refused requests by reason.
    Overflow,
    /// Ejections of the peer by reason.
    Ejection,
}

/// An append-only list of counters. Targets see few kinds, the commonest first, so a walk is shorter than a hash.
#[derive(Debug)]
pub(super) struct List<K> {
    first: OnceLock<Box<Link<K>>>,
}

#[derive(Debug)]
struct Link<K> {
    key: K,
    count: Block,
    next: OnceLock<Box<Link<K>>>,
}

impl<K> Default for List<K> {
    fn default() -> Self {
        List { first: OnceLock::new() }
    }
}

impl<K> List<K> {
    /// Adds one to the counter that `is` recognises, made by `make` if there is none and fewer than `limit` of those
    /// that `counts` towards it; `false`: the list is full.
    pub fn add(
        &self,
        (worker, workers): (usize, usize),
        limit: usize,
        is: impl Fn(&K) -> bool,
        counts: impl Fn(&K) -> bool,
        make: impl Fn() -> K,
    ) -> bool {
        let mut end = &self.first;
        let mut length = 0;
        loop {
            let link = match end.get() {
                Some(link) => link,
                None if length >= limit => return false,
                // Two threads may race for the end of the list: the loser walks on and appends behind the winner.
                None => end.get_or_init(|| {
                    Box::new(Link {
                        key: make(),
                        count: Block::new(workers, 1),
                        next: OnceLock::new(),
                    })
                }),
            };
            if is(&link.key) {
                link.count.add(worker, 0, 1);
                return true;
            }
            length += usize::from(counts(&link.key));
            end = &link.next;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, u64)> {
        std::iter::successors(self.first.get(), |link| link.next.get()).map(|link| (&link.key, link.count.sum(0)))
    }
}
