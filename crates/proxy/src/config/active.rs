//! The configuration in force: what workers look things up in.
//!
//! Built by `store`, published by swapping one `Arc`; nothing in it changes but counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_series::canonical::Peer;

use super::{Cluster, Http, Listener, Map, RouteSource, RouteTable};

/// One consistent configuration.
#[derive(Debug, Default)]
pub struct Active {
    /// Grows by one with each configuration.
    pub version: u64,
    /// Everything that the first answers of the control plane refer to has come (or was given up).
    pub complete: bool,
    /// All listeners by name.
    pub listeners: Map<Arc<str>, Arc<Listener>>,
    /// Listeners without a socket of their own, by the original destination that they answer for.
    pub by_address: Map<SocketAddr, Arc<Listener>>,
    /// Route configurations by name.
    pub routes: Map<Arc<str>, Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: Map<Arc<str>, Arc<Cluster>>,
    /// Who has an address, as far as load assignments tell.
    pub peers: Map<SocketAddr, Arc<Peer>>,
}

impl Active {
    /// The routes of a chain; `None` while its named route configuration is absent.
    pub fn routes_of(&self, http: &Http) -> Option<Arc<RouteTable>> {
        match &http.routes {
            RouteSource::Inline(table) => Some(Arc::clone(table)),
            RouteSource::Named(name) => self.routes.get(name).cloned(),
        }
    }

    /// The same, borrowed.
    pub fn table_of<'a>(&'a self, http: &'a Http) -> Option<&'a RouteTable> {
        match &http.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.routes.get(name).map(Arc::as_ref),
        }
    }

    /// The listener that answers for an original destination: of just this address, else of any address at its port.
    pub fn listener_for(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        self.by_address.get(&destination).or_else(|| {
            let unspecified: std::net::IpAddr = match destination {
                SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            self.by_address.get(&SocketAddr::new(unspecified, destination.port()))
        })
    }
}

/// Counters of one cluster, as Envoy has them. They live as long as the cluster is configured.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Tries sent to any endpoint.
    pub rq_total: AtomicU64,
    /// Tries after the first.
    pub rq_retry: AtomicU64,
    /// Connections opened.
    pub cx_total: AtomicU64,
    /// Connections that could not be opened.
    pub cx_connect_fail: AtomicU64,
}

impl ClusterStats {
    /// Adds one to a counter.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
