//! What is counted about one request, exactly once, however it ends.
//!
//! Enters: what happened to a request, step by step. Leaves: the canonical series, and the counters that Envoy's users
//! know. The last endpoint tried stands for the request; dropping a record that was not ended means that the client went
//! away.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_series::canonical::{Classification, Peer, Response, Slot, classify};

use crate::access_log::{self, Entry};
use crate::balance::{Cause, Limit};
use crate::config::stats::FaultKind;
use crate::config::{Cluster, HttpStats, Telemetry};
use crate::flow::Flow;
use crate::http::lifetime::Lifetime;
use crate::http::reply::Reply;
use crate::trace::{Outcome, Trace};

/// The record of one request.
pub struct Record {
    flow: Rc<Flow>,
    stats: Arc<HttpStats>,
    started: Instant,
    authority: Option<Arc<str>>,
    /// The last that was tried.
    cluster: Option<Arc<Cluster>>,
    slot: Option<Slot>,
    tries: u32,
    requested: bool,
    status: u16,
    grpc: bool,
    grpc_status: Option<u16>,
    /// What traces are told of it; `None`: nothing.
    trace: Option<Box<Trace>>,
    /// Its line in the access log; `None`: there is none.
    log: Option<Box<Entry>>,
    /// Why there is no answer of an endpoint, in Envoy's letters.
    flags: &'static str,
    /// It failed although it was tried as often as may be.
    exhausted: bool,
    /// Its client's own time was over: nothing that the cluster is to blame for.
    expired: bool,
    ended: bool,
    /// It is of a copy, which is no request of the client.
    shadow: bool,
}

impl Record {
    /// Begins a record. A muted one (a probe) counts nothing.
    pub fn new(flow: &Rc<Flow>, stats: &Arc<HttpStats>, muted: bool) -> Self {
        if !muted {
            stats.rq_begin();
        }
        Self {
            flow: Rc::clone(flow),
            stats: Arc::clone(stats),
            started: Instant::now(),
            authority: None,
            cluster: None,
            slot: None,
            tries: 0,
            requested: false,
            status: 0,
            grpc: false,
            grpc_status: None,
            trace: None,
            log: None,
            flags: "-",
            exhausted: false,
            expired: false,
            ended: muted,
            shadow: false,
        }
    }

    /// The record of a copy: its tries are counted, and what its cluster counts.
    pub fn shadow(&self) -> Self {
        Self {
            flow: Rc::clone(&self.flow),
            stats: Arc::clone(&self.stats),
            started: Instant::now(),
            authority: self.authority.clone(),
            cluster: None,
            slot: None,
            tries: 0,
            requested: true,
            status: 0,
            grpc: false,
            grpc_status: None,
            // Traces and logs tell of the request, not of its copies.
            trace: None,
            log: None,
            flags: "-",
            exhausted: false,
            expired: false,
            ended: false,
            shadow: true,
        }
    }

    /// When the request's head was read.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether anything is counted any more.
    pub fn is_open(&self) -> bool {
        !self.ended
    }

    /// Traces are told of it.
    pub fn trace(&mut self, trace: Option<Box<Trace>>) {
        self.trace = trace;
    }

    /// The access log is told of it.
    pub fn log(&mut self, entry: Box<Entry>) {
        self.log = Some(entry);
    }

    /// Why there is no answer of an endpoint, in Envoy's letters.
    pub fn flag(&mut self, flags: &'static str) {
        self.flags = flags;
    }

    /// No other try follows a failed one: there were as many as there may be.
    pub fn exhausted(&mut self) {
        self.exhausted = true;
    }

    /// How much came of the request's body, for the access log.
    pub fn received(&mut self, bytes: impl FnOnce() -> u64) {
        if let Some(log) = &mut self.log {
            log.received(bytes());
        }
    }

    /// How much of a response's body went to the client, for the access log.
    pub fn sent(&mut self, bytes: impl FnOnce() -> u64) {
        if let Some(log) = &mut self.log {
            log.sent(bytes());
        }
    }

    /// Where a try goes, for traces and the access log.
    pub fn tried(&mut self, address: SocketAddr, endpoint: &Arc<Peer>) {
        if let Some(log) = &mut self.log {
            log.tried(address);
        }
        if let Some(trace) = &mut self.trace {
            trace.endpoint = Some((address, Arc::clone(endpoint)));
        }
    }

    /// Which configured host the request is for; `None`: none of them.
    pub fn authority(&mut self, authority: Option<Arc<str>>) {
        self.authority = authority;
    }

    /// The request is sent to an endpoint. Inbound, the other side is the client whichever endpoint is tried.
    pub fn attempt(&mut self, cluster: &Arc<Cluster>, endpoint: &Arc<Peer>) {
        if self.ended {
            return;
        }
        if self.tries > 0 {
            cluster.stats.rq_end();
        } else {
            self.cluster = Some(Arc::clone(cluster));
        }
        cluster.stats.rq_begin(self.tries > 0);
        let peer = self.flow.other_side(endpoint);
        let slot = self.find(&peer);
        slot.attempt();
        if self.tries > 0 {
            slot.retry();
        }
        self.tries += 1;
        self.slot = Some(slot);
    }

    /// The head of an endpoint's response is the one that the client gets.
    pub fn answered(&mut self, status: u16, grpc: bool, grpc_status: Option<u16>) {
        if let Some(log) = &mut self.log {
            log.answered();
        }
        self.head(status, grpc, grpc_status);
    }

    /// The head of the response to the client is decided.
    pub fn head(&mut self, status: u16, grpc: bool, grpc_status: Option<u16>) {
        self.status = status;
        self.grpc = grpc;
        self.grpc_status = grpc_status;
        self.request();
    }

    /// Trailers came.
    pub fn trailers(&mut self, grpc_status: Option<u16>) {
        self.grpc_status = grpc_status.or(self.grpc_status);
    }

    /// The response ended as it should.
    pub fn complete(&mut self) {
        self.end(classify(self.status, self.grpc_status, self.grpc), false);
    }

    /// The endpoint failed: no connection, a broken one, or no answer in time.
    pub fn upstream_failed(&mut self) {
        self.end(Classification::Failure, false);
    }

    /// The request ran out of time.
    pub fn timed_out(&mut self) {
        if let Some(cluster) = self.cluster.as_ref().filter(|_| !self.ended) {
            cluster.stats.rq_timeout();
        }
        self.upstream_failed();
    }

    /// The time that its client gave it is over.
    pub fn expired(&mut self) {
        if !self.ended {
            self.stats.expired();
        }
        self.expired = true;
        self.upstream_failed();
    }

    /// A response broke off for want of its rest, or of time.
    pub fn broken(&mut self, time: &Lifetime) {
        self.flag(time.broken());
        match time.is_past_call() {
            true => self.expired(),
            false => self.upstream_failed(),
        }
    }

    /// A limit of the cluster was reached.
    pub fn overflow(&mut self, limit: Limit) {
        if !self.ended {
            self.slot().overflow(limit.name());
        }
    }

    /// A copy of it is not made, because too many are under way.
    pub fn copy_refused(&self) {
        self.find(&self.flow.other_side(&self.flow.worker.nobody))
            .overflow("max_copies");
    }

    /// The endpoint tried last is left out for so long.
    pub fn ejected(&mut self, cause: Cause, lasts: Duration) {
        if !self.ended {
            self.slot().ejection(cause.name(), lasts);
        }
    }

    /// The proxy answers by itself.
    pub fn reply(&mut self, reply: &Reply) {
        self.sent(|| reply.body.len() as u64);
        self.slot = None;
        self.status = reply.status;
        self.grpc_status = reply.grpc_status();
        self.grpc = self.grpc_status.is_some();
        self.end(classify(self.status, self.grpc_status, self.grpc), true);
    }

    /// What was begun is no request: nothing more is counted about it here.
    pub fn mute(&mut self) {
        self.ended = true;
    }

    /// No route matches.
    pub fn no_route(&mut self) {
        self.flag("NR");
        if !self.ended {
            self.stats.no_route();
        }
    }

    /// The cluster of the route is not there.
    pub fn no_cluster(&self) {
        if !self.ended {
            self.stats.no_cluster();
        }
    }

    /// A fault is injected on purpose.
    pub fn fault(&mut self, kind: FaultKind) {
        self.flag(match kind {
            FaultKind::Delay => "DI",
            FaultKind::Abort => "FI",
            FaultKind::Limit => "-",
        });
        if !self.ended {
            self.stats.fault(kind);
            self.slot().fault(kind.name());
        }
    }

    /// The route itself is the answer.
    pub fn direct_response(&self) {
        if !self.ended {
            self.stats.direct_response();
        }
    }

    fn request(&mut self) {
        if !self.ended && !self.requested {
            self.requested = true;
            self.slot().request();
        }
    }

    fn find(&self, peer: &Arc<Peer>) -> Slot {
        let worker = &self.flow.worker;
        let authority = self.authority.as_ref().unwrap_or(&worker.other);
        let usual;
        let telemetry = match &self.cluster {
            Some(cluster) => &cluster.spec.telemetry,
            None => {
                usual = Telemetry::usual();
                &usual
            }
        };
        worker.slot(self.flow.direction, Some(authority), peer, telemetry)
    }

    fn slot(&mut self) -> &Slot {
        let slot = self.slot.take().unwrap_or_else(|| {
            let peer = self.flow.other_side(&self.flow.worker.nobody);
            self.find(&peer)
        });
        self.slot.insert(slot)
    }

    fn end(&mut self, classification: Classification, from_proxy: bool) {
        if self.ended {
            return;
        }
        self.request();
        self.ended = true;
        let latency = self.started.elapsed();
        let response = Response {
            status: self.status,
            grpc_status: self.grpc_status,
            classification,
            from_proxy,
            latency,
        };
        if !self.shadow {
            self.slot().response(&response);
        }
        let aborted = classification == Classification::Aborted;
        if let Some(cluster) = &self.cluster {
            cluster.stats.rq_end();
            if !aborted && !self.expired {
                cluster.stats.rq_completed(self.status, latency);
                if self.tries > 1 && classification == Classification::Success {
                    cluster.stats.rq_retry_success();
                }
            }
        }
        if aborted {
            self.flags = "DC";
        }
        let flags = match (self.flags, self.exhausted) {
            (flags, false) => Cow::Borrowed(flags),
            ("-", true) => Cow::Borrowed("URX"),
            (flags, true) => Cow::Owned(format!("URX,{flags}")),
        };
        if let Some(log) = self.log.take() {
            let outcome = access_log::Outcome {
                status: self.status,
                flags: &flags,
                duration: latency,
            };
            self.flow.worker.shared.access_log.offer(log.line(&outcome));
        }
        if let Some(trace) = self.trace.take() {
            let outcome = Outcome {
                duration: latency,
                status: self.status,
                grpc_status: self.grpc_status,
                failed: classification == Classification::Failure,
                flags: &flags,
                cluster: self.cluster.as_deref(),
                source: self.flow.source,
                client: &self.flow.client(),
                tries: self.tries,
            };
            trace
                .end(&outcome)
                .for_each(|span| self.flow.worker.shared.traces.offer(span));
        }
        match aborted {
            _ if self.shadow => {}
            true => self.stats.rq_reset(),
            false => self.stats.rq_completed(self.status, latency),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Classification::Aborted, false);
    }
}
