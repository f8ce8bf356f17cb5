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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::route::{Forward, Share};
use crate::config::{Active, Cluster, Endpoint, EndpointSource};
use crate::flow::Flow;

use super::record::Record;

/// Wait before a second try at the only endpoint; doubled each time.
const BACK_OFF: Duration = Duration::from_millis(25);
/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_millis(250);

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
}

impl Failure {
    /// The status of the reply that tells it.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 502,
            Self::Connect | Self::Unsent | Self::Reset => 503,
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
    failed: Vec<SocketAddr>,
    left: u32,
}

impl<'a> Attempts<'a> {
    /// None made yet.
    pub fn new(flow: &'a Flow, active: &'a Active, target: Target<'a>) -> Self {
        Self {
            flow,
            active,
            cluster: target.cluster,
            route: target.forward,
            failed: Vec::new(),
            left: target.forward.retry.limit,
        }
    }

    /// The endpoint of the next try, which is counted; `None` where there is none.
    pub fn next(&self, record: &mut Record) -> Option<Endpoint> {
        let endpoint = match self.cluster.spec.source {
            EndpointSource::OriginalDst => self.flow.original_endpoint(self.active),
            _ => self.flow.worker.choose(self.cluster, &self.failed),
        }?;
        record.attempt(self.cluster, &endpoint.peer);
        record.tried(endpoint.address, &endpoint.peer);
        Some(endpoint)
    }

    /// Whether a failed try is followed by another, and after how long.
    pub fn after_failure(&mut self, endpoint: &Endpoint, failure: Failure, body_is_there: bool) -> Option<Duration> {
        let on = &self.route.retry.on;
        let again = match failure {
            Failure::Connect => on.connect_failure,
            Failure::Unsent => on.reset_before_request,
            Failure::Reset | Failure::Malformed => on.reset,
        };
        self.again(endpoint, again && body_is_there)
    }

    /// Whether a response of this status is thrown away for another try, and after how long.
    pub fn after_status(&mut self, endpoint: &Endpoint, status: u16, body_is_there: bool) -> Option<Duration> {
        let again = body_is_there && self.left > 0 && self.route.retry.on.status(status);
        self.again(endpoint, again)
    }

    fn again(&mut self, endpoint: &Endpoint, again: bool) -> Option<Duration> {
        if !again || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let alone = self.cluster.endpoints.iter().all(|e| e.address == endpoint.address);
        let doubled = BACK_OFF * 2u32.saturating_pow(self.failed.len().try_into().unwrap_or(u32::MAX));
        self.failed.push(endpoint.address);
        Some(if alone {
            doubled.min(BACK_OFF_MAX)
        } else {
            Duration::ZERO
        })
    }
}
