//! What the threads of one proxy share.
//!
//! The main thread publishes configurations and drains; workers read. Everything here is an `Arc`, an atomic or behind a
//! lock that no request takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_series::canonical::{Direction, Recorder};

use crate::access_log::AccessLog;
use crate::config::Active;
use crate::peers::Peers;
use crate::trace::Traces;

/// Downstream connections of the whole proxy; more are closed at once and counted.
pub const CONNECTIONS_MAX: usize = 50_000;

/// State shared by the main thread and the workers.
#[derive(Debug)]
pub struct Shared {
    /// The configuration in force.
    pub active: ArcSwap<Active>,
    /// Tells workers the version of `active`, so that they open and close sockets.
    pub changes: watch::Sender<u64>,
    /// The canonical series.
    pub recorder: Arc<Recorder>,
    /// Where the kubelet's probes come from.
    pub host_ip: Option<IpAddr>,
    /// Who has an address.
    pub peers: Peers,
    /// Grows when series were dropped: workers look theirs up anew.
    pub series_epoch: AtomicU64,
    /// Life of the process.
    pub life: Life,
    /// Which sockets are open.
    pub sockets: Sockets,
    /// Downstream connections open now.
    pub connections: AtomicUsize,
    /// Downstream connections accepted since the start.
    pub accepted: AtomicU64,
    /// Downstream connections refused because of [`CONNECTIONS_MAX`].
    pub refused: AtomicU64,
    /// A stream to the control plane is open.
    pub connected: AtomicBool,
    /// What traces are told.
    pub traces: Traces,
    /// What access logs are told.
    pub access_log: AccessLog,
}

/// Serving, draining, closing.
#[derive(Debug)]
pub struct Life {
    draining: AtomicBool,
    inbound_draining: AtomicBool,
    /// When the last connection was accepted, in milliseconds since `start`.
    accepted_ms: AtomicU64,
    start: Instant,
    drained: CancellationToken,
    inbound_drained: CancellationToken,
    /// Connections that are still open are to be closed now.
    pub closing: CancellationToken,
    is_closing: AtomicBool,
    /// Workers are to end now.
    pub stopped: CancellationToken,
}

impl Life {
    fn new() -> Self {
        Self {
            draining: AtomicBool::new(false),
            inbound_draining: AtomicBool::new(false),
            accepted_ms: AtomicU64::new(0),
            start: Instant::now(),
            drained: CancellationToken::new(),
            inbound_drained: CancellationToken::new(),
            closing: CancellationToken::new(),
            is_closing: AtomicBool::new(false),
            stopped: CancellationToken::new(),
        }
    }

    /// How long the proxy has been running.
    pub fn uptime(&self) -> std::time::Duration {
        self.start.elapsed()
    }

    /// Responses say `connection: close` from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.drained.cancel();
        self.drain_inbound();
    }

    /// As [`Life::drain`], but only for those who come from outside: the pod is leaving, and what it asks of others goes
    /// on as before.
    pub fn drain_inbound(&self) {
        self.inbound_draining.store(true, Ordering::Relaxed);
        self.inbound_drained.cancel();
    }

    /// Whether [`Life::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether clients of this side are to come back on other connections.
    pub fn sends_away(&self, direction: Direction) -> bool {
        match direction {
            Direction::Inbound => self.inbound_draining.load(Ordering::Relaxed),
            Direction::Outbound => self.draining(),
        }
    }

    /// Cancelled as soon as [`Life::sends_away`].
    pub fn sent_away(&self, direction: Direction) -> &CancellationToken {
        match direction {
            Direction::Inbound => &self.inbound_drained,
            Direction::Outbound => &self.drained,
        }
    }

    /// Open connections are to be closed from now on.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.closing.cancel();
    }

    /// Whether [`Life::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    /// Notes that a connection came.
    pub fn accepted(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.accepted_ms.store(since, Ordering::Relaxed);
    }

    /// Milliseconds since a connection came last (or since the start).
    pub fn quiet_ms(&self) -> u64 {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        since.saturating_sub(self.accepted_ms.load(Ordering::Relaxed))
    }
}

/// Listening sockets by address: how many workers have one, or why one has none.
#[derive(Debug, Default)]
pub struct Sockets(Mutex<BTreeMap<SocketAddr, Result<usize, String>>>);

impl Sockets {
    /// A worker opened a socket.
    pub fn opened(&self, address: SocketAddr) {
        let mut sockets = self.lock();
        let entry = sockets.entry(address).or_insert(Ok(0));
        *entry = Ok(entry.as_ref().map_or(1, |n| n + 1));
    }

    /// A worker closed its socket.
    pub fn closed(&self, address: SocketAddr) {
        self.lock().remove(&address);
    }

    /// A worker could not open a socket.
    pub fn failed(&self, address: SocketAddr, error: String) {
        self.lock().insert(address, Err(error));
    }

    /// A copy of the state.
    pub fn all(&self) -> BTreeMap<SocketAddr, Result<usize, String>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Result<usize, String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// A proxy whose workers record here, without configuration.
    pub fn new(host_ip: Option<IpAddr>, recorder: Arc<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            active: ArcSwap::default(),
            changes: watch::Sender::new(0),
            recorder,
            host_ip,
            peers: Peers::default(),
            series_epoch: AtomicU64::new(0),
            life: Life::new(),
            sockets: Sockets::default(),
            connections: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            traces: Traces::default(),
            access_log: AccessLog::default(),
        })
    }

    /// The first complete configuration is in force and all its sockets are open.
    pub fn ready(&self) -> bool {
        let active = self.active.load();
        let sockets = self.sockets.all();
        let open = |address| matches!(sockets.get(address), Some(Ok(_)));
        active.complete && active.listeners.values().filter(|l| l.bind).all(|l| open(&l.address))
    }

    /// Counts a new connection; `None` when there are too many.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        self.life.accepted();
        self.accepted.fetch_add(1, Ordering::Relaxed);
        if self.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Admission(Arc::clone(self)))
    }
}

/// One open downstream connection.
#[derive(Debug)]
pub struct Admission(Arc<Shared>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
