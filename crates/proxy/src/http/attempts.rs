//! Which endpoint a request is tried at, and whether it is tried once more.
//!
//! Enters: a route, a cluster, outcomes. Leaves: endpoints, and verdicts. Knows nothing of how a try is made.
//!
//! What is tried again, and when:
//! - No connection to an endpoint: nothing was sent, so any request may be tried again, elsewhere where there is an elsewhere.
//! - A kept connection turns out closed before a byte of the response came. If the request was not written at all, any
//!   request is sent again; else only one that may be executed twice (RFC 9110, 9.2.2). Neither counts as a try of its own:
//!   whoever makes the try does that.
//! - What the route's retry policy says, if the body is still there.
//!
//! A try that is not sent because of a limit is no try: it is not recorded, and not followed by another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::{Cause, Host, Limit, Permit};
use crate::config::route::{Forward, Share};
use crate::config::upstream::Outlier;
use crate::config::{Active, Cluster, ClusterStats, Endpoint, EndpointSource, LbPolicy};
use crate::flow::Flow;
use crate::random;

use super::record::Record;

/// Why a try brought no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection broke; nothing of the request was written.
    Unsent,
    /// The connection broke before the response.
    Reset,
    /// The response was none that HTTP knows.
    Malformed,
    /// The endpoint did not take the stream.
    Refused,
    /// No response in the time that a try has.
    Timeout,
    /// There are too many requests, or too many wait for a connection: nothing was tried.
    Overflow(Limit),
}

impl Failure {
    /// The status of the reply that tells it.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 502,
            Self::Timeout => 504,
            Self::Connect | Self::Unsent | Self::Reset | Self::Refused | Self::Overflow(_) => 503,
        }
    }

    /// The text of the reply that tells it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connect => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
            }
            Self::Unsent | Self::Reset => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            }
            Self::Malformed => {
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
            }
            Self::Refused => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset"
            }
            Self::Timeout => "upstream request timeout",
            Self::Overflow(_) => "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        }
    }
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// To one of its endpoints.
    pub cluster: &'a Arc<Cluster>,
    /// As its route says.
    pub forward: &'a Forward,
    /// The part of a split that was drawn.
    pub share: Option<&'a Share>,
}

/// The tries of one request.
pub struct Attempts<'a> {
    flow: &'a Flow,
    active: &'a Active,
    cluster: &'a Arc<Cluster>,
    route: &'a Forward,
    hash: Option<u64>,
    failed: Vec<SocketAddr>,
    left: u32,
    current: Try,
    /// Held while a try after the first is under way.
    _retry: Option<Permit>,
}

/// The try under way.
#[derive(Default)]
struct Try {
    /// Its endpoint's place among the members of the cluster.
    place: usize,
    /// The endpoint counts it among its requests.
    counted: bool,
    /// When it began, where that matters.
    begun: Option<Instant>,
    /// It is recorded.
    recorded: bool,
    /// It counts among the cluster's requests.
    permit: Option<Permit>,
}

impl<'a> Attempts<'a> {
    /// None made yet.
    pub fn new(flow: &'a Flow, active: &'a Active, target: Target<'a>, hash: Option<u64>) -> Self {
        Self {
            flow,
            active,
            cluster: target.cluster,
            route: target.forward,
            hash,
            failed: Vec::new(),
            left: target.forward.retry.limit,
            current: Try::default(),
            _retry: None,
        }
    }

    /// The endpoint of the next try, which is counted; `None` where there is none.
    pub fn next(&mut self, record: &mut Record) -> Option<Endpoint> {
        self.release();
        let spec = &self.cluster.spec;
        let (endpoint, place) = match spec.source {
            EndpointSource::OriginalDst => (self.flow.original_endpoint(self.active)?, usize::MAX),
            _ => {
                let chosen = self.flow.worker.choose(self.cluster, self.hash, &self.failed)?;
                (chosen.endpoint, chosen.place)
            }
        };
        self.current.place = place;
        if spec.policy.counts_requests()
            && let Some(host) = self.cluster.members.host(place)
        {
            host.begin();
            self.current.counted = true;
            self.current.begun = (spec.policy == LbPolicy::PeakEwma).then(Instant::now);
        }
        if !spec.limits.of_requests() {
            self.record(&endpoint, record);
        }
        Some(endpoint)
    }

    /// There is a connection: the request may be sent, unless there are too many.
    pub fn admit(&mut self, endpoint: &Endpoint, record: &mut Record) -> Result<(), Failure> {
        let limits = &self.cluster.spec.limits;
        if limits.requests.is_some() && self.current.permit.is_none() {
            self.current.permit = self.cluster.breaker.request(limits);
            if self.current.permit.is_none() {
                self.cluster.stats.rq_overflow();
                return Err(Failure::Overflow(Limit::Requests));
            }
        }
        self.record(endpoint, record);
        Ok(())
    }

    fn record(&mut self, endpoint: &Endpoint, record: &mut Record) {
        if !self.current.recorded {
            self.current.recorded = true;
            record.attempt(self.cluster, &endpoint.peer);
            record.tried(endpoint.address, &endpoint.peer);
        }
    }

    /// To where all of them go.
    pub fn cluster(&self) -> &'a Arc<Cluster> {
        self.cluster
    }

    /// The time of a try.
    pub fn time(&self) -> Option<Duration> {
        self.route.retry.per_try
    }

    /// Whether a failed try is followed by another, and after how long.
    pub fn after_failure(
        &mut self,
        endpoint: &Endpoint,
        failure: Failure,
        body_is_there: bool,
        record: &mut Record,
    ) -> Option<Duration> {
        self._retry = None;
        if let Failure::Overflow(_) = failure {
            return None;
        }
        self.record(endpoint, record);
        self.took(true);
        self.watch(record, |host, outlier| {
            host.failed(failure != Failure::Timeout, outlier)
        });
        let on = &self.route.retry.on;
        let again = match failure {
            Failure::Connect => on.connect_failure,
            Failure::Unsent => on.reset_before_request,
            Failure::Refused => on.refused_stream || on.reset_before_request,
            Failure::Reset | Failure::Malformed | Failure::Timeout => on.reset,
            Failure::Overflow(_) => false,
        };
        if !again || !body_is_there {
            return None;
        }
        let unseen = matches!(failure, Failure::Connect | Failure::Unsent | Failure::Refused);
        self.again(endpoint, unseen, record)
    }

    /// Whether a response is thrown away for another try, and after how long.
    pub fn after_answer(
        &mut self,
        endpoint: &Endpoint,
        (status, grpc): (u16, Option<u16>),
        body_is_there: bool,
        record: &mut Record,
    ) -> Option<Duration> {
        self._retry = None;
        self.took(false);
        self.watch(record, |host, outlier| {
            host.answered(grpc.map_or(status, status_of_grpc), outlier)
        });
        if !self.route.retry.answer(status, grpc) || !body_is_there {
            return None;
        }
        self.again(endpoint, false, record)
    }

    /// The time of the whole request is over while an answer is awaited.
    pub fn timed_out(&mut self, record: &mut Record) {
        self.took(true);
        self.watch(record, |host, outlier| host.failed(false, outlier));
    }

    /// Notes how long the try took to its answer.
    fn took(&mut self, failed: bool) {
        if let Some(begun) = self.current.begun.take()
            && let Some(host) = self.cluster.members.host(self.current.place)
        {
            host.took(begun.elapsed(), failed);
        }
    }

    /// Tells the endpoint's record how the try ended, and leaves the endpoint out where that is too much.
    fn watch(&self, record: &mut Record, end: impl FnOnce(&Host, &Outlier) -> Option<Cause>) {
        let Some(outlier) = &self.cluster.spec.outlier else {
            return;
        };
        let Some(host) = self.cluster.members.host(self.current.place) else {
            return;
        };
        if let Some(cause) = end(host, outlier) {
            let outcome = self.cluster.members.eject(self.current.place, outlier);
            self.cluster.stats.ejection(cause, outcome.err());
            if let Ok(lasts) = outcome {
                record.ejected(cause, lasts);
            }
        }
    }

    fn again(&mut self, endpoint: &Endpoint, unseen: bool, record: &mut Record) -> Option<Duration> {
        if self.left == 0 {
            if self.route.retry.limit > 0 {
                ClusterStats::add(&self.cluster.stats.rq_retry_limit_exceeded);
                record.exhausted();
            }
            return None;
        }
        let (limits, breaker) = (&self.cluster.spec.limits, &self.cluster.breaker);
        if limits.retries.is_some() {
            let [_, pending, ..] = breaker.counts();
            match breaker.retry(limits, self.cluster.stats.rq_active() + u64::from(pending)) {
                Ok(permit) => self._retry = permit,
                Err(limit) => {
                    ClusterStats::add(&self.cluster.stats.rq_retry_overflow);
                    record.overflow(limit);
                    return None;
                }
            }
        }
        self.left -= 1;
        let alone = self.cluster.endpoints.iter().all(|e| e.address == endpoint.address);
        let tries = u32::try_from(self.failed.len()).unwrap_or(u32::MAX);
        self.failed.push(endpoint.address);
        if unseen && !alone {
            return Some(Duration::ZERO);
        }
        let back_off = self.route.retry.back_off;
        let longest = back_off
            .base
            .saturating_mul(2u32.saturating_pow(tries))
            .min(back_off.max);
        // Between half of it and all: those who failed together do not come back together.
        let half = u64::try_from(longest.as_micros() / 2).unwrap_or(u64::MAX);
        Some(Duration::from_micros(half + random::below(half)))
    }

    /// The try under way is over.
    fn release(&mut self) {
        let current = std::mem::take(&mut self.current);
        if current.counted
            && let Some(host) = self.cluster.members.host(current.place)
        {
            host.end();
        }
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// What a gRPC status would be as one of HTTP, as far as it says something about the endpoint.
fn status_of_grpc(status: u16) -> u16 {
    match status {
        2 | 13 | 15 => 500,
        12 => 501,
        14 => 503,
        4 => 504,
        _ => 200,
    }
}
