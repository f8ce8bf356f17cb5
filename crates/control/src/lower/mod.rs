//! Lowers the mesh to xDS resources. Pure: a [`Mesh`] in, [`Snapshot`]s out.
//!
//! What stands where (stock Envoy takes exactly the same):
//!
//! | resource | name | content |
//! |---|---|---|
//! | listener | `outbound` | where captured outbound traffic arrives; hands on by original destination, blocks the rest |
//! | listener | `<ip>_<port>.outbound` | a Service address with a protocol, or an address of a single pod |
//! | listener | `outbound_ipv6`, `inbound_ipv6` | the same on `::`, for pods that have IPv6 |
//! | listener | `inbound` | where captured inbound traffic arrives; one chain a port that Services lead to with requests |
//! | route | `<port>\|<namespace>\|<service>.outbound` | of a port with requests (http, http2, grpc): virtual host `service`, and `other` for all other hosts |
//! | cluster, endpoints | the same name | of every port but direct ones |
//! | cluster | `direct`, `inbound`, `inbound_http2` | to where the client wanted to go |
//! | cluster | `inbound_<granularity>_<buckets>` and with `http2` | the same, for ports whose Services choose what is measured |
//! | cluster | `blocked` | nowhere |
//! | peer | an address | who has it (on demand) |
//!
//! Addresses of single pods (endpoints of headless Services, ports that a pod labels itself) have a cluster of their own
//! with that one endpoint, named `<port>|<namespace>|<ip>.outbound`: the client chose the pod, and metrics still know it.
//!
//! Nodes share all but `inbound`, which differs by pod: in layers, one for everybody and one for each namespace that
//! Services are meant for (`spread`). Listeners differ by engine, too (Envoy gets access logs). Pods that have IPv6 get `outbound_ipv6` and `inbound_ipv6` beside these: the same on `::`. What did not change stays the same allocation from one lowering to the next.

mod cluster;
mod endpoint;
mod listener;
mod route;
mod spread;
mod telemetry;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::Message;
use weir_api::labels::{Engine, Protocol};
use weir_mesh::{Exports, Key, Mesh};
use weir_xds::snapshot::{Inconsistency, Resources};
use weir_xds::types::Peer;
use weir_xds::{Layer, Layers, Resource, ResourceType, Snapshot};

use spread::Spread;

/// Where redirected outbound connections arrive.
pub const OUTBOUND_PORT: u32 = 15001;
/// Where redirected inbound connections arrive.
pub const INBOUND_PORT: u32 = 15006;
/// Mark of the proxies' own sockets, which are not redirected.
pub const SOCKET_MARK: i64 = 1337;
/// Cluster to the original destination of an outbound connection.
pub const DIRECT: &str = "direct";
/// Cluster without endpoints.
pub const BLOCKED: &str = "blocked";
/// Cluster to the original destination of an inbound connection; also the name of the inbound listener.
pub const INBOUND: &str = "inbound";
/// The same for applications that speak HTTP/2.
pub const INBOUND_HTTP2: &str = "inbound_http2";
/// Name of the listener where outbound connections arrive.
pub const OUTBOUND: &str = "outbound";
/// Listener where outbound connections of IPv6 arrive.
pub const OUTBOUND_IPV6: &str = "outbound_ipv6";
/// Listener where inbound connections of IPv6 arrive.
pub const INBOUND_IPV6: &str = "inbound_ipv6";
/// Static cluster of Envoy's bootstrap that takes its access logs.
pub const ACCESS_LOG_CLUSTER: &str = "weir_als";
/// Route of the hosts of the destination; metrics show such hosts as they are.
pub const ROUTE_SERVICE: &str = "service";
/// Route of all other hosts; metrics show them as `other`.
pub const ROUTE_OTHER: &str = "other";

/// Streams of one HTTP/2 connection at a time.
const HTTP2_STREAMS_MAX: u32 = 1000;
/// What may be on its way of one HTTP/2 stream.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What may be on its way of all streams of one HTTP/2 connection.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The name of the cluster, endpoints and routes of a Service port (or of a single address in place of the service).
pub fn cluster_name(port: u16, namespace: &str, service: &str) -> String {
    format!("{port}|{namespace}|{service}.outbound")
}

/// The name of the listener of an address.
pub fn listener_name(ip: IpAddr, port: u16) -> String {
    format!("{ip}_{port}.outbound")
}

/// A destination that outbound traffic is balanced to: what its cluster, endpoints and routes are made from. All of it
/// comes from one Service or one address (or stands in [`same_surroundings`]): where that is equal to the one before,
/// nothing is encoded.
struct Destination<'a> {
    name: String,
    protocol: Protocol,
    service: &'a str,
    /// Hosts under which clients know it.
    domains: Vec<String>,
    endpoints: Vec<&'a weir_mesh::Endpoint>,
    /// How much is measured, as far as somebody says so.
    telemetry: &'a weir_mesh::Telemetry,
    /// The client chose this very address: it stays in whether it is ready or not.
    single: bool,
    /// The namespaces that it is for.
    exports: &'a Exports,
    /// It is lowered already; domains and endpoints are left out.
    unchanged: bool,
}

/// An address that has a listener. All that its listener is made from stands here, or in [`same_surroundings`].
#[derive(PartialEq)]
struct Bound<'a> {
    ip: IpAddr,
    port: u16,
    protocol: Protocol,
    /// Cluster and routes; `direct` where traffic is passed on as it is.
    cluster: &'a str,
    /// The namespaces that it is for.
    exports: &'a Exports,
}

/// What destinations, addresses and pods are lowered with, beside themselves, is the same in both.
fn same_surroundings(before: &Mesh, now: &Mesh) -> bool {
    before.telemetry == now.telemetry
}

/// Everything that nodes share, lowered from one mesh.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    clusters: Spread,
    endpoints: Spread,
    routes: Spread,
    peers: Arc<Layer>,
    /// Without `inbound`, by engine.
    listeners: BTreeMap<Engine, Spread>,
    /// `outbound_ipv6`, by engine: for pods that have IPv6.
    outbound_ipv6: BTreeMap<Engine, Arc<Resource>>,
}

impl Lowered {
    /// Lowers a mesh. Resources that are equal to those of `previous` stay the same allocations.
    pub fn new(mesh: &Mesh, previous: &Self) -> Self {
        Self::lower(mesh, previous, None)
    }

    /// Lowers a mesh, where `previous` was lowered from the mesh `before`: encodes only what differs between the two.
    pub fn renew(mesh: &Mesh, previous: &Self, before: &Mesh) -> Self {
        Self::lower(mesh, previous, Some(before))
    }

    fn lower(mesh: &Mesh, previous: &Self, before: Option<&Mesh>) -> Self {
        let before = before.filter(|before| same_surroundings(before, mesh));
        let destinations = destinations(mesh, before);
        let mut clusters = Collector::new(ResourceType::Cluster, |name| previous.clusters.get(name));
        let mut endpoints = Collector::new(ResourceType::Endpoint, |name| previous.endpoints.get(name));
        let mut routes = Collector::new(ResourceType::Route, |name| previous.routes.get(name));
        let usual = telemetry::metadata(&mesh.telemetry);
        clusters.add_with(DIRECT, &cluster::original_dst(DIRECT, Upstream::AsDownstream), &usual);
        clusters.add_with(INBOUND, &cluster::original_dst(INBOUND, Upstream::AsDownstream), &usual);
        clusters.add_with(
            INBOUND_HTTP2,
            &cluster::original_dst(INBOUND_HTTP2, Upstream::Http2),
            &usual,
        );
        for (name, (http2, own)) in telemetry::inbound_clusters(mesh) {
            let upstream = if http2 { Upstream::Http2 } else { Upstream::AsDownstream };
            clusters.add_with(
                &name,
                &cluster::original_dst(&name, upstream),
                &telemetry::metadata(&own),
            );
        }
        clusters.add(BLOCKED, &cluster::blocked());
        for destination in &destinations {
            let name = destination.name.as_str();
            if destination.unchanged {
                clusters.keep(name);
                endpoints.keep(name);
                routes.keep(name);
                continue;
            }
            let measured = telemetry::metadata(&destination.telemetry.or(&mesh.telemetry));
            clusters.add_with(name, &cluster::eds(destination), &measured);
            endpoints.add(name, &endpoint::assignment(destination));
            if destination.protocol.has_requests() {
                routes.add(name, &route::outbound(destination));
            }
        }
        let old_destinations = before
            .map(|before| self::destinations(before, Some(before)))
            .unwrap_or_default();
        let old_bound = before
            .map(|before| bound(before, &old_destinations))
            .unwrap_or_default();
        let known: BTreeMap<(IpAddr, u16), &Bound<'_>> = old_bound.iter().map(|b| ((b.ip, b.port), b)).collect();
        let bound = bound(mesh, &destinations);
        let uninspected = listener::uninspected_ports(mesh);
        let listeners = [Engine::Weir, Engine::Envoy].map(|engine| {
            let old = previous.listeners.get(&engine);
            let mut listeners = Collector::new(ResourceType::Listener, |name| old?.get(name));
            listeners.add(OUTBOUND, &listener::outbound(engine, Family::Ipv4, &uninspected));
            for address in &bound {
                let name = listener_name(address.ip, address.port);
                if known.get(&(address.ip, address.port)) == Some(&address) {
                    listeners.keep(&name);
                } else {
                    listeners.add(&name, &listener::address(engine, &name, address));
                }
            }
            (engine, listeners.resources)
        });
        let outbound_ipv6 = [Engine::Weir, Engine::Envoy].into_iter().map(|engine| {
            let body = listener::outbound(engine, Family::Ipv6, &uninspected).encode_to_vec();
            let old = previous.outbound_ipv6.get(&engine);
            (
                engine,
                Resource::renew(old, ResourceType::Listener, OUTBOUND_IPV6, body),
            )
        });
        // Names of clusters and of listeners do not meet: the one end in the port, the others begin with it.
        let exported = destinations.iter().map(|d| (d.name.clone(), d.exports.clone()));
        let addresses = bound.iter().map(|b| (listener_name(b.ip, b.port), b.exports.clone()));
        let mut narrow = spread::narrow(exported.chain(addresses));
        let own = narrow.clone();
        if !narrow.is_empty() {
            let listeners = listeners.iter().flat_map(|(_, resources)| resources.values());
            spread::widen(&mut narrow, routes.resources.values().chain(listeners));
        }
        let none = Spread::default();
        let listeners = listeners.map(|(engine, resources)| {
            let old = previous.listeners.get(&engine).unwrap_or(&none);
            (engine, Spread::new(resources, &own, old))
        });
        Self {
            outbound_ipv6: outbound_ipv6.collect(),
            listeners: listeners.into(),
            clusters: Spread::new(clusters.resources, &narrow, &previous.clusters),
            endpoints: Spread::new(endpoints.resources, &narrow, &previous.endpoints),
            routes: Spread::new(routes.resources, &own, &previous.routes),
            peers: peers(mesh, before, &previous.peers),
        }
    }

    /// Whether what nodes share is consistent. (`inbound`, which is each node's own, refers to cluster `inbound` alone.)
    pub fn check(&self) -> Result<(), Vec<Inconsistency>> {
        self.views().try_for_each(|view| view.check())
    }

    /// As [`Lowered::check`], where `previous` is known to be consistent: costs what changed.
    pub fn check_since(&self, previous: &Self) -> Result<(), Vec<Inconsistency>> {
        let spreads = [&self.clusters, &self.endpoints, &self.routes];
        let old = [&previous.clusters, &previous.endpoints, &previous.routes];
        if spread::views(spreads) != spread::views(old) || previous.listeners.is_empty() {
            return self.check();
        }
        self.views()
            .zip(previous.views())
            .try_for_each(|(now, before)| now.check_since(&before))
    }

    /// What the nodes of each engine and namespace share.
    fn views(&self) -> impl Iterator<Item = Snapshot> {
        let namespaces = spread::views([&self.clusters, &self.endpoints, &self.routes]);
        self.listeners.values().flat_map(move |listeners| {
            let view = |namespace: &String| self.assemble(namespace, listeners.of(namespace));
            namespaces.iter().map(view).collect::<Vec<_>>()
        })
    }

    /// The snapshot of one pod's proxy; `None` when the mesh does not know the pod. `previous` is the node's last one.
    pub fn snapshot(&self, mesh: &Mesh, pod: &Key, engine: Engine, previous: Option<&Snapshot>) -> Option<Snapshot> {
        let namespace = &*pod.namespace;
        let pod = mesh.pods.get(pod)?;
        let inbound = |family: Family| {
            let (name, body) = (
                family.inbound(),
                listener::inbound(engine, family, &mesh.telemetry, pod),
            );
            let old = previous.and_then(|s| s.get(ResourceType::Listener, name));
            let resource = Resource::renew(old, ResourceType::Listener, name, body.encode_to_vec());
            (name.to_owned(), resource)
        };
        let mut own = Resources::from([inbound(Family::Ipv4)]);
        if pod.has_ipv6() {
            own.extend([inbound(Family::Ipv6)]);
            let outbound = self.outbound_ipv6.get(&engine).map(Arc::clone);
            own.extend(outbound.map(|resource| (OUTBOUND_IPV6.to_owned(), resource)));
        }
        let old = previous.and_then(|s| s.resources(ResourceType::Listener).last());
        let own = match old {
            Some(old) => Layer::renew(old, own),
            None => Layer::new(own),
        };
        let mut listeners = self.listeners.get(&engine)?.of(namespace);
        listeners.push(own);
        Some(self.assemble(namespace, listeners))
    }

    /// As [`Lowered::snapshot`], where neither the pod nor its engine changed between `before` and `mesh`: nothing is
    /// encoded. `None` when that does not hold.
    pub fn refresh(
        &self,
        (mesh, before): (&Mesh, &Mesh),
        key: &Key,
        engine: Engine,
        previous: &Snapshot,
    ) -> Option<Snapshot> {
        let pod = mesh.pods.get(key)?;
        let same = std::ptr::eq(mesh, before)
            || (same_surroundings(before, mesh) && before.pods.get(key) == Some(pod) && !pod.has_ipv6());
        let own = previous.resources(ResourceType::Listener).last().filter(|_| same)?;
        let mut listeners = self.listeners.get(&engine)?.of(&key.namespace);
        listeners.push(Arc::clone(own));
        Some(self.assemble(&key.namespace, listeners))
    }

    /// Clusters with their endpoints, whoever they are for: what a node gets that leads anywhere, as the gateway does.
    pub fn everything(&self) -> Snapshot {
        Snapshot::new()
            .with(ResourceType::Cluster, self.clusters.all())
            .with(ResourceType::Endpoint, self.endpoints.all())
            .with(ResourceType::Peer, Arc::clone(&self.peers))
    }

    fn assemble(&self, namespace: &str, listeners: impl Into<Layers>) -> Snapshot {
        Snapshot::new()
            .with(ResourceType::Cluster, self.clusters.of(namespace))
            .with(ResourceType::Endpoint, self.endpoints.of(namespace))
            .with(ResourceType::Route, self.routes.of(namespace))
            .with(ResourceType::Peer, Arc::clone(&self.peers))
            .with(ResourceType::Listener, listeners)
    }
}

/// Who has which address.
fn peers(mesh: &Mesh, before: Option<&Mesh>, previous: &Arc<Layer>) -> Arc<Layer> {
    if before.is_some_and(|before| before.identities == mesh.identities) {
        return Arc::clone(previous);
    }
    let mut peers = Collector::new(ResourceType::Peer, |name| previous.resources().get(name));
    for (ip, who) in &mesh.identities {
        let name = ip.to_string();
        if before.is_some_and(|before| before.identities.get(ip) == Some(who)) {
            peers.keep(&name);
            continue;
        }
        let peer = Peer {
            namespace: who.namespace.clone(),
            pod: who.pod.clone(),
            owner_kind: who.owner_kind.clone(),
            owner: who.owner.clone(),
        };
        peers.add(&name, &peer);
    }
    Layer::renew(previous, peers.resources)
}

/// A family of addresses, as far as sockets differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn outbound(self) -> &'static str {
        match self {
            Self::Ipv4 => OUTBOUND,
            Self::Ipv6 => OUTBOUND_IPV6,
        }
    }

    fn inbound(self) -> &'static str {
        match self {
            Self::Ipv4 => INBOUND,
            Self::Ipv6 => INBOUND_IPV6,
        }
    }
}

/// Which HTTP an upstream is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// As the client spoke: a request is passed on as it came.
    AsDownstream,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS and without asking first.
    Http2,
}

/// Collects the resources of one type; equal ones are taken from the lowering before.
struct Collector<F> {
    ty: ResourceType,
    previous: F,
    resources: Resources,
}

impl<'a, F: Fn(&str) -> Option<&'a Arc<Resource>>> Collector<F> {
    fn new(ty: ResourceType, previous: F) -> Self {
        Self {
            ty,
            previous,
            resources: Resources::new(),
        }
    }

    fn add(&mut self, name: &str, message: &impl Message) {
        self.add_with(name, message, &());
    }

    /// Adds a message with a part that is encoded apart.
    fn add_with(&mut self, name: &str, message: &impl Message, part: &impl Message) {
        let mut body = message.encode_to_vec();
        body.extend(part.encode_to_vec());
        let resource = Resource::renew((self.previous)(name), self.ty, name, body);
        self.resources.insert(name.to_owned(), resource);
    }

    /// Takes the one from before, if there was one.
    fn keep(&mut self, name: &str) {
        if let Some(resource) = (self.previous)(name) {
            self.resources.insert(name.to_owned(), Arc::clone(resource));
        }
    }
}

/// Every Service port and single address that is balanced (all but direct). Those that are the same in `before` are not
/// spelled out.
fn destinations<'a>(mesh: &'a Mesh, before: Option<&Mesh>) -> Vec<Destination<'a>> {
    let mut found = Vec::new();
    for (key, service) in mesh.services.iter().filter(|(_, s)| !s.cluster_ips.is_empty()) {
        let unchanged =
            before.is_some_and(|before| std::ptr::eq(before, mesh) || before.services.get(key) == Some(service));
        for (number, port) in &service.ports {
            let Some(protocol) = port.protocol.filter(|p| *p != Protocol::Direct) else {
                continue;
            };
            let (domains, endpoints) = match unchanged {
                true => (Vec::new(), Vec::new()),
                false => (
                    service.domains(*number).into_iter().collect(),
                    one_family(&port.endpoints),
                ),
            };
            found.push(Destination {
                name: cluster_name(*number, &service.namespace, &service.name),
                protocol,
                service: &service.name,
                domains,
                endpoints,
                telemetry: &service.telemetry,
                single: false,
                exports: &service.exports,
                unchanged,
            });
        }
    }
    for ((ip, port), address) in &mesh.addresses {
        if address.protocol != Protocol::Direct {
            found.push(Destination {
                name: cluster_name(*port, &address.namespace, &ip.to_string()),
                protocol: address.protocol,
                service: &address.service,
                domains: address.domains.iter().cloned().collect(),
                endpoints: vec![&address.endpoint],
                telemetry: &address.telemetry,
                single: true,
                exports: &address.exports,
                unchanged: before.is_some_and(|before| before.addresses.get(&(*ip, *port)) == Some(address)),
            });
        }
    }
    found
}

/// Each pod once: where a Service has endpoints of both families, those of IPv4.
fn one_family(endpoints: &[weir_mesh::Endpoint]) -> Vec<&weir_mesh::Endpoint> {
    let ipv4 = endpoints.iter().any(|e| e.ip.is_ipv4());
    endpoints.iter().filter(|e| e.ip.is_ipv4() == ipv4).collect()
}

/// Every address with a listener. Two that claim the same address: the stronger protocol has it, http over http2, grpc, tcp and direct.
fn bound<'a>(mesh: &'a Mesh, destinations: &'a [Destination<'a>]) -> Vec<Bound<'a>> {
    let named: BTreeMap<&str, &Destination<'_>> = destinations.iter().map(|d| (d.name.as_str(), d)).collect();
    let cluster = |name: String| named.get(name.as_str()).map_or(DIRECT, |d| d.name.as_str());
    let mut found: BTreeMap<(IpAddr, u16), Bound<'_>> = BTreeMap::new();
    let mut claim = |bound: Bound<'a>| match found.get(&(bound.ip, bound.port)) {
        Some(held) if held.protocol <= bound.protocol => {}
        _ => {
            found.insert((bound.ip, bound.port), bound);
        }
    };
    for service in mesh.services.values() {
        for (number, port) in &service.ports {
            let Some(protocol) = port.protocol else { continue };
            let cluster = cluster(cluster_name(*number, &service.namespace, &service.name));
            for ip in &service.cluster_ips {
                claim(Bound {
                    ip: *ip,
                    port: *number,
                    protocol,
                    cluster,
                    exports: &service.exports,
                });
            }
        }
    }
    for ((ip, port), address) in &mesh.addresses {
        let cluster = cluster(cluster_name(*port, &address.namespace, &ip.to_string()));
        claim(Bound {
            ip: *ip,
            port: *port,
            protocol: address.protocol,
            cluster,
            exports: &address.exports,
        });
    }
    found.into_values().collect()
}

// Small messages that many resources need.

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// HTTP/2 between proxies, clients and applications: windows that keep a fast path full, streams that stay bounded.
fn http2_options() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(HTTP2_STREAMS_MAX),
        initial_stream_window_size: number(HTTP2_STREAM_WINDOW_BYTES),
        initial_connection_window_size: number(HTTP2_CONNECTION_WINDOW_BYTES),
        ..Default::default()
    }
}

fn any<T: prost::Name>(message: &T) -> Any {
    Any {
        type_url: T::type_url(),
        value: message.encode_to_vec(),
    }
}

#[cfg(test)]
mod incremental;
#[cfg(test)]
mod tests;
