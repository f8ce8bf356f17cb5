//! TCP: a connection is joined to one endpoint, byte by byte, each half for itself.
//!
//! Enters: a connection for which a TCP chain was chosen, with the bytes read of it so far. Leaves: counted bytes. Idle
//! connections hold no buffers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use weir_series::canonical::Slot;

use crate::access_log::{Entry, Outcome};
use crate::balance::{Limit, Line};
use crate::config::{Active, Cluster, EndpointSource, Tcp, Telemetry};
use crate::flow::Flow;
use crate::http::h1::body::{Body, Broken, poll_transfer};
use crate::http::h1::head::Framing;
use crate::http::lifetime::Lifetime;
use crate::wire::{Counts, Io, Wire};

/// Serves a connection until both halves are closed. `first` are bytes that were read from it before.
pub async fn serve(flow: Rc<Flow>, io: Io, first: &[u8], tcp: Arc<Tcp>, active: Arc<Active>) {
    let mut log = Log::new(&flow, &tcp);
    let cluster = active.clusters.get(tcp.draw()).cloned();
    let telemetry = cluster
        .as_ref()
        .map_or_else(Telemetry::usual, |c| Arc::clone(&c.spec.telemetry));
    let counts = Counts {
        slot: flow.downstream_slot(&telemetry),
        ..Counts::default()
    };
    let mut downstream = Wire::new(io, first, &flow.worker.buffers, counts);
    let connected = match &cluster {
        Some(cluster) => connect(&flow, &active, cluster, tcp.connect_attempts, &mut log).await,
        None => {
            log.flags = "NC";
            None
        }
    };
    drop(active);
    let Some((mut upstream, _busy)) = connected else {
        // Nowhere to go: the client learns it at once.
        if let Some(slot) = flow.upstream_slot(&flow.worker.nobody, &telemetry) {
            slot.tcp_open();
            slot.tcp_close(true);
        }
        downstream.reset_on_close();
        return;
    };
    let closing = &flow.worker.shared.life.closing;
    let mut time = tcp.idle_timeout.map(|idle| {
        let mut time = Lifetime::new(&flow.worker);
        time.limit_stall(None, Some(idle), Instant::now());
        time
    });
    let mut joined = Joined::default();
    let end = tokio::select! {
        end = joined.run(&mut downstream, &mut upstream, &[], time.as_mut()) => end,
        () = closing.cancelled() => Ok(()),
    };
    log.moved(&joined);
    if end.is_err() {
        downstream.reset_on_close();
        upstream.reset_on_close();
    }
}

/// The line of a connection in the access log, written when this is dropped.
struct Log<'f> {
    flow: &'f Flow,
    started: Instant,
    /// `None`: there is none.
    entry: Option<Box<Entry>>,
    /// Why there is no connection to an endpoint, in Envoy's letters.
    flags: &'static str,
}

impl<'f> Log<'f> {
    fn new(flow: &'f Flow, tcp: &Tcp) -> Self {
        Self {
            flow,
            started: Instant::now(),
            entry: tcp.access_log.then(|| Entry::unread("-")),
            flags: "-",
        }
    }

    fn tried(&mut self, address: SocketAddr) {
        if let Some(entry) = &mut self.entry {
            entry.tried(address);
        }
    }

    fn moved(&mut self, joined: &Joined) {
        if let Some(entry) = &mut self.entry {
            entry.received(joined.up());
            entry.sent(joined.down());
        }
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            let outcome = Outcome {
                status: 0,
                flags: self.flags,
                duration: self.started.elapsed(),
            };
            self.flow.worker.shared.access_log.offer(entry.line(&outcome));
        }
    }
}

/// Connects to an endpoint; to another one when that fails.
async fn connect(
    flow: &Flow,
    active: &Active,
    cluster: &Arc<Cluster>,
    attempts: u32,
    log: &mut Log<'_>,
) -> Option<(Wire, Busy)> {
    log.flags = "UH";
    let mut failed: Vec<SocketAddr> = Vec::new();
    let limits = &cluster.spec.limits;
    let line = Rc::new(Line::default());
    for _ in 0..attempts {
        let (endpoint, place) = match cluster.spec.source {
            EndpointSource::OriginalDst => (flow.original_endpoint(active)?, usize::MAX),
            _ => {
                let chosen = flow.worker.choose(cluster, None, &failed)?;
                (chosen.endpoint, chosen.place)
            }
        };
        if failed.contains(&endpoint.address) {
            return None;
        }
        let slot = flow.upstream_slot(&endpoint.peer, &cluster.spec.telemetry);
        let held = match limits.connections {
            None => None,
            Some(_) => match line.open_more(&cluster.breaker, limits) {
                Some(held) => Some(held),
                None => {
                    log.flags = "UO";
                    cluster.stats.cx_overflow();
                    slot.iter().for_each(|s| s.overflow(Limit::Connections.name()));
                    return None;
                }
            },
        };
        log.tried(endpoint.address);
        let connected = flow.worker.connect(cluster, endpoint.address, slot.clone(), held).await;
        watch(cluster, place, slot.as_ref(), connected.is_ok());
        match connected {
            Ok(wire) => {
                log.flags = "-";
                return Some((wire, Busy::new(cluster, place)));
            }
            Err(error) => {
                log.flags = "UF,URX";
                tracing::debug!(address = %endpoint.address, %error, "no connection");
                failed.push(endpoint.address);
            }
        }
    }
    None
}

/// Tells the endpoint's record how connecting ended, and leaves the endpoint out where that is too much.
fn watch(cluster: &Cluster, place: usize, slot: Option<&Slot>, connected: bool) {
    let (Some(outlier), Some(host)) = (&cluster.spec.outlier, cluster.members.host(place)) else {
        return;
    };
    if connected {
        return host.connected(outlier);
    }
    if let Some(cause) = host.failed(true, outlier) {
        let outcome = cluster.members.eject(place, outlier);
        cluster.stats.ejection(cause, outcome.err());
        if let (Ok(lasts), Some(slot)) = (outcome, slot) {
            slot.ejection(cause.name(), lasts);
        }
    }
}

/// A connection counts among what an endpoint has to do.
struct Busy(Option<(Arc<Cluster>, usize)>);

impl Busy {
    fn new(cluster: &Arc<Cluster>, place: usize) -> Self {
        let host = cluster
            .members
            .host(place)
            .filter(|_| cluster.spec.policy.counts_requests());
        Self(host.map(|host| {
            host.begin();
            (Arc::clone(cluster), place)
        }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((cluster, place)) = &self.0
            && let Some(host) = cluster.members.host(*place)
        {
            host.end();
        }
    }
}

/// Two connections that are joined.
#[derive(Default)]
pub struct Joined {
    up: Half,
    down: Half,
}

impl Joined {
    /// Copies both ways, after `head` to the first of the two, until both halves have ended, or time is up.
    pub async fn run(
        &mut self,
        downstream: &mut Wire,
        upstream: &mut Wire,
        head: &[u8],
        mut time: Option<&mut Lifetime>,
    ) -> Result<(), Broken> {
        poll_fn(|cx| {
            let mut moved = false;
            let up = self.up.poll(&[], downstream, upstream, &mut moved, cx)?;
            let down = self.down.poll(head, upstream, downstream, &mut moved, cx)?;
            match (up, down) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => match &mut time {
                    None => Poll::Pending,
                    Some(time) => {
                        time.moved |= moved;
                        // Whoever is idle for too long is closed as if both had had enough.
                        time.poll(cx).map(|()| Ok(()))
                    }
                },
            }
        })
        .await
    }

    /// Bytes that went from the first to the second.
    pub fn up(&self) -> u64 {
        self.up.body.content(Framing::UntilClose)
    }

    /// Bytes that went back.
    pub fn down(&self) -> u64 {
        self.down.body.content(Framing::UntilClose)
    }
}

/// One direction.
struct Half {
    body: Body,
    sent: usize,
    closed: bool,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            body: Body::new(Framing::UntilClose),
            sent: 0,
            closed: false,
        }
    }
}

impl Half {
    fn poll(
        &mut self,
        head: &[u8],
        from: &mut Wire,
        to: &mut Wire,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        ready!(poll_transfer(head, &mut self.sent, &mut self.body, from, to, moved, cx))?;
        let end = ready!(to.poll_shutdown(cx));
        self.closed = true;
        Poll::Ready(end.map_err(|_| Broken::Sink))
    }
}
