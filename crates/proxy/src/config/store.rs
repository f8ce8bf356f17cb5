//! Holds what was accepted and decides what is in force.
//!
//! Enters: resources of bootstrap, control plane and disk cache; resolved names; the time. Leaves: rejections, the names
//! that are referred to, and [`Active`]. One owner; no I/O, no clock of its own.
//!
//! Warming: a new cluster comes into force when its endpoints are there, new routes when their clusters are, a new
//! listener when its routes, clusters and secrets are; until then the one before stays. What does not come within [`WARMING`] is
//! treated as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::sign::CertifiedKey;
use weir_series::canonical::Peer;
use weir_xds::ResourceType;

use super::decode::{self, Rejection};
use super::{
    Active, Cluster, ClusterSpec, ClusterStats, Endpoint, EndpointSource, Filter, Granularity, Listener, Map,
    RouteSource, RouteTable, SecretSlot, Telemetry,
};

/// How long a resource waits for those that it refers to.
pub const WARMING: Duration = Duration::from_secs(15);

/// A resource as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// Its kind.
    pub ty: ResourceType,
    /// Unique within the kind.
    pub name: String,
    /// As the control plane says; empty for those of the bootstrap.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
}

/// Everything accepted.
#[derive(Debug, Default)]
pub struct Store {
    clusters: Map<Arc<str>, Warming<ClusterSpec>>,
    listeners: Map<Arc<str>, Warming<Listener>>,
    routes: Map<Arc<str>, Warming<RouteTable>>,
    /// By the name of the assignment, or of the cluster whose names were resolved.
    endpoints: Map<Arc<str>, Arc<Vec<Endpoint>>>,
    resolved: Map<Arc<str>, Arc<Vec<Endpoint>>>,
    /// Certificates with their keys. They stay while a listener shows them, even when they are taken away.
    secrets: Map<Arc<str>, Arc<CertifiedKey>>,
    /// What was brought into force last; the next one shares what stays.
    current: Active,
    /// Since then:
    changes: Changes,
    /// Names of the bootstrap's resources: the control plane cannot change them.
    fixed: BTreeSet<(ResourceType, String)>,
    /// What came from the control plane, for the disk cache.
    raw: BTreeMap<(ResourceType, String), Raw>,
    answered: BTreeSet<ResourceType>,
    complete: bool,
    /// Names that others refer to, by type, while the references stay as they are.
    referred: BTreeMap<ResourceType, BTreeSet<String>>,
}

/// What may differ from the configuration in force.
#[derive(Debug, Default)]
struct Changes {
    /// Clusters of which there is a new model, or that are gone.
    clusters: BTreeSet<Arc<str>>,
    /// Assignments, or clusters whose names were resolved.
    endpoints: BTreeSet<Arc<str>>,
    routes: bool,
    listeners: bool,
    secrets: bool,
    /// Something may be referred to no longer.
    references: bool,
}

/// A resource in force, and its successor that still waits.
#[derive(Debug)]
struct Warming<T> {
    active: Option<Arc<T>>,
    pending: Option<(Arc<T>, Instant)>,
}

impl<T> Default for Warming<T> {
    fn default() -> Self {
        Self {
            active: None,
            pending: None,
        }
    }
}

impl<T> Warming<T> {
    /// Brings the successor into force if it is ready or waited long enough; returns until when it waits.
    fn settle(&mut self, now: Instant, ready: impl FnOnce(&T) -> bool) -> Option<Instant> {
        let (pending, deadline) = self.pending.take()?;
        if ready(&pending) || now >= deadline {
            self.active = Some(pending);
            return None;
        }
        self.pending = Some((pending, deadline));
        Some(deadline)
    }

    fn each(&self) -> impl Iterator<Item = &Arc<T>> {
        self.active
            .iter()
            .chain(self.pending.iter().map(|(pending, _)| pending))
    }
}

impl Store {
    /// Takes a resource of the bootstrap.
    pub fn fix(&mut self, ty: ResourceType, name: &str, body: &[u8], now: Instant) -> Result<(), Rejection> {
        self.decode(ty, name, body, now)?;
        self.fixed.insert((ty, name.to_owned()));
        Ok(())
    }

    /// Takes a new or changed resource.
    pub fn set(&mut self, raw: Raw, now: Instant) -> Result<(), Rejection> {
        let key = (raw.ty, raw.name.clone());
        if self.fixed.contains(&key) {
            return Err(Rejection {
                field: "name".into(),
                message: "stands in the bootstrap and cannot be replaced".into(),
            });
        }
        self.decode(raw.ty, &raw.name, &raw.body, now)?;
        self.raw.insert(key, raw);
        Ok(())
    }

    /// Drops a resource.
    pub fn remove(&mut self, ty: ResourceType, name: &str) {
        let key = (ty, name.to_owned());
        if self.fixed.contains(&key) {
            return;
        }
        self.raw.remove(&key);
        self.referred.clear();
        self.changes.references = true;
        match ty {
            ResourceType::Cluster => {
                self.changes.clusters.insert(name.into());
                self.clusters.remove(name);
            }
            ResourceType::Listener => {
                self.changes.listeners = true;
                self.listeners.remove(name);
            }
            ResourceType::Route => {
                self.changes.routes = true;
                self.routes.remove(name);
            }
            ResourceType::Endpoint => {
                self.changes.endpoints.insert(name.into());
                self.endpoints.remove(name);
            }
            // A listener that shows it goes on showing it.
            ResourceType::Secret => self.changes.secrets = true,
            ResourceType::Peer => {}
        }
    }

    /// The control plane answered for this type (so absence of the rest is known).
    pub fn answered(&mut self, ty: ResourceType) {
        self.answered.insert(ty);
    }

    /// The configuration is complete without a control plane's word: it is static, or came from the disk cache.
    pub fn assume_complete(&mut self) {
        self.complete = true;
    }

    /// What the names of a cluster resolved to.
    pub fn resolve(&mut self, cluster: &str, endpoints: Vec<Endpoint>) -> bool {
        if self.resolved.get(cluster).is_some_and(|known| **known == endpoints) {
            return false;
        }
        let name: Arc<str> = cluster.into();
        self.changes.endpoints.insert(Arc::clone(&name));
        self.resolved.insert(name, Arc::new(endpoints));
        true
    }

    fn decode(&mut self, ty: ResourceType, name: &str, body: &[u8], now: Instant) -> Result<(), Rejection> {
        let named = |found: &str| {
            if found == name {
                return Ok(());
            }
            Err(Rejection {
                field: "name".into(),
                message: format!("is {found:?}, but the resource is called {name:?}"),
            })
        };
        let key: Arc<str> = name.into();
        let deadline = now + WARMING;
        match ty {
            ResourceType::Cluster => {
                let spec = decode::cluster(body)?;
                named(&spec.name)?;
                let key = Arc::clone(&spec.name);
                self.referred.clear();
                self.clusters.entry(key).or_default().pending = Some((Arc::new(spec), deadline));
            }
            ResourceType::Listener => {
                let listener = decode::listener(body)?;
                named(&listener.name)?;
                let missing = |slot: &&Arc<SecretSlot>| slot.fixed && !self.secrets.contains_key(&slot.name);
                if let Some(slot) = listener.secrets().find(missing) {
                    return Err(Rejection {
                        field: "tls_certificate_sds_secret_configs".into(),
                        message: format!(
                            "secret {:?} is not in the bootstrap; one of the control plane needs sds_config {{ads: {{}}}}",
                            slot.name
                        ),
                    });
                }
                self.referred.clear();
                self.listeners.entry(key).or_default().pending = Some((Arc::new(listener), deadline));
            }
            ResourceType::Route => {
                let table = decode::route_table(body)?;
                named(&table.name)?;
                self.routes.entry(key).or_default().pending = Some((Arc::new(table), deadline));
            }
            ResourceType::Endpoint => {
                let (found, endpoints) = decode::assignment(body)?;
                named(&found)?;
                self.changes.endpoints.insert(Arc::clone(&key));
                self.endpoints.insert(key, Arc::new(endpoints));
            }
            ResourceType::Secret => {
                let (found, secret) = decode::secret(body)?;
                named(&found)?;
                self.changes.secrets = true;
                self.secrets.insert(key, secret);
            }
            ResourceType::Peer => {}
        }
        Ok(())
    }

    /// Names of a type that other resources refer to, in force or waiting.
    pub fn wanted(&mut self, ty: ResourceType) -> BTreeSet<String> {
        if let Some(names) = self.referred.get(&ty) {
            return names.clone();
        }
        let names = self.find_wanted(ty);
        self.referred.insert(ty, names.clone());
        names
    }

    fn find_wanted(&self, ty: ResourceType) -> BTreeSet<String> {
        match ty {
            ResourceType::Endpoint => {
                let sources = self.clusters.values().flat_map(Warming::each).map(|spec| &spec.source);
                let assignment = |source: &EndpointSource| match source {
                    EndpointSource::Assignment(name) => Some(name.to_string()),
                    _ => None,
                };
                sources.filter_map(assignment).collect()
            }
            ResourceType::Route => {
                let listeners = self.listeners.values().flat_map(Warming::each);
                listeners
                    .flat_map(|l| route_names(l))
                    .map(|name| name.to_string())
                    .collect()
            }
            ResourceType::Secret => {
                let listeners = self.listeners.values().flat_map(Warming::each);
                let slots = listeners.flat_map(|l| l.secrets());
                slots.filter(|s| !s.fixed).map(|s| s.name.to_string()).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// Names to resolve: those of every cluster that has any.
    pub fn to_resolve(&self) -> Vec<Arc<ClusterSpec>> {
        let specs = self.clusters.values().flat_map(Warming::each);
        specs
            .filter(|s| matches!(s.source, EndpointSource::Dns(..)))
            .cloned()
            .collect()
    }

    /// What came from the control plane and is still of use.
    pub fn raw(&self) -> impl Iterator<Item = &Raw> {
        self.raw.values()
    }

    /// Drops what nothing refers to any more, brings into force what is ready, and returns the result with the time at
    /// which to call again. What did not change costs next to nothing.
    pub fn settle(&mut self, now: Instant) -> (Active, Option<Instant>) {
        let mut next = None;
        let mut wait = |until: Option<Instant>| next = [next, until].into_iter().flatten().min();
        let (endpoints, resolved, changes) = (&self.endpoints, &self.resolved, &mut self.changes);
        for (name, cluster) in self.clusters.iter_mut().filter(|(_, c)| c.pending.is_some()) {
            let until = cluster.settle(now, |spec| match &spec.source {
                EndpointSource::Assignment(name) => endpoints.contains_key(name),
                EndpointSource::Dns(..) => resolved.contains_key(&spec.name),
                EndpointSource::Static(_) | EndpointSource::OriginalDst => true,
            });
            if until.is_none() {
                changes.clusters.insert(Arc::clone(name));
            }
            wait(until);
        }
        let clusters = &self.clusters;
        let in_force = |name: &Arc<str>| clusters.get(name).is_some_and(|c| c.active.is_some());
        for table in self.routes.values_mut().filter(|t| t.pending.is_some()) {
            let until = table.settle(now, |table| table.clusters().all(in_force));
            changes.routes |= until.is_none();
            wait(until);
        }
        let (routes, secrets) = (&self.routes, &self.secrets);
        for listener in self.listeners.values_mut().filter(|l| l.pending.is_some()) {
            let until = listener.settle(now, |listener| {
                let routed =
                    route_names(listener).all(|name| routes.get(name).is_some_and(|table| table.active.is_some()));
                let secured = listener.secrets().all(|slot| secrets.contains_key(&slot.name));
                routed && secured && inline_clusters(listener).all(in_force)
            });
            changes.listeners |= until.is_none();
            wait(until);
        }
        changes.references |= !changes.clusters.is_empty() || changes.routes || changes.listeners;
        if !changes.clusters.is_empty() || changes.listeners {
            self.referred.clear();
        }
        if !changes.references && !changes.endpoints.is_empty() {
            let specs = self.clusters.values().flat_map(Warming::each);
            let wanted: BTreeSet<&Arc<str>> = specs
                .map(|spec| match &spec.source {
                    EndpointSource::Assignment(name) => name,
                    _ => &spec.name,
                })
                .filter(|name| changes.endpoints.contains(*name))
                .collect();
            changes.references = wanted.len() < changes.endpoints.len();
        }
        changes.references |= changes.secrets;
        if changes.references {
            self.forget();
        }
        let full = ResourceType::ALL.into_iter().filter(|ty| ty.is_full_state());
        self.complete |= next.is_none() && full.into_iter().all(|ty| self.answered.contains(&ty));
        self.bring_into_force();
        (self.current.clone(), next)
    }

    /// Endpoints, routes and secrets go when nothing refers to them.
    fn forget(&mut self) {
        for ty in [ResourceType::Endpoint, ResourceType::Route, ResourceType::Secret] {
            let wanted = self.wanted(ty);
            let gone = |name: &str| !wanted.contains(name) && !self.fixed.contains(&(ty, name.to_owned()));
            match ty {
                ResourceType::Endpoint => self.endpoints.retain(|name, _| !gone(name)),
                ResourceType::Secret => self.secrets.retain(|name, _| !gone(name)),
                _ => {
                    let before = self.routes.len();
                    self.routes.retain(|name, _| !gone(name));
                    self.changes.routes |= self.routes.len() != before;
                }
            }
            self.raw.retain(|(t, name), _| *t != ty || wanted.contains(name));
        }
        self.resolved.retain(|name, _| self.clusters.contains_key(name));
    }

    /// Makes `current` anew where something changed.
    fn bring_into_force(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        self.current.version += 1;
        self.current.complete = self.complete;
        let mut touched = changes.clusters;
        if !changes.endpoints.is_empty() {
            let users = self.clusters.iter().filter(|(name, cluster)| {
                cluster.active.as_ref().is_some_and(|spec| match &spec.source {
                    EndpointSource::Assignment(assignment) => changes.endpoints.contains(assignment),
                    EndpointSource::Dns(..) => changes.endpoints.contains(*name),
                    EndpointSource::Static(_) | EndpointSource::OriginalDst => false,
                })
            });
            touched.extend(users.map(|(name, _)| Arc::clone(name)));
        }
        if !touched.is_empty() {
            self.clusters_anew(touched);
        }
        if (changes.secrets || changes.listeners) && !self.secrets.is_empty() {
            let shown = self.listeners.values().filter_map(|l| l.active.as_ref());
            for slot in shown.flat_map(|l| l.secrets()) {
                if let Some(secret) = self.secrets.get(&slot.name) {
                    slot.fill(secret);
                }
            }
        }
        if changes.routes {
            let active = |(name, table): (&Arc<str>, &Warming<RouteTable>)| {
                Some((Arc::clone(name), Arc::clone(table.active.as_ref()?)))
            };
            self.current.routes = Arc::new(self.routes.iter().filter_map(active).collect());
        }
        if changes.listeners {
            self.listeners_anew();
        }
    }

    fn clusters_anew(&mut self, touched: BTreeSet<Arc<str>>) {
        let clusters = Arc::make_mut(&mut self.current.clusters);
        let mut identified = false;
        for name in touched {
            let Some(spec) = self.clusters.get(&name).and_then(|c| c.active.as_ref()) else {
                identified |= clusters.remove(&name).is_some_and(|c| identifies(&c.endpoints));
                continue;
            };
            let endpoints = match &spec.source {
                EndpointSource::Static(endpoints) => Arc::clone(endpoints),
                EndpointSource::Assignment(name) => self.endpoints.get(name).cloned().unwrap_or_default(),
                EndpointSource::Dns(..) => self.resolved.get(&name).cloned().unwrap_or_default(),
                EndpointSource::OriginalDst => Arc::default(),
            };
            let endpoints = trimmed(&spec.telemetry, endpoints);
            let before = clusters.get(&name);
            let cluster = Cluster::new(Arc::clone(spec), endpoints, before.map(Arc::as_ref));
            let endpoints = &cluster.endpoints;
            if before.is_none_or(|c| c.endpoints != *endpoints) {
                identified |= identifies(endpoints) || before.is_some_and(|c| identifies(&c.endpoints));
                ClusterStats::add(&cluster.stats.membership_change);
            }
            clusters.insert(name, Arc::new(cluster));
        }
        if identified {
            let endpoints = self.current.clusters.values().flat_map(|c| c.endpoints.iter());
            let known = endpoints.filter(|e| *e.peer != Peer::default());
            self.current.peers = Arc::new(known.map(|e| (e.address, Arc::clone(&e.peer))).collect());
        }
    }

    fn listeners_anew(&mut self) {
        let before = std::mem::take(&mut self.current);
        let (mut listeners, mut by_address) = (Map::default(), Map::default());
        let (mut http_stats, mut listener_stats) = (Map::default(), Map::default());
        for (name, listener) in &self.listeners {
            let Some(listener) = &listener.active else { continue };
            if !listener.bind {
                by_address.insert(listener.address, Arc::clone(listener));
            }
            listeners.insert(Arc::clone(name), Arc::clone(listener));
            let stats = before.listener_stats.get(name).cloned().unwrap_or_default();
            listener_stats.insert(Arc::clone(name), stats);
            for chain in listener.all_chains() {
                if let Filter::Http(http) = &chain.filter {
                    let stats = before.http_stats.get(&http.stat_prefix).cloned();
                    http_stats
                        .entry(Arc::clone(&http.stat_prefix))
                        .or_insert_with(|| stats.unwrap_or_default());
                }
            }
        }
        self.current = Active {
            listeners: Arc::new(listeners),
            by_address: Arc::new(by_address),
            http_stats: Arc::new(http_stats),
            listener_stats: Arc::new(listener_stats),
            ..before
        };
    }
}

/// Whether it is known who any of these endpoints is.
fn identifies(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|e| *e.peer != Peer::default())
}

/// Endpoints as they are counted.
fn trimmed(telemetry: &Telemetry, endpoints: Arc<Vec<Endpoint>>) -> Arc<Vec<Endpoint>> {
    if telemetry.granularity == Granularity::Pod {
        return endpoints;
    }
    let trim = |e: &Endpoint| Endpoint {
        peer: telemetry.trim(&e.peer),
        ..e.clone()
    };
    Arc::new(endpoints.iter().map(trim).collect())
}

/// Names of the route configurations that a listener refers to.
fn route_names(listener: &Listener) -> impl Iterator<Item = &Arc<str>> {
    listener.all_chains().filter_map(|chain| match &chain.filter {
        Filter::Http(http) => match &http.routes {
            RouteSource::Named(name) => Some(name),
            RouteSource::Inline(_) => None,
        },
        Filter::Tcp(_) => None,
    })
}

/// Names of the clusters that a listener itself refers to.
fn inline_clusters(listener: &Listener) -> impl Iterator<Item = &Arc<str>> {
    listener
        .all_chains()
        .flat_map(|chain| -> Box<dyn Iterator<Item = &Arc<str>>> {
            match &chain.filter {
                Filter::Tcp(tcp) => Box::new(tcp.clusters()),
                Filter::Http(http) => match &http.routes {
                    RouteSource::Inline(table) => Box::new(table.clusters()),
                    RouteSource::Named(_) => Box::new(std::iter::empty()),
                },
            }
        })
}

#[cfg(test)]
mod tests;
