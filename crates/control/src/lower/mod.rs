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
//! | listener, route | `ingress_http`, `ingress_https` | the gateway's alone: requests from outside, in clear text and by TLS |
//! | secret | `<namespace>/<secret>` | the gateway's alone: a certificate |
//! | cluster, perhaps endpoints | `tracing` | who takes spans, if anybody does |
//! | peer | an address | who has it (on demand) |
//!
//! Addresses of single pods (endpoints of headless Services, ports that a pod labels itself) have a cluster of their own
//! with that one endpoint, named `<port>|<namespace>|<ip>.outbound`: the client chose the pod, and metrics still know it.
//!
//! Nodes share all but `inbound`, which differs by pod: in layers, one for everybody and one for each namespace that
//! Services are meant for (`spread`). Listeners differ by engine, too (Envoy gets access logs). Pods that have IPv6 get `outbound_ipv6` and `inbound_ipv6` beside these: the same on `::`. What did not change stays the same allocation from one lowering to the next.

mod action;
mod cluster;
mod endpoint;
mod gateway;
mod listener;
mod route;
mod rule;
mod secret;
mod spread;
mod telemetry;
mod tracing;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::Message;
use weir_api::labels::{Engine, Protocol};
use weir_mesh::policy::Tracing;
use weir_mesh::routes::{Rule, Share};
use weir_mesh::{Exports, Key, Mesh, Policy};
use weir_xds::snapshot::{Inconsistency, Resources};
use weir_xds::types::Peer;
use weir_xds::{Layer, Layers, Resource, ResourceType, Snapshot};

use spread::Spread;

pub use tracing::TRACING;

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

/// Node id of the gateway.
pub const GATEWAY_NODE: &str = weir_api::mesh_status::GATEWAY;
/// The gateway's listener and routes of clear text.
pub const INGRESS_HTTP: &str = "ingress_http";
/// The gateway's listener and routes of TLS.
pub const INGRESS_HTTPS: &str = "ingress_https";
/// Where the gateway takes clear text.
pub const INGRESS_HTTP_PORT: u32 = 8080;
/// Where the gateway takes TLS.
pub const INGRESS_HTTPS_PORT: u32 = 8444;

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
    /// The protocol of its listener; `None`: it has none, only rules lead here.
    listening: Option<Protocol>,
    service: &'a str,
    /// Hosts under which clients know it.
    domains: Vec<String>,
    endpoints: Vec<&'a weir_mesh::Endpoint>,
    /// What stands in front of the endpoints.
    rules: &'a [Rule],
    /// The same by namespace, for clients that have rules of their own.
    consumers: Option<&'a BTreeMap<String, Vec<Rule>>>,
    /// How much is measured, as far as somebody says so.
    telemetry: &'a weir_mesh::Telemetry,
    /// What its labels ask for.
    policy: &'a Policy,
    /// What spans of its requests are called.
    operation: String,
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
    /// Who gets how much of its connections; empty: the cluster gets all. Requests are shared by the routes instead.
    shares: &'a [Share],
    /// Which of its requests are traced, whoever sends them.
    tracing: Tracing,
    /// The namespaces that it is for.
    exports: &'a Exports,
}

/// What the listeners of nodes differ by, apart from `inbound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Variant {
    engine: Engine,
    /// The pod itself asks for traces of what it sends.
    tracing: Tracing,
}

impl Variant {
    /// That of a pod.
    fn of(engine: Engine, pod: &weir_mesh::Pod) -> Self {
        Self {
            engine,
            tracing: pod.tracing,
        }
    }

    /// Those that the pods of a mesh need, and of each engine the one that most need.
    fn all(mesh: &Mesh) -> BTreeSet<Self> {
        let of_pods = mesh.pods.values().map(|pod| pod.tracing);
        let tracing: BTreeSet<_> = of_pods.chain([Tracing::default()]).collect();
        let engines = [Engine::Weir, Engine::Envoy];
        let of = |engine: Engine| {
            tracing.iter().map(move |tracing| Self {
                engine,
                tracing: *tracing,
            })
        };
        engines.into_iter().flat_map(of).collect()
    }
}

/// What destinations, addresses and pods are lowered with, beside themselves, is the same in both.
fn same_surroundings(before: &Mesh, now: &Mesh) -> bool {
    before.telemetry == now.telemetry && before.settings == now.settings && before.collector() == now.collector()
}

/// Everything that nodes share, lowered from one mesh.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    clusters: Spread,
    endpoints: Spread,
    routes: Spread,
    peers: Arc<Layer>,
    /// Without `inbound`.
    listeners: BTreeMap<Variant, Spread>,
    /// `outbound_ipv6`, by engine: for pods that have IPv6.
    outbound_ipv6: BTreeMap<Engine, Arc<Resource>>,
    gateway: GatewayResources,
}

/// What only the gateway is sent.
#[derive(Clone, Debug, Default)]
struct GatewayResources {
    listeners: BTreeMap<Engine, Arc<Layer>>,
    routes: Arc<Layer>,
    secrets: Arc<Layer>,
}

impl GatewayResources {
    fn new(mesh: &Mesh, shared: &listener::Shared<'_>, previous: &Self) -> Self {
        let gateway = &mesh.gateway;
        let listeners = [Engine::Weir, Engine::Envoy].into_iter().map(|engine| {
            let empty = Arc::default();
            let old = previous.listeners.get(&engine).unwrap_or(&empty);
            let mut listeners = Collector::new(ResourceType::Listener, |name| old.resources().get(name));
            listeners.add(INGRESS_HTTP, &gateway::http(engine, mesh, shared));
            if let Some(https) = gateway::https(engine, mesh, shared) {
                listeners.add(INGRESS_HTTPS, &https);
            }
            (engine, Layer::renew(old, listeners.resources))
        });
        let mut routes = Collector::new(ResourceType::Route, |name| previous.routes.resources().get(name));
        routes.add(INGRESS_HTTP, &gateway::routes(INGRESS_HTTP, &gateway.http, mesh));
        if !gateway.chains.is_empty() {
            routes.add(INGRESS_HTTPS, &gateway::routes(INGRESS_HTTPS, &gateway.https, mesh));
        }
        let mut secrets = Collector::new(ResourceType::Secret, |name| previous.secrets.resources().get(name));
        for (name, certificate) in &gateway.certificates {
            secrets.add(name, &secret::certificate(name, certificate));
        }
        Self {
            listeners: listeners.collect(),
            routes: Layer::renew(&previous.routes, routes.resources),
            secrets: Layer::renew(&previous.secrets, secrets.resources),
        }
    }
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
        let mut consumers: BTreeMap<&str, Resources> = BTreeMap::new();
        for destination in &destinations {
            let name = destination.name.as_str();
            if destination.listening.is_some_and(Protocol::has_requests) {
                for (namespace, rules) in destination.consumers.into_iter().flatten() {
                    let mut own = Collector::new(ResourceType::Route, |name| {
                        previous.routes.of_consumers(namespace, name)
                    });
                    match destination.unchanged {
                        true => own.keep(name),
                        false => own.add(name, &route::outbound(destination, rules)),
                    }
                    consumers.entry(namespace).or_default().append(&mut own.resources);
                }
            }
            if destination.unchanged {
                clusters.keep(name);
                endpoints.keep(name);
                routes.keep(name);
                continue;
            }
            let rule = destination.policy.balance.policy;
            let measured = telemetry::metadata_with_rule(&destination.telemetry.or(&mesh.telemetry), rule);
            clusters.add_with(name, &cluster::eds(destination), &measured);
            endpoints.add(name, &endpoint::assignment(destination));
            if destination.listening.is_some_and(Protocol::has_requests) {
                routes.add(name, &route::outbound(destination, destination.rules));
            }
        }
        if let Some(collector) = mesh.collector() {
            let (cluster, assignment) = tracing::cluster(&collector);
            clusters.add(TRACING, &cluster);
            assignment.iter().for_each(|a| endpoints.add(TRACING, a));
        }
        let old_destinations = before
            .map(|before| self::destinations(before, Some(before)))
            .unwrap_or_default();
        let old_bound = before
            .map(|before| bound(before, &old_destinations))
            .unwrap_or_default();
        let known: BTreeMap<(IpAddr, u16), &Bound<'_>> = old_bound.iter().map(|b| ((b.ip, b.port), b)).collect();
        let bound = bound(mesh, &destinations);
        let shared = listener::Shared::of(mesh);
        let listeners: Vec<(Variant, Resources)> = Variant::all(mesh)
            .into_iter()
            .map(|variant| {
                let old = previous.listeners.get(&variant);
                let mut listeners = Collector::new(ResourceType::Listener, |name| old?.get(name));
                listeners.add(OUTBOUND, &listener::outbound(variant.engine, Family::Ipv4, &shared));
                for address in &bound {
                    let name = listener_name(address.ip, address.port);
                    if old.is_some() && known.get(&(address.ip, address.port)) == Some(&address) {
                        listeners.keep(&name);
                    } else {
                        listeners.add(&name, &listener::address(variant, &name, address, &shared));
                    }
                }
                (variant, listeners.resources)
            })
            .collect();
        let outbound_ipv6 = [Engine::Weir, Engine::Envoy].into_iter().map(|engine| {
            let body = listener::outbound(engine, Family::Ipv6, &shared).encode_to_vec();
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
            let consumers = consumers.values().flat_map(BTreeMap::values);
            spread::widen(&mut narrow, routes.resources.values().chain(consumers).chain(listeners));
        }
        let none = Spread::default();
        let listeners = listeners.into_iter().map(|(variant, resources)| {
            let old = previous.listeners.get(&variant).unwrap_or(&none);
            (variant, Spread::new(resources, &own, old))
        });
        Self {
            gateway: GatewayResources::new(mesh, &shared, &previous.gateway),
            outbound_ipv6: outbound_ipv6.collect(),
            listeners: listeners.collect(),
            routes: Spread::with_consumers(routes.resources, &own, consumers, &previous.routes),
            clusters: Spread::new(clusters.resources, &narrow, &previous.clusters),
            endpoints: Spread::new(endpoints.resources, &narrow, &previous.endpoints),
            peers: peers(mesh, before, &previous.peers),
        }
    }

    /// The inbound clusters of `previous` that nothing leads to any more. A connection that began before a change of its
    /// listener is served as it began until it has drained, and needs them that long.
    pub fn retired(&self, previous: &Self) -> BTreeSet<String> {
        let own = format!("{INBOUND}_");
        let old = previous.clusters.all();
        old.keys()
            .filter(|name| name.starts_with(&own) && self.clusters.get(name).is_none())
            .cloned()
            .collect()
    }

    /// The same with these clusters of `previous`.
    #[must_use]
    pub fn keeping(self, clusters: &BTreeSet<String>, previous: &Self) -> Self {
        if clusters.is_empty() {
            return self;
        }
        Self {
            clusters: self.clusters.and(clusters, &previous.clusters),
            ..self
        }
    }

    /// Whether what nodes share is consistent. (`inbound`, which is each node's own, refers to cluster `inbound` alone.)
    pub fn check(&self) -> Result<(), Vec<Inconsistency>> {
        self.views()
            .chain(self.gateway_views())
            .try_for_each(|view| view.check())
    }

    /// As [`Lowered::check`], where `previous` is known to be consistent: costs what changed.
    pub fn check_since(&self, previous: &Self) -> Result<(), Vec<Inconsistency>> {
        let spreads = [&self.clusters, &self.endpoints, &self.routes];
        let old = [&previous.clusters, &previous.endpoints, &previous.routes];
        if spread::views(spreads) != spread::views(old) || !self.listeners.keys().eq(previous.listeners.keys()) {
            return self.check();
        }
        self.views()
            .chain(self.gateway_views())
            .zip(previous.views().chain(previous.gateway_views()))
            .try_for_each(|(now, before)| now.check_since(&before))
    }

    /// The snapshot of the gateway's proxy. It may lead to any Service, whomever else that is for.
    pub fn gateway_snapshot(&self, engine: Engine) -> Option<Snapshot> {
        let listeners = Arc::clone(self.gateway.listeners.get(&engine)?);
        Some(
            Snapshot::new()
                .with(ResourceType::Cluster, self.clusters.all())
                .with(ResourceType::Endpoint, self.endpoints.all())
                .with(ResourceType::Peer, Arc::clone(&self.peers))
                .with(ResourceType::Listener, listeners)
                .with(ResourceType::Route, Arc::clone(&self.gateway.routes))
                .with(ResourceType::Secret, Arc::clone(&self.gateway.secrets)),
        )
    }

    fn gateway_views(&self) -> impl Iterator<Item = Snapshot> {
        let engines = self.gateway.listeners.keys();
        engines.filter_map(|engine| self.gateway_snapshot(*engine))
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
        let variant = Variant::of(engine, pod);
        let shared = listener::Shared::of_inbound(mesh);
        let inbound = |family: Family| {
            let (name, body) = (family.inbound(), listener::inbound(engine, family, &shared, pod));
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
        let mut listeners = self.listeners.get(&variant)?.of(namespace);
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
        let mut listeners = self.listeners.get(&Variant::of(engine, pod))?.of(&key.namespace);
        listeners.push(Arc::clone(own));
        Some(self.assemble(&key.namespace, listeners))
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
    for (key, service) in &mesh.services {
        let unchanged =
            before.is_some_and(|before| std::ptr::eq(before, mesh) || before.services.get(key) == Some(service));
        for (number, port) in &service.ports {
            let Some(protocol) = port.carried().filter(|p| *p != Protocol::Direct) else {
                continue;
            };
            let listening = port.protocol.filter(|_| !service.cluster_ips.is_empty());
            if listening.is_none() && port.routed.is_none() {
                continue;
            }
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
                listening,
                service: &service.name,
                domains,
                endpoints,
                rules: &port.rules,
                consumers: Some(&port.consumers),
                telemetry: &service.telemetry,
                policy: &service.policy,
                operation: format!("{}.{}:{number}/*", service.name, service.namespace),
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
                listening: Some(address.protocol),
                service: &address.service,
                domains: address.domains.iter().cloned().collect(),
                endpoints: vec![&address.endpoint],
                rules: &[],
                consumers: None,
                telemetry: &address.telemetry,
                policy: &address.policy,
                operation: format!("{}.{}:{port}/*", named(address, ip), address.namespace),
                single: true,
                exports: &address.exports,
                unchanged: before.is_some_and(|before| before.addresses.get(&(*ip, *port)) == Some(address)),
            });
        }
    }
    found
}

/// What a single address is called: by its Service, its pod, or itself.
fn named(address: &weir_mesh::Address, ip: &IpAddr) -> String {
    let pod = address.endpoint.identity.as_ref().map(|who| who.pod.clone());
    match address.service.is_empty() {
        true => pod.unwrap_or_else(|| ip.to_string()),
        false => address.service.clone(),
    }
}

/// Each pod once: where a Service has endpoints of both families, those of IPv4.
fn one_family(endpoints: &[weir_mesh::Endpoint]) -> Vec<&weir_mesh::Endpoint> {
    let ipv4 = endpoints.iter().any(|e| e.ip.is_ipv4());
    endpoints.iter().filter(|e| e.ip.is_ipv4() == ipv4).collect()
}

/// Every address with a listener. Two that claim the same address: the stronger protocol has it, http over http2, grpc, tcp and direct.
fn bound<'a>(mesh: &'a Mesh, destinations: &'a [Destination<'a>]) -> Vec<Bound<'a>> {
    let named: BTreeMap<&str, &Destination<'_>> = destinations.iter().map(|d| (d.name.as_str(), d)).collect();
    let cluster = |name: String, protocol: Protocol| {
        let own = named.get(name.as_str()).filter(|_| protocol != Protocol::Direct);
        own.map_or(DIRECT, |d| d.name.as_str())
    };
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
            // A connection has nothing to match: the first rule takes it.
            let shares = port.rules.first().map(Rule::shares).unwrap_or_default();
            let cluster = cluster(cluster_name(*number, &service.namespace, &service.name), protocol);
            for ip in &service.cluster_ips {
                claim(Bound {
                    ip: *ip,
                    port: *number,
                    protocol,
                    cluster,
                    shares,
                    tracing: service.policy.tracing,
                    exports: &service.exports,
                });
            }
        }
    }
    for ((ip, port), address) in &mesh.addresses {
        let cluster = cluster(
            cluster_name(*port, &address.namespace, &ip.to_string()),
            address.protocol,
        );
        claim(Bound {
            ip: *ip,
            port: *port,
            protocol: address.protocol,
            cluster,
            shares: &[],
            tracing: address.policy.tracing,
            exports: &address.exports,
        });
    }
    found.into_values().collect()
}

// Small messages that many resources need.

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn duration(duration: std::time::Duration) -> Option<Duration> {
    Some(Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    })
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
