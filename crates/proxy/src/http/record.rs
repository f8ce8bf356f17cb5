//! What is counted about one request, exactly once, however it ends.
//!
//! Enters: what happened to a request, step by step. Leaves: the canonical series. The last endpoint tried stands for the
//! request; dropping a record that was not ended means that the client went away.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use weir_series::canonical::{Classification, Peer, Response, Target, classify};

use crate::flow::Flow;

/// The record of one request.
pub struct Record {
    flow: Rc<Flow>,
    started: Instant,
    authority: Option<Arc<str>>,
    target: Option<Arc<Target>>,
    tries: u32,
    requested: bool,
    status: u16,
    grpc: bool,
    grpc_status: Option<u16>,
    ended: bool,
}

impl Record {
    /// Begins a record. A muted one (a probe) counts nothing.
    pub fn new(flow: Rc<Flow>, muted: bool) -> Self {
        Self {
            flow,
            started: Instant::now(),
            authority: None,
            target: None,
            tries: 0,
            requested: false,
            status: 0,
            grpc: false,
            grpc_status: None,
            ended: muted,
        }
    }

    /// When the request's head was read.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Which configured host the request is for; `None`: none of them.
    pub fn authority(&mut self, authority: Option<Arc<str>>) {
        self.authority = authority;
    }

    fn find(&self, peer: &Arc<Peer>) -> Arc<Target> {
        let worker = &self.flow.worker;
        let authority = self.authority.as_ref().unwrap_or(&worker.other);
        worker.target(self.flow.direction, Some(authority), peer)
    }

    /// The request is sent to an endpoint. Inbound, the other side is the client whichever endpoint is tried.
    pub fn attempt(&mut self, endpoint: &Arc<Peer>) {
        if self.ended {
            return;
        }
        let peer = self.flow.other_side(endpoint);
        let target = self.find(&peer);
        target.attempt();
        if self.tries > 0 {
            target.retry();
        }
        self.tries += 1;
        self.target = Some(target);
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

    /// The proxy answers by itself.
    pub fn local(&mut self, status: u16) {
        self.target = None;
        self.status = status;
        self.end(classify(status, None, false), true);
    }

    fn request(&mut self) {
        if !self.ended && !self.requested {
            self.requested = true;
            self.target().request();
        }
    }

    fn target(&mut self) -> Arc<Target> {
        if let Some(target) = &self.target {
            return Arc::clone(target);
        }
        let peer = self.flow.other_side(&self.flow.worker.nobody);
        let target = self.find(&peer);
        self.target = Some(Arc::clone(&target));
        target
    }

    fn end(&mut self, classification: Classification, from_proxy: bool) {
        if self.ended {
            return;
        }
        self.request();
        self.ended = true;
        self.target().response(&Response {
            status: self.status,
            grpc_status: self.grpc_status,
            classification,
            from_proxy,
            latency: self.started.elapsed(),
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Classification::Aborted, false);
    }
}
