//! One downstream connection: from whom, to where, and which chain serves it.
//!
//! Enters: an accepted socket. Leaves: the chosen chain, the other side's identity, the original endpoint. Knows nothing
//! of the bytes.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_series::canonical::{Direction, Peer, Slot};

use crate::config::{Active, Endpoint, FilterChain, Listener, Telemetry};
use crate::worker::Worker;

/// How long the first connection from an address waits for the answer who that is.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(100);

/// A downstream connection.
pub struct Flow {
    /// Who serves it.
    pub worker: Rc<Worker>,
    /// Name of the listener whose socket accepted it.
    pub entry: Arc<str>,
    /// From where it comes.
    pub source: SocketAddr,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// It was redirected: `destination` is not this proxy itself.
    pub redirected: bool,
    /// As the listener says.
    pub direction: Direction,
    /// It comes from the pod's node itself.
    pub from_host: bool,
    /// What the first bytes showed, where they were looked at.
    pub protocol: Option<&'static str>,
    /// The name that a TLS handshake asked for, lower case, where chains depend on it.
    pub server_name: Option<Box<str>>,
    /// Who the client is, once that is known.
    pub client: OnceCell<Arc<Peer>>,
    /// Its address is counted in the table of sources.
    pub counted: Cell<bool>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        if self.counted.get() {
            self.worker.shared.peers.close(self.source.ip());
        }
    }
}

impl Flow {
    /// The listener that answers for a connection accepted by `entry`.
    pub fn listener(active: &Active, entry: &str, destination: SocketAddr) -> Option<Arc<Listener>> {
        let accepted = active.listeners.get(entry)?;
        let other = if accepted.hand_over {
            active.listener_for(destination)
        } else {
            None
        };
        Some(Arc::clone(other.unwrap_or(accepted)))
    }

    /// The chain that serves this connection in a configuration.
    pub fn choose(&self, active: &Active) -> Option<FilterChain> {
        let listener = Self::listener(active, &self.entry, self.destination)?;
        let port = self.destination.port();
        listener
            .chain(port, self.server_name.as_deref(), self.protocol)
            .cloned()
    }

    /// The other side, seen from the workload: the endpoint outbound, the client inbound.
    pub fn other_side(&self, endpoint: &Arc<Peer>) -> Arc<Peer> {
        match self.direction {
            Direction::Outbound => Arc::clone(endpoint),
            Direction::Inbound => self.client(),
        }
    }

    /// Who the client is; an unknown peer where nobody knows.
    pub fn client(&self) -> Arc<Peer> {
        if let Some(known) = self.client.get() {
            return Arc::clone(known);
        }
        let Some(peer) = self.worker.shared.peers.of(self.source.ip()) else {
            return Arc::clone(&self.worker.nobody);
        };
        Arc::clone(self.client.get_or_init(|| peer))
    }

    /// Whether the client's identity matters.
    fn asks(&self) -> bool {
        self.direction == Direction::Inbound && !self.from_host
    }

    /// Asks who the client is, and waits a moment for the answer if it is the first connection from there.
    pub async fn identify(&self) {
        if self.asks() {
            let (peers, address) = (&self.worker.shared.peers, self.source.ip());
            self.counted.set(peers.open(address));
            if self.worker.shared.connected.load(Ordering::Relaxed) {
                peers.wait(address, IDENTIFY_TIMEOUT).await;
            }
        }
    }

    /// The endpoint that the client itself chose. None without redirection: it would be this proxy.
    pub fn original_endpoint(&self, active: &Active) -> Option<Endpoint> {
        let known = || active.peers.get(&self.destination);
        let peer = || Arc::clone(known().unwrap_or(&self.worker.nobody));
        self.redirected.then(|| Endpoint {
            address: self.destination,
            weight: 1,
            peer: peer(),
        })
    }

    /// Counts the bytes of this connection, where its other side is the client.
    pub fn downstream_slot(&self, telemetry: &Arc<Telemetry>) -> Option<Slot> {
        self.asks()
            .then(|| self.worker.slot(self.direction, None, &self.client(), telemetry))
    }

    /// Counts the bytes of a connection to an endpoint, where that is the other side.
    pub fn upstream_slot(&self, endpoint: &Arc<Peer>, telemetry: &Arc<Telemetry>) -> Option<Slot> {
        let counted = self.direction == Direction::Outbound;
        counted.then(|| self.worker.slot(self.direction, None, endpoint, telemetry))
    }
}
