//! Traces: which requests are recorded, how that is passed on, and what is told of them.
//!
//! ```text
//!  request ─▶ context (read) ─▶ begin ─▶ context (written anew) ─▶ endpoint
//!                                 └─▶ Trace ─ response ─▶ Span ─▶ exporter ─▶ zipkin | otlp ─▶ collector
//! ```
//!
//! Enters: headers of requests, what became of them. Leaves: headers, and spans at a collector, which the administration
//! thread sends. A request never waits for any of that: what the collector does not take in time is dropped and counted.

pub mod context;
mod exporter;
mod otlp;
pub mod span;
mod zipkin;

pub use context::Context;
pub use exporter::{Traces, run};
pub use span::Teller;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weir_series::canonical::{Direction, Peer};

use crate::config::route::edit::Editable;
use crate::config::route::matching::path_of;
use crate::config::trace::{Backend, Tracing};
use crate::config::{Cluster, Route};
use crate::random::random;
use context::{Ids, Incoming};
use span::{Kind, Span};

/// A request that is recorded.
#[derive(Debug)]
pub struct Trace {
    backend: Arc<Backend>,
    /// The span of the server side, then that of the client side.
    sides: Vec<(Kind, Ids)>,
    debug: bool,
    name: Arc<str>,
    begin: SystemTime,
    tags: Vec<(&'static str, String)>,
    /// The endpoint that was tried last, and who that is.
    pub endpoint: Option<(SocketAddr, Arc<Peer>)>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// Until the response had passed.
    pub duration: Duration,
    /// HTTP status; 0: there was none.
    pub status: u16,
    /// Of gRPC.
    pub grpc_status: Option<u16>,
    /// It counts as a failure.
    pub failed: bool,
    /// Why there was no answer of an endpoint, in Envoy's letters.
    pub flags: &'a str,
    /// The cluster that was tried.
    pub cluster: Option<&'a Cluster>,
    /// From where the request came.
    pub source: SocketAddr,
    /// Who that is.
    pub client: &'a Peer,
    /// Tries.
    pub tries: u32,
}

/// Decides whether a request is recorded. Leaves what goes on with it, and the record, for which the head is completed with
/// what every request has.
pub fn begin(
    tracing: &Tracing,
    direction: Direction,
    route: Option<&Route>,
    head: &mut impl Editable,
    request_id: bool,
) -> (Context, Option<Box<Trace>>) {
    let incoming = Incoming::read(head);
    let sampling = route.and_then(|r| r.tracing).unwrap_or(tracing.sampling);
    let decide = || sampling.random.hit() && sampling.overall.hit();
    let sampled = incoming.sampled.unwrap_or_else(decide);
    let mut context = Context {
        ids: incoming.ids.unwrap_or_else(fresh),
        sampled,
        debug: incoming.debug,
        single: incoming.single,
    };
    if !sampled {
        return (context, None);
    }
    let below = |parent: Ids| Ids {
        trace: parent.trace,
        span: id(),
        parent: Some(parent.span),
    };
    let first = incoming.ids.map_or(context.ids, below);
    let sides = match (tracing.split, direction) {
        (true, _) => vec![(Kind::Server, first), (Kind::Client, below(first))],
        (false, Direction::Outbound) => vec![(Kind::Client, first)],
        (false, Direction::Inbound) => vec![(Kind::Server, first)],
    };
    if let Some((_, last)) = sides.last() {
        context.ids = *last;
    }
    head.settle(request_id);
    let name = route
        .and_then(|r| r.operation.clone())
        .unwrap_or_else(|| match head.host() {
            "" => head.method().into(),
            host => host.into(),
        });
    let path = cut(head.target(), tracing.path_bytes_max);
    let mut tags = vec![
        ("http.method", head.method().to_owned()),
        ("http.url", format!("{}://{}{path}", head.scheme(), head.host())),
        ("http.path", path_of(path).to_owned()),
    ];
    for (tag, name) in [("guid:x-request-id", "x-request-id"), ("user_agent", "user-agent")] {
        head.values(name, &mut |value| {
            if tags.iter().all(|(known, _)| *known != tag) {
                let value = String::from_utf8_lossy(value);
                tags.push((tag, cut(&value, tracing.path_bytes_max).to_owned()));
            }
        });
    }
    let trace = Trace {
        backend: Arc::clone(&tracing.backend),
        sides,
        debug: incoming.debug,
        name,
        begin: SystemTime::now(),
        tags,
        endpoint: None,
    };
    (context, Some(Box::new(trace)))
}

impl Trace {
    /// The request is over. Leaves its spans, that of the server side first.
    pub fn end(self, outcome: &Outcome<'_>) -> impl Iterator<Item = Span> + use<> {
        let mut tags = self.tags;
        if outcome.status != 0 {
            tags.push(("http.status_code", outcome.status.to_string()));
        }
        if let Some(status) = outcome.grpc_status {
            tags.push(("grpc.status_code", status.to_string()));
        }
        if let Some(cluster) = outcome.cluster {
            tags.push(("upstream_cluster", cluster.spec.name.to_string()));
        }
        if let Some((address, _)) = &self.endpoint {
            tags.push(("upstream_address", address.to_string()));
        }
        tags.push(("peer.address", outcome.source.to_string()));
        tags.push(("response_flags", outcome.flags.to_owned()));
        if outcome.tries > 1 {
            tags.push(("retries", (outcome.tries - 1).to_string()));
        }
        let (endpoint, client) = (self.endpoint, (name_of(outcome.client), outcome.source));
        let remote = move |kind| match kind {
            Kind::Client => (
                endpoint.as_ref().and_then(|(_, p)| name_of(p)),
                endpoint.as_ref().map(|(a, _)| *a),
            ),
            Kind::Server => (client.0.clone(), Some(client.1)),
        };
        let (duration, error) = (outcome.duration, outcome.failed);
        self.sides.into_iter().map(move |(kind, ids)| {
            let (remote, remote_address) = remote(kind);
            Span {
                backend: Arc::clone(&self.backend),
                ids,
                kind,
                name: Arc::clone(&self.name),
                begin: self.begin,
                duration,
                remote,
                remote_address,
                debug: self.debug,
                error,
                tags: tags.clone(),
            }
        })
    }
}

/// How traces call a peer: its workload, or the pod itself, and the namespace. `None`: nobody knows who it is.
fn name_of(peer: &Peer) -> Option<Arc<str>> {
    let name = if peer.owner.is_empty() { &peer.pod } else { &peer.owner };
    (!name.is_empty()).then(|| format!("{name}.{}", peer.namespace).into())
}

/// As much of a text as may be shown.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

/// A name that no other span has.
fn id() -> u64 {
    random().max(1)
}

/// The first of a trace.
fn fresh() -> Ids {
    Ids {
        trace: (u128::from(id()) << 64) | u128::from(id()),
        span: id(),
        parent: None,
    }
}

/// Microseconds since 1970.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
