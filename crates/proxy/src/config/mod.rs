//! What the proxy is told to do, as its own immutable model.
//!
//! Enters: xDS resources, from a control plane, a bootstrap file or the disk cache. Leaves: one [`Active`] configuration
//! at a time, shared by `Arc` and replaced whole. This is the only place of the proxy that reads xDS messages; it knows no
//! sockets and forwards nothing.
//!
//! ```text
//!  bootstrap ─statics─┐
//!  control plane ─────┼─▶ decode ─▶ store (warming) ─▶ Active
//!  disk cache ────────┘
//! ```

pub mod active;
pub mod bootstrap;
pub mod cache;
pub mod decode;
pub mod duration;
pub mod edge;
pub mod fault;
pub mod fuzz;
mod node;
mod proto_json;
pub mod retry;
pub mod route;
pub mod statics;
pub mod stats;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod upstream;

pub use active::Active;
pub use node::node_message;
pub use retry::{RetryOn, RetryPolicy};
pub use route::{Action, Route, RouteTable};
pub use stats::{ClusterStats, HttpStats, ListenerStats};
pub use telemetry::{Granularity, Telemetry};
pub use tls::{ClientTls, SecretSlot, ServerTls};
pub use upstream::LbPolicy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_series::canonical::{Direction, Peer};

use crate::balance::{Breaker, Members};
use crate::random;

/// A map keyed by names of the configuration.
pub type Map<K, V> = rapidhash::RapidHashMap<K, V>;

/// Where connections are accepted, or what is done with those whose original destination is `address`.
#[derive(Debug)]
pub struct Listener {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Where it listens, or which original destination it answers for.
    pub address: SocketAddr,
    /// Whether a socket is bound to `address`; without one, other listeners hand connections over.
    pub bind: bool,
    /// Hand connections over to the listener of their original destination, where there is one.
    pub hand_over: bool,
    /// Ask the kernel for the original destination of each connection.
    pub original_dst: bool,
    /// Seen from the workload.
    pub direction: Direction,
    /// Ports (first, last) of which the first bytes are never waited for.
    pub uninspected: Vec<(u16, u16)>,
    /// How long to wait for the first bytes where the choice of a chain depends on them.
    pub inspect_timeout: Duration,
    /// After `inspect_timeout`: go on with a chain that needs no protocol (else close).
    pub continue_on_timeout: bool,
    /// In the order of the resource.
    pub chains: Vec<FilterChain>,
    /// When no chain matches.
    pub default_chain: Option<FilterChain>,
}

/// One way to treat a connection, and when it applies.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Applies to connections whose original destination has this port.
    pub destination_port: Option<u16>,
    /// Applies to TLS handshakes for one of these names, lower case: exact, or `*.suffix`; empty: to any connection.
    pub server_names: Vec<Box<str>>,
    /// Applies when the first bytes show one of these protocols (`http/1.0`, `http/1.1`, `h2`, `h2c`, or `tls` for a
    /// TLS handshake); empty: to any.
    pub application_protocols: Vec<Box<str>>,
    /// Clients speak TLS, which ends here; `None`: plain text.
    pub tls: Option<Arc<ServerTls>>,
    /// What is done.
    pub filter: Filter,
}

/// What is done with a connection.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Requests are routed one by one.
    Http(Arc<Http>),
    /// The whole connection goes to one endpoint.
    Tcp(Arc<Tcp>),
}

/// What downstream connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// HTTP/2 where ALPN or the first bytes say so, else HTTP/1.
    Auto,
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2 from the first byte.
    Http2,
}

/// What an endpoint is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, without TLS from the first byte.
    Http2,
    /// What the client speaks.
    Downstream,
}

/// What this side of an HTTP/2 connection announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams that the other side may have open at a time (downstream), or that are opened at most (upstream).
    pub max_concurrent_streams: u32,
    /// Bytes that the other side may send on a stream before it is told to go on.
    pub initial_stream_window: u32,
    /// The same for the whole connection.
    pub initial_connection_window: u32,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 256,
            initial_stream_window: 1 << 20,
            initial_connection_window: 16 << 20,
        }
    }
}

/// How HTTP connections of a chain are served.
#[derive(Debug)]
pub struct Http {
    /// Name for statistics.
    pub stat_prefix: Arc<str>,
    /// What clients speak.
    pub codec: Codec,
    /// How HTTP/2 is spoken with clients.
    pub http2: Http2Options,
    /// Where the routes come from.
    pub routes: RouteSource,
    /// What the fault filter does where no route says something else; `None`: there is no such filter.
    pub fault: Option<Arc<fault::Fault>>,
    /// How requests are traced; `None`: not at all.
    pub tracing: Option<Arc<trace::Tracing>>,
    /// What is made of requests before their route is looked for.
    pub edge: Option<Box<edge::Edge>>,
    /// Endpoints are told the path of requests whose path is rewritten.
    pub original_path: bool,
    /// Add `x-request-id` where it is absent.
    pub generate_request_id: bool,
    /// Forward `Upgrade: websocket`.
    pub websocket: bool,
    /// A downstream connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// The head of a request must be whole this long after its first byte; `None`: whenever it likes.
    pub head_timeout: Option<Duration>,
    /// A request on which nothing moves for this long is given up (up to a quarter more); `None`: never.
    pub stall_timeout: Option<Duration>,
    /// Each request is a line on the output.
    pub access_log: bool,
}

/// Where the routes of an [`Http`] chain come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// They stand in the listener.
    Inline(Arc<RouteTable>),
    /// The route configuration of this name.
    Named(Arc<str>),
}

/// A TCP chain: everything goes to one cluster.
#[derive(Debug)]
pub struct Tcp {
    /// Name for statistics.
    pub stat_prefix: Arc<str>,
    /// Name of the cluster; of the first of several.
    pub cluster: Arc<str>,
    /// Where there are several: all of them with their weights, of which one is above 0.
    pub shares: Box<[(Arc<str>, u32)]>,
    /// A connection on which nothing moves for this long is closed (up to a quarter more); `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Endpoints to try before a connection is given up, at least 1.
    pub connect_attempts: u32,
    /// Each connection is a line on the output.
    pub access_log: bool,
}

impl Tcp {
    /// The cluster of the next connection.
    pub fn draw(&self) -> &Arc<str> {
        let total = self.shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random::below(total);
        for (cluster, weight) in &self.shares {
            match left.checked_sub(u64::from(*weight)) {
                None => return cluster,
                Some(rest) => left = rest,
            }
        }
        &self.cluster
    }

    /// All clusters that connections may go to.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let alone = Some(&self.cluster).filter(|_| self.shares.is_empty());
        alone.into_iter().chain(self.shares.iter().map(|(cluster, _)| cluster))
    }
}

/// A cluster as configured, without its endpoints.
#[derive(Debug)]
pub struct ClusterSpec {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub source: EndpointSource,
    /// Limit for the connection to be established.
    pub connect_timeout: Duration,
    /// `SO_MARK` of its sockets.
    pub mark: Option<u32>,
    /// What its endpoints speak.
    pub protocol: Protocol,
    /// How HTTP/2 is spoken with them.
    pub http2: Http2Options,
    /// Its endpoints speak TLS; `None`: plain text.
    pub tls: Option<Arc<ClientTls>>,
    /// How much is measured about it.
    pub telemetry: Arc<Telemetry>,
    /// How the next endpoint is found.
    pub policy: LbPolicy,
    /// What it may have at a time.
    pub limits: upstream::Limits,
    /// When an endpoint is left out; `None`: never.
    pub outlier: Option<upstream::Outlier>,
    /// When fewer endpoints than so many in a hundred are left, all are used.
    pub panic_percent: f64,
    /// A connection without a request is closed after this time; `None`: as the pool does it.
    pub idle_timeout: Option<Duration>,
    /// Requests after which a connection is closed; `None`: it is kept.
    pub requests_per_connection: Option<u32>,
}

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone)]
pub enum EndpointSource {
    /// They stand in the cluster.
    Static(Arc<Vec<Endpoint>>),
    /// The load assignment of this name.
    Assignment(Arc<str>),
    /// Names to resolve, again and again.
    Dns(Arc<Vec<DnsEndpoint>>, Duration),
    /// The address that the client wanted to reach.
    OriginalDst,
}

/// A cluster with its endpoints of the moment.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub spec: Arc<ClusterSpec>,
    /// May be empty; always so for [`EndpointSource::OriginalDst`].
    pub endpoints: Arc<Vec<Endpoint>>,
    /// Counters that outlive one configuration.
    pub stats: Arc<ClusterStats>,
    /// What balancing needs to know of the endpoints.
    pub members: Arc<Members>,
    /// What there is now of all that is limited.
    pub breaker: Arc<Breaker>,
}

impl Cluster {
    /// A cluster with its endpoints; what is known of the one before stays, as far as it still holds.
    pub fn new(spec: Arc<ClusterSpec>, endpoints: Arc<Vec<Endpoint>>, before: Option<&Self>) -> Self {
        Self {
            members: Arc::new(Members::new(&spec, &endpoints, before)),
            stats: before.map_or_else(Arc::default, |c| Arc::clone(&c.stats)),
            breaker: before.map_or_else(Arc::default, |c| Arc::clone(&c.breaker)),
            spec,
            endpoints,
        }
    }
}

/// One server of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Relative share, at least 1.
    pub weight: u32,
    /// Who it is.
    pub peer: Arc<Peer>,
}

/// One server whose address must be resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsEndpoint {
    /// A name or a literal address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Relative share, at least 1.
    pub weight: u32,
    /// Who it is.
    pub peer: Arc<Peer>,
}

impl Listener {
    /// The chains that may apply to a connection to `port`, before its bytes are known: those for just this port where
    /// there are any, else those for any port (as Envoy does it, without going back).
    pub fn candidates(&self, port: u16) -> impl Iterator<Item = &FilterChain> {
        let exact = self.chains.iter().any(|c| c.destination_port == Some(port));
        let wanted = if exact { Some(port) } else { None };
        self.chains.iter().filter(move |c| c.destination_port == wanted)
    }

    /// Whether the choice among the chains for `port` depends on the first bytes.
    pub fn must_inspect(&self, port: u16) -> bool {
        let exempt = self
            .uninspected
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port));
        let by_bytes = |c: &FilterChain| !c.application_protocols.is_empty() || !c.server_names.is_empty();
        !exempt && self.candidates(port).any(by_bytes)
    }

    /// Whether the choice among the chains for `port` depends on the name in a TLS handshake.
    pub fn must_know_name(&self, port: u16) -> bool {
        self.candidates(port).any(|c| !c.server_names.is_empty())
    }

    /// The chain for a connection to `port` whose first bytes show `protocol` (`None`: nothing known), and a TLS handshake
    /// for `name` (lower case; `None`: for no name). First the name decides, most exactly, then the protocol, without
    /// going back, as Envoy does it.
    pub fn chain(&self, port: u16, name: Option<&str>, protocol: Option<&str>) -> Option<&FilterChain> {
        let named = name.and_then(|name| {
            let named = |wanted: &str| {
                self.candidates(port)
                    .any(|c| c.server_names.iter().any(|n| **n == *wanted))
            };
            if named(name) {
                return Some(name.to_owned());
            }
            let dots = name.match_indices('.');
            dots.map(|(at, _)| format!("*{}", &name[at..])).find(|wild| named(wild))
        });
        let candidates = || {
            self.candidates(port).filter(|c| match &named {
                Some(name) => c.server_names.iter().any(|n| **n == **name),
                None => c.server_names.is_empty(),
            })
        };
        let by_protocol =
            protocol.and_then(|p| candidates().find(|c| c.application_protocols.iter().any(|a| &**a == p)));
        by_protocol
            .or_else(|| candidates().find(|c| c.application_protocols.is_empty()))
            .or(self.default_chain.as_ref())
    }

    /// The secrets that its chains show.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<SecretSlot>> {
        self.all_chains()
            .filter_map(|c| c.tls.as_ref())
            .flat_map(|tls| &tls.secrets)
    }

    /// Every chain, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &FilterChain> {
        self.chains.iter().chain(&self.default_chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: Option<u16>, protocols: &[&str], cluster: &str) -> FilterChain {
        FilterChain {
            destination_port: port,
            server_names: Vec::new(),
            application_protocols: protocols.iter().map(|p| (*p).into()).collect(),
            tls: None,
            filter: Filter::Tcp(Arc::new(Tcp {
                stat_prefix: "".into(),
                cluster: cluster.into(),
                shares: Box::default(),
                idle_timeout: None,
                connect_attempts: 1,
                access_log: false,
            })),
        }
    }

    fn cluster(chain: Option<&FilterChain>) -> Option<&str> {
        match &chain?.filter {
            Filter::Tcp(tcp) => Some(&tcp.cluster),
            Filter::Http(_) => None,
        }
    }

    #[test]
    fn chains_are_chosen_by_port_then_protocol_then_default() {
        let listener = Listener {
            name: "l".into(),
            address: ([0, 0, 0, 0], 1).into(),
            bind: true,
            hand_over: false,
            original_dst: true,
            direction: Direction::Inbound,
            uninspected: vec![(443, 444)],
            inspect_timeout: Duration::from_secs(1),
            continue_on_timeout: true,
            chains: vec![
                tcp(Some(80), &["http/1.1"], "eighty-http"),
                tcp(None, &["http/1.1"], "any-http"),
                tcp(None, &[], "any"),
            ],
            default_chain: Some(tcp(None, &[], "default")),
        };
        assert_eq!(cluster(listener.chain(80, None, Some("http/1.1"))), Some("eighty-http"));
        assert_eq!(cluster(listener.chain(80, None, None)), Some("default"));
        assert_eq!(cluster(listener.chain(81, None, Some("http/1.1"))), Some("any-http"));
        assert_eq!(cluster(listener.chain(81, None, Some("h2c"))), Some("any"));
        assert!(listener.must_inspect(80) && listener.must_inspect(81));
        assert!(!listener.must_inspect(443) && !listener.must_inspect(444) && listener.must_inspect(445));
        assert!(!listener.must_know_name(81));
    }

    #[test]
    fn chains_are_chosen_by_the_name_of_the_handshake_most_exactly() {
        let named = |names: &[&str], protocols: &[&str], cluster: &str| FilterChain {
            server_names: names.iter().map(|n| (*n).into()).collect(),
            ..tcp(None, protocols, cluster)
        };
        let mut listener = Listener {
            name: "l".into(),
            address: ([0, 0, 0, 0], 1).into(),
            bind: true,
            hand_over: false,
            original_dst: false,
            direction: Direction::Outbound,
            uninspected: Vec::new(),
            inspect_timeout: Duration::from_secs(1),
            continue_on_timeout: true,
            chains: vec![
                named(&["*.com"], &[], "com"),
                named(&["*.example.com"], &["tls"], "wild"),
                named(&["a.example.com", "b.example.com"], &[], "exact"),
                named(&[], &["tls"], "fallback"),
            ],
            default_chain: None,
        };
        let chosen = |l: &Listener, name: Option<&str>| cluster(l.chain(1, name, Some("tls"))).map(str::to_owned);
        for (name, expected) in [
            ("a.example.com", Some("exact")),
            ("b.example.com", Some("exact")),
            ("c.example.com", Some("wild")),
            ("x.a.example.com", Some("wild")),
            ("example.com", Some("com")),
            ("example.org", Some("fallback")),
            ("com", Some("fallback")),
        ] {
            assert_eq!(chosen(&listener, Some(name)).as_deref(), expected, "{name}");
        }
        assert_eq!(chosen(&listener, None).as_deref(), Some("fallback"));
        assert_eq!(cluster(listener.chain(1, None, Some("http/1.1"))), None, "no TLS");
        assert!(listener.must_know_name(1));
        listener.chains.pop();
        assert_eq!(chosen(&listener, Some("example.org")), None);
        assert_eq!(chosen(&listener, None), None);
    }
}
