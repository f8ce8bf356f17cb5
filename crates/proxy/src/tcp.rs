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

use crate::balance::{Limit, Line};
use crate::config::{Active, Cluster, EndpointSource, Tcp, Telemetry};
use crate::flow::Flow;
use crate::http::h1::body::{Body, Broken, poll_transfer};
use crate::http::h1::head::Framing;
use crate::http::lifetime::Lifetime;
use crate::wire::{Counts, Io, Wire};

/// Serves a connection until both halves are closed. `first` are bytes that were read from it before.
pub async fn serve(flow: Rc<Flow>, io: Io, first: &[u8], tcp: Arc<Tcp>, active: Arc<Active>) {
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
        Some(cluster) => connect(&flow, &active, cluster, tcp.connect_attempts).await,
        None => None,
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
    let end = tokio::select! {
        end = join(&mut downstream, &mut upstream, &[], time.as_mut()) => end,
        () = closing.cancelled() => Ok(()),
    };
    if end.is_err() {
        downstream.reset_on_close();
        upstream.reset_on_close();
    }
}

/// Connects to an endpoint; to another one when that fails.
async fn connect(flow: &Flow, active: &Active, cluster: &Arc<Cluster>, attempts: u32) -> Option<(Wire, Busy)> {
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
                    cluster.stats.cx_overflow();
                    slot.iter().for_each(|s| s.overflow(Limit::Connections.name()));
                    return None;
                }
            },
        };
        let connected = flow.worker.connect(cluster, endpoint.address, slot.clone(), held).await;
        watch(cluster, place, slot.as_ref(), connected.is_ok());
        match connected {
            Ok(wire) => return Some((wire, Busy::new(cluster, place))),
            Err(error) => {
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

/// Copies both ways, after `head` to the first of the two, until both halves have ended, or time is up.
pub async fn join(
    downstream: &mut Wire,
    upstream: &mut Wire,
    head: &[u8],
    mut time: Option<&mut Lifetime>,
) -> Result<(), Broken> {
    let (mut up, mut down) = (Half::default(), Half::default());
    poll_fn(|cx| {
        let mut moved = false;
        let up = up.poll(&[], downstream, upstream, &mut moved, cx)?;
        let down = down.poll(head, upstream, downstream, &mut moved, cx)?;
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
