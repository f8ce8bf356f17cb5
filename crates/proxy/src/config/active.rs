//! The configuration in force: what workers look things up in.
//!
//! Built by `store`, published by swapping one `Arc`; nothing in it changes but counters. What a new configuration leaves
//! as it was is shared with the one before, whole maps included.

use std::net::SocketAddr;
use std::sync::Arc;

use weir_series::canonical::Peer;

use super::{Cluster, Http, HttpStats, Listener, ListenerStats, Map, RouteSource, RouteTable};

/// One consistent configuration.
#[derive(Debug, Default, Clone)]
pub struct Active {
    /// Grows by one with each configuration.
    pub version: u64,
    /// Everything that the first answers of the control plane refer to has come (or was given up).
    pub complete: bool,
    /// All listeners by name.
    pub listeners: Arc<Map<Arc<str>, Arc<Listener>>>,
    /// Listeners without a socket of their own, by the original destination that they answer for.
    pub by_address: Arc<Map<SocketAddr, Arc<Listener>>>,
    /// Route configurations by name.
    pub routes: Arc<Map<Arc<str>, Arc<RouteTable>>>,
    /// Clusters by name.
    pub clusters: Arc<Map<Arc<str>, Arc<Cluster>>>,
    /// Who has an address, as far as load assignments tell.
    pub peers: Arc<Map<SocketAddr, Arc<Peer>>>,
    /// Counters of HTTP chains by their `stat_prefix`.
    pub http_stats: Arc<Map<Arc<str>, Arc<HttpStats>>>,
    /// Counters of listeners by name.
    pub listener_stats: Arc<Map<Arc<str>, Arc<ListenerStats>>>,
}

impl Active {
    /// The routes of a chain; `None` while its named route configuration is absent.
    pub fn routes_of(&self, http: &Http) -> Option<Arc<RouteTable>> {
        match &http.routes {
            RouteSource::Inline(table) => Some(Arc::clone(table)),
            RouteSource::Named(name) => self.routes.get(name).cloned(),
        }
    }

    /// The counters of an HTTP chain.
    pub fn stats_of(&self, http: &Http) -> Arc<HttpStats> {
        self.http_stats.get(&http.stat_prefix).cloned().unwrap_or_default()
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
