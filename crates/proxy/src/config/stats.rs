//! What Envoy's users expect to be counted, beside the canonical series: of clusters, of HTTP chains, of listeners.
//!
//! Enters: what the request path tells, by relaxed additions. Leaves: numbers for `envoy_page`. They live as long as their
//! cluster, chain or listener is configured, whatever else about it changes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::balance::{Cause, Refusal};

/// Upper bounds of Envoy's own latency buckets, in microseconds.
pub const BOUNDS_US: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];
/// Distinct status codes that are told apart; further ones count in their class alone.
const CODES_MAX: usize = 24;
const CLASSES: usize = 5;

/// How requests ended, and how long they took.
#[derive(Debug, Default)]
pub struct Outcomes {
    classes: [AtomicU64; CLASSES],
    /// Code and count; a code of 0 is free.
    codes: [(AtomicU16, AtomicU64); CODES_MAX],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Outcomes {
    fn add(&self, status: u16, duration: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.classes[class].fetch_add(1, Relaxed);
        for (code, count) in &self.codes {
            let held = match code.load(Relaxed) {
                0 => code
                    .compare_exchange(0, status, Relaxed, Relaxed)
                    .map_or_else(|h| h, |_| status),
                held => held,
            };
            if held == status {
                count.fetch_add(1, Relaxed);
                break;
            }
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    /// By class, 1xx first.
    pub fn classes(&self) -> [u64; CLASSES] {
        std::array::from_fn(|i| self.classes[i].load(Relaxed))
    }

    /// By code, in the order of their first use.
    pub fn codes(&self) -> impl Iterator<Item = (u16, u64)> {
        let held = self
            .codes
            .iter()
            .map(|(code, count)| (code.load(Relaxed), count.load(Relaxed)));
        held.take_while(|(code, _)| *code != 0)
    }

    /// Not cumulative, one for each of [`BOUNDS_US`] and one for +Inf.
    pub fn buckets(&self) -> [u64; BOUNDS_US.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    /// Sum of all durations in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.load(Relaxed)
    }
}

/// Counters of one cluster.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Tries sent to any endpoint.
    pub rq_total: AtomicU64,
    /// Tries that are over, however they ended.
    pub rq_ended: AtomicU64,
    /// Tries after the first.
    pub rq_retry: AtomicU64,
    /// Requests that succeeded after a try that had not.
    pub rq_retry_success: AtomicU64,
    /// Requests that ran out of time.
    pub rq_timeout: AtomicU64,
    /// Requests refused because of a limit.
    pub rq_pending_overflow: AtomicU64,
    /// Tries that ran out of their own time.
    pub rq_per_try_timeout: AtomicU64,
    /// Requests not tried again because there were enough tries of others.
    pub rq_retry_overflow: AtomicU64,
    /// Requests not tried again because they had been tried often enough.
    pub rq_retry_limit_exceeded: AtomicU64,
    /// Connections opened.
    pub cx_total: AtomicU64,
    /// Connections closed.
    pub cx_destroy: AtomicU64,
    /// Connections that could not be opened.
    pub cx_connect_fail: AtomicU64,
    /// Connections not opened because of a limit.
    pub cx_overflow: AtomicU64,
    /// Bytes read from endpoints.
    pub cx_rx_bytes: AtomicU64,
    /// Bytes written to endpoints.
    pub cx_tx_bytes: AtomicU64,
    /// Times that the endpoints changed.
    pub membership_change: AtomicU64,
    /// Exists once an endpoint was to be left out.
    ejections: OnceLock<Box<Ejections>>,
    /// Exists once a response came: most of many clusters never see one.
    outcomes: OnceLock<Box<Outcomes>>,
}

impl ClusterStats {
    /// Adds one to a counter.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// A try is sent to an endpoint; `retry`: it is not the first. [`ClusterStats::rq_end`] must follow.
    pub fn rq_begin(&self, retry: bool) {
        Self::add(&self.rq_total);
        if retry {
            Self::add(&self.rq_retry);
        }
    }

    /// A try is over.
    pub fn rq_end(&self) {
        Self::add(&self.rq_ended);
    }

    /// A response, or a reply made in its place, ended `duration` after the request began.
    pub fn rq_completed(&self, status: u16, duration: Duration) {
        self.outcomes.get_or_init(Box::default).add(status, duration);
    }

    /// A request succeeded after a try that had not.
    pub fn rq_retry_success(&self) {
        Self::add(&self.rq_retry_success);
    }

    /// A request ran out of time.
    pub fn rq_timeout(&self) {
        Self::add(&self.rq_timeout);
    }

    /// A request was refused because of a limit.
    pub fn rq_overflow(&self) {
        Self::add(&self.rq_pending_overflow);
    }

    /// A connection was opened. [`ClusterStats::cx_close`] must follow.
    pub fn cx_open(&self) {
        Self::add(&self.cx_total);
    }

    /// A connection was closed.
    pub fn cx_close(&self) {
        Self::add(&self.cx_destroy);
    }

    /// A connection could not be opened.
    pub fn cx_connect_fail(&self) {
        Self::add(&self.cx_connect_fail);
    }

    /// A connection was not opened because of a limit.
    pub fn cx_overflow(&self) {
        Self::add(&self.cx_overflow);
    }

    /// Bytes read from and written to an endpoint.
    pub fn cx_bytes(&self, read: u64, written: u64) {
        self.cx_rx_bytes.fetch_add(read, Relaxed);
        self.cx_tx_bytes.fetch_add(written, Relaxed);
    }

    /// Tries under way.
    pub fn rq_active(&self) -> u64 {
        let ended = self.rq_ended.load(Relaxed);
        self.rq_total.load(Relaxed).saturating_sub(ended)
    }

    /// An endpoint was to be left out, and was not where there is a `refusal`.
    pub fn ejection(&self, cause: Cause, refusal: Option<Refusal>) {
        let ejections = self.ejections.get_or_init(Box::default);
        match refusal {
            None => Self::add(&ejections.by_cause[cause as usize]),
            Some(Refusal::TooMany) => Self::add(&ejections.overflow),
            Some(Refusal::Out) => {}
        }
    }

    /// How often endpoints were left out, for each [`Cause`], and how often they were not because too many were.
    pub fn ejections(&self) -> ([u64; 3], u64) {
        self.ejections.get().map_or(([0; 3], 0), |e| {
            (e.by_cause.each_ref().map(|n| n.load(Relaxed)), e.overflow.load(Relaxed))
        })
    }

    /// How responses ended; `None`: there was none yet.
    pub fn outcomes(&self) -> Option<&Outcomes> {
        self.outcomes.get().map(Box::as_ref)
    }
}

/// Endpoints that were left out.
#[derive(Debug, Default)]
struct Ejections {
    by_cause: [AtomicU64; 3],
    overflow: AtomicU64,
}

/// What is injected on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// A wait.
    Delay,
    /// An error.
    Abort,
    /// A slow response.
    Limit,
}

impl FaultKind {
    /// As series name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Limit => "bandwidth",
        }
    }
}

/// Counters of the HTTP chains with one `stat_prefix`.
#[derive(Debug, Default)]
pub struct HttpStats {
    /// Connections that came.
    pub cx_total: AtomicU64,
    /// Connections that ended.
    pub cx_destroy: AtomicU64,
    /// Bytes read from clients.
    pub cx_rx_bytes: AtomicU64,
    /// Bytes written to clients.
    pub cx_tx_bytes: AtomicU64,
    /// Requests that came.
    pub rq_total: AtomicU64,
    /// Requests of which the client saw no end.
    pub rq_rx_reset: AtomicU64,
    /// What came and is no HTTP, or breaks its rules.
    pub protocol_error: AtomicU64,
    /// Heads of requests that did not come in time.
    pub rq_header_timeout: AtomicU64,
    /// Requests whose clients' own time was over.
    pub rq_max_duration_reached: AtomicU64,
    /// Requests that no route matches.
    pub no_route: AtomicU64,
    /// Requests whose route names a cluster that is not there.
    pub no_cluster: AtomicU64,
    /// Requests that a route itself answers.
    pub rq_direct_response: AtomicU64,
    /// Requests that were made to wait.
    pub fault_delays: AtomicU64,
    /// Requests that were answered with an error on purpose.
    pub fault_aborts: AtomicU64,
    /// Responses that were slowed down.
    pub fault_limits: AtomicU64,
    /// How responses ended.
    pub outcomes: Outcomes,
}

impl HttpStats {
    /// A connection came. [`HttpStats::cx_close`] must follow.
    pub fn cx_open(&self) {
        ClusterStats::add(&self.cx_total);
    }

    /// A connection ended.
    pub fn cx_close(&self) {
        ClusterStats::add(&self.cx_destroy);
    }

    /// Bytes read from and written to a client.
    pub fn cx_bytes(&self, read: u64, written: u64) {
        self.cx_rx_bytes.fetch_add(read, Relaxed);
        self.cx_tx_bytes.fetch_add(written, Relaxed);
    }

    /// A request came. [`HttpStats::rq_completed`] or [`HttpStats::rq_reset`] must follow.
    pub fn rq_begin(&self) {
        ClusterStats::add(&self.rq_total);
    }

    /// A response ended `duration` after its request began.
    pub fn rq_completed(&self, status: u16, duration: Duration) {
        self.outcomes.add(status, duration);
    }

    /// The client went away before its response ended.
    pub fn rq_reset(&self) {
        ClusterStats::add(&self.rq_rx_reset);
    }

    /// Something came that is no HTTP.
    pub fn protocol_error(&self) {
        ClusterStats::add(&self.protocol_error);
    }

    /// The head of a request did not come in time.
    pub fn header_timeout(&self) {
        ClusterStats::add(&self.rq_header_timeout);
    }

    /// The time that a client gave its request is over.
    pub fn expired(&self) {
        ClusterStats::add(&self.rq_max_duration_reached);
    }

    /// No route matches a request.
    pub fn no_route(&self) {
        ClusterStats::add(&self.no_route);
    }

    /// The cluster of a route is not there.
    pub fn no_cluster(&self) {
        ClusterStats::add(&self.no_cluster);
    }

    /// A fault was injected.
    pub fn fault(&self, kind: FaultKind) {
        ClusterStats::add(match kind {
            FaultKind::Delay => &self.fault_delays,
            FaultKind::Abort => &self.fault_aborts,
            FaultKind::Limit => &self.fault_limits,
        });
    }

    /// A route itself answers a request.
    pub fn direct_response(&self) {
        ClusterStats::add(&self.rq_direct_response);
    }
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Connections accepted.
    pub cx_total: AtomicU64,
    /// Connections that ended.
    pub cx_destroy: AtomicU64,
    /// Connections for which there was no chain.
    pub no_filter_chain_match: AtomicU64,
    /// Connections closed at once because too many were open.
    pub cx_overflow: AtomicU64,
}

impl ListenerStats {
    /// A connection was accepted. [`ListenerStats::cx_close`] must follow.
    pub fn cx_open(&self) {
        ClusterStats::add(&self.cx_total);
    }

    /// A connection ended.
    pub fn cx_close(&self) {
        ClusterStats::add(&self.cx_destroy);
    }

    /// Too many connections are open for another one.
    pub fn overflow(&self) {
        ClusterStats::add(&self.cx_overflow);
    }

    /// There is no chain for a connection.
    pub fn no_chain(&self) {
        ClusterStats::add(&self.no_filter_chain_match);
    }
}
