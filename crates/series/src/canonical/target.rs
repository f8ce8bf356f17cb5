//! One (direction, authority, peer) and how a worker counts on it.

use super::counters::{Block, Family, List, MAX_NAMES, MAX_RESPONSE_KINDS, ResponseKind};
use super::{Classification, Direction, Peer, Response, page};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

/// What times of targets count from: a target is small, and there are many.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Cells of the TCP half.
pub(super) mod tcp {
    pub const OPEN: usize = 0;
    pub const CLOSE_SUCCESS: usize = 1;
    pub const CLOSE_FAILURE: usize = 2;
    pub const READ_BYTES: usize = 3;
    pub const WRITE_BYTES: usize = 4;
    pub const CELLS: usize = 5;
}

/// Cells of the HTTP half; the latency buckets follow.
pub(super) mod http {
    pub const REQUESTS: usize = 0;
    pub const ATTEMPTS: usize = 1;
    pub const RETRIES: usize = 2;
    pub const OK: usize = 3;
    pub const LATENCY_US: usize = 4;
    pub const BUCKETS: usize = 5;
}

/// The counters of one (direction, authority, peer). Its own methods count for the first worker; others hold a [`Slot`].
#[derive(Debug)]
pub struct Target {
    pub(super) direction: Direction,
    pub(super) authority: Arc<str>,
    pub(super) peer: Arc<Peer>,
    /// Rendered label set without braces.
    pub(super) labels: Box<str>,
    /// Upper bounds of the latency buckets in milliseconds.
    pub(super) buckets: Arc<[u64]>,
    workers: usize,
    pub(super) tcp: Block,
    /// Exists when HTTP has been configured or seen.
    http: OnceLock<Box<Http>>,
    named: List<(Family, Box<str>)>,
    /// Until when the peer is left out, milliseconds since [`START`]; 0: it never was.
    ejected_until: AtomicU64,
}

/// The HTTP half of a target.
#[derive(Debug)]
pub(super) struct Http {
    pub cells: Block,
    /// All kinds but [`ResponseKind::OK`].
    pub responses: List<ResponseKind>,
}

impl Target {
    pub(super) fn new(
        direction: Direction,
        authority: Arc<str>,
        peer: Arc<Peer>,
        buckets: Arc<[u64]>,
        workers: usize,
    ) -> Self {
        let target = Target {
            direction,
            labels: page::target_labels(direction, &authority, &peer).into(),
            authority,
            peer,
            buckets,
            workers,
            tcp: Block::new(workers, tcp::CELLS),
            http: OnceLock::new(),
            named: List::default(),
            ejected_until: AtomicU64::new(0),
        };
        if !target.authority.is_empty() {
            target.http_or_new();
        }
        target
    }

    pub(super) fn http(&self) -> Option<&Http> {
        self.http.get().map(Box::as_ref)
    }

    /// Faults or overflows by name.
    pub(super) fn named(&self, family: Family) -> impl Iterator<Item = (&str, u64)> {
        let of_family = self.named.iter().filter(move |((f, _), _)| *f == family);
        of_family.map(|((_, name), count)| (&**name, count))
    }

    fn http_or_new(&self) -> &Http {
        self.http.get_or_init(|| {
            Box::new(Http {
                cells: Block::new(self.workers, http::BUCKETS + self.buckets.len() + 1),
                responses: List::default(),
            })
        })
    }

    fn add_http(&self, worker: usize, cell: usize) {
        self.http_or_new().cells.add(worker, cell, 1);
    }

    fn add_response(&self, worker: usize, response: &Response) {
        let half = self.http_or_new();
        let kind = ResponseKind {
            status: Some(response.status),
            grpc_status: response.grpc_status,
            classification: response.classification,
            from_proxy: response.from_proxy,
        };
        if kind == ResponseKind::OK {
            half.cells.add(worker, http::OK, 1);
        } else {
            let add = |kind: ResponseKind, limit| {
                let at = (worker, self.workers);
                half.responses.add(at, limit, |k| *k == kind, |_| true, || kind)
            };
            // The rest is one of three classifications and two origins: at most six more.
            let _ = add(kind, MAX_RESPONSE_KINDS - 1) || add(kind.rest(), usize::MAX);
        }
        if response.classification != Classification::Aborted {
            let micros = u64::try_from(response.latency.as_micros()).unwrap_or(u64::MAX);
            // `le` is inclusive, and 1.2 ms is above 1 ms.
            let ms = micros.div_ceil(1000);
            let bucket = self.buckets.partition_point(|&bound| bound < ms);
            half.cells.add(worker, http::BUCKETS + bucket, 1);
            half.cells.add(worker, http::LATENCY_US, micros);
        }
    }

    fn add_close(&self, worker: usize, failure: bool) {
        let cell = if failure {
            tcp::CLOSE_FAILURE
        } else {
            tcp::CLOSE_SUCCESS
        };
        self.tcp.add(worker, cell, 1);
    }

    fn add_bytes(&self, worker: usize, read: u64, written: u64) {
        self.tcp.add(worker, tcp::READ_BYTES, read);
        self.tcp.add(worker, tcp::WRITE_BYTES, written);
    }

    fn add_named(&self, worker: usize, family: Family, name: &str) {
        let add = |name: &str, limit| {
            let at = (worker, self.workers);
            let is = |(f, n): &(Family, Box<str>)| *f == family && **n == *name;
            self.named
                .add(at, limit, is, |(f, _)| *f == family, || (family, name.into()))
        };
        let _ = add(name, MAX_NAMES - 1) || add("other", usize::MAX);
    }

    fn add_ejection(&self, worker: usize, reason: &str, lasts: Duration) {
        self.add_named(worker, Family::Ejection, reason);
        let until = START.elapsed().saturating_add(lasts).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.ejected_until.store(until, Ordering::Relaxed);
    }

    /// Whether the peer is left out now.
    pub(super) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until > 0 && START.elapsed().as_millis() < u128::from(until)
    }

    /// [`Slot::request`] of the first worker.
    pub fn request(&self) {
        self.add_http(0, http::REQUESTS);
    }

    /// [`Slot::attempt`] of the first worker.
    pub fn attempt(&self) {
        self.add_http(0, http::ATTEMPTS);
    }

    /// [`Slot::retry`] of the first worker.
    pub fn retry(&self) {
        self.add_http(0, http::RETRIES);
    }

    /// [`Slot::response`] of the first worker.
    pub fn response(&self, response: &Response) {
        self.add_response(0, response);
    }

    /// [`Slot::tcp_open`] of the first worker.
    pub fn tcp_open(&self) {
        self.tcp.add(0, tcp::OPEN, 1);
    }

    /// [`Slot::tcp_close`] of the first worker.
    pub fn tcp_close(&self, failure: bool) {
        self.add_close(0, failure);
    }

    /// [`Slot::tcp_bytes`] of the first worker.
    pub fn tcp_bytes(&self, read: u64, written: u64) {
        self.add_bytes(0, read, written);
    }

    /// [`Slot::fault`] of the first worker.
    pub fn fault(&self, kind: &str) {
        self.add_named(0, Family::Fault, kind);
    }

    /// [`Slot::overflow`] of the first worker.
    pub fn overflow(&self, reason: &str) {
        self.add_named(0, Family::Overflow, reason);
    }

    /// Bytes that it holds for itself, without labels.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let half = self.http().map_or(0, |h| size_of::<Http>() + h.cells.bytes());
        size_of::<Self>() + self.tcp.bytes() + half
    }
}

/// A worker's part of a target: relaxed additions to counters that no other worker writes to.
/// One without a target counts nothing.
#[derive(Clone, Debug)]
pub struct Slot {
    pub(super) target: Option<Arc<Target>>,
    pub(super) worker: usize,
}

impl Slot {
    /// A client's request came in (once, however often it is tried).
    pub fn request(&self) {
        if let Some(target) = &self.target {
            target.add_http(self.worker, http::REQUESTS);
        }
    }

    /// One try of a request, the first included.
    pub fn attempt(&self) {
        if let Some(target) = &self.target {
            target.add_http(self.worker, http::ATTEMPTS);
        }
    }

    /// One try after the first; [`Slot::attempt`] is called as well.
    pub fn retry(&self) {
        if let Some(target) = &self.target {
            target.add_http(self.worker, http::RETRIES);
        }
    }

    /// A response ended. Aborted ones leave no latency: it would be the client's patience.
    pub fn response(&self, response: &Response) {
        if let Some(target) = &self.target {
            target.add_response(self.worker, response);
        }
    }

    /// A connection with the peer was opened.
    pub fn tcp_open(&self) {
        if let Some(target) = &self.target {
            target.tcp.add(self.worker, tcp::OPEN, 1);
        }
    }

    /// A connection with the peer was closed; `failure` when it broke.
    pub fn tcp_close(&self, failure: bool) {
        if let Some(target) = &self.target {
            target.add_close(self.worker, failure);
        }
    }

    /// Bytes read from and written to the peer.
    pub fn tcp_bytes(&self, read: u64, written: u64) {
        if let Some(target) = &self.target {
            target.add_bytes(self.worker, read, written);
        }
    }

    /// A fault was injected: `delay`, `abort`, ...
    pub fn fault(&self, kind: &str) {
        if let Some(target) = &self.target {
            target.add_named(self.worker, Family::Fault, kind);
        }
    }

    /// The peer is left out for so long because of its errors.
    pub fn ejection(&self, reason: &str, lasts: Duration) {
        if let Some(target) = &self.target {
            target.add_ejection(self.worker, reason, lasts);
        }
    }

    /// A request was refused because a limit was reached.
    pub fn overflow(&self, reason: &str) {
        if let Some(target) = &self.target {
            target.add_named(self.worker, Family::Overflow, reason);
        }
    }
}
