//! One downstream connection: from whom, to where, and which chain serves it.
//!
//! Enters: an accepted socket. Leaves: the chosen chain, the other side's identity, the original endpoint. Knows nothing
//! of the bytes.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use weir_series::canonical::{Direction, Peer, Target};

use crate::config::{Active, Endpoint, Filter, Listener};
use crate::worker::Worker;

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
}

impl Flow {
    /// The listener that answers for a connection accepted by `entry`.
    pub fn listener(active: &Active, entry: &str, destination: SocketAddr) -> Option<Arc<Listener>> {
        let accepted = active.listeners.get(entry)?;
        let other = if accepted.hand_over { active.listener_for(destination) } else { None };
        Some(Arc::clone(other.unwrap_or(accepted)))
    }

    /// The listener and the chain that serve this connection in a configuration.
    pub fn choose(&self, active: &Active) -> Option<(Arc<Listener>, Filter)> {
        let listener = Self::listener(active, &self.entry, self.destination)?;
        let filter = listener.chain(self.destination.port(), self.protocol)?.filter.clone();
        Some((listener, filter))
    }

    /// The other side, seen from the workload: the endpoint outbound, the client inbound.
    pub fn other_side(&self, endpoint: &Arc<Peer>) -> Arc<Peer> {
        match self.direction {
            Direction::Outbound => Arc::clone(endpoint),
            Direction::Inbound => self.peer_of(self.source.ip()),
        }
    }

    /// Who has an address; an unknown peer where nobody knows.
    fn peer_of(&self, address: IpAddr) -> Arc<Peer> {
        self.worker.shared.peers.of(address).unwrap_or_default()
    }

    /// The endpoint that the client itself chose. None without redirection: it would be this proxy.
    pub fn original_endpoint(&self, active: &Active) -> Option<Endpoint> {
        let peer = || active.peers.get(&self.destination).cloned().unwrap_or_default();
        self.redirected.then(|| Endpoint { address: self.destination, weight: 1, peer: peer() })
    }

    /// Counts the bytes of this connection, where its other side is the client.
    pub fn downstream_target(&self) -> Option<Arc<Target>> {
        let counted = self.direction == Direction::Inbound && !self.from_host;
        counted.then(|| self.worker.target(self.direction, "", &self.peer_of(self.source.ip())))
    }

    /// Counts the bytes of a connection to an endpoint, where that is the other side.
    pub fn upstream_target(&self, endpoint: &Arc<Peer>) -> Option<Arc<Target>> {
        let counted = self.direction == Direction::Outbound;
        counted.then(|| self.worker.target(self.direction, "", endpoint))
    }
}
