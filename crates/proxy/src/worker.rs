//! A worker: one thread with its own sockets, connections, pools and rotations.
//!
//! Enters: configurations. Leaves: served connections. Workers share nothing on a request's path but the configuration
//! and the counters; the kernel spreads connections over their listening sockets.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use weir_series::canonical::{Direction, Peer, Slot};
use weir_series::names;

use crate::balance::{Balancer, Chosen, Held};
use crate::buffers::Buffers;
use crate::config::{Active, Cluster, EndpointSource, Filter, ListenerStats, Map, Telemetry};
use crate::flow::Flow;
use crate::http::h1::pool::Origin;
use crate::http::h1::render::Date;
use crate::http::h1::{Pool, SWEEP_INTERVAL};
use crate::http::h2;
use crate::shared::{Admission, Shared};
use crate::timers::Timers;
use crate::wire::{Begun, Counts, Io, Wire};
use crate::{http, inspect, socket, tcp};

/// Slots that a worker remembers; beyond, it begins anew.
const SLOTS_MAX: usize = 16_384;

/// Wait after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How long a client may take to begin encryption.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Wait before a socket that could not be opened is tried again.
const LISTEN_PAUSE: Duration = Duration::from_millis(200);

/// What the connections of one worker share.
pub struct Worker {
    /// What workers share.
    pub shared: Arc<Shared>,
    /// Kept connections to endpoints.
    pub pool: Pool,
    /// The same where many requests share one.
    pub streams: h2::pool::Pool,
    /// What connections read into.
    pub buffers: Rc<Buffers>,
    /// The deadlines of connections.
    pub timers: Rc<Timers>,
    /// The peer of whom nothing is known.
    pub nobody: Arc<Peer>,
    /// The authority of requests for hosts that nobody configured.
    pub other: Arc<str>,
    /// Copies of requests that are under way.
    pub copies: Cell<usize>,
    date: RefCell<Date>,
    balancers: RefCell<Map<Arc<str>, Balancer>>,
    /// Slots found so far; emptied with each configuration.
    slots: RefCell<Slots>,
    /// Its number, from 0.
    index: usize,
    /// Version of the configuration that was followed last.
    version: Cell<u64>,
}

/// Direction, and where authority, peer and grain lie: comparing places is quicker than comparing texts.
type SlotKey = (Direction, usize, usize, usize);

/// A slot with what its key points to, so that nothing else can lie there.
struct Known {
    slot: Slot,
    _authority: Option<Arc<str>>,
    _peer: Arc<Peer>,
    _telemetry: Arc<Telemetry>,
}

#[derive(Default)]
struct Slots {
    /// Versions of the configuration and of the series.
    version: (u64, u64),
    known: Map<SlotKey, Known>,
}

impl Worker {
    fn new(shared: Arc<Shared>, index: usize) -> Rc<Self> {
        Rc::new(Self {
            shared,
            pool: Pool::default(),
            streams: h2::pool::Pool::default(),
            buffers: Rc::default(),
            timers: Rc::default(),
            nobody: Arc::default(),
            other: names::AUTHORITY_OTHER.into(),
            copies: Cell::default(),
            date: RefCell::default(),
            balancers: RefCell::default(),
            slots: RefCell::default(),
            index,
            version: Cell::new(0),
        })
    }

    /// The next endpoint of a cluster for a request of this hash, if possible none of `avoid`.
    pub fn choose(&self, cluster: &Cluster, hash: Option<u64>, avoid: &[SocketAddr]) -> Option<Chosen> {
        let mut balancers = self.balancers.borrow_mut();
        if let Some(balancer) = balancers.get_mut(&cluster.spec.name) {
            return balancer.next(cluster, hash, avoid);
        }
        let balancer = balancers.entry(Arc::clone(&cluster.spec.name)).or_default();
        balancer.next(cluster, hash, avoid)
    }

    /// The configuration in force.
    pub fn active(&self) -> Arc<Active> {
        self.shared.active.load_full()
    }

    /// Calls `write` with the date of now as messages have it.
    pub fn with_date<T>(&self, write: impl FnOnce(&[u8]) -> T) -> T {
        write(self.date.borrow_mut().text())
    }

    /// A new connection to an endpoint, which is counted in `slot` and among the cluster's; `held` where those are limited.
    pub async fn connect(
        &self,
        cluster: &Cluster,
        address: SocketAddr,
        slot: Option<Slot>,
        held: Option<Held>,
    ) -> std::io::Result<Wire> {
        let limit = cluster.spec.connect_timeout;
        let connected = async {
            let stream = socket::connect(address, cluster.spec.mark, limit).await?;
            Ok::<_, std::io::Error>(match &cluster.spec.tls {
                None => Io::Tcp(stream),
                Some(tls) => {
                    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config));
                    Io::TlsClient(Box::new(connector.connect(tls.server_name.clone(), stream).await?))
                }
            })
        };
        let timed = tokio::time::timeout(limit, connected).await;
        let outcome = timed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let io = outcome.inspect_err(|_| cluster.stats.cx_connect_fail())?;
        let counts = Counts {
            slot,
            cluster: Some(Arc::clone(&cluster.stats)),
            http: None,
            _held: held,
        };
        Ok(Wire::new(io, &[], &self.buffers, counts))
    }

    /// The counters of one (direction, authority, peer), as fine as `telemetry` says; no authority: of TCP.
    pub fn slot(
        &self,
        direction: Direction,
        authority: Option<&Arc<str>>,
        peer: &Arc<Peer>,
        telemetry: &Arc<Telemetry>,
    ) -> Slot {
        let version = (self.version.get(), self.shared.series_epoch.load(Ordering::Relaxed));
        let mut slots = self.slots.borrow_mut();
        if slots.version != version || slots.known.len() > SLOTS_MAX {
            *slots = Slots {
                version,
                ..Slots::default()
            };
        }
        let place = authority.map_or(0, |a| a.as_ptr() as usize);
        let (peer_place, grain) = (Arc::as_ptr(peer) as usize, Arc::as_ptr(telemetry) as usize);
        let known = slots
            .known
            .entry((direction, place, peer_place, grain))
            .or_insert_with(|| {
                let (recorder, name) = (&self.shared.recorder, authority.map_or("", |a| a));
                let trimmed = telemetry.trim(peer);
                // Hosts that nobody configured come by any cluster: their bounds must not follow the last of them.
                let bounds = match place == self.other.as_ptr() as usize {
                    true => Arc::clone(&Telemetry::usual().buckets_ms),
                    false => Arc::clone(&telemetry.buckets_ms),
                };
                Known {
                    slot: recorder.slot(self.index, direction, name, &trimmed, &bounds),
                    _authority: authority.cloned(),
                    _peer: Arc::clone(peer),
                    _telemetry: Arc::clone(telemetry),
                }
            });
        known.slot.clone()
    }

    /// Forgets what a new configuration no longer has.
    fn follow(&self, active: &Active) {
        self.version.set(active.version);
        self.balancers
            .borrow_mut()
            .retain(|name, _| active.clusters.contains_key(name));
        let anywhere = active
            .clusters
            .values()
            .any(|c| matches!(c.spec.source, EndpointSource::OriginalDst));
        let mut known: Map<SocketAddr, ()> = Map::default();
        known.reserve(active.clusters.len());
        for cluster in active.clusters.values() {
            known.extend(cluster.endpoints.iter().map(|e| (e.address, ())));
        }
        let keep = |origin: &Origin| match origin.original {
            true => anywhere,
            false => known.contains_key(&origin.address),
        };
        self.pool.sweep(keep);
        self.streams.sweep(keep);
    }
}

/// Serves until the process ends. Blocks the thread.
pub fn run(shared: Arc<Shared>, index: usize) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let stopped = shared.life.stopped.clone();
        let worker = Worker::new(shared, index);
        tokio::select! {
            () = follow_configuration(&worker) => {}
            () = worker.timers.run() => {}
            () = close(&worker) => {}
            () = stopped.cancelled() => {}
        }
    });
    Ok(())
}

/// Tells idle connections when they are to close. Never ends.
async fn close(worker: &Worker) {
    worker.shared.life.closing.cancelled().await;
    worker.timers.wake_all();
    std::future::pending().await
}

async fn follow_configuration(worker: &Rc<Worker>) {
    let mut changes = worker.shared.changes.subscribe();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let mut open: BTreeMap<SocketAddr, (Arc<str>, AbortHandle)> = BTreeMap::new();
    loop {
        let active = worker.shared.active.load_full();
        worker.follow(&active);
        let missing = !sockets(worker, &active, &mut open);
        drop(active);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LISTEN_PAUSE), if missing => {}
            _ = sweep.tick() => {
                worker.pool.sweep(|_| true);
                worker.streams.sweep(|_| true);
            }
        }
    }
}

/// Opens and closes listening sockets as configured; `false` when one could not be opened.
fn sockets(worker: &Rc<Worker>, active: &Active, open: &mut BTreeMap<SocketAddr, (Arc<str>, AbortHandle)>) -> bool {
    let wanted: BTreeMap<SocketAddr, &Arc<str>> = active
        .listeners
        .values()
        .filter(|l| l.bind)
        .map(|l| (l.address, &l.name))
        .collect();
    open.retain(|address, (name, accepting)| {
        let stays = wanted.get(address) == Some(&&*name);
        if !stays {
            accepting.abort();
            worker.shared.sockets.closed(*address);
        }
        stays
    });
    let mut all = true;
    for (address, name) in wanted {
        if open.contains_key(&address) {
            continue;
        }
        match socket::listen(address) {
            Ok(socket) => {
                worker.shared.sockets.opened(address);
                let accepting = spawn_local(accept(Rc::clone(worker), socket, Arc::clone(name)));
                open.insert(address, (Arc::clone(name), accepting.abort_handle()));
            }
            Err(error) => {
                tracing::warn!(%address, listener = %name, %error, "cannot listen; trying again");
                worker.shared.sockets.failed(address, error.to_string());
                all = false;
            }
        }
    }
    all
}

async fn accept(worker: Rc<Worker>, socket: TcpListener, entry: Arc<str>) {
    loop {
        match socket.accept().await {
            Ok((stream, source)) => {
                let Some(admission) = worker.shared.admit() else {
                    if let Some(stats) = worker.active().listener_stats.get(&entry) {
                        stats.overflow();
                    }
                    continue;
                };
                let served = connection(Rc::clone(&worker), Arc::clone(&entry), stream, source, admission);
                spawn_local(served);
            }
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection among those of its listener.
struct Open(Arc<ListenerStats>);

impl Open {
    fn new(stats: &Arc<ListenerStats>) -> Self {
        stats.cx_open();
        Self(Arc::clone(stats))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.cx_close();
    }
}

/// Finds the chain of a new connection and serves it.
async fn connection(worker: Rc<Worker>, entry: Arc<str>, mut stream: TcpStream, source: SocketAddr, _open: Admission) {
    let active = worker.shared.active.load_full();
    let Some(accepted) = active.listeners.get(&entry) else {
        return;
    };
    let _counted = active.listener_stats.get(&entry).map(Open::new);
    let Ok(local) = stream.local_addr() else { return };
    let destination = if accepted.original_dst {
        socket::original_dst(&stream).unwrap_or(local)
    } else {
        local
    };
    let Some(listener) = Flow::listener(&active, &entry, destination) else {
        return;
    };
    let (mut first, mut protocol, mut server_name) = (Bytes::new(), None, None);
    if listener.must_inspect(destination.port()) {
        let names = listener.must_know_name(destination.port());
        let Ok(seen) = inspect::inspect(&mut stream, listener.inspect_timeout, names).await else {
            return;
        };
        if seen.late && !listener.continue_on_timeout {
            return;
        }
        (first, protocol, server_name) = (seen.first, seen.verdict.protocol(), seen.server_name);
    }
    let from_host = worker.shared.host_ip == Some(source.ip());
    let redirected = destination != local;
    let direction = listener.direction;
    let flow = Flow {
        worker,
        entry,
        source,
        destination,
        redirected,
        direction,
        from_host,
        protocol,
        server_name,
        client: OnceCell::new(),
        counted: Cell::new(false),
    };
    flow.identify().await;
    // Inspecting and identifying may have taken a while.
    let active = flow.worker.shared.active.load_full();
    let chosen = flow.choose(&active);
    let flow = Rc::new(flow);
    let Some(chain) = chosen else {
        if let Some(stats) = active.listener_stats.get(&flow.entry) {
            stats.no_chain();
        }
        socket::reset_on_close(&stream);
        return;
    };
    let (io, first) = match &chain.tls {
        None => (Io::Tcp(stream), first),
        Some(tls) => {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.config));
            let accepting = Box::pin(acceptor.accept(Begun { first, stream }));
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
                Ok(Ok(stream)) => (Io::TlsServer(Box::new(stream)), Bytes::new()),
                Ok(Err(error)) => return tracing::debug!(%source, %error, "TLS handshake"),
                Err(_) => return tracing::debug!(%source, "TLS handshake not in time"),
            }
        }
    };
    match chain.filter {
        Filter::Tcp(filter) => Box::pin(tcp::serve(flow, io, &first, filter, active)).await,
        Filter::Http(filter) => {
            let (version, stats) = (active.version, active.stats_of(&filter));
            drop(active);
            http::serve(flow, io, &first, filter, stats, version).await;
        }
    }
}
